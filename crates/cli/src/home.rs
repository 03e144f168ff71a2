use crate::{
    OwnKeys,
    custody_copy::CustodyCopy,
    epoch_key::EpochKeys,
    files,
    passphrases::Passphrases,
    secret_file::{self, Opened},
};
use anyhow::{Context, Result};
use medanchor_anchor::{Epochs, PolicyChain, TrustPolicy};
use medanchor_api::{ClientConfig, NodeAddress};
use medanchor_envelope::Identity;
use medanchor_secrets::{Passphrase, Protection};
use serde::Deserialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use zeroize::Zeroizing;

/// A user's folder: who they are, whom they believe, and what they keep.
///
/// | path | what |
/// |---|---|
/// | `client.toml` | the network's name, its nodes, the trust policy's file |
/// | `ca.pem`, `cert.pem`, `key.pem` | TLS |
/// | `policy.txt` | trust policy, C2SP tlog-policy |
/// | `identity.toml` | the user's keys, under a passphrase unless they were made without |
/// | `identity-next.toml` | the next signing key, while it is rotated: protected as `identity.toml` is |
/// | `custody/` | copies of custody keys held here as second holder |
/// | `epoch-key.toml` | what these copies are sealed to, kept as `identity.toml` is; in no backup that has the copies |
/// | `erasures/` | certificates of what was erased from here |
/// | `device-stream.toml` | where a device's stream of records stands |
/// | `outbox/` | sealed records that are not anchored yet |
/// | `puts/` | what became of the files that were put, and custody keys as they were proved last |
/// | `receipts/`, `grants/` | what the log proved, and released keys |
/// | `checkpoints/` | the newest checkpoint of each log, and evidence against it |
#[derive(Clone)]
pub struct Home {
    path: PathBuf,
    passphrases: Passphrases,
    /// `identity.toml`, once a passphrase opened it: that takes a second.
    identity: Arc<OnceLock<Opened>>,
}

/// `client.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientFile {
    /// The network's name.
    pub(crate) origin: String,
    /// The trust policy's file, relative to the home.
    #[serde(default = "policy_file")]
    policy: PathBuf,
    /// The nodes, the user's own organisation's first.
    nodes: Vec<NodeLine>,
    /// The node that makes custody keys; absent, the first.
    pub(crate) operator: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeLine {
    name: String,
    address: String,
    /// Address of its log over HTTPS.
    log: Option<String>,
}

impl ClientFile {
    /// Names of nodes, and the addresses of their logs over HTTPS.
    pub(crate) fn logs(&self) -> impl Iterator<Item = (&str, &str)> {
        let logs = self.nodes.iter();
        logs.filter_map(|node| Some((node.name.as_str(), node.log.as_deref()?)))
    }
}

impl Home {
    /// The home at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            passphrases: Passphrases::default(),
            identity: Arc::default(),
        }
    }

    /// The same home, whose passphrase is in this file. Absent, it is asked for at the terminal when it is needed.
    #[must_use]
    pub fn with_passphrase_file(self, file: Option<PathBuf>) -> Self {
        Self {
            passphrases: Passphrases::new(file),
            ..self
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A folder in it, made where it does not exist.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        files::create_folder(&path)
            .with_context(|| format!("create folder `{}`", path.display()))?;
        Ok(path)
    }

    /// The user's keys.
    ///
    /// # Errors
    ///
    /// When there are none, they are under a passphrase that is not given, or the file is damaged.
    pub fn own_keys(&self) -> Result<OwnKeys> {
        Ok(self.open_identity()?.0)
    }

    /// The user's keys, and whether they are under a passphrase.
    pub(crate) fn open_identity(&self) -> Result<(OwnKeys, bool)> {
        let path = self.identity();
        let parse = |opened: &Opened| {
            let keys = OwnKeys::parse(&opened.text);
            let keys = keys.with_context(|| format!("parse `{}`", path.display()))?;
            Ok((keys, opened.protected))
        };
        if let Some(opened) = self.identity.get() {
            return parse(opened);
        }
        anyhow::ensure!(
            path.exists(),
            "`{}` does not exist: `medanchor key new` makes the user's keys",
            path.display()
        );
        let opened = secret_file::open(&path, &self.passphrases).context("read the user's keys")?;
        match opened.protected {
            true => parse(self.identity.get_or_init(|| opened)),
            false => parse(&opened),
        }
    }

    /// The private key of a custody, of which a file here or from a backup is a copy.
    ///
    /// # Errors
    ///
    /// When the copy is sealed to another epoch key, or was changed.
    pub fn open_custody_copy(&self, path: &Path) -> Result<Identity> {
        Ok(CustodyCopy::open(path, &EpochKeys::of(self)?)?.key)
    }

    /// How new files with keys are kept here: as the user's own keys are.
    pub(crate) fn protection(&self) -> Result<Passphrased<'_>> {
        let (_, is_protected) = self.open_identity()?;
        let passphrase = is_protected.then(|| self.passphrases.of(&self.identity()));
        Ok(Passphrased(passphrase.transpose()?))
    }

    /// Where the passphrase of the home's files comes from.
    pub(crate) fn passphrases(&self) -> &Passphrases {
        &self.passphrases
    }

    /// Where the user's keys are.
    pub(crate) fn identity(&self) -> PathBuf {
        self.join("identity.toml")
    }

    /// Where the next signing key is, while it is not known whether it is in force.
    pub(crate) fn next_identity(&self) -> PathBuf {
        self.join("identity-next.toml")
    }

    pub(crate) fn client_file(&self) -> Result<ClientFile> {
        let path = self.join("client.toml");
        anyhow::ensure!(
            path.exists(),
            "`{}` does not exist: a member's operator makes such a folder with `medanchord invite`",
            path.display()
        );
        parse_client_file(&files::read_text(&path, MAX_CLIENT_BYTES)?)
            .with_context(|| format!("parse `{}`", path.display()))
    }

    pub(crate) fn trust_policy(&self, client: &ClientFile) -> Result<TrustPolicy> {
        read_policy(&self.join(&client.policy))
    }

    /// The policies by the size of the log: the home's trust policy, and how it changed since.
    pub(crate) fn epochs(&self, client: &ClientFile) -> Result<Epochs> {
        let policy = self.trust_policy(client)?;
        let chain = self.join(POLICY_CHAIN);
        match chain.exists() {
            true => follow(policy, &chain),
            false => Ok(Epochs::new(policy)),
        }
    }

    pub(crate) fn client_config(&self, client: &ClientFile) -> Result<ClientConfig> {
        let pem = |name: &str| files::read_text(&self.join(name), MAX_PEM_BYTES);
        let nodes = client.nodes.iter().map(|node| NodeAddress {
            name: node.name.clone(),
            address: node.address.clone(),
        });
        Ok(ClientConfig {
            nodes: nodes.collect(),
            ca: pem("ca.pem")?,
            certificate: pem("cert.pem")?,
            key: Zeroizing::new(pem("key.pem")?),
        })
    }
}

/// A passphrase, where there is one.
pub(crate) struct Passphrased<'a>(Option<&'a Passphrase>);

impl Passphrased<'_> {
    /// How a file is kept with it.
    pub(crate) fn how(&self) -> Protection<'_> {
        self.0.map_or(Protection::Plain, Protection::Passphrase)
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Reads a trust policy.
fn read_policy(path: &Path) -> Result<TrustPolicy> {
    let limit = u64::try_from(TrustPolicy::MAX_BYTES).unwrap_or(u64::MAX);
    files::read_text(path, limit)?
        .parse()
        .with_context(|| format!("parse trust policy `{}`", path.display()))
}

/// The policies by the size of the log: as given, or else as kept in the home.
pub(crate) fn believed(home: &Home, policy: Option<&Path>, chain: Option<&Path>) -> Result<Epochs> {
    match (policy, chain) {
        (Some(policy), Some(chain)) => follow(read_policy(policy)?, chain),
        (Some(policy), None) => Ok(Epochs::new(read_policy(policy)?)),
        (None, Some(chain)) => follow(home.trust_policy(&home.client_file()?)?, chain),
        (None, None) => home.epochs(&home.client_file()?),
    }
}

/// Follows a policy-chain file.
fn follow(policy: TrustPolicy, path: &Path) -> Result<Epochs> {
    let limit = u64::try_from(PolicyChain::MAX_BYTES).unwrap_or(u64::MAX);
    let chain = PolicyChain::from_bytes(&files::read(path, limit)?)
        .with_context(|| format!("parse policy chain `{}`", path.display()))?;
    Epochs::follow(policy, &chain)
        .with_context(|| format!("follow policy chain `{}`", path.display()))
}

fn parse_client_file(text: &str) -> Result<ClientFile> {
    let client: ClientFile = toml::from_str(text)?;
    anyhow::ensure!(!client.nodes.is_empty(), "no node is listed");
    anyhow::ensure!(
        client.nodes.len() <= MAX_NODES,
        "more than {MAX_NODES} nodes are listed"
    );
    Ok(client)
}

fn policy_file() -> PathBuf {
    PathBuf::from("policy.txt")
}

/// How the trust policy changed with the members, as far as the user knows.
pub(crate) const POLICY_CHAIN: &str = "policy-chain";
const MAX_CLIENT_BYTES: u64 = 64 * 1024;
const MAX_PEM_BYTES: u64 = 1024 * 1024;
const MAX_NODES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "origin = \"example.org/log\"\npolicy = \"policy.txt\"\n\
        [[nodes]]\nname = \"a\"\naddress = \"127.0.0.1:7000\"\nlog = \"127.0.0.1:7002\"\n\
        [[nodes]]\nname = \"b\"\naddress = \"127.0.0.1:7001\"\n";

    #[test]
    fn client_file_is_parsed() {
        let client = parse_client_file(GOOD).unwrap();
        assert_eq!(client.origin, "example.org/log");
        assert_eq!(client.nodes.len(), 2);
        assert_eq!(client.logs().collect::<Vec<_>>(), [("a", "127.0.0.1:7002")]);
        assert_eq!(client.operator, None);
    }

    #[test]
    fn client_file_without_nodes_or_with_unknown_keys_is_refused() {
        assert!(parse_client_file("origin = \"x\"\nnodes = []\n").is_err());
        assert!(parse_client_file(&format!("colour = 1\n{GOOD}")).is_err());
    }

    proptest! {
        #[test]
        fn client_file_parser_never_panics(text in any::<String>(), at in 0..GOOD.len()) {
            let _ = parse_client_file(&text);
            let mut changed = GOOD.to_owned();
            changed.insert_str(at, &text);
            let _ = parse_client_file(&changed);
        }
    }
}
