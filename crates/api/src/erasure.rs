use crate::{AsOf, ConvertError, convert, pb::registry as pb};
use medanchor_anchor::{Erased, ErasedBy, Gone, LeafIndex};
use medanchor_dag::{CustodyId, Did, from_canonical, to_canonical};

/// How far the erasure of a custody key is, or what it would have to say now, as a node's state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedErasure {
    /// What was said, or would have to be.
    pub erased: Erased,
    /// The leaf that erased it; `None`: it is not erased.
    pub leaf_index: Option<LeafIndex>,
    /// Whether every record and every opening is out of the state.
    pub is_swept: bool,
    /// How many records were.
    pub records: u64,
    /// Who has destroyed what.
    pub destroyed: Vec<ErasedBy>,
    /// The epoch keys of its holders now.
    pub epoch_keys: Vec<(Did, [u8; 32])>,
}

impl ListedErasure {
    /// The epoch key of a holder now.
    pub fn epoch_key_of(&self, holder: &Did) -> Option<[u8; 32]> {
        let mut keys = self.epoch_keys.iter();
        keys.find(|(who, _)| who == holder).map(|(_, key)| *key)
    }
}

/// The custody key that is asked for.
///
/// # Errors
///
/// [`ConvertError`]
pub fn erasure_asked_for(request: &pb::GetErasureRequest) -> Result<CustodyId, ConvertError> {
    convert::custody_id("custody", &request.custody)
}

/// The answer, which is to be of this custody key.
pub(crate) fn erasure(
    custody: &CustodyId,
    response: &pb::GetErasureResponse,
) -> Result<AsOf<Option<ListedErasure>>, ConvertError> {
    let tree_size = response.tree_size;
    if response.body.is_empty() {
        return Ok(AsOf {
            tree_size,
            value: None,
        });
    }
    let erased: Erased = from_canonical(&response.body, MAX_BODY_BYTES)
        .map_err(|error| ConvertError::malformed("body", error))?;
    if erased.custody != *custody {
        return Err(ConvertError::malformed(
            "body",
            "it is of another custody key",
        ));
    }
    let most = Erased::MAX_HOLDERS + Erased::MAX_REPLICAS;
    if response.destroyed.len() > most || response.epoch_keys.len() > most {
        return Err(ConvertError::malformed("destroyed", "too many"));
    }
    let destroyed = response.destroyed.iter().map(destroyed);
    let epoch_keys = response.epoch_keys.iter().map(epoch_key);
    let value = Some(ListedErasure {
        erased,
        leaf_index: response.leaf_index,
        is_swept: response.swept,
        records: response.records,
        destroyed: destroyed.collect::<Result<_, _>>()?,
        epoch_keys: epoch_keys.collect::<Result<_, _>>()?,
    });
    Ok(AsOf { tree_size, value })
}

impl From<AsOf<Option<ListedErasure>>> for pb::GetErasureResponse {
    fn from(AsOf { tree_size, value }: AsOf<Option<ListedErasure>>) -> Self {
        let Some(listed) = value else {
            return Self {
                tree_size,
                ..Self::default()
            };
        };
        let destroyed = listed.destroyed.iter().map(|by| pb::Destroyed {
            who: by.who.to_string(),
            gone: by.gone.to_string(),
            leaf_index: by.leaf,
        });
        let epoch_keys = listed.epoch_keys.iter().map(|(who, key)| pb::EpochKey {
            who: who.to_string(),
            key: key.to_vec(),
        });
        Self {
            body: to_canonical(&listed.erased),
            leaf_index: listed.leaf_index,
            swept: listed.is_swept,
            records: listed.records,
            destroyed: destroyed.collect(),
            epoch_keys: epoch_keys.collect(),
            tree_size,
        }
    }
}

fn destroyed(by: &pb::Destroyed) -> Result<ErasedBy, ConvertError> {
    let known = [Gone::Key, Gone::Data];
    let gone = known.into_iter().find(|gone| gone.to_string() == by.gone);
    Ok(ErasedBy {
        who: convert::did("who", &by.who)?,
        gone: gone.ok_or_else(|| ConvertError::malformed("gone", "neither `key` nor `data`"))?,
        leaf: by.leaf_index,
    })
}

fn epoch_key(entry: &pb::EpochKey) -> Result<(Did, [u8; 32]), ConvertError> {
    Ok((
        convert::did("who", &entry.who)?,
        convert::array("key", &entry.key)?,
    ))
}

/// Holders and replicas, at about 100 bytes each.
const MAX_BODY_BYTES: usize = 32 * 1024;
