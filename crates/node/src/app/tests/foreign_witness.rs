//! A witness that others run, in this process, at its best and at its worst.

use super::*;
use crate::ForeignWitness;
use medanchor_anchor::{Receipt, Seen, SignatureKind, TrustPolicy, VerifierKey};
use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

const NAME: &str = "witness.example/w";

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    /// As C2SP tlog-witness says.
    Honest,
    /// Answers with this status.
    Refuses(u16),
    /// Signs with another key.
    OtherKey,
    /// Signs another checkpoint.
    OtherText,
    /// Says nothing that is a signature line.
    Garbage,
    /// Says that it has signed another size each time.
    Fickle,
    /// Says that it has signed a larger log than there is.
    Ahead,
    /// Answers without an end.
    Endless,
    /// Ends the connection in the middle of an answer.
    Torn,
    /// Never answers.
    Silent,
}

struct Foreign {
    address: SocketAddr,
    key: SigningKey,
    manners: Mutex<Manners>,
    seen: Mutex<Option<Seen>>,
    log_key: Mutex<Option<VerifierKey>>,
    conflicts: AtomicUsize,
    refusals: AtomicUsize,
}

impl Foreign {
    async fn serve(manners: Manners) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let foreign = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            key: SigningKey::from_seed(&[7; 32]),
            manners: Mutex::new(manners),
            seen: Mutex::default(),
            log_key: Mutex::default(),
            conflicts: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&foreign);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = Arc::clone(&serving);
                tokio::spawn(async move { serving.answer_all(stream).await });
            }
        });
        foreign
    }

    fn vkey(&self) -> VerifierKey {
        VerifierKey::new(NAME, SignatureKind::Cosignature, self.key.did()).unwrap()
    }

    /// Names it in a network whose published checkpoints bear so many co-signatures.
    fn named(&self, quorum: u8) -> impl FnOnce(&mut Founded, &mut Config) {
        let witness = ForeignWitness {
            key: self.vkey().to_string(),
            url: format!("http://{}/w", self.address),
            certificate: None,
        };
        move |founded, config| {
            founded.witnesses.push(witness.key.clone());
            founded.quorum = quorum;
            config.foreign_witnesses.push(witness);
        }
    }

    fn behave(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
    }

    async fn answer_all(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some((target, body)) = read_request(&mut stream).await {
            let manners = *self.manners.lock().unwrap();
            let (status, answer) = match (manners, target.as_str()) {
                (Manners::Silent, _) => return std::future::pending().await,
                (Manners::Endless, _) => {
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
                    let mut sent = stream.write_all(head.as_bytes()).await;
                    while sent.is_ok() {
                        sent = stream.write_all(&[b'x'; 4096]).await;
                    }
                    return;
                }
                (Manners::Torn, _) => {
                    let torn = "HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n\u{2014} witness";
                    let _gone = stream.write_all(torn.as_bytes()).await;
                    return;
                }
                (_, "POST /w/add-checkpoint") => self.answer(manners, &body),
                _ => (404, String::new()),
            };
            let length = answer.len();
            let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n\r\n{answer}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, manners: Manners, body: &str) -> (u16, String) {
        let request: AddCheckpoint = body.parse().unwrap();
        let log_key = self.log_key.lock().unwrap().clone();
        let decided = request.decide(self.seen.lock().unwrap().as_ref(), log_key.as_slice());
        let seen = match (manners, decided) {
            (Manners::Refuses(status), _) => {
                self.refusals.fetch_add(1, Ordering::SeqCst);
                return (status, "not\r\nnow".to_owned());
            }
            (Manners::Garbage, _) => return (200, "\u{2014} witness AAAA\n\u{0}".to_owned()),
            (Manners::Fickle, _) => return (409, format!("{}\n", 1 - request.old_size)),
            (Manners::Ahead, _) => return (409, format!("{}\n", u64::MAX)),
            (_, Ok(seen)) => seen,
            (_, Err(AddCheckpointError::Conflict(size))) => {
                self.conflicts.fetch_add(1, Ordering::SeqCst);
                return (409, format!("{size}\n"));
            }
            (_, Err(error)) => return (error.status(), error.to_string()),
        };
        let stranger = SigningKey::from_seed(&[8; 32]);
        let (note, key) = match manners {
            Manners::OtherKey => (request.note, &stranger),
            Manners::OtherText => {
                let root = Hash::of(b"another log");
                let other = Checkpoint {
                    root,
                    ..request.checkpoint().unwrap()
                };
                (other.sign(&stranger).unwrap(), &self.key)
            }
            _ => {
                *self.seen.lock().unwrap() = Some(seen);
                (request.note, &self.key)
            }
        };
        (
            200,
            format!("{}\n", cosign(&note, NAME, key, 1_000).unwrap()),
        )
    }
}

/// The request line without its version, and the body; `None` when the client has gone.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut target, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return None;
        }
        let line = line.trim_end();
        if let Some(request) = line.strip_suffix(" HTTP/1.1") {
            target = request.to_owned();
        } else if let Some(of) = line.strip_prefix("content-length: ") {
            length = of.parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((target, String::from_utf8(body).unwrap()))
}

/// A node that publishes, beside such a witness.
struct Publishing {
    alone: Alone,
    policy: TrustPolicy,
    stop: CancellationToken,
    publishing: tokio::task::JoinHandle<()>,
}

impl Publishing {
    async fn start(foreign: &Foreign, quorum: u8) -> Self {
        let alone = Alone::start_with(foreign.named(quorum)).await;
        let policy = alone.membership.now().epochs.current().clone();
        *foreign.log_key.lock().unwrap() = policy.logs().next().cloned();
        let stop = CancellationToken::new();
        let publisher = Arc::clone(&alone.parts.publisher);
        Self {
            publishing: tokio::spawn(publisher.publish_task(stop.clone())),
            policy,
            alone,
            stop,
        }
    }

    async fn append(&self, number: u8) -> Receipt {
        let index = self.alone.append(number).await;
        let publisher = &self.alone.parts.publisher;
        publisher.receipt(index, Strength::Published).await.unwrap()
    }

    /// Waits until the newest checkpoint bears this signature.
    async fn signed_by(&self, key: &VerifierKey) {
        let signed = || {
            let newest = self.alone.parts.publisher.newest();
            newest.is_some_and(|newest| bears(&SignedNote::parse(&newest).unwrap(), key))
        };
        while !signed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.publishing.await.unwrap();
    }
}

fn bears(note: &SignedNote, key: &VerifierKey) -> bool {
    !note.signers([key]).unwrap().is_empty()
}

#[tokio::test]
async fn published_checkpoints_bear_the_cosignature_of_a_witness_that_others_run() {
    let foreign = Foreign::serve(Manners::Honest).await;
    let publishing = Publishing::start(&foreign, 2).await;
    // It has signed this log before, which this node does not know.
    *foreign.seen.lock().unwrap() = Some(Seen {
        size: 1,
        root: publishing.alone.own_root(),
    });
    for number in 0..5 {
        let receipt = publishing.append(number).await;
        let policy = &publishing.policy;
        let verified = receipt.verify(policy, Strength::Published).unwrap();
        assert_eq!(verified.checkpoint.cosigners.len(), 2);
        // And without it, it is not published.
        let mut without = receipt.clone();
        let own = publishing.alone.parts.cosigner.verifier();
        without.checkpoint.retain(policy.logs().chain([own]));
        assert!(without.verify(policy, Strength::Published).is_err());
    }
    assert!(foreign.conflicts.load(Ordering::SeqCst) <= 1);
    publishing.stop().await;
}

#[tokio::test]
async fn witness_that_misbehaves_delays_nothing_and_is_asked_again() {
    for manners in [
        Manners::Refuses(403),
        Manners::Refuses(500),
        Manners::OtherKey,
        Manners::OtherText,
        Manners::Garbage,
        Manners::Fickle,
        Manners::Ahead,
        Manners::Endless,
        Manners::Torn,
        Manners::Silent,
    ] {
        let foreign = Foreign::serve(manners).await;
        let publishing = Publishing::start(&foreign, 1).await;
        let work = async {
            for number in 0..CHECKPOINTS {
                let receipt = publishing.append(number).await;
                assert!(!bears(&receipt.checkpoint, &foreign.vkey()), "{manners:?}");
            }
        };
        // Each would cost a request's whole deadline.
        let patience = Duration::from_secs(3) * u32::from(CHECKPOINTS);
        timeout(patience, work).await.unwrap();
        foreign.behave(Manners::Honest);
        // Without anything new in the log.
        publishing.signed_by(&foreign.vkey()).await;
        publishing.stop().await;
    }
}

#[tokio::test]
async fn what_only_a_witness_that_was_away_can_publish_waits_for_it() {
    let foreign = Foreign::serve(Manners::Refuses(503)).await;
    let publishing = Publishing::start(&foreign, 2).await;
    let index = publishing.alone.append(0).await;
    let publisher = &publishing.alone.parts.publisher;
    while foreign.refusals.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(publisher.published(), None);
    foreign.behave(Manners::Honest);
    let receipt = publisher.receipt(index, Strength::Published).await.unwrap();
    assert!(bears(&receipt.checkpoint, &foreign.vkey()));
    publishing.stop().await;
}

#[tokio::test]
async fn fork_is_refused_by_the_witness_and_the_log_goes_on_where_it_was() {
    let foreign = Foreign::serve(Manners::Honest).await;
    let publishing = Publishing::start(&foreign, 2).await;
    let receipt = publishing.append(0).await;
    let size = receipt
        .checkpoint
        .text()
        .parse::<Checkpoint>()
        .unwrap()
        .size;
    let fork = Checkpoint {
        size,
        ..publishing.alone.checkpoint(Hash::of(b"another log"))
    };
    let fork = AddCheckpoint {
        old_size: size,
        proof: ConsistencyProof(Vec::new()),
        note: fork.sign(&publishing.alone.key(KeyName::Log)).unwrap(),
    };
    let (status, _) = foreign.answer(Manners::Honest, &fork.to_string());
    assert_eq!(status, 422);
    let receipt = publishing.append(1).await;
    assert!(bears(&receipt.checkpoint, &foreign.vkey()));
    publishing.stop().await;
}
