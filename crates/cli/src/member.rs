use crate::{CliError, Session};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, MemberRemoved};
use medanchor_api::ListedMember;
use serde::Serialize;
use std::fmt;

/// Who keeps the log.
#[derive(Clone, Debug, Serialize)]
pub struct MemberList {
    /// All that ever were members, by node id.
    pub members: Vec<MemberRow>,
    /// Co-signatures that a published checkpoint carries.
    pub quorum: u32,
    /// How many outside witnesses there are.
    pub witnesses: u32,
}

/// A member, or one that was removed.
#[derive(Clone, Debug, Serialize)]
pub struct MemberRow {
    /// Its node's id, which no other node ever gets.
    pub node_id: u64,
    /// Short name.
    pub name: String,
    /// did:key of the organisation.
    pub org: String,
    /// did:key of its node.
    pub node: String,
    /// The leaf that added it; 0 for founders.
    pub added_at: u64,
    /// The leaf that removed it.
    pub removed_at: Option<u64>,
}

/// Who keeps the log, as a node says.
///
/// # Errors
///
/// When no node answers.
pub async fn list_members(session: &Session) -> Result<MemberList> {
    let listed = session.client.members().await.context("list the members")?;
    Ok(MemberList {
        quorum: listed.quorum,
        witnesses: listed.witnesses,
        members: listed.members.into_iter().map(MemberRow::from).collect(),
    })
}

/// What a majority of the other members sign to remove a member.
///
/// # Errors
///
/// When there is no such member, or no node answers.
pub async fn member_removal(session: &Session, name: &str, quorum: u8) -> Result<Body> {
    let listed = session.client.members().await.context("list the members")?;
    let is_meant = |member: &&ListedMember| member.name == name && member.removed_at.is_none();
    let member = listed.members.iter().find(is_meant);
    let member = member.ok_or_else(|| CliError::Usage(format!("no member is named `{name}`")))?;
    Ok(Body::MemberRemoved(MemberRemoved {
        org: member.org,
        node_id: member.node_id,
        log_key: member.log_key.clone(),
        cosigner_key: member.cosigner_key.clone(),
        quorum,
    }))
}

impl From<ListedMember> for MemberRow {
    fn from(member: ListedMember) -> Self {
        Self {
            node_id: member.node_id,
            name: member.name,
            org: member.org.to_string(),
            node: member.node.to_string(),
            added_at: member.added_at,
            removed_at: member.removed_at,
        }
    }
}

impl fmt::Display for MemberList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.members.iter().filter(|row| row.removed_at.is_none());
        let (now, quorum, witnesses) = (now.count(), self.quorum, self.witnesses);
        write!(
            f,
            "{now} members, {witnesses} outside witnesses, quorum {quorum}"
        )?;
        for row in &self.members {
            let (id, name, org) = (row.node_id, &row.name, &row.org);
            write!(f, "\n{id:>3}  {name:<20}  {org}  ")?;
            match (row.added_at, row.removed_at) {
                (_, Some(leaf)) => write!(f, "removed by leaf {leaf}")?,
                (0, None) => write!(f, "founder")?,
                (leaf, None) => write!(f, "added by leaf {leaf}")?,
            }
        }
        Ok(())
    }
}
