use crate::{
    FormatError, Identity, OpenError, Recipient,
    cbor::{from_canonical, info, to_canonical},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

/// A copy of a custody key's private half, sealed to another holder: `{ v:1, enc, ct }`, HPKE in base
/// mode with `info = "medanchor/v1/custody-copy\0" || H(dag-cbor({ custody, epoch, key }))`, where `key`
/// is the public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct SealedKey {
    /// The encapsulated key.
    pub enc: [u8; 32],
    /// The sealed private key.
    pub ct: [u8; 48],
}

impl SealedKey {
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 256;

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`SealedKey::MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`FormatError`]; such bytes are never a sealed key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }

    /// The private key, which must be that of `expected`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Wrap`], when it was sealed to another holder, for another custody, epoch or key, or
    /// is damaged; [`OpenError::OtherRecord`], when its maker sealed another key than it named.
    pub fn open(
        &self,
        with: &Identity,
        custody: [u8; 16],
        epoch: u32,
        expected: &Recipient,
    ) -> Result<Identity, OpenError> {
        let info = copy_info(custody, epoch, expected);
        let secret = with.open(&info, &self.enc, &self.ct)?;
        let identity = Identity::from_bytes(secret);
        if identity.recipient() == *expected {
            Ok(identity)
        } else {
            Err(OpenError::OtherRecord)
        }
    }
}

impl Identity {
    /// Seals this custody key to a second holder.
    ///
    /// # Panics
    ///
    /// When the operating system has no random bytes.
    pub fn seal_copy(&self, to: &Recipient, custody: [u8; 16], epoch: u32) -> SealedKey {
        let info = copy_info(custody, epoch, &self.recipient());
        let (enc, ct) = to.seal(&info, self.to_bytes().as_ref());
        SealedKey { enc, ct }
    }
}

fn copy_info(custody: [u8; 16], epoch: u32, key: &Recipient) -> Vec<u8> {
    #[derive(Serialize)]
    struct Copy {
        custody: ByteArray<16>,
        epoch: u32,
        key: ByteArray<32>,
    }
    let context = Copy {
        custody: ByteArray::new(custody),
        epoch,
        key: ByteArray::new(*key.as_bytes()),
    };
    info("medanchor/v1/custody-copy", &context)
}

/// The sealed key as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    enc: ByteArray<32>,
    ct: ByteArray<48>,
}

impl From<SealedKey> for Wire {
    fn from(sealed: SealedKey) -> Self {
        Self {
            v: VERSION,
            enc: ByteArray::new(sealed.enc),
            ct: ByteArray::new(sealed.ct),
        }
    }
}

impl TryFrom<Wire> for SealedKey {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        if wire.v != VERSION {
            return Err("version is not known");
        }
        Ok(Self {
            enc: wire.enc.into_array(),
            ct: wire.ct.into_array(),
        })
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_opens_for_its_holder_custody_epoch_and_key_only() {
        let [key, holder, other] = [(); 3].map(|()| Identity::generate().unwrap());
        let sealed = key.seal_copy(&holder.recipient(), [1; 16], 2);
        let sealed = SealedKey::from_bytes(&sealed.to_bytes()).unwrap();
        let expected = key.recipient();
        let opened = sealed.open(&holder, [1; 16], 2, &expected).unwrap();
        assert_eq!(*opened.to_bytes(), *key.to_bytes());
        for (with, custody, epoch, expected) in [
            (&other, [1; 16], 2, expected),
            (&holder, [3; 16], 2, expected),
            (&holder, [1; 16], 3, expected),
            (&holder, [1; 16], 2, other.recipient()),
        ] {
            let opened = sealed.open(with, custody, epoch, &expected);
            assert_eq!(opened.err(), Some(OpenError::Wrap));
        }
    }

    #[test]
    fn copy_of_another_key_than_it_names_is_refused() {
        let [named, sealed, holder] = [(); 3].map(|()| Identity::generate().unwrap());
        let info = copy_info([1; 16], 0, &named.recipient());
        let (enc, ct) = holder.recipient().seal(&info, sealed.to_bytes().as_ref());
        let opened = SealedKey { enc, ct }.open(&holder, [1; 16], 0, &named.recipient());
        assert_eq!(opened.err(), Some(OpenError::OtherRecord));
    }

    #[test]
    fn parse_rejects_other_versions() {
        let wire = Wire {
            v: 2,
            enc: ByteArray::new([0; 32]),
            ct: ByteArray::new([0; 48]),
        };
        assert!(SealedKey::from_bytes(&to_canonical(&wire)).is_err());
    }
}
