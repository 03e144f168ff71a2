//! The write path of the log, from a signed statement to its receipt.

use crate::{
    holders::{Holders, HoldingError},
    publisher::Publisher,
};
use medanchor_anchor::{
    Append, AppendError, Appended, Body, Member, Outcome, Prove, Read, ReadError, Receipt,
    SignedStatement, State, Strength, Submission, TablesError,
};
use medanchor_dag::Cid;
use medanchor_raft::Replica;
use std::{slice, sync::Arc};

/// Takes statements into the log.
pub(crate) struct Submitter {
    pub(crate) replica: Arc<Replica>,
    pub(crate) holders: Arc<Holders>,
    pub(crate) publisher: Arc<Publisher>,
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
        let holds = match &signed.statement.body {
            // Pin before anchor (I1).
            Body::Anchored(anchored) if !self.is_known(&signed)? => {
                // This node must have it whole, or nobody could fetch it from here.
                self.holders.hold(slice::from_ref(&signed), None).await?;
                let (candidates, copies) = self.placement(&anchored.record)?;
                self.holders.gather(&signed, &candidates, copies).await?
            }
            _ => Vec::new(),
        };
        // Commit point: from here the statement has a leaf that survives every crash.
        let appended = self.replica.append(Submission { signed, holds }).await?;
        let receipt = match strength {
            Some(strength) => Some(self.publisher.receipt(appended.index, strength).await?),
            None => None,
        };
        Ok((appended, receipt))
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

    /// Who is to hold a record, best placed first, and how many of them.
    fn placement(&self, record: &Cid) -> Result<(Vec<Member>, usize), SubmitError> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let copies = state.founded()?.map_or(1, |entry| entry.founded.copies);
        Ok((state.holders(record)?, usize::from(copies)))
    }
}
