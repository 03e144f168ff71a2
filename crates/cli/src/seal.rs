use crate::{
    OwnKeys,
    device_stream::DeviceStream,
    outbox::{Outbox, SourceFile, Upload},
};
use anyhow::{Context, Result};
use medanchor_dag::{Block, Codec, CustodyId, Draft, from_canonical, import, to_canonical};
use medanchor_envelope::{Header, Recipient, Sealer, Suite};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// What is sealed, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) custody: CustodyId,
    pub(crate) custody_key: Recipient,
    pub(crate) class: medanchor_dag::Class,
    pub(crate) suite: Suite,
    pub(crate) chunk_log2: u8,
    pub(crate) captured_at_unix_ms: u64,
    pub(crate) meta: Meta,
    pub(crate) source: Option<SourceFile>,
}

/// What is sealed beside the payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    /// The payload's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filename: Option<String>,
}

impl Meta {
    /// Reads opened metadata. A map with entries that this version does not know reads as empty.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        from_canonical(bytes, medanchor_dag::MAX_META_BYTES).unwrap_or_default()
    }
}

/// Seals what `reader` gives into the outbox, as the stream's next record. It holds a few chunks in memory,
/// whatever the payload's size.
pub(crate) fn seal(
    reader: impl Read,
    plan: &Plan,
    keys: &OwnKeys,
    stream: &DeviceStream,
    outbox: &Outbox,
) -> Result<Upload> {
    let header = Header::new(
        plan.suite,
        plan.chunk_log2,
        *plan.custody.as_bytes(),
        &keys.key().to_string(),
        *stream.stream.as_bytes(),
        plan.class.as_str(),
        plan.captured_at_unix_ms,
    )?;
    let header_bytes = header.to_bytes();
    let mut sealing = outbox.begin(header.oid()).context("write to the outbox")?;
    let sealer = Sealer::new(header)?;
    let commitment = sealer.commitment();
    let wrap = Block::new(Codec::DagCbor, sealer.wrap(&plan.custody_key).to_bytes())?;
    let mut sealed = sealer.seal(reader);
    let chunks =
        import(&mut sealed, &mut |block| sealing.write(&block)).context("seal into the outbox")?;
    let record = Draft {
        header: header_bytes,
        commitment,
        size: sealed.size(),
        chunks,
        meta: sealed.seal_metadata(&to_canonical(&plan.meta)),
        seq: stream.next_seq,
        prev: stream.prev,
    }
    .sign(&keys.signing)?;
    sealing
        .commit(record, wrap, plan.source.clone())
        .context("write to the outbox")
}

#[cfg(test)]
pub(crate) mod testing {
    use medanchor_dag::{Chunks, Cid, Draft, Record, SigningKey, StreamId};
    use medanchor_envelope::{Header, Suite};

    /// A record of this stream, whose chunk cannot be opened.
    pub(crate) fn record(stream: StreamId, seq: u64, prev: Option<Cid>) -> Record {
        let key = SigningKey::from_seed(&[7; 32]);
        let did = key.did().to_string();
        let suite = Suite::ChaCha20Poly1305;
        let header = Header::new(suite, 16, [1; 16], &did, *stream.as_bytes(), "log", 1).unwrap();
        Draft {
            header: header.to_bytes(),
            commitment: [2; 32],
            size: 3,
            chunks: Chunks::Inline(vec![0; 19].into()),
            meta: Vec::new(),
            seq,
            prev,
        }
        .sign(&key)
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_envelope::{Identity, Opener, Wrap};
    use zeroize::Zeroizing;

    #[test]
    fn sealed_payload_is_signed_spooled_and_opens_again() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path().to_owned()).unwrap();
        let keys = OwnKeys::new(
            medanchor_dag::SigningKey::from_seed(&[1; 32]),
            Identity::from_bytes(Zeroizing::new([2; 32])),
        );
        let stream = DeviceStream::open(folder.path().join("stream.toml")).unwrap();
        let custody = Identity::generate().unwrap();
        let plan = Plan {
            custody: CustodyId::new([9; 16]),
            custody_key: custody.recipient(),
            class: medanchor_dag::Class::Ecg,
            suite: Suite::Aes256Gcm,
            chunk_log2: 16,
            captured_at_unix_ms: 5,
            meta: Meta {
                content_type: None,
                filename: Some("ecg.dat".to_owned()),
            },
            source: None,
        };
        let payload = vec![0x5a; 200_000];
        let upload = seal(payload.as_slice(), &plan, &keys, &stream, &outbox).unwrap();
        let record = &upload.record;
        record.verify_signature().unwrap();
        assert_eq!((record.size_bytes(), record.seq()), (200_000, 0));

        let header = Header::from_bytes(&record.header_bytes()).unwrap();
        let wrap = Wrap::from_bytes(upload.wrap.bytes()).unwrap();
        let opener = Opener::new(&wrap, &custody, &header, record.commitment()).unwrap();
        let mut opened = Vec::new();
        for (index, block) in (0..).zip(upload.blocks().unwrap()) {
            let last = index + 1 == record.chunk_count();
            opened.extend(
                opener
                    .open_chunk(index, last, block.unwrap().bytes())
                    .unwrap(),
            );
        }
        assert_eq!(opened, payload);
        let meta = Meta::parse(&opener.open_metadata(record.meta()).unwrap());
        assert_eq!(meta, plan.meta);
    }
}
