use crate::{Custody, CustodyError, request::Request};
use futures::{StreamExt, stream};
use medanchor_anchor::{Anchored, ReleaseList};
use medanchor_dag::{Block, BlockSource, CustodyId, Hash, Record, SourceError};
use medanchor_envelope::{Header, Identity, Wrap, rewrap};
use medanchor_policy::{BYTES_CODES, Permit, PermittedPart};
use serde_bytes::ByteBuf;
use std::{collections::BTreeMap, iter, num::NonZero, panic, thread};

/// A record's block and that of its durable wrap, with what the log says of them.
pub(crate) struct Fetched {
    anchored: Anchored,
    record: Block,
    wrap: Block,
}

/// Why a content key is not re-wrapped.
#[derive(Debug)]
pub(crate) enum RewrapError {
    /// What was fetched is not what its device anchored, or its wrap does not open: it never will.
    Unusable { code: &'static str, reason: String },
    /// The custody key is not held here.
    NotHeld,
    /// The record or its wrap could not be fetched.
    Fetch(SourceError),
    /// The key store failed.
    Custody(CustodyError),
}

impl RewrapError {
    /// The code by which a record that was selected is left out; the error itself where all of them fail.
    fn code(self) -> Result<&'static str, Self> {
        match self {
            Self::Unusable { code, .. } => Ok(code),
            Self::Fetch(_) => Ok("record-unavailable"),
            error => Err(error),
        }
    }
}

impl From<CustodyError> for RewrapError {
    fn from(error: CustodyError) -> Self {
        Self::Custody(error)
    }
}

/// Content keys that are sealed to the requester.
pub(crate) struct Sealed {
    /// What they are of.
    pub(crate) list: ReleaseList,
    /// One wrap per row of the list, in order.
    pub(crate) wraps: Vec<Wrap>,
    /// How many records were selected and are not among them, by the code that each would be refused with.
    pub(crate) left_out: BTreeMap<String, u64>,
    /// Custody keys under which there is more for the requester, and which are not held here.
    pub(crate) elsewhere: Vec<CustodyId>,
    /// What of the permit they are.
    pub(crate) permit: Permit,
}

impl Sealed {
    /// Adds what of a part could be sealed.
    fn take(
        &mut self,
        part: PermittedPart,
        wraps: Vec<Result<Wrap, RewrapError>>,
        is_named: bool,
    ) -> Result<(), RewrapError> {
        let (custody, mut is_held) = (part.custody, true);
        let (mut rows, mut sealed) = (Vec::new(), Vec::new());
        for (row, wrap) in part.rows.into_iter().zip(wraps) {
            match wrap {
                Ok(wrap) => {
                    rows.push(row);
                    sealed.push(wrap);
                }
                Err(error) if is_named => return Err(error),
                Err(RewrapError::NotHeld) => is_held = false,
                Err(error) => {
                    let code = error.code()?.to_owned();
                    *self.left_out.entry(code).or_default() += 1;
                }
            }
        }
        if !is_held {
            self.elsewhere.push(custody);
            (rows, sealed) = (Vec::new(), Vec::new());
        }
        let part = PermittedPart { rows, ..part }.or_nothing();
        let hashes = sealed.iter().map(|wrap| Hash::new(wrap.hash()));
        self.list.parts.push(part.listed(hashes));
        self.permit.parts.push(part);
        self.wraps.extend(sealed);
        Ok(())
    }

    /// The same, with custody keys that were left to other brokers from the beginning.
    pub(crate) fn without(mut self, elsewhere: Vec<CustodyId>) -> Self {
        self.elsewhere.extend(elsewhere);
        self.elsewhere.sort_unstable();
        self
    }
}

/// Fetches the records and their wraps, some at a time, in order.
pub(crate) async fn fetch(
    blocks: &dyn BlockSource,
    permit: &Permit,
) -> Vec<Result<Fetched, SourceError>> {
    // Owned items: a stream of futures over borrowed ones is not provably `Send` (rust-lang/rust#102211).
    let anchored: Vec<Anchored> = permit
        .rows()
        .map(|row| row.record.anchored.clone())
        .collect();
    stream::iter(anchored)
        .map(|anchored| async move {
            Ok(Fetched {
                record: blocks.fetch(&anchored.record).await?,
                wrap: blocks.fetch(&anchored.wrap).await?,
                anchored,
            })
        })
        .buffered(FETCHES)
        .collect()
        .await
}

/// Seals each record's content key to the requester until `until`, unix ms, after every check that the envelope and the
/// record offer. The content keys exist in [`rewrap`] alone. What cannot be sealed fails where the records are named, and is
/// left out where they are selected.
pub(crate) fn seal(
    custody: &Custody,
    request: &Request,
    permit: Permit,
    fetched: Vec<Result<Fetched, SourceError>>,
) -> Result<Sealed, RewrapError> {
    let until = permit.until();
    let mut wraps = rewrap_all(custody, request, until, fetched).into_iter();
    let is_named = request.body.selection.is_none();
    let mut sealed = Sealed {
        list: ReleaseList { parts: Vec::new() },
        wraps: Vec::new(),
        left_out: named_codes(&permit),
        elsewhere: Vec::new(),
        permit: Permit::default(),
    };
    for part in permit.parts {
        let of_part = wraps.by_ref().take(part.rows.len()).collect();
        sealed.take(part, of_part, is_named)?;
    }
    Ok(sealed)
}

fn named_codes(permit: &Permit) -> BTreeMap<String, u64> {
    let left_out = permit.left_out.iter();
    left_out
        .map(|(code, records)| (code.to_string(), *records))
        .collect()
}

/// On as many threads as there are processors: each takes its share of the records, in order.
fn rewrap_all(
    custody: &Custody,
    request: &Request,
    until: u64,
    fetched: Vec<Result<Fetched, SourceError>>,
) -> Vec<Result<Wrap, RewrapError>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = fetched.len().div_ceil(threads).max(ALONE);
    let mut fetched = fetched.into_iter();
    let shares: Vec<Vec<_>> = iter::from_fn(|| {
        let share: Vec<_> = fetched.by_ref().take(share).collect();
        (!share.is_empty()).then_some(share)
    })
    .collect();
    let rewrap_share = |share: Vec<Result<Fetched, SourceError>>| {
        let mut identities = Identities {
            custody,
            last: None,
        };
        let rewrapped = share.into_iter().map(|fetched| {
            let fetched = fetched.map_err(RewrapError::Fetch)?;
            rewrap_one(&mut identities, request, until, &fetched)
        });
        rewrapped.collect::<Vec<_>>()
    };
    if shares.len() <= 1 {
        return shares.into_iter().flat_map(rewrap_share).collect();
    }
    thread::scope(|scope| {
        let running: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(|| rewrap_share(share)))
            .collect();
        let done = running.into_iter().map(|thread| thread.join());
        done.flat_map(|share| match share {
            Ok(share) => share,
            Err(panicked) => panic::resume_unwind(panicked),
        })
        .collect()
    })
}

/// The custody keys, of which the last one opened is at hand: records of a part have the same.
struct Identities<'c> {
    custody: &'c Custody,
    last: Option<(CustodyId, [u8; 32], Identity)>,
}

impl Identities<'_> {
    fn find(&mut self, custody: CustodyId, key_id: &[u8; 32]) -> Result<&Identity, RewrapError> {
        let is_last =
            |last: &(CustodyId, [u8; 32], Identity)| last.0 == custody && last.1 == *key_id;
        if !self.last.as_ref().is_some_and(is_last) {
            let identity = self.custody.identity(custody, key_id)?;
            let identity = identity.ok_or(RewrapError::NotHeld)?;
            self.last = Some((custody, *key_id, identity));
        }
        let last = self.last.as_ref().ok_or(RewrapError::NotHeld)?;
        Ok(&last.2)
    }
}

fn rewrap_one(
    identities: &mut Identities<'_>,
    request: &Request,
    until: u64,
    fetched: &Fetched,
) -> Result<Wrap, RewrapError> {
    let anchored = &fetched.anchored;
    let [record_mismatch, wrap_unusable] = BYTES_CODES;
    let unusable = |code, what: &str| RewrapError::Unusable {
        code,
        reason: format!("record `{}`: {what}", anchored.record),
    };
    let record = Record::from_block(&fetched.record)
        .ok()
        .filter(|record| record.verify_signature().is_ok() && is_anchored_as(record, anchored))
        .ok_or_else(|| unusable(record_mismatch, "it is not what its device anchored"))?;
    let header = Header::from_bytes(&record.header_bytes())
        .map_err(|_| unusable(record_mismatch, "its header is malformed"))?;
    let wrap = Wrap::from_bytes(fetched.wrap.bytes())
        .map_err(|_| unusable(wrap_unusable, "its wrap is malformed"))?;
    let identity = identities.find(anchored.custody, &wrap.ctx.to)?;
    rewrap(
        &wrap,
        identity,
        &header,
        record.commitment(),
        &request.recipient,
        *request.hash.as_bytes(),
        until,
    )
    .map_err(|error| unusable(wrap_unusable, &error.to_string()))
}

/// Whether the log names this record as what it is. The decision was made on what the log says.
fn is_anchored_as(record: &Record, anchored: &Anchored) -> bool {
    let header = record.header();
    let prev = record.prev().map(|prev| ByteBuf::from(prev.to_bytes()));
    record.header_hash() == anchored.header
        && record.device() == anchored.device
        && header.custody == anchored.custody
        && header.stream == anchored.stream
        && header.class == anchored.class
        && header.captured_at_unix_ms == anchored.captured_at
        && record.seq() == anchored.seq
        && record.size_bytes() == anchored.size
        && prev == anchored.prev
}

/// Blocks that are fetched at once.
const FETCHES: usize = 64;
/// As many records are not worth another thread.
const ALONE: usize = 32;
