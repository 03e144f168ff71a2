//! Pin before anchor (I1): k nodes have the whole DAG of a record on disk, and say so, before the log
//! names it. Each says it of the statement that it has compared with the record, and of no other.

use crate::{channels::Channels, clock};
use futures::{StreamExt, stream::FuturesUnordered};
use medanchor_anchor::{Anchored, Body, Hold, Member, SignedStatement};
use medanchor_api::{
    HoldCall,
    pb::block::{HoldRequest, hold_service_client::HoldServiceClient},
};
use medanchor_dag::{
    BlockSource, Cid, Record, RecordError, SignatureError, SigningKey, SourceError,
};
use medanchor_ipfs::{FetchError, Peer};
use std::{slice, sync::Arc, time::Duration};
use tonic::Request;

/// Holds records, and asks other nodes to.
pub(crate) struct Holders {
    pub(crate) origin: String,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) node_id: u64,
    /// This node's peer id in the private swarm, where the others fetch from.
    pub(crate) peer_id: String,
    pub(crate) peer: Arc<Peer>,
    pub(crate) channels: Channels,
}

/// Why a record is not held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldingError {
    /// The statement can never be anchored here: the code that `apply` would give.
    #[error("the statement cannot be recorded: {0}")]
    Statement(&'static str),
    /// Blocks are missing: upload them to this node first.
    #[error("blocks of the record are missing")]
    Incomplete(#[source] FetchError),
    /// What the CID names is not a record of its device.
    #[error("the record is not valid")]
    Record(#[from] RecordError),
    /// The record does not bear its device's signature.
    #[error("the record is not signed by its device")]
    Signature(#[from] SignatureError),
    /// A statement says something else of the record than its device signed.
    #[error("the statement does not agree with the record")]
    Disagrees,
    /// The local store failed.
    #[error("the record could not be read back")]
    Store(#[from] SourceError),
    /// Too few nodes could be reached that would hold it.
    #[error("only {held} of {copies} nodes hold the record")]
    TooFew { held: usize, copies: usize },
}

impl Holders {
    /// Checks the statements, fetches whatever of the DAGs they name is not here yet, compares each with
    /// its record, and signs once all of it is fsynced.
    pub(crate) async fn hold(
        &self,
        statements: &[SignedStatement],
        provider: Option<&str>,
    ) -> Result<Hold, HoldingError> {
        let mut named = Vec::with_capacity(statements.len());
        for signed in statements {
            named.push(self.anchored(signed)?);
            // Many signatures take long: the node's other tasks go on meanwhile.
            tokio::task::yield_now().await;
        }
        let roots: Vec<Cid> = named.iter().flat_map(|a| [a.record, a.wrap]).collect();
        self.peer
            .fetch_dag(&roots, provider)
            .await
            .map_err(HoldingError::Incomplete)?;
        for anchored in named {
            self.compare(anchored).await?;
        }
        // Commit point of the holder: from here its word binds it, and the blocks are on its disk.
        let until = clock::unix_ms() + HELD_FOR_MS;
        let statements = statements.iter().map(|signed| signed.statement.hash());
        Ok(Hold::sign(
            &self.key,
            &self.origin,
            statements.collect(),
            until,
        ))
    }

    /// What a statement names, if somebody says it in this network.
    fn anchored<'s>(&self, signed: &'s SignedStatement) -> Result<&'s Anchored, HoldingError> {
        let Body::Anchored(anchored) = &signed.statement.body else {
            return Err(HoldingError::Statement("malformed"));
        };
        if signed.statement.origin != self.origin {
            return Err(HoldingError::Statement("wrong-origin"));
        }
        if !signed.verifies() {
            return Err(HoldingError::Statement("bad-signature"));
        }
        Ok(anchored)
    }

    /// A statement must say of its record what the record's device signed.
    async fn compare(&self, anchored: &Anchored) -> Result<(), HoldingError> {
        let block = self.peer.fetch(&anchored.record).await?;
        let record = Record::from_block(&block)?;
        record.verify_signature()?;
        if Anchored::of(&record, anchored.wrap) == *anchored {
            Ok(())
        } else {
            Err(HoldingError::Disagrees)
        }
    }

    /// Has `copies` nodes hold what the statement names, best placed first; those that cannot are replaced
    /// by the next.
    pub(crate) async fn gather(
        &self,
        signed: &SignedStatement,
        candidates: &[Member],
        copies: usize,
    ) -> Result<Vec<Hold>, HoldingError> {
        let mut next = candidates.iter();
        let mut asked = FuturesUnordered::new();
        asked.extend(next.by_ref().take(copies).map(|m| self.ask(m, signed)));
        let mut holds = Vec::with_capacity(copies);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(hold) => holds.push(hold),
                Err(error) => {
                    tracing::warn!(statement = %signed.statement.hash(), "a holder is replaced: {error:#}");
                    asked.extend(next.next().map(|member| self.ask(member, signed)));
                }
            }
        }
        if holds.len() < copies {
            let held = holds.len();
            return Err(HoldingError::TooFew { held, copies });
        }
        Ok(holds)
    }

    async fn ask(&self, member: &Member, signed: &SignedStatement) -> anyhow::Result<Hold> {
        let Some(remote) = self.channels.to(member.node_id) else {
            anyhow::ensure!(
                member.node_id == self.node_id,
                "node `{}` has no address in the config",
                member.name
            );
            return Ok(self.hold(slice::from_ref(signed), None).await?);
        };
        let call = HoldCall {
            statements: vec![signed.clone()],
            provider: self.peer_id.clone(),
        };
        let mut request = Request::new(HoldRequest::from(call));
        request.set_timeout(HOLD_WITHIN);
        let answer = HoldServiceClient::new(remote.channel.clone())
            .hold(request)
            .await?
            .into_inner();
        let hold = Hold::try_from(answer)?;
        hold.verify(&self.origin)?;
        anyhow::ensure!(
            hold.holder == member.node && hold.statements == [signed.statement.hash()],
            "`{}` signed for something else",
            member.name
        );
        Ok(hold)
    }
}

/// What a holder has signed for stays this long even if it is never anchored.
const HELD_FOR_MS: u64 = 10 * 60 * 1000;
/// A holder fetches the whole record in this time.
const HOLD_WITHIN: Duration = Duration::from_secs(600);
