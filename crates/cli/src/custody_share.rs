use crate::{
    CliError, Session, custody_copy::CustodyCopy, custody_node::CustodyNode, epoch_key::EpochKeys,
    files, progress::Counter,
};
use anyhow::{Context, Result};
use medanchor_dag::{CustodyId, Did, from_canonical, to_canonical};
use medanchor_envelope::SealedKey;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Copies of custody keys for another member's node, sealed to its key store (`docs/formats.md`, Custody files).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustodyShare {
    v: u8,
    /// The network's name.
    pub(crate) origin: String,
    /// The node that they are for.
    pub(crate) to: Did,
    /// They.
    pub(crate) keys: Vec<SharedKey>,
}

/// A copy of one custody key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedKey {
    /// The custody key's id.
    pub(crate) custody: CustodyId,
    /// Epoch of the key.
    pub(crate) epoch: u32,
    /// The private key, sealed to the node's store key.
    pub(crate) copy: SealedKey,
}

/// Which custody keys are shared with whom.
#[derive(Clone, Debug)]
pub struct ShareOptions {
    /// Short name of the member whose node is to hold them.
    pub to: String,
    /// They; none: all of which the home has a copy.
    pub custodies: Vec<CustodyId>,
    /// The file to write, which must not exist yet.
    pub output: PathBuf,
}

/// Copies for another member's node are made.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyShared {
    /// Short name of the member.
    pub to: String,
    /// did:key of its node, which alone can open them.
    pub node: String,
    /// The custody keys.
    pub custodies: Vec<String>,
    /// The file.
    pub file: PathBuf,
}

/// Seals the user's copies of custody keys to another member's node, into a file for its operator. The log is not told:
/// whoever holds a key is a broker only when it is listed.
///
/// # Errors
///
/// When a copy is missing or not of the key that the log has, the node does not answer, or the file exists.
pub async fn share_custodies(session: &Session, options: &ShareOptions) -> Result<CustodyShared> {
    let keys = session.home.own_keys()?;
    let epoch = EpochKeys::of(&session.home)?;
    let node = CustodyNode::of(session, &options.to).await?;
    let to = node.store_key(&session.origin).await?;
    let mut copies = Vec::new();
    if options.custodies.is_empty() {
        for path in CustodyCopy::all(&session.home)? {
            let copy = CustodyCopy::open(&path, &epoch)?;
            let listed = session.client.custody(&copy.custody).await;
            // What the log does not have was never in use, and what is erased is not given away.
            let listed = listed.context("look up the custody key")?.value;
            if listed.is_some_and(|listed| !listed.erased) {
                let in_force = session.custody_in_force(copy.custody).await?;
                copies.push((copy, in_force));
            }
        }
    } else {
        for custody in &options.custodies {
            let in_force = session.custody_in_force(*custody).await?;
            let path = CustodyCopy::path(&session.home, custody, in_force.epoch)?;
            copies.push((CustodyCopy::open(&path, &epoch)?, in_force));
        }
    }
    let mut share = CustodyShare::new(&session.origin, node.node);
    let mut counter = Counter::new("custody keys", 0, u64::try_from(copies.len())?);
    for (done, (copy, in_force)) in (1..).zip(&copies) {
        copy.check(in_force)?;
        if in_force.owner != keys.did() {
            let problem = format!("custody key `{}` is another organisation's", copy.custody);
            return Err(CliError::Usage(problem).into());
        }
        share.keys.push(SharedKey {
            custody: copy.custody,
            epoch: copy.epoch,
            copy: copy
                .key
                .seal_copy(&to, *copy.custody.as_bytes(), copy.epoch),
        });
        counter.set(done);
    }
    counter.finish();
    share.create(&options.output)?;
    Ok(CustodyShared {
        to: node.name,
        node: node.node.to_string(),
        custodies: share
            .keys
            .iter()
            .map(|key| key.custody.to_string())
            .collect(),
        file: options.output.clone(),
    })
}

impl CustodyShare {
    fn new(origin: &str, to: Did) -> Self {
        Self {
            v: 1,
            origin: origin.to_owned(),
            to,
            keys: Vec::new(),
        }
    }

    fn create(&self, path: &Path) -> Result<()> {
        if self.keys.is_empty() || self.keys.len() > MAX_KEYS {
            let problem = format!(
                "a file has 1 to {MAX_KEYS} custody keys, and these are {}",
                self.keys.len()
            );
            return Err(CliError::Usage(problem).into());
        }
        files::create(path, &to_canonical(self))
            .with_context(|| format!("create `{}`", path.display()))
    }

    /// Reads what [`share_custodies`] wrote, in this network.
    pub(crate) fn open(path: &Path, origin: &str) -> Result<Self> {
        let bytes = files::read(path, u64::try_from(MAX_BYTES)?)?;
        let share: Self = from_canonical(&bytes, MAX_BYTES)
            .with_context(|| format!("parse `{}`", path.display()))?;
        anyhow::ensure!(share.v == 1, "unsupported version {}", share.v);
        match share.origin == origin {
            true => Ok(share),
            false => {
                let problem = format!("the copies are of network `{}`", share.origin);
                Err(CliError::NotVerified(problem).into())
            }
        }
    }
}

impl fmt::Display for CustodyShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, to, node) = (self.custodies.len(), &self.to, &self.node);
        writeln!(
            f,
            "copies of {keys} custody keys, for the node of `{to}` alone"
        )?;
        writeln!(f, "node  {node}")?;
        write!(f, "file  {}", self.file.display())
    }
}

/// The most keys in a file.
pub(crate) const MAX_KEYS: usize = 100_000;
/// A key has less than 256.
pub(crate) const MAX_BYTES: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::testing::{custody_id, node_key};

    fn share() -> CustodyShare {
        let mut share = CustodyShare::new("test.example/medanchor", node_key("hospital-b").did());
        share.keys.push(SharedKey {
            custody: custody_id("patient"),
            epoch: 0,
            copy: SealedKey {
                enc: [1; 32],
                ct: [2; 48],
            },
        });
        share
    }

    #[test]
    fn share_is_what_the_documentation_shows() {
        let documentation = include_str!("../../../docs/formats.md");
        let bytes = to_canonical(&share());
        let hex = hex::encode(&bytes);
        let lines: Vec<&str> = (0..hex.len().div_ceil(100))
            .map(|line| &hex[line * 100..hex.len().min(line * 100 + 100)])
            .collect();
        let example = format!("```hex custody share\n{}\n```", lines.join("\n"));
        assert!(
            documentation.contains(&example),
            "docs/formats.md should say\n{example}"
        );
    }

    #[test]
    fn share_is_read_back_in_its_network_alone_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("share");
        share().create(&path).unwrap();
        assert_eq!(
            CustodyShare::open(&path, "test.example/medanchor").unwrap(),
            share()
        );
        let elsewhere = CustodyShare::open(&path, "test.example/other").unwrap_err();
        assert_eq!(crate::Exit::of(&elsewhere), crate::Exit::NotVerified);
        assert!(share().create(&path).is_err());
        let empty = CustodyShare::new("test.example/medanchor", node_key("hospital-b").did());
        let refused = empty.create(&folder.path().join("empty")).unwrap_err();
        assert_eq!(crate::Exit::of(&refused), crate::Exit::Usage);
    }
}
