use crate::{
    Code,
    consent::{Use, coverage},
    facts::Facts,
};
use medanchor_anchor::{
    Anchored, BreakGlass, ConsentEntry, Custody, Emergency, PrincipalEntry, State, TablesError,
};
use medanchor_dag::{CustodyId, Did};

/// A custody key with the consents under it: what the use of every record under it rests on.
#[derive(Debug)]
pub(crate) struct Grounds {
    pub(crate) custody: Custody,
    pub(crate) consents: Vec<ConsentEntry>,
}

/// Who asks, what for, and when.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
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

/// The emergencies in which `who` overrode consent, that are not reviewed yet, and whose role its organisation lets still.
pub(crate) fn open_emergencies(who: &PrincipalEntry, org: &PrincipalEntry) -> Vec<Emergency> {
    let lets = |open: &&Emergency| {
        let rule = org.break_glass.as_ref();
        rule.is_some_and(|rule| rule.roles.contains(&open.role))
    };
    who.emergencies.iter().filter(lets).cloned().collect()
}

impl Grounds {
    /// `None`: there is no such custody key.
    pub(crate) fn read(
        state: &State<'_>,
        custody: &CustodyId,
    ) -> Result<Option<Self>, TablesError> {
        let Some(entry) = state.custody(custody)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            custody: entry.custody,
            consents: state.consents(custody)?,
        }))
    }

    /// Until when `asker` may override consent for the custody key, unix ms; `None`: it may not, or asks for another purpose.
    pub(crate) fn emergency(&self, asker: &Asker<'_>) -> Option<u64> {
        let covers = |open: &&Emergency| {
            asker.purpose == BreakGlass::PURPOSE
                && open.covers(&self.custody.custody, asker.role, asker.now)
        };
        let covering = asker.emergencies.iter().filter(covers);
        covering.map(|open| open.until).max()
    }

    /// What the policies may look at when one record is used, and until when consents cover that, or what they lack.
    pub(crate) fn facts<'a>(
        &self,
        asker: &Asker<'a>,
        anchored: &Anchored,
        owns_device: bool,
    ) -> (Facts<'a>, Result<u64, Code>) {
        let covered = coverage(
            &self.consents,
            &Use {
                requester: &asker.did,
                requester_org: &asker.org,
                purpose: asker.purpose,
                class: anchored.class,
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
            custody_kind: self.custody.kind,
            owns_custody: self.custody.owner == asker.org,
            controls_custody: self.custody.controller.as_ref() == Some(&asker.did),
            owns_device,
            consented: covered.is_ok(),
            emergency: self.emergency(asker).is_some(),
            second_factor: asker.second_factor,
        };
        (facts, covered)
    }
}
