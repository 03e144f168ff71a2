use futures::{AsyncRead, AsyncWrite, ready};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// A connection under Yamux that is followed frame by frame, and fails when more of them come than are read.
///
/// Yamux bounds the bytes that are not read yet, but keeps each frame for itself, which takes some 100 bytes more than
/// what is in it: one that is sent byte by byte takes a hundredfold.
#[derive(Debug)]
pub(crate) struct Followed<C> {
    connection: C,
    unread: Unread,
    /// What of the next header has come.
    header: Vec<u8>,
    /// How much of the frame is still to come.
    body_left: u32,
}

/// Frames with data that came, by the streams that did not read them yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<Mutex<Frames>>);

#[derive(Debug, Default)]
struct Frames {
    /// How many bytes of each frame are not read yet.
    by_stream: BTreeMap<u32, VecDeque<u32>>,
    count: usize,
}

/// The peer sends more frames than are read.
#[derive(Debug, thiserror::Error)]
#[error("too many frames that are not read yet")]
pub(crate) struct TooMany;

impl<C> Followed<C> {
    pub(crate) fn new(connection: C, unread: Unread) -> Self {
        Self {
            connection,
            unread,
            header: Vec::with_capacity(HEADER_BYTES),
            body_left: 0,
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), TooMany> {
        while !bytes.is_empty() {
            let missing = match self.body_left {
                0 => HEADER_BYTES - self.header.len(),
                left => usize::try_from(left).unwrap_or(usize::MAX),
            };
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            bytes = rest;
            if self.body_left > 0 {
                self.body_left -= u32::try_from(taken.len()).unwrap_or(u32::MAX);
                continue;
            }
            self.header.extend_from_slice(taken);
            if let Ok(header) = <[u8; HEADER_BYTES]>::try_from(self.header.as_slice()) {
                self.header.clear();
                self.on_header(header)?;
            }
        }
        Ok(())
    }

    /// Takes in a header: version, kind, flags, stream, length.
    fn on_header(&mut self, header: [u8; HEADER_BYTES]) -> Result<(), TooMany> {
        let [_, kind, _, flags, s0, s1, s2, s3, l0, l1, l2, l3] = header;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        if kind <= WINDOW_UPDATE && flags & SYN != 0 {
            self.unread.opened(stream)?;
        }
        if kind == DATA {
            self.body_left = u32::from_be_bytes([l0, l1, l2, l3]);
            self.unread.received(stream, self.body_left)?;
        }
        Ok(())
    }
}

impl Unread {
    /// Counts what comes for a stream from now on.
    pub(crate) fn opened(&self, stream: u32) -> Result<(), TooMany> {
        let mut frames = self.frames();
        if frames.by_stream.len() >= MAX_STREAMS {
            return Err(TooMany);
        }
        frames.by_stream.entry(stream).or_default();
        Ok(())
    }

    /// A frame came. Of a stream that is not open Yamux keeps none.
    fn received(&self, stream: u32, length: u32) -> Result<(), TooMany> {
        let mut frames = self.frames();
        let Some(unread) = frames.by_stream.get_mut(&stream) else {
            return Ok(());
        };
        unread.push_back(length);
        frames.count += 1;
        match frames.count <= MAX_FRAMES {
            true => Ok(()),
            false => Err(TooMany),
        }
    }

    /// So many bytes of a stream were read.
    pub(crate) fn read(&self, stream: u32, bytes: usize) {
        let mut frames = self.frames();
        let Some(unread) = frames.by_stream.get_mut(&stream) else {
            return;
        };
        let (mut bytes, mut gone) = (u32::try_from(bytes).unwrap_or(u32::MAX), 0);
        while let Some(first) = unread.front_mut() {
            if *first > bytes {
                *first -= bytes;
                break;
            }
            bytes -= *first;
            unread.pop_front();
            gone += 1;
        }
        frames.count -= gone;
    }

    /// A stream is gone, with all that came.
    pub(crate) fn closed(&self, stream: u32) {
        let mut frames = self.frames();
        let unread = frames.by_stream.remove(&stream);
        frames.count -= unread.map_or(0, |unread| unread.len());
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Followed<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
        let followed = self.follow(buffer.get(..read).unwrap_or_default());
        Poll::Ready(followed.map(|()| read).map_err(io::Error::other))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Followed<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(cx)
    }
}

/// Frames of a connection that are not read yet: some 6 MiB beside what is in them. The windows filled with messages
/// of wants have a tenth of that.
const MAX_FRAMES: usize = 65_536;
/// Twice what Yamux lets be open: it forgets a stream a moment after it was closed.
const MAX_STREAMS: usize = 2 * crate::muxer::MAX_STREAMS;
pub(crate) const HEADER_BYTES: usize = 12;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, FutureExt, io::Cursor};

    fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        let mut frame = vec![0, kind, 0, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(length.to_be_bytes());
        frame.extend(body);
        frame
    }

    /// Reads all of it, at most `at_once` bytes at a time.
    fn read(bytes: &[u8], at_once: usize, unread: &Unread) -> io::Result<()> {
        let mut followed = Followed::new(Cursor::new(bytes), unread.clone());
        let mut buffer = vec![0; at_once];
        while followed.read(&mut buffer).now_or_never().unwrap()? > 0 {}
        Ok(())
    }

    fn counted(unread: &Unread) -> (usize, usize) {
        let frames = unread.frames();
        let count = frames.by_stream.values().map(VecDeque::len).sum::<usize>();
        assert_eq!(count, frames.count);
        (frames.by_stream.len(), frames.count)
    }

    #[test]
    fn frames_are_counted_however_they_come_until_they_are_read() {
        // In a body, what looks like a header is none.
        let looks_like = frame(DATA, SYN, 9, b"");
        let ping = frame(2, SYN, 0, b"");
        let bytes = [
            frame(DATA, SYN, 1, b""),
            ping.clone(),
            frame(DATA, 0, 1, &looks_like),
            frame(WINDOW_UPDATE, SYN, 3, b""),
            frame(DATA, 0, 3, b"x"),
            frame(DATA, 0, 5, b"of no stream"),
            frame(DATA, 0, 3, b"y"),
            ping,
        ]
        .concat();
        for at_once in [1, 5, 12, 13, 1000] {
            let unread = Unread::default();
            read(&bytes, at_once, &unread).unwrap();
            assert_eq!(counted(&unread), (2, 4), "{at_once}");
            unread.read(3, 1);
            unread.read(7, 1);
            assert_eq!(counted(&unread), (2, 3));
            unread.read(3, 1);
            assert_eq!(counted(&unread), (2, 2));
            // A part of a frame is a frame, and an empty one goes with the next.
            unread.read(1, looks_like.len() - 1);
            assert_eq!(counted(&unread), (2, 1));
            unread.read(1, 1);
            assert_eq!(counted(&unread), (2, 0));
            unread.closed(1);
            assert_eq!(counted(&unread), (1, 0));
        }
    }

    #[test]
    fn too_many_frames_and_too_many_streams_end_the_connection() {
        let unread = Unread::default();
        unread.opened(1).unwrap();
        let one = frame(DATA, 0, 1, b"x");
        read(&one.repeat(MAX_FRAMES), 1 << 16, &unread).unwrap();
        assert!(read(&one, 1 << 16, &unread).is_err());
        unread.read(1, 2);
        read(&one, 1 << 16, &unread).unwrap();

        let numbers = 0..u32::try_from(MAX_STREAMS).unwrap();
        let streams: Vec<u8> = numbers
            .flat_map(|number| frame(DATA, SYN, 2 * number + 1, b""))
            .collect();
        let unread = Unread::default();
        read(&streams, 1 << 16, &unread).unwrap();
        assert!(read(&frame(DATA, SYN, 2, b""), 1 << 16, &unread).is_err());
        unread.closed(1);
        read(&frame(DATA, SYN, 2, b""), 1 << 16, &unread).unwrap();
    }
}
