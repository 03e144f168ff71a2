use super::{
    break_glass, check,
    context::{Context, Lists, Network, Refusal, signers},
    custody, erasure, judge, record,
};
use crate::{
    Body, Entry, Leaf, LeafIndex, Log, RecordEntry, State, Table, Tables, TablesError,
    entry::{Write, record_key},
};
use medanchor_dag::Hash;

impl Log {
    /// Takes over what a leaf says took effect, into tables that hold what the leaves before it said of members,
    /// principals, custody keys and consents, and not all else. Whether it could: a statement other than `anchored`, `break-glass` and
    /// `erased` is judged again, `custody` without epoch keys, and one that is not accepted on what is here changes nothing.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn replay(
        tables: &mut dyn Tables,
        index: LeafIndex,
        leaf: &Leaf,
        entry: &Entry,
    ) -> Result<bool, TablesError> {
        let statement = &entry.signed.statement;
        let writes = match &statement.body {
            Body::Anchored(anchored) => {
                let record = RecordEntry {
                    anchored: anchored.clone(),
                    index,
                    at: leaf.at,
                    holders: Vec::new(),
                };
                let key = record_key(&anchored.record);
                vec![
                    record::under_custody(&record),
                    Write::entry(Table::Records, key, &record),
                ]
            }
            body => {
                let state = State::new(&*tables);
                let network = Network::load(state, &[], leaf.at)?;
                let bytes = statement.to_bytes();
                let context = Context {
                    state,
                    network: network.as_ref(),
                    lists: &Lists::default(),
                    signed: &entry.signed,
                    signers: signers(state, &entry.signed)?,
                    size_bytes: bytes.len(),
                    hash: Hash::of(&bytes),
                    index,
                    at: leaf.at,
                };
                let taken = match body {
                    Body::BreakGlass(body) => break_glass::replayed(&context, body),
                    Body::Erased(body) => erasure::replayed(&context, body),
                    Body::Custody(body) => {
                        check(&context).and_then(|()| custody::replayed(&context, body))
                    }
                    _ => judge(&context),
                };
                match taken {
                    Ok(writes) => writes,
                    Err(Refusal::Tables(error)) => return Err(error),
                    Err(Refusal::Leaf(_) | Refusal::Rejected(_)) => return Ok(false),
                }
            }
        };
        for write in &writes {
            write.apply(tables)?;
        }
        Ok(true)
    }
}
