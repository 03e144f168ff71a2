//! Pin before anchor (I1): k nodes have the whole DAG of a record on disk, and say so, before the log
//! names it. Each says it of the statement that it has compared with the record, and of no other.

use crate::{clock, fatal_store::FatalStore, membership::Membership};
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use medanchor_anchor::{
    Anchored, Body, Hold, Member, Read, ReadError, SignedStatement, State, TablesError,
};
use medanchor_api::{
    HoldCall,
    pb::block::{HoldRequest, hold_service_client::HoldServiceClient},
};
use medanchor_dag::{
    BlockSource, Cid, Lease, Record, RecordError, SignatureError, SigningKey, SourceError,
    StoreError,
};
use medanchor_ipfs::{FetchError, Peer};
use medanchor_raft::Replica;
use std::{collections::BTreeMap, slice, sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Request;

/// Holds records, and asks other nodes to.
pub(crate) struct Holders {
    pub(crate) origin: String,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) node_id: u64,
    /// This node's peer id in the private swarm, where the others fetch from.
    pub(crate) peer_id: String,
    pub(crate) peer: Arc<Peer>,
    /// What `peer` keeps its blocks in.
    pub(crate) store: Arc<FatalStore>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) membership: Arc<Membership>,
    /// How long this node's word is good for what is not anchored.
    pub(crate) held_for: Duration,
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
    /// The state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state cannot be read.
    #[error(transparent)]
    Tables(#[from] TablesError),
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
        provider: &str,
    ) -> Result<Hold, HoldingError> {
        // From before any block is looked for until the promise: nothing of it is collected meanwhile.
        let _lease = self.store.lease();
        self.check_all(statements, Some(provider)).await?;
        self.sign(statements).await
    }

    /// Checks one statement as [`Holders::hold`] does, and signs nothing yet.
    pub(crate) async fn check(&self, signed: SignedStatement) -> Result<Checked, HoldingError> {
        let lease = self.store.lease();
        self.check_all(slice::from_ref(&signed), None).await?;
        Ok(Checked {
            signed,
            _lease: lease,
        })
    }

    async fn check_all(
        &self,
        statements: &[SignedStatement],
        provider: Option<&str>,
    ) -> Result<(), HoldingError> {
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
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("blocks-stored");
        Ok(())
    }

    /// This node's word that it holds what the statements name, which were checked.
    async fn sign<'s>(
        &self,
        checked: impl IntoIterator<Item = &'s SignedStatement>,
    ) -> Result<Hold, HoldingError> {
        let statements = checked.into_iter().map(|signed| signed.statement.hash());
        let statements = statements.collect();
        // A word is given in log time: that of a holder whose clock is behind must not be over at once.
        let now = clock::unix_ms().max(self.log_time()?);
        let held_for = u64::try_from(self.held_for.as_millis()).unwrap_or(u64::MAX);
        let until = now.saturating_add(held_for);
        let store = Arc::clone(&self.store);
        let promised = tokio::task::spawn_blocking(move || store.promise(until)).await;
        let promised = promised.unwrap_or_else(|error| Err(StoreError::Io(error.into())));
        promised.map_err(SourceError::from)?;
        // Commit point of the holder: from here its word binds it, and the blocks are on its disk.
        let hold = Hold::sign(&self.key, &self.origin, statements, until);
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("hold-signed");
        Ok(hold)
    }

    fn log_time(&self) -> Result<u64, HoldingError> {
        let view = self.replica.view()?;
        Ok(State::new(view.as_ref()).log_time()?)
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

    /// Has nodes hold what each statement names, best placed first: each node signs once for all that it is
    /// to hold. If one cannot, its statements are in too few holds: gather each of them alone.
    pub(crate) async fn gather_group<'p>(
        &self,
        group: impl Iterator<Item = &'p Placed>,
    ) -> Vec<Hold> {
        let mut shares: BTreeMap<u64, (&Member, Vec<Checked>)> = BTreeMap::new();
        for Placed {
            checked,
            candidates,
            copies,
        } in group
        {
            for member in candidates.iter().take(*copies) {
                let share = shares.entry(member.node_id);
                let (_, statements) = share.or_insert_with(|| (member, Vec::new()));
                statements.push(checked.clone());
            }
        }
        let asked = shares.values().map(|(member, share)| async {
            let answer = timeout(REPLACE_AFTER, self.ask(member, share)).await;
            match answer {
                Ok(Ok(hold)) => return Some(hold),
                Ok(Err(error)) => {
                    tracing::warn!("`{}` does not hold a group: {error:#}", member.name);
                }
                // Alone, each of its statements may wait longer, and ask others meanwhile.
                Err(_) => tracing::info!("`{}` takes long to hold a group", member.name),
            }
            None
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Has nodes hold what one statement names; those that cannot are replaced by the next.
    pub(crate) async fn gather(&self, placed: &Placed) -> Result<Vec<Hold>, HoldingError> {
        let copies = placed.copies;
        let share = slice::from_ref(&placed.checked);
        let asked = placed
            .candidates
            .iter()
            .map(|member| self.ask(member, share));
        let holds = first_answers(asked, copies, REPLACE_AFTER, |error| {
            let statement = placed.checked.signed.statement.hash();
            tracing::warn!(%statement, "a holder is replaced: {error:#}");
        })
        .await;
        if holds.len() < copies {
            let held = holds.len();
            return Err(HoldingError::TooFew { held, copies });
        }
        Ok(holds)
    }

    async fn ask(&self, member: &Member, share: &[Checked]) -> anyhow::Result<Hold> {
        let Some(remote) = self.membership.to(member.node_id) else {
            anyhow::ensure!(
                member.node_id == self.node_id,
                "node `{}` has no known address",
                member.name
            );
            return Ok(self.sign(share.iter().map(Checked::signed)).await?);
        };
        let call = HoldCall {
            statements: share.iter().map(|checked| checked.signed.clone()).collect(),
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
        let hashes = share.iter().map(|checked| checked.signed.statement.hash());
        anyhow::ensure!(
            hold.holder == member.node && hold.statements.iter().copied().eq(hashes),
            "`{}` signed for something else",
            member.name
        );
        Ok(hold)
    }
}

/// A statement whose record this node has on disk, whole, and has compared with it. It stays there meanwhile.
#[derive(Clone)]
pub(crate) struct Checked {
    signed: SignedStatement,
    _lease: Lease,
}

impl Checked {
    pub(crate) fn signed(&self) -> &SignedStatement {
        &self.signed
    }

    pub(crate) fn into_signed(self) -> SignedStatement {
        self.signed
    }
}

/// A checked statement, and where what it names is to be held.
pub(crate) struct Placed {
    pub(crate) checked: Checked,
    /// Who may hold it, best placed first.
    pub(crate) candidates: Vec<Member>,
    /// How many of them.
    pub(crate) copies: usize,
}

/// The first `needed` answers, when that many are asked at a time. One that fails is replaced by the next; so
/// is, as far as others go, one that takes longer than `replace_after`: a slow one may still be among the
/// first, a hung one delays nobody while others suffice.
async fn first_answers<T, E>(
    mut candidates: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
    needed: usize,
    replace_after: Duration,
    failed: impl Fn(E),
) -> Vec<T> {
    let mut asked = FuturesUnordered::new();
    asked.extend(candidates.by_ref().take(needed));
    let mut answers = Vec::with_capacity(needed);
    while answers.len() < needed {
        match timeout(replace_after, asked.next()).await {
            Ok(Some(Ok(answer))) => answers.push(answer),
            Ok(Some(Err(error))) => {
                failed(error);
                asked.extend(candidates.next());
            }
            Ok(None) => break,
            Err(_) => asked.extend(candidates.next()),
        }
    }
    answers
}

/// What a holder has signed for stays this long even if it is never anchored, without being told.
pub(crate) const HELD_FOR: Duration = Duration::from_secs(600);
/// A holder fetches the whole record in this time.
const HOLD_WITHIN: Duration = Duration::from_secs(600);
/// A holder that takes longer may hang: another is asked as well.
const REPLACE_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{BoxFuture, FutureExt, pending, ready};
    use std::cell::Cell;

    const SOON: Duration = Duration::from_millis(1);

    type Answer = BoxFuture<'static, Result<u8, ()>>;

    fn good(n: u8) -> Answer {
        ready(Ok(n)).boxed()
    }

    fn bad() -> Answer {
        ready(Err(())).boxed()
    }

    async fn holders(candidates: Vec<Answer>, needed: usize) -> Vec<u8> {
        first_answers(candidates.into_iter(), needed, SOON, drop).await
    }

    #[tokio::test]
    async fn holder_that_never_answers_delays_nobody_while_others_suffice() {
        let hung = || pending().boxed();
        assert_eq!(holders(vec![hung(), good(1), good(2)], 2).await, [1, 2]);
        let candidates = vec![hung(), hung(), good(1), bad(), good(2)];
        assert_eq!(holders(candidates, 2).await, [1, 2]);
    }

    #[tokio::test]
    async fn slow_holder_counts_when_nobody_else_is_left() {
        let slow = async {
            tokio::time::sleep(3 * SOON).await;
            Ok(1)
        };
        assert_eq!(holders(vec![slow.boxed(), good(2), bad()], 2).await, [2, 1]);
    }

    #[tokio::test]
    async fn failed_holders_are_replaced_and_no_more_are_asked_than_needed() {
        assert_eq!(
            holders(vec![bad(), good(1), bad(), good(2)], 2).await,
            [1, 2]
        );
        assert_eq!(holders(vec![bad(), good(1), bad()], 2).await, [1]);
        let asked = Cell::new(0);
        let candidates = (0..4).map(|n| {
            asked.set(asked.get() + 1);
            good(n)
        });
        assert_eq!(
            first_answers(candidates, 2, HOLD_WITHIN, drop).await.len(),
            2
        );
        assert_eq!(asked.get(), 2);
    }
}
