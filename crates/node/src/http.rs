//! HTTPS requests to witnesses: one small request, one small answer, both bounded.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// A server, by its address and the name in its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

/// Posts `body` and gives status and answer.
pub(crate) async fn post(
    tls: &Arc<ClientConfig>,
    server: &Server,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes)> {
    ask(tls, server, Method::POST, path, body).await
}

/// Gets what is at `path`, with its status.
pub(crate) async fn get(
    tls: &Arc<ClientConfig>,
    server: &Server,
    path: &str,
) -> Result<(StatusCode, Bytes)> {
    ask(tls, server, Method::GET, path, String::new()).await
}

async fn ask(
    tls: &Arc<ClientConfig>,
    server: &Server,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes)> {
    timeout(DEADLINE, exchange(tls, server, method, path, body))
        .await
        .with_context(|| format!("no answer from `{}` in time", server.name))?
        .with_context(|| format!("ask `{}` at {}", server.name, server.address))
}

async fn exchange(
    tls: &Arc<ClientConfig>,
    server: &Server,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes)> {
    let name = ServerName::try_from(server.name.clone()).context("name the server")?;
    let stream = TcpStream::connect(server.address)
        .await
        .context("connect")?;
    let stream = TlsConnector::from(Arc::clone(tls))
        .connect(name, stream)
        .await
        .context("agree on TLS")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("speak HTTP")?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", &server.name)
        .body(Full::new(Bytes::from(body)))
        .context("build the request")?;
    let answer = async {
        let response = sender.send_request(request).await.context("send")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error))
            .context("read the answer")?;
        anyhow::Ok((status, body.to_bytes()))
    };
    // The connection must be driven while the answer is awaited; it ends with it.
    tokio::select! {
        answer = answer => answer,
        closed = connection => {
            closed.context("keep the connection")?;
            anyhow::bail!("the connection was closed before the answer")
        }
    }
}

const DEADLINE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;
