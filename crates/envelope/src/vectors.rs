//! Known answers made by an independent program.

use crate::{Header, Suite};
use serde_json::Value;

/// The vectors that are whole records.
pub(crate) const RECORDS: [&str; 4] = ["inline_small", "three_chunks", "aes256gcm", "empty"];

pub(crate) struct Vector(Value);

pub(crate) fn vector(name: &str) -> Vector {
    let all: Value =
        serde_json::from_str(include_str!("../tests/vectors/medanchor-v1.json")).unwrap();
    Vector(all[name].clone())
}

/// Some header with the shortest chunks.
pub(crate) fn header() -> Header {
    let suite = Suite::ChaCha20Poly1305;
    Header::new(suite, 16, [1; 16], "did:key:z6Mk", [2; 16], "log", 3).unwrap()
}

impl Vector {
    pub(crate) fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.0[field].as_str().unwrap()).unwrap()
    }

    pub(crate) fn array<const N: usize>(&self, field: &str) -> [u8; N] {
        self.bytes(field).try_into().unwrap()
    }

    pub(crate) fn numbers(&self, field: &str) -> Vec<u64> {
        let numbers = self.0[field].as_array().unwrap();
        numbers.iter().map(|n| n.as_u64().unwrap()).collect()
    }

    pub(crate) fn plaintext(&self) -> Vec<u8> {
        let len = self.0["plaintext_len"].as_u64().unwrap();
        (0..len)
            .map(|i| u8::try_from((7 * i + 3) & 255).unwrap())
            .collect()
    }
}
