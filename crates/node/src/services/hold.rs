use super::errors::{holding_status, parsed};
use crate::{caller::Callers, holders::Holders};
use medanchor_api::{
    HoldCall,
    pb::block::{HoldRequest, HoldResponse, hold_service_server::HoldService},
    status,
};
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// Holds records for the other members.
pub(crate) struct Holding {
    pub(crate) holders: Arc<Holders>,
    pub(crate) callers: Callers,
}

#[tonic::async_trait]
impl HoldService for Holding {
    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        if self.callers.member(request.extensions()).is_none() {
            let sentence = "only a member's node may ask for this";
            return Err(status(Code::PermissionDenied, "not-a-member", sentence));
        }
        let call = parsed(HoldCall::try_from(request.into_inner()))?;
        let hold = self
            .holders
            .hold(&call.statements, &call.provider)
            .await
            .map_err(holding_status)?;
        Ok(Response::new(HoldResponse::from(&hold)))
    }
}
