use crate::{ConvertError, convert, pb::access as pb};
use bytes::Bytes;
use medanchor_anchor::{Attestation, StoreKey};
use medanchor_dag::{CustodyId, from_canonical, to_canonical};

/// A copy of a custody key that a broker is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportKey {
    /// The custody key's id.
    pub custody: CustodyId,
    /// Epoch of the key.
    pub epoch: u32,
    /// The private key, sealed to the broker's store key: canonical bytes, not parsed yet.
    pub copy: Bytes,
}

/// A custody key that a broker holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedKey {
    /// The broker's word that it holds the private key durably. Not verified yet.
    pub attestation: Attestation,
    /// Whether it held it before.
    pub was_held: bool,
}

/// The most custody keys that are checked at once.
pub const MAX_CHECKED_KEYS: usize = 256;

/// The custody keys to be checked.
///
/// # Errors
///
/// [`ConvertError`] when there are too many, or an id is malformed.
pub fn keys_to_check(request: &pb::CheckKeysRequest) -> Result<Vec<CustodyId>, ConvertError> {
    few("custodies", request.custodies.len())?;
    let ids = request.custodies.iter();
    ids.map(|id| convert::custody_id("custodies", id)).collect()
}

/// The answer that a broker holds these keys, or not.
pub fn checked_keys(attestations: &[Option<Attestation>]) -> pb::CheckKeysResponse {
    let bytes = |held: &Option<Attestation>| held.as_ref().map_or_else(Vec::new, to_canonical);
    pb::CheckKeysResponse {
        attestations: attestations.iter().map(bytes).collect(),
    }
}

/// A broker's attestations of the keys that it holds, in the order of the request. Not verified yet.
pub(crate) fn attestations(
    response: &pb::CheckKeysResponse,
) -> Result<Vec<Option<Attestation>>, ConvertError> {
    few("attestations", response.attestations.len())?;
    let held = |bytes: &Vec<u8>| match bytes.is_empty() {
        true => Ok(None),
        false => attestation("attestations", bytes).map(Some),
    };
    response.attestations.iter().map(held).collect()
}

/// An attestation in a message. Not verified yet.
pub(crate) fn attestation(field: &'static str, bytes: &[u8]) -> Result<Attestation, ConvertError> {
    from_canonical(bytes, MAX_ATTESTATION_BYTES)
        .map_err(|error| ConvertError::malformed(field, error))
}

/// The store key in an answer. Not verified yet.
pub(crate) fn store_key(response: &pb::GetStoreKeyResponse) -> Result<StoreKey, ConvertError> {
    from_canonical(&response.store_key, StoreKey::MAX_BYTES)
        .map_err(|error| ConvertError::malformed("store_key", error))
}

impl From<&StoreKey> for pb::GetStoreKeyResponse {
    fn from(store_key: &StoreKey) -> Self {
        Self {
            store_key: to_canonical(store_key),
        }
    }
}

impl TryFrom<pb::ImportKeyRequest> for ImportKey {
    type Error = ConvertError;

    fn try_from(request: pb::ImportKeyRequest) -> Result<Self, ConvertError> {
        convert::at_most("copy", &request.copy, MAX_COPY_BYTES)?;
        Ok(Self {
            custody: convert::custody_id("custody", &request.custody)?,
            epoch: request.epoch,
            copy: request.copy.into(),
        })
    }
}

impl From<ImportKey> for pb::ImportKeyRequest {
    fn from(import: ImportKey) -> Self {
        Self {
            custody: import.custody.as_bytes().to_vec(),
            epoch: import.epoch,
            copy: import.copy.into(),
        }
    }
}

impl TryFrom<pb::ImportKeyResponse> for ImportedKey {
    type Error = ConvertError;

    fn try_from(response: pb::ImportKeyResponse) -> Result<Self, ConvertError> {
        Ok(Self {
            attestation: attestation("attestation", &response.attestation)?,
            was_held: response.was_held,
        })
    }
}

impl From<ImportedKey> for pb::ImportKeyResponse {
    fn from(imported: ImportedKey) -> Self {
        Self {
            attestation: to_canonical(&imported.attestation),
            was_held: imported.was_held,
        }
    }
}

fn few(field: &'static str, count: usize) -> Result<(), ConvertError> {
    match count <= MAX_CHECKED_KEYS {
        true => Ok(()),
        false => Err(ConvertError::TooMany {
            field,
            limit: MAX_CHECKED_KEYS,
        }),
    }
}

/// A copy of a hybrid key has about 1,500.
pub(crate) const MAX_COPY_BYTES: usize = 4 * 1024;
const MAX_ATTESTATION_BYTES: usize = 512;
