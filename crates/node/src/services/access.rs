use super::errors::{append_status, internal, parsed, read_status, tables_status};
use crate::{membership::Membership, remote::Remote};
use futures::{StreamExt, stream, stream::BoxStream};
use medanchor_anchor::{Read, State};
use medanchor_api::{
    Asked, Decision, Denied, Granted, MAX_MESSAGE_BYTES,
    pb::access::{
        RequestRequest, RequestResponse, access_service_client::AccessServiceClient,
        access_service_server::AccessService,
    },
    status,
};
use medanchor_broker::{Answer, Broker, ReleaseError};
use medanchor_dag::{CustodyId, Did};
use medanchor_raft::Replica;
use std::{sync::Arc, time::Duration};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue, transport::Channel};

/// Decides access requests, or hands them to a broker that may.
pub(crate) struct Access {
    pub(crate) broker: Arc<Broker>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) membership: Arc<Membership>,
}

#[tonic::async_trait]
impl AccessService for Access {
    type RequestStream = BoxStream<'static, Result<RequestResponse, Status>>;

    async fn request(
        &self,
        request: Request<RequestRequest>,
    ) -> Result<Response<Self::RequestStream>, Status> {
        let was_forwarded = request.metadata().contains_key(FORWARDED);
        let wire = request.into_inner();
        let asked = parsed(Asked::try_from(wire.clone()))?;
        // Decided here in any case: a refusal must not show by its way whether there is such a record.
        match self.broker.release(asked.signed, asked.cohort).await {
            Err(ReleaseError::NotBroker { brokers }) if !was_forwarded => {
                self.forward(&brokers, wire, no_broker()).await
            }
            Err(ReleaseError::NotHeld { brokers }) if !was_forwarded => {
                self.forward(&brokers, wire, not_held()).await
            }
            answer => {
                let decision = decision(answer.map_err(release_status)?);
                let messages = decision.into_messages().into_iter().map(Ok);
                Ok(Response::new(stream::iter(messages).boxed()))
            }
        }
    }
}

impl Access {
    /// Has the first broker that can be reached decide. When none decides, the last that said why is heard, and else
    /// `otherwise`.
    async fn forward(
        &self,
        brokers: &[Did],
        wire: RequestRequest,
        otherwise: Status,
    ) -> Result<Response<<Self as AccessService>::RequestStream>, Status> {
        let remotes = remotes(&self.replica, &self.membership, brokers)?;
        // One that hangs leaves the others their share of the time.
        let share = FORWARD_WITHIN / u32::try_from(remotes.len().max(1)).unwrap_or(u32::MAX);
        let mut last = otherwise;
        for remote in remotes {
            let mut request = Request::new(wire.clone());
            request.set_timeout(share);
            mark_forwarded(&mut request);
            match passed_on(remote.channel.clone(), request).await {
                Err(status) if another_may_answer(&status) => {
                    tracing::warn!("broker `{}` did not decide: {status}", remote.name);
                    if medanchor_api::stable_code(&status).is_some() {
                        last = status;
                    }
                }
                answer => return answer,
            }
        }
        Err(last)
    }
}

/// The answer of another node, once it has begun: up to then it may be that the node does not decide.
async fn passed_on(
    channel: Channel,
    request: Request<RequestRequest>,
) -> Result<Response<<Access as AccessService>::RequestStream>, Status> {
    let mut client = AccessServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut messages = client.request(request).await?.into_inner();
    let first = messages.message().await?;
    let first = stream::iter(first.map(Ok));
    Ok(Response::new(first.chain(messages).boxed()))
}

/// Those of these nodes that are members', as far as they are known here.
pub(super) fn remotes(
    replica: &Replica,
    membership: &Membership,
    nodes: &[Did],
) -> Result<Vec<Arc<Remote>>, Status> {
    let view = replica.view().map_err(read_status)?;
    let members = State::new(view.as_ref()).members().map_err(tables_status)?;
    let named = members.iter().filter(|member| nodes.contains(&member.node));
    let remotes = named.filter_map(|member| membership.to(member.node_id));
    Ok(remotes.collect())
}

fn decision(answer: Answer) -> Decision {
    match answer {
        Answer::Grant(grant) => Decision::Granted(Granted {
            list: grant.list,
            wraps: grant.wraps.into_iter().map(Into::into).collect(),
            left_out: grant.left_out,
            elsewhere: grant.elsewhere,
            receipt: grant.receipt,
        }),
        Answer::Denial(denial) => Decision::Denied(Denied {
            code: denial.code,
            reason: denial.reason,
            receipt: denial.receipt,
        }),
    }
}

/// Says that it is not to be passed on again.
pub(super) fn mark_forwarded<T>(request: &mut Request<T>) {
    let by_a_node = MetadataValue::from_static("1");
    request.metadata_mut().insert(FORWARDED, by_a_node);
}

/// Whether this broker did not decide: it cannot be reached, or gives no answer in time.
fn another_may_answer(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
    )
}

fn no_broker() -> Status {
    status(
        Code::Unavailable,
        "no-broker",
        "no broker of the custody key can be reached: try again later",
    )
}

fn not_held() -> Status {
    tracing::error!(
        "a custody key of which this node is a broker is not held here: `medanchor custody check` says which, and \
         `medanchor custody restore` gives it back"
    );
    status(
        Code::Unavailable,
        "key-not-held",
        "the broker that was asked has lost the custody key, and no other broker could be reached: its operator gives the key \
         back with `medanchor custody restore`",
    )
}

fn release_status(error: ReleaseError) -> Status {
    match error {
        ReleaseError::NotBroker { .. } => no_broker(),
        ReleaseError::NotHeld { .. } => not_held(),
        ReleaseError::Unsettled { stale } => {
            let problem = format!(
                "what the decision rests on keeps changing{}: ask again",
                named(&stale)
            );
            status(Code::Unavailable, "unsettled", &problem)
        }
        ReleaseError::Unusable => status(
            Code::Unavailable,
            "record-unavailable",
            "none of the records could be fetched as their devices anchored them: try again later, or ask for each by name",
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

/// The custody keys, as many as are worth reading.
fn named(custodies: &[CustodyId]) -> String {
    let names = custodies.iter().take(NAMED).map(|id| format!("`{id}`"));
    let names = names.collect::<Vec<_>>().join(", ");
    match custodies.len() {
        0 => String::new(),
        count if count <= NAMED => format!(" for the custody keys {names}"),
        count => format!(" for {count} custody keys, {names} among them"),
    }
}

/// Header of a request that a node passes on: it is not passed on again.
pub(super) const FORWARDED: &str = "medanchor-forwarded";
const FORWARD_WITHIN: Duration = Duration::from_secs(60);
const NAMED: usize = 8;

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
