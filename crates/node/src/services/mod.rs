//! The gRPC services: each turns wire messages into domain types, calls one part, and answers.

mod access;
mod accounts;
mod anchor;
mod block;
mod custody;
mod emergencies;
mod errors;
mod factor;
mod followed;
mod hold;
mod question;
mod records;
mod registry;

pub(crate) use access::Access;
pub(crate) use anchor::Anchor;
pub(crate) use block::{Blocks, Uploads};
pub(crate) use custody::CustodyKeys;
pub(crate) use factor::SecondFactors;
pub(crate) use followed::Followed;
pub(crate) use hold::Holding;
pub(crate) use registry::{Checks, Registry};
