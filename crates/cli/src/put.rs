use crate::{
    CliError, Exit, OwnKeys, Recorded, Session, Wait, clock,
    device_stream::DeviceStream,
    outbox::{Outbox, SourceFile, Upload},
    progress::{self, Counted},
    seal::{Meta, Plan, seal},
};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use medanchor_anchor::{Anchored, Outcome, Statement, Strength, Verified};
use medanchor_api::LeafName;
use medanchor_dag::{Block, Cid, Class, CustodyId};
use medanchor_envelope::{Recipient, Suite};
use serde::Serialize;
use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// What to store.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// The payload.
    pub input: Input,
    /// The custody key to seal it to.
    pub custody: CustodyId,
    /// What kind of data it is.
    pub class: Class,
    /// The AEAD.
    pub suite: Suite,
    /// A full sealed chunk is 2^`chunk_log2` bytes: 16 to 20.
    pub chunk_log2: u8,
    /// When it was captured, unix ms; absent, the file's time, or now.
    pub captured_at_unix_ms: Option<u64>,
    /// Its name, sealed beside it.
    pub filename: Option<String>,
    /// Its media type, sealed beside it.
    pub content_type: Option<String>,
}

/// Where the payload comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file. An interrupted upload of it goes on when it is put again.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// A record that is anchored.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// Its CID.
    pub record: String,
    /// CID of the wrap of its content key.
    pub wrap: String,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
    /// Log time of its leaf.
    pub at: String,
    /// Length of the payload in bytes.
    pub size_bytes: u64,
    /// Number of sealed chunks.
    pub chunks: u64,
    /// The device's stream.
    pub stream: String,
    /// Its number in the stream.
    pub seq: u64,
    /// Whether it was sealed by an earlier, interrupted run.
    pub resumed: bool,
}

/// Seals a payload, stores it, has it anchored, and verifies the receipt that the session waits for.
///
/// The record is first sealed into the outbox. What an earlier run left there is sent before anything new
/// is sealed, and is the answer when it is the same file. It leaves the outbox once a receipt shows that it is
/// anchored: when nobody waits for that, a later run does.
///
/// # Errors
///
/// When the payload cannot be read or no node takes it; what is sealed by then stays in the outbox. When
/// the log refuses the record for good, it is removed.
pub async fn put(session: &Session, options: &PutOptions) -> Result<Stored> {
    let keys = session.home.own_keys()?;
    let folder = session.home.folder("outbox")?;
    let _alone = lock(&folder).await?;
    let outbox = Outbox::open(folder)?;
    let mut stream = DeviceStream::open(session.home.join("device-stream.toml"))?;
    let source = source_of(&options.input)?;
    // Nothing new waits for receipts that nobody gives at present.
    let mut settling = session.wait == Wait::Committed;
    for upload in outbox.uploads()? {
        let is_this = source.is_some() && upload.source == source;
        if upload.committed && session.wait == Wait::Committed && !is_this {
            settling = settling && settle(session, upload).await?;
            continue;
        }
        let stored = send(session, &keys, upload, &mut stream, true)
            .await
            .context("send what an earlier run sealed")?;
        if is_this {
            return Ok(stored);
        }
    }
    let plan = plan(session, options, source).await?;
    let upload = spawn_blocking({
        let (input, stream) = (options.input.clone(), stream.clone());
        let keys = session.home.own_keys()?;
        move || seal_input(&input, &plan, &keys, &stream, &outbox)
    })
    .await
    .context("seal")??;
    send(session, &keys, upload, &mut stream, false).await
}

/// Lets a committed record leave the outbox if its receipt is there by now.
async fn settle(session: &Session, upload: Upload) -> Result<bool> {
    let (leaf, strength) = (LeafName::Record(*upload.record.cid()), Strength::Witnessed);
    let Ok(Ok((_, receipt))) =
        tokio::time::timeout(SETTLE_WITHIN, session.client.receipt(leaf, strength)).await
    else {
        return Ok(false);
    };
    let record = *upload.record.cid();
    let is_of = |verified: &Verified<'_>| verified.leaf.record == Some(record);
    session
        .check(&receipt, strength, is_of)
        .context("check that what an earlier run sealed is anchored")?;
    session.keep_receipt(&record.to_string(), &receipt)?;
    upload.remove()?;
    Ok(true)
}

/// Uploads what is sealed and has it anchored. When no node can finish, the upload stays in the outbox.
async fn send(
    session: &Session,
    keys: &OwnKeys,
    upload: Upload,
    stream: &mut DeviceStream,
    resumed: bool,
) -> Result<Stored> {
    stream.advance(&upload.record)?;
    let anchored_wrap = *upload.wrap.cid();
    let anchored = Anchored::of(&upload.record, anchored_wrap);
    let signed = Statement::anchored(&session.origin, anchored).sign(&[&keys.signing]);
    let mut pauses = PAUSES.iter();
    let said = loop {
        let sent = async {
            store_blocks(session, &upload, resumed).await?;
            session.submit(&signed).await
        };
        match sent.await {
            Ok(said) => break said,
            Err(error) if is_refused_for_good(&error) => {
                stream.take_back(&upload.record)?;
                upload.remove()?;
                return Err(error);
            }
            // The node with the blocks may be gone: another gets what it lacks.
            Err(error) if Exit::of(&error) == Exit::Unavailable => match pauses.next() {
                Some(&pause) => tokio::time::sleep(pause).await,
                None => return Err(error.context(STAYS)),
            },
            Err(error) => return Err(error.context(STAYS)),
        }
    };
    let record = upload.record.clone();
    let recorded = session.recorded(&signed, &said)?;
    match recorded.receipt {
        Some(_) => upload.remove()?,
        None => upload.set_committed()?,
    }
    Ok(Stored {
        record: record.cid().to_string(),
        wrap: anchored_wrap.to_string(),
        recorded,
        at: clock::rfc3339(said.at_unix_ms),
        size_bytes: record.size_bytes(),
        chunks: record.chunk_count(),
        stream: record.header().stream.to_string(),
        seq: record.seq(),
        resumed,
    })
}

/// Puts every block that the node does not hold yet, in batches that bound the memory.
async fn store_blocks(session: &Session, upload: &Upload, resumed: bool) -> Result<()> {
    let bar = progress::bytes("uploading", Some(upload.record.size_bytes()));
    let roots = vec![upload.record.to_block(), upload.wrap.clone()];
    let batches = batches(upload)?.chain(stream::once(async { Ok(roots) }));
    let put = |batch: Vec<Block>| store_batch(session, batch, resumed);
    batches
        .map_ok(put)
        .try_buffered(BATCHES_IN_FLIGHT)
        .try_for_each(async |size| {
            bar.inc(size);
            Ok(())
        })
        .await
        .context("store the sealed blocks")
}

async fn store_batch(session: &Session, batch: Vec<Block>, resumed: bool) -> Result<u64> {
    let size = batch.iter().map(|block| block.bytes().len()).sum::<usize>();
    let cids: Vec<Cid> = batch.iter().map(|block| *block.cid()).collect();
    // Nobody can hold what was sealed a moment ago.
    let held = if resumed {
        session.client.has(&cids).await?
    } else {
        vec![false; cids.len()]
    };
    let lacking = batch.into_iter().zip(held).filter(|(_, held)| !held);
    let lacking: Vec<Block> = lacking.map(|(block, _)| block).collect();
    if !lacking.is_empty() {
        session.client.put(stream::iter(lacking)).await?;
    }
    Ok(u64::try_from(size)?)
}

/// The blocks below the record, read from disk by a thread of their own.
fn batches(upload: &Upload) -> Result<impl futures::Stream<Item = Result<Vec<Block>>> + use<>> {
    let mut blocks = upload.blocks()?.peekable();
    let (sender, receiver) = mpsc::channel(1);
    spawn_blocking(move || {
        while blocks.peek().is_some() {
            // Nobody listens any more when the upload has failed.
            if sender.blocking_send(next_batch(&mut blocks)).is_err() {
                return;
            }
        }
    });
    Ok(stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    }))
}

fn next_batch(blocks: &mut impl Iterator<Item = io::Result<Block>>) -> Result<Vec<Block>> {
    let mut batch = Vec::new();
    let mut size = 0;
    for block in blocks {
        let block = block.context("read the outbox")?;
        size += block.bytes().len();
        batch.push(block);
        if size >= BATCH_BYTES {
            break;
        }
    }
    Ok(batch)
}

async fn plan(session: &Session, options: &PutOptions, source: Option<SourceFile>) -> Result<Plan> {
    let custody = session.custody(options.custody).await?;
    let custody_key = Recipient::from_bytes(custody.public_key).context("use the custody key")?;
    let file_time = source.as_ref().map(|source| source.modified_unix_ms);
    let captured_at = options.captured_at_unix_ms.or(file_time);
    Ok(Plan {
        custody: options.custody,
        custody_key,
        class: options.class,
        suite: options.suite,
        chunk_log2: options.chunk_log2,
        captured_at_unix_ms: captured_at.unwrap_or_else(clock::unix_ms),
        meta: Meta {
            content_type: options.content_type.clone(),
            filename: options.filename.clone(),
        },
        source,
    })
}

fn seal_input(
    input: &Input,
    plan: &Plan,
    keys: &OwnKeys,
    stream: &DeviceStream,
    outbox: &Outbox,
) -> Result<Upload> {
    let total = plan.source.as_ref().map(|source| source.size);
    let bar = progress::bytes("sealing", total);
    let reader: Box<dyn Read> = match input {
        Input::File(path) => Box::new(open(path)?),
        Input::Stdin => Box::new(io::stdin().lock()),
    };
    let reader = Counted {
        reader,
        bar: bar.clone(),
    };
    let upload = seal(reader, plan, keys, stream, outbox)?;
    bar.finish_and_clear();
    Ok(upload)
}

fn source_of(input: &Input) -> Result<Option<SourceFile>> {
    let Input::File(path) = input else {
        return Ok(None);
    };
    let path = fs::canonicalize(path).with_context(|| format!("open `{}`", path.display()))?;
    let metadata = open(&path)?.metadata()?;
    if !metadata.is_file() {
        return Err(CliError::Usage(format!("`{}` is not a file", path.display())).into());
    }
    Ok(Some(SourceFile {
        path: path.to_string_lossy().into_owned(),
        size: metadata.len(),
        modified_unix_ms: clock::to_unix_ms(metadata.modified()?),
    }))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open `{}`", path.display()))
}

/// One upload at a time: they are numbered.
async fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    spawn_blocking(move || -> io::Result<File> {
        let file = File::create(path)?;
        file.lock()?;
        Ok(file)
    })
    .await?
    .context("lock the outbox")
}

/// Whether the log holds the record as refused and will never judge otherwise. Whoever is suspended may be
/// reinstated and what is unknown may become known: then the same record is anchored.
fn is_refused_for_good(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref();
    let Some(CliError::Refused { outcome, .. }) = refused else {
        return false;
    };
    matches!(outcome, Outcome::Conflict | Outcome::Forbidden)
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "record   {}", self.record)?;
        writeln!(
            f,
            "payload  {} bytes in {} chunks",
            self.size_bytes, self.chunks
        )?;
        writeln!(f, "stream   {} number {}", self.stream, self.seq)?;
        writeln!(f, "at       {}", self.at)?;
        write!(f, "{}", self.recorded)
    }
}

const STAYS: &str =
    "anchor the record, which stays in the outbox until `medanchor put` sends it again";
/// How long a command that waits for no receipt waits for those of earlier ones.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
const BATCH_BYTES: usize = 8 << 20;
const BATCHES_IN_FLIGHT: usize = 2;
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_record_is_given_up_only_when_the_log_refuses_it_for_good() {
        for (outcome, for_good) in [
            (Outcome::Conflict, true),
            (Outcome::Forbidden, true),
            (Outcome::Inactive, false),
            (Outcome::Unknown, false),
            (Outcome::Expired, false),
            (Outcome::Stale, false),
        ] {
            let leaf_index = 1;
            let refused = CliError::Refused {
                outcome,
                leaf_index,
            };
            let error = anyhow::Error::from(refused).context("record the statement");
            assert_eq!(is_refused_for_good(&error), for_good, "{outcome}");
        }
        let unproved = CliError::NotVerified("no receipt".to_owned());
        assert!(!is_refused_for_good(&unproved.into()));
    }
}
