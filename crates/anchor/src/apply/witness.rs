use super::{
    context::{Context, Network, Refusal, require},
    member::require_majority,
};
use crate::{
    Outcome, SignatureKind, Table, VerifierKey, WitnessAdded, WitnessEntry, WitnessRemoved,
    entry::{QUORUM, WITNESSES, Write},
};

/// Signed by a majority of the members. The witness itself says nothing: it co-signs, or it does not.
pub(super) fn added(context: &Context<'_>, body: &WitnessAdded) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    let key = cosigning_key(&context.signed.statement.origin, &body.key)?;
    require_majority(context, network.members())?;
    let everybody = context.state.member_entries()?;
    for used in network.log_and_cosigner_keys(&everybody) {
        let is_used = used.key() == key.key() || used.name() == key.name();
        require(!is_used, Outcome::Conflict)?;
    }
    let witnesses = network.witnesses().len() + 1;
    require(witnesses <= MAX_WITNESSES, Outcome::Conflict)?;
    require_quorum(network, witnesses, body.quorum)?;
    let mut entries = context.state.witness_entries()?;
    entries.push(body.entry(context.index));
    Ok(writes(&entries, body.quorum))
}

/// Signed by a majority of the members.
pub(super) fn removed(context: &Context<'_>, body: &WitnessRemoved) -> Result<Vec<Write>, Refusal> {
    let network = context.network()?;
    require_majority(context, network.members())?;
    let mut entries = context.state.witness_entries()?;
    let entry = WitnessEntry::active(&mut entries, &body.key).ok_or(Outcome::Unknown)?;
    entry.remove(context.index);
    let witnesses = network.witnesses().len().saturating_sub(1);
    require_quorum(network, witnesses, body.quorum)?;
    Ok(writes(&entries, body.quorum))
}

/// A key that the policy which follows can name: not as one of the members' co-signers, who vouch for what outside
/// witnesses sign, and not by a word of the policy itself.
fn cosigning_key(origin: &str, text: &str) -> Result<VerifierKey, Refusal> {
    let malformed = || Refusal::Rejected("malformed");
    let key: VerifierKey = text.parse().map_err(|_| malformed())?;
    let is_reserved = key.is_member_of(origin) || RESERVED.contains(&key.name());
    match key.kind() {
        SignatureKind::Cosignature if !is_reserved => Ok(key),
        _ => Err(malformed()),
    }
}

fn require_quorum(network: &Network, witnesses: usize, quorum: u8) -> Result<(), Refusal> {
    let cosigners = network.members().len() + witnesses;
    require(usize::from(quorum) <= cosigners, Outcome::Conflict)
}

fn writes(entries: &[WitnessEntry], quorum: u8) -> Vec<Write> {
    vec![
        Write::entry(Table::Meta, WITNESSES, &entries),
        Write::number(Table::Meta, QUORUM, quorum.into()),
    ]
}

/// Names that mean something else in a trust policy.
const RESERVED: [&str; 2] = ["none", "cosigners"];
/// As many as a network may be founded with.
const MAX_WITNESSES: usize = 32;
