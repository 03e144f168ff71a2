//! base58btc of a prefix and 32 bytes: all that a `did:key` of an Ed25519 key needs. A statement names several,
//! and each time that it is parsed, hashed or stored they are converted, which at any length costs most of that.

/// Digits of every number that begins with the prefix.
pub(crate) const DIGITS: usize = 47;

/// The digits of `PREFIX || bytes`.
pub(crate) fn encode(bytes: &[u8; 32]) -> [u8; DIGITS] {
    // Big-endian, in base 2^32; divided again and again by 58^5, the largest power of 58 below that base.
    let mut number = [PREFIX; LIMBS];
    let (words, _) = bytes.as_chunks();
    for (limb, word) in number.iter_mut().skip(1).zip(words) {
        *limb = u64::from(u32::from_be_bytes(*word));
    }
    let mut digits = [0; DIGITS];
    for group in digits.rchunks_mut(GROUP_DIGITS) {
        let mut rest = 0;
        for limb in number.iter_mut().skip_while(|limb| **limb == 0) {
            let value = rest << LIMB_BITS | *limb;
            (*limb, rest) = (value / GROUP, value % GROUP);
        }
        for digit in group.iter_mut().rev() {
            let value = usize::try_from(rest % 58).ok();
            *digit = value
                .and_then(|value| ALPHABET.get(value))
                .map_or(0, |c| *c);
            rest /= 58;
        }
    }
    digits
}

/// The bytes behind the prefix; `None` when these are no digits of such a number.
pub(crate) fn decode(digits: &[u8]) -> Option<[u8; 32]> {
    if digits.len() != DIGITS {
        return None;
    }
    let mut number = [0; LIMBS];
    let (first, groups) = digits.split_at_checked(DIGITS % GROUP_DIGITS)?;
    for group in std::iter::once(first).chain(groups.chunks(GROUP_DIGITS)) {
        let (mut carry, mut factor) = (0, 1);
        for digit in group {
            let value = VALUES.get(usize::from(*digit)).filter(|v| **v != NONE)?;
            carry = carry * 58 + u64::from(*value);
            factor *= 58;
        }
        // 58^47 is below 2^288, so that nothing is carried out of the first limb.
        for limb in number.iter_mut().rev() {
            let value = *limb * factor + carry;
            (*limb, carry) = (value & LIMB_MASK, value >> LIMB_BITS);
        }
    }
    let (prefix, words) = number.split_first()?;
    if *prefix != PREFIX {
        return None;
    }
    let mut bytes = [0; 32];
    let (chunks, _) = bytes.as_chunks_mut();
    for (chunk, word) in chunks.iter_mut().zip(words) {
        *chunk = u32::try_from(*word).ok()?.to_be_bytes();
    }
    Some(bytes)
}

/// Multicodec `ed25519-pub` (0xed) as a varint.
const PREFIX: u64 = 0xed01;
const LIMBS: usize = 9;
const LIMB_BITS: u32 = 32;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
const GROUP_DIGITS: usize = 5;
const GROUP: u64 = 58_u64.pow(5);
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// In [`VALUES`]: not a digit.
const NONE: u8 = u8::MAX;
/// Of each byte its value as a digit.
const VALUES: [u8; 256] = values();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "runs in the compiler, which would refuse it; 58 digits fit in a byte"
)]
const fn values() -> [u8; 256] {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_bs58(bytes: &[u8; 32]) -> String {
        bs58::encode([&[0xed, 0x01], bytes.as_slice()].concat()).into_string()
    }

    #[test]
    fn smallest_and_largest_key_agree_with_bs58() {
        for bytes in [[0; 32], [0xff; 32]] {
            assert_eq!(encode(&bytes).as_slice(), by_bs58(&bytes).as_bytes());
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn numbers_next_to_those_with_the_prefix_are_refused() {
        for prefix in [[0xed, 0x00], [0xed, 0x02], [0x00, 0x00], [0xff, 0xff]] {
            for rest in [[0; 32], [0xff; 32]] {
                let text = bs58::encode([prefix.as_slice(), &rest].concat()).into_string();
                assert_eq!(decode(text.as_bytes()), None, "{text}");
            }
        }
        assert_eq!(decode(&[b'z'; DIGITS]), None);
        assert_eq!(decode(b""), None);
    }

    proptest! {
        #[test]
        fn keys_agree_with_bs58(bytes: [u8; 32]) {
            let (digits, expected) = (encode(&bytes), by_bs58(&bytes));
            prop_assert_eq!(digits.as_slice(), expected.as_bytes());
            prop_assert_eq!(decode(&digits), Some(bytes));
        }

        #[test]
        fn changed_digits_agree_with_bs58(bytes: [u8; 32], at in 0..DIGITS, digit: u8) {
            let mut digits = encode(&bytes);
            digits[at] = digit;
            let mut oracle = [0; 34];
            let written = bs58::decode(&digits).onto(&mut oracle);
            let expected = match oracle.split_at(2) {
                ([0xed, 0x01], key) if written == Ok(34) => key.try_into().ok(),
                _ => None,
            };
            prop_assert_eq!(decode(&digits), expected);
        }
    }
}
