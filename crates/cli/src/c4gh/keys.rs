use super::{NONCE, SecretKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use std::io;
use zeroize::Zeroizing;

/// The keys that one file is written with.
pub(super) struct FileKeys {
    /// Of the header's packet. It stands in the file.
    pub(super) nonce: [u8; NONCE],
    /// The writer's, of this file alone.
    pub(super) writer: SecretKey,
    /// Of the segments.
    pub(super) data: Zeroizing<[u8; 32]>,
}

impl FileKeys {
    /// Keys that nobody has again.
    pub(super) fn draw() -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(io::Error::other)?;
        Self::derive(&secret, nonce()?, &[])
    }

    /// Keys that whoever has the secret has again from the nonce, so that no key is kept of a file that is not whole yet:
    /// `HKDF-SHA-256(secret, salt: nonce, info: label || \0 || content)`. `content` says what is in the file and for whom: one
    /// key never encrypts two plaintexts.
    pub(super) fn derive(
        secret: &[u8; 32],
        nonce: [u8; NONCE],
        content: &[u8],
    ) -> io::Result<Self> {
        let prk = Salt::new(HKDF_SHA256, &nonce).extract(secret);
        Ok(Self {
            nonce,
            writer: SecretKey::from_bytes(&*expand(&prk, WRITER, content)?),
            data: expand(&prk, DATA, content)?,
        })
    }
}

/// A nonce for a new file.
pub(super) fn nonce() -> io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

fn expand(prk: &Prk, label: &[u8], content: &[u8]) -> io::Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let info = [label, b"\0", content];
    let filled = prk
        .expand(&info, HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key));
    filled.map_err(|_| io::Error::other("cannot derive a key"))?;
    Ok(key)
}

const WRITER: &[u8] = b"medanchor/v1/c4gh-writer";
const DATA: &[u8] = b"medanchor/v1/c4gh-data";
