use base64::{Engine as _, engine::general_purpose::STANDARD};
use medanchor_dag::{Did, sha256};
use std::{fmt, str::FromStr};

use crate::{cosignature, verified};

/// A public key with the name under which it signs notes, in text a C2SP `vkey`
/// (<https://c2sp.org/signed-note#verifier-keys>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: SignatureKind,
    key: Did,
}

/// How a key signs notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureKind {
    /// 0x01: Ed25519 over the text. What a log signs its checkpoints with.
    Ed25519,
    /// 0x04: Ed25519 over a time and the text. What a witness co-signs with.
    Cosignature,
}

impl SignatureKind {
    fn code(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Cosignature => 0x04,
        }
    }
}

/// Why text is not a verifier key that we use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierKeyError {
    /// The name is empty, too long, or holds a space, a control character or `+`.
    #[error("`{0}` is not a key name")]
    Name(String),
    /// Not `<name>+<8 hexadecimal digits>+<base64>`.
    #[error("verifier key is malformed")]
    Malformed,
    /// A type of signature other than Ed25519 (0x01) and Ed25519 co-signatures (0x04).
    #[error("verifier key of type {0:#04x} is not supported")]
    Kind(u8),
    /// The id is not that of this name and key: the text was changed.
    #[error("verifier key does not have the id of its name and key")]
    Id,
}

impl VerifierKey {
    /// Names a key.
    ///
    /// # Errors
    ///
    /// [`VerifierKeyError::Name`] when the name may not stand in a note.
    pub fn new(name: &str, kind: SignatureKind, key: Did) -> Result<Self, VerifierKeyError> {
        if !is_name(name) {
            let shown = name.chars().take(80).collect();
            return Err(VerifierKeyError::Name(shown));
        }
        let name = name.to_owned();
        Ok(Self { name, kind, key })
    }

    /// The name under which it signs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it signs.
    pub fn kind(&self) -> SignatureKind {
        self.kind
    }

    /// The public key.
    pub fn key(&self) -> &Did {
        &self.key
    }

    /// Whether its name is that of a co-signing key of a member of the network with this log: `<origin>/<name>`.
    pub fn is_member_of(&self, origin: &str) -> bool {
        let name = self.name.strip_prefix(origin);
        self.kind == SignatureKind::Cosignature && name.is_some_and(|name| name.starts_with('/'))
    }

    /// The first four bytes of `H(name || \n || type || key)`.
    pub fn id(&self) -> u32 {
        let mut bytes = self.name.clone().into_bytes();
        bytes.push(b'\n');
        bytes.push(self.kind.code());
        bytes.extend_from_slice(self.key.as_bytes());
        let [a, b, c, d, ..] = sha256(&bytes);
        u32::from_be_bytes([a, b, c, d])
    }

    fn is_signer_of(&self, signature: &NoteSignature) -> bool {
        self.name == signature.name && self.id() == signature.key_id
    }

    /// Checks a signature's bytes over a note's text; the time that a co-signature carries.
    fn verify(&self, text: &str, signature: &[u8]) -> Option<Option<u64>> {
        match self.kind {
            SignatureKind::Ed25519 => {
                verify_strict(&self.key, text.as_bytes(), signature).then_some(None)
            }
            SignatureKind::Cosignature => {
                let (time, signature) = signature.split_first_chunk::<8>()?;
                let time = u64::from_be_bytes(*time);
                let message = cosignature::message(text, time);
                verify_strict(&self.key, message.as_bytes(), signature).then_some(Some(time))
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![self.kind.code()];
        key.extend_from_slice(self.key.as_bytes());
        let key = STANDARD.encode(key);
        write!(f, "{}+{:08x}+{key}", self.name, self.id())
    }
}

impl FromStr for VerifierKey {
    type Err = VerifierKeyError;

    fn from_str(text: &str) -> Result<Self, VerifierKeyError> {
        // The base64 part may hold `+` itself; name and id may not.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VerifierKeyError::Malformed);
        };
        let key = STANDARD
            .decode(key)
            .map_err(|_| VerifierKeyError::Malformed)?;
        let (kind, key) = key.split_first().ok_or(VerifierKeyError::Malformed)?;
        let kind = match kind {
            0x01 => SignatureKind::Ed25519,
            0x04 => SignatureKind::Cosignature,
            &other => return Err(VerifierKeyError::Kind(other)),
        };
        let key = key.try_into().map_err(|_| VerifierKeyError::Malformed)?;
        let this = Self::new(name, kind, Did::new(key))?;
        if format!("{:08x}", this.id()) == id {
            Ok(this)
        } else {
            Err(VerifierKeyError::Id)
        }
    }
}

/// Text with signatures below it (<https://c2sp.org/signed-note>). The text says nothing before
/// [`SignedNote::signers`] has found the key that one trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// A line below a note: whose signature, and its bytes, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    key_id: u32,
    bytes: Vec<u8>,
}

/// Who signed a note, once the signature has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer<'k> {
    /// The key.
    pub key: &'k VerifierKey,
    /// When it signed, by its own clock, in unix seconds: in co-signatures alone.
    pub at_unix_seconds: Option<u64>,
}

/// Why a note is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// More than [`SignedNote::MAX_BYTES`] or [`SignedNote::MAX_SIGNATURES`].
    #[error("note is too long")]
    TooLong,
    /// Not text, a blank line and signature lines.
    #[error("note is malformed")]
    Malformed,
    /// A signature that claims to be by a known key does not verify: the whole note is refused.
    #[error("signature by `{0}` does not verify")]
    Signature(String),
}

impl SignedNote {
    /// The most bytes that a note may have.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The most signatures that a note may have.
    pub const MAX_SIGNATURES: usize = 64;

    /// A note that its first signer has just signed.
    ///
    /// # Errors
    ///
    /// When the text may not stand in a note, or is too long for one.
    pub fn new(text: String, signature: NoteSignature) -> Result<Self, NoteError> {
        check_characters(&text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Malformed);
        }
        let mut note = Self {
            text,
            signatures: Vec::new(),
        };
        note.add(signature)?;
        Ok(note)
    }

    /// Reads a note; no signature is checked yet.
    ///
    /// # Errors
    ///
    /// [`NoteError`]; such text is never a note.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > Self::MAX_BYTES {
            return Err(NoteError::TooLong);
        }
        check_characters(note)?;
        // The text ends at the last blank line, and has that line's first newline.
        let blank = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, lines) = note
            .split_at_checked(blank + 1)
            .ok_or(NoteError::Malformed)?;
        let lines = lines.strip_prefix('\n').ok_or(NoteError::Malformed)?;
        Ok(Self {
            text: text.to_owned(),
            signatures: NoteSignature::parse_lines(lines)?,
        })
    }

    /// The signed text, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in order, unchecked.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds a signature below the others. One by a key that has signed already is left out: other
    /// verifiers refuse a note on which a key signs twice.
    ///
    /// # Errors
    ///
    /// [`NoteError::TooLong`]; nothing was added.
    pub fn add(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        let same_key = |s: &NoteSignature| s.name == signature.name && s.key_id == signature.key_id;
        if self.signatures.iter().any(same_key) {
            return Ok(());
        }
        let bytes = self.to_string().len() + signature.to_string().len() + 1;
        if self.signatures.len() >= Self::MAX_SIGNATURES || bytes > Self::MAX_BYTES {
            return Err(NoteError::TooLong);
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// Leaves out the signatures that do not claim to be by one of `keys`.
    pub fn retain<'k>(&mut self, keys: impl IntoIterator<Item = &'k VerifierKey>) {
        let keys: Vec<&VerifierKey> = keys.into_iter().collect();
        let known = |s: &NoteSignature| keys.iter().any(|key| key.is_signer_of(s));
        self.signatures.retain(known);
    }

    /// The same text with the first signature of each of `keys` that has one, in the order of `keys`.
    pub(crate) fn signed_by<'k>(&self, keys: impl IntoIterator<Item = &'k VerifierKey>) -> Self {
        let first = |key: &VerifierKey| self.signatures.iter().find(|s| key.is_signer_of(s));
        Self {
            text: self.text.clone(),
            signatures: keys.into_iter().filter_map(first).cloned().collect(),
        }
    }

    /// The first signature that does not claim to be by one of `keys`.
    pub(crate) fn stranger<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k VerifierKey>,
    ) -> Option<&NoteSignature> {
        let keys: Vec<&VerifierKey> = keys.into_iter().collect();
        let known = |s: &NoteSignature| keys.iter().any(|key| key.is_signer_of(s));
        self.signatures.iter().find(|signature| !known(signature))
    }

    /// Adds what `witness` answered to `add-checkpoint`, once it has been checked; lines by other keys
    /// are ignored.
    ///
    /// # Errors
    ///
    /// When the answer is malformed, or holds no good signature by `witness`; nothing was added.
    pub fn add_answer(&mut self, answer: &str, witness: &VerifierKey) -> Result<(), NoteError> {
        let signature = NoteSignature::parse_lines(answer)?
            .into_iter()
            .find(|signature| witness.is_signer_of(signature))
            .filter(|signature| witness.verify(&self.text, &signature.bytes).is_some())
            .ok_or_else(|| NoteError::Signature(witness.name.clone()))?;
        self.add(signature)
    }

    /// Who of `keys` signed, one entry per signature line. Lines by other keys are ignored.
    ///
    /// # Errors
    ///
    /// [`NoteError::Signature`] when a line that claims to be by one of `keys` is not.
    pub fn signers<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k VerifierKey>,
    ) -> Result<Vec<Signer<'k>>, NoteError> {
        let keys: Vec<&VerifierKey> = keys.into_iter().collect();
        let mut signers = Vec::new();
        for signature in &self.signatures {
            let mut known = keys.iter().filter(|key| key.is_signer_of(signature));
            let Some(key) = known.next() else {
                continue;
            };
            let at_unix_seconds = key
                .verify(&self.text, &signature.bytes)
                .ok_or_else(|| NoteError::Signature(signature.name.clone()))?;
            signers.push(Signer {
                key,
                at_unix_seconds,
            });
        }
        Ok(signers)
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl FromStr for SignedNote {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        Self::parse(note)
    }
}

impl NoteSignature {
    pub(crate) fn new(key: &VerifierKey, bytes: Vec<u8>) -> Self {
        Self {
            name: key.name.clone(),
            key_id: key.id(),
            bytes,
        }
    }

    /// Reads signature lines as they stand below a note, and in a witness's answer.
    ///
    /// # Errors
    ///
    /// When there is none, there are more than [`SignedNote::MAX_SIGNATURES`], or one is malformed.
    pub fn parse_lines(lines: &str) -> Result<Vec<Self>, NoteError> {
        if lines.len() > SignedNote::MAX_BYTES {
            return Err(NoteError::TooLong);
        }
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed)?;
        if lines.split('\n').count() > SignedNote::MAX_SIGNATURES {
            return Err(NoteError::TooLong);
        }
        lines.split('\n').map(str::parse).collect()
    }

    /// The name under which its key signs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first bytes of its key's hash.
    pub fn key_id(&self) -> u32 {
        self.key_id
    }

    /// The signature's bytes, for a co-signature with its time in front.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.key_id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.bytes);
        write!(f, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
    }
}

impl FromStr for NoteSignature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        let line = line.strip_prefix(DASH).ok_or(NoteError::Malformed)?;
        let (name, bytes) = line.split_once(' ').ok_or(NoteError::Malformed)?;
        let bytes = STANDARD.decode(bytes).map_err(|_| NoteError::Malformed)?;
        match bytes.split_first_chunk::<4>() {
            Some((key_id, bytes)) if is_name(name) && !bytes.is_empty() => Ok(Self {
                name: name.to_owned(),
                key_id: u32::from_be_bytes(*key_id),
                bytes: bytes.to_vec(),
            }),
            _ => Err(NoteError::Malformed),
        }
    }
}

/// Whether text may name a key, and so an origin.
pub(crate) fn is_name(name: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(forbidden)
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    if text.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        return Err(NoteError::Malformed);
    }
    Ok(())
}

/// Ed25519 without small-order keys or points and without malleable scalars (RFC 8032 section 5.1.7).
fn verify_strict(key: &Did, message: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = signature.try_into() else {
        return false;
    };
    verified::verifies_note(key, message, signature, || {
        let key = ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes());
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        key.is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    })
}

const DASH: &str = "\u{2014} ";
const MAX_NAME_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::SigningKey;
    use proptest::prelude::*;

    /// C2SP signed-note, the specification's own example.
    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\
        \u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn published_note_verifies() {
        let key: VerifierKey = KEY.parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        let note = SignedNote::parse(NOTE).unwrap();
        assert_eq!(note.to_string(), NOTE);
        assert_eq!(note.text(), "This is an example message.\n");
        let signers = note.signers([&key]).unwrap();
        assert_eq!(signers.len(), 1);
        assert_eq!(signers[0].at_unix_seconds, None);
    }

    #[test]
    fn known_key_that_fails_refuses_the_whole_note() {
        let key: VerifierKey = KEY.parse().unwrap();
        let changed = NOTE.replace("message", "massage");
        let note = SignedNote::parse(&changed).unwrap();
        let refused = NoteError::Signature("example.com/foo".to_owned());
        assert_eq!(note.signers([&key]), Err(refused));
    }

    #[test]
    fn unknown_key_is_ignored_even_under_a_known_name() {
        let other = SigningKey::from_seed(&[1; 32]).did();
        let other = VerifierKey::new("example.com/foo", SignatureKind::Ed25519, other).unwrap();
        let note = SignedNote::parse(NOTE).unwrap();
        assert_eq!(note.signers([&other]), Ok(vec![]));
    }

    #[test]
    fn text_ends_at_the_last_blank_line() {
        let text = "one\n\ntwo\n";
        let line = NOTE.split("\n\n").nth(1).unwrap();
        let note = SignedNote::parse(&format!("{text}\n{line}")).unwrap();
        assert_eq!(note.text(), text);
    }

    #[test]
    fn malformed_notes_are_refused() {
        let line = NOTE.split("\n\n").nth(1).unwrap();
        let too_many = format!("text\n\n{}", line.repeat(65));
        for note in [
            "",
            "text\n",
            "text\n\n",
            "text\n\n\n",
            line,
            NOTE.trim_end(),
            &NOTE.replace("message", "mess\tage"),
            &NOTE.replace("\u{2014} ", "- "),
            &NOTE.replace("com/foo U", "com/foo  U"),
            &NOTE.replace("com/foo U", "com/+foo U"),
            &NOTE.replace("aQM=", "aQM"),
            &NOTE.replace("aQM=", "aQN="),
            "text\n\n\u{2014} name AAAAAA==\n",
            &too_many,
            &format!("{}{NOTE}", "x".repeat(SignedNote::MAX_BYTES)),
        ] {
            assert!(SignedNote::parse(note).is_err(), "{note:?}");
        }
    }

    #[test]
    fn malformed_verifier_keys_are_refused() {
        for (text, expected) in [
            ("", VerifierKeyError::Malformed),
            ("name+00000000", VerifierKeyError::Malformed),
            ("name+00000000+AQ==", VerifierKeyError::Malformed),
            ("name+00000000+Bg==", VerifierKeyError::Kind(6)),
            (&KEY.replace("530d903a", "530D903A"), VerifierKeyError::Id),
            (&KEY.replace("/foo", "/fop"), VerifierKeyError::Id),
            (&KEY.replace("U2k", "U2l"), VerifierKeyError::Id),
            (
                &KEY.replace("/foo", "/f o"),
                VerifierKeyError::Name("example.com/f o".to_owned()),
            ),
        ] {
            assert_eq!(text.parse::<VerifierKey>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_note_is_seen() {
        let key: VerifierKey = KEY.parse().unwrap();
        for bit in 0..NOTE.len() * 8 {
            let mut bytes = NOTE.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let signed = String::from_utf8(bytes)
                .ok()
                .and_then(|text| SignedNote::parse(&text).ok())
                .and_then(|note| Some(!note.signers([&key]).ok()?.is_empty()));
            assert_ne!(signed, Some(true), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(text in "(?s)[\u{2014} \n+=A-Za-z0-9\u{0}]{0,200}") {
            if let Ok(note) = SignedNote::parse(&text) {
                prop_assert_eq!(note.to_string(), text.clone());
            }
            if let Ok(key) = text.parse::<VerifierKey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
