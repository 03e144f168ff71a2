//! Pin before anchor (I1): k nodes have the whole DAG of a record on disk, and say so, before the log
//! names it. Each says it of the statement that it has compared with the record, and of no other.

use crate::{clock, fatal_store::FatalStore, membership::Membership};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use medanchor_anchor::{
    Anchored, Body, Hold, Member, Read, ReadError, SignedStatement, State, TablesError,
};
use medanchor_api::{
    HoldCall, MAX_CIDS,
    pb::block::{
        HasRequest, HoldRequest, block_service_client::BlockServiceClient,
        hold_service_client::HoldServiceClient,
    },
};
use medanchor_dag::{
    BlockSource, Cid, Lease, Record, RecordError, SignatureError, SigningKey, SourceError,
    StoreError, named_chunks,
};
use medanchor_ipfs::{FetchError, Peer};
use medanchor_raft::Replica;
use std::{collections::BTreeMap, slice, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
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
            let anchored = self.anchored(signed)?;
            self.check_custody(anchored)?;
            named.push(anchored);
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
        let until = self.promise().await?;
        // Commit point of the holder: from here its word binds it, and the blocks are on its disk.
        let hold = Hold::sign(&self.key, &self.origin, statements, until);
        #[cfg(medanchor_fault)]
        medanchor_raft::fault_step("hold-signed");
        Ok(hold)
    }

    /// Has what was put or looked for under a lease stay here: until when, in log time, unix ms.
    pub(crate) async fn promise(&self) -> Result<u64, HoldingError> {
        // A word is given in log time: that of a holder whose clock is behind must not be over at once.
        let now = clock::unix_ms().max(self.log_time()?);
        let until = now.saturating_add(self.held_for_ms());
        let store = Arc::clone(&self.store);
        let promised = tokio::task::spawn_blocking(move || store.promise(until)).await;
        let promised = promised.unwrap_or_else(|error| Err(StoreError::Io(error.into())));
        promised.map_err(SourceError::from)?;
        Ok(until)
    }

    fn held_for_ms(&self) -> u64 {
        u64::try_from(self.held_for.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn log_time(&self) -> Result<u64, HoldingError> {
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

    /// Nothing is fetched that `apply` would refuse because its custody key is erased, or its owner has no room left.
    fn check_custody(&self, anchored: &Anchored) -> Result<(), HoldingError> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let Some(custody) = state.custody(&anchored.custody)? else {
            return Ok(());
        };
        if custody.erased.is_some() {
            return Err(HoldingError::Statement("erased"));
        }
        let (rules, owner) = (state.placement()?, custody.custody.owner);
        let usage = state.usage_after(&rules, &owner, anchored.size)?;
        usage.map(drop).ok_or(HoldingError::Statement("over-quota"))
    }

    /// A statement must say of its record what the record's device signed.
    pub(crate) async fn compare(&self, anchored: &Anchored) -> Result<(), HoldingError> {
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
        let asked = placed.candidates.iter().map(|member| Candidate {
            answer: self.ask_while_it_gets_on(member, share).boxed(),
            stalled: self
                .stalled(member, &placed.checked, placed.patience())
                .boxed(),
        });
        let mut holds = first_answers(asked, copies, |error| {
            let statement = placed.checked.signed.statement.hash();
            tracing::warn!(%statement, "a holder is replaced: {error:#}");
        })
        .await;
        // Until the last has all of it, the word of the first may be as good as over.
        let soon = clock::unix_ms().saturating_add(self.held_for_ms() / 2);
        for hold in &mut holds {
            let member = placed.candidates.iter().find(|c| c.node == hold.holder);
            if let Some(member) = member.filter(|_| hold.until < soon)
                && let Ok(renewed) = self.ask_while_it_gets_on(member, share).await
            {
                *hold = renewed;
            }
        }
        if holds.len() < copies {
            let held = holds.len();
            return Err(HoldingError::TooFew { held, copies });
        }
        Ok(holds)
    }

    /// A holder's word, however long it takes to fetch what it is to hold, as long as it gets on.
    async fn ask_while_it_gets_on(
        &self,
        member: &Member,
        share: &[Checked],
    ) -> anyhow::Result<Hold> {
        let hangs = async {
            match share {
                [checked] => self.stalled(member, checked, HUNG_AFTER).await,
                _ => sleep(HUNG_AFTER).await,
            }
        };
        tokio::select! {
            hold = self.ask(member, share) => hold,
            () = hangs => anyhow::bail!("`{}` does not get on", member.name),
        }
    }

    /// Resolves when a holder did not get any more of a record for this long.
    async fn stalled(&self, member: &Member, checked: &Checked, patience: Duration) {
        let (mut sample, mut held) = (None, 0);
        loop {
            sleep(patience).await;
            if sample.is_none() {
                sample = Some(self.sample(checked).await);
            }
            let now = self
                .held_by(member, sample.as_deref().unwrap_or_default())
                .await;
            if now <= held {
                return;
            }
            held = now;
        }
    }

    /// Some chunks of a large record, spread over it: how many of them another node has tells how far it is.
    async fn sample(&self, checked: &Checked) -> Vec<Cid> {
        let Body::Anchored(anchored) = &checked.signed.statement.body else {
            return Vec::new();
        };
        if anchored.size < LARGE_BYTES {
            return Vec::new();
        }
        let record = self.peer.fetch(&anchored.record).await;
        let Some(record) = record
            .ok()
            .and_then(|block| Record::from_block(&block).ok())
        else {
            return Vec::new();
        };
        let step = record.chunk_count().div_ceil(MAX_CIDS as u64);
        let source = Arc::clone(&self.peer) as Arc<dyn BlockSource>;
        let chunks = named_chunks(source, &record, 0..u64::MAX);
        let one_in_step = chunks.filter_map(async |named| {
            let (index, cid) = named.ok()?;
            (index.checked_rem(step) == Some(0)).then_some(cid)
        });
        one_in_step.collect().await
    }

    /// How many of these blocks another node has; 0 when it does not answer.
    async fn held_by(&self, member: &Member, cids: &[Cid]) -> usize {
        let Some(remote) = self
            .membership
            .to(member.node_id)
            .filter(|_| !cids.is_empty())
        else {
            return 0;
        };
        let cids = cids.iter().map(|cid| cid.to_bytes().into()).collect();
        let mut request = Request::new(HasRequest { cids });
        request.set_timeout(REPLACE_AFTER);
        let mut blocks = BlockServiceClient::new(remote.channel.clone());
        match blocks.has(request).await {
            Ok(answer) => answer
                .into_inner()
                .held
                .iter()
                .filter(|&&held| held)
                .count(),
            Err(_) => 0,
        }
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
        request.set_timeout(hold_within(share));
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

    /// Length of the payload in bytes.
    pub(crate) fn size(&self) -> u64 {
        match &self.signed.statement.body {
            Body::Anchored(anchored) => anchored.size,
            _ => 0,
        }
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

impl Placed {
    /// A record that takes its holders longer than others, for which none of those should wait.
    pub(crate) fn is_large(&self) -> bool {
        self.checked.size() >= LARGE_BYTES
    }

    /// How long a holder may get nothing before another is asked as well.
    fn patience(&self) -> Duration {
        match self.is_large() {
            true => REPLACE_LARGE_AFTER,
            false => REPLACE_AFTER,
        }
    }
}

/// Somebody who may hold a record.
struct Candidate<'a, T, E> {
    answer: BoxFuture<'a, Result<T, E>>,
    /// Resolves when it does not get on.
    stalled: BoxFuture<'a, ()>,
}

enum Step<'a, T, E> {
    Answered(Result<T, E>),
    /// It may answer still.
    Stalled(BoxFuture<'a, Result<T, E>>),
}

impl<'a, T, E> Candidate<'a, T, E> {
    async fn step(self) -> Step<'a, T, E> {
        let Self {
            mut answer,
            stalled,
        } = self;
        tokio::select! {
            biased;
            answer = &mut answer => Step::Answered(answer),
            () = stalled => Step::Stalled(answer),
        }
    }
}

/// The first `needed` answers, when that many are asked at a time. One that fails is replaced by the next; so is, as
/// far as others go, one that does not get on: a slow one may still be among the first, a hung one delays nobody
/// while others suffice.
async fn first_answers<'a, T, E>(
    mut candidates: impl Iterator<Item = Candidate<'a, T, E>>,
    needed: usize,
    failed: impl Fn(E),
) -> Vec<T>
where
    T: Send + 'a,
    E: Send + 'a,
{
    let mut asked: FuturesUnordered<BoxFuture<'a, Step<'a, T, E>>> = FuturesUnordered::new();
    asked.extend(
        candidates
            .by_ref()
            .take(needed)
            .map(|one| one.step().boxed()),
    );
    let mut answers = Vec::with_capacity(needed);
    while answers.len() < needed {
        match asked.next().await {
            Some(Step::Answered(Ok(answer))) => answers.push(answer),
            Some(Step::Answered(Err(error))) => {
                failed(error);
                asked.extend(candidates.next().map(|one| one.step().boxed()));
            }
            Some(Step::Stalled(answer)) => {
                asked.push(answer.map(Step::Answered).boxed());
                asked.extend(candidates.next().map(|one| one.step().boxed()));
            }
            None => break,
        }
    }
    answers
}

/// The longest that a call may take which nobody breaks off: at least 64 KiB/s.
fn hold_within(share: &[Checked]) -> Duration {
    let bytes: u64 = share.iter().map(Checked::size).sum();
    HUNG_AFTER + Duration::from_secs(bytes >> 16)
}

/// What a holder has signed for stays this long even if it is never anchored, without being told.
pub(crate) const HELD_FOR: Duration = Duration::from_secs(600);
/// A holder that gets nothing for this long is given up.
const HUNG_AFTER: Duration = Duration::from_secs(600);
/// A holder that takes longer may hang: another is asked as well.
const REPLACE_AFTER: Duration = Duration::from_secs(5);
/// Of a large record it must have got more in this time, at least 8 MiB.
const REPLACE_LARGE_AFTER: Duration = Duration::from_secs(60);
const LARGE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{pending, ready};
    use std::cell::Cell;

    type One = Candidate<'static, u8, ()>;

    fn one(answer: impl Future<Output = Result<u8, ()>> + Send + 'static) -> One {
        Candidate {
            answer: answer.boxed(),
            stalled: pending().boxed(),
        }
    }

    fn good(n: u8) -> One {
        one(ready(Ok(n)))
    }

    fn bad() -> One {
        one(ready(Err(())))
    }

    /// One that does not get on.
    fn stalled(answer: impl Future<Output = Result<u8, ()>> + Send + 'static) -> One {
        Candidate {
            stalled: ready(()).boxed(),
            ..one(answer)
        }
    }

    async fn holders(candidates: Vec<One>, needed: usize) -> Vec<u8> {
        first_answers(candidates.into_iter(), needed, drop).await
    }

    async fn slowly() -> Result<u8, ()> {
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
        Ok(1)
    }

    #[tokio::test]
    async fn holder_that_never_answers_delays_nobody_while_others_suffice() {
        let hung = || stalled(pending());
        assert_eq!(holders(vec![hung(), good(1), good(2)], 2).await, [1, 2]);
        let candidates = vec![hung(), hung(), good(1), bad(), good(2)];
        assert_eq!(holders(candidates, 2).await, [1, 2]);
    }

    #[tokio::test]
    async fn slow_holder_counts_when_nobody_else_is_left() {
        let candidates = vec![stalled(slowly()), good(2), bad()];
        assert_eq!(holders(candidates, 2).await, [2, 1]);
    }

    #[tokio::test]
    async fn slow_holder_that_gets_on_is_waited_for_and_nobody_else_is_asked() {
        let asked = Cell::new(0);
        let candidates = [one(slowly()), good(2), good(3)].into_iter();
        let candidates = candidates.inspect(|_| asked.set(asked.get() + 1));
        assert_eq!(first_answers(candidates, 2, drop).await, [2, 1]);
        assert_eq!(asked.get(), 2);
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
        assert_eq!(first_answers(candidates, 2, drop).await.len(), 2);
        assert_eq!(asked.get(), 2);
    }
}
