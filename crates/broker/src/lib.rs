//! Has a request decided, records the decision, and only then releases a re-wrapped key.
//!
//! Scope: the custody keys that a node holds ([`Custody`]), and the one way in which they are used
//! ([`Broker::release`]): decide, re-wrap in memory, anchor, hand out (invariants I2, I5 and I8 in
//! `docs/architecture.md`).
//!
//! Out of scope: what is permitted (`medanchor-policy`), the log itself (`medanchor-anchor`), finding a
//! broker of a custody key and the wire (`medanchor-node`).
#![deny(clippy::indexing_slicing)]

mod answer;
mod broker;
mod custody;
mod error;
mod factors;
#[cfg(medanchor_fault)]
mod fault;
mod grants;
mod judgement;
mod rates;
mod records;
mod request;
mod store;
mod totp;

pub use answer::{Answer, Denial, Grant};
pub use broker::{Broker, BrokerParts, Clock};
pub use custody::{CreatedKey, Custody, CustodyError, HeldKey, Imported};
pub use error::ReleaseError;
pub use factors::{FactorError, Factors};
pub use rates::Rate;
