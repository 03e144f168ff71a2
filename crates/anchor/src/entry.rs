use crate::{
    AccountOf, Anchored, BreakGlassRule, Consented, Custody, Emergency, EmergencyEntry,
    ErasureEntry, Factor, Founded, LeafIndex, LegalHold, MemberEntry, Nonce, PrincipalKind, Table,
    Tables, TablesError,
};
use cid::Cid;
use medanchor_dag::{CustodyId, Did, Hash, StreamId, to_canonical};
use serde::{Deserialize, Serialize};

/// How the network began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundedEntry {
    /// The network's name.
    pub origin: String,
    /// Its organisations and rules.
    pub founded: Founded,
    /// The leaf that last changed them.
    pub since: LeafIndex,
}

/// The access policy set in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessPolicyEntry {
    /// Its CID.
    pub policy: Cid,
    /// Its canonical bytes; `None` of the one that the network was founded with.
    pub set: Option<serde_bytes::ByteBuf>,
    /// The leaf since which it is in force.
    pub since: LeafIndex,
}

/// What the log says of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipalEntry {
    /// What it is.
    pub kind: PrincipalKind,
    /// The organisation it belongs to; an organisation belongs to itself.
    pub org: Did,
    /// Roles it may act in, sorted.
    pub roles: Vec<String>,
    /// Whether it may act.
    pub standing: Status,
    /// The leaf that last changed this entry.
    pub since: LeafIndex,
    /// The leaf that enrolled it.
    pub enrolled_at: LeafIndex,
    /// Its second factors, in the order in which they were enrolled. At most [`Factor::MAX`].
    pub factors: Vec<Factor>,
    /// The emergencies in which it overrode consent and that are not reviewed yet. At most [`Emergency::MAX`].
    pub emergencies: Vec<Emergency>,
    /// Of an organisation: who of it may override consent in an emergency, and who reviews that.
    pub break_glass: Option<BreakGlassRule>,
    /// The key that it signs with now, once that is not the one that it was enrolled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Did>,
}

impl PrincipalEntry {
    /// The key in force of the principal `who`, whose entry this is.
    pub fn key_of(&self, who: &Did) -> Did {
        self.key.unwrap_or(*who)
    }

    /// Whether it may act.
    pub fn is_active(&self) -> bool {
        self.standing == Status::Active
    }

    /// Whether a role is suspended at `now`, log time, unix ms, as an emergency in it was not reviewed in time.
    pub fn is_overdue(&self, role: &str, now: u64) -> bool {
        self.overdue_after(role).is_some_and(|due| due < now)
    }

    /// The last moment, unix ms, before a role is suspended if nobody reviews the emergencies in it; `None`: there is none.
    pub fn overdue_after(&self, role: &str) -> Option<u64> {
        let in_role = self.emergencies.iter().filter(|open| open.role == role);
        in_role.map(|open| open.due).min()
    }
}

/// Whether a principal may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It may.
    Active,
    /// Not until it is reinstated.
    Suspended,
    /// Never again.
    Revoked,
}

/// What the log says of a custody key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustodyEntry {
    /// The current epoch.
    pub custody: Custody,
    /// The leaf that last changed it.
    pub since: LeafIndex,
    /// The leaf of the newest consent given or withdrawn under it.
    pub newest_consent: Option<LeafIndex>,
    /// The leaf by which its controller first gave or withdrew a consent. Since then nobody else gives one, or names
    /// another controller.
    pub controlled_since: Option<LeafIndex>,
    /// The leaf that made it.
    pub made_at: LeafIndex,
    /// All that ever attested that they hold a private key of it, sorted.
    pub holders: Vec<Did>,
    /// The leaf that erased it. Nothing is anchored, consented or released under it any more.
    pub erased: Option<LeafIndex>,
}

/// What the log says of a consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentEntry {
    /// The consent as it was last given.
    pub consented: Consented,
    /// Whether it was withdrawn after that.
    pub withdrawn: bool,
    /// The leaf that gave or withdrew it.
    pub since: LeafIndex,
}

/// What the log says of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordEntry {
    /// The statement that anchored it.
    pub anchored: Anchored,
    /// Its leaf.
    pub index: LeafIndex,
    /// Log time of its leaf, unix ms.
    pub at: u64,
    /// The nodes that said that they hold it, sorted.
    pub holders: Vec<Did>,
}

/// The head of a device's stream, which goes on when the device rotates its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamEntry {
    /// The highest number anchored.
    pub seq: u64,
    /// The record with that number.
    pub record: Cid,
    /// How many records did not follow the head at their time. They are anchored all the same.
    pub gaps_and_forks: u64,
    /// The leaf that last changed this entry.
    pub since: LeafIndex,
}

/// A row that an accepted statement sets, or removes.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) table: Table,
    pub(crate) key: Vec<u8>,
    /// `None`: the row is removed.
    pub(crate) value: Option<Vec<u8>>,
}

impl Write {
    /// Sets the row, or removes it.
    pub(crate) fn apply(&self, tables: &mut dyn Tables) -> Result<(), TablesError> {
        match &self.value {
            Some(value) => tables.put(self.table, &self.key, value),
            None => tables.remove(self.table, &self.key),
        }
    }

    /// Sets an entry.
    pub(crate) fn entry<T: Serialize>(table: Table, key: impl Into<Vec<u8>>, entry: &T) -> Self {
        Self {
            table,
            key: key.into(),
            value: Some(to_canonical(entry)),
        }
    }

    /// Removes a row.
    pub(crate) fn removal(table: Table, key: Vec<u8>) -> Self {
        Self {
            table,
            key,
            value: None,
        }
    }

    /// Sets a number.
    pub(crate) fn number(table: Table, key: impl Into<Vec<u8>>, number: u64) -> Self {
        Self {
            table,
            key: key.into(),
            value: Some(number.to_be_bytes().to_vec()),
        }
    }

    pub(crate) fn principal(who: &Did, entry: &PrincipalEntry) -> Self {
        Self::entry(Table::Principals, *who.as_bytes(), entry)
    }

    /// Sets bytes as they are.
    pub(crate) fn bytes(table: Table, key: impl Into<Vec<u8>>, value: &[u8]) -> Self {
        Self {
            table,
            key: key.into(),
            value: Some(value.to_vec()),
        }
    }

    /// A key that a principal rotated to.
    pub(crate) fn key(key: &Did, who: &Did) -> Self {
        Self::bytes(Table::Keys, *key.as_bytes(), who.as_bytes())
    }

    pub(crate) fn member(entry: &MemberEntry) -> Self {
        Self::entry(Table::Members, entry.member.node_id.to_be_bytes(), entry)
    }

    pub(crate) fn custody(entry: &CustodyEntry) -> Self {
        let key = *entry.custody.custody.as_bytes();
        Self::entry(Table::Custodies, key, entry)
    }

    pub(crate) fn emergency(entry: &EmergencyEntry) -> Self {
        Self::entry(Table::Emergencies, entry.since.to_be_bytes(), entry)
    }

    pub(crate) fn erasure(entry: &ErasureEntry) -> Self {
        Self::entry(Table::Erasures, *entry.erased.custody.as_bytes(), entry)
    }

    pub(crate) fn consent_removal(entry: &ConsentEntry) -> Self {
        let Consented {
            custody, consent, ..
        } = &entry.consented;
        Self::removal(Table::Consents, consent_key(custody, consent))
    }

    pub(crate) fn consent(entry: &ConsentEntry) -> Self {
        let key = consent_key(&entry.consented.custody, &entry.consented.consent);
        Self::entry(Table::Consents, key, entry)
    }
}

/// Row of `Table::Meta`: how the network began.
pub(crate) const FOUNDED: &[u8] = b"founded";
/// Row of `Table::Meta`: the access policy set, once another than the founded one is in force.
pub(crate) const ACCESS_POLICY: &[u8] = b"access-policy";
/// Row of `Table::Meta`: co-signatures that a published checkpoint carries.
pub(crate) const QUORUM: &[u8] = b"quorum";
/// Row of `Table::Meta`: all that ever were outside witnesses. Absent while they are those of the founding.
pub(crate) const WITNESSES: &[u8] = b"witnesses";
/// Row of `Table::Meta`: where records are held. Absent while nobody said.
pub(crate) const PLACEMENT: &[u8] = b"placement";
/// Row of `Table::Meta`: number of leaves.
pub(crate) const SIZE: &[u8] = b"size";
/// Row of `Table::Meta`: log time of the newest batch.
pub(crate) const TIME: &[u8] = b"time";

/// Row of `Table::Meta`: bytes that an organisation has anchored.
pub(crate) fn usage_key(org: &Did) -> Vec<u8> {
    [b"usage".as_slice(), org.as_bytes()].concat()
}

/// Custody id or principal, to the account's count and head.
pub(crate) fn account_key(of: &AccountOf) -> Vec<u8> {
    match of {
        AccountOf::Custody(custody) => custody.as_bytes().to_vec(),
        AccountOf::Principal(who) => who.as_bytes().to_vec(),
    }
}

/// The same and a disclosure's number from 0, to its leaf index.
pub(crate) fn disclosure_key(of: &AccountOf, number: u64) -> Vec<u8> {
    [account_key(of).as_slice(), &number.to_be_bytes()].concat()
}

/// A custody key, and a leaf that is of it.
pub(crate) fn custody_leaf_key(custody: &CustodyId, index: LeafIndex) -> Vec<u8> {
    [custody.as_bytes().as_slice(), &index.to_be_bytes()].concat()
}

/// When something is due to leave the state, and the leaf that it is of.
pub(crate) fn sweep_key(due: u64, index: LeafIndex) -> Vec<u8> {
    [due.to_be_bytes(), index.to_be_bytes()].concat()
}

/// The leaf that such a key ends with.
pub(crate) fn leaf_of(key: &[u8]) -> Option<LeafIndex> {
    key.last_chunk()
        .map(|index| LeafIndex::from_be_bytes(*index))
}

/// Who has something of an erased custody key, and the custody key.
pub(crate) fn erasure_waiting_key(who: &Did, custody: &CustodyId) -> Vec<u8> {
    [who.as_bytes().as_slice(), custody.as_bytes()].concat()
}

/// A holder, and an epoch key that it has or had.
pub(crate) fn used_epoch_key(holder: &Did, key: &[u8; 32]) -> Vec<u8> {
    [*holder.as_bytes(), *key].concat()
}

/// The leaf of a release, and the number of a part of its list from 0.
pub(crate) fn release_key(index: LeafIndex, part: u64) -> Vec<u8> {
    [index.to_be_bytes(), part.to_be_bytes()].concat()
}

pub(crate) fn consent_key(custody: &CustodyId, consent: &Nonce) -> Vec<u8> {
    [custody.as_bytes().as_slice(), consent.as_slice()].concat()
}

pub(crate) fn legal_hold_key(hold: &LegalHold) -> Vec<u8> {
    let held = legally_held_key(&hold.org, &hold.custody, hold.record.as_ref());
    [held.as_slice(), hold.hold.as_slice()].concat()
}

/// What the keys of all legal holds begin with that an organisation has on a record or, if none is given, on a custody key.
pub(crate) fn legally_held_key(org: &Did, custody: &CustodyId, record: Option<&Cid>) -> Vec<u8> {
    let record = record.map_or_else(|| vec![0; 32], record_key);
    [legal_holds_key(org, custody), record].concat()
}

/// What the keys of all legal holds begin with that an organisation has on a custody key or on a record under it.
pub(crate) fn legal_holds_key(org: &Did, custody: &CustodyId) -> Vec<u8> {
    [org.as_bytes().as_slice(), custody.as_bytes()].concat()
}

pub(crate) fn stream_key(device: &Did, stream: &StreamId) -> Vec<u8> {
    [device.as_bytes().as_slice(), stream.as_bytes()].concat()
}

/// Records are keyed by digest, so that one DAG has one entry whatever codec its CID claims.
pub(crate) fn record_key(record: &Cid) -> Vec<u8> {
    record.hash().digest().to_vec()
}

pub(crate) fn hash_key(hash: &Hash) -> Vec<u8> {
    hash.as_bytes().to_vec()
}
