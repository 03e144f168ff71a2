use super::errors::{internal, parsed, read_status, tables_status};
use crate::{
    caller::{Caller, Callers},
    eraser::is_erased,
};
use medanchor_anchor::{Attestation, Read, State, StoreKey};
use medanchor_api::{
    CreateKey, CreatedKey, ImportKey, ImportedKey, checked_keys, keys_to_check,
    pb::access::{
        CheckKeysRequest, CheckKeysResponse, CreateKeyRequest, CreateKeyResponse,
        GetStoreKeyRequest, GetStoreKeyResponse, ImportKeyRequest, ImportKeyResponse,
        custody_service_server::CustodyService,
    },
    status,
};
use medanchor_broker::{Custody, CustodyError, Imported};
use medanchor_dag::{CustodyId, SigningKey};
use medanchor_raft::Replica;
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tonic::{Code, Request, Response, Status};

/// Makes custody keys on this node's broker, and keeps those that other holders have.
pub(crate) struct CustodyKeys {
    pub(crate) origin: String,
    pub(crate) custody: Arc<Custody>,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) callers: Callers,
}

/// The key of a custody that is in force, as the log has it.
struct CurrentKey {
    epoch: u32,
    key: [u8; 32],
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
        self.replica.barrier().await.map_err(read_status)?;
        // INVARIANT: a key that is in use leaves a node by no certificate alone; and another one in the place of one that was
        // lost would keep its copies out.
        if self.current(&id)?.is_some() {
            return Err(status(
                Code::AlreadyExists,
                "custody-exists",
                "the log has this custody key already: a node makes it once, and gives no copy of it any more",
            ));
        }
        let (custody, node) = (Arc::clone(&self.custody), Arc::clone(&self.key));
        let creating = spawn_blocking(move || {
            let created = custody.create(id, epoch, &recovery_recipient)?;
            let attestation = attest(&node, &custody, id, epoch, &created.public_key);
            Ok::<_, CustodyError>((created, attestation))
        });
        let created = creating.await.map_err(internal)?;
        let (created, attestation) = created.map_err(|error| {
            tracing::warn!("a custody key was not made: {error}");
            status(Code::InvalidArgument, "custody-key", error.to_string())
        })?;
        let created = CreatedKey {
            public_key: created.public_key,
            attestation,
            recovery_copy: created.recovery_copy.into(),
        };
        Ok(Response::new(created.into()))
    }

    async fn get_store_key(
        &self,
        _: Request<GetStoreKeyRequest>,
    ) -> Result<Response<GetStoreKeyResponse>, Status> {
        let custody = Arc::clone(&self.custody);
        let store_key = spawn_blocking(move || custody.store_key());
        let store_key = store_key.await.map_err(internal)?;
        let said = StoreKey::sign(&self.key, &self.origin, store_key);
        Ok(Response::new((&said).into()))
    }

    async fn import_key(
        &self,
        request: Request<ImportKeyRequest>,
    ) -> Result<Response<ImportKeyResponse>, Status> {
        require_operator(&self.callers, &request, "give it custody keys")?;
        let ImportKey {
            custody: id,
            epoch,
            copy,
        } = parsed(ImportKey::try_from(request.into_inner()))?;
        self.replica.barrier().await.map_err(read_status)?;
        let current = self.current(&id)?.ok_or_else(|| {
            status(
                Code::NotFound,
                "unknown-custody",
                "the log has no such custody key: compare the id with `medanchor custody list`",
            )
        })?;
        if current.epoch != epoch {
            let sentence = "the copy is of another epoch than the key that the log has in force";
            return Err(status(Code::FailedPrecondition, "other-epoch", sentence));
        }
        let (custody, node) = (Arc::clone(&self.custody), Arc::clone(&self.key));
        let replica = Arc::clone(&self.replica);
        let importing = spawn_blocking(move || {
            let imported = custody.import(id, epoch, &current.key, &copy, is_erased(&replica))?;
            // From here this node has it durably, and may say so.
            Ok(ImportedKey {
                attestation: attest(&node, &custody, id, epoch, &current.key),
                was_held: imported == Imported::Held,
            })
        });
        let imported = importing.await.map_err(internal)?.map_err(import_status)?;
        Ok(Response::new(imported.into()))
    }

    async fn check_keys(
        &self,
        request: Request<CheckKeysRequest>,
    ) -> Result<Response<CheckKeysResponse>, Status> {
        if !Callers::is_auditor(request.extensions()) {
            return Err(status(
                Code::PermissionDenied,
                "not-an-auditor",
                "only members' nodes, and operators and auditors of members, may ask which custody keys a node holds",
            ));
        }
        let ids = parsed(keys_to_check(request.get_ref()))?;
        let mut named = Vec::with_capacity(ids.len());
        for id in ids {
            named.push((id, self.current(&id)?));
        }
        let (custody, node) = (Arc::clone(&self.custody), Arc::clone(&self.key));
        let checking = spawn_blocking(move || {
            let checked = named.into_iter().map(|(id, current)| match current {
                Some(CurrentKey { epoch, key, .. }) if custody.holds(id, epoch, &key)? => {
                    Ok(Some(attest(&node, &custody, id, epoch, &key)))
                }
                _ => Ok(None),
            });
            checked.collect::<Result<Vec<_>, CustodyError>>()
        });
        let checked = checking.await.map_err(internal)?.map_err(internal)?;
        Ok(Response::new(checked_keys(&checked)))
    }
}

impl CustodyKeys {
    fn current(&self, custody: &CustodyId) -> Result<Option<CurrentKey>, Status> {
        let view = self.replica.view().map_err(read_status)?;
        let entry = State::new(view.as_ref()).custody(custody);
        let Some(entry) = entry.map_err(tables_status)? else {
            return Ok(None);
        };
        let key = entry.custody.key.try_into();
        Ok(Some(CurrentKey {
            epoch: entry.custody.epoch,
            key: key.map_err(|_| internal(anyhow::anyhow!("a custody key of another size")))?,
        }))
    }
}

/// The node's word that it holds the private half of `public_key`, under its epoch key.
fn attest(
    node: &SigningKey,
    custody: &Custody,
    id: CustodyId,
    epoch: u32,
    public_key: &[u8; 32],
) -> Attestation {
    Attestation::sign(node, id, epoch, public_key, custody.store_key())
}

fn import_status(error: CustodyError) -> Status {
    let (code, name) = match &error {
        CustodyError::Copy { .. } => (Code::InvalidArgument, "copy-unusable"),
        // INVARIANT (I9): what was destroyed here does not come back from a copy.
        CustodyError::Erased { .. } => {
            let sentence = "the custody key is erased: no node takes a copy of it any more";
            return status(Code::FailedPrecondition, "erased", sentence);
        }
        CustodyError::OtherKey { .. } => (Code::FailedPrecondition, "other-key-held"),
        _ => return internal(error),
    };
    tracing::warn!("a custody key was not taken: {error}");
    status(code, name, error.to_string())
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
