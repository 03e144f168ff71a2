//! What the log accepts, refuses and remembers.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

mod access;
mod account;
mod break_glass;
mod bulk;
mod consent;
mod custody;
mod erasure;
mod legal_hold;
mod log;
mod member;
mod placement;
mod policy_set;
mod principal;
mod properties;
mod record;
mod rotation;
mod second_factor;
mod vectors;
mod witness;

use medanchor_anchor::{Applied, Outcome};

/// A named change to a good body.
type Change<T> = (&'static str, fn(&mut T));

fn outcome(applied: &Applied) -> Outcome {
    match applied {
        Applied::Leaf(appended) => appended.leaf.outcome,
        Applied::Rejected(code) => panic!("rejected: {code}"),
    }
}

fn rejected(applied: &Applied) -> &'static str {
    match applied {
        Applied::Rejected(code) => code,
        Applied::Leaf(appended) => panic!("leaf: {:?}", appended.leaf),
    }
}
