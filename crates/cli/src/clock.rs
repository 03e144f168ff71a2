//! The one place that reads the wall clock, and how times are written.

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, SecondsFormat, Utc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, unix ms. A clock before 1970 reads as 0.
pub(crate) fn unix_ms() -> u64 {
    to_unix_ms(SystemTime::now())
}

/// A file's time, unix ms.
pub(crate) fn to_unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds. What is later than the year 262142 reads as its end.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis);
    time.unwrap_or(DateTime::<Utc>::MAX_UTC)
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The first and the last millisecond, unix ms, of what RFC 3339 or a date names: `2026`, `2026-03`, `2026-03-01`,
/// `2026-03-01T10:15:00Z`, `2026-03-01T10:15:00.250+02:00`. Dates are UTC. `None` for what is no time, or before 1970.
pub(crate) fn span(text: &str) -> Option<(u64, u64)> {
    let midnight = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc();
    let date = |text: &str| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    let (first, next) = match text.len() {
        4 => {
            let first = date(&format!("{text}-01-01"))?;
            (
                midnight(first),
                midnight(first.checked_add_months(Months::new(12))?),
            )
        }
        7 => {
            let first = date(&format!("{text}-01"))?;
            (
                midnight(first),
                midnight(first.checked_add_months(Months::new(1))?),
            )
        }
        10 => {
            let first = date(text)?;
            (
                midnight(first),
                midnight(first.checked_add_days(Days::new(1))?),
            )
        }
        _ => {
            let first = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
            let lasts = Duration::from_millis(if text.contains('.') { 1 } else { 1000 });
            (
                first,
                first.checked_add_signed(chrono::TimeDelta::from_std(lasts).ok()?)?,
            )
        }
    };
    let unix_ms = |time: DateTime<Utc>| u64::try_from(time.timestamp_millis()).ok();
    Some((unix_ms(first)?, unix_ms(next)?.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc3339_and_read_again() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_792_000_000_000, "2026-10-14T17:46:40.000Z"),
        ] {
            assert_eq!(rfc3339(unix_ms), text);
            assert_eq!(span(text), Some((unix_ms, unix_ms)));
        }
        assert!(rfc3339(u64::MAX).starts_with("+262142-12-31"));
    }

    #[test]
    fn what_is_not_said_of_a_time_is_all_of_it() {
        for (text, first, last) in [
            (
                "2024",
                "2024-01-01T00:00:00.000Z",
                "2024-12-31T23:59:59.999Z",
            ),
            (
                "2024-02",
                "2024-02-01T00:00:00.000Z",
                "2024-02-29T23:59:59.999Z",
            ),
            (
                "2024-12-31",
                "2024-12-31T00:00:00.000Z",
                "2024-12-31T23:59:59.999Z",
            ),
            (
                "2026-03-01T10:15:00+02:00",
                "2026-03-01T08:15:00.000Z",
                "2026-03-01T08:15:00.999Z",
            ),
        ] {
            let said = span(text).map(|(first, last)| (rfc3339(first), rfc3339(last)));
            assert_eq!(said, Some((first.to_owned(), last.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in [
            "",
            "now",
            "20",
            "15/01/2026",
            "2026-13",
            "2023-02-29",
            "1969",
            "2026-3-1",
            "2026-03-01T10:15",
            "2026-03-01 25:00:00Z",
            "2026-03-01T10:15:00",
        ] {
            assert_eq!(span(text), None, "{text}");
        }
    }
}
