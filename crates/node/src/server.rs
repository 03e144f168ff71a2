//! The one port: TLS 1.3 with client certificates, gRPC and the tlog-witness endpoints on it.

use anyhow::{Context, Result};
use rustls::ServerConfig;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

/// A bound port, not serving yet.
pub(crate) struct Listener {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, tls: Arc<ServerConfig>) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        Ok(Self {
            listener,
            tls: TlsAcceptor::from(tls),
        })
    }

    /// Serves until `stop`, then lets what is under way finish.
    pub(crate) async fn serve(self, routes: Routes, stop: CancellationToken) -> Result<()> {
        let (accepted, incoming) = mpsc::channel(1);
        let accepting = tokio::spawn(accept_task(self.listener, self.tls, accepted, stop.clone()));
        let served = Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .max_concurrent_streams(Some(MAX_STREAMS))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(incoming),
                stop.clone().cancelled_owned(),
            );
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(FINISH_WITHIN).await;
        };
        let served = tokio::select! {
            served = served => served.context("serve"),
            () = overdue => {
                tracing::warn!("stopping although some calls are not finished");
                Ok(())
            }
        };
        accepting.abort();
        served
    }
}

/// Hands connections on once their certificates are checked. A slow handshake holds up nobody else.
async fn accept_task(
    listener: TcpListener,
    tls: TlsAcceptor,
    accepted: mpsc::Sender<std::io::Result<TlsStream<TcpStream>>>,
    stop: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            connection = listener.accept() => connection,
        };
        let (stream, from) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, usually: others may close theirs.
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let handshake = async {
                stream.set_nodelay(true)?;
                tls.accept(stream).await
            };
            match timeout(HANDSHAKE_WITHIN, handshake).await {
                Ok(Ok(stream)) => {
                    // The receiver is gone only when the server is.
                    let _ = accepted.send(Ok(stream)).await;
                }
                Ok(Err(error)) => tracing::info!("connection from {from} refused: {error}"),
                Err(_) => tracing::info!("connection from {from} refused: no handshake in time"),
            }
        });
    }
}

const MAX_HANDSHAKES: usize = 64;
const MAX_STREAMS: u32 = 256;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long calls that are under way may take once the node is told to stop.
const FINISH_WITHIN: Duration = Duration::from_secs(15);
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
