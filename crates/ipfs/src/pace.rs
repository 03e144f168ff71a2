use std::time::Duration;
use tokio::time::Instant;

/// When bytes may go, so that no more go than at a rate. Time that was not used is not saved up.
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When all that went so far has taken its time.
    free_at: Instant,
}

impl Pace {
    /// At least a byte per second.
    pub(crate) fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: now,
        }
    }

    /// Takes note that so many bytes have gone: nothing more should before this.
    pub(crate) fn gone(&mut self, bytes: u64, now: Instant) -> Instant {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now) + takes;
        self.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_rest_is_not_saved_up() {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut pace = Pace::new(1000, began);
        assert_eq!(pace.gone(100, began), after(100));
        assert_eq!(pace.gone(100, after(50)), after(200));
        assert_eq!(pace.gone(100, after(5000)), after(5100));
        assert_eq!(Pace::new(0, began).gone(2, began), after(2000));
    }
}
