use crate::{CliError, Session, anchored::said_of, bulk::Place, session::patiently};
use anyhow::{Context, Result, bail};
use medanchor_anchor::Anchored;
use medanchor_api::NodesSource;
use medanchor_dag::{BlockSource, Cid, Class, CustodyId, Did, MAX_CAR_ROOTS, Record, StreamId};
use std::collections::BTreeSet;

/// The records of a stream, the first one first.
#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) records: Vec<Cid>,
    /// Where the log has them, of those of which it is known.
    pub(crate) places: Vec<Place>,
    /// Where it cannot be followed any further back.
    pub(crate) broken: Option<Broken>,
    /// Numbers that the stream lacks or has twice.
    pub(crate) gaps_and_forks: Option<u64>,
    /// Leaves in the log that the head was read from.
    pub(crate) tree_size: Option<u64>,
}

/// A record that does not say which one was before it, and why.
pub(crate) struct Broken {
    pub(crate) record: Cid,
    pub(crate) error: anyhow::Error,
}

/// What a record says of its place in a stream, and of itself.
pub(crate) struct Link {
    device: Did,
    stream: StreamId,
    seq: u64,
    prev: Option<Cid>,
    pub(crate) custody: CustodyId,
    pub(crate) class: Class,
    /// When it was captured, unix ms.
    pub(crate) captured_at: u64,
}

impl Chain {
    /// Walks a stream from its head back by `prev`, and takes the records that are `wanted`. One that cannot be had is
    /// taken too: the log says which one was before it.
    pub(crate) async fn of(
        session: &Session,
        source: &NodesSource,
        device: &Did,
        stream: &StreamId,
        wanted: impl Fn(&Link) -> bool,
    ) -> Result<Self> {
        let head = patiently(async || session.client.stream(device, stream).await)
            .await
            .context("look up the stream")?;
        let mut keys = Keys::of(session, device).await?;
        let tree_size = Some(head.tree_size);
        let Some(head) = head.value else {
            bail!("the log has no record of stream `{stream}` of device `{device}`");
        };
        let (mut records, mut places, mut broken) = (Vec::new(), Vec::new(), None);
        let (mut next, mut seq, mut is_head) = (Some(head.record), head.seq, true);
        while let Some(cid) = next {
            if records.len() == MAX_CAR_ROOTS {
                return Err(CliError::Usage(TOO_MANY.to_owned()).into());
            }
            let link = match Link::of(session, source, &cid).await {
                Ok(link) => {
                    let of_stream =
                        link.stream == *stream && keys.have(session, &link.device).await?;
                    // Its device signed both numbers, so only the device itself can break the chain.
                    let in_order = match is_head {
                        true => link.seq == seq,
                        false => link.seq < seq,
                    };
                    match of_stream && in_order {
                        true => Ok(link),
                        false => Err(misplaced(&cid, seq)),
                    }
                }
                Err(error) => Err(error),
            };
            match link {
                Ok(link) => {
                    if wanted(&link) {
                        records.push(cid);
                        places.push(Place {
                            record: cid,
                            custody: link.custody,
                            index: None,
                        });
                    }
                    (next, seq, is_head) = (link.prev, link.seq, false);
                }
                Err(error) => {
                    let error = error.context(BROKEN);
                    broken = Some(Broken { record: cid, error });
                    next = None;
                }
            }
        }
        records.reverse();
        Ok(Self {
            records,
            places,
            broken,
            gaps_and_forks: Some(head.gaps_and_forks),
            tree_size,
        })
    }
}

/// The keys that a device has sealed with.
struct Keys {
    device: Did,
    known: BTreeSet<Did>,
}

impl Keys {
    /// Of the device that has this key, or had it.
    async fn of(session: &Session, key: &Did) -> Result<Self> {
        Ok(Self {
            device: session.identity(key).await?,
            known: BTreeSet::from([*key]),
        })
    }

    /// Whether this is one of them. That a node says so of another's lets nothing in: the record behind it names this one.
    async fn have(&mut self, session: &Session, key: &Did) -> Result<bool> {
        if self.known.contains(key) {
            return Ok(true);
        }
        let is_its = session.identity(key).await? == self.device;
        if is_its {
            self.known.insert(*key);
        }
        Ok(is_its)
    }
}

impl Link {
    /// What a record itself says, or its device in the log where the record cannot be had.
    async fn of(session: &Session, source: &NodesSource, cid: &Cid) -> Result<Self> {
        let error = match fetch_record(source, cid).await {
            Ok(record) => return Ok(Self::from(&record)),
            Err(error) => error,
        };
        let said = said_of(session, cid).await.and_then(Self::try_from);
        said.map_err(|said| error.context(format!("{said:#}")))
    }
}

impl From<&Record> for Link {
    fn from(record: &Record) -> Self {
        let header = record.header();
        Self {
            device: header.device,
            stream: header.stream,
            seq: record.seq(),
            prev: record.prev().copied(),
            custody: header.custody,
            class: header.class,
            captured_at: header.captured_at_unix_ms,
        }
    }
}

impl TryFrom<Anchored> for Link {
    type Error = anyhow::Error;

    fn try_from(anchored: Anchored) -> Result<Self> {
        let prev = anchored
            .prev
            .as_deref()
            .map(|prev| Cid::try_from(&prev[..]));
        Ok(Self {
            device: anchored.device,
            stream: anchored.stream,
            seq: anchored.seq,
            prev: prev
                .transpose()
                .context("parse the CID of the record before")?,
            custody: anchored.custody,
            class: anchored.class,
            captured_at: anchored.captured_at,
        })
    }
}

/// Fetches a record without its payload.
pub(crate) async fn fetch_record(source: &dyn BlockSource, cid: &Cid) -> Result<Record> {
    let context = || format!("fetch record `{cid}`");
    let block = source.fetch(cid).await.with_context(context)?;
    let record = Record::from_block(&block).with_context(|| format!("parse `{cid}`"))?;
    record
        .verify_signature()
        .with_context(|| format!("check the device's signature on `{cid}`"))?;
    Ok(record)
}

fn misplaced(cid: &Cid, seq: u64) -> anyhow::Error {
    let problem = format!("record `{cid}` is not the one before number {seq} of the stream");
    CliError::NotVerified(problem).into()
}

const BROKEN: &str =
    "the stream cannot be followed beyond this record: those before it are left out";
const TOO_MANY: &str =
    "more than 100,000 records are named: name fewer of them, and the others another time";
