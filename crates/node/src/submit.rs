//! The write path of the log, from a signed statement to its receipt.

use crate::{
    gatherer::{Gathered, Gatherer},
    holders::{Checked, Holders, HoldingError, Placed},
    publisher::Publisher,
    unanchored::Unanchored,
};
use anyhow::Context;
use medanchor_anchor::{
    AppendError, Appended, Body, Outcome, Prove, Read, ReadError, Receipt, SignedStatement, State,
    Statement, Strength, TablesError,
};
use medanchor_dag::Hash;
use medanchor_raft::Replica;
use std::sync::Arc;

/// Takes statements into the log.
pub(crate) struct Submitter {
    pub(crate) replica: Arc<Replica>,
    pub(crate) holders: Arc<Holders>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) gatherer: Gatherer,
    pub(crate) unanchored: Arc<Unanchored>,
}

/// Why a statement has no receipt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    /// It is not held by enough nodes, so it was not anchored.
    #[error(transparent)]
    Holding(#[from] HoldingError),
    /// It was not, or not certainly, appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The state cannot be read, or the receipt is not there in time.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state cannot be read.
    #[error(transparent)]
    Tables(#[from] TablesError),
}

impl Submitter {
    /// Records a statement that an organisation sends. `strength` is what to wait for; `None`: until it is durable on a
    /// quorum.
    pub(crate) async fn submit(
        &self,
        by: Option<Hash>,
        signed: SignedStatement,
        strength: Option<Strength>,
    ) -> Result<(Appended, Option<Receipt>), SubmitError> {
        if !signed.verifies() {
            return Err(AppendError::Rejected("bad-signature").into());
        }
        let appended = match &signed.statement.body {
            Body::Anchored(_) if !self.is_known(&signed)? => self.anchor(by, signed).await?,
            _ => self.gatherer.append(Gathered::AsItIs(signed)).await?,
        };
        let receipt = match strength {
            Some(strength) => Some(self.publisher.receipt(appended.index, strength).await?),
            None => None,
        };
        Ok((appended, receipt))
    }

    /// Says something in this node's name, until `not_after`, log time, unix ms. The leaf may say that it was refused.
    pub(crate) async fn say(&self, body: Body, not_after: u64) -> anyhow::Result<Appended> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).context("draw a nonce")?;
        let statement = Statement::new(&self.holders.origin, body, nonce, not_after);
        let signed = statement.sign(&[&self.holders.key]);
        Ok(self.gatherer.append(Gathered::AsItIs(signed)).await?)
    }

    /// Pins before it anchors (I1). It goes on when the caller gives up, who finds it further when the call is made again.
    async fn anchor(
        &self,
        by: Option<Hash>,
        signed: SignedStatement,
    ) -> Result<Appended, SubmitError> {
        let turn = self.gatherer.turn(signed.statement.hash()).await;
        if self.is_known(&signed)? {
            return self.gatherer.append(Gathered::AsItIs(signed)).await;
        }
        let (replica, holders) = (Arc::clone(&self.replica), Arc::clone(&self.holders));
        let (gatherer, unanchored) = (self.gatherer.clone(), Arc::clone(&self.unanchored));
        let anchoring = tokio::spawn(async move {
            let _turn = turn;
            // This node must have it whole, or nobody could fetch it from here.
            let checked = holders.check(signed).await?;
            let placed = place(&replica, checked)?;
            let payload_bytes = placed.checked.size();
            let appended = gatherer.append(Gathered::ToHold(placed)).await?;
            // Once for each record: this is its turn, and it was not known before.
            if appended.leaf.outcome == Outcome::Ok {
                unanchored.anchored(by, payload_bytes);
            }
            Ok(appended)
        });
        let lost = |error: tokio::task::JoinError| AppendError::OutcomeUnknown(error.into());
        anchoring.await.map_err(lost)?
    }

    fn is_known(&self, signed: &SignedStatement) -> Result<bool, SubmitError> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let Some(index) = state.statement(&signed.statement.hash())? else {
            return Ok(false);
        };
        // A refusal is judged again, and must be held then: what it lacked may be there now.
        let leaf = state.leaf(index)?;
        Ok(leaf.is_some_and(|leaf| leaf.outcome == Outcome::Ok))
    }
}

fn place(replica: &Replica, checked: Checked) -> Result<Placed, SubmitError> {
    let view = replica.view()?;
    let state = State::new(view.as_ref());
    let placing = state
        .placing()?
        .ok_or(AppendError::Rejected("not-founded"))?;
    let Body::Anchored(anchored) = &checked.signed().statement.body else {
        return Err(AppendError::Rejected("malformed").into());
    };
    let places = state.places(&placing, anchored)?;
    let candidates = places.in_order(|_| true).into_iter().cloned().collect();
    let copies = places.copies();
    Ok(Placed {
        checked,
        candidates,
        copies,
    })
}
