use crate::{ConvertError, convert, pb::block as pb};
use medanchor_dag::{Block, Cid};

/// CIDs in one `Has` or `Get`.
pub const MAX_CIDS: usize = 1024;

/// Blocks that were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Blocks stored or already there.
    pub blocks: u64,
    /// Bytes in them.
    pub size_bytes: u64,
}

/// Blocks are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// The blocks, at most [`MAX_CIDS`].
    pub cids: Vec<Cid>,
    /// Only what the node holds itself.
    pub local_only: bool,
}

/// Why a node does not give a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nobody that was asked has it.
    #[error("not found")]
    NotFound,
    /// Nodes that may have it could not be reached in time.
    #[error("could not be fetched in time")]
    Unavailable,
    /// The node's own copy is corrupt, and only local blocks were asked for.
    #[error("the node's copy is corrupt")]
    Corrupt,
}

/// The CIDs in a `Has`.
///
/// # Errors
///
/// [`ConvertError`] when there are too many or one is malformed.
pub fn has_cids(request: &pb::HasRequest) -> Result<Vec<Cid>, ConvertError> {
    convert::cids("cids", &request.cids, MAX_CIDS)
}

impl TryFrom<pb::GetRequest> for Get {
    type Error = ConvertError;

    fn try_from(request: pb::GetRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            cids: convert::cids("cids", &request.cids, MAX_CIDS)?,
            local_only: request.local_only,
        })
    }
}

impl From<Get> for pb::GetRequest {
    fn from(get: Get) -> Self {
        Self {
            cids: cids_to_pb(&get.cids),
            local_only: get.local_only,
        }
    }
}

/// An uploaded block, verified against its CID.
impl TryFrom<pb::PutRequest> for Block {
    type Error = ConvertError;

    fn try_from(request: pb::PutRequest) -> Result<Self, ConvertError> {
        let cid = convert::cid("cid", &request.cid)?;
        Self::verify(cid, request.data).map_err(|error| ConvertError::malformed("data", error))
    }
}

impl From<Block> for pb::PutRequest {
    fn from(block: Block) -> Self {
        Self {
            cid: block.cid().to_bytes().into(),
            data: block.into_bytes(),
        }
    }
}

impl From<(Cid, Result<Block, Missing>)> for pb::GetResponse {
    fn from((cid, answer): (Cid, Result<Block, Missing>)) -> Self {
        let missing = match &answer {
            Ok(_) => pb::Missing::Unspecified,
            Err(Missing::NotFound) => pb::Missing::NotFound,
            Err(Missing::Unavailable) => pb::Missing::Unavailable,
            Err(Missing::Corrupt) => pb::Missing::Corrupt,
        };
        Self {
            cid: cid.to_bytes().into(),
            data: answer.map(Block::into_bytes).unwrap_or_default(),
            missing: missing.into(),
        }
    }
}

/// The block in an answer, verified against the CID that was asked for.
pub(crate) fn answer(
    asked: Cid,
    response: pb::GetResponse,
) -> Result<Result<Block, Missing>, ConvertError> {
    if convert::cid("cid", &response.cid)? != asked {
        return Err(ConvertError::malformed("cid", "not the one asked for"));
    }
    let missing = pb::Missing::try_from(response.missing)
        .map_err(|error| ConvertError::malformed("missing", error))?;
    match missing {
        pb::Missing::Unspecified => Block::verify(asked, response.data)
            .map(Ok)
            .map_err(|error| ConvertError::malformed("data", error)),
        pb::Missing::NotFound => Ok(Err(Missing::NotFound)),
        pb::Missing::Unavailable => Ok(Err(Missing::Unavailable)),
        pb::Missing::Corrupt => Ok(Err(Missing::Corrupt)),
    }
}

pub(crate) fn cids_to_pb(cids: &[Cid]) -> Vec<bytes::Bytes> {
    cids.iter().map(|cid| cid.to_bytes().into()).collect()
}
