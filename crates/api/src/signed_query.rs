use crate::{ConvertError, convert};
use medanchor_dag::{Did, Hash, Signature, SigningKey, from_canonical, to_canonical};
use serde::{Serialize, de::DeserializeOwned};

/// A question that somebody signs in their own name: a certificate does not say who asks.
pub trait SignedQuery: Serialize + DeserializeOwned {
    /// Label of the signature.
    const LABEL: &'static str;
    /// The message's field that has it.
    const FIELD: &'static str;
    /// The most bytes that its canonical form may have.
    const MAX_BYTES: usize;
    /// How far the clocks of who signs and of who answers may be apart, and how long it is good.
    const GOOD_MS: u64 = 5 * 60 * 1000;

    /// Its version: 1.
    fn version(&self) -> u8;
    /// The network's name.
    fn origin(&self) -> &str;
    /// Who asks, by the key that signs this.
    fn who(&self) -> &Did;
    /// When it was signed, unix ms.
    fn at(&self) -> u64;

    /// Whether it was signed about now, unix ms.
    fn is_fresh(&self, now: u64) -> bool {
        self.at().abs_diff(now) <= Self::GOOD_MS
    }
}

/// Its canonical bytes, and the signature on them and on what goes beside them.
pub(crate) fn sign<Q: SignedQuery>(
    query: &Q,
    beside: &[u8],
    key: &SigningKey,
) -> (Vec<u8>, Vec<u8>) {
    let bytes = to_canonical(query);
    let signature = key.sign(Q::LABEL, digest(&bytes, beside).as_bytes());
    (bytes, signature.as_bytes().to_vec())
}

/// What these bytes ask, when whoever asks has signed them and what goes beside them.
pub(crate) fn verify<Q: SignedQuery>(
    bytes: &[u8],
    beside: &[u8],
    signature: &[u8],
) -> Result<Q, ConvertError> {
    let query = from_canonical::<Q>(bytes, Q::MAX_BYTES);
    let query = query.map_err(|error| ConvertError::malformed(Q::FIELD, error))?;
    if query.version() != 1 {
        return Err(ConvertError::malformed(Q::FIELD, "another version"));
    }
    let signature = Signature::new(convert::array("signature", signature)?);
    let digest = digest(bytes, beside);
    let verified = query.who().verify(Q::LABEL, digest.as_bytes(), &signature);
    verified.map_err(|error| ConvertError::malformed("signature", error))?;
    Ok(query)
}

fn digest(bytes: &[u8], beside: &[u8]) -> Hash {
    Hash::of(&[bytes, beside].concat())
}
