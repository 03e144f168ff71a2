use crate::facts::Facts;
use cedar_policy::{
    Authorizer, Decision, Entities, PolicyId, PolicySet, Schema, ValidationMode, Validator,
};
use medanchor_anchor::PolicySet as SetInLog;
use medanchor_dag::{Block, CborError, Cid, Codec, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A Cedar policy set with its schema, strictly validated, named by the CID of its canonical bytes.
#[derive(Clone, Debug)]
pub struct Policies {
    source: Wire,
    set: PolicySet,
    schema: Schema,
    block: Block,
}

/// Why text is not a policy set that decisions can rest on.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    /// Not canonical, or with unknown fields.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Larger than [`Policies::MAX_BYTES`], or made by a newer version.
    #[error("policy set is too large or of another version")]
    Unsupported,
    /// The schema is not Cedar.
    #[error("policy schema does not parse")]
    Schema(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A policy is not Cedar.
    #[error("policies do not parse")]
    Policies(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A policy has no `@id` of 1 to 64 printable characters, or not one of its own.
    #[error("every policy needs an `@id` of its own")]
    Id,
    /// A template: it has no meaning without links, which a policy set does not carry.
    #[error("policy templates are not supported")]
    Template,
    /// A policy does not fit the schema.
    #[error("policies do not fit their schema: {0}")]
    Invalid(String),
}

/// What the policies say about some facts.
pub(crate) enum Answer {
    /// Permitted by these policies, sorted.
    Permitted(Vec<String>),
    /// No policy permits it.
    NotPermitted,
    /// These policies forbid it, sorted.
    Forbidden(Vec<String>),
    /// Something could not be evaluated. Cedar skips such a policy, and so would a `forbid` be skipped.
    Failed,
}

impl Policies {
    /// The most bytes that a policy set's canonical form may have.
    pub const MAX_BYTES: usize = SetInLog::MAX_BYTES;

    /// The policy set that networks begin with, compiled in.
    ///
    /// # Errors
    ///
    /// [`PoliciesError`], as every policy set; this one is tested.
    pub fn default_set() -> Result<Self, PoliciesError> {
        Self::parse(
            include_str!("default.cedar"),
            include_str!("default.cedarschema"),
        )
    }

    /// Parses and strictly validates policies and their schema.
    ///
    /// # Errors
    ///
    /// [`PoliciesError`] says which part to mend.
    pub fn parse(policies: &str, schema: &str) -> Result<Self, PoliciesError> {
        let source = Wire {
            v: VERSION,
            schema: schema.to_owned(),
            policies: policies.to_owned(),
        };
        let bytes = to_canonical(&source);
        if bytes.len() > Self::MAX_BYTES {
            return Err(PoliciesError::Unsupported);
        }
        let block = Block::new(Codec::DagCbor, bytes).map_err(|_| PoliciesError::Unsupported)?;
        let (schema, _) = Schema::from_cedarschema_str(schema)
            .map_err(|error| PoliciesError::Schema(Box::new(error)))?;
        let parsed = PolicySet::from_str(policies)
            .map_err(|error| PoliciesError::Policies(Box::new(error)))?;
        let set = named(&parsed)?;
        validate(&set, &schema)?;
        Ok(Self {
            source,
            set,
            schema,
            block,
        })
    }

    /// Parses the canonical bytes `{ v: 1, schema, policies }`.
    ///
    /// # Errors
    ///
    /// [`PoliciesError`] says which part to mend.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PoliciesError> {
        let wire: Wire = from_canonical(bytes, Self::MAX_BYTES)?;
        if wire.v != VERSION {
            return Err(PoliciesError::Unsupported);
        }
        Self::parse(&wire.policies, &wire.schema)
    }

    /// The CID by which a network names it.
    pub fn cid(&self) -> Cid {
        *self.block.cid()
    }

    /// Its policies, in Cedar.
    pub fn text(&self) -> &str {
        &self.source.policies
    }

    /// Their schema, in Cedar's own syntax.
    pub fn schema_text(&self) -> &str {
        &self.source.schema
    }

    /// Its canonical bytes, as a block.
    pub fn block(&self) -> &Block {
        &self.block
    }

    pub(crate) fn answer(&self, facts: &Facts<'_>) -> Answer {
        let Ok(request) = facts.to_request(&self.schema) else {
            return Answer::Failed;
        };
        let response = Authorizer::new().is_authorized(&request, &self.set, &Entities::empty());
        let diagnostics = response.diagnostics();
        if diagnostics.errors().next().is_some() {
            return Answer::Failed;
        }
        let name = |id: &PolicyId| AsRef::<str>::as_ref(id).to_owned();
        let mut reasons: Vec<String> = diagnostics.reason().map(name).collect();
        reasons.sort_unstable();
        match response.decision() {
            Decision::Allow => Answer::Permitted(reasons),
            Decision::Deny if reasons.is_empty() => Answer::NotPermitted,
            Decision::Deny => Answer::Forbidden(reasons),
        }
    }
}

/// The same policies, each named by its `@id` instead of its place in the text.
fn named(parsed: &PolicySet) -> Result<PolicySet, PoliciesError> {
    if parsed.templates().next().is_some() {
        return Err(PoliciesError::Template);
    }
    let mut set = PolicySet::new();
    for policy in parsed.policies() {
        let id = policy.annotation("id").unwrap_or_default();
        let is_good = (1..=64).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic());
        if !is_good {
            return Err(PoliciesError::Id);
        }
        set.add(policy.new_id(PolicyId::new(id)))
            .map_err(|_| PoliciesError::Id)?;
    }
    Ok(set)
}

fn validate(set: &PolicySet, schema: &Schema) -> Result<(), PoliciesError> {
    let result = Validator::new(schema.clone()).validate(set, ValidationMode::Strict);
    if result.validation_passed() {
        return Ok(());
    }
    let mut errors: Vec<String> = result
        .validation_errors()
        .map(ToString::to_string)
        .collect();
    errors.sort_unstable();
    Err(PoliciesError::Invalid(errors.join("; ")))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    schema: String,
    policies: String,
}

const VERSION: u8 = 1;
