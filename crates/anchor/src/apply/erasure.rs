use super::{
    context::{Context, Lists, Refusal, require},
    form::request_of,
};
use crate::{
    AccountOf, Appended, Body, CustodyEntry, Destroyed, Erased, ErasedBy, ErasureEntry, Gone,
    LeafIndex, Outcome, RecordEntry, SignedStatement, State, Table, Tables, TablesError,
    entry::{
        Write, custody_leaf_key, erasure_waiting_key, leaf_of, record_key, release_key, sweep_key,
        usage_key,
    },
};
use medanchor_dag::{CustodyId, Did};
use std::collections::BTreeSet;

/// Signed by the custody key's owner, and true at this very leaf: nobody who has something is left out, and no disclosure. A
/// holder that went over to another epoch key meanwhile blocks nothing: it is listed with the one that it has now.
pub(super) fn erased(context: &Context<'_>, body: &Erased) -> Result<Vec<Write>, Refusal> {
    let custody = unerased(context, &body.custody)?;
    context.require_authority(&custody.custody.owner)?;
    let is_held = context.state.is_custody_legally_held(&body.custody)?;
    require(!is_held, Outcome::LegallyHeld)?;
    let now = context.state.to_erase(&custody)?;
    require(is_of_the_same(&now, body), Outcome::Stale)?;
    let entry = ErasureEntry {
        erased: now,
        since: context.index,
        is_swept: false,
        records: 0,
        destroyed: Vec::new(),
    };
    let id = body.custody.as_bytes();
    let sweep = Write::bytes(Table::Sweeps, sweep_key(context.at, context.index), id);
    let mut writes = buried(context, custody)?;
    writes.extend([Write::erasure(&entry), sweep]);
    let listed: BTreeSet<Did> = body.listed().map(|(who, _)| who).collect();
    writes.extend(listed.iter().map(|who| {
        let key = erasure_waiting_key(who, &body.custody);
        Write::bytes(Table::ErasuresWaiting, key, &[])
    }));
    Ok(writes)
}

/// Whether two say the same, whatever epoch keys the holders have.
fn is_of_the_same(now: &Erased, body: &Erased) -> bool {
    let holders =
        |erased: &Erased| -> Vec<Did> { erased.holders.iter().map(|holder| holder.who).collect() };
    holders(now) == holders(body)
        && (now.custody, &now.replicas, now.disclosed)
            == (body.custody, &body.replicas, body.disclosed)
}

/// What an erasure means for a decision, which reads neither accounts nor members' nodes.
pub(super) fn replayed(context: &Context<'_>, body: &Erased) -> Result<Vec<Write>, Refusal> {
    buried(context, unerased(context, &body.custody)?)
}

/// The custody key is over, and so is every consent under it.
fn buried(context: &Context<'_>, custody: CustodyEntry) -> Result<Vec<Write>, Refusal> {
    let consents = context.state.consents(&custody.custody.custody)?;
    let mut writes: Vec<Write> = consents.iter().map(Write::consent_removal).collect();
    writes.push(Write::custody(&CustodyEntry {
        erased: Some(context.index),
        since: context.index,
        ..custody
    }));
    Ok(writes)
}

/// Signed by the one whose it was.
pub(super) fn destroyed(context: &Context<'_>, body: &Destroyed) -> Result<Vec<Write>, Refusal> {
    require(context.is_signed_by(&body.by), Outcome::Forbidden)?;
    let entry = context.state.erasure(&body.custody)?;
    let mut entry = entry.ok_or(Outcome::Unknown)?;
    require(entry.since == body.erasure, Outcome::Conflict)?;
    let mut missing = entry.missing();
    let is_missing = missing.any(|missing| missing == (body.by, body.gone));
    drop(missing);
    require(is_missing, Outcome::Conflict)?;
    if body.gone == Gone::Data && !entry.is_swept {
        // There is no leaf: it is said again when the rest is gone.
        return Err(Refusal::Rejected("not-swept"));
    }
    // INVARIANT (I9): nothing is destroyed while an epoch key is in use that copies may be sealed to, listed or not.
    let epoch_key = context.state.epoch_key(&body.by)?;
    let is_younger = epoch_key.is_none_or(|epoch_key| epoch_key.since > entry.since);
    require(is_younger, Outcome::Conflict)?;
    entry.destroyed.push(ErasedBy {
        who: body.by,
        gone: body.gone,
        leaf: context.index,
    });
    let mut writes = vec![Write::erasure(&entry)];
    if !entry.missing().any(|(who, _)| who == body.by) {
        let key = erasure_waiting_key(&body.by, &body.custody);
        writes.push(Write::removal(Table::ErasuresWaiting, key));
    }
    Ok(writes)
}

/// A custody key that is there, and not erased.
pub(super) fn unerased(
    context: &Context<'_>,
    custody: &CustodyId,
) -> Result<CustodyEntry, Refusal> {
    let entry = context.state.custody(custody)?.ok_or(Outcome::Unknown)?;
    require(entry.erased.is_none(), Outcome::Erased)?;
    Ok(entry)
}

/// Notes of a leaf under which custody keys its opening is to be found, and deleted. Under one that is erased already it is
/// kept for as long as who said it may ask for a receipt. Of a record that took effect its row among those of the custody key
/// says that.
pub(super) fn note(
    tables: &mut dyn Tables,
    body: &Body,
    lists: &Lists<'_>,
    appended: &Appended,
) -> Result<(), TablesError> {
    let Appended { index, leaf } = appended;
    for custody in noted_under(State::new(&*tables), body, lists, leaf.outcome)? {
        if State::new(&*tables).erasure(&custody)?.is_some() {
            let due = leaf.at.saturating_add(LATE_KEPT_MS);
            tables.put(Table::Sweeps, &sweep_key(due, *index), custody.as_bytes())?;
        } else {
            let key = custody_leaf_key(&custody, *index);
            tables.put(Table::CustodyLeaves, &key, &[])?;
        }
    }
    Ok(())
}

/// A release of several custody keys has nothing of one alone, and an emergency is of who overrode consent. A refusal proves
/// nothing for anybody: it goes with the first of those whose records it names.
fn noted_under(
    state: State<'_>,
    body: &Body,
    lists: &Lists<'_>,
    outcome: Outcome,
) -> Result<BTreeSet<CustodyId>, TablesError> {
    let one = match body {
        Body::Custody(body) => Some(body.custody),
        Body::Consented(body) => Some(body.custody),
        Body::Withdrawn(body) => Some(body.custody),
        Body::LegalHoldPlaced(body) => Some(body.legal_hold.custody),
        Body::LegalHoldReleased(body) => Some(body.custody),
        Body::Anchored(body) if outcome != Outcome::Ok => Some(body.custody),
        Body::Account(body) => match body.of {
            AccountOf::Custody(custody) => Some(custody),
            AccountOf::Principal(_) => None,
        },
        Body::Released(body) => match lists.find(&body.list).map(|list| list.parts.as_slice()) {
            Some([only]) => Some(only.custody),
            _ => None,
        },
        Body::Refused(body) => return custodies_of(state, &body.request),
        _ => None,
    };
    Ok(one.into_iter().collect())
}

/// The custody keys of the records that a request names, as far as they are known.
fn custodies_of(
    state: State<'_>,
    request: &SignedStatement,
) -> Result<BTreeSet<CustodyId>, TablesError> {
    let mut custodies = BTreeSet::new();
    for record in request_of(request).iter().flat_map(|asked| &asked.records) {
        custodies.extend(state.record(record)?.map(|known| known.anchored.custody));
    }
    Ok(custodies)
}

/// Takes some of what is due by `now`, log time, out of the state, before anything else of a batch: no batch takes long, however
/// much there is. Saying an erasure again goes on with it.
pub(super) fn sweep(tables: &mut dyn Tables, now: u64) -> Result<(), TablesError> {
    for (key, custody) in State::new(&*tables).sweeps_due(now, SWEPT_AT_A_TIME)? {
        let Some(index) = leaf_of(&key) else {
            continue;
        };
        let entry = State::new(&*tables).erasure(&custody)?;
        if let Some(entry) = entry.filter(|entry| entry.since == index) {
            return sweep_custody(tables, &key, entry);
        }
        erase_opening(tables, index, &custody)?;
        tables.remove(Table::Sweeps, &key)?;
    }
    Ok(())
}

fn sweep_custody(
    tables: &mut dyn Tables,
    key: &[u8],
    mut entry: ErasureEntry,
) -> Result<(), TablesError> {
    let custody = entry.erased.custody;
    let swept = sweep_records(tables, &custody)?;
    entry.records = entry.records.saturating_add(swept);
    if swept == 0 && sweep_leaves(tables, &custody)? == 0 {
        entry.is_swept = true;
        tables.remove(Table::Sweeps, key)?;
    }
    Write::erasure(&entry).apply(tables)
}

fn sweep_records(tables: &mut dyn Tables, custody: &CustodyId) -> Result<u64, TablesError> {
    let state = State::new(&*tables);
    let records = state.records_under(custody, 0, SWEPT_AT_A_TIME)?;
    let owner = state.custody(custody)?.map(|entry| entry.custody.owner);
    if let Some(owner) = owner {
        let sizes = records.iter().map(|record| record.anchored.size);
        let usage = state.usage(&owner)?.saturating_sub(sizes.sum());
        Write::number(Table::Meta, usage_key(&owner), usage).apply(tables)?;
    }
    for RecordEntry {
        anchored, index, ..
    } in &records
    {
        tables.remove(Table::Records, &record_key(&anchored.record))?;
        erase_opening(tables, *index, custody)?;
        tables.remove(Table::CustodyRecords, &custody_leaf_key(custody, *index))?;
    }
    Ok(u64::try_from(records.len()).unwrap_or(u64::MAX))
}

fn sweep_leaves(tables: &mut dyn Tables, custody: &CustodyId) -> Result<usize, TablesError> {
    let keys = State::new(&*tables).custody_leaves(custody, SWEPT_AT_A_TIME)?;
    for key in &keys {
        if let Some(index) = leaf_of(key) {
            // Of a release, which has one part.
            tables.remove(Table::Releases, &release_key(index, 0))?;
            erase_opening(tables, index, custody)?;
        }
        tables.remove(Table::CustodyLeaves, key)?;
    }
    Ok(keys.len())
}

/// Of the leaf only its hash is left, and with which custody key the rest went.
fn erase_opening(
    tables: &mut dyn Tables,
    index: LeafIndex,
    custody: &CustodyId,
) -> Result<(), TablesError> {
    let key = index.to_be_bytes();
    tables.remove(Table::Openings, &key)?;
    tables.put(Table::ErasedLeaves, &key, custody.as_bytes())
}

/// Records, or other leaves, that one batch sweeps.
const SWEPT_AT_A_TIME: usize = 1024;
/// How long the opening of a leaf under an erased custody key is kept, in ms of log time.
const LATE_KEPT_MS: u64 = 10 * 60 * 1000;
