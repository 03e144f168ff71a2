use crate::{
    CliError,
    fsck_state::{FsckState, VerifiedPart},
    home::Home,
    lines::Lines,
    log_access::{AT_ONCE, LogAccess, LogServer, LogSource, Met, prove_growth},
    progress::{self, Counter},
    signals,
};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, stream};
use medanchor_anchor::{Checkpoint, Leaf, LeafIndex, Recomputed, Tile, TileKind, tree};
use medanchor_api::{LogReadError, LogReader};
use medanchor_dag::Hash;
use serde::Serialize;
use std::{fmt, time::Duration};

/// A log that was recomputed whole.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// Who served it.
    pub server: String,
    /// The network's name.
    pub origin: String,
    /// Leaves recomputed.
    pub tree_size: u64,
    /// The root that they make, and that the checkpoint names.
    pub root: String,
    /// Leaves of these that an earlier run had recomputed before it was interrupted.
    pub resumed_from: u64,
    /// Entry bundles and hash tiles read.
    pub pieces: u64,
    /// Bytes read.
    pub size_bytes: u64,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// False.
    pub ok: bool,
    /// Where: the path of a piece.
    pub at: String,
    /// The first leaf that it concerns.
    pub leaf_index: u64,
    /// What.
    pub problem: String,
}

/// Recomputes a log from its entries, and compares every tile and the checkpoint with what they make. It
/// reads as any auditor does and asks for nothing else. Memory does not grow with the log.
///
/// A run that is interrupted, even by SIGKILL, is taken up by the next one at the same server under the same
/// policy, unless `afresh`: what it had verified is proved to be part of the checkpoint that the server shows now.
///
/// # Errors
///
/// When something does not verify: each is printed on `lines`, and the error says what follows. When it is
/// interrupted.
pub(crate) async fn fsck(
    home: &Home,
    source: &LogSource,
    afresh: bool,
    lines: &mut Lines<'_>,
) -> Result<Checked> {
    let access = LogAccess::open(home, source)?;
    let (server, met) = access.meet_any().await?;
    let checkpoint = &met.checked.checkpoint;
    let state = FsckState::new(
        &access.known(&checkpoint.origin)?,
        &checkpoint.origin,
        &server.reader.url(""),
        &access.policy,
    );
    if afresh {
        state.forget()?;
    }
    let part = resumable(&state, server, &met).await?;
    let resumed_from = part.tree.size();
    let counter = Counter::new("leaves", resumed_from, checkpoint.size);
    let mut audit = Audit::new(
        &server.reader,
        checkpoint.size,
        part,
        &state,
        lines,
        counter,
    );
    let interrupted = signals::interrupted()?;
    let ended = tokio::select! {
        ended = audit.run() => ended,
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    audit.counter.finish();
    if let Err(error) = ended {
        return Err(audit.stop(error));
    }
    state.forget()?;
    audit.judge(server, &checkpoint.root)?;
    Ok(Checked {
        server: server.name.clone(),
        origin: checkpoint.origin.clone(),
        tree_size: checkpoint.size,
        root: checkpoint.root.to_string(),
        resumed_from,
        pieces: audit.pieces,
        size_bytes: audit.size_bytes,
    })
}

/// What an earlier run had verified, when the checkpoint's log begins with it; otherwise nothing.
async fn resumable(state: &FsckState, server: &LogServer, met: &Met) -> Result<VerifiedPart> {
    let checkpoint = &met.checked.checkpoint;
    let part = match state.read() {
        Ok(None) => return Ok(VerifiedPart::default()),
        Ok(Some(part)) => part,
        Err(error) => {
            progress::note(&format!("begins afresh: {error:#}"));
            return Ok(VerifiedPart::default());
        }
    };
    let size = part.tree.size();
    let old = Checkpoint {
        origin: checkpoint.origin.clone(),
        size,
        root: part.tree.root(),
    };
    // The root commits to every hash of the edge, and the checkpoint to the root.
    let proved = match size <= checkpoint.size {
        true => prove_growth(&server.reader, &old, checkpoint).await,
        false => Err(anyhow::anyhow!(
            "`{}` shows {} leaves",
            server.name,
            checkpoint.size
        )),
    };
    Ok(match proved {
        Ok(_) => {
            progress::note(&format!(
                "goes on after {size} leaves that an earlier run verified"
            ));
            part
        }
        Err(error) if unavailable(&error) => return Err(error),
        Err(error) => {
            progress::note(&format!(
                "begins afresh: the {size} leaves of an earlier run are not shown to be of this log: {error:#}"
            ));
            VerifiedPart::default()
        }
    })
}

fn unavailable(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| matches!(cause.downcast_ref(), Some(LogReadError::Unavailable { .. })))
}

/// Two trees: what the entries make, and what the tiles of their hashes make. When something differs, the
/// checkpoint tells which of them is right.
struct Audit<'a, 'l> {
    reader: &'a LogReader,
    size: u64,
    by_entries: Recomputed,
    by_tiles: Recomputed,
    last_at: u64,
    found: u64,
    pieces: u64,
    size_bytes: u64,
    /// Up to where nothing was wrong, and how much of that is kept on disk.
    verified: VerifiedPart,
    kept: u64,
    state: &'a FsckState,
    lines: &'a mut Lines<'l>,
    counter: Counter,
}

/// The first `width` leaves from a multiple of 256 on: their entries and their hashes, as they were served.
struct Chunk {
    entries: (Tile, Result<Bytes, LogReadError>),
    hashes: (Tile, Result<Bytes, LogReadError>),
}

impl<'a, 'l> Audit<'a, 'l> {
    fn new(
        reader: &'a LogReader,
        size: u64,
        verified: VerifiedPart,
        state: &'a FsckState,
        lines: &'a mut Lines<'l>,
        counter: Counter,
    ) -> Self {
        Self {
            reader,
            size,
            by_entries: verified.tree.clone(),
            by_tiles: verified.tree.clone(),
            last_at: verified.last_at,
            found: 0,
            pieces: verified.pieces,
            size_bytes: verified.size_bytes,
            kept: verified.tree.size(),
            verified,
            state,
            lines,
            counter,
        }
    }

    async fn run(&mut self) -> Result<()> {
        let (reader, size) = (self.reader, self.size);
        let chunks = (self.verified.tree.size()..size).step_by(usize::from(Tile::FULL));
        let mut chunks = stream::iter(chunks)
            .map(|first| fetch(reader, first, size))
            .buffered(AT_ONCE);
        while let Some(chunk) = chunks.next().await {
            let above = self.add(chunk?)?;
            self.compare_above(above).await?;
            self.set_verified();
            if self.verified.tree.size() >= self.kept + KEEP_EVERY {
                self.keep()?;
            }
        }
        let partial = self.by_tiles.partial_tiles();
        self.compare_above(partial).await
    }

    /// Takes note of what is whole and right so far: after the first problem, nothing more.
    fn set_verified(&mut self) {
        let whole = self.by_entries.size().is_multiple_of(u64::from(Tile::FULL));
        if whole && self.found == 0 && self.by_entries == self.by_tiles {
            self.verified = VerifiedPart {
                tree: self.by_entries.clone(),
                last_at: self.last_at,
                pieces: self.pieces,
                size_bytes: self.size_bytes,
            };
        }
    }

    fn keep(&mut self) -> Result<()> {
        self.state.keep(&self.verified)?;
        self.kept = self.verified.tree.size();
        Ok(())
    }

    /// Keeps what was verified when the audit cannot go on.
    fn stop(mut self, error: anyhow::Error) -> anyhow::Error {
        let verified = self.verified.tree.size();
        if verified == 0 {
            return error;
        }
        match self.keep() {
            Ok(()) => error.context(format!(
                "stopped after {verified} of {} leaves; the next run goes on from there",
                self.size
            )),
            Err(unkept) => error.context(format!("{unkept:#}")),
        }
    }

    /// Adds a chunk to both trees, and gives the tiles above it that are complete now.
    fn add(&mut self, chunk: Chunk) -> Result<Vec<(Tile, Vec<Hash>)>> {
        let by_entries = self.entry_hashes(chunk.entries)?;
        let by_tile = self.tile_hashes(chunk.hashes.0, chunk.hashes.1)?;
        let tile = chunk.hashes.0;
        if let (Some(entries), Some(hashes)) = (&by_entries, &by_tile) {
            self.compare(&tile, hashes, entries, "the hash of the entry there")?;
        }
        // Where one of them cannot be read, the other one stands in, and the roots tell.
        let unknown = || vec![tree::empty_root(); usize::from(tile.width())];
        let entries = by_entries
            .or_else(|| by_tile.clone())
            .unwrap_or_else(unknown);
        let hashes = by_tile.unwrap_or_else(|| entries.clone());
        for hash in entries {
            self.by_entries.push(hash);
        }
        let mut above = Vec::new();
        for hash in hashes {
            above.extend(self.by_tiles.push(hash));
        }
        self.counter.set(self.by_entries.size());
        Ok(above)
    }

    /// The hashes of the entries in a bundle; `None` when it is no bundle.
    fn entry_hashes(
        &mut self,
        (tile, bytes): (Tile, Result<Bytes, LogReadError>),
    ) -> Result<Option<Vec<Hash>>> {
        let Some(bytes) = self.read(&tile, bytes)? else {
            return Ok(None);
        };
        let Ok(entries) = tile.entries(&bytes) else {
            let problem = format!("{} bytes are not {} entries", bytes.len(), tile.width());
            self.find(&tile, tile.first(), problem)?;
            return Ok(None);
        };
        for (index, entry) in (tile.first()..).zip(&entries) {
            self.check_leaf(&tile, index, entry)?;
        }
        let hashes = entries.iter().map(|entry| tree::leaf_hash(entry));
        Ok(Some(hashes.collect()))
    }

    fn check_leaf(&mut self, tile: &Tile, index: LeafIndex, entry: &[u8]) -> Result<()> {
        match Leaf::from_bytes(entry) {
            Ok(leaf) if leaf.at < self.last_at => self.find(
                tile,
                index,
                "the leaf is older than the one before".to_owned(),
            ),
            Ok(leaf) => {
                self.last_at = leaf.at;
                Ok(())
            }
            Err(error) => self.find(tile, index, format!("the entry is not a leaf: {error}")),
        }
    }

    fn tile_hashes(
        &mut self,
        tile: Tile,
        bytes: Result<Bytes, LogReadError>,
    ) -> Result<Option<Vec<Hash>>> {
        let Some(bytes) = self.read(&tile, bytes)? else {
            return Ok(None);
        };
        match tile.hashes(&bytes) {
            Ok(hashes) => Ok(Some(hashes)),
            Err(_) => {
                let problem = format!("{} bytes are not {} hashes", bytes.len(), tile.width());
                self.find(&tile, first_leaf(&tile, 0), problem)?;
                Ok(None)
            }
        }
    }

    /// The tiles above level 0 must be what those below them make.
    async fn compare_above(&mut self, tiles: Vec<(Tile, Vec<Hash>)>) -> Result<()> {
        for (tile, expected) in tiles {
            if tile.kind() == TileKind::Hashes(0) {
                continue;
            }
            let bytes = read(self.reader, &tile).await;
            if let Some(hashes) = self.tile_hashes(tile, bytes)? {
                self.compare(&tile, &hashes, &expected, "what the tiles below make")?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, tile: &Tile, given: &[Hash], made: &[Hash], what: &str) -> Result<()> {
        let differs = |(given, made): (&Hash, &Hash)| given != made;
        let mut pairs = given.iter().zip(made);
        let Some(number) = pairs.position(differs) else {
            return Ok(());
        };
        let more = pairs.filter(|pair| differs(*pair)).count();
        let more = match more {
            0 => String::new(),
            more => format!(", nor are {more} more after it"),
        };
        let index = first_leaf(tile, u64::try_from(number)?);
        self.find(tile, index, format!("hash {number} is not {what}{more}"))
    }

    /// The bytes of a piece; `None` when it is not there. A server that cannot answer ends the audit.
    fn read(&mut self, tile: &Tile, bytes: Result<Bytes, LogReadError>) -> Result<Option<Bytes>> {
        match bytes {
            Ok(bytes) => {
                self.pieces += 1;
                self.size_bytes += u64::try_from(bytes.len())?;
                Ok(Some(bytes))
            }
            Err(LogReadError::NotFound(_)) => {
                self.find(tile, first_leaf(tile, 0), "it is missing".to_owned())?;
                Ok(None)
            }
            Err(error) => Err(error).context("read the log"),
        }
    }

    fn find(&mut self, tile: &Tile, leaf_index: u64, problem: String) -> Result<()> {
        self.found += 1;
        if self.found > MAX_PRINTED {
            return Ok(());
        }
        let finding = Finding {
            ok: false,
            at: tile.to_string(),
            leaf_index,
            problem,
        };
        self.counter.suspend(|| self.lines.print(&finding))
    }

    /// What the roots say of everything that was found.
    fn judge(&self, server: &LogServer, root: &Hash) -> Result<()> {
        let entries = self.by_entries.root() == *root;
        let tiles = self.by_tiles.root() == *root;
        let what = match (entries, tiles, self.found) {
            (true, true, 0) => return Ok(()),
            (true, true, _) => {
                "whatever else was read makes the checkpoint's root: only what is named is wrong"
            }
            (true, false, _) => {
                "the entries make the checkpoint's root: what differs from them is wrong"
            }
            (false, true, _) => {
                "the hash tiles make the checkpoint's root, the entries do not: they were changed"
            }
            (false, false, 0) => {
                "entries and hash tiles agree, and the checkpoint's root is another: it is of another log"
            }
            (false, false, _) => {
                "neither the entries nor the hash tiles make the checkpoint's root"
            }
        };
        let found = match self.found {
            1 => "1 problem".to_owned(),
            found => format!("{found} problems"),
        };
        let problem = format!(
            "the log of `{}` does not verify: {found}; {what}",
            server.name
        );
        Err(CliError::NotVerified(problem).into())
    }
}

async fn fetch(reader: &LogReader, first: u64, size: u64) -> Result<Chunk> {
    let piece = |kind| Tile::holding(kind, first, size).context("find a piece of the log");
    let (entries, hashes) = (piece(TileKind::Entries)?, piece(TileKind::Hashes(0))?);
    let (read_entries, read_hashes) = tokio::join!(read(reader, &entries), read(reader, &hashes));
    Ok(Chunk {
        entries: (entries, read_entries),
        hashes: (hashes, read_hashes),
    })
}

/// Tries again when the server does not answer: a long audit must outlast a restart.
async fn read(reader: &LogReader, tile: &Tile) -> Result<Bytes, LogReadError> {
    for pause in PAUSES {
        match reader.tile(tile).await {
            Err(LogReadError::Unavailable { .. }) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
    }
    reader.tile(tile).await
}

/// The first leaf below a hash of a tile.
fn first_leaf(tile: &Tile, number: u64) -> LeafIndex {
    let at = tile.first() + number;
    match tile.kind() {
        TileKind::Entries => at,
        TileKind::Hashes(level) => at << (8 * u32::from(level)).min(63),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, leaf {}: {}", self.at, self.leaf_index, self.problem)
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verified  {} leaves of {}", self.tree_size, self.origin)?;
        writeln!(f, "root      {}", self.root)?;
        if self.resumed_from > 0 {
            writeln!(f, "resumed   after {} of them", self.resumed_from)?;
        }
        write!(
            f,
            "read      {} pieces, {} bytes, from {}",
            self.pieces, self.size_bytes, self.server
        )
    }
}

/// Leaves between writes of what is verified: what a crash costs at most.
const KEEP_EVERY: u64 = 16_384;
/// What is found beyond this is only counted.
const MAX_PRINTED: u64 = 100;
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
