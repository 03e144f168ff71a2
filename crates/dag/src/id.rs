use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why text is not an id: it must be exactly this many hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {digits} hexadecimal digits")]
pub struct IdError {
    text: String,
    digits: usize,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "serde_bytes")] [u8; $len]);

        impl $name {
            /// Names these bytes.
            pub fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }
    };
}

byte_id!(
    /// A custody key's stable, random id: 16 bytes. It says nothing of whose data the key protects.
    CustodyId, 16
);
byte_id!(
    /// One of a device's streams of records: 16 random bytes.
    StreamId, 16
);
byte_id!(
    /// A SHA-256 digest of a canonical structure.
    Hash, 32
);

impl CustodyId {
    /// A new random id.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }
}

impl StreamId {
    /// A new random id.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }
}

impl Hash {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crate::sha256(bytes))
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let refuse = || IdError {
        text: text.chars().take(80).collect(),
        digits: 2 * N,
    };
    let digits: Vec<u32> = text
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()
        .ok_or_else(refuse)?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect();
    match bytes.try_into() {
        Ok(bytes) if digits.len() == 2 * N => Ok(bytes),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_read_back_from_its_text() {
        let id = CustodyId::new([0xa7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn id_rejects_other_lengths_and_characters() {
        for text in [
            "",
            "00",
            &"g0".repeat(16),
            &"00".repeat(17),
            &"é".repeat(32),
        ] {
            assert!(text.parse::<CustodyId>().is_err(), "{text}");
        }
    }
}
