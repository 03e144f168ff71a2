use super::backend::Disk;
use crate::databases::Databases;
use crate::{
    Alarm, Clock, HeadServer, Identity, NodeId, RaftServer, Replica, ReplicaConfig, ReplicaStatus,
    Role,
};
use futures::FutureExt;
use medanchor_anchor::testing::{self, BEGINNING, MEMBERS, World, key};
use medanchor_anchor::{
    Append, Appended, Body, Founded, PrincipalKind, Read, Row, SignedStatement, State, Submission,
    Table,
};
use medanchor_api::pb::raft::raft_service_client::RaftServiceClient;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

/// Replicas that talk over loopback. Each listens on a port of its own for each other node, and so knows
/// who calls.
pub(crate) struct Cluster {
    ports: BTreeMap<(NodeId, NodeId), u16>,
    /// What each node's clock shows, unix ms.
    pub(crate) clocks: BTreeMap<NodeId, Arc<AtomicU64>>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Nodes 1 to this one found the network.
    pub(crate) founders: u64,
    tune: fn(&mut ReplicaConfig),
}

pub(crate) struct Node {
    pub(crate) replica: Replica,
    pub(crate) dir: TempDir,
    pub(crate) log: Disk,
    pub(crate) state: Disk,
    pub(crate) alarms: watch::Receiver<Vec<Alarm>>,
    servers: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// What is left of a node after a power loss.
pub(crate) struct Remains {
    pub(crate) dir: TempDir,
    pub(crate) log: Disk,
    pub(crate) state: Disk,
}

impl Remains {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            log: Disk::default(),
            state: Disk::default(),
        }
    }
}

/// A test that fails while a disk is held must end: nobody else would let it go on.
impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            node.log.hold(false);
        }
    }
}

impl Cluster {
    /// Starts `count` nodes and founds the network.
    pub(crate) async fn founded(count: u64, tune: fn(&mut ReplicaConfig)) -> Self {
        let mut cluster = Self::new(count, tune).await;
        for id in 1..=count {
            cluster.start(id, Remains::new()).await;
        }
        cluster.found().await;
        cluster
    }

    /// Founds the network; all nodes run.
    pub(crate) async fn found(&self) {
        for node in self.nodes.values() {
            node.replica.found(founded()).await.unwrap();
        }
    }

    /// No node runs yet.
    pub(crate) async fn new(count: u64, tune: fn(&mut ReplicaConfig)) -> Self {
        let mut ports = BTreeMap::new();
        let mut reserved = Vec::new();
        for from in 1..=count {
            for to in 1..=count {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ports.insert((from, to), listener.local_addr().unwrap().port());
                reserved.push(listener);
            }
        }
        let clock = |id| (id, Arc::new(AtomicU64::new(BEGINNING)));
        Self {
            ports,
            clocks: (1..=count).map(clock).collect(),
            nodes: BTreeMap::new(),
            founders: count,
            tune,
        }
    }

    pub(crate) async fn start(&mut self, id: NodeId, remains: Remains) {
        let mut config = self.config(id, &remains);
        let (raised, alarms) = watch::channel(Vec::new());
        config.alarm = Arc::new(move |alarm| raised.send_modify(|all| all.push(alarm)));
        (self.tune)(&mut config);
        let databases = Databases {
            log: remains.log.database(),
            log_bytes: 0,
            state: remains.state.database(),
        };
        let replica = Replica::open_with(config, databases).await.unwrap();
        let mut servers = Vec::new();
        for (&(from, to), port) in &self.ports {
            if to == id && from != id {
                let listener = TcpListener::bind(("127.0.0.1", *port)).await.unwrap();
                let server = RaftServer::new(replica.clone(), Arc::new(move |_| Some(from)));
                let heads = HeadServer::new(replica.clone(), Arc::new(move |_| Some(from)));
                let (end, ended) = oneshot::channel();
                let serving = Server::builder()
                    .add_service(server.into_service())
                    .add_service(heads.into_service())
                    .serve_with_incoming_shutdown(
                        TcpListenerStream::new(listener),
                        ended.map(|_| ()),
                    );
                servers.push((end, tokio::spawn(async move { serving.await.unwrap() })));
            }
        }
        let node = Node {
            replica,
            dir: remains.dir,
            log: remains.log,
            state: remains.state,
            alarms,
            servers,
        };
        self.nodes.insert(id, node);
    }

    /// Speaks to `to` as if it were `from`.
    pub(crate) fn client(&self, from: NodeId, to: NodeId) -> RaftServiceClient<Channel> {
        RaftServiceClient::new(channel(self.ports[&(from, to)]))
    }

    /// Ends a node as a power loss would: what was not synced is gone.
    pub(crate) async fn kill(&mut self, id: NodeId) -> Remains {
        let node = self.nodes.remove(&id).unwrap();
        let remains = Remains {
            log: node.log.after_power_loss(),
            state: node.state.after_power_loss(),
            dir: node.dir,
        };
        node.replica.raft().shutdown().await.unwrap();
        // The connections must end too, or the others would go on talking to a dead replica.
        for (end, server) in node.servers {
            drop(end);
            server.await.unwrap();
        }
        remains
    }

    /// Waits for an alarm on a node.
    pub(crate) async fn alarm(&self, id: NodeId, wanted: impl Fn(&Alarm) -> bool) -> Alarm {
        let mut alarms = self.nodes[&id].alarms.clone();
        let alarms = alarms.wait_for(|all| all.iter().any(&wanted)).await;
        let alarms = alarms.unwrap();
        alarms.iter().find(|alarm| wanted(alarm)).unwrap().clone()
    }

    pub(crate) fn replica(&self, id: NodeId) -> &Replica {
        &self.nodes[&id].replica
    }

    /// Waits until all nodes that run follow the same leader, which runs too.
    pub(crate) async fn leader(&self) -> NodeId {
        loop {
            let any = self.nodes.values().next().unwrap();
            let status = any
                .replica
                .wait(|now| {
                    now.leader
                        .is_some_and(|leader| self.nodes.contains_key(&leader))
                })
                .await;
            let leader = status.leader.unwrap();
            let mut agreed = true;
            for node in self.nodes.values() {
                let follows =
                    |now: &ReplicaStatus| now.leader == Some(leader) || now.term > status.term;
                agreed &= node.replica.wait(follows).await.leader == Some(leader);
            }
            if agreed && self.replica(leader).role() == Role::Leader {
                return leader;
            }
        }
    }

    /// A node that runs and does not lead.
    pub(crate) async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).unwrap()
    }

    /// Asserts that all nodes hold the same rows.
    pub(crate) async fn assert_equal(&self) -> [u8; 32] {
        let mut first = None;
        for node in self.nodes.values() {
            node.replica.barrier().await.unwrap();
            let tables = dump(&node.replica);
            for (left, right) in first.get_or_insert(tables.clone()).iter().zip(tables) {
                assert_eq!(left.1.len(), right.1.len(), "rows of {:?}", left.0);
                assert_eq!(*left, right);
            }
        }
        root(&self.nodes.values().next().unwrap().replica)
    }

    fn clock(&self, id: NodeId) -> Clock {
        let clock = Arc::clone(&self.clocks[&id]);
        Arc::new(move || clock.load(Ordering::SeqCst))
    }

    fn config(&self, id: NodeId, remains: &Remains) -> ReplicaConfig {
        let channels = self.ports.range((id, 0)..(id + 1, 0));
        let channels: BTreeMap<NodeId, Channel> = channels
            .map(|(&(_, node_id), port)| (node_id, channel(*port)))
            .collect();
        ReplicaConfig {
            deadline: Duration::from_secs(30),
            ..ReplicaConfig::new(
                id,
                (1..=self.founders).collect(),
                identity(id),
                remains.dir.path().to_owned(),
                Arc::new(move |node_id| channels.get(&node_id).cloned().map(Into::into)),
                self.clock(id),
            )
        }
    }
}

impl Replica {
    pub(crate) async fn wait(&self, condition: impl Fn(&ReplicaStatus) -> bool) -> ReplicaStatus {
        *self.watch().wait_for(condition).await.unwrap()
    }
}

/// Three organisations and an outside witness, three of whom publish: one may be dishonest, so that two
/// certify a snapshot.
pub(crate) fn network() -> Founded {
    let mut founded = testing::founded(testing::cid("policy"));
    let witness = testing::verifier_key("witness", 0x04, &testing::did("witness"));
    founded.witnesses.push(witness);
    founded
}

/// What the node of the member with this id speaks for.
pub(crate) fn identity(node_id: NodeId) -> Identity {
    let names = [MEMBERS[0], MEMBERS[1], MEMBERS[2], "hospital-d"];
    let name = names[usize::try_from(node_id).unwrap() - 1];
    Identity {
        origin: testing::ORIGIN.to_owned(),
        founded: network(),
        joined: network(),
        key: Arc::new(testing::node_key(name)),
    }
}

pub(crate) fn founded() -> SignedStatement {
    let orgs = MEMBERS.map(key);
    let body = Body::Founded(network());
    World::empty().statement(body).sign(&orgs.each_ref())
}

/// Enrols a person of the first member.
pub(crate) fn submission(name: &str) -> Submission {
    let body = testing::enrolled(name, PrincipalKind::Person, MEMBERS[0], &["clinician"]);
    Submission {
        signed: World::empty().statement(body).sign(&[&key(MEMBERS[0])]),
        holds: Vec::new(),
        list: None,
    }
}

/// Appends statements named `names` one after the other.
pub(crate) async fn append(
    replica: &Replica,
    names: impl Iterator<Item = String>,
) -> Vec<Appended> {
    let mut all = Vec::new();
    for name in names {
        all.push(replica.append(submission(&name)).await.unwrap());
    }
    all
}

pub(crate) fn assert_holds(replica: &Replica, acknowledged: &[Appended]) {
    let view = replica.view().unwrap();
    for appended in acknowledged {
        let leaf = State::new(&*view).leaf(appended.index).unwrap();
        assert_eq!(leaf.as_ref(), Some(&appended.leaf));
    }
}

pub(crate) fn root(replica: &Replica) -> [u8; 32] {
    *State::new(&*replica.view().unwrap())
        .root()
        .unwrap()
        .as_bytes()
}

fn dump(replica: &Replica) -> Vec<(Table, Vec<Row>)> {
    let view = replica.view().unwrap();
    let rows = |table| (table, view.range(table, &[], None, usize::MAX).unwrap());
    Table::ALL.map(rows).to_vec()
}

fn channel(port: u16) -> Channel {
    let address = format!("http://127.0.0.1:{port}");
    Endpoint::from_shared(address).unwrap().connect_lazy()
}
