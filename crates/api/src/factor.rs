use crate::{ConvertError, SignedQuery, convert, log, pb::access as pb, signed_query};
use medanchor_anchor::{Nonce, SignedStatement};
use medanchor_dag::{Did, SigningKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// A secret for an authenticator app, and the node that verifies its codes.
pub struct CreatedFactor {
    /// The factor's id.
    pub factor: Nonce,
    /// The node that verifies it.
    pub node: Did,
    /// The secret: for the app alone.
    pub secret: Zeroizing<Vec<u8>>,
}

/// An enrolment to be confirmed by a first code.
#[derive(Clone, Debug)]
pub struct ConfirmFactor {
    /// The `factor-enrolled` statement, signed by the organisation. Its form is checked, its signatures are not.
    pub enrolled: SignedStatement,
    /// What the app shows.
    pub code: Code,
}

/// Who shows which second factor, and when. A certificate does not say that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorClaim {
    /// 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// Who shows it, by the key that signs this.
    pub who: Did,
    /// The factor's id.
    pub factor: Nonce,
    /// When it was signed, unix ms.
    pub at: u64,
}

/// Six digits that an authenticator app shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code([u8; 6]);

impl Code {
    /// They, as text.
    pub fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }
}

impl std::str::FromStr for Code {
    type Err = ConvertError;

    fn from_str(text: &str) -> Result<Self, ConvertError> {
        let digits = <[u8; 6]>::try_from(text.as_bytes()).ok();
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_digit));
        digits
            .map(Self)
            .ok_or_else(|| ConvertError::malformed("code", "not six digits"))
    }
}

impl SignedQuery for FactorClaim {
    const LABEL: &'static str = "medanchor/v1/factor-claim";
    const FIELD: &'static str = "claim";
    const MAX_BYTES: usize = 512;

    fn version(&self) -> u8 {
        self.v
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn who(&self) -> &Did {
        &self.who
    }

    fn at(&self) -> u64 {
        self.at
    }
}

impl FactorClaim {
    /// The request to verify a code, signed with it by who shows it: who passes it on cannot try other codes in the person's
    /// name.
    pub fn sign(&self, key: &SigningKey, code: Code) -> pb::VerifyFactorRequest {
        let (claim, signature) = signed_query::sign(self, &code.0, key);
        pb::VerifyFactorRequest {
            claim,
            signature,
            code: String::from_utf8_lossy(&code.0).into_owned(),
        }
    }
}

/// The claim and the code in a message.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed, or not signed by who shows the factor.
pub fn factor_claim(
    request: &pb::VerifyFactorRequest,
) -> Result<(FactorClaim, Code), ConvertError> {
    let code: Code = request.code.parse()?;
    let claim = signed_query::verify(&request.claim, &code.0, &request.signature)?;
    Ok((claim, code))
}

/// Whose factor is to be made.
///
/// # Errors
///
/// [`ConvertError`] when it is no did:key.
pub fn factor_of(request: &pb::CreateFactorRequest) -> Result<Did, ConvertError> {
    convert::did("who", &request.who)
}

impl TryFrom<pb::CreateFactorResponse> for CreatedFactor {
    type Error = ConvertError;

    fn try_from(response: pb::CreateFactorResponse) -> Result<Self, ConvertError> {
        let secret = Zeroizing::new(response.secret);
        convert::at_most("secret", &secret, MAX_SECRET_BYTES)?;
        Ok(Self {
            factor: Nonce::new(convert::array("factor", &response.factor)?),
            node: convert::did("node", &response.node)?,
            secret,
        })
    }
}

impl From<CreatedFactor> for pb::CreateFactorResponse {
    fn from(created: CreatedFactor) -> Self {
        Self {
            factor: created.factor.to_vec(),
            node: created.node.to_string(),
            secret: created.secret.to_vec(),
        }
    }
}

impl TryFrom<pb::ConfirmFactorRequest> for ConfirmFactor {
    type Error = ConvertError;

    fn try_from(request: pb::ConfirmFactorRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            enrolled: log::signed_statement(&request.signed_statement)?,
            code: request.code.parse()?,
        })
    }
}

impl From<ConfirmFactor> for pb::ConfirmFactorRequest {
    fn from(confirm: ConfirmFactor) -> Self {
        Self {
            signed_statement: confirm.enrolled.to_bytes(),
            code: String::from_utf8_lossy(&confirm.code.0).into_owned(),
        }
    }
}

impl fmt::Debug for CreatedFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedFactor")
            .field("factor", &self.factor)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

const MAX_SECRET_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> FactorClaim {
        FactorClaim {
            v: 1,
            origin: "example.org/log".to_owned(),
            who: SigningKey::from_seed(&[1; 32]).did(),
            factor: Nonce::new([2; 16]),
            at: 10_000_000,
        }
    }

    #[test]
    fn claim_is_taken_from_whoever_signed_it_alone() {
        let (own, other) = ([1; 32], [2; 32]);
        let code: Code = "012345".parse().unwrap();
        let signed = claim().sign(&SigningKey::from_seed(&own), code);
        assert_eq!(factor_claim(&signed).unwrap(), (claim(), code));
        let by_another = claim().sign(&SigningKey::from_seed(&other), code);
        assert!(factor_claim(&by_another).is_err());
        for at in 0..signed.claim.len() {
            let mut flipped = signed.clone();
            flipped.claim[at] ^= 1;
            assert!(factor_claim(&flipped).is_err(), "{at}");
        }
        let mut other_code = signed;
        other_code.code = "012346".to_owned();
        assert!(factor_claim(&other_code).is_err());
    }

    #[test]
    fn code_is_six_digits_and_never_shown() {
        for text in ["", "12345", "1234567", "12345a", "１２３４５６", " 12345"] {
            assert!(text.parse::<Code>().is_err(), "{text}");
        }
        let code: Code = "000001".parse().unwrap();
        assert_eq!(code.as_bytes(), b"000001");
        assert_eq!(format!("{code:?}"), "Code");
    }

    #[test]
    fn claim_is_of_now() {
        let claim = claim();
        assert!(claim.is_fresh(claim.at + FactorClaim::GOOD_MS));
        assert!(!claim.is_fresh(claim.at + FactorClaim::GOOD_MS + 1));
        assert!(!claim.is_fresh(0));
    }
}
