use crate::{Session, clock};
use anyhow::{Context, Result};
use medanchor_api::{Alarm, ClientError, Collected, NodeStatus, Replicated, Scrubbed};
use serde::Serialize;
use std::fmt;

/// What the nodes say of themselves; the fields at the top are of the first node that answers.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// Whether no node has an alarm, and none that answers lacks a block or knows of a record with too few copies.
    pub ok: bool,
    /// The network's name.
    pub origin: String,
    /// That node.
    #[serde(flatten)]
    pub first: NodeRow,
    /// Every node of `client.toml`, in order.
    pub nodes: Vec<NodeState>,
    /// What is weak in the trust policy.
    pub policy_warnings: Vec<String>,
}

/// A node, whether or not it answers.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum NodeState {
    /// It answers.
    Up(Box<NodeRow>),
    /// It does not.
    Down {
        /// Its short name.
        node: String,
        /// Why.
        error: String,
    },
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    /// Its short name.
    pub node: String,
    /// Its did:key.
    pub did: String,
    /// Software version.
    pub version: String,
    /// `leader`, `follower`, `candidate` or `stopped`.
    pub role: String,
    /// The leader it knows.
    pub leader: Option<String>,
    /// Leaves in the log, as applied there.
    pub tree_size: u64,
    /// Leaves under the newest published checkpoint.
    pub published_size: u64,
    /// Co-signatures on it.
    pub cosignatures: u32,
    /// Blocks on its disk.
    pub blocks: u64,
    /// Bytes in them.
    pub blocks_size_bytes: u64,
    /// Blocks that were found bad or missing, ever, each time anew.
    pub blocks_found_bad: u64,
    /// How many of these were fetched again.
    pub blocks_repaired: u64,
    /// Blocks that are bad or missing now: no node that it reaches gives them.
    pub blocks_missing: u64,
    /// How it reads all its blocks again and again.
    pub scrub: ScrubRow,
    /// What it removed because nothing needed it.
    pub collection: CollectionRow,
    /// Whether all records are on as many nodes as they are to be, as it last saw.
    pub replication: ReplicationRow,
    /// Nodes that its private swarm reaches.
    pub swarm_peers: Vec<String>,
    /// Alarms there that nobody has acknowledged.
    pub alarms: Vec<AlarmRow>,
}

/// How far a node has come with reading all its blocks again.
#[derive(Clone, Debug, Serialize)]
pub struct ScrubRow {
    /// Times that all were read.
    pub passes: u64,
    /// When the last of them ended.
    pub last_pass_at: Option<String>,
    /// When the one that is under way began.
    pub began_at: Option<String>,
    /// Blocks read in the one that is under way, or else in the last.
    pub blocks: u64,
    /// Bytes in them.
    pub size_bytes: u64,
}

/// Blocks that a node has removed because no record and no promise needs them.
#[derive(Clone, Debug, Serialize)]
pub struct CollectionRow {
    /// Times that it looked at all its blocks since it started.
    pub cycles: u64,
    /// When the last of them ended.
    pub last_at: Option<String>,
    /// Blocks removed, ever.
    pub blocks: u64,
    /// Bytes in them.
    pub size_bytes: u64,
}

/// What a node found when it last looked at all records, and what it moved since it started.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicationRow {
    /// When it looked.
    pub looked_at: Option<String>,
    /// Records with fewer copies than they are to have on nodes that are there.
    pub below_target: u64,
    /// Of these the one that was anchored first.
    pub oldest_below_target: Option<String>,
    /// When it was anchored.
    pub oldest_at: Option<String>,
    /// Records that this node is to fetch.
    pub to_fetch: u64,
    /// Records that this node is to give back.
    pub to_give_back: u64,
    /// Records that it has fetched.
    pub fetched: u64,
    /// Bytes that came with them.
    pub fetched_bytes: u64,
    /// Records that it has given back.
    pub given_back: u64,
}

/// Evidence that somebody lies, which a node has and no operator has acknowledged.
#[derive(Clone, Debug, Serialize)]
pub struct AlarmRow {
    /// By which `medanchord acknowledge` names it.
    pub id: String,
    /// The log it is about.
    pub origin: String,
    /// When it was raised.
    pub raised_at: String,
    /// Who did what.
    pub details: String,
    /// What it means.
    pub means: String,
    /// What to do about it.
    pub todo: String,
}

/// Asks every node.
///
/// # Errors
///
/// When none answers.
pub async fn status(session: &Session) -> Result<StatusReport> {
    let names: Vec<String> = session.client.node_names().map(str::to_owned).collect();
    let asked = names.iter().filter_map(|name| session.client.only(name));
    let answers = futures::future::join_all(asked.map(async |node| node.status().await)).await;
    let mut origin = None;
    let mut first = None;
    let mut failure: Option<ClientError> = None;
    let mut nodes = Vec::new();
    for (node, answer) in names.into_iter().zip(answers) {
        match answer {
            Ok(status) => {
                origin.get_or_insert_with(|| status.origin.clone());
                let row = NodeRow::from(status);
                first.get_or_insert_with(|| row.clone());
                nodes.push(NodeState::Up(Box::new(row)));
            }
            Err(error) => {
                nodes.push(NodeState::Down {
                    node,
                    error: error.code().to_owned(),
                });
                failure = Some(error);
            }
        }
    }
    let warnings = session.policy().current().warnings();
    match (first, origin, failure) {
        (Some(first), Some(origin), _) => Ok(StatusReport {
            ok: nodes.iter().all(NodeState::is_well),
            origin,
            first,
            nodes,
            policy_warnings: warnings.iter().map(ToString::to_string).collect(),
        }),
        (_, _, Some(error)) => Err(error).context("ask the nodes"),
        _ => anyhow::bail!("no node is listed"),
    }
}

impl NodeState {
    /// One that does not answer is not known to be unwell.
    fn is_well(&self) -> bool {
        match self {
            Self::Up(row) => {
                row.alarms.is_empty()
                    && row.blocks_missing == 0
                    && row.replication.below_target == 0
            }
            Self::Down { .. } => true,
        }
    }

    fn alarms(&self) -> &[AlarmRow] {
        match self {
            Self::Up(row) => &row.alarms,
            Self::Down { .. } => &[],
        }
    }
}

impl From<NodeStatus> for NodeRow {
    fn from(status: NodeStatus) -> Self {
        let reached = status.peers.into_iter().filter(|peer| peer.swarm_connected);
        Self {
            node: status.node,
            did: status.did.to_string(),
            version: status.version,
            role: status.role,
            leader: status.leader,
            tree_size: status.tree_size,
            published_size: status.published_size,
            cosignatures: status.cosignatures,
            blocks: status.blocks,
            blocks_size_bytes: status.blocks_size_bytes,
            blocks_found_bad: status.blocks_found_bad,
            blocks_repaired: status.blocks_repaired,
            blocks_missing: status.blocks_missing,
            scrub: status.scrub.into(),
            collection: status.collection.into(),
            replication: status.replication.into(),
            swarm_peers: reached.map(|peer| peer.node).collect(),
            alarms: status.alarms.into_iter().map(AlarmRow::from).collect(),
        }
    }
}

impl From<Collected> for CollectionRow {
    fn from(collected: Collected) -> Self {
        Self {
            cycles: collected.cycles,
            last_at: time(collected.ended_at_unix_ms),
            blocks: collected.blocks,
            size_bytes: collected.size_bytes,
        }
    }
}

impl From<Scrubbed> for ScrubRow {
    fn from(scrub: Scrubbed) -> Self {
        Self {
            passes: scrub.passes,
            last_pass_at: time(scrub.ended_at_unix_ms),
            began_at: time(scrub.began_at_unix_ms),
            blocks: scrub.blocks,
            size_bytes: scrub.size_bytes,
        }
    }
}

impl From<Replicated> for ReplicationRow {
    fn from(found: Replicated) -> Self {
        let oldest = found.oldest_below_target;
        Self {
            looked_at: time(found.looked_at_unix_ms),
            below_target: found.below_target,
            oldest_below_target: oldest.map(|(record, _)| record.to_string()),
            oldest_at: oldest.map(|(_, at)| clock::rfc3339(at)),
            to_fetch: found.to_fetch,
            to_give_back: found.to_give_back,
            fetched: found.fetched,
            fetched_bytes: found.fetched_bytes,
            given_back: found.given_back,
        }
    }
}

impl From<Alarm> for AlarmRow {
    fn from(alarm: Alarm) -> Self {
        Self {
            id: alarm.id,
            origin: alarm.origin,
            raised_at: clock::rfc3339(alarm.raised_at_unix_ms),
            details: alarm.details,
            means: alarm.means,
            todo: alarm.todo,
        }
    }
}

impl fmt::Display for AlarmRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ALARM {} since {}", self.id, self.raised_at)?;
        writeln!(f, "  {}: {}", self.origin, self.details)?;
        writeln!(f, "  it means: {}", self.means)?;
        write!(f, "  what to do: {}", self.todo)
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(row) => write!(
                f,
                "{:<16} {:<9} {} leaves, {} published with {} co-signatures\n  {} blocks, {} bytes, {}\n  {}{}{}",
                row.node,
                row.role,
                row.tree_size,
                row.published_size,
                row.cosignatures,
                row.blocks,
                row.blocks_size_bytes,
                Health(row),
                row.scrub,
                row.collection,
                row.replication
            ),
            Self::Down { node, error } => write!(f, "{node:<16} {error}"),
        }
    }
}

/// What was bad among a node's blocks.
struct Health<'r>(&'r NodeRow);

impl fmt::Display for Health<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(row) = self;
        let (found, repaired) = (row.blocks_found_bad, row.blocks_repaired);
        write!(f, "{found} found bad, {repaired} repaired, ")?;
        match row.blocks_missing {
            0 => write!(f, "none missing"),
            missing => write!(f, "{missing} MISSING: no node that it reaches gives them"),
        }
    }
}

impl fmt::Display for ScrubRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.last_pass_at {
            Some(at) => write!(f, "all read {} times, last at {at}", self.passes)?,
            None => write!(f, "not all read yet")?,
        }
        match &self.began_at {
            Some(at) => write!(
                f,
                "; since {at} {} blocks, {} bytes of another pass",
                self.blocks, self.size_bytes
            ),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CollectionRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.blocks {
            0 => Ok(()),
            blocks => write!(
                f,
                "\n  {blocks} blocks, {} bytes, were freed that nothing needed",
                self.size_bytes
            ),
        }
    }
}

impl fmt::Display for ReplicationRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(oldest), Some(at)) = (&self.oldest_below_target, &self.oldest_at) {
            let below = self.below_target;
            write!(
                f,
                "\n  {below} records BELOW TARGET, the oldest of {at}: {oldest}"
            )?;
        }
        let (to_fetch, to_give_back) = (self.to_fetch, self.to_give_back);
        if to_fetch > 0 || to_give_back > 0 {
            write!(
                f,
                "\n  {to_fetch} records to fetch, {to_give_back} to give back"
            )?;
        }
        match (self.fetched, self.given_back) {
            (0, 0) => Ok(()),
            (fetched, given_back) => write!(
                f,
                "\n  {fetched} records, {} bytes, were fetched to keep them safe, {given_back} given back",
                self.fetched_bytes
            ),
        }
    }
}

fn time(unix_ms: u64) -> Option<String> {
    (unix_ms != 0).then(|| clock::rfc3339(unix_ms))
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        for node in &self.nodes {
            write!(f, "\n{node}")?;
            for alarm in node.alarms() {
                write!(f, "\n{alarm}")?;
            }
        }
        for warning in &self.policy_warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
