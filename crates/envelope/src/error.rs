/// Why a payload could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The operating system gave no random bytes: nothing was sealed, try again.
    #[error("no random bytes from the operating system")]
    NoRandomness(#[source] getrandom::Error),
}

/// Why something sealed could not be opened. Nothing was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The wrap was made for another record, or the sealed key for another custody: ask for the right one.
    #[error("wrap belongs to another record")]
    OtherRecord,
    /// The wrap was made for another recipient: use that one's identity, or ask for a wrap of your own.
    #[error("wrap is for another recipient")]
    OtherRecipient,
    /// The wrap is damaged or forged: fetch it again, or ask for another.
    #[error("wrap does not open")]
    Wrap,
    /// The wrap holds another key than the record was sealed with. Nobody honest makes such a wrap:
    /// do not trust its maker.
    #[error("content key does not match the record's commitment")]
    Commitment,
    /// The chunk is damaged, out of place or not the length it must have: fetch the record again.
    #[error("chunk {index} does not open")]
    Chunk {
        /// Its place in the payload, from 0.
        index: u64,
    },
    /// The sealed metadata are damaged or belong to another record: fetch the record again.
    #[error("metadata do not open")]
    Metadata,
}
