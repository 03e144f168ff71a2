use crate::{AsOf, ConvertError, convert, pb::anchor as pb};
use medanchor_anchor::{
    Leaf, LeafIndex, Opening, Receipt, ReceiptFormatError, ReleaseList, SignedStatement,
    StatementError, Strength,
};
use medanchor_dag::{Cid, CustodyId, Hash};

/// A statement to be recorded, and the strength of the receipt to wait for: `None` asks for no receipt,
/// only that the leaf is durable on a quorum (*committed*).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit {
    /// The statement.
    pub signed: SignedStatement,
    /// What to wait for.
    pub strength: Option<Strength>,
}

/// A recorded statement.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Its leaf's index.
    pub index: LeafIndex,
    /// Its leaf. Look at the outcome: a refusal is a leaf too.
    pub leaf: Leaf,
    /// The receipt, when one was asked for. Not verified yet.
    pub receipt: Option<Receipt>,
}

/// Which leaf is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafName {
    /// The leaf at this index.
    Index(LeafIndex),
    /// The `anchored` leaf of this record.
    Record(Cid),
    /// The leaf of the statement with this hash.
    Statement(Hash),
}

/// The receipt of a leaf is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptOf {
    /// Which leaf.
    pub leaf: LeafName,
    /// How strong a receipt.
    pub strength: Strength,
}

/// A leaf with what it commits to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafEntry {
    /// The leaf's index.
    pub index: LeafIndex,
    /// The leaf.
    pub leaf: Leaf,
    /// The opening, checked against the leaf, when it exists and the caller may see it.
    pub opening: Option<Opening>,
    /// The custody key with whose erasure the opening was deleted, as the node says.
    pub erased_with: Option<CustodyId>,
}

impl TryFrom<pb::SubmitRequest> for Submit {
    type Error = ConvertError;

    fn try_from(request: pb::SubmitRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            signed: signed_statement(&request.signed_statement)?,
            strength: strength_from_pb(request.strength)?,
        })
    }
}

impl From<Submit> for pb::SubmitRequest {
    fn from(submit: Submit) -> Self {
        Self {
            signed_statement: submit.signed.to_bytes(),
            strength: strength_to_pb(submit.strength).into(),
        }
    }
}

impl TryFrom<pb::SubmitStreamRequest> for Submit {
    type Error = ConvertError;

    fn try_from(request: pb::SubmitStreamRequest) -> Result<Self, ConvertError> {
        pb::SubmitRequest {
            signed_statement: request.signed_statement,
            strength: request.strength,
        }
        .try_into()
    }
}

impl From<Submit> for pb::SubmitStreamRequest {
    fn from(submit: Submit) -> Self {
        let pb::SubmitRequest {
            signed_statement,
            strength,
        } = submit.into();
        Self {
            signed_statement,
            strength,
        }
    }
}

impl TryFrom<pb::SubmitResponse> for Submitted {
    type Error = ConvertError;

    fn try_from(response: pb::SubmitResponse) -> Result<Self, ConvertError> {
        Ok(Self {
            index: response.leaf_index,
            leaf: leaf(&response.leaf)?,
            receipt: optional_receipt(&response.receipt)?,
        })
    }
}

impl From<Submitted> for pb::SubmitResponse {
    fn from(submitted: Submitted) -> Self {
        Self {
            leaf_index: submitted.index,
            leaf: submitted.leaf.to_bytes(),
            receipt: submitted
                .receipt
                .as_ref()
                .map_or_else(Vec::new, receipt_to_pb),
        }
    }
}

impl TryFrom<pb::ReceiptRequest> for ReceiptOf {
    type Error = ConvertError;

    fn try_from(request: pb::ReceiptRequest) -> Result<Self, ConvertError> {
        use pb::receipt_request::Leaf;
        let leaf = match request.leaf.ok_or(ConvertError::Missing("leaf"))? {
            Leaf::LeafIndex(index) => LeafName::Index(index),
            Leaf::Record(bytes) => LeafName::Record(convert::cid("record", &bytes)?),
            Leaf::StatementHash(bytes) => {
                LeafName::Statement(convert::hash("statement_hash", &bytes)?)
            }
        };
        let strength = strength_from_pb(request.strength)?;
        Ok(Self {
            leaf,
            strength: strength.ok_or_else(|| {
                let why = "a committed leaf has no receipt yet: ask for witnessed or published";
                ConvertError::malformed("strength", why)
            })?,
        })
    }
}

impl From<ReceiptOf> for pb::ReceiptRequest {
    fn from(receipt_of: ReceiptOf) -> Self {
        use pb::receipt_request::Leaf;
        let leaf = match receipt_of.leaf {
            LeafName::Index(index) => Leaf::LeafIndex(index),
            LeafName::Record(cid) => Leaf::Record(cid.to_bytes()),
            LeafName::Statement(hash) => Leaf::StatementHash(hash.as_bytes().to_vec()),
        };
        Self {
            strength: strength_to_pb(Some(receipt_of.strength)).into(),
            leaf: Some(leaf),
        }
    }
}

impl TryFrom<pb::ListLeavesResponse> for AsOf<Option<LeafEntry>> {
    type Error = ConvertError;

    fn try_from(response: pb::ListLeavesResponse) -> Result<Self, ConvertError> {
        let tree_size = response.tree_size;
        let value = match response.leaf.is_empty() {
            true => None,
            false => Some(LeafEntry::try_from(response)?),
        };
        let within = |entry: &LeafEntry| entry.index < tree_size;
        if !value.as_ref().is_none_or(within) {
            let why = "the log has fewer leaves";
            return Err(ConvertError::malformed("leaf_index", why));
        }
        Ok(Self { tree_size, value })
    }
}

impl TryFrom<pb::ListLeavesResponse> for LeafEntry {
    type Error = ConvertError;

    fn try_from(response: pb::ListLeavesResponse) -> Result<Self, ConvertError> {
        let leaf = leaf(&response.leaf)?;
        let opening = match response.opening.as_slice() {
            [] => None,
            bytes => Some(
                Opening::from_bytes(bytes)
                    .map_err(|error| ConvertError::malformed("opening", error))?,
            ),
        };
        if opening
            .as_ref()
            .is_some_and(|opening| opening.commitment() != leaf.opening)
        {
            return Err(ConvertError::malformed(
                "opening",
                "the leaf commits to another",
            ));
        }
        let erased_with = match response.erased_with.as_slice() {
            [] => None,
            id => Some(convert::custody_id("erased_with", id)?),
        };
        if opening.is_some() && erased_with.is_some() {
            let why = "the opening is there";
            return Err(ConvertError::malformed("erased_with", why));
        }
        Ok(Self {
            index: response.leaf_index,
            leaf,
            opening,
            erased_with,
        })
    }
}

impl From<AsOf<Option<LeafEntry>>> for pb::ListLeavesResponse {
    fn from(AsOf { tree_size, value }: AsOf<Option<LeafEntry>>) -> Self {
        let Some(entry) = value else {
            return Self {
                tree_size,
                ..Self::default()
            };
        };
        let opening = entry.opening.map(|opening| opening.to_bytes());
        Self {
            leaf_index: entry.index,
            leaf: entry.leaf.to_bytes(),
            opening: opening.unwrap_or_default(),
            tree_size,
            erased_with: match entry.erased_with {
                Some(custody) => custody.as_bytes().to_vec(),
                None => Vec::new(),
            },
        }
    }
}

impl TryFrom<pb::ReceiptResponse> for Receipt {
    type Error = ConvertError;

    fn try_from(response: pb::ReceiptResponse) -> Result<Self, ConvertError> {
        receipt(&response.receipt)
    }
}

/// The receipt in an answer that must carry one.
pub(crate) fn receipt(bytes: &[u8]) -> Result<Receipt, ConvertError> {
    optional_receipt(bytes)?.ok_or(ConvertError::Missing("receipt"))
}

/// The receipt in an answer that may carry one.
pub(crate) fn optional_receipt(bytes: &[u8]) -> Result<Option<Receipt>, ConvertError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = convert::at_most("receipt", bytes, Receipt::MAX_BYTES)?;
    let text =
        std::str::from_utf8(bytes).map_err(|error| ConvertError::malformed("receipt", error))?;
    text.parse()
        .map(Some)
        .map_err(|error: ReceiptFormatError| ConvertError::malformed("receipt", error))
}

/// The list of a release.
pub(crate) fn release_list(bytes: &[u8]) -> Result<ReleaseList, ConvertError> {
    ReleaseList::from_bytes(bytes).map_err(|error| ConvertError::malformed("release_list", error))
}

/// The list of a release in a message that may carry one.
pub(crate) fn optional_release_list(bytes: &[u8]) -> Result<Option<ReleaseList>, ConvertError> {
    match bytes {
        [] => Ok(None),
        bytes => release_list(bytes).map(Some),
    }
}

/// The list of a release as it is sent.
pub(crate) fn release_list_to_pb(list: Option<&ReleaseList>) -> Vec<u8> {
    list.map(ReleaseList::to_bytes).unwrap_or_default()
}

/// A receipt as it is sent.
pub(crate) fn receipt_to_pb(receipt: &Receipt) -> Vec<u8> {
    receipt.to_string().into_bytes()
}

pub(crate) fn signed_statement(bytes: &[u8]) -> Result<SignedStatement, ConvertError> {
    SignedStatement::from_bytes(bytes)
        .map_err(|error: StatementError| ConvertError::malformed("signed_statement", error))
}

fn leaf(bytes: &[u8]) -> Result<Leaf, ConvertError> {
    Leaf::from_bytes(bytes).map_err(|error| ConvertError::malformed("leaf", error))
}

fn strength_from_pb(strength: i32) -> Result<Option<Strength>, ConvertError> {
    let strength = pb::Strength::try_from(strength)
        .map_err(|error| ConvertError::malformed("strength", error))?;
    Ok(match strength {
        pb::Strength::Unspecified | pb::Strength::Published => Some(Strength::Published),
        pb::Strength::Committed => None,
        pb::Strength::Witnessed => Some(Strength::Witnessed),
    })
}

fn strength_to_pb(strength: Option<Strength>) -> pb::Strength {
    match strength {
        None => pb::Strength::Committed,
        Some(Strength::Witnessed) => pb::Strength::Witnessed,
        Some(Strength::Published) => pb::Strength::Published,
    }
}
