//! Deciding again what brokers have decided (I5): `apply` never runs policies, so a node that only applied would never
//! notice a broker that does not go by them.

use crate::{
    alarms::{Alarm, AlarmKind, Alarms},
    files::{self, Mode},
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Kind, Leaf, LeafIndex, Opening, Outcome, Prove, Read, State, Strength, TablesError,
};
use medanchor_dag::CustodyId;
use medanchor_policy::{Agreement, Code, PolicySets, Replay, Replayed, Verdict};
use medanchor_raft::Replica;
use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Decides again every release and refusal that this node's replica applies, and raises an alarm when it differs.
pub(crate) struct Auditor {
    pub(crate) origin: String,
    pub(crate) replica: Arc<Replica>,
    pub(crate) policies: Arc<PolicySets>,
    pub(crate) prove: Arc<dyn Prove>,
    pub(crate) alarms: Arc<Alarms>,
    /// Remembers how many leaves were looked at.
    pub(crate) progress: PathBuf,
}

/// A leaf that records a decision which cannot be told to be right on the state of now.
struct Doubtful {
    index: LeafIndex,
    opening: Opening,
    replay: Replay,
}

impl Auditor {
    /// Looks at every leaf once, those of a time when the node was down included, until `stop`.
    pub(crate) async fn audit_task(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled_owned(async {
            let mut replica = self.replica.watch();
            let mut next = None;
            loop {
                replica.borrow_and_update();
                match self.audit_from(next).await {
                    Ok(looked_at) if next == Some(looked_at) => (),
                    Ok(looked_at) => {
                        next = Some(looked_at);
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!("decisions are not decided again: {error:#}");
                        sleep(AGAIN_AFTER).await;
                        continue;
                    }
                }
                if replica.changed().await.is_err() {
                    return;
                }
            }
        })
        .await;
    }

    /// Looks at some leaves from `next` on, or from where it was before the node started; how many were looked at then.
    async fn audit_from(self: &Arc<Self>, next: Option<LeafIndex>) -> Result<u64> {
        let auditor = Arc::clone(self);
        let looking = spawn_blocking(move || {
            let first = match next {
                Some(next) => next,
                None => auditor.begin()?,
            };
            auditor.look(first).map(|looked| (first, looked))
        });
        let (first, (next, doubtful)) = looking.await??;
        let is_worth_keeping = !doubtful.is_empty() || next / KEEP_EVERY > first / KEEP_EVERY;
        self.settle(doubtful).await?;
        if is_worth_keeping {
            let auditor = Arc::clone(self);
            spawn_blocking(move || auditor.keep(next)).await??;
        }
        Ok(next)
    }

    /// Decides on the state of now, which nearly always is that of the decision in all that it rested on.
    fn look(&self, first: LeafIndex) -> Result<(u64, Vec<Doubtful>)> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let leaves = state.leaves(first, LEAVES_AT_A_TIME)?;
        let (mut next, mut doubtful) = (first, Vec::new());
        for bytes in leaves {
            let leaf = Leaf::from_bytes(&bytes).context("parse a leaf")?;
            let index = next;
            next += 1;
            if !matches!(leaf.kind, Kind::Released | Kind::Refused) || leaf.outcome != Outcome::Ok {
                continue;
            }
            // An opening that was deleted says nothing any more, nor does a release whose list was.
            let Some(opening) = state.opening(index)? else {
                continue;
            };
            let list = state.release_list(index)?;
            let Some(replay) = Replay::of(&opening.0.signed, list) else {
                continue;
            };
            if replay.on(&state, &self.policies)?.is_none() {
                doubtful.push(Doubtful {
                    index,
                    opening,
                    replay,
                });
                if doubtful.len() == DOUBTFUL_AT_A_TIME {
                    break;
                }
            }
        }
        Ok((next, doubtful))
    }

    /// Decides from the leaves before, and raises an alarm when that differs, too.
    async fn settle(self: &Arc<Self>, doubtful: Vec<Doubtful>) -> Result<()> {
        if doubtful.is_empty() {
            return Ok(());
        }
        let (auditor, began) = (Arc::clone(self), Instant::now());
        let replayed = spawn_blocking(move || auditor.replay(doubtful)).await??;
        for (index, opening, replayed) in replayed {
            if is_wrong(index, &replayed) {
                self.raise(index, &opening, &replayed).await;
            }
        }
        // As much rest as work: the node has more to do than this.
        sleep(began.elapsed()).await;
        Ok(())
    }

    /// Reads the log once for all of them, which are in its order.
    fn replay(&self, doubtful: Vec<Doubtful>) -> Result<Vec<(LeafIndex, Opening, Replayed)>> {
        let view = self.replica.view()?;
        let state = State::new(view.as_ref());
        let mut waiting = VecDeque::with_capacity(doubtful.len());
        for mut one in doubtful {
            let custodies = custodies(&state, &one.replay)?;
            one.replay = one.replay.under(custodies);
            waiting.push_back(one);
        }
        let (mut replayed, mut next) = (Vec::new(), 0);
        loop {
            while let Some(one) = waiting.pop_front_if(|one| one.index <= next) {
                replayed.push((one.index, one.opening, one.replay.finish()?));
            }
            let Some(first) = waiting.front() else {
                return Ok(replayed);
            };
            let left = usize::try_from(first.index - next).unwrap_or(usize::MAX);
            let leaves = state.leaves(next, left.min(LEAVES_AT_A_TIME))?;
            anyhow::ensure!(!leaves.is_empty(), "leaf {next} is missing");
            for bytes in leaves {
                let leaf = Leaf::from_bytes(&bytes).context("parse a leaf")?;
                if waiting.iter().any(|one| one.replay.reads(&leaf)) {
                    let opening = state.opening(next)?;
                    let erased_with = match opening {
                        Some(_) => None,
                        None => state.erased_with(next)?,
                    };
                    for one in &mut waiting {
                        match erased_with {
                            Some(custody) => one.replay.take_erased(next, &leaf, custody),
                            None => one.replay.take(next, &leaf, opening.as_ref())?,
                        }
                    }
                }
                next += 1;
            }
        }
    }

    async fn raise(&self, index: LeafIndex, opening: &Opening, replayed: &Replayed) {
        let signed = &opening.0.signed;
        let decided = signed.statement.body.kind();
        let broker = signed
            .author()
            .map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let again = match &replayed.decision.verdict {
            Verdict::Permit(permit) => format!("permitted by {}", permit.policies().join(", ")),
            Verdict::Deny { code, .. } => format!("denied, `{code}`"),
        };
        let details =
            format!("leaf {index}, `{decided}` by `{broker}`, is decided otherwise here: {again}");
        let (kind, subject) = (AlarmKind::WrongDecision, index.to_be_bytes());
        // Beyond so many that nobody has looked into it waits: no wrong decision is passed over.
        while self.alarms.is_full(kind, &self.origin) {
            tracing::error!(
                "{details}; there is no room for another alarm: acknowledge those that stand"
            );
            sleep(NO_ROOM).await;
        }
        if self.alarms.knows(kind, &self.origin, &subject) {
            return;
        }
        let evidence = match self.prove.receipt(index, Strength::Witnessed).await {
            Ok(receipt) => receipt.to_string(),
            Err(error) => format!("{details}\nthere was no receipt of the leaf: {error}\n"),
        };
        let alarm = Alarm {
            kind,
            origin: self.origin.clone(),
            subject: subject.to_vec(),
            details,
            evidence: evidence.into_bytes(),
        };
        self.alarms.raise(alarm).await;
    }

    /// Where to begin: where it ended before the node stopped. A node that never looked takes over the log as it is.
    fn begin(&self) -> Result<LeafIndex> {
        if !self
            .progress
            .try_exists()
            .context("look for the progress")?
        {
            let view = self.replica.view()?;
            let size = State::new(view.as_ref()).tree_size()?;
            self.keep(size)?;
            return Ok(size);
        }
        let text = files::read_text(&self.progress, MAX_PROGRESS_BYTES)?;
        let number = text.strip_prefix(PROGRESS).map(str::trim_end);
        number
            .and_then(|number| number.parse().ok())
            .with_context(|| {
                let path = self.progress.display();
                format!("`{path}` does not say how many leaves were looked at: remove it, and the log is taken over as it is")
            })
    }

    fn keep(&self, looked_at: u64) -> Result<()> {
        let text = format!("{PROGRESS}{looked_at}\n");
        files::replace(&self.progress, Mode::Public, text.as_bytes())
            .with_context(|| format!("write `{}`", self.progress.display()))
    }
}

/// Whether it is the broker that is wrong, and not this node that cannot tell.
fn is_wrong(index: LeafIndex, replayed: &Replayed) -> bool {
    match replayed.agrees {
        Agreement::Same | Agreement::RefusedForBytes => return false,
        Agreement::NotDecided => {
            tracing::warn!(
                leaf_index = index,
                "a broker cannot read the policy set in force"
            );
            return false;
        }
        Agreement::Differs => (),
    }
    let cannot = match &replayed.decision.verdict {
        _ if !replayed.missing.is_empty() => "openings that it may rest on are deleted",
        Verdict::Deny { code, .. } if *code == Code::PolicyMismatch => {
            "this version cannot decide by the policy set of the network"
        }
        _ => return true,
    };
    tracing::warn!(
        leaf_index = index,
        "a decision cannot be decided again: {cannot}"
    );
    false
}

/// The custody keys of the records that were asked for.
fn custodies(state: &State<'_>, replay: &Replay) -> Result<Vec<CustodyId>, TablesError> {
    let mut custodies = Vec::new();
    for record in replay.records() {
        custodies.extend(state.record(record)?.map(|record| record.anchored.custody));
    }
    custodies.sort_unstable();
    custodies.dedup();
    Ok(custodies)
}

const PROGRESS: &str = "audited-1\n";
const MAX_PROGRESS_BYTES: u64 = 64;
const LEAVES_AT_A_TIME: usize = 1024;
const DOUBTFUL_AT_A_TIME: usize = 16;
/// How many leaves may be looked at again after a crash.
const KEEP_EVERY: u64 = 1024;
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const NO_ROOM: Duration = Duration::from_secs(30);
