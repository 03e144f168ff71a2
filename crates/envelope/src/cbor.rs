use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// Why bytes are not a header, a wrap or a sealed key: they never will be.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Longer than this structure may ever be; nothing was parsed.
    #[error("{size} bytes, at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not DAG-CBOR, not this structure, or a value out of its range.
    #[error("not the expected structure")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The same structure has another, canonical encoding.
    #[error("not the canonical encoding")]
    NotCanonical,
}

/// The canonical DAG-CBOR bytes of one of this crate's structures.
pub(crate) fn to_canonical<T: Serialize>(value: &T) -> Vec<u8> {
    #[expect(
        clippy::expect_used,
        reason = "our structures have text keys and 64-bit integers only"
    )]
    serde_ipld_dagcbor::to_vec(value).expect("structure has a DAG-CBOR form")
}

/// Parses canonical DAG-CBOR of at most `limit` bytes and nothing else.
pub(crate) fn from_canonical<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    limit: usize,
) -> Result<T, FormatError> {
    if bytes.len() > limit {
        return Err(FormatError::TooLong {
            size: bytes.len(),
            limit,
        });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|error| FormatError::Malformed(Box::new(error)))?;
    if to_canonical(&value) == bytes {
        Ok(value)
    } else {
        Err(FormatError::NotCanonical)
    }
}

/// HPKE's `info`: `label || \0 || H(dag-cbor(context))`.
pub(crate) fn info<T: Serialize>(label: &str, context: &T) -> Vec<u8> {
    let mut info = label.as_bytes().to_vec();
    info.push(0);
    info.extend_from_slice(&sha256(&to_canonical(context)));
    info
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
