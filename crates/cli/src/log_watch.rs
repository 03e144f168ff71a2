use crate::{
    CliError, LeafRow, Session,
    lines::Lines,
    log_access::{LogAccess, LogServer, LogSource, Met, resume, root_at},
    signals,
};
use anyhow::{Context, Result};
use futures::TryStreamExt;
use medanchor_anchor::{Checkpoint, LeafIndex, Recomputed, tree};
use medanchor_api::LogReadError;
use medanchor_dag::Hash;
use serde::Serialize;
use std::{fmt, time::Duration};
use tokio::time::sleep;

/// What was watched until the end.
#[derive(Clone, Debug, Serialize)]
pub struct Watched {
    /// Leaves that were printed, each verified.
    pub leaves: u64,
    /// Leaves of the log at the end.
    pub tree_size: u64,
}

/// A checkpoint that extends all before it.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointRow {
    /// The network's name.
    pub checkpoint: String,
    /// Its leaves.
    pub tree_size: u64,
    /// Their root.
    pub root: String,
    /// How many witnesses co-signed it.
    pub cosigners: usize,
}

/// Follows the log until interrupted: prints each leaf once it is verified, and each checkpoint.
///
/// The root of a checkpoint is recomputed from the leaves themselves, so that a leaf is shown only when it is
/// in the log that the checkpoint is of, and the checkpoint only when it extends the one before.
pub(crate) async fn watch(
    session: &Session,
    source: &LogSource,
    from: Option<LeafIndex>,
    lines: &mut Lines<'_>,
) -> Result<Watched> {
    let access = LogAccess::open(&session.home, source)?;
    let (server, met) = access.meet_any().await?;
    let newest = &met.checked.checkpoint;
    let from = from.unwrap_or(newest.size);
    if from > newest.size {
        let problem = format!("the log has {} leaves", newest.size);
        return Err(CliError::Usage(problem).into());
    }
    let mut watch = Watch {
        session,
        tree: resume(&server.reader, from, newest.size).await?,
        leaves: 0,
        lines,
    };
    let interrupted = signals::interrupted()?;
    tokio::select! {
        () = interrupted => (),
        ended = watch.follow(&access, server, met) => ended?,
    }
    Ok(Watched {
        leaves: watch.leaves,
        tree_size: watch.tree.size(),
    })
}

struct Watch<'a, 'l> {
    session: &'a Session,
    tree: Recomputed,
    leaves: u64,
    lines: &'a mut Lines<'l>,
}

impl Watch<'_, '_> {
    async fn follow(&mut self, access: &LogAccess, server: &LogServer, first: Met) -> Result<()> {
        self.reach(server, &first).await?;
        let mut shown = first.shown;
        loop {
            sleep(LOOK_EVERY).await;
            let (server, met) = match access.meet_any().await {
                Ok(met) => met,
                Err(error) if unavailable(&error) => continue,
                Err(error) => return Err(error),
            };
            // A server may be behind the one that was asked before.
            let (seen, size) = (shown.checkpoint.size, met.checked.checkpoint.size);
            if seen < size {
                self.reach(server, &met).await?;
                shown = met.shown;
            }
        }
    }

    /// Reads on to a checkpoint, in steps, so that little is kept before it is verified.
    async fn reach(&mut self, server: &LogServer, met: &Met) -> Result<()> {
        let checkpoint = &met.checked.checkpoint;
        while self.tree.size() < checkpoint.size {
            let until = checkpoint.size.min(self.tree.size() + STEP);
            let root = match until == checkpoint.size {
                true => checkpoint.root,
                false => root_at(&server.reader, until, checkpoint).await?,
            };
            self.step(checkpoint, until, root).await?;
        }
        if self.tree.root() != checkpoint.root {
            return Err(not_verified(checkpoint));
        }
        self.lines.print(&CheckpointRow {
            checkpoint: checkpoint.origin.clone(),
            tree_size: checkpoint.size,
            root: checkpoint.root.to_string(),
            cosigners: met.checked.cosigners.len(),
        })
    }

    /// Reads the leaves up to `until`, and prints them when they make `root`.
    async fn step(&mut self, checkpoint: &Checkpoint, until: u64, root: Hash) -> Result<()> {
        let from = self.tree.size();
        let mut tree = self.tree.clone();
        let mut rows = Vec::new();
        let leaves = self.session.client.leaves(from, Some(until - from));
        let mut leaves = std::pin::pin!(leaves);
        while let Some(entry) = leaves.try_next().await.context("read leaves")? {
            tree.push(tree::leaf_hash(&entry.leaf.to_bytes()));
            rows.push(LeafRow::new(
                entry.index,
                &entry.leaf,
                entry.opening.as_ref(),
            ));
        }
        if tree.size() != until {
            // A node that is behind: the next look goes on.
            sleep(LOOK_EVERY).await;
            return Ok(());
        }
        if tree.root() != root {
            return Err(not_verified(checkpoint));
        }
        for row in &rows {
            self.lines.print(row)?;
            self.leaves += 1;
        }
        self.tree = tree;
        Ok(())
    }
}

fn not_verified(checkpoint: &Checkpoint) -> anyhow::Error {
    let size = checkpoint.size;
    let problem = format!("the leaves do not make the root of the checkpoint of {size} leaves");
    CliError::NotVerified(problem).into()
}

fn unavailable(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| matches!(cause.downcast_ref(), Some(LogReadError::Unavailable { .. })))
}

impl fmt::Display for CheckpointRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6}  leaves under a checkpoint with {} co-signatures, root {}",
            self.tree_size, self.cosigners, self.root
        )
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (leaves, size) = (self.leaves, self.tree_size);
        write!(f, "verified {leaves} leaves, up to {size}")
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Leaves that are read before they are verified.
const STEP: u64 = 4096;
