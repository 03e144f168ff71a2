use crate::{
    CliError, Home, files,
    log_access::{LogAccess, LogServer, LogSource, Met, prove_growth, root_at},
};
use anyhow::{Context, Result};
use medanchor_anchor::{Checkpoint, Receipt, SignedNote, Strength, Trust};
use serde::Serialize;
use std::{fmt, path::Path};

/// Two trees of a log, the newer of which extends the older.
#[derive(Clone, Debug, Serialize)]
pub struct Consistent {
    /// The network's name.
    pub origin: String,
    /// Leaves of the older.
    pub old_size: u64,
    /// Its root.
    pub old_root: String,
    /// Leaves of the newer.
    pub new_size: u64,
    /// Its root.
    pub new_root: String,
    /// The proof (RFC 6962 section 2.1.2), in that order.
    pub proof: Vec<String>,
    /// Leaves under the checkpoint that a server showed now, which extends both.
    pub tree_size: u64,
}

/// Proves from tiles that the log only grew from `old` to `new`. Each is a size, a file with a checkpoint or a
/// receipt, `kept` or `newest`; a root that is not given is taken from the newest checkpoint, under which it
/// is proved too.
///
/// # Errors
///
/// When no server answers, or something does not verify.
pub async fn consistency(
    home: &Home,
    source: &LogSource,
    old: &str,
    new: &str,
) -> Result<Consistent> {
    let access = LogAccess::open(home, source)?;
    let (server, met) = access.meet_any().await?;
    let newest = &met.checked.checkpoint;
    let old = named(&access, server, &met, old).await?;
    let new = named(&access, server, &met, new).await?;
    if old.size > new.size {
        let problem = format!("the older has {} leaves, the newer {}", old.size, new.size);
        return Err(CliError::Usage(problem).into());
    }
    // So that the tiles, which the server covers up to the newest, are of one log with both.
    prove_growth(&server.reader, &new, newest).await?;
    let proof = prove_growth(&server.reader, &old, &new).await?;
    Ok(Consistent {
        origin: newest.origin.clone(),
        old_size: old.size,
        old_root: old.root.to_string(),
        new_size: new.size,
        new_root: new.root.to_string(),
        proof: proof.0.iter().map(ToString::to_string).collect(),
        tree_size: newest.size,
    })
}

async fn named(
    access: &LogAccess,
    server: &LogServer,
    met: &Met,
    name: &str,
) -> Result<Checkpoint> {
    let newest = &met.checked.checkpoint;
    if let Ok(size) = name.parse() {
        let root = root_at(&server.reader, size, newest).await?;
        return Ok(Checkpoint {
            origin: newest.origin.clone(),
            size,
            root,
        });
    }
    match name {
        "newest" => Ok(newest.clone()),
        "kept" => met.kept.clone().context("no checkpoint was kept before"),
        path => from_file(access, Path::new(path), &newest.origin),
    }
}

/// A checkpoint that somebody else kept: it must satisfy the policy like any other.
fn from_file(access: &LogAccess, path: &Path, origin: &str) -> Result<Checkpoint> {
    let text = files::read_text(path, u64::try_from(Receipt::MAX_BYTES)?)?;
    let note = match text.parse::<Receipt>() {
        Ok(receipt) => receipt.checkpoint,
        Err(_) => SignedNote::parse(&text)
            .with_context(|| format!("parse `{}` as a checkpoint or receipt", path.display()))?,
    };
    let checked = access.policy.check(&note, Strength::Published);
    let checkpoint = checked
        .with_context(|| format!("check `{}`", path.display()))?
        .checkpoint;
    if checkpoint.origin != origin {
        let problem = format!("`{}` is of log `{}`", path.display(), checkpoint.origin);
        return Err(CliError::Usage(problem).into());
    }
    Ok(checkpoint)
}

impl fmt::Display for Consistent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verified  {}", self.origin)?;
        writeln!(
            f,
            "old       {} leaves, root {}",
            self.old_size, self.old_root
        )?;
        writeln!(
            f,
            "new       {} leaves, root {}",
            self.new_size, self.new_root
        )?;
        for hash in &self.proof {
            writeln!(f, "proof     {hash}")?;
        }
        write!(f, "newest    {} leaves", self.tree_size)
    }
}
