use crate::{link::Link, message::Message};
use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

/// The largest message that is read: what Kubo and Helia send at most, and slack.
pub(crate) const MAX_MESSAGE_BYTES: usize = (4 << 20) + (64 << 10);

/// A received message. Its bytes count against the peer's memory until it is dropped.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) message: Message,
    _memory: OwnedSemaphorePermit,
}

/// Why no further message can be read from a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// It announces more than [`MAX_MESSAGE_BYTES`]; nothing was allocated.
    #[error("message is too long")]
    TooLong,
    /// It lists more than [`MAX_LISTED`] things.
    #[error("message lists too much")]
    TooMany,
    /// The bytes are not a Bitswap message.
    #[error("not a bitswap message")]
    Malformed(#[from] prost::DecodeError),
    /// The stream broke, or nothing more came in the midst of a message.
    #[error("stream failed")]
    Io(#[from] io::Error),
}

/// The message with its length in front, as it is sent.
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

/// The next message, or `None` at the end of the stream.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    link: &Link,
    silence: Duration,
) -> Result<Option<Frame>, FrameError> {
    let Some(permits) = read_length(stream, silence).await? else {
        return Ok(None);
    };
    // Wait for room here, before anything is allocated: the sender is held back by Yamux.
    let memory = Arc::clone(&link.memory)
        .acquire_many_owned(permits)
        .await
        .map_err(io::Error::other)?;
    let size = usize::try_from(permits).map_err(|_| FrameError::TooLong)?;
    // Memory is not held for who sends a byte now and then.
    let slowly = Duration::from_secs(u64::from(permits) / SLOWEST_BYTES_PER_SECOND);
    let bytes = timeout(silence + slowly, read_body(stream, size, link, silence))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if listed(&bytes)? > MAX_LISTED {
        return Err(FrameError::TooMany);
    }
    Ok(Some(Frame {
        message: Message::decode(bytes)?,
        _memory: memory,
    }))
}

/// The unsigned varint in front of a message (<https://github.com/multiformats/unsigned-varint>).
async fn read_length<R: AsyncRead + Unpin>(
    stream: &mut R,
    silence: Duration,
) -> Result<Option<u32>, FrameError> {
    let mut byte = [0; 1];
    // Between two messages a stream may rest as long as it likes.
    if stream.read(&mut byte).await? == 0 {
        return Ok(None);
    }
    let mut length = 0u32;
    for shift in [0, 7, 14, 21] {
        let [octet] = byte;
        length |= u32::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return match usize::try_from(length) {
                Ok(size) if size <= MAX_MESSAGE_BYTES => Ok(Some(length)),
                _ => Err(FrameError::TooLong),
            };
        }
        in_time(silence, stream.read_exact(&mut byte)).await?;
    }
    Err(FrameError::TooLong)
}

/// Reads `size` bytes into a buffer that grows with what arrives, not with what was announced.
async fn read_body<R: AsyncRead + Unpin>(
    stream: &mut R,
    size: usize,
    link: &Link,
    silence: Duration,
) -> Result<Bytes, FrameError> {
    let mut bytes = vec![0; size.min(FIRST_BUFFER_BYTES)];
    let mut filled = 0;
    while filled < size {
        if filled == bytes.len() {
            bytes.resize(size.min(GROWTH * filled), 0);
        }
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        let read = in_time(silence, stream.read(rest)).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        filled += read;
        link.heard(Instant::now());
    }
    Ok(bytes.into())
}

/// How many wants, blocks and presences a message lists. An empty one takes two bytes on the wire and many more
/// once it is decoded, so they are counted before.
fn listed(mut message: &[u8]) -> Result<usize, prost::DecodeError> {
    let mut count = 0;
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message)?;
        let mut field = message;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        if tag != WANTLIST || wire_type != WireType::LengthDelimited {
            count += 1;
            continue;
        }
        field = field.get(..field.len() - message.len()).unwrap_or_default();
        decode_varint(&mut field)?;
        while !field.is_empty() {
            let (tag, wire_type) = decode_key(&mut field)?;
            skip_field(wire_type, tag, &mut field, DecodeContext::default())?;
            count += 1;
        }
    }
    Ok(count)
}

/// What an attempt to read or write gives within `limit`.
pub(crate) async fn in_time<T>(
    limit: Duration,
    attempt: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Kubo and Helia list some thousand at most.
const MAX_LISTED: usize = 1 << 16;
const WANTLIST: u32 = 1;
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;
/// A little more than a sixteenth of a message with 1 MiB of blocks: that grows once.
const FIRST_BUFFER_BYTES: usize = 65 << 10;
/// What was received is copied at most once, and whoever has sent so little does not get more.
const GROWTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Entry, Payload, Presence, Wantlist};
    use futures::io::Cursor;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<Message>, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let link = Link::new(1);
            let mut stream = Cursor::new(bytes);
            let mut messages = Vec::new();
            while let Some(frame) = read(&mut stream, &link, Duration::from_secs(60)).await? {
                messages.push(frame.message);
            }
            Ok(messages)
        })
    }

    fn message(size: usize) -> Message {
        Message {
            payload: vec![Payload {
                prefix: vec![1, 0x55, 0x12, 32],
                data: vec![7; size].into(),
            }],
            ..Message::default()
        }
    }

    #[test]
    fn messages_are_read_one_after_the_other() {
        let messages = vec![message(0), message(200), message(300_000), message(4 << 20)];
        let bytes: Vec<u8> = messages.iter().flat_map(encode).collect();
        assert_eq!(read_all(&bytes).unwrap(), messages);
    }

    #[test]
    fn buffer_grows_once_for_a_mebibyte_of_blocks() {
        for blocks in [1, 4, 64] {
            let mut full = message((1 << 20) / blocks);
            full.payload = vec![full.payload[0].clone(); blocks];
            assert!(
                full.encoded_len() <= GROWTH * FIRST_BUFFER_BYTES,
                "{blocks}"
            );
        }
    }

    #[test]
    fn huge_length_is_refused_before_anything_is_read() {
        let too_long = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap();
        let mut prefix = Vec::new();
        prost::encoding::encode_varint(too_long.into(), &mut prefix);
        for prefix in [prefix.as_slice(), &[0xff; 5], &[0xff; 10]] {
            assert!(matches!(read_all(prefix), Err(FrameError::TooLong)));
        }
    }

    #[test]
    fn truncated_message_is_an_error() {
        let bytes = encode(&message(1000));
        for end in 1..bytes.len() {
            assert!(read_all(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn message_that_lists_too_much_is_refused_before_it_is_decoded() {
        let of = |wants: usize, presences: usize| Message {
            wantlist: Some(Wantlist {
                entries: vec![Entry::default(); wants],
                full: false,
            }),
            presences: vec![Presence::default(); presences],
            ..Message::default()
        };
        let most = of(MAX_LISTED / 2, MAX_LISTED / 2);
        assert_eq!(read_all(&encode(&most)).unwrap(), [most]);
        for (wants, presences) in [(MAX_LISTED + 1, 0), (0, MAX_LISTED + 1), (2_000_000, 0)] {
            let bytes = encode(&of(wants, presences));
            assert!(matches!(read_all(&bytes), Err(FrameError::TooMany)));
        }
    }

    proptest! {
        #[test]
        fn listed_counts_what_is_decoded(
            wants in 0..20usize, payload in 0..20usize, presences in 0..20usize,
        ) {
            let message = Message {
                wantlist: Some(Wantlist {
                    entries: vec![Entry { block: vec![8; 36].into(), ..Entry::default() }; wants],
                    full: false,
                }),
                payload: vec![Payload { prefix: vec![1], data: vec![9; 300].into() }; payload],
                presences: vec![Presence { cid: vec![7; 36].into(), presence_type: 1 }; presences],
                pending_bytes: 0,
            };
            let bytes = message.encode_to_vec();
            prop_assert_eq!(listed(&bytes).unwrap(), wants + payload + presences);
        }

        #[test]
        fn read_of_any_bytes_does_not_panic(bytes: Vec<u8>) {
            let _ = read_all(&bytes);
        }

        #[test]
        fn any_presences_are_read_back(cids: Vec<Vec<u8>>) {
            let presences = cids
                .into_iter()
                .map(|cid| Presence { cid: cid.into(), presence_type: 1 })
                .collect();
            let message = Message { presences, ..Message::default() };
            prop_assert_eq!(read_all(&encode(&message)).unwrap(), vec![message]);
        }
    }
}
