use crate::{CliError, Session, files, log::proved};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, LeafIndex, PolicySet, Strength};
use medanchor_api::LeafName;
use medanchor_policy::Policies;
use serde::Serialize;
use std::{fmt, fs, path::Path};

/// The access policy set in force, as the log says it.
#[derive(Clone, Debug, Serialize)]
pub struct ShownAccessPolicy {
    /// Its CID.
    pub access_policy: String,
    /// The leaf since which it is in force, whose receipt was verified.
    pub leaf_index: LeafIndex,
    /// The policies, in Cedar.
    pub policies: String,
    /// Their schema.
    pub schema: String,
}

/// The access policy set in force. `output` is a folder to write it into, too.
///
/// # Errors
///
/// When no node answers, the receipt does not verify, a file cannot be written, or the network was founded with a set
/// that this version does not have.
pub async fn show_access_policy(
    session: &Session,
    output: Option<&Path>,
) -> Result<ShownAccessPolicy> {
    let listed = session.client.members().await.context("list the members")?;
    let leaf = LeafName::Index(listed.access_policy);
    let (receipt, _) = proved(session, leaf, Strength::Published).await?;
    let body = receipt
        .opening
        .map(|opening| opening.0.signed.statement.body);
    let set = match body {
        Some(Body::PolicySet(body)) => parse(&body)?,
        Some(Body::Founded(founded)) => {
            let default = Policies::default_set().context("load the policy set of this version")?;
            anyhow::ensure!(
                default.cid() == founded.policy,
                "the network was founded with access policy set `{}`, which this version does not have: use the version \
                 that it was founded with",
                founded.policy
            );
            default
        }
        _ => {
            let problem = "the leaf that the node names sets no access policy".to_owned();
            return Err(CliError::NotVerified(problem).into());
        }
    };
    let shown = ShownAccessPolicy {
        access_policy: set.cid().to_string(),
        leaf_index: listed.access_policy,
        policies: set.text().to_owned(),
        schema: set.schema_text().to_owned(),
    };
    if let Some(folder) = output {
        fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
        for (name, text) in [(POLICIES, &shown.policies), (SCHEMA, &shown.schema)] {
            let path = folder.join(name);
            files::replace(&path, text.as_bytes())
                .with_context(|| format!("write `{}`", path.display()))?;
        }
    }
    Ok(shown)
}

/// What a majority of the members sign to have decisions made by other policies, or schema; absent, those that this
/// version ships.
///
/// # Errors
///
/// When a file cannot be read, or is no sound Cedar.
pub fn access_policy(policies: Option<&Path>, schema: Option<&Path>) -> Result<Body> {
    let shipped = Policies::default_set().context("load the policy set of this version")?;
    let policies = text_or(policies, shipped.text())?;
    let schema = text_or(schema, shipped.schema_text())?;
    let set = Policies::parse(&policies, &schema).map_err(unsound)?;
    Ok(Body::PolicySet(PolicySet {
        set: set.block().bytes().to_vec(),
    }))
}

/// The set that a statement puts in force.
pub(crate) fn parse(body: &PolicySet) -> Result<Policies> {
    Policies::from_bytes(&body.set).map_err(unsound)
}

fn text_or(path: Option<&Path>, shipped: &str) -> Result<String> {
    let Some(path) = path else {
        return Ok(shipped.to_owned());
    };
    let limit = u64::try_from(PolicySet::MAX_BYTES)?;
    files::read_text(path, limit).with_context(|| format!("read `{}`", path.display()))
}

/// As a usage error, which says where the text is wrong.
fn unsound(error: medanchor_policy::PoliciesError) -> anyhow::Error {
    let problem = format!(
        "the access policy set is not sound: {:#}",
        anyhow::Error::new(error)
    );
    CliError::Usage(problem).into()
}

impl fmt::Display for ShownAccessPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "set   {}", self.access_policy)?;
        writeln!(f, "leaf  {}\n", self.leaf_index)?;
        f.write_str(self.policies.trim_end())
    }
}

const POLICIES: &str = "policies.cedar";
const SCHEMA: &str = "schema.cedarschema";
