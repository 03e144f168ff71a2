use medanchor_anchor::SignedStatement;
use medanchor_api::{Client, ClientError, Submitted};
use medanchor_dag::{Block, Cid, Record};
use std::time::Duration;
use tokio::time::Instant;

/// Some blocks of a large record, spread over it: how many of them the nodes hold tells whether its holders get on.
///
/// A record of many GB is anchored when nodes have fetched all of it, which takes as long as it takes. So nobody
/// waits for it by the clock: a submission that is not answered in time is made again, to the same node, as
/// long as the nodes' blocks grow in number.
#[derive(Debug)]
pub(crate) struct Sample {
    size_bytes: u64,
    /// One in this many is taken.
    step: u64,
    seen: u64,
    cids: Vec<Cid>,
}

impl Sample {
    /// Nothing yet of this record.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            size_bytes: record.size_bytes(),
            step: record.chunk_count().div_ceil(MAX_CIDS),
            seen: 0,
            cids: Vec::new(),
        }
    }

    /// Takes some of these, which come in order. What comes a second time changes nothing.
    pub(crate) fn see(&mut self, blocks: &[Block]) {
        if self.size_bytes < LARGE_BYTES {
            return;
        }
        for block in blocks {
            let is_one = self.seen.checked_rem(self.step) == Some(0);
            self.seen += 1;
            if is_one && !self.cids.contains(block.cid()) {
                self.cids.push(*block.cid());
            }
        }
    }

    /// Submits the statement of a large record to the node that has its blocks, again and again while the nodes get
    /// on. `None`: it is not large, or they do not.
    pub(crate) async fn submit(
        &self,
        client: &Client,
        signed: &SignedStatement,
    ) -> Option<Submitted> {
        if self.cids.is_empty() {
            return None;
        }
        let (node, began) = (client.nearest(), Instant::now());
        let mut held = Held::new(self.patience());
        loop {
            match node.submit(signed, None).await {
                Ok(submitted) => return Some(submitted),
                Err(ClientError::Unavailable { last, .. }) if last.code == "timed-out" => {
                    let now = self.held(client).await;
                    if !held.grows(now, began.elapsed()) {
                        return None;
                    }
                }
                // All nodes are asked then: one of them says it again, or does better.
                Err(_) => return None,
            }
        }
    }

    /// How many of the blocks the nodes have, each its own copies.
    async fn held(&self, client: &Client) -> usize {
        let names: Vec<&str> = client.node_names().collect();
        let nodes = names.into_iter().filter_map(|name| client.only(name));
        let asked = nodes.map(async |node| match node.has(&self.cids).await {
            Ok(held) => held.iter().filter(|&&held| held).count(),
            Err(_) => 0,
        });
        futures::future::join_all(asked).await.into_iter().sum()
    }

    /// A node reads the whole record before others fetch it from there, and nobody sees how far that is.
    fn patience(&self) -> Duration {
        STALLED_AFTER + Duration::from_secs(self.size_bytes / READ_BYTES_PER_SECOND)
    }
}

/// The most that was held so far, and since when. Times are since it began.
struct Held {
    most: usize,
    since: Duration,
    patience: Duration,
}

impl Held {
    fn new(patience: Duration) -> Self {
        Self {
            most: 0,
            since: Duration::ZERO,
            patience,
        }
    }

    /// Whether more is held now than ever, or was a short time ago.
    fn grows(&mut self, held: usize, now: Duration) -> bool {
        if held > self.most {
            self.most = held;
            self.since = now;
        }
        now.saturating_sub(self.since) < self.patience
    }
}

/// Smaller records are held within the time of one call.
const LARGE_BYTES: u64 = 4 << 20;
const MAX_CIDS: u64 = 1024;
/// Nodes whose blocks do not grow in number for this long are not getting on.
const STALLED_AFTER: Duration = Duration::from_secs(120);
const READ_BYTES_PER_SECOND: u64 = 50_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::Codec;

    fn sample(size_bytes: u64, step: u64) -> Sample {
        Sample {
            size_bytes,
            step,
            seen: 0,
            cids: Vec::new(),
        }
    }

    #[test]
    fn sample_is_spread_over_a_large_record_and_empty_of_a_small_one() {
        let blocks: Vec<Block> = (0..20)
            .map(|seed| Block::new(Codec::Raw, vec![seed; 9]).unwrap())
            .collect();
        let mut large = sample(LARGE_BYTES, 7);
        let (first, rest) = blocks.split_at(5);
        large.see(first);
        large.see(rest);
        let cids = [0, 7, 14].map(|index: usize| *blocks[index].cid());
        assert_eq!(large.cids, cids);
        let mut small = sample(LARGE_BYTES - 1, 1);
        small.see(&blocks);
        assert!(small.cids.is_empty());
    }

    #[test]
    fn nodes_get_on_while_they_hold_more_than_ever() {
        let mut held = Held::new(STALLED_AFTER);
        let half = STALLED_AFTER / 2;
        assert!(held.grows(0, Duration::ZERO), "nothing is held at first");
        for now in 1..20 {
            let held_now = usize::try_from(now).unwrap();
            assert!(held.grows(held_now, half * now));
        }
        assert!(
            held.grows(3, half * 20),
            "a node is gone, and there is still time"
        );
        assert!(!held.grows(19, half * 21));
        assert!(held.grows(20, half * 22));
    }
}
