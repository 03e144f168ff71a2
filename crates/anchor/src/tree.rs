//! The Merkle tree over the leaves (RFC 6962 section 2.1), kept as the hashes of complete subtrees.

use crate::{LeafIndex, Table, Tables, TablesError, View};
use medanchor_dag::Hash;
use serde::{Deserialize, Serialize};

/// Where a leaf stands in a tree: the siblings on its path, leaf side first (RFC 6962 section 2.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InclusionProof(pub Vec<Hash>);

/// That a tree only grew: the nodes of RFC 6962 section 2.1.2, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof(pub Vec<Hash>);

/// Why a proof proves nothing. There is nothing to retry: whoever gave it is wrong or lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index lies outside the tree, or the older tree is the larger one.
    #[error("proof is for an impossible index or size")]
    OutOfRange,
    /// It has more or fewer hashes than a proof for this index and these sizes.
    #[error("proof has the wrong number of hashes")]
    Length,
    /// It leads to another root.
    #[error("proof leads to another root")]
    Root,
}

impl InclusionProof {
    /// Checks that the leaf with this hash stands at `index` in the tree of `size` leaves under `root`
    /// (RFC 9162 section 2.1.3.2).
    ///
    /// # Errors
    ///
    /// [`ProofError`]; the leaf is then not shown to be in that tree.
    pub fn verify(
        &self,
        leaf_hash: &Hash,
        index: LeafIndex,
        size: u64,
        root: &Hash,
    ) -> Result<(), ProofError> {
        if index >= size {
            return Err(ProofError::OutOfRange);
        }
        let mut hash = *leaf_hash;
        let is_whole = self.climb(index, size - 1, |sibling, side| {
            hash = match side {
                Side::Left => node_hash(sibling, &hash),
                Side::Right => node_hash(&hash, sibling),
            };
        });
        if !is_whole {
            return Err(ProofError::Length);
        }
        same_root(&hash, root)
    }

    /// The root of the tree that ends with this leaf, given a proof that [verifies](Self::verify): its path there has the
    /// same siblings, without those to the right.
    pub fn prefix_root(&self, leaf_hash: &Hash, index: LeafIndex, size: u64) -> Hash {
        let mut hash = *leaf_hash;
        self.climb(index, size.saturating_sub(1), |sibling, side| {
            if side == Side::Left {
                hash = node_hash(sibling, &hash);
            }
        });
        hash
    }

    /// Gives each sibling on the way from the leaf `at` to the root of the tree whose last leaf is `last`. Whether the way
    /// has just as many (RFC 9162 section 2.1.3.2).
    fn climb(&self, mut at: u64, mut last: u64, mut step: impl FnMut(&Hash, Side)) -> bool {
        for sibling in &self.0 {
            if last == 0 {
                return false;
            }
            if at & 1 == 1 || at == last {
                step(sibling, Side::Left);
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                step(sibling, Side::Right);
            }
            at >>= 1;
            last >>= 1;
        }
        last == 0
    }
}

/// Where a sibling stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl ConsistencyProof {
    /// Checks that the tree of `old` leaves under `old_root` is a prefix of the tree of `new` leaves
    /// under `new_root` (RFC 9162 section 2.1.4.2). The empty tree is a prefix of every tree.
    ///
    /// # Errors
    ///
    /// [`ProofError`]; the trees are then not shown to be consistent.
    pub fn verify(
        &self,
        old: u64,
        old_root: &Hash,
        new: u64,
        new_root: &Hash,
    ) -> Result<(), ProofError> {
        if old > new {
            return Err(ProofError::OutOfRange);
        }
        if old == 0 || old == new {
            return self.verify_trivial(old, old_root, new, new_root);
        }
        let (old_hash, new_hash) = self.roots(old, new, Some(old_root))?;
        same_root(&old_hash, old_root)?;
        same_root(&new_hash, new_root)
    }

    /// The old and the new root that the proof leads to, for `0 < old < new`.
    fn roots(
        &self,
        old: u64,
        new: u64,
        old_root: Option<&Hash>,
    ) -> Result<(Hash, Hash), ProofError> {
        // A complete old tree is a node of the new one, and the proof leaves it out.
        let (first, rest) = match old_root.filter(|_| old.is_power_of_two()) {
            Some(old_root) => (old_root, self.0.as_slice()),
            None => self.0.split_first().ok_or(ProofError::Length)?,
        };
        let mut at = old - 1;
        let mut last = new - 1;
        let shared = at.trailing_ones();
        at >>= shared;
        last >>= shared;
        let mut old_hash = *first;
        let mut new_hash = *first;
        for node in rest {
            if last == 0 {
                return Err(ProofError::Length);
            }
            if at & 1 == 1 || at == last {
                old_hash = node_hash(node, &old_hash);
                new_hash = node_hash(node, &new_hash);
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                new_hash = node_hash(&new_hash, node);
            }
            at >>= 1;
            last >>= 1;
        }
        if last != 0 {
            return Err(ProofError::Length);
        }
        Ok((old_hash, new_hash))
    }

    /// The root that the tree of `new` leaves under `new_root` had when it had `old`, as this proof shows it:
    /// whatever a verifier believes that root to be. `None` when it shows none, and where it leaves the old
    /// root out: for an `old` that is 0, `new` or a power of two.
    pub fn old_root(&self, old: u64, new: u64, new_root: &Hash) -> Option<Hash> {
        if old == 0 || old >= new || old.is_power_of_two() {
            return None;
        }
        let (old_hash, new_hash) = self.roots(old, new, None).ok()?;
        (new_hash == *new_root).then_some(old_hash)
    }

    fn verify_trivial(
        &self,
        old: u64,
        old_root: &Hash,
        new: u64,
        new_root: &Hash,
    ) -> Result<(), ProofError> {
        if !self.0.is_empty() {
            return Err(ProofError::Length);
        }
        if old == 0 {
            same_root(old_root, &empty_root())?;
        }
        if old == new {
            same_root(old_root, new_root)?;
        }
        Ok(())
    }
}

/// `H(0x00 || leaf)`
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut bytes = Vec::with_capacity(1 + leaf.len());
    bytes.push(0);
    bytes.extend_from_slice(leaf);
    Hash::of(&bytes)
}

/// `H(0x01 || left || right)`
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = Vec::with_capacity(65);
    bytes.push(1);
    bytes.extend_from_slice(left.as_bytes());
    bytes.extend_from_slice(right.as_bytes());
    Hash::of(&bytes)
}

/// The root of the tree without leaves: `H("")`.
pub fn empty_root() -> Hash {
    Hash::of(b"")
}

/// A tree in memory, all of whose leaves are known: each level from the leaves up. The last node of a level that has no
/// sibling is also the last of the next (RFC 6962 section 2.1).
pub(crate) struct Levels(Vec<Vec<Hash>>);

impl Levels {
    /// The tree over leaves with these hashes.
    pub(crate) fn of(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut levels = vec![leaves.into_iter().collect::<Vec<_>>()];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let pairs = below.chunks(2).map(|pair| match pair {
                [left, right] => node_hash(left, right),
                alone => alone.first().copied().unwrap_or_else(empty_root),
            });
            let level = pairs.collect();
            levels.push(level);
        }
        Self(levels)
    }

    pub(crate) fn size(&self) -> u64 {
        let leaves = self.0.first().map_or(0, Vec::len);
        u64::try_from(leaves).unwrap_or(u64::MAX)
    }

    pub(crate) fn root(&self) -> Hash {
        let root = self.0.last().and_then(|level| level.first());
        root.copied().unwrap_or_else(empty_root)
    }

    /// Proves the leaf at `index`, which must be one.
    pub(crate) fn path(&self, index: usize) -> InclusionProof {
        let mut at = index;
        let siblings = self.0.iter().filter_map(|level| {
            let sibling = level.get(at ^ 1).copied();
            at >>= 1;
            sibling
        });
        InclusionProof(siblings.collect())
    }
}

/// Adds a leaf to the tree, and with it every subtree that it completes. `index` must be the number of
/// leaves so far.
///
/// # Errors
///
/// When the storage fails or lacks the subtrees before this leaf.
pub fn append(tables: &mut dyn Tables, index: LeafIndex, leaf: &[u8]) -> Result<(), TablesError> {
    let mut hash = leaf_hash(leaf);
    let mut level = 0;
    let mut at = index;
    tables.put(Table::Nodes, &node_key(level, at), hash.as_bytes())?;
    while at & 1 == 1 {
        hash = node_hash(&node(tables, level, at - 1)?, &hash);
        level += 1;
        at >>= 1;
        tables.put(Table::Nodes, &node_key(level, at), hash.as_bytes())?;
    }
    Ok(())
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
///
/// When the storage fails or holds fewer leaves.
pub fn root(view: &(impl View + ?Sized), size: u64) -> Result<Hash, TablesError> {
    if size == 0 {
        return Ok(empty_root());
    }
    range_hash(view, 0, size)
}

/// Proves that leaf `index` is in the tree of the first `size` leaves.
///
/// # Errors
///
/// When the storage fails or holds fewer leaves, or `index` is not below `size`.
pub fn inclusion(
    view: &(impl View + ?Sized),
    index: LeafIndex,
    size: u64,
) -> Result<InclusionProof, TablesError> {
    if index >= size {
        return Err(no_such_tree());
    }
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push(range_hash(view, middle, end)?);
            end = middle;
        } else {
            siblings.push(range_hash(view, start, middle)?);
            start = middle;
        }
    }
    siblings.reverse();
    Ok(InclusionProof(siblings))
}

/// Proves that the tree of the first `old` leaves is a prefix of that of the first `new`.
///
/// # Errors
///
/// When the storage fails or holds fewer leaves, or `old` is more than `new`.
pub fn consistency(
    view: &(impl View + ?Sized),
    old: u64,
    new: u64,
) -> Result<ConsistencyProof, TablesError> {
    if old > new {
        return Err(no_such_tree());
    }
    let mut nodes = Vec::new();
    if old == 0 {
        return Ok(ConsistencyProof(nodes));
    }
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            nodes.push(range_hash(view, middle, end)?);
            end = middle;
        } else {
            nodes.push(range_hash(view, start, middle)?);
            start = middle;
        }
    }
    if start != 0 {
        nodes.push(range_hash(view, start, end)?);
    }
    nodes.reverse();
    Ok(ConsistencyProof(nodes))
}

/// The hash of a complete subtree: 2^`level` leaves, the `index`th such from the left.
///
/// # Errors
///
/// When the storage fails or does not hold all those leaves.
pub fn node(view: &(impl View + ?Sized), level: u8, index: u64) -> Result<Hash, TablesError> {
    let stored = view.get(Table::Nodes, &node_key(level, index))?;
    match stored.map(<[u8; 32]>::try_from) {
        Some(Ok(hash)) => Ok(Hash::new(hash)),
        _ => Err(no_such_tree()),
    }
}

/// The tree hash of leaves `start..end`, where `start` is where such a range begins in some tree.
fn range_hash(view: &(impl View + ?Sized), start: u64, end: u64) -> Result<Hash, TablesError> {
    let count = end - start;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        let level = u8::try_from(level).map_err(|_| no_such_tree())?;
        return node(view, level, start >> level);
    }
    let middle = start + split(count);
    let left = range_hash(view, start, middle)?;
    let right = range_hash(view, middle, end)?;
    Ok(node_hash(&left, &right))
}

/// The largest power of two below `count`, which is more than one.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

pub(crate) fn node_key(level: u8, index: u64) -> [u8; 9] {
    let mut key = [level; 9];
    let (_, rest) = key.split_at_mut(1);
    rest.copy_from_slice(&index.to_be_bytes());
    key
}

fn same_root(computed: &Hash, root: &Hash) -> Result<(), ProofError> {
    if computed == root {
        Ok(())
    } else {
        Err(ProofError::Root)
    }
}

fn no_such_tree() -> TablesError {
    TablesError("the log does not hold that tree".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryTables;
    use proptest::prelude::*;

    const SIZES: u64 = 300;

    #[test]
    fn roots_follow_the_definition_for_every_size() {
        let (tables, leaves) = log(SIZES);
        for size in 0..=leaves.len() {
            let expected = definition(&leaves[..size]);
            assert_eq!(root(&tables, size as u64).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn every_inclusion_proof_verifies() {
        let (tables, leaves) = log(SIZES);
        for size in 1..=SIZES {
            let root = root(&tables, size).unwrap();
            for (index, leaf) in (0..size).zip(&leaves) {
                let proof = inclusion(&tables, index, size).unwrap();
                let hash = leaf_hash(leaf);
                assert_eq!(proof.verify(&hash, index, size, &root), Ok(()));
            }
        }
    }

    #[test]
    fn every_consistency_proof_verifies() {
        let (tables, _) = log(SIZES);
        let roots: Vec<_> = (0..=SIZES).map(|n| root(&tables, n).unwrap()).collect();
        for (new, new_root) in (0..).zip(&roots) {
            for (old, old_root) in (0..=new).zip(&roots) {
                let proof = consistency(&tables, old, new).unwrap();
                assert_eq!(proof.verify(old, old_root, new, new_root), Ok(()));
                let left_out = old == 0 || old == new || old.is_power_of_two();
                let shown = (!left_out).then_some(*old_root);
                assert_eq!(proof.old_root(old, new, new_root), shown, "{old} {new}");
            }
        }
    }

    #[test]
    fn proofs_outside_the_log_are_refused() {
        let (tables, _) = log(5);
        assert!(root(&tables, 6).is_err());
        assert!(inclusion(&tables, 5, 5).is_err());
        assert!(inclusion(&tables, 0, 0).is_err());
        assert!(inclusion(&tables, 0, 8).is_err());
        assert!(consistency(&tables, 4, 3).is_err());
        assert!(consistency(&tables, 3, 8).is_err());
    }

    #[test]
    fn impossible_indexes_and_sizes_do_not_verify() {
        let hash = leaf_hash(b"leaf");
        let empty = empty_root();
        let inclusion = InclusionProof(vec![]);
        assert_eq!(
            inclusion.verify(&hash, 0, 0, &hash),
            Err(ProofError::OutOfRange)
        );
        assert_eq!(
            inclusion.verify(&hash, 1, 1, &hash),
            Err(ProofError::OutOfRange)
        );
        let nothing = ConsistencyProof(vec![]);
        assert_eq!(
            nothing.verify(2, &hash, 1, &hash),
            Err(ProofError::OutOfRange)
        );
        assert_eq!(nothing.verify(0, &hash, 1, &hash), Err(ProofError::Root));
        assert_eq!(nothing.verify(0, &empty, 0, &hash), Err(ProofError::Root));
        assert_eq!(nothing.verify(0, &empty, 1, &hash), Ok(()));
        let extra = ConsistencyProof(vec![hash]);
        assert_eq!(extra.verify(0, &empty, 1, &hash), Err(ProofError::Length));
        assert_eq!(extra.verify(1, &hash, 1, &hash), Err(ProofError::Length));
    }

    #[test]
    fn every_flipped_bit_of_a_proof_fails() {
        let (tables, leaves) = log(21);
        for size in 1..=21 {
            let root = root(&tables, size).unwrap();
            for (index, leaf) in (0..size).zip(&leaves) {
                let hash = leaf_hash(leaf);
                let proof = inclusion(&tables, index, size).unwrap();
                for bad in flipped(&proof.0) {
                    let verdict = InclusionProof(bad).verify(&hash, index, size, &root);
                    assert_eq!(verdict, Err(ProofError::Root));
                }
                let old_root = super::root(&tables, index).unwrap();
                let proof = consistency(&tables, index, size).unwrap();
                for bad in flipped(&proof.0) {
                    let verdict = ConsistencyProof(bad).verify(index, &old_root, size, &root);
                    assert_eq!(verdict, Err(ProofError::Root));
                }
                for bad in flipped(&proof.0) {
                    assert_eq!(ConsistencyProof(bad).old_root(index, size, &root), None);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn proof_for_another_place_length_or_leaf_fails(
            size in 2..SIZES,
            pick in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
        ) {
            let (tables, leaves) = log(size);
            let tree_root = root(&tables, size).unwrap();
            let index = pick.index(leaves.len());
            let hash = leaf_hash(&leaves[index]);
            let elsewhere = other.index(leaves.len());
            let other_leaf = leaf_hash(&leaves[elsewhere]);
            let (index, elsewhere) = (index as u64, elsewhere as u64);
            let proof = inclusion(&tables, index, size).unwrap();

            if elsewhere != index {
                prop_assert!(proof.verify(&hash, elsewhere, size, &tree_root).is_err());
                prop_assert!(proof.verify(&other_leaf, index, size, &tree_root).is_err());
            }
            let longer = InclusionProof([proof.0.clone(), vec![hash]].concat());
            prop_assert_eq!(longer.verify(&hash, index, size, &tree_root), Err(ProofError::Length));
            let shorter = InclusionProof(proof.0[1..].to_vec());
            prop_assert_eq!(shorter.verify(&hash, index, size, &tree_root), Err(ProofError::Length));

            let old = index + 1;
            let old_root = root(&tables, old).unwrap();
            let proof = consistency(&tables, old, size).unwrap();
            if old < size {
                let longer = ConsistencyProof([proof.0.clone(), vec![hash]].concat());
                prop_assert!(longer.verify(old, &old_root, size, &tree_root).is_err());
                let shorter = ConsistencyProof(proof.0[1..].to_vec());
                prop_assert!(shorter.verify(old, &old_root, size, &tree_root).is_err());
            }
        }
    }

    fn log(size: u64) -> (MemoryTables, Vec<Vec<u8>>) {
        let mut tables = MemoryTables::default();
        let leaves: Vec<_> = (0..size)
            .map(|i| format!("leaf {i}").into_bytes())
            .collect();
        for (index, leaf) in (0..).zip(&leaves) {
            append(&mut tables, index, leaf).unwrap();
        }
        (tables, leaves)
    }

    /// RFC 6962 section 2.1, word by word.
    fn definition(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => leaf_hash(leaf),
            _ => {
                let middle = usize::try_from(split(leaves.len() as u64)).unwrap();
                let (left, right) = leaves.split_at(middle);
                node_hash(&definition(left), &definition(right))
            }
        }
    }

    fn flipped(hashes: &[Hash]) -> Vec<Vec<Hash>> {
        let flip = |bit: usize| {
            let mut hashes = hashes.to_vec();
            let mut bytes = *hashes[bit / 256].as_bytes();
            bytes[bit % 256 / 8] ^= 1 << (bit % 8);
            hashes[bit / 256] = Hash::new(bytes);
            hashes
        };
        (0..hashes.len() * 256).map(flip).collect()
    }
}
