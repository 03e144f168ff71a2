use libp2p::pnet::PreSharedKey;
use zeroize::Zeroizing;

/// The key that all peers of one private network share: outsiders cannot complete a handshake.
///
/// Its text is Kubo's and Helia's `swarm.key`. It is wiped when dropped, never printed, and cannot be
/// revoked for one peer alone: the allow-list does that.
#[expect(
    missing_debug_implementations,
    reason = "it is a secret without a public half"
)]
pub struct SwarmKey(Zeroizing<[u8; 32]>);

/// Why text is not a swarm key. It does not repeat the text, which may be almost a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SwarmKeyError {
    /// The first line is another one.
    #[error("swarm key does not begin with the line `/key/swarm/psk/1.0.0/`")]
    Header,
    /// Only base16 is read.
    #[error("second line of the swarm key is not `/base16/`")]
    Encoding,
    /// The third line is not 64 hexadecimal digits, or more lines follow.
    #[error("swarm key is not one line of 64 hexadecimal digits")]
    Digits,
}

impl SwarmKey {
    /// Reads the text of a `swarm.key` file.
    ///
    /// # Errors
    ///
    /// [`SwarmKeyError`] says which line is not as it must be.
    pub fn parse(text: &str) -> Result<Self, SwarmKeyError> {
        let mut lines = text.trim_end().lines();
        if lines.next() != Some(HEADER) {
            return Err(SwarmKeyError::Header);
        }
        if lines.next() != Some(ENCODING) {
            return Err(SwarmKeyError::Encoding);
        }
        let digits = lines.next().ok_or(SwarmKeyError::Digits)?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, key.as_mut()).map_err(|_| SwarmKeyError::Digits)?;
        match lines.next() {
            None => Ok(Self(key)),
            Some(_) => Err(SwarmKeyError::Digits),
        }
    }

    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut())?;
        Ok(Self(key))
    }

    /// The text to keep in a `swarm.key` file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex::encode(self.0.as_slice()));
        Zeroizing::new(format!("{HEADER}\n{ENCODING}\n{}\n", digits.as_str()))
    }

    pub(crate) fn pre_shared_key(&self) -> PreSharedKey {
        PreSharedKey::new(*self.0)
    }
}

const HEADER: &str = "/key/swarm/psk/1.0.0/";
const ENCODING: &str = "/base16/";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(digits: &str) -> String {
        format!("/key/swarm/psk/1.0.0/\n/base16/\n{digits}\n")
    }

    #[test]
    fn key_is_read_back_from_its_text() {
        let key = SwarmKey::generate().unwrap();
        let again = SwarmKey::parse(&key.to_text()).unwrap();
        assert_eq!(*again.to_text(), *key.to_text());
    }

    #[test]
    fn parse_accepts_other_line_ends() {
        let expected = text(&"0a".repeat(32));
        for given in [
            expected.trim_end().to_owned(),
            expected.replace('\n', "\r\n"),
            expected.replace("0a", "0A"),
        ] {
            assert_eq!(*SwarmKey::parse(&given).unwrap().to_text(), expected);
        }
    }

    #[test]
    fn parse_names_the_line_that_is_wrong() {
        let error = |text: &str| SwarmKey::parse(text).err().unwrap();
        assert_eq!(error(""), SwarmKeyError::Header);
        assert_eq!(
            error("/key/swarm/psk/1.0.0/\n/base64/\nAAAA"),
            SwarmKeyError::Encoding
        );
        for digits in [
            "",
            "0a",
            &"0g".repeat(32),
            &"0a".repeat(33),
            &"é".repeat(32),
        ] {
            assert_eq!(error(&text(digits)), SwarmKeyError::Digits, "{digits}");
        }
        let two = text(&"0a".repeat(32)) + "more";
        assert_eq!(error(&two), SwarmKeyError::Digits);
    }

    proptest! {
        #[test]
        fn parse_of_any_text_does_not_panic(text in ".{0,200}") {
            let _ = SwarmKey::parse(&text);
        }
    }
}
