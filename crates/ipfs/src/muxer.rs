use crate::unread::{Followed, HEADER_BYTES, Unread};
use futures::{AsyncRead, AsyncWrite, future, ready};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    io, iter,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use yamux::{Config, Connection, ConnectionError, Mode};

/// Yamux on a connection, with a bound on what is received and not read yet: `libp2p-yamux` has no setting for that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Yamux;

/// A connection with its streams.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<Followed<C>>,
    unread: Unread,
    /// Streams that the peer opened while nobody asked for one: a connection moves only when it is asked for the next.
    /// Yamux ends one that has more than [`MAX_STREAMS`].
    arrived: VecDeque<Stream>,
    /// Who waits for a stream that the peer opens.
    waiting: Option<Waker>,
}

/// A stream of a connection.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: yamux::Stream,
    unread: Unread,
}

impl Yamux {
    fn muxer<C>(connection: C, mode: Mode) -> Muxer<C>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = Config::default();
        config
            .set_max_num_streams(MAX_STREAMS)
            .set_max_connection_receive_window(Some(MAX_UNREAD_BYTES))
            .set_split_send_size(FRAME_BYTES)
            .set_read_after_close(false);
        let unread = Unread::default();
        let followed = Followed::new(connection, unread.clone());
        Muxer {
            connection: Connection::new(followed, config, mode),
            unread,
            arrived: VecDeque::new(),
            waiting: None,
        }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, connection: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::muxer(connection, Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, connection: C, _: Self::Info) -> Self::Future {
        future::ready(Ok(Self::muxer(connection, Mode::Client)))
    }
}

impl<C> Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves the connection until the peer opens a stream.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(cx));
        let stream = next.unwrap_or(Err(ConnectionError::Closed))?;
        let unread = self.unread.clone();
        Poll::Ready(Ok(Stream { stream, unread }))
    }
}

impl<C> StreamMuxer for Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_next(cx);
        if next.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        let stream = ready!(self.connection.poll_new_outbound(cx))?;
        let unread = self.unread.clone();
        let counted = unread.opened(stream.id().val());
        counted.map_err(|error| ConnectionError::Io(io::Error::other(error)))?;
        Poll::Ready(Ok(Stream { stream, unread }))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = ready!(self.poll_next(cx))?;
        self.arrived.push_back(stream);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
        // It goes on after whoever takes the stream.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.unread.read(self.stream.id().val(), read);
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.unread.closed(self.stream.id().val());
    }
}

/// Streams of one connection: who opens more is cut off. Kubo and Helia have one open for every message that is
/// under way, and Go's Yamux up to this many before the first of them is taken.
pub(crate) const MAX_STREAMS: usize = 256;
/// What one frame holds: with its header as much as one message of Noise (`libp2p-noise`, `MAX_FRAME_LEN`). Yamux flushes
/// after each frame, so smaller ones are more messages and more writes to the socket.
const FRAME_BYTES: usize = (64 << 10) - 1 - (1 << 10) - HEADER_BYTES;
/// What Yamux lets every stream send before any of it is read.
const FIRST_WINDOW_BYTES: usize = 256 << 10;
/// By how much the windows of all streams together grow: enough for 1 GB/s over 16 ms.
const GROWTH_BYTES: usize = 16 << 20;
/// What one connection can make us hold that was not read yet.
pub(crate) const MAX_UNREAD_BYTES: usize = MAX_STREAMS * FIRST_WINDOW_BYTES + GROWTH_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt, future::poll_fn};
    use libp2p::core::muxing::StreamMuxerExt;
    use std::{collections::BTreeMap, time::Duration};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
        time::sleep,
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peer_that_lies_about_its_round_trip_time_makes_us_hold_no_more() {
        let (mut liar, mut victim) = meet().await;
        let streams: Vec<u32> = (0..256).map(|number| 2 * number + 1).collect();
        assert_eq!(streams.len(), MAX_STREAMS);
        for stream in &streams {
            liar.open(*stream).await;
        }
        // All that follows takes less than two such round trips: windows grow each time that one was read.
        liar.answer_ping_late().await;
        let mut before = 0;
        while liar.unread() > before && before <= MAX_UNREAD_BYTES {
            before = liar.unread();
            for stream in &streams[..3] {
                let sent = liar.use_up(*stream).await;
                victim.read(*stream, sent).await;
                liar.take_window(*stream).await;
            }
        }
        let first = MAX_STREAMS * FIRST_WINDOW_BYTES;
        assert!(liar.unread() > first, "no window grew");
        assert!(liar.unread() <= MAX_UNREAD_BYTES, "{}", liar.unread());

        // It sends all that it may, and nothing of it is read.
        for stream in &streams {
            liar.use_up(*stream).await;
        }
        assert_eq!(liar.unread(), 0);
        assert!(!liar.is_told_to_go().await);
        // A byte more is refused.
        liar.send(DATA, 0, streams[0], &[0]).await;
        assert!(liar.is_told_to_go().await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peer_that_sends_byte_by_byte_is_cut_off_unless_it_is_read() {
        let (mut liar, mut victim) = meet().await;
        liar.open(1).await;
        for _ in 0..100 {
            liar.send_bytes(1, 1000).await;
            victim.read(1, 1000).await;
        }
        assert!(!liar.is_told_to_go().await);
        // As many as its window lets it send, and nothing is read.
        liar.send_bytes(1, FIRST_WINDOW_BYTES / 2).await;
        while victim.arriving.recv().await.is_some() {}
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn streams_that_arrive_unasked_are_given_out_in_their_order() {
        let (mut liar, mut victim) = meet().await;
        for stream in [1, 3, 5] {
            liar.open(stream).await;
            liar.send(DATA, 0, stream, &stream.to_be_bytes()).await;
        }
        for stream in [5, 1, 3] {
            assert_eq!(victim.read(stream, 4).await, stream.to_be_bytes());
        }
        assert_eq!(victim.order, [1, 3, 5]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_written_goes_out_in_frames_that_fill_a_message_of_noise() {
        let (mut liar, mut victim) = meet().await;
        liar.open(1).await;
        liar.send(DATA, 0, 1, &[7]).await;
        victim.read(1, 1).await;
        let mut stream = victim.streams.remove(&1).unwrap();
        let writing = tokio::spawn(async move { stream.write_all(&[7; 3 * FRAME_BYTES]).await });
        for _ in 0..3 {
            assert_eq!(liar.receive_data().await + HEADER_BYTES, NOISE_BYTES);
        }
        writing.await.unwrap().unwrap();
    }

    /// The far end of a connection, frame by frame (<https://github.com/hashicorp/yamux/blob/master/spec.md>).
    struct Liar {
        socket: TcpStream,
        /// What each stream may still send.
        windows: BTreeMap<u32, usize>,
    }

    /// This end, whose streams nobody reads unless told to.
    struct Victim {
        arriving: mpsc::UnboundedReceiver<Stream>,
        streams: BTreeMap<u32, Stream>,
        order: Vec<u32>,
    }

    struct Frame {
        kind: u8,
        flags: u16,
        stream: u32,
        length: u32,
    }

    async fn meet() -> (Liar, Victim) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialling = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialling, listener.accept());
        let accepted = libp2p::tcp::tokio::TcpStream(accepted.unwrap().0);
        let upgraded = Yamux.upgrade_inbound(accepted, "/yamux/1.0.0").await;
        let Ok(mut muxer) = upgraded;
        let (arrived, arriving) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let next = |cx: &mut Context<'_>| {
                // As the swarm does: it moves the connection, and then asks for a stream.
                if let Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
                    return Poll::Ready(Err(error));
                }
                muxer.poll_inbound_unpin(cx)
            };
            let mut next = next;
            while let Ok(stream) = poll_fn(&mut next).await {
                if arrived.send(stream).is_err() {
                    break;
                }
            }
        });
        let liar = Liar {
            socket: dialled.unwrap(),
            windows: BTreeMap::new(),
        };
        let victim = Victim {
            arriving,
            streams: BTreeMap::new(),
            order: Vec::new(),
        };
        (liar, victim)
    }

    impl Liar {
        async fn open(&mut self, stream: u32) {
            self.send(DATA, SYN, stream, &[]).await;
            self.windows.insert(stream, FIRST_WINDOW_BYTES);
        }

        fn unread(&self) -> usize {
            self.windows.values().sum()
        }

        /// Sends all that this stream may; how much that was.
        async fn use_up(&mut self, stream: u32) -> usize {
            let window = self.windows.insert(stream, 0).unwrap();
            let bytes = vec![7; window];
            for part in bytes.chunks(FIRST_WINDOW_BYTES) {
                self.send(DATA, 0, stream, part).await;
            }
            window
        }

        /// Each in a frame of its own, for as long as the connection works.
        async fn send_bytes(&mut self, stream: u32, count: usize) {
            let mut frame = vec![0, DATA, 0, 0];
            frame.extend(stream.to_be_bytes());
            frame.extend([0, 0, 0, 1, 7]);
            // Fails when the other side has had enough.
            let _ = self.socket.write_all(&frame.repeat(count)).await;
        }

        async fn take_window(&mut self, stream: u32) {
            while self.windows[&stream] == 0 {
                self.receive().await;
            }
        }

        async fn answer_ping_late(&mut self) {
            let ping = loop {
                let frame = self.receive().await;
                if frame.kind == PING && frame.flags == SYN {
                    break frame;
                }
            };
            sleep(LATE).await;
            self.send_header(PING, ACK, 0, ping.length).await;
        }

        /// Whether the other side takes what it received last for a breach of the protocol.
        async fn is_told_to_go(&mut self) -> bool {
            self.send_header(PING, SYN, 0, 1).await;
            loop {
                let frame = self.receive().await;
                if frame.kind == GO_AWAY {
                    return true;
                }
                if frame.kind == PING && frame.flags == ACK {
                    return false;
                }
            }
        }

        async fn send(&mut self, kind: u8, flags: u16, stream: u32, body: &[u8]) {
            let length = u32::try_from(body.len()).unwrap();
            self.send_header(kind, flags, stream, length).await;
            self.socket.write_all(body).await.unwrap();
        }

        async fn send_header(&mut self, kind: u8, flags: u16, stream: u32, length: u32) {
            let mut header = vec![0, kind];
            header.extend(flags.to_be_bytes());
            header.extend(stream.to_be_bytes());
            header.extend(length.to_be_bytes());
            self.socket.write_all(&header).await.unwrap();
        }

        /// The length of the next frame with data.
        async fn receive_data(&mut self) -> usize {
            loop {
                let frame = self.receive().await;
                let length = usize::try_from(frame.length).unwrap();
                if frame.kind == DATA {
                    self.socket.read_exact(&mut vec![0; length]).await.unwrap();
                    return length;
                }
            }
        }

        async fn receive(&mut self) -> Frame {
            let frame = Frame {
                kind: self.socket.read_u16().await.unwrap().to_be_bytes()[1],
                flags: self.socket.read_u16().await.unwrap(),
                stream: self.socket.read_u32().await.unwrap(),
                length: self.socket.read_u32().await.unwrap(),
            };
            if frame.kind == WINDOW_UPDATE {
                *self.windows.get_mut(&frame.stream).unwrap() += frame.length as usize;
            }
            frame
        }
    }

    impl Victim {
        async fn read(&mut self, stream: u32, len: usize) -> Vec<u8> {
            while !self.streams.contains_key(&stream) {
                let arrived = self.arriving.recv().await.unwrap();
                self.order.push(arrived.stream.id().val());
                self.streams.insert(arrived.stream.id().val(), arrived);
            }
            let reading = self.streams.get_mut(&stream).unwrap();
            let mut bytes = vec![0; len];
            reading.read_exact(&mut bytes).await.unwrap();
            // Whoever waits for more lets the other side send more.
            assert!(reading.read(&mut [0]).now_or_never().is_none());
            bytes
        }
    }

    /// As much as `libp2p-noise` encrypts at once: 65,535 bytes without room for 1024.
    const NOISE_BYTES: usize = 64_511;
    const DATA: u8 = 0;
    const WINDOW_UPDATE: u8 = 1;
    const PING: u8 = 2;
    const GO_AWAY: u8 = 3;
    const SYN: u16 = 1;
    const ACK: u16 = 2;
    const LATE: Duration = Duration::from_secs(2);
}
