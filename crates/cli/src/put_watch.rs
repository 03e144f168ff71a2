use crate::{
    CliError, Exit, PutMany, PutManyOptions, Session, Wait,
    file_list::{Listed, list},
    file_sealer::FileSealer,
    files,
    outbox::{Outbox, SourceFile},
    progress::{Transfer, note},
    put::{custody_key, device_stream, lock},
    put_manifest::PutManifest,
    put_many::{Book, Outgoing, Run, manifest_path, take_back},
    send::{Persistence, Sender},
    signals,
    throttle::Throttle,
};
use anyhow::{Context, Result};
use medanchor_dag::CustodyId;
use medanchor_envelope::Recipient;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep},
};

/// Puts every file that comes into a folder, until it is interrupted.
///
/// A file counts once it has been the same for two looks. It is sealed into the outbox at once, also when no node can be
/// reached, and sent in the order in which it was sealed when one can: what is in the outbox survives a crash.
/// When interrupted, it seals nothing more and sends what is in the outbox, unless no node takes it.
///
/// # Errors
///
/// As for [`crate::operations::put_many`].
pub async fn put_watch(
    session: &Session,
    folder: &Path,
    options: &PutManyOptions,
    room_bytes: u64,
) -> Result<PutMany> {
    if session.wait == Wait::Committed {
        let problem = "files are put with receipts: wait for `witnessed` or `published`";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    let interrupted = signals::interrupted()?;
    let again = signals::interrupted()?;
    let keys = session.home.own_keys()?;
    let outbox = session.home.folder("outbox")?;
    let _alone = lock(&outbox).await?;
    let outbox = Outbox::open(outbox)?;
    let folder =
        fs::canonicalize(folder).with_context(|| format!("open `{}`", folder.display()))?;
    let path = manifest_path(session, options)?;
    let mut manifest = PutManifest::open(&path)?;
    // What is gone from the folder will not be put again.
    manifest.retain(|line| Path::new(&line.path).exists())?;
    let uploads = outbox.uploads()?;
    let stream = device_stream(session, &uploads)?;
    let mut book = Book::new(manifest, options, &uploads);
    for upload in &uploads {
        if let Some(file) = &upload.source {
            book.expect(file);
        }
    }
    let room_kib = u32::try_from(room_bytes >> 10).unwrap_or(MAX_ROOM_KIB);
    let room_kib = room_kib.clamp(1, MAX_ROOM_KIB);
    let run = Run::new(book, Transfer::new("putting", 0), room_kib)?;
    let resumed = uploads.into_iter().map(|upload| {
        let bytes = upload.record.size_bytes();
        run.transfer.is_known(bytes);
        let room = Arc::clone(&run.room).try_acquire_many_owned(run.kib(bytes));
        Outgoing::new(upload, true, room.ok())
    });
    let resumed: Vec<Outgoing> = resumed.collect();
    let custody_key = known_custody_key(session, options.custody).await?;
    let sealer = run.sealer(session, options, custody_key, stream, &outbox)?;
    let throttle = options.limit.map(Throttle::new);
    let transfer = Arc::clone(&run.transfer);
    let sender = Sender::new(session, &keys, Persistence::Endless, throttle, transfer);
    let (outgoing, sealed) = mpsc::channel(MAX_AHEAD);
    let watch = Watch {
        session,
        run: &run,
        but_not: vec![fs::canonicalize(session.home.path())?, path],
        folder,
        seen: BTreeMap::new(),
        failed: BTreeMap::new(),
        is_full: false,
    };
    let sealing = async {
        tokio::select! {
            sealed = watch.seal_all(sealer, outgoing) => sealed,
            () = interrupted => {
                run.stopped.store(true, Ordering::Relaxed);
                sender.be_brief();
                note("interrupted: what is sealed is sent, and no more is sealed");
                Ok(())
            }
        }
    };
    let sending = run.send_all(&sender, resumed, sealed);
    let work = async { futures::try_join!(sealing, sending) };
    let twice = async {
        tokio::pin!(again);
        again.as_mut().await;
        // The first was heard by both.
        signals::interrupted()?.await;
        Ok(((), ()))
    };
    let ended: Result<_> = tokio::select! {
        ended = work => ended,
        ended = twice => ended,
    };
    run.stop_sealing().await;
    ended?;
    run.transfer.finish();
    if let Some(refused) = run.book().refused.take() {
        take_back(session, &outbox, refused)?;
    }
    let (_, took) = run.transfer.volume();
    run.book().close(&outbox, took)
}

/// The key to seal to, proved now, or when no node can be reached, as it was proved last.
async fn known_custody_key(session: &Session, custody: CustodyId) -> Result<Recipient> {
    let path = session.home.folder("puts")?;
    let path = path.join(format!("{custody}.custody-key"));
    match custody_key(session, custody).await {
        Ok(key) => {
            let text = hex::encode(key.as_bytes());
            files::replace(&path, text.as_bytes()).context("keep the custody key")?;
            Ok(key)
        }
        Err(error) if Exit::of(&error) == Exit::Unavailable && path.exists() => {
            note("no node can be reached: files are sealed to the custody key as it was last");
            let mut key = [0; 32];
            let text = files::read_text(&path, 64)?;
            hex::decode_to_slice(text, &mut key).context("read the custody key")?;
            Recipient::from_bytes(key).context("use the custody key")
        }
        Err(error) => Err(error),
    }
}

struct Watch<'a> {
    session: &'a Session,
    run: &'a Run,
    folder: PathBuf,
    but_not: Vec<PathBuf>,
    /// As they were at the last look.
    seen: BTreeMap<String, SourceFile>,
    /// When those that could not be put failed last.
    failed: BTreeMap<SourceFile, Instant>,
    is_full: bool,
}

impl Watch<'_> {
    async fn seal_all(
        mut self,
        mut sealer: FileSealer,
        outgoing: mpsc::Sender<Outgoing>,
    ) -> Result<()> {
        loop {
            let files = self.look().await?;
            let (to_seal, _) = self.run.book().select(self.session, files)?;
            for listed in to_seal {
                let kib = self.run.kib(listed.file.size);
                let room = Arc::clone(&self.run.room);
                let room = match room.try_acquire_many_owned(kib) {
                    Ok(room) => {
                        self.is_full = false;
                        room
                    }
                    Err(_) => {
                        self.say_full();
                        Arc::clone(&self.run.room).acquire_many_owned(kib).await?
                    }
                };
                if self.run.stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.run.book().expect(&listed.file);
                let (file, bytes) = (listed.file.clone(), listed.file.size);
                let (back, upload) = self.run.seal(sealer, listed).await?;
                sealer = back;
                let Some(upload) = upload else {
                    self.failed.insert(file, Instant::now());
                    continue;
                };
                self.run.transfer.is_known(bytes);
                if outgoing.capacity() == 0 {
                    self.say_full();
                }
                let sealed = Outgoing::new(upload, false, Some(room));
                if outgoing.send(sealed).await.is_err() {
                    return Ok(());
                }
            }
            if self.run.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The files that are as they were at the look before, the oldest first.
    async fn look(&mut self) -> Result<Vec<Listed>> {
        let (folder, but_not) = (self.folder.clone(), self.but_not.clone());
        let listed = spawn_blocking(move || list(&[folder], &but_not)).await?;
        let (files, _) = match listed {
            Ok(found) => found,
            Err(error) => {
                note(&format!("{error:#}"));
                return Ok(Vec::new());
            }
        };
        let mut files: Vec<Listed> = files.into_iter().filter(|one| !is_temporary(one)).collect();
        let now = files
            .iter()
            .map(|one| (one.file.path.clone(), one.file.clone()));
        let seen = std::mem::replace(&mut self.seen, now.collect());
        let present: BTreeSet<&SourceFile> = self.seen.values().collect();
        self.failed.retain(|file, _| present.contains(file));
        let failed = &self.failed;
        files.retain(|one| {
            let failed_at = failed.get(&one.file);
            let may_be_tried = failed_at.is_none_or(|at| at.elapsed() >= FAILED_AGAIN_AFTER);
            seen.get(&one.file.path) == Some(&one.file) && may_be_tried
        });
        files.sort_by(|a, b| {
            let key = |one: &Listed| (one.file.modified_unix_ms, one.file.path.clone());
            key(a).cmp(&key(b))
        });
        Ok(files)
    }

    fn say_full(&mut self) {
        if !self.is_full {
            self.is_full = true;
            note(
                "the outbox is full: files stay in the folder and are not sealed until some of it is \
                 sent",
            );
        }
    }
}

/// A file that somebody is still writing under another name than it will have.
fn is_temporary(listed: &Listed) -> bool {
    let name = listed.name.rsplit('/').next().unwrap_or_default();
    let lower = name.to_ascii_lowercase();
    name.starts_with(['.', '~']) || TEMPORARY.iter().any(|end| lower.ends_with(end))
}

/// How names end under which programs write what they rename later.
const TEMPORARY: [&str; 8] = [
    "~",
    ".tmp",
    ".temp",
    ".part",
    ".partial",
    ".swp",
    ".crdownload",
    ".filepart",
];
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Sealed records that wait in the outbox, whatever their size.
const MAX_AHEAD: usize = 4096;
/// 512 GiB.
const MAX_ROOM_KIB: u32 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_under_which_files_are_written_do_not_count() {
        for (name, is) in [
            ("ecg-1.dat", false),
            ("ward7/ecg.dat", false),
            ("ward.tmp/ecg.dat", false),
            (".ecg.dat.Xy12", true),
            ("ward7/.ecg", true),
            ("ecg.dat.part", true),
            ("ECG.TMP", true),
            ("ecg.dat~", true),
        ] {
            let listed = Listed {
                file: SourceFile {
                    path: String::new(),
                    size: 0,
                    modified_unix_ms: 0,
                },
                name: name.to_owned(),
            };
            assert_eq!(is_temporary(&listed), is, "{name}");
        }
    }
}
