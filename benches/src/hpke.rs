//! What a release cannot do without: a content key opened and sealed again by HPKE, on one thread.

use crate::{
    author::Author,
    payload::{KIB, payload},
};
use anyhow::Result;
use medanchor_dag::CustodyId;
use medanchor_envelope::{Header, Identity, Suite, Wrap, rewrap};
use std::time::Instant;

/// Seconds to open and seal so many content keys and nothing else.
pub(crate) fn rewrapped(records: usize) -> Result<f64> {
    let (custody, reader) = (Identity::generate()?, Identity::generate()?);
    let mut author = Author::new(CustodyId::generate()?, custody.recipient())?;
    let content = payload(KIB);
    let sealed = author.seal(content.as_slice(), Suite::ChaCha20Poly1305, &mut |_| Ok(()))?;
    let header = Header::from_bytes(&sealed.record.header_bytes())?;
    let wrap = Wrap::from_bytes(sealed.wrap.bytes())?;
    let (commitment, recipient) = (sealed.record.commitment(), reader.recipient());
    let began = Instant::now();
    for number in 0..records {
        let mut request = [0; 32];
        let (first, _) = request.split_at_mut(8);
        first.copy_from_slice(&u64::try_from(number)?.to_be_bytes());
        rewrap(
            &wrap,
            &custody,
            &header,
            commitment,
            &recipient,
            request,
            u64::MAX,
        )?;
    }
    Ok(began.elapsed().as_secs_f64())
}
