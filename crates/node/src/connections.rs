//! How many connections a port takes, and how long they may last: neither strangers that hold them open nor
//! those that say nothing keep others out.

use crate::places::{Place, Places};
use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

/// What a port takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at one time, those that have not shown a certificate yet included.
    pub(crate) connections: usize,
    /// Of these, from one address (IPv6: from one network of 64 bits).
    pub(crate) from_one_address: usize,
    /// Until a connection on which nothing moves ends.
    pub(crate) idle: Duration,
    /// Until any connection ends.
    pub(crate) lifetime: Option<Duration>,
    /// Calls at one time on one connection.
    pub(crate) streams: u32,
}

impl Limits {
    /// For members and those they let in. Whole hospitals may come from one address, and stay; both ends ask
    /// for a sign of life more often than `idle`.
    pub(crate) const SERVICES: Self = Self {
        connections: 2048,
        from_one_address: 1024,
        idle: Duration::from_secs(60),
        lifetime: None,
        streams: 256,
    };
    /// For everybody.
    pub(crate) const PUBLIC: Self = Self {
        connections: 512,
        from_one_address: 64,
        idle: Duration::from_secs(30),
        lifetime: Some(Duration::from_secs(300)),
        streams: 16,
    };
}

/// The connections of a port, by where they come from.
pub(crate) fn places(limits: &Limits) -> Places<IpAddr> {
    Places::new(limits.connections, limits.from_one_address)
}

/// Whoever has one IPv6 address has its network.
pub(crate) fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
    }
}

/// A connection that ends by itself: when nothing moves on it, and when it has lasted long enough.
#[derive(Debug)]
pub(crate) struct Bounded<S> {
    stream: S,
    moved: Instant,
    idle: Duration,
    /// Looks whether anything has moved.
    look: Pin<Box<Sleep>>,
    end: Option<Pin<Box<Sleep>>>,
    _place: Place<IpAddr>,
}

impl<S> Bounded<S> {
    pub(crate) fn new(stream: S, limits: &Limits, place: Place<IpAddr>) -> Self {
        let now = Instant::now();
        let end = limits.lifetime.map(|lifetime| now + lifetime);
        Self {
            stream,
            moved: now,
            idle: limits.idle,
            look: Box::pin(sleep_until(now + limits.idle)),
            end: end.map(|end| Box::pin(sleep_until(end))),
            _place: place,
        }
    }

    /// Whether the connection's time is over.
    fn poll_over(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(context).is_ready()
        {
            return true;
        }
        while self.look.as_mut().poll(context).is_ready() {
            let until = self.moved + self.idle;
            if until <= Instant::now() {
                return true;
            }
            self.look.as_mut().reset(until);
        }
        false
    }

    /// What came of moving something, unless the time is over.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match moved {
            Poll::Ready(moved) => {
                self.moved = Instant::now();
                Poll::Ready(moved)
            }
            Poll::Pending if self.poll_over(context) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.judge(context, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            // Nothing has moved when there was nothing to flush.
            Poll::Pending if self.poll_over(context) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending if self.poll_over(context) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            shut => shut,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Connected> Connected for Bounded<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn limits(idle: u64, lifetime: u64) -> Limits {
        Limits {
            connections: 3,
            from_one_address: 2,
            idle: Duration::from_millis(idle),
            lifetime: Some(Duration::from_millis(lifetime)),
            streams: 1,
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn whoever_can_choose_among_addresses_is_one_source() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            // As a socket that listens on IPv6 sees it.
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let [one, other] = [one, other].map(|text| source(address(text)));
            assert_eq!(one == other, same, "{one} {other}");
        }
    }

    fn bounded(limits: &Limits) -> (Bounded<DuplexStream>, DuplexStream) {
        let place = places(limits).take(address("192.0.2.1")).unwrap();
        let (near, far) = duplex(64);
        (Bounded::new(near, limits, place), far)
    }

    #[tokio::test]
    async fn silent_connection_ends() {
        let (mut near, _far) = bounded(&limits(50, 60_000));
        let ended = near.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn connection_that_does_not_take_its_answer_ends() {
        let (mut near, _far) = bounded(&limits(50, 60_000));
        let ended = near.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn connection_that_drips_lasts_no_longer_than_others() {
        let (mut near, mut far) = bounded(&limits(60_000, 300));
        let drip = tokio::spawn(async move {
            while far.write_u8(0).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let ended = loop {
            match near.read_u8().await {
                Ok(_) => (),
                Err(error) => break error,
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        drop(near);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn connection_that_is_used_goes_on() {
        let (mut near, mut far) = bounded(&limits(3_000, 60_000));
        for byte in 0..6 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            far.write_u8(byte).await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), byte);
        }
    }
}
