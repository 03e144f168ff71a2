//! Tiles are those of other implementations, and prove what the tables prove.
#![expect(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use medanchor_anchor::{
    HashTiles, MemoryTables, Recomputed, Table, Tables, TablesError, Tile, TileError, TileKind,
    View, tree,
};
use medanchor_dag::Hash;
use proptest::prelude::*;
use serde_json::Value;
use std::{env, fs, path::Path};

/// Sizes around the edges of tiles.
const SIZES: [u64; 12] = [
    0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537,
];

#[test]
fn path_has_one_way_to_be_written() {
    for (path, kind, index, width) in [
        ("tile/0/000", TileKind::Hashes(0), 0, 256),
        ("tile/0/999", TileKind::Hashes(0), 999, 256),
        ("tile/3/x001/000", TileKind::Hashes(3), 1_000, 256),
        (
            "tile/0/x987/x654/321",
            TileKind::Hashes(0),
            987_654_321,
            256,
        ),
        ("tile/63/004.p/255", TileKind::Hashes(63), 4, 255),
        ("tile/entries/017.p/1", TileKind::Entries, 17, 1),
        ("tile/entries/x020/017", TileKind::Entries, 20_017, 256),
    ] {
        let tile: Tile = path.parse().unwrap();
        assert_eq!(Some(tile), Tile::new(kind, index, width), "{path}");
        assert_eq!(tile.to_string(), path);
    }
}

#[test]
fn paths_of_the_specification_are_read() {
    let Some(vector) = published("tile-paths.json") else {
        return;
    };
    let paths = vector["paths"].as_array().unwrap();
    assert!(!paths.is_empty());
    for case in paths {
        let tile: Tile = case["path"].as_str().unwrap().parse().unwrap();
        let kind = match case["level"].as_u64() {
            Some(level) => TileKind::Hashes(level.try_into().unwrap()),
            None => TileKind::Entries,
        };
        let width = u16::try_from(case["w"].as_u64().unwrap()).unwrap();
        let expected = Tile::new(kind, case["n"].as_u64().unwrap(), width);
        assert_eq!(Some(tile), expected);
        assert!(tile.is_within(if tile.index() > 1_000 {
            1 << 30
        } else {
            70_000
        }));
    }
}

#[test]
fn whatever_is_no_path_is_refused() {
    for bad in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/000/",
        "/tile/0/000",
        "tile//000",
        "tile/00/000",
        "tile/01/000",
        "tile/+1/000",
        "tile/-1/000",
        "tile/64/000",
        "tile/256/000",
        "tile/entrie/000",
        "tile/Entries/000",
        "tile/0/x000/000",
        "tile/0/x000/x001/000",
        "tile/0/001/000",
        "tile/0/x001x000",
        "tile/0/x001/x000",
        "tile/0/x01/000",
        "tile/0/1000",
        "tile/0/+01",
        "tile/0/a00",
        "tile/0/\u{0660}00",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/65537",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/000?",
        "tile/0/%30%30%30",
        "tile/0/../0/000",
        "tile/0/x018/x446/x744/x073/x709/x551/615",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert_eq!(bad.parse::<Tile>(), Err(TileError::Path), "{bad}");
    }
}

#[test]
fn there_is_no_empty_tile_and_none_beyond_the_last_leaf() {
    assert_eq!(Tile::new(TileKind::Entries, 0, 0), None);
    assert_eq!(Tile::new(TileKind::Entries, 0, 257), None);
    assert_eq!(Tile::new(TileKind::Hashes(64), 0, 1), None);
    assert_eq!(Tile::new(TileKind::Entries, u64::MAX / 256, 1), None);
    for size in SIZES {
        for kind in [
            TileKind::Entries,
            TileKind::Hashes(0),
            TileKind::Hashes(1),
            TileKind::Hashes(63),
        ] {
            let count = kind.count(size);
            assert_eq!(Tile::holding(kind, count, size), None, "{kind:?} {size}");
            let Some(last) = count.checked_sub(1) else {
                continue;
            };
            let widest = Tile::holding(kind, last, size).unwrap();
            assert_eq!(widest.first() + u64::from(widest.width()), count);
            assert!(widest.is_within(size));
            assert!(!widest.is_within(widest.first()));
            let wider = Tile::new(kind, widest.index(), widest.width() + 1);
            assert!(wider.is_none_or(|wider| !wider.is_within(size)));
            let next = Tile::new(kind, widest.index() + 1, 1).unwrap();
            assert!(!next.is_within(size));
        }
    }
}

#[test]
fn tiles_of_an_independent_program_are_ours_byte_for_byte() {
    for (folder, size) in [("n1", 1), ("n70", 70), ("n70000", 70_000)] {
        let root = Path::new(VECTORS).join(folder);
        let (tables, recomputed) = logged(size);
        let vector = fs::read_to_string(root.join("vector.json")).unwrap();
        let vector: Value = serde_json::from_str(&vector).unwrap();
        assert_eq!(base64(&recomputed.root()), vector["root"].as_str().unwrap());
        let files = files(&root.join("tile"));
        assert!(files.len() >= 2, "{folder}");
        for file in files {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            let tile: Tile = path.parse().unwrap();
            let theirs = fs::read(&file).unwrap();
            assert_eq!(tile.read(&tables).unwrap().unwrap(), theirs, "{path}");
            assert!(tile.is_within(size), "{path}");
            match tile.kind() {
                TileKind::Hashes(_) => {
                    assert_eq!(
                        tile.hashes(&theirs).unwrap().len(),
                        usize::from(tile.width())
                    );
                }
                TileKind::Entries => {
                    let first = tile.first();
                    let entries = tile.entries(&theirs).unwrap();
                    for (index, theirs) in (first..).zip(entries) {
                        assert_eq!(theirs, entry(index));
                    }
                }
            }
        }
    }
}

#[test]
fn recomputed_log_has_the_roots_and_the_tiles_of_the_tables() {
    let size = 70_000;
    let mut tables = MemoryTables::default();
    let mut recomputed = Recomputed::default();
    for index in 0..size {
        if SIZES.contains(&index) || index < 300 {
            assert_eq!(
                recomputed.root(),
                tree::root(&tables, index).unwrap(),
                "{index}"
            );
            compare(&tables, recomputed.partial_tiles(), index);
        }
        let leaf = entry(index);
        tree::append(&mut tables, index, &leaf).unwrap();
        let full = recomputed.push(tree::leaf_hash(&leaf));
        let expected = match index + 1 {
            size if size % 65_536 == 0 => 2,
            size if size % 256 == 0 => 1,
            _ => 0,
        };
        assert_eq!(full.len(), expected, "{index}");
        compare(&tables, full, index + 1);
    }
    assert_eq!(recomputed.size(), size);
}

#[test]
fn recomputed_log_goes_on_from_its_edge() {
    let (tables, _) = logged(66_000);
    let mut recomputed = Recomputed::default();
    for index in 0..66_000 {
        if SIZES.contains(&index) || index % 2_000 == 0 {
            let mut tiles = HashTiles::default();
            for tile in Recomputed::edge(index) {
                // As wide as the whole log has it.
                let wide = Tile::holding(tile.kind(), tile.first(), 66_000).unwrap();
                tiles
                    .insert(&wide, &wide.read(&tables).unwrap().unwrap())
                    .unwrap();
            }
            let mut resumed = Recomputed::resume(index, &tiles).unwrap();
            assert_eq!(resumed.root(), recomputed.root(), "{index}");
            let next = tree::leaf_hash(&entry(index));
            let mut further = recomputed.clone();
            assert_eq!(resumed.push(next), further.push(next));
            assert_eq!(resumed.root(), further.root());
        }
        recomputed.push(tree::leaf_hash(&entry(index)));
    }
    assert!(Recomputed::resume(1, &HashTiles::default()).is_err());
    assert_eq!(
        Recomputed::resume(0, &HashTiles::default()),
        Ok(Recomputed::default())
    );
}

fn compare(tables: &MemoryTables, tiles: Vec<(Tile, Vec<Hash>)>, size: u64) {
    for (tile, hashes) in tiles {
        let bytes = tile.read(tables).unwrap().unwrap();
        assert_eq!(tile.hashes(&bytes).unwrap(), hashes, "{tile} of {size}");
        assert!(tile.is_within(size));
    }
}

#[test]
fn tile_is_read_only_when_the_tables_hold_all_of_it() {
    let (tables, _) = logged(300);
    for (path, there) in [
        ("tile/0/000", true),
        ("tile/0/001.p/44", true),
        ("tile/0/001.p/45", false),
        ("tile/0/001", false),
        ("tile/0/002.p/1", false),
        ("tile/1/000.p/1", true),
        ("tile/1/000.p/2", false),
        ("tile/2/000.p/1", false),
        ("tile/32/000.p/1", false),
        ("tile/63/000.p/1", false),
        ("tile/entries/001.p/44", true),
        ("tile/entries/001.p/45", false),
    ] {
        let tile: Tile = path.parse().unwrap();
        assert_eq!(tile.read(&tables).unwrap().is_some(), there, "{path}");
        assert_eq!(tile.is_within(300), there, "{path}");
    }
}

#[test]
fn content_of_another_length_is_refused() {
    let (tables, _) = logged(5);
    let bundle: Tile = "tile/entries/000.p/5".parse().unwrap();
    let hashes: Tile = "tile/0/000.p/5".parse().unwrap();
    let (entries, nodes) = (
        bundle.read(&tables).unwrap().unwrap(),
        hashes.read(&tables).unwrap().unwrap(),
    );
    assert_eq!(bundle.entries(&entries).unwrap().len(), 5);
    for length in 0..entries.len() {
        assert_eq!(bundle.entries(&entries[..length]), Err(TileError::Content));
    }
    for length in 0..nodes.len() {
        assert_eq!(hashes.hashes(&nodes[..length]), Err(TileError::Content));
    }
    for mut longer in [entries.clone(), nodes.clone()] {
        longer.push(0);
        assert!(bundle.entries(&longer).is_err());
        assert!(hashes.hashes(&longer).is_err());
    }
    assert_eq!(hashes.entries(&entries), Err(TileError::Content));
    assert_eq!(bundle.hashes(&nodes), Err(TileError::Content));
    assert_eq!(
        HashTiles::default().insert(&bundle, &entries),
        Err(TileError::Content)
    );
}

#[test]
fn proofs_from_tiles_are_those_from_the_tables() {
    let (tables, _) = logged(70_000);
    for size in [1, 2, 255, 256, 257, 700, 65_537, 70_000] {
        for index in [0, 1, 255, 256, 600, 65_535, 65_536, 69_999] {
            if index < size {
                same(&tables, size, |view| tree::inclusion(view, index, size));
            }
            if index <= size {
                same(&tables, size, |view| tree::consistency(view, index, size));
                same(&tables, size, |view| tree::root(view, index));
            }
        }
    }
    assert!(HashTiles::needed(5, |view| tree::inclusion(view, 5, 5)).is_err());
    assert!(tree::root(&HashTiles::default(), 5).is_err());
}

/// Makes a proof of a log with `size` leaves from its tables, and again from just the tiles that it needs.
fn same<T: PartialEq + std::fmt::Debug>(
    tables: &MemoryTables,
    size: u64,
    proof: impl Fn(&dyn View) -> Result<T, TablesError>,
) {
    let mut tiles = HashTiles::default();
    for tile in HashTiles::needed(size, &proof).unwrap() {
        assert!(tile.is_within(size), "{tile} of {size}");
        tiles
            .insert(&tile, &tile.read(tables).unwrap().unwrap())
            .unwrap();
    }
    assert_eq!(proof(&tiles).unwrap(), proof(tables).unwrap());
}

#[test]
fn no_flipped_bit_of_a_tile_proves_anything_else() {
    let (tables, recomputed) = logged(300);
    let (size, root) = (300, recomputed.root());
    let proof = |view: &dyn View| tree::inclusion(view, 7, size);
    let honest = proof(&tables).unwrap();
    let leaf = tree::leaf_hash(&entry(7));
    let needed: Vec<Tile> = HashTiles::needed(size, proof)
        .unwrap()
        .into_iter()
        .collect();
    let read: Vec<Vec<u8>> = needed
        .iter()
        .map(|tile| tile.read(&tables).unwrap().unwrap())
        .collect();
    let mut refused = 0;
    for (changed, bytes) in read.iter().enumerate() {
        for bit in 0..bytes.len() * 8 {
            let mut tiles = HashTiles::default();
            for (number, (tile, bytes)) in needed.iter().zip(&read).enumerate() {
                let mut bytes = bytes.clone();
                if number == changed {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                tiles.insert(tile, &bytes).unwrap();
            }
            let made = proof(&tiles).unwrap();
            let verified = made.verify(&leaf, 7, size, &root).is_ok();
            assert_eq!(verified, made == honest, "{} bit {bit}", needed[changed]);
            refused += usize::from(!verified);
        }
    }
    assert!(refused > 0);
}

proptest! {
    #[test]
    fn tile_is_read_back_from_its_path(level in 0_u8..=63, index in 0_u64..=1 << 55, width in 1_u16..=256, entries: bool) {
        let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let tile = Tile::new(kind, index, width).unwrap();
        let path = tile.to_string();
        prop_assert!(path.len() <= Tile::MAX_PATH);
        prop_assert_eq!(path.parse(), Ok(tile));
    }

    #[test]
    fn parse_of_arbitrary_text_never_panics(text in "(tile/)?(entries|[0-9]{0,3})?/(x?[0-9]{0,4}/?){0,8}(\\.p/[0-9]{0,4})?|\\PC{0,80}") {
        if let Ok(tile) = text.parse::<Tile>() {
            prop_assert_eq!(tile.to_string(), text);
        }
    }

    #[test]
    fn content_is_parsed_without_panic_and_in_one_way(width in 1_u16..=4, bytes in prop::collection::vec(any::<u8>(), 0..140)) {
        let bundle = Tile::new(TileKind::Entries, 0, width).unwrap();
        if let Ok(entries) = bundle.entries(&bytes) {
            let mut tables = MemoryTables::default();
            for (index, entry) in (0_u64..).zip(&entries) {
                tables.put(Table::Leaves, &index.to_be_bytes(), entry).unwrap();
            }
            prop_assert_eq!(bundle.read(&tables).unwrap(), Some(bytes.clone()));
        }
        let tile = Tile::new(TileKind::Hashes(0), 0, width).unwrap();
        prop_assert_eq!(tile.hashes(&bytes).is_ok(), bytes.len() == usize::from(width) * 32);
    }
}

/// The log of the vectors, in both forms.
fn logged(size: u64) -> (MemoryTables, Recomputed) {
    let mut tables = MemoryTables::default();
    let mut recomputed = Recomputed::default();
    for index in 0..size {
        let leaf = entry(index);
        tables
            .put(Table::Leaves, &index.to_be_bytes(), &leaf)
            .unwrap();
        tree::append(&mut tables, index, &leaf).unwrap();
        recomputed.push(tree::leaf_hash(&leaf));
    }
    (tables, recomputed)
}

fn entry(index: u64) -> Vec<u8> {
    let times = usize::try_from(1 + index % 5).unwrap();
    format!("entry-{index}").repeat(times).into_bytes()
}

fn base64(hash: &Hash) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(hash.as_bytes())
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files
}

/// What others published and may not be copied: at hand where we test, and not in a clone.
fn published(file: &str) -> Option<Value> {
    let read = fs::read_to_string(Path::new(PUBLISHED).join(file));
    let must_be_there = env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        read.is_ok() || !must_be_there,
        "CI=true, but there is no `{file}` in `{PUBLISHED}`"
    );
    Some(serde_json::from_str(&read.ok()?).unwrap())
}

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/c2sp");
const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
