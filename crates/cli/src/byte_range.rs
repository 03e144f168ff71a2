use std::{fmt, ops::Range, str::FromStr};

/// Bytes of a payload, counted from 0, the last one included, as HTTP counts them (RFC 9110, section 14.1.2):
/// `0-99` are the first hundred, `100-` is all but them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    first: u64,
    last: Option<u64>,
}

/// Why text is not a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range is `A-B` or `A-`: its first and last byte, counted from 0")]
pub struct ByteRangeError;

impl ByteRange {
    /// These bytes of a payload of `size` bytes. A range that goes on after its end stops there; one that
    /// begins there or later has no bytes, and is none.
    pub(crate) fn of(self, size: u64) -> Option<Range<u64>> {
        let end = self
            .last
            .map_or(size, |last| last.saturating_add(1).min(size));
        (self.first < size).then_some(self.first..end)
    }
}

/// The chunks of `chunk_bytes` that have bytes in `range`.
pub(crate) fn chunks_of(range: &Range<u64>, chunk_bytes: u64) -> Range<u64> {
    range.start / chunk_bytes..range.end.div_ceil(chunk_bytes)
}

/// What of the chunk at `index` is in `range`.
pub(crate) fn part<'c>(
    chunk: &'c [u8],
    index: u64,
    range: &Range<u64>,
    chunk_bytes: u64,
) -> &'c [u8] {
    let begin = index.saturating_mul(chunk_bytes);
    let place = |at: u64| {
        let within = usize::try_from(at.saturating_sub(begin)).unwrap_or(usize::MAX);
        within.min(chunk.len())
    };
    chunk
        .get(place(range.start)..place(range.end))
        .unwrap_or_default()
}

impl FromStr for ByteRange {
    type Err = ByteRangeError;

    fn from_str(text: &str) -> Result<Self, ByteRangeError> {
        let (first, last) = text.split_once('-').ok_or(ByteRangeError)?;
        let first = number(first)?;
        let last = match last {
            "" => None,
            last => Some(number(last)?),
        };
        match last.is_none_or(|last| last >= first) {
            true => Ok(Self { first, last }),
            false => Err(ByteRangeError),
        }
    }
}

/// Digits alone: no sign.
fn number(text: &str) -> Result<u64, ByteRangeError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok());
    number.flatten().ok_or(ByteRangeError)
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.first)?;
        self.last.map_or(Ok(()), |last| write!(f, "{last}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Result<ByteRange, ByteRangeError> {
        text.parse()
    }

    #[test]
    fn range_is_two_numbers_and_nothing_else() {
        for text in ["0-0", "0-", "5-9", "18446744073709551615-"] {
            assert_eq!(range(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "-",
            "-5",
            "5",
            "9-5",
            "+1-2",
            "1-+2",
            "1 -2",
            "1-2-3",
            "0x1-2",
            "18446744073709551616-",
        ] {
            assert_eq!(range(text), Err(ByteRangeError), "{text}");
        }
    }

    #[test]
    fn range_ends_with_the_payload() {
        let of = |text: &str, size| range(text).unwrap().of(size);
        assert_eq!(of("0-0", 10), Some(0..1));
        assert_eq!(of("3-", 10), Some(3..10));
        assert_eq!(of("3-9", 10), Some(3..10));
        assert_eq!(of("3-99", 10), Some(3..10));
        assert_eq!(of("9-18446744073709551615", 10), Some(9..10));
        assert_eq!(of("10-", 10), None);
        assert_eq!(of("0-", 0), None);
    }

    #[test]
    fn chunks_of_a_range_begin_and_end_at_chunk_borders() {
        for (bytes, chunks) in [
            (0..1, 0..1),
            (0..8, 0..1),
            (0..9, 0..2),
            (7..8, 0..1),
            (7..9, 0..2),
            (8..9, 1..2),
            (8..16, 1..2),
            (15..17, 1..3),
        ] {
            assert_eq!(chunks_of(&bytes, 8), chunks, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_of_its_chunks_are_the_range(
            size in 1..200_usize, first in 0..200_u64, len in 1..200_u64, chunk_bytes in 1..20_usize,
        ) {
            let payload: Vec<u8> = (0..=250).cycle().take(size).collect();
            let range = ByteRange { first, last: Some(first + len - 1) };
            let Some(bytes) = range.of(size as u64) else {
                prop_assert!(first >= size as u64);
                return Ok(());
            };
            let chunks = chunks_of(&bytes, chunk_bytes as u64);
            let parts: Vec<u8> = payload
                .chunks(chunk_bytes)
                .zip(0..)
                .filter(|(_, index)| chunks.contains(index))
                .flat_map(|(chunk, index)| part(chunk, index, &bytes, chunk_bytes as u64))
                .copied()
                .collect();
            let place = |at: u64| usize::try_from(at).unwrap();
            let expected = &payload[place(first)..place(bytes.end)];
            prop_assert_eq!(parts, expected);
        }
    }
}
