use crate::{
    ReleaseList, SignedStatement, Statement,
    statement::{SignatureWire, signatures_from_wire, signatures_to_wire},
    verified,
};
use medanchor_dag::{CborError, Did, Hash, Signature, SigningKey, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// What one entry of the replicated log carries: statements in order, and all that `apply` may not draw
/// or measure itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Format version: 1.
    pub v: u8,
    /// The leader's clock when it made the batch, unix ms.
    pub proposed_at: u64,
    /// The statements.
    pub entries: Vec<Entry>,
    /// What their holders signed.
    pub holds: Vec<Hold>,
    /// The lists of the releases among them.
    pub lists: Vec<ReleaseList>,
}

/// One statement of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 32 random bytes: hide the opening in its leaf.
    pub salt: [u8; 32],
    /// The statement.
    pub signed: SignedStatement,
}

impl Batch {
    /// Statements in one batch.
    pub const MAX_ENTRIES: usize = 1024;
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 4 * 1024 * 1024;

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`Batch::MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`CborError`]; such bytes are never a batch.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CborError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }

    /// When bytes say that they were proposed, unix ms, without parsing the rest: right if they are a batch.
    /// Of bytes that are none it says something or nothing, and `apply` lets those change nothing.
    pub fn proposed_at_of(bytes: &[u8]) -> Option<u64> {
        #[derive(Deserialize)]
        struct Stamp {
            proposed_at: u64,
        }
        let stamp: Result<Stamp, _> = serde_ipld_dagcbor::from_slice(bytes);
        stamp.ok().map(|stamp| stamp.proposed_at)
    }
}

/// A holder's word on `anchored` statements: each agrees with its record, and that record and the wrap
/// that it names are whole and fsynced on the holder's disk until a log time (I1). A signature under
/// [`Hold::LABEL`] over `H(dag-cbor(hold without sig))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Format version: 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// The holder's node key.
    pub holder: Did,
    /// Hashes of the statements ([`Statement::hash`]). At most [`Hold::MAX_STATEMENTS`].
    pub statements: Vec<Hash>,
    /// Log time, unix ms, until which all of it is kept even if it is not anchored.
    pub until: u64,
    /// The holder's signature.
    pub sig: Signature,
}

/// The hold is not its holder's word, or holds too much at once.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("hold by `{0}` does not verify")]
pub struct HoldError(pub Did);

impl Hold {
    /// Label of the signature.
    pub const LABEL: &'static str = "medanchor/v1/hold";
    /// Statements in one hold.
    pub const MAX_STATEMENTS: usize = 1024;

    /// Signs that what the statements with these hashes name is held until `until_unix_ms`.
    pub fn sign(
        node: &SigningKey,
        origin: &str,
        statements: Vec<Hash>,
        until_unix_ms: u64,
    ) -> Self {
        let digest = hold_digest(origin, &node.did(), &statements, until_unix_ms);
        Self {
            v: 1,
            origin: origin.to_owned(),
            holder: node.did(),
            statements,
            until: until_unix_ms,
            sig: node.sign(Self::LABEL, digest.as_bytes()),
        }
    }

    /// Checks version, size and signature.
    ///
    /// # Errors
    ///
    /// [`HoldError`] names the holder it claims to come from.
    pub fn verify(&self, origin: &str) -> Result<(), HoldError> {
        let digest = hold_digest(&self.origin, &self.holder, &self.statements, self.until);
        let signed = verified::verifies(&self.holder, Self::LABEL, digest.as_bytes(), &self.sig);
        let fits =
            self.v == 1 && self.origin == origin && self.statements.len() <= Self::MAX_STATEMENTS;
        if signed && fits {
            Ok(())
        } else {
            Err(HoldError(self.holder))
        }
    }
}

fn hold_digest(origin: &str, holder: &Did, statements: &[Hash], until: u64) -> Hash {
    #[derive(Serialize)]
    struct Unsigned<'a> {
        v: u8,
        origin: &'a str,
        holder: &'a Did,
        statements: &'a [Hash],
        until: u64,
    }
    Hash::of(&to_canonical(&Unsigned {
        v: 1,
        origin,
        holder,
        statements,
        until,
    }))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryWire<S> {
    salt: serde_bytes::ByteArray<32>,
    statement: S,
    signatures: Vec<SignatureWire>,
}

impl Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EntryWire {
            salt: serde_bytes::ByteArray::new(self.salt),
            statement: &self.signed.statement,
            signatures: signatures_to_wire(&self.signed.signatures),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = EntryWire::<Statement>::deserialize(deserializer)?;
        let signed = SignedStatement {
            statement: wire.statement,
            signatures: signatures_from_wire(wire.signatures),
        };
        signed.check_form().map_err(serde::de::Error::custom)?;
        Ok(Self {
            salt: wire.salt.into_array(),
            signed,
        })
    }
}
