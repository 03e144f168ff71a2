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
    fn code_of_another_form_is_ignored() {
        for code in ["", "UPPER", "with space", &"a".repeat(65)] {
            let mut status = Status::new(Code::Internal, "");
            let value = MetadataValue::try_from(code).unwrap();
            status.metadata_mut().insert(CODE_KEY, value);
            assert_eq!(stable_code(&status), None, "{code}");
        }
    }
}
