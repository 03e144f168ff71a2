//! What `age` does, done by us: a file is sealed into a folder with a file of blocks, and opened again. Each is a process
//! of its own, started as `age` is.

use crate::{author::Author, block_file::BlockFile};
use anyhow::{Context, Result};
use futures::StreamExt;
use medanchor_dag::{Cid, CustodyId, Record, export};
use medanchor_envelope::{Header, Identity, Opener, Recipient, Suite, Wrap};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// First argument of the process that seals: input, folder, suite, recipient's key file.
pub(crate) const SEAL_FILE: &str = "seal-file";
/// First argument of the process that opens: folder, output, identity's key file.
pub(crate) const OPEN_FILE: &str = "open-file";

/// Runs one of the two with the arguments after its name.
pub(crate) fn run(name: &str, mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || {
        arguments
            .next()
            .map(PathBuf::from)
            .context("an argument is missing")
    };
    match name {
        SEAL_FILE => {
            let (input, folder, suite, recipient) = (next()?, next()?, next()?, next()?);
            let suite = match suite.to_str() {
                Some("1") => Suite::ChaCha20Poly1305,
                Some("2") => Suite::Aes256Gcm,
                _ => anyhow::bail!("the suite is 1 or 2"),
            };
            seal_file(&input, &folder, suite, &recipient)
        }
        _ => {
            let (folder, output, identity) = (next()?, next()?, next()?);
            open_file(&folder, &output, &identity)
        }
    }
}

fn seal_file(input: &Path, folder: &Path, suite: Suite, recipient: &Path) -> Result<()> {
    let public = fs::read(recipient).context("read the recipient")?;
    let public = public
        .as_slice()
        .try_into()
        .context("the recipient is not 32 bytes")?;
    let mut author = Author::new(CustodyId::generate()?, Recipient::from_bytes(public)?)?;
    let input = File::open(input).context("open the input")?;
    let mut blocks = BlockFile::create(folder)?;
    let sealed = author.seal(input, suite, &mut |block| blocks.put(&block))?;
    let [record, wrap] = sealed.blocks();
    blocks.put(&record)?;
    blocks.put(&wrap)?;
    blocks.finish(folder)?;
    fs::write(
        folder.join(ROOTS),
        format!("{} {}", record.cid(), wrap.cid()),
    )?;
    Ok(())
}

fn open_file(folder: &Path, output: &Path, identity: &Path) -> Result<()> {
    let secret = Zeroizing::new(fs::read(identity).context("read the identity")?);
    let secret = secret
        .as_slice()
        .try_into()
        .context("the identity is not 32 bytes")?;
    let identity = Identity::from_bytes(Zeroizing::new(secret));
    let blocks = BlockFile::open(folder)?;
    let roots = fs::read_to_string(folder.join(ROOTS)).context("read the roots")?;
    let (record, wrap) = roots.split_once(' ').context("two roots")?;
    let record = Record::from_block(&blocks.block(&Cid::try_from(record)?)?)?;
    record.verify_signature()?;
    let wrap = Wrap::from_bytes(blocks.block(&Cid::try_from(wrap)?)?.bytes())?;
    let header = Header::from_bytes(&record.header_bytes())?;
    let opener = Opener::new(&wrap, &identity, &header, record.commitment())?;
    let mut output = File::create(output).context("create the output")?;
    let mut chunks = export(Arc::new(blocks), &record, 0..record.chunk_count(), 1);
    futures::executor::block_on(async {
        while let Some(chunk) = chunks.next().await {
            let (index, sealed) = chunk?;
            let last = index + 1 == record.chunk_count();
            output.write_all(&opener.open_chunk(index, last, &sealed)?)?;
        }
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Names the record and its wrap.
const ROOTS: &str = "roots";
