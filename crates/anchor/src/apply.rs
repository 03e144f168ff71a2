mod access;
mod account;
mod break_glass;
mod consent;
mod context;
mod custody;
mod epoch_key;
mod erasure;
mod form;
mod holding;
mod legal_hold;
mod member;
mod placement;
mod policy_set;
mod principal;
mod record;
mod replay;
mod rotation;
mod second_factor;
mod witness;

use crate::{
    Appended, Batch, Body, Entry, Kind, Leaf, Opening, Outcome, State, Table, Tables, TablesError,
    entry::{SIZE, TIME, Write, hash_key},
    tree,
};
use context::{Context, Lists, Network, Refusal};
use form::check_form;
use medanchor_dag::{Hash, to_canonical};

/// The log as a state machine: the same batches in the same order make the same leaves everywhere.
#[derive(Debug)]
pub struct Log;

/// What became of one statement of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It has a leaf: a new one or, when it was said before, the first.
    Leaf(Appended),
    /// It can never be recorded as it is: no leaf was written. The code is stable.
    Rejected(&'static str),
}

impl Log {
    /// A statement may be made for this long ahead of log time, in ms.
    pub const MAX_VALIDITY_MS: u64 = 24 * 60 * 60 * 1000;
    /// A statement that several organisations sign one after another, for this long.
    pub const MAX_MEMBER_VALIDITY_MS: u64 = 14 * Self::MAX_VALIDITY_MS;
    /// A broker's clock may be this far ahead of log time when it decides, in ms.
    pub const MAX_AHEAD_MS: u64 = 5_000;
    /// A decision may be recorded so long after it was made, in ms.
    pub const MAX_DECISION_AGE_MS: u64 = 5 * 60 * 1000;

    /// Applies a batch; answers each of its entries in order. Log time is that of the batch before, or
    /// when this one was proposed, whichever is later: it passes also when nothing new is said.
    ///
    /// # Errors
    ///
    /// When the storage fails: the transaction must then be abandoned. Bad input is no error; it is
    /// answered with [`Applied::Rejected`] or a leaf that says why it was refused.
    pub fn apply(tables: &mut dyn Tables, batch: &Batch) -> Result<Vec<Applied>, TablesError> {
        if batch.v != 1 || batch.entries.len() > Batch::MAX_ENTRIES {
            return Ok(vec![Applied::Rejected("malformed"); batch.entries.len()]);
        }
        let at = State::new(&*tables).log_time()?.max(batch.proposed_at);
        tables.put(Table::Meta, TIME, &at.to_be_bytes())?;
        erasure::sweep(tables, at)?;
        let mut network = Network::load(State::new(&*tables), &batch.holds, at)?;
        let lists = Lists::of(&batch.lists);
        let mut applied = Vec::with_capacity(batch.entries.len());
        for entry in &batch.entries {
            applied.push(apply_entry(tables, network.as_ref(), &lists, entry, at)?);
            let body = &entry.signed.statement.body;
            // What comes after it in the batch may be said in another network.
            if matches!(body, Body::Founded(_)) || body.needs_majority() {
                network = Network::load(State::new(&*tables), &batch.holds, at)?;
            }
        }
        Ok(applied)
    }
}

fn apply_entry(
    tables: &mut dyn Tables,
    network: Option<&Network>,
    lists: &Lists<'_>,
    entry: &Entry,
    at: u64,
) -> Result<Applied, TablesError> {
    let state = State::new(&*tables);
    let statement = entry.signed.statement.to_bytes();
    let hash = Hash::of(&statement);
    let first = first_leaf(state, &hash)?;
    if let Some(first) = &first
        && is_settled(first)
    {
        return Ok(Applied::Leaf(first.clone()));
    }
    let context = Context {
        state,
        network,
        lists,
        signed: &entry.signed,
        signers: context::signers(state, &entry.signed)?,
        size_bytes: statement.len(),
        hash,
        index: state.tree_size()?,
        at,
    };
    let (outcome, writes) = match judge(&context) {
        Ok(writes) => (Outcome::Ok, writes),
        Err(Refusal::Leaf(outcome)) => (outcome, Vec::new()),
        Err(Refusal::Rejected(code)) => return Ok(Applied::Rejected(code)),
        Err(Refusal::Tables(error)) => return Err(error),
    };
    match first {
        Some(first) if first.leaf.outcome == outcome => Ok(Applied::Leaf(first)),
        _ => {
            let appended = append(tables, entry, &hash, at, outcome, &writes)?;
            let body = &entry.signed.statement.body;
            erasure::note(tables, body, lists, &appended)?;
            if let (Outcome::Ok, Body::Released(released)) = (outcome, body)
                && let Some(list) = lists.find(&released.list)
            {
                crate::account::enter(tables, &released.request, list, &appended)?;
            }
            Ok(Applied::Leaf(appended))
        }
    }
}

/// Every rule, from the cheapest to the most specific: what the statement writes when it takes effect.
fn judge(context: &Context<'_>) -> Result<Vec<Write>, Refusal> {
    check(context)?;
    match &context.signed.statement.body {
        Body::Founded(body) => principal::founded(context, body),
        Body::Enrolled(body) => principal::enrolled(context, body),
        Body::Suspended(body) => principal::suspended(context, body),
        Body::Reinstated(body) => principal::reinstated(context, body),
        Body::Revoked(body) => principal::revoked(context, body),
        Body::Rotated(body) => rotation::rotated(context, body),
        Body::RolesChanged(body) => principal::roles_changed(context, body),
        Body::Custody(body) => custody::custody(context, body),
        Body::Consented(body) => consent::consented(context, body),
        Body::Withdrawn(body) => consent::withdrawn(context, body),
        Body::Anchored(body) => record::anchored(context, body),
        Body::AccessRequest(_) | Body::FactorVerified(_) => {
            Err(Refusal::Rejected("not-for-the-log"))
        }
        Body::Released(body) => access::released(context, body),
        Body::Refused(body) => access::refused(context, body),
        Body::MemberAdded(body) => member::added(context, body),
        Body::MemberRemoved(body) => member::removed(context, body),
        Body::WitnessAdded(body) => witness::added(context, body),
        Body::WitnessRemoved(body) => witness::removed(context, body),
        Body::Placed(body) => placement::placed(context, body),
        Body::PolicySet(body) => policy_set::policy_set(context, body),
        Body::Holding(body) => holding::holding(context, body),
        Body::LegalHoldPlaced(body) => legal_hold::placed(context, body),
        Body::LegalHoldReleased(body) => legal_hold::released(context, body),
        Body::FactorEnrolled(body) => second_factor::enrolled(context, body),
        Body::FactorRemoved(body) => second_factor::removed(context, body),
        Body::Account(body) => account::account(context, body),
        Body::BreakGlassRule(body) => break_glass::rule(context, body),
        Body::BreakGlass(body) => break_glass::broken(context, body),
        Body::BreakGlassReviewed(body) => break_glass::reviewed(context, body),
        Body::EpochKey(body) => epoch_key::changed(context, body),
        Body::Erased(body) => erasure::erased(context, body),
        Body::Destroyed(body) => erasure::destroyed(context, body),
    }
}

/// The rules for every statement.
fn check(context: &Context<'_>) -> Result<(), Refusal> {
    check_form(context.signed, context.size_bytes)?;
    context.check_origin()?;
    context.check_signatures()?;
    context.check_authors()?;
    context.check_expiry()
}

fn first_leaf(state: State<'_>, statement: &Hash) -> Result<Option<Appended>, TablesError> {
    let Some(index) = state.statement(statement)? else {
        return Ok(None);
    };
    Ok(state.leaf(index)?.map(|leaf| Appended { index, leaf }))
}

/// Whether saying it again can only get the same answer. A refused `anchored` is judged again: it has no
/// nonce, so its device could never say it otherwise once the cause is gone.
fn is_settled(first: &Appended) -> bool {
    first.leaf.kind != Kind::Anchored || first.leaf.outcome == Outcome::Ok
}

fn append(
    tables: &mut dyn Tables,
    entry: &Entry,
    hash: &Hash,
    at: u64,
    outcome: Outcome,
    writes: &[Write],
) -> Result<Appended, TablesError> {
    let statement = &entry.signed.statement;
    let index = State::new(&*tables).tree_size()?;
    let opening = to_canonical(entry);
    let leaf = Leaf {
        v: 1,
        kind: statement.body.kind(),
        at,
        outcome,
        record: match &statement.body {
            Body::Anchored(anchored) => Some(anchored.record),
            _ => None,
        },
        opening: Opening::commitment_of(&opening),
    };
    let bytes = leaf.to_bytes();
    let key = index.to_be_bytes();
    tables.put(Table::Leaves, &key, &bytes)?;
    tables.put(Table::Openings, &key, &opening)?;
    tables.put(Table::Statements, &hash_key(hash), &key)?;
    tables.put(Table::Meta, SIZE, &(index + 1).to_be_bytes())?;
    tree::append(tables, index, &bytes)?;
    for write in writes {
        write.apply(tables)?;
    }
    Ok(Appended { index, leaf })
}
