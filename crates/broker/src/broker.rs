use crate::{
    Answer, Custody, Denial, Grant, ReleaseError,
    answer::Declined,
    grants::KeptGrant,
    judgement::{Judgement, Permit, Refusal, judge},
    rates::{Rate, Rates},
    records::{self, RewrapError},
    request::{Request, expired},
};
use medanchor_anchor::{
    Append, AppendError, Appended, Body, Outcome, Prove, Read, Receipt, Refused, Released,
    SignedStatement, State, Statement, Strength, Submission,
};
use medanchor_dag::{BlockSource, Did, Hash, SigningKey};
use medanchor_envelope::Wrap;
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
    /// An identical request gets the same grant until its time is over, also after a restart.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`]; no key has left, and the same request may be sent again.
    pub async fn release(&self, request: SignedStatement) -> Result<Answer, ReleaseError> {
        let request = match Request::check(request, &self.parts.origin, self.now()) {
            Ok(request) => Arc::new(request),
            Err(declined) => return Ok(declined.into()),
        };
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
            self.forget(&request, grant).await?;
        }
        Err(ReleaseError::Unsettled)
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
            Judgement::Permit(permit) if !self.admits(&self.releases, request, permit.org) => {
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
        let fetched = records::fetch(blocks, &permit.records).await?;
        let (request, now) = (Arc::clone(request), self.now());
        self.blocking(move |parts| {
            let until = permit.until;
            let wraps = match records::rewrap_all(&parts.custody, &request, until, &fetched) {
                Ok(wraps) => wraps,
                Err(RewrapError::Unusable { code, reason }) => {
                    return Ok(Proposal::Refuse(Refusal {
                        org: permit.org,
                        code: code.to_owned(),
                        reason,
                        basis: permit.basis,
                        decided_at: permit.decided_at,
                    }));
                }
                Err(RewrapError::NotHeld) => {
                    let brokers = permit.other_brokers;
                    return Err(ReleaseError::NotHeld { brokers });
                }
                Err(RewrapError::Custody(error)) => return Err(error.into()),
            };
            let released = parts.sign(released(&request, permit, &wraps), now)?;
            let grant = KeptGrant::new(&wraps, released, until);
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
        match self.parts.append.append(submission(&grant.released)).await {
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
        if !self.admits(&self.refusals, request, refusal.org) {
            return Ok(declined(request, too_many()));
        }
        let body = Body::Refused(Box::new(Refused {
            request: request.signed.clone(),
            code: refusal.code.clone(),
            basis: refusal.basis,
            decided_at: refusal.decided_at,
        }));
        let refused = self.parts.sign(body, self.now())?;
        let appended = self.parts.append.append(submission(&refused)).await?;
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

    /// Whether one more decision on a request of the requester's may go into the log.
    fn admits(&self, rates: &Mutex<Rates>, request: &Request, org: Did) -> bool {
        let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.admit(request.requester, org, self.now())
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

fn released(request: &Request, permit: Permit, wraps: &[Wrap]) -> Body {
    Body::Released(Box::new(Released {
        request: request.signed.clone(),
        custody: permit.custody,
        policies: permit.policies,
        wraps: wraps.iter().map(|wrap| Hash::new(wrap.hash())).collect(),
        basis: permit.basis,
        decided_at: permit.decided_at,
        valid_until: permit.until,
    }))
}

fn submission(signed: &SignedStatement) -> Submission {
    Submission {
        signed: signed.clone(),
        holds: Vec::new(),
    }
}

fn hand_out(grant: KeptGrant, receipt: Receipt) -> Grant {
    Grant {
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
