//! Real nodes, each a process: the demo, crashes, bad input and bad days.
//!
//! The stories run one after another, so that each has the machine to itself.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what goes wrong here is a failed test"
)]

mod access;
mod account;
mod alone;
mod audit;
mod author;
mod away;
mod blind;
mod break_glass;
mod broken;
mod bulk;
mod c4gh;
mod car;
mod collect;
mod consents;
mod copies;
mod crash;
mod custody;
mod demo;
mod device;
mod equivocation;
mod erasure;
mod fetch;
mod folder;
mod founding;
mod frozen;
mod full;
mod heads;
mod idle;
mod large;
mod legal_hold;
mod liar;
mod lost;
mod members;
mod moves;
mod partner;
mod refusals;
mod replicate;
mod rotation;
mod scrub;
mod second_factor;
mod secrets;
mod stage;
mod stream;
mod target;
mod unanchored;
mod waiting;
mod watch;
mod wires;
mod witness;
