//! Proofs that are right, and every way to spoil one that we have seen in others' tests: of trees up to 64 leaves, and of trees
//! that nobody can build. `tlog_tiles`, a port of Go's `sumdb/tlog`, and the recursive definition of RFC 6962 are asked too.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{ConsistencyProof, InclusionProof, Strength, TlogProof, TrustPolicy, tree};
use medanchor_dag::Hash;

/// A leaf, where it is said to stand, and what is to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inclusion {
    index: u64,
    size: u64,
    leaf: Hash,
    root: Hash,
    proof: Vec<Hash>,
}

/// Two trees, and what is to show that the first is a prefix of the second.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Growth {
    old: u64,
    new: u64,
    old_root: Hash,
    new_root: Hash,
    proof: Vec<Hash>,
}

#[test]
fn inclusion_is_shown_and_nothing_else_is() {
    let (mut right, mut wrong) = (0, 0);
    for (index, size) in places() {
        let honest = Inclusion::honest(index, size);
        assert!(honest.is_accepted(), "{honest:?}");
        right += 1;
        for (how, spoilt) in honest.spoilt() {
            assert!(!spoilt.is_accepted(), "{how} of leaf {index} of {size}");
            wrong += 1;
        }
    }
    assert!(right > 2_000 && wrong > 50 * right, "{right} {wrong}");
}

#[test]
fn growth_is_shown_and_nothing_else_is() {
    let (mut right, mut wrong) = (0, 0);
    for (old, new) in places().into_iter().map(|(index, size)| (index + 1, size)) {
        let honest = Growth::honest(old, new);
        assert!(honest.is_accepted(), "{honest:?}");
        right += 1;
        for (how, spoilt) in honest.spoilt() {
            assert!(!spoilt.is_accepted(), "{how} of {old} to {new}");
            wrong += 1;
        }
    }
    assert!(right > 2_000 && wrong > 20 * right, "{right} {wrong}");
}

/// A size next to the right one may have the same path to a leaf. Then the root alone tells them apart, which is signed with the
/// size; before that nobody can.
#[test]
fn sizes_beside_the_right_one_are_judged_alike() {
    for (index, size) in places().into_iter().filter(|(_, size)| *size < u64::MAX) {
        for other in [size - 1, size + 1] {
            let beside = Inclusion {
                size: other,
                ..Inclusion::honest(index, size)
            };
            let same = index < other && turns(index, other) == turns(index, size);
            assert_eq!(beside.is_accepted(), same, "{index} of {size} in {other}");
            let beside = Growth {
                new: other,
                ..Growth::honest(index + 1, size)
            };
            // Asks `tlog_tiles` as well.
            let _ = beside.is_accepted();
        }
    }
}

#[test]
fn trees_without_leaves_grow_from_nothing_alone() {
    let (empty, some) = (tree::empty_root(), Hash::of(b"some"));
    for (old, old_root, new, new_root, proof, expected) in [
        (0, empty, 0, empty, vec![], true),
        (0, empty, 5, some, vec![], true),
        (0, empty, u64::MAX, some, vec![], true),
        (0, some, 5, some, vec![], false),
        (0, some, 0, some, vec![], false),
        (0, empty, 0, some, vec![], false),
        (0, some, 0, empty, vec![], false),
        (0, empty, 0, empty, vec![some], false),
        (0, empty, 1, some, vec![some], false),
        (1, some, 0, empty, vec![], false),
        (1, some, 1, some, vec![], true),
        (1, some, 1, some, vec![some], false),
        (1, some, 1, empty, vec![], false),
        (1, some, 2, some, vec![], false),
        (2, some, 1, some, vec![], false),
        (2, some, 1, some, vec![some], false),
    ] {
        let growth = ConsistencyProof(proof);
        let accepted = growth.verify(old, &old_root, new, &new_root).is_ok();
        assert_eq!(accepted, expected, "{old} to {new}");
    }
    for index in [0, 1, u64::MAX] {
        let nothing = InclusionProof(vec![]);
        assert!(nothing.verify(&some, index, 0, &some).is_err());
        assert!(nothing.verify(&some, index, 0, &empty).is_err());
    }
}

/// A hash of no bytes, or of other than 32, is no hash, wherever it stands. An empty line ends the proof.
#[test]
fn hashes_of_other_lengths_are_no_proof() {
    let good = include_str!("vectors/c2sp/n70/proof.tlog-proof");
    let policy = include_str!("vectors/c2sp/n70/policy.txt");
    let policy: TrustPolicy = policy.parse().unwrap();
    // Entry 23, as `c2sp.rs` makes it.
    let leaf = "entry-23".repeat(4);
    let is_accepted = |text: &str| {
        let proof = text.parse::<TlogProof>();
        proof.is_ok_and(|proof| {
            let verified = proof.verify(leaf.as_bytes(), &policy, Strength::Published);
            verified.is_ok()
        })
    };
    assert!(is_accepted(good));
    let proof: TlogProof = good.parse().unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let first = lines.iter().position(|line| line.starts_with("index "));
    let first = first.unwrap() + 1;
    for at in first..first + proof.proof.0.len() {
        for hash in ["", "AA==", "====", &"A".repeat(44), &lines[at].repeat(2)] {
            for spoilt in [replaced(&lines, at, hash), inserted(&lines, at, hash)] {
                let text = spoilt.join("\n") + "\n";
                assert!(!is_accepted(&text), "{hash:?} in line {at}");
            }
        }
    }
}

impl Inclusion {
    fn honest(index: u64, size: u64) -> Self {
        let leaf = some_hash(u64::MAX);
        let turns = turns(index, size);
        let proof: Vec<Hash> = (0..).zip(&turns).map(|(n, _)| some_hash(n)).collect();
        let root =
            turns
                .iter()
                .zip(&proof)
                .fold(leaf, |below, (is_right, sibling)| match is_right {
                    true => tree::node_hash(sibling, &below),
                    false => tree::node_hash(&below, sibling),
                });
        Self {
            index,
            size,
            leaf,
            root,
            proof,
        }
    }

    fn is_accepted(&self) -> bool {
        let proof = InclusionProof(self.proof.clone());
        let ours = proof.verify(&self.leaf, self.index, self.size, &self.root);
        let theirs = self.proof.iter().map(theirs).collect();
        let (root, leaf) = (crate::theirs(&self.root), crate::theirs(&self.leaf));
        let theirs = tlog_tiles::check_record(&theirs, self.size, root, self.index, leaf);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{self:?}");
        ours.is_ok()
    }

    fn spoilt(&self) -> Vec<(String, Self)> {
        let mut all = Vec::new();
        let mut spoil = |how: &str, change: &dyn Fn(&mut Self)| {
            let mut spoilt = self.clone();
            change(&mut spoilt);
            if spoilt != *self {
                all.push((how.to_owned(), spoilt));
            }
        };
        for index in others(self.index).into_iter().chain([self.size]) {
            spoil("another index", &|it| it.index = index);
        }
        spoil("half the size", &|it| it.size /= 2);
        spoil("the double size", &|it| it.size = it.size.saturating_mul(2));
        spoil("no size", &|it| it.size = 0);
        spoil("a size before it", &|it| it.size = it.index);
        for hash in odd_hashes() {
            spoil("another root", &|it| it.root = hash);
            spoil("another leaf", &|it| it.leaf = hash);
        }
        spoil("the root for a leaf", &|it| it.leaf = it.root);
        spoil("the leaf for a root", &|it| it.root = it.leaf);
        spoil("leaf and root swapped", &|it| {
            std::mem::swap(&mut it.leaf, &mut it.root);
        });
        for at in 0..self.proof.len() {
            spoil("leaf and sibling swapped", &|it| {
                std::mem::swap(&mut it.leaf, &mut it.proof[at]);
            });
        }
        for (how, proof) in spoilt_proofs(&self.proof, &[self.root, self.leaf]) {
            spoil(&how, &|it| it.proof.clone_from(&proof));
        }
        all
    }
}

impl Growth {
    fn honest(old: u64, new: u64) -> Self {
        let mut proof = Vec::new();
        let (old_root, new_root) = grow(old, new, true, &mut proof);
        Self {
            old,
            new,
            old_root,
            new_root,
            proof,
        }
    }

    fn is_accepted(&self) -> bool {
        let proof = ConsistencyProof(self.proof.clone());
        let ours = proof.verify(self.old, &self.old_root, self.new, &self.new_root);
        // It takes no empty tree for an old one.
        if self.old > 0 {
            let theirs = self.proof.iter().map(theirs).collect();
            let (old, new) = (crate::theirs(&self.old_root), crate::theirs(&self.new_root));
            let theirs = tlog_tiles::check_tree(&theirs, self.new, new, self.old, old);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{self:?}");
        }
        ours.is_ok()
    }

    fn spoilt(&self) -> Vec<(String, Self)> {
        let mut all = Vec::new();
        let mut spoil = |how: &str, change: &dyn Fn(&mut Self)| {
            let mut spoilt = self.clone();
            change(&mut spoilt);
            if spoilt != *self {
                all.push((how.to_owned(), spoilt));
            }
        };
        for old in others(self.old) {
            spoil("another old size", &|it| it.old = old);
        }
        spoil("half the new size", &|it| it.new /= 2);
        spoil("the double new size", &|it| {
            it.new = it.new.saturating_mul(2);
        });
        spoil("no new size", &|it| it.new = 0);
        spoil("sizes swapped", &|it| {
            std::mem::swap(&mut it.old, &mut it.new);
        });
        spoil("roots swapped", &|it| {
            std::mem::swap(&mut it.old_root, &mut it.new_root);
        });
        for hash in odd_hashes() {
            spoil("another old root", &|it| it.old_root = hash);
            spoil("another new root", &|it| it.new_root = hash);
        }
        for (how, proof) in spoilt_proofs(&self.proof, &[self.old_root, self.new_root]) {
            spoil(&how, &|it| it.proof.clone_from(&proof));
        }
        all
    }
}

/// What can be done to the hashes of a proof.
fn spoilt_proofs(honest: &[Hash], roots: &[Hash; 2]) -> Vec<(String, Vec<Hash>)> {
    let mut all = vec![
        ("no proof".to_owned(), vec![]),
        (
            "the reverse".to_owned(),
            honest.iter().rev().copied().collect(),
        ),
        ("the proof twice".to_owned(), honest.repeat(2)),
        (
            "a proof that is too long".to_owned(),
            [honest, &vec![some_hash(0); 64]].concat(),
        ),
    ];
    let odd = odd_hashes().into_iter().chain(*roots);
    for hash in odd.clone() {
        all.push(("a hash in front".to_owned(), [&[hash], honest].concat()));
        all.push(("a hash behind".to_owned(), [honest, &[hash]].concat()));
    }
    for (at, hash) in honest.iter().enumerate() {
        let mut changed = *hash.as_bytes();
        changed[at % 32] ^= 1 << (at % 8);
        for other in odd.clone().chain([Hash::new(changed)]) {
            all.push((format!("hash {at} replaced"), replaced(honest, at, other)));
        }
        all.push((format!("hash {at} twice"), inserted(honest, at, *hash)));
        all.push((
            format!("a hash before hash {at}"),
            inserted(honest, at, some_hash(7)),
        ));
        all.push((
            format!("without hash {at}"),
            [&honest[..at], &honest[at + 1..]].concat(),
        ));
        all.push((format!("up to hash {at}"), honest[..at].to_vec()));
        all.push((format!("from hash {at}"), honest[at..].to_vec()));
        let mut swapped = honest.to_vec();
        swapped.swap(at, (at + 1) % honest.len());
        all.push((format!("hash {at} and the next swapped"), swapped));
    }
    all
}

/// Nothing, no bytes, a leaf of no bytes, no bits, all bits, and anything else.
fn odd_hashes() -> [Hash; 5] {
    [
        tree::empty_root(),
        tree::leaf_hash(b""),
        Hash::new([0; 32]),
        Hash::new([0xff; 32]),
        Hash::of(b"another hash"),
    ]
}

/// Numbers beside one.
fn others(number: u64) -> [u64; 7] {
    [
        number.wrapping_sub(1),
        number.wrapping_add(1),
        number ^ 2,
        number / 2,
        number.wrapping_mul(2),
        0,
        u64::MAX,
    ]
}

/// Every leaf of the trees up to 64, and leaves of trees too large to be built.
fn places() -> Vec<(u64, u64)> {
    let small = (1..=64).flat_map(|size| (0..size).map(move |index| (index, size)));
    let sizes = [
        1_000,
        65_537,
        10_000_000,
        (1 << 40) - 1,
        1 << 40,
        (1 << 40) + 3,
        (1 << 62) + 1,
    ];
    let large = sizes.into_iter().flat_map(|size: u64| {
        let last = size.next_power_of_two() / 2;
        let indices = [0, 1, size / 3, last - 1, last, size - 2, size - 1];
        indices
            .into_iter()
            .filter(move |index| *index < size)
            .map(move |index| (index, size))
    });
    let mut all: Vec<_> = small.chain(large).collect();
    all.dedup();
    all
}

/// Whether the path is the right child at each level from the leaf up, by the definition: the left subtree has the largest power of
/// two that is less than the size.
fn turns(index: u64, size: u64) -> Vec<bool> {
    if size == 1 {
        return Vec::new();
    }
    let left = left_of(size);
    let (mut turns, is_right) = match index < left {
        true => (turns(index, left), false),
        false => (turns(index - left, size - left), true),
    };
    turns.push(is_right);
    turns
}

/// SUBPROOF of RFC 6962 section 2.1.2 over subtrees whose hashes are made up: fills the proof, gives both roots.
fn grow(old: u64, new: u64, is_whole: bool, proof: &mut Vec<Hash>) -> (Hash, Hash) {
    if old == new {
        let hash = some_hash(u64::MAX);
        if !is_whole {
            proof.push(hash);
        }
        return (hash, hash);
    }
    let left = left_of(new);
    let (old_root, new_root) = match old <= left {
        true => grow(old, left, is_whole, proof),
        false => grow(old - left, new - left, false, proof),
    };
    let sibling = some_hash(proof.len().try_into().unwrap());
    proof.push(sibling);
    match old <= left {
        true => (old_root, tree::node_hash(&new_root, &sibling)),
        false => (
            tree::node_hash(&sibling, &old_root),
            tree::node_hash(&sibling, &new_root),
        ),
    }
}

fn left_of(size: u64) -> u64 {
    size.next_power_of_two() / 2
}

fn some_hash(number: u64) -> Hash {
    Hash::of(&number.to_be_bytes())
}

fn replaced<T: Clone>(list: &[T], at: usize, with: T) -> Vec<T> {
    let mut list = list.to_vec();
    list[at] = with;
    list
}

fn inserted<T: Clone>(list: &[T], at: usize, new: T) -> Vec<T> {
    let mut list = list.to_vec();
    list.insert(at, new);
    list
}

fn theirs(hash: &Hash) -> tlog_tiles::Hash {
    tlog_tiles::Hash(*hash.as_bytes())
}
