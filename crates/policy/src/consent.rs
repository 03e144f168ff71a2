use crate::{Code, purpose};
use medanchor_anchor::{Actor, Class, ConsentEntry, Effect, Provision};
use medanchor_dag::Did;

/// A use of one record, as a consent may speak of it.
pub(crate) struct Use<'a> {
    pub(crate) requester: &'a Did,
    pub(crate) requester_org: &'a Did,
    pub(crate) role: &'a str,
    pub(crate) purpose: &'a str,
    pub(crate) class: Class,
    pub(crate) device: &'a Did,
    /// When the data was captured: compared with the consent's `captured`, never with `valid`.
    pub(crate) captured_at: u64,
    /// Log time: compared with the consent's `valid`, never with `captured`.
    pub(crate) now: u64,
}

/// What consents say of a use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    /// Whether one denies it, which beats every permission.
    pub(crate) denied: bool,
    /// Whether one permits it. If not, what they lack; of several, the one that comes nearest.
    pub(crate) permitted: Result<(), Code>,
}

pub(crate) fn said(consents: &[ConsentEntry], asked: &Use<'_>) -> Said {
    let mut said = Said {
        denied: false,
        permitted: Err(Code::NoConsent),
    };
    for consent in consents {
        match permits(consent, asked) {
            Ok(()) => said.permitted = Ok(()),
            Err(Code::ConsentDenied) => said.denied = true,
            Err(lack) => said.permitted = said.permitted.map_err(|nearest| nearest.max(lack)),
        }
    }
    said
}

/// Whether somebody who asks so is named in what the consent permits, in force or withdrawn.
pub(crate) fn names(consent: &ConsentEntry, requester: &Did, org: &Did, role: &str) -> bool {
    let given = &consent.consented;
    let is_meant = |provision: &Provision| is_meant(&provision.actors, requester, org, role);
    let permits = |(provision, effect)| effect == Effect::Permit && is_meant(provision);
    is_meant(&given.provision) && given.provisions().any(permits)
}

/// The moments at which a consent may begin to say something else.
pub(crate) fn turns(consents: &[ConsentEntry]) -> impl Iterator<Item = u64> {
    let in_force = consents.iter().filter(|consent| !consent.withdrawn);
    let provisions = in_force.flat_map(|consent| consent.consented.provisions());
    provisions.flat_map(|(provision, _)| provision.valid.turns())
}

fn permits(consent: &ConsentEntry, asked: &Use<'_>) -> Result<(), Code> {
    let given = &consent.consented;
    if let Err(lack) = covers(&given.provision, asked) {
        // What is not denied is not permitted by that.
        return Err(match given.effect {
            Effect::Deny => Code::NoConsent,
            Effect::Permit | Effect::Silent => lack,
        });
    }
    let is_excepted = given
        .except
        .iter()
        .any(|exception| covers(exception, asked).is_ok());
    let effect = match is_excepted {
        true => given.effect.of_exceptions(),
        false => given.effect,
    };
    match effect {
        Effect::Permit if consent.withdrawn => Err(Code::ConsentWithdrawn),
        Effect::Permit => Ok(()),
        Effect::Deny if consent.withdrawn => Err(Code::NoConsent),
        Effect::Deny => Err(Code::ConsentDenied),
        Effect::Silent => {
            let lacks = given
                .except
                .iter()
                .filter_map(|exception| covers(exception, asked).err());
            Err(lacks.max().unwrap_or(Code::NoConsent))
        }
    }
}

/// Conditions in the order of their codes, so that the greatest code is the one that failed last.
fn covers(provision: &Provision, asked: &Use<'_>) -> Result<(), Code> {
    let Provision {
        actors,
        purposes,
        classes,
        devices,
        captured,
        valid,
    } = provision;
    let covers_purpose = |code: &String| purpose::covers(code, asked.purpose);
    if !is_meant(actors, asked.requester, asked.requester_org, asked.role) {
        Err(Code::NoConsent)
    } else if !purposes.is_empty() && !purposes.iter().any(covers_purpose) {
        Err(Code::PurposeNotCovered)
    } else if !classes.is_empty() && !classes.contains(&asked.class) {
        Err(Code::ClassNotCovered)
    } else if !devices.is_empty() && !devices.contains(asked.device) {
        Err(Code::DeviceNotCovered)
    } else if !captured.contains(asked.captured_at) {
        Err(Code::CaptureNotCovered)
    } else if valid.from.is_some_and(|from| asked.now < from) {
        Err(Code::ConsentNotYetValid)
    } else if !valid.contains(asked.now) {
        Err(Code::ExpiredConsent)
    } else {
        Ok(())
    }
}

fn is_meant(actors: &[Actor], requester: &Did, org: &Did, role: &str) -> bool {
    actors.is_empty() || actors.iter().any(|actor| actor.is(requester, org, role))
}
