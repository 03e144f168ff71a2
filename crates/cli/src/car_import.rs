use crate::{Session, anchored::ProvedRecord, clock, progress, progress::Counted};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use medanchor_api::{ClientError, NodesSource, Stored};
use medanchor_dag::{Block, BlockSource, CarReader, Chunks, Cid, Record, SourceError, links};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// A CAR whose blocks are on the nodes.
#[derive(Clone, Debug, Serialize)]
pub struct CarImported {
    /// Whether everything below every root is there.
    pub ok: bool,
    /// The file.
    pub file: PathBuf,
    /// Blocks in it, all of them stored.
    pub blocks: u64,
    /// Bytes in the blocks.
    pub size_bytes: u64,
    /// What became of each root.
    pub roots: Vec<CarRoot>,
}

/// A root of a CAR, after its import.
#[derive(Clone, Debug, Serialize)]
pub struct CarRoot {
    /// The root.
    pub root: String,
    /// What it is.
    pub kind: RootKind,
    /// Blocks that belong to it: the record, what is below it, and its wrap when it is anchored.
    pub blocks: u64,
    /// How many of them no node that was asked holds. Below an index node that is missing, all are.
    pub missing: u64,
    /// One of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_block: Option<String>,
    /// The leaf that anchored the record; absent when the log does not have it.
    pub anchored_index: Option<u64>,
    /// Log time of that.
    pub anchored_at: Option<String>,
}

/// What a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    /// A record with a good signature of its device.
    Record,
    /// Something else: what is below it is not looked for.
    Other,
    /// Not known: its block is on no node.
    Missing,
}

/// Puts the blocks of a CAR on the node that answers, each verified. Nothing is anchored: the blocks are those of
/// records that are, or will be.
///
/// The whole file is verified before anything is sent. Blocks that are there stay, corrupt ones are replaced: the
/// same import again is safe.
///
/// # Errors
///
/// When the file does not verify, or no node takes the blocks.
pub async fn import_car(session: &Session, file: &Path) -> Result<CarImported> {
    let path = file.to_owned();
    let roots = spawn_blocking(move || verify(&path))
        .await?
        .context("verify the car: nothing was sent")?;
    let stored = upload(session, file).await?;
    let source = Arc::new(NodesSource::new(session.client.clone()));
    let roots: Vec<CarRoot> = stream::iter(roots)
        .map(async |root| look(session, &source, &root).await)
        .buffered(ROOTS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(CarImported {
        ok: roots.iter().all(|root| root.missing == 0),
        file: file.to_owned(),
        blocks: stored.blocks,
        size_bytes: stored.size_bytes,
        roots,
    })
}

/// Reads the file to its end. Its roots, each once.
fn verify(path: &Path) -> Result<Vec<Cid>> {
    let roots = read(path, "checking", |_| true)?;
    let mut seen = BTreeSet::new();
    let roots = roots.into_iter().filter(|root| seen.insert(*root));
    Ok(roots.collect())
}

/// Reads the blocks of a file for as long as `take` wants them. Its roots.
fn read(path: &Path, what: &'static str, mut take: impl FnMut(Block) -> bool) -> Result<Vec<Cid>> {
    let context = || format!("read `{}`", path.display());
    let reader = File::open(path).with_context(context)?;
    let size = reader.metadata().with_context(context)?.len();
    let bar = progress::bytes(what, Some(size));
    let counted = Counted {
        reader,
        bar: bar.clone(),
    };
    let mut car = CarReader::new(counted).with_context(context)?;
    for block in &mut car {
        if !take(block.with_context(context)?) {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(car.roots().to_vec())
}

/// Reads the file again and sends its blocks as they are read.
async fn upload(session: &Session, file: &Path) -> Result<Stored> {
    let (sender, receiver) = mpsc::channel(BLOCKS_READ_AHEAD);
    let path = file.to_owned();
    let reader = spawn_blocking(move || {
        read(&path, "uploading", |block| {
            sender.blocking_send(block).is_ok()
        })
    });
    let blocks = stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    let stored = session.client.put(blocks).await;
    let stored = stored.context("store the blocks: the same import again is safe");
    // It fails when the file is not any more what was verified.
    reader.await.context("read the car")??;
    stored
}

/// What there is of a root on the nodes, and in the log.
async fn look(session: &Session, source: &Arc<NodesSource>, root: &Cid) -> Result<CarRoot> {
    let mut row = CarRoot {
        root: root.to_string(),
        kind: RootKind::Missing,
        blocks: 1,
        missing: 0,
        missing_block: None,
        anchored_index: None,
        anchored_at: None,
    };
    let Some(block) = fetch(source.as_ref(), root).await? else {
        row.lacks(1, root);
        return Ok(row);
    };
    let record = Record::from_block(&block).ok();
    let Some(record) = record.filter(|record| record.verify_signature().is_ok()) else {
        row.kind = RootKind::Other;
        return Ok(row);
    };
    row.kind = RootKind::Record;
    look_below(session, source.as_ref(), &record, &mut row).await?;
    match ProvedRecord::of(session, &record).await {
        Ok(proved) => {
            look_for(session, &[proved.wrap], &mut row).await?;
            row.anchored_index = Some(proved.leaf_index);
            row.anchored_at = Some(clock::rfc3339(proved.at_unix_ms));
        }
        Err(error) if is_not_found(&error) => (),
        Err(error) => {
            return Err(error.context(format!("look up record `{root}` in the log")));
        }
    }
    Ok(row)
}

/// Looks for the chunks and index nodes of a record.
async fn look_below(
    session: &Session,
    source: &dyn BlockSource,
    record: &Record,
    row: &mut CarRoot,
) -> Result<()> {
    let nodes = match record.chunks() {
        Chunks::Inline(_) => return Ok(()),
        Chunks::Links(chunks) => return look_for(session, chunks, row).await,
        Chunks::Index(nodes) => nodes,
    };
    let mut chunks_left = record.chunk_count();
    for node in nodes {
        row.blocks += 1;
        let chunks_of_node = chunks_left.min(CHUNKS_OF_A_NODE);
        chunks_left -= chunks_of_node;
        match fetch(source, node).await? {
            Some(block) => look_for(session, &links(&block)?, row).await?,
            None => {
                row.blocks += chunks_of_node;
                row.lacks(1 + chunks_of_node, node);
            }
        }
    }
    Ok(())
}

/// Counts these blocks, and those of them that no node has.
async fn look_for(session: &Session, cids: &[Cid], row: &mut CarRoot) -> Result<()> {
    row.blocks += u64::try_from(cids.len())?;
    let mut lacking = cids.to_vec();
    let mut failure = None;
    // An upload that one node began and another ended lies on both.
    for node in session.client.node_names() {
        let Some(client) = session.client.only(node).filter(|_| !lacking.is_empty()) else {
            break;
        };
        match client.has(&lacking).await {
            Ok(held) => {
                let mut held = held.into_iter();
                lacking.retain(|_| !held.next().unwrap_or(false));
            }
            Err(error) => failure = Some(error),
        }
    }
    match (lacking.first(), failure) {
        (None, _) => Ok(()),
        // It may be on the node that did not answer.
        (Some(_), Some(error)) => Err(error).context("ask which blocks the nodes hold"),
        (Some(first), None) => {
            row.lacks(u64::try_from(lacking.len())?, first);
            Ok(())
        }
    }
}

/// The block, or none when it is on no node.
async fn fetch(source: &dyn BlockSource, cid: &Cid) -> Result<Option<Block>> {
    match source.fetch(cid).await {
        Ok(block) => Ok(Some(block)),
        Err(SourceError::NotFound(_)) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("fetch block `{cid}`")),
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::NotFound(_)))
}

impl CarRoot {
    fn lacks(&mut self, blocks: u64, one: &Cid) {
        self.missing += blocks;
        self.missing_block.get_or_insert_with(|| one.to_string());
    }
}

impl fmt::Display for CarImported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stored    {} blocks, {} bytes, of {}",
            self.blocks,
            self.size_bytes,
            self.file.display()
        )?;
        self.roots.iter().try_for_each(|root| write!(f, "\n{root}"))
    }
}

impl fmt::Display for CarRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root      {}: ", self.root)?;
        match self.kind {
            RootKind::Missing => return f.write_str("it is neither in the file nor on a node"),
            RootKind::Other => return f.write_str("no record; its block is stored"),
            RootKind::Record => (),
        }
        match &self.missing_block {
            None => write!(f, "whole, {} blocks", self.blocks)?,
            Some(block) => write!(
                f,
                "{} of {} blocks are on no node, {block} for one",
                self.missing, self.blocks
            )?,
        }
        match (self.anchored_index, &self.anchored_at) {
            (Some(index), Some(at)) => write!(f, "; anchored, leaf {index} at {at}"),
            _ => f.write_str("; not anchored: the log does not have it"),
        }
    }
}

const BLOCKS_READ_AHEAD: usize = 8;
const ROOTS_AT_ONCE: usize = 4;
/// Links in a full index node.
const CHUNKS_OF_A_NODE: u64 = 1024;
