use crate::{
    CliError, Exit, Rate, Session, Wait,
    device_stream::DeviceStream,
    exit::{graver, stable_code},
    file_list::{Listed, list, source_file},
    file_sealer::{FileSealer, SealFailure},
    outbox::{Outbox, SourceFile, Upload},
    progress::Transfer,
    put::{custody_key, device_stream, lock},
    put_manifest::{FileState, Line, PutManifest, shortened},
    seal::{Meta, Plan},
    send::{Persistence, Sender, Stored, Waits, is_refused_for_good},
    signals,
    throttle::Throttle,
};
use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use indicatif::HumanBytes;
use medanchor_anchor::{Receipt, Verified};
use medanchor_dag::{Cid, Class, CustodyId};
use medanchor_envelope::{Recipient, Suite};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
};

/// Files to put.
#[derive(Clone, Debug)]
pub struct PutManyOptions {
    /// Files, and folders with all below them.
    pub paths: Vec<PathBuf>,
    /// The custody key to seal them to.
    pub custody: CustodyId,
    /// What kind of data they are.
    pub class: Class,
    /// The AEAD.
    pub suite: Suite,
    /// A full sealed chunk is 2^`chunk_log2` bytes: 16 to 20.
    pub chunk_log2: u8,
    /// Their media type, sealed beside them.
    pub content_type: Option<String>,
    /// The manifest; absent, one in the home for this custody key and class.
    pub manifest: Option<PathBuf>,
    /// At most this many bytes per second for all of them together; absent, as fast as they go.
    pub limit: Option<Rate>,
}

/// How putting files ended.
#[derive(Clone, Debug, Serialize)]
pub struct PutMany {
    /// Whether every file is anchored.
    pub ok: bool,
    /// `ok`, or what the failures come to: see [`Exit`].
    pub code: &'static str,
    /// The manifest.
    pub manifest: PathBuf,
    /// Files that were found.
    pub files: u64,
    /// Files that are anchored now and were not before.
    pub stored: u64,
    /// Files that were anchored.
    pub kept: u64,
    /// Files that cannot be put, and why.
    pub failed: Vec<FailedFile>,
    /// Files that are not anchored yet and would be by another run.
    pub left: u64,
    /// Of these, how many are sealed in the outbox.
    pub sealed: u64,
    /// Records that an earlier run had sealed and that belong to none of these files.
    pub earlier: u64,
    /// Bytes of the files that were stored.
    pub stored_bytes: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// A file that is not anchored.
#[derive(Clone, Debug, Serialize)]
pub struct FailedFile {
    /// Its path.
    pub path: String,
    /// The stable code.
    pub code: String,
    /// Why.
    pub error: String,
    /// What it comes to.
    #[serde(skip)]
    pub exit: Exit,
}

/// Seals files, stores them and has them anchored, one record each in the order of their paths, and says in a manifest what
/// became of each. A file that cannot be read stops no other. What is anchored is not put again, and what an earlier run
/// sealed is sent as it is.
///
/// # Errors
///
/// When nothing can be begun: no keys, no usable outbox or manifest, or nothing to put. Failures of files are in the
/// answer.
pub async fn put_many(session: &Session, options: &PutManyOptions) -> Result<PutMany> {
    if session.wait == Wait::Committed {
        let problem = "files are put with receipts: wait for `witnessed` or `published`";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    let keys = session.home.own_keys()?;
    let folder = session.home.folder("outbox")?;
    let _alone = lock(&folder).await?;
    let outbox = Outbox::open(folder)?;
    let path = manifest_path(session, options)?;
    let (files, unreadable) = {
        let home = fs::canonicalize(session.home.path()).context("open the home folder")?;
        let (paths, but_not) = (options.paths.clone(), vec![home, path.clone()]);
        spawn_blocking(move || list(&paths, &but_not)).await??
    };
    let uploads = outbox.uploads()?;
    let stream = device_stream(session, &uploads)?;
    let mut book = Book::new(PutManifest::open(&path)?, options, &uploads);
    for listed in &files {
        book.expect(&listed.file);
    }
    for (path, error) in unreadable {
        book.got.files += 1;
        book.fail(&path, &error);
    }
    let (to_seal, kept) = book.select(session, files)?;
    book.got.kept = kept;
    let records = count(to_seal.len().saturating_add(uploads.len()));
    let run = Run::new(book, Transfer::new("putting", records), ROOM_KIB)?;
    let known = uploads.iter().map(|upload| upload.record.size_bytes());
    let known = known.chain(to_seal.iter().map(|listed| listed.file.size));
    known.for_each(|bytes| run.transfer.is_known(bytes));
    if !to_seal.is_empty() || !uploads.is_empty() {
        let custody_key = custody_key(session, options.custody).await?;
        let sealer = run.sealer(session, options, custody_key, stream, &outbox)?;
        let throttle = options.limit.map(Throttle::new);
        let transfer = Arc::clone(&run.transfer);
        let sender = Sender::new(session, &keys, Persistence::Some, throttle, transfer);
        let (outgoing, sealed) = mpsc::channel(AHEAD);
        let work = async {
            let sealing = run.seal_all(sealer, to_seal, outgoing);
            let resumed = uploads.into_iter();
            let resumed = resumed.map(|upload| Outgoing::new(upload, true, None));
            let sending = run.send_all(&sender, resumed.collect(), sealed);
            futures::try_join!(sealing, sending)
        };
        let ended = tokio::select! {
            () = signals::interrupted()? => Ok(((), ())),
            ended = work => ended,
        };
        run.stop_sealing().await;
        ended?;
        if let Some(refused) = run.book().refused.take() {
            take_back(session, &outbox, refused)?;
        }
    }
    run.transfer.finish();
    let (_, took) = run.transfer.volume();
    run.book().close(&outbox, took)
}

/// How every file is sealed.
fn file_plan(options: &PutManyOptions, custody_key: Recipient) -> Plan {
    Plan {
        custody: options.custody,
        custody_key,
        class: options.class,
        suite: options.suite,
        chunk_log2: options.chunk_log2,
        captured_at_unix_ms: 0,
        meta: Meta {
            content_type: options.content_type.clone(),
            filename: None,
        },
        source: None,
    }
}

/// Where the manifest is.
pub(crate) fn manifest_path(session: &Session, options: &PutManyOptions) -> Result<PathBuf> {
    let path = match &options.manifest {
        Some(path) => path.clone(),
        None => {
            let name = format!("{}-{}.jsonl", options.custody, options.class);
            session.home.folder("puts")?.join(name)
        }
    };
    std::path::absolute(&path).with_context(|| format!("use `{}`", path.display()))
}

/// What one run shares: files are sealed one after the other, while what is sealed is sent.
pub(crate) struct Run {
    book: Arc<Mutex<Book>>,
    pub(crate) transfer: Arc<Transfer>,
    /// Room in the outbox, in KiB.
    pub(crate) room: Arc<Semaphore>,
    room_kib: u32,
    /// Set when no more is to be sealed.
    pub(crate) stopped: Arc<AtomicBool>,
    /// Held by the thread that seals.
    sealing: Arc<tokio::sync::Mutex<()>>,
}

/// A sealed record on its way.
pub(crate) struct Outgoing {
    upload: Upload,
    resumed: bool,
    /// Given back when it has left the outbox, or will not.
    room: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub(crate) fn new(upload: Upload, resumed: bool, room: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            upload,
            resumed,
            room,
        }
    }
}

impl Run {
    pub(crate) fn new(book: Book, transfer: Transfer, room_kib: u32) -> Result<Self> {
        Ok(Self {
            book: Arc::new(Mutex::new(book)),
            transfer: Arc::new(transfer),
            room: Arc::new(Semaphore::new(usize::try_from(room_kib)?)),
            room_kib,
            stopped: Arc::default(),
            sealing: Arc::default(),
        })
    }

    /// From here on the outbox gets no more: the file that is being sealed is given up, unless it is sealed already.
    pub(crate) async fn stop_sealing(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(self.sealing.lock().await);
    }

    /// Seals files for this run until it stops, all of them alike.
    pub(crate) fn sealer(
        &self,
        session: &Session,
        options: &PutManyOptions,
        custody_key: Recipient,
        stream: DeviceStream,
        outbox: &Outbox,
    ) -> Result<FileSealer> {
        Ok(FileSealer {
            plan: file_plan(options, custody_key),
            keys: session.home.own_keys()?,
            stream,
            outbox: outbox.clone(),
            stopped: Arc::clone(&self.stopped),
        })
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn seal_all(
        &self,
        mut sealer: FileSealer,
        files: Vec<Listed>,
        outgoing: mpsc::Sender<Outgoing>,
    ) -> Result<()> {
        for listed in files {
            let kib = self.kib(listed.file.size);
            let room = Arc::clone(&self.room).acquire_many_owned(kib).await?;
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let (back, upload) = self.seal(sealer, listed).await?;
            sealer = back;
            let Some(upload) = upload else {
                self.transfer.is_over();
                continue;
            };
            let sealed = Outgoing::new(upload, false, Some(room));
            // Nobody takes it when sending has failed; it is in the outbox.
            if outgoing.send(sealed).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What a file takes in the outbox; one that is larger than the room takes all of it.
    pub(crate) fn kib(&self, bytes: u64) -> u32 {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        kib.clamp(1, self.room_kib)
    }

    /// Seals a file; `None` when it cannot be sealed, which is noted.
    pub(crate) async fn seal(
        &self,
        mut sealer: FileSealer,
        listed: Listed,
    ) -> Result<(FileSealer, Option<Upload>)> {
        let (book, stopped) = (Arc::clone(&self.book), Arc::clone(&self.stopped));
        let at_work = Arc::clone(&self.sealing).lock_owned().await;
        let sealed = spawn_blocking(move || {
            let _at_work = at_work;
            let sealed = sealer.seal(&listed);
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            let sealed = book.note_sealed(&listed.file, sealed, &stopped)?;
            Ok::<_, anyhow::Error>((sealer, sealed))
        });
        sealed.await.context("seal")?
    }

    /// Sends what an earlier run sealed, and then what is sealed now.
    pub(crate) async fn send_all(
        &self,
        sender: &Sender<'_>,
        resumed: Vec<Outgoing>,
        sealed: mpsc::Receiver<Outgoing>,
    ) -> Result<()> {
        let sealed = stream::unfold(sealed, |mut sealed| async {
            Some((sealed.recv().await?, sealed))
        });
        let numbered = stream::iter(0_u64..).zip(stream::iter(resumed).chain(sealed));
        let sent = numbered
            .map(async |(number, outgoing)| {
                let sent = sender.send(number, &outgoing.upload, outgoing.resumed);
                let sent = sent.await;
                self.transfer.is_over();
                (outgoing, sent)
            })
            .buffer_unordered(UNDER_WAY)
            .ready_chunks(UNDER_WAY);
        let mut sent = std::pin::pin!(sent);
        while let Some(group) = sent.next().await {
            let (book, stopped) = (Arc::clone(&self.book), Arc::clone(&self.stopped));
            let settled = spawn_blocking(move || {
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                book.settle(group, &stopped)
            });
            settled.await.context("take note of what is anchored")??;
        }
        Ok(())
    }
}

/// What is known of the files.
pub(crate) struct Book {
    manifest: PutManifest,
    asked: Asked,
    /// Those of this custody key and class that are sealed and not anchored.
    in_outbox: BTreeSet<SourceFile>,
    got: PutMany,
    /// What the log will never take.
    pub(crate) refused: Option<Upload>,
}

/// The files that are to be put, and how.
pub(crate) struct Asked {
    files: BTreeSet<SourceFile>,
    custody: CustodyId,
    class: Class,
}

impl Asked {
    /// The one of them that is sealed here.
    fn file<'u>(&self, upload: &'u Upload) -> Option<&'u SourceFile> {
        let file = upload.source.as_ref().filter(|_| self.is_alike(upload))?;
        self.files.contains(file).then_some(file)
    }

    /// The same, and it is one of them no more.
    fn take(&mut self, upload: &Upload) -> Option<SourceFile> {
        let file = self.file(upload)?.clone();
        self.files.remove(&file);
        Some(file)
    }

    fn is_alike(&self, upload: &Upload) -> bool {
        let header = upload.record.header();
        header.custody == self.custody && header.class == self.class
    }
}

impl Book {
    pub(crate) fn new(manifest: PutManifest, options: &PutManyOptions, uploads: &[Upload]) -> Self {
        let mut book = Self {
            asked: Asked {
                files: BTreeSet::new(),
                custody: options.custody,
                class: options.class,
            },
            got: PutMany {
                ok: true,
                code: Exit::Done.name(),
                manifest: manifest.path().to_owned(),
                files: 0,
                stored: 0,
                kept: 0,
                failed: Vec::new(),
                left: 0,
                sealed: 0,
                earlier: 0,
                stored_bytes: 0,
                took_ms: 0,
            },
            manifest,
            in_outbox: BTreeSet::new(),
            refused: None,
        };
        let alike = uploads.iter().filter(|upload| book.asked.is_alike(upload));
        let sealed = alike.filter_map(|upload| upload.source.clone());
        book.in_outbox = sealed.collect();
        book
    }

    /// One more file is to be put.
    pub(crate) fn expect(&mut self, file: &SourceFile) {
        if self.asked.files.insert(file.clone()) {
            self.got.files += 1;
        }
    }

    /// The files that are neither anchored nor in the outbox, and how many of the others are anchored.
    pub(crate) fn select(
        &mut self,
        session: &Session,
        files: Vec<Listed>,
    ) -> Result<(Vec<Listed>, u64)> {
        let (mut to_seal, mut anchored) = (Vec::new(), 0);
        for listed in files {
            if self.in_outbox.contains(&listed.file) {
                continue;
            }
            match self.manifest.of(&listed.file) {
                Some(line) if line.state == FileState::Anchored => anchored += 1,
                // Another run may have sent it, and kept the receipt.
                Some(line) if line.state == FileState::Sealed => {
                    match sent_by_another(session, line) {
                        Some(line) => {
                            self.manifest.note(vec![line])?;
                            anchored += 1;
                        }
                        None => to_seal.push(listed),
                    }
                }
                _ => to_seal.push(listed),
            }
        }
        Ok((to_seal, anchored))
    }

    /// Takes note of a file that was sealed, or why not. No more is sealed when nothing can be.
    fn note_sealed(
        &mut self,
        file: &SourceFile,
        sealed: Result<Upload, SealFailure>,
        stopped: &AtomicBool,
    ) -> Result<Option<Upload>> {
        let error = match sealed {
            Ok(upload) => {
                let line = Line {
                    record: Some(upload.record.cid().to_string()),
                    seq: Some(upload.record.seq()),
                    ..Line::of(file, FileState::Sealed)
                };
                self.manifest.note(vec![line])?;
                self.in_outbox.insert(file.clone());
                return Ok(Some(upload));
            }
            // It was interrupted.
            Err(_) if stopped.load(Ordering::Relaxed) => return Ok(None),
            Err(SealFailure::File(error)) => error,
            Err(SealFailure::Outbox(error)) => {
                stopped.store(true, Ordering::Relaxed);
                error
            }
        };
        self.fail(&file.path, &error);
        let line = Line {
            code: Some(shortened(&stable_code(&error))),
            error: Some(shortened(&format!("{error:#}"))),
            ..Line::of(file, FileState::Failed)
        };
        self.manifest.note(vec![line])?;
        Ok(None)
    }

    /// Takes note of what became of some records; those that are anchored leave the outbox.
    fn settle(
        &mut self,
        group: Vec<(Outgoing, Result<Stored>)>,
        stopped: &AtomicBool,
    ) -> Result<()> {
        let (mut lines, mut anchored) = (Vec::new(), Vec::new());
        for (Outgoing { upload, room, .. }, sent) in group {
            let stored = match sent {
                Ok(stored) => stored,
                Err(error) if error.is::<Waits>() => continue,
                Err(error) => {
                    stopped.store(true, Ordering::Relaxed);
                    let path = upload
                        .source
                        .as_ref()
                        .map_or("-", |file| file.path.as_str());
                    self.fail(path, &error);
                    if is_refused_for_good(&error) {
                        self.refused = Some(upload);
                    }
                    continue;
                }
            };
            if let Some(file) = upload
                .source
                .as_ref()
                .filter(|_| self.asked.is_alike(&upload))
            {
                self.in_outbox.remove(file);
            }
            match self.asked.take(&upload) {
                Some(file) => {
                    self.got.failed.retain(|failed| failed.path != file.path);
                    self.got.stored += 1;
                    self.got.stored_bytes += stored.size_bytes;
                    lines.push(anchored_line(&file, &stored));
                }
                None => self.got.earlier += 1,
            }
            anchored.push((upload, room));
        }
        self.manifest.note(lines)?;
        // Commit point: the manifest says what is anchored, so that no later run puts it again.
        for (upload, room) in anchored {
            upload.remove()?;
            drop(room);
        }
        Ok(())
    }

    fn fail(&mut self, path: &str, error: &anyhow::Error) {
        self.got.failed.retain(|failed| failed.path != path);
        self.got.failed.push(FailedFile {
            path: path.to_owned(),
            code: stable_code(error),
            error: format!("{error:#}"),
            exit: Exit::of(error),
        });
    }

    pub(crate) fn close(&mut self, outbox: &Outbox, took: Duration) -> Result<PutMany> {
        self.manifest.retain(|_| true)?;
        let uploads = outbox.uploads()?;
        let sealed = uploads.iter().filter_map(|upload| self.asked.file(upload));
        let got = &mut self.got;
        got.sealed = count(sealed.count());
        let over = got.stored + got.kept + count(got.failed.len());
        got.left = got.files.saturating_sub(over);
        let failures = got.failed.iter().map(|failed| failed.exit);
        let exit = match failures.reduce(graver) {
            Some(exit) => exit,
            // It was interrupted.
            None if got.left > 0 => Exit::Unavailable,
            None => Exit::Done,
        };
        (got.ok, got.code) = (exit == Exit::Done, exit.name());
        got.took_ms = u64::try_from(took.as_millis())?;
        Ok(got.clone())
    }
}

/// A file's line once its record is anchored.
fn anchored_line(file: &SourceFile, stored: &Stored) -> Line {
    let receipt = stored.recorded.receipt.as_deref().unwrap_or(Path::new(""));
    Line {
        record: Some(stored.record.clone()),
        seq: Some(stored.seq),
        leaf_index: Some(stored.recorded.leaf_index),
        receipt: Some(receipt.display().to_string()),
        ..Line::of(file, FileState::Anchored)
    }
}

/// The line of a file whose record was sealed and is in the outbox no more, if a receipt shows that it is anchored.
fn sent_by_another(session: &Session, line: &Line) -> Option<Line> {
    let record: Cid = line.record.as_ref()?.parse().ok()?;
    let path = session.home.join("receipts");
    let path = path.join(format!("{record}.tlog-proof"));
    let receipt: Receipt = fs::read_to_string(&path).ok()?.parse().ok()?;
    let is_of = |verified: &Verified<'_>| verified.leaf.record == Some(record);
    let strength = session.wait.strength()?;
    let said = session.check(&receipt, strength, is_of).ok()?;
    Some(Line {
        state: FileState::Anchored,
        leaf_index: Some(said.leaf_index),
        receipt: Some(path.display().to_string()),
        ..line.clone()
    })
}

/// The log will never hold a record. What was sealed after it names it as the one before, so that too is taken out of the
/// outbox, to be sealed anew: unless a file of those is no longer there, whose payload would be lost. Then the stream has
/// a gap instead.
pub(crate) fn take_back(session: &Session, outbox: &Outbox, refused: Upload) -> Result<()> {
    let mut uploads = outbox.uploads()?;
    let mut stream = device_stream(session, &uploads)?;
    uploads.retain(|upload| upload.record.seq() > refused.record.seq());
    if uploads.iter().all(can_be_sealed_anew) {
        for upload in uploads.into_iter().rev() {
            stream.take_back(&upload.record)?;
            upload.remove()?;
        }
    }
    stream.take_back(&refused.record)?;
    refused.remove()
}

fn can_be_sealed_anew(upload: &Upload) -> bool {
    let file = upload.source.as_ref();
    file.is_some_and(|file| {
        let now = fs::metadata(&file.path).and_then(|now| source_file(&file.path, &now));
        now.is_ok_and(|now| now == *file)
    })
}

pub(crate) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl fmt::Display for PutMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, took) = (self.stored_bytes, self.took_ms.max(1));
        let rate = u128::from(bytes) * 1000 / u128::from(took);
        writeln!(
            f,
            "stored    {} of {} files: {} in {:.1} s, {}/s",
            self.stored,
            self.files,
            HumanBytes(bytes),
            Duration::from_millis(took).as_secs_f64(),
            HumanBytes(u64::try_from(rate).unwrap_or(u64::MAX)),
        )?;
        writeln!(f, "kept      {} that were anchored", self.kept)?;
        if self.earlier > 0 {
            writeln!(
                f,
                "earlier   {} other records that were sealed",
                self.earlier
            )?;
        }
        writeln!(f, "failed    {}", self.failed.len())?;
        for failed in &self.failed {
            writeln!(f, "  {}  {}: {}", failed.path, failed.code, failed.error)?;
        }
        if self.left > 0 || self.sealed > 0 {
            let (left, sealed) = (self.left, self.sealed);
            writeln!(
                f,
                "left      {left} more, {sealed} are sealed: the same command goes on"
            )?;
        }
        write!(f, "manifest  {}", self.manifest.display())
    }
}

/// Records on their way at one time: most of a small one's time is waiting for its turn and its receipt.
const UNDER_WAY: usize = 32;
/// Sealed records that wait to be sent.
const AHEAD: usize = 32;
/// How much is sealed before what is sealed is anchored, in KiB; at least one file.
const ROOM_KIB: u32 = 256 << 10;
