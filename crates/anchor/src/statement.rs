use crate::verified;
use crate::{
    Account, BreakGlass, BreakGlassReviewed, BreakGlassRule, Cohort, Consented, Destroyed,
    DeviceDetails, EpochKeyChanged, Erased, FactorEnrolled, FactorRemoved, FactorVerified, Holding,
    LeafIndex, LegalHold, LegalHoldPlaced, ListHead, MemberAdded, MemberRemoved, Period, Placement,
    PolicySet, Withdrawn, WitnessAdded, WitnessRemoved,
};
use cid::Cid;
use ipld_core::ipld::Ipld;
use medanchor_dag::{
    CborError, CustodyId, Did, Hash, Record, Signature, SigningKey, StreamId, from_canonical,
    to_canonical,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteArray;
use std::fmt;

/// What somebody asks the log to record (`docs/formats.md`, Statement).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The network's name: a statement means nothing in another network.
    pub origin: String,
    /// What is said.
    pub body: Body,
    /// Makes two statements that say the same different ones. Absent in `anchored` alone.
    pub nonce: Option<Nonce>,
    /// Log time, unix ms, after which it is refused. Absent in `anchored` alone.
    pub not_after_unix_ms: Option<u64>,
}

/// What a statement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The network begins: signed by every founding organisation, leaf 0 and no other.
    Founded(Founded),
    /// A principal exists: signed by the organisation it belongs to, an organisation by a member.
    Enrolled(Box<Enrolled>),
    /// A principal may do nothing until it is reinstated: signed as its enrolment.
    Suspended(Standing),
    /// A suspended principal is active again: signed as its enrolment.
    Reinstated(Standing),
    /// A principal may do nothing ever again: signed as its enrolment.
    Revoked(Standing),
    /// A principal signs with another key: signed by the key in force and by the new one.
    Rotated(Rotated),
    /// A principal may act in other roles: signed as its enrolment.
    RolesChanged(RolesChanged),
    /// A custody key, or its next epoch: signed by the owner organisation.
    Custody(Custody),
    /// Consent is given for what a custody key protects: signed by its controller or its owner.
    Consented(Consented),
    /// A consent is withdrawn: signed by the custody's controller or, if it denies nothing, its owner.
    Withdrawn(Withdrawn),
    /// A record is stored: signed by its device.
    Anchored(Anchored),
    /// Keys are asked for: signed by the requester. It reaches the log inside `released` or `refused`.
    AccessRequest(AccessRequest),
    /// Keys are released: signed by the broker.
    Released(Box<Released>),
    /// Keys are refused: signed by the broker.
    Refused(Box<Refused>),
    /// An organisation joins: signed by it and by a majority of the members.
    MemberAdded(Box<MemberAdded>),
    /// A member leaves: signed by a majority of the others.
    MemberRemoved(MemberRemoved),
    /// An outside witness counts from now on: signed by a majority of the members.
    WitnessAdded(Box<WitnessAdded>),
    /// An outside witness counts no longer: signed by a majority of the members.
    WitnessRemoved(WitnessRemoved),
    /// Where records are held: signed by a majority of the members.
    Placed(Box<Placement>),
    /// Another access policy set is in force: signed by a majority of the members.
    PolicySet(PolicySet),
    /// A node holds records that it did not, or gives some back: signed by the node.
    Holding(Holding),
    /// A member keeps records until it says otherwise: signed by its organisation.
    LegalHoldPlaced(LegalHoldPlaced),
    /// It no longer has to: signed by the same organisation.
    LegalHoldReleased(LegalHold),
    /// A person has a second factor: signed by its organisation, and by the node that verifies it.
    FactorEnrolled(FactorEnrolled),
    /// A second factor counts no longer: signed by the person's organisation.
    FactorRemoved(FactorRemoved),
    /// A second factor was shown: signed by the node that verifies it. It reaches the log inside an access request.
    FactorVerified(FactorVerified),
    /// How many disclosures an account has, and which: signed by one who speaks for it.
    Account(Account),
    /// Who may override consent in an emergency, and who reviews that: signed by the organisation of both.
    BreakGlassRule(BreakGlassRule),
    /// Consent is overridden in an emergency: signed by who does.
    BreakGlass(BreakGlass),
    /// An emergency is reviewed: signed by one who does that for the organisation.
    BreakGlassReviewed(BreakGlassReviewed),
    /// A holder keeps custody keys under another epoch key: signed by the holder.
    EpochKey(EpochKeyChanged),
    /// What a custody key protects is erased: signed by the custody's owner.
    Erased(Box<Erased>),
    /// Somebody has destroyed what an erasure listed of theirs: signed by them.
    Destroyed(Destroyed),
}

/// The kind of a statement, as it stands in the statement and in its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// [`Body::Founded`]
    Founded,
    /// [`Body::Enrolled`]
    Enrolled,
    /// [`Body::Suspended`]
    Suspended,
    /// [`Body::Reinstated`]
    Reinstated,
    /// [`Body::Revoked`]
    Revoked,
    /// [`Body::Rotated`]
    Rotated,
    /// [`Body::RolesChanged`]
    RolesChanged,
    /// [`Body::Custody`]
    Custody,
    /// [`Body::Consented`]
    Consented,
    /// [`Body::Withdrawn`]
    Withdrawn,
    /// [`Body::Anchored`]
    Anchored,
    /// [`Body::AccessRequest`]
    AccessRequest,
    /// [`Body::Released`]
    Released,
    /// [`Body::Refused`]
    Refused,
    /// [`Body::MemberAdded`]
    MemberAdded,
    /// [`Body::MemberRemoved`]
    MemberRemoved,
    /// [`Body::WitnessAdded`]
    WitnessAdded,
    /// [`Body::WitnessRemoved`]
    WitnessRemoved,
    /// [`Body::Placed`]
    Placed,
    /// [`Body::PolicySet`]
    PolicySet,
    /// [`Body::Holding`]
    Holding,
    /// [`Body::LegalHoldPlaced`]
    LegalHoldPlaced,
    /// [`Body::LegalHoldReleased`]
    LegalHoldReleased,
    /// [`Body::FactorEnrolled`]
    FactorEnrolled,
    /// [`Body::FactorRemoved`]
    FactorRemoved,
    /// [`Body::FactorVerified`]
    FactorVerified,
    /// [`Body::Account`]
    Account,
    /// [`Body::BreakGlassRule`]
    BreakGlassRule,
    /// [`Body::BreakGlass`]
    BreakGlass,
    /// [`Body::BreakGlassReviewed`]
    BreakGlassReviewed,
    /// [`Body::EpochKey`]
    EpochKey,
    /// [`Body::Erased`]
    Erased,
    /// [`Body::Destroyed`]
    Destroyed,
}

/// 16 random bytes.
pub type Nonce = ByteArray<16>;

/// The network's organisations and rules at its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founded {
    /// The founding organisations, each with its first node. At most 32.
    pub members: Vec<Member>,
    /// Verifier keys (C2SP signed-note `vkey`) of outside witnesses. At most 32.
    pub witnesses: Vec<String>,
    /// Co-signatures that a published checkpoint carries.
    pub quorum: u8,
    /// Nodes that hold a record before it is anchored; at most 32. While there are fewer members, nothing can be.
    pub copies: u8,
    /// CID of the access policy set, until another one is in force.
    pub policy: Cid,
}

/// An organisation that keeps a replica of the log and co-signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The organisation's signing key.
    pub org: Did,
    /// The organisation's short name: `[a-z0-9-]{1,32}`, unique.
    pub name: String,
    /// The signing key of its node, which holds blocks and releases keys in its name.
    pub node: Did,
    /// The node's id in the replicated log, from 1.
    pub node_id: u64,
    /// Verifier key of its log key (signed-note type 0x01, named like the origin).
    pub log_key: String,
    /// Verifier key of its co-signing key (type 0x04, named `<origin>/<name>`).
    pub cosigner_key: String,
    /// SHA-256 of its node's TLS certificate (DER).
    pub certificate: Hash,
    /// Its node's libp2p peer id, base58btc text.
    pub peer_id: String,
}

/// A principal: somebody or something that signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// Its first signing key. This stays its identity, also when it [signs with another one](Rotated).
    pub who: Did,
    /// What it is.
    pub kind: PrincipalKind,
    /// The organisation it belongs to; an organisation belongs to itself.
    pub org: Did,
    /// Roles it may act in, `[a-z-]{1,32}`, sorted, at most 16: `clinician`, `custodian`, `device`,
    /// `researcher`, `vendor`, ...
    pub roles: Vec<String>,
    /// A short label for lists, at most 64 characters; never a patient's name. Kept in the opening only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What a device is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceDetails>,
}

/// What a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    /// A hospital, research institute, vendor or authority.
    Organisation,
    /// A person who works for an organisation, or a patient.
    Person,
    /// A medical device or its gateway.
    Device,
    /// A machine that acts for an organisation, such as a vendor's release service.
    Service,
}

/// Whose standing changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The principal.
    pub who: Did,
}

/// The key that a principal signs with from now on. All that names the principal goes on to mean it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotated {
    /// The principal: the key that it was enrolled with.
    pub who: Did,
    /// The new key, which nobody has had.
    pub key: Did,
}

/// The roles that a principal may act in from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolesChanged {
    /// The principal.
    pub who: Did,
    /// All its roles, as in [`Enrolled::roles`].
    pub roles: Vec<String>,
}

/// A custody key's public half and who holds the private one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custody {
    /// The stable id.
    pub custody: CustodyId,
    /// The organisation that answers for it.
    pub owner: Did,
    /// Whose or what data it protects.
    pub kind: CustodyKind,
    /// HPKE KEM of the key (RFC 9180 section 7.1): 0x0020.
    pub kem: u16,
    /// The public key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// 0 for the first key, then one more each time.
    pub epoch: u32,
    /// Nodes that may release under it. At most 16.
    pub brokers: Vec<Did>,
    /// Organisations besides the owner whose devices may write under it. At most 64.
    pub writers: Vec<Did>,
    /// Who may give and withdraw consent besides the owner: a patient's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Did>,
    /// Two holders or more, one of them a listed broker, say that they hold the private key durably.
    pub held_by: Vec<Attestation>,
}

/// Whose or what data a custody key protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CustodyKind {
    /// One person's. Destroying the key erases the data.
    Person,
    /// A dataset's, or a receiver's of firmware.
    Dataset,
    /// Published under a key that anyone enrolled may have.
    Open,
}

/// A holder's word that it durably holds the private half of a custody key, sealed under its epoch key and in no other
/// form: a signature under [`Attestation::LABEL`] over `H(dag-cbor({ custody, epoch, key, under }))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The holder: a broker's node key, or the key of the owner organisation or of one of its people.
    pub by: Did,
    /// The holder's epoch key (X25519 public key).
    pub under: ByteArray<32>,
    /// Its signature.
    pub sig: Signature,
}

impl Attestation {
    /// Label of the signature.
    pub const LABEL: &'static str = "medanchor/v1/custody-held";

    /// Signs that the private half of `key` is held durably, under the epoch key `under`.
    pub fn sign(
        holder: &SigningKey,
        custody: CustodyId,
        epoch: u32,
        key: &[u8],
        under: [u8; 32],
    ) -> Self {
        let under = ByteArray::new(under);
        let digest = held_digest(custody, epoch, key, under);
        Self {
            by: holder.did(),
            under,
            sig: holder.sign(Self::LABEL, &digest),
        }
    }

    /// Whether the signature is the holder's over exactly this key.
    pub fn is_valid(&self, custody: CustodyId, epoch: u32, key: &[u8]) -> bool {
        let digest = held_digest(custody, epoch, key, self.under);
        self.by.verify(Self::LABEL, &digest, &self.sig).is_ok()
    }
}

/// A record that its device has sealed, and whose blocks k nodes hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchored {
    /// The record: root of the DAG.
    pub record: Cid,
    /// The wrap of its content key to the custody key.
    pub wrap: Cid,
    /// The custody key's id.
    pub custody: CustodyId,
    /// The key of the device that sealed and signed it: the one in force then.
    pub device: Did,
    /// The device's stream.
    pub stream: StreamId,
    /// Its number in the stream, from 0.
    pub seq: u64,
    /// The record before it in the stream, CID in binary form.
    pub prev: Option<serde_bytes::ByteBuf>,
    /// The data class.
    pub class: Class,
    /// When the data was captured, unix ms, by the device's clock.
    pub captured_at: u64,
    /// Length of the payload in bytes.
    pub size: u64,
    /// SHA-256 of the record's header, unique in the log.
    pub header: Hash,
}

impl Anchored {
    /// What a record's device has to say of it. Every statement that says something else of it is a lie.
    pub fn of(record: &Record, wrap: Cid) -> Self {
        let header = record.header();
        let prev = record.prev().map(Cid::to_bytes);
        Self {
            record: *record.cid(),
            wrap,
            custody: header.custody,
            device: record.device(),
            stream: header.stream,
            seq: record.seq(),
            prev: prev.map(serde_bytes::ByteBuf::from),
            class: header.class,
            captured_at: header.captured_at_unix_ms,
            size: record.size_bytes(),
            header: record.header_hash(),
        }
    }
}

pub use medanchor_dag::Class;

/// Keys of records are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRequest {
    /// The records by name, all under one custody key; at most [`AccessRequest::MAX_RECORDS`]. None when they are selected.
    pub records: Vec<Cid>,
    /// The records by what they are, instead of by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// Purpose of use: an HL7 ActReason code.
    pub purpose: String,
    /// The role acted in.
    pub role: String,
    /// HPKE public key that the released keys are sealed to.
    #[serde(with = "serde_bytes")]
    pub recipient: Vec<u8>,
    /// Size of the tree that the requester had seen.
    pub at: u64,
    /// That the requester has shown a second factor, where the policies want one: [`FactorVerified`], signed by the
    /// node that verifies it.
    pub second_factor: Option<Box<SignedStatement>>,
}

impl AccessRequest {
    /// Records in one request.
    pub const MAX_RECORDS: usize = 256;
}

/// Records that are asked for by what they are: all that this describes, as far as the requester may have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Those under these custody keys. The keys are named beside the request.
    pub cohort: Cohort,
    /// Those of this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// Those of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// When they were captured, by the device's clock.
    pub captured: Period,
    /// The leaves that anchored them.
    pub leaves: Leaves,
}

/// A device's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamName {
    /// The device: the key that it was enrolled with.
    pub device: Did,
    /// Its stream.
    pub stream: StreamId,
}

/// From one leaf until another, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaves {
    /// The first.
    pub from: LeafIndex,
    /// The last.
    pub until: LeafIndex,
}

impl Selection {
    /// Whether what it says has an order and a size that may be.
    pub fn is_sound(&self) -> bool {
        let most = u64::try_from(Cohort::MAX).unwrap_or(u64::MAX);
        (1..=most).contains(&self.cohort.count)
            && self.captured.is_sound()
            && self.leaves.from <= self.leaves.until
    }

    /// Whether a record is one of them, if it is under one of their custody keys. `device` is who sealed it, whichever key
    /// that was with.
    pub(crate) fn has(&self, anchored: &Anchored, device: &Did, index: LeafIndex) -> bool {
        let is_of = |name: &StreamName| name.device == *device && name.stream == anchored.stream;
        self.stream.as_ref().is_none_or(is_of)
            && self.class.is_none_or(|class| class == anchored.class)
            && self.captured.contains(anchored.captured_at)
            && (self.leaves.from..=self.leaves.until).contains(&index)
    }
}

/// Keys are released. No wrap leaves a broker before this statement's leaf says ok (I2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// The signed request, as the requester sent it.
    pub request: SignedStatement,
    /// Ids of the policies that permitted it, sorted.
    pub policies: Vec<String>,
    /// What is released: the list itself comes beside the statement.
    pub list: ListHead,
    /// What the decision read of the policy set and of who asks. It tells of no record: what was read of those is in the list.
    pub basis: Basis,
    /// Log time when it was decided, or the broker's clock where that was later, unix ms.
    pub decided_at: u64,
    /// Log time, unix ms, until which this may be anchored and the wraps handed out.
    pub valid_until: u64,
}

/// Keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The signed request, as the requester sent it.
    pub request: SignedStatement,
    /// The stable code: `[a-z-]{1,64}`.
    pub code: String,
    /// What the decision read; of a requester that may not know of the records, nothing about them.
    pub basis: Basis,
    /// Log time when it was decided, or the broker's clock where that was later, unix ms.
    pub decided_at: u64,
}

/// What a decision read: for each thing, the index of the leaf that last changed it. `apply` compares
/// it with the state, so that nothing is released on what was withdrawn meanwhile (I5). The default is that nothing was
/// read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basis {
    /// The policy set in force.
    pub policy: u64,
    /// The custody key's entry; 0 when the basis tells of no record.
    pub custody: u64,
    /// The newest consent given or withdrawn under the custody key, absent when there was none.
    pub consent: Option<u64>,
    /// The requester's standing.
    pub requester: u64,
    /// The standing of the requester's organisation.
    pub requester_org: u64,
    /// Standing of each record's device, in the order of the request's records.
    pub devices: Vec<u64>,
}

impl Basis {
    /// Whether it says who asked, and nothing of what was asked for: the same whether a record is absent or
    /// forbidden.
    pub fn tells_of_no_record(&self) -> bool {
        self.custody == 0 && self.consent.is_none() && self.devices.is_empty()
    }
}

/// A statement with its author's signature, or several authors'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStatement {
    /// What is said.
    pub statement: Statement,
    /// Who says it; at most [`SignedStatement::MAX_SIGNATURES`], each key once.
    pub signatures: Vec<(Did, Signature)>,
}

/// Why bytes are not a statement.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Not canonical, too long, or with unknown fields.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Made by a newer version, or not a statement at all.
    #[error("unsupported version {0}")]
    Version(u8),
    /// `anchored` carries neither nonce nor expiry, every other kind carries both.
    #[error("nonce and expiry do not fit the kind")]
    Nonce,
    /// No signature, too many, or two by one key.
    #[error("signatures are missing, too many or by the same key")]
    Signatures,
}

impl Statement {
    /// The most bytes that a statement's canonical form may have.
    pub const MAX_BYTES: usize = 32 * 1024;
    /// Label of an author's signature.
    pub const LABEL: &'static str = "medanchor/v1/statement";

    /// A statement of any kind but `anchored`.
    pub fn new(origin: &str, body: Body, nonce: [u8; 16], not_after_unix_ms: u64) -> Self {
        Self {
            origin: origin.to_owned(),
            body,
            nonce: Some(Nonce::new(nonce)),
            not_after_unix_ms: Some(not_after_unix_ms),
        }
    }

    /// An `anchored` statement: one per record, so that a retry is the same statement.
    pub fn anchored(origin: &str, anchored: Anchored) -> Self {
        Self {
            origin: origin.to_owned(),
            body: Body::Anchored(anchored),
            nonce: None,
            not_after_unix_ms: None,
        }
    }

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`Statement::MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`StatementError`]; such bytes are never a statement.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatementError> {
        let statement: Self = from_canonical(bytes, Self::MAX_BYTES)?;
        statement.check_form()?;
        Ok(statement)
    }

    /// SHA-256 of the canonical bytes: what is signed and what finds duplicates.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// Signs with each of `authors`.
    pub fn sign(self, authors: &[&SigningKey]) -> SignedStatement {
        let hash = self.hash();
        let signatures = authors
            .iter()
            .map(|key| (key.did(), key.sign(Self::LABEL, hash.as_bytes())))
            .collect();
        SignedStatement {
            statement: self,
            signatures,
        }
    }

    fn check_form(&self) -> Result<(), StatementError> {
        let anchored = matches!(self.body, Body::Anchored(_));
        if self.nonce.is_none() == anchored && self.not_after_unix_ms.is_none() == anchored {
            Ok(())
        } else {
            Err(StatementError::Nonce)
        }
    }
}

impl SignedStatement {
    /// Signatures on one statement.
    pub const MAX_SIGNATURES: usize = 32;
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = Statement::MAX_BYTES + 8 * 1024;

    /// Its canonical bytes: `{ statement, signatures: [{ by, sig }] }`.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes. Signatures are not checked yet.
    ///
    /// # Errors
    ///
    /// [`StatementError`]; such bytes are never a signed statement.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatementError> {
        let signed: Self = from_canonical(bytes, Self::MAX_BYTES)?;
        signed.check_form()?;
        Ok(signed)
    }

    /// Whether every signature on it verifies.
    pub fn verifies(&self) -> bool {
        self.verifies_hash(&self.statement.hash())
    }

    /// Whether every signature on it verifies, for who has its statement's hash already.
    pub(crate) fn verifies_hash(&self, hash: &Hash) -> bool {
        self.signatures
            .iter()
            .all(|(by, sig)| verified::verifies(by, Statement::LABEL, hash.as_bytes(), sig))
    }

    /// The first signer.
    pub fn author(&self) -> Option<&Did> {
        self.signatures.first().map(|(by, _)| by)
    }

    /// The rules that the structure alone does not hold; part of every parse.
    pub(crate) fn check_form(&self) -> Result<(), StatementError> {
        self.statement.check_form()?;
        let mut signers: Vec<&Did> = self.signatures.iter().map(|(by, _)| by).collect();
        signers.sort_unstable();
        signers.dedup();
        if self.signatures.is_empty()
            || self.signatures.len() > Self::MAX_SIGNATURES
            || signers.len() != self.signatures.len()
        {
            return Err(StatementError::Signatures);
        }
        Ok(())
    }
}

impl Body {
    /// What kind of statement it makes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Founded(_) => Kind::Founded,
            Self::Enrolled(_) => Kind::Enrolled,
            Self::Suspended(_) => Kind::Suspended,
            Self::Reinstated(_) => Kind::Reinstated,
            Self::Revoked(_) => Kind::Revoked,
            Self::Rotated(_) => Kind::Rotated,
            Self::RolesChanged(_) => Kind::RolesChanged,
            Self::Custody(_) => Kind::Custody,
            Self::Consented(_) => Kind::Consented,
            Self::Withdrawn(_) => Kind::Withdrawn,
            Self::Anchored(_) => Kind::Anchored,
            Self::AccessRequest(_) => Kind::AccessRequest,
            Self::Released(_) => Kind::Released,
            Self::Refused(_) => Kind::Refused,
            Self::MemberAdded(_) => Kind::MemberAdded,
            Self::MemberRemoved(_) => Kind::MemberRemoved,
            Self::WitnessAdded(_) => Kind::WitnessAdded,
            Self::WitnessRemoved(_) => Kind::WitnessRemoved,
            Self::Placed(_) => Kind::Placed,
            Self::PolicySet(_) => Kind::PolicySet,
            Self::Holding(_) => Kind::Holding,
            Self::LegalHoldPlaced(_) => Kind::LegalHoldPlaced,
            Self::LegalHoldReleased(_) => Kind::LegalHoldReleased,
            Self::FactorEnrolled(_) => Kind::FactorEnrolled,
            Self::FactorRemoved(_) => Kind::FactorRemoved,
            Self::FactorVerified(_) => Kind::FactorVerified,
            Self::Account(_) => Kind::Account,
            Self::BreakGlassRule(_) => Kind::BreakGlassRule,
            Self::BreakGlass(_) => Kind::BreakGlass,
            Self::BreakGlassReviewed(_) => Kind::BreakGlassReviewed,
            Self::EpochKey(_) => Kind::EpochKey,
            Self::Erased(_) => Kind::Erased,
            Self::Destroyed(_) => Kind::Destroyed,
        }
    }

    /// Whether it changes the trust policy once it takes effect, and for how many co-signatures that then asks. `None`
    /// also of the founding, with which the policy begins.
    pub fn changes_policy(&self) -> Option<u8> {
        match self {
            Self::MemberAdded(body) => Some(body.quorum),
            Self::MemberRemoved(body) => Some(body.quorum),
            Self::WitnessAdded(body) => Some(body.quorum),
            Self::WitnessRemoved(body) => Some(body.quorum),
            _ => None,
        }
    }

    /// Whether a majority of the members has to sign it.
    pub fn needs_majority(&self) -> bool {
        matches!(self, Self::Placed(_) | Self::PolicySet(_)) || self.changes_policy().is_some()
    }

    fn from_ipld(kind: Kind, body: Ipld) -> Result<Self, ipld_core::serde::SerdeError> {
        fn parse<T: DeserializeOwned>(body: Ipld) -> Result<T, ipld_core::serde::SerdeError> {
            ipld_core::serde::from_ipld(body)
        }
        Ok(match kind {
            Kind::Founded => Self::Founded(parse(body)?),
            Kind::Enrolled => Self::Enrolled(parse(body)?),
            Kind::Suspended => Self::Suspended(parse(body)?),
            Kind::Reinstated => Self::Reinstated(parse(body)?),
            Kind::Revoked => Self::Revoked(parse(body)?),
            Kind::Rotated => Self::Rotated(parse(body)?),
            Kind::RolesChanged => Self::RolesChanged(parse(body)?),
            Kind::Custody => Self::Custody(parse(body)?),
            Kind::Consented => Self::Consented(parse(body)?),
            Kind::Withdrawn => Self::Withdrawn(parse(body)?),
            Kind::Anchored => Self::Anchored(parse(body)?),
            Kind::AccessRequest => Self::AccessRequest(parse(body)?),
            Kind::Released => Self::Released(parse(body)?),
            Kind::Refused => Self::Refused(parse(body)?),
            Kind::MemberAdded => Self::MemberAdded(parse(body)?),
            Kind::MemberRemoved => Self::MemberRemoved(parse(body)?),
            Kind::WitnessAdded => Self::WitnessAdded(parse(body)?),
            Kind::WitnessRemoved => Self::WitnessRemoved(parse(body)?),
            Kind::Placed => Self::Placed(parse(body)?),
            Kind::PolicySet => Self::PolicySet(parse(body)?),
            Kind::Holding => Self::Holding(parse(body)?),
            Kind::LegalHoldPlaced => Self::LegalHoldPlaced(parse(body)?),
            Kind::LegalHoldReleased => Self::LegalHoldReleased(parse(body)?),
            Kind::FactorEnrolled => Self::FactorEnrolled(parse(body)?),
            Kind::FactorRemoved => Self::FactorRemoved(parse(body)?),
            Kind::FactorVerified => Self::FactorVerified(parse(body)?),
            Kind::Account => Self::Account(parse(body)?),
            Kind::BreakGlassRule => Self::BreakGlassRule(parse(body)?),
            Kind::BreakGlass => Self::BreakGlass(parse(body)?),
            Kind::BreakGlassReviewed => Self::BreakGlassReviewed(parse(body)?),
            Kind::EpochKey => Self::EpochKey(parse(body)?),
            Kind::Erased => Self::Erased(parse(body)?),
            Kind::Destroyed => Self::Destroyed(parse(body)?),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Founded => "founded",
            Self::Enrolled => "enrolled",
            Self::Suspended => "suspended",
            Self::Reinstated => "reinstated",
            Self::Revoked => "revoked",
            Self::Rotated => "rotated",
            Self::RolesChanged => "roles-changed",
            Self::Custody => "custody",
            Self::Consented => "consented",
            Self::Withdrawn => "withdrawn",
            Self::Anchored => "anchored",
            Self::AccessRequest => "access-request",
            Self::Released => "released",
            Self::Refused => "refused",
            Self::MemberAdded => "member-added",
            Self::MemberRemoved => "member-removed",
            Self::WitnessAdded => "witness-added",
            Self::WitnessRemoved => "witness-removed",
            Self::Placed => "placed",
            Self::PolicySet => "policy-set",
            Self::Holding => "holding",
            Self::LegalHoldPlaced => "legal-hold-placed",
            Self::LegalHoldReleased => "legal-hold-released",
            Self::FactorEnrolled => "factor-enrolled",
            Self::FactorRemoved => "factor-removed",
            Self::FactorVerified => "factor-verified",
            Self::Account => "account",
            Self::BreakGlassRule => "break-glass-rule",
            Self::BreakGlass => "break-glass",
            Self::BreakGlassReviewed => "break-glass-reviewed",
            Self::EpochKey => "epoch-key",
            Self::Erased => "erased",
            Self::Destroyed => "destroyed",
        })
    }
}

/// The body alone: its shape follows from the kind.
impl Serialize for Body {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Founded(body) => body.serialize(serializer),
            Self::Enrolled(body) => body.serialize(serializer),
            Self::Suspended(body) | Self::Reinstated(body) | Self::Revoked(body) => {
                body.serialize(serializer)
            }
            Self::Rotated(body) => body.serialize(serializer),
            Self::RolesChanged(body) => body.serialize(serializer),
            Self::Custody(body) => body.serialize(serializer),
            Self::Consented(body) => body.serialize(serializer),
            Self::Withdrawn(body) => body.serialize(serializer),
            Self::Anchored(body) => body.serialize(serializer),
            Self::AccessRequest(body) => body.serialize(serializer),
            Self::Released(body) => body.serialize(serializer),
            Self::Refused(body) => body.serialize(serializer),
            Self::MemberAdded(body) => body.serialize(serializer),
            Self::MemberRemoved(body) => body.serialize(serializer),
            Self::WitnessAdded(body) => body.serialize(serializer),
            Self::WitnessRemoved(body) => body.serialize(serializer),
            Self::Placed(body) => body.serialize(serializer),
            Self::PolicySet(body) => body.serialize(serializer),
            Self::Holding(body) => body.serialize(serializer),
            Self::LegalHoldPlaced(body) => body.serialize(serializer),
            Self::LegalHoldReleased(body) => body.serialize(serializer),
            Self::FactorEnrolled(body) => body.serialize(serializer),
            Self::FactorRemoved(body) => body.serialize(serializer),
            Self::FactorVerified(body) => body.serialize(serializer),
            Self::Account(body) => body.serialize(serializer),
            Self::BreakGlassRule(body) => body.serialize(serializer),
            Self::BreakGlass(body) => body.serialize(serializer),
            Self::BreakGlassReviewed(body) => body.serialize(serializer),
            Self::EpochKey(body) => body.serialize(serializer),
            Self::Erased(body) => body.serialize(serializer),
            Self::Destroyed(body) => body.serialize(serializer),
        }
    }
}

/// The statement as it is written: the body's shape follows from the kind.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementWire<O, B> {
    v: u8,
    origin: O,
    kind: Kind,
    body: B,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<Nonce>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<u64>,
}

impl Serialize for Statement {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        StatementWire {
            v: VERSION,
            origin: self.origin.as_str(),
            kind: self.body.kind(),
            body: &self.body,
            nonce: self.nonce,
            not_after: self.not_after_unix_ms,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Statement {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = StatementWire::<String, Ipld>::deserialize(deserializer)?;
        if wire.v != VERSION {
            return Err(serde::de::Error::custom(StatementError::Version(wire.v)));
        }
        Ok(Self {
            origin: wire.origin,
            body: Body::from_ipld(wire.kind, wire.body).map_err(serde::de::Error::custom)?,
            nonce: wire.nonce,
            not_after_unix_ms: wire.not_after,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedWire<S> {
    statement: S,
    signatures: Vec<SignatureWire>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignatureWire {
    by: Did,
    sig: Signature,
}

/// Signatures as they are written in openings and signed statements.
pub(crate) fn signatures_to_wire(signatures: &[(Did, Signature)]) -> Vec<SignatureWire> {
    let wire = |&(by, sig): &(Did, Signature)| SignatureWire { by, sig };
    signatures.iter().map(wire).collect()
}

/// The inverse of [`signatures_to_wire`].
pub(crate) fn signatures_from_wire(signatures: Vec<SignatureWire>) -> Vec<(Did, Signature)> {
    signatures.into_iter().map(|s| (s.by, s.sig)).collect()
}

impl Serialize for SignedStatement {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SignedWire {
            statement: &self.statement,
            signatures: signatures_to_wire(&self.signatures),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignedStatement {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = SignedWire::<Statement>::deserialize(deserializer)?;
        let signed = Self {
            statement: wire.statement,
            signatures: signatures_from_wire(wire.signatures),
        };
        signed.check_form().map_err(serde::de::Error::custom)?;
        Ok(signed)
    }
}

fn held_digest(custody: CustodyId, epoch: u32, key: &[u8], under: ByteArray<32>) -> [u8; 32] {
    #[derive(Serialize)]
    struct Held<'a> {
        custody: CustodyId,
        epoch: u32,
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        under: ByteArray<32>,
    }
    *Hash::of(&to_canonical(&Held {
        custody,
        epoch,
        key,
        under,
    }))
    .as_bytes()
}

const VERSION: u8 = 1;
