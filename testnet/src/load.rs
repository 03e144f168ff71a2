//! The clients: each writes or reads one thing after the other, and notes what it was told.

use crate::history::{Change, History, Read, Write};
use crate::{Home, NodeProcess, people::People};
use anyhow::{Context, Result};
use fastrand::Rng;
use medanchor_anchor::{
    Actor, Body, Consented, Effect, Epochs, Nonce, Outcome, Provision, SignedStatement, Statement,
    Strength, Withdrawn,
};
use medanchor_api::{Client, ClientError, Submitted};
use medanchor_cli::{OwnKeys, Session};
use medanchor_dag::{CustodyId, Hash};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::Runtime, task::JoinHandle};

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<History>>>,
    device: thread::JoinHandle<Result<Vec<Put>>>,
}

/// What the clients were told until the end.
pub(crate) struct Told {
    pub(crate) history: History,
    /// Roots of the trees that receipts were given for, by size.
    pub(crate) trees: BTreeMap<u64, Hash>,
    pub(crate) puts: Vec<Put>,
}

/// A payload that a device has stored.
pub(crate) struct Put {
    pub(crate) record: String,
    pub(crate) payload: Vec<u8>,
}

struct Shared {
    origin: String,
    policy: Arc<Epochs>,
    keys: OwnKeys,
    custody: CustodyId,
    registers: Vec<Nonce>,
    nodes: Vec<String>,
    client: Client,
    began: Instant,
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    trees: Mutex<BTreeMap<u64, Hash>>,
}

impl Load {
    /// Starts the clients: the operator writes and reads registers, which are consents under the custody key, and
    /// the device puts payloads, which it has in `folder`.
    pub(crate) fn start(
        runtime: &Runtime,
        people: &People,
        folder: &Path,
        rng: &mut Rng,
    ) -> Result<Self> {
        let home = medanchor_cli::Home::new(people.operator.path());
        let session = runtime.block_on(async { Session::open(&home) })?;
        let shared = Arc::new(Shared {
            nodes: session.client.node_names().map(str::to_owned).collect(),
            policy: session.policy(),
            origin: session.origin,
            client: session.client,
            keys: home.own_keys()?,
            custody: people.custody.parse()?,
            registers: (0..REGISTERS).map(|_| nonce(rng)).collect(),
            began: Instant::now(),
            stopped: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            trees: Mutex::default(),
        });
        let mut clients = Vec::new();
        for _ in 0..WRITERS {
            clients.push(runtime.spawn(write(Arc::clone(&shared), rng.fork())));
        }
        for _ in 0..READERS {
            clients.push(runtime.spawn(read(Arc::clone(&shared), rng.fork())));
        }
        let device = Device {
            home: people.device.clone(),
            custody: people.custody.clone(),
            file: folder.join("payload"),
        };
        let noticed = Arc::clone(&shared);
        Ok(Self {
            clients,
            device: thread::spawn(move || device.put_until_stopped(&noticed)),
            shared,
        })
    }

    /// Statements and payloads acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Whether a client found something wrong; [`Load::stop`] says what.
    pub(crate) fn has_failed(&self) -> bool {
        self.device.is_finished() || self.clients.iter().any(JoinHandle::is_finished)
    }

    /// Lets every client finish what it has begun.
    pub(crate) fn stop(self, runtime: &Runtime) -> Result<Told> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for client in self.clients {
            let part = runtime.block_on(client).context("run a client")??;
            history.writes.extend(part.writes);
            history.reads.extend(part.reads);
        }
        let puts = self.device.join();
        let puts = puts.map_err(|_| anyhow::anyhow!("the device panicked"))??;
        Ok(Told {
            history,
            trees: self.shared.trees().clone(),
            puts,
        })
    }
}

/// Gives and withdraws consents, and says some of it twice.
async fn write(shared: Arc<Shared>, mut rng: Rng) -> Result<History> {
    let mut history = History::default();
    while !shared.is_stopped() {
        let change = Change {
            register: rng.usize(..shared.registers.len()),
            withdrawn: rng.bool(),
        };
        let signed = shared.say(change, &mut rng)?;
        let began = shared.began.elapsed();
        let submitted = shared.submit(&signed, &mut rng).await?;
        let ended = shared.began.elapsed();
        let ok = submitted.leaf.outcome == Outcome::Ok;
        if ok && rng.u8(..8) == 0 {
            let again = shared.submit(&signed, &mut rng).await?;
            anyhow::ensure!(
                (again.index, &again.leaf) == (submitted.index, &submitted.leaf),
                "the same statement has leaf {} and leaf {}",
                submitted.index,
                again.index
            );
        }
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        history.writes.push(Write {
            began,
            ended,
            index: submitted.index,
            leaf: submitted.leaf.to_bytes(),
            change: ok.then_some(change),
        });
    }
    Ok(history)
}

async fn read(shared: Arc<Shared>, mut rng: Rng) -> Result<History> {
    let mut history = History::default();
    while !shared.is_stopped() {
        let register = rng.usize(..shared.registers.len());
        let began = shared.began.elapsed();
        match shared.client(&mut rng)?.consents(shared.custody).await {
            Ok(consents) => {
                let id = shared.registers.get(register);
                let consent = consents
                    .value
                    .iter()
                    .find(|c| Some(&c.consented.consent) == id);
                history.reads.push(Read {
                    began,
                    ended: shared.began.elapsed(),
                    register,
                    found: consent.map(|consent| (consent.since, consent.withdrawn)),
                });
            }
            // No answer is no claim.
            Err(ClientError::Unavailable { .. }) => (),
            Err(error) => return Err(error).context("read the consents"),
        }
        pause(&mut rng).await;
    }
    Ok(history)
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// One of the nodes alone, so that every one of them is asked and a failure shows.
    fn client(&self, rng: &mut Rng) -> Result<Client> {
        let node = rng.choice(&self.nodes).context("there is no node")?;
        self.client.only(node).context("find the node")
    }

    fn say(&self, change: Change, rng: &mut Rng) -> Result<SignedStatement> {
        let consent = *self.registers.get(change.register).context("no register")?;
        let custody = self.custody;
        let body = match change.withdrawn {
            true => Body::Withdrawn(Withdrawn { consent, custody }),
            false => Body::Consented(Consented {
                consent,
                custody,
                effect: Effect::Permit,
                provision: Provision {
                    actors: vec![Actor::party(self.keys.did())],
                    purposes: vec!["TREAT".to_owned()],
                    ..Provision::default()
                },
                except: Vec::new(),
                document: None,
            }),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let not_after = u64::try_from(now)?.saturating_add(VALID_FOR_MS);
        let statement = Statement::new(&self.origin, body, random(rng), not_after);
        Ok(statement.sign(&[&self.keys.signing]))
    }

    /// Until it is acknowledged: whatever became of an attempt, the same statement again is safe.
    async fn submit(&self, signed: &SignedStatement, rng: &mut Rng) -> Result<Submitted> {
        let deadline = Instant::now() + PATIENCE;
        let strengths = [None, Some(Strength::Witnessed), Some(Strength::Published)];
        let strength = rng.choice(strengths).flatten();
        loop {
            match self.client(rng)?.submit(signed, strength).await {
                Ok(submitted) => {
                    if let Some(strength) = strength {
                        self.believe(&submitted, strength)?;
                    }
                    return Ok(submitted);
                }
                Err(error @ ClientError::Unavailable { .. }) => {
                    let late = Instant::now() > deadline;
                    anyhow::ensure!(!late, "not acknowledged in {PATIENCE:?}: {error}");
                }
                Err(error) => return Err(error).context("submit a statement"),
            }
            pause(rng).await;
        }
    }

    /// Checks the receipt, and that no other one is of another tree of that size.
    fn believe(&self, submitted: &Submitted, strength: Strength) -> Result<()> {
        let receipt = submitted.receipt.as_ref();
        let receipt = receipt.context("acknowledged without the receipt that was asked for")?;
        let verified = receipt.verify(&*self.policy, strength)?;
        anyhow::ensure!(
            (verified.index, verified.leaf) == (submitted.index, &submitted.leaf),
            "the receipt is of another leaf"
        );
        let checkpoint = verified.checkpoint.checkpoint;
        let known = *self
            .trees()
            .entry(checkpoint.size)
            .or_insert(checkpoint.root);
        anyhow::ensure!(
            known == checkpoint.root,
            "two receipts show two trees of {} leaves",
            checkpoint.size
        );
        Ok(())
    }

    fn trees(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Hash>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device that puts one small file after the other with the tool.
struct Device {
    home: Home,
    custody: String,
    file: PathBuf,
}

impl Device {
    fn put_until_stopped(&self, shared: &Shared) -> Result<Vec<Put>> {
        let mut puts = Vec::new();
        while !shared.is_stopped() {
            let payload = format!("heartbeat {}", puts.len()).into_bytes();
            fs::write(&self.file, &payload).context("write the payload")?;
            puts.push(Put {
                record: self.put()?,
                payload,
            });
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(puts)
    }

    /// "Unavailable" is no acknowledgement: the same again goes on with what is in the outbox.
    fn put(&self) -> Result<String> {
        let file = self.file.to_str().context("name the payload")?;
        let arguments = ["put", file, "--custody", &self.custody, "--class", "log"];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ran = self.home.run(arguments)?;
            if ran.code != UNAVAILABLE || Instant::now() > deadline {
                return ran.success()?.text("record");
            }
        }
    }
}

/// Leaves that a node has, in order, as their bytes.
pub(crate) fn leaves_of(
    runtime: &Runtime,
    home: &Home,
    node: &NodeProcess,
) -> Result<Vec<Vec<u8>>> {
    use futures::TryStreamExt;
    let home = medanchor_cli::Home::new(home.path());
    runtime.block_on(async {
        let session = Session::open(&home)?.only(&node.name)?;
        let leaves = session.client.leaves(0, None);
        let leaves = leaves.map_ok(|entry: medanchor_api::LeafEntry| entry.leaf.to_bytes());
        Ok(leaves.try_collect().await?)
    })
}

async fn pause(rng: &mut Rng) {
    tokio::time::sleep(Duration::from_millis(rng.u64(5..100))).await;
}

fn nonce(rng: &mut Rng) -> Nonce {
    Nonce::new(random(rng))
}

fn random(rng: &mut Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes);
    bytes
}

const REGISTERS: usize = 6;
const WRITERS: usize = 4;
const READERS: usize = 2;
const VALID_FOR_MS: u64 = 60 * 60 * 1000;
/// How long the network may take to heal, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(180);
/// Exit code of `medanchor`: not now, try again.
const UNAVAILABLE: i32 = 5;
