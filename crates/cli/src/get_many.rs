use crate::{
    Asking, CliError, Exit, NotedNode, OwnKeys, Rate, ReleasedTogether, Session,
    bulk::{Bulk, Place, ask_together},
    chain::Broken,
    exit::{graver, said_by, stable_code},
    files,
    get::{Opened, noted, open, source},
    grant::Grant,
    manifest::{Complete, Manifest, State, file_name},
    payload::{Payload, Whole, partial, sha256_of},
    progress::Transfer,
    request::Refusal,
    selection::Selection,
    throttle::Throttle,
};
use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use indicatif::HumanBytes;
use medanchor_api::NodesSource;
use medanchor_dag::Cid;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::Instant};

/// What to fetch into a folder.
#[derive(Clone, Debug)]
pub struct GetManyOptions {
    /// The records.
    pub records: Vec<Cid>,
    /// Also every record of which the user holds a grant that still stands.
    pub granted: bool,
    /// Also those that are selected.
    pub selection: Selection,
    /// The folder, made where it does not exist. When no record is asked for, those that its manifest names and that
    /// are not complete.
    pub folder: PathBuf,
    /// The keys to open them with.
    pub asking: Asking,
    /// At most this many bytes per second for all of them together; absent, as fast as they come.
    pub limit: Option<Rate>,
}

/// How fetching into a folder ended.
#[derive(Clone, Debug, Serialize)]
pub struct GotMany {
    /// Whether every record that was asked for is there.
    pub ok: bool,
    /// `ok`, or what the failures come to: see [`Exit`].
    pub code: &'static str,
    /// The manifest.
    pub manifest: PathBuf,
    /// Records asked for.
    pub records: u64,
    /// Records that are there now and were not before.
    pub fetched: u64,
    /// Records that were there.
    pub kept: u64,
    /// Records that are not there, and why.
    pub failed: Vec<FailedRecord>,
    /// Keys that were released together for it.
    pub releases: Vec<ReleasedTogether>,
    /// Bytes of payload that were fetched.
    pub fetched_bytes: u64,
    /// Blocks of payloads that were fetched.
    pub blocks_fetched: u64,
    /// Blocks of payloads that an interrupted run had fetched.
    pub blocks_kept: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Nodes that failed to serve a block, and why.
    pub noted_nodes: Vec<NotedNode>,
}

/// A record that could not be had.
#[derive(Clone, Debug, Serialize)]
pub struct FailedRecord {
    /// The record.
    pub record: String,
    /// The stable code.
    pub code: String,
    /// Why.
    pub error: String,
}

/// Fetches records into a folder, each opened and every byte checked before it is written, and says in a manifest
/// what is there. A record that fails stops no other. What is there is not fetched again.
///
/// # Errors
///
/// When nothing can be begun: no keys, no usable folder or manifest, or nothing to fetch. Failures of records are in
/// the answer.
pub async fn get_many(session: &Session, options: &GetManyOptions) -> Result<GotMany> {
    let keys = session.home.own_keys()?;
    let folder = options.folder.as_path();
    files::create_folder(folder).with_context(|| format!("make `{}`", folder.display()))?;
    let _alone = lock(folder)?;
    let mut manifest = Manifest::open(folder)?;
    let Selected {
        records,
        places,
        broken,
    } = selected(session, &keys, &manifest, options).await?;
    for record in &records {
        if manifest.state(record).is_none() {
            manifest.set(record, State::Missing);
        }
    }
    manifest.save()?;
    let bulk = together(session, &keys, &manifest, options, places).await?;
    let many = Many {
        session,
        denied: bulk.denied,
        keys: &keys,
        options,
        nodes: NodesSource::new(session.client.clone()),
        places: Arc::new(Semaphore::new(BLOCKS)),
        throttle: options.limit.map(|rate| Arc::new(Throttle::new(rate))),
        transfer: Arc::new(Transfer::new("fetching", u64::try_from(records.len())?)),
    };
    let asked = records.iter().map(|record| {
        let state = manifest.state(record).cloned();
        (*record, state)
    });
    let asked: Vec<_> = asked.collect();
    let fetches = stream::iter(asked).map(async |(record, state)| {
        let done = many.one(&record, state.as_ref()).await;
        many.transfer.is_over();
        (record, done)
    });
    let mut fetches = std::pin::pin!(fetches.buffer_unordered(RECORDS));
    let mut got = GotMany {
        ok: true,
        code: Exit::Done.name(),
        manifest: manifest.path().to_owned(),
        records: u64::try_from(records.len() + usize::from(broken.is_some()))?,
        fetched: 0,
        kept: 0,
        failed: Vec::new(),
        releases: bulk.releases,
        fetched_bytes: 0,
        blocks_fetched: 0,
        blocks_kept: 0,
        took_ms: 0,
        noted_nodes: Vec::new(),
    };
    let (mut saved, mut exit) = (Instant::now(), Exit::Done);
    if let Some(Broken { record, error }) = broken {
        exit = Exit::of(&error);
        manifest.set(&record, got.note(&record, Err(error)));
    }
    while let Some((record, done)) = fetches.next().await {
        if let Err(error) = &done {
            exit = graver(exit, Exit::of(error));
        }
        manifest.set(&record, got.note(&record, done));
        // What is complete and not noted yet is found by a later run all the same.
        if saved.elapsed() >= SAVE_EVERY {
            manifest.save()?;
            saved = Instant::now();
        }
    }
    manifest.save()?;
    many.transfer.finish();
    let (bytes, took) = many.transfer.volume();
    got.fetched_bytes = bytes;
    got.took_ms = u64::try_from(took.as_millis())?;
    got.failed.sort_by(|a, b| a.record.cmp(&b.record));
    (got.ok, got.code) = (exit == Exit::Done, exit.name());
    got.noted_nodes = noted(&many.nodes);
    Ok(got)
}

/// What the records of one run share.
struct Many<'a> {
    session: &'a Session,
    keys: &'a OwnKeys,
    options: &'a GetManyOptions,
    /// Records that were refused when they were asked for together.
    denied: BTreeMap<Cid, Refusal>,
    nodes: NodesSource,
    places: Arc<Semaphore>,
    throttle: Option<Arc<Throttle>>,
    transfer: Arc<Transfer>,
}

/// How a record came to be there.
enum Done {
    WasThere(Complete),
    Came(Complete, Whole),
}

impl Many<'_> {
    async fn one(&self, record: &Cid, state: Option<&State>) -> Result<Done> {
        let path = self.options.folder.join(file_name(record));
        if let Some(State::Complete(complete)) = state {
            let (file, expected) = (path.clone(), complete.clone());
            if spawn_blocking(move || is_there(&file, &expected)).await? {
                self.transfer.is_known(0);
                return Ok(Done::WasThere(complete.clone()));
            }
        }
        if let Some(refusal) = self.denied.get(record) {
            self.transfer.is_known(0);
            return Err(CliError::from(refusal).into());
        }
        let nodes = Arc::new(self.nodes.for_another());
        let done = self.fetch(record, &path, &nodes).await;
        self.nodes.learn(&nodes);
        done.map_err(|error| said_by(&nodes, error))
    }

    async fn fetch(&self, record: &Cid, path: &Path, nodes: &Arc<NodesSource>) -> Result<Done> {
        let asking = &self.options.asking;
        let opened = open(self.session, self.keys, nodes, record, asking).await;
        let size = opened.as_ref().map(|opened| opened.record.size_bytes());
        self.transfer.is_known(*size.as_ref().unwrap_or(&0));
        let Opened {
            record,
            opener,
            meta,
            ..
        } = opened?;
        let folder = &self.options.folder;
        let partial = partial(folder, record.cid());
        // It may be whole and not noted, or damaged: what of it is good is not fetched again.
        if path.exists() && !partial.exists() {
            fs::rename(path, &partial)
                .with_context(|| format!("take `{}` for what it is worth", path.display()))?;
        }
        let size_bytes = record.size_bytes();
        let source = source(nodes, &record, self.throttle.as_ref());
        let (places, transfer) = (Arc::clone(&self.places), Arc::clone(&self.transfer));
        let payload = Payload::open(folder, record, None, opener, places, transfer)?;
        let whole = payload.complete(source, path).await?;
        let complete = Complete {
            size_bytes,
            sha256: whole.sha256,
            name: meta.filename,
            content_type: meta.content_type,
        };
        Ok(Done::Came(complete, whole))
    }
}

impl FailedRecord {
    pub(crate) fn new(record: &Cid, error: &anyhow::Error) -> Self {
        Self {
            record: record.to_string(),
            code: stable_code(error),
            error: format!("{error:#}"),
        }
    }
}

impl GotMany {
    /// Counts one record, and gives its state.
    fn note(&mut self, record: &Cid, done: Result<Done>) -> State {
        match done {
            Ok(Done::WasThere(complete)) => {
                self.kept += 1;
                State::Complete(complete)
            }
            Ok(Done::Came(complete, whole)) => {
                self.fetched += 1;
                self.blocks_fetched += whole.blocks_fetched;
                self.blocks_kept += whole.blocks_kept;
                State::Complete(complete)
            }
            Err(error) => {
                let failed = FailedRecord::new(record, &error);
                let (code, error) = (failed.code.clone(), failed.error.clone());
                self.failed.push(failed);
                State::Failed { code, error }
            }
        }
    }
}

/// Asks for the keys that are lacking of the selected records together, where they are more than one.
async fn together(
    session: &Session,
    keys: &OwnKeys,
    manifest: &Manifest,
    options: &GetManyOptions,
    places: Vec<Place>,
) -> Result<Bulk> {
    let asking = &options.asking;
    let (purpose, role) = (asking.purpose.as_deref(), asking.role.as_deref());
    let lacks = |place: &Place| -> Result<bool> {
        let is_there = matches!(manifest.state(&place.record), Some(State::Complete(_)));
        Ok(!is_there && Grant::kept(session, keys, &place.record, purpose, role)?.is_none())
    };
    let wanted = places.into_iter().map(|place| Ok((lacks(&place)?, place)));
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    ask_together(session, keys, &options.selection, &wanted, asking).await
}

/// What to fetch.
struct Selected {
    /// The records, each once.
    records: BTreeSet<Cid>,
    /// Where the log has those that were selected.
    places: Vec<Place>,
    /// Where a stream that was selected breaks off.
    broken: Option<Broken>,
}

async fn selected(
    session: &Session,
    keys: &OwnKeys,
    manifest: &Manifest,
    options: &GetManyOptions,
) -> Result<Selected> {
    let mut records = BTreeSet::from_iter(options.records.iter().copied());
    let selects = !options.selection.is_empty();
    let (mut broken, mut places) = (None, Vec::new());
    if selects {
        let selected = options
            .selection
            .records(session, keys, &options.asking)
            .await?;
        records.extend(selected.records);
        (broken, places) = (selected.broken, selected.places);
    }
    if options.granted {
        let (purpose, role) = (&options.asking.purpose, &options.asking.role);
        for record in Grant::records(session)? {
            let (purpose, role) = (purpose.as_deref(), role.as_deref());
            if Grant::kept(session, keys, &record, purpose, role)?.is_some() {
                records.insert(record);
            }
        }
    } else if records.is_empty() && !selects {
        records.extend(manifest.incomplete());
    }
    let many = records.len();
    let selected = Selected {
        records,
        places,
        broken,
    };
    let problem = match many {
        0 if selected.broken.is_some() => return Ok(selected),
        0 if selects => "no record is selected",
        0 => "there is nothing to fetch: name records, or a folder whose manifest lacks some",
        1..=MAX_RECORDS => return Ok(selected),
        _ => "at most 100,000 records are fetched into one folder",
    };
    Err(CliError::Usage(problem.to_owned()).into())
}

/// Reads the CIDs of records, one in each line. Empty lines and those that begin with `#` are left out.
pub(crate) fn read_list(path: &Path) -> Result<Vec<Cid>> {
    let text = files::read_text(path, MAX_LIST_BYTES)?;
    parse_list(&text).with_context(|| format!("parse `{}`", path.display()))
}

fn parse_list(text: &str) -> Result<Vec<Cid>> {
    let lines = (1_u64..).zip(text.lines().map(str::trim));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| line.parse().with_context(|| format!("line {number}")))
        .collect()
}

/// Whether a file is what the manifest says.
fn is_there(path: &Path, expected: &Complete) -> bool {
    let is_as_long = fs::metadata(path).is_ok_and(|file| file.len() == expected.size_bytes);
    is_as_long && sha256_of(path).is_ok_and(|sha256| sha256 == expected.sha256)
}

/// One run at a time writes a folder.
fn lock(folder: &Path) -> Result<File> {
    let context = || format!("lock `{}`", folder.display());
    let file = File::open(folder).with_context(context)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("another process is fetching into `{}`", folder.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(context),
    }
}

impl fmt::Display for GotMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, took) = (self.fetched_bytes, self.took_ms.max(1));
        let rate = u128::from(bytes) * 1000 / u128::from(took);
        writeln!(
            f,
            "fetched   {} of {} records: {} in {:.1} s, {}/s",
            self.fetched,
            self.records,
            HumanBytes(bytes),
            Duration::from_millis(took).as_secs_f64(),
            HumanBytes(u64::try_from(rate).unwrap_or(u64::MAX)),
        )?;
        writeln!(f, "kept      {} that were there", self.kept)?;
        if self.blocks_kept > 0 {
            let (kept, fetched) = (self.blocks_kept, self.blocks_fetched);
            writeln!(
                f,
                "resumed   {kept} blocks were there, {fetched} were fetched"
            )?;
        }
        for ReleasedTogether {
            leaf_index,
            records,
            custodies,
            left_out,
        } in &self.releases
        {
            let count = left_out.values().sum::<u64>();
            writeln!(
                f,
                "released  leaf {leaf_index}: {records} keys under {custodies} custody keys, {count} left out"
            )?;
        }
        writeln!(f, "failed    {}", self.failed.len())?;
        for failed in &self.failed {
            writeln!(f, "  {}  {}: {}", failed.record, failed.code, failed.error)?;
        }
        write!(f, "manifest  {}", self.manifest.display())?;
        for noted in &self.noted_nodes {
            write!(f, "\nnoted     node `{}`: {}", noted.node, noted.note)?;
        }
        Ok(())
    }
}

/// Records on their way at one time: most of a small one's time is waiting for answers.
const RECORDS: usize = 8;
/// Blocks in memory at one time.
const BLOCKS: usize = 32;
const MAX_RECORDS: usize = 100_000;
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;
const SAVE_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{Codec, cid_of};

    #[test]
    fn list_is_a_record_in_each_line() {
        let (one, other) = (
            cid_of(Codec::DagCbor, &[1; 32]),
            cid_of(Codec::DagCbor, &[2; 32]),
        );
        let text = format!("# ward 7\n{one}\n\n  {other}\r\n");
        assert_eq!(parse_list(&text).unwrap(), [one, other]);
        let error = parse_list(&format!("{one}\n{one} {other}\n")).unwrap_err();
        assert_eq!(error.to_string(), "line 2");
    }

    #[test]
    fn file_is_there_only_when_it_is_what_the_manifest_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let complete = |size_bytes, content: &[u8]| Complete {
            size_bytes,
            sha256: medanchor_dag::Hash::of(content),
            name: None,
            content_type: None,
        };
        assert!(!is_there(&path, &complete(5, b"hello")));
        fs::write(&path, b"hello").unwrap();
        assert!(is_there(&path, &complete(5, b"hello")));
        assert!(!is_there(&path, &complete(5, b"hallo")));
        assert!(!is_there(&path, &complete(4, b"hello")));
    }

    #[test]
    fn two_runs_do_not_write_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(lock(folder.path()).is_err());
        drop(held);
        assert!(lock(folder.path()).is_ok());
    }
}
