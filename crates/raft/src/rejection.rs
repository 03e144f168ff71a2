/// The code of a rejection that came over the wire, as `apply` writes it. One that a newer leader knows and
/// this replica does not is a plain rejection.
pub(crate) fn rejection(code: &str) -> &'static str {
    CODES
        .into_iter()
        .find(|known| *known == code)
        .unwrap_or("rejected")
}

const CODES: [&str; 10] = [
    "already-founded",
    "bad-signature",
    "expiry-too-far",
    "founders-missing",
    "malformed",
    "not-for-the-log",
    "not-founded",
    "not-held",
    "unknown-author",
    "wrong-origin",
];
