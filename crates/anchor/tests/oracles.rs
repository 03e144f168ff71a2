//! Two implementations that are not ours agree with ours, on what is right and on what is wrong:
//! `ct-merkle`, and `tlog_tiles`, a port of Go's `sumdb/tlog`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use ct_merkle::{RootHash, mem_backed_tree::MemoryBackedTree};
use medanchor_anchor::{ConsistencyProof, InclusionProof, MemoryTables, Table, Tables, Tile, tree};
use medanchor_dag::Hash;
use sha2::Sha256;
use tlog_tiles::{HashReader, TileHashReader, TileReader};

#[test]
fn ct_merkle_makes_the_same_roots_and_proofs() {
    let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let tables = log(SIZES);
    for size in 1..=SIZES {
        theirs.push(entry(size - 1));
        let root = theirs.root();
        assert_eq!(
            root.as_bytes().as_slice(),
            our_root(&tables, size).as_bytes()
        );
        for index in 0..size {
            let proof = theirs.prove_inclusion(index.try_into().unwrap());
            let ours = tree::inclusion(&tables, index, size).unwrap();
            assert_eq!(proof.as_bytes(), bytes(&ours.0), "{index} of {size}");
            if index > 0 {
                let proof = theirs.prove_consistency((size - index).try_into().unwrap());
                let ours = tree::consistency(&tables, index, size).unwrap();
                assert_eq!(proof.as_bytes(), bytes(&ours.0), "{index} to {size}");
            }
        }
    }
}

#[test]
fn everyone_judges_inclusion_alike() {
    let tables = log(SIZES);
    let mut accepted = 0;
    for size in [1, 2, 3, 7, 8, 9, 31, SIZES] {
        for index in 0..size {
            let honest = tree::inclusion(&tables, index, size).unwrap().0;
            for proof in spoilt(&honest) {
                // The proof is of another place, of another log, of another entry, or is right.
                for (at, of, leaf) in around(index, size) {
                    let root = our_root(&tables, of);
                    let hash = tree::leaf_hash(&entry(leaf));
                    let proves = InclusionProof(proof.clone());
                    let ours = proves.verify(&hash, at, of, &root).is_ok();
                    assert_eq!(ct_inclusion(&proof, leaf, at, of, &root), ours);
                    assert_eq!(go_inclusion(&proof, &hash, at, of, &root), ours);
                    accepted += u64::from(ours);
                }
            }
        }
    }
    assert!(accepted > SIZES);
}

#[test]
fn everyone_judges_consistency_alike() {
    let tables = log(SIZES);
    let mut accepted = 0;
    for new in [1, 2, 3, 7, 8, 9, 31, SIZES] {
        for old in 1..=new {
            let honest = tree::consistency(&tables, old, new).unwrap().0;
            for proof in spoilt(&honest) {
                for (from, to, rooted) in around(old, new) {
                    // Neither of the two takes an empty tree for an old one, and ours ends here.
                    if from == 0 || !(1..=SIZES).contains(&rooted) {
                        continue;
                    }
                    let (old_root, new_root) = (our_root(&tables, rooted), our_root(&tables, to));
                    let proves = ConsistencyProof(proof.clone());
                    let ours = proves.verify(from, &old_root, to, &new_root).is_ok();
                    let what = format!("{from} to {to}, {} hashes", proof.len());
                    assert_eq!(
                        ct_consistency(&proof, from, &old_root, to, &new_root),
                        ours,
                        "{what}"
                    );
                    assert_eq!(
                        go_consistency(&proof, from, &old_root, to, &new_root),
                        ours,
                        "{what}"
                    );
                    accepted += u64::from(ours);
                }
            }
        }
    }
    assert!(accepted > SIZES);
}

#[test]
fn tiles_of_ours_are_believed_by_tlog_tiles() {
    let size = 66_000;
    let reader = Reader {
        tables: log(size),
        changed: None,
    };
    let root = our_root(&reader.tables, size);
    let hashes = TileHashReader::new(size, theirs(&root), &reader);
    for index in [0, 1, 255, 256, 65_535, 65_536, 65_999] {
        let proof = tlog_tiles::prove_record(size, index, &hashes).unwrap();
        assert_eq!(
            ours(&proof),
            tree::inclusion(&reader.tables, index, size).unwrap().0
        );
    }
    for old in [1, 255, 256, 257, 65_536, 65_537, 66_000] {
        let proof = tlog_tiles::prove_tree(size, old, &hashes).unwrap();
        assert_eq!(
            ours(&proof),
            tree::consistency(&reader.tables, old, size).unwrap().0
        );
    }
}

#[test]
fn changed_tile_of_the_edge_is_refused_by_tlog_tiles() {
    let size = 66_000;
    for path in ["tile/0/257.p/208", "tile/1/001.p/1", "tile/2/000.p/1"] {
        let reader = Reader {
            tables: log(size),
            changed: Some(path.parse().unwrap()),
        };
        let root = our_root(&reader.tables, size);
        let hashes = TileHashReader::new(size, theirs(&root), &reader);
        assert!(hashes.read_hashes(&[0]).is_err(), "{path}");
    }
}

/// The proof itself, with each hash changed, without the first or the last, and with one too many.
fn spoilt(honest: &[Hash]) -> Vec<Vec<Hash>> {
    let other = Hash::of(b"another hash");
    let mut all = vec![honest.to_vec()];
    for at in 0..honest.len() {
        let mut changed = honest.to_vec();
        changed[at] = other;
        all.push(changed);
    }
    if let [_, rest @ ..] = honest {
        all.push(rest.to_vec());
    }
    if let [rest @ .., _] = honest {
        all.push(rest.to_vec());
    }
    all.push([honest, &[other]].concat());
    all.push([&[other], honest].concat());
    all
}

/// The right index, size and entry, and some beside each.
fn around(index: u64, size: u64) -> Vec<(u64, u64, u64)> {
    let near = |n: u64| [n.saturating_sub(1), n, n + 1];
    let sizes = near(size)
        .into_iter()
        .filter(|size| (1..=SIZES).contains(size));
    let all = sizes.flat_map(|size| near(index).map(|at| (at, size)));
    all.flat_map(|(at, size)| [(at, size, index), (at, size, at)])
        .collect()
}

fn ct_inclusion(proof: &[Hash], leaf: u64, index: u64, size: u64, root: &Hash) -> bool {
    let proof = ct_merkle::InclusionProof::try_from_bytes(bytes(proof)).unwrap();
    ct_root(root, size)
        .verify_inclusion(&entry(leaf), index, &proof)
        .is_ok()
}

fn ct_consistency(proof: &[Hash], old: u64, old_root: &Hash, new: u64, new_root: &Hash) -> bool {
    let proof = ct_merkle::ConsistencyProof::try_from_bytes(bytes(proof)).unwrap();
    let verified = ct_root(new_root, new).verify_consistency(&ct_root(old_root, old), &proof);
    verified.is_ok()
}

fn ct_root(root: &Hash, size: u64) -> RootHash<Sha256> {
    RootHash::new((*root.as_bytes()).into(), size)
}

fn go_inclusion(proof: &[Hash], leaf_hash: &Hash, index: u64, size: u64, root: &Hash) -> bool {
    let proof = proof.iter().map(theirs).collect();
    tlog_tiles::check_record(&proof, size, theirs(root), index, theirs(leaf_hash)).is_ok()
}

fn go_consistency(proof: &[Hash], old: u64, old_root: &Hash, new: u64, new_root: &Hash) -> bool {
    let proof = proof.iter().map(theirs).collect();
    tlog_tiles::check_tree(&proof, new, theirs(new_root), old, theirs(old_root)).is_ok()
}

/// Our tiles, one of them with a bit changed.
struct Reader {
    tables: MemoryTables,
    changed: Option<Tile>,
}

impl TileReader for Reader {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            let tile: Tile = tile.path().replacen("tile/8/", "tile/", 1).parse().unwrap();
            let mut bytes = tile.read(&self.tables).unwrap().unwrap();
            if self.changed == Some(tile) {
                bytes[0] ^= 1;
            }
            bytes
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

fn log(size: u64) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for index in 0..size {
        let (key, entry) = (index.to_be_bytes(), entry(index));
        tables.put(Table::Leaves, &key, &entry).unwrap();
        tree::append(&mut tables, index, &entry).unwrap();
    }
    tables
}

fn our_root(tables: &MemoryTables, size: u64) -> Hash {
    tree::root(tables, size).unwrap()
}

fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

fn bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

fn theirs(hash: &Hash) -> tlog_tiles::Hash {
    tlog_tiles::Hash(*hash.as_bytes())
}

fn ours(hashes: &[tlog_tiles::Hash]) -> Vec<Hash> {
    hashes.iter().map(|hash| Hash::new(hash.0)).collect()
}

const SIZES: u64 = 65;
