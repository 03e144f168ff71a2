use crate::{CliError, Session, log::proved};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Custody, Outcome, Strength};
use medanchor_api::{Client, ClientError, ImportKey, ImportedKey, LeafName, ListedMember};
use medanchor_dag::Did;
use medanchor_envelope::{Recipient, SealedKey};

/// A member's node as a holder of custody keys. That the key it signs with is its own is shown by the log.
pub(crate) struct CustodyNode {
    /// Its short name.
    pub(crate) name: String,
    /// Its key, by which the log names it.
    pub(crate) node: Did,
    client: Client,
}

impl CustodyNode {
    /// The node of the user's own organisation.
    pub(crate) async fn own(session: &Session) -> Result<Self> {
        let client = session.operator()?;
        let name = client.node_names().next().context("no node is listed")?;
        Self::of(session, name).await
    }

    /// The node with this short name.
    pub(crate) async fn of(session: &Session, name: &str) -> Result<Self> {
        let client = session
            .client
            .only(name)
            .ok_or_else(|| CliError::Usage(format!("node `{name}` is not in `client.toml`")))?;
        let listed = session.client.members().await.context("list the members")?;
        let is_meant = |member: &&ListedMember| member.name == name && member.removed_at.is_none();
        let member = listed.members.iter().find(is_meant);
        let member =
            member.ok_or_else(|| CliError::Usage(format!("no member is named `{name}`")))?;
        let leaf = LeafName::Index(member.added_at);
        let (receipt, _) = proved(session, leaf, Strength::Published).await?;
        let said = receipt
            .opening
            .map(|opening| opening.0.signed.statement.body);
        let is_named = match said {
            _ if receipt.leaf.outcome != Outcome::Ok => false,
            Some(Body::Founded(founded)) => {
                let mut members = founded.members.iter();
                members.any(|founder| founder.name == name && founder.node == member.node)
            }
            Some(Body::MemberAdded(added)) => added.name == name && added.node == member.node,
            _ => false,
        };
        match is_named {
            true => Ok(Self {
                name: name.to_owned(),
                node: member.node,
                client,
            }),
            false => {
                let problem = format!("the log does not say that `{}` is `{name}`", member.node);
                Err(CliError::NotVerified(problem).into())
            }
        }
    }

    /// What copies of custody keys for it are sealed to.
    pub(crate) async fn store_key(&self, origin: &str) -> Result<Recipient> {
        let said = self.client.custody_store_key().await;
        let said = said.with_context(|| format!("ask `{}` for its store key", self.name))?;
        if said.by != self.node || !said.is_valid(origin) {
            let problem = format!("the store key is not signed by `{}`", self.name);
            return Err(CliError::NotVerified(problem).into());
        }
        Recipient::from_bytes(said.key.into_array()).context("use the store key")
    }

    /// Has it keep a copy that was sealed to its store key, and attest the key.
    pub(crate) async fn import(&self, custody: &Custody, copy: &SealedKey) -> Result<ImportedKey> {
        let import = ImportKey {
            custody: custody.custody,
            epoch: custody.epoch,
            copy: copy.to_bytes().into(),
        };
        let imported = match self.client.import_custody_key(import).await {
            Err(ClientError::Rejected(error)) if error.code == "copy-unusable" => {
                return Err(CliError::NotVerified(error.message).into());
            }
            answer => answer.with_context(|| format!("give the key to `{}`", self.name))?,
        };
        let held = &imported.attestation;
        let attests =
            held.by == self.node && held.is_valid(custody.custody, custody.epoch, &custody.key);
        match attests {
            true => Ok(imported),
            false => {
                let problem = format!(
                    "`{}` does not stand for the key that it was given",
                    self.name
                );
                Err(CliError::NotVerified(problem).into())
            }
        }
    }
}
