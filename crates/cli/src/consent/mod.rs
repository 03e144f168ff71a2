use crate::{CliError, Recorded, Session, clock};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Consented, Nonce, Period, Withdrawn};
use medanchor_dag::{Class, CustodyId, Did};
use medanchor_policy::purpose;
use serde::Serialize;
use std::fmt;

/// A consent to be given.
#[derive(Clone, Debug)]
pub struct ConsentOptions {
    /// The custody key.
    pub custody: CustodyId,
    /// Organisations, people or devices it is given to.
    pub parties: Vec<Did>,
    /// HL7 ActReason codes.
    pub purposes: Vec<String>,
    /// Data classes; empty means all.
    pub classes: Vec<Class>,
    /// How long it may be used from now on; absent, until it is withdrawn.
    pub days: Option<u32>,
}

/// A consent is in the log.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentGiven {
    /// Its id.
    pub consent: String,
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
    /// Organisations, people or devices it is given to.
    pub parties: Vec<String>,
    /// HL7 ActReason codes.
    pub purposes: Vec<String>,
    /// Data classes; empty means all.
    pub classes: Vec<String>,
    /// The last moment of its use.
    pub until: Option<String>,
    /// Leaf that last changed it.
    pub leaf_index: u64,
}

/// Gives consent, as the custody's owner or controller.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn give_consent(session: &Session, options: &ConsentOptions) -> Result<ConsentGiven> {
    let keys = session.home.own_keys()?;
    for code in &options.purposes {
        check_purpose(code)?;
    }
    let mut consent = Nonce::new([0; 16]);
    getrandom::fill(consent.as_mut()).context("draw a consent id")?;
    let now = clock::unix_ms();
    let until = options
        .days
        .map(|days| now.saturating_add(u64::from(days) * DAY_MS));
    let body = Body::Consented(Consented {
        consent,
        custody: options.custody,
        parties: options.parties.clone(),
        purposes: options.purposes.clone(),
        classes: options.classes.clone(),
        captured: Period::default(),
        valid: Period { from: None, until },
    });
    Ok(ConsentGiven {
        consent: hex::encode(consent.as_slice()),
        custody: options.custody.to_string(),
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
    let rows = consents.value.into_iter().map(|entry| {
        let body = entry.consented;
        ConsentRow {
            consent: hex::encode(body.consent.as_slice()),
            withdrawn: entry.withdrawn,
            parties: body.parties.iter().map(Did::to_string).collect(),
            purposes: body.purposes,
            classes: body.classes.iter().map(Class::to_string).collect(),
            until: body.valid.until.map(clock::rfc3339),
            leaf_index: entry.since,
        }
    });
    Ok(ConsentList {
        consents: rows.collect(),
        tree_size: consents.tree_size,
    })
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

impl fmt::Display for ConsentGiven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consent  {}\n{}", self.consent, self.recorded)
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
        for row in &self.consents {
            let state = if row.withdrawn {
                "withdrawn"
            } else {
                "in force"
            };
            let (purposes, parties) = (row.purposes.join(","), row.parties.join(","));
            write!(f, "\n{}  {state}  {purposes}  {parties}", row.consent)?;
        }
        Ok(())
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_are_hl7_codes() {
        for code in ["TREAT", "HRESCH", "PATRQT", "HMARKT", "SYSDEV"] {
            assert!(check_purpose(code).is_ok(), "{code}");
        }
        for code in ["", "treat", "FUN"] {
            assert!(check_purpose(code).is_err(), "{code}");
        }
    }
}
