//! Keeps private keys on this machine: under a passphrase in a file, and out of core dumps.
//!
//! Scope: the text of a key file, plain or [protected](protect) by a [`Passphrase`], and a process whose memory is in no core
//! dump ([`forbid_core_dumps`]). A protected text is an armored [age](https://github.com/C2SP/C2SP/blob/main/age.md) file
//! with one scrypt recipient ([RFC 7914](https://www.rfc-editor.org/rfc/rfc7914)): `age -d` and `rage -d` open it, too.
//!
//! Out of scope: how files are written, and who is asked for a passphrase (`medanchor-cli`, `medanchor-node`); payloads
//! (`medanchor-envelope`).
#![deny(clippy::indexing_slicing)]

mod age;
mod armor;
mod core_dumps;
mod error;
mod passphrase;
mod text;

pub use core_dumps::forbid_core_dumps;
pub use error::{OpenError, PassphraseError};
pub use passphrase::Passphrase;
pub use text::{MAX_BYTES, Protection, is_protected, open, protect};
