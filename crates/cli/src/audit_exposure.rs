use crate::{
    CliError, DisclosureRow, Exit, Moment, OwnKeys, Session,
    disclosures::{account, fetch},
    log::proved,
    session::patiently,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AccountHead, AccountOf, DisclosedIn, Disclosure, LeafIndex, PrincipalKind, Strength,
};
use medanchor_api::{AsOf, LeafName};
use medanchor_dag::Did;
use serde::Serialize;
use std::{collections::BTreeSet, fmt, str::FromStr};

/// What somebody was given the keys of.
#[derive(Clone, Debug, Serialize)]
pub struct Exposure {
    /// Whether all of it verified and the content of every release was given.
    pub ok: bool,
    /// `not-verified` when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Who: a principal, or an organisation with all that belong to it.
    pub of: String,
    /// The releases to them, in the order of the log, from `since` on.
    pub disclosures: Vec<DisclosureRow>,
    /// How many there ever were.
    pub count: u64,
    /// The head of the hash chain over all of them.
    pub head: String,
    /// Size of the tree in which they were shown to be.
    pub tree_size: u64,
    /// The nodes that say that these are all, up to the size of the log that each had.
    pub said_by: Vec<String>,
    /// The nodes that did not say.
    pub silent: Vec<SilentNode>,
}

/// A node that did not say how many releases there are.
#[derive(Clone, Debug, Serialize)]
pub struct SilentNode {
    /// Its name.
    pub node: String,
    /// Why.
    pub reason: String,
}

/// What the nodes say of an account.
struct Said {
    by: Vec<(String, AsOf<AccountHead>)>,
    silent: Vec<SilentNode>,
}

/// From when on: a leaf's index, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This leaf and those after it.
    Leaf(LeafIndex),
    /// What has this log time or a later one.
    Moment(Moment),
}

/// Why text is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a leaf's index nor a time such as `2026-03-01` or `2026-03-01T10:15:00Z`")]
pub struct SinceError;

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        if let Ok(index) = text.parse() {
            return Ok(Self::Leaf(index));
        }
        text.parse().map(Self::Moment).map_err(|_| SinceError)
    }
}

impl Since {
    fn has(self, disclosure: &Disclosure) -> bool {
        match self {
            Self::Leaf(index) => disclosure.index >= index,
            Self::Moment(moment) => disclosure.leaf.at >= moment.unix_ms(),
        }
    }
}

/// Lists exactly the records whose keys `of` was ever given.
///
/// Every release is checked against the log, so that no node is believed for what it lists. Every node that can be reached
/// is asked how many there are, and what their hash chain comes to: what one leaves out, another tells.
///
/// # Errors
///
/// When no node answers, it is not for the user, or something does not verify.
pub async fn exposure(session: &Session, of: Did, since: Option<Since>) -> Result<Exposure> {
    let (keys, account) = (session.home.own_keys()?, AccountOf::Principal(of));
    let said = said(session, &keys, account).await?;
    let newest = said.by.iter().max_by_key(|(_, said)| said.value.count);
    let (newest, tree_size) = newest
        .map(|(_, said)| (said.value, said.tree_size))
        .context("no node is listed")?;
    let last = LeafName::Index(tree_size.saturating_sub(1));
    let (receipt, _) = proved(session, last, Strength::Published).await?;
    let tree = receipt
        .verify(&*session.policy(), Strength::Published)
        .context("verify the receipt")?
        .checkpoint
        .checkpoint;
    let disclosures = fetch(session, &keys, account, newest.count, tree.size).await?;
    let shown = DisclosedIn {
        origin: &tree.origin,
        size: tree.size,
        root: &tree.root,
    };
    newest
        .verify(&account, &disclosures, &shown)
        .context("check what was disclosed")?;
    let requesters = disclosures
        .iter()
        .filter_map(|one| Some(*one.released()?.request.author()?));
    let others: BTreeSet<Did> = requesters.filter(|requester| *requester != of).collect();
    require_related(session, of, &others).await?;
    for (node, said) in &said.by {
        // A node reads the newest state: what it had of the log, it had all of.
        let had = disclosures.iter().filter(|one| one.index < said.tree_size);
        let is_all = said.value.count == u64::try_from(had.count())?;
        if !is_all || !said.value.was(&disclosures) {
            return Err(contradicted(node));
        }
    }
    Ok(exposed(of, since, newest, tree.size, &disclosures, said))
}

/// What each node that can be reached says of the account.
async fn said(session: &Session, keys: &OwnKeys, of: AccountOf) -> Result<Said> {
    let nodes = session.client.node_names().filter_map(|name| {
        let client = session.client.only(name)?;
        Some((name.to_owned(), client))
    });
    let asked = nodes.map(async |(name, client)| {
        let answer = account(session, &client, keys, of).await;
        (name, answer)
    });
    let (mut by, mut silent, mut failure) = (Vec::new(), Vec::new(), None);
    for (node, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(said) => by.push((node, said)),
            Err(error) => {
                let reason = error.to_string();
                silent.push(SilentNode { node, reason });
                failure = Some(error);
            }
        }
    }
    match failure {
        _ if !by.is_empty() => Ok(Said { by, silent }),
        Some(error) => Err(error).context("ask for what was disclosed"),
        None => anyhow::bail!("no node is listed"),
    }
}

/// What was released to other keys is theirs, unless they belong to whom is asked about.
async fn require_related(session: &Session, of: Did, others: &BTreeSet<Did>) -> Result<()> {
    if others.is_empty() {
        return Ok(());
    }
    let listed = patiently(async || session.client.principal(&of).await).await;
    let kind = listed.context("look up who is exposed")?.value;
    if kind.is_some_and(|listed| listed.kind == PrincipalKind::Organisation) {
        return Ok(());
    }
    for other in others {
        if session.identity(other).await? != of {
            let problem = format!(
                "the node lists releases to others, and `{of}` is no organisation: it made some up"
            );
            return Err(CliError::NotVerified(problem).into());
        }
    }
    Ok(())
}

fn contradicted(node: &str) -> anyhow::Error {
    let problem = format!(
        "node `{node}` says that other disclosures were made than those that are listed: one of the nodes withholds some, or \
         made some up"
    );
    CliError::NotVerified(problem).into()
}

fn exposed(
    of: Did,
    since: Option<Since>,
    account: AccountHead,
    tree_size: u64,
    disclosures: &[Disclosure],
    said: Said,
) -> Exposure {
    let wanted = |disclosure: &&Disclosure| since.is_none_or(|since| since.has(disclosure));
    let rows: Vec<DisclosureRow> = disclosures
        .iter()
        .filter(wanted)
        .map(DisclosureRow::of)
        .collect();
    let ok = rows.iter().all(|row| row.content.is_some());
    Exposure {
        ok,
        code: (!ok).then(|| Exit::NotVerified.name().to_owned()),
        of: of.to_string(),
        disclosures: rows,
        count: account.count,
        head: account.head.to_string(),
        tree_size,
        said_by: said.by.into_iter().map(|(node, _)| node).collect(),
        silent: said.silent,
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.disclosures {
            writeln!(f, "{row}")?;
        }
        let (shown, count, of) = (self.disclosures.len(), self.count, &self.of);
        writeln!(f, "{shown} of {count} releases to {of}")?;
        write!(
            f,
            "verified   each in the log of {} leaves; that there are no others is what {} say",
            self.tree_size,
            self.said_by.join(", ")
        )?;
        for SilentNode { node, reason } in &self.silent {
            write!(f, "\nsilent     {node}: {reason}")?;
        }
        if !self.ok {
            write!(
                f,
                "\nNOT ALL     the content of a release was not given: ask another node with --node"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_leaf_or_a_time() {
        assert_eq!("4711".parse(), Ok(Since::Leaf(4711)));
        let moment = Since::Moment("2026-03-01".parse().unwrap());
        assert_eq!("2026-03-01".parse(), Ok(moment));
        assert_eq!("2026-03-01T00:00:00Z".parse(), Ok(moment));
        for text in ["", "-1", "yesterday", "2026-13-01"] {
            assert_eq!(text.parse::<Since>(), Err(SinceError), "{text}");
        }
    }
}
