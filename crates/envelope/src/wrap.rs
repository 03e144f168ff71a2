use crate::{
    FormatError, Header, Identity, OpenError, Recipient,
    cbor::{from_canonical, info, sha256, to_canonical},
    keys::{ContentKey, RecordKeys},
};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

/// A record's content key, sealed to one recipient with HPKE (RFC 9180, base mode, HKDF-SHA256,
/// ChaCha20-Poly1305).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Wrap {
    /// How the key was encapsulated.
    pub kem: Kem,
    /// What the wrap is for: bound into the key by HPKE's `info`.
    pub ctx: WrapContext,
    /// The encapsulated key.
    pub enc: [u8; 32],
    /// The sealed content key.
    pub ct: [u8; 48],
}

/// What a wrap is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ContextWire", into = "ContextWire")]
pub struct WrapContext {
    /// Hash of the record's header.
    pub header: [u8; 32],
    /// The record's commitment to its content key.
    pub commitment: [u8; 32],
    /// The record's custody.
    pub custody: [u8; 16],
    /// The recipient's key id.
    pub to: [u8; 32],
    /// Hash of the access request that the wrap answers; absent in the durable wrap to custody.
    pub request: Option<[u8; 32]>,
    /// When the grant ends, unix ms; present exactly if `request` is.
    pub not_after: Option<u64>,
}

/// How a wrap's key was encapsulated: HPKE's KEM ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kem {
    /// DHKEM(X25519, HKDF-SHA256).
    X25519HkdfSha256 = 0x0020,
}

impl Wrap {
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 4096;

    /// Its canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// Parses canonical bytes of at most [`Wrap::MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`FormatError`]; such bytes are never a wrap.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        from_canonical(bytes, Self::MAX_BYTES)
    }

    /// SHA-256 of the canonical bytes: what a `released` statement names.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.to_bytes())
    }

    /// Seals `key`. `request` is the request's hash and the end of the grant, unix ms.
    pub(crate) fn seal(
        key: &ContentKey,
        header: &Header,
        commitment: [u8; 32],
        to: &Recipient,
        request: Option<([u8; 32], u64)>,
    ) -> Self {
        let ctx = WrapContext {
            header: header.hash(),
            commitment,
            custody: *header.custody(),
            to: to.id(),
            request: request.map(|(hash, _)| hash),
            not_after: request.map(|(_, not_after)| not_after),
        };
        let (enc, ct) = to.seal(&info(LABEL, &ctx), key.as_bytes());
        Self {
            kem: Kem::X25519HkdfSha256,
            ctx,
            enc,
            ct,
        }
    }

    /// The content key and the record's keys, after every check: the wrap is of this record, for this
    /// identity, opens, and holds the key that the record commits to.
    pub(crate) fn open(
        &self,
        identity: &Identity,
        header: &Header,
        commitment: &[u8; 32],
    ) -> Result<(ContentKey, RecordKeys), OpenError> {
        if self.ctx.header != header.hash()
            || self.ctx.commitment != *commitment
            || self.ctx.custody != *header.custody()
        {
            return Err(OpenError::OtherRecord);
        }
        if self.ctx.to != identity.recipient().id() {
            return Err(OpenError::OtherRecipient);
        }
        let secret = identity.open(&info(LABEL, &self.ctx), &self.enc, &self.ct)?;
        let key = ContentKey::from_bytes(secret);
        let keys = key.for_opening(header, commitment)?;
        Ok((key, keys))
    }
}

/// Seals the content key of `wrap`, made for `custody`, to the requester `to`, for the request with this
/// hash, until `not_after` unix ms. The content key exists in this function only.
///
/// # Errors
///
/// [`OpenError`], when the wrap is not of this record, not for this identity, or holds another key than
/// the record commits to.
///
/// # Panics
///
/// When the operating system has no random bytes.
pub fn rewrap(
    wrap: &Wrap,
    custody: &Identity,
    header: &Header,
    commitment: &[u8; 32],
    to: &Recipient,
    request: [u8; 32],
    not_after: u64,
) -> Result<Wrap, OpenError> {
    let (key, _) = wrap.open(custody, header, commitment)?;
    let request = Some((request, not_after));
    Ok(Wrap::seal(&key, header, *commitment, to, request))
}

/// The wrap as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    kem: u16,
    ctx: WrapContext,
    enc: ByteBuf,
    ct: ByteArray<48>,
}

impl From<Wrap> for Wire {
    fn from(wrap: Wrap) -> Self {
        Self {
            v: VERSION,
            kem: match wrap.kem {
                Kem::X25519HkdfSha256 => 0x0020,
            },
            ctx: wrap.ctx,
            enc: ByteBuf::from(wrap.enc),
            ct: ByteArray::new(wrap.ct),
        }
    }
}

impl TryFrom<Wire> for Wrap {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        if wire.v != VERSION {
            return Err("version is not known");
        }
        let kem = match wire.kem {
            0x0020 => Kem::X25519HkdfSha256,
            _ => return Err("kem is not known"),
        };
        let enc = wire.enc.into_vec().try_into();
        Ok(Self {
            kem,
            ctx: wire.ctx,
            enc: enc.map_err(|_| "encapsulated key has not the kem's length")?,
            ct: wire.ct.into_array(),
        })
    }
}

/// The context as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextWire {
    v: u8,
    header: ByteArray<32>,
    commitment: ByteArray<32>,
    custody: ByteArray<16>,
    to: ByteArray<32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<ByteArray<32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<u64>,
}

impl From<WrapContext> for ContextWire {
    fn from(ctx: WrapContext) -> Self {
        Self {
            v: VERSION,
            header: ByteArray::new(ctx.header),
            commitment: ByteArray::new(ctx.commitment),
            custody: ByteArray::new(ctx.custody),
            to: ByteArray::new(ctx.to),
            request: ctx.request.map(ByteArray::new),
            not_after: ctx.not_after,
        }
    }
}

impl TryFrom<ContextWire> for WrapContext {
    type Error = &'static str;

    fn try_from(wire: ContextWire) -> Result<Self, Self::Error> {
        if wire.v != VERSION {
            return Err("version is not known");
        }
        if wire.request.is_some() != wire.not_after.is_some() {
            return Err("request and not_after belong together");
        }
        Ok(Self {
            header: wire.header.into_array(),
            commitment: wire.commitment.into_array(),
            custody: wire.custody.into_array(),
            to: wire.to.into_array(),
            request: wire.request.map(ByteArray::into_array),
            not_after: wire.not_after,
        })
    }
}

const VERSION: u8 = 1;
const LABEL: &str = "medanchor/v1/wrap";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Opener, Sealer,
        vectors::{header, vector},
    };
    use zeroize::Zeroizing;

    #[test]
    fn wraps_of_other_programs_open() {
        let record = vector("three_chunks");
        let header = Header::from_bytes(&record.bytes("header_cbor")).unwrap();
        for name in ["wrap_to_custody", "wrap_to_partner"] {
            let vector = vector(name);
            let private = Zeroizing::new(vector.array("recipient_private"));
            let identity = Identity::from_bytes(private);
            let public = vector.array("recipient_public");
            assert_eq!(*identity.recipient().as_bytes(), public, "{name}");

            let context = vector.bytes("context_cbor");
            let ctx: WrapContext = from_canonical(&context, Wrap::MAX_BYTES).unwrap();
            assert_eq!(info(LABEL, &ctx), vector.bytes("info"), "{name}");
            assert_eq!(ctx.request.is_some(), name == "wrap_to_partner");

            let wrap = Wrap {
                kem: Kem::X25519HkdfSha256,
                ctx,
                enc: vector.array("enc"),
                ct: vector.array("ct"),
            };
            let (key, _) = wrap
                .open(&identity, &header, &record.array("commitment"))
                .unwrap();
            assert_eq!(*key.as_bytes(), vector.array("content_key"), "{name}");
            assert_eq!(Wrap::from_bytes(&wrap.to_bytes()).unwrap(), wrap);
        }
    }

    #[test]
    fn wrap_of_another_key_under_the_records_context_is_refused() {
        let header = header();
        let sealer = Sealer::new(header.clone()).unwrap();
        let reader = Identity::generate().unwrap();
        let commitment = sealer.commitment();
        // A writer who builds one ciphertext for two keys must lie in the second reader's wrap.
        let other = ContentKey::generate().unwrap();
        let lie = Wrap::seal(&other, &header, commitment, &reader.recipient(), None);
        let opened = Opener::new(&lie, &reader, &header, &commitment);
        assert_eq!(opened.err(), Some(OpenError::Commitment));
        let honest = Sealer::new(header.clone()).unwrap();
        let opened = Opener::new(
            &honest.wrap(&reader.recipient()),
            &reader,
            &header,
            &commitment,
        );
        assert_eq!(opened.err(), Some(OpenError::OtherRecord));
    }

    #[test]
    fn parse_rejects_other_versions_kems_and_halves_of_a_grant() {
        let sealer = Sealer::new(header()).unwrap();
        let good = sealer.wrap(&Identity::generate().unwrap().recipient());
        let wire = |change: fn(&mut Wire)| {
            let mut wire = Wire::from(good.clone());
            change(&mut wire);
            Wrap::from_bytes(&to_canonical(&wire))
        };
        assert_eq!(wire(|_| ()).unwrap(), good);
        assert!(wire(|w| w.v = 2).is_err());
        assert!(wire(|w| w.kem = 0x647a).is_err());
        assert!(wire(|w| w.enc.push(0)).is_err());
        assert!(wire(|w| w.ctx.request = Some([0; 32])).is_err());
        assert!(wire(|w| w.ctx.not_after = Some(0)).is_err());
        assert!(matches!(
            wire(|w| w.enc.resize(Wrap::MAX_BYTES, 0)),
            Err(FormatError::TooLong { .. })
        ));
        let whole = |w: &mut Wire| {
            w.ctx.request = Some([0; 32]);
            w.ctx.not_after = Some(0);
        };
        assert!(wire(whole).is_ok());
    }
}
