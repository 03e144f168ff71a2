use std::time::Duration;
use tokio::time::Instant;

/// How many blocks a peer is asked for at a time.
///
/// It grows by each block that comes soon (by one a round, once a block was late) and is halved when blocks come
/// late: additive increase, multiplicative decrease, as in TCP. A fast peer far away gets enough to fill the way to
/// it, a slow one no more than it can deliver. What is asked for stays below a number of bytes, estimated by
/// the size of the blocks that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    blocks: usize,
    /// Blocks that came in time since it grew last.
    in_time: usize,
    block_bytes: usize,
    /// When it shrank last: what was asked before says nothing about the window of now.
    shrunk: Option<Instant>,
}

impl Window {
    /// Blocks that may be asked for at a time.
    pub(crate) fn blocks(&self) -> usize {
        let by_bytes = MAX_BYTES / self.block_bytes.max(1);
        self.blocks.min(by_bytes).clamp(MIN_BLOCKS, MAX_BLOCKS)
    }

    /// A block of this size came that was asked for at `asked`.
    pub(crate) fn delivered(&mut self, asked: Instant, now: Instant, bytes: usize) {
        // Up at once, down slowly: the next block may be as large as this one.
        self.block_bytes = bytes.max((self.block_bytes * 15 + bytes) / 16);
        if now.saturating_duration_since(asked) >= LATE {
            self.shrink(asked, now);
            return;
        }
        self.in_time += 1;
        let needed = self.shrunk.map_or(1, |_| self.blocks);
        if self.in_time >= needed {
            self.in_time = 0;
            self.blocks = (self.blocks() + 1).min(MAX_BLOCKS);
        }
    }

    /// What was asked for did not come at all.
    pub(crate) fn missed(&mut self, now: Instant) {
        // Blocks that were asked for together are missed together.
        self.shrink(now.checked_sub(LATE).unwrap_or(now), now);
    }

    fn shrink(&mut self, asked: Instant, now: Instant) {
        self.in_time = 0;
        if self.shrunk.is_none_or(|shrunk| asked >= shrunk) {
            self.blocks = (self.blocks() / 2).max(MIN_BLOCKS);
            self.shrunk = Some(now);
        }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            blocks: FIRST_BLOCKS,
            in_time: 0,
            block_bytes: 0,
            shrunk: None,
        }
    }
}

/// Blocks wait this long for those before them, and no longer: then fewer at a time are as fast.
const LATE: Duration = Duration::from_millis(500);
pub(crate) const FIRST_BLOCKS: usize = 16;
/// One is written while the next is asked for.
const MIN_BLOCKS: usize = 2;
/// Kubo forgets what is wanted from it beyond 1024 blocks.
const MAX_BLOCKS: usize = 512;
const MAX_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The window after a peer that delivers this many bytes a second, over a way that takes `rtt` there and back,
    /// has sent this many blocks.
    fn after(blocks: usize, block_bytes: u64, rate: u64, rtt: Duration) -> Window {
        let mut window = Window::default();
        let mut now = Instant::now();
        let mut ready = now;
        let mut asked = std::collections::VecDeque::new();
        for _ in 0..blocks {
            while asked.len() < window.blocks() {
                ready = ready.max(now + rtt / 2)
                    + Duration::from_secs(block_bytes) / u32::try_from(rate).unwrap();
                asked.push_back((now, ready + rtt / 2));
            }
            let (at, comes) = asked.pop_front().unwrap();
            now = now.max(comes);
            window.delivered(at, now, usize::try_from(block_bytes).unwrap());
        }
        window
    }

    #[test]
    fn window_fits_the_peer() {
        let [near, far] = [1, 100].map(Duration::from_millis);
        let mb = 1_000_000;
        for (block_bytes, rate, rtt, least, most) in [
            // Fast: as many as the bounds allow.
            (4 << 10, 100 * mb, near, MAX_BLOCKS, MAX_BLOCKS),
            (1 << 20, 100 * mb, near, 16, 16),
            // Far: enough to fill the way, 2.5 MB.
            (4 << 10, 25 * mb, far, MAX_BLOCKS, MAX_BLOCKS),
            (256 << 10, 25 * mb, far, 10, 64),
            // Slow: about what comes in half a second.
            (4 << 10, mb, near, 60, 130),
            (1 << 20, mb, near, MIN_BLOCKS, 3),
        ] {
            let blocks = after(5000, block_bytes, rate, rtt).blocks();
            assert!(
                (least..=most).contains(&blocks),
                "{blocks} of {block_bytes} bytes at {rate} bytes/s"
            );
        }
    }

    #[test]
    fn blocks_that_were_asked_together_shrink_it_once() {
        let mut window = Window::default();
        let asked = Instant::now();
        let late = asked + LATE;
        for _ in 0..FIRST_BLOCKS {
            window.delivered(asked, late, 1000);
        }
        assert_eq!(window.blocks(), FIRST_BLOCKS / 2);
        for _ in 0..FIRST_BLOCKS {
            window.missed(late + LATE);
        }
        assert_eq!(window.blocks(), FIRST_BLOCKS / 4);
    }

    proptest! {
        #[test]
        fn window_is_bounded_in_blocks_and_bytes(
            deliveries: Vec<(u16, prop::sample::Index)>,
        ) {
            let mut window = Window::default();
            let start = Instant::now();
            for (millis, size) in deliveries {
                let bytes = size.index((1 << 20) + 1);
                let now = start + Duration::from_millis(millis.into());
                window.delivered(start, now, bytes);
                prop_assert!((MIN_BLOCKS..=MAX_BLOCKS).contains(&window.blocks()));
                let all = window.blocks() * bytes;
                prop_assert!(all <= MAX_BYTES);
            }
        }
    }
}
