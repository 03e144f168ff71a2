use crate::Policies;
use medanchor_anchor::{AccessPolicyEntry, State, TablesError};
use medanchor_dag::Cid;
use std::sync::{Arc, Mutex, PoisonError};

/// The policy sets that the log puts in force, each parsed once.
#[derive(Debug, Default)]
pub struct PolicySets {
    /// The newest, for one is in force at a time, and what it is; nothing if this version cannot decide by it.
    parsed: Mutex<Option<(Cid, Option<Arc<Policies>>)>>,
}

impl PolicySets {
    /// The set in force. `None` when this version cannot decide by it: its text is not sound, or the network was
    /// founded with a set that this version does not have.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn in_force(&self, state: &State<'_>) -> Result<Option<Arc<Policies>>, TablesError> {
        let Some(entry) = state.access_policy()? else {
            return Ok(None);
        };
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = parsed.as_ref().filter(|(cid, _)| *cid == entry.policy) {
            return Ok(known.clone());
        }
        let policies = parse(&entry).map(Arc::new);
        *parsed = Some((entry.policy, policies.clone()));
        Ok(policies)
    }
}

fn parse(entry: &AccessPolicyEntry) -> Option<Policies> {
    match &entry.set {
        Some(set) => Policies::from_bytes(set).ok(),
        None => shipped(&entry.policy),
    }
}

/// A set that comes with this version, by the CID that a founding names.
fn shipped(policy: &Cid) -> Option<Policies> {
    let default = Policies::default_set().ok()?;
    Some(default).filter(|default| default.cid() == *policy)
}
