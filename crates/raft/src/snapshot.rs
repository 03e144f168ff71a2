use crate::codec::{meta_from_pb, meta_to_pb};
use crate::error::{StoreError, database};
use crate::tables::definition;
use crate::types::SnapshotMeta;
use medanchor_anchor::{Row, Table};
use medanchor_api::pb::raft as pb;
use prost::Message;
use redb::{ReadTransaction, ReadableTable};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A snapshot that was read through once and found whole. Clones share the file, and each reader has a
/// place of its own in it.
///
/// Format, version 1 (integers big-endian):
///
/// ```text
/// "medanchor-snap\0" || 1
/// header: length(u32) || protobuf SnapshotHeader: last_log_id, membership_log_id, membership
/// row:    table(u8, from 1, in the order of Table::ALL) || length(u32) || key || length(u32) || value
/// end:    0(u8) || SHA-256 of all bytes before
/// ```
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    file: Arc<File>,
    size_bytes: u64,
    sha256: [u8; 32],
}

impl SnapshotFile {
    /// Reads the file through: every row, the hash at its end, and that nothing follows.
    pub(crate) fn verify(file: File) -> Result<(SnapshotMeta, Self), StoreError> {
        let file = Arc::new(file);
        let size_bytes = file.metadata()?.len();
        let mut rows = Rows::open(Arc::clone(&file))?;
        let mut last: Option<(Table, Vec<u8>)> = None;
        while let Some((table, (key, _))) = rows.next()? {
            let place = Some((table, key));
            if place <= last {
                return Err(StoreError::Snapshot("rows are not in order"));
            }
            last = place;
        }
        let meta = rows.meta.clone();
        let (length, sha256) = rows.finish()?;
        if length != size_bytes {
            return Err(StoreError::Snapshot("bytes follow its end"));
        }
        let snapshot = Self {
            file,
            size_bytes,
            sha256,
        };
        Ok((meta, snapshot))
    }

    /// An empty file that a snapshot may be put into.
    pub(crate) fn empty(file: File) -> Self {
        Self {
            file: Arc::new(file),
            size_bytes: 0,
            sha256: Sha256::digest([]).into(),
        }
    }

    /// Its length.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// SHA-256 of its bytes.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Its bytes from the first.
    pub(crate) fn reader(&self) -> FileReader {
        FileReader::new(Arc::clone(&self.file))
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> Result<Rows, StoreError> {
        Rows::open(Arc::clone(&self.file))
    }
}

/// Writes everything that `txn` sees. Memory use does not grow with the state.
pub(crate) fn write_snapshot(
    txn: &ReadTransaction,
    meta: &SnapshotMeta,
    file: &File,
) -> Result<(), StoreError> {
    let mut out = HashingWriter {
        inner: BufWriter::with_capacity(BUFFER_BYTES, file),
        hasher: Sha256::new(),
    };
    out.write_all(MAGIC)?;
    write_bytes(&mut out, &meta_to_pb(meta).encode_to_vec())?;
    for (tag, table) in (1_u8..).zip(Table::ALL) {
        let rows = txn.open_table(definition(table)).map_err(database)?;
        for row in rows.iter().map_err(database)? {
            let (key, value) = row.map_err(database)?;
            out.write_all(&[tag])?;
            write_bytes(&mut out, key.value())?;
            write_bytes(&mut out, value.value())?;
        }
    }
    out.write_all(&[END])?;
    let hash = out.hasher.clone().finalize();
    out.write_all(&hash)?;
    out.flush()?;
    Ok(())
}

/// The rows of a snapshot, in order.
pub(crate) struct Rows {
    pub(crate) meta: SnapshotMeta,
    input: HashingReader,
}

impl Rows {
    fn open(file: Arc<File>) -> Result<Self, StoreError> {
        let mut input = HashingReader {
            inner: BufReader::with_capacity(BUFFER_BYTES, FileReader::new(file)),
            hasher: Sha256::new(),
            length: 0,
        };
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(StoreError::Snapshot("not a snapshot of this version"));
        }
        let header = input.read_bytes(MAX_HEADER_BYTES)?;
        let header =
            pb::SnapshotHeader::decode(header.as_slice()).map_err(crate::CodecError::from)?;
        Ok(Self {
            meta: meta_from_pb(&header)?,
            input,
        })
    }

    /// The next row; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(Table, Row)>, StoreError> {
        let mut tag = [0];
        self.input.read_exact(&mut tag)?;
        let [tag] = tag;
        let Some(place) = tag.checked_sub(1) else {
            return Ok(None);
        };
        let table = Table::ALL
            .get(usize::from(place))
            .ok_or(StoreError::Snapshot("row of an unknown table"))?;
        let key = self.input.read_bytes(MAX_KEY_BYTES)?;
        let value = self.input.read_bytes(MAX_VALUE_BYTES)?;
        Ok(Some((*table, (key, value))))
    }

    /// After the last row: length and hash of the whole file.
    fn finish(mut self) -> Result<(u64, [u8; 32]), StoreError> {
        let expected: [u8; 32] = self.input.hasher.clone().finalize().into();
        let mut found = [0; 32];
        self.input.read_exact(&mut found)?;
        if found != expected {
            return Err(StoreError::Snapshot("hash differs"));
        }
        Ok((self.input.length, self.input.hasher.finalize().into()))
    }
}

/// Reads a shared file from a place of its own.
pub(crate) struct FileReader {
    file: Arc<File>,
    offset: u64,
}

impl FileReader {
    fn new(file: Arc<File>) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

struct HashingReader {
    inner: BufReader<FileReader>,
    hasher: Sha256,
    length: u64,
}

impl HashingReader {
    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(buffer)?;
        self.hasher.update(&*buffer);
        self.length = self.length.saturating_add(buffer.len() as u64);
        Ok(())
    }

    fn read_bytes(&mut self, limit: u32) -> Result<Vec<u8>, StoreError> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > limit {
            return Err(StoreError::Snapshot("a value is too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> Result<(), StoreError> {
    let length =
        u32::try_from(bytes.len()).map_err(|_| StoreError::Snapshot("a value is too long"))?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(bytes)?;
    Ok(())
}

const MAGIC: &[u8; 16] = b"medanchor-snap\0\x01";
const END: u8 = 0;
const BUFFER_BYTES: usize = 256 * 1024;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
const MAX_KEY_BYTES: u32 = 4 * 1024;
const MAX_VALUE_BYTES: u32 = 16 * 1024 * 1024;
