use super::executor::{here, random};
use super::history::{Change, History, Read as ReadBack, Write};
use super::runtime::{sleep, timeout};
use super::world::{World, now_unix_ms, tree};
use crate::{NodeId, Replica};
use medanchor_anchor::testing::{HOUR, MEMBERS, ORIGIN, did, enrolled, key, standing};
use medanchor_anchor::{
    Append, AppendError, Appended, Kind, Outcome, PrincipalKind, Read, SignedStatement, State,
    Statement, Status, Submission,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What clients do, and what they are told.
#[derive(Default)]
pub(crate) struct Clients {
    pub(crate) submitted: Mutex<Vec<Submitted>>,
    history: Mutex<History>,
}

/// A statement that somebody submitted.
#[derive(Clone)]
pub(crate) struct Submitted {
    pub(crate) signed: SignedStatement,
    pub(crate) began: Duration,
    register: Option<(usize, bool)>,
    pub(crate) acknowledged: Option<(Duration, Appended)>,
}

/// A person whose standing is changed and read.
fn register(number: usize) -> String {
    format!("register-{number}")
}

impl Clients {
    /// Submits and reads until told to stop, one thing after the other.
    pub(crate) async fn work(self: Arc<Self>, world: Arc<World>, number: u64, until: Duration) {
        let mut done = 0_u64;
        while here().now() < until {
            done += 1;
            match random(|rng| rng.u32(..10)) {
                0..5 => {
                    let name = format!("person-{number}-{done}");
                    self.submit(&world, person(&name), None).await;
                }
                5..8 => {
                    let (register, withdrawn) = random(|rng| (rng.usize(..REGISTERS), rng.bool()));
                    self.change(&world, register, withdrawn).await;
                }
                _ => self.read(&world).await,
            }
            let pause = random(|rng| rng.u64(20..400));
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Enrols whose standing is changed later.
    pub(crate) async fn begin(&self, world: &World) {
        for number in 0..REGISTERS {
            let signed = person(&register(number));
            self.submit(world, signed, Some((number, false))).await;
        }
    }

    async fn change(&self, world: &World, number: usize, withdrawn: bool) {
        let kind = if withdrawn {
            Kind::Suspended
        } else {
            Kind::Reinstated
        };
        let body = standing(kind, &register(number));
        let signed = said(body);
        self.submit(world, signed, Some((number, withdrawn))).await;
    }

    /// Submits a statement at one node after another; gives up now and then.
    pub(crate) async fn submit(
        &self,
        world: &World,
        signed: SignedStatement,
        register: Option<(usize, bool)>,
    ) -> bool {
        let began = here().now();
        let at = {
            let mut all = self.submitted.lock().unwrap();
            all.push(Submitted {
                signed: signed.clone(),
                began,
                register,
                acknowledged: None,
            });
            all.len() - 1
        };
        loop {
            let id = random(|rng| rng.u64(1..=world.size));
            let submission = Submission {
                signed: signed.clone(),
                holds: Vec::new(),
                list: None,
            };
            let answer = world.ask(id, async move |replica| replica.append(submission).await);
            match answer.await {
                Some(Ok(appended)) => {
                    world
                        .trace
                        .note(&format_args!("acknowledged {} by {id}", appended.index));
                    world.trace.count("statements acknowledged");
                    self.acknowledge(at, appended);
                    return true;
                }
                Some(Err(AppendError::Rejected(code))) => {
                    panic!("node {id} rejects what is right: {code}")
                }
                Some(Err(error)) => world
                    .trace
                    .note(&format_args!("not appended by {id}: {error}")),
                None => world.trace.note(&format_args!("no answer by {id}")),
            }
            if random(|rng| rng.u32(..4)) == 0 {
                world.trace.count("statements given up");
                return false;
            }
            sleep(Duration::from_millis(random(|rng| rng.u64(10..500)))).await;
        }
    }

    fn acknowledge(&self, at: usize, appended: Appended) {
        let now = here().now();
        let bound = now_unix_ms() + MAX_AHEAD_MS;
        assert!(
            appended.leaf.at <= bound,
            "leaf {} has a time {} ms ahead",
            appended.index,
            appended.leaf.at - bound
        );
        self.submitted.lock().unwrap()[at].acknowledged = Some((now, appended));
    }

    async fn read(&self, world: &World) {
        let id = random(|rng| rng.u64(1..=world.size));
        let number = random(|rng| rng.usize(..REGISTERS));
        let began = here().now();
        let answer = world.ask(id, async move |replica| {
            replica.barrier().await.ok()?;
            Some((find(&replica, number), tree(&replica)))
        });
        let Some(Some((found, (size, root)))) = answer.await else {
            world.trace.note(&format_args!("no read by {id}"));
            return;
        };
        world
            .trace
            .note(&format_args!("read {number} by {id}: {found:?} of {size}"));
        world.trace.count("linearizable reads");
        world.note_root(id, size, root);
        let ended = here().now();
        let read = ReadBack {
            began,
            ended,
            register: number,
            found,
        };
        self.history.lock().unwrap().reads.push(read);
    }

    /// Checks that one log explains what all clients saw. What nobody was told may be in the log, or not.
    pub(crate) fn check(&self, replica: &Replica) {
        let mut history = std::mem::take(&mut *self.history.lock().unwrap());
        let view = replica.state().view();
        let state = State::new(&view);
        for submitted in self.submitted.lock().unwrap().iter() {
            let hash = submitted.signed.statement.hash();
            let found = state.statement(&hash).unwrap();
            let (ended, index) = match (&submitted.acknowledged, found) {
                (Some((ended, appended)), found) => {
                    let index = appended.index;
                    assert_eq!(found, Some(index), "an acknowledged statement is missing");
                    let leaf = state.leaf(index).unwrap();
                    assert_eq!(
                        leaf.as_ref(),
                        Some(&appended.leaf),
                        "leaf {index} has changed"
                    );
                    (*ended, index)
                }
                (None, Some(index)) => (here().now(), index),
                (None, None) => continue,
            };
            let leaf = state.leaf(index).unwrap().unwrap();
            let took_effect = leaf.outcome == Outcome::Ok;
            let change = submitted.register.filter(|_| took_effect);
            history.writes.push(Write {
                began: submitted.began,
                ended,
                index,
                leaf: leaf.to_bytes(),
                change: change.map(|(register, withdrawn)| Change {
                    register,
                    withdrawn,
                }),
            });
        }
        if let Err(error) = history.check() {
            panic!("not linearizable: {error}");
        }
    }
}

/// Appends something at this node, within `patience`.
pub(crate) async fn append_at(world: &World, id: NodeId, patience: Duration) -> Result<(), String> {
    let name = format!("last-{id}-{:?}", here().now());
    let signed = person(&name);
    let mut last = "the node does not run".to_owned();
    let trying = async {
        loop {
            let submission = Submission {
                signed: signed.clone(),
                holds: Vec::new(),
                list: None,
            };
            let answer = world.ask(id, async move |replica| replica.append(submission).await);
            match answer.await {
                Some(Ok(_)) => return,
                Some(Err(error)) => last = crate::replica::chain(&error),
                None => (),
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let done = timeout(patience, trying).await;
    done.map_err(|_| format!("node {id} appends nothing: {last}"))
}

/// The leaf that changed a register last, and how.
fn find(replica: &Replica, number: usize) -> Option<(u64, bool)> {
    let view = replica.state().view();
    let entry = State::new(&view)
        .principal(&did(&register(number)))
        .unwrap();
    entry.map(|entry| (entry.since, entry.standing != Status::Active))
}

fn person(name: &str) -> SignedStatement {
    said(enrolled(
        name,
        PrincipalKind::Person,
        MEMBERS[0],
        &["clinician"],
    ))
}

fn said(body: medanchor_anchor::Body) -> SignedStatement {
    let mut nonce = [0; 16];
    random(|rng| rng.fill(&mut nonce));
    let until = now_unix_ms() + HOUR;
    Statement::new(ORIGIN, body, nonce, until).sign(&[&key(MEMBERS[0])])
}

const REGISTERS: usize = 3;
/// What a follower lets a leader's clock be ahead of its own, and what it may take to say so.
const MAX_AHEAD_MS: u64 = 5_000;
