use crate::{CliError, OwnKeys, Recorded, Session, clock, files, session::patiently};
use anyhow::{Context, Result};
use data_encoding::BASE32_NOPAD;
use medanchor_anchor::{
    Body, Factor, FactorEnrolled, FactorMethod, FactorRemoved, FactorVerified, Nonce,
    SignedStatement,
};
use medanchor_api::{Code, ConfirmFactor, CreatedFactor, FactorClaim};
use medanchor_dag::Did;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use qrcode::{QrCode, render::unicode::Dense1x2};
use serde::{Serialize, Serializer};
use std::{fmt, path::PathBuf};
use zeroize::Zeroizing;

/// A secret for a person's authenticator app, which does not count yet.
#[derive(Serialize)]
pub struct FactorMade {
    /// The factor's id.
    pub factor: String,
    /// did:key of the person.
    pub did: String,
    /// did:key of the node that verifies it.
    pub node: String,
    /// What the app takes, with the secret in it: `otpauth://totp/...`. It is shown once.
    #[serde(serialize_with = "exposed")]
    pub uri: Zeroizing<String>,
}

/// A person has a second factor, or no longer.
#[derive(Clone, Debug, Serialize)]
pub struct FactorChanged {
    /// The factor's id.
    pub factor: String,
    /// did:key of the person.
    pub did: String,
    /// `enrolled` or `removed`.
    pub change: &'static str,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// The second factors of a person.
#[derive(Clone, Debug, Serialize)]
pub struct FactorList {
    /// did:key of the person.
    pub did: String,
    /// They, in the order in which they were enrolled.
    pub factors: Vec<FactorRow>,
    /// Leaves in the log that they were read from.
    pub tree_size: u64,
}

/// One second factor.
#[derive(Clone, Debug, Serialize)]
pub struct FactorRow {
    /// Its id.
    pub factor: String,
    /// `totp`.
    pub method: &'static str,
    /// did:key of the node that verifies it.
    pub node: String,
    /// Leaf that enrolled it.
    pub leaf_index: u64,
}

/// A second factor was shown, and counts for some minutes.
#[derive(Clone, Debug, Serialize)]
pub struct FactorShown {
    /// The factor's id.
    pub factor: String,
    /// did:key of the node that says so.
    pub node: String,
    /// Until when requests go with it.
    pub until: String,
}

/// Has a secret made for a person's authenticator app, on the organisation's own node.
///
/// # Errors
///
/// When the node makes none.
pub async fn new_factor(session: &Session, who: Did) -> Result<FactorMade> {
    let node = session.operator()?;
    let created = node.create_factor(&who).await;
    let created = created.context("make a second factor on the node")?;
    Ok(FactorMade {
        factor: hex::encode(created.factor.as_slice()),
        did: who.to_string(),
        node: created.node.to_string(),
        uri: uri(&session.origin, &who, &created),
    })
}

/// Enrols a second factor, once its first code shows that the app has the secret.
///
/// # Errors
///
/// When the code is wrong, the log refuses the factor or no node takes it.
pub async fn confirm_factor(
    session: &Session,
    who: Did,
    factor: [u8; 16],
    node: Did,
    code: Code,
) -> Result<FactorChanged> {
    let keys = session.home.own_keys()?;
    let body = Body::FactorEnrolled(FactorEnrolled {
        who,
        factor: Nonce::new(factor),
        method: FactorMethod::Totp,
        node,
    });
    let enrolled = session.statement(body)?.sign(&[&keys.signing]);
    let hash = enrolled.statement.hash();
    let confirmed = session
        .operator()?
        .confirm_factor(ConfirmFactor { enrolled, code })
        .await
        .context("have the node confirm the second factor")?;
    if confirmed.statement.hash() != hash || !confirmed.verifies() {
        let problem = "the node signed something else than the second factor that it was given";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    }
    let said = session.submit(&confirmed).await?;
    Ok(FactorChanged {
        factor: hex::encode(factor),
        did: who.to_string(),
        change: "enrolled",
        recorded: session.recorded(&confirmed, &said)?,
    })
}

/// Removes a second factor, as when a phone is lost.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn remove_factor(session: &Session, who: Did, factor: [u8; 16]) -> Result<FactorChanged> {
    let keys = session.home.own_keys()?;
    let body = Body::FactorRemoved(FactorRemoved {
        who,
        factor: Nonce::new(factor),
    });
    Ok(FactorChanged {
        factor: hex::encode(factor),
        did: who.to_string(),
        change: "removed",
        recorded: session.say(&keys, body).await?,
    })
}

/// The second factors of a person.
///
/// # Errors
///
/// When no node answers, or the log has no such person.
pub async fn list_factors(session: &Session, who: Did) -> Result<FactorList> {
    let (factors, tree_size) = factors_of(session, &who).await?;
    Ok(FactorList {
        did: who.to_string(),
        factors: factors.iter().map(FactorRow::new).collect(),
        tree_size,
    })
}

/// Shows the user's second factor to the node that verifies it, and keeps what it says for the next requests.
///
/// # Errors
///
/// When the code is wrong, the user has no such factor, or has several and names none.
pub async fn show_factor(
    session: &Session,
    code: Code,
    factor: Option<[u8; 16]>,
) -> Result<FactorShown> {
    let keys = session.home.own_keys()?;
    let did = keys.did();
    let (factors, _) = factors_of(session, &did).await?;
    let wanted = |known: &&Factor| factor.is_none_or(|id| known.factor == Nonce::new(id));
    let mut wanted = factors.iter().filter(wanted);
    let factor = match (wanted.next(), wanted.next()) {
        (Some(factor), None) => factor,
        (None, _) => {
            let problem =
                "the log has no such second factor of the user's: the organisation may enrol one";
            return Err(CliError::Usage(problem.to_owned()).into());
        }
        (Some(_), Some(_)) => {
            let problem = "the user has several second factors: name one with --factor";
            return Err(CliError::Usage(problem.to_owned()).into());
        }
    };
    let claim = FactorClaim {
        v: 1,
        origin: session.origin.clone(),
        who: keys.key(),
        factor: factor.factor,
        at: clock::unix_ms(),
    };
    let shown = patiently(async || {
        session
            .client
            .verify_factor(&claim, &keys.signing, code)
            .await
    })
    .await
    .context("show the second factor")?;
    if !is_of(&shown, &did, factor, &session.origin) {
        let problem = "the node did not say that the second factor was shown";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    }
    files::replace(&path(session), &shown.to_bytes()).context("keep what the node said")?;
    let until = shown.statement.not_after_unix_ms.unwrap_or(0);
    Ok(FactorShown {
        factor: hex::encode(factor.factor.as_slice()),
        node: factor.node.to_string(),
        until: clock::rfc3339(until),
    })
}

/// What goes with the user's requests: that it has shown a second factor, as long as that counts.
pub(crate) fn shown(session: &Session, keys: &OwnKeys) -> Option<Box<SignedStatement>> {
    let bytes = files::read(&path(session), SignedStatement::MAX_BYTES as u64).ok()?;
    let shown = SignedStatement::from_bytes(&bytes).ok()?;
    let (verified, _) = FactorVerified::said_by(&shown, &session.origin)?;
    let counts =
        verified.who == keys.did() && shown.statement.not_after_unix_ms > Some(clock::unix_ms());
    counts.then(|| Box::new(shown))
}

async fn factors_of(session: &Session, who: &Did) -> Result<(Vec<Factor>, u64)> {
    let listed = patiently(async || session.client.principal(who).await).await;
    let listed = listed.context("look up the person")?;
    let Some(principal) = listed.value else {
        let problem = format!("the log has no `{who}`");
        return Err(CliError::Usage(problem).into());
    };
    Ok((principal.factors, listed.tree_size))
}

fn is_of(shown: &SignedStatement, who: &Did, factor: &Factor, origin: &str) -> bool {
    let says = FactorVerified {
        who: *who,
        factor: factor.factor,
        since: factor.since,
    };
    FactorVerified::said_by(shown, origin) == Some((&says, &factor.node)) && shown.verifies()
}

/// The one place where the secret is printed.
fn exposed<S: Serializer>(uri: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(uri)
}

fn path(session: &Session) -> PathBuf {
    session.home.join("second-factor")
}

/// What authenticator apps take (<https://github.com/google/google-authenticator/wiki/Key-Uri-Format>).
fn uri(origin: &str, who: &Did, created: &CreatedFactor) -> Zeroizing<String> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let secret = Zeroizing::new(BASE32_NOPAD.encode(&created.secret));
    let (issuer, account) = (encoded(origin), encoded(&who.to_string()));
    Zeroizing::new(format!(
        "otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}&algorithm=SHA1&digits=6&period=30",
        *secret
    ))
}

impl FactorRow {
    fn new(factor: &Factor) -> Self {
        Self {
            factor: hex::encode(factor.factor.as_slice()),
            method: factor.method.as_str(),
            node: factor.node.to_string(),
            leaf_index: factor.since,
        }
    }
}

impl fmt::Debug for FactorMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FactorMade")
            .field("factor", &self.factor)
            .field("did", &self.did)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for FactorMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(code) = QrCode::new(self.uri.as_bytes()) {
            writeln!(f, "{}", code.render::<Dense1x2>().quiet_zone(true).build())?;
        }
        writeln!(f, "{}", *self.uri)?;
        writeln!(f, "factor   {}", self.factor)?;
        write!(
            f,
            "confirm  medanchor factor confirm {} {} --at {} CODE",
            self.did, self.factor, self.node
        )
    }
}

impl fmt::Display for FactorChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "factor   {} of {}", self.factor, self.did)?;
        writeln!(f, "change   {}", self.change)?;
        write!(f, "{}", self.recorded)
    }
}

impl fmt::Display for FactorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} second factors, of {} leaves",
            self.factors.len(),
            self.tree_size
        )?;
        for row in &self.factors {
            write!(f, "\n{}  {}  at {}", row.factor, row.method, row.node)?;
        }
        Ok(())
    }
}

impl fmt::Display for FactorShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "factor   {}\nuntil    {}", self.factor, self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::SigningKey;

    #[test]
    fn uri_is_what_apps_take_and_secret_is_in_no_debug() {
        let who = SigningKey::from_seed(&[1; 32]).did();
        let created = CreatedFactor {
            factor: Nonce::new([2; 16]),
            node: SigningKey::from_seed(&[3; 32]).did(),
            secret: b"12345678901234567890".to_vec().into(),
        };
        let uri = uri("example.org/log", &who, &created);
        // The secret of RFC 6238's examples in base32 (RFC 4648).
        assert!(
            uri.starts_with("otpauth://totp/example%2Eorg%2Flog:did%3Akey%3A"),
            "{}",
            *uri
        );
        assert!(
            uri.contains("?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=example%2Eorg%2Flog&")
        );
        let made = FactorMade {
            factor: String::new(),
            did: who.to_string(),
            node: String::new(),
            uri,
        };
        assert!(!format!("{made:?}{created:?}").contains("GEZDGNBVGY3TQOJQ"));
        assert!(made.to_string().contains('\u{2588}'));
    }
}
