//! Where others show their newest checkpoints: members over gRPC, and every co-signer at its C2SP
//! monitoring endpoint.

use crate::{
    membership::Membership,
    remote::{Remote, RemoteCosigner},
};
use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hyper::StatusCode;
use medanchor_anchor::SignedNote;
use medanchor_api::pb::anchor::{CheckpointRequest, anchor_service_client::AnchorServiceClient};
use medanchor_dag::sha256;
use std::{sync::Arc, time::Duration};
use tonic::Request;

/// The others that show checkpoints of one log.
pub(crate) struct Sources {
    pub(crate) origin: String,
    /// The other members' nodes, for what they tell their clients and what they have co-signed, and outside
    /// witnesses. About a log of others nobody is asked.
    pub(crate) membership: Option<Arc<Membership>>,
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
        let Some(membership) = &self.membership else {
            return Vec::new();
        };
        let (members, now) = (membership.others(), membership.now());
        let mut asked: FuturesUnordered<BoxFuture<'_, Shown<'_>>> = FuturesUnordered::new();
        for remote in &members {
            let answer = told(remote).map(|answer| (remote.name.as_str(), answer));
            asked.push(answer.boxed());
        }
        let members = members.iter().map(|remote| &remote.cosigner);
        let witnesses = now.witnesses().iter().map(Arc::as_ref);
        for cosigner in members.chain(witnesses) {
            let answer = self.cosigned(cosigner);
            let answer = answer.map(|answer| (cosigner.key.name(), answer));
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

    async fn cosigned(&self, cosigner: &RemoteCosigner) -> Result<Option<SignedNote>> {
        let path = monitoring_path(&self.origin);
        let server = &cosigner.server;
        let (status, answer) = cosigner.http.get(server, &path).await?;
        match status {
            StatusCode::OK => {
                let text = std::str::from_utf8(&answer).context("read the checkpoint")?;
                parse(text)
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => anyhow::bail!("it answered {status}"),
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
