use serde::{Serialize, de::DeserializeOwned};

/// Why bytes are not the canonical DAG-CBOR form of the expected structure.
#[derive(Debug, thiserror::Error)]
pub enum CborError {
    /// Longer than this structure may ever be; nothing was parsed.
    #[error("{size} bytes, at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not DAG-CBOR, or not this structure.
    #[error("not the expected structure")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The same structure has another, canonical encoding.
    #[error("not the canonical encoding")]
    NotCanonical,
}

/// The canonical DAG-CBOR bytes of `value` (<https://ipld.io/specs/codecs/dag-cbor/spec/>).
///
/// # Panics
///
/// When `value` has no DAG-CBOR form: a map whose keys are not text, or an integer outside 64 bits.
/// Our own structures have none of these.
pub fn to_canonical<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "our structures have text keys and 64-bit integers only"
    )]
    serde_ipld_dagcbor::to_vec(value).expect("structure has a DAG-CBOR form")
}

/// Parses canonical DAG-CBOR of at most `limit` bytes and nothing else.
///
/// # Errors
///
/// When the bytes are too long, are not this structure, or do not re-encode to themselves.
pub fn from_canonical<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    limit: usize,
) -> Result<T, CborError> {
    if bytes.len() > limit {
        return Err(CborError::TooLong {
            size: bytes.len(),
            limit,
        });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|error| CborError::Malformed(Box::new(error)))?;
    let again = serde_ipld_dagcbor::to_vec(&value)
        .map_err(|error| CborError::Malformed(Box::new(error)))?;
    if again == bytes {
        Ok(value)
    } else {
        Err(CborError::NotCanonical)
    }
}
