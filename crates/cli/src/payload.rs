use crate::{byte_range::chunks_of, files, progress::Transfer};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use medanchor_dag::{
    BlockSource, Chunks, Cid, ExportError, Hash, Record, fetch_chunk, named_chunks,
};
use medanchor_envelope::Opener;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// A payload, or a part of it, on its way into a file, block by block, each in its place as soon as it is there and
/// opened.
///
/// Until it is whole it is in `<CID>.partial` beside the file, a part in `<CID>.<A>-<B>.partial`. Nothing else is kept
/// of an attempt: what is in that file counts when it seals to the very block that the record names, so that a killed
/// process, a power loss or a damaged file costs the blocks that are not there, and nothing else.
pub(crate) struct Payload {
    record: Arc<Record>,
    opener: Opener,
    /// The bytes that are wanted, and the chunks that they are in. What these have before and after them is kept
    /// behind them until the end.
    bytes: Range<u64>,
    chunks: Range<u64>,
    /// Plaintext bytes in a full chunk.
    chunk_bytes: u64,
    file: File,
    path: PathBuf,
    /// Bytes in the file before.
    len_before: u64,
    /// Blocks fetched at one time, of all payloads.
    places: Arc<Semaphore>,
    transfer: Arc<Transfer>,
    fetched: AtomicU64,
}

/// A payload that is whole, in its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub(crate) sha256: Hash,
    /// Blocks that were fetched.
    pub(crate) blocks_fetched: u64,
    /// Blocks that an earlier attempt had fetched.
    pub(crate) blocks_kept: u64,
}

impl Payload {
    /// Goes on with what is in `folder` of this record's payload, or of these bytes of it. No other process writes it
    /// meanwhile.
    pub(crate) fn open(
        folder: &Path,
        record: Arc<Record>,
        part: Option<Range<u64>>,
        opener: Opener,
        places: Arc<Semaphore>,
        transfer: Arc<Transfer>,
    ) -> Result<Self> {
        let path = match &part {
            None => partial(folder, record.cid()),
            Some(part) => partial_of_part(folder, record.cid(), part),
        };
        let file = files::unfinished(&path)?;
        let chunk_bytes = opener.chunk_plaintext_bytes();
        let chunks = match &part {
            None => 0..record.chunk_count(),
            Some(part) => chunks_of(part, chunk_bytes),
        };
        Ok(Self {
            bytes: part.unwrap_or(0..record.size_bytes()),
            chunks,
            chunk_bytes,
            len_before: file
                .metadata()
                .with_context(|| format!("open `{}`", path.display()))?
                .len(),
            record,
            opener,
            file,
            path,
            places,
            transfer,
            fetched: AtomicU64::new(0),
        })
    }

    /// Fetches what is missing and makes it the file `output`, which must be in the same folder.
    pub(crate) async fn complete(
        self,
        source: Arc<dyn BlockSource>,
        output: &Path,
    ) -> Result<Whole> {
        let payload = Arc::new(self);
        payload.pieces(&source).await?;
        let output = output.to_owned();
        spawn_blocking(move || payload.finish(&output)).await?
    }

    async fn pieces(self: &Arc<Self>, source: &Arc<dyn BlockSource>) -> Result<()> {
        let named: BoxStream<'static, Result<(u64, Piece), ExportError>> =
            match self.record.chunks() {
                Chunks::Inline(sealed) => {
                    stream::iter([Ok((0, Piece::Inline(sealed.clone())))]).boxed()
                }
                _ => named_chunks(Arc::clone(source), &self.record, self.chunks.clone())
                    .map_ok(|(index, cid)| (index, Piece::Block(cid)))
                    .boxed(),
            };
        named
            .map(async |named| {
                let (index, piece) = named.context("fetch the payload")?;
                Arc::clone(self).place(source, index, piece).await
            })
            // A block that was fetched is written before another one is asked for in its stead.
            .buffer_unordered(WINDOW)
            .try_collect::<()>()
            .await
    }

    async fn place(
        self: Arc<Self>,
        source: &Arc<dyn BlockSource>,
        index: u64,
        piece: Piece,
    ) -> Result<()> {
        let place = Arc::clone(&self.places).acquire_owned().await?;
        let sealed = match piece {
            Piece::Inline(sealed) => sealed,
            Piece::Block(cid) => {
                let (len, this) = (self.plain_len(index), Arc::clone(&self));
                let [before, wanted] = self.sections(index);
                if before.end().max(wanted.end()) <= self.len_before
                    && spawn_blocking(move || this.holds(index, &cid)).await?
                {
                    self.transfer.kept(len);
                    return Ok(());
                }
                let fetched = fetch_chunk(source.as_ref(), &self.record, index, cid).await;
                let block = fetched.context("fetch the payload")?;
                self.fetched.fetch_add(1, Ordering::Relaxed);
                block.into_bytes()
            }
        };
        spawn_blocking(move || {
            let written = self.write(index, &sealed);
            drop(place);
            written
        })
        .await?
    }

    /// Whether the file has the chunk that this CID names in its place. One that cannot be read is not there.
    fn holds(&self, index: u64, cid: &Cid) -> bool {
        let Ok(digest) = <[u8; 32]>::try_from(cid.hash().digest()) else {
            return false;
        };
        let mut plain = vec![0; usize::try_from(self.plain_len(index)).unwrap_or(0)];
        let read = |section: Section| {
            let bytes = plain.get_mut(section.of_chunk).unwrap_or_default();
            self.file.read_exact_at(bytes, section.offset).is_ok()
        };
        self.sections(index).into_iter().all(read)
            && self
                .opener
                .is_chunk(index, self.is_last(index), &plain, &digest)
    }

    fn write(&self, index: u64, sealed: &[u8]) -> Result<()> {
        let opened = self.opener.open_chunk(index, self.is_last(index), sealed);
        let plain = opened.context("open the payload")?;
        for Section { of_chunk, offset } in self.sections(index) {
            let bytes = plain.get(of_chunk).unwrap_or_default();
            let written = self.file.write_all_at(bytes, offset);
            written.with_context(|| format!("write `{}`", self.path.display()))?;
        }
        self.transfer.came(u64::try_from(plain.len())?);
        Ok(())
    }

    /// Every chunk was opened in its place.
    fn finish(&self, output: &Path) -> Result<Whole> {
        let context = || format!("write `{}`", output.display());
        let size = self.bytes.end - self.bytes.start;
        self.file.set_len(size).with_context(context)?;
        let sha256 = sha256_of(&self.path)?;
        self.file.sync_all().with_context(context)?;
        // Commit point: the file appears whole.
        fs::rename(&self.path, output).with_context(context)?;
        files::sync_folder(folder_of(output)).with_context(context)?;
        let blocks = match self.record.chunks() {
            Chunks::Inline(_) => 0,
            _ => self.chunks.end - self.chunks.start,
        };
        let fetched = self.fetched.load(Ordering::Relaxed);
        Ok(Whole {
            sha256,
            blocks_fetched: fetched,
            blocks_kept: blocks.saturating_sub(fetched),
        })
    }

    fn is_last(&self, index: u64) -> bool {
        index.saturating_add(1) == self.record.chunk_count()
    }

    /// Where a chunk stands in the file: what is before the wanted bytes, behind the last chunk, and the rest in its
    /// place.
    fn sections(&self, index: u64) -> [Section; 2] {
        let (begin, len) = (self.begin(index), self.plain_len(index));
        let before = self.bytes.start.saturating_sub(begin).min(len);
        let last = self.chunks.end.saturating_sub(1);
        let end = self.begin(last).saturating_add(self.plain_len(last));
        let behind = end.saturating_sub(self.bytes.start);
        // A chunk fits into memory.
        let within = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        [
            Section {
                of_chunk: 0..within(before),
                offset: behind,
            },
            Section {
                of_chunk: within(before)..within(len),
                offset: begin.saturating_sub(self.bytes.start),
            },
        ]
    }

    /// The first byte of a chunk.
    fn begin(&self, index: u64) -> u64 {
        index.saturating_mul(self.chunk_bytes)
    }

    fn plain_len(&self, index: u64) -> u64 {
        let left = self.record.size_bytes().saturating_sub(self.begin(index));
        left.min(self.chunk_bytes)
    }
}

/// Bytes of a chunk, and where they stand in the file.
struct Section {
    of_chunk: Range<usize>,
    offset: u64,
}

impl Section {
    /// Where they end in the file.
    fn end(&self) -> u64 {
        let len = u64::try_from(self.of_chunk.len()).unwrap_or(u64::MAX);
        match len {
            0 => 0,
            len => self.offset.saturating_add(len),
        }
    }
}

/// A chunk, or where it is.
enum Piece {
    Inline(Bytes),
    Block(Cid),
}

/// Where a payload is until it is whole.
pub(crate) fn partial(folder: &Path, record: &Cid) -> PathBuf {
    folder.join(format!("{record}.partial"))
}

/// Where a part of it is until then.
fn partial_of_part(folder: &Path, record: &Cid, part: &Range<u64>) -> PathBuf {
    let (first, last) = (part.start, part.end.saturating_sub(1));
    folder.join(format!("{record}.{first}-{last}.partial"))
}

/// The folder that a file is in.
pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// SHA-256 of a file's content.
pub(crate) fn sha256_of(path: &Path) -> Result<Hash> {
    let context = || format!("read `{}`", path.display());
    let mut file = File::open(path).with_context(context)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer).with_context(context)?;
        match buffer.get(..read) {
            None | Some([]) => return Ok(Hash::new(hasher.finalize().into())),
            Some(read) => hasher.update(read),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Blocks of one payload that are fetched at one time.
const WINDOW: usize = 8;
const BUFFER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{self, BoxFuture};
    use medanchor_dag::{
        Block, BlockStore, Codec, Draft, MemoryStore, SigningKey, SourceError, import,
    };
    use medanchor_envelope::{Header, Identity, Sealer, Suite, Wrap};
    use std::sync::Mutex;

    #[tokio::test]
    async fn payload_that_is_cut_off_goes_on_with_every_block_that_came() {
        let sealed = Sealed::new(10 * CHUNK + 5);
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        // After four blocks nothing comes any more.
        let source = sealed.source(4);
        let stalled = sealed
            .payload(folder.path())
            .complete(source.clone(), &output);
        let written = async {
            while sealed.held(folder.path()) < 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = stalled => panic!("it has not everything"),
            () = written => (),
        }
        assert!(!output.exists());

        let source = sealed.source(usize::MAX);
        // The thread that wrote last may hold the file for a moment.
        let payload = loop {
            match sealed.open(folder.path()) {
                Ok(payload) => break payload,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let whole = payload.complete(source.clone(), &output).await.unwrap();
        assert_eq!((whole.blocks_kept, whole.blocks_fetched), (4, 7));
        assert_eq!(source.fetched.lock().unwrap().len(), 7);
        assert!(fs::read(&output).unwrap() == sealed.plain);
        assert_eq!(whole.sha256, Hash::of(&sealed.plain));
        assert!(!partial(folder.path(), sealed.record.cid()).exists());
    }

    #[tokio::test]
    async fn torn_damaged_and_foreign_bytes_are_fetched_again_and_no_others() {
        let sealed = Sealed::new(5 * CHUNK + 5);
        // What is in the file, and the chunks that are missing of it.
        let mut damaged = sealed.plain.clone();
        damaged[2 * CHUNK + 7] ^= 1;
        let mut holes = sealed.plain.clone();
        holes[..CHUNK].fill(0);
        holes[3 * CHUNK..4 * CHUNK].fill(0);
        let longer = [&sealed.plain[..], &[0; CHUNK]].concat();
        for (content, missing) in [
            (Vec::new(), vec![0, 1, 2, 3, 4, 5]),
            (sealed.plain.clone(), vec![]),
            (sealed.plain[..CHUNK].to_vec(), vec![1, 2, 3, 4, 5]),
            (sealed.plain[..2 * CHUNK - 1].to_vec(), vec![1, 2, 3, 4, 5]),
            (damaged, vec![2]),
            (holes, vec![0, 3]),
            (longer, vec![]),
            (vec![7; 6 * CHUNK], vec![0, 1, 2, 3, 4, 5]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(partial(folder.path(), sealed.record.cid()), content).unwrap();
            let (source, output) = (sealed.source(usize::MAX), folder.path().join("output"));
            let payload = sealed.payload(folder.path());
            payload.complete(source.clone(), &output).await.unwrap();
            let mut fetched = source.fetched.lock().unwrap().clone();
            fetched.sort_by_key(|cid| sealed.index_of(cid));
            let fetched: Vec<_> = fetched.iter().map(|cid| sealed.index_of(cid)).collect();
            assert_eq!(fetched, missing);
            assert!(fs::read(&output).unwrap() == sealed.plain);
        }
    }

    #[tokio::test]
    async fn part_of_a_payload_that_is_cut_off_goes_on_with_every_block_that_came() {
        let sealed = Sealed::new(6 * CHUNK + 5);
        let chunk = CHUNK as u64;
        // The part, the chunks that it has bytes of, and one of them of which the file then has a damaged byte.
        for (part, chunks, damaged) in [
            (0..1, 0..1, 0),
            (chunk - 1..chunk + 1, 0..2, 0),
            (chunk + 7..4 * chunk + 9, 1..5, 1),
            (chunk + 7..4 * chunk + 9, 1..5, 4),
            (2 * chunk..4 * chunk, 2..4, 3),
            (5 * chunk + 3..6 * chunk + 5, 5..7, 6),
            (0..6 * chunk + 5, 0..7, 2),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (output, wanted) = (folder.path().join("output"), part.clone());
            let path = partial_of_part(folder.path(), sealed.record.cid(), &part);
            let fetch = async || {
                let source = sealed.source(usize::MAX);
                let payload = sealed.open_part(folder.path(), Some(part.clone())).unwrap();
                let whole = payload.complete(source.clone(), &output).await.unwrap();
                let place = |at: u64| usize::try_from(at).unwrap();
                let of_part = place(wanted.start)..place(wanted.end);
                assert!(
                    fs::read(&output).unwrap() == sealed.plain[of_part],
                    "{wanted:?}"
                );
                assert!(!path.exists());
                let fetched: Vec<_> = source.fetched.lock().unwrap().clone();
                assert_eq!(whole.blocks_fetched, fetched.len() as u64);
                assert_eq!(
                    whole.blocks_kept + whole.blocks_fetched,
                    chunks.end - chunks.start
                );
                let mut fetched: Vec<_> = fetched
                    .iter()
                    .map(|cid| sealed.index_of(cid) as u64)
                    .collect();
                fetched.sort_unstable();
                fetched
            };
            assert_eq!(fetch().await, chunks.clone().collect::<Vec<_>>());

            // All of it came, and the process was killed before the end.
            let payload = sealed.open_part(folder.path(), Some(part.clone())).unwrap();
            let payload = Arc::new(payload);
            let source: Arc<dyn BlockSource> = sealed.source(usize::MAX);
            payload.pieces(&source).await.unwrap();
            drop(payload);
            assert_eq!(fetch().await, [0_u64; 0]);

            // The same, and a byte of one chunk is not what it was: its last one, which may be behind the part.
            let payload = Arc::new(sealed.open_part(folder.path(), Some(part.clone())).unwrap());
            payload.pieces(&source).await.unwrap();
            for section in payload.sections(damaged) {
                if section.end() > 0 {
                    let (mut byte, at) = ([0], section.end() - 1);
                    payload.file.read_exact_at(&mut byte, at).unwrap();
                    payload.file.write_all_at(&[byte[0] ^ 1], at).unwrap();
                }
            }
            drop(payload);
            assert_eq!(fetch().await, [damaged]);
        }
    }

    #[tokio::test]
    async fn payload_inside_its_record_and_an_empty_one_are_written_too() {
        for size in [0, 1, 9000] {
            let sealed = Sealed::new(size);
            let folder = tempfile::tempdir().unwrap();
            let output = folder.path().join("output");
            let payload = sealed.payload(folder.path());
            let whole = payload.complete(sealed.source(0), &output).await.unwrap();
            assert_eq!((whole.blocks_kept, whole.blocks_fetched), (0, 0));
            assert_eq!(fs::read(&output).unwrap(), sealed.plain);
        }
        let (sealed, folder) = (Sealed::new(9000), tempfile::tempdir().unwrap());
        let output = folder.path().join("output");
        let payload = sealed.open_part(folder.path(), Some(10..8999)).unwrap();
        payload.complete(sealed.source(0), &output).await.unwrap();
        assert_eq!(fs::read(&output).unwrap(), sealed.plain[10..8999]);
    }

    #[tokio::test]
    async fn block_of_another_key_never_reaches_the_file() {
        let (sealed, other) = (Sealed::new(2 * CHUNK), Sealed::new(2 * CHUNK));
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let places = Arc::new(Semaphore::new(8));
        let transfer = Arc::new(Transfer::new("fetching", 1));
        let record = Arc::clone(&other.record);
        let opener = sealed.opener();
        let payload = Payload::open(folder.path(), record, None, opener, places, transfer);
        let error = payload.unwrap().complete(other.source(usize::MAX), &output);
        let error = error.await.unwrap_err();
        assert_eq!(crate::Exit::of(&error), crate::Exit::NotVerified);
        assert!(!output.exists());
        let partial = partial(folder.path(), other.record.cid());
        assert_eq!(fs::metadata(partial).unwrap().len(), 0);
    }

    #[tokio::test]
    async fn two_processes_do_not_write_one_payload() {
        let (sealed, folder) = (Sealed::new(CHUNK), tempfile::tempdir().unwrap());
        let _first = sealed.payload(folder.path());
        assert!(sealed.open(folder.path()).is_err());
    }

    /// A sealed payload, its blocks, and the key to it.
    struct Sealed {
        plain: Vec<u8>,
        record: Arc<Record>,
        blocks: Arc<MemoryStore>,
        links: Vec<Cid>,
        wrap: Wrap,
        custody: Identity,
    }

    /// Gives its first blocks, and then none and no error either.
    struct Counting {
        blocks: Arc<MemoryStore>,
        gives: usize,
        fetched: Mutex<Vec<Cid>>,
    }

    impl BlockSource for Counting {
        fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
            Box::pin(async move {
                let gives = {
                    let mut fetched = self.fetched.lock().unwrap();
                    fetched.push(*cid);
                    fetched.len() <= self.gives
                };
                match gives {
                    true => self.blocks.fetch(cid).await,
                    false => future::pending().await,
                }
            })
        }
    }

    impl Sealed {
        fn new(size: usize) -> Self {
            let plain: Vec<u8> = (0..=250).cycle().take(size).collect();
            let device = SigningKey::from_seed(&[1; 32]);
            let did = device.did().to_string();
            let suite = Suite::ChaCha20Poly1305;
            let header = Header::new(suite, 16, [1; 16], &did, [2; 16], "other", 3).unwrap();
            let custody = Identity::generate().unwrap();
            let sealer = Sealer::new(header.clone()).unwrap();
            let (commitment, wrap) = (sealer.commitment(), sealer.wrap(&custody.recipient()));
            let mut sealed = sealer.seal(plain.as_slice());
            let blocks = Arc::new(MemoryStore::default());
            let keep = |block: Block| blocks.put(&[block]).map_err(std::io::Error::other);
            let chunks = import(&mut sealed, &mut { keep }).unwrap();
            let links = chunks.links().to_vec();
            let draft = Draft {
                header: header.to_bytes(),
                commitment,
                size: size as u64,
                chunks,
                meta: sealed.seal_metadata(b""),
                seq: 0,
                prev: None,
            };
            let record = Arc::new(draft.sign(&device).unwrap());
            assert!(links.iter().all(|link| link.codec() == Codec::Raw.code()));
            Self {
                plain,
                record,
                blocks,
                links,
                wrap,
                custody,
            }
        }

        fn opener(&self) -> Opener {
            let header = Header::from_bytes(&self.record.header_bytes()).unwrap();
            Opener::new(&self.wrap, &self.custody, &header, self.record.commitment()).unwrap()
        }

        fn open(&self, folder: &Path) -> Result<Payload> {
            self.open_part(folder, None)
        }

        fn open_part(&self, folder: &Path, part: Option<Range<u64>>) -> Result<Payload> {
            let (places, transfer) = (
                Arc::new(Semaphore::new(8)),
                Arc::new(Transfer::new("fetching", 1)),
            );
            let record = Arc::clone(&self.record);
            Payload::open(folder, record, part, self.opener(), places, transfer)
        }

        fn payload(&self, folder: &Path) -> Payload {
            self.open(folder).unwrap()
        }

        fn source(&self, gives: usize) -> Arc<Counting> {
            Arc::new(Counting {
                blocks: Arc::clone(&self.blocks),
                gives,
                fetched: Mutex::default(),
            })
        }

        fn index_of(&self, cid: &Cid) -> usize {
            self.links.iter().position(|link| link == cid).unwrap()
        }

        /// Chunks that are in the partial file.
        fn held(&self, folder: &Path) -> usize {
            let partial = fs::read(partial(folder, self.record.cid())).unwrap_or_default();
            let chunks = partial.chunks(CHUNK).zip(self.plain.chunks(CHUNK));
            chunks.filter(|(held, chunk)| held == chunk).count()
        }
    }

    /// Plaintext in a chunk at `chunk_log2` 16.
    const CHUNK: usize = 65_520;
}
