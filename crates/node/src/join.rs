//! Joining a network that runs: the newcomer prepares a node and a request, the members approve it, one of them
//! welcomes it, and it joins.

use crate::{
    clock,
    config::{Config, Folder, ForeignWitness, MemberAddress, WitnessAddress},
    cosigner::SeenFile,
    files::{self, Mode},
    found::{self, NewMember, PlannedMember},
    keys::{self, KeyName},
    membership::read_chain,
};
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use medanchor_anchor::{
    Body, Epochs, Founded, Log, MemberAdded, MemberEntry, Nonce, PolicyChain, SignedStatement,
    Statement, TrustPolicy,
};
use medanchor_api::{Client, ClientConfig, NodeAddress};
use medanchor_ipfs::SwarmKey;
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// What a newcomer asks for.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The network's name.
    pub origin: String,
    /// The organisation and its node; its addresses are those that the others reach it at.
    pub member: PlannedMember,
    /// Co-signatures that a published checkpoint is to carry once it has joined.
    pub quorum: u8,
}

/// Makes the keys and certificates of a new member's node, and the request that the members are to sign: a
/// `member-added` statement, signed by the newcomer.
///
/// # Errors
///
/// When the folder is in use, or cannot be written.
pub fn prepare(newcomer: &Newcomer, request: &Path) -> Result<()> {
    let Newcomer {
        origin,
        member,
        quorum,
    } = newcomer;
    let folder = Folder::new(&member.folder);
    let config = member.config(origin, vec![member.address(0)]);
    // Its id is not known yet; all else must be as a config has it.
    let text = config.to_text()?;
    Config::parse(&text).context("check the node's name and addresses")?;
    anyhow::ensure!(
        !folder.keys().exists(),
        "there is a node in `{}` already",
        folder.path().display()
    );
    let new = NewMember::create(member, 0, origin)?;
    new.write_own()?;
    let entry = &new.entry;
    let body = Body::MemberAdded(Box::new(MemberAdded {
        org: entry.org,
        name: entry.name.clone(),
        node: entry.node,
        log_key: entry.log_key.clone(),
        cosigner_key: entry.cosigner_key.clone(),
        certificate: entry.certificate,
        peer_id: entry.peer_id.clone(),
        address: member.listen.to_string(),
        swarm: member.swarm_listen.to_string(),
        authority: new.authority_cert.certificate.to_vec(),
        quorum: *quorum,
    }));
    let mut nonce = Nonce::new([0; 16]);
    getrandom::fill(nonce.as_mut()).context("draw random bytes")?;
    let not_after = clock::unix_ms() + Log::MAX_MEMBER_VALIDITY_MS - AN_HOUR_MS;
    let statement = Statement::new(origin, body, nonce.into_array(), not_after);
    files::create(&folder.prepared(), Mode::Public, text.as_bytes())?;
    let signed = statement.sign(&[&new.org]);
    files::create(request, Mode::Public, &signed.to_bytes())
}

/// What a member gives a newcomer: how the network began, where it is, and the key of its swarm.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Welcome {
    version: u32,
    /// The founding statement, base64.
    founded: String,
    /// Certificates of the authorities, PEM.
    ca: String,
    swarm_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_every: Option<u64>,
    members: Vec<MemberAddress>,
    #[serde(default)]
    witnesses: Vec<WitnessAddress>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    foreign_witnesses: Vec<ForeignWitness>,
}

impl Drop for Welcome {
    fn drop(&mut self) {
        self.swarm_key.zeroize();
    }
}

/// Writes the file that a newcomer joins with. It holds the key of the private swarm: hand it over as a secret.
///
/// # Errors
///
/// When the node's folder is not complete, or the file exists.
pub fn welcome(node: &Folder, output: &Path) -> Result<()> {
    let config = Config::open(&node.config())?;
    let founded = std::fs::read(node.founded()).context("read the founding statement")?;
    let entries = entries(node)?;
    let swarm_key = Zeroizing::new(files::read_text(&node.swarm_key(), 256)?);
    let welcome = Welcome {
        version: 1,
        founded: STANDARD.encode(founded),
        ca: authorities(node, &entries)?,
        swarm_key: swarm_key.to_string(),
        snapshot_every: config.snapshot_every,
        members: addresses(&config, &entries)?,
        witnesses: config.witnesses.clone(),
        foreign_witnesses: config.foreign_witnesses.clone(),
    };
    let text = Zeroizing::new(toml::to_string(&welcome).context("write the welcome")?);
    files::create(output, Mode::Secret, text.as_bytes())
}

/// Joins the network: fetches how its members changed, checks that from the founding on, and completes the node's
/// folder. Started then, the node gets a snapshot and the rest of the log from the others, and then a vote. Gives
/// its node id.
///
/// # Errors
///
/// When nobody has prepared a node there, it has joined already, no member answers, what they answer does not
/// verify, or the log does not name this node as a member.
pub async fn join(folder: &Folder, welcome: &Path) -> Result<u64> {
    anyhow::ensure!(
        !folder.config().exists(),
        "the node in `{}` has joined already",
        folder.path().display()
    );
    let text = files::read_text(&folder.prepared(), MAX_BYTES);
    let config = Config::parse(&text.context("run `medanchord prepare` first")?)?;
    let text = Zeroizing::new(files::read_text(welcome, MAX_BYTES)?);
    let welcome = parse_welcome(&text)?;
    let founding = STANDARD
        .decode(&welcome.founded)
        .context("read the founding")?;
    let (founding, founded) = check_founding(&founding, &config.origin)?;
    let root = TrustPolicy::founded(&founded).context("read the founding")?;
    SwarmKey::parse(&welcome.swarm_key).context("read the swarm's key")?;

    let client = client(folder, &welcome)?;
    let chain = client.policy_chain(&[]).await;
    let chain = chain.context(
        "ask the members how they changed; they let this node in once its request is in the log",
    )?;
    Epochs::follow(root.clone(), &chain).context("follow the policy chain")?;
    // A node's own chain goes on with later changes, which the head of now does not cover.
    let chain = PolicyChain {
        changes: chain.changes,
        ..PolicyChain::default()
    };
    let entries = chain.members(&founded);
    let key = keys::open_signing(&folder.keys(), KeyName::Node)?.did();
    let own = entries.iter().find(|entry| entry.member.node == key);
    let own = own.context(
        "the log does not name this node as a member: its request must be signed by a majority of the members \
         and submitted (`medanchor admin member add`), and published",
    )?;
    anyhow::ensure!(own.is_active(), "this node was removed from the network");
    let node_id = own.member.node_id;
    complete(folder, &config, &welcome, &founding, &root, &chain, node_id)?;
    Ok(node_id)
}

/// Last the config: until it is there, joining can be done again.
fn complete(
    folder: &Folder,
    prepared: &Config,
    welcome: &Welcome,
    founding: &SignedStatement,
    root: &TrustPolicy,
    chain: &PolicyChain,
    node_id: u64,
) -> Result<()> {
    let replace = |path: &Path, mode, bytes: &[u8]| {
        files::replace(path, mode, bytes).with_context(|| format!("write `{}`", path.display()))
    };
    let own_ca = files::read_text(&folder.tls().join("own-ca.pem"), MAX_BYTES)?;
    let ca = format!("{}{own_ca}", welcome.ca);
    let policy = root.to_string();
    replace(&folder.tls().join("ca.pem"), Mode::Public, ca.as_bytes())?;
    replace(&folder.policy(), Mode::Public, policy.as_bytes())?;
    replace(&folder.founded(), Mode::Public, &founding.to_bytes())?;
    replace(&folder.policy_chain(), Mode::Public, &chain.to_bytes())?;
    let swarm_key = welcome.swarm_key.as_bytes();
    replace(&folder.swarm_key(), Mode::Secret, swarm_key)?;
    if !folder.cosigned().exists() {
        SeenFile::create(&folder.cosigned(), &prepared.origin)?;
    }
    let mut members = welcome.members.clone();
    members.retain(|member| member.node_id != node_id);
    let own = prepared.own()?.clone();
    members.push(MemberAddress { node_id, ..own });
    let config = Config {
        snapshot_every: welcome.snapshot_every,
        members,
        witnesses: welcome.witnesses.clone(),
        foreign_witnesses: welcome.foreign_witnesses.clone(),
        ..prepared.clone()
    };
    found::complete_operator(folder, &config, &ca, &policy)?;
    let text = config.to_text()?;
    Config::parse(&text).context("check the config")?;
    files::create(&folder.config(), Mode::Public, text.as_bytes())
}

fn parse_welcome(text: &str) -> Result<Welcome> {
    // The parser's own error would quote the line, and with it a key.
    let welcome: Welcome =
        toml::from_str(text).map_err(|_| anyhow::anyhow!("not a welcome file"))?;
    anyhow::ensure!(
        welcome.version == 1,
        "unsupported version {}",
        welcome.version
    );
    Ok(welcome)
}

fn check_founding(bytes: &[u8], origin: &str) -> Result<(SignedStatement, Founded)> {
    let founding = SignedStatement::from_bytes(bytes).context("parse the founding")?;
    let Body::Founded(founded) = &founding.statement.body else {
        anyhow::bail!("the welcome does not hold a founding statement");
    };
    let of = &founding.statement.origin;
    anyhow::ensure!(
        of == origin,
        "the welcome is to network `{of}`, not `{origin}`"
    );
    let signers: Vec<_> = founding.signatures.iter().map(|(by, _)| *by).collect();
    let all_signed = founded.members.iter().all(|m| signers.contains(&m.org));
    anyhow::ensure!(
        all_signed && founding.verifies(),
        "not all founders have signed the founding statement"
    );
    let founded = founded.clone();
    Ok((founding, founded))
}

fn client(folder: &Folder, welcome: &Welcome) -> Result<Client> {
    let read = |name: &str| files::read_text(&folder.tls().join(name), MAX_BYTES);
    let nodes = welcome.members.iter().map(|member| NodeAddress {
        name: member.name.clone(),
        address: member.address.to_string(),
    });
    let config = ClientConfig {
        nodes: nodes.collect(),
        ca: welcome.ca.clone(),
        certificate: read("cert.pem")?,
        key: Zeroizing::new(read("key.pem")?),
    };
    Client::new(&config).context("use the welcome's addresses")
}

/// All that ever were members, as this node's folder has it.
pub(crate) fn entries(node: &Folder) -> Result<Vec<MemberEntry>> {
    let founding = crate::app::open_founding(node)?;
    let founded = crate::app::founded_of(&founding)?;
    Ok(read_chain(&node.policy_chain())?.members(founded))
}

/// Where the members' nodes are: as the config says, or else as the log does.
pub(crate) fn addresses(config: &Config, entries: &[MemberEntry]) -> Result<Vec<MemberAddress>> {
    let mut addresses = Vec::new();
    for entry in entries.iter().filter(|entry| entry.is_active()) {
        let node_id = entry.member.node_id;
        let mut configured = config.members.iter();
        match (configured.find(|m| m.node_id == node_id), &entry.contact) {
            (Some(configured), _) => addresses.push(configured.clone()),
            (None, Some(contact)) => addresses.push(MemberAddress {
                name: entry.member.name.clone(),
                node_id,
                address: contact.address.parse().context("read an address")?,
                swarm: contact.swarm.parse().context("read an address")?,
                log: None,
            }),
            (None, None) => (),
        }
    }
    Ok(addresses)
}

/// Certificates of the authorities of all members, PEM.
pub(crate) fn authorities(node: &Folder, entries: &[MemberEntry]) -> Result<String> {
    let mut authorities = files::read_text(&node.tls().join("ca.pem"), MAX_BYTES)?;
    let joined = entries.iter().filter(|entry| entry.is_active());
    for contact in joined.filter_map(|entry| entry.contact.as_ref()) {
        let pem = pem(&contact.authority);
        if !authorities.contains(&pem) {
            authorities.push_str(&pem);
        }
    }
    Ok(authorities)
}

/// RFC 7468.
fn pem(certificate: &[u8]) -> String {
    let base64 = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

const AN_HOUR_MS: u64 = 60 * 60 * 1000;
const MAX_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificates::Authority,
        found::{Plan, found},
    };
    use proptest::prelude::*;

    fn planned(data: &Path, name: &str) -> PlannedMember {
        PlannedMember {
            name: name.to_owned(),
            folder: data.join(name),
            listen: "127.0.0.1:1".parse().unwrap(),
            swarm_listen: "127.0.0.1:2".parse().unwrap(),
            log_listen: "127.0.0.1:3".parse().unwrap(),
            passphrase_file: None,
        }
    }

    fn newcomer(data: &Path) -> Newcomer {
        Newcomer {
            origin: ORIGIN.to_owned(),
            member: planned(data, "hospital-d"),
            quorum: 2,
        }
    }

    /// A network of one that has welcomed somebody.
    fn welcomed(data: &Path) -> std::path::PathBuf {
        let plan = Plan {
            origin: ORIGIN.to_owned(),
            members: vec![planned(data, "hospital-a")],
            witnesses: Vec::new(),
            foreign_witnesses: Vec::new(),
            copies: 1,
            quorum: 1,
        };
        found(&plan, |_| unreachable!()).unwrap();
        let file = data.join("welcome");
        welcome(&Folder::new(data.join("hospital-a")), &file).unwrap();
        file
    }

    #[test]
    fn request_is_signed_by_the_newcomer_and_keys_are_never_overwritten() {
        let data = tempfile::tempdir().unwrap();
        let request = data.path().join("request");
        let newcomer = newcomer(data.path());
        prepare(&newcomer, &request).unwrap();
        let signed = SignedStatement::from_bytes(&std::fs::read(&request).unwrap()).unwrap();
        let Body::MemberAdded(body) = &signed.statement.body else {
            panic!("{signed:?}");
        };
        assert!(signed.verifies());
        assert_eq!(signed.author(), Some(&body.org));
        assert_eq!((body.name.as_str(), body.quorum), ("hospital-d", 2));
        assert_eq!(body.address, "127.0.0.1:1");
        let node = data.path().join("hospital-d");
        let key = std::fs::read(node.join("keys/node.key")).unwrap();
        assert!(prepare(&newcomer, &data.path().join("again")).is_err());
        assert_eq!(std::fs::read(node.join("keys/node.key")).unwrap(), key);
    }

    #[tokio::test]
    async fn welcome_that_is_not_to_this_network_is_refused_before_anybody_is_asked() {
        let data = tempfile::tempdir().unwrap();
        let file = welcomed(data.path());
        let other = Newcomer {
            origin: "other.example/log".to_owned(),
            ..newcomer(data.path())
        };
        prepare(&other, &data.path().join("request")).unwrap();
        let folder = Folder::new(&other.member.folder);
        let refused = join(&folder, &file).await.unwrap_err();
        assert!(
            refused.to_string().contains("not `other.example/log`"),
            "{refused:#}"
        );

        let mut changed = parse_welcome(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let mut founding = STANDARD.decode(&changed.founded).unwrap();
        let last = founding.len() - 1;
        founding[last] ^= 1;
        assert!(check_founding(&founding, ORIGIN).is_err());
        changed.version = 2;
        let text = toml::to_string(&changed).unwrap();
        assert!(parse_welcome(&text).is_err());
        assert!(!folder.config().exists());
    }

    #[tokio::test]
    async fn node_that_nobody_has_prepared_does_not_join() {
        let data = tempfile::tempdir().unwrap();
        let file = welcomed(data.path());
        let folder = Folder::new(data.path().join("hospital-d"));
        let refused = join(&folder, &file).await.unwrap_err();
        assert!(
            format!("{refused:#}").contains("medanchord prepare"),
            "{refused:#}"
        );
        let founder = Folder::new(data.path().join("hospital-a"));
        let refused = join(&founder, &file).await.unwrap_err();
        assert!(
            refused.to_string().contains("joined already"),
            "{refused:#}"
        );
    }

    #[test]
    fn certificate_is_written_as_its_authority_writes_it() {
        let (_, authority) = Authority::create("hospital-a").unwrap();
        let text = authority.certificate_pem.replace("\r\n", "\n");
        assert_eq!(pem(&authority.certificate), text);
    }

    proptest! {
        #[test]
        fn parse_welcome_never_panics(text in ".*") {
            let _ = parse_welcome(&text);
        }
    }

    const ORIGIN: &str = "test.example/medanchor";
}
