use crate::{CliError, Session, session::patiently};
use anyhow::{Context, Result};
use medanchor_anchor::{Anchored, Body, Strength, Verified};
use medanchor_api::LeafName;
use medanchor_dag::{Cid, Record};

/// What the log has of a record, proved by the receipt of its leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProvedRecord {
    /// The leaf that anchored it.
    pub(crate) leaf_index: u64,
    /// Log time of that, unix ms.
    pub(crate) at_unix_ms: u64,
    /// Its durable wrap. A node's word alone when the opening was deleted.
    pub(crate) wrap: Cid,
}

impl ProvedRecord {
    /// Proves that `record` is anchored.
    ///
    /// # Errors
    ///
    /// [`medanchor_api::ClientError::NotFound`] when it is not, and otherwise when no node answers or the
    /// receipt does not verify.
    pub(crate) async fn of(session: &Session, record: &Record) -> Result<Self> {
        let (leaf, strength) = (LeafName::Record(*record.cid()), Strength::Published);
        let (_, receipt) = patiently(async || session.client.receipt(leaf, strength).await)
            .await
            .context("fetch the record's receipt")?;
        session.keep_up(&receipt.checkpoint, strength).await;
        let mut wrap = None;
        let said = session.check(&receipt, strength, |verified| {
            let agrees = match opened(verified) {
                Some(Body::Anchored(anchored)) => {
                    wrap = Some(anchored.wrap);
                    Anchored::of(record, anchored.wrap) == anchored
                }
                Some(_) => false,
                // Redacted: the leaf itself names the record.
                None => true,
            };
            agrees && verified.leaf.record == Some(*record.cid())
        })?;
        let wrap = match wrap {
            Some(wrap) => wrap,
            None => told(session, record).await?,
        };
        Ok(Self {
            leaf_index: said.leaf_index,
            at_unix_ms: said.at_unix_ms,
            wrap,
        })
    }
}

/// What the device said of a record when it had it anchored, proved by the receipt of its leaf: no block is read.
pub(crate) async fn said_of(session: &Session, record: &Cid) -> Result<Anchored> {
    let (leaf, strength) = (LeafName::Record(*record), Strength::Published);
    let (_, receipt) = patiently(async || session.client.receipt(leaf, strength).await)
        .await
        .context("fetch the record's receipt")?;
    session.keep_up(&receipt.checkpoint, strength).await;
    let mut said = None;
    session.check(&receipt, strength, |verified| {
        if let Some(Body::Anchored(anchored)) = opened(verified) {
            said = Some(anchored);
        }
        verified.leaf.record == Some(*record)
    })?;
    let said = said.filter(|anchored| anchored.record == *record);
    said.context("the log keeps no longer what its device said of it")
}

/// What the device said, where the receipt shows it.
fn opened(verified: &Verified<'_>) -> Option<Body> {
    let opening = verified.opening?;
    Some(opening.0.signed.statement.body.clone())
}

/// A node's word, which must at least agree with the record.
async fn told(session: &Session, record: &Record) -> Result<Cid> {
    let cid = record.cid();
    let entry = patiently(async || session.client.record(cid).await)
        .await
        .context("look up the record's wrap")?;
    let anchored = entry.anchored;
    if Anchored::of(record, anchored.wrap) == anchored {
        return Ok(anchored.wrap);
    }
    let problem = format!("a node says of record `{cid}` what its device never said");
    Err(CliError::NotVerified(problem).into())
}
