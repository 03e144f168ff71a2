use futures::future::BoxFuture;
use medanchor_dag::{Block, BlockSource, Cid, SourceError};
use std::{
    fmt,
    num::NonZeroU64,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Bytes per second: a whole number, alone or with `k`, `M` or `G` (powers of 1000), `Ki`, `Mi` or `Gi`
/// (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

/// Why text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate is bytes per second, such as `500k`, `20M` or `1Gi`")]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| RateError)?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit);
        let bytes = unit.and_then(|(_, unit)| number.checked_mul(*unit));
        bytes.and_then(NonZeroU64::new).map(Self).ok_or(RateError)
    }
}

/// Lets bytes through at a rate, in whatever order they are asked for.
#[derive(Debug)]
pub(crate) struct Throttle {
    began: Instant,
    pace: Mutex<Pace>,
}

impl Throttle {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            began: Instant::now(),
            pace: Mutex::new(Pace::new(rate)),
        }
    }

    /// Waits for the turn of this many bytes.
    pub(crate) async fn wait(&self, bytes: u64) {
        let turn = self.pace().reserve(self.began.elapsed(), bytes);
        tokio::time::sleep_until(self.began + turn).await;
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When bytes may go. Times are since it began.
#[derive(Debug)]
struct Pace {
    rate: Rate,
    /// When all that was let through so far has taken its time.
    free_at: Duration,
}

impl Pace {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            free_at: Duration::ZERO,
        }
    }

    /// When these bytes may go: time that was not used is not saved up.
    fn reserve(&mut self, now: Duration, bytes: u64) -> Duration {
        let turn = self.free_at.max(now);
        self.free_at = turn.saturating_add(self.time_of(bytes));
        turn
    }

    /// Fewer came than were reserved.
    fn give_back(&mut self, bytes: u64) {
        self.free_at = self.free_at.saturating_sub(self.time_of(bytes));
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.0.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A source of which no more is asked than a throttle lets through.
pub(crate) struct Throttled {
    pub(crate) source: Arc<dyn BlockSource>,
    pub(crate) throttle: Arc<Throttle>,
    /// Length of the blocks that are fetched, in bytes, or of the longest of them.
    pub(crate) block_bytes: u64,
}

impl BlockSource for Throttled {
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        Box::pin(async move {
            self.throttle.wait(self.block_bytes).await;
            let block = self.source.fetch(cid).await;
            let came = block.as_ref().map_or(0, |block| block.bytes().len());
            let came = u64::try_from(came).unwrap_or(u64::MAX);
            let unused = self.block_bytes.saturating_sub(came);
            self.throttle.pace().give_back(unused);
            block
        })
    }
}

impl fmt::Debug for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttled")
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}

const UNITS: [(&str, u64); 7] = [
    ("", 1),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
];

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{BlockStore, Codec, MemoryStore};

    #[test]
    fn rate_is_a_number_with_a_unit() {
        let bytes = |text: &str| text.parse::<Rate>().map(|rate| rate.0.get());
        for (text, expected) in [
            ("1", 1),
            ("500k", 500_000),
            ("20M", 20_000_000),
            ("2G", 2_000_000_000),
            ("1Ki", 1024),
            ("3Mi", 3 << 20),
            ("1Gi", 1 << 30),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "0k",
            "k",
            "-1",
            "+1",
            "1.5M",
            "1 M",
            "1K",
            "1m",
            "1MB",
            "20000000000G",
        ] {
            assert_eq!(bytes(text), Err(RateError), "{text}");
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bytes_go_one_after_the_other_at_the_rate() {
        let mut pace = Pace::new("1000".parse().unwrap());
        assert_eq!(pace.reserve(ms(0), 100), ms(0));
        assert_eq!(pace.reserve(ms(0), 50), ms(100));
        assert_eq!(pace.reserve(ms(10), 10), ms(150));
        assert_eq!(pace.free_at, ms(160));
    }

    #[test]
    fn idle_time_is_not_saved_up_and_unused_bytes_are_given_back() {
        let mut pace = Pace::new("1000".parse().unwrap());
        assert_eq!(pace.reserve(ms(5000), 100), ms(5000));
        assert_eq!(pace.reserve(ms(5000), 100), ms(5100));
        pace.give_back(60);
        assert_eq!(pace.reserve(ms(5000), 1), ms(5140));
    }

    #[tokio::test]
    async fn throttled_source_lets_every_block_take_its_time() {
        let store = MemoryStore::default();
        let blocks: Vec<Block> = (0..4)
            .map(|seed| Block::new(Codec::Raw, vec![seed; 250]).unwrap())
            .collect();
        store.put(&blocks).unwrap();
        let source = Throttled {
            source: Arc::new(store),
            throttle: Arc::new(Throttle::new("1M".parse().unwrap())),
            block_bytes: 500,
        };
        for block in &blocks {
            assert_eq!(&source.fetch(block.cid()).await.unwrap(), block);
        }
        let missing = Block::new(Codec::Raw, vec![9; 250]).unwrap();
        let before = source.throttle.pace().free_at;
        assert!(before >= Duration::from_micros(1000), "{before:?}");
        assert!(source.fetch(missing.cid()).await.is_err());
    }
}
