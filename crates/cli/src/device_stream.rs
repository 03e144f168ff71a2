use crate::files;
use anyhow::{Context, Result};
use medanchor_dag::{Cid, Record, StreamId};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the device's stream of records stands: the number of the next record, and the record before it.
///
/// It is written after the record that it counts is in the outbox. When a crash comes between, the record
/// in the outbox says where the stream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceStream {
    path: PathBuf,
    pub(crate) stream: StreamId,
    pub(crate) next_seq: u64,
    pub(crate) prev: Option<Cid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamFile {
    version: u32,
    stream: String,
    next_seq: u64,
    prev: Option<String>,
}

impl DeviceStream {
    /// Reads where the stream stands, or begins one.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        if path.exists() {
            let text = files::read_text(&path, MAX_BYTES)?;
            return parse(&path, &text).with_context(|| format!("parse `{}`", path.display()));
        }
        let stream = StreamId::generate().context("draw a stream id")?;
        let begun = Self {
            path,
            stream,
            next_seq: 0,
            prev: None,
        };
        begun.save()?;
        Ok(begun)
    }

    /// Counts a record of this stream, unless it is counted already.
    pub(crate) fn advance(&mut self, record: &Record) -> Result<()> {
        if record.header().stream != self.stream || record.seq() < self.next_seq {
            return Ok(());
        }
        self.next_seq = record.seq().checked_add(1).context("the stream is full")?;
        self.prev = Some(*record.cid());
        self.save()
    }

    /// Takes back the newest record, which the log will never hold, so that it leaves no gap.
    pub(crate) fn take_back(&mut self, record: &Record) -> Result<()> {
        if self.prev != Some(*record.cid()) {
            return Ok(());
        }
        self.next_seq = record.seq();
        self.prev = record.prev().copied();
        self.save()
    }

    fn save(&self) -> Result<()> {
        let file = StreamFile {
            version: 1,
            stream: self.stream.to_string(),
            next_seq: self.next_seq,
            prev: self.prev.map(|cid| cid.to_string()),
        };
        let text = toml::to_string(&file).context("write the stream's state")?;
        files::replace(&self.path, text.as_bytes())
            .with_context(|| format!("replace `{}`", self.path.display()))
    }
}

fn parse(path: &Path, text: &str) -> Result<DeviceStream> {
    let file: StreamFile = toml::from_str(text)?;
    anyhow::ensure!(file.version == 1, "unsupported version {}", file.version);
    anyhow::ensure!(
        (file.next_seq == 0) == file.prev.is_none(),
        "`prev` belongs to every number but 0"
    );
    Ok(DeviceStream {
        path: path.to_owned(),
        stream: file.stream.parse()?,
        next_seq: file.next_seq,
        prev: file.prev.as_deref().map(Cid::try_from).transpose()?,
    })
}

const MAX_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::testing::record;
    use proptest::prelude::*;

    #[test]
    fn stream_counts_each_record_once_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device-stream.toml");
        let mut stream = DeviceStream::open(path.clone()).unwrap();
        assert_eq!((stream.next_seq, stream.prev), (0, None));
        let first = record(stream.stream, 0, None);
        stream.advance(&first).unwrap();
        stream.advance(&first).unwrap();
        assert_eq!((stream.next_seq, stream.prev), (1, Some(*first.cid())));
        assert_eq!(DeviceStream::open(path).unwrap(), stream);
    }

    #[test]
    fn record_that_the_log_refuses_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut stream = DeviceStream::open(folder.path().join("s.toml")).unwrap();
        let first = record(stream.stream, 0, None);
        let second = record(stream.stream, 1, Some(*first.cid()));
        stream.advance(&first).unwrap();
        stream.advance(&second).unwrap();
        stream.take_back(&first).unwrap();
        assert_eq!(stream.next_seq, 2);
        stream.take_back(&second).unwrap();
        assert_eq!((stream.next_seq, stream.prev), (1, Some(*first.cid())));
    }

    #[test]
    fn record_of_another_stream_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut stream = DeviceStream::open(folder.path().join("s.toml")).unwrap();
        stream
            .advance(&record(StreamId::new([1; 16]), 7, None))
            .unwrap();
        assert_eq!(stream.next_seq, 0);
    }

    proptest! {
        #[test]
        fn stream_parser_never_panics(text in any::<String>(), seq in any::<u64>()) {
            let path = Path::new("x");
            prop_assert!(parse(path, &text).is_err());
            let text = format!("version = 1\nstream = \"{text:?}\"\nnext_seq = {seq}\n");
            prop_assert!(parse(path, &text).is_err());
        }
    }
}
