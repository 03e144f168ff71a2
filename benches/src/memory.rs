//! Seal and open in memory: what one core can do, without a disk or a network.

use crate::{
    arguments::Arguments,
    author::{Author, CHUNK_LOG2, Sealed},
    cpu,
    interrupt::Interrupt,
    payload::{KIB, MIB, payload, size_name},
    report::Report,
    samples::{Samples, count},
};
use anyhow::Result;
use medanchor_dag::{Block, Codec, CustodyId, sha256};
use medanchor_envelope::{Header, Identity, Opener, Sealer, Suite, Wrap};
use std::hint::black_box;

/// Measures it.
pub(crate) fn measure(
    arguments: &Arguments,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let size = arguments.choose(256 * MIB, 16 * MIB);
    let rounds = arguments.choose(5, 3);
    report.begin(
        "seal",
        &format!(
            "{} in memory, chunks of {} KiB, one thread, by its processor time",
            size_name(size),
            (1 << CHUNK_LOG2) / KIB
        ),
    );
    let mut bench = Bench::new(payload(size))?;
    let mut times: Vec<Samples> = vec![Samples::default(); STEPS.len()];
    for _ in 0..rounds {
        for (step, times) in STEPS.iter().zip(&mut times) {
            interrupt.check()?;
            times.push(bench.run(step.what)?);
        }
    }
    for (step, times) in STEPS.iter().zip(&times) {
        let gigabytes = count(size) / 1e9;
        report.median(step.name, "GB/s", &times.map(|seconds| gigabytes / seconds));
    }
    Ok(())
}

struct Step {
    name: &'static str,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Hash,
    Seal(Suite),
    SealToRecord(Suite),
    Open(Suite),
    OpenFromBlocks(Suite),
}

const CHACHA: Suite = Suite::ChaCha20Poly1305;
const AES: Suite = Suite::Aes256Gcm;

const STEPS: [Step; 9] = [
    step("SHA-256 alone", What::Hash),
    step("seal, suite 1 (ChaCha20-Poly1305)", What::Seal(CHACHA)),
    step("seal, suite 2 (AES-256-GCM)", What::Seal(AES)),
    step("open, suite 1", What::Open(CHACHA)),
    step("open, suite 2", What::Open(AES)),
    step(
        "seal, CIDs and signed record, suite 1",
        What::SealToRecord(CHACHA),
    ),
    step(
        "seal, CIDs and signed record, suite 2",
        What::SealToRecord(AES),
    ),
    step(
        "check record and CIDs, open, suite 1",
        What::OpenFromBlocks(CHACHA),
    ),
    step(
        "check record and CIDs, open, suite 2",
        What::OpenFromBlocks(AES),
    ),
];

const fn step(name: &'static str, what: What) -> Step {
    Step { name, what }
}

struct Bench {
    payload: Vec<u8>,
    author: Author,
    custody: Identity,
    chacha: Stored,
    aes: Stored,
}

/// A record with its sealed chunks.
struct Stored {
    sealed: Sealed,
    blocks: Vec<Block>,
}

impl Bench {
    fn new(payload: Vec<u8>) -> Result<Self> {
        let custody = Identity::generate()?;
        let mut author = Author::new(CustodyId::generate()?, custody.recipient())?;
        let mut store = |suite| -> Result<Stored> {
            let mut blocks = Vec::new();
            let sealed = author.seal(payload.as_slice(), suite, &mut |block| {
                // Index nodes are not opened.
                if block.cid().codec() == Codec::Raw.code() {
                    blocks.push(block);
                }
                Ok(())
            })?;
            Ok(Stored { sealed, blocks })
        };
        let (chacha, aes) = (store(CHACHA)?, store(AES)?);
        Ok(Self {
            payload,
            author,
            custody,
            chacha,
            aes,
        })
    }

    /// Does it once. Seconds of processor time.
    fn run(&mut self, what: What) -> Result<f64> {
        let before = cpu::of_this_thread()?;
        match what {
            What::Hash => {
                black_box(sha256(&self.payload));
            }
            What::Seal(suite) => {
                let sealer = Sealer::new(self.author.header(suite)?)?;
                for chunk in sealer.seal(self.payload.as_slice()) {
                    black_box(chunk?);
                }
            }
            What::SealToRecord(suite) => {
                let sealed = self
                    .author
                    .seal(self.payload.as_slice(), suite, &mut |block| {
                        black_box(block);
                        Ok(())
                    })?;
                black_box(sealed);
            }
            What::Open(suite) => open(self.stored(suite), &self.custody, false)?,
            What::OpenFromBlocks(suite) => open(self.stored(suite), &self.custody, true)?,
        }
        Ok((cpu::of_this_thread()? - before).as_secs_f64())
    }

    fn stored(&self, suite: Suite) -> &Stored {
        match suite {
            Suite::ChaCha20Poly1305 => &self.chacha,
            Suite::Aes256Gcm => &self.aes,
        }
    }
}

/// Opens every chunk; `checked`, after the record's signature and each block's hash.
fn open(stored: &Stored, custody: &Identity, checked: bool) -> Result<()> {
    let record = &stored.sealed.record;
    if checked {
        record.verify_signature()?;
    }
    let header = Header::from_bytes(&record.header_bytes())?;
    let wrap = Wrap::from_bytes(stored.sealed.wrap.bytes())?;
    let opener = Opener::new(&wrap, custody, &header, record.commitment())?;
    for (index, block) in (0..).zip(&stored.blocks) {
        if checked {
            Block::verify(*block.cid(), block.bytes().clone())?;
        }
        let last = index + 1 == record.chunk_count();
        black_box(opener.open_chunk(index, last, block.bytes())?);
    }
    Ok(())
}
