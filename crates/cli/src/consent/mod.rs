//! Consents: given, withdrawn, shown, and as HL7 FHIR R4 resources in and out.

mod fhir;
mod fhir_export;
mod fhir_import;
mod provision;
#[cfg(test)]
mod tests;

pub use fhir_export::{ConsentExported, export_consent};
pub(crate) use fhir_import::who;
pub use fhir_import::{BaseRule, ConsentImported, ImportOptions, import_consent};
pub use provision::{ProvisionRow, Uses, UsesError};
use provision::{check_permits, inherit};

use crate::{CliError, Recorded, Session, clock, files};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, ConsentEntry, Consented, Effect, Nonce, Withdrawn};
use medanchor_dag::{CustodyId, Hash, sha256};
use medanchor_policy::purpose;
use serde::Serialize;
use std::{fmt, path::Path, path::PathBuf};

/// A consent to be given.
#[derive(Clone, Debug)]
pub struct ConsentOptions {
    /// The custody key.
    pub custody: CustodyId,
    /// The consent that is replaced; absent, a new one.
    pub replace: Option<[u8; 16]>,
    /// Whether the uses are denied instead of permitted.
    pub deny: bool,
    /// The uses that are meant.
    pub uses: Uses,
    /// Uses among them of which the opposite is said.
    pub except: Vec<Uses>,
    /// How long it may be used from now on; absent, as `uses` say.
    pub days: Option<u32>,
    /// The form in which it was given, whose SHA-256 the log keeps.
    pub document: Option<PathBuf>,
}

/// A consent is in the log.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentGiven {
    /// Its id.
    pub consent: String,
    /// What is said of the uses that it covers: `permit`, `deny`, or `silent` where only the exceptions permit something.
    pub effect: String,
    /// The custody key.
    pub custody: String,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// A consent is withdrawn.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentWithdrawn {
    /// Its id.
    pub consent: String,
    /// The leaf from which on nothing is released on it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// The consents given for a custody key.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentList {
    /// They, in force or withdrawn.
    pub consents: Vec<ConsentRow>,
    /// Leaves in the log that they were read from.
    pub tree_size: u64,
}

/// One consent.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentRow {
    /// Its id.
    pub consent: String,
    /// Whether it was withdrawn.
    pub withdrawn: bool,
    /// What is said of the uses: `permit`, `deny`, or `silent` where only the exceptions permit something.
    pub effect: String,
    /// The uses that are meant.
    #[serde(flatten)]
    pub uses: ProvisionRow,
    /// Uses among them of which the opposite is said.
    pub except: Vec<ProvisionRow>,
    /// SHA-256 of the document in which it was given.
    pub document: Option<String>,
    /// Leaf that last changed it.
    pub leaf_index: u64,
}

/// Gives consent, or denies it, as the custody's owner or controller.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn give_consent(session: &Session, options: &ConsentOptions) -> Result<ConsentGiven> {
    let consent = match options.replace {
        Some(id) => Nonce::new(id),
        None => random_id()?,
    };
    let mut provision = options.uses.provision()?;
    if let Some(days) = options.days {
        let lasts = u64::from(days) * DAY_MS;
        provision.valid.until = Some(clock::unix_ms().saturating_add(lasts));
    }
    let effect = match options.deny {
        true => Effect::Deny,
        false => Effect::Permit,
    };
    let mut except = options
        .except
        .iter()
        .map(Uses::provision)
        .collect::<Result<Vec<_>, _>>()?;
    if options.deny {
        for exception in &mut except {
            inherit(exception, &provision);
            check_permits(exception)?;
        }
    }
    let consented = Consented {
        consent,
        custody: options.custody,
        effect,
        provision,
        except,
        document: options.document.as_deref().map(hash_of).transpose()?,
    };
    give(session, consented).await
}

async fn give(session: &Session, consented: Consented) -> Result<ConsentGiven> {
    let keys = session.home.own_keys()?;
    let (consent, custody) = (consented.consent, consented.custody);
    let effect = consented.effect.to_string();
    let body = Body::Consented(consented);
    Ok(ConsentGiven {
        consent: hex::encode(consent.as_slice()),
        effect,
        custody: custody.to_string(),
        recorded: session.say(&keys, body).await?,
    })
}

/// Withdraws a consent, as the custody's owner or controller.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn withdraw_consent(
    session: &Session,
    custody: CustodyId,
    consent: [u8; 16],
) -> Result<ConsentWithdrawn> {
    let keys = session.home.own_keys()?;
    let body = Body::Withdrawn(Withdrawn {
        consent: Nonce::new(consent),
        custody,
    });
    Ok(ConsentWithdrawn {
        consent: hex::encode(consent),
        recorded: session.say(&keys, body).await?,
    })
}

/// The consents given for a custody key.
///
/// # Errors
///
/// When no node answers.
pub async fn list_consents(session: &Session, custody: CustodyId) -> Result<ConsentList> {
    let consents = session
        .client
        .consents(custody)
        .await
        .context("list consents")?;
    Ok(ConsentList {
        consents: consents.value.iter().map(ConsentRow::from).collect(),
        tree_size: consents.tree_size,
    })
}

/// One consent, as a node says it.
///
/// # Errors
///
/// When no node answers, or there is none.
pub async fn show_consent(
    session: &Session,
    custody: CustodyId,
    consent: [u8; 16],
) -> Result<ConsentRow> {
    let entry = entry(session, custody, Nonce::new(consent)).await?;
    let entry = entry.ok_or_else(|| unknown(custody, consent))?;
    Ok(ConsentRow::from(&entry))
}

async fn entry(
    session: &Session,
    custody: CustodyId,
    consent: Nonce,
) -> Result<Option<ConsentEntry>> {
    let listed = session.client.consents(custody).await;
    let listed = listed.context("list consents")?.value;
    let is_it = |entry: &ConsentEntry| entry.consented.consent == consent;
    Ok(listed.into_iter().find(is_it))
}

fn unknown(custody: CustodyId, consent: [u8; 16]) -> CliError {
    let consent = hex::encode(consent);
    CliError::Usage(format!(
        "there is no consent {consent} under custody key {custody}: `medanchor consent list {custody}` shows those there are"
    ))
}

fn random_id() -> Result<Nonce> {
    let mut id = Nonce::new([0; 16]);
    getrandom::fill(id.as_mut()).context("draw a consent id")?;
    Ok(id)
}

fn hash_of(document: &Path) -> Result<Hash> {
    Ok(Hash::new(sha256(&files::read(
        document,
        MAX_DOCUMENT_BYTES,
    )?)))
}

/// Whether a code is an HL7 purpose of use.
pub(crate) fn check_purpose(code: &str) -> Result<(), CliError> {
    if purpose::chain(code).is_some() {
        return Ok(());
    }
    let code: String = code.chars().take(32).collect();
    Err(CliError::Usage(format!(
        "`{code}` is not an HL7 purpose of use, such as TREAT, HRESCH or PATRQT"
    )))
}

impl From<&ConsentEntry> for ConsentRow {
    fn from(entry: &ConsentEntry) -> Self {
        let body = &entry.consented;
        Self {
            consent: hex::encode(body.consent.as_slice()),
            withdrawn: entry.withdrawn,
            effect: body.effect.to_string(),
            uses: ProvisionRow::from(&body.provision),
            except: body.except.iter().map(ProvisionRow::from).collect(),
            document: body.document.as_ref().map(Hash::to_string),
            leaf_index: entry.since,
        }
    }
}

impl fmt::Display for ConsentGiven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (consent, effect, recorded) = (&self.consent, &self.effect, &self.recorded);
        write!(f, "consent  {consent}  {effect}\n{recorded}")
    }
}

impl fmt::Display for ConsentWithdrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "withdrawn {}\n{}", self.consent, self.recorded)
    }
}

impl fmt::Display for ConsentList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.tree_size;
        write!(f, "{} consents, of {size} leaves", self.consents.len())?;
        self.consents
            .iter()
            .try_for_each(|row| write!(f, "\n{row}"))
    }
}

impl fmt::Display for ConsentRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.withdrawn {
            true => "withdrawn",
            false => "in force",
        };
        let (consent, effect, uses) = (&self.consent, &self.effect, &self.uses);
        write!(f, "{consent}  {state}  {effect}  {uses}")?;
        let mut except = self.except.iter();
        except.try_for_each(|uses| write!(f, "\n    except  {uses}"))?;
        match &self.document {
            Some(document) => write!(f, "\n    document  {document}"),
            None => Ok(()),
        }
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Of a form: a scan of many pages.
const MAX_DOCUMENT_BYTES: u64 = 64 * 1024 * 1024;
