use super::errors::{internal, parsed};
use crate::caller::{Caller, Callers};
use medanchor_anchor::Attestation;
use medanchor_api::{
    CreateKey, CreatedKey,
    pb::access::{CreateKeyRequest, CreateKeyResponse, custody_service_server::CustodyService},
    status,
};
use medanchor_broker::Custody;
use medanchor_dag::SigningKey;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// Makes custody keys on this node's broker.
pub(crate) struct CustodyKeys {
    pub(crate) custody: Arc<Custody>,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) callers: Callers,
}

#[tonic::async_trait]
impl CustodyService for CustodyKeys {
    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        require_operator(&self.callers, &request, "make custody keys")?;
        let CreateKey {
            custody: id,
            epoch,
            recovery_recipient,
        } = parsed(CreateKey::try_from(request.into_inner()))?;
        let custody = Arc::clone(&self.custody);
        let created =
            tokio::task::spawn_blocking(move || custody.create(id, epoch, &recovery_recipient))
                .await
                .map_err(internal)?
                .map_err(|error| {
                    tracing::warn!("a custody key was not made: {error}");
                    status(Code::InvalidArgument, "custody-key", error.to_string())
                })?;
        let attestation = Attestation::sign(&self.key, id, epoch, &created.public_key);
        let created = CreatedKey {
            public_key: created.public_key,
            attestation,
            recovery_copy: created.recovery_copy.into(),
        };
        Ok(Response::new(created.into()))
    }
}

/// That the operator of this node's own organisation asks to do this.
pub(super) fn require_operator<T>(
    callers: &Callers,
    request: &Request<T>,
    what: &str,
) -> Result<(), Status> {
    if callers.of(request.extensions()) == Caller::Operator {
        return Ok(());
    }
    let sentence = format!("only the operator of this node's own organisation may {what}");
    Err(status(Code::PermissionDenied, "not-the-operator", sentence))
}
