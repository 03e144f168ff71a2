use crate::{CliError, Session, files, home::POLICY_CHAIN, policy::update_policy};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, PolicyChain, SignatureKind, TrustPolicy, VerifierKey, WitnessAdded, WitnessEntry,
    WitnessRemoved, WitnessUrl,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;
use std::{fmt, path::Path};

/// Which outside witnesses co-sign the log, by the policy chain: no node's word is taken for it.
#[derive(Clone, Debug, Serialize)]
pub struct WitnessList {
    /// All that ever were, in the order in which they came.
    pub witnesses: Vec<WitnessRow>,
    /// What is weak in the policy in force.
    pub policy_warnings: Vec<String>,
}

/// An outside witness, or one that was removed.
#[derive(Clone, Debug, Serialize)]
pub struct WitnessRow {
    /// Its key (C2SP vkey).
    pub key: String,
    /// Where it is asked, if the log says so.
    pub url: Option<String>,
    /// The leaf that added it; 0 for those of the founding.
    pub added_at: u64,
    /// The leaf that removed it.
    pub removed_at: Option<u64>,
}

/// Lists the outside witnesses.
///
/// # Errors
///
/// When no node answers, or the policy chain does not verify.
pub async fn list_witnesses(session: &Session) -> Result<WitnessList> {
    let entries = witnesses(session).await?;
    let warnings = session.policy().current().warnings();
    Ok(WitnessList {
        witnesses: entries.into_iter().map(WitnessRow::from).collect(),
        policy_warnings: warnings.iter().map(ToString::to_string).collect(),
    })
}

/// What a majority of the members sign to have a witness count. `certificate` is a PEM file with one certificate.
///
/// # Errors
///
/// When the key is no co-signing key, or the certificate does not fit the URL.
pub fn witness_addition(
    key: &str,
    url: &WitnessUrl,
    certificate: Option<&Path>,
    quorum: u8,
) -> Result<Body> {
    let usage = CliError::Usage;
    let parsed: VerifierKey = key
        .parse()
        .map_err(|error| usage(format!("`{key}`: {error}")))?;
    if parsed.kind() != SignatureKind::Cosignature {
        return Err(usage(format!("`{key}` is no co-signing key (type 0x04)")).into());
    }
    if url.is_https() != certificate.is_some() {
        let problem = "https needs --certificate, and http takes none".to_owned();
        return Err(usage(problem).into());
    }
    let certificate = certificate.map(read_certificate).transpose()?;
    Ok(Body::WitnessAdded(Box::new(WitnessAdded {
        key: key.to_owned(),
        url: url.to_string(),
        certificate: certificate.unwrap_or_default(),
        quorum,
    })))
}

/// What a majority of the members sign to have a witness count no longer. It is named by its name or its whole key.
///
/// # Errors
///
/// When no node answers, or there is no such witness.
pub async fn witness_removal(session: &Session, witness: &str, quorum: u8) -> Result<Body> {
    let mut entries = witnesses(session).await?;
    entries.retain(|entry| {
        let name = entry.key.split('+').next();
        entry.is_active() && (entry.key == witness || name == Some(witness))
    });
    let entry = entries.pop();
    let entry = entry.ok_or_else(|| CliError::Usage(format!("no witness is named `{witness}`")))?;
    let key = entry.key;
    Ok(Body::WitnessRemoved(WitnessRemoved { key, quorum }))
}

async fn witnesses(session: &Session) -> Result<Vec<WitnessEntry>> {
    update_policy(session, &[]).await?;
    let limit = u64::try_from(PolicyChain::MAX_BYTES)?;
    let chain = files::read(&session.home.join(POLICY_CHAIN), limit)?;
    let chain = PolicyChain::from_bytes(&chain).context("read the policy chain")?;
    let root = session.home.trust_policy(&session.home.client_file()?)?;
    Ok(chain.witnesses(&founders(&root, &session.origin)))
}

/// The outside witnesses that a network was founded with: those that are not named as members' co-signers are.
fn founders(root: &TrustPolicy, origin: &str) -> Vec<String> {
    let outside = root.witnesses().filter(|key| !key.is_member_of(origin));
    outside.map(ToString::to_string).collect()
}

fn read_certificate(file: &Path) -> Result<Vec<u8>> {
    let pem = files::read_text(file, MAX_PEM_BYTES)?;
    let certificates =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates =
        certificates.with_context(|| format!("parse the certificate `{}`", file.display()))?;
    match certificates.as_slice() {
        [one] if one.len() <= WitnessAdded::MAX_CERTIFICATE_BYTES => Ok(one.to_vec()),
        [_] => Err(CliError::Usage("the certificate is too long".to_owned()).into()),
        all => {
            let problem = format!("{} certificates in `{}`", all.len(), file.display());
            Err(CliError::Usage(format!("{problem}, one is needed")).into())
        }
    }
}

impl From<WitnessEntry> for WitnessRow {
    fn from(entry: WitnessEntry) -> Self {
        Self {
            key: entry.key,
            url: entry.place.map(|place| place.url),
            added_at: entry.added_at,
            removed_at: entry.removed_at,
        }
    }
}

impl fmt::Display for WitnessList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.witnesses.iter().filter(|row| row.removed_at.is_none());
        write!(f, "{} outside witnesses", now.count())?;
        for row in &self.witnesses {
            write!(f, "\n{}  ", row.key)?;
            match (row.added_at, row.removed_at) {
                (_, Some(leaf)) => write!(f, "removed by leaf {leaf}")?,
                (0, None) => write!(f, "of the founding")?,
                (leaf, None) => write!(f, "added by leaf {leaf}")?,
            }
            if let Some(url) = &row.url {
                write!(f, ", at {url}")?;
            }
        }
        for warning in &self.policy_warnings {
            write!(f, "\nwarning  {warning}")?;
        }
        Ok(())
    }
}

const MAX_PEM_BYTES: u64 = 64 * 1024;
