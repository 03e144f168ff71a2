//! Receipts from other members' nodes, for what this node must prove and cannot by its own tree: one that was shown
//! another log than the rest has no published checkpoint that agrees with its own.

use crate::{membership::Membership, remote::Remote};
use anyhow::{Context, Result};
use futures::future::{BoxFuture, select_ok};
use medanchor_anchor::{LeafIndex, Prove, ReadError, Receipt, Strength};
use medanchor_api::{
    LeafName, ReceiptOf,
    pb::anchor::{ReceiptRequest, anchor_service_client::AnchorServiceClient},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tonic::Request;

/// Asks the other members' nodes. What they say is checked by the trust policy alone, never against this node's tree.
pub(crate) struct OthersReceipts {
    pub(crate) membership: Arc<Membership>,
}

impl OthersReceipts {
    /// The first good one.
    async fn first(&self, index: LeafIndex, strength: Strength) -> Result<Receipt> {
        let others = self.membership.others();
        let asked = others.iter().map(|remote| {
            Box::pin(async move {
                let asking = timeout(ASK_WITHIN, self.ask(remote, index, strength));
                asking.await.context("it does not answer")?
            })
        });
        let asked: Vec<_> = asked.collect();
        anyhow::ensure!(!asked.is_empty(), "there is no other node");
        Ok(select_ok(asked).await?.0)
    }

    async fn ask(&self, remote: &Remote, index: LeafIndex, strength: Strength) -> Result<Receipt> {
        let leaf = LeafName::Index(index);
        let mut request = Request::new(ReceiptRequest::from(ReceiptOf { leaf, strength }));
        request.set_timeout(ASK_WITHIN);
        let mut client = AnchorServiceClient::new(remote.channel.clone());
        let answer = client.receipt(request).await?.into_inner();
        let receipt = Receipt::try_from(answer)?;
        let epochs = Arc::clone(&self.membership.now().epochs);
        let verified = receipt
            .verify(&*epochs, strength)
            .context("check the receipt")?;
        anyhow::ensure!(verified.index == index, "it is of another leaf");
        Ok(receipt)
    }
}

impl Prove for OthersReceipts {
    fn receipt(
        &self,
        index: LeafIndex,
        strength: Strength,
    ) -> BoxFuture<'_, Result<Receipt, ReadError>> {
        Box::pin(async move {
            let first = self.first(index, strength).await;
            first.map_err(|error| ReadError::Unavailable(error.into()))
        })
    }
}

/// Longer than a node waits for a checkpoint that covers the leaf.
const ASK_WITHIN: Duration = Duration::from_secs(25);
