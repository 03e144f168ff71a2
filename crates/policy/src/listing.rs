use crate::{
    Policies, PolicySets,
    grounds::{Asker, Device, Grounds, open_emergencies},
    policies::Answer,
    purpose,
};
use medanchor_anchor::{Anchored, CustodyKind, State, TablesError};
use medanchor_dag::{CustodyId, Did};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

/// Tells which records somebody hears of who names none: those whose keys would be released now, if they were asked for one
/// by one in this role and for this purpose. It asks for all that a release asks for, so that a list shows nothing that
/// its reader could not open.
#[derive(Debug)]
pub struct Listing<'a> {
    state: State<'a>,
    policies: Arc<Policies>,
    reader: Asker<'a>,
    /// What was read of a custody key; `None`: there is none.
    grounds: BTreeMap<CustodyId, Option<Grounds>>,
    /// Devices by the keys that sealed records.
    devices: BTreeMap<Did, Device>,
}

impl<'a> Listing<'a> {
    /// A list for who signs with `key`, at `now`, log time or later. `None` where nothing is listed: it or its organisation is not
    /// enrolled or not active, does not hold the role, the purpose is none, or this version cannot decide by the network's policies.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn of(
        state: State<'a>,
        sets: &PolicySets,
        key: &Did,
        role: &'a str,
        purpose: &'a str,
        now: u64,
    ) -> Result<Option<Self>, TablesError> {
        let (Some((did, entry)), Some(purposes), Some(policies)) = (
            state.signer(key)?,
            purpose::chain(purpose),
            sets.in_force(&state)?,
        ) else {
            return Ok(None);
        };
        let org = state.principal(&entry.org)?;
        let Some(org) = org.filter(|org| org.is_active() && entry.is_active()) else {
            return Ok(None);
        };
        if entry.is_overdue(role, now) || !entry.roles.iter().any(|held| held == role) {
            return Ok(None);
        }
        Ok(Some(Self {
            state,
            policies,
            reader: Asker {
                did,
                org: entry.org,
                role,
                purpose,
                purposes,
                now,
                emergencies: open_emergencies(&entry, &org),
                // A list shows none. What asks for one is named by whoever wants it.
                second_factor: false,
            },
            grounds: BTreeMap::new(),
            devices: BTreeMap::new(),
        }))
    }

    /// Whether records under a custody key may be on it: none are looked at of one that its reader has nothing to do with.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn may_have_under(&mut self, custody: &CustodyId) -> Result<bool, TablesError> {
        let grounds = Self::grounds(&mut self.grounds, &self.state, custody)?;
        Ok(grounds.is_some_and(|grounds| grounds.may_be_known(&self.reader)))
    }

    /// Whether this record is on it.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn has(&mut self, anchored: &Anchored) -> Result<bool, TablesError> {
        let device = self.device(&anchored.device)?;
        let grounds = Self::grounds(&mut self.grounds, &self.state, &anchored.custody)?;
        let Some(grounds) = grounds else {
            return Ok(false);
        };
        let (mut facts, _) = grounds.facts(&self.reader, anchored, &device);
        // In an emergency nobody can name the records, and a leaf says already who looks.
        facts.second_factor = facts.emergency;
        // Whatever the policies say: who has nothing to do with a record does not hear that it exists.
        let is_related = facts.custody_kind == CustodyKind::Open
            || facts.owns_custody
            || facts.controls_custody
            || facts.owns_device
            || facts.consented
            || facts.emergency;
        Ok(is_related && matches!(self.policies.answer(&facts), Answer::Permitted(_)))
    }

    fn grounds<'g>(
        known: &'g mut BTreeMap<CustodyId, Option<Grounds>>,
        state: &State<'_>,
        custody: &CustodyId,
    ) -> Result<Option<&'g Grounds>, TablesError> {
        let grounds = match known.entry(*custody) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Grounds::read(state, custody)?),
        };
        Ok(grounds.as_ref())
    }

    fn device(&mut self, key: &Did) -> Result<Device, TablesError> {
        if let Some(device) = self.devices.get(key) {
            return Ok(*device);
        }
        let device = Device::read(&self.state, key, &self.reader.org)?;
        self.devices.insert(*key, device);
        Ok(device)
    }
}
