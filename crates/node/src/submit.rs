//! The write path of the log, from a signed statement to its receipt.

use crate::{
    gatherer::{Gathered, Gatherer},
    holders::{Checked, Holders, HoldingError, Placed},
    publisher::Publisher,
};
use medanchor_anchor::{
    AppendError, Appended, Body, Outcome, Prove, Read, ReadError, Receipt, SignedStatement, State,
    Strength, TablesError,
};
use medanchor_dag::Cid;
use medanchor_raft::Replica;
use std::sync::Arc;

/// Takes statements into the log.
pub(crate) struct Submitter {
    pub(crate) replica: Arc<Replica>,
    pub(crate) holders: Arc<Holders>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) gatherer: Gatherer,
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
    /// Records a statement. `strength` is what to wait for; `None`: until it is durable on a quorum.
    pub(crate) async fn submit(
        &self,
        signed: SignedStatement,
        strength: Option<Strength>,
    ) -> Result<(Appended, Option<Receipt>), SubmitError> {
        if !signed.verifies() {
            return Err(AppendError::Rejected("bad-signature").into());
        }
        let submission = match &signed.statement.body {
            // Pin before anchor (I1). This node must have it whole, or nobody could fetch it from here.
            Body::Anchored(anchored) if !self.is_known(&signed)? => {
                let record = anchored.record;
                let checked = self.holders.check(signed).await?;
                Gathered::ToHold(self.place(checked, &record)?)
            }
            _ => Gathered::AsItIs(signed),
        };
        let appended = self.gatherer.append(submission).await?;
        let receipt = match strength {
            Some(strength) => Some(self.publisher.receipt(appended.index, strength).await?),
            None => None,
        };
        Ok((appended, receipt))
    }

    fn place(&self, checked: Checked, record: &Cid) -> Result<Placed, SubmitError> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let copies = state.founded()?.map_or(1, |entry| entry.founded.copies);
        Ok(Placed {
            checked,
            candidates: state.holders(record)?,
            copies: usize::from(copies),
        })
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
