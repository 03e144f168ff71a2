use super::*;
use crate::{
    PeerAddress, PeerKey, SwarmKey, frame,
    message::{Message, Payload},
    testing::{FlakyStore, Proxy, dag, node, raw},
};
use futures::{AsyncWriteExt, TryStreamExt};
use medanchor_dag::{MemoryStore, StoreError};
use std::{collections::BTreeSet, time::Duration};

const SWARM_KEY: u8 = 7;

/// A peer to be: its number makes its key.
pub(super) struct Plan {
    number: u8,
    swarm_key: u8,
    listen: String,
    pub(super) peers: Vec<PeerAddress>,
    pub(super) timing: Timing,
}

impl Plan {
    pub(super) fn new(number: u8) -> Self {
        Self {
            number,
            swarm_key: SWARM_KEY,
            listen: "/ip4/127.0.0.1/tcp/0".into(),
            peers: Vec::new(),
            timing: Timing {
                connect: Duration::from_secs(5),
                first_redial: Duration::from_millis(20),
                ..Timing::default()
            },
        }
    }

    pub(super) fn admits(mut self, numbers: &[u8]) -> Self {
        self.peers.extend(numbers.iter().map(|number| PeerAddress {
            peer_id: id(*number),
            address: None,
        }));
        self
    }

    pub(super) fn dials(mut self, number: u8, peer: &Peer) -> Self {
        self.peers.push(PeerAddress {
            peer_id: id(number),
            address: Some(peer.listen_addresses()[0].clone()),
        });
        self
    }

    pub(super) async fn start(self, store: Arc<dyn BlockStore>) -> Peer {
        self.try_start(store).await.unwrap()
    }

    async fn try_start(self, store: Arc<dyn BlockStore>) -> Result<Peer, PeerError> {
        let digits = hex::encode([self.swarm_key; 32]);
        let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{digits}\n");
        let config = PeerConfig {
            key: PeerKey::from_seed(&[self.number; 32]),
            swarm_key: SwarmKey::parse(&text).unwrap(),
            listen: vec![self.listen],
            peers: self.peers,
        };
        Peer::start_with(config, store, self.timing).await
    }
}

pub(super) fn id(number: u8) -> String {
    PeerKey::from_seed(&[number; 32]).peer_id()
}

pub(super) fn store_of(blocks: &[Block]) -> Arc<FlakyStore> {
    Arc::new(FlakyStore::with(blocks))
}

fn holds(store: &MemoryStore, blocks: &[Block]) -> bool {
    let whole = |block: &Block| store.block(block.cid()).unwrap().as_ref() == Some(block);
    blocks.iter().all(whole)
}

pub(super) fn size(blocks: &[Block]) -> Fetched {
    Fetched {
        blocks: blocks.len() as u64,
        bytes: blocks.iter().map(|block| block.bytes().len() as u64).sum(),
    }
}

/// One provider (number 1) and one fetcher (number 9) that dials it.
async fn pair(provided: Arc<dyn BlockStore>, own: Arc<dyn BlockStore>) -> (Peer, Peer) {
    let provider = Plan::new(1).admits(&[9]).start(provided).await;
    let fetcher = Plan::new(9).dials(1, &provider).start(own).await;
    (provider, fetcher)
}

/// Two providers (1 and 2) and one fetcher (9) that dials both.
async fn trio(
    first: Arc<dyn BlockStore>,
    second: Arc<dyn BlockStore>,
) -> (Peer, Peer, Peer, Arc<MemoryStore>) {
    let first = Plan::new(1).admits(&[9]).start(first).await;
    let second = Plan::new(2).admits(&[9]).start(second).await;
    let own = Arc::new(MemoryStore::default());
    let plan = Plan::new(9).dials(1, &first).dials(2, &second);
    let fetcher = plan.start(Arc::clone(&own) as _).await;
    (first, second, fetcher, own)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dags_of_small_and_of_large_blocks_are_fetched_whole() {
    for blocks in [dag(2000, 4 << 10), dag(64, 1 << 20)] {
        let own = Arc::new(MemoryStore::default());
        let (_provider, fetcher) = pair(store_of(&blocks), Arc::clone(&own) as _).await;
        let root = *blocks[0].cid();
        let fetched = fetcher.fetch_dag(&[root], None).await.unwrap();
        assert_eq!(fetched, size(&blocks));
        assert!(holds(&own, &blocks));
        let again = fetcher.fetch_dag(&[root], None).await.unwrap();
        assert_eq!(again, Fetched::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dag_is_fetched_no_faster_than_asked_for() {
    let blocks = dag(20, 4 << 10);
    let own = Arc::new(MemoryStore::default());
    let (_provider, fetcher) = pair(store_of(&blocks), Arc::clone(&own) as _).await;
    let bytes = size(&blocks).bytes;
    let began = Instant::now();
    let root = *blocks[0].cid();
    let fetched = fetcher.fetch_dag_at(&[root], 2 * bytes).await.unwrap();
    // It may take longer on a slow machine, and on none less.
    assert!(began.elapsed() >= Duration::from_millis(499));
    assert_eq!(fetched, size(&blocks));
    assert!(holds(&own, &blocks));
    // What is here already takes no time.
    let again = fetcher.fetch_dag_at(&[root], 1).await.unwrap();
    assert_eq!(again, Fetched::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dags_are_fetched_from_two_providers() {
    for blocks in [dag(2000, 4 << 10), dag(64, 1 << 20)] {
        let stores = [store_of(&blocks), store_of(&blocks)];
        let (_first, _second, fetcher, own) =
            trio(Arc::clone(&stores[0]) as _, Arc::clone(&stores[1]) as _).await;
        let fetched = fetcher.fetch_dag(&[*blocks[0].cid()], None).await.unwrap();
        assert_eq!(fetched, size(&blocks));
        assert!(holds(&own, &blocks));
        assert_eq!(fetcher.connected().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_that_lack_blocks_complete_each_other() {
    let blocks = dag(300, 4 << 10);
    // Both have the root and some leaves; of the others each has every second.
    let part = |keep: usize| -> Vec<Block> {
        let kept = blocks
            .iter()
            .enumerate()
            .filter(|(i, _)| *i < 10 || i % 2 == keep);
        kept.map(|(_, block)| block.clone()).collect()
    };
    let (_first, _second, fetcher, own) = trio(store_of(&part(0)), store_of(&part(1))).await;
    let root = *blocks[0].cid();
    let hint = id(2);
    assert_eq!(
        fetcher.fetch_dag(&[root], Some(&hint)).await.unwrap(),
        size(&blocks)
    );
    assert!(holds(&own, &blocks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_that_dies_midway_is_replaced_by_the_other() {
    let blocks = dag(64, 256 << 10);
    let stores = [store_of(&blocks), store_of(&blocks)];
    let (first, _second, fetcher, own) =
        trio(Arc::clone(&stores[0]) as _, Arc::clone(&stores[1]) as _).await;
    stores[0].freeze_after(5);
    let fetching = async {
        let hint = id(1);
        fetcher.fetch_dag(&[*blocks[0].cid()], Some(&hint)).await
    };
    let dying = async {
        stores[0].frozen().await;
        stores[0].thaw();
        first.shutdown().await;
    };
    let (fetched, ()) = tokio::join!(fetching, dying);
    assert_eq!(fetched.unwrap(), size(&blocks));
    assert!(holds(&own, &blocks));
    assert_eq!(fetcher.connected(), [id(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_that_freezes_is_passed_over() {
    let blocks = dag(400, 4 << 10);
    let stores = [store_of(&blocks), store_of(&blocks)];
    stores[0].freeze_after(100);
    let first = Plan::new(1)
        .admits(&[9])
        .start(Arc::clone(&stores[0]) as _)
        .await;
    let second = Plan::new(2)
        .admits(&[9])
        .start(Arc::clone(&stores[1]) as _)
        .await;
    let mut plan = Plan::new(9).dials(1, &first).dials(2, &second);
    plan.timing.silence = Duration::from_secs(1);
    let fetcher = plan.start(Arc::new(MemoryStore::default())).await;
    let hint = id(1);
    let fetched = fetcher.fetch_dag(&[*blocks[0].cid()], Some(&hint)).await;
    stores[0].thaw();
    assert_eq!(fetched.unwrap(), size(&blocks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_that_nobody_has_is_not_found() {
    let (_first, _second, fetcher, _) = trio(store_of(&[]), store_of(&[])).await;
    let absent = *raw(1, 10).cid();
    assert!(matches!(
        fetcher.fetch(&absent).await,
        Err(SourceError::NotFound(cid)) if cid == absent
    ));
    let blocks = dag(5, 100);
    assert!(matches!(
        fetcher.fetch_dag(&[*blocks[0].cid()], None).await,
        Err(FetchError::Block(SourceError::NotFound(_)))
    ));
}

/// What a block that could not be had says of the peers.
fn cause(fetched: Result<Block, SourceError>) -> String {
    match fetched {
        Err(SourceError::Unavailable { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn block_that_an_unreachable_peer_may_have_is_not_called_absent() {
    let present = Plan::new(1).admits(&[9]).start(store_of(&[])).await;
    let gone = Plan::new(2).start(store_of(&[])).await;
    let plan = Plan::new(9).dials(1, &present).dials(2, &gone);
    gone.shutdown().await;
    let fetcher = plan.start(store_of(&[])).await;
    let absent = *raw(1, 10).cid();
    // The second time nobody is dialled any more.
    for _ in 0..2 {
        let cause = cause(fetcher.fetch(&absent).await);
        assert!(cause.contains(&id(2)), "{cause}");
        assert!(!cause.contains(&id(1)), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_stops_answering_is_given_up_named_and_connected_again() {
    let block = raw(1, 10);
    let provider = Plan::new(1)
        .admits(&[9])
        .start(store_of(std::slice::from_ref(&block)))
        .await;
    let proxy = Proxy::to(&provider.listen_addresses()[0], Duration::ZERO).await;
    let mut plan = Plan::new(9);
    plan.peers.push(PeerAddress {
        peer_id: id(1),
        address: Some(proxy.address.clone()),
    });
    plan.timing.ping = Duration::from_millis(50);
    plan.timing.dead = Duration::from_secs(2);
    let fetcher = plan.start(store_of(&[])).await;
    assert!(fetcher.fetch(block.cid()).await.is_ok());
    proxy.cut();
    // The block may be there, but nobody can say so: the connection still looks well.
    let cause = cause(fetcher.fetch(raw(2, 10).cid()).await);
    assert!(cause.contains(&id(1)), "{cause}");
    assert!(fetcher.connected().is_empty());
    proxy.mend();
    while fetcher.fetch(block.cid()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_whose_pings_wait_behind_its_blocks_is_not_given_up() {
    let blocks = dag(16, 1 << 20);
    let provider = Plan::new(1).admits(&[9]).start(store_of(&blocks)).await;
    let proxy = Proxy::to(&provider.listen_addresses()[0], Duration::from_millis(4)).await;
    let mut plan = Plan::new(9);
    plan.peers.push(PeerAddress {
        peer_id: id(1),
        address: Some(proxy.address.clone()),
    });
    plan.timing.ping = Duration::from_millis(50);
    plan.timing.dead = Duration::from_millis(300);
    let fetcher = plan.start(store_of(&[])).await;
    assert!(fetcher.fetch(blocks[1].cid()).await.is_ok());
    let peer = id(1).parse().unwrap();
    let link = fetcher.finder.exchange.link(&peer).unwrap().id;
    let fetched = fetcher.fetch_dag(&[*blocks[0].cid()], None).await.unwrap();
    assert_eq!(fetched, size(&blocks));
    assert_eq!(fetcher.finder.exchange.link(&peer).unwrap().id, link);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dag_with_a_missing_leaf_is_an_error() {
    let blocks = dag(20, 1000);
    let (_provider, fetcher) =
        pair(store_of(&blocks[..20]), Arc::new(MemoryStore::default())).await;
    assert!(matches!(
        fetcher.fetch_dag(&[*blocks[0].cid()], None).await,
        Err(FetchError::Block(SourceError::NotFound(cid))) if cid == *blocks[20].cid()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_local_block_is_repaired_when_it_is_fetched() {
    let blocks = dag(10, 1000);
    let own = store_of(&blocks);
    own.corrupt(blocks[3].cid());
    let (_provider, fetcher) = pair(store_of(&blocks), Arc::clone(&own) as _).await;
    assert_eq!(fetcher.fetch(blocks[3].cid()).await.unwrap(), blocks[3]);
    assert_eq!(fetcher.repaired(), 1);
    assert_eq!(
        own.block(blocks[3].cid()).unwrap().as_ref(),
        Some(&blocks[3])
    );

    own.corrupt(blocks[0].cid());
    own.quarantine(blocks[7].cid());
    let fetched = fetcher.fetch_dag(&[*blocks[0].cid()], None).await.unwrap();
    assert_eq!(fetched, Fetched::default());
    assert_eq!(fetcher.repaired(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_block_is_repaired_when_another_peer_asks_for_it() {
    let block = raw(1, 1000);
    let damaged = store_of(std::slice::from_ref(&block));
    damaged.corrupt(block.cid());
    let good = Plan::new(1)
        .admits(&[2, 9])
        .start(store_of(std::slice::from_ref(&block)))
        .await;
    let bad = Plan::new(2)
        .admits(&[9])
        .dials(1, &good)
        .start(Arc::clone(&damaged) as _)
        .await;
    let asking = Plan::new(9)
        .dials(2, &bad)
        .start(Arc::new(MemoryStore::default()))
        .await;
    // It says that it does not have the block, and has it again a moment later.
    loop {
        match asking.fetch(block.cid()).await {
            Ok(fetched) => break assert_eq!(fetched, block),
            Err(error) => assert!(matches!(error, SourceError::NotFound(_))),
        }
    }
    // It is counted just after it can be read again.
    while bad.repaired() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((bad.repaired(), good.repaired()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_fetches_of_one_block_all_succeed() {
    let block = raw(1, 100_000);
    let (_provider, fetcher) = pair(
        store_of(std::slice::from_ref(&block)),
        Arc::new(MemoryStore::default()),
    )
    .await;
    let cid = *block.cid();
    let fetched: Vec<Block> = fetcher
        .fetch_from(vec![cid; 200], None)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(fetched, vec![block; 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_fetch_does_not_disturb_the_next() {
    let blocks = dag(40, 10_000);
    let store = store_of(&blocks);
    let (_provider, fetcher) =
        pair(Arc::clone(&store) as _, Arc::new(MemoryStore::default())).await;
    let cids: BTreeSet<Cid> = blocks.iter().map(|block| *block.cid()).collect();
    store.freeze_after(0);
    {
        let mut abandoned = fetcher.fetch_from(cids.iter().copied().collect(), None);
        tokio::select! {
            _ = abandoned.next() => panic!("nothing can come"),
            () = store.frozen() => {}
        }
    }
    store.thaw();
    let fetched: Vec<Block> = fetcher
        .fetch_from(cids.iter().copied().collect(), None)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(
        fetched
            .iter()
            .map(|block| *block.cid())
            .collect::<BTreeSet<_>>(),
        cids
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_swarm_key_is_named_as_the_probable_cause() {
    let provider = Plan::new(1).admits(&[9]).start(store_of(&[])).await;
    let mut plan = Plan::new(9).dials(1, &provider);
    plan.swarm_key = SWARM_KEY + 1;
    plan.timing.connect = Duration::from_secs(2);
    let fetcher = plan.start(store_of(&[])).await;
    let error = fetcher.fetch(raw(1, 10).cid()).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains("the swarm keys of the two nodes probably differ"),
        "{cause}"
    );
    assert_eq!(fetcher.unreachable(), [(id(1), DialFailure::Handshake)]);
    assert!(provider.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_is_not_on_the_allow_list_is_refused() {
    let block = raw(1, 10);
    let provider = Plan::new(1)
        .admits(&[2])
        .start(store_of(std::slice::from_ref(&block)))
        .await;
    let stranger = Plan::new(9).dials(1, &provider).start(store_of(&[])).await;
    let error = stranger.fetch(block.cid()).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("not on its allow-list"), "{cause}");
    assert!(provider.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_and_another_peer_there_are_told_apart() {
    let provider = Plan::new(1).admits(&[9]).start(store_of(&[])).await;
    let gone = Plan::new(2).start(store_of(&[])).await;
    let plan = Plan::new(9).dials(3, &provider).dials(2, &gone);
    gone.shutdown().await;
    let fetcher = plan.start(store_of(&[])).await;
    assert!(fetcher.fetch(raw(1, 10).cid()).await.is_err());
    let failures: Vec<DialFailure> = fetcher
        .unreachable()
        .into_iter()
        .map(|(_, why)| why)
        .collect();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(failures.contains(&DialFailure::Unreachable), "{failures:?}");
    assert!(failures.contains(&DialFailure::OtherPeer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_refuses_a_port_that_is_taken_and_addresses_of_other_transports() {
    let first = Plan::new(1).start(store_of(&[])).await;
    let mut second = Plan::new(2);
    second.listen.clone_from(&first.listen_addresses()[0]);
    assert!(matches!(
        second.try_start(store_of(&[])).await,
        Err(PeerError::Listen { .. })
    ));
    let mut quic = Plan::new(2);
    quic.listen = "/ip4/127.0.0.1/udp/0/quic-v1".into();
    assert!(matches!(
        quic.try_start(store_of(&[])).await,
        Err(PeerError::Address(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_comes_back_is_dialled_again() {
    let block = raw(1, 10);
    let store = store_of(std::slice::from_ref(&block));
    let provider = Plan::new(1)
        .admits(&[9])
        .start(Arc::clone(&store) as _)
        .await;
    let mut plan = Plan::new(9).dials(1, &provider);
    plan.timing.settled = Duration::ZERO;
    let fetcher = plan.start(store_of(&[])).await;
    assert!(fetcher.fetch(block.cid()).await.is_ok());
    let mut again = Plan::new(1).admits(&[9]);
    again.listen.clone_from(&provider.listen_addresses()[0]);
    provider.shutdown().await;
    let _provider = again.start(store).await;
    loop {
        match fetcher.fetch(block.cid()).await {
            Ok(fetched) => break assert_eq!(fetched, block),
            Err(error) => assert!(matches!(error, SourceError::Unavailable { .. })),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_dial_each_other_both_fetch() {
    let blocks = [raw(1, 50_000), raw(2, 50_000)];
    let [first_store, second_store] = [&blocks[..1], &blocks[1..]].map(store_of);
    // The second's address must be known before it is there.
    let reserved = Plan::new(2).start(store_of(&[])).await;
    let mut second = Plan::new(2);
    second.listen.clone_from(&reserved.listen_addresses()[0]);
    let first = Plan::new(1).dials(2, &reserved);
    reserved.shutdown().await;
    let first = first.start(first_store).await;
    let second = second.dials(1, &first).start(second_store).await;
    assert_eq!(second.fetch(blocks[0].cid()).await.unwrap(), blocks[0]);
    assert_eq!(first.fetch(blocks[1].cid()).await.unwrap(), blocks[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_a_fetch_that_waits_for_a_connection() {
    // It takes connections and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut plan = Plan::new(9);
    plan.timing.connect = Duration::from_secs(3600);
    plan.peers.push(PeerAddress {
        peer_id: id(1),
        address: Some(format!(
            "/ip4/127.0.0.1/tcp/{}",
            mute.local_addr().unwrap().port()
        )),
    });
    let fetcher = plan.start(store_of(&[])).await;
    let absent = *raw(1, 10).cid();
    let stopping = async {
        while fetcher.finder.exchange.wanted() == 0 {
            tokio::task::yield_now().await;
        }
        fetcher.shutdown().await;
    };
    let (fetched, ()) = tokio::join!(fetcher.fetch(&absent), stopping);
    assert!(matches!(fetched, Err(SourceError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_blocks_and_messages_do_not_end_the_connection() {
    let block = raw(1, 100);
    let (provider, fetcher) = pair(store_of(std::slice::from_ref(&block)), store_of(&[])).await;
    assert!(fetcher.fetch(block.cid()).await.is_ok());
    let peer = id(1).parse().unwrap();
    let link = fetcher.finder.exchange.link(&peer).unwrap().id;

    let two_mebibytes = Message {
        payload: vec![Payload {
            prefix: vec![1, 0x55, 0x12, 32],
            data: vec![7; 2 << 20].into(),
        }],
        ..Message::default()
    };
    let mut open = provider.parts.open(id(9).parse().unwrap());
    for bytes in [
        frame::encode(&two_mebibytes),
        vec![0xff; 10],
        vec![2, 0xff, 0xff],
    ] {
        let mut stream = open().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.close().await.unwrap();
    }
    for _ in 0..20 {
        assert!(fetcher.fetch(block.cid()).await.is_ok());
    }
    assert_eq!(fetcher.finder.exchange.link(&peer).unwrap().id, link);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_lose_no_block() {
    let blocks: Vec<Block> = (0..64).map(|number| raw(number, 50_000)).collect();
    let store = store_of(&blocks);
    let (provider, fetcher) = pair(Arc::clone(&store) as _, store_of(&[])).await;
    // The provider's own answers are held up; the blocks come as Kubo sends them, a stream for each.
    store.freeze_after(0);
    let fetches = blocks.iter().map(|block| fetcher.fetch(block.cid()));
    let fetching = futures::future::try_join_all(fetches);
    let sending = async {
        store.frozen().await;
        while fetcher.finder.exchange.wanted() < blocks.len() {
            tokio::task::yield_now().await;
        }
        let sends = blocks.iter().map(|block| {
            let mut open = provider.parts.open(id(9).parse().unwrap());
            async move {
                let payload = vec![Payload::new(block)];
                let message = Message {
                    payload,
                    ..Message::default()
                };
                let mut stream = open().await.unwrap();
                stream.write_all(&frame::encode(&message)).await.unwrap();
                stream.close().await.unwrap();
            }
        });
        futures::future::join_all(sends).await;
    };
    let (fetched, _) = tokio::join!(fetching, sending);
    store.thaw();
    assert_eq!(fetched.unwrap().len(), blocks.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_subtrees_are_fetched_once() {
    let leaf = raw(1, 100);
    let index = node(std::slice::from_ref(&leaf));
    let root = node(&[index.clone(), leaf.clone(), index.clone()]);
    let blocks = [root, index, leaf];
    let own = Arc::new(MemoryStore::default());
    let (_provider, fetcher) = pair(store_of(&blocks), Arc::clone(&own) as _).await;
    let roots = [*blocks[0].cid(), *blocks[1].cid()];
    assert_eq!(
        fetcher.fetch_dag(&roots, None).await.unwrap(),
        size(&blocks)
    );
    assert!(holds(&own, &blocks));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_that_is_alone_lacks_is_not_found_and_what_it_has_is_read() {
    let block = raw(1, 10);
    let alone = Plan::new(1)
        .start(store_of(std::slice::from_ref(&block)))
        .await;
    assert_eq!(alone.fetch(block.cid()).await.unwrap(), block);
    assert!(matches!(
        alone.fetch(raw(2, 10).cid()).await,
        Err(SourceError::NotFound(_))
    ));
    let sha1 = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        .parse()
        .unwrap();
    assert!(alone.fetch(&sha1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_says_when_the_store_cannot_keep_what_came() {
    let blocks = dag(10, 100);
    let own = store_of(&[]);
    own.fill_up();
    let (_provider, fetcher) = pair(store_of(&blocks), own).await;
    assert!(matches!(
        fetcher.fetch_dag(&[*blocks[0].cid()], None).await,
        Err(FetchError::Block(SourceError::Store(StoreError::Full(_))))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_fills_up_midway_ends_the_fetch_and_what_it_kept_is_not_fetched_again() {
    // More than two groups: one is kept while the rest is under way.
    let blocks = dag(40, 1 << 20);
    let own = store_of(&[]);
    let (provider_store, root) = (store_of(&blocks), *blocks[0].cid());
    let (_provider, fetcher) = pair(Arc::clone(&provider_store) as _, Arc::clone(&own) as _).await;
    own.fill_up_after(1);
    assert!(matches!(
        fetcher.fetch_dag(&[root], None).await,
        Err(FetchError::Block(SourceError::Store(StoreError::Full(_))))
    ));
    own.make_room();
    let fetched = fetcher.fetch_dag(&[root], None).await.unwrap();
    assert!(fetched.blocks < blocks.len() as u64, "{fetched:?}");
    assert!(blocks.iter().all(|block| own.has(block.cid()).unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_of_a_dag_that_is_given_up_leaves_the_rest_to_the_next() {
    let blocks = dag(40, 1 << 20);
    let (provided, own) = (store_of(&blocks), store_of(&[]));
    let root = *blocks[0].cid();
    let (_provider, fetcher) = pair(Arc::clone(&provided) as _, Arc::clone(&own) as _).await;
    provided.freeze_after(20);
    let roots = [root];
    tokio::select! {
        _ = fetcher.fetch_dag(&roots, None) => panic!("half of it cannot come"),
        () = provided.frozen() => {}
    }
    provided.thaw();
    fetcher.fetch_dag(&roots, None).await.unwrap();
    assert!(blocks.iter().all(|block| own.has(block.cid()).unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allow_list_that_is_replaced_lets_in_the_new_and_cuts_off_the_old() {
    let blocks = dag(8, 4 << 10);
    let root = *blocks[0].cid();
    let provider = Plan::new(1).start(store_of(&blocks)).await;
    let own = Arc::new(MemoryStore::default());
    let fetcher = Plan::new(9).start(Arc::clone(&own) as _).await;
    let listed = |number, peer: &Peer| PeerAddress {
        peer_id: id(number),
        address: Some(peer.listen_addresses()[0].clone()),
    };
    provider.allow(&[listed(9, &fetcher)]).await.unwrap();
    fetcher.allow(&[listed(1, &provider)]).await.unwrap();
    let fetched = fetcher.fetch_dag(&[root], None).await.unwrap();
    assert_eq!(fetched, size(&blocks));

    let malformed = PeerAddress {
        peer_id: "no peer".into(),
        address: None,
    };
    assert!(provider.allow(&[malformed]).await.is_err());
    assert_eq!(provider.connected(), [id(9)]);

    provider.allow(&[]).await.unwrap();
    while !provider.connected().is_empty() || !fetcher.connected().is_empty() {
        tokio::task::yield_now().await;
    }
    // It dials on, and is refused.
    let more = raw(7777, 64);
    let refused = fetcher.fetch_dag(&[*more.cid()], None).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(provider.connected(), [""; 0]);
}
