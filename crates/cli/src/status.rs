use crate::{Session, clock};
use anyhow::{Context, Result};
use medanchor_api::{Alarm, ClientError, Collected, NodeStatus, Replicated, Scrubbed};
use serde::Serialize;
use std::{collections::BTreeSet, fmt};

/// What the nodes say of themselves; the fields at the top are of the first node that answers.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// Whether all is known to be well: every member's node answers, reaches all others, has looked at all records and
    /// knows of none with too few copies; none lacks a block, removes nothing because of a record that is not whole
    /// there, or has an alarm.
    pub ok: bool,
    /// The network's name.
    pub origin: String,
    /// All records together; `None` while no node that reaches a majority has looked at them.
    pub records: Option<RecordsRow>,
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
        /// Whether it is a member's, as the others say.
        member: bool,
    },
}

/// All records together, as the nodes last saw them. Where they differ it is the worst.
#[derive(Clone, Debug, Serialize)]
pub struct RecordsRow {
    /// When all of them had looked.
    pub looked_at: Option<String>,
    /// Records in the log.
    pub anchored: u64,
    /// Those with as many copies as they are to have.
    pub at_target: u64,
    /// Those with fewer.
    pub below_target: u64,
    /// Of these the one that is so for longest.
    pub oldest_below_target: Option<String>,
    /// Since when.
    pub oldest_below_since: Option<String>,
    /// Bytes of the payloads of records that nodes are to fetch, for each node.
    pub bytes_to_fetch: u64,
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
    /// Members' nodes that it does not reach.
    pub away: Vec<String>,
    /// Whether it reaches no majority of the members: what it says of records may be old.
    pub cut_off: bool,
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
    /// The record for which nothing is removed now, because it is not whole there.
    pub waits_for: Option<String>,
}

/// What a node found when it last looked at all records, and what it moved since it started.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicationRow {
    /// When it looked.
    pub looked_at: Option<String>,
    /// Records that it looked at.
    pub records: u64,
    /// Records with fewer copies than they are to have on nodes that it reached then.
    pub below_target: u64,
    /// Of these the one that is so for longest.
    pub oldest_below_target: Option<String>,
    /// Since when, as this node saw it.
    pub oldest_below_since: Option<String>,
    /// When it was anchored.
    pub oldest_at: Option<String>,
    /// Of those below target: they have enough copies when nodes come back that are away, and not yet given up.
    pub awaited: u64,
    /// Records that this node is to fetch.
    pub to_fetch: u64,
    /// Bytes of their payloads.
    pub bytes_to_fetch: u64,
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
    let members = members(&answers);
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
                    member: members.contains(&node),
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
            records: RecordsRow::of(&nodes),
            first,
            nodes,
            policy_warnings: warnings.iter().map(ToString::to_string).collect(),
        }),
        (_, _, Some(error)) => Err(error).context("ask the nodes"),
        _ => anyhow::bail!("no node is listed"),
    }
}

/// The members' nodes, as the node with the longest log knows them.
fn members(answers: &[Result<NodeStatus, ClientError>]) -> BTreeSet<String> {
    let answered = answers.iter().filter_map(|answer| answer.as_ref().ok());
    let newest = answered.max_by_key(|status| status.tree_size);
    let others = newest.into_iter().flat_map(|status| &status.peers);
    others.map(|peer| peer.node.clone()).collect()
}

impl RecordsRow {
    fn of(nodes: &[NodeState]) -> Option<Self> {
        let rows = nodes.iter().filter_map(NodeState::row);
        let looked = rows.filter(|row| !row.cut_off && row.replication.looked_at.is_some());
        let looked: Vec<&ReplicationRow> = looked.map(|row| &row.replication).collect();
        let anchored = looked.iter().map(|found| found.records).max()?;
        let below_target = looked.iter().map(|found| found.below_target).max()?;
        let below = looked.iter().filter(|found| found.below_target > 0);
        let oldest = below.min_by_key(|found| found.oldest_below_since.clone());
        Some(Self {
            looked_at: looked
                .iter()
                .filter_map(|found| found.looked_at.clone())
                .min(),
            anchored,
            at_target: anchored.saturating_sub(below_target),
            below_target,
            oldest_below_target: oldest.and_then(|found| found.oldest_below_target.clone()),
            oldest_below_since: oldest.and_then(|found| found.oldest_below_since.clone()),
            bytes_to_fetch: looked.iter().map(|found| found.bytes_to_fetch).sum(),
        })
    }
}

impl NodeState {
    /// Nothing is lost with a node that is no member's.
    fn is_well(&self) -> bool {
        match self {
            Self::Up(row) => {
                row.alarms.is_empty()
                    && row.blocks_missing == 0
                    && row.away.is_empty()
                    && row.replication.looked_at.is_some()
                    && row.replication.below_target == 0
                    && row.collection.waits_for.is_none()
            }
            Self::Down { member, .. } => !member,
        }
    }

    fn row(&self) -> Option<&NodeRow> {
        match self {
            Self::Up(row) => Some(row),
            Self::Down { .. } => None,
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
        let members = status.peers.len() + 1;
        let peers = status.peers.into_iter();
        let (reached, away): (Vec<_>, Vec<_>) = peers.partition(|peer| peer.swarm_connected);
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
            cut_off: 2 * away.len() >= members,
            swarm_peers: reached.into_iter().map(|peer| peer.node).collect(),
            away: away.into_iter().map(|peer| peer.node).collect(),
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
            waits_for: collected.waits_for.map(|record| record.to_string()),
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
            records: found.records,
            below_target: found.below_target,
            oldest_below_target: oldest.map(|oldest| oldest.record.to_string()),
            oldest_below_since: oldest.map(|oldest| clock::rfc3339(oldest.since_unix_ms)),
            oldest_at: oldest.map(|oldest| clock::rfc3339(oldest.anchored_at_unix_ms)),
            awaited: found.awaited,
            to_fetch: found.to_fetch,
            bytes_to_fetch: found.bytes_to_fetch,
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

impl fmt::Display for RecordsRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (anchored, at_target) = (self.anchored, self.at_target);
        write!(f, "{anchored} records, {at_target} at target")?;
        if let (Some(oldest), Some(since)) = (&self.oldest_below_target, &self.oldest_below_since) {
            let below = self.below_target;
            write!(
                f,
                ", {below} BELOW TARGET, the oldest since {since}: {oldest}"
            )?;
        }
        if self.bytes_to_fetch > 0 {
            write!(f, "; {} bytes to fetch", self.bytes_to_fetch)?;
        }
        match &self.looked_at {
            Some(at) => write!(f, "; as of {at}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(row) => write!(
                f,
                "{:<16} {:<9} {} leaves, {} published with {} co-signatures{}\n  {} blocks, {} bytes, {}\n  {}{}{}",
                row.node,
                row.role,
                row.tree_size,
                row.published_size,
                row.cosignatures,
                Reach(row),
                row.blocks,
                row.blocks_size_bytes,
                Health(row),
                row.scrub,
                row.collection,
                row.replication
            ),
            Self::Down {
                node,
                error,
                member: true,
            } => write!(
                f,
                "{node:<16} {error}: its copies do not count while it is away"
            ),
            Self::Down { node, error, .. } => {
                write!(f, "{node:<16} {error}, and not known to be a member's")
            }
        }
    }
}

/// Which other nodes a node does not reach.
struct Reach<'r>(&'r NodeRow);

impl fmt::Display for Reach<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(row) = self;
        let away = row.away.join(", ");
        match (row.cut_off, away.is_empty()) {
            (true, _) => write!(
                f,
                "\n  CUT OFF from the majority, what it says of records may be old: it does not reach {away}"
            ),
            (false, false) => write!(f, "\n  does not reach {away}"),
            (false, true) => Ok(()),
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
        if self.blocks > 0 {
            let (blocks, bytes) = (self.blocks, self.size_bytes);
            write!(
                f,
                "\n  {blocks} blocks, {bytes} bytes, were freed that nothing needed"
            )?;
        }
        match &self.waits_for {
            None => Ok(()),
            Some(record) => write!(
                f,
                "\n  NOTHING IS FREED: record {record} is not whole here. Start the nodes that hold it; if nobody has \
                 what is missing, list it in `lost_records` of medanchord.toml"
            ),
        }
    }
}

impl fmt::Display for ReplicationRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.looked_at.is_none() {
            write!(
                f,
                "\n  has not looked yet whether all records have their copies"
            )?;
        }
        if let (Some(oldest), Some(since)) = (&self.oldest_below_target, &self.oldest_below_since) {
            let (below, awaited) = (self.below_target, self.awaited);
            write!(
                f,
                "\n  {below} records BELOW TARGET, the oldest since {since}: {oldest}"
            )?;
            if awaited > 0 {
                write!(
                    f,
                    "\n  {awaited} of them are on nodes that are away and may come back"
                )?;
            }
        }
        let (to_fetch, to_give_back) = (self.to_fetch, self.to_give_back);
        if to_fetch > 0 || to_give_back > 0 {
            let bytes = self.bytes_to_fetch;
            write!(
                f,
                "\n  {to_fetch} records, {bytes} bytes to fetch, {to_give_back} to give back"
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
        match &self.records {
            Some(records) => write!(f, "\n{records}")?,
            None => write!(f, "\nnobody knows whether all records have their copies")?,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_api::{BelowTarget, PeerStatus};
    use medanchor_dag::{Block, Cid, Codec, SigningKey};

    fn record() -> Cid {
        *Block::new(Codec::Raw, b"record".to_vec()).unwrap().cid()
    }

    /// A node of three that reaches these others, and has looked.
    fn up(node: &str, reached: &[&str]) -> NodeStatus {
        let others = ["a", "b", "c"].into_iter().filter(|name| *name != node);
        NodeStatus {
            origin: "example.org/log".to_owned(),
            node: node.to_owned(),
            did: SigningKey::from_seed(&[1; 32]).did(),
            version: String::new(),
            role: "follower".to_owned(),
            leader: None,
            tree_size: 9,
            published_size: 9,
            cosignatures: 3,
            blocks: 1,
            blocks_size_bytes: 1,
            blocks_repaired: 0,
            blocks_found_bad: 0,
            blocks_missing: 0,
            scrub: Scrubbed::default(),
            collection: Collected::default(),
            replication: Replicated {
                looked_at_unix_ms: 1000,
                records: 5,
                ..Replicated::default()
            },
            peers: others
                .map(|name| PeerStatus {
                    node: name.to_owned(),
                    swarm_connected: reached.contains(&name),
                    address: String::new(),
                })
                .collect(),
            alarms: Vec::new(),
        }
    }

    fn well(status: NodeStatus) -> bool {
        NodeState::Up(Box::new(status.into())).is_well()
    }

    #[test]
    fn node_is_well_only_when_it_reaches_all_and_has_looked_and_found_all_at_target() {
        assert!(well(up("a", &["b", "c"])));
        assert!(!well(up("a", &["b"])));
        assert!(!NodeRow::from(up("a", &["b"])).cut_off);
        assert!(NodeRow::from(up("a", &[])).cut_off);
        let mut status = up("a", &["b", "c"]);
        status.replication.below_target = 1;
        assert!(!well(status));
        let mut status = up("a", &["b", "c"]);
        status.replication = Replicated::default();
        assert!(!well(status));
        let down = |member| NodeState::Down {
            node: "d".to_owned(),
            error: "unreachable".to_owned(),
            member,
        };
        assert!(!down(true).is_well());
        assert!(down(false).is_well(), "nothing is lost with it");
    }

    #[test]
    fn records_of_the_network_are_the_worst_that_a_node_of_the_majority_saw() {
        let below = |node, below_target, since_unix_ms| {
            let mut status = up(node, &["a", "b", "c"]);
            status.replication.below_target = below_target;
            status.replication.bytes_to_fetch = 100;
            status.replication.oldest_below_target = Some(BelowTarget {
                record: record(),
                anchored_at_unix_ms: 1,
                since_unix_ms,
            });
            NodeState::Up(Box::new(status.into()))
        };
        let cut_off = NodeState::Up(Box::new(up("c", &[]).into()));
        let nodes = [below("a", 2, 7000), below("b", 3, 6000), cut_off];
        let row = RecordsRow::of(&nodes).unwrap();
        assert_eq!((row.anchored, row.at_target, row.below_target), (5, 2, 3));
        assert_eq!(row.oldest_below_since, Some(clock::rfc3339(6000)));
        assert_eq!(row.bytes_to_fetch, 200);
        assert!(RecordsRow::of(&nodes[2..]).is_none());
    }

    #[test]
    fn collection_that_stands_still_says_why_and_what_to_do() {
        let collected = CollectionRow::from(Collected {
            blocks: 3,
            size_bytes: 4,
            ..Collected::default()
        });
        let freed = "\n  3 blocks, 4 bytes, were freed that nothing needed";
        assert_eq!(collected.to_string(), freed);
        let waiting = CollectionRow {
            waits_for: Some("bafy".to_owned()),
            ..collected
        };
        assert_eq!(
            waiting.to_string(),
            format!(
                "{freed}\n  NOTHING IS FREED: record bafy is not whole here. Start the nodes that hold it; if nobody has \
                 what is missing, list it in `lost_records` of medanchord.toml"
            )
        );
        assert_eq!(CollectionRow::from(Collected::default()).to_string(), "");
    }
}
