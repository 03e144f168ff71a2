use std::time::Duration;
use tonic::{Code, Status, metadata::MetadataValue};

/// Metadata key under which every error answer carries its stable code: `[a-z-]{1,64}`.
pub const CODE_KEY: &str = "medanchor-code";

/// An error answer with a stable code, which programs act on, and a public sentence, which people read.
///
/// `message` says nothing secret and nothing of a patient; detail belongs in the server's log.
pub fn status(code: Code, stable_code: &'static str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    let value = MetadataValue::from_static(stable_code);
    status.metadata_mut().insert(CODE_KEY, value);
    status
}

/// Metadata key under which an error answer says when the call may be made again, in ms (gRPC A6).
pub(crate) const PUSHBACK_KEY: &str = "grpc-retry-pushback-ms";

/// The answer to a call that came when too many waited: nothing was done.
pub fn overloaded(retry_after: Duration) -> Status {
    let sentence = "too much is under way: retry after a pause";
    let mut status = status(Code::ResourceExhausted, "overloaded", sentence);
    let millis = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    status
        .metadata_mut()
        .insert(PUSHBACK_KEY, MetadataValue::from(millis));
    status
}

/// When an error answer says that the call may be made again.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    let millis = status.metadata().get(PUSHBACK_KEY)?.to_str().ok()?;
    Some(Duration::from_millis(millis.parse().ok()?))
}

/// The stable code in an error answer, when it carries a well-formed one.
pub fn stable_code(status: &Status) -> Option<&str> {
    let code = status.metadata().get(CODE_KEY)?.to_str().ok()?;
    is_stable_code(code).then_some(code)
}

/// Whether text has the form of a stable code: `[a-z-]{1,64}`.
pub(crate) fn is_stable_code(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_carries_its_stable_code() {
        let status = status(Code::ResourceExhausted, "overloaded", "too many requests");
        assert_eq!(stable_code(&status), Some("overloaded"));
        assert_eq!(status.message(), "too many requests");
    }

    #[test]
    fn overloaded_says_when_to_come_again() {
        let status = overloaded(Duration::from_millis(70));
        assert_eq!(stable_code(&status), Some("overloaded"));
        assert_eq!(retry_after(&status), Some(Duration::from_millis(70)));
    }

    #[test]
    fn pushback_that_is_no_number_is_ignored() {
        for text in ["", "-1", "soon", "99999999999999999999"] {
            let mut status = Status::new(Code::ResourceExhausted, "");
            let value = MetadataValue::try_from(text).unwrap();
            status.metadata_mut().insert(PUSHBACK_KEY, value);
            assert_eq!(retry_after(&status), None, "{text}");
        }
    }

    #[test]
    fn code_of_another_form_is_ignored() {
        for code in ["", "UPPER", "with space", &"a".repeat(65)] {
            let mut status = Status::new(Code::Internal, "");
            let value = MetadataValue::try_from(code).unwrap();
            status.metadata_mut().insert(CODE_KEY, value);
            assert_eq!(stable_code(&status), None, "{code}");
        }
    }
}
