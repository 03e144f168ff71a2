use super::errors::parsed;
use crate::{caller::Callers, publisher::Publisher};
use medanchor_api::{
    pb::raft::{PublishRequest, PublishResponse, checkpoint_service_server::CheckpointService},
    status,
};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// Takes the checkpoints that the leader has published.
pub(crate) struct Followed {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) callers: Callers,
}

#[tonic::async_trait]
impl CheckpointService for Followed {
    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        if self.callers.member(request.extensions()).is_none() {
            let sentence = "only a member's node publishes checkpoints";
            return Err(status(Code::PermissionDenied, "not-a-member", sentence));
        }
        let accepted = self
            .publisher
            .accept(&request.into_inner().checkpoint)
            .await;
        parsed(accepted)?;
        Ok(Response::new(PublishResponse {}))
    }
}
