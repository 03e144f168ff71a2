use crate::BoxError;
use medanchor_dag::{Cid, CustodyId, Did, Hash};

/// Why a message from the wire is not what it should be. The peer that sent it is at fault.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be set is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A list is longer, or a value larger, than it may ever be.
    #[error("`{field}` has more than {limit}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// The most it may have: items of a list, bytes of a value.
        limit: usize,
    },
    /// A field does not parse.
    #[error("`{field}` is malformed")]
    Malformed {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
}

impl ConvertError {
    pub(crate) fn malformed(field: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Malformed {
            field,
            source: source.into(),
        }
    }
}

/// A CID in binary form, of a kind that we use.
pub(crate) fn cid(field: &'static str, bytes: &[u8]) -> Result<Cid, ConvertError> {
    let cid = Cid::try_from(at_most(field, bytes, MAX_CID_BYTES)?)
        .map_err(|error| ConvertError::malformed(field, error))?;
    if cid.to_bytes() == bytes {
        Ok(cid)
    } else {
        Err(ConvertError::malformed(field, "cid has trailing bytes"))
    }
}

/// A list of CIDs in binary form, at most `limit`.
pub(crate) fn cids<B: AsRef<[u8]>>(
    field: &'static str,
    list: &[B],
    limit: usize,
) -> Result<Vec<Cid>, ConvertError> {
    if list.len() > limit {
        return Err(ConvertError::TooMany { field, limit });
    }
    list.iter()
        .map(|bytes| cid(field, bytes.as_ref()))
        .collect()
}

/// A `did:key`.
pub(crate) fn did(field: &'static str, text: &str) -> Result<Did, ConvertError> {
    text.parse()
        .map_err(|error: medanchor_dag::DidError| ConvertError::malformed(field, error))
}

/// A list of `did:key`s, at most `limit`.
pub(crate) fn dids(
    field: &'static str,
    list: &[String],
    limit: usize,
) -> Result<Vec<Did>, ConvertError> {
    if list.len() > limit {
        return Err(ConvertError::TooMany { field, limit });
    }
    list.iter().map(|text| did(field, text)).collect()
}

/// A custody id, 16 bytes.
pub(crate) fn custody_id(field: &'static str, bytes: &[u8]) -> Result<CustodyId, ConvertError> {
    array(field, bytes).map(CustodyId::new)
}

/// A SHA-256 digest, 32 bytes.
pub(crate) fn hash(field: &'static str, bytes: &[u8]) -> Result<Hash, ConvertError> {
    array(field, bytes).map(Hash::new)
}

/// Exactly `N` bytes.
pub(crate) fn array<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], ConvertError> {
    bytes
        .try_into()
        .map_err(|error: std::array::TryFromSliceError| ConvertError::malformed(field, error))
}

/// The bytes, when there are at most `limit`.
pub(crate) fn at_most<'a>(
    field: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<&'a [u8], ConvertError> {
    if bytes.len() > limit {
        Err(ConvertError::TooMany { field, limit })
    } else {
        Ok(bytes)
    }
}

/// Text of at most `limit` bytes, without control characters: it may be shown on a terminal.
pub(crate) fn text(
    field: &'static str,
    text: String,
    limit: usize,
) -> Result<String, ConvertError> {
    at_most(field, text.as_bytes(), limit)?;
    if text.chars().any(char::is_control) {
        return Err(ConvertError::malformed(field, "control character"));
    }
    Ok(text)
}

/// A CID version 1 with a 32-byte hash has 36.
const MAX_CID_BYTES: usize = 64;
