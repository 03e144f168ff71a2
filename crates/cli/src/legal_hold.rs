use crate::{CliError, Recorded, Session};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, LegalHold, LegalHoldPlaced, Nonce};
use medanchor_api::ListedLegalHold;
use medanchor_dag::{Cid, CustodyId};
use serde::Serialize;
use std::fmt;

/// What is to be kept.
#[derive(Clone, Copy, Debug)]
pub enum LegallyHeld {
    /// One record.
    Record(Cid),
    /// All records of a custody key, those anchored later included.
    Custody(CustodyId),
}

/// A legal hold is in the log, or was released.
#[derive(Clone, Debug, Serialize)]
pub struct LegalHoldChanged {
    /// Its id.
    pub legal_hold: String,
    /// The custody key.
    pub custody: String,
    /// The one record of it that is kept, if it is not all.
    pub record: Option<String>,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// The legal holds in force.
#[derive(Clone, Debug, Serialize)]
pub struct LegalHoldList {
    /// They, those of an organisation together.
    pub legal_holds: Vec<LegalHoldRow>,
    /// Leaves in the log that they were read from.
    pub tree_size: u64,
}

/// One legal hold.
#[derive(Clone, Debug, Serialize)]
pub struct LegalHoldRow {
    /// Its id.
    pub legal_hold: String,
    /// did:key of the organisation that keeps.
    pub org: String,
    /// The custody key.
    pub custody: String,
    /// The one record of it that is kept, if it is not all.
    pub record: Option<String>,
    /// Why; empty when it was deleted.
    pub matter: String,
    /// Leaf that placed it.
    pub leaf_index: u64,
}

/// Has the user's organisation keep records until it releases them.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn place_legal_hold(
    session: &Session,
    held: LegallyHeld,
    matter: &str,
) -> Result<LegalHoldChanged> {
    let keys = session.home.own_keys()?;
    let (custody, record) = match held {
        LegallyHeld::Custody(custody) => (custody, None),
        LegallyHeld::Record(record) => {
            let entry = session.client.record(&record).await;
            (
                entry.context("look up the record")?.anchored.custody,
                Some(record),
            )
        }
    };
    let mut hold = Nonce::new([0; 16]);
    getrandom::fill(hold.as_mut()).context("draw an id")?;
    let legal_hold = LegalHold {
        hold,
        org: keys.did(),
        custody,
        record,
    };
    let body = Body::LegalHoldPlaced(LegalHoldPlaced {
        legal_hold: legal_hold.clone(),
        matter: matter.to_owned(),
    });
    let recorded = session.say(&keys, body).await?;
    Ok(LegalHoldChanged::new(&legal_hold, recorded))
}

/// Releases a legal hold of the user's organisation.
///
/// # Errors
///
/// When the organisation has no such hold in force, the log refuses it or no node takes it.
pub async fn release_legal_hold(session: &Session, id: [u8; 16]) -> Result<LegalHoldChanged> {
    let keys = session.home.own_keys()?;
    let (in_force, _) = in_force(session).await?;
    let mut holds = in_force.into_iter().map(|listed| listed.legal_hold);
    let found = holds.find(|hold| hold.org == keys.did() && hold.hold == Nonce::new(id));
    let Some(legal_hold) = found else {
        let id = hex::encode(id);
        let problem = format!("the organisation has no legal hold `{id}` in force");
        return Err(CliError::Usage(problem).into());
    };
    let body = Body::LegalHoldReleased(legal_hold.clone());
    let recorded = session.say(&keys, body).await?;
    Ok(LegalHoldChanged::new(&legal_hold, recorded))
}

/// The legal holds in force.
///
/// # Errors
///
/// When no node answers.
pub async fn list_legal_holds(session: &Session) -> Result<LegalHoldList> {
    let (in_force, tree_size) = in_force(session).await?;
    let rows = in_force.into_iter().map(|listed| {
        let hold = listed.legal_hold;
        LegalHoldRow {
            legal_hold: hex::encode(hold.hold.as_slice()),
            org: hold.org.to_string(),
            custody: hold.custody.to_string(),
            record: hold.record.map(|record| record.to_string()),
            matter: listed.matter,
            leaf_index: listed.leaf_index,
        }
    });
    Ok(LegalHoldList {
        legal_holds: rows.collect(),
        tree_size,
    })
}

/// All of them, and the leaves that the last page was read from.
async fn in_force(session: &Session) -> Result<(Vec<ListedLegalHold>, u64)> {
    let mut all: Vec<ListedLegalHold> = Vec::new();
    loop {
        let after = all.last().map(|listed| &listed.legal_hold);
        let page = session.client.legal_holds(after).await;
        let page = page.context("list legal holds")?;
        if page.value.is_empty() {
            return Ok((all, page.tree_size));
        }
        all.extend(page.value);
    }
}

impl LegalHoldChanged {
    fn new(hold: &LegalHold, recorded: Recorded) -> Self {
        Self {
            legal_hold: hex::encode(hold.hold.as_slice()),
            custody: hold.custody.to_string(),
            record: hold.record.map(|record| record.to_string()),
            recorded,
        }
    }
}

impl fmt::Display for LegalHoldChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "hold     {}", self.legal_hold)?;
        writeln!(f, "custody  {}", self.custody)?;
        if let Some(record) = &self.record {
            writeln!(f, "record   {record}")?;
        }
        write!(f, "{}", self.recorded)
    }
}

impl fmt::Display for LegalHoldList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, size) = (self.legal_holds.len(), self.tree_size);
        write!(f, "{count} legal holds in force, of {size} leaves")?;
        for row in &self.legal_holds {
            let kept = row.record.as_deref().unwrap_or("all records");
            let (hold, org, custody, matter) =
                (&row.legal_hold, &row.org, &row.custody, &row.matter);
            write!(
                f,
                "\n{hold}  {org}\n  {kept} of custody {custody}: {matter}"
            )?;
        }
        Ok(())
    }
}
