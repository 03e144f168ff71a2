//! Wires the parts of a node and runs them until told to stop.

use crate::{
    alarms::Alarms,
    auditor::Auditor,
    caller::Callers,
    clock,
    collector::{self, Collector, CollectorParts},
    config::{Config, Folder, Role},
    connections::Limits,
    cosigner::{Cosigner, CosignerParts, Follows},
    emergencies::warn_task,
    epoch_key::{EpochKey, open_custody},
    eraser::Eraser,
    fatal_store::FatalStore,
    files,
    follower::{Follower, OwnParts},
    gatherer::Gatherer,
    holders::{self, Holders},
    joined,
    keys::{self, KeyName},
    leaders::{self, Leaders},
    log_routes::{self, Requests},
    membership::{Believed, Membership, multiaddr},
    monitor::{Monitor, MonitorParts, OwnTree},
    others_receipts::OthersReceipts,
    passphrase,
    publisher::{self, Publisher, PublisherParts},
    replicator::{self, Replicator, ReplicatorParts},
    scrub::{self, Scrubber, ScrubberParts},
    server::Listener,
    services::{
        Access, Anchor, Blocks, Checks, CustodyKeys, Followed, Holding, Registry, SecondFactors,
        Uploads,
    },
    shown_checkpoint::ShownCheckpoint,
    sources::Sources,
    submit::Submitter,
    tile_routes::TileServer,
    tls,
    unanchored::{self, Unanchored},
    witness::Witness,
    witness_routes,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Founded, Member, SignedStatement};
use medanchor_api::pb::{
    self,
    access::{
        access_service_server::AccessServiceServer, custody_service_server::CustodyServiceServer,
        factor_service_server::FactorServiceServer,
    },
    anchor::anchor_service_server::AnchorServiceServer,
    block::{block_service_server::BlockServiceServer, hold_service_server::HoldServiceServer},
    raft::checkpoint_service_server::CheckpointServiceServer,
    registry::registry_service_server::RegistryServiceServer,
};
use medanchor_broker::{Broker, BrokerParts, Custody, Factors, Rate};
use medanchor_dag::{Cid, DiskStore};
use medanchor_ipfs::{Peer, PeerConfig, PeerKey, SwarmKey};
use medanchor_policy::PolicySets;
use medanchor_raft::{AlarmSink, HeadServer, Identity, RaftServer, Replica, ReplicaConfig};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use zeroize::Zeroizing;

/// Runs a node until `stop`, then drains: nothing new is accepted, what is under way is finished. `passphrase_file` goes before
/// that of the config.
///
/// # Errors
///
/// When it cannot start, or cannot go on because it no longer knows its durable state.
pub async fn run(
    folder: &Folder,
    passphrase_file: Option<&Path>,
    stop: CancellationToken,
) -> Result<()> {
    let config = Config::open(&folder.config())?;
    match config.role {
        Role::Member => {
            let sealing = SealingKeys::open(folder, &config, passphrase_file).await;
            let sealing = sealing.context("failed to start")?;
            run_member(folder, &config, sealing, stop).await
        }
        Role::Witness => run_witness(folder, &config, stop).await,
    }
}

async fn run_member(
    folder: &Folder,
    config: &Config,
    sealing: SealingKeys,
    stop: CancellationToken,
) -> Result<()> {
    let node = Node::start(folder, config, sealing, &stop)
        .await
        .context("failed to start")?;
    let tasks = TaskTracker::new();
    // Calls that are under way when the node is told to stop still wait for their receipts.
    let answered = CancellationToken::new();
    tasks.spawn(Arc::clone(&node.publisher).publish_task(answered.clone()));
    tasks.spawn(Arc::clone(&node.publisher).learn_task(answered.clone()));
    tasks.spawn(Arc::clone(&node.monitor).poll_task(stop.clone()));
    tasks.spawn(node.leaders.keep_task(node.told, stop.clone()));
    tasks.spawn(node.auditor.audit_task(stop.clone()));
    tasks.spawn(warn_task(Arc::clone(&node.replica), stop.clone()));
    tasks.spawn(Arc::clone(&node.scrubber).scrub_task(stop.clone()));
    tasks.spawn(node.collector.collect_task(stop.clone()));
    tasks.spawn(node.eraser.erase_task(stop.clone()));
    tasks.spawn(node.replicator.replicate_task(stop.clone()));
    tasks.spawn(node.scrubber.repair_task(node.found_bad, stop.clone()));
    tracing::info!(node = config.name, address = %config.listen, "serving");
    let ports = [Some((node.listener, node.routes)), node.log];
    let served = serve_all(ports.into_iter().flatten(), &stop);
    let ended = tokio::select! {
        served = served => served,
        reason = found(&node.replica, node.founding) => Err(reason),
        removed = node.follower.follow(stop.clone()) => removed,
        reason = node.replica.stopped() => Err(disk_failed(folder.raft(), reason)),
        () = node.store_failed.cancelled() => Err(disk_failed(folder.blocks(), write_failed())),
        () = node.cosigner_failed.cancelled() => Err(disk_failed(folder.cosigned(), write_failed())),
        () = node.contradicted.cancelled() => Err(disk_failed(folder.raft(), contradicted())),
    };
    stop.cancel();
    answered.cancel();
    tasks.close();
    let drained = async {
        tasks.wait().await;
        if let Err(error) = node.replica.shutdown().await {
            tracing::error!("the replica did not close cleanly: {error}");
        }
        node.peer.shutdown().await;
    };
    if timeout(DRAIN_WITHIN, drained).await.is_err() {
        tracing::warn!("stopping although some work is not finished");
    }
    tracing::info!("stopped");
    ended
}

async fn run_witness(folder: &Folder, config: &Config, stop: CancellationToken) -> Result<()> {
    let alarms = Arc::new(Alarms::open(&folder.alarms())?);
    let founding = open_founding(folder)?;
    let membership = Membership::open(folder, config, founded_of(&founding)?, None)?;
    let (witness, monitor) = open_witness(folder, config, &membership, &alarms)?;
    let failed = witness.failed();
    let (tls, clients) = (membership.tls(), Arc::clone(membership.clients()));
    let listener = Listener::bind(config.listen, tls, clients, Limits::PUBLIC).await?;
    let tasks = TaskTracker::new();
    tasks.spawn(Arc::clone(&monitor).poll_task(stop.clone()));
    let follower = Follower {
        membership,
        monitor,
        own: None,
    };
    let following = stop.clone();
    tasks.spawn(async move { follower.follow(following).await });
    tracing::info!(witness = config.name, address = %config.listen, "serving");
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let routes = Routes::new(health_service)
        .into_axum_router()
        .merge(witness_routes::routes(Arc::new(witness)));
    let routes = log_routes::bounded(routes, Requests::default());
    let served = tokio::select! {
        served = listener.serve(routes.into(), stop.clone()) => served,
        () = failed.cancelled() => Err(disk_failed(folder.cosigned(), write_failed())),
    };
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    served
}

/// Serves every port until `stop`, or until one of them fails.
async fn serve_all(
    ports: impl Iterator<Item = (Listener, Routes)>,
    stop: &CancellationToken,
) -> Result<()> {
    let served = ports.map(|(listener, routes)| Box::pin(listener.serve(routes, stop.clone())));
    futures::future::try_join_all(served).await.map(drop)
}

/// The keys that open what the node keeps for others.
struct SealingKeys {
    custody: Custody,
    factors: Zeroizing<[u8; 32]>,
    passphrase_file: Option<PathBuf>,
}

impl SealingKeys {
    /// A passphrase takes seconds of work, and memory that is given back.
    async fn open(folder: &Folder, config: &Config, given: Option<&Path>) -> Result<Self> {
        let passphrase = passphrase::of_node(config, given)?;
        if passphrase.is_none() {
            tracing::warn!(
                "the keys of custody and second factors are in clear: whoever has this disk opens every custody key; \
                 `medanchord passphrase` puts them under a passphrase"
            );
        }
        let file = passphrase::file_of(config, given).map(Path::to_owned);
        let folder = folder.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let passphrase = passphrase.as_ref();
            Ok(Self {
                custody: open_custody(&folder, passphrase)?,
                factors: keys::open_under(&folder.keys(), KeyName::Factors, passphrase)?,
                passphrase_file: file,
            })
        });
        opened.await?
    }
}

/// A member's node, wired and listening.
struct Node {
    listener: Listener,
    routes: Routes,
    log: Option<(Listener, Routes)>,
    replica: Arc<Replica>,
    peer: Arc<Peer>,
    publisher: Arc<Publisher>,
    monitor: Arc<Monitor>,
    leaders: Leaders,
    auditor: Arc<Auditor>,
    follower: Follower,
    told: mpsc::Receiver<medanchor_raft::Alarm>,
    founding: SignedStatement,
    scrubber: Arc<Scrubber>,
    collector: Arc<Collector>,
    eraser: Eraser,
    replicator: Arc<Replicator>,
    found_bad: mpsc::Receiver<Cid>,
    store_failed: CancellationToken,
    cosigner_failed: CancellationToken,
    contradicted: CancellationToken,
}

impl Node {
    async fn start(
        folder: &Folder,
        config: &Config,
        sealing: SealingKeys,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let founding = open_founding(folder)?;
        let founded = founded_of(&founding)?.clone();
        let key = Arc::new(keys::open_signing(&folder.keys(), KeyName::Node)?);
        let membership = Membership::open(folder, config, &founded, Some(key.did()))?;
        membership.check_own()?;
        let own = own_member(&membership)?;
        let policies = Arc::new(PolicySets::default());
        let (tls, clients) = (membership.tls(), membership.clients());
        let services = Arc::clone(clients);
        let listener = Listener::bind(config.listen, tls, services, Limits::SERVICES).await?;
        let log_listener = match config.log_listen {
            Some(address) => {
                let clients = clients.optional();
                Some(Listener::bind(address, tls, clients, Limits::PUBLIC).await?)
            }
            None => None,
        };
        let callers = Callers::new(&membership, &tls::own_authority(&folder.tls())?)?;
        let alarms = Arc::new(Alarms::open(&folder.alarms())?);

        let (store, found_bad) = open_store(folder).await?;
        let store_failed = store.failed();
        let peer = Arc::new(start_peer(folder, config, &membership, Arc::clone(&store)).await?);
        let (tell, told) = leaders::channel();
        let replica = open_replica(folder, config, &own, &membership, &founding, tell).await?;
        let replica = Arc::new(replica);
        let Transparency {
            monitor,
            cosigner,
            publisher,
        } = Transparency::open(folder, config, &membership, &replica, &alarms)?;
        let witness = Arc::new(Witness::open(folder, config, cosigner, &alarms)?);
        let follower = Follower {
            membership: Arc::clone(&membership),
            monitor: Arc::clone(&monitor),
            own: Some(OwnParts {
                replica: Arc::clone(&replica),
                peer: Arc::clone(&peer),
            }),
        };
        let scrubber = Arc::new(Scrubber::new(ScrubberParts {
            node: key.did(),
            store: Arc::clone(&store),
            peer: Arc::clone(&peer),
            replica: Arc::clone(&replica),
            bytes_per_second: config
                .scrub_bytes_per_second
                .unwrap_or(scrub::BYTES_PER_SECOND),
            every: seconds(config.scrub_every_seconds, scrub::EVERY),
        })?);
        let keep_unanchored = seconds(config.keep_unanchored_seconds, collector::KEEP_UNANCHORED);
        let unanchored_bytes = config.unanchored_bytes.unwrap_or(unanchored::LIMIT_BYTES);
        let unanchored = Arc::new(Unanchored::new(unanchored_bytes, keep_unanchored));
        let collector = Arc::new(Collector::new(CollectorParts {
            node: key.did(),
            store: Arc::clone(&store),
            replica: Arc::clone(&replica),
            every: seconds(config.collect_every_seconds, collector::EVERY),
            rest: config.collect_rest.unwrap_or(collector::REST),
            keep_unanchored,
            lost_records: config.lost_records()?,
        }));
        let leaders = Leaders {
            origin: config.origin.clone(),
            members: leaders::members_of(Arc::clone(&replica)),
            prove: [
                Arc::clone(&publisher) as _,
                Arc::new(OthersReceipts {
                    membership: Arc::clone(&membership),
                }),
            ],
            alarms: Arc::clone(&alarms),
            clock: Arc::new(clock::unix_ms),
        };
        let auditor = Arc::new(Auditor {
            origin: config.origin.clone(),
            replica: Arc::clone(&replica),
            policies: Arc::clone(&policies),
            prove: Arc::clone(&publisher) as _,
            alarms: Arc::clone(&alarms),
            progress: folder.audited(),
        });
        let holders = Arc::new(Holders {
            origin: config.origin.clone(),
            key: Arc::clone(&key),
            node_id: own.node_id,
            peer_id: own.peer_id.clone(),
            peer: Arc::clone(&peer),
            store: Arc::clone(&store),
            replica: Arc::clone(&replica),
            membership: Arc::clone(&membership),
            held_for: seconds(config.hold_seconds, holders::HELD_FOR),
        });
        let (gatherer, gathering) = Gatherer::new(Arc::clone(&replica), Arc::clone(&holders));
        tokio::spawn(gathering);
        let submitter = Arc::new(Submitter {
            replica: Arc::clone(&replica),
            holders: Arc::clone(&holders),
            publisher: Arc::clone(&publisher),
            gatherer,
            unanchored: Arc::clone(&unanchored),
        });
        let replicator = Arc::new(Replicator::new(ReplicatorParts {
            node: key.did(),
            holders: Arc::clone(&holders),
            submitter: Arc::clone(&submitter),
            absent_after: seconds(config.absent_after_seconds, replicator::ABSENT_AFTER),
            every: seconds(config.replicate_every_seconds, replicator::EVERY),
            bytes_per_second: config
                .replicate_bytes_per_second
                .unwrap_or(replicator::BYTES_PER_SECOND),
        }));
        let custody = Arc::new(sealing.custody);
        let eraser = Eraser {
            node: key.did(),
            replica: Arc::clone(&replica),
            submitter: Arc::clone(&submitter),
            collector: Arc::clone(&collector),
            epoch_key: EpochKey {
                custody: Arc::clone(&custody),
                keys: folder.keys(),
                passphrase: sealing.passphrase_file,
            },
        };
        let factors = Factors::open(&folder.factors(), sealing.factors);
        let factors = factors.context("open second factors")?;
        let broker = Arc::new(Broker::new(BrokerParts {
            origin: config.origin.clone(),
            key: Arc::clone(&key),
            custody: Arc::clone(&custody),
            policies: Arc::clone(&policies),
            append: Arc::clone(&replica) as _,
            read: Arc::clone(&replica) as _,
            prove: Arc::clone(&publisher) as _,
            blocks: Arc::clone(&peer) as _,
            clock: Arc::new(clock::unix_ms),
            releases: Rate::RELEASES,
        }));
        let log = match log_listener {
            Some(listener) => {
                let published = Arc::clone(&publisher);
                let published = Box::new(move || published.published());
                let shown = ShownCheckpoint::open(folder.checkpoint(), published)?;
                let tiles = TileServer::new(config.log_entries, Arc::clone(&replica) as _, shown);
                Some((listener, log_routes::routes(tiles, Arc::clone(&witness))))
            }
            None => None,
        };
        let cosigner_failed = witness.failed();
        let services = Services {
            anchor: Anchor {
                submitter,
                replica: Arc::clone(&replica),
                publisher: Arc::clone(&publisher),
                membership: Arc::clone(&membership),
                callers: callers.clone(),
                entries: config.log_entries,
                draining: stop.clone(),
            },
            blocks: Blocks {
                store: Arc::clone(&store),
                peer: Arc::clone(&peer),
                uploads: Uploads::default(),
                membership: Arc::clone(&membership),
                unanchored,
            },
            holding: Holding {
                holders,
                callers: callers.clone(),
            },
            access: Access {
                broker,
                replica: Arc::clone(&replica),
                membership: Arc::clone(&membership),
            },
            custody: CustodyKeys {
                origin: config.origin.clone(),
                custody,
                key: Arc::clone(&key),
                replica: Arc::clone(&replica),
                callers: callers.clone(),
            },
            factors: SecondFactors {
                origin: config.origin.clone(),
                key: Arc::clone(&key),
                factors: Arc::new(factors),
                replica: Arc::clone(&replica),
                membership: Arc::clone(&membership),
                callers: callers.clone(),
            },
            registry: Registry {
                origin: config.origin.clone(),
                name: config.name.clone(),
                did: key.did(),
                replica: Arc::clone(&replica),
                store,
                peer: Arc::clone(&peer),
                scrubber: Arc::clone(&scrubber),
                collector: Arc::clone(&collector),
                replicator: Arc::clone(&replicator),
                publisher: Arc::clone(&publisher),
                membership,
                alarms,
                checks: Checks::default(),
                policies,
            },
            followed: Followed {
                publisher: Arc::clone(&publisher),
                callers: callers.clone(),
            },
        };
        let caller: medanchor_raft::Caller = Arc::new(move |extensions| callers.member(extensions));
        let heads = HeadServer::new(Replica::clone(&replica), Arc::clone(&caller));
        let raft = RaftServer::new(Replica::clone(&replica), caller);
        let routes = services.routes(raft, heads, witness).await?;
        let contradicted = publisher.contradicted();
        Ok(Self {
            listener,
            routes,
            log,
            replica,
            peer,
            publisher,
            monitor,
            leaders,
            auditor,
            follower,
            told,
            founding,
            scrubber,
            collector,
            eraser,
            replicator,
            found_bad,
            store_failed,
            cosigner_failed,
            contradicted,
        })
    }
}

struct Services {
    anchor: Anchor,
    blocks: Blocks,
    holding: Holding,
    access: Access,
    custody: CustodyKeys,
    factors: SecondFactors,
    registry: Registry,
    followed: Followed,
}

impl Services {
    async fn routes(
        self,
        raft: RaftServer,
        heads: HeadServer,
        witness: Arc<Witness>,
    ) -> Result<Routes> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        health.set_serving::<AnchorServiceServer<Anchor>>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut routes = Routes::builder();
        routes
            .add_service(health_service)
            .add_service(reflection().build_v1().context("offer reflection")?)
            .add_service(reflection().build_v1alpha().context("offer reflection")?)
            .add_service(AnchorServiceServer::new(self.anchor))
            .add_service(BlockServiceServer::new(self.blocks))
            .add_service(HoldServiceServer::new(self.holding))
            .add_service(AccessServiceServer::new(self.access))
            .add_service(CustodyServiceServer::new(self.custody))
            .add_service(FactorServiceServer::new(self.factors))
            .add_service(RegistryServiceServer::new(self.registry))
            .add_service(CheckpointServiceServer::new(self.followed))
            .add_service(heads.into_service())
            .add_service(raft.into_service());
        let router = routes.routes().into_axum_router();
        Ok(router.merge(witness_routes::routes(witness)).into())
    }
}

pub(crate) fn open_founding(folder: &Folder) -> Result<SignedStatement> {
    let path = folder.founded();
    let bytes = std::fs::read(&path).with_context(|| format!("read `{}`", path.display()))?;
    SignedStatement::from_bytes(&bytes).with_context(|| format!("parse `{}`", path.display()))
}

pub(crate) fn founded_of(founding: &SignedStatement) -> Result<&Founded> {
    match &founding.statement.body {
        Body::Founded(founded) => Ok(founded),
        _ => anyhow::bail!("`founded.cbor` is not a founding statement"),
    }
}

/// The member whose node this is. It is one already, or it could not have joined.
fn own_member(membership: &Membership) -> Result<Member> {
    let now = membership.now();
    let own = membership.own().and_then(|own| now.entry_of(&own));
    let own = own.context("the network has no member with this node's key")?;
    Ok(own.member.clone())
}

async fn open_store(folder: &Folder) -> Result<(Arc<FatalStore>, mpsc::Receiver<Cid>)> {
    let path = folder.blocks();
    let store = tokio::task::spawn_blocking(move || DiskStore::open(&path))
        .await?
        .context("open the block store")?;
    let (store, found_bad) = FatalStore::new(store);
    Ok((Arc::new(store), found_bad))
}

async fn start_peer(
    folder: &Folder,
    config: &Config,
    membership: &Membership,
    store: Arc<FatalStore>,
) -> Result<Peer> {
    let swarm_key = files::read_text(&folder.swarm_key(), 256)?;
    let seed = keys::open(&folder.keys(), KeyName::Peer)?;
    let listen = config.swarm_listen.context("`swarm_listen` is missing")?;
    let config = PeerConfig {
        key: PeerKey::from_seed(&seed),
        swarm_key: SwarmKey::parse(&swarm_key).context("parse `swarm.key`")?,
        listen: vec![multiaddr(listen)],
        peers: membership.swarm_peers()?,
    };
    Peer::start(config, store)
        .await
        .context("join the private swarm")
}

async fn open_replica(
    folder: &Folder,
    config: &Config,
    own: &Member,
    membership: &Arc<Membership>,
    founding: &SignedStatement,
    alarm: AlarmSink,
) -> Result<Replica> {
    let founded = founded_of(founding)?;
    let founders = founded.members.iter();
    let joined = membership.now().founded_anew(founded);
    let membership = Arc::clone(membership);
    let (joining, node_id) = (folder.clone(), own.node_id);
    tokio::task::spawn_blocking(move || joined::join(&joining, node_id)).await??;
    let identity = Identity {
        origin: config.origin.clone(),
        founded: founded.clone(),
        joined,
        key: Arc::new(keys::open_signing(&folder.keys(), KeyName::Node)?),
    };
    let mut replica = ReplicaConfig::new(
        own.node_id,
        founders.map(|founder| founder.node_id).collect(),
        identity,
        folder.raft(),
        Arc::new(move |node_id| Some(membership.to(node_id)?.channel.clone())),
        Arc::new(clock::unix_ms),
    );
    replica.alarm = alarm;
    if let Some(every) = config.snapshot_every {
        replica.snapshot_every = every;
        replica.keep_entries = replica.keep_entries.min(every);
    }
    Replica::open(replica).await.context("open the replica")
}

/// Founds the network, if that is this node's to do; ends only when it cannot be. The node serves meanwhile:
/// it may take another node to lead, if this one's clock is wrong.
async fn found(replica: &Replica, founding: SignedStatement) -> anyhow::Error {
    match replica.found(founding).await {
        Ok(()) => std::future::pending().await,
        Err(error) => anyhow::anyhow!(error).context("found the network"),
    }
}

/// Watches the network's log: a member with its own tree, a witness without.
fn open_monitor(
    folder: &Folder,
    config: &Config,
    membership: &Arc<Membership>,
    tree: Option<OwnTree>,
    alarms: &Arc<Alarms>,
) -> Result<Monitor> {
    Monitor::open(MonitorParts {
        believed: Believed::Network(Arc::clone(membership)),
        tree,
        sources: Sources {
            origin: config.origin.clone(),
            membership: Some(Arc::clone(membership)),
        },
        alarms: Arc::clone(alarms),
        folder: folder.known_checkpoints(),
    })
}

fn open_cosigner(
    folder: &Folder,
    config: &Config,
    membership: &Arc<Membership>,
    monitor: &Arc<Monitor>,
    alarms: &Arc<Alarms>,
) -> Result<Cosigner> {
    let (name, follows) = match config.role {
        Role::Member => (cosigner_name(config, &config.name), Follows::Itself),
        // It has no replica, and follows those who have.
        Role::Witness => (config.name.clone(), Follows::Members),
    };
    let parts = CosignerParts {
        origin: config.origin.clone(),
        name,
        key: keys::open_signing(&folder.keys(), KeyName::Cosigner)?,
        believed: Believed::Network(Arc::clone(membership)),
        follows,
        monitor: Arc::clone(monitor),
        alarms: Arc::clone(alarms),
        failed: CancellationToken::new(),
    };
    Cosigner::open(&folder.cosigned(), parts)
}

/// An outside witness of the network, and what watches the log for it.
pub(crate) fn open_witness(
    folder: &Folder,
    config: &Config,
    membership: &Arc<Membership>,
    alarms: &Arc<Alarms>,
) -> Result<(Witness, Arc<Monitor>)> {
    let monitor = Arc::new(open_monitor(folder, config, membership, None, alarms)?);
    let cosigner = open_cosigner(folder, config, membership, &monitor, alarms)?;
    let witness = Witness::open(folder, config, Arc::new(cosigner), alarms)?;
    Ok((witness, monitor))
}

/// What makes a member's copy of the log one that others can check.
struct Transparency {
    monitor: Arc<Monitor>,
    cosigner: Arc<Cosigner>,
    publisher: Arc<Publisher>,
}

impl Transparency {
    fn open(
        folder: &Folder,
        config: &Config,
        membership: &Arc<Membership>,
        replica: &Arc<Replica>,
        alarms: &Arc<Alarms>,
    ) -> Result<Self> {
        let log_key = || keys::open_signing(&folder.keys(), KeyName::Log);
        let tree = OwnTree {
            replica: Arc::clone(replica),
            log_key: log_key()?,
        };
        let monitor = open_monitor(folder, config, membership, Some(tree), alarms)?;
        let monitor = Arc::new(monitor);
        let cosigner = open_cosigner(folder, config, membership, &monitor, alarms)?;
        let cosigner = Arc::new(cosigner);
        let publisher = Publisher::new(PublisherParts {
            origin: config.origin.clone(),
            log_key: log_key()?,
            membership: Arc::clone(membership),
            replica: Arc::clone(replica),
            cosigner: Arc::clone(&cosigner),
            monitor: Arc::clone(&monitor),
            reissue_after: seconds(config.reissue_after_seconds, publisher::REISSUE_AFTER),
        });
        Ok(Self {
            monitor,
            cosigner,
            publisher: Arc::new(publisher),
        })
    }
}

/// What the config says, or else what is usual.
fn seconds(said: Option<u32>, usual: Duration) -> Duration {
    said.map_or(usual, |seconds| Duration::from_secs(seconds.into()))
}

/// The name under which a member co-signs.
fn cosigner_name(config: &Config, member: &str) -> String {
    format!("{}/{member}", config.origin)
}

/// A disk failed or is full, so that nobody knows what is durable on it: the node has stopped. Nothing that
/// was acknowledged is lost, and it can be started again when the disk is well and has room.
#[derive(Debug)]
pub(crate) struct DiskFailed(PathBuf);

impl fmt::Display for DiskFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this node no longer knows what is durable in `{}` and stops: the disk failed or is full; \
             restart the node when the disk is well and has room",
            self.0.display()
        )
    }
}

fn write_failed() -> anyhow::Error {
    anyhow::anyhow!("a write failed")
}

fn contradicted() -> anyhow::Error {
    anyhow::anyhow!(
        "this copy of the log is damaged: it does not extend what this node has signed; \
         `medanchord rebuild-state` makes it anew"
    )
}

fn disk_failed(folder: PathBuf, cause: impl Into<anyhow::Error>) -> anyhow::Error {
    cause.into().context(DiskFailed(folder))
}

const DRAIN_WITHIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    mod foreign_witness;

    use super::*;
    use crate::{
        alarms,
        cosigner::CosignError,
        found::{Plan, PlannedMember, found},
    };
    use medanchor_anchor::{
        AddCheckpoint, AddCheckpointError, Checkpoint, ConsistencyProof, Equivocation, Prove,
        SignedNote, Strength, cosign,
    };
    use medanchor_dag::{Hash, SigningKey};

    /// A network of one, without its services.
    struct Alone {
        _data: tempfile::TempDir,
        folder: Folder,
        config: Config,
        replica: Arc<Replica>,
        membership: Arc<Membership>,
        parts: Transparency,
        alarms: Arc<Alarms>,
    }

    impl Alone {
        async fn start() -> Self {
            Self::start_with(|_, _| ()).await
        }

        /// With the founding and config as `change` leaves them.
        async fn start_with(change: impl FnOnce(&mut Founded, &mut Config)) -> Self {
            let data = tempfile::tempdir().unwrap();
            let folder = Folder::new(data.path().join("node"));
            let plan = Plan {
                origin: "test.example/medanchor".to_owned(),
                members: vec![PlannedMember {
                    name: "hospital".to_owned(),
                    folder: folder.path().to_owned(),
                    listen: "127.0.0.1:1".parse().unwrap(),
                    swarm_listen: "127.0.0.1:2".parse().unwrap(),
                    log_listen: "127.0.0.1:3".parse().unwrap(),
                    passphrase_file: None,
                }],
                witnesses: Vec::new(),
                foreign_witnesses: Vec::new(),
                copies: 1,
                quorum: 1,
            };
            found(&plan, |_| unreachable!()).unwrap();
            let mut config = Config::open(&folder.config()).unwrap();
            let founding = open_founding(&folder).unwrap();
            let mut founded = founded_of(&founding).unwrap().clone();
            let node = Some(
                keys::open_signing(&folder.keys(), KeyName::Node)
                    .unwrap()
                    .did(),
            );
            let membership = Membership::open(&folder, &config, &founded, node).unwrap();
            let own = own_member(&membership).unwrap();
            let (tell, _) = leaders::channel();
            let replica = open_replica(&folder, &config, &own, &membership, &founding, tell);
            let replica = Arc::new(replica.await.unwrap());
            replica.found(founding.clone()).await.unwrap();
            // The replica's network is founded: it has one member, whatever else is believed.
            change(&mut founded, &mut config);
            let membership = Membership::open(&folder, &config, &founded, node).unwrap();
            let alarms = Arc::new(Alarms::open(&folder.alarms()).unwrap());
            let parts =
                Transparency::open(&folder, &config, &membership, &replica, &alarms).unwrap();
            Self {
                _data: data,
                folder,
                config,
                replica,
                membership,
                parts,
                alarms,
            }
        }

        fn key(&self, name: KeyName) -> SigningKey {
            keys::open_signing(&self.folder.keys(), name).unwrap()
        }

        fn checkpoint(&self, root: Hash) -> Checkpoint {
            Checkpoint {
                origin: self.config.origin.clone(),
                size: 1,
                root,
            }
        }

        /// Records something of no consequence.
        async fn append(&self, number: u8) -> u64 {
            use medanchor_anchor::Append;
            let identity = self.folder.operator().join("identity.toml");
            let identity: toml::Table = std::fs::read_to_string(identity).unwrap().parse().unwrap();
            let mut seed = [0; 32];
            hex::decode_to_slice(identity["signing_seed"].as_str().unwrap(), &mut seed).unwrap();
            let body = Body::Suspended(medanchor_anchor::Standing {
                who: SigningKey::from_seed(&[0xee; 32]).did(),
            });
            let not_after = clock::unix_ms() + 60_000;
            let statement = medanchor_anchor::Statement::new(
                &self.config.origin,
                body,
                [number; 16],
                not_after,
            );
            let signed = statement.sign(&[&SigningKey::from_seed(&seed)]);
            let submission = medanchor_anchor::Submission {
                signed,
                holds: Vec::new(),
                list: None,
            };
            self.replica.append(submission).await.unwrap().index
        }

        fn own_root(&self) -> Hash {
            use medanchor_anchor::{Read, State};
            let view = self.replica.view().unwrap();
            State::new(view.as_ref()).root().unwrap()
        }

        fn own_root_of(&self, size: u64) -> Hash {
            use medanchor_anchor::{Read, State};
            let view = self.replica.view().unwrap();
            State::new(view.as_ref()).root_at(size).unwrap()
        }

        /// As after a restart, when this is what it has co-signed last.
        fn reopen_after(&mut self, cosigned: &str) {
            let record = hex::encode(medanchor_dag::sha256(self.config.origin.as_bytes()));
            std::fs::write(self.folder.cosigned().join(record), cosigned).unwrap();
            let founding = open_founding(&self.folder).unwrap();
            let founded = founded_of(&founding).unwrap();
            let node = Some(self.key(KeyName::Node).did());
            let membership = Membership::open(&self.folder, &self.config, founded, node).unwrap();
            let (replica, alarms) = (&self.replica, &self.alarms);
            let parts =
                Transparency::open(&self.folder, &self.config, &membership, replica, alarms);
            self.parts = parts.unwrap();
        }

        /// A checkpoint with every signature that the trust policy asks for.
        fn published(&self, root: Hash) -> String {
            self.cosigned(&self.checkpoint(root))
        }

        fn cosigned(&self, checkpoint: &Checkpoint) -> String {
            let note = checkpoint.sign(&self.key(KeyName::Log)).unwrap();
            let cosigner = &self.parts.cosigner;
            let key = self.key(KeyName::Cosigner);
            let answer = cosign(&note, cosigner.verifier().name(), &key, 1).unwrap();
            let mut note = note;
            note.add_answer(&format!("{answer}\n"), cosigner.verifier())
                .unwrap();
            note.to_string()
        }

        async fn cosign(&self, note: SignedNote) -> Result<(), CosignError> {
            let request = AddCheckpoint {
                old_size: 0,
                proof: ConsistencyProof(Vec::new()),
                note,
            };
            self.parts.cosigner.add_checkpoint(request).await.map(drop)
        }
    }

    /// Accepts connections, and never says a word.
    struct BlackHole {
        address: std::net::SocketAddr,
        _swallowing: tokio::task::AbortHandle,
    }

    impl BlackHole {
        async fn open() -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let swallowing = tokio::spawn(async move {
                let mut swallowed = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    swallowed.push(stream);
                }
            });
            Self {
                address,
                _swallowing: swallowing.abort_handle(),
            }
        }
    }

    /// A member and an outside witness that hang, beside a node whose own co-signature is quorum enough.
    fn with_hanging_others(hole: std::net::SocketAddr) -> impl FnOnce(&mut Founded, &mut Config) {
        move |founded, config| {
            use medanchor_anchor::{SignatureKind, VerifierKey};
            let key = |name: &str, kind, seed| {
                let key = SigningKey::from_seed(&[seed; 32]).did();
                VerifierKey::new(name, kind, key).unwrap().to_string()
            };
            let name = cosigner_name(config, "hole");
            founded.members.push(Member {
                org: SigningKey::from_seed(&[3; 32]).did(),
                name: "hole".to_owned(),
                node: SigningKey::from_seed(&[4; 32]).did(),
                node_id: 2,
                log_key: key(&config.origin, SignatureKind::Ed25519, 5),
                cosigner_key: key(&name, SignatureKind::Cosignature, 1),
                certificate: Hash::of(b"a certificate"),
                peer_id: "a peer".to_owned(),
            });
            config.members.push(crate::MemberAddress {
                name: "hole".to_owned(),
                node_id: 2,
                address: hole,
                swarm: hole,
                log: None,
            });
            let abyss = key("abyss", SignatureKind::Cosignature, 2);
            founded.witnesses.push(abyss);
            config.witnesses.push(crate::WitnessAddress {
                name: "abyss".to_owned(),
                address: hole,
            });
        }
    }

    #[tokio::test]
    async fn nodes_that_hang_delay_no_checkpoint() {
        let hole = BlackHole::open().await;
        let alone = Alone::start_with(with_hanging_others(hole.address)).await;
        let stop = CancellationToken::new();
        let publisher = &alone.parts.publisher;
        let publishing = tokio::spawn(Arc::clone(publisher).publish_task(stop.clone()));
        let work = async {
            for number in 0..CHECKPOINTS {
                let index = alone.append(number).await;
                publisher.receipt(index, Strength::Published).await.unwrap();
            }
        };
        // Each would cost a connection's whole deadline.
        let patience = Duration::from_secs(3) * u32::from(CHECKPOINTS);
        timeout(patience, work).await.unwrap();
        stop.cancel();
        publishing.await.unwrap();
    }

    const CHECKPOINTS: u8 = 10;

    /// As if rows below the root were changed on the disk: the record of what was signed says something else than they.
    #[tokio::test]
    async fn log_key_signs_nothing_that_contradicts_what_the_node_has_signed() {
        let mut alone = Alone::start().await;
        let signed = alone.published(Hash::of(b"what the log once was"));
        alone.reopen_after(&signed);
        alone.append(1).await;
        let publisher = &alone.parts.publisher;
        let refused = publisher.publish().await.unwrap_err().to_string();
        assert!(refused.contains("does not extend the 1"), "{refused}");
        assert!(publisher.contradicted().is_cancelled());
        // Nothing was signed that could accuse it.
        assert_eq!(alone.alarms.active(), vec![]);
        assert_eq!(publisher.newest(), None);

        let signed = alone.published(alone.own_root_of(1));
        alone.reopen_after(&signed);
        let publisher = &alone.parts.publisher;
        publisher.publish().await.unwrap();
        assert!(!publisher.contradicted().is_cancelled());
        assert_eq!(publisher.published_size(), 2);
    }

    #[tokio::test]
    async fn replica_that_is_behind_what_was_signed_is_waited_for() {
        let mut alone = Alone::start().await;
        let ahead = Checkpoint {
            size: 9,
            ..alone.checkpoint(Hash::of(b"nine leaves"))
        };
        let signed = alone.cosigned(&ahead);
        alone.reopen_after(&signed);
        let publisher = &alone.parts.publisher;
        assert!(publisher.publish().await.is_err());
        assert!(!publisher.contradicted().is_cancelled());
    }

    #[tokio::test]
    async fn slow_record_keeps_nobody_from_reading_what_was_signed() {
        let alone = Alone::start().await;
        let own = alone.checkpoint(alone.own_root());
        let own = own.sign(&alone.key(KeyName::Log)).unwrap();
        alone.cosign(own.clone()).await.unwrap();
        let cosigner = &alone.parts.cosigner;
        let signing = cosigner.hold_signing();
        assert_eq!(cosigner.last_size(), 1);
        assert!(cosigner.last_note().is_some());
        assert!(!cosigner.failed().is_cancelled());
        drop(signing);
    }

    #[tokio::test]
    async fn published_checkpoint_of_another_log_is_not_taken() {
        let alone = Alone::start().await;
        let forged = alone.published(Hash::of(b"another log"));
        assert!(alone.parts.publisher.accept(&forged).await.is_err());
        assert_eq!(alone.parts.publisher.newest(), None);
        let own = alone.published(alone.own_root());
        alone.parts.publisher.accept(&own).await.unwrap();
        assert_eq!(alone.parts.publisher.newest(), Some(own));
    }

    #[tokio::test]
    async fn stranger_is_refused_before_the_own_root_is_looked_at() {
        let alone = Alone::start().await;
        let forged = alone.checkpoint(Hash::of(b"another log"));
        let stranger = SigningKey::from_seed(&[9; 32]);
        let refused = alone.cosign(forged.sign(&stranger).unwrap()).await;
        let unsigned = CosignError::Refused(AddCheckpointError::Unsigned);
        assert_eq!(refused.unwrap_err().to_string(), unsigned.to_string());

        let signed = forged.sign(&alone.key(KeyName::Log)).unwrap();
        let refused = alone.cosign(signed).await;
        let lie = CosignError::Refused(AddCheckpointError::Inconsistent);
        assert_eq!(refused.unwrap_err().to_string(), lie.to_string());
    }

    #[tokio::test]
    async fn nothing_is_cosigned_from_a_contradiction_until_an_operator_acknowledges_it() {
        let alone = Alone::start().await;
        let own = alone.checkpoint(alone.own_root());
        let own = own.sign(&alone.key(KeyName::Log)).unwrap();
        // A stranger cannot raise an alarm.
        let forged = alone.checkpoint(Hash::of(b"another log"));
        let stranger = SigningKey::from_seed(&[9; 32]);
        alone
            .cosign(forged.sign(&stranger).unwrap())
            .await
            .unwrap_err();
        assert_eq!(alone.alarms.active(), vec![]);

        let signed = forged.sign(&alone.key(KeyName::Log)).unwrap();
        alone.cosign(signed.clone()).await.unwrap_err();
        let stopped = alone.cosign(own.clone()).await.unwrap_err();
        assert!(matches!(stopped, CosignError::Stopped(_)), "{stopped}");
        let raised = alone.alarms.active();
        let id = &raised[0].id;
        let evidence = alone.folder.alarms().join(format!("{id}.evidence"));
        let proof: Equivocation = std::fs::read_to_string(evidence).unwrap().parse().unwrap();
        let policy = std::fs::read_to_string(alone.folder.policy()).unwrap();
        let policy: medanchor_anchor::TrustPolicy = policy.parse().unwrap();
        let shown = proof.verify(&policy).unwrap();
        // Nobody else has signed the truth yet, so this node did, with the key that was stolen from it.
        assert_eq!(shown.signed_both.len(), 1);
        alarms::acknowledge(&alone.folder.alarms(), id).unwrap();
        // The same evidence again is nothing new.
        alone.cosign(signed).await.unwrap_err();
        alone.cosign(own).await.unwrap();
    }
}
