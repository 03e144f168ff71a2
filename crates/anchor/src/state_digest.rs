use crate::{Founded, State, TablesError, TrustPolicy};
use medanchor_dag::{CborError, Did, Hash, Signature, SigningKey, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A member's word that the whole state, as it was right after one entry of the replicated log, has this
/// digest. A checkpoint commits to leaves alone; this commits to everything that a snapshot holds. A
/// signature under [`StateDigest::LABEL`] over `H(dag-cbor(state digest without sig))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateDigest {
    /// Format version: 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry in the replicated log.
    pub index: u64,
    /// Leaves in the state.
    pub tree_size: u64,
    /// SHA-256 of the snapshot's content.
    pub digest: Hash,
    /// Length of that content in bytes.
    pub size: u64,
    /// The node that computed it.
    pub node: Did,
    /// Its signature.
    pub sig: Signature,
}

/// What one state digest says, whoever signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digested {
    /// Index of the entry in the replicated log.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
    /// Leaves in the state.
    pub tree_size: u64,
    /// SHA-256 of the snapshot's content.
    pub digest: Hash,
    /// Length of that content in bytes.
    pub size: u64,
}

impl StateDigest {
    /// Label of the signature.
    pub const LABEL: &'static str = "medanchor/v1/state-digest";
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 1024;

    /// Signs that the state was this.
    pub fn sign(node: &SigningKey, origin: &str, said: Digested) -> Self {
        let hash = hash(origin, &said, &node.did());
        Self {
            v: 1,
            origin: origin.to_owned(),
            term: said.term,
            index: said.index,
            tree_size: said.tree_size,
            digest: said.digest,
            size: said.size,
            node: node.did(),
            sig: node.sign(Self::LABEL, hash.as_bytes()),
        }
    }

    /// What it says.
    pub fn said(&self) -> Digested {
        Digested {
            index: self.index,
            term: self.term,
            tree_size: self.tree_size,
            digest: self.digest,
            size: self.size,
        }
    }

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`StateDigest::MAX_BYTES`]. The signature is not checked.
    ///
    /// # Errors
    ///
    /// [`CborError`]; such bytes are never a state digest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CborError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }

    fn verifies(&self, origin: &str) -> bool {
        let hash = hash(&self.origin, &self.said(), &self.node);
        let signed = self.node.verify(Self::LABEL, hash.as_bytes(), &self.sig);
        self.v == 1 && self.origin == origin && signed.is_ok()
    }
}

/// Whose state digests count, and how many must be equal before a snapshot is believed: one more than may
/// be dishonest ([`TrustPolicy::tolerated_faults`]), so that at least one of them is honest; and where that
/// is more than there are members, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certifiers {
    origin: String,
    /// By node key: the organisation and its name.
    members: BTreeMap<Did, (Did, String)>,
    needed: usize,
}

/// Why a snapshot is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The signer keeps no replica of this log.
    #[error("`{0}` is no member's node")]
    Stranger(Did),
    /// The signature does not verify, or is of another log.
    #[error("state digest of `{0}` does not verify")]
    BadSignature(String),
    /// An organisation counts once.
    #[error("`{0}` signed twice")]
    Twice(String),
    /// Two members say that the state was different, so that at least one of them is wrong.
    #[error("`{0}` and `{1}` signed different states at log index {2}")]
    Conflict(String, String, u64),
    /// Too few organisations say so.
    #[error("{found} organisations signed the state, {needed} are needed")]
    TooFew {
        /// Those that signed.
        found: usize,
        /// The fewest that are enough.
        needed: usize,
    },
}

impl Certifiers {
    /// The certifiers of a network that begins.
    pub fn founded(origin: &str, founded: &Founded) -> Self {
        Self::new(origin, founded)
    }

    /// The certifiers as the state names them; none before leaf 0.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn of(state: &State<'_>) -> Result<Option<Self>, TablesError> {
        let Some(entry) = state.founded()? else {
            return Ok(None);
        };
        let now = Founded {
            members: state.members()?,
            witnesses: state.witnesses()?,
            quorum: u8::try_from(state.quorum()?).unwrap_or(u8::MAX),
            ..entry.founded
        };
        Ok(Some(Self::new(&entry.origin, &now)))
    }

    fn new(origin: &str, network: &Founded) -> Self {
        let members = &network.members;
        let organisations: BTreeSet<&Did> = members.iter().map(|member| &member.org).collect();
        // Where no policy follows from it, everybody must say the same.
        let tolerated = TrustPolicy::founded(network).map_or(usize::MAX, |p| p.tolerated_faults());
        Self {
            origin: origin.to_owned(),
            members: members
                .iter()
                .map(|member| (member.node, (member.org, member.name.clone())))
                .collect(),
            needed: tolerated.saturating_add(1).min(organisations.len()).max(1),
        }
    }

    /// Organisations that must have signed the same.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// The name of the member whose node signed, if it did.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Stranger`], [`CertificateError::BadSignature`].
    pub fn signer(&self, digest: &StateDigest) -> Result<&str, CertificateError> {
        self.member(digest).map(|(_, name)| name)
    }

    /// What enough distinct organisations say alike. One that says otherwise spoils it.
    ///
    /// # Errors
    ///
    /// [`CertificateError`]; a snapshot with this certificate must not be believed.
    pub fn check(&self, certificate: &[StateDigest]) -> Result<Digested, CertificateError> {
        let mut signed = BTreeSet::new();
        let mut first: Option<(&StateDigest, &str)> = None;
        for digest in certificate {
            let (org, name) = self.member(digest)?;
            if !signed.insert(org) {
                return Err(CertificateError::Twice(name.to_owned()));
            }
            let (said, by) = *first.get_or_insert((digest, name));
            if said.said() != digest.said() {
                let (by, name) = (by.to_owned(), name.to_owned());
                return Err(CertificateError::Conflict(by, name, said.index));
            }
        }
        match first {
            Some((digest, _)) if signed.len() >= self.needed => Ok(digest.said()),
            _ => Err(CertificateError::TooFew {
                found: signed.len(),
                needed: self.needed,
            }),
        }
    }

    /// One state digest of each organisation that says `said`: a certificate, when there are enough.
    pub fn certificate<'d>(
        &self,
        said: &Digested,
        known: impl IntoIterator<Item = &'d StateDigest>,
    ) -> Option<Vec<StateDigest>> {
        let mut by_organisation = BTreeMap::new();
        for digest in known.into_iter().filter(|digest| digest.said() == *said) {
            if let Ok((org, _)) = self.member(digest) {
                by_organisation.insert(*org, digest.clone());
            }
        }
        let certificate: Vec<_> = by_organisation.into_values().collect();
        (certificate.len() >= self.needed).then_some(certificate)
    }

    fn member(&self, digest: &StateDigest) -> Result<(&Did, &str), CertificateError> {
        let (org, name) = self
            .members
            .get(&digest.node)
            .ok_or(CertificateError::Stranger(digest.node))?;
        if digest.verifies(&self.origin) {
            Ok((org, name))
        } else {
            Err(CertificateError::BadSignature(name.clone()))
        }
    }
}

fn hash(origin: &str, said: &Digested, node: &Did) -> Hash {
    #[derive(Serialize)]
    struct Unsigned<'a> {
        v: u8,
        origin: &'a str,
        term: u64,
        index: u64,
        tree_size: u64,
        digest: &'a Hash,
        size: u64,
        node: &'a Did,
    }
    Hash::of(&to_canonical(&Unsigned {
        v: 1,
        origin,
        term: said.term,
        index: said.index,
        tree_size: said.tree_size,
        digest: &said.digest,
        size: said.size,
        node,
    }))
}
