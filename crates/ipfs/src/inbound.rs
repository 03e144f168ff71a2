use crate::{
    exchange::Exchange,
    frame::{self, Frame},
    link::Link,
};
use futures::AsyncRead;
use libp2p::PeerId;
use std::{mem, sync::Arc, time::Duration};

/// Reads the messages of one stream that `peer` opened, until it ends or sends nonsense. The blocks of one are named
/// while the next is read.
pub(crate) async fn read_messages<R: AsyncRead + Unpin>(
    mut stream: R,
    peer: PeerId,
    link: Arc<Link>,
    exchange: Arc<Exchange>,
    silence: Duration,
) {
    let mut last = None;
    loop {
        let reading = link
            .closed
            .run_until_cancelled(frame::read(&mut stream, &link, silence));
        let (next, ()) = tokio::join!(reading, take_in(last, peer, &exchange));
        last = match next {
            None | Some(Ok(None)) => return,
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                tracing::debug!(%peer, %error, "bitswap stream is dropped");
                return;
            }
        };
        if let Some(wantlist) = last
            .as_mut()
            .and_then(|frame| frame.message.wantlist.take())
        {
            link.wanted.update(&wantlist);
        }
    }
}

async fn take_in(frame: Option<Frame>, peer: PeerId, exchange: &Exchange) {
    let Some(mut frame) = frame else {
        return;
    };
    exchange.received_presences(peer, &frame.message.presences);
    let payload = mem::take(&mut frame.message.payload);
    exchange.received_blocks(peer, payload).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Timing,
        message::{Message, Payload},
        testing::raw,
    };
    use futures::io::Cursor;
    use std::{
        io,
        pin::Pin,
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        task::{Context, Poll},
    };
    use tokio::task::{spawn_blocking, yield_now};

    #[test]
    fn next_message_is_read_while_the_blocks_of_the_last_are_named() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            // Nothing can be named before this is released.
            let (release, held) = mpsc::channel::<()>();
            let holding = spawn_blocking(move || held.recv());
            let message = |number| Message {
                payload: vec![Payload::new(&raw(number, 200 << 10))],
                ..Message::default()
            };
            let bytes = [1, 2, 3].map(|number| frame::encode(&message(number)));
            let taken = Arc::new(AtomicUsize::new(0));
            let stream = Counted {
                bytes: Cursor::new(bytes.concat()),
                taken: Arc::clone(&taken),
            };
            let exchange = Arc::new(Exchange::new([].into_iter(), Timing::default()));
            let link = Arc::new(Link::new(1));
            let silence = Timing::default().write;
            let reading = read_messages(stream, PeerId::random(), link, exchange, silence);
            let reading = tokio::spawn(reading);
            for _ in 0..1000 {
                yield_now().await;
            }
            // One ahead, and no more.
            assert_eq!(taken.load(Ordering::SeqCst), 2 * bytes[0].len());
            drop(release);
            reading.await.unwrap();
            assert_eq!(taken.load(Ordering::SeqCst), 3 * bytes[0].len());
            assert!(holding.await.unwrap().is_err());
        });
    }

    /// Says how much was read of it.
    struct Counted {
        bytes: Cursor<Vec<u8>>,
        taken: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let read = Pin::new(&mut self.bytes).poll_read(cx, buffer);
            if let Poll::Ready(Ok(read)) = &read {
                self.taken.fetch_add(*read, Ordering::SeqCst);
            }
            read
        }
    }
}
