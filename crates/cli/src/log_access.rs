use crate::{
    CliError, Home, files,
    home::believed,
    known::{Known, Shown},
    progress,
};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use medanchor_anchor::{
    CheckedCheckpoint, Checkpoint, ConsistencyProof, Epochs, HashTiles, Recomputed, SignedNote,
    Strength, TablesError, Tile, Trust, View, tree,
};
use medanchor_api::{ClientConfig, LogReadError, LogReader};
use medanchor_dag::Hash;
use std::{collections::BTreeSet, path::PathBuf};
use zeroize::Zeroizing;

/// Where a log is read from, over HTTPS.
#[derive(Clone, Debug, Default)]
pub struct LogSource {
    /// A server, such as `https://127.0.0.1:7442`; absent, the nodes of `client.toml`.
    pub url: Option<String>,
    /// Certificates of the authority of that server, PEM; absent, those of the home.
    pub ca: Option<PathBuf>,
    /// The trust policy; absent, that of the home.
    pub policy: Option<PathBuf>,
    /// How the policy changed since; absent, as kept in the home.
    pub chain: Option<PathBuf>,
    /// Of the nodes, this one alone.
    pub node: Option<String>,
}

/// A log as its servers show it, with what is known of it already.
#[derive(Debug)]
pub(crate) struct LogAccess {
    home: Home,
    pub(crate) policy: Epochs,
    pub(crate) servers: Vec<LogServer>,
}

/// One who serves a log.
#[derive(Debug)]
pub(crate) struct LogServer {
    pub(crate) name: String,
    pub(crate) reader: LogReader,
}

/// A checkpoint that satisfies the policy and does not contradict what was shown before.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) checked: CheckedCheckpoint,
    pub(crate) shown: Shown,
    /// What was the newest before, where there was one.
    pub(crate) kept: Option<Checkpoint>,
}

/// Why two checkpoints are not shown to be of one log.
#[derive(Debug, thiserror::Error)]
enum GrowthError {
    #[error(transparent)]
    Read(#[from] anyhow::Error),
    #[error("the tiles do not make the root of the checkpoint of {0} leaves")]
    Tiles(u64),
    #[error("the log of {new} leaves does not extend that of {old}")]
    Fork { old: u64, new: u64 },
}

impl LogAccess {
    /// Finds the servers, and says what is weak in the policy. Nothing is connected yet.
    pub(crate) fn open(home: &Home, source: &LogSource) -> Result<Self> {
        let policy = believed(home, source.policy.as_deref(), source.chain.as_deref())?;
        for warning in policy.current().warnings() {
            progress::note(&format!("warning: trust policy: {warning}"));
        }
        let servers = match &source.url {
            Some(url) => vec![LogServer {
                name: url.clone(),
                reader: client_config(home, source)?
                    .log_reader(url, None)
                    .context("use the URL of the log")?,
            }],
            None => nodes(home, source.node.as_deref())?,
        };
        Ok(Self {
            home: home.clone(),
            policy,
            servers,
        })
    }

    /// The newest checkpoint that the first server who answers shows, with that server.
    pub(crate) async fn meet_any(&self) -> Result<(&LogServer, Met)> {
        let mut failure = None;
        for server in &self.servers {
            match server.reader.checkpoint().await {
                Ok(note) => return Ok((server, self.meet(server, &note).await?)),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error).context("read the newest checkpoint"),
            None => Err(no_servers()),
        }
    }

    /// Checks a checkpoint that a server shows: by the policy, and that it is of the log that was shown here
    /// before. The newest is kept.
    ///
    /// Fails with both checkpoints kept as evidence when it is of another log.
    pub(crate) async fn meet(&self, server: &LogServer, note: &SignedNote) -> Result<Met> {
        let (checked, shown) = self.check(server, note)?;
        let known = Known::open(&self.home, &checked.checkpoint.origin)?;
        let newest = known.newest()?;
        if let Some(newest) = &newest {
            self.compare(&known, server, newest, &shown).await?;
        }
        let size = |shown: &Shown| shown.checkpoint.size;
        if newest
            .as_ref()
            .is_none_or(|newest| size(newest) <= size(&shown))
        {
            known.advance(newest.as_ref(), &shown)?;
        }
        // A receipt's checkpoint is proved as soon as the log covers it.
        if let Some(unproven) = known.unproven()?
            && size(&unproven) <= size(&shown)
        {
            self.compare(&known, server, &unproven, &shown).await?;
            known.settle(&unproven)?;
        }
        Ok(Met {
            checked,
            kept: newest.map(|newest| newest.checkpoint),
            shown,
        })
    }

    /// Checks a checkpoint by the policy alone.
    pub(crate) fn check(
        &self,
        server: &LogServer,
        note: &SignedNote,
    ) -> Result<(CheckedCheckpoint, Shown)> {
        let checked = self.policy.check(note, Strength::Published);
        let checked = checked.with_context(|| format!("check what `{}` shows", server.name))?;
        Ok((checked, Shown::new(note)?))
    }

    /// Alarms unless one extends the other. A server who is behind cannot prove it; another one can.
    async fn compare(
        &self,
        known: &Known,
        server: &LogServer,
        kept: &Shown,
        shown: &Shown,
    ) -> Result<()> {
        known.compare(kept, shown)?;
        let (mut old, mut new) = (&kept.checkpoint, &shown.checkpoint);
        if old.size == new.size {
            return Ok(());
        }
        if old.size > new.size {
            std::mem::swap(&mut old, &mut new);
        }
        let others = self
            .servers
            .iter()
            .filter(|other| other.name != server.name);
        let mut outcome = Ok(());
        for server in std::iter::once(server).chain(others) {
            outcome = grown(&server.reader, old, new).await.map(drop);
            match &outcome {
                Ok(()) => return Ok(()),
                Err(error @ GrowthError::Fork { .. }) => {
                    return Err(known.alarm(kept, shown, &error.to_string()));
                }
                Err(GrowthError::Read(_) | GrowthError::Tiles(_)) => (),
            }
        }
        outcome.map_err(not_proved)
    }

    pub(crate) fn known(&self, origin: &str) -> Result<Known> {
        Known::open(&self.home, origin)
    }
}

/// What a server of this log proves of a part of it: the root of its first `size` leaves, and that `newest`
/// extends it.
pub(crate) async fn root_at(reader: &LogReader, size: u64, newest: &Checkpoint) -> Result<Hash> {
    if size > newest.size {
        let problem = format!("the log has {} leaves", newest.size);
        return Err(CliError::Usage(problem).into());
    }
    let tiles = tiles(reader, newest.size, |view| {
        tree::consistency(view, size, newest.size)?;
        tree::root(view, size)
    });
    let tiles = tiles.await?;
    let root = tree::root(&tiles, size).context("compute a root")?;
    let proof = tree::consistency(&tiles, size, newest.size).context("make a proof")?;
    proof
        .verify(size, &root, newest.size, &newest.root)
        .map_err(|_| not_proved(GrowthError::Tiles(newest.size)))?;
    Ok(root)
}

/// Proves from tiles that `new` extends `old`.
pub(crate) async fn prove_growth(
    reader: &LogReader,
    old: &Checkpoint,
    new: &Checkpoint,
) -> Result<ConsistencyProof> {
    grown(reader, old, new).await.map_err(not_proved)
}

/// The log's first `size` leaves, to go on from. That they are of the right log shows once a root is compared.
pub(crate) async fn resume(reader: &LogReader, size: u64, newest: u64) -> Result<Recomputed> {
    let edge = Recomputed::edge(size).into_iter();
    let edge = edge.filter_map(|tile| Tile::holding(tile.kind(), tile.first(), newest));
    let tiles = fetch(reader, edge.collect()).await?;
    Recomputed::resume(size, &tiles).context("read the edge of the log")
}

async fn grown(
    reader: &LogReader,
    old: &Checkpoint,
    new: &Checkpoint,
) -> Result<ConsistencyProof, GrowthError> {
    let proof = |view: &dyn View| tree::consistency(view, old.size, new.size);
    let tiles = tiles(reader, new.size, |view| {
        proof(view)?;
        tree::root(view, new.size)
    });
    let tiles = tiles.await?;
    let storage = |error: TablesError| GrowthError::Read(error.into());
    // Only tiles that make the new root show what the old one must be.
    if tree::root(&tiles, new.size).map_err(storage)? != new.root {
        return Err(GrowthError::Tiles(new.size));
    }
    let proof = proof(&tiles).map_err(storage)?;
    let verified = proof.verify(old.size, &old.root, new.size, &new.root);
    verified.map_err(|_| GrowthError::Fork {
        old: old.size,
        new: new.size,
    })?;
    Ok(proof)
}

/// The tiles of a log with `size` leaves that `proof` reads.
async fn tiles<T>(
    reader: &LogReader,
    size: u64,
    proof: impl FnOnce(&dyn View) -> Result<T, TablesError>,
) -> Result<HashTiles> {
    let needed = HashTiles::needed(size, proof).context("find the tiles of a proof")?;
    fetch(reader, needed).await
}

async fn fetch(reader: &LogReader, needed: BTreeSet<Tile>) -> Result<HashTiles> {
    let fetched = stream::iter(needed)
        .map(async |tile| Ok::<_, LogReadError>((tile, reader.tile(&tile).await?)))
        .buffer_unordered(AT_ONCE);
    let fetched: Vec<_> = fetched.try_collect().await.context("fetch tiles")?;
    let mut tiles = HashTiles::default();
    for (tile, bytes) in fetched {
        let taken = tiles.insert(&tile, &bytes);
        taken.with_context(|| format!("read `{}`", reader.url(&tile.to_string())))?;
    }
    Ok(tiles)
}

fn nodes(home: &Home, only: Option<&str>) -> Result<Vec<LogServer>> {
    let file = home.client_file()?;
    let config = home.client_config(&file)?;
    let logs = file
        .logs()
        .filter(|(name, _)| only.is_none_or(|only| only == *name));
    let servers = logs.map(|(name, address)| {
        let reader = config.log_reader(&format!("https://{address}"), Some(name));
        Ok(LogServer {
            name: name.to_owned(),
            reader: reader.with_context(|| format!("use the log of node `{name}`"))?,
        })
    });
    let servers: Vec<_> = servers.collect::<Result<_>>()?;
    match servers.is_empty() {
        true => Err(no_servers()),
        false => Ok(servers),
    }
}

/// With certificates of another authority, the user's own means nothing and is not shown.
fn client_config(home: &Home, source: &LogSource) -> Result<ClientConfig> {
    match &source.ca {
        None => home.client_config(&home.client_file()?),
        Some(path) => Ok(ClientConfig {
            nodes: Vec::new(),
            ca: files::read_text(path, MAX_PEM_BYTES)?,
            certificate: String::new(),
            key: Zeroizing::default(),
        }),
    }
}

fn not_proved(error: GrowthError) -> anyhow::Error {
    match error {
        GrowthError::Read(error) => error,
        error => CliError::NotVerified(error.to_string()).into(),
    }
}

fn no_servers() -> anyhow::Error {
    let problem = "no node in `client.toml` has a `log` address: name a log with --url";
    CliError::Usage(problem.to_owned()).into()
}

/// Tiles that are fetched at one time.
pub(crate) const AT_ONCE: usize = 8;
const MAX_PEM_BYTES: u64 = 1024 * 1024;
