//! Is the log as a deterministic state machine over ordered tables, with proofs anyone can check offline.
//!
//! Scope: what may be said ([`Statement`]), how a batch of it changes the [`State`] and the log
//! ([`Log::apply`]), the RFC 6962 Merkle tree over the leaves, C2SP checkpoints, co-signatures and
//! receipts, and the policy by which a receipt is believed. Formats: `docs/formats.md`.
//!
//! Nothing here reads a clock, draws a random number or iterates a hash map: time and salts arrive as
//! data in the [`Batch`], so that every replica computes the same leaves.
//!
//! Out of scope: ordering and durability (`medanchor-raft`), evaluation of access policies
//! (`medanchor-policy`).
#![deny(clippy::indexing_slicing)]

mod account;
mod apply;
mod batch;
mod batch_conflict;
mod batch_head;
mod break_glass;
mod chain;
mod checkpoint;
mod consent;
mod cosignature;
mod damage;
mod device_details;
mod disclosure;
mod entry;
mod epoch_key;
mod equivocation;
mod erasure;
mod leaf;
mod legal_hold;
mod member;
mod note;
mod outside_witness;
mod placement;
mod policy_set;
mod ports;
mod proof;
mod receipt;
mod release_list;
mod second_factor;
mod state;
mod state_digest;
mod stated_account;
mod statement;
mod store_key;
mod tables;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod tiles;
pub mod tree;
mod trust;
mod verified;
mod witness;
mod witness_url;

pub use account::{Account, AccountHead, AccountOf};
pub use apply::{Applied, Log};
pub use batch::{Batch, Entry, Hold, HoldError};
pub use batch_conflict::{BatchConflict, BatchConflictError, BatchConflictFormatError, Liar};
pub use batch_head::{BatchConflictKind, BatchHead, BatchHeadError, SignedBatchHead};
pub use break_glass::{
    BreakGlass, BreakGlassReviewed, BreakGlassRule, Emergency, EmergencyEntry, Finding,
    OverrideReason, OverrideReasonError, Review,
};
pub use chain::{ChainError, Epochs, PolicyChain};
pub use checkpoint::{Checkpoint, CheckpointError, SignError};
pub use consent::{Actor, Consented, Effect, Period, Provision, Withdrawn};
pub use cosignature::cosign;
pub use damage::Damage;
pub use device_details::DeviceDetails;
pub use disclosure::{AccountError, Disclosed, DisclosedIn, Disclosure};
pub use entry::{
    AccessPolicyEntry, ConsentEntry, CustodyEntry, FoundedEntry, PrincipalEntry, RecordEntry,
    Status, StreamEntry,
};
pub use epoch_key::{EpochKeyChanged, EpochKeyEntry};
pub use equivocation::{Equivocated, Equivocation, EquivocationError, EquivocationFormatError};
pub use erasure::{
    Destroyed, Erased, ErasedBy, ErasedHolder, Erasure, ErasureEntry, Gone, StatedErasure,
    StatedErasureError, StatedErasureFormatError,
};
pub use leaf::{Leaf, LeafIndex, Opening, Outcome};
pub use legal_hold::{LegalHold, LegalHoldEntry, LegalHoldPlaced};
pub use member::{Contact, MemberAdded, MemberEntry, MemberRemoved};
pub use note::{
    NoteError, NoteSignature, SignatureKind, SignedNote, Signer, VerifierKey, VerifierKeyError,
};
pub use outside_witness::{WitnessAdded, WitnessEntry, WitnessPlace, WitnessRemoved};
pub use placement::{Holding, PlacedNode, Placement, PlacementRule, Places, Placing, Quota};
pub use policy_set::PolicySet;
pub use ports::{
    Append, AppendError, Appended, BoxError, Group, Prove, Read, ReadError, Submission,
};
pub use proof::{InclusionError, TlogProof, TlogProofError};
pub use receipt::{Receipt, ReceiptError, ReceiptFormatError, Verified};
pub use release_list::{
    Cohort, ListHead, PartHead, PartProof, ReleaseList, ReleaseListError, ReleasePart, ReleaseRow,
    RowProof,
};
pub use second_factor::{Factor, FactorEnrolled, FactorMethod, FactorRemoved, FactorVerified};
pub use state::State;
pub use state_digest::{CertificateError, Certifiers, Digested, StateDigest};
pub use stated_account::{StatedAccount, StatedAccountError, StatedAccountFormatError, Vouched};
pub use statement::{
    AccessRequest, Anchored, Attestation, Basis, Body, Class, Custody, CustodyKind, Enrolled,
    Founded, Kind, Leaves, Member, Nonce, PrincipalKind, Refused, Released, RolesChanged, Rotated,
    Selection, SignedStatement, Standing, Statement, StatementError, StreamName,
};
pub use store_key::StoreKey;
pub use tables::{MemoryTables, Row, Table, Tables, TablesError, View};
pub use tiles::{HashTiles, Recomputed, Tile, TileError, TileKind};
pub use tree::{ConsistencyProof, InclusionProof, ProofError};
pub use trust::{
    CheckedCheckpoint, Cosigner, PolicyError, PolicyLineError, PolicyWarning, Strength, Trust,
    TrustError, TrustPolicy,
};
pub use witness::{AddCheckpoint, AddCheckpointError, Seen};
pub use witness_url::{WitnessUrl, WitnessUrlError};
