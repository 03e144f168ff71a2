//! The one config file of `medanchord`, `medanchord.toml`.

use crate::{files, remote::ForeignServer};
use anyhow::{Context, Result};
use medanchor_anchor::{SignatureKind, VerifierKey};
use medanchor_dag::Cid;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What a `medanchord` process is and where the others are. Everything else is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The network's name, origin of its log: `hospitals.example/medanchor`.
    pub origin: String,
    /// This node's short name: that of its organisation.
    pub name: String,
    /// What this process does.
    pub role: Role,
    /// Address of the gRPC services (TLS 1.3 with client certificates).
    pub listen: SocketAddr,
    /// Address of the private swarm. Only a storage node has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm_listen: Option<SocketAddr>,
    /// Address of the log over HTTPS (C2SP tlog-tiles and tlog-witness; no client certificate is asked
    /// for). Absent, it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_listen: Option<SocketAddr>,
    /// Who may read the log's entries there.
    #[serde(default)]
    pub log_entries: EntryReaders,
    /// A file with the passphrase that the keys of custody and second factors are under, by an absolute path. Absent, they are in
    /// clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Entries and leaves of the log after which its state is snapshot, while it is small. The same on every
    /// node; absent: the usual number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_every: Option<u64>,
    /// After how many seconds the leader of an idle log signs its newest checkpoint again, so that others can tell
    /// a quiet log from a silent one; absent: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reissue_after_seconds: Option<u32>,
    /// How fast this node reads all its blocks again to see whether they are still good; 0: not at all; absent: 4 MiB
    /// per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_bytes_per_second: Option<u64>,
    /// How many seconds after such a pass the next one begins; absent: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub_every_seconds: Option<u32>,
    /// How many seconds after this node has looked for blocks that nothing needs, and removed them, it does so again;
    /// absent: 21600, six hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect_every_seconds: Option<u32>,
    /// How many times as long as the processor worked it rests meanwhile: less frees room sooner, and slows down those
    /// who read; absent: 110, so that 99 reads of 100 do not notice it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collect_rest: Option<u32>,
    /// How many seconds a block stays at least that is not part of an anchored record: in this time an upload must be
    /// anchored; absent: 86400, a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_unanchored_seconds: Option<u32>,
    /// How many bytes the people and devices of one organisation may upload to this node in that time without a record
    /// of theirs being anchored for it; absent: 64 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanchored_bytes: Option<u64>,
    /// Records that are not whole on this node and of which nobody has what is missing, by CID: blocks that may have
    /// been part of them are removed like others that nothing needs. Without this none is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_records: Vec<String>,
    /// For how many seconds this node's word that it holds a record is good, until it is anchored; absent: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u32>,
    /// After how many seconds without a node others take its share of the records; absent: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_after_seconds: Option<u32>,
    /// How many seconds after this node has looked whether all records are where they belong it does so again, if
    /// nobody comes or goes meanwhile; absent: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicate_every_seconds: Option<u32>,
    /// How fast this node fetches records that it is to hold since others were lost or joined; 0: not at all; absent:
    /// 64 MiB per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicate_bytes_per_second: Option<u64>,
    /// The members' nodes, this one among them.
    pub members: Vec<MemberAddress>,
    /// Outside witnesses that were founded with the network.
    #[serde(default)]
    pub witnesses: Vec<WitnessAddress>,
    /// Outside witnesses that others run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_witnesses: Vec<ForeignWitness>,
    /// Logs of others that this node co-signs too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnessed_logs: Vec<WitnessedLog>,
    /// Peers outside the log that may join the private swarm, such as a hospital's Kubo node.
    #[serde(default)]
    pub foreign_peers: Vec<ForeignPeer>,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Keeps blocks and a replica of the log, and releases keys.
    Member,
    /// Co-signs checkpoints, and keeps nothing else.
    Witness,
}

/// Who may read the log's entries over HTTPS. Checkpoints and hash tiles are for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryReaders {
    /// Nodes, operators and auditors, by the certificates that organisations of the network issued.
    #[default]
    Auditors,
    /// Everybody.
    Everyone,
}

/// Where a member's node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberAddress {
    /// Its short name.
    pub name: String,
    /// Its node id in the replicated log.
    pub node_id: u64,
    /// Address of its gRPC services.
    pub address: SocketAddr,
    /// Address of its private swarm peer.
    pub swarm: SocketAddr,
    /// Address of its log over HTTPS, where it serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<SocketAddr>,
}

/// Where an outside witness is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessAddress {
    /// Its short name, which its certificate bears.
    pub name: String,
    /// Address of its HTTPS service.
    pub address: SocketAddr,
}

/// A witness that others run: any that speaks C2SP tlog-witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignWitness {
    /// Its co-signing key, as a C2SP vkey of type 0x04.
    pub key: String,
    /// Its URL prefix: `https://witness.example/prefix`. `http` is for this machine alone.
    pub url: String,
    /// The certificate that it shows, or that of the authority that issues those, PEM. `https` needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

impl ForeignWitness {
    /// Reads a file with nothing but `[[foreign_witnesses]]`, to found a network with.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or one of them cannot be asked.
    pub fn read_all(path: &Path) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            foreign_witnesses: Vec<ForeignWitness>,
        }
        let read = || {
            let file: File = toml::from_str(&files::read_text(path, MAX_BYTES)?)?;
            file.foreign_witnesses.iter().try_for_each(Self::check)?;
            Ok(file.foreign_witnesses)
        };
        let read: Result<_> = read();
        read.with_context(|| format!("read witnesses `{}`", path.display()))
    }

    /// Its key.
    ///
    /// # Errors
    ///
    /// When it is no co-signing key.
    pub fn verifier_key(&self) -> Result<VerifierKey> {
        let text = &self.key;
        let key: VerifierKey = text.parse().with_context(|| format!("parse `{text}`"))?;
        anyhow::ensure!(
            key.kind() == SignatureKind::Cosignature,
            "`{text}` is no co-signing key"
        );
        Ok(key)
    }

    /// Checks that it can be asked.
    fn check(&self) -> Result<()> {
        self.verifier_key()?;
        ForeignServer::new(&self.url, self.certificate.as_deref())?;
        Ok(())
    }
}

/// A log of others that this node co-signs. What it has co-signed is kept from `medanchord witness-log` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessedLog {
    /// Its origin.
    pub origin: String,
    /// Its log keys, as C2SP vkeys named like the origin.
    pub keys: Vec<String>,
}

impl WitnessedLog {
    /// The log keys.
    ///
    /// # Errors
    ///
    /// When there is none, or one is no log key of this origin.
    pub fn log_keys(&self) -> Result<Vec<VerifierKey>> {
        let origin = &self.origin;
        anyhow::ensure!(!self.keys.is_empty(), "log `{origin}` has no keys");
        let parse = |text: &String| {
            let key: VerifierKey = text.parse().with_context(|| format!("parse `{text}`"))?;
            anyhow::ensure!(
                key.kind() == SignatureKind::Ed25519 && key.name() == origin,
                "`{text}` is no log key of `{origin}`"
            );
            Ok(key)
        };
        self.keys.iter().map(parse).collect()
    }
}

/// A peer of the private swarm that is no member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignPeer {
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Where to dial it; absent: it dials us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

impl Config {
    /// Reads and checks `medanchord.toml`.
    ///
    /// # Errors
    ///
    /// Says which file, and what in it is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let text = files::read_text(path, MAX_BYTES)?;
        Self::parse(&text).with_context(|| format!("read config `{}`", path.display()))
    }

    /// Parses and checks a config.
    ///
    /// # Errors
    ///
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).context("parse")?;
        config.check()?;
        Ok(config)
    }

    /// The file's text.
    ///
    /// # Errors
    ///
    /// When it cannot be written as TOML.
    pub fn to_text(&self) -> Result<String> {
        toml::to_string_pretty(self).context("write config")
    }

    /// This node's own entry.
    ///
    /// # Errors
    ///
    /// When the members do not name it.
    pub fn own(&self) -> Result<&MemberAddress> {
        self.members
            .iter()
            .find(|member| member.name == self.name)
            .with_context(|| format!("`members` has no entry named `{}`", self.name))
    }

    /// The records that the operator knows to be lost.
    ///
    /// # Errors
    ///
    /// When one is no CID.
    pub fn lost_records(&self) -> Result<BTreeSet<Cid>> {
        let parse = |text: &String| {
            let parsed = text.parse::<Cid>();
            parsed.with_context(|| format!("`lost_records`: `{text}` is not a record's CID"))
        };
        self.lost_records.iter().map(parse).collect()
    }

    fn check(&self) -> Result<()> {
        self.lost_records()?;
        let passphrase_file = self.passphrase_file.as_deref();
        anyhow::ensure!(
            passphrase_file.is_none_or(Path::is_absolute),
            "`passphrase_file` must be an absolute path"
        );
        for (name, seconds) in [
            ("reissue_after_seconds", self.reissue_after_seconds),
            ("scrub_every_seconds", self.scrub_every_seconds),
            ("collect_every_seconds", self.collect_every_seconds),
            ("keep_unanchored_seconds", self.keep_unanchored_seconds),
            ("hold_seconds", self.hold_seconds),
            ("absent_after_seconds", self.absent_after_seconds),
            ("replicate_every_seconds", self.replicate_every_seconds),
        ] {
            anyhow::ensure!(seconds != Some(0), "`{name}` must not be 0");
        }
        let bound = |count: usize| count <= MAX_LIST;
        anyhow::ensure!(
            bound(self.members.len())
                && bound(self.witnesses.len())
                && bound(self.foreign_witnesses.len())
                && bound(self.foreign_peers.len())
                && bound(self.witnessed_logs.len()),
            "more than {MAX_LIST} members, witnesses, witnessed logs or foreign peers"
        );
        let names = self.members.iter().map(|member| &member.name);
        for name in names.chain(self.witnesses.iter().map(|witness| &witness.name)) {
            anyhow::ensure!(is_name(name), "`{name}` is not a name: use a-z, 0-9 and -");
        }
        anyhow::ensure!(
            !self.origin.is_empty() && !self.origin.contains([' ', '+', '\n']),
            "`origin` must not be empty or have spaces or `+`"
        );
        for witness in &self.foreign_witnesses {
            witness.check().context("read `foreign_witnesses`")?;
        }
        let mut origins = vec![&self.origin];
        for log in &self.witnessed_logs {
            let origin = &log.origin;
            anyhow::ensure!(!origins.contains(&origin), "log `{origin}` is listed twice");
            origins.push(origin);
            log.log_keys().context("read `witnessed_logs`")?;
        }
        if self.role == Role::Member {
            self.own()?;
            self.swarm_listen
                .context("a member needs `swarm_listen`")
                .map(drop)?;
        }
        Ok(())
    }
}

/// Where everything is in a node's data folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The data folder at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.0.join("medanchord.toml")
    }

    /// Private keys.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// Certificates.
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// The private swarm's key.
    pub fn swarm_key(&self) -> PathBuf {
        self.0.join("swarm.key")
    }

    /// The signed statement that founded the network.
    pub fn founded(&self) -> PathBuf {
        self.0.join("founded.cbor")
    }

    /// The trust policy with which the network began (C2SP tlog-policy), for clients.
    pub fn policy(&self) -> PathBuf {
        self.0.join("policy.txt")
    }

    /// How the trust policy changed with the members, as far as this node knows.
    pub fn policy_chain(&self) -> PathBuf {
        self.0.join("policy-chain")
    }

    /// The config of a node that is prepared to join a network, until it has.
    pub fn prepared(&self) -> PathBuf {
        self.0.join("prepared.toml")
    }

    /// What this node has co-signed.
    pub fn cosigned(&self) -> PathBuf {
        self.0.join("cosigned")
    }

    /// Alarms and their evidence.
    pub fn alarms(&self) -> PathBuf {
        self.0.join("alarms")
    }

    /// The newest checkpoints that were found true.
    pub fn known_checkpoints(&self) -> PathBuf {
        self.0.join("known-checkpoints")
    }

    /// Of how many leaves the decisions were decided again.
    pub fn audited(&self) -> PathBuf {
        self.0.join("audited")
    }

    /// Blocks.
    pub fn blocks(&self) -> PathBuf {
        self.0.join("blocks")
    }

    /// The replica.
    pub fn raft(&self) -> PathBuf {
        self.0.join("raft")
    }

    /// That this node has taken part in the log.
    pub fn joined(&self) -> PathBuf {
        self.0.join("joined")
    }

    /// Custody keys.
    pub fn custody(&self) -> PathBuf {
        self.0.join("custody.redb")
    }

    /// Which codes of second factors were used.
    pub fn factors(&self) -> PathBuf {
        self.0.join("factors.redb")
    }

    /// The newest checkpoint that this node showed over HTTPS.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// Home of the operator's `medanchor`.
    pub fn operator(&self) -> PathBuf {
        self.0.join("operator")
    }
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 32 && text.chars().all(fits)
}

const MAX_BYTES: u64 = 256 * 1024;
const MAX_LIST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        Config {
            origin: "example.org/log".to_owned(),
            name: "hospital-a".to_owned(),
            role: Role::Member,
            listen: ([127, 0, 0, 1], 7440).into(),
            swarm_listen: Some(([127, 0, 0, 1], 7441).into()),
            log_listen: Some(([127, 0, 0, 1], 7442).into()),
            log_entries: EntryReaders::Auditors,
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
            members: vec![MemberAddress {
                name: "hospital-a".to_owned(),
                node_id: 1,
                address: ([127, 0, 0, 1], 7440).into(),
                swarm: ([127, 0, 0, 1], 7441).into(),
                log: Some(([127, 0, 0, 1], 7442).into()),
            }],
            witnesses: Vec::new(),
            foreign_witnesses: Vec::new(),
            witnessed_logs: Vec::new(),
            foreign_peers: Vec::new(),
        }
    }

    #[test]
    fn foreign_witnesses_have_a_cosigning_key_and_a_place_to_ask_them() {
        let key = |kind| {
            let key = medanchor_dag::SigningKey::from_seed(&[1; 32]).did();
            let key = VerifierKey::new("witness.example", kind, key).unwrap();
            key.to_string()
        };
        let (_, issued) = crate::certificates::Authority::create("witness").unwrap();
        let good = ForeignWitness {
            key: key(SignatureKind::Cosignature),
            url: "https://witness.example/w".to_owned(),
            certificate: Some(issued.certificate_pem.clone()),
        };
        let near = ForeignWitness {
            url: "http://127.0.0.1:7380".to_owned(),
            certificate: None,
            ..good.clone()
        };
        let with = |foreign_witnesses: Vec<ForeignWitness>| Config {
            foreign_witnesses,
            ..config()
        };
        let witnesses = vec![good.clone(), near];
        let text = with(witnesses.clone()).to_text().unwrap();
        assert_eq!(Config::parse(&text).unwrap().foreign_witnesses, witnesses);
        let log_key = ForeignWitness {
            key: key(SignatureKind::Ed25519),
            ..good.clone()
        };
        let in_clear = ForeignWitness {
            url: "http://witness.example".to_owned(),
            ..good.clone()
        };
        let unknown = ForeignWitness {
            certificate: None,
            ..good.clone()
        };
        let two = ForeignWitness {
            certificate: Some(issued.certificate_pem.repeat(2)),
            ..good
        };
        for wrong in [log_key, in_clear, unknown, two] {
            let text = with(vec![wrong]).to_text().unwrap();
            assert!(Config::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn witnessed_logs_have_keys_of_their_own_and_are_listed_once() {
        let key = |origin: &str, kind| {
            let key = medanchor_dag::SigningKey::from_seed(&[1; 32]).did();
            VerifierKey::new(origin, kind, key).unwrap().to_string()
        };
        let log = |origin: &str, keys: &[String]| WitnessedLog {
            origin: origin.to_owned(),
            keys: keys.to_vec(),
        };
        let good = log("a.example", &[key("a.example", SignatureKind::Ed25519)]);
        let with = |witnessed_logs: Vec<WitnessedLog>| Config {
            witnessed_logs,
            ..config()
        };
        let text = with(vec![good.clone()]).to_text().unwrap();
        let read = Config::parse(&text).unwrap();
        assert_eq!(read.witnessed_logs, std::slice::from_ref(&good));
        for wrong in [
            vec![log("a.example", &[])],
            vec![log("a.example", &["a.example+no key".to_owned()])],
            vec![log(
                "a.example",
                &[key("b.example", SignatureKind::Ed25519)],
            )],
            vec![log(
                "a.example",
                &[key("a.example", SignatureKind::Cosignature)],
            )],
            vec![good.clone(), good],
            vec![log(
                "example.org/log",
                &[key("example.org/log", SignatureKind::Ed25519)],
            )],
        ] {
            let text = with(wrong).to_text().unwrap();
            assert!(Config::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn config_is_read_back_from_its_text() {
        let text = config().to_text().unwrap();
        assert_eq!(Config::parse(&text).unwrap(), config());
    }

    #[test]
    fn config_that_contradicts_itself_is_refused() {
        let nameless = Config {
            name: "hospital-b".to_owned(),
            ..config()
        };
        let swarmless = Config {
            swarm_listen: None,
            ..config()
        };
        let spaced = Config {
            origin: "example org".to_owned(),
            ..config()
        };
        let restless = Config {
            reissue_after_seconds: Some(0),
            ..config()
        };
        let sleepless = Config {
            scrub_every_seconds: Some(0),
            ..config()
        };
        let heedless = Config {
            keep_unanchored_seconds: Some(0),
            ..config()
        };
        let somewhere = Config {
            passphrase_file: Some("passphrase".into()),
            ..config()
        };
        let vague = Config {
            lost_records: vec!["the one of yesterday".to_owned()],
            ..config()
        };
        for wrong in [
            nameless, swarmless, spaced, restless, sleepless, heedless, somewhere, vague,
        ] {
            let text = wrong.to_text().unwrap();
            assert!(Config::parse(&text).is_err(), "{text}");
        }
        let unknown = format!("{}\nsurprise = 1\n", config().to_text().unwrap());
        assert!(Config::parse(&unknown).is_err());
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in ".*") {
            let _ = Config::parse(&text);
        }

        #[test]
        fn parse_never_panics_on_changed_text(at in 0usize..400, with in any::<char>()) {
            let mut text: Vec<char> = config().to_text().unwrap().chars().collect();
            let at = at % text.len();
            text[at] = with;
            let _ = Config::parse(&text.into_iter().collect::<String>());
        }
    }
}
