//! Turns bytes into content-addressed blocks and back, and keeps them on disk.
//!
//! Scope: [`Block`]s and their CIDs, signing keys named by `did:key`, the signed [`Record`] that is the
//! root of one sealed payload's DAG, building and walking that DAG ([`import`], [`export`]), CAR
//! files ([`CarWriter`], [`CarReader`]), and the block store on disk (feature `disk`). Formats: `docs/formats.md`.
//!
//! Out of scope: sealing and opening (`medanchor-envelope`), and any network (`medanchor-ipfs`).
#![deny(clippy::indexing_slicing)]

mod base58;
mod block;
mod car;
mod cbor;
mod chunks;
mod class;
mod did;
#[cfg(feature = "disk")]
mod disk;
mod export;
#[cfg(medanchor_fault)]
mod fault;
mod header;
mod id;
mod import;
mod record;
mod store;
mod walk;

pub use block::{Block, BlockError, Codec, MAX_BLOCK_BYTES, cid_of};
pub use car::{CarError, CarReader, CarWriter, MAX_CAR_ROOTS};
pub use cbor::{CborError, from_canonical, to_canonical};
pub use chunks::{Chunks, ChunksError, MAX_INLINE_BYTES, MAX_LINKS};
pub use cid::Cid;
pub use class::{Class, ClassError};
pub use did::{Did, DidError, Signature, SignatureError, SigningKey, sha256};
#[cfg(feature = "disk")]
pub use disk::{
    Collected, DiskStore, Effort, Figures, Lease, Marks, OpenError, ScrubProgress, ScrubStep,
};
pub use export::{ExportError, chunk_cids, export, export_blocks, fetch_chunk, named_chunks};
#[cfg(medanchor_fault)]
pub use fault::step as fault_step;
pub use header::HeaderFields;
pub use id::{CustodyId, Hash, IdError, StreamId};
pub use import::import;
pub use record::{Draft, MAX_META_BYTES, MAX_RECORD_BYTES, Record, RecordError};
pub use store::{BlockSource, BlockStore, MemoryStore, SourceError, StoreError};
pub use walk::{LinksError, RawBlocks, WalkError, Walked, is_whole, links, reach, walk};
