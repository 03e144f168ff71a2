use super::errors::{append_status, internal, parsed, read_status, tables_status};
use crate::{membership::Membership, remote::Remote};
use medanchor_anchor::{Body, Read, SignedStatement, State};
use medanchor_api::{
    Decision, Denied, Granted, access_request,
    pb::access::{
        RequestRequest, RequestResponse, access_service_client::AccessServiceClient,
        access_service_server::AccessService,
    },
    status,
};
use medanchor_broker::{Answer, Broker, ReleaseError};
use medanchor_dag::Did;
use medanchor_raft::Replica;
use std::{sync::Arc, time::Duration};
use tonic::{Code, Request, Response, Status};

/// Decides access requests, or hands them to a broker that may.
pub(crate) struct Access {
    pub(crate) broker: Arc<Broker>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) node: Did,
}

#[tonic::async_trait]
impl AccessService for Access {
    async fn request(
        &self,
        request: Request<RequestRequest>,
    ) -> Result<Response<RequestResponse>, Status> {
        let wire = request.into_inner();
        let signed = parsed(access_request(&wire))?;
        let mut brokers = self.brokers_of(&signed)?;
        if brokers.is_empty() {
            // This replica may be behind.
            self.replica.barrier().await.map_err(read_status)?;
            brokers = self.brokers_of(&signed)?;
        }
        // A request for what no broker is known for is refused here, like any other refusal.
        if brokers.is_empty() || brokers.contains(&self.node) {
            let decision = self.decide(signed).await?;
            return Ok(Response::new(decision.into()));
        }
        let remotes = self.remotes(&brokers)?;
        forward(remotes, wire).await
    }
}

impl Access {
    async fn decide(&self, signed: SignedStatement) -> Result<Decision, Status> {
        let answer = self.broker.release(signed).await.map_err(release_status)?;
        Ok(match answer {
            Answer::Grant(grant) => Decision::Granted(Granted {
                wraps: grant.wraps.into_iter().map(Into::into).collect(),
                receipt: grant.receipt,
            }),
            Answer::Denial(denial) => Decision::Denied(Denied {
                code: denial.code,
                reason: denial.reason,
                receipt: denial.receipt,
            }),
        })
    }

    /// The nodes that may release under the custody key of the first record.
    fn brokers_of(&self, signed: &SignedStatement) -> Result<Vec<Did>, Status> {
        let Body::AccessRequest(body) = &signed.statement.body else {
            let sentence = "this is not an access request";
            return Err(status(Code::InvalidArgument, "malformed", sentence));
        };
        let view = self.replica.view().map_err(read_status)?;
        let state = State::new(view.as_ref());
        let Some(cid) = body.records.first() else {
            return Ok(Vec::new());
        };
        let Some(record) = state.record(cid).map_err(tables_status)? else {
            return Ok(Vec::new());
        };
        let custody = state
            .custody(&record.anchored.custody)
            .map_err(tables_status)?;
        Ok(custody.map_or_else(Vec::new, |entry| entry.custody.brokers))
    }

    fn remotes(&self, brokers: &[Did]) -> Result<Vec<Arc<Remote>>, Status> {
        let view = self.replica.view().map_err(read_status)?;
        let members = State::new(view.as_ref()).members().map_err(tables_status)?;
        let brokers = members.iter().filter(|m| brokers.contains(&m.node));
        let remotes = brokers.filter_map(|member| self.membership.to(member.node_id));
        Ok(remotes.collect())
    }
}

/// Has the first broker that can be reached decide.
async fn forward(
    remotes: Vec<Arc<Remote>>,
    wire: RequestRequest,
) -> Result<Response<RequestResponse>, Status> {
    let mut last = status(
        Code::Unavailable,
        "no-broker",
        "no broker of the custody key can be reached: try again later",
    );
    for remote in remotes {
        let mut request = Request::new(wire.clone());
        request.set_timeout(FORWARD_WITHIN);
        let answer = AccessServiceClient::new(remote.channel.clone())
            .request(request)
            .await;
        match answer {
            Err(status) if another_may_answer(&status) => {
                tracing::warn!("broker `{}` cannot be reached: {status}", remote.name);
                if medanchor_api::stable_code(&status).is_some() {
                    last = status;
                }
            }
            answer => return answer,
        }
    }
    Err(last)
}

/// Whether this broker did not decide: it cannot be reached, or gives no answer in time.
fn another_may_answer(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
    )
}

fn release_status(error: ReleaseError) -> Status {
    match error {
        ReleaseError::NotBroker { .. } | ReleaseError::NotHeld => status(
            Code::Unavailable,
            "no-broker",
            "this node does not hold the custody key: ask another broker",
        ),
        ReleaseError::Unsettled => status(
            Code::Unavailable,
            "unsettled",
            "what the decision rests on keeps changing: ask again",
        ),
        ReleaseError::Fetch(source) => {
            tracing::warn!("a record could not be fetched: {source}");
            status(
                Code::Unavailable,
                "record-unavailable",
                "the record could not be fetched from any node: try again later",
            )
        }
        ReleaseError::Append(error) => append_status(error),
        ReleaseError::Read(error) => read_status(error),
        error => internal(error),
    }
}

const FORWARD_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broker_that_did_not_decide_is_passed_over() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled] {
            assert!(another_may_answer(&Status::new(code, "")), "{code:?}");
        }
        for code in [
            Code::InvalidArgument,
            Code::PermissionDenied,
            Code::Internal,
        ] {
            assert!(!another_may_answer(&Status::new(code, "")), "{code:?}");
        }
    }
}
