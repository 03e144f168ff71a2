use std::collections::BTreeMap;
use std::ops::Bound;

/// One of the ordered tables that hold the log and the state. Keys are bytes, integers in them
/// big-endian, so that the order of keys is the order of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Single values by name: sizes, times, the founding statement.
    Meta,
    /// Leaf index (u64) to the leaf's canonical bytes.
    Leaves,
    /// Tree level (u8) and index (u64) to the hash of a complete subtree.
    Nodes,
    /// Leaf index (u64) to the opening's canonical bytes. Rows may be deleted: that redacts the leaf.
    Openings,
    /// Statement hash to leaf index (u64): finds retries.
    Statements,
    /// Principal (the 32-byte key that it was enrolled with) to its entry.
    Principals,
    /// Key (32 bytes) that a principal rotated to, to the principal (32-byte key). Rows are never deleted.
    Keys,
    /// Custody id to its entry.
    Custodies,
    /// Custody id and consent id to the consent.
    Consents,
    /// Record digest to its entry.
    Records,
    /// Header hash to leaf index (u64): finds a second record under one header.
    Headers,
    /// Device (32-byte key) and stream id to the stream's head.
    Streams,
    /// Request hash to the leaf index (u64) that answered it.
    Requests,
    /// Node id (u64) to the member's entry. Rows are never deleted.
    Members,
    /// Organisation (32-byte key), custody id, record digest or 32 zero bytes, and id of the hold to the legal hold.
    LegalHolds,
    /// Custody id to the count and head of its account, and custody id and number (u64) to the leaf index (u64) of a
    /// disclosure.
    Disclosures,
    /// Principal (32-byte key) to the count and head of its account, and principal and number (u64) to the leaf index (u64)
    /// of a disclosure.
    Exposures,
    /// Leaf index (u64) to the emergency that began with it, in which somebody overrode consent. Rows are never deleted.
    Emergencies,
    /// Custody id and leaf index (u64) to the CID of the record that was anchored under it with that leaf.
    CustodyRecords,
    /// Leaf index (u64) of a release and number (u64) to that part of its list. Rows may be deleted, with the leaf's opening.
    Releases,
    /// Custody id and leaf index (u64) of another leaf than an `anchored` one that took effect, whose opening is of the
    /// custody key, to nothing.
    CustodyLeaves,
    /// Holder of custody keys (32-byte key) to its epoch key.
    EpochKeys,
    /// Custody id to its erasure. Rows are never deleted.
    Erasures,
    /// Holder (32-byte key) and an epoch key (32 bytes) that it has or had, to nothing. Rows are never deleted.
    UsedEpochKeys,
    /// When (u64, log time, unix ms) and leaf index (u64) to custody id: of an erasure, while something of it is left in the
    /// state; of a later leaf that is of the custody key, until its opening is deleted.
    Sweeps,
    /// Who (32-byte key) and custody id, to nothing, while its erasure lists something that they have not destroyed.
    ErasuresWaiting,
    /// Leaf index (u64) to the custody id with which its opening was erased. Rows are never deleted.
    ErasedLeaves,
}

impl Table {
    /// Every table, in the order in which a snapshot writes them.
    pub const ALL: [Self; 27] = [
        Self::Meta,
        Self::Leaves,
        Self::Nodes,
        Self::Openings,
        Self::Statements,
        Self::Principals,
        Self::Keys,
        Self::Custodies,
        Self::Consents,
        Self::Records,
        Self::Headers,
        Self::Streams,
        Self::Requests,
        Self::Members,
        Self::LegalHolds,
        Self::Disclosures,
        Self::Exposures,
        Self::Emergencies,
        Self::CustodyRecords,
        Self::Releases,
        Self::CustodyLeaves,
        Self::EpochKeys,
        Self::Erasures,
        Self::UsedEpochKeys,
        Self::Sweeps,
        Self::ErasuresWaiting,
        Self::ErasedLeaves,
    ];

    /// The name that is written to disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta-1",
            Self::Leaves => "leaves-1",
            Self::Nodes => "nodes-1",
            Self::Openings => "openings-1",
            Self::Statements => "statements-1",
            Self::Principals => "principals-1",
            Self::Keys => "keys-1",
            Self::Custodies => "custodies-1",
            Self::Consents => "consents-1",
            Self::Records => "records-1",
            Self::Headers => "headers-1",
            Self::Streams => "streams-1",
            Self::Requests => "requests-1",
            Self::Members => "members-1",
            Self::LegalHolds => "legal-holds-1",
            Self::Disclosures => "disclosures-1",
            Self::Exposures => "exposures-1",
            Self::Emergencies => "emergencies-1",
            Self::CustodyRecords => "custody-records-1",
            Self::Releases => "releases-1",
            Self::CustodyLeaves => "custody-leaves-1",
            Self::EpochKeys => "epoch-keys-1",
            Self::Erasures => "erasures-1",
            Self::UsedEpochKeys => "used-epoch-keys-1",
            Self::Sweeps => "sweeps-1",
            Self::ErasuresWaiting => "erasures-waiting-1",
            Self::ErasedLeaves => "erased-leaves-1",
        }
    }
}

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Ordered tables as they were at one moment.
pub trait View {
    /// The value at `key`.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError>;

    /// Up to `limit` rows with `from <= key`, and `key < until` where `until` is given, in key order.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    fn range(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError>;
}

/// Ordered tables within one transaction: reads see the writes before them, and all writes take effect
/// together or not at all.
pub trait Tables: View {
    /// Sets the value at `key`.
    ///
    /// # Errors
    ///
    /// When the storage fails; the transaction must then be abandoned.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TablesError>;

    /// Removes the value at `key`, if there is one.
    ///
    /// # Errors
    ///
    /// When the storage fails; the transaction must then be abandoned.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), TablesError>;
}

/// The storage below the tables failed, or holds what this version cannot read.
#[derive(Debug, thiserror::Error)]
#[error("tables failed")]
pub struct TablesError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Tables in memory, for tests and tools that replay a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl View for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        until: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        let start = Bound::Included((table, from.to_vec()));
        let rows = self.0.range((start, Bound::Unbounded));
        Ok(rows
            .take_while(|((of, key), _)| {
                *of == table && until.is_none_or(|until| key.as_slice() < until)
            })
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}

impl Tables for MemoryTables {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), TablesError> {
        self.0.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), TablesError> {
        self.0.remove(&(table, key.to_vec()));
        Ok(())
    }
}
