use bytes::Bytes;
use medanchor_dag::{Cid, Codec};

/// A Bitswap 1.2.0 message (<https://specs.ipfs.tech/bitswap-protocol/#wire-format>).
///
/// Field 2, blocks without a CID prefix, belongs to Bitswap 1.0 and is passed over.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(message, optional, tag = "1")]
    pub(crate) wantlist: Option<Wantlist>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) payload: Vec<Payload>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) presences: Vec<Presence>,
    /// Bytes that wait to be sent to the receiver.
    #[prost(int32, tag = "5")]
    pub(crate) pending_bytes: i32,
}

/// What the sender wants, or no longer wants.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wantlist {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Entry>,
    /// This is all the sender wants: forget what it wanted before.
    #[prost(bool, tag = "2")]
    pub(crate) full: bool,
}

/// One block that is wanted, or no longer wanted.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Entry {
    /// CID, binary form.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) block: Bytes,
    #[prost(int32, tag = "2")]
    pub(crate) priority: i32,
    #[prost(bool, tag = "3")]
    pub(crate) cancel: bool,
    #[prost(enumeration = "WantType", tag = "4")]
    pub(crate) want_type: i32,
    #[prost(bool, tag = "5")]
    pub(crate) send_dont_have: bool,
}

/// What is asked about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum WantType {
    /// Its bytes.
    Block = 0,
    /// Whether the receiver has it.
    Have = 1,
}

/// A block.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    /// Its CID without the digest.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) prefix: Vec<u8>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: Bytes,
}

/// Whether the sender has a block.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Presence {
    /// CID, binary form.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) cid: Bytes,
    #[prost(enumeration = "PresenceType", tag = "2")]
    pub(crate) presence_type: i32,
}

/// The answer to [`WantType::Have`], or to any want for a block that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum PresenceType {
    /// It is here.
    Have = 0,
    /// It is not here.
    DontHave = 1,
}

impl Payload {
    pub(crate) fn new(block: &medanchor_dag::Block) -> Self {
        // Version, codec, hash and digest length: each a varint of one byte for the CIDs we use.
        let codec = if block.cid().codec() == Codec::Raw.code() {
            RAW
        } else {
            DAG_CBOR
        };
        Self {
            prefix: vec![1, codec, SHA2_256, 32],
            data: block.bytes().clone(),
        }
    }

    /// The codec, when the CID is of a kind that we use.
    pub(crate) fn codec(&self) -> Option<Codec> {
        match self.prefix.as_slice() {
            [1, RAW, SHA2_256, 32] => Some(Codec::Raw),
            [1, DAG_CBOR, SHA2_256, 32] => Some(Codec::DagCbor),
            _ => None,
        }
    }
}

impl Presence {
    pub(crate) fn new(cid: &Cid, presence_type: PresenceType) -> Self {
        Self {
            cid: cid.to_bytes().into(),
            presence_type: presence_type.into(),
        }
    }
}

const RAW: u8 = 0x55;
const DAG_CBOR: u8 = 0x71;
const SHA2_256: u8 = 0x12;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    #[test]
    fn want_have_is_encoded_as_the_specification_says() {
        let message = Message {
            wantlist: Some(Wantlist {
                entries: vec![Entry {
                    block: vec![1, 0x55].into(),
                    priority: 7,
                    cancel: false,
                    want_type: WantType::Have.into(),
                    send_dont_have: true,
                }],
                full: true,
            }),
            ..Message::default()
        };
        let expected = "0a0e" // field 1: wantlist
            .to_owned()
            + "0a0a" // field 1: entry
            + "0a020155" // block
            + "1007" // priority
            + "2001" // want have
            + "2801" // send DONT_HAVE
            + "1001"; // full
        assert_eq!(hex::encode(message.encode_to_vec()), expected);
    }

    #[test]
    fn block_and_presence_are_encoded_as_the_specification_says() {
        let block = medanchor_dag::Block::new(Codec::Raw, &b"hi"[..]).unwrap();
        let message = Message {
            payload: vec![Payload::new(&block)],
            presences: vec![Presence {
                cid: vec![9].into(),
                presence_type: PresenceType::DontHave.into(),
            }],
            ..Message::default()
        };
        assert_eq!(
            hex::encode(message.encode_to_vec()),
            "1a0a0a04015512201202686922050a01091001"
        );
        assert_eq!(message.payload[0].codec(), Some(Codec::Raw));
    }

    #[test]
    fn prefix_of_another_kind_of_cid_has_no_codec() {
        for prefix in [
            &[][..],
            &[0x12, 0x20],
            &[1, 0x70, 0x12, 32],
            &[1, 0x55, 0x12, 20],
        ] {
            let payload = Payload {
                prefix: prefix.to_vec(),
                data: Bytes::new(),
            };
            assert_eq!(payload.codec(), None);
        }
    }

    proptest! {
        #[test]
        fn decode_of_any_bytes_does_not_panic(bytes: Vec<u8>) {
            let _ = Message::decode(bytes.as_slice());
        }

        #[test]
        fn message_is_read_back(
            entries: Vec<(Vec<u8>, i32, bool, bool, bool)>,
            full: bool,
            payload: Vec<(Vec<u8>, Vec<u8>)>,
            presences: Vec<(Vec<u8>, bool)>,
            pending_bytes: i32,
        ) {
            let message = Message {
                wantlist: Some(Wantlist {
                    entries: entries
                        .into_iter()
                        .map(|(block, priority, cancel, have, send_dont_have)| Entry {
                            block: block.into(),
                            priority,
                            cancel,
                            want_type: i32::from(have),
                            send_dont_have,
                        })
                        .collect(),
                    full,
                }),
                payload: payload
                    .into_iter()
                    .map(|(prefix, data)| Payload { prefix, data: data.into() })
                    .collect(),
                presences: presences
                    .into_iter()
                    .map(|(cid, absent)| Presence { cid: cid.into(), presence_type: i32::from(absent) })
                    .collect(),
                pending_bytes,
            };
            prop_assert_eq!(Message::decode(message.encode_to_vec().as_slice()).unwrap(), message);
        }
    }
}
