//! Keeps every record on as many nodes as the log says, also after some are lost or others have joined: fetches what
//! this node is to hold, most endangered first, says so in the log, and gives back what others hold in its place. What
//! its organisation has a legal hold on it fetches too, and keeps.

use crate::{clock, holders::Holders, lag::Lag, presence::Presence, submit::Submitter};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Anchored, Body, Holding, Member, Outcome, Places, Placing, Read, RecordEntry, State,
    TablesError,
};
use medanchor_api::{
    Replicated,
    pb::registry::{CheckRecordRequest, registry_service_client::RegistryServiceClient},
};
use medanchor_dag::{Cid, CustodyId, Did};
use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// Looks at all records whenever a node came, went or was placed otherwise, and from time to time; then moves what has
/// to be moved. Every node does this for itself, by the same rule, so that nobody has to be told.
pub(crate) struct Replicator {
    parts: ReplicatorParts,
    progress: Mutex<Replicated>,
    /// The rules and members as they were at the last look.
    looked_under: Mutex<Option<Placing>>,
    planned: Mutex<Planned>,
    /// What the last look at all records found below target.
    lag: Mutex<Lag>,
}

/// The records that it is about to move, as far as they are planned.
#[derive(Default)]
struct Planned {
    to_fetch: BTreeSet<Cid>,
    to_give_back: BTreeSet<Cid>,
}

/// What a replicator needs.
pub(crate) struct ReplicatorParts {
    /// This node.
    pub(crate) node: Did,
    pub(crate) holders: Arc<Holders>,
    pub(crate) submitter: Arc<Submitter>,
    /// How long a node may be away before others take its share.
    pub(crate) absent_after: Duration,
    /// From one look at all records to the next while nothing happens.
    pub(crate) every: Duration,
    /// The most that is fetched; 0: nothing is moved.
    pub(crate) bytes_per_second: u64,
}

/// Who is there and what the rules are: while it stays the same, every record stays where it is.
#[derive(PartialEq, Eq)]
struct Situation {
    placing: Placing,
    /// Nodes that are not there. Their copies do not count.
    away: BTreeSet<Did>,
    /// Those that have been away for so long that others take their share.
    absent: BTreeSet<Did>,
    /// What this node's organisation has legal holds on.
    legally_held: LegallyHeld,
}

/// All records of a custody key, or one.
type LegallyHeld = BTreeSet<(CustodyId, Option<Cid>)>;

/// How far one look has led.
enum Round {
    /// Nothing is left to do.
    Done,
    /// Something was moved, and there may be more.
    More,
    /// What is left cannot be done, or is for others to do.
    Stuck,
}

/// What has to be done by this node, the most urgent as far as it is remembered.
#[derive(Default)]
struct Plan {
    found: Replicated,
    lag: Lag,
    /// By how many copies are left, then by age.
    to_fetch: BTreeMap<(usize, u64, Cid), Anchored>,
    to_give_back: BTreeSet<Cid>,
}

impl Replicator {
    pub(crate) fn new(parts: ReplicatorParts) -> Self {
        Self {
            parts,
            progress: Mutex::default(),
            looked_under: Mutex::default(),
            planned: Mutex::default(),
            lag: Mutex::default(),
        }
    }

    /// How far it has come. Under other rules than those in force, or with other members, it has not looked.
    pub(crate) fn progress(&self, in_force: Option<&Placing>) -> Replicated {
        let mut progress = *self.lock();
        if self.looked_under().as_ref() != in_force {
            progress.looked_at_unix_ms = 0;
        }
        progress
    }

    /// Whether this node is about to fetch a record.
    pub(crate) fn is_to_fetch(&self, record: &Cid) -> bool {
        self.planned().to_fetch.contains(record)
    }

    /// Whether this node is about to give a record back.
    pub(crate) fn is_to_give_back(&self, record: &Cid) -> bool {
        self.planned().to_give_back.contains(record)
    }

    /// Replicates until `stop`.
    pub(crate) async fn replicate_task(self: Arc<Self>, stop: CancellationToken) {
        let replicating = async {
            let mut presence = Presence::new(self.parts.absent_after);
            let mut last: Option<Situation> = None;
            let mut again_at = Instant::now();
            let look_every = (self.parts.absent_after / 4).min(LOOK_EVERY);
            loop {
                sleep(look_every).await;
                let situation = match self.situation(&mut presence) {
                    Ok(Some(situation)) => situation,
                    // Whoever is cut off sees everybody else missing.
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!("records are not replicated now: {error:#}");
                        continue;
                    }
                };
                if last.as_ref() == Some(&situation) && Instant::now() < again_at {
                    continue;
                }
                let situation = Arc::new(situation);
                let began = Instant::now();
                let pause = match self.round(&situation).await {
                    Ok(Round::Done) => self.parts.every,
                    Ok(Round::More) => Duration::ZERO,
                    Ok(Round::Stuck) => self.retry_after(began),
                    Err(error) => {
                        tracing::warn!("records are not replicated yet: {error:#}");
                        self.retry_after(began)
                    }
                };
                again_at = Instant::now() + pause;
                last = Arc::into_inner(situation);
            }
        };
        stop.run_until_cancelled(replicating).await;
    }

    /// A small part of the time goes into looking again at what cannot be helped.
    fn retry_after(&self, began: Instant) -> Duration {
        let rest = RETRY_AFTER.max(began.elapsed() * 20);
        self.parts.every.min(rest)
    }

    /// `None` while this node does not reach a majority of the members.
    fn situation(&self, presence: &mut Presence) -> Result<Option<Situation>> {
        let view = self.parts.holders.replica.view()?;
        let state = State::new(view.as_ref());
        let Some(placing) = state.placing()? else {
            return Ok(None);
        };
        let legally_held = legally_held(&state, &placing, &self.parts.node)?;
        let connected = self.parts.holders.peer.connected();
        let is_there =
            |member: &Member| member.node == self.parts.node || connected.contains(&member.peer_id);
        let absent = presence.absent(placing.members(), is_there, Instant::now());
        let members = placing.members().iter();
        let away: BTreeSet<Did> = members
            .filter(|member| !is_there(member))
            .map(|member| member.node)
            .collect();
        let is_cut_off = 2 * away.len() >= placing.members().len();
        Ok((!is_cut_off).then_some(Situation {
            placing,
            away,
            absent,
            legally_held,
        }))
    }

    /// Looks at all records and moves what has to be moved.
    async fn round(self: &Arc<Self>, situation: &Arc<Situation>) -> Result<Round> {
        let mut plan = self.look(situation).await?;
        {
            let mut progress = self.lock();
            plan.found.oldest_below_target = plan.lag.oldest();
            plan.found.looked_at_unix_ms = clock::unix_ms();
            plan.found.fetched = progress.fetched;
            plan.found.fetched_bytes = progress.fetched_bytes;
            plan.found.given_back = progress.given_back;
            *progress = plan.found;
        }
        *self.looked_under() = Some(situation.placing.clone());
        *self.lag() = std::mem::take(&mut plan.lag);
        *self.planned() = Planned {
            to_fetch: plan.to_fetch.keys().map(|(_, _, record)| *record).collect(),
            to_give_back: plan.to_give_back.clone(),
        };
        if self.parts.bytes_per_second == 0 {
            return Ok(Round::Done);
        }
        let to_move = plan.found.to_fetch + plan.found.to_give_back;
        let look_again_at = Instant::now() + LOOK_AGAIN_AFTER;
        let mut moved = 0;
        while !plan.to_fetch.is_empty() && Instant::now() < look_again_at {
            let group = take_group(&mut plan.to_fetch);
            moved += self.fetch(&group).await?;
        }
        moved += self
            .give_back(plan.to_give_back, situation, look_again_at)
            .await?;
        Ok(match moved {
            // What others have to do is looked at again, too.
            moved if moved == to_move && plan.found.below_target == 0 => Round::Done,
            0 => Round::Stuck,
            _ => Round::More,
        })
    }

    async fn look(self: &Arc<Self>, situation: &Arc<Situation>) -> Result<Plan> {
        let (mut plan, mut after) = (Plan::default(), None);
        loop {
            let began = Instant::now();
            let (this, situation) = (Arc::clone(self), Arc::clone(situation));
            let looking = spawn_blocking(move || -> Result<_> {
                let last = this.look_at_some(&situation, after.as_ref(), &mut plan)?;
                Ok((plan, last))
            });
            (plan, after) = looking.await?.context("look at the records")?;
            if after.is_none() {
                return Ok(plan);
            }
            // Processor and disk are for others as long.
            sleep(began.elapsed()).await;
        }
    }

    /// The last record that was looked at, or `None` at the end.
    fn look_at_some(
        &self,
        situation: &Situation,
        after: Option<&Cid>,
        plan: &mut Plan,
    ) -> Result<Option<Cid>> {
        let view = self.parts.holders.replica.view()?;
        let state = State::new(view.as_ref());
        // By the clock: log time stands still while nothing is said.
        let now = clock::unix_ms();
        let settled = now.saturating_sub(ms(self.parts.absent_after));
        let before = self.lag();
        let entries = state.records(after, BATCH)?;
        for entry in &entries {
            let places = state.places(&situation.placing, &entry.anchored)?;
            if plan.add(&self.parts.node, situation, &places, entry, settled) {
                let record = entry.anchored.record;
                plan.lag.add(&before, record, entry.at, now);
            }
        }
        Ok(entries.last().map(|entry| entry.anchored.record))
    }

    /// Fetches records and says in the log that this node holds them. How many it is.
    async fn fetch(&self, group: &[Anchored]) -> Result<u64> {
        // From before any block is looked for until the promise: nothing of it is collected meanwhile.
        let _lease = self.parts.holders.store.lease();
        let (whole, bytes) = match self.fetch_all(group).await {
            Ok(bytes) => (group.iter().map(|one| one.record).collect(), bytes),
            // One that nobody gives must not keep the others.
            Err(_) => self.fetch_each(group).await,
        };
        let came = group.iter().filter(|one| whole.contains(&one.record));
        let payload_bytes: u64 = came.map(|one| one.size).sum();
        #[cfg(medanchor_fault)]
        if payload_bytes > 0 {
            medanchor_raft::fault_step("copy-fetched");
        }
        let count = self.say(whole, Vec::new()).await?;
        #[cfg(medanchor_fault)]
        if count > 0 {
            medanchor_raft::fault_step("copy-said");
        }
        for anchored in group {
            self.planned().to_fetch.remove(&anchored.record);
        }
        let mut progress = self.lock();
        if count > 0 {
            progress.bytes_to_fetch = progress.bytes_to_fetch.saturating_sub(payload_bytes);
        }
        progress.to_fetch = progress.to_fetch.saturating_sub(count);
        progress.fetched += count;
        progress.fetched_bytes += bytes;
        Ok(count)
    }

    async fn fetch_each(&self, group: &[Anchored]) -> (Vec<Cid>, u64) {
        let (mut whole, mut bytes) = (Vec::new(), 0);
        for anchored in group {
            match self.fetch_all(slice::from_ref(anchored)).await {
                Ok(fetched) => {
                    whole.push(anchored.record);
                    bytes += fetched;
                }
                Err(error) => {
                    tracing::warn!(record = %anchored.record, "cannot be fetched now: {error:#}");
                }
            }
        }
        (whole, bytes)
    }

    /// Has all of them on disk, as their devices signed them. How many bytes had to be fetched.
    async fn fetch_all(&self, group: &[Anchored]) -> Result<u64> {
        let roots: Vec<Cid> = group
            .iter()
            .flat_map(|one| [one.record, one.wrap])
            .collect();
        let holders = &self.parts.holders;
        let fetched = holders
            .peer
            .fetch_dag_at(&roots, self.parts.bytes_per_second)
            .await?;
        for anchored in group {
            holders.compare(anchored).await?;
        }
        Ok(fetched.bytes)
    }

    /// Gives back what the nodes that are to hold it have whole. How many records it is.
    async fn give_back(
        &self,
        records: BTreeSet<Cid>,
        situation: &Situation,
        until: Instant,
    ) -> Result<u64> {
        let mut given = 0;
        let mut held = Vec::new();
        let mut failures = 0;
        for record in records {
            match self.is_held_by_others(&record, situation).await {
                Ok(true) => held.push(record),
                Ok(false) => (),
                Err(error) => {
                    tracing::debug!(%record, "is not given back yet: {error:#}");
                    failures += 1;
                }
            }
            // Whoever cannot be asked now can still not be asked about the next.
            if failures == MAX_FAILURES || Instant::now() >= until {
                break;
            }
            if held.len() == Holding::MAX_RECORDS {
                given += self.say_given_back(std::mem::take(&mut held)).await?;
            }
        }
        given += self.say_given_back(held).await?;
        Ok(given)
    }

    async fn say_given_back(&self, records: Vec<Cid>) -> Result<u64> {
        #[cfg(medanchor_fault)]
        if !records.is_empty() {
            medanchor_raft::fault_step("others-checked");
        }
        let count = self.say(Vec::new(), records.clone()).await?;
        #[cfg(medanchor_fault)]
        if count > 0 {
            medanchor_raft::fault_step("copy-given-back");
        }
        for record in &records {
            self.planned().to_give_back.remove(record);
        }
        let mut progress = self.lock();
        progress.to_give_back = progress.to_give_back.saturating_sub(count);
        progress.given_back += count;
        Ok(count)
    }

    /// Has those that are to hold it read all of it.
    async fn is_held_by_others(&self, record: &Cid, situation: &Situation) -> Result<bool> {
        let wanted: Vec<u64> = {
            let view = self.parts.holders.replica.view()?;
            let state = State::new(view.as_ref());
            let entry = state.record(record)?.context("it is not in the log")?;
            let places = state.places(&situation.placing, &entry.anchored)?;
            let wanted = situation.wanted(&places);
            wanted.iter().map(|member| member.node_id).collect()
        };
        for node_id in wanted {
            let remote = self.parts.holders.membership.to(node_id);
            let remote = remote.context("a node that is to hold it has no known address")?;
            let mut request = Request::new(CheckRecordRequest {
                record: record.to_bytes(),
                look: false,
            });
            request.set_timeout(CHECK_WITHIN);
            let mut registry = RegistryServiceClient::new(remote.channel.clone());
            let check = registry.check_record(request).await?.into_inner();
            if !check.holder || check.missing > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Commit point of a move: from its leaf on, this node answers for `holds`, and no longer for `gives_back`. How many
    /// records it is; none when the log refuses it, because something changed meanwhile.
    async fn say(&self, holds: Vec<Cid>, gives_back: Vec<Cid>) -> Result<u64> {
        let count = holds.len() + gives_back.len();
        if count == 0 {
            return Ok(0);
        }
        let holders = &self.parts.holders;
        let until = holders.promise().await?;
        let body = Body::Holding(Holding {
            node: self.parts.node,
            holds,
            gives_back,
        });
        let appended = self.parts.submitter.say(body, until).await?;
        match appended.leaf.outcome {
            Outcome::Ok => Ok(u64::try_from(count)?),
            outcome => {
                tracing::info!(leaf = appended.index, %outcome, "a move is planned again");
                Ok(0)
            }
        }
    }

    fn planned(&self) -> MutexGuard<'_, Planned> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked_under(&self) -> MutexGuard<'_, Option<Placing>> {
        let looked_under = self.looked_under.lock();
        looked_under.unwrap_or_else(PoisonError::into_inner)
    }

    fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Replicated> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Situation {
    /// The nodes that are to hold a record now.
    fn wanted<'p>(&self, places: &Places<'p>) -> Vec<&'p Member> {
        let mut wanted = places.in_order(|member| !self.absent.contains(&member.node));
        wanted.truncate(places.copies());
        wanted
    }

    /// Whether this node's organisation has to keep a record.
    fn is_legally_held(&self, anchored: &Anchored) -> bool {
        let (custody, record) = (anchored.custody, anchored.record);
        let held = &self.legally_held;
        held.contains(&(custody, None)) || held.contains(&(custody, Some(record)))
    }
}

impl Plan {
    /// What `node` has to do about a record, and whether it is below its target. One that was anchored after `settled`
    /// is not moved to a better place yet: who was to hold it may just have been slow.
    fn add(
        &mut self,
        node: &Did,
        situation: &Situation,
        places: &Places<'_>,
        entry: &RecordEntry,
        settled: u64,
    ) -> bool {
        let record = entry.anchored.record;
        let copies_not_on = |nodes: &BTreeSet<Did>| {
            let counted = places.counted(&entry.holders);
            counted.filter(|one| !nodes.contains(one)).count()
        };
        let copies = copies_not_on(&situation.away);
        let is_below = copies < places.copies();
        // A node that is away is waited for, but what it has is out of reach now.
        let is_lost = copies_not_on(&situation.absent) < places.copies();
        self.found.records += 1;
        self.found.below_target += u64::from(is_below);
        self.found.awaited += u64::from(is_below && !is_lost);
        let is_kept = situation.is_legally_held(&entry.anchored);
        if !is_lost && !is_kept && entry.at > settled {
            return is_below;
        }
        let wanted = situation.wanted(places);
        let is_wanted =
            wanted.iter().any(|member| member.node == *node) || is_kept && places.is_open_to(node);
        let is_holder = entry.holders.contains(node);
        let mut others = wanted.iter();
        if is_wanted && !is_holder {
            self.found.to_fetch += 1;
            let bytes_to_fetch = &mut self.found.bytes_to_fetch;
            *bytes_to_fetch = bytes_to_fetch.saturating_add(entry.anchored.size);
            let key = (copies, entry.at, record);
            self.to_fetch.insert(key, entry.anchored.clone());
            if self.to_fetch.len() > MAX_PLANNED {
                self.to_fetch.pop_last();
            }
        } else if is_holder
            && !is_wanted
            && !is_kept
            && wanted.len() == places.copies()
            && others.all(|member| entry.holders.contains(&member.node))
        {
            self.found.to_give_back += 1;
            if self.to_give_back.len() < MAX_PLANNED {
                self.to_give_back.insert(record);
            }
        }
        is_below
    }
}

/// What a node's organisation has legal holds on.
fn legally_held(
    state: &State<'_>,
    placing: &Placing,
    node: &Did,
) -> Result<LegallyHeld, TablesError> {
    let mut members = placing.members().iter();
    let Some(own) = members.find(|member| member.node == *node) else {
        return Ok(LegallyHeld::new());
    };
    let entries = state.legal_holds_of(&own.org)?.into_iter();
    let holds = entries.map(|entry| entry.legal_hold);
    Ok(holds.map(|hold| (hold.custody, hold.record)).collect())
}

/// The next ones that share their syncs and a leaf; a large record goes alone.
fn take_group(planned: &mut BTreeMap<(usize, u64, Cid), Anchored>) -> Vec<Anchored> {
    let (mut group, mut bytes) = (Vec::new(), 0_u64);
    while group.len() < MAX_GROUP
        && let Some(next) = planned.first_entry()
    {
        bytes = bytes.saturating_add(next.get().size);
        if !group.is_empty() && bytes > MAX_GROUP_BYTES {
            break;
        }
        group.push(next.remove());
    }
    group
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long a node may be away before others take its share, without being told.
pub(crate) const ABSENT_AFTER: Duration = Duration::from_secs(600);
/// From one look at all records to the next while nothing happens, without being told.
pub(crate) const EVERY: Duration = Duration::from_secs(3600);
/// The most that is fetched to have records where they belong, without being told.
pub(crate) const BYTES_PER_SECOND: u64 = 64 << 20;
/// How often it is looked who is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While there is much to fetch, what is most endangered is found out again after this long.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// What could not be moved is tried again after this long, or longer if to look at all takes long.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// To read a record from disk, all of it.
const CHECK_WITHIN: Duration = Duration::from_secs(600);
/// Records that are looked at together.
const BATCH: usize = 256;
/// Records that are remembered from one look; the next finds the others.
const MAX_PLANNED: usize = 4096;
/// Records that could not be asked about, before it is tried again later.
const MAX_FAILURES: usize = 8;
const MAX_GROUP: usize = 128;
const MAX_GROUP_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        Class, CustodyKind, LegalHold, LegalHoldPlaced, PlacedNode, Placement, PrincipalKind,
        testing::{MEMBERS, World, cid, consent_id, custody_id, founded, key, node_key},
    };

    const COPIES: u8 = 2;

    /// One record that every node holds, and who is to hold it, best first.
    struct Stage {
        world: World,
        record: Cid,
        order: Vec<Did>,
    }

    impl Stage {
        fn new() -> Self {
            let mut founding = founded(cid("policy"));
            founding.copies = COPIES;
            let mut world = World::founded_as(founding);
            let owner = MEMBERS[0];
            world.enrol("holter", PrincipalKind::Device, owner, &["device"]);
            world.custody("patient", owner, CustodyKind::Person);
            let record = world.anchor("record", "holter", "patient", Class::Ecg);
            let order = {
                let state = world.state();
                let entry = state.record(&record).unwrap().unwrap();
                let placing = state.placing().unwrap().unwrap();
                let places = state.places(&placing, &entry.anchored).unwrap();
                let order = places.in_order(|_| true);
                order.into_iter().map(|member| member.node).collect()
            };
            Self {
                world,
                record,
                order,
            }
        }

        /// Name of the member whose node has this place in the order.
        fn member(&self, place: usize) -> &'static str {
            let mut members = MEMBERS.into_iter();
            let is_it = |name: &&str| node_key(name).did() == self.order[place];
            members.find(is_it).unwrap()
        }

        /// The organisation of that node has all records of the patient to keep.
        fn keep(&mut self, place: usize) {
            let org = key(self.member(place));
            let legal_hold = LegalHold {
                hold: consent_id("matter"),
                org: org.did(),
                custody: custody_id("patient"),
                record: None,
            };
            let matter = "7 O 123/26".to_owned();
            let body = LegalHoldPlaced { legal_hold, matter };
            self.world.accept(Body::LegalHoldPlaced(body), &[&org]);
        }

        /// The node with this place in the order gives its copy back.
        fn give_back(&mut self, place: usize) {
            let key = node_key(self.member(place));
            let node = key.did();
            let body = Holding {
                node,
                holds: Vec::new(),
                gives_back: vec![self.record],
            };
            self.world.accept(Body::Holding(body), &[&key]);
        }

        /// That node is to hold nothing.
        fn weigh_nothing(&mut self, place: usize) {
            let name = self.member(place);
            let members = self.world.state().members().unwrap();
            let member = members.iter().find(|member| member.name == name).unwrap();
            let weightless = PlacedNode {
                node_id: member.node_id,
                weight: 0,
                zone: None,
            };
            let rules = Placement {
                nodes: vec![weightless],
                ..Placement::default()
            };
            let keys = MEMBERS.map(key);
            let authors: Vec<_> = keys.iter().collect();
            self.world.accept(Body::Placed(Box::new(rules)), &authors);
        }

        /// What the node with this place has to do while these are absent.
        fn plan(&self, place: usize, absent: &[usize], settled: u64) -> Plan {
            self.plan_while(place, absent, absent, settled)
        }

        fn plan_while(&self, place: usize, away: &[usize], absent: &[usize], settled: u64) -> Plan {
            let state = self.world.state();
            let placing = state.placing().unwrap().unwrap();
            let nodes = |places: &[usize]| places.iter().map(|place| self.order[*place]).collect();
            let situation = Situation {
                legally_held: legally_held(&state, &placing, &self.order[place]).unwrap(),
                placing,
                away: nodes(away),
                absent: nodes(absent),
            };
            let entry = state.record(&self.record).unwrap().unwrap();
            let places = state.places(&situation.placing, &entry.anchored).unwrap();
            let mut plan = Plan::default();
            plan.add(&self.order[place], &situation, &places, &entry, settled);
            plan
        }

        /// `(below target, to fetch, to give back)`.
        fn figures(&self, place: usize, absent: &[usize]) -> (u64, u64, u64) {
            let found = self.plan(place, absent, u64::MAX).found;
            (found.below_target, found.to_fetch, found.to_give_back)
        }
    }

    #[test]
    fn surplus_copy_is_given_back_by_the_last_in_the_order_alone() {
        let stage = Stage::new();
        let all = [0, 1, 2].map(|place| stage.figures(place, &[]));
        assert_eq!(all, [(0, 0, 0), (0, 0, 0), (0, 0, 1)]);
        // It is what two have while one is away.
        assert_eq!(stage.figures(2, &[0]), (0, 0, 0));
        assert_eq!(stage.plan(2, &[], 0).found.to_give_back, 0, "too new");
    }

    #[test]
    fn lost_copy_is_fetched_by_the_next_in_the_order() {
        let mut stage = Stage::new();
        stage.give_back(2);
        let all = [0, 1, 2].map(|place| stage.figures(place, &[]));
        assert_eq!(all, [(0, 0, 0); 3]);
        assert_eq!(stage.figures(1, &[0]), (1, 0, 0));
        assert_eq!(stage.figures(2, &[0]), (1, 1, 0));
        let plan = stage.plan(2, &[0], 0);
        assert_eq!(plan.found.to_fetch, 1, "also when it is new");
        assert!(plan.found.bytes_to_fetch > 0);
        // Nobody is left who could.
        assert_eq!(stage.figures(2, &[0, 1]), (1, 1, 0));
    }

    #[test]
    fn copy_on_a_node_that_is_away_does_not_count_and_is_waited_for() {
        let mut stage = Stage::new();
        stage.give_back(2);
        let found = stage.plan_while(2, &[0], &[], u64::MAX).found;
        let figures = (found.records, found.below_target, found.awaited);
        assert_eq!((figures, found.to_fetch), ((1, 1, 1), 0));
        // Once it is given up, the next takes its share, while the other is still waited for.
        let found = stage.plan_while(2, &[0, 1], &[0], u64::MAX).found;
        let figures = (found.records, found.below_target, found.awaited);
        assert_eq!((figures, found.to_fetch), ((1, 1, 0), 1));
        let found = stage.plan_while(2, &[], &[], u64::MAX).found;
        assert_eq!((found.records, found.below_target), (1, 0));
    }

    #[test]
    fn record_moves_to_where_it_belongs_before_it_goes_elsewhere() {
        let mut stage = Stage::new();
        stage.give_back(0);
        assert_eq!(stage.figures(0, &[]), (0, 1, 0));
        // The one that will give it back keeps it until the first has it.
        assert_eq!(stage.figures(2, &[]), (0, 0, 0));
    }

    #[test]
    fn legal_hold_keeps_a_copy_that_nobody_else_needs() {
        let mut stage = Stage::new();
        stage.keep(2);
        let all = [0, 1, 2].map(|place| stage.figures(place, &[]));
        assert_eq!(all, [(0, 0, 0); 3]);
    }

    #[test]
    fn legal_hold_fetches_a_copy_beside_those_that_are_to_be() {
        let mut stage = Stage::new();
        stage.give_back(2);
        stage.keep(2);
        let all = [0, 1, 2].map(|place| stage.figures(place, &[]));
        assert_eq!(all, [(0, 0, 0), (0, 0, 0), (0, 1, 0)]);
        assert_eq!(
            stage.plan(2, &[], 0).found.to_fetch,
            1,
            "also when it is new"
        );
        // Its copy is none of those that are to be.
        stage.weigh_nothing(2);
        assert_eq!(stage.figures(2, &[]), (0, 1, 0));
        assert_eq!(stage.figures(2, &[0]), (1, 1, 0));
    }

    #[test]
    fn most_endangered_are_fetched_first_and_large_ones_alone() {
        let stage = Stage::new();
        let mut planned = BTreeMap::new();
        let mut add = |copies, at, name: &str, size| {
            let mut anchored = stage.world.anchored(name, "holter", "patient", Class::Ecg);
            anchored.size = size;
            planned.insert((copies, at, anchored.record), anchored);
        };
        add(2, 1, "safe", 10);
        add(1, 3, "new", 10);
        add(1, 2, "old", 10);
        add(0, 9, "large", MAX_GROUP_BYTES);
        let mut groups = Vec::new();
        while !planned.is_empty() {
            let group = take_group(&mut planned);
            groups.push(group.iter().map(|one| one.record).collect::<Vec<_>>());
        }
        let [large, old, new, safe] = ["large", "old", "new", "safe"].map(cid);
        assert_eq!(groups, [vec![large], vec![old, new, safe]]);
    }
}
