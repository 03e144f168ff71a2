use std::io::{self, Write};

/// This many bytes that no program can compress, always the same.
pub(crate) fn payload(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    let mut state = SEED;
    while bytes.len() < size {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The size as people write it.
pub(crate) fn size_name(size: usize) -> String {
    match size {
        size if size >= MIB => format!("{} MiB", size / MIB),
        size => format!("{} KiB", size / KIB),
    }
}

/// A writer that compares what it is given with what it should be.
#[derive(Debug)]
pub(crate) struct Compare<'a>(pub(crate) &'a [u8]);

impl Write for Compare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .strip_prefix(bytes)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
