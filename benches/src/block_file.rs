use anyhow::{Context, Result};
use futures::{FutureExt, future::BoxFuture};
use medanchor_dag::{Block, BlockSource, Cid, SourceError, StoreError};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt,
    path::Path,
};

/// Blocks one after the other in one file of a folder, as `medanchor put` spools them, and a second file that
/// says where each is. Not synced: as durable as what `age` writes.
#[derive(Debug)]
pub(crate) struct BlockFile {
    file: File,
    len: u64,
    /// Where each block begins, and its length.
    places: BTreeMap<Cid, (u64, usize)>,
}

impl BlockFile {
    /// Begins one in this folder, which is made.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).context("create the folder")?;
        Ok(Self {
            file: File::create(folder.join(BLOCKS)).context("create the file of blocks")?,
            len: 0,
            places: BTreeMap::new(),
        })
    }

    /// Appends a block.
    pub(crate) fn put(&mut self, block: &Block) -> io::Result<()> {
        self.file.write_all(block.bytes())?;
        let len = block.bytes().len();
        self.places.insert(*block.cid(), (self.len, len));
        self.len += u64::try_from(len).map_err(io::Error::other)?;
        Ok(())
    }

    /// Writes where the blocks are.
    pub(crate) fn finish(self, folder: &Path) -> Result<()> {
        let mut text = String::new();
        for (cid, (start, len)) in &self.places {
            writeln!(text, "{cid} {start} {len}")?;
        }
        fs::write(folder.join(PLACES), text).context("write where the blocks are")
    }

    /// Opens one again, to read.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let text = fs::read_to_string(folder.join(PLACES)).context("read where the blocks are")?;
        let mut places = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split(' ');
            let mut next = || fields.next().context("a field is missing");
            let cid = Cid::try_from(next()?)?;
            places.insert(cid, (next()?.parse()?, next()?.parse()?));
        }
        Ok(Self {
            file: File::open(folder.join(BLOCKS)).context("open the file of blocks")?,
            len: 0,
            places,
        })
    }

    /// Reads a block and checks it.
    pub(crate) fn block(&self, cid: &Cid) -> Result<Block, SourceError> {
        let (start, len) = self.places.get(cid).ok_or(SourceError::NotFound(*cid))?;
        let mut bytes = vec![0; *len];
        self.file
            .read_exact_at(&mut bytes, *start)
            .map_err(|error| StoreError::Io(error.into()))?;
        Ok(Block::verify(*cid, bytes).map_err(StoreError::from)?)
    }
}

impl BlockSource for BlockFile {
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        async move { self.block(cid) }.boxed()
    }
}

const BLOCKS: &str = "blocks";
const PLACES: &str = "places";
