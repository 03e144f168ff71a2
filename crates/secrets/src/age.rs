//! age v1 with one scrypt recipient and one chunk: all that a key file needs of <https://github.com/C2SP/C2SP/blob/main/age.md>.

use crate::{OpenError, Passphrase};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use chacha20poly1305::{ChaCha20Poly1305, aead::AeadInOut};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use scrypt::{Params, scrypt};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Seals a text of at most [`CHUNK`] bytes.
pub(crate) fn seal(
    text: &[u8],
    passphrase: &Passphrase,
    log_n: u8,
) -> Result<Vec<u8>, getrandom::Error> {
    let (mut salt, mut nonce) = ([0; 16], [0; 16]);
    let mut file_key = Zeroizing::new([0; 16]);
    getrandom::fill(&mut salt)?;
    getrandom::fill(&mut nonce)?;
    getrandom::fill(file_key.as_mut())?;
    let wrapped = encrypt(&wrap_key(passphrase, &salt, log_n), &WRAP_NONCE, &*file_key);
    let mut file = format!(
        "{VERSION}\n{STANZA}{} {log_n}\n{}\n---",
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(wrapped)
    );
    let mac = STANDARD_NO_PAD.encode(mac(&file_key, &file).finalize().into_bytes());
    file.push_str(&format!(" {mac}\n"));
    let mut file = file.into_bytes();
    file.extend(nonce);
    file.extend(encrypt(&payload_key(&file_key, &nonce), &LAST_CHUNK, text));
    Ok(file)
}

/// Opens what [`seal`], or another program, made.
pub(crate) fn open(file: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let parts = Parts::parse(file)?;
    let wrap_key = wrap_key(passphrase, &parts.salt, parts.log_n);
    let unwrapped = decrypt(&wrap_key, &WRAP_NONCE, &parts.wrapped);
    let unwrapped = unwrapped.ok_or(OpenError::WrongPassphrase)?;
    let mut file_key = Zeroizing::new([0; 16]);
    file_key.copy_from_slice(&unwrapped);
    mac(&file_key, parts.header)
        .verify_slice(&parts.mac)
        .map_err(|_| OpenError::Damaged)?;
    let payload_key = payload_key(&file_key, parts.nonce);
    decrypt(&payload_key, &LAST_CHUNK, parts.chunk).ok_or(OpenError::Damaged)
}

/// Whether it begins as an age file does.
pub(crate) fn is_age(bytes: &[u8]) -> bool {
    bytes.starts_with(VERSION.as_bytes())
}

struct Parts<'f> {
    salt: [u8; 16],
    log_n: u8,
    wrapped: [u8; 16 + TAG],
    /// What the MAC is over: up to the three hyphens.
    header: &'f str,
    mac: [u8; 32],
    nonce: &'f [u8],
    chunk: &'f [u8],
}

impl<'f> Parts<'f> {
    fn parse(file: &'f [u8]) -> Result<Self, OpenError> {
        let (version, rest) = line(file).ok_or(NOT_AGE)?;
        if version != VERSION {
            return Err(NOT_AGE);
        }
        let (stanza, rest) = line(rest).ok_or(OTHER_HEADER)?;
        let (wrapped, rest) = line(rest).ok_or(OTHER_HEADER)?;
        let (end, rest) = line(rest).ok_or(OTHER_HEADER)?;
        let stanza = stanza.strip_prefix(STANZA).ok_or(OTHER_HEADER)?;
        let (salt, log_n) = stanza.split_once(' ').ok_or(OTHER_HEADER)?;
        let mac = end.strip_prefix("--- ").ok_or(OTHER_HEADER)?;
        let header_length = file.len() - rest.len() - " ".len() - mac.len() - "\n".len();
        let header = file.get(..header_length).ok_or(OTHER_HEADER)?;
        let (nonce, chunk) = rest.split_at_checked(16).ok_or(NO_PAYLOAD)?;
        if !(TAG..=CHUNK + TAG).contains(&chunk.len()) {
            return Err(NO_PAYLOAD);
        }
        Ok(Self {
            salt: decode(salt)?,
            log_n: work_factor(log_n)?,
            wrapped: decode(wrapped)?,
            header: str::from_utf8(header).map_err(|_| OTHER_HEADER)?,
            mac: decode(mac)?,
            nonce,
            chunk,
        })
    }
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at_checked(at)?;
    Some((str::from_utf8(line).ok()?, rest.get(1..)?))
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], OpenError> {
    let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| OTHER_HEADER)?;
    bytes.try_into().map_err(|_| OTHER_HEADER)
}

fn work_factor(digits: &str) -> Result<u8, OpenError> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    let found: u32 = match digits.parse() {
        Ok(found) if plain => found,
        _ => return Err(OTHER_HEADER),
    };
    match u8::try_from(found) {
        Ok(log_n) if log_n <= MAX_LOG_N => Ok(log_n),
        _ => Err(OpenError::TooCostly {
            found,
            most: u32::from(MAX_LOG_N),
        }),
    }
}

/// scrypt with r = 8 and p = 1 over the passphrase and a salt that names its use.
fn wrap_key(passphrase: &Passphrase, salt: &[u8; 16], log_n: u8) -> Zeroizing<[u8; 32]> {
    let salt = [SALT_PREFIX, salt].concat();
    let mut key = Zeroizing::new([0; 32]);
    #[expect(clippy::expect_used, reason = "the work factor is 1 to 20")]
    let params = Params::new(log_n, 8, 1).expect("work factor is in range");
    #[expect(clippy::expect_used, reason = "scrypt makes keys of 32 bytes")]
    scrypt(passphrase.as_bytes(), &salt, &params, key.as_mut()).expect("key has 32 bytes");
    key
}

/// The header's HMAC-SHA-256, keyed by HKDF-SHA-256(file key, no salt, "header").
fn mac(file_key: &[u8; 16], header: &str) -> Hmac<Sha256> {
    let key = derive(file_key, &[], b"header");
    #[expect(clippy::expect_used, reason = "a key of HMAC has any length")]
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&*key).expect("key has 32 bytes");
    mac.chain_update(header)
}

/// HKDF-SHA-256(file key, nonce, "payload").
fn payload_key(file_key: &[u8; 16], nonce: &[u8]) -> Zeroizing<[u8; 32]> {
    derive(file_key, nonce, b"payload")
}

fn derive(file_key: &[u8; 16], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    #[expect(clippy::expect_used, reason = "HKDF-SHA-256 makes keys of 32 bytes")]
    Hkdf::<Sha256>::new(Some(salt), file_key)
        .expand(info, key.as_mut())
        .expect("key has 32 bytes");
    key
}

fn encrypt(key: &[u8; 32], nonce: &[u8; 12], text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    #[expect(
        clippy::expect_used,
        reason = "only what is longer than 256 GiB is refused"
    )]
    let tag = ChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(nonce.into(), &[], sealed.as_mut_slice().into())
        .expect("text is short");
    sealed.extend(tag);
    sealed
}

fn decrypt(key: &[u8; 32], nonce: &[u8; 12], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (text, tag) = sealed.split_last_chunk::<TAG>()?;
    let mut text = Zeroizing::new(text.to_vec());
    ChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), &[], text.as_mut_slice().into(), tag.into())
        .ok()?;
    Some(text)
}

const VERSION: &str = "age-encryption.org/v1";
const STANZA: &str = "-> scrypt ";
const SALT_PREFIX: &[u8] = b"age-encryption.org/v1/scrypt";
const TAG: usize = 16;
/// What one chunk of an age file holds.
pub(crate) const CHUNK: usize = 64 * 1024;
/// A wrap key is used once.
const WRAP_NONCE: [u8; 12] = [0; 12];
/// STREAM: chunk 0, and the last one.
const LAST_CHUNK: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// A GiB of memory, some seconds: what a planted file costs at most.
const MAX_LOG_N: u8 = 20;

const NOT_AGE: OpenError = OpenError::Malformed("it does not begin as one");
const OTHER_HEADER: OpenError = OpenError::Malformed("its header is not for one passphrase");
const NO_PAYLOAD: OpenError = OpenError::Malformed("what it holds is cut short, or too long");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOG_N: u8 = 1;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    fn sealed() -> Vec<u8> {
        seal(b"a secret", &passphrase("correct horse"), LOG_N).unwrap()
    }

    #[test]
    fn wrong_passphrase_is_told_from_damage() {
        let file = sealed();
        let opened = open(&file, &passphrase("correct horse")).unwrap();
        assert_eq!(**opened, *b"a secret");
        let wrong = open(&file, &passphrase("correct horse ")).unwrap_err();
        assert_eq!(wrong, OpenError::WrongPassphrase);
        let mut damaged = file;
        *damaged.last_mut().unwrap() ^= 1;
        let error = open(&damaged, &passphrase("correct horse")).unwrap_err();
        assert_eq!(error, OpenError::Damaged);
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let (file, passphrase) = (sealed(), passphrase("correct horse"));
        // What a change of the work factor may come to is not computed here.
        let text = String::from_utf8_lossy(&file).into_owned();
        let factor = text.find(&format!(" {LOG_N}\n")).unwrap();
        for at in (0..file.len()).filter(|at| *at != factor + 1 && *at != factor + 2) {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[at] ^= 1 << bit;
                assert!(
                    open(&changed, &passphrase).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
        for length in 0..file.len() {
            assert!(open(&file[..length], &passphrase).is_err(), "{length}");
        }
    }

    #[test]
    fn file_that_asks_for_too_much_work_is_refused_before_any_is_done() {
        let header = "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA ";
        let rest = format!("\n{0}\n--- {0}\n", STANDARD_NO_PAD.encode([0; 32]));
        let with = |factor: &str| {
            let mut file = format!("{header}{factor}{rest}").into_bytes();
            file.extend([0; 64]);
            open(&file, &passphrase("correct horse")).unwrap_err()
        };
        for found in [21, 23, 255, 256, u32::MAX] {
            let error = OpenError::TooCostly { found, most: 20 };
            assert_eq!(with(&found.to_string()), error);
        }
        for wrong in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "0x1",
            "1 ",
            "1 1",
            "99999999999999999999",
        ] {
            assert_eq!(with(wrong), OTHER_HEADER, "{wrong}");
        }
        assert_eq!(with("1"), OpenError::WrongPassphrase);
    }

    #[test]
    fn no_more_than_one_chunk_is_opened() {
        let passphrase = passphrase("correct horse");
        let longest = seal(&[7; CHUNK], &passphrase, LOG_N).unwrap();
        assert_eq!(open(&longest, &passphrase).unwrap().len(), CHUNK);
        let longer = seal(&[7; CHUNK + 1], &passphrase, LOG_N).unwrap();
        assert_eq!(open(&longer, &passphrase).unwrap_err(), NO_PAYLOAD);
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(text in any::<Vec<u8>>(), with in "[^\r\n]{1,40}") {
            let passphrase = passphrase(&with);
            let file = seal(&text, &passphrase, LOG_N).unwrap();
            prop_assert_eq!(&**open(&file, &passphrase).unwrap(), &*text);
        }

        #[test]
        fn parser_never_panics(bytes in any::<Vec<u8>>(), at in 0usize..150) {
            let _ = Parts::parse(&bytes);
            let mut file = sealed();
            file.splice(at..at, bytes);
            let _ = Parts::parse(&file);
        }
    }
}
