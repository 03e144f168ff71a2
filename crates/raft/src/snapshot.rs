use crate::codec::{meta_from_pb, meta_to_pb};
use crate::error::StoreError;
use crate::tables::ReadTables;
use crate::types::SnapshotMeta;
use medanchor_anchor::{Digested, Row, StateDigest, Table, View};
use medanchor_api::pb::raft as pb;
use medanchor_dag::{Hash, from_canonical, to_canonical};
use prost::Message;
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
///
/// That is its content, the same on every replica. In a file with a name the state digests that stand for it
/// follow: canonical DAG-CBOR list of state digests || its length(u32).
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    file: Arc<File>,
    /// What its content is.
    said: Digested,
    /// The state digests that certify it. None: not certified.
    certificate: Vec<StateDigest>,
}

impl SnapshotFile {
    /// Reads the file through: every row, the hash at the content's end, and that nothing but a certificate
    /// follows. Who signed that is not checked.
    pub(crate) fn verify(file: File) -> Result<(SnapshotMeta, Self), StoreError> {
        let file = Arc::new(file);
        let mut rows = Rows::open(Arc::clone(&file))?;
        let mut last: Option<(Table, Vec<u8>)> = None;
        while let Some((table, (key, _))) = rows.next()? {
            let place = Some((table, key));
            if place <= last {
                return Err(StoreError::Snapshot("rows are not in order"));
            }
            last = place;
        }
        let (meta, tree_size) = (rows.meta.clone(), rows.tree_size);
        let (size, sha256) = rows.finish()?;
        let entry = meta.last_log_id.unwrap_or_default();
        let said = Digested {
            index: entry.index,
            term: entry.leader_id.term,
            tree_size,
            digest: Hash::new(sha256),
            size,
        };
        let length = file.metadata()?.len();
        let certificate = match length.checked_sub(size) {
            None | Some(0) => Vec::new(),
            Some(trailer) => read_certificate(&file, length, trailer)?,
        };
        if certificate.iter().any(|digest| digest.said() != said) {
            return Err(StoreError::Snapshot("its certificate is another one's"));
        }
        let snapshot = Self {
            file,
            said,
            certificate,
        };
        Ok((meta, snapshot))
    }

    /// A file of this replica's own, of which only the beginning and the end are read: it was read through
    /// before it got its name, and whoever takes it reads it through again. So a node starts as fast however
    /// large its state is.
    pub(crate) fn open(file: File) -> Result<(SnapshotMeta, Self), StoreError> {
        let file = Arc::new(file);
        let length = file.metadata()?.len();
        let trailer = trailer_bytes(&file, length)?;
        let certificate = read_certificate(&file, length, trailer)?;
        let rows = Rows::open(Arc::clone(&file))?;
        let entry = rows.meta.last_log_id.unwrap_or_default();
        let said = certificate.first().map(StateDigest::said);
        let said = said.filter(|said| {
            let expected = (length.checked_sub(trailer), rows.tree_size, entry.index);
            (Some(said.size), said.tree_size, said.index) == expected
        });
        match said {
            Some(said) if certificate.iter().all(|digest| digest.said() == said) => Ok((
                rows.meta,
                Self {
                    file,
                    said,
                    certificate,
                },
            )),
            _ => Err(StoreError::Snapshot("its certificate is another one's")),
        }
    }

    /// Reads it through, as [`SnapshotFile::verify`] does.
    pub(crate) fn verify_again(&self) -> Result<(), StoreError> {
        let (_, found) = Self::verify(self.file.try_clone()?)?;
        if found.said == self.said {
            Ok(())
        } else {
            Err(StoreError::Snapshot("it is not what was written"))
        }
    }

    /// A file that holds no snapshot, to put one into.
    pub(crate) fn empty(file: File) -> Self {
        Self {
            file: Arc::new(file),
            said: Digested {
                index: 0,
                term: 0,
                tree_size: 0,
                digest: Hash::of(&[]),
                size: 0,
            },
            certificate: Vec::new(),
        }
    }

    /// With this certificate, which says what its content is.
    pub(crate) fn certified(self, certificate: Vec<StateDigest>) -> Self {
        Self {
            certificate,
            ..self
        }
    }

    /// What its content is.
    pub(crate) fn said(&self) -> Digested {
        self.said
    }

    /// The state digests that certify it. None: not certified.
    pub(crate) fn certificate(&self) -> &[StateDigest] {
        &self.certificate
    }

    /// Its content from the first byte.
    pub(crate) fn content(&self) -> impl Read + Send + use<> {
        FileReader::new(Arc::clone(&self.file)).take(self.said.size)
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> File {
        self.file.try_clone().expect("the file is open")
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> Result<Rows, StoreError> {
        Rows::open(Arc::clone(&self.file))
    }
}

/// Writes the certificate behind a content of `size` bytes.
pub(crate) fn write_certificate(
    certificate: &[StateDigest],
    size: u64,
    file: &File,
) -> Result<(), StoreError> {
    let mut trailer = to_canonical(&certificate);
    let length =
        u32::try_from(trailer.len()).map_err(|_| StoreError::Snapshot("a value is too long"))?;
    trailer.extend_from_slice(&length.to_be_bytes());
    file.set_len(size)?;
    file.write_all_at(&trailer, size)?;
    Ok(())
}

/// Length of what follows the content in a file of `length` bytes, as its end says.
fn trailer_bytes(file: &File, length: u64) -> Result<u64, StoreError> {
    let mut announced = [0; 4];
    let at = length
        .checked_sub(4)
        .ok_or(StoreError::Snapshot("its certificate is damaged"))?;
    file.read_exact_at(&mut announced, at)?;
    Ok(u64::from(u32::from_be_bytes(announced)).saturating_add(4))
}

/// The certificate in the last `trailer` bytes of a file of `length` bytes.
fn read_certificate(
    file: &File,
    length: u64,
    trailer: u64,
) -> Result<Vec<StateDigest>, StoreError> {
    let damaged = || StoreError::Snapshot("its certificate is damaged");
    let from = length.checked_sub(trailer).ok_or_else(damaged)?;
    if trailer > MAX_CERTIFICATE_BYTES || trailer_bytes(file, length)? != trailer {
        return Err(damaged());
    }
    let size = usize::try_from(trailer.saturating_sub(4)).map_err(|_| damaged())?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, from)?;
    from_canonical(&bytes, bytes.len()).map_err(|_| damaged())
}

/// Writes everything that `view` sees, where the log has `tree_size` leaves. Memory use does not grow with the
/// state.
pub(crate) fn write_snapshot(
    view: &ReadTables,
    tree_size: u64,
    file: &File,
) -> Result<(), StoreError> {
    let mut out = HashingWriter {
        inner: BufWriter::with_capacity(BUFFER_BYTES, file),
        hasher: Sha256::new(),
    };
    out.write_all(MAGIC)?;
    let header = pb::SnapshotHeader {
        tree_size,
        ..meta_to_pb(&view.position.meta())
    };
    write_bytes(&mut out, &header.encode_to_vec())?;
    for (tag, table) in (1_u8..).zip(Table::ALL) {
        let mut page = view.range(table, &[], None, PAGE_ROWS)?;
        while let Some((last, _)) = page.last() {
            let from = [last.as_slice(), &[0]].concat();
            for (key, value) in &page {
                out.write_all(&[tag])?;
                write_bytes(&mut out, key)?;
                write_bytes(&mut out, value)?;
            }
            page = view.range(table, &from, None, PAGE_ROWS)?;
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
    meta: SnapshotMeta,
    tree_size: u64,
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
            tree_size: header.tree_size,
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

    /// After the last row: length and hash of the whole content.
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
struct FileReader {
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
/// Rows that are read at once: readers and the writer of the state wait for each other that long.
const PAGE_ROWS: usize = 256;
const BUFFER_BYTES: usize = 256 * 1024;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// The members' state digests.
const MAX_CERTIFICATE_BYTES: u64 = 64 * 1024;
const MAX_KEY_BYTES: u32 = 4 * 1024;
const MAX_VALUE_BYTES: u32 = 16 * 1024 * 1024;
