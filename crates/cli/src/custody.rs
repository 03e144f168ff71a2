use crate::{
    CliError, OwnKeys, Recorded, Session,
    custody_copy::CustodyCopy,
    epoch_key::{Change, EpochKeys, HomeLock},
    exit::stable_code,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Custody, CustodyKind, Outcome};
use medanchor_api::{CreateKey, CreatedKey, ListedCustody, custody_kind_name};
use medanchor_dag::{CustodyId, Did};
use medanchor_envelope::{Identity, Recipient, SealedKey};
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// A custody key to be made.
#[derive(Clone, Debug)]
pub struct CustodyOptions {
    /// Whose or what data it protects.
    pub kind: CustodyKind,
    /// Organisations besides the owner whose devices may write under it.
    pub writers: Vec<Did>,
    /// Who may give and withdraw consent besides the owner.
    pub controller: Option<Did>,
}

/// A custody key that is in the log.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyMade {
    /// Its id.
    pub custody: String,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
    /// The public key, hexadecimal.
    pub public_key: String,
    /// The node that holds it.
    pub broker: String,
    /// The copy held here.
    pub copy: PathBuf,
}

/// The custody keys of the network.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyList {
    /// They, in the order of their ids.
    pub custodies: Vec<CustodyRow>,
    /// Leaves in the log that they were read from.
    pub tree_size: u64,
}

/// One custody key.
#[derive(Clone, Debug, Serialize)]
pub struct CustodyRow {
    /// Its id.
    pub custody: String,
    /// did:key of its owner.
    pub owner: String,
    /// `person`, `dataset` or `open`.
    pub kind: &'static str,
    /// Epoch of the key.
    pub epoch: u32,
    /// Nodes that may release under it.
    pub brokers: Vec<String>,
    /// Organisations besides the owner whose devices may write under it.
    pub writers: Vec<String>,
    /// Leaf that last changed it.
    pub leaf_index: u64,
    /// Whether it is erased.
    pub erased: bool,
}

/// A custody key with which something failed.
#[derive(Clone, Debug, Serialize)]
pub struct FailedCustody {
    /// Its id, or the file of its copy.
    pub custody: String,
    /// The stable code.
    pub code: String,
    /// Why.
    pub error: String,
}

/// Makes a custody key on the organisation's own node, keeps a copy here, and only then has it recorded.
///
/// # Errors
///
/// When the node makes none, the copy is not what it should be, or the log refuses it.
pub async fn new_custody(session: &Session, options: &CustodyOptions) -> Result<CustodyMade> {
    let keys = session.home.own_keys()?;
    let home = &session.home;
    let lock = match EpochKeys::exist(home) && !EpochKeys::are_changing(home) {
        true => HomeLock::share(home).await?,
        false => HomeLock::take(home).await?,
    };
    let epoch = Change::of(session, &keys, &lock).begin().await?;
    let custody = CustodyId::generate().context("draw a custody id")?;
    let create = CreateKey {
        custody,
        epoch: FIRST_EPOCH,
        recovery_recipient: epoch.public(),
    };
    let node = session.operator()?;
    let created = node
        .create_custody_key(create)
        .await
        .context("make the key on the node")?;
    let key = open_copy(&created, custody, &epoch.now)?;
    let copy = CustodyCopy::path(&session.home, &custody, FIRST_EPOCH)?;
    let kept = CustodyCopy {
        custody,
        epoch: FIRST_EPOCH,
        key,
    };
    kept.create(&copy, &epoch.now.recipient())?;
    // From here this holder has it durably, and may say so.
    let body = |epoch: &EpochKeys| {
        let own = epoch.attest(&keys, custody, FIRST_EPOCH, &created.public_key);
        Body::Custody(Custody {
            custody,
            owner: keys.did(),
            kind: options.kind,
            kem: DHKEM_X25519,
            key: created.public_key.to_vec(),
            epoch: FIRST_EPOCH,
            brokers: vec![created.attestation.by],
            writers: options.writers.clone(),
            controller: options.controller,
            held_by: vec![created.attestation.clone(), own],
        })
    };
    let recorded = match session.say(&keys, body(&epoch)).await {
        Err(error) if CliError::outcome_of(&error) == Some(Outcome::Conflict) => {
            // The id is new, so it is an epoch key: a change of the user's was interrupted, if it is not the node's.
            drop(lock);
            let lock = HomeLock::take(home).await?;
            let epoch = Change::of(session, &keys, &lock).settled().await?;
            session.say(&keys, body(&epoch)).await?
        }
        said => said?,
    };
    Ok(CustodyMade {
        custody: custody.to_string(),
        recorded,
        public_key: hex::encode(created.public_key),
        broker: created.attestation.by.to_string(),
        copy,
    })
}

/// The custody keys of the network.
///
/// # Errors
///
/// When no node answers.
pub async fn list_custodies(session: &Session) -> Result<CustodyList> {
    let (listed, tree_size) = listed(session).await?;
    Ok(CustodyList {
        custodies: listed.into_iter().map(CustodyRow::from).collect(),
        tree_size,
    })
}

/// Those of the user's organisation.
pub(crate) async fn of_own_organisation(
    session: &Session,
    keys: &OwnKeys,
) -> Result<Vec<ListedCustody>> {
    let (mut listed, _) = listed(session).await?;
    listed.retain(|custody| custody.owner == keys.did() && !custody.erased);
    Ok(listed)
}

/// All of them, and how many leaves they were read from.
pub(crate) async fn listed(session: &Session) -> Result<(Vec<ListedCustody>, u64)> {
    let mut custodies = Vec::new();
    let mut after = None;
    loop {
        let page = session
            .client
            .custodies(after)
            .await
            .context("list custody keys")?;
        let Some(last) = page.value.last() else {
            return Ok((custodies, page.tree_size));
        };
        after = Some(last.custody);
        custodies.extend(page.value);
    }
}

impl FailedCustody {
    pub(crate) fn new(custody: String, error: &anyhow::Error) -> Self {
        Self {
            custody,
            code: stable_code(error),
            error: format!("{error:#}"),
        }
    }
}

impl From<ListedCustody> for CustodyRow {
    fn from(entry: ListedCustody) -> Self {
        Self {
            custody: entry.custody.to_string(),
            owner: entry.owner.to_string(),
            kind: custody_kind_name(entry.kind),
            epoch: entry.epoch,
            brokers: entry.brokers.iter().map(Did::to_string).collect(),
            writers: entry.writers.iter().map(Did::to_string).collect(),
            leaf_index: entry.leaf_index,
            erased: entry.erased,
        }
    }
}

/// The private key, when the copy opens, is that of the public key, and the broker stands for it.
fn open_copy(created: &CreatedKey, custody: CustodyId, holder: &Identity) -> Result<Identity> {
    let attested = created
        .attestation
        .is_valid(custody, FIRST_EPOCH, &created.public_key);
    if !attested {
        let problem = "the node does not stand for the custody key that it made";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    }
    let public = Recipient::from_bytes(created.public_key).context("use the custody key")?;
    SealedKey::from_bytes(&created.recovery_copy)
        .context("parse the copy of the custody key")?
        .open(holder, *custody.as_bytes(), FIRST_EPOCH, &public)
        .context("open the copy of the custody key")
}

impl fmt::Display for CustodyMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "custody  {}", self.custody)?;
        writeln!(f, "broker   {}", self.broker)?;
        writeln!(f, "copy     {}", self.copy.display())?;
        write!(f, "{}", self.recorded)
    }
}

impl fmt::Display for FailedCustody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  FAILED  {}: {}", self.custody, self.code, self.error)
    }
}

impl fmt::Display for CustodyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.tree_size;
        write!(f, "{} custody keys, of {size} leaves", self.custodies.len())?;
        for row in &self.custodies {
            let (custody, kind, epoch, owner) = (&row.custody, row.kind, row.epoch, &row.owner);
            write!(f, "\n{custody}  {kind:<8} epoch {epoch}  {owner}")?;
            if row.erased {
                write!(f, "  ERASED with leaf {}", row.leaf_index)?;
            }
        }
        Ok(())
    }
}

const FIRST_EPOCH: u32 = 0;
/// RFC 9180 section 7.1.
const DHKEM_X25519: u16 = 0x0020;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::testing;
    use medanchor_dag::SigningKey;

    #[test]
    fn copy_that_is_not_of_the_key_or_not_attested_is_refused() {
        let [key, other, holder] = [(); 3].map(|()| Identity::generate().unwrap());
        let node = SigningKey::from_seed(&[1; 32]);
        let custody = CustodyId::new([3; 16]);
        let public_key = *key.recipient().as_bytes();
        let sealed = |key: &Identity| {
            let copy = key.seal_copy(&holder.recipient(), *custody.as_bytes(), FIRST_EPOCH);
            copy.to_bytes().into()
        };
        let good = CreatedKey {
            public_key,
            attestation: testing::attested(&node, custody, FIRST_EPOCH, &public_key),
            recovery_copy: sealed(&key),
        };
        assert!(open_copy(&good, custody, &holder).is_ok());
        let other_key = CreatedKey {
            recovery_copy: sealed(&other),
            ..good.clone()
        };
        let unattested = CreatedKey {
            attestation: testing::attested(&node, custody, 1, &public_key),
            ..good
        };
        for bad in [other_key, unattested] {
            let error = open_copy(&bad, custody, &holder).unwrap_err();
            assert_eq!(crate::Exit::of(&error), crate::Exit::NotVerified);
        }
    }
}
