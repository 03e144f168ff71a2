use super::{
    access::{FORWARDED, mark_forwarded, remotes},
    custody::require_operator,
    errors::{internal, parsed, read_status, tables_status},
    question,
};
use crate::{caller::Callers, clock, membership::Membership};
use medanchor_anchor::{
    Body, Factor, FactorVerified, Nonce, Read, SignedStatement, State, Statement,
};
use medanchor_api::{
    ConfirmFactor, CreatedFactor, FactorClaim, factor_claim, factor_of,
    pb::access::{
        ConfirmFactorRequest, ConfirmFactorResponse, CreateFactorRequest, CreateFactorResponse,
        VerifyFactorRequest, VerifyFactorResponse, factor_service_client::FactorServiceClient,
        factor_service_server::FactorService,
    },
    status,
};
use medanchor_broker::{FactorError, Factors};
use medanchor_dag::{Did, Hash, SigningKey};
use medanchor_raft::Replica;
use std::{sync::Arc, time::Duration};
use tokio::task::spawn_blocking;
use tonic::{Code, Request, Response, Status};

/// Makes second factors, and verifies those that the log says this node verifies.
pub(crate) struct SecondFactors {
    pub(crate) origin: String,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) factors: Arc<Factors>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) callers: Callers,
}

#[tonic::async_trait]
impl FactorService for SecondFactors {
    async fn create_factor(
        &self,
        request: Request<CreateFactorRequest>,
    ) -> Result<Response<CreateFactorResponse>, Status> {
        require_operator(&self.callers, &request, "make second factors")?;
        let who = parsed(factor_of(request.get_ref()))?;
        let factor = nonce()?;
        let created = CreatedFactor {
            secret: self.factors.secret(&who, &factor).to_vec().into(),
            factor,
            node: self.key.did(),
        };
        Ok(Response::new(created.into()))
    }

    async fn confirm_factor(
        &self,
        request: Request<ConfirmFactorRequest>,
    ) -> Result<Response<ConfirmFactorResponse>, Status> {
        require_operator(&self.callers, &request, "make second factors")?;
        let ConfirmFactor { mut enrolled, code } =
            parsed(ConfirmFactor::try_from(request.into_inner()))?;
        let hash = enrolled.statement.hash();
        let Body::FactorEnrolled(body) = &enrolled.statement.body else {
            return Err(not_to_be_signed());
        };
        let (who, factor) = (body.who, body.factor);
        let is_sound = body.node == self.key.did()
            && enrolled.statement.origin == self.origin
            && enrolled.signatures.len() == 1
            && enrolled.verifies();
        if !is_sound {
            return Err(not_to_be_signed());
        }
        self.use_up(who, factor, *code.as_bytes(), hash).await?;
        let signature = self.key.sign(Statement::LABEL, hash.as_bytes());
        enrolled.signatures.push((self.key.did(), signature));
        Ok(Response::new(ConfirmFactorResponse {
            signed_statement: enrolled.to_bytes(),
        }))
    }

    async fn verify_factor(
        &self,
        request: Request<VerifyFactorRequest>,
    ) -> Result<Response<VerifyFactorResponse>, Status> {
        let was_forwarded = request.metadata().contains_key(FORWARDED);
        let wire = request.into_inner();
        let (claim, code) = parsed(factor_claim(&wire))?;
        question::check(&claim, &self.origin, clock::unix_ms())?;
        let (who, factor) = self.enrolled(&claim).await?;
        if factor.node != self.key.did() {
            return match was_forwarded {
                true => Err(cannot_reach()),
                false => self.forward(&factor.node, wire).await,
            };
        }
        let attempt = Hash::of(&wire.claim);
        let until = self
            .use_up(who, claim.factor, *code.as_bytes(), attempt)
            .await?;
        let verified = self.verified(who, &factor, until)?;
        Ok(Response::new(VerifyFactorResponse {
            signed_statement: verified.to_bytes(),
        }))
    }
}

impl SecondFactors {
    /// Who signed the claim, by the key that they were enrolled with, and their factor, as the log has it.
    async fn enrolled(&self, claim: &FactorClaim) -> Result<(Did, Factor), Status> {
        self.replica.barrier().await.map_err(read_status)?;
        let view = self.replica.view().map_err(read_status)?;
        let signer = State::new(view.as_ref()).signer(&claim.who);
        let signer = signer
            .map_err(tables_status)?
            .filter(|(_, entry)| entry.is_active());
        let factor = signer.and_then(|(who, entry)| {
            let mut factors = entry.factors.into_iter();
            let factor = factors.find(|factor| factor.factor == claim.factor);
            Some(who).zip(factor)
        });
        factor.ok_or_else(|| {
            status(
                Code::NotFound,
                "no-factor",
                "the log has no such second factor of whoever asks, or it is not active: its organisation may enrol one",
            )
        })
    }

    /// A code counts once, durably before anything is said of it. Until when it counts, unix ms.
    async fn use_up(
        &self,
        who: Did,
        factor: Nonce,
        code: [u8; 6],
        attempt: Hash,
    ) -> Result<u64, Status> {
        let (factors, now) = (Arc::clone(&self.factors), clock::unix_ms());
        let verifying = spawn_blocking(move || factors.verify(&who, &factor, &code, &attempt, now));
        verifying.await.map_err(internal)?.map_err(|error| match error {
            FactorError::WrongCode => status(
                Code::PermissionDenied,
                "wrong-code",
                "the code is wrong or was used before: wait for the next one, and compare the clocks of app and node",
            ),
            FactorError::Locked { until_unix_ms } => {
                let minutes = until_unix_ms.saturating_sub(now).div_ceil(60_000);
                let sentence =
                    format!("too many codes were wrong: try again in {minutes} minutes");
                status(Code::FailedPrecondition, "factor-locked", sentence)
            }
            error => internal(error),
        })
    }

    fn verified(&self, who: Did, factor: &Factor, until: u64) -> Result<SignedStatement, Status> {
        let body = Body::FactorVerified(FactorVerified {
            who,
            factor: factor.factor,
            since: factor.since,
        });
        let statement = Statement::new(&self.origin, body, nonce()?.into_array(), until);
        Ok(statement.sign(&[&self.key]))
    }

    /// Has the node that verifies the factor look at the code.
    async fn forward(
        &self,
        node: &Did,
        wire: VerifyFactorRequest,
    ) -> Result<Response<VerifyFactorResponse>, Status> {
        let verifiers = remotes(&self.replica, &self.membership, &[*node])?;
        let remote = verifiers.first().ok_or_else(cannot_reach)?;
        let mut request = Request::new(wire);
        request.set_timeout(FORWARD_WITHIN);
        mark_forwarded(&mut request);
        let answer = FactorServiceClient::new(remote.channel.clone())
            .verify_factor(request)
            .await;
        answer.map_err(|status| match medanchor_api::stable_code(&status) {
            Some(_) => status,
            None => {
                tracing::warn!("`{}` cannot be reached: {status}", remote.name);
                cannot_reach()
            }
        })
    }
}

fn nonce() -> Result<Nonce, Status> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(internal)?;
    Ok(Nonce::new(bytes))
}

fn not_to_be_signed() -> Status {
    status(
        Code::InvalidArgument,
        "not-this-nodes",
        "this is not a `factor-enrolled` statement for this node, with one signature, in this network",
    )
}

fn cannot_reach() -> Status {
    status(
        Code::Unavailable,
        "no-verifier",
        "the node that verifies the second factor cannot be reached: try again later",
    )
}

const FORWARD_WITHIN: Duration = Duration::from_secs(10);
