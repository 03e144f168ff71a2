//! Asking others to co-sign (C2SP tlog-witness, `add-checkpoint`): members' nodes, and witnesses, of which some are
//! run by strangers. Whatever they answer is bounded, in size and in time.

use crate::remote::RemoteCosigner;
use anyhow::{Context, Result};
use hyper::StatusCode;
use medanchor_anchor::{AddCheckpoint, Checkpoint, Read, SignedNote, State};
use medanchor_raft::Replica;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Asks co-signers, with proofs from this node's own tree.
pub(crate) struct Asker {
    replica: Arc<Replica>,
    /// Leaves of what each co-signer has signed last, as far as this node knows, by its key.
    seen_by: Mutex<BTreeMap<String, u64>>,
}

impl Asker {
    pub(crate) fn new(replica: Arc<Replica>) -> Self {
        Self {
            replica,
            seen_by: Mutex::default(),
        }
    }

    /// Gives what `cosigner` answers: lines with signatures, which are not checked yet.
    pub(crate) async fn ask(
        &self,
        cosigner: &RemoteCosigner,
        checkpoint: &Checkpoint,
        note: &SignedNote,
    ) -> Result<String> {
        let (name, key) = (cosigner.key.name(), cosigner.key.to_string());
        // One that said it has signed more than there is may have been wrong, or is not any more.
        let mut seen = self.last_seen_by(&key).min(checkpoint.size);
        // A second time when it says that it has seen another size.
        for _ in 0..2 {
            let request = self.request(seen, checkpoint, note)?.to_string();
            let (path, server) = ("/add-checkpoint", &cosigner.server);
            let (status, answer) = cosigner.http.post(server, path, request).await?;
            let answer = std::str::from_utf8(&answer).context("read the answer")?;
            match status {
                StatusCode::OK => {
                    self.set_last_seen_by(key, checkpoint.size);
                    return Ok(answer.to_owned());
                }
                StatusCode::CONFLICT => {
                    seen = answer.trim_end().parse().context("read the size")?;
                    self.set_last_seen_by(key.clone(), seen);
                }
                status => {
                    let why: String = answer.chars().take(MAX_SHOWN).collect();
                    anyhow::bail!("`{name}` answered {status}: {why:?}")
                }
            }
        }
        anyhow::bail!("`{name}` changes its mind about what it has seen")
    }

    /// The request that `note` be co-signed by somebody who has signed a log of `old_size` leaves.
    pub(crate) fn request(
        &self,
        old_size: u64,
        new: &Checkpoint,
        note: &SignedNote,
    ) -> Result<AddCheckpoint> {
        anyhow::ensure!(
            old_size <= new.size,
            "it has seen a larger log of {old_size} leaves"
        );
        let view = self.replica.view()?;
        Ok(AddCheckpoint {
            old_size,
            proof: State::new(view.as_ref()).consistency_proof(old_size, new.size)?,
            note: note.clone(),
        })
    }

    fn last_seen_by(&self, key: &str) -> u64 {
        let seen_by = self.seen_by.lock().unwrap_or_else(PoisonError::into_inner);
        seen_by.get(key).copied().unwrap_or(0)
    }

    fn set_last_seen_by(&self, key: String, size: u64) {
        let mut seen_by = self.seen_by.lock().unwrap_or_else(PoisonError::into_inner);
        seen_by.insert(key, size);
    }
}

/// Characters of a refusal that are logged.
const MAX_SHOWN: usize = 200;
