//! The C2SP tlog-witness endpoints: `POST /add-checkpoint`, and `GET /<log>/checkpoint` to monitor it.

use crate::{cosigner::CosignError, witness::Witness};
use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::Response,
    routing::{get, post},
};
use medanchor_anchor::{AddCheckpoint, AddCheckpointError};
use std::sync::Arc;

/// Serves the endpoints for `witness`.
pub(crate) fn routes(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/{log}/checkpoint", get(checkpoint))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(witness)
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: String) -> Response {
    let signed = match body.parse::<AddCheckpoint>() {
        Ok(request) => witness.add_checkpoint(request).await,
        Err(error) => Err(error.into()),
    };
    match signed {
        Ok(signature) => answer(StatusCode::OK, TEXT, format!("{signature}\n")),
        Err(CosignError::Refused(AddCheckpointError::Conflict(size))) => answer(
            StatusCode::CONFLICT,
            AddCheckpoint::SIZE_CONTENT_TYPE,
            format!("{size}\n"),
        ),
        Err(CosignError::Refused(error)) => {
            tracing::warn!("a checkpoint was not co-signed: {error}");
            let status = StatusCode::from_u16(error.status());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            answer(status, TEXT, format!("{error}\n"))
        }
        Err(error @ CosignError::NotEndorsed { .. }) => {
            tracing::warn!("a checkpoint was not co-signed: {error}");
            answer(StatusCode::FORBIDDEN, TEXT, format!("{error}\n"))
        }
        Err(CosignError::Stopped(alarm)) => {
            tracing::warn!("a checkpoint was not co-signed: alarm `{alarm}` is not acknowledged");
            let sentence =
                "this co-signer does not sign until its operator has looked into an alarm\n";
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, sentence.to_owned())
        }
        Err(CosignError::Failed(error)) => {
            tracing::warn!("a checkpoint could not be co-signed: {error}");
            let sentence = "this co-signer cannot sign now: try again\n";
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, sentence.to_owned())
        }
    }
}

async fn checkpoint(State(witness): State<Arc<Witness>>, uri: Uri) -> Response {
    match witness.last_note(uri.path()) {
        Some(note) => answer(StatusCode::OK, TEXT, note),
        None => answer(
            StatusCode::NOT_FOUND,
            TEXT,
            "no checkpoint of such a log was co-signed\n".to_owned(),
        ),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = axum::http::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

const MAX_BODY_BYTES: usize = AddCheckpoint::MAX_BYTES;
const TEXT: &str = "text/plain; charset=utf-8";
