/// What a node answers from its replica, with the size of the tree that it answers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf<T> {
    /// Leaves in the log as the node had applied it.
    pub tree_size: u64,
    /// The answer.
    pub value: T,
}
