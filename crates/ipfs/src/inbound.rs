use crate::{exchange::Exchange, frame, link::Link};
use futures::AsyncRead;
use libp2p::PeerId;
use std::{sync::Arc, time::Duration};

/// Reads the messages of one stream that `peer` opened, until it ends or sends nonsense.
pub(crate) async fn read_messages<R: AsyncRead + Unpin>(
    mut stream: R,
    peer: PeerId,
    link: Arc<Link>,
    exchange: Arc<Exchange>,
    silence: Duration,
) {
    loop {
        let frame = tokio::select! {
            frame = frame::read(&mut stream, &link, silence) => frame,
            () = link.closed.cancelled() => return,
        };
        match frame {
            Ok(Some(mut frame)) => {
                if let Some(wantlist) = frame.message.wantlist.take() {
                    link.wanted.update(&wantlist);
                }
                exchange.received_presences(peer, &frame.message.presences);
                let payload = std::mem::take(&mut frame.message.payload);
                exchange.received_blocks(peer, payload).await;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%peer, %error, "bitswap stream is dropped");
                return;
            }
        }
    }
}
