//! A node that lies as leader, or whose disk fails, for the tests of what the others make of it. This is in no
//! build without `--cfg medanchor_fault`, and such a build is never a release: `docs/decisions`, 0016.
//!
//! | variable of the environment | what it makes of the node |
//! |---|---|
//! | `MEDANCHOR_FAULT_LIE` | a leader that tells one follower something else: see [`Lie`] |
//! | `MEDANCHOR_FAULT_DISK` | `FILE:FAULT:SYNC:SEED`: what becomes of a database's sync: see [`Disk`] |
//! | `MEDANCHOR_FAULT_KILL` | a file: the node ends at the step of its work that the file names: see [`step`](medanchor_dag::fault_step) |
//! | `MEDANCHOR_FAULT_REWRITE` | `TABLE:ROW`: the last byte of a row of the state is another one |

mod disk;

use crate::codec::log_id_from_pb;
use crate::config::ReplicaConfig;
use crate::error::{StoreError, database};
use crate::types::NodeId;
use disk::Disk;
use medanchor_anchor::{Batch, Entry, SignedBatchHead, Table};
use medanchor_api::pb::raft::{self as pb, entry::Payload};
pub use medanchor_dag::fault_step as step;
use medanchor_dag::{Hash, SigningKey};
use redb::{Database, ReadableTable};
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};

#[cfg(not(debug_assertions))]
compile_error!("a build with `--cfg medanchor_fault` lies and is never a release");

/// A leader's lies, if it is told to lie.
#[derive(Clone)]
pub(crate) struct Liar(Option<Arc<Lying>>);

struct Lying {
    lie: Lie,
    twist: Twist,
    /// The node that is told something else.
    victim: NodeId,
    key: Arc<SigningKey>,
    /// The tree that all heads for the victim name, which is true and gets old.
    tree: Mutex<Option<(u64, Hash)>>,
    /// A statement of an earlier batch.
    earlier: Mutex<Option<Entry>>,
    /// Whoever reads the log is told when the first lie was answered.
    told: Once,
}

/// What a leader sends to one follower.
pub(crate) struct Told {
    pub(crate) first: pb::AppendEntriesRequest,
    /// What follows once that was answered.
    pub(crate) then: Option<pb::AppendEntriesRequest>,
    /// Whether what is sent last is a lie.
    pub(crate) is_lie: bool,
}

/// What is false in a false batch: `LIE`, `LIE-dropped`, `LIE-substituted`.
#[derive(Clone, Copy)]
enum Twist {
    /// It was proposed a millisecond earlier than the true one.
    Earlier,
    /// Its first statement is missing.
    Dropped,
    /// In the place of its first statement is one of an earlier batch.
    Substituted,
}

/// What a leader tells, and to whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// `other-batch`: the victim gets a false batch under the true head.
    OtherBatch,
    /// `second-head`: the victim gets the true batch, then a false one for the same place with a head of its own.
    SecondHead,
    /// `fork`: the victim gets false batches alone, each with a head of its own.
    Fork,
    /// `ahead`, `back`: everybody gets batches that were proposed in an hour, or an hour ago.
    Time,
}

impl Liar {
    pub(crate) fn new(config: &ReplicaConfig) -> Self {
        variable("MEDANCHOR_FAULT_KILL");
        let told = variable("MEDANCHOR_FAULT_LIE").unwrap_or_default();
        let twists = [
            ("-dropped", Twist::Dropped),
            ("-substituted", Twist::Substituted),
        ];
        let mut twisted = twists
            .into_iter()
            .filter_map(|(suffix, twist)| Some((told.strip_suffix(suffix)?, twist)));
        let (lie, twist) = twisted.next().unwrap_or((&told, Twist::Earlier));
        let lie = match lie {
            "other-batch" => Lie::OtherBatch,
            "second-head" => Lie::SecondHead,
            "fork" => Lie::Fork,
            "ahead" | "back" => Lie::Time,
            _ => return Self(None),
        };
        let others = config.founders.iter().rev();
        let victim = others.copied().find(|id| *id != config.node_id);
        Self(victim.map(|victim| {
            Arc::new(Lying {
                lie,
                twist,
                victim,
                key: Arc::clone(&config.identity.key),
                tree: Mutex::default(),
                earlier: Mutex::default(),
                told: Once::new(),
            })
        }))
    }

    /// A liar does not leave leading to others.
    pub(crate) fn is_lying(&self) -> bool {
        self.0.is_some()
    }

    /// What is sent instead of the truth.
    pub(crate) fn tell(&self, truth: pb::AppendEntriesRequest) -> Told {
        let victim = self.0.as_deref().filter(|lying| lying.victim == truth.to);
        let mut lie = truth.clone();
        let twisted = victim.map_or(0, |lying| {
            let twisted = lie.entries.iter_mut();
            twisted.filter_map(|entry| lying.twist(entry)).count()
        });
        let (first, then) = match victim.map(|lying| lying.lie) {
            Some(Lie::SecondHead) if twisted > 0 => (truth, Some(lie)),
            Some(Lie::OtherBatch | Lie::Fork) if twisted > 0 => (lie, None),
            _ => (truth, None),
        };
        Told {
            first,
            then,
            is_lie: twisted > 0,
        }
    }

    /// The victim has answered to a lie.
    pub(crate) fn answered(&self) {
        if let Some(lying) = &self.0 {
            lying.told.call_once(|| tracing::warn!("a lie was told"));
        }
    }
}

impl Lying {
    fn twist(&self, entry: &mut pb::Entry) -> Option<()> {
        let Some(Payload::Batch(bytes)) = &mut entry.payload else {
            return None;
        };
        let place = log_id_from_pb(entry.log_id.as_ref()?);
        let mut batch = Batch::from_bytes(bytes).ok()?;
        self.falsify(&mut batch);
        *bytes = batch.to_bytes();
        if self.lie == Lie::OtherBatch {
            return Some(());
        }
        let mut head = SignedBatchHead::from_bytes(&entry.batch_head).ok()?.head;
        (head.term, head.index) = (place.leader_id.term, place.index);
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        (head.size, head.root) = *tree.get_or_insert((head.size, head.root));
        head.batch = Hash::of(bytes);
        entry.batch_head = head.sign(&self.key).to_bytes();
        Some(())
    }

    fn falsify(&self, batch: &mut Batch) {
        match (self.twist, batch.entries.first_mut()) {
            (Twist::Dropped, Some(_)) => drop(batch.entries.remove(0)),
            (Twist::Substituted, Some(first)) => {
                let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
                match earlier.replace(first.clone()) {
                    Some(earlier) => *first = earlier,
                    None => drop(batch.entries.remove(0)),
                }
            }
            (Twist::Earlier, _) | (_, None) => {
                batch.proposed_at = batch.proposed_at.saturating_sub(1);
            }
        }
    }
}

/// The configuration with the clock that the leader claims to have.
pub(crate) fn config(mut config: ReplicaConfig) -> ReplicaConfig {
    let clock = Arc::clone(&config.clock);
    match variable("MEDANCHOR_FAULT_LIE").as_deref() {
        Some("ahead") => config.clock = Arc::new(move || clock().saturating_add(HOUR_MS)),
        Some("back") => config.clock = Arc::new(move || clock().saturating_sub(HOUR_MS)),
        _ => (),
    }
    config
}

/// A database on a disk that may fail.
pub(crate) fn database_at(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plan = variable("MEDANCHOR_FAULT_DISK");
    let plan = plan
        .as_deref()
        .and_then(|plan| plan.strip_prefix(&*name)?.strip_prefix(':'));
    let base = match plan {
        Some(plan) => builder.create_with_backend(Disk::open(path, plan)?),
        None => builder.create(path),
    };
    let base = base.map_err(database)?;
    if name == "state.redb"
        && let Some(row) = variable("MEDANCHOR_FAULT_REWRITE")
    {
        rewrite(&base, &row)?;
    }
    Ok(base)
}

fn rewrite(base: &Database, row: &str) -> Result<(), StoreError> {
    let (table, number) = row.split_once(':').unwrap_or((row, "0"));
    let mut tables = Table::ALL.into_iter();
    let table = tables.find(|known| known.name() == table);
    let table = table.ok_or_else(|| std::io::Error::other("no such table"))?;
    let txn = base.begin_write().map_err(database)?;
    {
        let mut table = txn
            .open_table(crate::tables::definition(table))
            .map_err(database)?;
        let found = match table
            .iter()
            .map_err(database)?
            .nth(number.parse().unwrap_or(0))
        {
            Some(row) => {
                let (key, value) = row.map_err(database)?;
                Some((key.value().to_vec(), value.value().to_vec()))
            }
            None => None,
        };
        if let Some((key, mut value)) = found {
            if let Some(last) = value.last_mut() {
                *last ^= 1;
            }
            table
                .insert(key.as_slice(), value.as_slice())
                .map_err(database)?;
        }
    }
    txn.commit().map_err(database)
}

/// The variable, and a word to whoever reads the log.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    tracing::warn!("{MARKER}");
    tracing::warn!("{name}={value}");
    Some(value)
}

/// Only a faulty build has this text: continuous integration looks for it.
const MARKER: &str = "this build was made to lie and to lose what it wrote";
const HOUR_MS: u64 = 60 * 60 * 1000;
