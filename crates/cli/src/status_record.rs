use crate::{Session, clock};
use anyhow::{Context, Result};
use medanchor_api::{Client, ClientError, RecordCheck};
use medanchor_dag::{Cid, RawBlocks};
use serde::Serialize;
use std::{collections::BTreeSet, fmt};

/// Where a record is, as each node says after it has looked for all its blocks, or read them, on its own disk.
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
    /// Short names of the members that keep it by a legal hold.
    pub legal_holders: Vec<String>,
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
        /// Bytes in them, when they were read.
        size_bytes: Option<u64>,
        /// Blocks of it that are bad or not there, as far as they are known.
        missing: u64,
        /// When it was verified last: since then each of its blocks was read and found good, or came and was hashed.
        /// `None`: not since it came.
        verified_at: Option<String>,
        /// Why it was not read now, when that was asked for.
        not_read: Option<String>,
        /// Leaves in the log, as applied there.
        tree_size: u64,
        /// What it is about to do.
        doing: Option<Doing>,
    },
    /// It has not.
    Unknown {
        /// Its short name.
        node: String,
        /// Why.
        error: String,
        /// Whether it said in the log that it holds it, as the others say.
        holder: bool,
    },
}

/// What a node is about to do about a record.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// It fetches it, and holds it then.
    Fetches,
    /// It gives it back, because others are to hold it and do.
    GivesBack,
    /// It fetches what it lacks of it.
    Repairs,
}

/// Has every node look for the record, and, if `read`, read all of it.
///
/// # Errors
///
/// When none can say: none answers, or none knows the record.
pub async fn status_of_record(session: &Session, record: &Cid, read: bool) -> Result<RecordStatus> {
    let names: Vec<String> = session.client.node_names().map(str::to_owned).collect();
    let asked = names.iter().filter_map(|name| session.client.only(name));
    let asked = asked.map(async |node| check(&node, record, read).await);
    let answers = futures::future::join_all(asked).await;
    let known = answers.iter().filter_map(|answer| answer.as_ref().ok());
    let newest = known.max_by_key(|checked| checked.found.tree_size);
    let holders = newest.map_or_else(Vec::new, |newest| newest.found.holders.clone());
    let mut target = None;
    let mut legal_holders = BTreeSet::new();
    let mut failure: Option<ClientError> = None;
    let mut nodes = Vec::new();
    for (node, answer) in names.into_iter().zip(answers) {
        match answer {
            Ok(checked) => {
                target = target.max(Some(checked.found.copies));
                legal_holders.extend(checked.found.legal_holders.iter().cloned());
                nodes.push(RecordCopy::new(node, checked));
            }
            Err(error) => {
                nodes.push(RecordCopy::Unknown {
                    holder: holders.contains(&node),
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
                legal_holders: legal_holders.into_iter().collect(),
                nodes,
            })
        }
        (None, Some(error)) => Err(error).context("ask the nodes"),
        (None, None) => anyhow::bail!("no node is listed"),
    }
}

/// What one node found.
struct Checked {
    found: RecordCheck,
    was_read: bool,
    /// Why it was not, when it should have been.
    not_read: Option<ClientError>,
}

/// To read a large record takes long, or there is no room for it now: that makes no copy a lost one.
async fn check(node: &Client, record: &Cid, read: bool) -> Result<Checked, ClientError> {
    let found = node.check_record(record, RawBlocks::Look).await?;
    let looked = |not_read| Checked {
        found,
        was_read: false,
        not_read,
    };
    if !read {
        return Ok(looked(None));
    }
    match node.check_record(record, RawBlocks::Read).await {
        Ok(found) => Ok(Checked {
            found,
            was_read: true,
            not_read: None,
        }),
        Err(error) => Ok(looked(Some(error))),
    }
}

impl RecordCopy {
    fn new(node: String, checked: Checked) -> Self {
        let Checked {
            found,
            was_read,
            not_read,
        } = checked;
        let whole = found.missing == 0;
        let verified_at = match was_read {
            true => found.checked_at_unix_ms,
            false => found.verified_since_unix_ms,
        };
        Self::Checked {
            node,
            holder: found.holder,
            whole,
            blocks: found.blocks,
            size_bytes: was_read.then_some(found.size_bytes),
            missing: found.missing,
            verified_at: (whole && verified_at > 0).then(|| clock::rfc3339(verified_at)),
            not_read: not_read.map(|error| error.code().to_owned()),
            tree_size: found.tree_size,
            doing: match (found.holder, whole) {
                (false, _) if found.to_fetch => Some(Doing::Fetches),
                (true, _) if found.to_give_back => Some(Doing::GivesBack),
                (true, false) => Some(Doing::Repairs),
                _ => None,
            },
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
            Self::Unknown {
                node,
                error,
                holder: true,
            } => write!(
                f,
                "{node:<16} holder    {error}: its copy does not count while it is away"
            ),
            Self::Unknown { node, error, .. } => write!(f, "{node:<16} -         {error}"),
            Self::Checked {
                node,
                holder,
                whole,
                blocks,
                size_bytes,
                missing,
                verified_at,
                not_read,
                doing,
                ..
            } => {
                let holder = if *holder { "holder" } else { "-" };
                let state = if *whole { "whole" } else { "NOT WHOLE" };
                write!(f, "{node:<16} {holder:<9} {state}, {blocks} blocks")?;
                if let Some(bytes) = size_bytes {
                    write!(f, ", {bytes} bytes")?;
                }
                write!(f, ", {missing} missing")?;
                match verified_at {
                    Some(at) => write!(f, ", verified {at}")?,
                    None if *whole => write!(f, ", not read since it came")?,
                    None => (),
                }
                if let Some(why) = not_read {
                    write!(f, ", not read now: {why}")?;
                }
                match doing {
                    Some(doing) => write!(f, "; {doing}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetches => "it is being fetched",
            Self::GivesBack => "it is being given back",
            Self::Repairs => "it is being repaired",
        })
    }
}

impl fmt::Display for RecordStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.ok { "" } else { ": BELOW TARGET" };
        let (record, whole, target) = (&self.record, self.whole, self.target);
        write!(f, "{record}\n{whole} of {target} copies{below}")?;
        if !self.legal_holders.is_empty() {
            write!(f, "\nlegal hold by {}", self.legal_holders.join(", "))?;
        }
        for node in &self.nodes {
            write!(f, "\n{node}")?;
        }
        Ok(())
    }
}
