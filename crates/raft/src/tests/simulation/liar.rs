use super::trace::{Fault, Trace};
use super::world::node_key;
use crate::NodeId;
use crate::codec::{entry_from_pb, entry_to_pb};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use medanchor_anchor::{Batch, SignedBatchHead};
use medanchor_api::pb::raft as pb;
use medanchor_dag::Hash;
use openraft::EntryPayload;
use prost::Message;
use std::collections::BTreeSet;

/// A node that, as a leader, tells one other node something else than the rest, and signs that, too.
pub(crate) struct Liar {
    pub(crate) node_id: NodeId,
    pub(crate) victim: NodeId,
    /// The terms and indices of the entries that it lies about.
    pub(crate) lies: BTreeSet<(u64, u64)>,
    pub(crate) most_lies: usize,
}

impl Liar {
    /// What the victim is told instead of `body`.
    pub(crate) fn tell(
        &mut self,
        from: NodeId,
        to: NodeId,
        path: &str,
        body: Bytes,
        trace: &Trace,
    ) -> Bytes {
        if (from, to) != (self.node_id, self.victim) || !path.ends_with("/AppendEntries") {
            return body;
        }
        // A gRPC message: not compressed, its length, itself.
        let mut framed = body.clone();
        framed.advance(5);
        let mut request = pb::AppendEntriesRequest::decode(framed).unwrap();
        let mut lied = false;
        for entry in &mut request.entries {
            if let Some(forged) = self.forge(entry) {
                trace.fault(Fault::Lie, &format!("{from}>{to}"));
                *entry = forged;
                lied = true;
            }
        }
        if !lied {
            return body;
        }
        let message = request.encode_to_vec();
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap());
        framed.put_slice(&message);
        framed.freeze()
    }

    /// The same statements under other salts: another tree, and nothing else shows it. The same each time.
    fn forge(&mut self, entry: &pb::Entry) -> Option<pb::Entry> {
        let mut entry = entry_from_pb(entry.clone()).ok()?;
        let place = (entry.log_id.leader_id.term, entry.log_id.index);
        if entry.log_id.leader_id.node_id != self.node_id {
            return None;
        }
        let EntryPayload::Normal(proposal) = &mut entry.payload else {
            return None;
        };
        if !self.lies.contains(&place) && self.lies.len() >= self.most_lies {
            return None;
        }
        let mut batch = Batch::from_bytes(&proposal.batch).ok()?;
        for said in &mut batch.entries {
            said.salt = *Hash::of(&said.salt).as_bytes();
        }
        let bytes = batch.to_bytes();
        let mut head = SignedBatchHead::verify(proposal.head.as_ref()?).ok()?.head;
        head.batch = Hash::of(&bytes);
        proposal.batch = bytes.into();
        proposal.head = Some(head.sign(&node_key(self.node_id)).to_bytes().into());
        self.lies.insert(place);
        Some(entry_to_pb(&entry))
    }
}
