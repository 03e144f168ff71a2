use crate::{
    ConvertError, convert,
    custody::{MAX_COPY_BYTES, attestation},
    log,
    pb::access as pb,
    status::is_stable_code,
};
use bytes::Bytes;
use medanchor_anchor::{AccessRequest, Attestation, Receipt, SignedStatement};
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
    /// One wrap per record, in the order of the request: canonical bytes, not parsed yet.
    pub wraps: Vec<Bytes>,
    /// Receipt of the `released` leaf. Not verified yet: refuse the wraps until it is.
    pub receipt: Receipt,
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

/// The signed access request in a message; its form is checked, its signatures are not.
///
/// # Errors
///
/// [`ConvertError`] when it is not a signed statement.
pub fn access_request(request: &pb::RequestRequest) -> Result<SignedStatement, ConvertError> {
    log::signed_statement(&request.signed_statement)
}

impl TryFrom<pb::RequestResponse> for Decision {
    type Error = ConvertError;

    fn try_from(response: pb::RequestResponse) -> Result<Self, ConvertError> {
        use pb::request_response::Decision as Wire;
        match response.decision.ok_or(ConvertError::Missing("decision"))? {
            Wire::Grant(grant) => Granted::try_from(grant).map(Self::Granted),
            Wire::Denial(denial) => Denied::try_from(denial).map(Self::Denied),
        }
    }
}

impl TryFrom<pb::Grant> for Granted {
    type Error = ConvertError;

    fn try_from(grant: pb::Grant) -> Result<Self, ConvertError> {
        if grant.wraps.len() > AccessRequest::MAX_RECORDS {
            return Err(ConvertError::TooMany {
                field: "wraps",
                limit: AccessRequest::MAX_RECORDS,
            });
        }
        for wrap in &grant.wraps {
            convert::at_most("wraps", wrap, MAX_WRAP_BYTES)?;
        }
        Ok(Self {
            receipt: log::receipt(&grant.receipt)?,
            wraps: grant.wraps.into_iter().map(Bytes::from).collect(),
        })
    }
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

impl From<Decision> for pb::RequestResponse {
    fn from(decision: Decision) -> Self {
        use pb::request_response::Decision as Wire;
        let decision = match decision {
            Decision::Granted(granted) => Wire::Grant(pb::Grant {
                wraps: granted.wraps.iter().map(|wrap| wrap.to_vec()).collect(),
                receipt: log::receipt_to_pb(&granted.receipt),
            }),
            Decision::Denied(denied) => Wire::Denial(pb::Denial {
                code: denied.code,
                reason: denied.reason,
                receipt: denied
                    .receipt
                    .as_ref()
                    .map_or_else(Vec::new, log::receipt_to_pb),
            }),
        };
        Self {
            decision: Some(decision),
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

/// A wrap with the hybrid KEM has about 1,500.
const MAX_WRAP_BYTES: usize = 4 * 1024;
const MAX_REASON_BYTES: usize = 2 * 1024;
