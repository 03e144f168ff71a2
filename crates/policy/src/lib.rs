//! Decides a request against a state: pure, replayable, explained.
//!
//! Scope: whether the keys of some records may be released to a requester ([`decide`]), by its standing
//! and role, the purpose of use with everything above it ([`purpose`]), the consents in the log, and a
//! [Cedar](https://docs.cedarpolicy.com) policy set ([`Policies`]) that the log has put in force ([`PolicySets`]).
//! Consent is data, never a policy: it is matched here and reaches Cedar as one fact among others.
//!
//! Whatever is not permitted is denied, and so is everything whose decision meets an error (I8). A
//! decision depends on nothing but its arguments, so that anyone can repeat it later.
//!
//! [`Listing`] says the same of records that nobody has named: which of them a reader is told of.
//!
//! Out of scope: recording the decision and releasing the keys (`medanchor-broker`).
#![deny(clippy::indexing_slicing)]

mod code;
mod consent;
mod decide;
mod facts;
mod grounds;
mod listing;
mod policies;
mod policy_sets;
pub mod purpose;
mod replay;
mod second_factor;

pub use code::{BYTES_CODES, Code};
pub use decide::{Decision, Permit, PermittedPart, PermittedRow, Verdict, decide};
pub use listing::Listing;
pub use policies::{Policies, PoliciesError};
pub use policy_sets::PolicySets;
pub use replay::{Agreement, Replay, Replayed};
