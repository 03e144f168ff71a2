//! The armor of age: strict PEM (RFC 7468).

use crate::OpenError;
use base64::{Engine, engine::general_purpose::STANDARD};

/// The text form of an age file.
pub(crate) fn armor(bytes: &[u8]) -> String {
    let base64 = STANDARD.encode(bytes);
    let mut text = format!("{BEGIN}\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + END + "\n"
}

/// Whether it begins as the text form does.
pub(crate) fn is_armored(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(BEGIN.as_bytes())
}

/// The age file of its text form.
pub(crate) fn dearmor(bytes: &[u8]) -> Result<Vec<u8>, OpenError> {
    let malformed = OpenError::Malformed("its armor is damaged");
    let text = str::from_utf8(bytes).map_err(|_| malformed.clone())?;
    let mut lines: Vec<&str> = text.trim_ascii().lines().collect();
    let framed = lines.pop() == Some(END) && !lines.is_empty() && lines.remove(0) == BEGIN;
    let Some((last, full)) = lines.split_last().filter(|_| framed) else {
        return Err(malformed);
    };
    let fits = full.iter().all(|line| line.len() == COLUMNS) && (1..=COLUMNS).contains(&last.len());
    match fits {
        true => STANDARD.decode(lines.concat()).map_err(|_| malformed),
        false => Err(malformed),
    }
}

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
const COLUMNS: usize = 64;
