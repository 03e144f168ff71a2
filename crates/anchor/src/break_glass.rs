use crate::LeafIndex;
use medanchor_dag::{CustodyId, Did};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// An organisation, a member, says who of its people may override consent in an emergency, and who reviews that. It replaces
/// what it said before; until it said anything, nobody may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassRule {
    /// The organisation.
    pub org: Did,
    /// The roles in which its people may: sorted, at most 16. None: nobody may any more.
    pub roles: Vec<String>,
    /// The people of the organisation who review it: sorted, at least one, at most 16.
    pub reviewers: Vec<Did>,
    /// How long an emergency lasts, ms: from a minute to a day.
    pub lasts_ms: u64,
    /// How long after its beginning it must have been reviewed, ms: at least as long as it lasts, at most 14 days.
    pub review_within_ms: u64,
}

/// Somebody overrides consent for what a custody key protects (HL7 purpose of use `BTG`), and answers for it: the emergency
/// begins with the leaf of this. Keys are released for it as for any other purpose, one leaf each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlass {
    /// Who does.
    pub who: Did,
    /// Whose data: the custody key of a person.
    pub custody: CustodyId,
    /// In which role.
    pub role: String,
    /// Why.
    pub reason: OverrideReason,
}

/// A reviewer closes an emergency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlassReviewed {
    /// Who overrode consent.
    pub who: Did,
    /// Whose data: the custody key.
    pub custody: CustodyId,
    /// The leaf with which the emergency began.
    pub emergency: LeafIndex,
    /// What the review found.
    pub finding: Finding,
}

/// Why consent is overridden: HL7 v3 ActReason, `_ActConsentInformationAccessOverrideReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverrideReason {
    /// An emergency: the patient needs care and cannot be asked.
    #[serde(rename = "OVRER")]
    Emergency,
    /// The care provider's professional judgement.
    #[serde(rename = "OVRPJ")]
    ProfessionalJudgement,
    /// The safety of the public.
    #[serde(rename = "OVRPS")]
    PublicSafety,
    /// The safety of a third party.
    #[serde(rename = "OVRTPS")]
    ThirdPartySafety,
}

/// What a review found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// There was a reason.
    Justified,
    /// There was none: whoever overrode consent is suspended by the same leaf.
    Unjustified,
}

/// An emergency that is not reviewed yet, as the state has it of whoever overrode consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emergency {
    /// The leaf with which it began.
    pub since: LeafIndex,
    /// Whose data.
    pub custody: CustodyId,
    /// In which role.
    pub role: String,
    /// Its last moment, in log time, unix ms.
    pub until: u64,
    /// The last moment for its review: after that the role is suspended until there is one.
    pub due: u64,
}

/// An emergency, as the state has it of the custody key, also when it is over and reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmergencyEntry {
    /// What whoever overrode consent said.
    pub broken: BreakGlass,
    /// The organisation of whoever did.
    pub org: Did,
    /// The leaf with which it began.
    pub since: LeafIndex,
    /// Log time of that leaf, unix ms.
    pub at: u64,
    /// Its last moment, in log time, unix ms.
    pub until: u64,
    /// The last moment for its review.
    pub due: u64,
    /// Its review, once there is one.
    pub review: Option<Review>,
}

/// A review of an emergency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Who made it.
    pub by: Did,
    /// What it found.
    pub finding: Finding,
    /// Its leaf.
    pub since: LeafIndex,
    /// Log time of that leaf, unix ms.
    pub at: u64,
}

impl BreakGlass {
    /// The purpose of use for which keys are released in an emergency: HL7 ActReason.
    pub const PURPOSE: &'static str = "BTG";
}

impl BreakGlassRule {
    /// The shortest that an emergency may last, ms.
    pub const MIN_LASTS_MS: u64 = 60 * 1000;
    /// The longest that it may last, ms.
    pub const MAX_LASTS_MS: u64 = 24 * 60 * 60 * 1000;
    /// The longest time for its review, ms.
    pub const MAX_REVIEW_WITHIN_MS: u64 = 14 * 24 * 60 * 60 * 1000;
}

impl Emergency {
    /// Emergencies of one principal that are not reviewed yet.
    pub const MAX: usize = 8;

    /// Whether it lets use what `custody` protects in `role` at `now`, log time, unix ms.
    pub fn covers(&self, custody: &CustodyId, role: &str, now: u64) -> bool {
        self.custody == *custody && self.role == role && now <= self.until
    }
}

impl OverrideReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::Emergency,
        Self::ProfessionalJudgement,
        Self::PublicSafety,
        Self::ThirdPartySafety,
    ];

    /// The HL7 code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emergency => "OVRER",
            Self::ProfessionalJudgement => "OVRPJ",
            Self::PublicSafety => "OVRPS",
            Self::ThirdPartySafety => "OVRTPS",
        }
    }
}

/// The text is no reason for overriding consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of OVRER, OVRPJ, OVRPS and OVRTPS (HL7 ActReason)")]
pub struct OverrideReasonError;

impl FromStr for OverrideReason {
    type Err = OverrideReasonError;

    fn from_str(text: &str) -> Result<Self, OverrideReasonError> {
        let mut all = Self::ALL.into_iter();
        all.find(|reason| reason.as_str() == text)
            .ok_or(OverrideReasonError)
    }
}

impl fmt::Display for OverrideReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Finding {
    /// The name, as statements write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Justified => "justified",
            Self::Unjustified => "unjustified",
        }
    }
}
