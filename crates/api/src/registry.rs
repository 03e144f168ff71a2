use crate::{AsOf, ConvertError, convert, pb::registry as pb};
use medanchor_anchor::{
    Anchored, ConsentEntry, Consented, CustodyKind, DeviceDetails, Factor, FactorMethod, LeafIndex,
    LegalHold, Nonce, Placement, PrincipalKind, Status,
};
use medanchor_dag::{Cid, CustodyId, Did, RawBlocks, StreamId, from_canonical, to_canonical};
use serde::{Serialize, de::DeserializeOwned};

/// The most rows in one answer of a list.
pub const MAX_ROWS: u32 = 1000;

/// Who is enrolled, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPrincipal {
    /// The key that it was enrolled with.
    pub did: Did,
    /// The key that it signs with now.
    pub key: Did,
    /// What it is.
    pub kind: PrincipalKind,
    /// The organisation it belongs to.
    pub org: Did,
    /// Whether it may act.
    pub standing: Status,
    /// Roles it may act in.
    pub roles: Vec<String>,
    /// Label given at enrolment; empty when its opening was deleted.
    pub label: String,
    /// Leaf that last changed it.
    pub leaf_index: LeafIndex,
    /// Its second factors.
    pub factors: Vec<Factor>,
    /// What a device is, as its enrolment says it; `None` when nothing was said, or the opening was deleted.
    pub device: Option<DeviceDetails>,
}

/// An organisation that keeps the log, or did, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// Its node's id.
    pub node_id: u64,
    /// Short name.
    pub name: String,
    /// The organisation's signing key.
    pub org: Did,
    /// Its node's signing key.
    pub node: Did,
    /// Verifier key of its log key.
    pub log_key: String,
    /// Verifier key of its co-signing key.
    pub cosigner_key: String,
    /// Address of its node's services, as the log says it; empty for founders.
    pub address: String,
    /// The leaf that added it; 0 for founders.
    pub added_at: LeafIndex,
    /// The leaf that removed it.
    pub removed_at: Option<LeafIndex>,
}

/// Who keeps the log, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// All that ever were members, by node id.
    pub members: Vec<ListedMember>,
    /// Co-signatures that a published checkpoint carries.
    pub quorum: u32,
    /// How many outside witnesses there are.
    pub witnesses: u32,
    /// Leaves in the log that this was read from.
    pub tree_size: u64,
    /// Where records are held.
    pub placement: Placement,
    /// Copies of the records that no rule of it is for.
    pub copies: u32,
    /// Bytes that organisations with a quota have anchored, in the order of the quotas.
    pub usages: Vec<u64>,
    /// The leaf since which the access policy set is in force; 0 for the founded one.
    pub access_policy: LeafIndex,
}

/// A custody key, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedCustody {
    /// The stable id.
    pub custody: CustodyId,
    /// The organisation that answers for it.
    pub owner: Did,
    /// Whose or what data it protects.
    pub kind: CustodyKind,
    /// The current public key (X25519).
    pub public_key: [u8; 32],
    /// Epoch of the key.
    pub epoch: u32,
    /// Nodes that may release under it.
    pub brokers: Vec<Did>,
    /// Organisations besides the owner whose devices may write under it.
    pub writers: Vec<Did>,
    /// Leaf that last changed it.
    pub leaf_index: LeafIndex,
    /// Whether it is erased.
    pub erased: bool,
}

/// A legal hold in force, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLegalHold {
    /// What is kept, and by whom.
    pub legal_hold: LegalHold,
    /// Leaf that placed it.
    pub leaf_index: LeafIndex,
    /// Why; empty when the leaf's opening was deleted.
    pub matter: String,
}

/// An anchored record, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchoredRecord {
    /// What its device signed.
    pub anchored: Anchored,
    /// Its leaf.
    pub leaf_index: LeafIndex,
    /// The nodes that signed for it.
    pub holders: Vec<Did>,
    /// Leaves in the log that this was read from.
    pub tree_size: u64,
}

/// The head of a device's stream, as a node's state has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// The highest number in it.
    pub seq: u64,
    /// The record with that number.
    pub record: Cid,
    /// Numbers that are missing or stand twice.
    pub gaps_and_forks: u64,
}

/// A node's own view of itself and its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The network's name.
    pub origin: String,
    /// The node's short name.
    pub node: String,
    /// The node's signing key.
    pub did: Did,
    /// Software version.
    pub version: String,
    /// `leader`, `follower`, `candidate` or `stopped`.
    pub role: String,
    /// The leader's short name, when there is one.
    pub leader: Option<String>,
    /// Leaves in the log, as applied there.
    pub tree_size: u64,
    /// Leaves under the newest published checkpoint.
    pub published_size: u64,
    /// Co-signatures on it.
    pub cosignatures: u32,
    /// Blocks on the node's disk.
    pub blocks: u64,
    /// Bytes in them.
    pub blocks_size_bytes: u64,
    /// How many of the bad blocks were fetched again, ever.
    pub blocks_repaired: u64,
    /// Blocks that were found bad or missing, ever, each time anew.
    pub blocks_found_bad: u64,
    /// Blocks that are bad or missing now: no node that is reached gives them.
    pub blocks_missing: u64,
    /// How all blocks are read again and again.
    pub scrub: Scrubbed,
    /// What was freed because nothing needed it.
    pub collection: Collected,
    /// Whether all records are on as many nodes as they are to be.
    pub replication: Replicated,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// Alarms that nobody has acknowledged.
    pub alarms: Vec<Alarm>,
}

/// What a node has of a record, after it has read it on its own disk, or looked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordCheck {
    /// Whether this node said in the log that it holds it.
    pub holder: bool,
    /// Blocks of it that are there and good.
    pub blocks: u64,
    /// Bytes in those that were read.
    pub size_bytes: u64,
    /// Blocks of it that are bad or not there, as far as they are known. 0: it is there, whole.
    pub missing: u64,
    /// When they were read, or looked for.
    pub checked_at_unix_ms: u64,
    /// How many nodes of this network are to hold it.
    pub copies: u32,
    /// Leaves in the log, as applied there.
    pub tree_size: u64,
    /// Whether this node is about to fetch it.
    pub to_fetch: bool,
    /// Whether this node is about to give it back.
    pub to_give_back: bool,
    /// Since then every block of it that is there was read and found good, or came and was hashed; 0: not known.
    pub verified_since_unix_ms: u64,
    /// Short names of the members that said in the log that they hold it.
    pub holders: Vec<String>,
    /// Short names of the members that keep it by a legal hold.
    pub legal_holders: Vec<String>,
}

/// How far a node has come with reading all its blocks again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Times that all were read.
    pub passes: u64,
    /// When the last of them ended; 0: never.
    pub ended_at_unix_ms: u64,
    /// When the one that is under way began; 0: none is.
    pub began_at_unix_ms: u64,
    /// Blocks read in the one that is under way, or else in the last.
    pub blocks: u64,
    /// Bytes in them.
    pub size_bytes: u64,
}

/// Blocks that a node has removed because no record and no promise needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Times that the whole store was looked at since the node started.
    pub cycles: u64,
    /// When the last of them ended; 0: none has.
    pub ended_at_unix_ms: u64,
    /// Blocks removed, ever.
    pub blocks: u64,
    /// Bytes in them.
    pub size_bytes: u64,
    /// The record for which nothing is removed now, because it is not whole there.
    pub waits_for: Option<Cid>,
}

/// What a node found when it last looked at all records, and what it moved since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    /// When it ended; 0: there was none yet under the rules and with the members of now.
    pub looked_at_unix_ms: u64,
    /// Records that it looked at: all that are anchored.
    pub records: u64,
    /// Records with fewer copies than they are to have on nodes that it reached then.
    pub below_target: u64,
    /// Of these the one that is so for longest.
    pub oldest_below_target: Option<BelowTarget>,
    /// Of those below target: they have enough copies when nodes come back that are away, and not yet given up.
    pub awaited: u64,
    /// Records that this node is to fetch.
    pub to_fetch: u64,
    /// Bytes of their payloads.
    pub bytes_to_fetch: u64,
    /// Records that this node is to give back.
    pub to_give_back: u64,
    /// Records that it has fetched.
    pub fetched: u64,
    /// Bytes that came with them.
    pub fetched_bytes: u64,
    /// Records that it has given back.
    pub given_back: u64,
}

/// A record with fewer copies than it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BelowTarget {
    /// The record.
    pub record: Cid,
    /// When it was anchored.
    pub anchored_at_unix_ms: u64,
    /// Since when that is so, as a node saw it.
    pub since_unix_ms: u64,
}

/// Evidence that somebody lies, until an operator has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// By which `medanchord acknowledge` names it.
    pub id: String,
    /// The log it is about.
    pub origin: String,
    /// When it was raised.
    pub raised_at_unix_ms: u64,
    /// Who did what.
    pub details: String,
    /// What it means.
    pub means: String,
    /// What to do about it.
    pub todo: String,
}

/// How a node sees another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Short name.
    pub node: String,
    /// Whether the private swarm reaches it.
    pub swarm_connected: bool,
    /// Address of its gRPC service.
    pub address: String,
}

/// The name of a principal's standing, as messages write it.
pub fn standing_name(standing: Status) -> &'static str {
    match standing {
        Status::Active => "active",
        Status::Suspended => "suspended",
        Status::Revoked => "revoked",
    }
}

/// The name of a kind of principal, as statements and messages write it.
pub fn principal_kind_name(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::Organisation => "organisation",
        PrincipalKind::Person => "person",
        PrincipalKind::Device => "device",
        PrincipalKind::Service => "service",
    }
}

/// The kind of principal with this name.
///
/// # Errors
///
/// [`ConvertError`] when there is none.
pub fn principal_kind(name: &str) -> Result<PrincipalKind, ConvertError> {
    match name {
        "organisation" => Ok(PrincipalKind::Organisation),
        "person" => Ok(PrincipalKind::Person),
        "device" => Ok(PrincipalKind::Device),
        "service" => Ok(PrincipalKind::Service),
        _ => Err(ConvertError::malformed("kind", "not a kind of principal")),
    }
}

/// The name of a kind of custody key, as statements and messages write it.
pub fn custody_kind_name(kind: CustodyKind) -> &'static str {
    match kind {
        CustodyKind::Person => "person",
        CustodyKind::Dataset => "dataset",
        CustodyKind::Open => "open",
    }
}

/// The kind of custody key with this name.
///
/// # Errors
///
/// [`ConvertError`] when there is none.
pub fn custody_kind(name: &str) -> Result<CustodyKind, ConvertError> {
    match name {
        "person" => Ok(CustodyKind::Person),
        "dataset" => Ok(CustodyKind::Dataset),
        "open" => Ok(CustodyKind::Open),
        _ => Err(ConvertError::malformed("kind", "not a kind of custody key")),
    }
}

impl TryFrom<pb::Principal> for ListedPrincipal {
    type Error = ConvertError;

    fn try_from(entry: pb::Principal) -> Result<Self, ConvertError> {
        let standing = match entry.standing.as_str() {
            "active" => Status::Active,
            "suspended" => Status::Suspended,
            "revoked" => Status::Revoked,
            _ => return Err(ConvertError::malformed("standing", "not a standing")),
        };
        if entry.roles.len() > MAX_ROLES {
            return Err(ConvertError::TooMany {
                field: "roles",
                limit: MAX_ROLES,
            });
        }
        let roles = entry.roles.into_iter();
        Ok(Self {
            did: convert::did("did", &entry.did)?,
            key: convert::did("key", &entry.key)?,
            kind: principal_kind(&entry.kind)?,
            org: convert::did("org", &entry.org)?,
            standing,
            roles: roles
                .map(|role| convert::text("roles", role, MAX_NAME_BYTES))
                .collect::<Result<_, _>>()?,
            label: convert::text("label", entry.label, MAX_TEXT_BYTES)?,
            leaf_index: entry.leaf_index,
            factors: factors(&entry.factors)?,
            device: match entry.device.as_slice() {
                [] => None,
                bytes => Some(body("device", bytes)?),
            },
        })
    }
}

impl From<ListedPrincipal> for pb::Principal {
    fn from(entry: ListedPrincipal) -> Self {
        Self {
            did: entry.did.to_string(),
            key: entry.key.to_string(),
            kind: principal_kind_name(entry.kind).to_owned(),
            org: entry.org.to_string(),
            standing: standing_name(entry.standing).to_owned(),
            roles: entry.roles,
            label: entry.label,
            leaf_index: entry.leaf_index,
            factors: entry.factors.iter().map(factor_to_pb).collect(),
            device: entry.device.as_ref().map(to_canonical).unwrap_or_default(),
        }
    }
}

fn factors(factors: &[pb::Factor]) -> Result<Vec<Factor>, ConvertError> {
    if factors.len() > Factor::MAX {
        return Err(ConvertError::TooMany {
            field: "factors",
            limit: Factor::MAX,
        });
    }
    let parse = |factor: &pb::Factor| {
        let method = match factor.method.as_str() {
            "totp" => FactorMethod::Totp,
            _ => return Err(ConvertError::malformed("method", "not a second factor")),
        };
        Ok(Factor {
            factor: Nonce::new(convert::array("factor", &factor.factor)?),
            method,
            node: convert::did("node", &factor.node)?,
            since: factor.leaf_index,
        })
    };
    factors.iter().map(parse).collect()
}

fn factor_to_pb(factor: &Factor) -> pb::Factor {
    pb::Factor {
        factor: factor.factor.to_vec(),
        method: factor.method.as_str().to_owned(),
        node: factor.node.to_string(),
        leaf_index: factor.since,
    }
}

impl TryFrom<pb::Member> for ListedMember {
    type Error = ConvertError;

    fn try_from(entry: pb::Member) -> Result<Self, ConvertError> {
        Ok(Self {
            node_id: entry.node_id,
            name: convert::text("name", entry.name, MAX_NAME_BYTES)?,
            org: convert::did("org", &entry.org)?,
            node: convert::did("node", &entry.node)?,
            log_key: convert::text("log_key", entry.log_key, MAX_TEXT_BYTES)?,
            cosigner_key: convert::text("cosigner_key", entry.cosigner_key, MAX_TEXT_BYTES)?,
            address: convert::text("address", entry.address, MAX_NAME_BYTES)?,
            added_at: entry.added_at,
            removed_at: entry.removed_at,
        })
    }
}

impl From<ListedMember> for pb::Member {
    fn from(entry: ListedMember) -> Self {
        Self {
            node_id: entry.node_id,
            name: entry.name,
            org: entry.org.to_string(),
            node: entry.node.to_string(),
            log_key: entry.log_key,
            cosigner_key: entry.cosigner_key,
            address: entry.address,
            added_at: entry.added_at,
            removed_at: entry.removed_at,
        }
    }
}

impl TryFrom<pb::ListMembersResponse> for Members {
    type Error = ConvertError;

    fn try_from(response: pb::ListMembersResponse) -> Result<Self, ConvertError> {
        let limit = usize::try_from(MAX_ROWS).unwrap_or(usize::MAX);
        if response.members.len() > limit {
            let field = "members";
            return Err(ConvertError::TooMany { field, limit });
        }
        let placement = match response.placement.as_slice() {
            [] => Placement::default(),
            bytes => body("placement", bytes)?,
        };
        if response.usages.len() != placement.quotas.len() {
            let problem = "not as many as quotas";
            return Err(ConvertError::malformed("usages", problem));
        }
        let members = response.members.into_iter().map(ListedMember::try_from);
        Ok(Self {
            members: members.collect::<Result<_, _>>()?,
            quorum: response.quorum,
            placement,
            copies: response.copies,
            usages: response.usages,
            access_policy: response.access_policy_leaf_index,
            witnesses: response.witnesses,
            tree_size: response.tree_size,
        })
    }
}

impl TryFrom<pb::Custody> for ListedCustody {
    type Error = ConvertError;

    fn try_from(entry: pb::Custody) -> Result<Self, ConvertError> {
        Ok(Self {
            custody: convert::custody_id("custody", &entry.custody)?,
            owner: convert::did("owner", &entry.owner)?,
            kind: custody_kind(&entry.kind)?,
            public_key: convert::array("public_key", &entry.public_key)?,
            epoch: entry.epoch,
            brokers: convert::dids("brokers", &entry.brokers, MAX_BROKERS)?,
            writers: convert::dids("writers", &entry.writers, MAX_WRITERS)?,
            leaf_index: entry.leaf_index,
            erased: entry.erased,
        })
    }
}

impl From<ListedCustody> for pb::Custody {
    fn from(entry: ListedCustody) -> Self {
        Self {
            custody: entry.custody.as_bytes().to_vec(),
            owner: entry.owner.to_string(),
            kind: custody_kind_name(entry.kind).to_owned(),
            public_key: entry.public_key.to_vec(),
            epoch: entry.epoch,
            brokers: entry.brokers.iter().map(Did::to_string).collect(),
            writers: entry.writers.iter().map(Did::to_string).collect(),
            leaf_index: entry.leaf_index,
            erased: entry.erased,
        }
    }
}

/// The consent in an answer.
pub(crate) fn consent_from_pb(entry: &pb::Consent) -> Result<ConsentEntry, ConvertError> {
    let consented: Consented = from_canonical(&entry.body, MAX_BODY_BYTES)
        .map_err(|error| ConvertError::malformed("body", error))?;
    if consented.consent.as_slice() != entry.consent.as_slice() {
        return Err(ConvertError::malformed("consent", "the body is of another"));
    }
    Ok(ConsentEntry {
        consented,
        withdrawn: entry.withdrawn,
        since: entry.leaf_index,
    })
}

impl From<ConsentEntry> for pb::Consent {
    fn from(entry: ConsentEntry) -> Self {
        Self {
            consent: entry.consented.consent.to_vec(),
            body: to_canonical(&entry.consented),
            withdrawn: entry.withdrawn,
            leaf_index: entry.since,
        }
    }
}

/// The record asked for.
///
/// # Errors
///
/// [`ConvertError`] when the CID is malformed.
pub fn record_asked_for(request: &pb::GetRecordRequest) -> Result<Cid, ConvertError> {
    convert::cid("record", &request.record)
}

/// The record that is to be checked, and how.
///
/// # Errors
///
/// [`ConvertError`] when the CID is malformed.
pub fn record_to_check(request: &pb::CheckRecordRequest) -> Result<(Cid, RawBlocks), ConvertError> {
    let how = match request.look {
        true => RawBlocks::Look,
        false => RawBlocks::Read,
    };
    Ok((convert::cid("record", &request.record)?, how))
}

impl TryFrom<pb::CheckRecordResponse> for RecordCheck {
    type Error = ConvertError;

    fn try_from(check: pb::CheckRecordResponse) -> Result<Self, ConvertError> {
        if check.holders.len() > MAX_HOLDERS {
            return Err(ConvertError::TooMany {
                field: "holders",
                limit: MAX_HOLDERS,
            });
        }
        let holders = check.holders.into_iter();
        let holders = holders.map(|name| convert::text("holders", name, MAX_NAME_BYTES));
        if check.legal_holders.len() > MAX_HOLDERS {
            let (field, limit) = ("legal_holders", MAX_HOLDERS);
            return Err(ConvertError::TooMany { field, limit });
        }
        let legal_holders = check.legal_holders.into_iter();
        let legal_holders =
            legal_holders.map(|name| convert::text("legal_holders", name, MAX_NAME_BYTES));
        Ok(Self {
            holder: check.holder,
            blocks: check.blocks,
            size_bytes: check.size_bytes,
            missing: check.missing,
            checked_at_unix_ms: check.checked_at_unix_ms,
            copies: check.copies,
            tree_size: check.tree_size,
            to_fetch: check.to_fetch,
            to_give_back: check.to_give_back,
            verified_since_unix_ms: check.verified_since_unix_ms,
            holders: holders.collect::<Result<_, _>>()?,
            legal_holders: legal_holders.collect::<Result<_, _>>()?,
        })
    }
}

impl From<RecordCheck> for pb::CheckRecordResponse {
    fn from(check: RecordCheck) -> Self {
        Self {
            holder: check.holder,
            blocks: check.blocks,
            size_bytes: check.size_bytes,
            missing: check.missing,
            checked_at_unix_ms: check.checked_at_unix_ms,
            copies: check.copies,
            tree_size: check.tree_size,
            to_fetch: check.to_fetch,
            to_give_back: check.to_give_back,
            verified_since_unix_ms: check.verified_since_unix_ms,
            holders: check.holders,
            legal_holders: check.legal_holders,
        }
    }
}

/// The legal hold after which the list goes on; `None` at its beginning.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed.
pub fn legal_holds_after(
    request: &pb::ListLegalHoldsRequest,
) -> Result<Option<LegalHold>, ConvertError> {
    match request.after.as_slice() {
        [] => Ok(None),
        bytes => body("after", bytes).map(Some),
    }
}

impl TryFrom<pb::LegalHold> for ListedLegalHold {
    type Error = ConvertError;

    fn try_from(entry: pb::LegalHold) -> Result<Self, ConvertError> {
        Ok(Self {
            legal_hold: body("legal_hold", &entry.legal_hold)?,
            leaf_index: entry.leaf_index,
            matter: convert::text("matter", entry.matter, MAX_MATTER_BYTES)?,
        })
    }
}

impl From<ListedLegalHold> for pb::LegalHold {
    fn from(entry: ListedLegalHold) -> Self {
        Self {
            legal_hold: to_canonical(&entry.legal_hold),
            leaf_index: entry.leaf_index,
            matter: entry.matter,
        }
    }
}

fn body<T: Serialize + DeserializeOwned>(
    field: &'static str,
    bytes: &[u8],
) -> Result<T, ConvertError> {
    from_canonical(bytes, MAX_BODY_BYTES).map_err(|error| ConvertError::malformed(field, error))
}

impl TryFrom<pb::GetRecordResponse> for AnchoredRecord {
    type Error = ConvertError;

    fn try_from(response: pb::GetRecordResponse) -> Result<Self, ConvertError> {
        Ok(Self {
            anchored: from_canonical(&response.anchored, MAX_BODY_BYTES)
                .map_err(|error| ConvertError::malformed("anchored", error))?,
            leaf_index: response.leaf_index,
            holders: convert::dids("holders", &response.holders, MAX_HOLDERS)?,
            tree_size: response.tree_size,
        })
    }
}

impl From<AnchoredRecord> for pb::GetRecordResponse {
    fn from(entry: AnchoredRecord) -> Self {
        Self {
            anchored: to_canonical(&entry.anchored),
            leaf_index: entry.leaf_index,
            holders: entry.holders.iter().map(Did::to_string).collect(),
            tree_size: entry.tree_size,
        }
    }
}

/// The stream asked for.
///
/// # Errors
///
/// [`ConvertError`] when a field is malformed.
pub fn stream_asked_for(request: &pb::GetStreamRequest) -> Result<(Did, StreamId), ConvertError> {
    Ok((
        convert::did("device", &request.device)?,
        StreamId::new(convert::array("stream", &request.stream)?),
    ))
}

/// The custody key whose consents are asked for.
///
/// # Errors
///
/// [`ConvertError`] when the id is malformed.
pub fn consents_asked_for(request: &pb::ListConsentsRequest) -> Result<CustodyId, ConvertError> {
    convert::custody_id("custody", &request.custody)
}

/// The head of a stream in an answer, `None` when the stream has no record.
pub(crate) fn stream_head(
    response: &pb::GetStreamResponse,
) -> Result<AsOf<Option<StreamHead>>, ConvertError> {
    let tree_size = response.tree_size;
    let value = match response.exists {
        false => None,
        true => Some(StreamHead {
            seq: response.seq,
            record: convert::cid("record", &response.record)?,
            gaps_and_forks: response.gaps_and_forks,
        }),
    };
    Ok(AsOf { tree_size, value })
}

impl From<AsOf<Option<StreamHead>>> for pb::GetStreamResponse {
    fn from(AsOf { tree_size, value }: AsOf<Option<StreamHead>>) -> Self {
        let head = value.map_or_else(Self::default, |head| Self {
            exists: true,
            seq: head.seq,
            record: head.record.to_bytes(),
            gaps_and_forks: head.gaps_and_forks,
            ..Self::default()
        });
        Self { tree_size, ..head }
    }
}

impl TryFrom<pb::StatusResponse> for NodeStatus {
    type Error = ConvertError;

    fn try_from(status: pb::StatusResponse) -> Result<Self, ConvertError> {
        if status.peers.len() > MAX_PEERS {
            return Err(ConvertError::TooMany {
                field: "peers",
                limit: MAX_PEERS,
            });
        }
        if status.alarms.len() > MAX_ALARMS {
            return Err(ConvertError::TooMany {
                field: "alarms",
                limit: MAX_ALARMS,
            });
        }
        let leader = convert::text("leader", status.leader, MAX_NAME_BYTES)?;
        Ok(Self {
            origin: convert::text("origin", status.origin, MAX_TEXT_BYTES)?,
            node: convert::text("node", status.node, MAX_NAME_BYTES)?,
            did: convert::did("did", &status.did)?,
            version: convert::text("version", status.version, MAX_NAME_BYTES)?,
            role: convert::text("role", status.role, MAX_NAME_BYTES)?,
            leader: (!leader.is_empty()).then_some(leader),
            tree_size: status.tree_size,
            published_size: status.published_size,
            cosignatures: status.cosignatures,
            blocks: status.blocks,
            blocks_size_bytes: status.blocks_size_bytes,
            blocks_repaired: status.blocks_repaired,
            blocks_found_bad: status.blocks_found_bad,
            blocks_missing: status.blocks_missing,
            scrub: status.scrub.map(Scrubbed::from).unwrap_or_default(),
            collection: status
                .collection
                .map(Collected::try_from)
                .transpose()?
                .unwrap_or_default(),
            replication: status
                .replication
                .map(Replicated::try_from)
                .transpose()?
                .unwrap_or_default(),
            peers: status
                .peers
                .into_iter()
                .map(PeerStatus::try_from)
                .collect::<Result<_, _>>()?,
            alarms: status
                .alarms
                .into_iter()
                .map(Alarm::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<NodeStatus> for pb::StatusResponse {
    fn from(status: NodeStatus) -> Self {
        Self {
            origin: status.origin,
            node: status.node,
            did: status.did.to_string(),
            version: status.version,
            role: status.role,
            leader: status.leader.unwrap_or_default(),
            tree_size: status.tree_size,
            published_size: status.published_size,
            cosignatures: status.cosignatures,
            blocks: status.blocks,
            blocks_size_bytes: status.blocks_size_bytes,
            blocks_repaired: status.blocks_repaired,
            blocks_found_bad: status.blocks_found_bad,
            blocks_missing: status.blocks_missing,
            scrub: Some(status.scrub.into()),
            collection: Some(status.collection.into()),
            replication: Some(status.replication.into()),
            peers: status.peers.into_iter().map(pb::PeerStatus::from).collect(),
            alarms: status.alarms.into_iter().map(pb::Alarm::from).collect(),
        }
    }
}

impl From<pb::Scrub> for Scrubbed {
    fn from(scrub: pb::Scrub) -> Self {
        Self {
            passes: scrub.passes,
            ended_at_unix_ms: scrub.ended_at_unix_ms,
            began_at_unix_ms: scrub.began_at_unix_ms,
            blocks: scrub.blocks,
            size_bytes: scrub.size_bytes,
        }
    }
}

impl From<Scrubbed> for pb::Scrub {
    fn from(scrub: Scrubbed) -> Self {
        Self {
            passes: scrub.passes,
            ended_at_unix_ms: scrub.ended_at_unix_ms,
            began_at_unix_ms: scrub.began_at_unix_ms,
            blocks: scrub.blocks,
            size_bytes: scrub.size_bytes,
        }
    }
}

impl TryFrom<pb::Collection> for Collected {
    type Error = ConvertError;

    fn try_from(collection: pb::Collection) -> Result<Self, ConvertError> {
        let waits_for = match collection.waits_for.as_slice() {
            [] => None,
            bytes => Some(convert::cid("waits_for", bytes)?),
        };
        Ok(Self {
            cycles: collection.cycles,
            ended_at_unix_ms: collection.ended_at_unix_ms,
            blocks: collection.blocks,
            size_bytes: collection.size_bytes,
            waits_for,
        })
    }
}

impl From<Collected> for pb::Collection {
    fn from(collected: Collected) -> Self {
        Self {
            cycles: collected.cycles,
            ended_at_unix_ms: collected.ended_at_unix_ms,
            blocks: collected.blocks,
            size_bytes: collected.size_bytes,
            waits_for: collected
                .waits_for
                .map(|record| record.to_bytes())
                .unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Replication> for Replicated {
    type Error = ConvertError;

    fn try_from(found: pb::Replication) -> Result<Self, ConvertError> {
        let oldest = match found.oldest_below_target.as_slice() {
            [] => None,
            bytes => {
                let record = convert::cid("oldest_below_target", bytes)?;
                Some(BelowTarget {
                    record,
                    anchored_at_unix_ms: found.oldest_at_unix_ms,
                    since_unix_ms: found.oldest_since_unix_ms,
                })
            }
        };
        Ok(Self {
            looked_at_unix_ms: found.looked_at_unix_ms,
            records: found.records,
            below_target: found.below_target,
            oldest_below_target: oldest,
            awaited: found.awaited,
            to_fetch: found.to_fetch,
            bytes_to_fetch: found.bytes_to_fetch,
            to_give_back: found.to_give_back,
            fetched: found.fetched,
            fetched_bytes: found.fetched_bytes,
            given_back: found.given_back,
        })
    }
}

impl From<Replicated> for pb::Replication {
    fn from(found: Replicated) -> Self {
        let oldest = found.oldest_below_target;
        Self {
            looked_at_unix_ms: found.looked_at_unix_ms,
            records: found.records,
            below_target: found.below_target,
            oldest_below_target: oldest
                .map(|oldest| oldest.record.to_bytes())
                .unwrap_or_default(),
            oldest_at_unix_ms: oldest.map_or(0, |oldest| oldest.anchored_at_unix_ms),
            oldest_since_unix_ms: oldest.map_or(0, |oldest| oldest.since_unix_ms),
            awaited: found.awaited,
            to_fetch: found.to_fetch,
            bytes_to_fetch: found.bytes_to_fetch,
            to_give_back: found.to_give_back,
            fetched: found.fetched,
            fetched_bytes: found.fetched_bytes,
            given_back: found.given_back,
        }
    }
}

impl TryFrom<pb::Alarm> for Alarm {
    type Error = ConvertError;

    fn try_from(alarm: pb::Alarm) -> Result<Self, ConvertError> {
        Ok(Self {
            id: convert::text("id", alarm.id, MAX_NAME_BYTES)?,
            origin: convert::text("origin", alarm.origin, MAX_TEXT_BYTES)?,
            raised_at_unix_ms: alarm.raised_at_unix_ms,
            details: convert::text("details", alarm.details, MAX_SENTENCE_BYTES)?,
            means: convert::text("means", alarm.means, MAX_SENTENCE_BYTES)?,
            todo: convert::text("todo", alarm.todo, MAX_SENTENCE_BYTES)?,
        })
    }
}

impl From<Alarm> for pb::Alarm {
    fn from(alarm: Alarm) -> Self {
        Self {
            id: alarm.id,
            origin: alarm.origin,
            raised_at_unix_ms: alarm.raised_at_unix_ms,
            details: alarm.details,
            means: alarm.means,
            todo: alarm.todo,
        }
    }
}

impl TryFrom<pb::PeerStatus> for PeerStatus {
    type Error = ConvertError;

    fn try_from(peer: pb::PeerStatus) -> Result<Self, ConvertError> {
        Ok(Self {
            node: convert::text("node", peer.node, MAX_NAME_BYTES)?,
            swarm_connected: peer.swarm_connected,
            address: convert::text("address", peer.address, MAX_TEXT_BYTES)?,
        })
    }
}

impl From<PeerStatus> for pb::PeerStatus {
    fn from(peer: PeerStatus) -> Self {
        Self {
            node: peer.node,
            swarm_connected: peer.swarm_connected,
            address: peer.address,
        }
    }
}

const MAX_ROLES: usize = 16;
const MAX_BROKERS: usize = 16;
const MAX_WRITERS: usize = 64;
const MAX_HOLDERS: usize = 64;
const MAX_PEERS: usize = 64;
const MAX_ALARMS: usize = 256;
const MAX_SENTENCE_BYTES: usize = 2048;
const MAX_NAME_BYTES: usize = 64;
/// 64 characters of 4 bytes.
const MAX_TEXT_BYTES: usize = 256;
/// 256 characters of 4 bytes.
const MAX_MATTER_BYTES: usize = 1024;
/// A statement's body is smaller than the statement.
const MAX_BODY_BYTES: usize = medanchor_anchor::Statement::MAX_BYTES;
