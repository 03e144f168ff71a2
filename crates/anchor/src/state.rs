use crate::{
    AccessPolicyEntry, AccessRequest, AccountHead, AccountOf, Anchored, Basis, ConsentEntry,
    ConsistencyProof, CustodyEntry, EmergencyEntry, EpochKeyEntry, Erased, ErasedHolder,
    ErasureEntry, FoundedEntry, InclusionProof, Leaf, LeafIndex, LegalHold, LegalHoldEntry, Member,
    MemberEntry, Nonce, Opening, Placement, Places, Placing, PrincipalEntry, RecordEntry,
    ReleaseList, ReleasePart, Row, Selection, StreamEntry, Table, TablesError, View, WitnessEntry,
    entry::{
        ACCESS_POLICY, FOUNDED, PLACEMENT, QUORUM, SIZE, TIME, WITNESSES, account_key, consent_key,
        custody_leaf_key, disclosure_key, erasure_waiting_key, hash_key, legal_hold_key,
        legal_holds_key, legally_held_key, record_key, stream_key, usage_key, used_epoch_key,
    },
    tree,
};
use cid::Cid;
use medanchor_dag::{CustodyId, Did, Hash, StreamId};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt};

/// The log and what follows from it, read from tables as they were at one moment.
#[derive(Clone, Copy)]
pub struct State<'v>(&'v dyn View);

impl<'v> State<'v> {
    /// Reads from `view`.
    pub fn new(view: &'v dyn View) -> Self {
        Self(view)
    }

    /// How the network began; `None` before leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn founded(&self) -> Result<Option<FoundedEntry>, TablesError> {
        self.entry(Table::Meta, FOUNDED)
    }

    /// The organisations that keep the log now, in the order of their node ids.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn members(&self) -> Result<Vec<Member>, TablesError> {
        let mut entries = self.member_entries()?;
        entries.retain(MemberEntry::is_active);
        Ok(entries.into_iter().map(|entry| entry.member).collect())
    }

    /// All that ever were members, in the order of their node ids.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn member_entries(&self) -> Result<Vec<MemberEntry>, TablesError> {
        let rows = self.0.range(Table::Members, &[], None, usize::MAX)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// Verifier keys of the outside witnesses that count now.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn witnesses(&self) -> Result<Vec<String>, TablesError> {
        let mut entries = self.witness_entries()?;
        entries.retain(WitnessEntry::is_active);
        Ok(entries.into_iter().map(|entry| entry.key).collect())
    }

    /// All that ever were outside witnesses, in the order in which they came.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn witness_entries(&self) -> Result<Vec<WitnessEntry>, TablesError> {
        if let Some(entries) = self.entry(Table::Meta, WITNESSES)? {
            return Ok(entries);
        }
        let founded = self.founded()?.map(|entry| entry.founded.witnesses);
        let keys = founded.into_iter().flatten();
        Ok(keys.map(|key| WitnessEntry::founded(&key)).collect())
    }

    /// The leaves after the founding that changed the members or the outside witnesses, and with them the trust
    /// policy, in order.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn policy_changes(&self) -> Result<Vec<LeafIndex>, TablesError> {
        let (members, witnesses) = (self.member_entries()?, self.witness_entries()?);
        let members = members.iter().map(|by| [Some(by.added_at), by.removed_at]);
        let witnesses = witnesses
            .iter()
            .map(|by| [Some(by.added_at), by.removed_at]);
        let changes = members.chain(witnesses).flatten().flatten();
        let mut changes: Vec<LeafIndex> = changes.filter(|index| *index > 0).collect();
        changes.sort_unstable();
        Ok(changes)
    }

    /// Co-signatures that a published checkpoint carries; 0 before leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn quorum(&self) -> Result<u64, TablesError> {
        Ok(self.number(Table::Meta, QUORUM)?.unwrap_or(0))
    }

    /// The access policy set in force; `None` before leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn access_policy(&self) -> Result<Option<AccessPolicyEntry>, TablesError> {
        if let Some(entry) = self.entry(Table::Meta, ACCESS_POLICY)? {
            return Ok(Some(entry));
        }
        let founded = self.founded()?;
        Ok(founded.map(|entry| AccessPolicyEntry {
            policy: entry.founded.policy,
            set: None,
            since: entry.since,
        }))
    }

    /// A principal, by the key that it was enrolled with.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn principal(&self, who: &Did) -> Result<Option<PrincipalEntry>, TablesError> {
        self.entry(Table::Principals, who.as_bytes())
    }

    /// Whose key this is or once was: the key that the principal was enrolled with, and its entry.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn identity(&self, key: &Did) -> Result<Option<(Did, PrincipalEntry)>, TablesError> {
        // No key is in both tables.
        if let Some(entry) = self.principal(key)? {
            return Ok(Some((*key, entry)));
        }
        let Some(row) = self.0.get(Table::Keys, key.as_bytes())? else {
            return Ok(None);
        };
        let who = Did::new(array(&row)?);
        Ok(self.principal(&who)?.map(|entry| (who, entry)))
    }

    /// Who signs with this key: the key that the principal was enrolled with, and its entry. `None` also of a key that was
    /// rotated: it signs for nobody.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn signer(&self, key: &Did) -> Result<Option<(Did, PrincipalEntry)>, TablesError> {
        let known = self.identity(key)?;
        Ok(known.filter(|(who, entry)| entry.key_of(who) == *key))
    }

    /// The device that sealed a record, whichever key that was with: the key that it was enrolled with.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn device_of(&self, anchored: &Anchored) -> Result<Did, TablesError> {
        let device = self.identity(&anchored.device)?;
        Ok(device.map_or(anchored.device, |(device, _)| device))
    }

    /// Whether a record is one of those that a selection describes, if it is under one of its custody keys.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn selects(
        &self,
        selection: &Selection,
        record: &RecordEntry,
    ) -> Result<bool, TablesError> {
        let anchored = &record.anchored;
        let device = match selection.stream {
            Some(_) => self.device_of(anchored)?,
            None => anchored.device,
        };
        Ok(selection.has(anchored, &device, record.index))
    }

    /// Up to `limit` principals after the one given, in the order of their keys.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn principals(
        &self,
        after: Option<&Did>,
        limit: usize,
    ) -> Result<Vec<(Did, PrincipalEntry)>, TablesError> {
        let after = after.map(|did| did.as_bytes());
        let rows = self.following(Table::Principals, after, limit)?;
        rows.iter()
            .map(|(key, value)| Ok((Did::new(array(key)?), parse(value)?)))
            .collect()
    }

    /// A custody key.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn custody(&self, custody: &CustodyId) -> Result<Option<CustodyEntry>, TablesError> {
        self.entry(Table::Custodies, custody.as_bytes())
    }

    /// Up to `limit` custody keys after the one given, in the order of their ids.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn custodies(
        &self,
        after: Option<&CustodyId>,
        limit: usize,
    ) -> Result<Vec<CustodyEntry>, TablesError> {
        let after = after.map(|id| id.as_bytes());
        let rows = self.following(Table::Custodies, after, limit)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// Every consent that was given under a custody key, also those withdrawn or over.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn consents(&self, custody: &CustodyId) -> Result<Vec<ConsentEntry>, TablesError> {
        let rows = self.beginning_with(Table::Consents, custody.as_bytes(), usize::MAX)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// One consent.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn consent(
        &self,
        custody: &CustodyId,
        consent: &Nonce,
    ) -> Result<Option<ConsentEntry>, TablesError> {
        self.entry(Table::Consents, &consent_key(custody, consent))
    }

    /// The emergency that began with this leaf.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn emergency(&self, since: LeafIndex) -> Result<Option<EmergencyEntry>, TablesError> {
        self.entry(Table::Emergencies, &since.to_be_bytes())
    }

    /// Up to `limit` emergencies, those that began with leaf `first` or a later one, in order.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn emergencies(
        &self,
        first: LeafIndex,
        limit: usize,
    ) -> Result<Vec<EmergencyEntry>, TablesError> {
        let from = first.to_be_bytes();
        let rows = self.0.range(Table::Emergencies, &from, None, limit)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// A record.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn record(&self, record: &Cid) -> Result<Option<RecordEntry>, TablesError> {
        let entry: Option<RecordEntry> = self.entry(Table::Records, &record_key(record))?;
        Ok(entry.filter(|entry| entry.anchored.record == *record))
    }

    /// Up to `limit` records after the one given, in the order of their digests.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn records(
        &self,
        after: Option<&Cid>,
        limit: usize,
    ) -> Result<Vec<RecordEntry>, TablesError> {
        let after = after.map(record_key);
        let rows = self.following(Table::Records, after, limit)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// Up to `limit` records under a custody key, those that leaf `first` or a later one anchored, in order.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn records_under(
        &self,
        custody: &CustodyId,
        first: LeafIndex,
        limit: usize,
    ) -> Result<Vec<RecordEntry>, TablesError> {
        let from = custody_leaf_key(custody, first);
        let until = successor(custody.as_bytes());
        let rows = self
            .0
            .range(Table::CustodyRecords, &from, until.as_deref(), limit)?;
        let mut records = Vec::with_capacity(rows.len());
        for (_, record) in rows {
            let record = Cid::try_from(record).map_err(|error| TablesError(Box::new(error)))?;
            records.extend(self.record(&record)?);
        }
        Ok(records)
    }

    /// What a release was of, part by part; `None` when the leaf is of none that took effect, or it was deleted.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn release_list(&self, index: LeafIndex) -> Result<Option<ReleaseList>, TablesError> {
        let rows = self.beginning_with(Table::Releases, &index.to_be_bytes(), usize::MAX)?;
        let parts: Vec<_> = rows
            .iter()
            .map(|(_, part)| parse(part))
            .collect::<Result<_, _>>()?;
        Ok(Some(ReleaseList { parts }).filter(|list| !list.parts.is_empty()))
    }

    /// The custody keys of a release of which something has changed since it was decided.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn stale(&self, list: &ReleaseList) -> Result<Vec<CustodyId>, TablesError> {
        let mut stale = Vec::new();
        for part in &list.parts {
            let mut devices = Vec::with_capacity(part.rows.len());
            for row in &part.rows {
                devices.extend(self.record(&row.record)?.map(|entry| entry.anchored.device));
            }
            if !self.part_stands(part, &devices)? {
                stale.push(part.custody);
            }
        }
        Ok(stale)
    }

    /// Whether all that a decision read of a custody key and of the records under it, whose devices these are, is as it was.
    pub(crate) fn part_stands(
        &self,
        part: &ReleasePart,
        devices: &[Did],
    ) -> Result<bool, TablesError> {
        if part.rows.is_empty() {
            return Ok(true);
        }
        let key = self.custody(&part.custody)?;
        let is_as_it_was =
            key.is_some_and(|key| key.since == part.since && key.newest_consent == part.consent);
        if !is_as_it_was || devices.len() != part.rows.len() {
            return Ok(false);
        }
        let mut known = BTreeMap::new();
        for (row, device) in part.rows.iter().zip(devices) {
            let since = match known.get(device) {
                Some(since) => *since,
                None => {
                    let since = self.device_since(device)?;
                    known.insert(device, since);
                    since
                }
            };
            if since != row.device {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The leaf that last changed the standing of a device, by any of its keys; what is absent counts as unchanged since leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn device_since(&self, device: &Did) -> Result<LeafIndex, TablesError> {
        let known = self.identity(device)?;
        Ok(known.map_or(0, |(_, entry)| entry.since))
    }

    /// Up to `limit` legal holds in force after the one given, those of an organisation together.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn legal_holds(
        &self,
        after: Option<&LegalHold>,
        limit: usize,
    ) -> Result<Vec<LegalHoldEntry>, TablesError> {
        let after = after.map(legal_hold_key);
        let rows = self.following(Table::LegalHolds, after, limit)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// Every legal hold that an organisation has in force.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn legal_holds_of(&self, org: &Did) -> Result<Vec<LegalHoldEntry>, TablesError> {
        let rows = self.beginning_with(Table::LegalHolds, org.as_bytes(), usize::MAX)?;
        rows.iter().map(|(_, value)| parse(value)).collect()
    }

    /// Whether anybody has a legal hold on a custody key or on a record under it.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn is_custody_legally_held(&self, custody: &CustodyId) -> Result<bool, TablesError> {
        // Who was a member once may have one still.
        for entry in self.member_entries()? {
            let key = legal_holds_key(&entry.member.org, custody);
            if !self.beginning_with(Table::LegalHolds, &key, 1)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The epoch key under which somebody keeps custody keys; `None` of who never attested one.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn epoch_key(&self, holder: &Did) -> Result<Option<EpochKeyEntry>, TablesError> {
        self.entry(Table::EpochKeys, holder.as_bytes())
    }

    /// Whether somebody has this epoch key, or once had it.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn has_had_epoch_key(&self, holder: &Did, key: &[u8; 32]) -> Result<bool, TablesError> {
        let row = self
            .0
            .get(Table::UsedEpochKeys, &used_epoch_key(holder, key))?;
        Ok(row.is_some())
    }

    /// The erasure of a custody key.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn erasure(&self, custody: &CustodyId) -> Result<Option<ErasureEntry>, TablesError> {
        self.entry(Table::Erasures, custody.as_bytes())
    }

    /// Up to `limit` erasures after the one given, of those that list something of `who` which is not destroyed yet, in the
    /// order of their custody keys.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn erasures_waiting_for(
        &self,
        who: &Did,
        after: Option<&CustodyId>,
        limit: usize,
    ) -> Result<Vec<ErasureEntry>, TablesError> {
        let from = match after {
            Some(custody) => following(&erasure_waiting_key(who, custody)),
            None => who.as_bytes().to_vec(),
        };
        let until = successor(who.as_bytes());
        let rows = self
            .0
            .range(Table::ErasuresWaiting, &from, until.as_deref(), limit)?;
        let mut waiting = Vec::with_capacity(rows.len());
        for (key, _) in rows {
            waiting.extend(self.erasure(&custody_at_end(&key)?)?);
        }
        Ok(waiting)
    }

    /// The custody key with whose erasure the opening of a leaf was deleted.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn erased_with(&self, index: LeafIndex) -> Result<Option<CustodyId>, TablesError> {
        let row = self.0.get(Table::ErasedLeaves, &index.to_be_bytes())?;
        row.map(|custody| array(&custody).map(CustodyId::new))
            .transpose()
    }

    /// What an erasure of a custody key would have to say now.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn to_erase(&self, entry: &CustodyEntry) -> Result<Erased, TablesError> {
        let custody = entry.custody.custody;
        let mut holders = Vec::with_capacity(entry.holders.len());
        for who in &entry.holders {
            let key = self.epoch_key(who)?;
            holders.extend(key.map(|key| ErasedHolder {
                who: *who,
                epoch_key: key.key,
            }));
        }
        let mut members = self.member_entries()?;
        members.retain(|member| member.removed_at.is_none_or(|at| at > entry.made_at));
        let mut replicas: Vec<Did> = members.iter().map(|entry| entry.member.node).collect();
        replicas.sort_unstable();
        replicas.dedup();
        Ok(Erased {
            custody,
            holders,
            replicas,
            disclosed: self.account(&AccountOf::Custody(custody))?,
        })
    }

    /// Up to `limit` rows of what is to leave the state by `now`, log time, unix ms: the key, and the custody key that it is of.
    pub(crate) fn sweeps_due(
        &self,
        now: u64,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, CustodyId)>, TablesError> {
        let until = now.saturating_add(1).to_be_bytes();
        let rows = self.0.range(Table::Sweeps, &[], Some(&until), limit)?;
        rows.into_iter()
            .map(|(key, custody)| Ok((key, CustodyId::new(array(&custody)?))))
            .collect()
    }

    /// The keys of up to `limit` rows that say which leaves are of a custody key.
    pub(crate) fn custody_leaves(
        &self,
        custody: &CustodyId,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, TablesError> {
        let rows = self.beginning_with(Table::CustodyLeaves, custody.as_bytes(), limit)?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    /// Whether an organisation has a legal hold on a record or on its custody key.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn is_legally_held(&self, org: &Did, anchored: &Anchored) -> Result<bool, TablesError> {
        for record in [None, Some(&anchored.record)] {
            let key = legally_held_key(org, &anchored.custody, record);
            if !self.beginning_with(Table::LegalHolds, &key, 1)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A legal hold, if it is in force.
    pub(crate) fn legal_hold(
        &self,
        hold: &LegalHold,
    ) -> Result<Option<LegalHoldEntry>, TablesError> {
        self.entry(Table::LegalHolds, &legal_hold_key(hold))
    }

    /// The head of a stream of the device that was enrolled with this key.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn stream(
        &self,
        device: &Did,
        stream: &StreamId,
    ) -> Result<Option<StreamEntry>, TablesError> {
        self.entry(Table::Streams, &stream_key(device, stream))
    }

    /// The leaf of the record with this header hash.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn header(&self, header: &Hash) -> Result<Option<LeafIndex>, TablesError> {
        self.number(Table::Headers, &hash_key(header))
    }

    /// The leaf of a statement.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn statement(&self, statement: &Hash) -> Result<Option<LeafIndex>, TablesError> {
        self.number(Table::Statements, &hash_key(statement))
    }

    /// The leaf that answered an access request.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn request(&self, request: &Hash) -> Result<Option<LeafIndex>, TablesError> {
        self.number(Table::Requests, &hash_key(request))
    }

    /// How many disclosures an account has, and the head of the hash chain over them.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn account(&self, of: &AccountOf) -> Result<AccountHead, TablesError> {
        let account = self.entry(of.table(), &account_key(of))?;
        Ok(account.unwrap_or_default())
    }

    /// The leaves of up to `limit` disclosures of an account, in order, from number `from` on, counted from 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn disclosures(
        &self,
        of: &AccountOf,
        from: u64,
        limit: usize,
    ) -> Result<Vec<LeafIndex>, TablesError> {
        let from = disclosure_key(of, from);
        // No number is the greatest there is.
        let until = disclosure_key(of, u64::MAX);
        let rows = self.0.range(of.table(), &from, Some(&until), limit)?;
        let index = |(_, value): &Row| array(value).map(LeafIndex::from_be_bytes);
        rows.iter().map(index).collect()
    }

    /// Whether `who`, by the key that it was enrolled with, speaks for an account: may ask for it, and state it. For that of a custody key these are its controller and
    /// its owner; for that of a principal it is itself, its organisation, and every member organisation.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn speaks_for(&self, of: &AccountOf, who: &Did) -> Result<bool, TablesError> {
        Ok(match of {
            AccountOf::Custody(custody) => self.custody(custody)?.is_some_and(|entry| {
                entry.custody.owner == *who || entry.custody.controller == Some(*who)
            }),
            AccountOf::Principal(of) => {
                let entry = self.principal(of)?;
                let is_its = entry.is_some_and(|entry| of == who || entry.org == *who);
                is_its || self.members()?.iter().any(|member| member.org == *who)
            }
        })
    }

    /// A leaf.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn leaf(&self, index: LeafIndex) -> Result<Option<Leaf>, TablesError> {
        self.entry(Table::Leaves, &index.to_be_bytes())
    }

    /// Up to `limit` leaves from `from` on, as the bytes that the tree is made of.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn leaves(&self, from: LeafIndex, limit: usize) -> Result<Vec<Vec<u8>>, TablesError> {
        let rows = self
            .0
            .range(Table::Leaves, &from.to_be_bytes(), None, limit)?;
        Ok(rows.into_iter().map(|(_, leaf)| leaf).collect())
    }

    /// What a leaf commits to; `None` also when it was deleted.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn opening(&self, index: LeafIndex) -> Result<Option<Opening>, TablesError> {
        self.entry(Table::Openings, &index.to_be_bytes())
    }

    /// Number of leaves.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn tree_size(&self) -> Result<u64, TablesError> {
        Ok(self.number(Table::Meta, SIZE)?.unwrap_or(0))
    }

    /// Root of the whole tree.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn root(&self) -> Result<Hash, TablesError> {
        self.root_at(self.tree_size()?)
    }

    /// Root of the tree of the first `size` leaves.
    ///
    /// # Errors
    ///
    /// When the storage fails or holds fewer leaves.
    pub fn root_at(&self, size: u64) -> Result<Hash, TablesError> {
        tree::root(self.0, size)
    }

    /// Proves that leaf `index` is in the tree of the first `size` leaves.
    ///
    /// # Errors
    ///
    /// When the storage fails or holds fewer leaves, or `index` is not below `size`.
    pub fn inclusion_proof(
        &self,
        index: LeafIndex,
        size: u64,
    ) -> Result<InclusionProof, TablesError> {
        tree::inclusion(self.0, index, size)
    }

    /// Proves that the tree of the first `old` leaves is a prefix of that of the first `new`.
    ///
    /// # Errors
    ///
    /// When the storage fails or holds fewer leaves, or `old` is more than `new`.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<ConsistencyProof, TablesError> {
        tree::consistency(self.0, old, new)
    }

    /// Log time of the newest batch, unix ms: never less than that of the newest leaf; 0 before the first.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn log_time(&self) -> Result<u64, TablesError> {
        Ok(self.number(Table::Meta, TIME)?.unwrap_or(0))
    }

    /// Where records are held; the default one, without any rule, while nobody said.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn placement(&self) -> Result<Placement, TablesError> {
        Ok(self.entry(Table::Meta, PLACEMENT)?.unwrap_or_default())
    }

    /// Bytes of the payloads that are anchored under an organisation's custody keys.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn usage(&self, org: &Did) -> Result<u64, TablesError> {
        Ok(self.number(Table::Meta, &usage_key(org))?.unwrap_or(0))
    }

    /// Bytes that an organisation has anchored once `size` more are; `None` where these rules do not let it.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn usage_after(
        &self,
        rules: &Placement,
        org: &Did,
        size: u64,
    ) -> Result<Option<u64>, TablesError> {
        let usage = self.usage(org)?.saturating_add(size);
        Ok(rules.lets_anchor(org, usage).then_some(usage))
    }

    /// What says where records are held; `None` before leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn placing(&self) -> Result<Option<Placing>, TablesError> {
        let Some(founded) = self.founded()? else {
            return Ok(None);
        };
        self.placing_of(&founded).map(Some)
    }

    /// What says where records are held, in the network that was founded so.
    pub(crate) fn placing_of(&self, founded: &FoundedEntry) -> Result<Placing, TablesError> {
        let copies = founded.founded.copies;
        Ok(Placing::new(self.placement()?, copies, self.members()?))
    }

    /// Where a record is to be held.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn places<'p>(
        &self,
        placing: &'p Placing,
        anchored: &Anchored,
    ) -> Result<Places<'p>, TablesError> {
        let custody = match placing.rule(anchored.class).at_home {
            true => self.custody(&anchored.custody)?,
            false => None,
        };
        let owner = custody.map(|entry| entry.custody.owner);
        Ok(Places::new(placing, anchored, owner.as_ref()))
    }

    /// What a decision on `request`, which names its records, reads. `None` before leaf 0. What is absent counts as unchanged since leaf 0, and the custody key is that
    /// of the first known record.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn basis(
        &self,
        request: &AccessRequest,
        requester: &Did,
    ) -> Result<Option<Basis>, TablesError> {
        let Some(of_requester) = self.requester_basis(requester)? else {
            return Ok(None);
        };
        let mut custody = None;
        let mut devices = Vec::with_capacity(request.records.len());
        for record in &request.records {
            let record = self.record(record)?;
            devices.push(match &record {
                Some(record) => self.device_since(&record.anchored.device)?,
                None => 0,
            });
            custody = custody.or(record.map(|record| record.anchored.custody));
        }
        let custody = match custody {
            Some(custody) => self.custody(&custody)?,
            None => None,
        };
        Ok(Some(Basis {
            custody: custody.as_ref().map_or(0, |custody| custody.since),
            consent: custody.and_then(|custody| custody.newest_consent),
            devices,
            ..of_requester
        }))
    }

    /// What a decision reads that tells of no record: the policy set and who asks, by the key that signs. `None` before leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn requester_basis(&self, requester: &Did) -> Result<Option<Basis>, TablesError> {
        let Some(policy) = self.access_policy()? else {
            return Ok(None);
        };
        let requester = self.signer(requester)?.map(|(_, entry)| entry);
        let since = match &requester {
            Some(requester) => requester.since.max(self.verifiers_gone_since(requester)?),
            None => 0,
        };
        let requester_org = match &requester {
            Some(requester) => self.principal(&requester.org)?,
            None => None,
        };
        Ok(Some(Basis {
            policy: policy.since,
            custody: 0,
            consent: None,
            requester: since,
            requester_org: requester_org.map_or(0, |org| org.since),
            devices: Vec::new(),
        }))
    }

    /// The last leaf that removed a member whose node verifies a second factor of theirs; 0: none did.
    fn verifiers_gone_since(&self, who: &PrincipalEntry) -> Result<LeafIndex, TablesError> {
        if who.factors.is_empty() {
            return Ok(0);
        }
        let verifies = |entry: &MemberEntry| {
            let mut factors = who.factors.iter();
            factors.any(|factor| factor.node == entry.member.node)
        };
        let members = self.member_entries()?.into_iter();
        let gone = members
            .filter(verifies)
            .filter_map(|entry| entry.removed_at);
        Ok(gone.max().unwrap_or(0))
    }

    /// Up to `limit` rows after the one with this key.
    fn following(
        &self,
        table: Table,
        after: Option<impl AsRef<[u8]>>,
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        let from = after.map(|key| following(key.as_ref()));
        self.0.range(table, &from.unwrap_or_default(), None, limit)
    }

    /// Up to `limit` rows whose keys begin so.
    fn beginning_with(
        &self,
        table: Table,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, TablesError> {
        let until = successor(prefix);
        self.0.range(table, prefix, until.as_deref(), limit)
    }

    fn entry<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, TablesError> {
        let row = self.0.get(table, key)?;
        row.map(|value| parse(&value)).transpose()
    }

    fn number(&self, table: Table, key: &[u8]) -> Result<Option<u64>, TablesError> {
        let row = self.0.get(table, key)?;
        row.map(|value| array(&value).map(u64::from_be_bytes))
            .transpose()
    }
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State(..)")
    }
}

/// A stored row is not what this version writes: it was made by another one, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("row of {0} bytes is not of the expected length")]
struct RowLength(usize);

/// Reads what this program wrote: that it is canonical needs no proof.
fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, TablesError> {
    serde_ipld_dagcbor::from_slice(value).map_err(|error| TablesError(Box::new(error)))
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], TablesError> {
    value
        .try_into()
        .map_err(|_| TablesError(Box::new(RowLength(value.len()))))
}

/// The custody id that a key ends with.
fn custody_at_end(key: &[u8]) -> Result<CustodyId, TablesError> {
    let length = || TablesError(Box::new(RowLength(key.len())));
    key.last_chunk()
        .map(|id| CustodyId::new(*id))
        .ok_or_else(length)
}

/// The first key after `key`.
fn following(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// The first key that does not begin with `prefix`; `None` when every later key does.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(more) = last.checked_add(1) {
            next.push(more);
            return Some(next);
        }
    }
    None
}
