use medanchor_dag::{Did, Hash, Signature, SigningKey, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

/// The public key to which copies of custody keys for a node's key store are sealed, with the node's word that it is its
/// own: a signature under [`StoreKey::LABEL`] over `H(dag-cbor({ origin, key }))`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreKey {
    /// The node.
    pub by: Did,
    /// The public key (X25519).
    pub key: ByteArray<32>,
    /// The node's signature.
    pub sig: Signature,
}

impl StoreKey {
    /// Label of the signature.
    pub const LABEL: &'static str = "medanchor/v1/custody-store";
    /// The most bytes that its canonical form may have.
    pub const MAX_BYTES: usize = 512;

    /// Signs that `key` is that of this node's key store, in the network named `origin`.
    pub fn sign(node: &SigningKey, origin: &str, key: [u8; 32]) -> Self {
        Self {
            by: node.did(),
            key: ByteArray::new(key),
            sig: node.sign(Self::LABEL, &digest(origin, key)),
        }
    }

    /// Whether the node has signed it, for this network.
    pub fn is_valid(&self, origin: &str) -> bool {
        let digest = digest(origin, self.key.into_array());
        self.by.verify(Self::LABEL, &digest, &self.sig).is_ok()
    }
}

fn digest(origin: &str, key: [u8; 32]) -> [u8; 32] {
    #[derive(Serialize)]
    struct Said<'a> {
        origin: &'a str,
        key: ByteArray<32>,
    }
    let said = Said {
        origin,
        key: ByteArray::new(key),
    };
    *Hash::of(&to_canonical(&said)).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_key_is_believed_of_its_node_and_network_alone() {
        let (node, other) = (
            SigningKey::from_seed(&[1; 32]),
            SigningKey::from_seed(&[2; 32]),
        );
        let said = StoreKey::sign(&node, "example.org/log", [3; 32]);
        assert!(said.is_valid("example.org/log"));
        assert!(!said.is_valid("example.org/other"));
        let of_another = StoreKey {
            by: other.did(),
            ..said
        };
        let another_key = StoreKey {
            key: ByteArray::new([4; 32]),
            ..said
        };
        for forged in [of_another, another_key] {
            assert!(!forged.is_valid("example.org/log"));
        }
    }
}
