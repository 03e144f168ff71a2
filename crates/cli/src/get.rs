use crate::{
    ByteRange, CliError, OwnKeys, Rate, Session,
    byte_range::{chunks_of, part},
    c4gh::{Encrypting, PublicKey},
    c4gh_file::C4ghFile,
    clock,
    exit::said_by,
    files,
    grant::Grant,
    patient::Patient,
    payload::{Payload, folder_of},
    progress::Transfer,
    request::ask,
    seal::Meta,
    session::patiently,
    throttle::{Throttle, Throttled},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use medanchor_anchor::{Anchored, Body, Strength, Verified};
use medanchor_api::{LeafName, NodesSource};
use medanchor_dag::{BlockSource, Chunks, Cid, Hash, Record, export};
use medanchor_envelope::{Header, Opener};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};

/// What to fetch.
#[derive(Clone, Debug)]
pub struct GetOptions {
    /// The record.
    pub record: Cid,
    /// The key to open it with.
    pub asking: Asking,
    /// The file to write; absent, standard output.
    pub output: Option<PathBuf>,
    /// Of the payload, only these bytes.
    pub range: Option<ByteRange>,
    /// At most this many bytes per second; absent, as fast as they come.
    pub limit: Option<Rate>,
    /// The Crypt4GH public key of whoever is to read what is written; absent, it is written as it is.
    pub c4gh_to: Option<PathBuf>,
}

/// How to come by a record's key.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The purpose to ask for when there is no grant for it yet.
    pub purpose: Option<String>,
    /// The role to ask in; absent, the first that the user is enrolled with.
    pub role: Option<String>,
    /// How strong a receipt of the release to wait for.
    pub strength: Strength,
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
    /// The first byte that was written, and how many, when it was not the whole payload.
    pub range: Option<(u64, u64)>,
    /// SHA-256 of the payload, when all of it was written.
    pub sha256: Option<String>,
    /// Blocks of the payload that were fetched.
    pub blocks_fetched: u64,
    /// Blocks of the payload that an interrupted run had fetched.
    pub blocks_kept: u64,
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

/// Fetches a record and opens it, every byte checked before it is written. A file appears whole or not at all; what
/// an interrupted run had fetched of it is not fetched again.
///
/// # Errors
///
/// At the first check that fails: block hash, canonical form, signature, the receipt of the anchored leaf,
/// the witnessed receipt of the release (I2), HPKE, commitment, chunks.
pub async fn get(session: &Session, options: &GetOptions) -> Result<Got> {
    let nodes = Arc::new(NodesSource::new(session.client.clone()));
    let got = Box::pin(get_from(&nodes, session, options)).await;
    got.map_err(|error| said_by(&nodes, error))
}

async fn get_from(
    nodes: &Arc<NodesSource>,
    session: &Session,
    options: &GetOptions,
) -> Result<Got> {
    let keys = session.home.own_keys()?;
    let reader = options.c4gh_to.as_deref().map(c4gh_reader).transpose()?;
    let opened = open(session, &keys, nodes, &options.record, &options.asking).await?;
    let Opened { record, opener, .. } = opened;
    let size = record.size_bytes();
    let range = options.range.map(|asked| {
        asked.of(size).ok_or_else(|| {
            CliError::Usage(format!(
                "the payload has {size} bytes: none of them is in {asked}"
            ))
        })
    });
    let range = range.transpose()?;
    let throttle = options.limit.map(|rate| Arc::new(Throttle::new(rate)));
    let source = source(nodes, &record, throttle.as_ref());
    let transfer = Arc::new(Transfer::new("fetching", 1));
    let mut got = Got {
        record: record.cid().to_string(),
        leaf_index: opened.leaf_index,
        anchored_index: opened.anchored_index,
        anchored_at: clock::rfc3339(opened.anchored_at_unix_ms),
        device: record.device().to_string(),
        class: record.header().class.to_string(),
        captured_at: clock::rfc3339(record.header().captured_at_unix_ms),
        filename: opened.meta.filename,
        content_type: opened.meta.content_type,
        purpose: opened.purpose,
        size_bytes: size,
        range: range
            .as_ref()
            .map(|range| (range.start, range.end - range.start)),
        sha256: None,
        blocks_fetched: 0,
        blocks_kept: 0,
        output: options.output.clone(),
        noted_nodes: Vec::new(),
    };
    let chunk_bytes = opener.chunk_plaintext_bytes();
    let (chunks, bytes) = match &range {
        Some(range) => (chunks_of(range, chunk_bytes), range.clone()),
        None => (0..record.chunk_count(), 0..size),
    };
    match &options.output {
        Some(output) if reader.is_none() => {
            // Whole chunks come.
            let end = size.min(chunks.end.saturating_mul(chunk_bytes));
            transfer.is_known(end - chunks.start.saturating_mul(chunk_bytes));
            let places = Arc::new(Semaphore::new(WINDOW));
            let (folder, bar) = (folder_of(output), Arc::clone(&transfer));
            let payload = Payload::open(folder, record, range, opener, places, bar)?;
            let whole = payload.complete(source, output).await?;
            got.sha256 = got.range.is_none().then(|| whole.sha256.to_string());
            (got.blocks_fetched, got.blocks_kept) = (whole.blocks_fetched, whole.blocks_kept);
        }
        output => {
            transfer.is_known(bytes.end - bytes.start);
            let all = chunks.end - chunks.start;
            let mut plain = Plain {
                opener,
                count: record.chunk_count(),
                chunk_bytes,
                chunks,
                bytes,
                transfer: Arc::clone(&transfer),
            };
            let to = match (output, reader) {
                (Some(output), Some(reader)) => {
                    let (output, cid) = (output.clone(), *record.cid());
                    let bytes = plain.bytes.clone();
                    let open = move || C4ghFile::open(&output, &cid, &bytes, &reader, &keys);
                    let file = spawn_blocking(open).await??;
                    plain.leave_out(file.kept);
                    To::C4gh(Box::new(file))
                }
                (_, reader) => To::Stdout(reader),
            };
            if !matches!(record.chunks(), Chunks::Inline(_)) {
                got.blocks_fetched = plain.chunks.end - plain.chunks.start;
                got.blocks_kept = all - got.blocks_fetched;
            }
            let written = stream_out(source, &record, plain, to);
            let sha256 = written.await?;
            got.sha256 = got.range.is_none().then(|| sha256.to_string());
        }
    }
    transfer.finish();
    got.noted_nodes = noted(nodes);
    Ok(got)
}

/// A record whose key is at hand, everything about it checked.
pub(crate) struct Opened {
    pub(crate) record: Arc<Record>,
    pub(crate) opener: Opener,
    pub(crate) meta: Meta,
    /// The leaf that released its key.
    leaf_index: u64,
    purpose: String,
    anchored_index: u64,
    anchored_at_unix_ms: u64,
}

/// Fetches a record without its payload, and its key.
pub(crate) async fn open(
    session: &Session,
    keys: &OwnKeys,
    nodes: &Arc<NodesSource>,
    cid: &Cid,
    asking: &Asking,
) -> Result<Opened> {
    let source = Patient::new(Arc::<NodesSource>::clone(nodes));
    let record = fetch_record(&source, cid).await?;
    let (anchored_index, anchored_at_unix_ms) = check_anchored(session, &record).await?;
    let grant = grant(session, keys, cid, asking).await?;
    let header = Header::from_bytes(&record.header_bytes()).context("parse the header")?;
    let opener = Opener::new(&grant.wrap, &keys.receiving, &header, record.commitment())
        .context("open the released key")?;
    let meta = opener
        .open_metadata(record.meta())
        .context("open the metadata")?;
    Ok(Opened {
        record: Arc::new(record),
        opener,
        meta: Meta::parse(&meta),
        leaf_index: grant.leaf_index,
        purpose: grant.purpose,
        anchored_index,
        anchored_at_unix_ms,
    })
}

/// Where the blocks of a record's payload come from.
pub(crate) fn source(
    nodes: &Arc<NodesSource>,
    record: &Record,
    throttle: Option<&Arc<Throttle>>,
) -> Arc<dyn BlockSource> {
    let patient = Arc::new(Patient::new(Arc::<NodesSource>::clone(nodes)));
    match throttle {
        None => patient,
        Some(throttle) => Arc::new(Throttled {
            source: patient,
            throttle: Arc::clone(throttle),
            block_bytes: record.sealed_chunk_bytes(0),
        }),
    }
}

/// The nodes that failed to serve a block.
pub(crate) fn noted(nodes: &NodesSource) -> Vec<NotedNode> {
    let notes = nodes.notes().into_iter();
    notes
        .map(|(node, note)| NotedNode {
            node,
            note: note.as_str(),
        })
        .collect()
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

async fn grant(session: &Session, keys: &OwnKeys, record: &Cid, asking: &Asking) -> Result<Grant> {
    let (purpose, role) = (asking.purpose.as_deref(), asking.role.as_deref());
    let kept = Grant::kept(session, keys, record, purpose, role)?;
    match (kept, purpose) {
        (Some(grant), _) => {
            let grant = grant.proved(session, keys, asking.strength);
            grant.await
        }
        (None, Some(purpose)) => ask(session, keys, record, purpose, role, asking.strength).await,
        (None, None) => {
            let problem = "there is no grant for this record: say what it is for with --purpose";
            Err(CliError::Usage(problem.to_owned()).into())
        }
    }
}

/// Blocks come from the nodes in parallel; a thread opens and writes them in order.
async fn stream_out(
    source: Arc<dyn BlockSource>,
    record: &Record,
    plain: Plain,
    to: To,
) -> Result<Hash> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    let mut chunks = export(source, record, plain.chunks.clone(), WINDOW);
    let writer = spawn_blocking(move || plain.write(receiver, to));
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

/// The payload or a part of it, as its chunks are opened.
struct Plain {
    opener: Opener,
    /// Chunks of the whole payload.
    count: u64,
    chunk_bytes: u64,
    /// Those that are written, and what of them.
    chunks: Range<u64>,
    bytes: Range<u64>,
    transfer: Arc<Transfer>,
}

/// Where a payload goes.
enum To {
    /// To standard output, encrypted to a reader where there is one.
    Stdout(Option<PublicKey>),
    /// Into a file for a reader.
    C4gh(Box<C4ghFile>),
}

impl Plain {
    /// The first bytes are there already.
    fn leave_out(&mut self, bytes: u64) {
        if bytes > 0 {
            self.bytes.start = self.bytes.start.saturating_add(bytes);
            self.chunks = match self.bytes.is_empty() {
                true => self.chunks.end..self.chunks.end,
                false => chunks_of(&self.bytes, self.chunk_bytes),
            };
            self.transfer.kept(bytes);
        }
    }

    /// SHA-256 of the payload, what was there already included.
    fn write(&self, sealed: mpsc::Receiver<(u64, Bytes)>, to: To) -> Result<Hash> {
        let mut hasher = Sha256::new();
        let stdout = io::stdout();
        match to {
            To::Stdout(None) => self.write_plain(sealed, &mut hasher, &mut stdout.lock())?,
            To::Stdout(Some(reader)) => {
                let encrypting = Encrypting::begin(stdout.lock(), &reader);
                let mut encrypting = encrypting.context("encrypt the payload")?;
                self.write_plain(sealed, &mut hasher, &mut encrypting)?;
                drop(encrypting.finish().context("encrypt the payload")?);
            }
            To::C4gh(mut file) => {
                let C4ghFile {
                    encrypting, hasher, ..
                } = &mut *file;
                self.write_plain(sealed, hasher, encrypting)?;
                return file.finish();
            }
        }
        Ok(Hash::new(hasher.finalize().into()))
    }

    fn write_plain(
        &self,
        mut sealed: mpsc::Receiver<(u64, Bytes)>,
        hasher: &mut Sha256,
        output: &mut dyn Write,
    ) -> Result<()> {
        let (mut next, mut size) = (self.chunks.start, 0);
        while let Some((index, chunk)) = sealed.blocking_recv() {
            let last = next + 1 == self.count;
            let plain = self.opener.open_chunk(index, last, &chunk)?;
            let wanted = part(&plain, index, &self.bytes, self.chunk_bytes);
            output.write_all(wanted).context("write the payload")?;
            hasher.update(wanted);
            let len = u64::try_from(wanted.len())?;
            self.transfer.came(len);
            (next, size) = (next + 1, size + len);
        }
        output.flush().context("write the payload")?;
        // INVARIANT: a payload is whole only when its last chunk opened as the last.
        if next != self.chunks.end || size != self.bytes.end - self.bytes.start {
            let (came, count) = (
                next - self.chunks.start,
                self.chunks.end - self.chunks.start,
            );
            let problem = format!("{came} of {count} chunks arrived");
            return Err(CliError::NotVerified(problem).into());
        }
        Ok(())
    }
}

fn c4gh_reader(path: &Path) -> Result<PublicKey> {
    let text = files::read_text(path, MAX_KEY_BYTES)?;
    PublicKey::parse(&text).with_context(|| format!("read the key `{}`", path.display()))
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
        if let Some((first, count)) = self.range {
            write!(f, "\nrange     {count} bytes from {first}")?;
        }
        if self.blocks_kept > 0 {
            let (kept, fetched) = (self.blocks_kept, self.blocks_fetched);
            write!(
                f,
                "\nresumed   {kept} blocks were there, {fetched} were fetched"
            )?;
        }
        for noted in &self.noted_nodes {
            write!(f, "\nnoted     node `{}`: {}", noted.node, noted.note)?;
        }
        Ok(())
    }
}

const MAX_KEY_BYTES: u64 = 16 * 1024;
/// Blocks fetched at once, and chunks that wait to be opened.
const WINDOW: usize = 8;
