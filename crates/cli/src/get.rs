use crate::{
    CliError, OwnKeys, Session, clock, grant::Grant, progress, request::ask, seal::Meta,
    session::patiently,
};
use anyhow::{Context, Result};
use futures::StreamExt;
use indicatif::ProgressBar;
use medanchor_anchor::{Anchored, Body, Strength, Verified};
use medanchor_api::{LeafName, NodesSource};
use medanchor_dag::{BlockSource, Cid, Record, export};
use medanchor_envelope::{Header, Opener};
use serde::Serialize;
use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;
use tokio::{sync::mpsc, task::spawn_blocking};

/// What to fetch.
#[derive(Clone, Debug)]
pub struct GetOptions {
    /// The record.
    pub record: Cid,
    /// The purpose to ask for when there is no grant for it yet.
    pub purpose: Option<String>,
    /// The role to ask in; absent, the first that the user is enrolled with.
    pub role: Option<String>,
    /// How strong a receipt of the release to wait for.
    pub strength: Strength,
    /// The file to write; absent, standard output.
    pub output: Option<PathBuf>,
}

/// A record that was opened and is what its device sealed.
#[derive(Clone, Debug, Serialize)]
pub struct Got {
    /// The record.
    pub record: String,
    /// The leaf that released its key.
    pub leaf_index: u64,
    /// The leaf that anchored it.
    pub anchored_index: u64,
    /// Log time of that.
    pub anchored_at: String,
    /// The device that sealed it.
    pub device: String,
    /// What kind of data it is.
    pub class: String,
    /// When it was captured, by the device's clock.
    pub captured_at: String,
    /// The payload's name.
    pub filename: Option<String>,
    /// Its media type.
    pub content_type: Option<String>,
    /// The purpose it was released for.
    pub purpose: String,
    /// Length of the payload in bytes.
    pub size_bytes: u64,
    /// The file written.
    pub output: Option<PathBuf>,
    /// Nodes that failed to serve a block, and why.
    pub noted_nodes: Vec<NotedNode>,
}

/// A node that failed to serve a block.
#[derive(Clone, Debug, Serialize)]
pub struct NotedNode {
    /// Its short name.
    pub node: String,
    /// `missing`, `unreachable`, `corrupt` or `wrong-bytes`.
    pub note: &'static str,
}

/// Fetches a record and opens it, every byte checked before it is written.
///
/// # Errors
///
/// At the first check that fails: block hash, canonical form, signature, the receipt of the anchored leaf,
/// the witnessed receipt of the release (I2), HPKE, commitment, chunks. A file is written whole or not at
/// all.
pub async fn get(session: &Session, options: &GetOptions) -> Result<Got> {
    let keys = session.home.own_keys()?;
    let source = Arc::new(NodesSource::new(session.client.clone()));
    let record = fetch_record(source.as_ref(), &options.record).await?;
    let (anchored_index, anchored_at) = check_anchored(session, &record).await?;
    let grant = grant(session, &keys, options).await?;
    let header = Header::from_bytes(&record.header_bytes()).context("parse the header")?;
    let opener = Opener::new(&grant.wrap, &keys.receiving, &header, record.commitment())
        .context("open the released key")?;
    let meta = opener
        .open_metadata(record.meta())
        .context("open the metadata")?;
    let meta = Meta::parse(&meta);
    write(source.clone(), &record, opener, options.output.as_deref()).await?;
    let header = record.header();
    let notes = source.notes().into_iter();
    Ok(Got {
        record: record.cid().to_string(),
        leaf_index: grant.leaf_index,
        anchored_index,
        anchored_at: clock::rfc3339(anchored_at),
        device: record.device().to_string(),
        class: header.class.to_string(),
        captured_at: clock::rfc3339(header.captured_at_unix_ms),
        filename: meta.filename,
        content_type: meta.content_type,
        purpose: grant.purpose,
        size_bytes: record.size_bytes(),
        output: options.output.clone(),
        noted_nodes: notes
            .map(|(node, note)| NotedNode {
                node,
                note: note.as_str(),
            })
            .collect(),
    })
}

async fn fetch_record(source: &dyn BlockSource, cid: &Cid) -> Result<Record> {
    let block = source.fetch(cid).await.context("fetch the record")?;
    let record = Record::from_block(&block).context("parse the record")?;
    record
        .verify_signature()
        .context("check the device's signature")?;
    Ok(record)
}

/// The replicas accepted the record from an active device: index and log time of its leaf.
async fn check_anchored(session: &Session, record: &Record) -> Result<(u64, u64)> {
    let (leaf, strength) = (LeafName::Record(*record.cid()), Strength::Published);
    let (_, receipt) = patiently(async || session.client.receipt(leaf, strength).await)
        .await
        .context("fetch the record's receipt")?;
    session.keep_up(&receipt.checkpoint, strength).await;
    let said = session
        .check(&receipt, strength, |verified| is_of(verified, record))
        .context("check that the record is anchored")?;
    session.keep_receipt(&record.cid().to_string(), &receipt)?;
    Ok((said.leaf_index, said.at_unix_ms))
}

fn is_of(verified: &Verified<'_>, record: &Record) -> bool {
    let body = verified
        .opening
        .map(|opening| &opening.0.signed.statement.body);
    let agrees = match body {
        Some(Body::Anchored(anchored)) => Anchored::of(record, anchored.wrap) == *anchored,
        Some(_) => false,
        // Redacted: the leaf itself names the record.
        None => true,
    };
    agrees && verified.leaf.record == Some(*record.cid())
}

async fn grant(session: &Session, keys: &OwnKeys, options: &GetOptions) -> Result<Grant> {
    let (purpose, role) = (options.purpose.as_deref(), options.role.as_deref());
    let kept = Grant::kept(session, keys, &options.record, purpose, role)?;
    match (kept, purpose) {
        (Some(grant), _) => {
            let grant = grant.proved(session, keys, &options.record, options.strength);
            grant.await
        }
        (None, Some(purpose)) => {
            let strength = options.strength;
            ask(session, keys, &options.record, purpose, role, strength).await
        }
        (None, None) => {
            let problem = "there is no grant for this record: say what it is for with --purpose";
            Err(CliError::Usage(problem.to_owned()).into())
        }
    }
}

/// Blocks come from the nodes in parallel; a thread opens and writes them in order.
async fn write(
    source: Arc<NodesSource>,
    record: &Record,
    opener: Opener,
    output: Option<&Path>,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    let plain = Plain {
        opener,
        chunks: record.chunk_count(),
        size: record.size_bytes(),
        bar: progress::bytes("opening", Some(record.size_bytes())),
    };
    let output = output.map(Path::to_owned);
    let writer = spawn_blocking(move || plain.write(receiver, output.as_deref()));
    let mut chunks = export(source, record, 0..u64::MAX, WINDOW);
    let mut failure = None;
    while let Some(chunk) = chunks.next().await {
        match chunk {
            // The writer ends early only by an error, which it returns.
            Ok(chunk) => {
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let written = writer.await.context("write the payload")?;
    match failure {
        Some(error) => Err(error).context("fetch the payload"),
        None => written,
    }
}

/// The payload, as its chunks are opened.
struct Plain {
    opener: Opener,
    chunks: u64,
    size: u64,
    bar: ProgressBar,
}

impl Plain {
    fn write(
        &self,
        sealed: mpsc::Receiver<(u64, bytes::Bytes)>,
        output: Option<&Path>,
    ) -> Result<()> {
        let Some(path) = output else {
            return self.write_to(sealed, &mut io::stdout().lock());
        };
        let context = || format!("write `{}`", path.display());
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let mut file =
            NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).with_context(context)?;
        self.write_to(sealed, file.as_file_mut())?;
        file.as_file().sync_all().with_context(context)?;
        // Commit point: the file appears whole.
        file.persist(path).with_context(context)?;
        Ok(())
    }

    fn write_to(
        &self,
        mut sealed: mpsc::Receiver<(u64, bytes::Bytes)>,
        output: &mut dyn Write,
    ) -> Result<()> {
        let (mut next, mut size) = (0, 0);
        while let Some((index, chunk)) = sealed.blocking_recv() {
            let last = next + 1 == self.chunks;
            let plain = self.opener.open_chunk(index, last, &chunk)?;
            output.write_all(&plain).context("write the payload")?;
            let len = u64::try_from(plain.len())?;
            self.bar.inc(len);
            (next, size) = (next + 1, size + len);
        }
        self.bar.finish_and_clear();
        output.flush().context("write the payload")?;
        // INVARIANT: a payload is whole only when its last chunk opened as the last.
        if next != self.chunks || size != self.size {
            let problem = format!("{next} of {} chunks arrived", self.chunks);
            return Err(CliError::NotVerified(problem).into());
        }
        Ok(())
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "record    {} ({} bytes)", self.record, self.size_bytes)?;
        writeln!(f, "sealed by {} as {}", self.device, self.class)?;
        writeln!(f, "captured  {}", self.captured_at)?;
        writeln!(
            f,
            "anchored  leaf {} at {}",
            self.anchored_index, self.anchored_at
        )?;
        write!(f, "released  leaf {} for {}", self.leaf_index, self.purpose)?;
        for noted in &self.noted_nodes {
            write!(f, "\nnoted     node `{}`: {}", noted.node, noted.note)?;
        }
        Ok(())
    }
}

/// Blocks fetched at once, and chunks that wait to be opened.
const WINDOW: usize = 8;
