use crate::{
    consent::{self, Said, Use},
    facts::Facts,
};
use medanchor_anchor::{
    Anchored, BreakGlass, ConsentEntry, CustodyEntry, CustodyKind, Emergency, PrincipalEntry,
    State, TablesError,
};
use medanchor_dag::{CustodyId, Did};
use std::collections::BTreeSet;

/// A custody key with the consents under it: what the use of every record under it rests on.
#[derive(Debug)]
pub(crate) struct Grounds {
    pub(crate) entry: CustodyEntry,
    pub(crate) consents: Vec<ConsentEntry>,
}

/// Who asks, what for, and when.
#[derive(Clone, Debug)]
pub(crate) struct Asker<'a> {
    /// The key that it was enrolled with, whichever signs the request.
    pub(crate) did: Did,
    pub(crate) org: Did,
    pub(crate) role: &'a str,
    pub(crate) purpose: &'a str,
    /// The purpose and those above it.
    pub(crate) purposes: Vec<&'static str>,
    /// Log time or later, unix ms.
    pub(crate) now: u64,
    /// Those of [`open_emergencies`].
    pub(crate) emergencies: Vec<Emergency>,
    /// It has shown a second factor, which counts now.
    pub(crate) second_factor: bool,
}

/// Who sealed a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    /// The key that it was enrolled with, whichever sealed the record.
    pub(crate) did: Did,
    /// Whether it belongs to the organisation of who asks.
    pub(crate) is_own: bool,
}

impl Device {
    /// The one that sealed with this key.
    pub(crate) fn read(state: &State<'_>, key: &Did, org: &Did) -> Result<Self, TablesError> {
        let known = state.identity(key)?;
        Ok(Self {
            did: known.as_ref().map_or(*key, |(device, _)| *device),
            is_own: known.is_some_and(|(_, entry)| entry.org == *org),
        })
    }
}

/// The emergencies in which `who` overrode consent, that are not reviewed yet, and whose role its organisation lets still.
pub(crate) fn open_emergencies(who: &PrincipalEntry, org: &PrincipalEntry) -> Vec<Emergency> {
    let lets = |open: &&Emergency| {
        let rule = org.break_glass.as_ref();
        rule.is_some_and(|rule| rule.roles.contains(&open.role))
    };
    who.emergencies.iter().filter(lets).cloned().collect()
}

impl Grounds {
    /// `None`: there is no such custody key, or it is erased: nobody can tell the two apart.
    pub(crate) fn read(
        state: &State<'_>,
        custody: &CustodyId,
    ) -> Result<Option<Self>, TablesError> {
        let entry = state.custody(custody)?;
        let Some(entry) = entry.filter(|entry| entry.erased.is_none()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            entry,
            consents: state.consents(custody)?,
        }))
    }

    /// Whether `asker` may override consent for the custody key now, and asks for that.
    pub(crate) fn emergency(&self, asker: &Asker<'_>) -> bool {
        let covers =
            |open: &Emergency| open.covers(&self.entry.custody.custody, asker.role, asker.now);
        asker.purpose == BreakGlass::PURPOSE && asker.emergencies.iter().any(covers)
    }

    /// Whether `asker` may know of whatever is under the custody key: its organisation's key, its own data, open data, or data
    /// that somebody once consented to give it, or that it may have in an emergency.
    pub(crate) fn may_be_known(&self, asker: &Asker<'_>) -> bool {
        let is_named =
            |consent: &ConsentEntry| consent::names(consent, &asker.did, &asker.org, asker.role);
        self.entry.custody.kind == CustodyKind::Open
            || self.entry.custody.owner == asker.org
            || self.entry.custody.controller.as_ref() == Some(&asker.did)
            || self.consents.iter().any(is_named)
            || self.emergency(asker)
    }

    /// The moments after `asker.now` at which a consent or an emergency may begin to say something else.
    pub(crate) fn turns(&self, asker: &Asker<'_>) -> BTreeSet<u64> {
        let over = asker
            .emergencies
            .iter()
            .map(|open| open.until.saturating_add(1));
        let turns = consent::turns(&self.consents).chain(over);
        turns.filter(|moment| *moment > asker.now).collect()
    }

    /// What the policies may look at when one record is used, and what consents say of it.
    pub(crate) fn facts<'a>(
        &self,
        asker: &Asker<'a>,
        anchored: &Anchored,
        device: &Device,
    ) -> (Facts<'a>, Said) {
        let said = consent::said(
            &self.consents,
            &Use {
                requester: &asker.did,
                requester_org: &asker.org,
                role: asker.role,
                purpose: asker.purpose,
                class: anchored.class,
                device: &device.did,
                captured_at: anchored.captured_at,
                now: asker.now,
            },
        );
        let facts = Facts {
            requester: asker.did,
            record: anchored.record,
            role: asker.role,
            purposes: asker.purposes.clone(),
            class: anchored.class,
            custody_kind: self.entry.custody.kind,
            owns_custody: self.entry.custody.owner == asker.org,
            controls_custody: self.entry.custody.controller.as_ref() == Some(&asker.did),
            owns_device: device.is_own,
            // INVARIANT: deny beats permit.
            consented: said.permitted.is_ok() && !said.denied,
            denied: said.denied,
            emergency: self.emergency(asker),
            second_factor: asker.second_factor,
        };
        (facts, said)
    }
}
