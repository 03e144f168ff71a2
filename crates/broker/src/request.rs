use crate::answer::Declined;
use medanchor_anchor::{AccessRequest, Body, FactorVerified, Log, SignedStatement};
use medanchor_dag::{CustodyId, Did, Hash};
use medanchor_envelope::Recipient;
use medanchor_policy::Code;
use std::collections::BTreeSet;

/// An access request that its requester signed, in this network.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) signed: SignedStatement,
    pub(crate) hash: Hash,
    /// The key that it is signed with.
    pub(crate) requester: Did,
    pub(crate) body: AccessRequest,
    /// The custody keys of its selection, none when it names its records.
    pub(crate) cohort: Vec<CustodyId>,
    pub(crate) recipient: Recipient,
    /// Unix ms.
    pub(crate) not_after: u64,
}

impl Request {
    /// Checks what can be checked without the log, cheapest first. What fails here is refused without a
    /// leaf: nobody known has asked for anything yet.
    pub(crate) fn check(
        signed: SignedStatement,
        cohort: Vec<CustodyId>,
        origin: &str,
        now: u64,
    ) -> Result<Self, Declined> {
        let Some((body, requester, not_after)) = parts(&signed) else {
            return Err(Declined::new(
                Code::MalformedRequest.as_str(),
                "this is not an access request by one requester for 1 to 256 different records, or for a selection",
            ));
        };
        let is_its = match &body.selection {
            Some(selection) => selection.cohort.is_of(&cohort),
            None => cohort.is_empty(),
        };
        if !is_its {
            return Err(Declined::new(
                Code::MalformedRequest.as_str(),
                "the custody keys that came with the request are not those of its selection",
            ));
        }
        if signed.statement.origin != origin {
            let reason = format!("the request is made for another network than `{origin}`");
            return Err(Declined::new("wrong-origin", reason));
        }
        if not_after > now.saturating_add(Log::MAX_VALIDITY_MS) {
            return Err(Declined::new(
                "expiry-too-far",
                "the request is valid for more than a day: make one that ends sooner",
            ));
        }
        let recipient = body.recipient.as_slice().try_into().ok();
        let Some(recipient) = recipient.and_then(|key| Recipient::from_bytes(key).ok()) else {
            return Err(Declined::new(
                "bad-recipient",
                "the recipient is not a sound X25519 public key: make a new key pair",
            ));
        };
        if !signed.verifies() {
            return Err(Declined::new(
                Code::BadSignature.as_str(),
                "the request's signature does not verify: sign it with the requester's key",
            ));
        }
        Ok(Self {
            hash: signed.statement.hash(),
            requester,
            body: body.clone(),
            cohort,
            recipient,
            not_after,
            signed,
        })
    }
}

/// What answers a request whose time is over.
pub(crate) fn expired() -> Declined {
    Declined::new(
        Code::RequestExpired.as_str(),
        "the request's time is over: make a new one",
    )
}

fn parts(signed: &SignedStatement) -> Option<(&AccessRequest, Did, u64)> {
    let Body::AccessRequest(body) = &signed.statement.body else {
        return None;
    };
    let different: BTreeSet<_> = body.records.iter().collect();
    let countable = match &body.selection {
        None => (1..=AccessRequest::MAX_RECORDS).contains(&body.records.len()),
        Some(selection) => body.records.is_empty() && selection.is_sound(),
    };
    let origin = &signed.statement.origin;
    let shown = body.second_factor.as_deref();
    let is_sound = shown.is_none_or(|shown| FactorVerified::said_by(shown, origin).is_some());
    match signed.signatures.as_slice() {
        [(requester, _)] if countable && is_sound && different.len() == body.records.len() => {
            Some((body, *requester, signed.statement.not_after_unix_ms?))
        }
        _ => None,
    }
}
