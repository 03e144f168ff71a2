use crate::compare::PAGE;
use crate::error::blocking;
use crate::replica::Replica;
use crate::server::{Caller, calling_member};
use medanchor_api::pb::raft::{self as pb, head_service_server::HeadService};
use std::fmt;
use tonic::{Request, Response, Status};

/// Shows the other nodes which heads a replica keeps, so that they can compare.
pub struct HeadServer {
    replica: Replica,
    caller: Caller,
}

/// The generated server around a [`HeadServer`].
pub type HeadServiceServer = pb::head_service_server::HeadServiceServer<HeadServer>;

impl HeadServer {
    /// A server for `replica`. `caller` is asked about every call.
    pub fn new(replica: Replica, caller: Caller) -> Self {
        Self { replica, caller }
    }

    /// The tonic service.
    pub fn into_service(self) -> HeadServiceServer {
        HeadServiceServer::new(self)
    }
}

impl fmt::Debug for HeadServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeadServer")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl HeadService for HeadServer {
    async fn list_heads(
        &self,
        request: Request<pb::ListHeadsRequest>,
    ) -> Result<Response<pb::ListHeadsResponse>, Status> {
        calling_member(&self.replica, &self.caller, request.extensions())?;
        let from = request.get_ref().from_index;
        let admission = self.replica.admission().clone();
        let heads = blocking(move || {
            Ok(pb::ListHeadsResponse {
                heads: to_vecs(&admission.heads_from(from, PAGE)?),
                refused: to_vecs(&admission.refused_heads()?),
            })
        });
        heads.await.map(Response::new).map_err(|error| {
            tracing::error!(%error, "heads cannot be read");
            Status::unavailable("heads cannot be read")
        })
    }
}

fn to_vecs(heads: &[bytes::Bytes]) -> Vec<Vec<u8>> {
    heads.iter().map(|head| head.to_vec()).collect()
}
