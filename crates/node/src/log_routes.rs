//! What a node serves to everybody over HTTPS: its log (C2SP tlog-tiles), and its co-signatures
//! (tlog-witness) to whoever brings a log's signed checkpoint. All routes of that port are put together here.

use crate::{tile_routes, tile_routes::TileServer, witness::Witness, witness_routes};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use tonic::service::Routes;

pub(crate) fn routes(tiles: TileServer, witness: Arc<Witness>) -> Routes {
    let routes = tile_routes::routes(tiles).merge(witness_routes::routes(witness));
    bounded(routes, Requests::default()).into()
}

/// Requests that are answered at one time, and how long one may take, its body included.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    under_way: Arc<Semaphore>,
    within: Duration,
}

impl Requests {
    fn new(at_once: usize, within: Duration) -> Self {
        Self {
            under_way: Arc::new(Semaphore::new(at_once)),
            within,
        }
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self::new(MAX_REQUESTS, ANSWER_WITHIN)
    }
}

/// The same routes, which send those away that are too many or too slow.
pub(crate) fn bounded(routes: Router, requests: Requests) -> Router {
    routes.layer(from_fn_with_state(requests, bound))
}

async fn bound(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let Ok(_permit) = requests.under_way.try_acquire() else {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests: try again\n",
        );
    };
    match timeout(requests.within, next.run(request)).await {
        Ok(response) => response,
        Err(_) => refusal(StatusCode::REQUEST_TIMEOUT, "the request took too long\n"),
    }
}

fn refusal(status: StatusCode, why: &'static str) -> Response {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let soon = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, soon);
    }
    response
}

const MAX_REQUESTS: usize = 256;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use futures::FutureExt;
    use tonic::codegen::Service;

    fn router(requests: Requests) -> Router {
        let routes = Router::new()
            .route("/", get(async || "here"))
            .route("/never", get(std::future::pending::<String>))
            .route("/take", post(async |_: String| "taken"));
        bounded(routes, requests)
    }

    fn request(path: &str, body: Body) -> Request {
        let method = if path == "/take" { "POST" } else { "GET" };
        let request = Request::builder().method(method).uri(path);
        request.body(body).unwrap()
    }

    #[tokio::test]
    async fn more_requests_than_may_be_are_sent_away_and_not_kept_waiting() {
        let mut router = router(Requests::new(2, Duration::MAX));
        let mut held: Vec<_> = (0..2)
            .map(|_| Box::pin(router.call(request("/never", Body::empty()))))
            .collect();
        for held in &mut held {
            assert!(held.now_or_never().is_none());
        }
        let refused = router.call(request("/", Body::empty())).await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()[RETRY_AFTER], "1");
        drop(held);
        let answer = router.call(request("/", Body::empty())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn request_whose_body_never_ends_is_cut() {
        let mut router = router(Requests::new(2, Duration::from_millis(50)));
        let endless = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        let request = request("/take", Body::from_stream(endless));
        let answer = router.call(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
