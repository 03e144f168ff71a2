//! The client against servers that fail: it goes on to the next node, and believes no answer unseen.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use medanchor_anchor::{Body, Standing, Statement, Strength};
use medanchor_api::{
    Asked, Client, ClientConfig, ClientError, Get, LeafName, MAX_MESSAGE_BYTES, Missing,
    NodeAddress, NodesSource, Note, has_cids, overloaded,
    pb::block::{
        GetRequest, GetResponse, HasRequest, HasResponse, PutRequest, PutResponse,
        block_service_server::{BlockService, BlockServiceServer},
    },
    status,
};
use medanchor_dag::{Block, BlockSource, Codec, CustodyId, SigningKey, SourceError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

#[tokio::test]
async fn call_goes_on_to_the_next_node_and_stays_there() {
    let good = Node::start("good", Behaviour::Serve).await;
    let client = client(&[&Node::unreachable("gone"), &good]);
    let block = block(1);
    let stored = client.put(stream::iter([block.clone()])).await.unwrap();
    assert_eq!((stored.blocks, stored.size_bytes), (1, 4));
    assert_eq!(client.has(&[*block.cid()]).await.unwrap(), [true]);
    assert_eq!(good.calls(), 2);
}

#[tokio::test]
async fn overloaded_node_is_left_for_another() {
    let busy = Node::start("busy", Behaviour::Answer(Code::ResourceExhausted)).await;
    let good = Node::start("good", Behaviour::Serve).await;
    let client = client(&[&busy, &good]);
    assert_eq!(client.has(&[*block(1).cid()]).await.unwrap(), [false]);
}

#[tokio::test]
async fn call_is_made_again_after_the_pause_that_nodes_ask_for() {
    let busy = Node::start("busy", Behaviour::BusyFor(3)).await;
    let only = client(&[&busy, &Node::unreachable("gone")]);
    assert_eq!(only.has(&[*block(1).cid()]).await.unwrap(), [false]);
    assert_eq!(busy.calls(), 4);
}

#[tokio::test]
async fn call_that_nodes_put_off_for_ever_ends() {
    let busy = Node::start("busy", Behaviour::BusyFor(usize::MAX)).await;
    let error = client(&[&busy]).has(&[*block(1).cid()]).await.unwrap_err();
    assert_eq!(error.code(), "overloaded");
    assert_eq!(busy.calls(), 6);
}

#[tokio::test]
async fn refusal_is_final_and_carries_its_code() {
    let strict = Node::start("strict", Behaviour::Answer(Code::PermissionDenied)).await;
    let other = Node::start("other", Behaviour::Serve).await;
    let client = client(&[&strict, &other]);
    let error = client.has(&[*block(1).cid()]).await.unwrap_err();
    assert!(matches!(error, ClientError::Denied(_)), "{error:?}");
    assert_eq!(error.code(), "test-code");
    assert_eq!(other.calls(), 0);
}

#[tokio::test]
async fn unreachable_nodes_are_an_error_that_says_so() {
    let client = client(&[&Node::unreachable("a"), &Node::unreachable("b")]);
    let error = client.has(&[*block(1).cid()]).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unavailable { tried: 2, .. }),
        "{error:?}"
    );
    assert_eq!(error.code(), "unreachable");
}

#[tokio::test]
async fn node_that_says_why_is_heard_before_one_that_is_silent() {
    let says = Node::start("says", Behaviour::Answer(Code::Unavailable)).await;
    let gone = Node::unreachable("gone");
    for nodes in [[&says, &gone], [&gone, &says]] {
        let error = client(&nodes).has(&[*block(1).cid()]).await.unwrap_err();
        assert_eq!(error.code(), "test-code");
        assert!(
            matches!(error, ClientError::Unavailable { tried: 2, .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn calls_can_be_made_in_a_task_of_their_own() {
    let client = client(&[&Node::unreachable("a")]);
    let key = SigningKey::from_seed(&[1; 32]);
    let (custody, block) = (CustodyId::new([2; 16]), block(1));
    let who = key.did();
    let body = Body::Suspended(Standing { who });
    let signed = Statement::new("test.example/log", body, [3; 16], 4).sign(&[&key]);
    let asked = Asked {
        signed: signed.clone(),
        cohort: Vec::new(),
    };
    let task = tokio::spawn(async move {
        let cid = *block.cid();
        let leaf = LeafName::Record(cid);
        [
            client.submit(&signed, None).await.is_ok(),
            client.request(&asked).await.is_ok(),
            client.receipt(leaf, Strength::Published).await.is_ok(),
            client.checkpoint().await.is_ok(),
            client.has(&[cid]).await.is_ok(),
            client.put(stream::iter([block])).await.is_ok(),
            client.blocks(&[cid], false).await.is_ok(),
            client.leaves(0, None).try_collect::<Vec<_>>().await.is_ok(),
            client.principals(&[], None).await.is_ok(),
            client.custodies(None).await.is_ok(),
            client.consents(custody).await.is_ok(),
            client.record(&cid).await.is_ok(),
            client.status().await.is_ok(),
        ]
    });
    assert_eq!(task.await.unwrap(), [false; 13]);
}

#[tokio::test]
async fn node_with_another_name_in_its_certificate_is_not_believed() {
    let mut impostor = Node::start("right", Behaviour::Serve).await;
    impostor.name = "wrong".to_owned();
    let error = client(&[&impostor])
        .has(&[*block(1).cid()])
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Unavailable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn upload_larger_than_a_window_arrives_whole() {
    let node = Node::start("a", Behaviour::Serve).await;
    let client = client(&[&node]);
    let blocks: Vec<Block> = (0..20)
        .map(|seed| Block::new(Codec::Raw, vec![seed; 1 << 20]).unwrap())
        .collect();
    let stored = client.put(stream::iter(blocks.clone())).await.unwrap();
    assert_eq!((stored.blocks, stored.size_bytes), (20, 20 << 20));
    let cids: Vec<_> = blocks.iter().map(|block| *block.cid()).collect();
    let answers = client.blocks(&cids, true).await.unwrap();
    let got: Vec<_> = answers.try_collect().await.unwrap();
    assert!(got.into_iter().eq(blocks.into_iter().map(Ok)));
}

#[tokio::test]
async fn source_has_a_corrupt_copy_repaired() {
    let corrupt = Node::start("corrupt", Behaviour::CorruptUntilRepaired).await;
    let block = block(1);
    corrupt.keep(std::slice::from_ref(&block));
    let source = NodesSource::new(client(&[&corrupt]));
    assert_eq!(source.fetch(block.cid()).await.unwrap(), block);
    assert_eq!(source.notes(), [("corrupt".to_owned(), Note::Corrupt)]);
}

#[tokio::test]
async fn source_notes_corrupt_and_lying_nodes_and_uses_another_copy() {
    let corrupt = Node::start("corrupt", Behaviour::Corrupt).await;
    let liar = Node::start("liar", Behaviour::WrongBytes).await;
    let good = Node::start("good", Behaviour::Serve).await;
    let blocks: Vec<Block> = (0..8).map(block).collect();
    good.keep(&blocks);
    let source = NodesSource::new(client(&[&corrupt, &liar, &good]));
    for block in &blocks {
        assert_eq!(&source.fetch(block.cid()).await.unwrap(), block);
    }
    let notes = [
        ("corrupt".to_owned(), Note::Corrupt),
        ("liar".to_owned(), Note::WrongBytes),
    ];
    assert_eq!(source.notes(), notes);
}

#[tokio::test]
async fn source_for_another_record_avoids_liars_but_not_nodes_without_a_copy() {
    let liar = Node::start("liar", Behaviour::WrongBytes).await;
    let empty = Node::start("empty", Behaviour::Serve).await;
    let good = Node::start("good", Behaviour::Serve).await;
    let blocks: Vec<Block> = (0..2).map(block).collect();
    good.keep(&blocks[..1]);
    let source = NodesSource::new(client(&[&liar, &empty, &good]));
    source.fetch(blocks[0].cid()).await.unwrap();
    empty.keep(&blocks[1..]);
    let another = source.for_another();
    assert_eq!(another.fetch(blocks[1].cid()).await.unwrap(), blocks[1]);
    assert_eq!((liar.calls(), empty.calls(), good.calls()), (1, 2, 1));
    assert_eq!(another.notes(), [("liar".to_owned(), Note::WrongBytes)]);
    another.learn(&source);
    assert_eq!(another.notes(), source.notes());
}

#[tokio::test]
async fn source_spreads_blocks_over_the_nodes() {
    let first = Node::start("first", Behaviour::Serve).await;
    let second = Node::start("second", Behaviour::Serve).await;
    let blocks: Vec<Block> = (0..8).map(block).collect();
    first.keep(&blocks);
    second.keep(&blocks);
    let source = NodesSource::new(client(&[&first, &second]));
    stream::iter(&blocks)
        .map(|block| source.fetch(block.cid()))
        .buffered(4)
        .try_for_each(async |_| Ok(()))
        .await
        .unwrap();
    assert_eq!(first.calls() + second.calls(), blocks.len());
    assert!(first.calls() > 0 && second.calls() > 0);
}

#[tokio::test]
async fn block_is_not_found_only_when_every_node_says_that_nobody_has_it() {
    let one = Node::start("one", Behaviour::Serve).await;
    // It does not answer the first time, when nodes are asked for what they hold themselves.
    let busy = Node::start("busy", Behaviour::BusyFor(1)).await;
    let source = NodesSource::new(client(&[&one, &busy]));
    let error = source.fetch(block(1).cid()).await.unwrap_err();
    assert!(matches!(error, SourceError::NotFound(_)), "{error:?}");

    for (behaviour, note, cause) in [
        (
            Behaviour::OthersMayHaveIt,
            Note::Unreachable,
            "node `other`: could not be fetched in time",
        ),
        (
            Behaviour::Corrupt,
            Note::Corrupt,
            "node `other`: the node's copy is corrupt",
        ),
        (
            Behaviour::WrongBytes,
            Note::WrongBytes,
            "node `other` gave an invalid answer",
        ),
        (
            Behaviour::Answer(Code::Internal),
            Note::Unreachable,
            "none of 1 nodes could serve the call",
        ),
    ] {
        let other = Node::start("other", behaviour).await;
        for nodes in [[&one, &other], [&other, &one]] {
            let source = NodesSource::new(client(&nodes));
            let error = source.fetch(block(1).cid()).await.unwrap_err();
            let SourceError::Unavailable { source: said, .. } = error else {
                panic!("{error:?}");
            };
            assert_eq!(said.to_string(), cause);
            assert!(source.notes().contains(&("other".to_owned(), note)));
        }
    }
}

#[tokio::test]
async fn client_needs_a_node_and_usable_addresses() {
    let config = |addresses: &[&str]| {
        let nodes = addresses.iter().map(|address| NodeAddress {
            name: "a".to_owned(),
            address: (*address).to_owned(),
        });
        client_config(nodes.collect())
    };
    assert!(Client::new(&config(&[])).is_err());
    for address in ["", "host", "user@host:1", "host:1/path", "host:port"] {
        assert!(Client::new(&config(&[address])).is_err(), "{address}");
    }
}

#[derive(Clone, Copy)]
enum Behaviour {
    Serve,
    Answer(Code),
    BusyFor(usize),
    Corrupt,
    CorruptUntilRepaired,
    /// It has nothing, and cannot reach nodes that may have something.
    OthersMayHaveIt,
    WrongBytes,
}

/// A block service with one way to behave.
struct Node {
    name: String,
    address: String,
    state: Arc<Mutex<State>>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    blocks: Vec<Block>,
    calls: usize,
}

impl Node {
    async fn start(name: &str, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let service = Service {
            behaviour,
            state: Arc::clone(&state),
        };
        let (certificate, key) = issue(name);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(authority().pem()));
        let service = BlockServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(service);
        let incoming = TcpIncoming::from(listener);
        let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self {
            name: name.to_owned(),
            address,
            state,
            task: Some(task),
        }
    }

    /// Port 1 on loopback: nothing listens there.
    fn unreachable(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            address: "127.0.0.1:1".to_owned(),
            state: Arc::default(),
            task: None,
        }
    }

    fn keep(&self, blocks: &[Block]) {
        self.state.lock().unwrap().blocks.extend_from_slice(blocks);
    }

    fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

struct Service {
    behaviour: Behaviour,
    state: Arc<Mutex<State>>,
}

impl Service {
    fn check(&self) -> Result<(), Status> {
        let calls = {
            let mut state = self.state.lock().unwrap();
            state.calls += 1;
            state.calls
        };
        match self.behaviour {
            Behaviour::BusyFor(times) if calls <= times => {
                Err(overloaded(Duration::from_millis(1)))
            }
            Behaviour::Answer(code) => Err(status(code, "test-code", "a sentence")),
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl BlockService for Service {
    type GetStream = BoxStream<'static, Result<GetResponse, Status>>;

    async fn has(&self, request: Request<HasRequest>) -> Result<Response<HasResponse>, Status> {
        self.check()?;
        let cids = has_cids(request.get_ref()).unwrap();
        let state = self.state.lock().unwrap();
        let holds = |cid| state.blocks.iter().any(|block| block.cid() == cid);
        let held = cids.iter().map(holds).collect();
        Ok(Response::new(HasResponse { held }))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<PutResponse>, Status> {
        self.check()?;
        let mut messages = request.into_inner();
        let mut stored = PutResponse::default();
        while let Some(message) = messages.message().await? {
            let block = Block::try_from(message).unwrap();
            stored.blocks += 1;
            stored.size_bytes += block.bytes().len() as u64;
            self.state.lock().unwrap().blocks.push(block);
        }
        Ok(Response::new(stored))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        self.check()?;
        let get = Get::try_from(request.into_inner()).unwrap();
        let state = self.state.lock().unwrap();
        let answers: Vec<_> = get
            .cids
            .iter()
            .map(|cid| {
                let kept = state.blocks.iter().find(|block| block.cid() == cid);
                match self.behaviour {
                    Behaviour::CorruptUntilRepaired if get.local_only => {
                        GetResponse::from((*cid, Err(Missing::Corrupt)))
                    }
                    Behaviour::Corrupt => GetResponse::from((*cid, Err(Missing::Corrupt))),
                    Behaviour::OthersMayHaveIt if !get.local_only => {
                        GetResponse::from((*cid, Err(Missing::Unavailable)))
                    }
                    Behaviour::WrongBytes => GetResponse {
                        cid: cid.to_bytes().into(),
                        data: bytes::Bytes::from_static(b"wrong"),
                        missing: 0,
                    },
                    _ => GetResponse::from((*cid, kept.cloned().ok_or(Missing::NotFound))),
                }
            })
            .map(Ok)
            .collect();
        Ok(Response::new(stream::iter(answers).boxed()))
    }
}

fn client(nodes: &[&Node]) -> Client {
    let addresses = nodes.iter().map(|node| NodeAddress {
        name: node.name.clone(),
        address: node.address.clone(),
    });
    Client::new(&client_config(addresses.collect())).unwrap()
}

fn client_config(nodes: Vec<NodeAddress>) -> ClientConfig {
    let (certificate, key) = issue("client");
    ClientConfig {
        nodes,
        ca: authority().pem(),
        certificate,
        key: key.into(),
    }
}

fn block(seed: u8) -> Block {
    Block::new(Codec::Raw, vec![seed; 4]).unwrap()
}

/// The same authority for every node of this test process.
fn authority() -> &'static CertifiedIssuer<'static, KeyPair> {
    static AUTHORITY: std::sync::LazyLock<CertifiedIssuer<'static, KeyPair>> =
        std::sync::LazyLock::new(|| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        });
    &AUTHORITY
}

fn issue(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority()).unwrap();
    (certificate.pem(), key.serialize_pem())
}
