use crate::{
    Session, custody::of_own_organisation, custody_copy::CustodyCopy, epoch_key::EpochKeys,
    exit::stable_code,
};
use anyhow::{Context, Result};
use medanchor_anchor::Attestation;
use medanchor_api::{ListedCustody, ListedMember, MAX_CHECKED_KEYS};
use medanchor_dag::{CustodyId, Did};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Who holds custody keys now.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyChecked {
    /// Whether every broker that was reached holds its keys, and every key has two holders or more.
    pub ok: bool,
    /// The custody keys.
    pub custodies: Vec<CheckedCustody>,
}

/// Who holds a custody key now.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedCustody {
    /// Its id.
    pub custody: String,
    /// Epoch of the key.
    pub epoch: u32,
    /// Whether every broker that was reached holds it, and there are two holders or more.
    pub ok: bool,
    /// Brokers that hold it now, and the user's copy.
    pub holders: usize,
    /// What each broker says.
    pub brokers: Vec<CheckedBroker>,
    /// The user's own copy: `held`, `none`, or `unusable` when it is damaged or of another key.
    pub copy: &'static str,
}

/// What a broker says of a custody key.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedBroker {
    /// Its short name, or did:key when no member has such a node.
    pub node: String,
    /// `holds`, `lost`, or `unreached`.
    pub state: &'static str,
    /// Why it was not reached.
    pub error: Option<String>,
}

/// Asks the brokers of custody keys whether they hold them now: each opens its key and attests it. `custodies` empty: all
/// of the user's organisation.
///
/// # Errors
///
/// When the custody keys cannot be looked up. A broker that does not answer is in the answer.
pub async fn check_custodies(session: &Session, custodies: &[CustodyId]) -> Result<CustodyChecked> {
    let keys = session.home.own_keys()?;
    let listed = match custodies {
        [] => of_own_organisation(session, &keys).await?,
        named => {
            let mut listed = Vec::new();
            for custody in named {
                listed.push(session.custody(*custody).await?);
            }
            listed
        }
    };
    let members = session
        .client
        .members()
        .await
        .context("list the members")?
        .members;
    let brokers: BTreeSet<Did> = listed.iter().flat_map(|one| one.brokers.clone()).collect();
    let mut said = BTreeMap::new();
    for node in brokers {
        said.insert(node, Said::by(session, &members, node, &listed).await);
    }
    let mut holder = None;
    let checked = listed
        .iter()
        .map(|one| checked(session, one, &said, &mut holder));
    let custodies: Vec<CheckedCustody> = checked.collect();
    Ok(CustodyChecked {
        ok: custodies.iter().all(|one| one.ok),
        custodies,
    })
}

/// What a broker says of all custody keys that list it.
struct Said {
    name: String,
    /// Those that it holds, or why it did not say.
    held: Result<BTreeSet<CustodyId>, String>,
}

impl Said {
    async fn by(
        session: &Session,
        members: &[ListedMember],
        node: Did,
        listed: &[ListedCustody],
    ) -> Self {
        let is_its = |member: &&ListedMember| member.node == node && member.removed_at.is_none();
        let member = members.iter().find(is_its);
        let name = member.map_or_else(|| node.to_string(), |member| member.name.clone());
        let held = Self::held(session, &name, node, listed).await;
        Self {
            held: held.map_err(|error| format!("{}: {error:#}", stable_code(&error))),
            name,
        }
    }

    async fn held(
        session: &Session,
        name: &str,
        node: Did,
        listed: &[ListedCustody],
    ) -> Result<BTreeSet<CustodyId>> {
        let client = session.client.only(name);
        let client = client.with_context(|| format!("node `{name}` is not in `client.toml`"))?;
        let its: Vec<_> = listed
            .iter()
            .filter(|one| one.brokers.contains(&node))
            .collect();
        let mut held = BTreeSet::new();
        for page in its.chunks(MAX_CHECKED_KEYS) {
            let ids: Vec<CustodyId> = page.iter().map(|one| one.custody).collect();
            let answers = client.check_custody_keys(&ids).await?;
            let attested = page.iter().zip(answers).filter(|(one, answer)| {
                answer
                    .as_ref()
                    .is_some_and(|answer| attests(answer, node, one))
            });
            held.extend(attested.map(|(one, _)| one.custody));
        }
        Ok(held)
    }
}

fn attests(attestation: &Attestation, node: Did, listed: &ListedCustody) -> bool {
    attestation.by == node && attestation.is_valid(listed.custody, listed.epoch, &listed.public_key)
}

fn checked(
    session: &Session,
    listed: &ListedCustody,
    said: &BTreeMap<Did, Said>,
    holder: &mut Option<EpochKeys>,
) -> CheckedCustody {
    let mut brokers = Vec::new();
    for said in listed.brokers.iter().filter_map(|node| said.get(node)) {
        let (state, error) = match &said.held {
            Ok(held) if held.contains(&listed.custody) => (HOLDS, None),
            Ok(_) => (LOST, None),
            Err(error) => ("unreached", Some(error.clone())),
        };
        brokers.push(CheckedBroker {
            node: said.name.clone(),
            state,
            error,
        });
    }
    let copy = own_copy(session, listed, holder);
    let count = |state: &str| {
        brokers
            .iter()
            .filter(|broker| broker.state == state)
            .count()
    };
    let holders = count(HOLDS) + usize::from(copy == "held");
    CheckedCustody {
        custody: listed.custody.to_string(),
        epoch: listed.epoch,
        ok: count(LOST) == 0 && holders >= 2,
        holders,
        brokers,
        copy,
    }
}

fn own_copy(
    session: &Session,
    listed: &ListedCustody,
    holder: &mut Option<EpochKeys>,
) -> &'static str {
    let mut open = || {
        let path = CustodyCopy::path(&session.home, &listed.custody, listed.epoch)?;
        if !path.exists() {
            return Ok(None);
        }
        let holder = EpochKeys::once(holder, &session.home)?;
        CustodyCopy::open(&path, holder).map(Some)
    };
    match open() {
        Ok(None) => "none",
        Ok(Some(copy))
            if copy.custody == listed.custody
                && copy.epoch == listed.epoch
                && *copy.key.recipient().as_bytes() == listed.public_key =>
        {
            "held"
        }
        _ => "unusable",
    }
}

impl fmt::Display for CustodyChecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unsafe_keys = self.custodies.iter().filter(|one| !one.ok).count();
        write!(
            f,
            "{} custody keys, {unsafe_keys} of them not safe",
            self.custodies.len()
        )?;
        for one in &self.custodies {
            let well = if one.ok { "well    " } else { "NOT SAFE" };
            let (custody, holders, copy) = (&one.custody, one.holders, one.copy);
            write!(f, "\n{custody}  {well}  {holders} holders, own copy {copy}")?;
            for broker in &one.brokers {
                write!(f, ", {} {}", broker.node, broker.state)?;
            }
        }
        Ok(())
    }
}

const HOLDS: &str = "holds";
const LOST: &str = "lost";
