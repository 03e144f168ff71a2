//! Seals a byte stream to recipients, opens it, and re-wraps its content key.
//!
//! Scope: the [`Header`] that is bound into every key, one pass of sealing ([`Sealer`]), opening
//! ([`Opener`]), and the content key's way from hand to hand ([`Wrap`], [`rewrap`], [`SealedKey`]).
//! Formats: `docs/formats.md`, Record and Custody. Chunks are STREAM as in
//! [age](https://github.com/C2SP/C2SP/blob/main/age.md); wraps are HPKE
//! ([RFC 9180](https://www.rfc-editor.org/rfc/rfc9180)) in base mode.
//!
//! Everything is synchronous and pure, but for random bytes from the operating system.
//!
//! Out of scope: who may have a key (`medanchor-broker`), signatures and blocks (`medanchor-dag`).
#![deny(clippy::indexing_slicing)]

mod aead;
mod cbor;
mod error;
mod header;
mod identity;
mod keys;
mod opener;
mod sealed_key;
mod sealer;
mod wrap;

pub use cbor::FormatError;
pub use error::{OpenError, SealError};
pub use header::{Header, HeaderError, Suite};
pub use identity::{Identity, Recipient, RecipientError};
pub use opener::Opener;
pub use sealed_key::SealedKey;
pub use sealer::{SealedChunks, Sealer};
pub use wrap::{Kem, Wrap, WrapContext, rewrap};

#[cfg(test)]
mod vectors;
