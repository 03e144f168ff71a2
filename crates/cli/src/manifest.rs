use crate::files;
use anyhow::{Context, Result};
use medanchor_dag::{Cid, Hash};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a folder of fetched records holds, and what is missing: `manifest.jsonl` in it, one line for each record
/// (`docs/formats.md`, Manifest).
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    records: BTreeMap<String, State>,
}

/// How far a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It was asked for, and is not there yet.
    Missing,
    /// Its payload is there, whole.
    Complete(Complete),
    /// The last attempt to fetch it failed.
    Failed {
        /// The stable code.
        code: String,
        /// Why.
        error: String,
    },
}

/// A payload that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) size_bytes: u64,
    pub(crate) sha256: Hash,
    /// The payload's name, as its device sealed it: never a path.
    pub(crate) name: Option<String>,
    /// Its media type, likewise.
    pub(crate) content_type: Option<String>,
}

impl Manifest {
    /// The manifest of a folder; empty, when there is none yet.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let records = match path.exists() {
            true => parse(&files::read_text(&path, MAX_BYTES)?)
                .with_context(|| format!("parse `{}`", path.display()))?,
            false => BTreeMap::new(),
        };
        Ok(Self { path, records })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How far a record is; `None` when it was never asked for.
    pub(crate) fn state(&self, record: &Cid) -> Option<&State> {
        self.records.get(&file_name(record))
    }

    /// The records that are not complete.
    pub(crate) fn incomplete(&self) -> Vec<Cid> {
        let open = self.records.iter();
        open.filter(|(_, state)| !matches!(state, State::Complete(_)))
            .filter_map(|(record, _)| record.parse().ok())
            .collect()
    }

    /// Takes note of how far a record is.
    pub(crate) fn set(&mut self, record: &Cid, state: State) {
        self.records.insert(file_name(record), state);
    }

    /// Writes it, whole.
    pub(crate) fn save(&self) -> Result<()> {
        let context = || format!("write `{}`", self.path.display());
        let lines = self.records.iter();
        let lines = lines.map(|(record, state)| line(record, state));
        let text = lines.collect::<Result<String>>().with_context(context)?;
        anyhow::ensure!(
            u64::try_from(text.len())? <= MAX_BYTES,
            "`{}` would be larger than {MAX_BYTES} bytes: use another folder",
            self.path.display()
        );
        files::replace(&self.path, text.as_bytes()).with_context(context)
    }
}

/// A record's file in the folder: its CID and nothing else, so that no name from outside becomes a path.
pub(crate) fn file_name(record: &Cid) -> String {
    record.to_string()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    v: u8,
    record: String,
    file: String,
    state: StateName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateName {
    Missing,
    Complete,
    Failed,
}

fn line(record: &str, state: &State) -> Result<String> {
    let mut line = Line {
        v: 1,
        record: record.to_owned(),
        file: record.to_owned(),
        state: StateName::Missing,
        size_bytes: None,
        sha256: None,
        name: None,
        content_type: None,
        code: None,
        error: None,
    };
    match state {
        State::Missing => (),
        State::Complete(complete) => {
            line.state = StateName::Complete;
            line.size_bytes = Some(complete.size_bytes);
            line.sha256 = Some(complete.sha256.to_string());
            line.name = complete.name.as_deref().map(shortened);
            line.content_type = complete.content_type.as_deref().map(shortened);
        }
        State::Failed { code, error } => {
            line.state = StateName::Failed;
            line.code = Some(shortened(code));
            line.error = Some(shortened(error));
        }
    }
    Ok(serde_json::to_string(&line)? + "\n")
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

fn parse(text: &str) -> Result<BTreeMap<String, State>> {
    anyhow::ensure!(
        text.is_empty() || text.ends_with('\n'),
        "the last line is not whole"
    );
    let mut records = BTreeMap::new();
    for (number, line) in (1_u64..).zip(text.lines()) {
        let context = || format!("line {number}");
        let (record, state) = parse_line(line).with_context(context)?;
        let twice = records.insert(record, state).is_some();
        anyhow::ensure!(!twice, "line {number}: its record has a line already");
    }
    Ok(records)
}

fn parse_line(text: &str) -> Result<(String, State)> {
    let parsed: Line = serde_json::from_str(text)?;
    anyhow::ensure!(parsed.v == 1, "version {} is not known", parsed.v);
    let record: Cid = parsed.record.parse().context("parse the record's CID")?;
    let record = file_name(&record);
    let state = state_of(parsed)?;
    // One line has one form: so the file is the record's own, too.
    anyhow::ensure!(
        line(&record, &state)?.trim_end() == text,
        "the line is not as it is written"
    );
    Ok((record, state))
}

fn state_of(line: Line) -> Result<State> {
    Ok(match line {
        Line {
            state: StateName::Missing,
            size_bytes: None,
            sha256: None,
            name: None,
            content_type: None,
            code: None,
            error: None,
            ..
        } => State::Missing,
        Line {
            state: StateName::Complete,
            size_bytes: Some(size_bytes),
            sha256: Some(sha256),
            name,
            content_type,
            code: None,
            error: None,
            ..
        } => State::Complete(Complete {
            size_bytes,
            sha256: sha256.parse().context("parse the SHA-256")?,
            name,
            content_type,
        }),
        Line {
            state: StateName::Failed,
            code: Some(code),
            error: Some(error),
            size_bytes: None,
            sha256: None,
            name: None,
            content_type: None,
            ..
        } => State::Failed { code, error },
        _ => anyhow::bail!("the fields are not those of the state"),
    })
}

/// The manifest's file.
const MANIFEST: &str = "manifest.jsonl";
const MAX_BYTES: u64 = 64 * 1024 * 1024;
const MAX_TEXT_CHARS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{Codec, cid_of};
    use proptest::prelude::*;
    use std::fs;

    fn cid(seed: u8) -> Cid {
        cid_of(Codec::DagCbor, &[seed; 32])
    }

    fn complete() -> State {
        State::Complete(Complete {
            size_bytes: 5,
            sha256: Hash::of(b"hello"),
            name: Some("../../etc/passwd\n".to_owned()),
            content_type: None,
        })
    }

    fn failed() -> State {
        State::Failed {
            code: "no-consent".to_owned(),
            error: "access is denied".to_owned(),
        }
    }

    #[test]
    fn manifest_is_read_back_and_names_no_file_but_by_cid() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::open(folder.path()).unwrap();
        let states = [State::Missing, complete(), failed()];
        for (seed, state) in (0..).zip(&states) {
            manifest.set(&cid(seed), state.clone());
        }
        manifest.save().unwrap();
        let read = Manifest::open(folder.path()).unwrap();
        for (seed, state) in (0..).zip(&states) {
            assert_eq!(read.state(&cid(seed)), Some(state));
        }
        let mut incomplete = read.incomplete();
        incomplete.sort();
        assert_eq!(incomplete, [cid(0), cid(2)]);
        assert_eq!(read.state(&cid(9)), None);
        let text = fs::read_to_string(read.path()).unwrap();
        assert_eq!(text.lines().count(), 3, "a name is no line: {text}");
        for record in 0..3 {
            let file = format!("\"file\":\"{}\"", cid(record));
            assert!(text.contains(&file), "{text}");
        }
    }

    #[test]
    fn lines_are_as_in_the_documentation() {
        let documentation = include_str!("../../../docs/formats.md");
        let documented = State::Complete(Complete {
            size_bytes: 5,
            sha256: Hash::of(b"hello"),
            name: Some("ecg.dat".to_owned()),
            content_type: Some("application/octet-stream".to_owned()),
        });
        let record = cid(0).to_string();
        for state in [State::Missing, documented, failed()] {
            let line = line(&record, &state).unwrap();
            assert!(documentation.contains(&line), "{line}");
            assert_eq!(parse(&line).unwrap()[&record], state);
        }
    }

    #[test]
    fn lines_that_are_not_exactly_of_their_state_are_refused() {
        let (one, other) = (cid(1).to_string(), cid(2).to_string());
        let good = line(&one, &complete()).unwrap();
        assert!(parse(&good).is_ok());
        let missing = line(&one, &State::Missing).unwrap();
        let refused = [
            good.trim_end().to_owned(),
            format!("{good}\n"),
            format!("{good}{missing}"),
            good.replace("\"v\":1", "\"v\":2"),
            good.replace("\"v\":1", "\"v\":1,\"colour\":1"),
            good.replace("complete", "whole"),
            good.replace("complete", "missing"),
            good.replace("complete", "failed"),
            missing.replace("missing", "complete"),
            good.replacen(&one, &other, 1),
            good.replace(&one, "../etc"),
            good.replace(&one, &one.to_uppercase()),
            good.replace("\"v\":1", "\"v\": 1"),
            good.replace(&Hash::of(b"hello").to_string(), "00"),
            good.replace("\"size_bytes\":5", "\"size_bytes\":-5"),
            line(&one, &failed()).unwrap().replace("code", "name"),
        ];
        for text in refused {
            assert!(parse(&text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn manifest_parser_never_panics(text in any::<String>(), at in any::<prop::sample::Index>()) {
            let _ = parse(&text);
            let mut changed = line(&cid(1).to_string(), &complete()).unwrap();
            changed.insert_str(at.index(changed.len()), &text);
            let _ = parse(&changed);
        }
    }
}
