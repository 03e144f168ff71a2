use crate::{
    CliError, Exit, OwnKeys, Recorded, Session,
    custody::{FailedCustody, of_own_organisation},
    custody_copy::CustodyCopy,
    custody_held::CustodyHeld,
    epoch_key::EpochKeys,
    exit::graver,
    progress::Counter,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Attestation, Body, Custody};
use medanchor_api::ListedMember;
use medanchor_dag::{CustodyId, Did};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

/// How the brokers of custody keys change.
#[derive(Clone, Debug)]
pub struct BrokersOptions {
    /// Files with attestations of nodes, which become brokers of the keys that they attest.
    pub add: Vec<PathBuf>,
    /// Short name of the member whose node they are to be of.
    pub of: Option<String>,
    /// Short names of members whose nodes are no longer brokers.
    pub remove: Vec<String>,
    /// Of these custody keys; none: of those that the files attest.
    pub custodies: Vec<CustodyId>,
    /// Of all custody keys of the organisation.
    pub all: bool,
}

/// Whose brokers have changed.
#[derive(Clone, Debug, Serialize)]
pub struct BrokersChanged {
    /// Whether every change is in the log.
    pub ok: bool,
    /// `ok`, or what the failures come to: see [`Exit`].
    pub code: &'static str,
    /// The custody keys.
    pub keys: Vec<BrokersRow>,
    /// Those that could not be changed, and why.
    pub failed: Vec<FailedCustody>,
}

/// The brokers of a custody key.
#[derive(Clone, Debug, Serialize)]
pub struct BrokersRow {
    /// Its id.
    pub custody: String,
    /// Where the log has the change; absent when it says so already.
    pub recorded: Option<Recorded>,
}

/// Lists nodes as brokers of the organisation's custody keys, or takes them from the list. The keys stay as they are.
///
/// # Errors
///
/// When nothing can be begun. What fails of single custody keys is in the answer.
pub async fn change_brokers(session: &Session, options: &BrokersOptions) -> Result<BrokersChanged> {
    let keys = session.home.own_keys()?;
    let mut attested: BTreeMap<CustodyId, Vec<Attestation>> = BTreeMap::new();
    let of: Vec<String> = options.of.iter().cloned().collect();
    let of = named(session, &of).await?;
    for file in &options.add {
        for held in CustodyHeld::open(file, &session.origin)?.held {
            // Whoever had the file in their hands could have put in another node's.
            if !of.contains(&held.attestation.by) {
                let (by, file) = (held.attestation.by, file.display());
                let problem = format!(
                    "`{file}` has attestations of `{by}`, which is not the node of the named member"
                );
                return Err(CliError::Usage(problem).into());
            }
            attested
                .entry(held.custody)
                .or_default()
                .push(held.attestation);
        }
    }
    let remove = named(session, &options.remove).await?;
    let mut custodies: BTreeSet<CustodyId> = options.custodies.iter().copied().collect();
    if options.all {
        let own = of_own_organisation(session, &keys).await?;
        custodies.extend(own.iter().map(|listed| listed.custody));
    } else if custodies.is_empty() {
        custodies.extend(attested.keys());
    }
    if custodies.is_empty() {
        let problem = "no custody key is named: give --custody, --all, or a file that attests some";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    let mut changed = BrokersChanged {
        ok: true,
        code: Exit::Done.name(),
        keys: Vec::new(),
        failed: Vec::new(),
    };
    let total = u64::try_from(custodies.len())?;
    let (mut counter, mut exit) = (Counter::new("custody keys", 0, total), Exit::Done);
    let mut holder = None;
    for (done, custody) in (1..).zip(&custodies) {
        let held = attested.get(custody).map_or(&[][..], Vec::as_slice);
        match change_one(session, &keys, custody, held, &remove, &mut holder).await {
            Ok(recorded) => changed.keys.push(BrokersRow {
                custody: custody.to_string(),
                recorded,
            }),
            Err(error) => {
                exit = graver(exit, Exit::of(&error));
                changed
                    .failed
                    .push(FailedCustody::new(custody.to_string(), &error));
            }
        }
        counter.set(done);
    }
    counter.finish();
    (changed.ok, changed.code) = (exit == Exit::Done, exit.name());
    Ok(changed)
}

async fn change_one(
    session: &Session,
    keys: &OwnKeys,
    custody: &CustodyId,
    held: &[Attestation],
    remove: &[Did],
    holder: &mut Option<EpochKeys>,
) -> Result<Option<Recorded>> {
    let in_force = session.custody_in_force(*custody).await?;
    let mut held = held.to_vec();
    // Another holder at the same time; for a removal those that are there are enough.
    let path = CustodyCopy::path(&session.home, custody, in_force.epoch)?;
    if !held.is_empty() && path.exists() {
        let holder = EpochKeys::once(holder, &session.home)?;
        CustodyCopy::open(&path, holder)?.check(&in_force)?;
        held.push(holder.attest(keys, *custody, in_force.epoch, &in_force.key));
    }
    list_brokers(session, keys, &in_force, &held, remove).await
}

/// Has the log list the brokers of a custody key: those that it has, without the removed ones, and with the nodes that
/// attest the key. `None`: it says so already.
pub(crate) async fn list_brokers(
    session: &Session,
    keys: &OwnKeys,
    in_force: &Custody,
    held: &[Attestation],
    remove: &[Did],
) -> Result<Option<Recorded>> {
    if in_force.owner != keys.did() {
        let problem = format!(
            "custody key `{}` is another organisation's: its operator says who its brokers are",
            in_force.custody
        );
        return Err(CliError::Usage(problem).into());
    }
    let listed = session.client.members().await.context("list the members")?;
    let members = listed.members.iter();
    let members = members.filter(|member| member.removed_at.is_none());
    let nodes: BTreeSet<Did> = members.map(|member| member.node).collect();
    match with_brokers(in_force, &nodes, held, remove)? {
        Some(body) => session.say(keys, Body::Custody(body)).await.map(Some),
        None => Ok(None),
    }
}

/// The same key with other brokers; `None` when they are as they were. `nodes` are those of the members now: others are
/// brokers no longer. Attestations of holders that stay are repeated.
fn with_brokers(
    before: &Custody,
    nodes: &BTreeSet<Did>,
    held: &[Attestation],
    remove: &[Did],
) -> Result<Option<Custody>> {
    let mut after = before.clone();
    for attestation in held {
        if !attestation.is_valid(before.custody, before.epoch, &before.key) {
            let problem = format!(
                "`{}` does not attest custody key `{}` as the log has it",
                attestation.by, before.custody
            );
            return Err(CliError::NotVerified(problem).into());
        }
        let is_own = attestation.by == before.owner;
        if !is_own && !nodes.contains(&attestation.by) {
            let problem = format!("`{}` is not the node of a member", attestation.by);
            return Err(CliError::Usage(problem).into());
        }
        if !is_own && !after.brokers.contains(&attestation.by) {
            after.brokers.push(attestation.by);
        }
    }
    after
        .brokers
        .retain(|broker| nodes.contains(broker) && !remove.contains(broker));
    if after.brokers.is_empty() {
        let problem = format!(
            "custody key `{}` would have no broker: add another one first",
            before.custody
        );
        return Err(CliError::Usage(problem).into());
    }
    if after.brokers == before.brokers {
        return Ok(None);
    }
    let is_new = |known: &Attestation| held.iter().any(|held| held.by == known.by);
    let stays = |known: &Attestation| {
        !before.brokers.contains(&known.by) || after.brokers.contains(&known.by)
    };
    after.held_by.retain(|known| stays(known) && !is_new(known));
    for held in held.iter().filter(|held| !remove.contains(&held.by)) {
        if !after.held_by.iter().any(|known| known.by == held.by) {
            after.held_by.push(held.clone());
        }
    }
    Ok(Some(after))
}

/// The nodes of the members with these short names, also of those that were removed.
async fn named(session: &Session, names: &[String]) -> Result<Vec<Did>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let listed = session.client.members().await.context("list the members")?;
    let mut nodes = Vec::new();
    for name in names {
        let is_meant = |member: &&ListedMember| member.name == *name;
        let known = nodes.len();
        nodes.extend(
            listed
                .members
                .iter()
                .filter(is_meant)
                .map(|member| member.node),
        );
        if nodes.len() == known {
            return Err(CliError::Usage(format!("no member is named `{name}`")).into());
        }
    }
    Ok(nodes)
}

impl fmt::Display for BrokersChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, failed) = (self.keys.len(), self.failed.len());
        write!(
            f,
            "brokers of {keys} custody keys are as asked for, {failed} failed"
        )?;
        for key in &self.keys {
            let custody = &key.custody;
            match &key.recorded {
                Some(recorded) => write!(f, "\n{custody}  leaf {}", recorded.leaf_index)?,
                None => write!(f, "\n{custody}  as before")?,
            }
        }
        for failed in &self.failed {
            write!(f, "\n{failed}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        CustodyKind,
        testing::{self, custody, key, node_key},
    };

    const NAMES: [&str; 3] = ["hospital-a", "hospital-b", "hospital-c"];

    fn before() -> Custody {
        custody("patient", NAMES[0], CustodyKind::Person)
    }

    fn nodes(names: &[&str]) -> BTreeSet<Did> {
        names.iter().map(|name| node_key(name).did()).collect()
    }

    fn attested(by: &medanchor_dag::SigningKey) -> Attestation {
        testing::attested(by, before().custody, 0, &before().key)
    }

    fn names_of(custody: &Custody) -> Vec<&'static str> {
        let name = |broker: &Did| {
            let mut names = NAMES.into_iter();
            names.find(|name| node_key(name).did() == *broker).unwrap()
        };
        custody.brokers.iter().map(name).collect()
    }

    #[test]
    fn broker_that_attests_is_listed_beside_the_others() {
        let held = [attested(&node_key(NAMES[1])), attested(&key(NAMES[0]))];
        let after = with_brokers(&before(), &nodes(&NAMES), &held, &[])
            .unwrap()
            .unwrap();
        assert_eq!(names_of(&after), [NAMES[0], NAMES[1]]);
        let mut holders: Vec<Did> = after.held_by.iter().map(|held| held.by).collect();
        holders.dedup();
        let [a, owner, b] = [node_key(NAMES[0]), key(NAMES[0]), node_key(NAMES[1])];
        assert_eq!(holders, [a.did(), b.did(), owner.did()]);
        let again = with_brokers(&after, &nodes(&NAMES), &held, &[]).unwrap();
        assert!(again.is_none());
    }

    #[test]
    fn broker_that_is_removed_or_no_member_any_more_is_not_listed() {
        let held = [attested(&node_key(NAMES[1]))];
        let both = with_brokers(&before(), &nodes(&NAMES), &held, &[])
            .unwrap()
            .unwrap();
        let a = node_key(NAMES[0]).did();
        for (members, remove) in [(&NAMES[..], &[a][..]), (&NAMES[1..], &[])] {
            let after = with_brokers(&both, &nodes(members), &[], remove)
                .unwrap()
                .unwrap();
            assert_eq!(names_of(&after), [NAMES[1]]);
            assert!(after.held_by.iter().all(|held| held.by != a));
            assert_eq!(after.held_by.len(), 2);
        }
        let nobody = with_brokers(&before(), &nodes(&NAMES), &[], &[a]);
        assert_eq!(Exit::of(&nobody.unwrap_err()), Exit::Usage);
    }

    #[test]
    fn attestation_of_another_key_or_by_a_stranger_lists_nobody() {
        let (node, custody) = (node_key(NAMES[1]), before());
        let other_key = testing::attested(&node, custody.custody, 0, &[7; 32]);
        let other_epoch = testing::attested(&node, custody.custody, 1, &custody.key);
        for (held, exit) in [
            (other_key, Exit::NotVerified),
            (other_epoch, Exit::NotVerified),
            (attested(&node_key("stranger")), Exit::Usage),
        ] {
            let refused = with_brokers(&custody, &nodes(&NAMES), &[held], &[]);
            assert_eq!(Exit::of(&refused.unwrap_err()), exit);
        }
    }
}
