//! Where others show their newest checkpoints: members over gRPC, and every co-signer at its C2SP
//! monitoring endpoint.

use crate::{
    channels::{Channels, Remote},
    http::{self, Server},
};
use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hyper::StatusCode;
use medanchor_anchor::SignedNote;
use medanchor_api::pb::anchor::{CheckpointRequest, anchor_service_client::AnchorServiceClient};
use medanchor_dag::sha256;
use std::time::Duration;
use tonic::Request;

/// The others that show checkpoints of one log.
pub(crate) struct Sources {
    pub(crate) origin: String,
    /// The other members' nodes: what they tell their clients.
    pub(crate) members: Option<Channels>,
    /// Every other co-signer: what it has co-signed.
    pub(crate) cosigners: Vec<Server>,
    pub(crate) http: http::Client,
}

/// Where the newest checkpoint that a co-signer signed of this log is found (C2SP tlog-witness).
pub(crate) fn monitoring_path(origin: &str) -> String {
    format!("/{}/checkpoint", hex::encode(sha256(origin.as_bytes())))
}

/// Somebody's name, and what they show.
type Shown<'a> = (&'a str, Result<Option<SignedNote>>);

impl Sources {
    /// The newest checkpoint of everyone who answers in time, with their names. No signature is checked.
    pub(crate) async fn newest(&self) -> Vec<(String, SignedNote)> {
        let mut asked: FuturesUnordered<BoxFuture<'_, Shown<'_>>> = FuturesUnordered::new();
        for remote in self.members.iter().flat_map(Channels::all) {
            let answer = told(remote).map(|answer| (remote.name.as_str(), answer));
            asked.push(answer.boxed());
        }
        for server in &self.cosigners {
            let answer = self.cosigned(server);
            let answer = answer.map(|answer| (server.name.as_str(), answer));
            asked.push(answer.boxed());
        }
        let mut newest = Vec::new();
        while let Some((name, answer)) = asked.next().await {
            match answer {
                Ok(note) => newest.extend(note.map(|note| (name.to_owned(), note))),
                Err(error) => tracing::debug!("`{name}` shows no checkpoint: {error:#}"),
            }
        }
        newest
    }

    async fn cosigned(&self, server: &Server) -> Result<Option<SignedNote>> {
        let path = monitoring_path(&self.origin);
        let (status, answer) = self.http.get(server, &path).await?;
        match status {
            StatusCode::OK => {
                let text = std::str::from_utf8(&answer).context("read the checkpoint")?;
                parse(text)
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => anyhow::bail!("`{}` answered {status}", server.name),
        }
    }
}

async fn told(remote: &Remote) -> Result<Option<SignedNote>> {
    let mut request = Request::new(CheckpointRequest {});
    request.set_timeout(ASK_WITHIN);
    let answer = AnchorServiceClient::new(remote.channel.clone())
        .checkpoint(request)
        .await?
        .into_inner();
    parse(&answer.checkpoint)
}

fn parse(text: &str) -> Result<Option<SignedNote>> {
    if text.is_empty() {
        return Ok(None);
    }
    let note = SignedNote::parse(text).context("parse the checkpoint")?;
    Ok(Some(note))
}

const ASK_WITHIN: Duration = Duration::from_secs(3);
