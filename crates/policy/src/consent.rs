use crate::{Code, purpose};
use medanchor_anchor::{Class, ConsentEntry};
use medanchor_dag::Did;

/// A use of one record, as a consent must cover it.
pub(crate) struct Use<'a> {
    pub(crate) requester: &'a Did,
    pub(crate) requester_org: &'a Did,
    pub(crate) purpose: &'a str,
    pub(crate) class: Class,
    /// When the data was captured: compared with the consent's `captured`, never with `valid`.
    pub(crate) captured_at: u64,
    /// Log time: compared with the consent's `valid`, never with `captured`.
    pub(crate) now: u64,
}

/// Until when the consents cover the use, unix ms: the last moment of the one that lasts longest, and
/// [`u64::MAX`] where it has no end. If none does, what the one that comes nearest lacks.
pub(crate) fn coverage(consents: &[ConsentEntry], asked: &Use<'_>) -> Result<u64, Code> {
    let (mut until, mut nearest) = (None, Code::NoConsent);
    for consent in consents {
        match covers(consent, asked) {
            Ok(()) => until = until.max(Some(consent.consented.valid.until.unwrap_or(u64::MAX))),
            Err(lack) => nearest = nearest.max(lack),
        }
    }
    until.ok_or(nearest)
}

/// Whether a consent, withdrawn or not, is given to the requester or its organisation.
pub(crate) fn names(consent: &ConsentEntry, requester: &Did, requester_org: &Did) -> bool {
    let parties = &consent.consented.parties;
    parties.contains(requester) || parties.contains(requester_org)
}

/// Conditions in the order of their codes, so that the greatest code is the one that failed last.
fn covers(consent: &ConsentEntry, asked: &Use<'_>) -> Result<(), Code> {
    let given = &consent.consented;
    let covers_purpose = |code: &String| purpose::covers(code, asked.purpose);
    if !names(consent, asked.requester, asked.requester_org) {
        Err(Code::NoConsent)
    } else if !given.purposes.iter().any(covers_purpose) {
        Err(Code::PurposeNotCovered)
    } else if !given.classes.is_empty() && !given.classes.contains(&asked.class) {
        Err(Code::ClassNotCovered)
    } else if !given.captured.contains(asked.captured_at) {
        Err(Code::CaptureNotCovered)
    } else if given.valid.from.is_some_and(|from| asked.now < from) {
        Err(Code::ConsentNotYetValid)
    } else if !given.valid.contains(asked.now) {
        Err(Code::ExpiredConsent)
    } else if consent.withdrawn {
        Err(Code::ConsentWithdrawn)
    } else {
        Ok(())
    }
}
