use crate::{
    CliError, DisclosureRow, Exit, Moment, OwnKeys, Session,
    disclosures::{account, fetch},
    log::proved,
};
use anyhow::{Context, Result};
use medanchor_anchor::{AccountHead, AccountOf, DisclosedIn, Disclosure, LeafIndex, Strength};
use medanchor_api::{AsOf, LeafName};
use medanchor_dag::Did;
use serde::Serialize;
use std::{fmt, str::FromStr};

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
    /// The nodes that say that these are all.
    pub said_by: Vec<String>,
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
    let newest = said.iter().max_by_key(|(_, said)| said.value.count);
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
    for (node, said) in &said {
        if !said.value.was(&disclosures) {
            return Err(contradicted(node));
        }
    }
    Ok(exposed(of, since, newest, tree.size, &disclosures, said))
}

/// What each node that can be reached says of the account.
async fn said(
    session: &Session,
    keys: &OwnKeys,
    of: AccountOf,
) -> Result<Vec<(String, AsOf<AccountHead>)>> {
    let nodes = session.client.node_names().filter_map(|name| {
        let client = session.client.only(name)?;
        Some((name.to_owned(), client))
    });
    let asked = nodes.map(async |(name, client)| {
        let answer = account(session, &client, keys, of).await;
        answer.map(|said| (name, said))
    });
    let (mut said, mut failure) = (Vec::new(), None);
    for answer in futures::future::join_all(asked).await {
        match answer {
            Ok(answer) => said.push(answer),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        _ if !said.is_empty() => Ok(said),
        Some(error) => Err(error).context("ask for what was disclosed"),
        None => anyhow::bail!("no node is listed"),
    }
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
    said: Vec<(String, AsOf<AccountHead>)>,
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
        said_by: said.into_iter().map(|(node, _)| node).collect(),
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
