use crate::{
    CliError, Exit, FailedRecord, NotedNode, Session,
    anchored::ProvedRecord,
    chain::{Broken, Chain, fetch_record},
    exit::{graver, said_by},
    files, progress,
};
use anyhow::{Context, Error, Result, bail};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use indicatif::ProgressBar;
use medanchor_api::NodesSource;
use medanchor_dag::{
    Block, BlockSource, CarWriter, Cid, Did, MAX_CAR_ROOTS, Record, StreamId, export_blocks,
};
use medanchor_envelope::Wrap;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};
use tempfile::NamedTempFile;
use tokio::{sync::mpsc, task::spawn_blocking};

/// What to export, and where to.
#[derive(Clone, Debug)]
pub struct CarExportOptions {
    /// What is in the CAR.
    pub content: CarContent,
    /// The file to write; absent, standard output.
    pub output: Option<PathBuf>,
}

/// What is in a CAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarContent {
    /// These records, in this order. One that is named again is left out.
    Records(Vec<Cid>),
    /// The records of a device's stream: from its head back by `prev`, the first one first.
    Stream {
        /// The device.
        device: Did,
        /// Its stream.
        stream: StreamId,
    },
}

/// A CAR that was written.
#[derive(Clone, Debug, Serialize)]
pub struct CarExported {
    /// Whether it has every record that was asked for.
    pub ok: bool,
    /// `ok`, or what the failures come to: see [`Exit`].
    pub code: &'static str,
    /// The file; absent, standard output.
    pub output: Option<PathBuf>,
    /// The records: the roots.
    pub records: Vec<CarRecord>,
    /// Records that are not in it, and why.
    pub failed: Vec<FailedRecord>,
    /// Blocks in it.
    pub blocks: u64,
    /// How long it is.
    pub size_bytes: u64,
    /// Numbers that the stream lacks or has twice: such records are not in the CAR. Absent when no stream was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaps_and_forks: Option<u64>,
    /// Leaves in the log that the stream's head was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_size: Option<u64>,
    /// Nodes that failed to serve a block, and why.
    pub noted_nodes: Vec<NotedNode>,
}

/// A record in a CAR.
#[derive(Clone, Debug, Serialize)]
pub struct CarRecord {
    /// The record.
    pub record: String,
    /// Its durable wrap.
    pub wrap: String,
    /// The device's stream.
    pub stream: String,
    /// Its number in the stream.
    pub seq: u64,
    /// Length of the payload in bytes.
    pub payload_size_bytes: u64,
    /// The leaf that anchored it.
    pub anchored_index: u64,
}

/// Writes records with all their blocks into a CAR (`docs/formats.md`, CAR files). Nothing is opened: the
/// blocks stay sealed. A record that cannot be had stops no other: it is left out, and named.
///
/// # Errors
///
/// When none of the records can be had, or, where the CAR goes to standard output, a block of one that was begun. A file
/// is written whole or not at all.
pub async fn export_car(session: &Session, options: &CarExportOptions) -> Result<CarExported> {
    let source = Arc::new(NodesSource::new(session.client.clone()));
    let exported = export_from(&source, session, options).await;
    exported.map_err(|error| said_by(&source, error))
}

async fn export_from(
    source: &Arc<NodesSource>,
    session: &Session,
    options: &CarExportOptions,
) -> Result<CarExported> {
    let chain = match &options.content {
        CarContent::Records(records) => Chain {
            records: distinct(records),
            ..Chain::default()
        },
        CarContent::Stream { device, stream } => {
            Chain::of(session, source.as_ref(), device, stream, |_| true).await?
        }
    };
    if chain.records.len() > MAX_CAR_ROOTS {
        return Err(CliError::Usage(TOO_MANY.to_owned()).into());
    }
    let mut failures = Vec::new();
    if let Some(Broken { record, error }) = chain.broken {
        failures.push((record, error));
    }
    let mut proved = Vec::new();
    let mut proving = pin!(prove(session, source, &chain.records));
    while let Some((record, one)) = proving.next().await {
        match one {
            Ok(one) => proved.push(one),
            Err(error) => failures.push((record, error)),
        }
    }
    let written = loop {
        if proved.is_empty() {
            let first = failures.into_iter().next().map(|(_, error)| error);
            return Err(first.unwrap_or_else(|| CliError::Usage(NONE.to_owned()).into()));
        }
        match write(source, &proved, options.output.clone()).await {
            Ok(written) => break written,
            // The roots stand first in a CAR: it is begun anew without this one, where that is possible.
            Err((Some(record), error)) if options.output.is_some() => {
                proved.retain(|one| one.record != record);
                failures.push((record, error));
            }
            Err((_, error)) => return Err(error),
        }
    };
    let exits = failures.iter().map(|(_, error)| Exit::of(error));
    let exit = exits.fold(Exit::Done, graver);
    let failed = failures
        .into_iter()
        .map(|(record, error)| FailedRecord::new(&record, &said_by(source, error)));
    let notes = source.notes().into_iter();
    Ok(CarExported {
        ok: exit == Exit::Done,
        code: exit.name(),
        output: options.output.clone(),
        records: proved.into_iter().map(|proved| proved.row).collect(),
        failed: failed.collect(),
        blocks: written.blocks,
        size_bytes: written.size_bytes,
        gaps_and_forks: chain.gaps_and_forks,
        tree_size: chain.tree_size,
        noted_nodes: notes
            .map(|(node, note)| NotedNode {
                node,
                note: note.as_str(),
            })
            .collect(),
    })
}

/// Writes a CAR of these records. An error names the record that it is of, if it is of one.
async fn write(
    source: &Arc<NodesSource>,
    proved: &[Proved],
    output: Option<PathBuf>,
) -> Result<Written, (Option<Cid>, Error)> {
    let total = proved.iter().map(|proved| proved.row.payload_size_bytes);
    let car = CarFile {
        roots: proved.iter().map(|proved| proved.record).collect(),
        bar: progress::bytes("exporting", Some(total.sum())),
    };
    let heads = proved.iter().map(|proved| (proved.record, proved.wrap));
    let blocks = blocks(Arc::clone(source), heads.collect());
    car.write_all(blocks, output).await
}

fn distinct(records: &[Cid]) -> Vec<Cid> {
    let mut seen = BTreeSet::new();
    let new = records.iter().filter(|record| seen.insert(**record));
    new.copied().collect()
}

/// A record that the log has, and what is shown of it.
struct Proved {
    record: Cid,
    wrap: Cid,
    row: CarRecord,
}

/// Has each record proved by the receipt of its leaf.
fn prove<'a>(
    session: &'a Session,
    source: &'a Arc<NodesSource>,
    records: &'a [Cid],
) -> impl Stream<Item = (Cid, Result<Proved>)> + 'a {
    stream::iter(records)
        .map(move |cid| async move { (*cid, prove_one(session, source, cid).await) })
        .buffered(RECORDS_AT_ONCE)
}

async fn prove_one(session: &Session, source: &Arc<NodesSource>, cid: &Cid) -> Result<Proved> {
    let record = fetch_record(source.as_ref(), cid).await?;
    let proved = ProvedRecord::of(session, &record)
        .await
        .with_context(|| format!("prove that record `{cid}` is anchored"))?;
    Ok(Proved {
        record: *cid,
        wrap: proved.wrap,
        row: CarRecord {
            record: cid.to_string(),
            wrap: proved.wrap.to_string(),
            stream: record.header().stream.to_string(),
            seq: record.seq(),
            payload_size_bytes: record.size_bytes(),
            anchored_index: proved.leaf_index,
        },
    })
}

/// The record's durable wrap.
async fn fetch_wrap(source: &dyn BlockSource, record: &Record, cid: &Cid) -> Result<Block> {
    let context = || format!("fetch the wrap of record `{}`", record.cid());
    let block = source.fetch(cid).await.with_context(context)?;
    let is_its = Wrap::from_bytes(block.bytes()).is_ok_and(|wrap| {
        wrap.ctx.header == *record.header_hash().as_bytes()
            && wrap.ctx.commitment == *record.commitment()
            && wrap.ctx.request.is_none()
    });
    if is_its {
        return Ok(block);
    }
    let problem = format!("block `{cid}` is not the wrap of record `{}`", record.cid());
    Err(CliError::NotVerified(problem).into())
}

/// All blocks of records with these wraps, each record's DAG depth first and its wrap behind it. An error names the
/// record.
fn blocks(
    source: Arc<NodesSource>,
    heads: Vec<(Cid, Cid)>,
) -> BoxStream<'static, Result<Block, (Cid, Error)>> {
    let for_heads = Arc::clone(&source);
    stream::iter(heads)
        .map(move |(cid, wrap)| {
            let source = Arc::clone(&for_heads);
            async move {
                let fetched = async {
                    let record = fetch_record(source.as_ref(), &cid).await?;
                    let wrap = fetch_wrap(source.as_ref(), &record, &wrap).await?;
                    Ok((record, wrap))
                };
                fetched.await.map_err(|error| (cid, error))
            }
        })
        .buffered(RECORDS_AT_ONCE)
        .map_ok(move |(record, wrap)| {
            let cid = *record.cid();
            export_blocks(Arc::clone(&source) as _, &record, WINDOW)
                .map(move |block| {
                    let block =
                        block.with_context(|| format!("fetch the blocks of record `{cid}`"));
                    block.map_err(|error| (cid, error))
                })
                .chain(stream::iter([Ok(wrap)]))
        })
        .try_flatten()
        .boxed()
}

/// A CAR that is being written.
struct CarFile {
    roots: Vec<Cid>,
    bar: ProgressBar,
}

struct Written {
    blocks: u64,
    size_bytes: u64,
}

impl CarFile {
    /// Blocks come from the nodes in parallel; a thread writes them in order.
    async fn write_all(
        self,
        mut blocks: impl Stream<Item = Result<Block, (Cid, Error)>> + Unpin,
        output: Option<PathBuf>,
    ) -> Result<Written, (Option<Cid>, Error)> {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let writer = spawn_blocking(move || self.write(receiver, output.as_deref()));
        let sent = async {
            while let Some(block) = blocks.try_next().await? {
                // The writer ends early only by an error, which it returns.
                if sender.send(Next::Block(block)).await.is_err() {
                    return Ok(());
                }
            }
            let _ = sender.send(Next::End).await;
            Ok(())
        };
        let sent = sent.await;
        drop(sender);
        let written = writer.await.context("write the car");
        match sent {
            Err((record, error)) => Err((Some(record), error)),
            Ok(()) => written.flatten().map_err(|error| (None, error)),
        }
    }

    fn write(self, blocks: mpsc::Receiver<Next>, output: Option<&Path>) -> Result<Written> {
        let Some(path) = output else {
            return self.write_to(blocks, &mut io::stdout().lock());
        };
        let context = || format!("write `{}`", path.display());
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut file = NamedTempFile::new_in(folder).with_context(context)?;
        let written = self
            .write_to(blocks, file.as_file_mut())
            .with_context(context)?;
        file.as_file().sync_all().with_context(context)?;
        // Commit point: the file appears whole.
        file.persist(path).with_context(context)?;
        files::sync_folder(folder).with_context(context)?;
        Ok(written)
    }

    fn write_to(
        &self,
        mut blocks: mpsc::Receiver<Next>,
        output: &mut dyn Write,
    ) -> Result<Written> {
        let output = BufWriter::with_capacity(BUFFER_BYTES, output);
        let mut car = CarWriter::new(output, &self.roots)?;
        let mut count = 0;
        // INVARIANT: a car is whole only when all was sent that belongs to it.
        loop {
            match blocks.blocking_recv() {
                Some(Next::Block(block)) => {
                    car.write(&block)?;
                    count += 1;
                    self.bar.inc(u64::try_from(block.bytes().len())?);
                }
                Some(Next::End) => break,
                None => bail!("not all blocks could be fetched"),
            }
        }
        let size_bytes = car.size_bytes();
        car.finish()?;
        self.bar.finish_and_clear();
        Ok(Written {
            blocks: count,
            size_bytes,
        })
    }
}

/// What the writer is told.
enum Next {
    Block(Block),
    End,
}

impl fmt::Display for CarExported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for CarRecord {
            record,
            payload_size_bytes,
            anchored_index,
            ..
        } in &self.records
        {
            writeln!(
                f,
                "record    {record} ({payload_size_bytes} bytes, leaf {anchored_index})"
            )?;
        }
        for failed in &self.failed {
            writeln!(
                f,
                "failed    {}  {}: {}",
                failed.record, failed.code, failed.error
            )?;
        }
        if let Some(count) = self.gaps_and_forks.filter(|count| *count > 0) {
            writeln!(
                f,
                "noted     {count} numbers of the stream are missing or stand twice: what is off the chain of its \
                 head is not in the car"
            )?;
        }
        for noted in &self.noted_nodes {
            writeln!(f, "noted     node `{}`: {}", noted.node, noted.note)?;
        }
        let output = self.output.as_deref().unwrap_or(Path::new("-"));
        write!(
            f,
            "written   {} blocks of {} records, {} bytes, to {}",
            self.blocks,
            self.records.len(),
            self.size_bytes,
            output.display()
        )
    }
}

const TOO_MANY: &str = "a car has at most 100,000 records: name fewer of them, and export the others into a car of their own";
const NONE: &str = "no record is named";
/// Blocks of a record fetched at once, and blocks that wait to be written.
const WINDOW: usize = 8;
const RECORDS_AT_ONCE: usize = 8;
const BUFFER_BYTES: usize = 1 << 20;
