use crate::{files, outbox::SourceFile};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// What became of each file that was put: one line for each step of a file, the last of which counts
/// (`docs/formats.md`, Manifest of files).
#[derive(Debug)]
pub(crate) struct PutManifest {
    path: PathBuf,
    lines: File,
    files: BTreeMap<String, Line>,
}

/// How far a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) v: u8,
    /// Its whole path.
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    /// When it was last changed, unix ms.
    pub(crate) modified: u64,
    pub(crate) state: FileState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<String>,
    /// Number in the device's stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaf_index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) receipt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FileState {
    /// Its record was in the outbox, with `record` and `seq`.
    Sealed,
    /// Its record is anchored, as `receipt` shows, at `leaf_index`.
    Anchored,
    /// The last attempt failed, with `code` and `error`.
    Failed,
}

impl Line {
    /// A file's line without anything that belongs to a state.
    pub(crate) fn of(file: &SourceFile, state: FileState) -> Self {
        Self {
            v: 1,
            path: file.path.clone(),
            size_bytes: file.size,
            modified: file.modified_unix_ms,
            state,
            record: None,
            seq: None,
            leaf_index: None,
            receipt: None,
            code: None,
            error: None,
        }
    }

    /// Whether it is of this file, as the file is now.
    pub(crate) fn is_of(&self, file: &SourceFile) -> bool {
        (self.path.as_str(), self.size_bytes, self.modified)
            == (file.path.as_str(), file.size, file.modified_unix_ms)
    }

    fn is_well_formed(&self) -> bool {
        let record = self.record.is_some() && self.seq.is_some();
        let anchored = self.leaf_index.is_some() && self.receipt.is_some();
        let failed = self.code.is_some() && self.error.is_some();
        let has = [record, anchored, failed];
        let has_part = self.leaf_index.is_some() != self.receipt.is_some()
            || self.record.is_some() != self.seq.is_some()
            || self.code.is_some() != self.error.is_some();
        let expected = match self.state {
            FileState::Sealed => [true, false, false],
            FileState::Anchored => [true, true, false],
            FileState::Failed => [false, false, true],
        };
        self.v == 1 && has == expected && !has_part
    }
}

impl PutManifest {
    /// Opens the manifest, made where it does not exist. What a crash cut off at its end is left out.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let context = || format!("open `{}`", path.display());
        let files = match path.exists() {
            true => parse(&files::read_text(path, MAX_BYTES)?)
                .with_context(|| format!("parse `{}`", path.display()))?,
            false => BTreeMap::new(),
        };
        write(path, &files)?;
        let lines = OpenOptions::new().append(true).open(path);
        Ok(Self {
            path: path.to_owned(),
            lines: lines.with_context(context)?,
            files,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How far a file is; `None` when nothing is known of it as it is now.
    pub(crate) fn of(&self, file: &SourceFile) -> Option<&Line> {
        self.files.get(&file.path).filter(|line| line.is_of(file))
    }

    /// Takes note of how far files are, for good.
    pub(crate) fn note(&mut self, lines: Vec<Line>) -> Result<()> {
        let context = || format!("write `{}`", self.path.display());
        let mut text = String::new();
        for line in &lines {
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        self.lines
            .write_all(text.as_bytes())
            .with_context(context)?;
        self.lines.sync_data().with_context(context)?;
        let lines = lines.into_iter();
        self.files
            .extend(lines.map(|line| (line.path.clone(), line)));
        Ok(())
    }

    /// Forgets the files for which `keep` is false, and writes the rest anew, a line each.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Line) -> bool) -> Result<()> {
        self.files.retain(|_, line| keep(line));
        write(&self.path, &self.files)?;
        let lines = OpenOptions::new().append(true).open(&self.path);
        self.lines = lines.with_context(|| format!("open `{}`", self.path.display()))?;
        Ok(())
    }
}

/// The first characters of text from outside.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

fn write(path: &Path, files: &BTreeMap<String, Line>) -> Result<()> {
    let context = || format!("write `{}`", path.display());
    let mut text = String::new();
    for line in files.values() {
        text += &serde_json::to_string(line)?;
        text.push('\n');
    }
    files::replace(path, text.as_bytes()).with_context(context)
}

fn parse(text: &str) -> Result<BTreeMap<String, Line>> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let lines = text.get(..whole).unwrap_or_default().lines();
    let mut files = BTreeMap::new();
    for (number, text) in (1_u64..).zip(lines) {
        let context = || format!("line {number}");
        let line: Line = serde_json::from_str(text).with_context(context)?;
        anyhow::ensure!(
            line.is_well_formed(),
            "line {number}: the fields are not those of the state"
        );
        files.insert(line.path.clone(), line);
    }
    Ok(files)
}

const MAX_BYTES: u64 = 256 * 1024 * 1024;
const MAX_TEXT_CHARS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn source(path: &str) -> SourceFile {
        SourceFile {
            path: path.to_owned(),
            size: 5,
            modified_unix_ms: 1_792_000_000_000,
        }
    }

    fn line(path: &str, state: FileState) -> Line {
        let line = Line::of(&source(path), state);
        let record = Some("bafyreiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned());
        match state {
            FileState::Sealed => Line {
                record,
                seq: Some(7),
                ..line
            },
            FileState::Anchored => Line {
                record,
                seq: Some(7),
                leaf_index: Some(41),
                receipt: Some("/holter/receipts/bafyreia.tlog-proof".to_owned()),
                ..line
            },
            FileState::Failed => Line {
                code: Some("failed".to_owned()),
                error: Some("open `/data/ecg-1.dat`: permission denied".to_owned()),
                ..line
            },
        }
    }

    const STATES: [FileState; 3] = [FileState::Sealed, FileState::Anchored, FileState::Failed];

    #[test]
    fn last_line_of_a_file_counts_and_a_torn_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.jsonl");
        let mut manifest = PutManifest::open(&path).unwrap();
        let (one, other) = (source("/data/1"), source("/data/2"));
        let sealed = line("/data/1", FileState::Sealed);
        let anchored = line("/data/1", FileState::Anchored);
        manifest.note(vec![sealed]).unwrap();
        manifest.note(vec![anchored.clone()]).unwrap();
        manifest
            .note(vec![line("/data/2", FileState::Failed)])
            .unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        assert_eq!(whole.lines().count(), 3);
        fs::write(&path, whole + "{\"v\":1,\"pa").unwrap();

        let mut manifest = PutManifest::open(&path).unwrap();
        assert_eq!(manifest.of(&one), Some(&anchored));
        assert!(manifest.of(&other).is_some());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        let changed = SourceFile { size: 6, ..one };
        assert_eq!(manifest.of(&changed), None, "it is another content");
        manifest.retain(|line| line.path == "/data/1").unwrap();
        manifest
            .note(vec![line("/data/3", FileState::Sealed)])
            .unwrap();
        let manifest = PutManifest::open(&path).unwrap();
        assert!(manifest.of(&other).is_none());
        assert_eq!(manifest.files.len(), 2);
    }

    #[test]
    fn lines_are_as_in_the_documentation() {
        let documentation = include_str!("../../../docs/formats.md");
        for state in STATES {
            let text = serde_json::to_string(&line("/data/ecg-1.dat", state)).unwrap();
            assert!(documentation.contains(&text), "{text}");
        }
    }

    #[test]
    fn lines_that_are_not_of_their_state_are_refused() {
        for state in STATES {
            let good = serde_json::to_string(&line("/data/1", state)).unwrap() + "\n";
            assert!(parse(&good).is_ok());
            for other in ["sealed", "anchored", "failed", "lost"] {
                let name = serde_json::to_string(&state).unwrap();
                let name = name.trim_matches('"');
                let changed = good.replace(&format!("\"{name}\""), &format!("\"{other}\""));
                assert!(changed == good || parse(&changed).is_err(), "{changed}");
            }
            assert!(parse(&good.replace("\"v\":1", "\"v\":2")).is_err());
            assert!(parse(&good.replace("\"v\":1", "\"v\":1,\"x\":1")).is_err());
        }
    }

    proptest! {
        #[test]
        fn manifest_parser_never_panics(text in any::<String>(), at in any::<prop::sample::Index>()) {
            let _ = parse(&text);
            let mut changed = serde_json::to_string(&line("/data/1", FileState::Anchored)).unwrap();
            changed.push('\n');
            let at = at.index(changed.len());
            changed.insert_str(at, &text);
            let _ = parse(&changed);
        }
    }
}
