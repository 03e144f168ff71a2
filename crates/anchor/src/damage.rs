use crate::leaf::{Leaf, Opening};
use crate::tree::{leaf_hash, node_hash, node_key};
use crate::{LeafIndex, Table, TablesError, View};
use medanchor_dag::Hash;
use std::collections::BTreeMap;

/// What is not as `apply` wrote it in a copy of the log. Whoever shows such a copy to others contradicts what was
/// co-signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Its bytes are not those that the tree was made of, or are gone.
    #[error("leaf {0} is not the one that the tree was made of")]
    Leaf(LeafIndex),
    /// It is there, and is not what the leaf commits to.
    #[error("the opening of leaf {0} is not the one that the leaf names")]
    Opening(LeafIndex),
    /// It is not the hash of the two nodes below it, or is gone.
    #[error("node {index} on level {level} of the tree is not the hash of what is below it")]
    Node {
        /// 1 above the hashes of leaves, and so on.
        level: u8,
        /// From the left.
        index: u64,
    },
}

impl Damage {
    /// Leaves in a page.
    pub const PAGE: u64 = 1024;

    /// Looks for damage in one page of a log of `size` leaves, and in the nodes that it completes. No damage in
    /// any page from 0 on means that every leaf, every opening and every node is the one that was written.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn find_in_page(
        view: &(impl View + ?Sized),
        page: u64,
        size: u64,
    ) -> Result<Option<Self>, TablesError> {
        let from = page.saturating_mul(Self::PAGE);
        let until = from.saturating_add(Self::PAGE).min(size);
        if from >= until {
            return Ok(None);
        }
        let leaves = rows(view, Table::Leaves, from, until)?;
        let openings = rows(view, Table::Openings, from, until)?;
        let mut hashes = Vec::new();
        for index in from..until {
            let Some(bytes) = leaves.get(&index) else {
                return Ok(Some(Self::Leaf(index)));
            };
            let hash = leaf_hash(bytes);
            if stored(view, 0, index)? != Some(hash) {
                return Ok(Some(Self::Leaf(index)));
            }
            hashes.push(hash);
            // One that is gone was redacted.
            if let Some(opening) = openings.get(&index) {
                let named = Leaf::from_bytes(bytes).ok().map(|leaf| leaf.opening);
                if named != Some(Opening::commitment_of(opening)) {
                    return Ok(Some(Self::Opening(index)));
                }
            }
        }
        find_above(view, from, hashes)
    }
}

/// The nodes above the hashes of leaves from `start` on.
fn find_above(
    view: &(impl View + ?Sized),
    mut start: u64,
    mut hashes: Vec<Hash>,
) -> Result<Option<Damage>, TablesError> {
    let mut level = 0;
    while !hashes.is_empty() {
        // Above the page, the left half of a node is of an earlier page, where it was found to be in order.
        if start & 1 == 1 {
            match stored(view, level, start - 1)? {
                Some(left) => hashes.insert(0, left),
                None => {
                    return Ok(Some(Damage::Node {
                        level,
                        index: start - 1,
                    }));
                }
            }
            start -= 1;
        }
        level += 1;
        start >>= 1;
        let pairs = hashes.as_chunks::<2>().0;
        let above: Vec<Hash> = pairs
            .iter()
            .map(|[left, right]| node_hash(left, right))
            .collect();
        for (index, hash) in (start..).zip(&above) {
            if stored(view, level, index)? != Some(*hash) {
                return Ok(Some(Damage::Node { level, index }));
            }
        }
        hashes = above;
    }
    Ok(None)
}

fn rows(
    view: &(impl View + ?Sized),
    table: Table,
    from: u64,
    until: u64,
) -> Result<BTreeMap<u64, Vec<u8>>, TablesError> {
    let (from, until) = (from.to_be_bytes(), until.to_be_bytes());
    let rows = view.range(table, &from, Some(&until), usize::MAX)?;
    let rows = rows.into_iter();
    Ok(rows
        .filter_map(|(key, value)| Some((u64::from_be_bytes(key.try_into().ok()?), value)))
        .collect())
}

fn stored(view: &(impl View + ?Sized), level: u8, index: u64) -> Result<Option<Hash>, TablesError> {
    let hash = view.get(Table::Nodes, &node_key(level, index))?;
    Ok(hash.and_then(|hash| Some(Hash::new(hash.try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MEMBERS, World};
    use crate::{MemoryTables, PrincipalKind, State, Tables, tree};

    #[test]
    fn every_row_that_was_changed_or_lost_is_found_and_named() {
        let (tables, size) = log(5);
        assert_eq!(find(&tables, size), None);
        let indexes = |table| {
            let rows = tables.range(table, &[], None, usize::MAX).unwrap();
            rows.into_iter().map(|(key, _)| key)
        };
        let index_of = |key: &[u8]| u64::from_be_bytes(key.try_into().unwrap());
        for table in [Table::Leaves, Table::Openings, Table::Nodes] {
            for key in indexes(table) {
                let named = match table {
                    Table::Leaves => Damage::Leaf(index_of(&key)),
                    Table::Openings => Damage::Opening(index_of(&key)),
                    _ => match (key[0], index_of(&key[1..])) {
                        (0, index) => Damage::Leaf(index),
                        (level, index) => Damage::Node { level, index },
                    },
                };
                let value = tables.get(table, &key).unwrap().unwrap();
                for byte in [0, value.len() - 1] {
                    let mut changed = value.clone();
                    changed[byte] ^= 1;
                    let mut damaged = tables.clone();
                    damaged.put(table, &key, &changed).unwrap();
                    assert_eq!(find(&damaged, size), Some(named), "{table:?} {key:?}");
                }
                let mut damaged = tables.clone();
                damaged.remove(table, &key).unwrap();
                let lost = (table != Table::Openings).then_some(named);
                assert_eq!(find(&damaged, size), lost, "{table:?} {key:?}");
            }
        }
    }

    #[test]
    fn nodes_above_many_pages_are_looked_at() {
        let size = 4 * Damage::PAGE + 1;
        let mut tables = MemoryTables::default();
        for index in 0..size {
            let leaf = index.to_be_bytes();
            tables.put(Table::Leaves, &leaf, &leaf).unwrap();
            tree::append(&mut tables, index, &leaf).unwrap();
        }
        assert_eq!(find(&tables, size), None);
        for (level, index) in [(10, 0), (10, 3), (11, 0), (11, 1), (12, 0)] {
            let mut damaged = tables.clone();
            damaged
                .put(Table::Nodes, &node_key(level, index), &[7; 32])
                .unwrap();
            assert_eq!(find(&damaged, size), Some(Damage::Node { level, index }));
        }
    }

    /// What is found first, page by page.
    fn find(tables: &MemoryTables, size: u64) -> Option<Damage> {
        let mut pages = 0..=size / Damage::PAGE;
        pages.find_map(|page| Damage::find_in_page(tables, page, size).unwrap())
    }

    /// A founded network and so many people.
    fn log(people: u64) -> (MemoryTables, u64) {
        let mut world = World::new();
        for number in 0..people {
            let name = format!("person-{number}");
            world.enrol(&name, PrincipalKind::Person, MEMBERS[0], &["clinician"]);
        }
        let size = State::new(&world.tables).tree_size().unwrap();
        (world.tables, size)
    }
}
