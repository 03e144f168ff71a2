use anyhow::{Context, Result};
use data_encoding::BASE32_NOPAD;
use ring::hmac;
use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// An authenticator app (RFC 6238), by another implementation of HMAC than the nodes'.
pub struct Authenticator(hmac::Key);

impl Authenticator {
    /// Takes the secret from what a QR code says: `otpauth://totp/...?secret=...`.
    ///
    /// # Errors
    ///
    /// When there is no secret in it.
    pub fn scan(uri: &str) -> Result<Self> {
        let (_, rest) = uri.split_once("?secret=").context("no secret")?;
        let (secret, _) = rest.split_once('&').context("no end of the secret")?;
        let secret = BASE32_NOPAD
            .decode(secret.as_bytes())
            .context("read the secret")?;
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret);
        Ok(Self(key))
    }

    /// What it shows so many steps of 30 seconds from now.
    ///
    /// # Errors
    ///
    /// When the clock is before 1970.
    pub fn code(&self, ahead: u64) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let step = now.as_secs() / 30 + ahead;
        let tag = hmac::sign(&self.0, &step.to_be_bytes());
        let hash = tag.as_ref();
        let at = usize::from(hash.last().copied().unwrap_or(0) & 0xf);
        let four = hash.get(at..at + 4).context("a short hash")?;
        let number = u32::from_be_bytes(four.try_into()?) & 0x7fff_ffff;
        Ok(format!("{:06}", number % 1_000_000))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}
