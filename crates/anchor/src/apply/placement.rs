use super::{
    context::{Context, Refusal, require},
    member::require_majority,
};
use crate::{
    Outcome, Placement, Table,
    entry::{PLACEMENT, Write},
};

/// Signed by a majority of the members.
pub(super) fn placed(context: &Context<'_>, body: &Placement) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    require_majority(context, network.members())?;
    for node in &body.nodes {
        let mut members = network.members().iter();
        let is_member = members.any(|member| member.node_id == node.node_id);
        require(is_member, Outcome::Unknown)?;
    }
    // With fewer members than copies nothing could be anchored any more.
    let placing = network.placing().with_placement(body.clone());
    require(placing.fits(), Outcome::Conflict)?;
    Ok(vec![Write::entry(Table::Meta, PLACEMENT, body)])
}
