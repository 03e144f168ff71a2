use crate::{
    CliError, OwnKeys, Rate, Session, Stored, Wait,
    c4gh::{Decrypting, SecretKey},
    clock,
    device_stream::DeviceStream,
    files,
    outbox::{Outbox, SourceFile, Upload},
    progress::{self, Counted, Transfer},
    seal::{Meta, Plan, seal},
    send::{Persistence, Sender, is_refused_for_good},
    throttle::Throttle,
};
use anyhow::{Context, Result};
use medanchor_anchor::{Strength, Verified};
use medanchor_api::LeafName;
use medanchor_dag::{Class, CustodyId};
use medanchor_envelope::{Recipient, Suite};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

/// What to store.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// The payload.
    pub input: Input,
    /// The custody key to seal it to.
    pub custody: CustodyId,
    /// What kind of data it is.
    pub class: Class,
    /// The AEAD.
    pub suite: Suite,
    /// A full sealed chunk is 2^`chunk_log2` bytes: 16 to 20.
    pub chunk_log2: u8,
    /// When it was captured, unix ms; absent, the file's time, or now.
    pub captured_at_unix_ms: Option<u64>,
    /// Its name, sealed beside it.
    pub filename: Option<String>,
    /// Its media type, sealed beside it.
    pub content_type: Option<String>,
    /// At most this many bytes per second; absent, as fast as they go.
    pub limit: Option<Rate>,
    /// The Crypt4GH private key with which the input is decrypted; absent, it is taken as it is.
    pub c4gh_key: Option<PathBuf>,
}

/// Where the payload comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file. An interrupted upload of it goes on when it is put again.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Seals a payload, stores it, has it anchored, and verifies the receipt that the session waits for.
///
/// The record is first sealed into the outbox. What an earlier run left there is sent before anything new
/// is sealed, and is the answer when it is the same file. It leaves the outbox once a receipt shows that it is
/// anchored: when nobody waits for that, a later run does.
///
/// # Errors
///
/// When the payload cannot be read or no node takes it; what is sealed by then stays in the outbox. When
/// the log refuses the record for good, it is removed.
pub async fn put(session: &Session, options: &PutOptions) -> Result<Stored> {
    let keys = session.home.own_keys()?;
    let folder = session.home.folder("outbox")?;
    let _alone = lock(&folder).await?;
    let outbox = Outbox::open(folder)?;
    let uploads = outbox.uploads()?;
    let mut stream = device_stream(session, &uploads)?;
    let source = source_of(&options.input)?;
    // Nothing new waits for receipts that nobody gives at present.
    let mut settling = session.wait == Wait::Committed;
    for upload in uploads {
        let header = upload.record.header();
        let is_alike = header.custody == options.custody && header.class == options.class;
        let is_this = source.is_some() && upload.source == source && is_alike;
        if upload.committed && session.wait == Wait::Committed && !is_this {
            settling = settling && settle(session, upload).await?;
            continue;
        }
        let stored = send(session, &keys, options, upload, &mut stream, true)
            .await
            .context("send what an earlier run sealed")?;
        if is_this {
            return Ok(stored);
        }
    }
    let plan = plan(session, options, source).await?;
    let upload = spawn_blocking({
        let (options, stream) = (options.clone(), stream.clone());
        let keys = session.home.own_keys()?;
        move || seal_input(&options, &plan, &keys, &stream, &outbox)
    })
    .await
    .context("seal")??;
    stream.advance(&upload.record)?;
    send(session, &keys, options, upload, &mut stream, false).await
}

/// Lets a committed record leave the outbox if its receipt is there by now.
async fn settle(session: &Session, upload: Upload) -> Result<bool> {
    let (leaf, strength) = (LeafName::Record(*upload.record.cid()), Strength::Witnessed);
    let Ok(Ok((_, receipt))) =
        tokio::time::timeout(SETTLE_WITHIN, session.client.receipt(leaf, strength)).await
    else {
        return Ok(false);
    };
    let record = *upload.record.cid();
    let is_of = |verified: &Verified<'_>| verified.leaf.record == Some(record);
    session
        .check(&receipt, strength, is_of)
        .context("check that what an earlier run sealed is anchored")?;
    session.keep_receipt(&record.to_string(), &receipt)?;
    upload.remove()?;
    Ok(true)
}

/// Sends what is sealed. It leaves the outbox once a receipt shows that it is anchored, or when the log refuses it for
/// good; otherwise it stays.
async fn send(
    session: &Session,
    keys: &OwnKeys,
    options: &PutOptions,
    upload: Upload,
    stream: &mut DeviceStream,
    resumed: bool,
) -> Result<Stored> {
    let transfer = Arc::new(Transfer::new("uploading", 1));
    transfer.is_known(upload.record.size_bytes());
    let throttle = options.limit.map(Throttle::new);
    let bar = Arc::clone(&transfer);
    let sender = Sender::new(session, keys, Persistence::Some, throttle, bar);
    let sent = sender.send(0, &upload, resumed).await;
    transfer.finish();
    match sent {
        Ok(stored) if stored.recorded.receipt.is_some() => {
            upload.remove()?;
            Ok(stored)
        }
        Ok(stored) => {
            upload.set_committed()?;
            Ok(stored)
        }
        Err(error) => {
            if is_refused_for_good(&error) {
                stream.take_back(&upload.record)?;
                upload.remove()?;
            }
            Err(error)
        }
    }
}

async fn plan(session: &Session, options: &PutOptions, source: Option<SourceFile>) -> Result<Plan> {
    let file_time = source.as_ref().map(|source| source.modified_unix_ms);
    let captured_at = options.captured_at_unix_ms.or(file_time);
    Ok(Plan {
        custody: options.custody,
        custody_key: custody_key(session, options.custody).await?,
        class: options.class,
        suite: options.suite,
        chunk_log2: options.chunk_log2,
        captured_at_unix_ms: captured_at.unwrap_or_else(clock::unix_ms),
        meta: Meta {
            content_type: options.content_type.clone(),
            filename: options.filename.clone(),
        },
        source,
    })
}

/// The key to seal to.
pub(crate) async fn custody_key(session: &Session, custody: CustodyId) -> Result<Recipient> {
    let custody = session.custody(custody).await?;
    Recipient::from_bytes(custody.public_key).context("use the custody key")
}

/// Where the device's stream stands, with what is in the outbox.
pub(crate) fn device_stream(session: &Session, uploads: &[Upload]) -> Result<DeviceStream> {
    let mut stream = DeviceStream::open(session.home.join("device-stream.toml"))?;
    for upload in uploads {
        stream.advance(&upload.record)?;
    }
    Ok(stream)
}

fn seal_input(
    options: &PutOptions,
    plan: &Plan,
    keys: &OwnKeys,
    stream: &DeviceStream,
    outbox: &Outbox,
) -> Result<Upload> {
    let total = plan.source.as_ref().map(|source| source.size);
    let bar = progress::bytes("sealing", total);
    let reader: Box<dyn Read> = match &options.input {
        Input::File(path) => Box::new(open(path)?),
        Input::Stdin => Box::new(io::stdin().lock()),
    };
    let counted = Counted {
        reader,
        bar: bar.clone(),
    };
    let reader: Box<dyn Read> = match &options.c4gh_key {
        None => Box::new(counted),
        Some(path) => {
            let text = Zeroizing::new(files::read_text(path, MAX_KEY_BYTES)?);
            let context = || format!("read the key `{}`", path.display());
            let key = SecretKey::parse(&text).with_context(context)?;
            Box::new(Decrypting::open(counted, &key).context("decrypt the payload")?)
        }
    };
    let upload = seal(reader, plan, keys, stream, outbox)?;
    bar.finish_and_clear();
    Ok(upload)
}

fn source_of(input: &Input) -> Result<Option<SourceFile>> {
    let Input::File(path) = input else {
        return Ok(None);
    };
    let path = fs::canonicalize(path).with_context(|| format!("open `{}`", path.display()))?;
    let metadata = open(&path)?.metadata()?;
    if !metadata.is_file() {
        return Err(CliError::Usage(format!("`{}` is not a file", path.display())).into());
    }
    Ok(Some(SourceFile {
        path: path.to_string_lossy().into_owned(),
        size: metadata.len(),
        modified_unix_ms: clock::to_unix_ms(metadata.modified()?),
    }))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open `{}`", path.display()))
}

/// One upload at a time: they are numbered.
pub(crate) async fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    spawn_blocking(move || -> io::Result<File> {
        let file = File::create(path)?;
        file.lock()?;
        Ok(file)
    })
    .await?
    .context("lock the outbox")
}

const MAX_KEY_BYTES: u64 = 16 * 1024;
/// How long a command that waits for no receipt waits for those of earlier ones.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
