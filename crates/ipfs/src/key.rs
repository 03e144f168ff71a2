use libp2p::identity::{Keypair, ed25519};
use std::fmt;
use zeroize::Zeroizing;

/// A peer's Ed25519 private key: what its peer id is made of. It is wiped when dropped and never printed.
pub struct PeerKey(Zeroizing<[u8; 32]>);

impl PeerKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut())?;
        Ok(Self(seed))
    }

    /// The key of a 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*seed))
    }

    /// The seed, to be kept in a key file.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The name of the public half, `12D3Koo...`: what other peers put on their allow-list.
    pub fn peer_id(&self) -> String {
        self.keypair().public().to_peer_id().to_string()
    }

    pub(crate) fn keypair(&self) -> Keypair {
        let mut seed = self.0.clone();
        #[expect(clippy::expect_used, reason = "every 32 bytes are an Ed25519 seed")]
        let secret = ed25519::SecretKey::try_from_bytes(seed.as_mut()).expect("32 bytes");
        ed25519::Keypair::from(secret).into()
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({})", self.peer_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_is_the_one_of_the_public_key() {
        // RFC 8032 section 7.1, test 1; the peer id is the identity multihash of its protobuf.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = PeerKey::from_seed(&hex::decode(seed).unwrap().try_into().unwrap());
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let id = libp2p::PeerId::from_bytes(&hex::decode(format!("002408011220{public}")).unwrap())
            .unwrap();
        assert_eq!(key.peer_id(), id.to_string());
    }

    #[test]
    fn key_is_read_back_from_its_seed_and_not_printed() {
        let key = PeerKey::generate().unwrap();
        let again = PeerKey::from_seed(&key.to_seed());
        assert_eq!(again.peer_id(), key.peer_id());
        assert_eq!(format!("{key:?}"), format!("PeerKey({})", key.peer_id()));
    }
}
