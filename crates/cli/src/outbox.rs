use crate::files;
use anyhow::{Context, Result};
use medanchor_dag::{Block, Codec, MAX_BLOCK_BYTES, Record, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

/// Sealed records that are not anchored yet, so that an interrupted upload sends exactly what was sealed:
/// a content key is gone when its process ends, and nothing is ever sealed under it again.
///
/// Each has a folder, named by the record's object id: `<oid>.sealing` until the record is signed, then
/// `<oid>`, and `<oid>.removing` from when it is anchored. `blocks` holds the blocks below the record, each as its codec (u8), length (u32, big-endian)
/// and bytes; `upload` is canonical DAG-CBOR `{ v, record, wrap, source? }`. `committed` is there once a node has
/// said that the record is in the log, and nothing has shown it yet.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(PathBuf);

/// A record that is being sealed.
#[derive(Debug)]
pub(crate) struct Sealing {
    sealing: PathBuf,
    sealed: PathBuf,
    blocks: BufWriter<File>,
}

/// A sealed record.
#[derive(Debug)]
pub(crate) struct Upload {
    folder: PathBuf,
    pub(crate) record: Record,
    pub(crate) wrap: Block,
    pub(crate) source: Option<SourceFile>,
    /// Whether a node says that it is anchored.
    pub(crate) committed: bool,
}

/// The file that was sealed, to know it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) modified_unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UploadFile {
    v: u8,
    record: ByteBuf,
    wrap: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<SourceFile>,
}

impl Outbox {
    /// Opens the outbox and removes what was never finished, or never wholly removed.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        let outbox = Self(folder);
        outbox.sweep(SEALING)?;
        outbox.sweep(REMOVING)?;
        Ok(outbox)
    }

    /// Removes what was never finished.
    pub(crate) fn sweep_unfinished(&self) -> Result<()> {
        self.sweep(SEALING)
    }

    fn sweep(&self, kind: &str) -> Result<()> {
        for folder in folders(&self.0)? {
            if folder.extension().is_some_and(|is| is == kind) {
                remove(&folder)?;
            }
        }
        Ok(())
    }

    /// The sealed records.
    pub(crate) fn uploads(&self) -> Result<Vec<Upload>> {
        let mut uploads = folders(&self.0)?
            .into_iter()
            .filter(|folder| folder.extension().is_none())
            .map(Upload::open)
            .collect::<Result<Vec<_>>>()?;
        uploads.sort_by_key(|upload| upload.record.seq());
        Ok(uploads)
    }

    /// Begins a record with this object id.
    pub(crate) fn begin(&self, oid: &[u8; 16]) -> io::Result<Sealing> {
        let sealed = self.0.join(hex::encode(oid));
        let sealing = sealed.with_extension(SEALING);
        files::create_folder(&sealing)?;
        let blocks = files::secret()
            .create_new(true)
            .open(sealing.join(BLOCKS))?;
        Ok(Sealing {
            sealing,
            sealed,
            blocks: BufWriter::with_capacity(BUFFER_BYTES, blocks),
        })
    }
}

impl Sealing {
    /// Keeps a block below the record.
    pub(crate) fn write(&mut self, block: &Block) -> io::Result<()> {
        let codec = u8::try_from(block.cid().codec()).map_err(io::Error::other)?;
        let len = u32::try_from(block.bytes().len()).map_err(io::Error::other)?;
        self.blocks.write_all(&[codec])?;
        self.blocks.write_all(&len.to_be_bytes())?;
        self.blocks.write_all(block.bytes())
    }

    /// The record is signed: from here it is sent as it is.
    pub(crate) fn commit(
        self,
        record: Record,
        wrap: Block,
        source: Option<SourceFile>,
    ) -> io::Result<Upload> {
        let blocks = self
            .blocks
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        blocks.sync_all()?;
        let file = UploadFile {
            v: 1,
            record: ByteBuf::from(record.to_block().bytes().to_vec()),
            wrap: ByteBuf::from(wrap.bytes().to_vec()),
            source: source.clone(),
        };
        files::create(&self.sealing.join(UPLOAD), &to_canonical(&file))?;
        // Commit point: before it the record does not exist, after it the record is sent until it is anchored.
        fs::rename(&self.sealing, &self.sealed)?;
        files::sync_folder(self.sealed.parent().unwrap_or(Path::new(".")))?;
        Ok(Upload {
            folder: self.sealed,
            record,
            wrap,
            source,
            committed: false,
        })
    }
}

impl Upload {
    fn open(folder: PathBuf) -> Result<Self> {
        let path = folder.join(UPLOAD);
        let bytes = files::read(&path, MAX_UPLOAD_BYTES)?;
        parse(folder, &bytes).with_context(|| format!("parse `{}`", path.display()))
    }

    /// The blocks below the record, in order.
    pub(crate) fn blocks(&self) -> Result<Blocks> {
        let path = self.folder.join(BLOCKS);
        let file = File::open(&path).with_context(|| format!("open `{}`", path.display()))?;
        Ok(Blocks(BufReader::with_capacity(BUFFER_BYTES, file)))
    }

    /// Takes note that a node says it is anchored. Only a receipt shows that, so it stays until there is one.
    pub(crate) fn set_committed(&self) -> Result<()> {
        files::replace(&self.folder.join(COMMITTED), b"").context("keep the record in the outbox")
    }

    /// It is anchored, as a receipt shows, or never will be.
    pub(crate) fn remove(self) -> Result<()> {
        let removing = self.folder.with_extension(REMOVING);
        // Commit point: a process that is killed while it removes the files leaves no half of an upload.
        fs::rename(&self.folder, &removing)
            .with_context(|| format!("rename `{}`", self.folder.display()))?;
        remove(&removing)
    }
}

/// The blocks of an upload.
#[derive(Debug)]
pub(crate) struct Blocks<R = BufReader<File>>(R);

impl<R: Read> Blocks<R> {
    fn read(&mut self) -> io::Result<Option<Block>> {
        let mut codec = [0];
        if self.0.read(&mut codec)? == 0 {
            return Ok(None);
        }
        let codec = match codec {
            [0x55] => Codec::Raw,
            [0x71] => Codec::DagCbor,
            _ => return Err(damaged()),
        };
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = usize::try_from(u32::from_be_bytes(len)).map_err(|_| damaged())?;
        if len > MAX_BLOCK_BYTES {
            return Err(damaged());
        }
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes)?;
        Block::new(codec, bytes).map(Some).map_err(io::Error::other)
    }
}

impl<R: Read> Iterator for Blocks<R> {
    type Item = io::Result<Block>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn parse(folder: PathBuf, bytes: &[u8]) -> Result<Upload> {
    let limit = usize::try_from(MAX_UPLOAD_BYTES)?;
    let file: UploadFile = from_canonical(bytes, limit)?;
    anyhow::ensure!(file.v == 1, "unsupported version {}", file.v);
    Ok(Upload {
        committed: folder.join(COMMITTED).exists(),
        folder,
        record: Record::from_bytes(file.record.into_vec())?,
        wrap: Block::new(Codec::DagCbor, file.wrap.into_vec())?,
        source: file.source,
    })
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        Ok(folders)
    };
    list().with_context(|| format!("list `{}`", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("remove `{}`", folder.display()))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "spooled block is damaged")
}

const SEALING: &str = "sealing";
const REMOVING: &str = "removing";
const BLOCKS: &str = "blocks";
const UPLOAD: &str = "upload";
const COMMITTED: &str = "committed";
const BUFFER_BYTES: usize = 1 << 20;
/// A record, a wrap and a path.
const MAX_UPLOAD_BYTES: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::testing::record;
    use medanchor_dag::StreamId;
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn committed_upload_is_found_again_with_its_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        let blocks = [
            Block::new(Codec::Raw, vec![1; 70_000]).unwrap(),
            Block::new(Codec::DagCbor, vec![0x80]).unwrap(),
        ];
        let mut sealing = outbox.begin(&[7; 16]).unwrap();
        for block in &blocks {
            sealing.write(block).unwrap();
        }
        let record = record(StreamId::new([1; 16]), 0, None);
        let wrap = Block::new(Codec::DagCbor, vec![0xa0]).unwrap();
        let source = SourceFile {
            path: "/data/ecg".to_owned(),
            size: 9,
            modified_unix_ms: 8,
        };
        sealing
            .commit(record.clone(), wrap.clone(), Some(source.clone()))
            .unwrap();

        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        let upload = outbox.uploads().unwrap().pop().unwrap();
        assert_eq!((&upload.record, &upload.wrap), (&record, &wrap));
        assert_eq!(upload.source.as_ref(), Some(&source));
        let read: Vec<Block> = upload.blocks().unwrap().map(Result::unwrap).collect();
        assert_eq!(read, blocks);
        assert!(!upload.committed);
        upload.set_committed().unwrap();
        let upload = outbox.uploads().unwrap().pop().unwrap();
        assert!(upload.committed);
        upload.remove().unwrap();
        assert!(outbox.uploads().unwrap().is_empty());
    }

    #[test]
    fn what_is_not_wholly_sealed_or_removed_is_no_upload_and_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        let sealing = outbox.begin(&[7; 16]).unwrap();
        drop(sealing);
        let removing = folder
            .path()
            .join(hex::encode([8; 16]))
            .with_extension(REMOVING);
        fs::create_dir(&removing).unwrap();
        fs::write(removing.join(BLOCKS), b"").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(outbox.uploads().unwrap().is_empty());
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        assert!(outbox.uploads().unwrap().is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    proptest! {
        #[test]
        fn spool_and_upload_parsers_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Blocks(bytes.as_slice()).take_while(Result::is_ok).count();
            prop_assert!(parse(PathBuf::new(), &bytes).is_err());
        }
    }
}
