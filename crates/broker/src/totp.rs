//! Time-based one-time passwords ([RFC 6238](https://www.rfc-editor.org/rfc/rfc6238)) with HMAC-SHA-1, steps of 30 s and
//! six digits: what every authenticator app makes.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// Seconds in which a code is shown.
pub(crate) const STEP_SECONDS: u64 = 30;

/// The code of a step, as the app shows it ([RFC 4226](https://www.rfc-editor.org/rfc/rfc4226) section 5.3).
///
/// # Panics
///
/// Never: HMAC takes keys of any length, and SHA-1's output has 20 bytes.
pub(crate) fn code(secret: &[u8], step: u64) -> [u8; 6] {
    #[expect(clippy::unwrap_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).unwrap();
    mac.update(&step.to_be_bytes());
    let hash: [u8; 20] = mac.finalize().into_bytes().into();
    let [.., last] = hash;
    let mut four = [0; 4];
    for (byte, of_hash) in four
        .iter_mut()
        .zip(hash.iter().skip(usize::from(last & 0xf)))
    {
        *byte = *of_hash;
    }
    let number = (u32::from_be_bytes(four) & 0x7fff_ffff) % 1_000_000;
    let mut digits = [b'0'; 6];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_rfcs() {
        let secret = b"12345678901234567890";
        // RFC 4226, appendix D.
        for (step, expected) in (0..).zip([
            "755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583",
            "399871", "520489",
        ]) {
            assert_eq!(code(secret, step), expected.as_bytes(), "{step}");
        }
        // RFC 6238, appendix B, the last six of eight digits.
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000_u64, "353130"),
        ] {
            assert_eq!(
                code(secret, seconds / STEP_SECONDS),
                expected.as_bytes(),
                "{seconds}"
            );
        }
    }
}
