//! Following the members: what this node's own replica applies, and what others know to be published.

use crate::{
    membership::Membership,
    monitor::{Judgement, Monitor},
    remote::Remote,
};
use anyhow::{Context, Result};
use medanchor_anchor::{LeafIndex, PolicyChain, Read, State};
use medanchor_api::{
    MAX_MESSAGE_BYTES,
    pb::anchor::{PolicyChainRequest, anchor_service_client::AnchorServiceClient},
};
use medanchor_ipfs::Peer;
use medanchor_raft::Replica;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// Keeps what a node knows of the members up to date.
pub(crate) struct Follower {
    pub(crate) membership: Arc<Membership>,
    pub(crate) monitor: Arc<Monitor>,
    /// What a member's node has besides.
    pub(crate) own: Option<OwnParts>,
}

/// The parts of a member's node that follow the members.
pub(crate) struct OwnParts {
    pub(crate) replica: Arc<Replica>,
    pub(crate) peer: Arc<Peer>,
}

/// This node is a member's no longer.
#[derive(Debug, thiserror::Error)]
#[error(
    "the network removed this node: id {node_id} was removed by leaf {leaf} and never comes back. To take part \
     again, make a new node in a new data folder with `medanchord prepare`, have the members approve it \
     (`medanchor admin member approve`), and then `medanchord join`"
)]
pub(crate) struct Removed {
    node_id: u64,
    leaf: LeafIndex,
}

impl Membership {
    /// Whether this node was removed, and everybody knows.
    pub(crate) fn check_own(&self) -> Result<(), Removed> {
        let now = self.now();
        let own = self.own().and_then(|own| now.entry_of(&own));
        match own.and_then(|entry| Some((entry, entry.removed_at?))) {
            Some((entry, leaf)) if leaf < now.epochs.current_after() => Err(Removed {
                node_id: entry.member.node_id,
                leaf,
            }),
            _ => Ok(()),
        }
    }
}

impl Follower {
    /// Follows the members until `stop`, or until this node is none of them.
    pub(crate) async fn follow(&self, stop: CancellationToken) -> Result<()> {
        let work = async {
            loop {
                if let Err(error) = self.look().await {
                    tracing::warn!("the members are not followed: {error:#}");
                }
                self.membership.check_own()?;
                self.something_happens().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            removed = work => removed,
        }
    }

    async fn look(&self) -> Result<()> {
        if let Some(own) = &self.own {
            let entries = {
                let view = own.replica.view()?;
                State::new(view.as_ref()).member_entries()?
            };
            self.membership.apply(entries)?;
        }
        if self.lacks_a_change()? {
            self.ask_others().await;
        }
        if let Some(own) = &self.own {
            let after = self.membership.now().epochs.current_after();
            own.replica.admit_before(after);
            let peers = self.membership.swarm_peers()?;
            let allowing = own.peer.allow(&peers);
            allowing.await.context("let peers join the swarm")?;
        }
        Ok(())
    }

    /// Whether the members have changed and it is not known here that this is published. An outside witness cannot
    /// know; it asks.
    fn lacks_a_change(&self) -> Result<bool> {
        let published = self.membership.now().epochs.current_after();
        let changes = self.monitor.policy_changes()?;
        Ok(self.own.is_none() || changes.last().is_some_and(|index| *index >= published))
    }

    /// Takes the changes that others know, each as it is proved.
    async fn ask_others(&self) {
        let others = self.membership.others();
        let asked = others.iter().map(|remote| async move {
            let chain = timeout(ASK_WITHIN, ask(remote)).await;
            (remote, chain.map_err(anyhow::Error::from).flatten())
        });
        for (remote, chain) in futures::future::join_all(asked).await {
            let followed = match chain {
                Ok(chain) => self.take(chain).await,
                Err(error) => Err(error),
            };
            if let Err(error) = followed {
                let name = &remote.name;
                tracing::debug!("`{name}` shows no change of the policy: {error:#}");
            }
        }
    }

    /// Nothing is taken that contradicts this node's own tree.
    async fn take(&self, chain: PolicyChain) -> Result<()> {
        let known = self.membership.now().chain.changes.len();
        for change in chain.changes.into_iter().skip(known) {
            match self
                .monitor
                .judge(&change.checkpoint, Duration::ZERO)
                .await?
            {
                Judgement::True => self.membership.publish(change)?,
                Judgement::False => anyhow::bail!("it contradicts this node's log"),
                Judgement::Ahead => return Ok(()),
            }
        }
        Ok(())
    }

    /// Until the replica has applied something, or the members have changed, or some time has passed; not at once,
    /// so that a busy log is looked at now and then.
    async fn something_happens(&self) {
        sleep(LOOK_AT_MOST_EVERY).await;
        let mut members = self.membership.watch();
        let Some(own) = &self.own else {
            // Nothing tells a witness.
            let _ = timeout(LOOK_AT_LEAST_EVERY, members.changed()).await;
            return;
        };
        let mut replica = own.replica.watch();
        tokio::select! {
            _ = members.changed() => (),
            _ = replica.changed() => (),
            () = sleep(LOOK_AT_LEAST_EVERY) => (),
        }
    }
}

async fn ask(remote: &Remote) -> Result<PolicyChain> {
    let mut request = Request::new(PolicyChainRequest::default());
    request.set_timeout(ASK_WITHIN);
    let answer = AnchorServiceClient::new(remote.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .policy_chain(request)
        .await?
        .into_inner();
    PolicyChain::from_bytes(&answer.policy_chain).context("parse the policy chain")
}

const ASK_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(100);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(2);
