/// What a store has, and what in it is not well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Blocks.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Blocks that were ever found bad or missing, each time anew.
    pub found_bad: u64,
    /// How many of these were put again.
    pub repaired: u64,
    /// Blocks that are bad or missing now.
    pub missing: u64,
    /// Blocks that were ever removed because nothing needed them.
    pub freed_blocks: u64,
    /// Bytes in them.
    pub freed_bytes: u64,
}
