use crate::Nonce;
use medanchor_dag::{Class, CustodyId, Did, Hash};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What somebody wants, or does not want, to be done with what a custody key protects. Whatever no consent and no policy
/// permits is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consented {
    /// The consent's id: 16 random bytes. Giving it again replaces it.
    pub consent: Nonce,
    /// The custody key.
    pub custody: CustodyId,
    /// What is said of uses that `provision` covers.
    pub effect: Effect,
    /// The uses that are meant.
    pub provision: Provision,
    /// Exceptions, at most [`Consented::MAX_EXCEPTIONS`]: of uses that `provision` covers and one of these covers, too, the
    /// [opposite](Effect::of_exceptions) is said.
    pub except: Vec<Provision>,
    /// SHA-256 of the document in which it was given, if there is one.
    pub document: Option<Hash>,
}

impl Consented {
    /// The most consents under a custody key, in force or withdrawn.
    pub const MAX_PER_CUSTODY: usize = 100;

    /// The most exceptions.
    pub const MAX_EXCEPTIONS: usize = 16;

    /// What is said of each provision's uses, the exceptions' first.
    pub fn provisions(&self) -> impl Iterator<Item = (&Provision, Effect)> {
        let except = self.except.iter();
        except
            .map(|provision| (provision, self.effect.of_exceptions()))
            .chain([(&self.provision, self.effect)])
    }

    /// Whether it denies anything, so that somebody might be permitted more if it were withdrawn.
    pub fn denies(&self) -> bool {
        self.provisions().any(|(_, effect)| effect == Effect::Deny)
    }
}

/// What a consent says of a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It is permitted.
    Permit,
    /// It is denied, whatever another consent permits.
    Deny,
    /// Nothing, but where there is an exception: the provision has no condition, and there are exceptions.
    Silent,
}

impl Effect {
    /// What is said of uses that an exception covers.
    pub fn of_exceptions(self) -> Self {
        match self {
            Self::Permit => Self::Deny,
            Self::Deny | Self::Silent => Self::Permit,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permit => "permit",
            Self::Deny => "deny",
            Self::Silent => "silent",
        })
    }
}

/// Uses of data: those that meet every condition. A list that is empty is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provision {
    /// By whom; at most 64, and at least one where it permits.
    pub actors: Vec<Actor>,
    /// What for: HL7 ActReason codes, each of which covers those below it; at most 64, and at least one where it permits.
    pub purposes: Vec<String>,
    /// Data classes.
    pub classes: Vec<Class>,
    /// The devices that made the data, at most 64.
    pub devices: Vec<Did>,
    /// When the data was captured.
    pub captured: Period,
    /// When it is used, in log time.
    pub valid: Period,
}

/// Whoever belongs to `party`, in the role `role`; at least one of them is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// An organisation and all that belong to it, or one person, device or service. Absent: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub party: Option<Did>,
    /// The role acted in. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

impl Actor {
    /// All of an organisation, or one that is no organisation, in any role.
    pub fn party(party: Did) -> Self {
        Self {
            party: Some(party),
            role: None,
        }
    }

    /// Whether `requester` of `org` is meant when it acts in `role`.
    pub fn is(&self, requester: &Did, org: &Did, role: &str) -> bool {
        let is_party = |party: &Did| party == requester || party == org;
        self.party.as_ref().is_none_or(is_party) && self.role.as_ref().is_none_or(|own| own == role)
    }
}

/// From and until, unix ms, both inclusive; absent is unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// The first moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The last moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Period {
    /// The last moment that may be said: the end of the year 9999, which is the last that RFC 3339 can say.
    pub const MAX_UNIX_MS: u64 = 253_402_300_799_999;

    /// Whether it does not end before it begins, or too late to be written down.
    pub(crate) fn is_sound(&self) -> bool {
        let until = self.until.unwrap_or(Self::MAX_UNIX_MS);
        self.from.unwrap_or(0) <= until && until <= Self::MAX_UNIX_MS
    }

    /// Whether `unix_ms` lies within.
    pub fn contains(&self, unix_ms: u64) -> bool {
        self.from.is_none_or(|from| from <= unix_ms)
            && self.until.is_none_or(|until| unix_ms <= until)
    }

    /// The moments at which it begins, and at which it is over.
    pub fn turns(&self) -> impl Iterator<Item = u64> {
        let over = self.until.map(|until| until.saturating_add(1));
        self.from.into_iter().chain(over)
    }
}

/// A consent ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawn {
    /// The consent's id.
    pub consent: Nonce,
    /// The custody key it was given for.
    pub custody: CustodyId,
}
