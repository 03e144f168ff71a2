use crate::{
    CliError, OwnKeys, Session, Wait, clock, consent::check_purpose, grant::Grant, second_factor,
    session::patiently,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AccessRequest, Body, Checkpoint, LeafIndex, Selection, SignedNote, Strength, Trust as _,
    Verified,
};
use medanchor_api::{Decision, Denied};
use medanchor_dag::{Cid, CustodyId, Hash};
use serde::Serialize;
use std::{fmt, mem};

/// A released key, kept for [`crate::operations::get`].
#[derive(Clone, Debug, Serialize)]
pub struct Granted {
    /// The record.
    pub record: String,
    /// The leaf that released its key.
    pub leaf_index: u64,
    /// The purpose asked for.
    pub purpose: String,
    /// The role acted in.
    pub role: String,
    /// The end of the grant.
    pub until: String,
    /// How strong the receipt of the release is that was waited for.
    pub strength: Wait,
    /// Size of the tree that its checkpoint is of.
    pub tree_size: u64,
}

/// Asks for a record's key. A released key is kept until the grant ends.
///
/// # Errors
///
/// [`CliError::Denied`] when it is refused; otherwise when no node answers, or the receipt does not show
/// the release.
pub async fn request(
    session: &Session,
    record: &Cid,
    purpose: &str,
    role: Option<&str>,
    strength: Strength,
) -> Result<Granted> {
    let keys = session.home.own_keys()?;
    let grant = ask(session, &keys, record, purpose, role, strength).await?;
    let checkpoint: Checkpoint = grant.receipt.checkpoint.text().parse()?;
    Ok(Granted {
        record: record.to_string(),
        leaf_index: grant.leaf_index,
        purpose: grant.purpose,
        role: grant.role,
        until: clock::rfc3339(grant.not_after_unix_ms),
        strength: strength.into(),
        tree_size: checkpoint.size,
    })
}

/// Asks for a record's key, checks what comes, and keeps it.
pub(crate) async fn ask(
    session: &Session,
    keys: &OwnKeys,
    record: &Cid,
    purpose: &str,
    role: Option<&str>,
    strength: Strength,
) -> Result<Grant> {
    check_purpose(purpose)?;
    let role = match role {
        Some(role) => role.to_owned(),
        None => first_role(session, keys).await?,
    };
    let asked = Asked {
        records: vec![*record],
        selection: None,
        cohort: Vec::new(),
        purpose,
        role: &role,
    };
    let grants = match ask_for(session, keys, asked).await? {
        Answer::Granted { grants, .. } => grants,
        Answer::Denied(denied) => return Err(CliError::from(&denied).into()),
    };
    let mut grants = grants.into_iter();
    let (Some(grant), None) = (grants.next(), grants.next()) else {
        let problem = "the broker gave another number of keys than was asked for";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    };
    if grant.record() != record {
        let problem = "the broker gave the key of another record than was asked for";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    }
    // Before a stronger receipt is waited for: the key is released.
    grant.keep(session)?;
    let grant = grant.proved(session, keys, strength).await?;
    grant.keep(session)?;
    Ok(grant)
}

/// What is asked for: records by name, or those of a selection.
pub(crate) struct Asked<'a> {
    pub(crate) records: Vec<Cid>,
    pub(crate) selection: Option<Selection>,
    /// The custody keys of the selection, sorted.
    pub(crate) cohort: Vec<CustodyId>,
    pub(crate) purpose: &'a str,
    pub(crate) role: &'a str,
}

/// What was decided, and checked.
pub(crate) enum Answer {
    /// Keys are released.
    Granted {
        /// One for each record. They are not kept yet.
        grants: Vec<Grant>,
        /// How many records were selected and not released, by the code that each would be refused with: the broker's word.
        left_out: Vec<(String, u64)>,
        /// Custody keys that another broker must be asked for: the broker's word.
        elsewhere: Vec<CustodyId>,
    },
    /// Keys are refused.
    Denied(Refusal),
}

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    reason: String,
    leaf_index: Option<LeafIndex>,
}

impl From<&Refusal> for CliError {
    fn from(refusal: &Refusal) -> Self {
        Self::Denied {
            code: refusal.code.clone(),
            reason: refusal.reason.clone(),
            leaf_index: refusal.leaf_index,
        }
    }
}

/// Asks for keys and checks what comes.
pub(crate) async fn ask_for(session: &Session, keys: &OwnKeys, asked: Asked<'_>) -> Result<Answer> {
    let body = Body::AccessRequest(AccessRequest {
        records: asked.records,
        selection: asked.selection,
        purpose: asked.purpose.to_owned(),
        role: asked.role.to_owned(),
        recipient: keys.recipient().as_bytes().to_vec(),
        at: tree_size_seen(session).await?,
        second_factor: second_factor::shown(session, keys),
    });
    let asked = medanchor_api::Asked {
        signed: session.statement(body)?.sign(&[&keys.signing]),
        cohort: asked.cohort,
    };
    let decision = patiently(async || session.client.request(&asked).await)
        .await
        .context("ask for the record's key")?;
    let mut granted = match decision {
        Decision::Granted(granted) => granted,
        Decision::Denied(denied) => {
            let request = asked.signed.statement.hash();
            return Ok(Answer::Denied(refusal(session, denied, &request)));
        }
    };
    let witnessed = Strength::Witnessed;
    session
        .keep_up(&granted.receipt.checkpoint, witnessed)
        .await;
    let left_out = mem::take(&mut granted.left_out);
    let elsewhere = mem::take(&mut granted.elsewhere);
    let grants = Grant::check_all(session, keys, &asked.signed, granted, witnessed)?;
    Ok(Answer::Granted {
        grants,
        left_out,
        elsewhere,
    })
}

/// The leaf is named only when its receipt shows the refusal of this very request.
fn refusal(session: &Session, denied: Denied, request: &Hash) -> Refusal {
    let said = denied.receipt.and_then(|receipt| {
        let is_of = |verified: &Verified<'_>| {
            let opening = verified.opening.map(|opening| &opening.0.signed);
            opening.is_some_and(|signed| refuses(&signed.statement.body, request))
        };
        session.check(&receipt, Strength::Witnessed, is_of).ok()
    });
    Refusal {
        code: denied.code,
        reason: denied.reason,
        leaf_index: said.map(|said| said.leaf_index),
    }
}

fn refuses(body: &Body, request: &Hash) -> bool {
    match body {
        Body::Refused(refused) => refused.request.statement.hash() == *request,
        _ => false,
    }
}

/// The role that the user is enrolled with first.
pub(crate) async fn first_role(session: &Session, keys: &OwnKeys) -> Result<String> {
    let own = session.principal(&keys.did()).await?;
    own.and_then(|own| own.roles.into_iter().next())
        .ok_or_else(|| {
            let did = keys.did();
            CliError::Usage(format!("`{did}` has no role: name one with --role")).into()
        })
}

/// The size of the newest tree that the trust policy accepts; 0 before the first.
async fn tree_size_seen(session: &Session) -> Result<u64> {
    let newest = patiently(async || session.client.checkpoint().await)
        .await
        .context("fetch the newest checkpoint")?;
    let Some(text) = newest else {
        return Ok(0);
    };
    let note = SignedNote::parse(&text).context("parse the newest checkpoint")?;
    session.keep_up(&note, Strength::Witnessed).await;
    let checked = session
        .policy()
        .check(&note, Strength::Witnessed)
        .context("verify the newest checkpoint")?;
    Ok(checked.checkpoint.size)
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "granted  {}", self.record)?;
        writeln!(
            f,
            "for      {} as {} until {}",
            self.purpose, self.role, self.until
        )?;
        let (leaf, size, strength) = (self.leaf_index, self.tree_size, self.strength);
        write!(f, "leaf     {leaf} of {size}, {strength}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{Basis, Refused, SignedStatement, Standing, Statement};
    use medanchor_dag::{Codec, SigningKey, cid_of};

    fn request(nonce: u8) -> SignedStatement {
        let key = SigningKey::from_seed(&[1; 32]);
        let body = Body::AccessRequest(AccessRequest {
            records: vec![cid_of(Codec::DagCbor, &[2; 32])],
            selection: None,
            purpose: "TREAT".to_owned(),
            role: "clinician".to_owned(),
            recipient: vec![3; 32],
            at: 0,
            second_factor: None,
        });
        Statement::new("test.example", body, [nonce; 16], 9).sign(&[&key])
    }

    #[test]
    fn refusal_of_another_request_is_not_taken_for_this_ones() {
        let (own, others) = (request(1), request(2));
        let refused = Body::Refused(Box::new(Refused {
            request: own.clone(),
            code: "no-consent".to_owned(),
            basis: Basis {
                policy: 0,
                custody: 1,
                consent: None,
                requester: 2,
                requester_org: 0,
                devices: Vec::new(),
            },
            decided_at: 0,
        }));
        assert!(refuses(&refused, &own.statement.hash()));
        assert!(!refuses(&refused, &others.statement.hash()));
        let who = SigningKey::from_seed(&[1; 32]).did();
        let no_refusal = Body::Suspended(Standing { who });
        assert!(!refuses(&no_refusal, &own.statement.hash()));
    }
}
