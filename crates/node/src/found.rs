//! Founds a network: makes every key and certificate, the founding statement that all organisations
//! sign, and a data folder for each node and each witness.

use crate::{
    certificates::{Authority, Holder, Issued},
    clock,
    config::{Config, EntryReaders, Folder, ForeignWitness, MemberAddress, Role, WitnessAddress},
    cosigner::SeenFile,
    files::{self, Mode},
    join,
    keys::{self, KeyName},
    membership, passphrase,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, Founded, Member, Nonce, SignatureKind, SignedStatement, Statement, TrustPolicy,
    VerifierKey,
};
use medanchor_dag::{Hash, SigningKey};
use medanchor_ipfs::{PeerKey, SwarmKey};
use medanchor_policy::Policies;
use medanchor_secrets::{Passphrase, protect};
use serde::Serialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// What network to found.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The network's name, origin of its log.
    pub origin: String,
    /// The founding organisations, each with one node.
    pub members: Vec<PlannedMember>,
    /// Outside witnesses, which are made with the network.
    pub witnesses: Vec<WitnessAddress>,
    /// Outside witnesses that others run.
    pub foreign_witnesses: Vec<ForeignWitness>,
    /// Nodes that hold a record before it is anchored. With fewer members, none is until more have joined.
    pub copies: u8,
    /// Co-signatures that a published checkpoint carries.
    pub quorum: u8,
}

/// An organisation that founds the network.
#[derive(Clone, Debug)]
pub struct PlannedMember {
    /// Its short name.
    pub name: String,
    /// Its node's data folder, which must not exist or be empty.
    pub folder: PathBuf,
    /// Address of its node's gRPC services.
    pub listen: SocketAddr,
    /// Address of its node's private swarm peer.
    pub swarm_listen: SocketAddr,
    /// Address of its node's log over HTTPS.
    pub log_listen: SocketAddr,
    /// A file with the passphrase that its custody-store and factors keys, and its operator's identity, are kept under; by an
    /// absolute path. Absent, they are in clear.
    pub passphrase_file: Option<PathBuf>,
}

/// Founds a network on this machine, with the data folders of all members and witnesses.
///
/// `witness_folder` names the data folder of a witness.
///
/// # Errors
///
/// When a folder is in use already or cannot be written, or the plan contradicts itself.
pub fn found(plan: &Plan, witness_folder: impl Fn(&str) -> PathBuf) -> Result<()> {
    plan.check()?;
    let members = plan
        .members
        .iter()
        .zip(1u64..)
        .map(|(planned, node_id)| NewMember::create(planned, node_id, &plan.origin))
        .collect::<Result<Vec<_>>>()?;
    let witnesses = plan
        .witnesses
        .iter()
        .map(|witness| NewWitness::create(witness, &witness_folder(&witness.name)))
        .collect::<Result<Vec<_>>>()?;
    let founded = founded(plan, &members, &witnesses)?;
    let policy = TrustPolicy::founded(&founded).context("make the trust policy")?;
    for warning in policy.warnings() {
        tracing::warn!("trust policy: {warning}");
    }
    let network = Network {
        policy: policy.to_string(),
        authorities: authorities(&members, &witnesses),
        swarm_key: SwarmKey::generate().context("draw random bytes")?,
        members: plan.addresses(),
        founded: sign(plan, founded, &members)?,
    };
    for member in &members {
        member.write(plan, &network)?;
    }
    for witness in &witnesses {
        witness.write(plan, &network)?;
    }
    Ok(())
}

/// Whom an organisation lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invitee {
    /// A device, a person, a partner.
    Guest,
    /// Somebody who may read the log's entries as well.
    Auditor,
}

/// Makes a home folder for somebody whom a node's organisation lets in: certificates, addresses and the
/// trust policy, but no identity, which its owner makes with `medanchor key new`.
///
/// # Errors
///
/// When the node's folder has no certificate authority, or the home cannot be written.
pub fn invite(node: &Folder, invitee: Invitee, name: &str, home: &Path) -> Result<()> {
    let config = Config::open(&node.config())?;
    let key = Zeroizing::new(files::read_text(&node.tls().join("authority.key"), 4096)?);
    let authority = Authority::open(&config.name, &key)?;
    let holder = match invitee {
        Invitee::Guest => Holder::Guest,
        Invitee::Auditor => Holder::Auditor,
    };
    let issued = authority.issue(holder, name, &[])?;
    let entries = join::entries(node)?;
    let ca = join::authorities(node, &entries)?;
    let policy = files::read_text(&node.policy(), MAX_POLICY_BYTES)?;
    let config = Config {
        members: join::addresses(&config, &entries)?,
        ..config
    };
    write_home(home, &config, &ca, &policy, &issued)?;
    copy_chain(node, home)
}

/// Completes the operator's home of a node that joins: until then it holds the identity alone.
pub(crate) fn complete_operator(
    node: &Folder,
    config: &Config,
    ca: &str,
    policy: &str,
) -> Result<()> {
    let home = node.operator();
    // Of an attempt that did not come to its end.
    for name in ["ca.pem", "cert.pem", "key.pem", "policy.txt", "client.toml"] {
        match std::fs::remove_file(home.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the old `{name}`"));
            }
            _ => (),
        }
    }
    let key = Zeroizing::new(files::read_text(&node.tls().join("authority.key"), 4096)?);
    let authority = Authority::open(&config.name, &key)?;
    let issued = issue_operator(&authority, &config.name)?;
    write_home(&home, config, ca, policy, &issued)?;
    copy_chain(node, &home)
}

fn issue_operator(authority: &Authority, name: &str) -> Result<Issued> {
    authority.issue(Holder::Operator, &format!("operator of {name}"), &[])
}

/// A home follows the changes of the members from where its node is.
fn copy_chain(node: &Folder, home: &Path) -> Result<()> {
    let chain = membership::read_chain(&node.policy_chain())?;
    if chain.changes.is_empty() {
        return Ok(());
    }
    let path = home.join("policy-chain");
    files::replace(&path, Mode::Public, &chain.to_bytes())
        .with_context(|| format!("write `{}`", path.display()))
}

impl Plan {
    fn check(&self) -> Result<()> {
        let cosigners = self.members.len() + self.witnesses.len() + self.foreign_witnesses.len();
        anyhow::ensure!(!self.members.is_empty(), "a network needs a member");
        anyhow::ensure!((1..=32).contains(&self.copies), "copies must be 1 to 32");
        anyhow::ensure!(
            usize::from(self.quorum) <= cosigners && self.quorum > 0,
            "quorum must be 1 to {cosigners}"
        );
        for member in &self.members {
            let text = self.config(member).to_text()?;
            Config::parse(&text).context("check names and addresses")?;
        }
        for witness in &self.foreign_witnesses {
            let key = witness.verifier_key()?;
            anyhow::ensure!(
                !key.is_member_of(&self.origin),
                "the name of witness `{key}` is one of a member's co-signer"
            );
        }
        for member in &self.members {
            let path = &member.folder;
            let free = !path.exists() || path.read_dir().is_ok_and(|mut all| all.next().is_none());
            anyhow::ensure!(free, "folder `{}` is not empty", path.display());
        }
        Ok(())
    }

    /// The config of a member's node.
    fn config(&self, member: &PlannedMember) -> Config {
        Config {
            witnesses: self.witnesses.clone(),
            foreign_witnesses: self.foreign_witnesses.clone(),
            ..member.config(&self.origin, self.addresses())
        }
    }

    fn addresses(&self) -> Vec<MemberAddress> {
        self.members
            .iter()
            .zip(1..)
            .map(|(member, node_id)| member.address(node_id))
            .collect()
    }
}

impl PlannedMember {
    /// Where the others reach its node.
    pub(crate) fn address(&self, node_id: u64) -> MemberAddress {
        MemberAddress {
            name: self.name.clone(),
            node_id,
            address: self.listen,
            swarm: self.swarm_listen,
            log: Some(self.log_listen),
        }
    }

    /// Its node's config, with these members and no outside witnesses.
    pub(crate) fn config(&self, origin: &str, members: Vec<MemberAddress>) -> Config {
        Config {
            origin: origin.to_owned(),
            name: self.name.clone(),
            role: Role::Member,
            listen: self.listen,
            swarm_listen: Some(self.swarm_listen),
            log_listen: Some(self.log_listen),
            log_entries: EntryReaders::default(),
            passphrase_file: self.passphrase_file.clone(),
            snapshot_every: None,
            reissue_after_seconds: None,
            scrub_bytes_per_second: None,
            scrub_every_seconds: None,
            collect_every_seconds: None,
            collect_rest: None,
            keep_unanchored_seconds: None,
            unanchored_bytes: None,
            lost_records: Vec::new(),
            hold_seconds: None,
            absent_after_seconds: None,
            replicate_every_seconds: None,
            replicate_bytes_per_second: None,
            members,
            witnesses: Vec::new(),
            foreign_witnesses: Vec::new(),
            witnessed_logs: Vec::new(),
            foreign_peers: Vec::new(),
        }
    }
}

/// What every node of the new network is given.
struct Network {
    founded: SignedStatement,
    policy: String,
    authorities: String,
    swarm_key: SwarmKey,
    members: Vec<MemberAddress>,
}

pub(crate) struct NewMember<'a> {
    planned: &'a PlannedMember,
    folder: Folder,
    pub(crate) org: SigningKey,
    authority: Authority,
    pub(crate) authority_cert: Issued,
    certificate: Issued,
    pub(crate) entry: Member,
    passphrase: Option<Passphrase>,
}

impl<'a> NewMember<'a> {
    pub(crate) fn create(planned: &'a PlannedMember, node_id: u64, origin: &str) -> Result<Self> {
        let passphrase = passphrase::of_new_keys(planned.passphrase_file.as_deref())?;
        let folder = Folder::new(&planned.folder);
        files::create_folder(&folder.keys())?;
        let name = &planned.name;
        let (authority, authority_cert) = Authority::create(name)?;
        let certificate = authority.issue(Holder::Node, name, &hosts(name))?;
        let log = keys::create_signing(&folder.keys(), KeyName::Log)?;
        let cosigner = keys::create_signing(&folder.keys(), KeyName::Cosigner)?;
        let node = keys::create_signing(&folder.keys(), KeyName::Node)?;
        let peer = PeerKey::from_seed(&*keys::create(&folder.keys(), KeyName::Peer)?);
        for name in keys::PROTECTED {
            let protection = passphrase::protection(passphrase.as_ref());
            keys::create_under(&folder.keys(), name, protection)?;
        }
        let org = SigningKey::generate().context("draw random bytes")?;
        let entry = Member {
            org: org.did(),
            name: name.clone(),
            node: node.did(),
            node_id,
            log_key: verifier_key(origin, SignatureKind::Ed25519, &log)?,
            cosigner_key: verifier_key(
                &format!("{origin}/{name}"),
                SignatureKind::Cosignature,
                &cosigner,
            )?,
            certificate: Hash::of(&certificate.certificate),
            peer_id: peer.peer_id(),
        };
        Ok(Self {
            planned,
            folder,
            org,
            authority,
            authority_cert,
            certificate,
            entry,
            passphrase,
        })
    }

    fn write(&self, plan: &Plan, network: &Network) -> Result<()> {
        let config = plan.config(self.planned);
        write_node(&self.folder, &config, network, &self.certificate)?;
        self.write_authority()?;
        let swarm = network.swarm_key.to_text();
        files::create(&self.folder.swarm_key(), Mode::Secret, swarm.as_bytes())?;
        self.write_operator(&config, network)
    }

    /// What belongs to the node alone: the rest comes when it joins a network.
    pub(crate) fn write_own(&self) -> Result<()> {
        files::create_folder(&self.folder.tls())?;
        write_own_certificate(&self.folder.tls(), &self.certificate)?;
        self.write_authority()?;
        files::create_folder(&self.folder.operator())?;
        self.write_identity()
    }

    fn write_authority(&self) -> Result<()> {
        let key = self.authority_cert.key_pem.as_bytes();
        files::create(&self.folder.tls().join("authority.key"), Mode::Secret, key)?;
        let own_ca = self.authority_cert.certificate_pem.as_bytes();
        files::create(&self.folder.tls().join("own-ca.pem"), Mode::Public, own_ca)
    }

    /// The operator's home holds the organisation's own key: whoever has it speaks for the organisation.
    fn write_operator(&self, config: &Config, network: &Network) -> Result<()> {
        let issued = issue_operator(&self.authority, &self.planned.name)?;
        let ca = &network.authorities;
        write_home(
            &self.folder.operator(),
            config,
            ca,
            &network.policy,
            &issued,
        )?;
        self.write_identity()
    }

    fn write_identity(&self) -> Result<()> {
        let mut receive = Zeroizing::new([0; 32]);
        getrandom::fill(receive.as_mut()).context("draw random bytes")?;
        let (seed, receive) = (self.org.to_seed(), Zeroizing::new(hex::encode(*receive)));
        let text = Zeroizing::new(format!(
            "version = 1\ndid = \"{}\"\nsigning_seed = \"{}\"\nreceive_private = \"{}\"\n",
            self.org.did(),
            *Zeroizing::new(hex::encode(*seed)),
            *receive,
        ));
        let protection = passphrase::protection(self.passphrase.as_ref());
        let content = protect(&text, protection).context("draw random bytes")?;
        files::create(
            &self.folder.operator().join("identity.toml"),
            Mode::Secret,
            content.as_bytes(),
        )
    }
}

struct NewWitness<'a> {
    address: &'a WitnessAddress,
    folder: Folder,
    authority_cert: Issued,
    certificate: Issued,
    cosigner_key: String,
}

impl<'a> NewWitness<'a> {
    fn create(address: &'a WitnessAddress, folder: &Path) -> Result<Self> {
        let folder = Folder::new(folder);
        files::create_folder(&folder.keys())?;
        let (authority, authority_cert) = Authority::create(&address.name)?;
        let certificate = authority.issue(Holder::Node, &address.name, &hosts(&address.name))?;
        let cosigner = keys::create_signing(&folder.keys(), KeyName::Cosigner)?;
        Ok(Self {
            address,
            folder,
            authority_cert,
            certificate,
            cosigner_key: verifier_key(&address.name, SignatureKind::Cosignature, &cosigner)?,
        })
    }

    fn write(&self, plan: &Plan, network: &Network) -> Result<()> {
        let config = Config {
            origin: plan.origin.clone(),
            name: self.address.name.clone(),
            role: Role::Witness,
            listen: self.address.address,
            swarm_listen: None,
            log_listen: None,
            log_entries: EntryReaders::default(),
            passphrase_file: None,
            snapshot_every: None,
            reissue_after_seconds: None,
            scrub_bytes_per_second: None,
            scrub_every_seconds: None,
            collect_every_seconds: None,
            collect_rest: None,
            keep_unanchored_seconds: None,
            unanchored_bytes: None,
            lost_records: Vec::new(),
            hold_seconds: None,
            absent_after_seconds: None,
            replicate_every_seconds: None,
            replicate_bytes_per_second: None,
            members: network.members.clone(),
            witnesses: plan.witnesses.clone(),
            foreign_witnesses: plan.foreign_witnesses.clone(),
            witnessed_logs: Vec::new(),
            foreign_peers: Vec::new(),
        };
        write_node(&self.folder, &config, network, &self.certificate)
    }
}

fn write_node(
    folder: &Folder,
    config: &Config,
    network: &Network,
    certificate: &Issued,
) -> Result<()> {
    files::create_folder(&folder.tls())?;
    write_certificate(&folder.tls(), &network.authorities, certificate)?;
    let policy = network.policy.as_bytes();
    files::create(&folder.policy(), Mode::Public, policy)?;
    let founded = network.founded.to_bytes();
    files::create(&folder.founded(), Mode::Public, &founded)?;
    SeenFile::create(&folder.cosigned(), &config.origin)?;
    // Last: a folder without a config is one whose founding did not finish.
    let text = config.to_text()?;
    files::create(&folder.config(), Mode::Public, text.as_bytes())
}

fn write_certificate(folder: &Path, authorities: &str, issued: &Issued) -> Result<()> {
    files::create(&folder.join("ca.pem"), Mode::Public, authorities.as_bytes())?;
    write_own_certificate(folder, issued)
}

fn write_own_certificate(folder: &Path, issued: &Issued) -> Result<()> {
    let (certificate, key) = (&issued.certificate_pem, &issued.key_pem);
    files::create(
        &folder.join("cert.pem"),
        Mode::Public,
        certificate.as_bytes(),
    )?;
    files::create(&folder.join("key.pem"), Mode::Secret, key.as_bytes())
}

/// A home folder of `medanchor`, without an identity.
fn write_home(home: &Path, config: &Config, ca: &str, policy: &str, own: &Issued) -> Result<()> {
    #[derive(Serialize)]
    struct Client<'a> {
        origin: &'a str,
        policy: &'a str,
        nodes: Vec<Node<'a>>,
    }
    #[derive(Serialize)]
    struct Node<'a> {
        name: &'a str,
        address: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        log: Option<String>,
    }
    files::create_folder(home)?;
    write_certificate(home, ca, own)?;
    files::create(&home.join("policy.txt"), Mode::Public, policy.as_bytes())?;
    // The inviting organisation's node first: the client tries them in this order.
    let mut members: Vec<_> = config.members.iter().collect();
    members.sort_by_key(|member| member.name != config.name);
    let nodes = members.iter().map(|member| Node {
        name: &member.name,
        address: member.address.to_string(),
        log: member.log.map(|address| address.to_string()),
    });
    let client = Client {
        origin: &config.origin,
        policy: "policy.txt",
        nodes: nodes.collect(),
    };
    let text = toml::to_string(&client).context("write client.toml")?;
    files::create(&home.join("client.toml"), Mode::Public, text.as_bytes())
}

fn founded(
    plan: &Plan,
    members: &[NewMember<'_>],
    witnesses: &[NewWitness<'_>],
) -> Result<Founded> {
    let own = witnesses.iter().map(|witness| witness.cosigner_key.clone());
    let foreign = plan.foreign_witnesses.iter().map(|w| w.key.clone());
    Ok(Founded {
        members: members.iter().map(|member| member.entry.clone()).collect(),
        witnesses: own.chain(foreign).collect(),
        quorum: plan.quorum,
        copies: plan.copies,
        policy: Policies::default_set()
            .context("load the default policy set")?
            .cid(),
    })
}

/// Every founding organisation signs.
fn sign(plan: &Plan, founded: Founded, members: &[NewMember<'_>]) -> Result<SignedStatement> {
    let mut nonce = Nonce::new([0; 16]);
    getrandom::fill(nonce.as_mut()).context("draw random bytes")?;
    let body = Body::Founded(founded);
    let not_after = clock::unix_ms() + FOUNDED_WITHIN_MS;
    let statement = Statement::new(&plan.origin, body, nonce.into_array(), not_after);
    let authors: Vec<&SigningKey> = members.iter().map(|member| &member.org).collect();
    Ok(statement.sign(&authors))
}

fn authorities(members: &[NewMember<'_>], witnesses: &[NewWitness<'_>]) -> String {
    let members = members.iter().map(|member| &member.authority_cert);
    let witnesses = witnesses.iter().map(|witness| &witness.authority_cert);
    members
        .chain(witnesses)
        .map(|issued| issued.certificate_pem.as_str())
        .collect()
}

fn hosts(name: &str) -> [String; 3] {
    [name, "localhost", "127.0.0.1"].map(str::to_owned)
}

fn verifier_key(name: &str, kind: SignatureKind, key: &SigningKey) -> Result<String> {
    let key = VerifierKey::new(name, kind, key.did()).context("name a log key")?;
    Ok(key.to_string())
}

const FOUNDED_WITHIN_MS: u64 = 24 * 3600 * 1000 - 60_000;
const MAX_POLICY_BYTES: u64 = 256 * 1024;
