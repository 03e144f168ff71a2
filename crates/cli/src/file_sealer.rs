use crate::{
    OwnKeys,
    device_stream::DeviceStream,
    file_list::{Listed, source_file},
    outbox::{Outbox, SourceFile, Upload},
    seal::{Meta, Plan, seal},
};
use anyhow::{Context, Result};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Seals files into the outbox, each as the next record of the device's stream.
pub(crate) struct FileSealer {
    /// How every one of them is sealed.
    pub(crate) plan: Plan,
    pub(crate) keys: OwnKeys,
    pub(crate) stream: DeviceStream,
    pub(crate) outbox: Outbox,
    /// Set when no more is to be sealed.
    pub(crate) stopped: Arc<AtomicBool>,
}

/// Why a file is not sealed.
#[derive(Debug)]
pub(crate) enum SealFailure {
    /// The file cannot be read, or is not what it was: others can be sealed.
    File(anyhow::Error),
    /// Nothing can be sealed.
    Outbox(anyhow::Error),
}

impl FileSealer {
    /// Seals a file as it was listed. One that changes meanwhile is not sealed.
    pub(crate) fn seal(&mut self, listed: &Listed) -> Result<Upload, SealFailure> {
        let mut reader = Steady::open(&listed.file, &self.stopped).map_err(SealFailure::File)?;
        let plan = Plan {
            captured_at_unix_ms: listed.file.modified_unix_ms,
            meta: Meta {
                content_type: self.plan.meta.content_type.clone(),
                filename: Some(listed.name.clone()),
            },
            source: Some(listed.file.clone()),
            ..self.plan.clone()
        };
        let sealed = seal(&mut reader, &plan, &self.keys, &self.stream, &self.outbox);
        let upload = match (sealed, reader.failure) {
            (Ok(upload), _) => upload,
            (Err(error), failure) => {
                // What was sealed of it so far is worth nothing.
                self.outbox
                    .sweep_unfinished()
                    .map_err(SealFailure::Outbox)?;
                return Err(match failure {
                    Some(problem) => SealFailure::File(problem.context(read(&listed.file))),
                    None => SealFailure::Outbox(error),
                });
            }
        };
        let advanced = self.stream.advance(&upload.record);
        advanced.map_err(SealFailure::Outbox)?;
        Ok(upload)
    }
}

/// A file that must be as it was listed when its end is reached.
struct Steady<'a> {
    file: File,
    expected: &'a SourceFile,
    stopped: &'a AtomicBool,
    read: u64,
    failure: Option<anyhow::Error>,
}

impl<'a> Steady<'a> {
    fn open(expected: &'a SourceFile, stopped: &'a AtomicBool) -> Result<Self> {
        let file = File::open(Path::new(&expected.path)).with_context(|| read(expected))?;
        Ok(Self {
            file,
            expected,
            stopped,
            read: 0,
            failure: None,
        })
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was interrupted"));
        }
        let read = self.file.read(buffer)?;
        self.read = self
            .read
            .saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if read == 0 && !buffer.is_empty() {
            let now = source_file(&self.expected.path, &self.file.metadata()?)?;
            if now != *self.expected || self.read != now.size {
                return Err(io::Error::other("it changed while it was read"));
            }
        }
        Ok(read)
    }
}

impl Read for Steady<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_on(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error.into());
            }
            kind.into()
        })
    }
}

fn read(file: &SourceFile) -> String {
    format!("read `{}`", file.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{Class, CustodyId, SigningKey};
    use medanchor_envelope::{Identity, Suite};
    use std::fs;
    use zeroize::Zeroizing;

    fn sealer(folder: &Path) -> FileSealer {
        fs::create_dir(folder.join("outbox")).unwrap();
        FileSealer {
            plan: Plan {
                custody: CustodyId::new([9; 16]),
                custody_key: Identity::generate().unwrap().recipient(),
                class: Class::Ecg,
                suite: Suite::ChaCha20Poly1305,
                chunk_log2: 16,
                captured_at_unix_ms: 0,
                meta: Meta::default(),
                source: None,
            },
            keys: OwnKeys::new(
                SigningKey::from_seed(&[1; 32]),
                Identity::from_bytes(Zeroizing::new([2; 32])),
            ),
            stream: DeviceStream::open(folder.join("stream.toml")).unwrap(),
            outbox: Outbox::open(folder.join("outbox")).unwrap(),
            stopped: Arc::default(),
        }
    }

    fn listed(path: &Path) -> Listed {
        let file = source_file(path.to_str().unwrap(), &fs::metadata(path).unwrap()).unwrap();
        Listed {
            file,
            name: "ward7/ecg".to_owned(),
        }
    }

    #[test]
    fn files_are_sealed_as_a_chain_and_one_that_fails_leaves_no_gap() {
        let folder = tempfile::tempdir().unwrap();
        let mut sealer = sealer(folder.path());
        let (one, other) = (folder.path().join("1"), folder.path().join("2"));
        for path in [&one, &other] {
            fs::write(path, vec![7; 1 << 16]).unwrap();
        }
        let first = sealer.seal(&listed(&one)).unwrap();
        let mut changed = listed(&other);
        changed.file.size -= 1;
        let gone = Listed {
            file: SourceFile {
                path: folder.path().join("3").to_str().unwrap().to_owned(),
                ..changed.file.clone()
            },
            ..changed.clone()
        };
        for listed in [&changed, &gone] {
            let failure = sealer.seal(listed);
            assert!(matches!(failure, Err(SealFailure::File(_))), "{failure:?}");
        }
        let second = sealer.seal(&listed(&other)).unwrap();
        assert_eq!((first.record.seq(), second.record.seq()), (0, 1));
        assert_eq!(second.record.prev(), Some(first.record.cid()));
        let uploads = sealer.outbox.uploads().unwrap();
        let sources: Vec<_> = uploads.iter().map(|upload| upload.source.clone()).collect();
        assert_eq!(
            sources,
            [Some(listed(&one).file), Some(listed(&other).file)]
        );
        assert_eq!(
            fs::read_dir(folder.path().join("outbox")).unwrap().count(),
            2
        );
    }

    #[test]
    fn interrupted_sealer_and_broken_outbox_seal_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut sealer = sealer(folder.path());
        let path = folder.path().join("1");
        fs::write(&path, b"ecg").unwrap();
        sealer.stopped.store(true, Ordering::Relaxed);
        let failure = sealer.seal(&listed(&path));
        assert!(matches!(failure, Err(SealFailure::File(_))), "{failure:?}");
        sealer.stopped.store(false, Ordering::Relaxed);
        fs::remove_dir_all(folder.path().join("outbox")).unwrap();
        fs::write(folder.path().join("outbox"), b"no folder").unwrap();
        let failure = sealer.seal(&listed(&path));
        assert!(
            matches!(failure, Err(SealFailure::Outbox(_))),
            "{failure:?}"
        );
    }
}
