//! The log in pieces that never change (<https://c2sp.org/tlog-tiles>): hash tiles of 256 hashes, 8 levels
//! apart, and bundles of 256 entries. A node serves them from its tables; whoever has them can prove every
//! leaf, and recompute the whole log.

use crate::{Table, TablesError, View, checkpoint::parse_decimal, tree};
use medanchor_dag::Hash;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// One piece: which, and how much of it. Its text is the path that it is served under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// What a piece holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TileKind {
    /// Leaves, each as its length (u16) and its bytes.
    Entries,
    /// Hashes of complete subtrees of `256^level` leaves.
    Hashes(u8),
}

/// Why text is no path of a piece, or bytes are not what belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// Not a path, or not in its one way to write it.
    #[error("not the path of a tile")]
    Path,
    /// Too short, too long, or not as many hashes or entries as the path says.
    #[error("not the content of such a tile")]
    Content,
}

impl Tile {
    /// Hashes or entries in a whole piece.
    pub const FULL: u16 = 256;
    /// The most bytes that a piece can have.
    pub const MAX_BYTES: usize = Self::FULL as usize * (2 + u16::MAX as usize);
    /// The highest level that a path can name.
    pub const MAX_LEVEL: u8 = 63;
    /// The most characters that a path can have.
    pub const MAX_PATH: usize = 64;

    /// The first `width` hashes or entries of the piece at `index`; `None` when there can be no such piece.
    pub fn new(kind: TileKind, index: u64, width: u16) -> Option<Self> {
        let level_exists = match kind {
            TileKind::Entries => true,
            TileKind::Hashes(level) => level <= Self::MAX_LEVEL,
        };
        let exists = level_exists && index <= MAX_INDEX && (1..=Self::FULL).contains(&width);
        exists.then_some(Self { kind, index, width })
    }

    /// The piece of a log with `size` leaves that holds the hash or entry number `at` of its kind, as wide as
    /// that log has it; `None` when the log does not have it.
    pub fn holding(kind: TileKind, at: u64, size: u64) -> Option<Self> {
        let index = at / u64::from(Self::FULL);
        let first = index * u64::from(Self::FULL);
        let there = kind.count(size).checked_sub(first)?;
        let width = u16::try_from(there).map_or(Self::FULL, |there| there.min(Self::FULL));
        let holds = at - first < u64::from(width);
        holds.then(|| Self::new(kind, index, width)).flatten()
    }

    /// What it holds.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its place among those of its kind.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it holds.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Number of its first hash or entry among those of its kind.
    pub fn first(&self) -> u64 {
        self.index * u64::from(Self::FULL)
    }

    /// Whether a log with `size` leaves has all of it.
    pub fn is_within(&self, size: u64) -> bool {
        self.end() <= self.kind.count(size)
    }

    /// Its bytes; `None` when the tables do not hold all of it.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn read(&self, view: &(impl View + ?Sized)) -> Result<Option<Vec<u8>>, TablesError> {
        let rows = match self.kind {
            TileKind::Entries => {
                let (from, until) = (self.first().to_be_bytes(), self.end().to_be_bytes());
                view.range(Table::Leaves, &from, Some(&until), usize::from(self.width))?
            }
            TileKind::Hashes(level) => {
                let Some(level) = level.checked_mul(HEIGHT) else {
                    return Ok(None);
                };
                let from = tree::node_key(level, self.first());
                let until = tree::node_key(level, self.end());
                view.range(Table::Nodes, &from, Some(&until), usize::from(self.width))?
            }
        };
        if rows.len() != usize::from(self.width) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for (_, value) in rows {
            if self.kind == TileKind::Entries {
                let length = u16::try_from(value.len());
                let length = length.map_err(|error| TablesError(error.into()))?;
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            bytes.extend_from_slice(&value);
        }
        Ok(Some(bytes))
    }

    /// The hashes in the bytes of a hash tile.
    ///
    /// # Errors
    ///
    /// [`TileError::Content`]
    pub fn hashes(&self, bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let fits = matches!(self.kind, TileKind::Hashes(_))
            && rest.is_empty()
            && hashes.len() == usize::from(self.width);
        match fits {
            true => Ok(hashes.iter().copied().map(Hash::new).collect()),
            false => Err(TileError::Content),
        }
    }

    /// The entries in the bytes of a bundle.
    ///
    /// # Errors
    ///
    /// [`TileError::Content`]
    pub fn entries<'b>(&self, bytes: &'b [u8]) -> Result<Vec<&'b [u8]>, TileError> {
        if self.kind != TileKind::Entries {
            return Err(TileError::Content);
        }
        let mut entries = Vec::with_capacity(usize::from(self.width));
        let mut rest = bytes;
        for _ in 0..self.width {
            let (length, after) = rest.split_first_chunk().ok_or(TileError::Content)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (entry, after) = after.split_at_checked(length).ok_or(TileError::Content)?;
            entries.push(entry);
            rest = after;
        }
        match rest.is_empty() {
            true => Ok(entries),
            false => Err(TileError::Content),
        }
    }

    fn end(&self) -> u64 {
        self.first() + u64::from(self.width)
    }
}

impl TileKind {
    /// How many of it a log with `size` leaves has.
    pub fn count(self, size: u64) -> u64 {
        match self {
            Self::Entries => size,
            Self::Hashes(level) => size
                .checked_shr(u32::from(level) * u32::from(HEIGHT))
                .unwrap_or(0),
        }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries/")?,
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        let digits = self.index.to_string();
        let digits = format!("{}{digits}", "0".repeat((3 - digits.len() % 3) % 3));
        let groups = digits.as_bytes().chunks(3);
        let last = groups.len() - 1;
        for (number, group) in groups.enumerate() {
            let x = if number < last { "x" } else { "" };
            let slash = if number < last { "/" } else { "" };
            write!(f, "{x}{}{slash}", String::from_utf8_lossy(group))?;
        }
        match self.width {
            Self::FULL => Ok(()),
            width => write!(f, ".p/{width}"),
        }
    }
}

impl FromStr for Tile {
    type Err = TileError;

    fn from_str(path: &str) -> Result<Self, TileError> {
        let tile = parse(path).ok_or(TileError::Path)?;
        // Whatever else could be read as the same number is not the path.
        match tile.to_string() == path {
            true => Ok(tile),
            false => Err(TileError::Path),
        }
    }
}

fn parse(path: &str) -> Option<Tile> {
    if path.len() > Tile::MAX_PATH {
        return None;
    }
    let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Hashes(u8::try_from(parse_decimal(level)?).ok()?),
    };
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, u16::try_from(parse_decimal(width)?).ok()?),
        None => (rest, Tile::FULL),
    };
    let digits: String = index.chars().filter(|c| !matches!(c, 'x' | '/')).collect();
    Tile::new(kind, digits.parse().ok()?, width)
}

/// Hash tiles that somebody gave: a view of the tree's nodes, from which proofs are made. What they prove
/// counts once it verifies against a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct HashTiles(BTreeMap<(u8, u64), Vec<Hash>>);

impl HashTiles {
    /// Takes the bytes of a hash tile.
    ///
    /// # Errors
    ///
    /// [`TileError::Content`]
    pub fn insert(&mut self, tile: &Tile, bytes: &[u8]) -> Result<(), TileError> {
        let TileKind::Hashes(level) = tile.kind else {
            return Err(TileError::Content);
        };
        self.0.insert((level, tile.index), tile.hashes(bytes)?);
        Ok(())
    }

    /// The tiles of a log with `size` leaves that hold the nodes which `proof` reads. It is given a tree whose
    /// every hash is zero.
    ///
    /// # Errors
    ///
    /// When there is no such proof.
    pub fn needed<T>(
        size: u64,
        proof: impl FnOnce(&dyn View) -> Result<T, TablesError>,
    ) -> Result<BTreeSet<Tile>, TablesError> {
        let reads = Reads {
            size,
            tiles: RefCell::default(),
        };
        proof(&reads)?;
        Ok(reads.tiles.into_inner())
    }
}

impl View for HashTiles {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let Some(node) = NodePlace::of(table, key) else {
            return Ok(None);
        };
        let hashes = self.0.get(&(node.tile_level, node.first / FULL));
        let start = usize::try_from(node.first % FULL);
        let hash = hashes.zip(start.ok()).and_then(|(hashes, start)| {
            let hashes = hashes.get(start..start.checked_add(node.count)?)?;
            Some(subtree(hashes))
        });
        Ok(hash.map(|hash| hash.as_bytes().to_vec()))
    }

    fn range(
        &self,
        _: Table,
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
    ) -> Result<Vec<crate::Row>, TablesError> {
        Err(TablesError("tiles hold single nodes of the tree".into()))
    }
}

/// Writes down which tiles are read.
struct Reads {
    size: u64,
    tiles: RefCell<BTreeSet<Tile>>,
}

impl View for Reads {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let tile = NodePlace::of(table, key).and_then(|node| {
            Tile::holding(TileKind::Hashes(node.tile_level), node.first, self.size)
        });
        let Some(tile) = tile else {
            return Ok(None);
        };
        self.tiles.borrow_mut().insert(tile);
        Ok(Some(vec![0; 32]))
    }

    fn range(
        &self,
        _: Table,
        _: &[u8],
        _: Option<&[u8]>,
        _: usize,
    ) -> Result<Vec<crate::Row>, TablesError> {
        Err(TablesError("tiles hold single nodes of the tree".into()))
    }
}

/// Where the hashes are that a node of the tree is made of.
struct NodePlace {
    tile_level: u8,
    /// Number of the first, in the level of tiles.
    first: u64,
    count: usize,
}

impl NodePlace {
    fn of(table: Table, key: &[u8]) -> Option<Self> {
        let (level, index) = key.split_first()?;
        let index = u64::from_be_bytes(index.try_into().ok()?);
        let above = level % HEIGHT;
        let first = index.checked_mul(1 << above)?;
        (table == Table::Nodes).then_some(Self {
            tile_level: level / HEIGHT,
            first,
            count: 1 << above,
        })
    }
}

/// A tree that is computed from its leaves, in order and in little memory. It gives back every tile that the
/// leaves make, so that those of a log can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recomputed {
    size: u64,
    /// Of each level, the hashes of the tile that is not full yet.
    levels: Vec<Vec<Hash>>,
}

impl Recomputed {
    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash, and gives the tiles that it fills, from level 0 up.
    pub fn push(&mut self, leaf_hash: Hash) -> Vec<(Tile, Vec<Hash>)> {
        self.size += 1;
        let mut full = Vec::new();
        let mut hash = leaf_hash;
        for level in 0.. {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(usize::from(level)) else {
                break;
            };
            hashes.push(hash);
            if hashes.len() < usize::from(Tile::FULL) {
                break;
            }
            let hashes = std::mem::take(hashes);
            hash = subtree(&hashes);
            let kind = TileKind::Hashes(level);
            let index = kind.count(self.size) / FULL - 1;
            full.extend(Tile::new(kind, index, Tile::FULL).map(|tile| (tile, hashes)));
        }
        full
    }

    /// The tiles that are not full, from level 0 up; none of them is empty.
    pub fn partial_tiles(&self) -> Vec<(Tile, Vec<Hash>)> {
        let partial = (0..).zip(&self.levels).filter_map(|(level, hashes)| {
            let kind = TileKind::Hashes(level);
            let width = u16::try_from(hashes.len()).ok()?;
            let tile = Tile::new(kind, kind.count(self.size) / FULL, width)?;
            Some((tile, hashes.clone()))
        });
        partial.collect()
    }

    /// The tiles that [`Recomputed::resume`] needs at this size.
    pub fn edge(size: u64) -> Vec<Tile> {
        let levels = (0..=Tile::MAX_LEVEL).map(TileKind::Hashes);
        let partial = levels.filter_map(|kind| {
            let count = kind.count(size);
            let width = u16::try_from(count % FULL).ok()?;
            Tile::new(kind, count / FULL, width)
        });
        partial.collect()
    }

    /// Goes on after `size` leaves. The tiles must be those of [`Recomputed::edge`]; whether they are
    /// of the right log, [`Recomputed::root`] tells.
    ///
    /// # Errors
    ///
    /// [`TileError::Content`] when a tile is missing or too narrow.
    pub fn resume(size: u64, tiles: &HashTiles) -> Result<Self, TileError> {
        let mut levels = Vec::new();
        for tile in Self::edge(size) {
            let TileKind::Hashes(level) = tile.kind else {
                return Err(TileError::Content);
            };
            let hashes = tiles.0.get(&(level, tile.index));
            let hashes = hashes.and_then(|hashes| hashes.get(..usize::from(tile.width)));
            levels.resize(usize::from(level), Vec::new());
            levels.push(hashes.ok_or(TileError::Content)?.to_vec());
        }
        Ok(Self { size, levels })
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        let mut root: Option<Hash> = None;
        for hashes in &self.levels {
            for peak in peaks(hashes).into_iter().rev() {
                root = Some(match root {
                    Some(right) => tree::node_hash(&peak, &right),
                    None => peak,
                });
            }
        }
        root.unwrap_or_else(tree::empty_root)
    }
}

/// The roots of the largest complete subtrees over these hashes, from left to right.
fn peaks(hashes: &[Hash]) -> Vec<Hash> {
    let mut peaks = Vec::new();
    let mut rest = hashes;
    while !rest.is_empty() {
        let (complete, after) = rest.split_at(1 << rest.len().ilog2());
        peaks.push(subtree(complete));
        rest = after;
    }
    peaks
}

/// The root over hashes whose number is a power of two.
fn subtree(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => tree::empty_root(),
        [hash] => *hash,
        hashes => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            tree::node_hash(&subtree(left), &subtree(right))
        }
    }
}

/// Levels of the tree in a tile.
const HEIGHT: u8 = 8;
const FULL: u64 = Tile::FULL as u64;
/// Beyond it the number of a hash would not be a u64.
const MAX_INDEX: u64 = u64::MAX / FULL - 1;
