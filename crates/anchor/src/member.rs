use crate::{LeafIndex, Member};
use medanchor_dag::{Did, Hash};
use serde::{Deserialize, Serialize};

/// An organisation joins with its node. Its node id is not said but given: one more than the highest ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberAdded {
    /// The organisation's signing key.
    pub org: Did,
    /// The organisation's short name: `[a-z0-9-]{1,32}`.
    pub name: String,
    /// The signing key of its node.
    pub node: Did,
    /// Verifier key of its log key (signed-note type 0x01, named like the origin).
    pub log_key: String,
    /// Verifier key of its co-signing key (type 0x04, named `<origin>/<name>`).
    pub cosigner_key: String,
    /// SHA-256 of its node's TLS certificate (DER).
    pub certificate: Hash,
    /// Its node's libp2p peer id, base58btc text.
    pub peer_id: String,
    /// Where its node's services are reached: `<ip>:<port>`.
    pub address: String,
    /// Where its node's private swarm peer is reached: `<ip>:<port>`.
    pub swarm: String,
    /// Certificate (DER) of the authority that lets in its node and its clients. At most
    /// [`MemberAdded::MAX_AUTHORITY_BYTES`].
    #[serde(with = "serde_bytes")]
    pub authority: Vec<u8>,
    /// Co-signatures that a published checkpoint carries from now on.
    pub quorum: u8,
}

impl MemberAdded {
    /// The most bytes that the authority's certificate may have.
    pub const MAX_AUTHORITY_BYTES: usize = 4096;

    /// What the log says of the member that it makes.
    pub(crate) fn entry(&self, node_id: u64, added_at: LeafIndex) -> MemberEntry {
        let contact = Contact {
            address: self.address.clone(),
            swarm: self.swarm.clone(),
            authority: self.authority.clone(),
        };
        MemberEntry {
            member: self.member(node_id),
            contact: Some(contact),
            added_at,
            removed_at: None,
        }
    }

    /// The member that it makes.
    pub(crate) fn member(&self, node_id: u64) -> Member {
        Member {
            org: self.org,
            name: self.name.clone(),
            node: self.node,
            node_id,
            log_key: self.log_key.clone(),
            cosigner_key: self.cosigner_key.clone(),
            certificate: self.certificate,
            peer_id: self.peer_id.clone(),
        }
    }
}

/// A member is one no longer, and neither is its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRemoved {
    /// The organisation.
    pub org: Did,
    /// Its node's id, which no other node ever gets.
    pub node_id: u64,
    /// Its log key, so that the statement says by itself how the trust policy changes.
    pub log_key: String,
    /// Its co-signing key.
    pub cosigner_key: String,
    /// Co-signatures that a published checkpoint carries from now on.
    pub quorum: u8,
}

/// What the log says of a member, also of one that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberEntry {
    /// Its organisation and its node.
    pub member: Member,
    /// How it is reached and whom it lets in; `None` for founders, which the founding does not say.
    pub contact: Option<Contact>,
    /// The leaf that added it.
    pub added_at: LeafIndex,
    /// The leaf that removed it.
    pub removed_at: Option<LeafIndex>,
}

impl MemberEntry {
    /// Whether it is a member now.
    pub fn is_active(&self) -> bool {
        self.removed_at.is_none()
    }
}

/// How a member that joined later is reached, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// Where its node's services are: `<ip>:<port>`.
    pub address: String,
    /// Where its node's private swarm peer is: `<ip>:<port>`.
    pub swarm: String,
    /// Certificate (DER) of its authority.
    #[serde(with = "serde_bytes")]
    pub authority: Vec<u8>,
}
