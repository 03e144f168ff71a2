use super::disk::{Disk, Reached};
use super::executor::{ProcessId, WORLD, here, random};
use super::liar::Liar;
use super::network::Network;
use super::runtime::{Channel, sleep};
use super::trace::{Fault, Trace};
use crate::databases::Databases;
use crate::replica::chain;
use crate::{Alarm, Clock, HeadServer, Identity, NodeId, RaftServer, Replica, ReplicaConfig, Role};
use medanchor_anchor::testing::{self, BEGINNING, World as Statements, did, key};
use medanchor_anchor::{Body, Founded, Member, Row, SignedStatement, State, Table};
use medanchor_dag::{Hash, SigningKey};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Replicas of one network, their machines and clocks. A process that ends, for whatever reason, is started
/// again after a while, with what its machine's disks then hold.
pub(crate) struct World {
    pub(crate) size: u64,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    /// By how many ms each node's clock is wrong.
    pub(crate) clocks: BTreeMap<NodeId, Arc<AtomicI64>>,
    /// Nodes whose clocks are or were wrong.
    pub(crate) unreliable_clocks: Mutex<BTreeSet<NodeId>>,
    running: Mutex<BTreeMap<NodeId, Node>>,
    alarms: Arc<Mutex<Vec<(NodeId, Alarm)>>>,
    /// Roots that replicas had, by tree size.
    roots: Mutex<BTreeMap<u64, (NodeId, Hash)>>,
    /// Whom a lying leader tells something else than the rest.
    deceived: Mutex<Option<NodeId>>,
}

/// A process that runs.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) process: ProcessId,
    pub(crate) machine: Machine,
    /// Once it is open.
    pub(crate) replica: Option<Replica>,
}

/// What outlives a process.
#[derive(Clone)]
pub(crate) struct Machine {
    /// Snapshots. They are real files, which no fault of the simulation reaches.
    dir: Arc<TempDir>,
    pub(crate) log: Disk,
    pub(crate) state: Disk,
}

impl World {
    /// Starts `size` nodes and founds the network.
    pub(crate) async fn founded(size: u64, trace: Trace) -> Arc<Self> {
        let clock = |id| (id, Arc::new(AtomicI64::new(0)));
        let world = Arc::new(Self {
            size,
            network: Network::new(trace.clone()),
            clocks: (1..=size).map(clock).collect(),
            unreliable_clocks: Mutex::default(),
            running: Mutex::default(),
            alarms: Arc::default(),
            roots: Mutex::default(),
            deceived: Mutex::default(),
            trace,
        });
        for id in 1..=size {
            let machine = Machine::new(id, &world.trace);
            world.start(id, machine);
        }
        while world
            .replica(1)
            .is_none_or(|replica| replica.status().tree_size == 0)
        {
            sleep(Duration::from_millis(100)).await;
        }
        world
    }

    /// Starts a process on a machine.
    fn start(self: &Arc<Self>, id: NodeId, machine: Machine) {
        let process = here().new_process();
        self.trace.note(&format_args!("start {id}"));
        self.trace.count("process starts");
        let node = Node {
            process,
            machine: machine.clone(),
            replica: None,
        };
        self.running().insert(id, node);
        let (ended, ends) = oneshot::channel();
        let world = Arc::clone(self);
        here().spawn_in(process, async move {
            let reason = world.run(id, machine).await;
            // The supervisor waits for it.
            let _heard = ended.send(reason);
        });
        let world = Arc::clone(self);
        here().spawn_in(WORLD, async move {
            let reason = ends.await.ok();
            world.start_again(id, reason).await;
        });
    }

    /// Runs a replica until it stops, and gives the reason.
    async fn run(self: Arc<Self>, id: NodeId, machine: Machine) -> String {
        let databases = match (machine.log.database(), machine.state.database()) {
            (Ok(log), Ok(state)) => Databases {
                log,
                log_bytes: 0,
                state,
            },
            (Err(error), _) | (_, Err(error)) => return chain(&error),
        };
        let replica = match Replica::open_with(self.config(id, machine.dir.path()), databases).await
        {
            Ok(replica) => replica,
            Err(error) => return chain(&error),
        };
        let services = (1..=self.size).filter(|from| *from != id).map(|from| {
            let raft = RaftServer::new(replica.clone(), Arc::new(move |_| Some(from)));
            let heads = HeadServer::new(replica.clone(), Arc::new(move |_| Some(from)));
            (from, (raft.into_service(), heads.into_service()))
        });
        self.network.serve(id, here().process(), services.collect());
        if let Some(node) = self.running().get_mut(&id) {
            node.replica = Some(replica.clone());
        }
        let status = replica.status();
        self.trace.note(&format_args!(
            "open {id} {} {:?}",
            status.tree_size, status.applied
        ));
        let founding = founded(self.size);
        let founder = replica.clone();
        here().spawn(async move {
            // It goes on until it is done, or the replica stops.
            drop(founder.found(founding).await);
        });
        chain(&replica.stopped().await)
    }

    /// After a process has ended: by itself, which has a reason, or killed.
    async fn start_again(self: Arc<Self>, id: NodeId, reason: Option<String>) {
        let Some(node) = self.running().remove(&id) else {
            return;
        };
        let Node {
            process,
            machine,
            replica,
        } = node;
        if let Some(replica) = &replica {
            self.note_purged(replica);
        }
        if let Some(reason) = &reason {
            assert!(
                machine.is_damaged(),
                "node {id} stopped on a sound machine: {reason}"
            );
            self.trace.count("replicas that stopped by themselves");
        }
        self.trace.note(&format_args!("end {id} {reason:?}"));
        self.network.remove(id);
        machine.end();
        here().kill(process);
        drop(replica);
        let machine = machine.after_end();
        let pause = random(|rng| rng.u64(50..3_000));
        sleep(Duration::from_millis(pause)).await;
        self.start(id, machine);
    }

    /// Counts a replica whose log was purged for a certified snapshot.
    pub(crate) fn note_purged(&self, replica: &Replica) {
        if replica.raft().metrics().borrow().purged.is_some() {
            self.trace.count("purged logs");
        }
    }

    /// Ends a process at once; its machine goes on.
    pub(crate) fn kill(&self, id: NodeId) {
        let Some(node) = self.node(id) else { return };
        node.machine.end();
        self.trace.fault(Fault::Killed, &id.to_string());
        here().kill(node.process);
    }

    /// Cuts a machine's power.
    pub(crate) fn cut_power(&self, id: NodeId, reached: Reached) {
        let Some(node) = self.node(id) else { return };
        node.machine.log.lose_power(reached);
        node.machine.state.lose_power(reached);
        here().kill(node.process);
    }

    /// The processes that run.
    pub(crate) fn nodes(&self) -> Vec<(NodeId, Node)> {
        let running = self.running();
        running
            .iter()
            .map(|(id, node)| (*id, node.clone()))
            .collect()
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<Node> {
        self.running().get(&id).cloned()
    }

    /// The replica of a node that runs and is open.
    pub(crate) fn replica(&self, id: NodeId) -> Option<Replica> {
        self.running().get(&id)?.replica.clone()
    }

    /// A node that leads, as it says itself.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let running = self.running();
        let leads = |node: &Node| {
            let replica = node.replica.as_ref();
            replica.is_some_and(|replica| replica.role() == Role::Leader)
        };
        running
            .iter()
            .find(|(_, node)| leads(node))
            .map(|(id, _)| *id)
    }

    /// Does `work` with a replica, in its process: `None` when that does not run, or ends before the work
    /// does.
    pub(crate) async fn ask<T: Send + 'static, F>(
        &self,
        id: NodeId,
        work: impl FnOnce(Replica) -> F,
    ) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let node = self.node(id)?;
        let work = work(node.replica?);
        let (sender, receiver) = oneshot::channel();
        here().spawn_in(node.process, async move {
            // Nobody else waits for it.
            let _heard = sender.send(work.await);
        });
        receiver.await.ok()
    }

    /// Notes the tree that a replica has; all replicas must have the same of each size.
    pub(crate) fn note_root(&self, id: NodeId, size: u64, root: Hash) {
        if *self.deceived.lock().unwrap() == Some(id) {
            return;
        }
        let mut roots = self.roots.lock().unwrap();
        let (first, known) = *roots.entry(size).or_insert((id, root));
        assert_eq!(
            known, root,
            "nodes {first} and {id} have different trees of {size} leaves"
        );
    }

    pub(crate) fn roots(&self) -> BTreeMap<u64, Hash> {
        let roots = self.roots.lock().unwrap();
        roots
            .iter()
            .map(|(size, (_, root))| (*size, *root))
            .collect()
    }

    /// From now on `liar` tells `victim` something else than the rest, a few times.
    pub(crate) fn lie(&self, liar: NodeId, victim: NodeId, most_lies: usize) {
        *self.deceived.lock().unwrap() = Some(victim);
        self.network.set_liar(Some(Liar {
            node_id: liar,
            victim,
            lies: BTreeSet::new(),
            most_lies,
        }));
    }

    /// What was raised, and by whom.
    pub(crate) fn alarms(&self) -> Vec<(NodeId, Alarm)> {
        self.alarms.lock().unwrap().clone()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.running.lock().unwrap()
    }

    fn config(&self, id: NodeId, dir: &Path) -> ReplicaConfig {
        let (network, size) = (self.network.clone(), self.size);
        let (trace, alarms) = (self.trace.clone(), Arc::clone(&self.alarms));
        let way = move |to| {
            let known = (1..=size).contains(&to) && to != id;
            known.then(|| Channel::Simulated(network.link(id, to)))
        };
        ReplicaConfig {
            alarm: Arc::new(move |alarm| {
                trace.note(&format_args!("ALARM by {id}: {alarm}"));
                alarms.lock().unwrap().push((id, alarm));
            }),
            deadline: Duration::from_secs(4),
            snapshot_deadline: Duration::from_secs(10),
            step_aside: Duration::from_secs(12),
            compare_every: Duration::from_secs(2),
            snapshot_every: 16,
            durable_every: Duration::from_millis(500),
            snapshot_again: Duration::from_secs(2),
            keep_entries: 3,
            ..ReplicaConfig::new(
                id,
                (1..=size).collect(),
                identity(id, size),
                dir.to_owned(),
                Arc::new(way),
                self.clock(id),
            )
        }
    }

    fn clock(&self, id: NodeId) -> Clock {
        let wrong_by = Arc::clone(&self.clocks[&id]);
        Arc::new(move || now_unix_ms().saturating_add_signed(wrong_by.load(Ordering::SeqCst)))
    }
}

impl Machine {
    fn new(id: NodeId, trace: &Trace) -> Self {
        Self {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            log: Disk::new(format!("log of {id}"), trace.clone()),
            state: Disk::new(format!("state of {id}"), trace.clone()),
        }
    }

    fn is_damaged(&self) -> bool {
        self.log.is_damaged() || self.state.is_damaged()
    }

    fn end(&self) {
        self.log.end();
        self.state.end();
    }

    /// What the next process finds. One disk does not lose its power alone.
    fn after_end(&self) -> Self {
        if self.log.has_lost_power() || self.state.has_lost_power() {
            let reached = random(Reached::draw);
            self.log.lose_power(reached);
            self.state.lose_power(reached);
        }
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.dir.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        Self {
            dir: Arc::new(dir),
            log: self.log.after_end(),
            state: self.state.after_end(),
        }
    }
}

/// What all clocks would show.
pub(crate) fn now_unix_ms() -> u64 {
    BEGINNING + u64::try_from(here().now().as_millis()).unwrap()
}

/// Every row of a replica.
pub(crate) fn dump(replica: &Replica) -> Vec<(Table, Vec<Row>)> {
    let view = replica.state().view();
    let rows = |table| {
        let rows = medanchor_anchor::View::range(&view, table, &[], None, usize::MAX);
        (table, rows.unwrap())
    };
    Table::ALL.map(rows).to_vec()
}

/// Leaves and root of a replica's tree.
pub(crate) fn tree(replica: &Replica) -> (u64, Hash) {
    let view = replica.state().view();
    let state = State::new(&view);
    (state.tree_size().unwrap(), state.root().unwrap())
}

/// What the node with this id signs with.
pub(crate) fn node_key(id: NodeId) -> SigningKey {
    testing::node_key(&name(id))
}

pub(crate) fn name(id: NodeId) -> String {
    let letter = (b'a'..=b'z').nth(usize::try_from(id).unwrap() - 1);
    format!("hospital-{}", char::from(letter.unwrap()))
}

fn identity(id: NodeId, size: u64) -> Identity {
    Identity {
        origin: testing::ORIGIN.to_owned(),
        founded: network(size),
        joined: network(size),
        key: Arc::new(node_key(id)),
    }
}

/// So many organisations and an outside witness, of whom one may be dishonest.
fn network(size: u64) -> Founded {
    let mut founded = testing::founded(testing::cid("policy"));
    founded.members = (1..=size).map(member).collect();
    let witness = testing::verifier_key("witness", 0x04, &did("witness"));
    founded.witnesses.push(witness);
    founded.quorum = if size == 3 { 3 } else { 4 };
    founded
}

fn member(id: NodeId) -> Member {
    let name = name(id);
    let log_key = did(&format!("{name}/log"));
    let cosigner = format!("{}/{name}", testing::ORIGIN);
    let cosigner_key = did(&format!("{name}/cosigner"));
    Member {
        org: did(&name),
        node: node_key(id).did(),
        node_id: id,
        log_key: testing::verifier_key(testing::ORIGIN, 0x01, &log_key),
        cosigner_key: testing::verifier_key(&cosigner, 0x04, &cosigner_key),
        certificate: Hash::of(name.as_bytes()),
        peer_id: "12D3KooWTest".to_owned(),
        name,
    }
}

fn founded(size: u64) -> SignedStatement {
    let orgs: Vec<SigningKey> = (1..=size).map(|id| key(&name(id))).collect();
    let body = Body::Founded(network(size));
    Statements::empty()
        .statement(body)
        .sign(&orgs.iter().collect::<Vec<_>>())
}
