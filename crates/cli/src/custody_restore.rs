use crate::{
    CliError, Exit, OwnKeys, Recorded, Session,
    custody::FailedCustody,
    custody_brokers::list_brokers,
    custody_copy::CustodyCopy,
    custody_node::CustodyNode,
    epoch_key::{Change, EpochKeys, HomeLock},
    exit::graver,
    progress::Counter,
};
use anyhow::{Context, Result};
use medanchor_dag::CustodyId;
use medanchor_envelope::Recipient;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Which custody keys are given back to the organisation's node.
#[derive(Clone, Debug)]
pub enum RestoreOptions {
    /// One, from its copy in the home, or from another file.
    One {
        /// Its id.
        custody: CustodyId,
        /// The copy; absent, that in the home.
        copy: Option<PathBuf>,
    },
    /// All of which the home has a copy.
    All,
}

/// What was given back.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyRestored {
    /// Whether the node holds every key that was asked for, and is a broker of it.
    pub ok: bool,
    /// `ok`, or what the failures come to: see [`Exit`].
    pub code: &'static str,
    /// The node.
    pub node: String,
    /// Keys that it holds now and did not before.
    pub restored: u64,
    /// Keys that it held.
    pub held: u64,
    /// They.
    pub keys: Vec<RestoredKey>,
    /// Copies of custody keys that the log does not have: they never were in use.
    pub unused: Vec<String>,
    /// Copies that could not be given back, and why.
    pub failed: Vec<FailedCustody>,
}

/// A key that the node holds now.
#[derive(Clone, Debug, Serialize)]
pub struct RestoredKey {
    /// The custody key's id.
    pub custody: String,
    /// Epoch of the key.
    pub epoch: u32,
    /// `restored`, or `held` when the node had it.
    pub state: &'static str,
    /// Where the log lists the node as a broker of it, when it was none before.
    pub listed: Option<Recorded>,
}

/// Gives copies of custody keys back to the organisation's own node, each proved to be of the key that the log has. A
/// node that the log does not list as a broker of a key, because it is a new one, is listed.
///
/// # Errors
///
/// When nothing can be begun, or the one copy that was asked for cannot be given back. With
/// [`RestoreOptions::All`] the failures are in the answer.
pub async fn restore_custodies(
    session: &Session,
    options: &RestoreOptions,
) -> Result<CustodyRestored> {
    let keys = session.home.own_keys()?;
    let node = CustodyNode::own(session).await?;
    let lock = HomeLock::take(&session.home).await?;
    let restore = Restore {
        session,
        keys: &keys,
        epoch: Change::of(session, &keys, &lock).settled().await?,
        to: node.store_key(&session.origin).await?,
        node: &node,
    };
    let mut restored = CustodyRestored {
        ok: true,
        code: Exit::Done.name(),
        node: node.name.clone(),
        restored: 0,
        held: 0,
        keys: Vec::new(),
        unused: Vec::new(),
        failed: Vec::new(),
    };
    match options {
        RestoreOptions::One { custody, copy } => {
            let copy = match copy {
                Some(path) => CustodyCopy::open(path, &restore.epoch)?,
                None => restore.of(custody).await?,
            };
            if copy.custody != *custody {
                let problem = format!("the copy is of custody key `{}`", copy.custody);
                return Err(CliError::Usage(problem).into());
            }
            restored.note(restore.one(&copy).await?);
        }
        RestoreOptions::All => {
            let paths = CustodyCopy::all(&session.home)?;
            let total = u64::try_from(paths.len())?;
            let (mut counter, mut exit) = (Counter::new("custody keys", 0, total), Exit::Done);
            for (done, path) in (1..).zip(&paths) {
                match restore.kept(path).await {
                    Ok(Some(key)) => restored.note(key),
                    Ok(None) => restored.unused.push(path.display().to_string()),
                    Err(error) => {
                        exit = graver(exit, Exit::of(&error));
                        let copy = path.display().to_string();
                        restored.failed.push(FailedCustody::new(copy, &error));
                    }
                }
                counter.set(done);
            }
            counter.finish();
            (restored.ok, restored.code) = (exit == Exit::Done, exit.name());
        }
    }
    Ok(restored)
}

/// What the restoring of one key needs.
struct Restore<'a> {
    session: &'a Session,
    keys: &'a OwnKeys,
    /// What the copies are sealed to.
    epoch: EpochKeys,
    node: &'a CustodyNode,
    /// What the node's copies are sealed to.
    to: Recipient,
}

impl Restore<'_> {
    /// `None`: the log does not have the key, or it is erased.
    async fn kept(&self, path: &Path) -> Result<Option<RestoredKey>> {
        let copy = CustodyCopy::open(path, &self.epoch)?;
        let listed = self.session.client.custody(&copy.custody).await;
        match listed.context("look up the custody key")?.value {
            Some(listed) if !listed.erased => self.one(&copy).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The copy in the home, of the epoch that the log has in force.
    async fn of(&self, custody: &CustodyId) -> Result<CustodyCopy> {
        let in_force = self.session.custody_in_force(*custody).await?;
        let path = CustodyCopy::path(&self.session.home, custody, in_force.epoch)?;
        CustodyCopy::open(&path, &self.epoch)
    }

    async fn one(&self, copy: &CustodyCopy) -> Result<RestoredKey> {
        let in_force = self.session.custody_in_force(copy.custody).await?;
        copy.check(&in_force)?;
        let sealed = copy
            .key
            .seal_copy(&self.to, *copy.custody.as_bytes(), copy.epoch);
        let imported = self.node.import(&in_force, &sealed).await?;
        let listed = match in_force.brokers.contains(&self.node.node) {
            true => None,
            false => {
                let own = self
                    .epoch
                    .attest(self.keys, copy.custody, copy.epoch, &in_force.key);
                let held = [imported.attestation, own];
                list_brokers(self.session, self.keys, &in_force, &held, &[]).await?
            }
        };
        Ok(RestoredKey {
            custody: copy.custody.to_string(),
            epoch: copy.epoch,
            state: if imported.was_held {
                "held"
            } else {
                "restored"
            },
            listed,
        })
    }
}

impl CustodyRestored {
    fn note(&mut self, key: RestoredKey) {
        match key.state {
            "held" => self.held += 1,
            _ => self.restored += 1,
        }
        self.keys.push(key);
    }
}

impl fmt::Display for CustodyRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, restored, held) = (&self.node, self.restored, self.held);
        let (unused, failed) = (self.unused.len(), self.failed.len());
        write!(
            f,
            "node `{node}`: {restored} keys restored, {held} held before, {unused} copies never in use, {failed} failed"
        )?;
        for key in &self.keys {
            write!(f, "\n{}  epoch {}  {}", key.custody, key.epoch, key.state)?;
            if let Some(listed) = &key.listed {
                write!(f, ", listed as broker by leaf {}", listed.leaf_index)?;
            }
        }
        for failed in &self.failed {
            write!(f, "\n{failed}")?;
        }
        Ok(())
    }
}
