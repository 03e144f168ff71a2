//! Whether this node has taken part in the log before, kept outside the replica's own folder.
//!
//! A replica that lost its disk has forgotten its vote and what it acknowledged: under the old id it could
//! help to undo what is committed. So a node that took part and has no replica any more must not start.

use crate::{
    config::Folder,
    files::{self, Mode},
};
use anyhow::{Context, Result};
use medanchor_raft::Replica;

/// Makes the replica's files the first time, and refuses when they were there and are gone.
pub(crate) fn join(folder: &Folder, node_id: u64) -> Result<()> {
    let (marker, raft) = (folder.joined(), folder.raft());
    let joined = marker
        .try_exists()
        .with_context(|| format!("look for `{}`", marker.display()))?;
    let has_replica = Replica::exists(&raft).context("look for the replica")?;
    if joined {
        anyhow::ensure!(
            has_replica,
            "this is node {node_id} of the network, but its replica in `{}` is gone. It must not start \
             again under this id: it could undo what it has acknowledged. Have the other members remove \
             it (`medanchor admin member draft-removal`), and let it join again as a new member, in a new \
             data folder (`medanchord prepare`, then `medanchord join`)",
            raft.display()
        );
        return Ok(());
    }
    // Both in this order: a crash between them leaves a replica that has not voted yet.
    Replica::create(&raft).context("make the replica's files")?;
    files::create(
        &marker,
        Mode::Public,
        format!("joined-1\n{node_id}\n").as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wiped_node_is_refused_and_told_to_join_again() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(data.path());
        join(&folder, 7).unwrap();
        join(&folder, 7).unwrap();
        for lost in ["raft/raft.redb", "raft/state.redb", "raft"] {
            let lost = data.path().join(lost);
            let aside = data.path().join("aside");
            std::fs::rename(&lost, &aside).unwrap();
            let error = join(&folder, 7).unwrap_err().to_string();
            assert!(error.contains("node 7"), "{error}");
            assert!(error.contains("join again as a new member"), "{error}");
            assert!(
                error.contains("medanchor admin member draft-removal"),
                "{error}"
            );
            assert!(error.contains("medanchord prepare"), "{error}");
            assert!(!lost.exists(), "nothing is made in its place");
            std::fs::rename(&aside, &lost).unwrap();
        }
        join(&folder, 7).unwrap();
    }

    #[test]
    fn crash_before_the_marker_is_no_wipe() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::new(data.path());
        Replica::create(&folder.raft()).unwrap();
        join(&folder, 7).unwrap();
        assert!(folder.joined().exists());
    }
}
