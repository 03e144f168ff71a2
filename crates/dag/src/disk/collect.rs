use super::{DiskStore, digest_set::DigestSet, index::Removed, raw};
use crate::{BlockStore, StoreError, block::digest_of, reach};
use cid::Cid;

/// The blocks that are to stay. It takes a few for marked that are not: another cycle, which has another number, takes
/// others.
#[derive(Debug)]
pub struct Marks(DigestSet);

/// What a step of a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The last block that was looked at; `None` at the end.
    pub last: Option<Cid>,
    /// Blocks removed.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Marks {
    /// None yet, for a store of so many blocks.
    pub fn new(blocks: u64, cycle: u64) -> Self {
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        Self(DigestSet::new(blocks.saturating_mul(BITS_PER_BLOCK), cycle))
    }

    /// Marks the block `root` of `store`, and everything below it. Whether all of it is known: what is below an inner
    /// block that is not here, or bad, is not, and nothing may be collected then.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn mark(&self, store: &dyn BlockStore, root: &Cid) -> Result<bool, StoreError> {
        reach(store, root, |cid| {
            if let Ok(digest) = digest_of(cid) {
                self.0.insert(&digest);
            }
        })
    }
}

impl DiskStore {
    /// Looks at up to `limit` blocks after the one given, in the order of their digests, and removes those that are
    /// neither marked nor were put or looked for in this [generation](DiskStore::begin_generation) or the last.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some of them may be removed, whole.
    pub fn collect(
        &self,
        after: Option<&Cid>,
        limit: usize,
        marks: &Marks,
    ) -> Result<Collected, StoreError> {
        let after = after.map(digest_of).transpose()?;
        let mut seen = self.index.digests(after.as_ref(), limit)?;
        seen.extend(self.index.bad(after.as_ref(), limit)?);
        seen.sort_unstable();
        seen.truncate(limit);
        let mut collected = Collected {
            last: seen.last().map(raw),
            ..Collected::default()
        };
        seen.retain(|digest| !marks.0.contains(digest));
        if !seen.is_empty() {
            (collected.blocks, collected.bytes) = self.remove_unnoticed(&seen)?;
        }
        Ok(collected)
    }

    /// Removes the files of one of the 256 folders that no block stands for: a crash may leave such. Their number.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some of them may be removed.
    pub fn sweep_files(&self, shard: u8) -> Result<u64, StoreError> {
        let mut swept = 0;
        for digest in self.files.digests(shard)? {
            if self.index.has_file(&digest)? {
                continue;
            }
            // A put may stand between the naming of its file and the commit of its row.
            let _exclusive = self.group.exclusive();
            self.device.check()?;
            if !self.index.has_file(&digest)? {
                self.files.remove_all(&[digest])?;
                #[cfg(medanchor_fault)]
                crate::fault_step("file-swept");
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn remove_unnoticed(&self, digests: &[[u8; 32]]) -> Result<(u64, u64), StoreError> {
        let _exclusive = self.group.exclusive();
        self.device.check()?;
        // From here nobody is told that they are here, and nobody waits for their removal.
        let condemned = self.recent.condemn(digests);
        let removed = self.remove_rows(&condemned);
        self.recent.absolve();
        let removed = removed?;
        #[cfg(medanchor_fault)]
        if !removed.files.is_empty() {
            crate::fault_step("rows-removed");
        }
        self.remove_files(&removed)
    }

    pub(super) fn remove_rows(&self, digests: &[[u8; 32]]) -> Result<Removed, StoreError> {
        if digests.is_empty() {
            return Ok(Removed::default());
        }
        // Commit point: from here the blocks are gone. Their files may outlive a crash, until they are swept.
        self.index.remove_all(digests)
    }

    /// Removes the files of blocks whose rows are gone. Their number, and the bytes in them.
    pub(super) fn remove_files(&self, removed: &Removed) -> Result<(u64, u64), StoreError> {
        self.files.remove_all(&removed.files)?;
        for digest in &removed.bad {
            self.files.discard(digest)?;
        }
        Ok((removed.blocks, removed.bytes))
    }
}

/// One in a thousand is taken for marked and is not.
const BITS_PER_BLOCK: usize = 16;
