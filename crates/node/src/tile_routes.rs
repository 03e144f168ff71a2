//! The log over HTTPS (C2SP tlog-tiles): `/checkpoint`, `/tile/<L>/<N>`, `/tile/entries/<N>`. Nothing is
//! served beyond what a published checkpoint covers.

use crate::{caller::Callers, config::EntryReaders, shown_checkpoint::ShownCheckpoint};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
    routing::get,
};
use medanchor_anchor::{BoxError, Read, Tile, TileKind};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};
use tonic::Extensions;

/// Serves the log's pieces from a replica's tables.
pub(crate) struct TileServer {
    entries: EntryReaders,
    log: Arc<dyn Read>,
    shown: ShownCheckpoint,
    reads: Arc<Semaphore>,
}

impl TileServer {
    pub(crate) fn new(entries: EntryReaders, log: Arc<dyn Read>, shown: ShownCheckpoint) -> Self {
        Self {
            entries,
            log,
            shown,
            reads: Arc::new(Semaphore::new(MAX_READS)),
        }
    }

    fn permits(&self, tile: &Tile, extensions: &Extensions) -> bool {
        tile.kind() != TileKind::Entries
            || self.entries == EntryReaders::Everyone
            || Callers::is_auditor(extensions)
    }

    /// A piece, when a published checkpoint covers it.
    async fn piece(&self, tile: Tile) -> Result<Option<Vec<u8>>, BoxError> {
        let shown = self.shown.get().await?;
        if !shown.is_some_and(|(size, _)| tile.is_within(size)) {
            return Ok(None);
        }
        let reads = Arc::clone(&self.reads).acquire_owned();
        let permit = timeout(READ_WITHIN, reads).await??;
        let log = Arc::clone(&self.log);
        let bytes = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let bytes = tile.read(log.view()?.as_ref())?;
            bytes.ok_or_else(|| BoxError::from("the replica lacks what it has published"))
        });
        Ok(Some(bytes.await??))
    }

    /// Nothing that a piece holds ever changes, so it may be kept for good; entries that are not for
    /// everybody only by those who were given them.
    fn caching(&self, kind: TileKind) -> &'static str {
        match (kind, self.entries) {
            (TileKind::Entries, EntryReaders::Auditors) => "private, max-age=31536000, immutable",
            _ => "public, max-age=31536000, immutable",
        }
    }
}

/// The routes.
pub(crate) fn routes(server: TileServer) -> Router {
    Router::new()
        .route("/checkpoint", get(checkpoint))
        .route("/tile/{*path}", get(tile))
        .with_state(Arc::new(server))
}

async fn checkpoint(State(server): State<Arc<TileServer>>) -> Response {
    match server.shown.get().await {
        Ok(Some((_, text))) => answer(StatusCode::OK, TEXT, "public, max-age=3", text),
        Ok(None) => refusal(StatusCode::NOT_FOUND, "nothing is published yet"),
        Err(error) => unavailable("checkpoint", &error),
    }
}

async fn tile(State(server): State<Arc<TileServer>>, request: Request) -> Response {
    let path = request.uri().path().strip_prefix('/').unwrap_or_default();
    let Ok(tile) = path.parse::<Tile>() else {
        return refusal(StatusCode::NOT_FOUND, "there is no such tile");
    };
    if !server.permits(&tile, request.extensions()) {
        let why = "entries are for members and auditors: show a certificate that says so";
        return refusal(StatusCode::FORBIDDEN, why);
    }
    match server.piece(tile).await {
        Ok(Some(bytes)) => answer(StatusCode::OK, BYTES, server.caching(tile.kind()), bytes),
        Ok(None) => refusal(StatusCode::NOT_FOUND, "there is no such tile"),
        Err(error) => unavailable(path, &error),
    }
}

fn unavailable(path: &str, error: &BoxError) -> Response {
    tracing::warn!("`{path}` could not be served: {error}");
    refusal(StatusCode::SERVICE_UNAVAILABLE, "not now: try again")
}

fn refusal(status: StatusCode, why: &'static str) -> Response {
    answer(status, TEXT, "no-store", format!("{why}\n"))
}

fn answer(
    status: StatusCode,
    kind: &'static str,
    caching: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";
/// Reads of the tables at one time; more wait.
const MAX_READS: usize = 16;
/// How long a read waits for its turn.
const READ_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shown_checkpoint::tests::checkpoint;
    use futures::future::BoxFuture;
    use http_body_util::BodyExt;
    use medanchor_anchor::{MemoryTables, ReadError, Table, Tables, View, tree};
    use std::sync::Mutex;
    use tonic::codegen::Service;

    /// A log in memory, of which less is published than it holds.
    struct Log {
        tables: MemoryTables,
        views: Mutex<usize>,
        folder: tempfile::TempDir,
    }

    impl Log {
        fn new(size: u64) -> Arc<Self> {
            let mut tables = MemoryTables::default();
            for index in 0..size {
                let leaf = format!("leaf {index}");
                let key = index.to_be_bytes();
                tables.put(Table::Leaves, &key, leaf.as_bytes()).unwrap();
                tree::append(&mut tables, index, leaf.as_bytes()).unwrap();
            }
            Arc::new(Self {
                tables,
                views: Mutex::default(),
                folder: tempfile::tempdir().unwrap(),
            })
        }
    }

    impl Read for Log {
        fn view(&self) -> Result<Box<dyn View + Send + '_>, ReadError> {
            *self.views.lock().unwrap() += 1;
            Ok(Box::new(self.tables.clone()))
        }

        fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn router(log: &Arc<Log>, entries: EntryReaders, published: Option<u64>) -> Router {
        routes(server(log, entries, published))
    }

    fn server(log: &Arc<Log>, entries: EntryReaders, published: Option<u64>) -> TileServer {
        let file = log.folder.path().join("checkpoint");
        let published = move || published.map(checkpoint);
        let shown = ShownCheckpoint::open(file, Box::new(published)).unwrap();
        TileServer::new(entries, Arc::clone(log) as Arc<dyn Read>, shown)
    }

    async fn get(router: &mut Router, path: &str) -> (StatusCode, Option<String>, Vec<u8>) {
        ask(router, "GET", path).await
    }

    async fn ask(
        router: &mut Router,
        method: &str,
        path: &str,
    ) -> (StatusCode, Option<String>, Vec<u8>) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let response = router.call(request).await.unwrap();
        let caching = response.headers().get(CACHE_CONTROL);
        let caching = caching.map(|value| value.to_str().unwrap().to_owned());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, caching, body.to_vec())
    }

    #[tokio::test]
    async fn only_what_is_published_is_served() {
        let log = Log::new(600);
        let mut router = router(&log, EntryReaders::Everyone, Some(515));
        for (path, found) in [
            ("/checkpoint", true),
            ("/tile/0/000", true),
            ("/tile/0/001", true),
            // Widths of what was published before, too.
            ("/tile/0/000.p/255", true),
            ("/tile/0/002.p/1", true),
            ("/tile/0/002.p/3", true),
            ("/tile/0/002.p/4", false),
            ("/tile/0/002", false),
            ("/tile/0/003.p/1", false),
            ("/tile/1/000.p/2", true),
            ("/tile/1/000.p/3", false),
            ("/tile/2/000.p/1", false),
            ("/tile/63/000.p/1", false),
            ("/tile/entries/000", true),
            ("/tile/entries/002.p/3", true),
            ("/tile/entries/002.p/4", false),
            ("/tile/entries/002", false),
            ("/tile/0/0", false),
            ("/tile/0/000.p/256", false),
            ("/tile/0/000/", false),
            ("/tile/0/%30%30%30", false),
            ("/tile/entries", false),
            ("/tile/", false),
            ("/tile", false),
            ("/", false),
            ("/checkpoint/", false),
        ] {
            let (status, caching, body) = get(&mut router, path).await;
            assert_eq!(status == StatusCode::OK, found, "{path}: {status}");
            if !found {
                assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
                assert_ne!(
                    caching.as_deref(),
                    Some("public, max-age=31536000, immutable")
                );
                continue;
            }
            assert!(!body.is_empty(), "{path}");
            if let Ok(tile) = path[1..].parse::<Tile>() {
                assert_eq!(Some(body), tile.read(&log.tables).unwrap(), "{path}");
                let caching = caching.unwrap();
                assert_eq!(caching, "public, max-age=31536000, immutable");
            } else {
                assert_eq!(caching.as_deref(), Some("public, max-age=3"));
                assert_eq!(body, checkpoint(515).1.into_bytes());
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_served_before_something_is_published() {
        let log = Log::new(600);
        let mut router = router(&log, EntryReaders::Everyone, None);
        for path in ["/checkpoint", "/tile/0/000", "/tile/0/000.p/1"] {
            let (status, _, _) = get(&mut router, path).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(*log.views.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn entries_are_not_for_those_without_a_certificate_and_do_not_show_what_exists() {
        let log = Log::new(600);
        let mut router = router(&log, EntryReaders::Auditors, Some(515));
        let (status, _, _) = get(&mut router, "/tile/0/000").await;
        assert_eq!(status, StatusCode::OK);
        let there = get(&mut router, "/tile/entries/000").await;
        let not_there = get(&mut router, "/tile/entries/900").await;
        assert_eq!(there.0, StatusCode::FORBIDDEN);
        assert_eq!(there, not_there);
    }

    #[tokio::test]
    async fn entries_that_are_not_for_everybody_are_not_for_shared_caches() {
        let log = Log::new(1);
        for (entries, whose) in [
            (EntryReaders::Auditors, "private"),
            (EntryReaders::Everyone, "public"),
        ] {
            let server = server(&log, entries, None);
            assert!(server.caching(TileKind::Entries).starts_with(whose));
            assert!(server.caching(TileKind::Hashes(0)).starts_with("public"));
        }
    }

    #[tokio::test]
    async fn log_is_only_read() {
        let log = Log::new(1);
        let mut router = router(&log, EntryReaders::Everyone, Some(1));
        for method in ["POST", "PUT", "DELETE"] {
            for path in ["/checkpoint", "/tile/0/000.p/1"] {
                let (status, _, _) = ask(&mut router, method, path).await;
                assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            }
        }
        let (status, _, body) = ask(&mut router, "HEAD", "/tile/0/000.p/1").await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
    }
}
