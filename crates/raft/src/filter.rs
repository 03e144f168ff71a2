/// Says of most keys that are not in a set that they are not: a Bloom filter, each key's bits in one line of the
/// processor's cache.
///
/// It is kept on disk: what [`hash`] gives and which bits are set must not change.
pub(crate) struct Filter(Vec<u8>);

impl Filter {
    /// A filter of the keys with these hashes.
    pub(crate) fn of(hashes: &[u64]) -> Self {
        let lines = (hashes.len() * BITS_PER_KEY).div_ceil(8 * LINE).max(1);
        let mut filter = Self(vec![0; lines * LINE]);
        for hash in hashes {
            let line = filter.line(*hash);
            if let Some(line) = filter.0.get_mut(line..) {
                for (at, bit) in bits(*hash) {
                    if let Some(byte) = line.get_mut(at) {
                        *byte |= bit;
                    }
                }
            }
        }
        filter
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let is_whole = !bytes.is_empty() && bytes.len().is_multiple_of(LINE);
        is_whole.then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// False: no key with this hash is in the set.
    pub(crate) fn may_have(&self, hash: u64) -> bool {
        let line = self.0.get(self.line(hash)..).unwrap_or_default();
        bits(hash).all(|(at, bit)| line.get(at).is_some_and(|byte| byte & bit != 0))
    }

    /// Where the line of a key begins.
    fn line(&self, hash: u64) -> usize {
        let lines = (self.0.len() / LINE) as u64;
        let line = ((hash >> 32) * lines) >> 32;
        usize::try_from(line).unwrap_or(0) * LINE
    }
}

/// The bytes of its line that a key has a bit in.
fn bits(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let bits = mix(hash);
    (0..BITS_SET).map(move |n| {
        let [low, high, ..] = (bits >> (9 * n)).to_le_bytes();
        // Nine bits: which of 512.
        (usize::from(low >> 3 | (high & 1) << 5), 1 << (low & 7))
    })
}

/// The same on every machine.
pub(crate) fn hash(key: &[u8]) -> u64 {
    key.chunks(8).fold(key.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        mix(hash ^ u64::from_le_bytes(word))
    })
}

/// splitmix64.
fn mix(state: u64) -> u64 {
    let word = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Bytes of a cache line.
const LINE: usize = 64;
const BITS_PER_KEY: usize = 10;
const BITS_SET: u32 = 6;
