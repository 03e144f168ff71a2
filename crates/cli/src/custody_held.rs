use crate::{
    CliError, Exit, Session,
    custody::FailedCustody,
    custody_node::CustodyNode,
    custody_share::{CustodyShare, MAX_BYTES},
    exit::graver,
    files,
    progress::Counter,
};
use anyhow::{Context, Result};
use medanchor_anchor::Attestation;
use medanchor_dag::{CustodyId, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A node's attestations of custody keys that it holds, for their owner (`docs/formats.md`, Custody files).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustodyHeld {
    v: u8,
    /// The network's name.
    origin: String,
    /// They.
    pub(crate) held: Vec<AttestedKey>,
}

/// An attestation of one custody key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttestedKey {
    /// The custody key's id.
    pub(crate) custody: CustodyId,
    /// Epoch of the key.
    pub(crate) epoch: u32,
    /// The node's word that it holds it durably.
    pub(crate) attestation: Attestation,
}

/// Another organisation's custody keys that the user's node holds now.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyTaken {
    /// Whether the node holds all of them.
    pub ok: bool,
    /// `ok`, or what the failures come to: see [`Exit`].
    pub code: &'static str,
    /// The node.
    pub node: String,
    /// They.
    pub keys: Vec<TakenKey>,
    /// Those that it did not take, and why.
    pub failed: Vec<FailedCustody>,
    /// The file with its attestations, for the owner.
    pub file: Option<PathBuf>,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub struct TakenKey {
    /// The custody key's id.
    pub custody: String,
    /// did:key of its owner.
    pub owner: String,
    /// Epoch of the key.
    pub epoch: u32,
    /// Whether the node held it before.
    pub was_held: bool,
}

/// Gives copies that another organisation made to the user's own node, each proved to be of the key that the log has, and
/// writes the node's attestations to `output`, which must not exist yet. With that the user's organisation agrees to hold
/// the keys.
///
/// # Errors
///
/// When nothing can be begun, or the copies are for another node. What fails of single keys is in the answer.
pub async fn hold_custodies(session: &Session, file: &Path, output: &Path) -> Result<CustodyTaken> {
    let share = CustodyShare::open(file, &session.origin)?;
    if output.exists() {
        let problem = format!("`{}` exists already", output.display());
        return Err(CliError::Usage(problem).into());
    }
    let node = CustodyNode::own(session).await?;
    if share.to != node.node {
        let problem = format!(
            "the copies are for node `{}`, and `{}` is `{}`",
            share.to, node.name, node.node
        );
        return Err(CliError::Usage(problem).into());
    }
    let mut taken = CustodyTaken {
        ok: true,
        code: Exit::Done.name(),
        node: node.name.clone(),
        keys: Vec::new(),
        failed: Vec::new(),
        file: None,
    };
    let mut held = CustodyHeld {
        v: 1,
        origin: session.origin.clone(),
        held: Vec::new(),
    };
    let total = u64::try_from(share.keys.len())?;
    let (mut counter, mut exit) = (Counter::new("custody keys", 0, total), Exit::Done);
    for (done, shared) in (1..).zip(&share.keys) {
        let hold = async {
            let in_force = session.custody_in_force(shared.custody).await?;
            if in_force.epoch != shared.epoch {
                let problem = format!(
                    "the copy is of epoch {}, and the log has epoch {} in force",
                    shared.epoch, in_force.epoch
                );
                return Err(CliError::Usage(problem).into());
            }
            let imported = node.import(&in_force, &shared.copy).await?;
            anyhow::Ok((in_force, imported))
        };
        match hold.await {
            Ok((in_force, imported)) => {
                taken.keys.push(TakenKey {
                    custody: shared.custody.to_string(),
                    owner: in_force.owner.to_string(),
                    epoch: shared.epoch,
                    was_held: imported.was_held,
                });
                held.held.push(AttestedKey {
                    custody: shared.custody,
                    epoch: shared.epoch,
                    attestation: imported.attestation,
                });
            }
            Err(error) => {
                exit = graver(exit, Exit::of(&error));
                let custody = shared.custody.to_string();
                taken.failed.push(FailedCustody::new(custody, &error));
            }
        }
        counter.set(done);
    }
    counter.finish();
    if !held.held.is_empty() {
        held.create(output)?;
        taken.file = Some(output.to_owned());
    }
    (taken.ok, taken.code) = (exit == Exit::Done, exit.name());
    Ok(taken)
}

impl CustodyHeld {
    fn create(&self, path: &Path) -> Result<()> {
        files::create(path, &to_canonical(self))
            .with_context(|| format!("create `{}`", path.display()))
    }

    /// Reads what [`hold_custodies`] wrote, in this network. The signatures are not checked.
    pub(crate) fn open(path: &Path, origin: &str) -> Result<Self> {
        let bytes = files::read(path, u64::try_from(MAX_BYTES)?)?;
        let held: Self = from_canonical(&bytes, MAX_BYTES)
            .with_context(|| format!("parse `{}`", path.display()))?;
        anyhow::ensure!(held.v == 1, "unsupported version {}", held.v);
        match held.origin == origin {
            true => Ok(held),
            false => {
                let problem = format!("the attestations are of network `{}`", held.origin);
                Err(CliError::NotVerified(problem).into())
            }
        }
    }
}

impl fmt::Display for CustodyTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, keys, failed) = (&self.node, self.keys.len(), self.failed.len());
        write!(
            f,
            "node `{node}` holds {keys} custody keys of these, {failed} failed"
        )?;
        for key in &self.keys {
            write!(
                f,
                "\n{}  epoch {}  of {}",
                key.custody, key.epoch, key.owner
            )?;
        }
        for failed in &self.failed {
            write!(f, "\n{failed}")?;
        }
        if let Some(file) = &self.file {
            write!(f, "\nfile for the owner  {}", file.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::testing::{attested, custody_id, node_key};

    fn held() -> CustodyHeld {
        let custody = custody_id("patient");
        CustodyHeld {
            v: 1,
            origin: "test.example/medanchor".to_owned(),
            held: vec![AttestedKey {
                custody,
                epoch: 0,
                attestation: attested(&node_key("hospital-b"), custody, 0, &[0x5a; 32]),
            }],
        }
    }

    #[test]
    fn attestations_are_what_the_documentation_shows() {
        let documentation = include_str!("../../../docs/formats.md");
        let hex = hex::encode(to_canonical(&held()));
        let lines: Vec<&str> = (0..hex.len().div_ceil(100))
            .map(|line| &hex[line * 100..hex.len().min(line * 100 + 100)])
            .collect();
        let example = format!("```hex custody attestations\n{}\n```", lines.join("\n"));
        assert!(
            documentation.contains(&example),
            "docs/formats.md should say\n{example}"
        );
    }

    #[test]
    fn attestations_are_read_back_in_their_network_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        held().create(&path).unwrap();
        assert_eq!(
            CustodyHeld::open(&path, "test.example/medanchor").unwrap(),
            held()
        );
        let elsewhere = CustodyHeld::open(&path, "test.example/other").unwrap_err();
        assert_eq!(Exit::of(&elsewhere), Exit::NotVerified);
    }
}
