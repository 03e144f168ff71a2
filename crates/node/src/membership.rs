//! The members and outside witnesses as the log names them, and all that follows from it on this node: whom it connects
//! to, whom it lets in, and whose signatures count. The founding is the root; every change is followed without a restart.

use crate::{
    config::{Config, Folder},
    files::{self, Mode},
    http::Server,
    remote::{ForeignServer, Remote, RemoteCosigner},
    tls::{Organisation, Tls},
    tls_trust::ClientTrust,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Epochs, Founded, LeafIndex, MemberEntry, PolicyChain, Receipt, TrustPolicy, VerifierKey,
    WitnessEntry,
};
use medanchor_dag::{Did, Hash};
use medanchor_ipfs::PeerAddress;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// Follows the members of the network.
pub(crate) struct Membership {
    founded: Founded,
    config: Config,
    /// This node's key; an outside witness has none that the log names.
    own: Option<Did>,
    tls: Tls,
    clients: Arc<ClientTrust>,
    /// Where the chain is kept.
    path: PathBuf,
    /// One change at a time.
    changing: Mutex<()>,
    now: watch::Sender<Arc<Now>>,
}

/// The members as this node knows them now.
pub(crate) struct Now {
    /// How the trust policy came to be what it is, without a head.
    pub(crate) chain: PolicyChain,
    /// The same, followed: whose signatures count, by the size of the log.
    pub(crate) epochs: Arc<Epochs>,
    /// All that ever were members, by node id.
    pub(crate) entries: Vec<MemberEntry>,
    /// Outside witnesses besides this one.
    witnesses: Vec<Arc<RemoteCosigner>>,
    /// The nodes of all but this one that have an address.
    remotes: BTreeMap<u64, Arc<Remote>>,
    node_ids: BTreeMap<Hash, u64>,
    organisations: Vec<Organisation>,
}

/// Whom a node believes about a log.
#[derive(Clone)]
pub(crate) enum Believed {
    /// The same for ever: about a log of others.
    Fixed(Arc<Epochs>),
    /// The network's policies, as they change.
    Network(Arc<Membership>),
}

impl Believed {
    /// The policies by the size of the log, as this node knows them now.
    pub(crate) fn epochs(&self) -> Arc<Epochs> {
        match self {
            Self::Fixed(epochs) => Arc::clone(epochs),
            Self::Network(membership) => Arc::clone(&membership.now().epochs),
        }
    }
}

impl Membership {
    /// Goes on with the changes that were known before a restart. Call it within a tokio runtime.
    pub(crate) fn open(
        folder: &Folder,
        config: &Config,
        founded: &Founded,
        own: Option<Did>,
    ) -> Result<Arc<Self>> {
        let root = TrustPolicy::founded(founded).context("read the founding")?;
        let path = folder.policy_chain();
        let chain = read_chain(&path)?;
        let epochs =
            Epochs::follow(root, &chain).with_context(|| format!("follow `{}`", path.display()))?;
        for warning in epochs.current().warnings() {
            tracing::warn!("trust policy: {warning}");
        }
        let tls = Tls::open(folder)?;
        let entries = chain.members(founded);
        let clients = ClientTrust::new(tls.clients(&entries)?, refused(&entries));
        let now = Now {
            chain: PolicyChain::default(),
            epochs: Arc::new(epochs),
            entries: Vec::new(),
            witnesses: Vec::new(),
            remotes: BTreeMap::new(),
            node_ids: BTreeMap::new(),
            organisations: Vec::new(),
        };
        let membership = Self {
            founded: founded.clone(),
            config: config.clone(),
            own,
            tls,
            clients,
            path,
            changing: Mutex::default(),
            now: watch::Sender::new(Arc::new(now)),
        };
        let epochs = Arc::clone(&membership.now().epochs);
        membership.replace(chain, epochs, entries)?;
        Ok(Arc::new(membership))
    }

    /// The members now.
    pub(crate) fn now(&self) -> Arc<Now> {
        Arc::clone(&self.now.borrow())
    }

    /// Tells whenever they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Now>> {
        self.now.subscribe()
    }

    /// This node's key, by which the log names it; an outside witness has none.
    pub(crate) fn own(&self) -> Option<Did> {
        self.own
    }

    /// Whom this node lets in.
    pub(crate) fn clients(&self) -> &Arc<ClientTrust> {
        &self.clients
    }

    /// TLS with this node's certificate.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The node with this id; `None` for this node itself and for strangers. One that was removed is still there:
    /// Raft speaks to it until all have agreed without it.
    pub(crate) fn to(&self, node_id: u64) -> Option<Arc<Remote>> {
        self.now.borrow().remotes.get(&node_id).cloned()
    }

    /// The nodes of all other members, and of those whose removal is not published yet.
    pub(crate) fn others(&self) -> Vec<Arc<Remote>> {
        let now = self.now();
        let after = now.epochs.current_after();
        let is_other = |entry: &&MemberEntry| entry.removed_at.is_none_or(|at| at >= after);
        let others = now.entries.iter().filter(is_other);
        others
            .filter_map(|entry| now.remotes.get(&entry.member.node_id).cloned())
            .collect()
    }

    /// Takes note of what the state says of the members.
    pub(crate) fn apply(&self, entries: Vec<MemberEntry>) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if changes(&entries) <= changes(&now.entries) {
            return Ok(());
        }
        self.replace(now.chain.clone(), Arc::clone(&now.epochs), entries)
    }

    /// Goes on to the policy after a change: `receipt` shows that it is published under the one before. It is on
    /// disk when this returns.
    pub(crate) fn publish(&self, receipt: Receipt) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if now
            .chain
            .changes
            .iter()
            .any(|known| known.index == receipt.index)
        {
            return Ok(());
        }
        let mut epochs = Epochs::clone(&now.epochs);
        epochs
            .advance(&receipt)
            .context("follow a change of the policy")?;
        let mut chain = now.chain.clone();
        chain.changes.push(receipt);
        files::replace(&self.path, Mode::Public, &chain.to_bytes())
            .with_context(|| format!("write `{}`", self.path.display()))?;
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("policy-chain-written");
        let mut entries = chain.members(&self.founded);
        if changes(&entries) < changes(&now.entries) {
            entries.clone_from(&now.entries);
        }
        let after = epochs.current_after();
        self.replace(chain, Arc::new(epochs), entries)?;
        tracing::info!(
            "members or witnesses changed: another trust policy is in force after {after} leaves"
        );
        Ok(())
    }

    fn replace(
        &self,
        chain: PolicyChain,
        epochs: Arc<Epochs>,
        entries: Vec<MemberEntry>,
    ) -> Result<()> {
        let before = self.now();
        let clients = self.tls.clients(&entries)?;
        let now = Now {
            witnesses: self.witnesses(&chain)?,
            remotes: self.remotes(&entries, &before.remotes)?,
            node_ids: node_ids(&entries),
            organisations: self.tls.organisations(&entries)?,
            chain,
            epochs,
            entries,
        };
        self.clients.replace(clients, refused(&now.entries));
        self.now.send_replace(Arc::new(now));
        Ok(())
    }

    /// Channels to nodes that stay where they are go on.
    fn remotes(
        &self,
        entries: &[MemberEntry],
        known: &BTreeMap<u64, Arc<Remote>>,
    ) -> Result<BTreeMap<u64, Arc<Remote>>> {
        let mut remotes = BTreeMap::new();
        for entry in entries {
            let member = &entry.member;
            let Some(address) = self.address(entry)? else {
                continue;
            };
            if self.own == Some(member.node) {
                continue;
            }
            let known = known.get(&member.node_id);
            let remote = match known.filter(|remote| remote.is(entry, address)) {
                Some(remote) => Arc::clone(remote),
                None => {
                    let remote = Remote::new(entry, address, &self.tls);
                    Arc::new(remote.with_context(|| format!("reach `{}`", member.name))?)
                }
            };
            remotes.insert(member.node_id, remote);
        }
        Ok(remotes)
    }

    /// How the outside witnesses are reached, this one left out.
    fn witnesses(&self, chain: &PolicyChain) -> Result<Vec<Arc<RemoteCosigner>>> {
        let entries = chain.witnesses(&self.founded.witnesses);
        let mut witnesses = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_active()) {
            let key: VerifierKey = entry.key.parse().context("read a witness's key")?;
            if self.own.is_none() && key.name() == self.config.name {
                continue;
            }
            match self.witness(entry, &key) {
                Ok(Some(witness)) => witnesses.push(Arc::new(witness)),
                Ok(None) => tracing::warn!("the config does not say where witness `{key}` is"),
                // The log takes any certificate.
                Err(error) => tracing::warn!("witness `{key}` cannot be asked: {error:#}"),
            }
        }
        Ok(witnesses)
    }

    /// As the config says, or else as the log does.
    fn witness(&self, entry: &WitnessEntry, key: &VerifierKey) -> Result<Option<RemoteCosigner>> {
        let mut founded = self.config.witnesses.iter();
        if let Some(witness) = founded.find(|witness| witness.name == key.name()) {
            return Ok(Some(RemoteCosigner {
                server: Server::of_node(&witness.name, witness.address),
                http: self.tls.client()?,
                key: key.clone(),
            }));
        }
        let mut foreign = self.config.foreign_witnesses.iter();
        let server = match (foreign.find(|by| by.key == entry.key), &entry.place) {
            (Some(by), _) => ForeignServer::new(&by.url, by.certificate.as_deref())?,
            (None, Some(place)) => ForeignServer::of(place)?,
            (None, None) => return Ok(None),
        };
        server.cosigner(key.clone()).map(Some)
    }

    /// Where a member's node is: as the config says, or else as the log does.
    fn address(&self, entry: &MemberEntry) -> Result<Option<SocketAddr>> {
        let mut members = self.config.members.iter();
        let configured = members.find(|member| member.node_id == entry.member.node_id);
        match (configured, &entry.contact) {
            (Some(configured), _) => Ok(Some(configured.address)),
            (None, Some(contact)) => parse_address(&contact.address).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Who may join the private swarm: the other members' nodes, and what the config lists besides.
    pub(crate) fn swarm_peers(&self) -> Result<Vec<PeerAddress>> {
        let now = self.now();
        let mut peers = Vec::new();
        let active = now.entries.iter().filter(|entry| entry.is_active());
        for entry in active.filter(|entry| self.own != Some(entry.member.node)) {
            let mut members = self.config.members.iter();
            let configured = members.find(|member| member.node_id == entry.member.node_id);
            let address = match (configured, &entry.contact) {
                (Some(configured), _) => Some(configured.swarm),
                (None, Some(contact)) => Some(parse_address(&contact.swarm)?),
                (None, None) => None,
            };
            peers.push(PeerAddress {
                peer_id: entry.member.peer_id.clone(),
                address: address.map(multiaddr),
            });
        }
        for foreign in &self.config.foreign_peers {
            peers.push(PeerAddress {
                peer_id: foreign.peer_id.clone(),
                address: foreign.address.map(multiaddr),
            });
        }
        Ok(peers)
    }
}

impl Now {
    /// The organisations that let clients in.
    pub(crate) fn organisations(&self) -> &[Organisation] {
        &self.organisations
    }

    /// The member whose node shows this certificate.
    pub(crate) fn node_id(&self, certificate: &Hash) -> Option<u64> {
        self.node_ids.get(certificate).copied()
    }

    /// The network as if it were founded with its members and witnesses of now.
    pub(crate) fn founded_anew(&self, founded: &Founded) -> Founded {
        let active = self.entries.iter().filter(|entry| entry.is_active());
        let mut witnesses = self.chain.witnesses(&founded.witnesses);
        witnesses.retain(WitnessEntry::is_active);
        Founded {
            members: active.map(|entry| entry.member.clone()).collect(),
            witnesses: witnesses.into_iter().map(|entry| entry.key).collect(),
            quorum: self.chain.quorum(founded),
            ..founded.clone()
        }
    }

    /// What the log says of the node with this key, also when it was removed.
    pub(crate) fn entry_of(&self, node: &Did) -> Option<&MemberEntry> {
        self.entries.iter().find(|entry| entry.member.node == *node)
    }

    /// Where the members' co-signers are whose signatures count under `policy`.
    pub(crate) fn cosigners<'a>(
        &'a self,
        policy: &'a TrustPolicy,
    ) -> impl Iterator<Item = &'a RemoteCosigner> {
        let cosigners = self.remotes.values().map(|remote| &remote.cosigner);
        cosigners.filter(|cosigner| policy.witnesses().any(|key| *key == cosigner.key))
    }

    /// How the outside witnesses are reached, this node left out.
    pub(crate) fn witnesses(&self) -> &[Arc<RemoteCosigner>] {
        &self.witnesses
    }

    /// Those of them whose signatures count under `policy`.
    pub(crate) fn witnesses_of<'a>(
        &'a self,
        policy: &'a TrustPolicy,
    ) -> impl Iterator<Item = &'a Arc<RemoteCosigner>> {
        let witnesses = self.witnesses.iter();
        witnesses.filter(|witness| policy.witnesses().any(|key| *key == witness.key))
    }

    /// The receipt that shows a change as it was published under the policy before it.
    pub(crate) fn change(&self, index: LeafIndex) -> Option<&Receipt> {
        let mut changes = self.chain.changes.iter();
        changes.find(|receipt| receipt.index == index)
    }
}

/// The members' co-signing keys in a policy of this log.
pub(crate) fn member_keys(policy: &TrustPolicy, origin: &str) -> Vec<VerifierKey> {
    let members = policy.witnesses();
    let members = members.filter(|key| key.is_member_of(origin));
    members.cloned().collect()
}

/// Reads the chain in a node's folder; a network that never changed has none.
pub(crate) fn read_chain(path: &Path) -> Result<PolicyChain> {
    let read = || match std::fs::metadata(path) {
        Ok(about) if about.len() > PolicyChain::MAX_BYTES as u64 => {
            anyhow::bail!("it is too long")
        }
        Ok(_) => Ok(PolicyChain::from_bytes(&std::fs::read(path)?)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(PolicyChain::default()),
        Err(error) => Err(error.into()),
    };
    read().with_context(|| format!("read `{}`", path.display()))
}

fn parse_address(text: &str) -> Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("`{text}` is no address"))
}

pub(crate) fn multiaddr(address: SocketAddr) -> String {
    let kind = if address.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{kind}/{}/tcp/{}", address.ip(), address.port())
}

fn node_ids(entries: &[MemberEntry]) -> BTreeMap<Hash, u64> {
    let active = entries.iter().filter(|entry| entry.is_active());
    active
        .map(|entry| (entry.member.certificate, entry.member.node_id))
        .collect()
}

fn refused(entries: &[MemberEntry]) -> BTreeSet<Hash> {
    let removed = entries.iter().filter(|entry| !entry.is_active());
    removed.map(|entry| entry.member.certificate).collect()
}

/// How often the members have changed.
fn changes(entries: &[MemberEntry]) -> usize {
    let added = entries.iter().filter(|entry| entry.added_at > 0).count();
    added + entries.iter().filter(|entry| !entry.is_active()).count()
}
