use crate::{
    Answer, Custody, Denial, Grant, ReleaseError,
    answer::Declined,
    grants::KeptGrant,
    judgement::{Judgement, Permit, Refusal, judge},
    rates::{Rate, Rates},
    records::{self, RewrapError, Sealed},
    request::{Request, expired},
};
use medanchor_anchor::{
    AccessRequest, Append, AppendError, Appended, Basis, Body, Outcome, Prove, Read, Receipt,
    Refused, Released, SignedStatement, State, Statement, Strength, Submission,
};
use medanchor_dag::{BlockSource, CustodyId, Did, SigningKey};
use medanchor_policy::PolicySets;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Releases content keys: only on a decision that the log has recorded before (I2).
pub struct Broker {
    parts: BrokerParts,
    releases: Mutex<Rates>,
    refusals: Mutex<Rates>,
}

/// What a broker works with.
#[derive(Clone)]
pub struct BrokerParts {
    /// The network's name.
    pub origin: String,
    /// The node's signing key.
    pub key: Arc<SigningKey>,
    /// The custody keys held here.
    pub custody: Arc<Custody>,
    /// Parses the policy sets that the log puts in force.
    pub policies: Arc<PolicySets>,
    /// Puts statements into the log.
    pub append: Arc<dyn Append>,
    /// Reads the state.
    pub read: Arc<dyn Read>,
    /// Proves leaves.
    pub prove: Arc<dyn Prove>,
    /// Where records and wraps come from.
    pub blocks: Arc<dyn BlockSource>,
    /// The time.
    pub clock: Clock,
    /// How many releases go into the log.
    pub releases: Rate,
}

/// The time, unix ms.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What is to become of a request.
enum Proposal {
    /// Its grant is to be anchored, or was.
    Grant(Box<KeptGrant>),
    /// It is to be refused, with a leaf.
    Refuse(Refusal),
    /// It is refused without a leaf.
    Decline(Declined),
}

impl Broker {
    /// A broker over these parts.
    pub fn new(parts: BrokerParts) -> Self {
        Self {
            releases: Mutex::new(Rates::new(parts.releases)),
            parts,
            refusals: Mutex::new(Rates::new(Rate::REFUSALS)),
        }
    }

    /// Has an access request decided, and releases the keys that it may have.
    ///
    /// `cohort` are the custody keys whose records it selects, sorted, none when it names them. An identical request gets the same
    /// grant until its time is over, also after a restart.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`]; no key has left, and the same request may be sent again.
    pub async fn release(
        &self,
        request: SignedStatement,
        cohort: Vec<CustodyId>,
    ) -> Result<Answer, ReleaseError> {
        let request = match Request::check(request, cohort, &self.parts.origin, self.now()) {
            Ok(request) => Arc::new(request),
            Err(declined) => return Ok(declined.into()),
        };
        let mut stale = Vec::new();
        for _ in 0..ATTEMPTS {
            let grant = match self.propose(&request).await? {
                Proposal::Grant(grant) => *grant,
                Proposal::Refuse(refusal) => return self.refuse(&request, refusal).await,
                Proposal::Decline(reason) => return Ok(declined(&request, reason)),
            };
            #[cfg(medanchor_fault)]
            if crate::fault::skips_log() {
                let receipt = self.parts.prove.receipt(0, Strength::Witnessed).await?;
                return Ok(Answer::Grant(hand_out(grant, receipt)));
            }
            // Commit point (I2, anchor before release): until a leaf says ok, the wraps are in this
            // process and, sealed to the requester, in its store, and nowhere else. A failure here is
            // answered with an error; the retry finds the same grant and appends the same statement.
            let released = self.anchor(&request, &grant).await?;
            if released.leaf.outcome == Outcome::Ok {
                let witnessed = Strength::Witnessed;
                let receipt = self.parts.prove.receipt(released.index, witnessed).await?;
                return Ok(Answer::Grant(hand_out(grant, receipt)));
            }
            // Something that the decision rested on has changed (I5): decide again.
            stale = self.stale(&grant).await?;
            self.forget(&request, grant).await?;
        }
        Err(ReleaseError::Unsettled { stale })
    }

    /// The grant that was made on an identical request; else has it decided on the newest state and, if
    /// that permits it, re-wraps the keys. They are not released by that.
    async fn propose(&self, request: &Arc<Request>) -> Result<Proposal, ReleaseError> {
        if request.not_after < self.now() {
            return Ok(Proposal::Decline(expired()));
        }
        if let Some(grant) = self.kept(request).await? {
            return Ok(Proposal::Grant(Box::new(grant)));
        }
        match self.judge(request).await? {
            Judgement::Permit(permit) if !self.admits_release(request, &permit) => {
                Ok(Proposal::Decline(too_many()))
            }
            Judgement::Permit(permit) => self.prepare(request, permit).await,
            Judgement::Refuse(refusal) => Ok(Proposal::Refuse(refusal)),
            Judgement::Decline(declined) => Ok(Proposal::Decline(declined)),
        }
    }

    async fn kept(&self, request: &Arc<Request>) -> Result<Option<KeptGrant>, ReleaseError> {
        let (hash, now) = (request.hash, self.now());
        self.blocking(move |parts| Ok(parts.custody.grants().find(&hash, now)?))
            .await
    }

    async fn forget(&self, request: &Arc<Request>, grant: KeptGrant) -> Result<(), ReleaseError> {
        let hash = request.hash;
        self.blocking(move |parts| Ok(parts.custody.grants().forget(&hash, &grant)?))
            .await
    }

    /// The custody keys of a grant of which something has changed.
    async fn stale(&self, grant: &KeptGrant) -> Result<Vec<CustodyId>, ReleaseError> {
        let list = grant.list.clone();
        self.blocking(move |parts| {
            let view = parts.read.view()?;
            Ok(State::new(&*view).stale(&list)?)
        })
        .await
    }

    /// Decides on the newest state.
    async fn judge(&self, request: &Arc<Request>) -> Result<Judgement, ReleaseError> {
        self.parts.read.barrier().await?;
        let (request, now) = (Arc::clone(request), self.now());
        self.blocking(move |parts| {
            let view = parts.read.view()?;
            let (state, broker) = (State::new(&*view), parts.key.did());
            let judgement = judge(&parts.policies, &broker, state, &request, now)?;
            #[cfg(medanchor_fault)]
            let judgement = crate::fault::judged(judgement, state, &request)?;
            Ok(judgement)
        })
        .await
    }

    /// Re-wraps the records' keys for the requester, and keeps the grant durably.
    async fn prepare(
        &self,
        request: &Arc<Request>,
        permit: Permit,
    ) -> Result<Proposal, ReleaseError> {
        let blocks = self.parts.blocks.as_ref();
        let fetched = records::fetch(blocks, &permit.permitted).await;
        let (request, now) = (Arc::clone(request), self.now());
        self.blocking(move |parts| {
            let sealed = match records::seal(&parts.custody, &request, permit.permitted, fetched) {
                Ok(sealed) => sealed.without(permit.elsewhere),
                Err(RewrapError::Unusable { code, reason }) => {
                    return Ok(Proposal::Refuse(Refusal {
                        requester: permit.requester,
                        org: permit.org,
                        code: code.to_owned(),
                        reason,
                        basis: permit.refusal_basis,
                        decided_at: permit.decided_at,
                    }));
                }
                Err(RewrapError::NotHeld) => {
                    let brokers = permit.other_brokers;
                    return Err(ReleaseError::NotHeld { brokers });
                }
                Err(RewrapError::Fetch(error)) => return Err(error.into()),
                Err(RewrapError::Custody(error)) => return Err(error.into()),
            };
            if sealed.wraps.is_empty() {
                let brokers = permit.other_brokers;
                return Err(nothing_sealed(&sealed, brokers));
            }
            let until = sealed.permit.until();
            let body = released(&request, permit.basis, permit.decided_at, &sealed);
            let released = parts.sign(body, now)?;
            let grant = KeptGrant::new(sealed, released, until);
            // An identical request may be decided at the same time: the first grant is everyone's.
            let kept = parts.custody.grants().keep(&request.hash, grant, now)?;
            Ok(Proposal::Grant(Box::new(kept)))
        })
        .await
    }

    /// The leaf that says whether the grant may leave: that of its `released` statement.
    async fn anchor(
        &self,
        request: &Arc<Request>,
        grant: &KeptGrant,
    ) -> Result<Appended, ReleaseError> {
        if let Some(recorded) = self.recorded(grant).await? {
            return Ok(recorded);
        }
        let submission = Submission {
            signed: grant.released.clone(),
            holds: Vec::new(),
            list: Some(grant.list.clone()),
        };
        match self.parts.append.append(submission).await {
            Err(AppendError::Rejected(code)) => {
                // The log will never take it: the next request starts afresh.
                self.forget(request, grant.clone()).await?;
                Err(AppendError::Rejected(code).into())
            }
            appended => Ok(appended?),
        }
    }

    /// The leaf of a grant that was anchored before. An identical request costs the log nothing.
    async fn recorded(&self, grant: &KeptGrant) -> Result<Option<Appended>, ReleaseError> {
        let hash = grant.released.statement.hash();
        self.blocking(move |parts| {
            let view = parts.read.view()?;
            let state = State::new(&*view);
            let Some(index) = state.statement(&hash)? else {
                return Ok(None);
            };
            Ok(state.leaf(index)?.map(|leaf| Appended { index, leaf }))
        })
        .await
    }

    /// Records a refusal, unless the requester or its organisation has had too many.
    async fn refuse(&self, request: &Request, refusal: Refusal) -> Result<Answer, ReleaseError> {
        if !self.admits(&self.refusals, refusal.requester, refusal.org, 1) {
            return Ok(declined(request, too_many()));
        }
        let body = Body::Refused(Box::new(Refused {
            request: request.signed.clone(),
            code: refusal.code.clone(),
            basis: refusal.basis,
            decided_at: refusal.decided_at,
        }));
        let refused = self.parts.sign(body, self.now())?;
        let submission = Submission {
            signed: refused,
            holds: Vec::new(),
            list: None,
        };
        let appended = self.parts.append.append(submission).await?;
        Ok(Answer::Denial(Denial {
            code: refusal.code,
            reason: refusal.reason,
            receipt: self.refusal_receipt(&appended).await,
        }))
    }

    /// A denial is an answer also while it cannot be proved.
    async fn refusal_receipt(&self, refused: &Appended) -> Option<Receipt> {
        if refused.leaf.outcome != Outcome::Ok {
            let outcome = refused.leaf.outcome;
            tracing::warn!(leaf_index = refused.index, %outcome, "refusal did not take effect");
            return None;
        }
        let receipt = self.parts.prove.receipt(refused.index, Strength::Witnessed);
        match receipt.await {
            Ok(receipt) => Some(receipt),
            Err(error) => {
                tracing::warn!(leaf_index = refused.index, %error, "refusal is not proved");
                None
            }
        }
    }

    /// A release of many records, or for many custody keys, counts as so many of the largest that names them.
    fn admits_release(&self, request: &Request, permit: &Permit) -> bool {
        let records = permit.permitted.rows().count();
        let most = records.max(request.cohort.len());
        let count = most.div_ceil(AccessRequest::MAX_RECORDS);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.admits(&self.releases, permit.requester, permit.org, count)
    }

    /// Whether so many more decisions on requests of the requester's may go into the log.
    fn admits(&self, rates: &Mutex<Rates>, requester: Did, org: Did, count: u64) -> bool {
        let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.admit(requester, org, count, self.now())
    }

    fn now(&self) -> u64 {
        (self.parts.clock)()
    }

    /// Runs what may take more than a millisecond on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&BrokerParts) -> Result<T, ReleaseError> + Send + 'static,
    ) -> Result<T, ReleaseError> {
        let parts = self.parts.clone();
        tokio::task::spawn_blocking(move || run(&parts)).await?
    }
}

impl BrokerParts {
    /// Signs what this node says at `now`, unix ms.
    fn sign(&self, body: Body, now: u64) -> Result<SignedStatement, getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let not_after = now.saturating_add(STATEMENT_VALIDITY_MS);
        let statement = Statement::new(&self.origin, body, nonce, not_after);
        Ok(statement.sign(&[&self.key]))
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.parts, f)
    }
}

impl fmt::Debug for BrokerParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("origin", &self.origin)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

fn too_many() -> Declined {
    Declined::new(
        "too-many-requests",
        "too many requests of the requester, or of its organisation, were decided lately: wait before the next",
    )
}

/// What has no leaf is an event of this node's alone, so that nobody fills the log.
fn declined(request: &Request, declined: Declined) -> Answer {
    let (requester, code) = (request.requester, declined.code);
    tracing::warn!(%requester, code, "access request is declined without a leaf");
    declined.into()
}

fn released(request: &Request, basis: Basis, decided_at: u64, sealed: &Sealed) -> Body {
    Body::Released(Box::new(Released {
        request: request.signed.clone(),
        policies: sealed.permit.policies(),
        list: sealed.list.head(),
        basis,
        decided_at,
        valid_until: sealed.permit.until(),
    }))
}

/// Of all that was selected no key could be sealed: the custody keys are lost here, or the records are not to be had.
fn nothing_sealed(sealed: &Sealed, brokers: Vec<Did>) -> ReleaseError {
    match sealed.elsewhere.is_empty() {
        true => ReleaseError::Unusable,
        false => ReleaseError::NotHeld { brokers },
    }
}

fn hand_out(grant: KeptGrant, receipt: Receipt) -> Grant {
    Grant {
        list: grant.list,
        left_out: grant.left_out.into_iter().collect(),
        elsewhere: grant.elsewhere,
        wraps: grant
            .wraps
            .into_iter()
            .map(|wrap| wrap.into_vec())
            .collect(),
        receipt,
    }
}

/// How often a request is decided again before it is given back.
const ATTEMPTS: usize = 4;
/// How long a release or refusal may wait to be recorded.
const STATEMENT_VALIDITY_MS: u64 = 60 * 60 * 1000;
