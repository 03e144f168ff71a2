use std::fmt;

/// Codes of refusals that rest on a record's bytes, which are not in the log: the record is not what was anchored, or its
/// wrap cannot be opened.
pub const BYTES_CODES: [&str; 2] = ["record-mismatch", "wrap-unusable"];

/// Why a request is denied. The text of each code is stable: it stands in `refused` statements. Codes are in
/// the order in which conditions are checked; of several consents, the greatest code is the nearest miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Not an access request, or one with no record or too many.
    MalformedRequest,
    /// The requester's signature on the request does not verify.
    BadSignature,
    /// The request's time is over: sign a new one.
    RequestExpired,
    /// This version cannot decide by the policy set that the network has agreed on.
    PolicyMismatch,
    /// The requester is not enrolled.
    NotEnrolled,
    /// The requester or its organisation is suspended or revoked.
    Inactive,
    /// The requester is not enrolled with the role it acts in.
    RoleNotHeld,
    /// An emergency in the role was not reviewed in time: the role is suspended until a reviewer closes it.
    ReviewOverdue,
    /// The purpose is not an HL7 purpose of use.
    PurposeUnknown,
    /// A record does not exist, or the requester has nothing to do with it: both read the same.
    NotPermitted,
    /// The records are under more than one custody key: ask for each separately.
    MixedCustody,
    /// More records are selected than are released at once: select fewer.
    TooManyRecords,
    /// No policy lets the role have such data for the purpose, whatever is consented.
    RoleNotPermitted,
    /// Consent is needed, and none names the requester, its organisation or its role.
    NoConsent,
    /// A consent names the requester, but not for this purpose.
    PurposeNotCovered,
    /// A consent covers the purpose, but not this class of data.
    ClassNotCovered,
    /// A consent covers the purpose and class, but not what this device made.
    DeviceNotCovered,
    /// A consent covers the purpose and class, but not when the data was captured.
    CaptureNotCovered,
    /// A consent covers all that, but only from a later time on.
    ConsentNotYetValid,
    /// A consent covered all that, and its time is over.
    ExpiredConsent,
    /// A consent covered all that, and was withdrawn.
    ConsentWithdrawn,
    /// A consent denies it, whatever another one permits.
    ConsentDenied,
    /// The purpose is to override consent, and the log has no emergency of the requester's that lets it.
    EmergencyRequired,
    /// All else is there, but the requester has shown no second factor lately.
    SecondFactorRequired,
    /// A policy forbids it.
    Forbidden,
    /// The policies could not be evaluated.
    PolicyError,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 26] = [
        Self::MalformedRequest,
        Self::BadSignature,
        Self::RequestExpired,
        Self::PolicyMismatch,
        Self::NotEnrolled,
        Self::Inactive,
        Self::RoleNotHeld,
        Self::ReviewOverdue,
        Self::PurposeUnknown,
        Self::NotPermitted,
        Self::MixedCustody,
        Self::TooManyRecords,
        Self::RoleNotPermitted,
        Self::NoConsent,
        Self::PurposeNotCovered,
        Self::ClassNotCovered,
        Self::DeviceNotCovered,
        Self::CaptureNotCovered,
        Self::ConsentNotYetValid,
        Self::ExpiredConsent,
        Self::ConsentWithdrawn,
        Self::ConsentDenied,
        Self::EmergencyRequired,
        Self::SecondFactorRequired,
        Self::Forbidden,
        Self::PolicyError,
    ];

    /// Whether who is denied may know of the records. Until it is clear that it may, a record that is there and one
    /// that is not must look the same.
    pub fn tells_of_records(self) -> bool {
        self > Self::NotPermitted
    }

    /// The text that is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed-request",
            Self::BadSignature => "bad-signature",
            Self::RequestExpired => "request-expired",
            Self::PolicyMismatch => "policy-mismatch",
            Self::NotEnrolled => "not-enrolled",
            Self::Inactive => "inactive",
            Self::RoleNotHeld => "role-not-held",
            Self::ReviewOverdue => "review-overdue",
            Self::PurposeUnknown => "purpose-unknown",
            Self::NotPermitted => "not-permitted",
            Self::MixedCustody => "mixed-custody",
            Self::TooManyRecords => "too-many-records",
            Self::RoleNotPermitted => "role-not-permitted",
            Self::NoConsent => "no-consent",
            Self::PurposeNotCovered => "purpose-not-covered",
            Self::ClassNotCovered => "class-not-covered",
            Self::DeviceNotCovered => "device-not-covered",
            Self::CaptureNotCovered => "capture-not-covered",
            Self::ConsentNotYetValid => "consent-not-yet-valid",
            Self::ExpiredConsent => "expired-consent",
            Self::ConsentWithdrawn => "consent-withdrawn",
            Self::ConsentDenied => "consent-denied",
            Self::EmergencyRequired => "emergency-required",
            Self::SecondFactorRequired => "second-factor-required",
            Self::Forbidden => "forbidden",
            Self::PolicyError => "policy-error",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
