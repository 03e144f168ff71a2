use crate::{CliError, Session, session::patiently};
use anyhow::{Context, Result, bail};
use medanchor_api::NodesSource;
use medanchor_dag::{BlockSource, Cid, Did, MAX_CAR_ROOTS, Record, StreamId};

/// The records of a stream, the first one first.
#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) records: Vec<Cid>,
    /// Numbers that the stream lacks or has twice.
    pub(crate) gaps_and_forks: Option<u64>,
    /// Leaves in the log that the head was read from.
    pub(crate) tree_size: Option<u64>,
}

impl Chain {
    /// Walks a stream from its head back by `prev`, and takes the records that are `wanted`.
    pub(crate) async fn of(
        session: &Session,
        source: &NodesSource,
        device: &Did,
        stream: &StreamId,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Self> {
        let head = patiently(async || session.client.stream(device, stream).await)
            .await
            .context("look up the stream")?;
        let tree_size = Some(head.tree_size);
        let Some(head) = head.value else {
            bail!("the log has no record of stream `{stream}` of device `{device}`");
        };
        let mut records = Vec::new();
        let (mut next, mut seq, mut is_head) = (Some(head.record), head.seq, true);
        while let Some(cid) = next {
            if records.len() == MAX_CAR_ROOTS {
                return Err(CliError::Usage(TOO_MANY.to_owned()).into());
            }
            let record = fetch_record(source, &cid).await?;
            let header = record.header();
            let of_stream = header.stream == *stream && header.device == *device;
            // Its device signed both numbers, so only the device itself can break the chain.
            let in_order = match is_head {
                true => record.seq() == seq,
                false => record.seq() < seq,
            };
            if !of_stream || !in_order {
                let problem =
                    format!("record `{cid}` is not the one before number {seq} of the stream");
                return Err(CliError::NotVerified(problem).into());
            }
            if wanted(&record) {
                records.push(cid);
            }
            (next, seq, is_head) = (record.prev().copied(), record.seq(), false);
        }
        records.reverse();
        Ok(Self {
            records,
            gaps_and_forks: Some(head.gaps_and_forks),
            tree_size,
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

const TOO_MANY: &str =
    "more than 100,000 records are named: name fewer of them, and the others another time";
