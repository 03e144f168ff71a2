//! What an account has: fetched from a node that is not believed, and shown.

use crate::{BasisRow, OwnKeys, Session, clock, session::patiently};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AccountHead, AccountOf, Body, Disclosure, LeafIndex, ReleasePart, Released, SignedStatement,
};
use medanchor_api::{AccountQuery, AsOf, Client, ClientError};
use serde::Serialize;
use std::fmt;

/// A release that took effect: who was given the keys of what, when and why.
#[derive(Clone, Debug, Serialize)]
pub struct DisclosureRow {
    /// Its leaf.
    pub leaf_index: LeafIndex,
    /// When: the leaf's log time.
    pub at: String,
    /// What the leaf's opening says; absent when that was deleted.
    #[serde(flatten)]
    pub content: Option<DisclosureContent>,
}

/// What the opening of a release says.
#[derive(Clone, Debug, Serialize)]
pub struct DisclosureContent {
    /// Who was given the keys: the requester's did.
    pub requester: String,
    /// Why: the purpose of use.
    pub purpose: String,
    /// In which role.
    pub role: String,
    /// What, as far as it is of the account, for each custody key.
    pub parts: Vec<PartRow>,
    /// The broker that decided.
    pub broker: String,
    /// The policies that permitted it.
    pub policies: Vec<String>,
    /// The leaves that the decision rests on, besides those of the parts.
    pub basis: BasisRow,
    /// The last moment at which the grant is good.
    pub until: String,
}

/// What was released under one custody key.
#[derive(Clone, Debug, Serialize)]
pub struct PartRow {
    /// The custody key.
    pub custody: String,
    /// The leaf that last changed it.
    pub since: LeafIndex,
    /// That gave or withdrew the newest consent under it.
    pub consent: Option<LeafIndex>,
    /// The records whose keys were released.
    pub records: Vec<String>,
    /// The leaf that last changed the standing of each one's device.
    pub devices: Vec<LeafIndex>,
}

impl PartRow {
    /// Those under which something was released.
    pub(crate) fn all(parts: &[ReleasePart]) -> impl Iterator<Item = Self> {
        let parts = parts.iter().filter(|part| !part.rows.is_empty());
        parts.map(|part| Self {
            custody: part.custody.to_string(),
            since: part.since,
            consent: part.consent,
            records: part.rows.iter().map(|row| row.record.to_string()).collect(),
            devices: part.rows.iter().map(|row| row.device).collect(),
        })
    }
}

impl DisclosureRow {
    pub(crate) fn of(disclosure: &Disclosure) -> Self {
        let opening = disclosure.opening.as_ref();
        let signed = opening.map(|opening| &opening.0.signed);
        Self {
            leaf_index: disclosure.index,
            at: clock::rfc3339(disclosure.leaf.at),
            content: signed
                .zip(disclosure.released())
                .and_then(|(signed, released)| {
                    // Without its list it is not known what was released.
                    disclosure.disclosed.as_ref()?;
                    DisclosureContent::of(signed, released, disclosure.parts())
                }),
        }
    }
}

impl DisclosureContent {
    fn of(signed: &SignedStatement, released: &Released, parts: &[ReleasePart]) -> Option<Self> {
        let Body::AccessRequest(request) = &released.request.statement.body else {
            return None;
        };
        Some(Self {
            requester: released.request.author()?.to_string(),
            purpose: request.purpose.clone(),
            role: request.role.clone(),
            parts: PartRow::all(parts).collect(),
            broker: signed.author()?.to_string(),
            policies: released.policies.clone(),
            basis: BasisRow::new(&released.basis),
            until: clock::rfc3339(released.valid_until),
        })
    }
}

/// One line for each record.
impl fmt::Display for DisclosureRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            leaf_index,
            at,
            content,
        } = self;
        let Some(content) = content else {
            return write!(f, "{leaf_index:>6}  {at}  CONTENT NOT GIVEN");
        };
        let requester = &content.requester;
        let why = format!("{} as {}", content.purpose, content.role);
        let rows = content.parts.iter().flat_map(|part| {
            let records = part.records.iter();
            records.map(|record| (record, &part.custody))
        });
        for (number, (record, custody)) in rows.enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "{leaf_index:>6}  {at}  {record}  to {requester}  for {why}  under {custody}"
            )?;
        }
        Ok(())
    }
}

/// The question for an account, in the user's name, as of now.
fn query(session: &Session, keys: &OwnKeys, of: AccountOf) -> AccountQuery {
    AccountQuery {
        v: 1,
        origin: session.origin.clone(),
        who: keys.key(),
        of,
        at: clock::unix_ms(),
    }
}

/// What a node says of an account.
pub(crate) async fn account(
    session: &Session,
    client: &Client,
    keys: &OwnKeys,
    of: AccountOf,
) -> Result<AsOf<AccountHead>, ClientError> {
    let ask = async || {
        let query = query(session, keys, of);
        client.account(&query, &keys.signing).await
    };
    patiently(ask).await
}

/// The first `count` disclosures of an account, or those that the node gives of them, with their proofs in the tree of
/// `tree_size` leaves. Nothing of it is verified.
pub(crate) async fn fetch(
    session: &Session,
    keys: &OwnKeys,
    of: AccountOf,
    count: u64,
    tree_size: u64,
) -> Result<Vec<Disclosure>> {
    if count > MAX_DISCLOSURES {
        anyhow::bail!(
            "an account of {count} disclosures, as a node says that it is, is too large to be checked here"
        );
    }
    let mut all: Vec<Disclosure> = Vec::new();
    loop {
        let given = u64::try_from(all.len())?;
        if given >= count {
            // Those behind them are of a later account.
            all.truncate(usize::try_from(count)?);
            return Ok(all);
        }
        let page = async || {
            // Signed anew for each page: a long list takes longer than one is good for.
            let query = query(session, keys, of);
            let page = session
                .client
                .disclosures(&query, &keys.signing, given, tree_size);
            page.await
        };
        let page = patiently(page).await.context("list the disclosures")?.value;
        // A node that leaves one out gives the last again when it is asked for more.
        let last = all.last().map(|disclosure| disclosure.index);
        let goes_on = |first: &Disclosure| last.is_none_or(|last| first.index > last);
        if !page.first().is_some_and(goes_on) {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Some gigabytes of memory.
const MAX_DISCLOSURES: u64 = 1_000_000;
