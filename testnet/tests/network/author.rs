use medanchor_anchor::{Anchored, SignedStatement, Statement, Strength};
use medanchor_api::{ClientError, Submitted};
use medanchor_cli::{OwnKeys, Session};
use medanchor_dag::{Block, Codec, CustodyId, Draft, Record, SigningKey, StreamId, import};
use medanchor_envelope::{Header, Identity, Recipient, Sealer, Suite};
use medanchor_testnet::Home;
use tokio::runtime::Runtime;

/// Somebody who speaks to the nodes without the tool, and so can say what the tool never would.
pub(crate) struct Author {
    pub(crate) session: Session,
    pub(crate) keys: OwnKeys,
    runtime: Runtime,
}

impl Author {
    pub(crate) fn of(home: &Home) -> Self {
        let runtime = Runtime::new().unwrap();
        let home = medanchor_cli::Home::new(home.path());
        let session = runtime.block_on(async { Session::open(&home) }).unwrap();
        Self {
            session,
            keys: home.own_keys().unwrap(),
            runtime,
        }
    }

    pub(crate) fn upload(&self, blocks: &[Block]) {
        let blocks = futures::stream::iter(blocks.to_vec());
        self.block_on(self.session.client.put(blocks)).unwrap();
    }

    pub(crate) fn submit(&self, signed: &SignedStatement) -> Result<Submitted, ClientError> {
        let strength = Some(Strength::Published);
        self.block_on(self.session.client.submit(signed, strength))
    }

    /// Says that this record is to be anchored, as its device.
    pub(crate) fn anchored(&self, anchored: Anchored) -> SignedStatement {
        Statement::anchored(&self.session.origin, anchored).sign(&[&self.keys.signing])
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

/// A sealed payload, with all that a device sends.
pub(crate) struct Sealed {
    pub(crate) record: Record,
    pub(crate) wrap: Block,
    /// The blocks below the record.
    pub(crate) chunks: Vec<Block>,
}

/// Where a sealed payload stands in a stream.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) stream: StreamId,
    pub(crate) seq: u64,
    pub(crate) prev: Option<medanchor_dag::Cid>,
}

impl Sealed {
    pub(crate) fn new(key: &SigningKey, custody: CustodyId, place: Place, payload: &[u8]) -> Self {
        let header = header(key, custody, place.stream);
        Self::with_header(key, header, place, payload)
    }

    /// Sealed under a header that somebody has chosen.
    pub(crate) fn with_header(
        key: &SigningKey,
        header: Header,
        place: Place,
        payload: &[u8],
    ) -> Self {
        let header_bytes = header.to_bytes();
        let sealer = Sealer::new(header).unwrap();
        let commitment = sealer.commitment();
        let wrap = sealer.wrap(&recipient()).to_bytes();
        let mut sealed = sealer.seal(payload);
        let mut blocks = Vec::new();
        let chunks = import(&mut sealed, &mut |block| {
            blocks.push(block);
            Ok(())
        });
        let draft = Draft {
            header: header_bytes,
            commitment,
            size: sealed.size(),
            chunks: chunks.unwrap(),
            meta: sealed.seal_metadata(&[]),
            seq: place.seq,
            prev: place.prev,
        };
        Self {
            record: draft.sign(key).unwrap(),
            wrap: Block::new(Codec::DagCbor, wrap).unwrap(),
            chunks: blocks,
        }
    }

    /// All blocks that a node must hold.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let roots = [self.record.to_block(), self.wrap.clone()];
        self.chunks.iter().cloned().chain(roots).collect()
    }

    /// What its device says of it.
    pub(crate) fn anchored(&self) -> Anchored {
        Anchored::of(&self.record, *self.wrap.cid())
    }
}

fn header(key: &SigningKey, custody: CustodyId, stream: StreamId) -> Header {
    let (device, custody) = (key.did().to_string(), *custody.as_bytes());
    let suite = Suite::ChaCha20Poly1305;
    Header::new(suite, 16, custody, &device, *stream.as_bytes(), "log", 1).unwrap()
}

/// No node looks into a wrap: any key will do.
fn recipient() -> Recipient {
    Identity::generate().unwrap().recipient()
}
