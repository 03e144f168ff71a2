use crate::{ConvertError, convert, pb::block as pb};
use medanchor_anchor::{Hold, SignedStatement};
use medanchor_dag::{from_canonical, to_canonical};

/// A node is asked to hold what `anchored` statements name (I1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldCall {
    /// The statements. At least one, at most [`Hold::MAX_STATEMENTS`]. Neither their kind nor their
    /// signatures are checked yet.
    pub statements: Vec<SignedStatement>,
    /// libp2p peer id (base58btc text) of a node that has the blocks.
    pub provider: String,
}

impl TryFrom<pb::HoldRequest> for HoldCall {
    type Error = ConvertError;

    fn try_from(request: pb::HoldRequest) -> Result<Self, ConvertError> {
        let statements = request.signed_statements;
        if statements.is_empty() {
            return Err(ConvertError::Missing(STATEMENTS));
        }
        if statements.len() > Hold::MAX_STATEMENTS {
            return Err(ConvertError::TooMany {
                field: STATEMENTS,
                limit: Hold::MAX_STATEMENTS,
            });
        }
        let statements = statements.iter().map(|bytes| {
            SignedStatement::from_bytes(bytes)
                .map_err(|error| ConvertError::malformed(STATEMENTS, error))
        });
        Ok(Self {
            statements: statements.collect::<Result<_, _>>()?,
            provider: convert::text("provider", request.provider, MAX_PROVIDER_BYTES)?,
        })
    }
}

impl From<HoldCall> for pb::HoldRequest {
    fn from(call: HoldCall) -> Self {
        let statements = call.statements.iter();
        Self {
            signed_statements: statements.map(|signed| signed.to_bytes().into()).collect(),
            provider: call.provider,
        }
    }
}

/// A holder's word in an answer. Its signature is not checked yet.
impl TryFrom<pb::HoldResponse> for Hold {
    type Error = ConvertError;

    fn try_from(response: pb::HoldResponse) -> Result<Self, ConvertError> {
        hold("hold", &response.hold)
    }
}

impl From<&Hold> for pb::HoldResponse {
    fn from(hold: &Hold) -> Self {
        Self {
            hold: to_canonical(hold).into(),
        }
    }
}

/// A hold in its canonical form.
pub(crate) fn hold(field: &'static str, bytes: &[u8]) -> Result<Hold, ConvertError> {
    let bytes = convert::at_most(field, bytes, MAX_HOLD_BYTES)?;
    from_canonical(bytes, MAX_HOLD_BYTES).map_err(|error| ConvertError::malformed(field, error))
}

const STATEMENTS: &str = "signed_statements";
const MAX_PROVIDER_BYTES: usize = 128;
/// [`Hold::MAX_STATEMENTS`] hashes of 34 bytes and the rest of a hold.
const MAX_HOLD_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{Body, Standing, Statement};
    use medanchor_dag::{Hash, SigningKey};

    #[test]
    fn hold_survives_the_wire() {
        let call = HoldCall {
            statements: vec![signed()],
            provider: "12D3KooW".to_owned(),
        };
        let sent = pb::HoldRequest::from(call.clone());
        assert_eq!(HoldCall::try_from(sent).unwrap(), call);

        let held = vec![Hash::of(b"statement"); Hold::MAX_STATEMENTS];
        let hold = Hold::sign(&key(), "example.org/log", held, 9);
        let sent = pb::HoldResponse::from(&hold);
        assert_eq!(Hold::try_from(sent).unwrap(), hold);
    }

    #[test]
    fn hold_request_rejects_too_few_and_too_many_statements_and_malformed_ones() {
        let request = |signed_statements| pb::HoldRequest {
            signed_statements,
            provider: String::new(),
        };
        let refused = |statements| HoldCall::try_from(request(statements)).unwrap_err();
        let none = refused(Vec::new());
        assert!(matches!(none, ConvertError::Missing(_)), "{none}");
        let bytes = signed().to_bytes();
        let many = refused(vec![bytes.clone().into(); Hold::MAX_STATEMENTS + 1]);
        assert!(matches!(many, ConvertError::TooMany { .. }), "{many}");
        let longer = [bytes, vec![0]].concat();
        let malformed = refused(vec![longer.into()]);
        assert!(
            matches!(malformed, ConvertError::Malformed { .. }),
            "{malformed}"
        );
    }

    fn signed() -> SignedStatement {
        let key = key();
        let body = Body::Suspended(Standing { who: key.did() });
        Statement::new("example.org/log", body, [2; 16], 3).sign(&[&key])
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[1; 32])
    }
}
