use crate::{
    ConvertError, convert,
    custody::{MAX_COPY_BYTES, attestation},
    log,
    pb::access as pb,
    status::is_stable_code,
};
use bytes::Bytes;
use medanchor_anchor::{Attestation, Cohort, Receipt, ReleaseList, SignedStatement};
use medanchor_dag::{CustodyId, to_canonical};

/// What a broker decided about an access request.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Keys are released.
    Granted(Granted),
    /// Keys are refused.
    Denied(Denied),
}

/// Released keys.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What is released. Not verified yet: the statement of the receipt says its head.
    pub list: ReleaseList,
    /// One wrap per row of the list, in order: canonical bytes, not parsed yet.
    pub wraps: Vec<Bytes>,
    /// Receipt of the `released` leaf. Not verified yet: refuse the wraps until it is.
    pub receipt: Receipt,
    /// How many records were selected and not released, of those that the requester may know of, by the code that each would
    /// be refused with.
    pub left_out: Vec<(String, u64)>,
    /// Custody keys under which there is more for the requester, and which another broker holds.
    pub elsewhere: Vec<CustodyId>,
}

/// An access request, with the custody keys of its selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The statement. Its signature is not checked yet.
    pub signed: SignedStatement,
    /// The custody keys, none when the records are named.
    pub cohort: Vec<CustodyId>,
}

/// Refused keys.
#[derive(Clone, Debug)]
pub struct Denied {
    /// The stable code: `[a-z-]{1,64}`.
    pub code: String,
    /// The condition that failed and what would change it.
    pub reason: String,
    /// Receipt of the `refused` leaf, unless the requester is unknown or asks too often.
    pub receipt: Option<Receipt>,
}

/// A custody key is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateKey {
    /// The custody key's id.
    pub custody: CustodyId,
    /// Epoch of the key.
    pub epoch: u32,
    /// HPKE public key of the second holder (X25519).
    pub recovery_recipient: [u8; 32],
}

/// A custody key that a broker holds, and a copy for the second holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedKey {
    /// The public key (X25519).
    pub public_key: [u8; 32],
    /// The broker's word that it holds the private key durably.
    pub attestation: Attestation,
    /// The private key, sealed to the recovery recipient: canonical bytes, not parsed yet.
    pub recovery_copy: Bytes,
}

impl TryFrom<pb::RequestRequest> for Asked {
    type Error = ConvertError;

    fn try_from(request: pb::RequestRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            signed: log::signed_statement(&request.signed_statement)?,
            cohort: custodies("cohort", &request.cohort)?,
        })
    }
}

impl From<&Asked> for pb::RequestRequest {
    fn from(asked: &Asked) -> Self {
        Self {
            signed_statement: asked.signed.to_bytes(),
            cohort: custodies_to_pb(&asked.cohort),
        }
    }
}

/// The messages of one answer, in order.
impl TryFrom<Vec<pb::RequestResponse>> for Decision {
    type Error = ConvertError;

    fn try_from(messages: Vec<pb::RequestResponse>) -> Result<Self, ConvertError> {
        use pb::request_response::Part;
        let mut parts = messages.into_iter().map(|message| message.part);
        let first = parts.next().flatten();
        let mut granted = match first.ok_or(ConvertError::Missing("part"))? {
            Part::Grant(grant) => Granted::try_from(grant)?,
            Part::Denial(denial) => return Denied::try_from(denial).map(Self::Denied),
            Part::Wraps(_) => return Err(ConvertError::Missing("grant")),
        };
        for part in parts {
            let Some(Part::Wraps(wraps)) = part else {
                return Err(ConvertError::Missing("wraps"));
            };
            granted.take(wraps.wraps)?;
        }
        Ok(Self::Granted(granted))
    }
}

impl Granted {
    fn take(&mut self, wraps: Vec<Vec<u8>>) -> Result<(), ConvertError> {
        if self.wraps.len().saturating_add(wraps.len()) > ReleaseList::MAX_RECORDS {
            return Err(ConvertError::TooMany {
                field: "wraps",
                limit: ReleaseList::MAX_RECORDS,
            });
        }
        for wrap in &wraps {
            convert::at_most("wraps", wrap, MAX_WRAP_BYTES)?;
        }
        self.wraps.extend(wraps.into_iter().map(Bytes::from));
        Ok(())
    }
}

/// A grant without its wraps.
impl TryFrom<pb::Grant> for Granted {
    type Error = ConvertError;

    fn try_from(grant: pb::Grant) -> Result<Self, ConvertError> {
        if grant.left_out.len() > MAX_CODES {
            return Err(ConvertError::TooMany {
                field: "left_out",
                limit: MAX_CODES,
            });
        }
        let left_out =
            grant
                .left_out
                .into_iter()
                .map(|left_out| match is_stable_code(&left_out.code) {
                    true => Ok((left_out.code, left_out.records)),
                    false => Err(ConvertError::malformed("left_out", "not a stable code")),
                });
        Ok(Self {
            left_out: left_out.collect::<Result<_, _>>()?,
            list: log::release_list(&grant.list)?,
            wraps: Vec::new(),
            receipt: log::receipt(&grant.receipt)?,
            elsewhere: custodies("elsewhere", &grant.elsewhere)?,
        })
    }
}

/// Custody keys, sorted.
fn custodies(field: &'static str, ids: &[Vec<u8>]) -> Result<Vec<CustodyId>, ConvertError> {
    if ids.len() > Cohort::MAX {
        return Err(ConvertError::TooMany {
            field,
            limit: Cohort::MAX,
        });
    }
    let ids: Vec<_> = ids
        .iter()
        .map(|id| convert::custody_id(field, id))
        .collect::<Result<_, _>>()?;
    match ids.is_sorted_by(|one, next| one < next) {
        true => Ok(ids),
        false => Err(ConvertError::malformed(field, "not in order")),
    }
}

fn custodies_to_pb(ids: &[CustodyId]) -> Vec<Vec<u8>> {
    ids.iter().map(|id| id.as_bytes().to_vec()).collect()
}

impl TryFrom<pb::Denial> for Denied {
    type Error = ConvertError;

    fn try_from(denial: pb::Denial) -> Result<Self, ConvertError> {
        if !is_stable_code(&denial.code) {
            return Err(ConvertError::malformed("code", "not a stable code"));
        }
        Ok(Self {
            code: denial.code,
            reason: convert::text("reason", denial.reason, MAX_REASON_BYTES)?,
            receipt: log::optional_receipt(&denial.receipt)?,
        })
    }
}

impl Decision {
    /// The messages of the answer, in order: none is larger than what a client takes.
    pub fn into_messages(self) -> Vec<pb::RequestResponse> {
        use pb::request_response::Part;
        let message = |part| pb::RequestResponse { part: Some(part) };
        match self {
            Self::Denied(denied) => vec![message(Part::Denial(denied.into()))],
            Self::Granted(granted) => {
                let wraps: Vec<_> = granted
                    .wraps
                    .chunks(WRAPS_IN_A_MESSAGE)
                    .map(|wraps| pb::Wraps {
                        wraps: wraps.iter().map(|wrap| wrap.to_vec()).collect(),
                    })
                    .collect();
                let mut messages = vec![message(Part::Grant(granted.into()))];
                messages.extend(wraps.into_iter().map(|wraps| message(Part::Wraps(wraps))));
                messages
            }
        }
    }
}

impl From<Granted> for pb::Grant {
    fn from(granted: Granted) -> Self {
        let left_out = granted.left_out.into_iter();
        Self {
            receipt: log::receipt_to_pb(&granted.receipt),
            list: granted.list.to_bytes(),
            left_out: left_out
                .map(|(code, records)| pb::LeftOut { code, records })
                .collect(),
            elsewhere: custodies_to_pb(&granted.elsewhere),
        }
    }
}

impl From<Denied> for pb::Denial {
    fn from(denied: Denied) -> Self {
        let receipt = denied.receipt.as_ref();
        Self {
            code: denied.code,
            reason: denied.reason,
            receipt: receipt.map_or_else(Vec::new, log::receipt_to_pb),
        }
    }
}

impl TryFrom<pb::CreateKeyRequest> for CreateKey {
    type Error = ConvertError;

    fn try_from(request: pb::CreateKeyRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            custody: convert::custody_id("custody", &request.custody)?,
            epoch: request.epoch,
            recovery_recipient: convert::array("recovery_recipient", &request.recovery_recipient)?,
        })
    }
}

impl From<CreateKey> for pb::CreateKeyRequest {
    fn from(create: CreateKey) -> Self {
        Self {
            custody: create.custody.as_bytes().to_vec(),
            epoch: create.epoch,
            recovery_recipient: create.recovery_recipient.to_vec(),
        }
    }
}

impl TryFrom<pb::CreateKeyResponse> for CreatedKey {
    type Error = ConvertError;

    fn try_from(response: pb::CreateKeyResponse) -> Result<Self, ConvertError> {
        convert::at_most("recovery_copy", &response.recovery_copy, MAX_COPY_BYTES)?;
        Ok(Self {
            public_key: convert::array("public_key", &response.public_key)?,
            attestation: attestation("attestation", &response.attestation)?,
            recovery_copy: response.recovery_copy.into(),
        })
    }
}

impl From<CreatedKey> for pb::CreateKeyResponse {
    fn from(created: CreatedKey) -> Self {
        Self {
            public_key: created.public_key.to_vec(),
            attestation: to_canonical(&created.attestation),
            recovery_copy: created.recovery_copy.to_vec(),
        }
    }
}

/// Of some 300 bytes each, and at most 4 KiB: a message of less than 4 MiB.
const WRAPS_IN_A_MESSAGE: usize = 512;
/// As many codes as there are, and more.
const MAX_CODES: usize = 64;
/// A wrap with the hybrid KEM has about 1,500.
const MAX_WRAP_BYTES: usize = 4 * 1024;
const MAX_REASON_BYTES: usize = 2 * 1024;
