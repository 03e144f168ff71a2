use crate::LeafIndex;
use serde::{Deserialize, Serialize};

/// A witness that others run counts from now on: signed by a majority of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessAdded {
    /// Verifier key of its co-signing key (type 0x04).
    pub key: String,
    /// Its URL prefix, as [`crate::WitnessUrl`] writes it.
    pub url: String,
    /// The certificate (DER) that it shows, or that of the authority that issues those; empty where the URL is
    /// `http`. At most [`WitnessAdded::MAX_CERTIFICATE_BYTES`].
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
    /// Co-signatures that a published checkpoint carries from now on.
    pub quorum: u8,
}

impl WitnessAdded {
    /// The most bytes that the certificate may have.
    pub const MAX_CERTIFICATE_BYTES: usize = 4096;

    /// What the log says of the witness from then on.
    pub(crate) fn entry(&self, added_at: LeafIndex) -> WitnessEntry {
        let place = WitnessPlace {
            url: self.url.clone(),
            certificate: self.certificate.clone(),
        };
        WitnessEntry {
            key: self.key.clone(),
            place: Some(place),
            added_at,
            removed_at: None,
        }
    }
}

/// An outside witness counts no longer: signed by a majority of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessRemoved {
    /// Its verifier key.
    pub key: String,
    /// Co-signatures that a published checkpoint carries from now on.
    pub quorum: u8,
}

/// What the log says of an outside witness, also of one that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessEntry {
    /// Verifier key of its co-signing key.
    pub key: String,
    /// Where it is asked; `None` for those of the founding, which does not say, and for those that were removed.
    pub place: Option<WitnessPlace>,
    /// The leaf that added it.
    pub added_at: LeafIndex,
    /// The leaf that removed it.
    pub removed_at: Option<LeafIndex>,
}

impl WitnessEntry {
    /// One of the founding.
    pub(crate) fn founded(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            place: None,
            added_at: 0,
            removed_at: None,
        }
    }

    /// Whether its co-signatures count now.
    pub fn is_active(&self) -> bool {
        self.removed_at.is_none()
    }

    /// The one that counts of those with this key.
    pub(crate) fn active<'e>(entries: &'e mut [Self], key: &str) -> Option<&'e mut Self> {
        let mut entries = entries.iter_mut();
        entries.find(|entry| entry.is_active() && entry.key == key)
    }

    /// It counts no longer, and is asked nowhere.
    pub(crate) fn remove(&mut self, at: LeafIndex) {
        self.place = None;
        self.removed_at = Some(at);
    }
}

/// Where a witness is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessPlace {
    /// Its URL prefix.
    pub url: String,
    /// The certificate (DER) that it shows, or its authority's; empty where nothing is encrypted.
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
}
