use crate::{Session, clock};
use anyhow::{Context, Result};
use medanchor_api::{ClientError, RecordCheck};
use medanchor_dag::Cid;
use serde::Serialize;
use std::fmt;

/// Where a record is, as each node says after it has read it on its own disk.
#[derive(Clone, Debug, Serialize)]
pub struct RecordStatus {
    /// Whether enough nodes that answer for it have it whole.
    pub ok: bool,
    /// The record.
    pub record: String,
    /// Nodes that are to hold it.
    pub target: u32,
    /// Nodes that answer for it and have it whole.
    pub whole: u32,
    /// Every node of `client.toml`, in order.
    pub nodes: Vec<RecordCopy>,
}

/// What a node has of the record.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum RecordCopy {
    /// It has looked.
    Checked {
        /// Its short name.
        node: String,
        /// Whether it answers for it: it said in the log that it holds it.
        holder: bool,
        /// Whether it has all of it.
        whole: bool,
        /// Blocks of it that are there and good.
        blocks: u64,
        /// Bytes in them.
        size_bytes: u64,
        /// Blocks of it that are bad or not there, as far as they are known.
        missing: u64,
        /// When it read them.
        verified_at: String,
        /// Leaves in the log, as applied there.
        tree_size: u64,
        /// Whether it is about to fetch it.
        to_fetch: bool,
    },
    /// It has not.
    Unknown {
        /// Its short name.
        node: String,
        /// Why.
        error: String,
    },
}

/// Has every node read the record.
///
/// # Errors
///
/// When none can say: none answers, or none knows the record.
pub async fn status_of_record(session: &Session, record: &Cid) -> Result<RecordStatus> {
    let names: Vec<String> = session.client.node_names().map(str::to_owned).collect();
    let asked = names.iter().filter_map(|name| session.client.only(name));
    let asked = asked.map(async |node| node.check_record(record).await);
    let answers = futures::future::join_all(asked).await;
    let mut target = None;
    let mut failure: Option<ClientError> = None;
    let mut nodes = Vec::new();
    for (node, answer) in names.into_iter().zip(answers) {
        match answer {
            Ok(check) => {
                target = target.max(Some(check.copies));
                nodes.push(RecordCopy::new(node, &check));
            }
            Err(error) => {
                nodes.push(RecordCopy::Unknown {
                    node,
                    error: error.code().to_owned(),
                });
                failure = Some(error);
            }
        }
    }
    match (target, failure) {
        (Some(target), _) => {
            let whole = nodes.iter().filter(|copy| copy.counts()).count();
            let whole = u32::try_from(whole).unwrap_or(u32::MAX);
            Ok(RecordStatus {
                ok: whole >= target,
                record: record.to_string(),
                target,
                whole,
                nodes,
            })
        }
        (None, Some(error)) => Err(error).context("ask the nodes"),
        (None, None) => anyhow::bail!("no node is listed"),
    }
}

impl RecordCopy {
    fn new(node: String, check: &RecordCheck) -> Self {
        Self::Checked {
            node,
            holder: check.holder,
            whole: check.missing == 0,
            blocks: check.blocks,
            size_bytes: check.size_bytes,
            missing: check.missing,
            verified_at: clock::rfc3339(check.checked_at_unix_ms),
            tree_size: check.tree_size,
            to_fetch: check.to_fetch,
        }
    }

    /// A copy that nobody answers for may go at any time.
    fn counts(&self) -> bool {
        matches!(
            self,
            Self::Checked {
                holder: true,
                whole: true,
                ..
            }
        )
    }
}

impl fmt::Display for RecordCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { node, error } => write!(f, "{node:<16} {error}"),
            Self::Checked {
                node,
                holder,
                whole,
                blocks,
                size_bytes,
                missing,
                verified_at,
                to_fetch,
                ..
            } => {
                let holder = match (holder, to_fetch) {
                    (true, _) => "holder",
                    (false, true) => "fetches",
                    (false, false) => "-",
                };
                let state = if *whole { "whole" } else { "NOT WHOLE" };
                write!(
                    f,
                    "{node:<16} {holder:<9} {state}, {blocks} blocks, {size_bytes} bytes, {missing} missing, read {verified_at}"
                )
            }
        }
    }
}

impl fmt::Display for RecordStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.ok { "" } else { ": BELOW TARGET" };
        let (record, whole, target) = (&self.record, self.whole, self.target);
        write!(f, "{record}\n{whole} of {target} copies{below}")?;
        for node in &self.nodes {
            write!(f, "\n{node}")?;
        }
        Ok(())
    }
}
