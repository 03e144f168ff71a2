//! A hospital with a patient's records, a broker, and a research institute that asks for them. The log is
//! the real one, in memory, behind faults that the test chooses.

use futures::future::{BoxFuture, pending};
use medanchor_anchor::{
    AccessRequest, Anchored, Append, AppendError, Appended, Applied, Body, CustodyKind, Kind,
    LeafIndex, MemoryTables, Outcome, PrincipalKind, Prove, Read, ReadError, Receipt,
    SignedStatement, State, Strength, Submission, View,
    testing::{self, MEMBERS, ORIGIN, World, attested, custody_id, did, key, node_key, stream_id},
};
use medanchor_broker::{Broker, BrokerParts, Custody, Grant, Rate};
use medanchor_dag::{
    Block, BlockSource, BlockStore, Chunks, Cid, Class, Codec, CustodyId, Draft, MemoryStore,
    Record, sha256,
};
use medanchor_envelope::{Header, Identity, Opener, Recipient, Sealer, Suite, Wrap};
use medanchor_policy::{Policies, PolicySets};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempDir;
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// What happens to the next statement.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// It does not reach the log.
    Fails,
    /// It reaches the log, and nobody learns of it.
    FailsButPersists,
    /// The answer never comes.
    Never,
    /// Something else reaches the log first.
    Before(fn(&mut World)),
}

/// The log of the whole network.
struct Network {
    world: Mutex<World>,
    faults: Mutex<VecDeque<Fault>>,
    submissions: Mutex<Vec<SignedStatement>>,
    reached: Notify,
    cut_off: AtomicBool,
}

pub(crate) struct Hospital {
    folder: Arc<TempDir>,
    network: Arc<Network>,
    blocks: Arc<MemoryStore>,
    custody: Mutex<Option<Arc<Custody>>>,
}

impl Hospital {
    pub(crate) fn new() -> Self {
        Self::with_brokers(&["hospital-a"])
    }

    /// The patient consents to research by the institute; these members' nodes may release.
    pub(crate) fn with_brokers(brokers: &[&str]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let store = open_custody(&folder, "custody.redb");
        let mut world = World::with_policy(policies().cid());
        world.enrol("ecg-1", PrincipalKind::Device, "hospital-a", &["device"]);
        world.enrol("institute", PrincipalKind::Organisation, "institute", &[]);
        world.enrol("ines", PrincipalKind::Person, "institute", &["researcher"]);
        let id = custody_id("patient");
        let recipient = store.create_key(id, 0).unwrap();
        let public_key = recipient.as_bytes();
        let nodes = brokers.iter().map(|name| node_key(name));
        let holders = nodes.chain([key("hospital-a")]);
        let mut custody = testing::custody("patient", "hospital-a", CustodyKind::Person);
        custody.key = public_key.to_vec();
        custody.brokers = brokers.iter().map(|name| node_key(name).did()).collect();
        custody.held_by = holders
            .map(|holder| attested(&holder, id, 0, public_key))
            .collect();
        world.accept(Body::Custody(custody), &[&key("hospital-a")]);
        world.consent("study", "patient", "institute", "HRESCH");
        Self {
            folder,
            network: Arc::new(Network {
                world: Mutex::new(world),
                faults: Mutex::default(),
                submissions: Mutex::default(),
                reached: Notify::new(),
                cut_off: AtomicBool::new(false),
            }),
            blocks: Arc::default(),
            custody: Mutex::new(Some(Arc::new(store))),
        }
    }

    /// The same hospital after its broker was stopped and started.
    pub(crate) fn restarted(&self) -> Self {
        // The file is free only when its last user is gone.
        drop(self.custody.lock().unwrap().take());
        self.with_custody(open_custody(&self.folder, "custody.redb"))
    }

    /// The same hospital, with an empty key store.
    pub(crate) fn without_keys(&self) -> Self {
        self.with_custody(open_custody(&self.folder, "empty.redb"))
    }

    fn with_custody(&self, custody: Custody) -> Self {
        Self {
            folder: Arc::clone(&self.folder),
            network: Arc::clone(&self.network),
            blocks: Arc::clone(&self.blocks),
            custody: Mutex::new(Some(Arc::new(custody))),
        }
    }

    pub(crate) fn broker(&self) -> Broker {
        self.broker_of("hospital-a")
    }

    pub(crate) fn broker_of(&self, member: &str) -> Broker {
        let network = Arc::clone(&self.network);
        let custody = self.custody.lock().unwrap();
        Broker::new(BrokerParts {
            origin: ORIGIN.to_owned(),
            key: Arc::new(node_key(member)),
            custody: Arc::clone(custody.as_ref().unwrap()),
            policies: Arc::new(PolicySets::default()),
            append: Arc::clone(&self.network) as Arc<dyn Append>,
            read: Arc::clone(&self.network) as Arc<dyn Read>,
            prove: Arc::clone(&self.network) as Arc<dyn Prove>,
            blocks: Arc::clone(&self.blocks) as Arc<dyn BlockSource>,
            clock: Arc::new(move || network.world().now),
            releases: Rate {
                burst: RELEASES,
                ..Rate::RELEASES
            },
        })
    }

    pub(crate) fn policy(&self) -> Cid {
        policies().cid()
    }

    /// Seals a payload, stores it and anchors it.
    pub(crate) fn put(&self, payload: &[u8]) -> Cid {
        self.put_as(payload, |_| ())
    }

    /// As [`Hospital::put`], but the device says something else about it.
    pub(crate) fn put_as(&self, payload: &[u8], lie: impl FnOnce(&mut Anchored)) -> Cid {
        self.put_under("patient", payload, lie)
    }

    /// The same under another custody key.
    pub(crate) fn put_under(
        &self,
        custody: &str,
        payload: &[u8],
        lie: impl FnOnce(&mut Anchored),
    ) -> Cid {
        let mut world = self.network.world();
        let mut anchored = world.anchored("any", "ecg-1", custody, Class::Ecg);
        let state = world.state();
        let custody = state.custody(&anchored.custody).unwrap().unwrap().custody;
        let recipient = Recipient::from_bytes(custody.key.try_into().unwrap()).unwrap();
        let header = Header::new(
            Suite::ChaCha20Poly1305,
            16,
            *anchored.custody.as_bytes(),
            &did("ecg-1").to_string(),
            *stream_id("main").as_bytes(),
            Class::Ecg.as_str(),
            anchored.captured_at,
        );
        let sealer = Sealer::new(header.unwrap()).unwrap();
        let (header, commitment) = (sealer.header().clone(), sealer.commitment());
        let wrap = Block::new(Codec::DagCbor, sealer.wrap(&recipient).to_bytes()).unwrap();
        let mut chunks = sealer.seal(payload);
        let sealed = chunks.next().unwrap().unwrap();
        assert!(chunks.next().is_none());
        let draft = Draft {
            header: header.to_bytes(),
            commitment,
            size: chunks.size(),
            chunks: Chunks::Inline(sealed.into()),
            meta: chunks.seal_metadata(b"\xa0"),
            seq: anchored.seq,
            prev: anchored
                .prev
                .as_deref()
                .map(|prev| Cid::try_from(prev.as_slice()).unwrap()),
        };
        let record = draft.sign(&key("ecg-1")).unwrap();
        anchored.record = *record.cid();
        anchored.wrap = *wrap.cid();
        anchored.header = record.header_hash();
        anchored.size = record.size_bytes();
        lie(&mut anchored);
        self.blocks.put(&[record.to_block(), wrap]).unwrap();
        world.accept(Body::Anchored(anchored), &[&key("ecg-1")]);
        *record.cid()
    }

    /// Somebody signs with another key from now on.
    pub(crate) fn rotate(&self, who: &str, from: &str, to: &str) {
        self.network.world().rotate(who, from, to);
    }

    /// Somebody in a role that could be permitted, of an organisation that has nothing to do with the patient.
    pub(crate) fn enrol_outsider(&self, name: &str) {
        let mut world = self.network.world();
        world.enrol("elsewhere", PrincipalKind::Organisation, "elsewhere", &[]);
        world.enrol(name, PrincipalKind::Person, "elsewhere", &["researcher"]);
    }

    /// Another patient, whose custody key `member`'s node has.
    pub(crate) fn add_patient(&self, name: &str, member: &str) {
        let id = custody_id(name);
        let held = self.custody.lock().unwrap();
        let recipient = match member {
            "hospital-a" => held.as_ref().unwrap().create_key(id, 0).unwrap(),
            elsewhere => identity(elsewhere).recipient(),
        };
        let public_key = recipient.as_bytes();
        let holders = [node_key(member), key("hospital-a")];
        let mut custody = testing::custody(name, "hospital-a", CustodyKind::Person);
        custody.key = public_key.to_vec();
        custody.brokers = vec![node_key(member).did()];
        custody.held_by = holders
            .iter()
            .map(|holder| attested(holder, id, 0, public_key))
            .collect();
        let mut world = self.network.world();
        world.accept(Body::Custody(custody), &[&key("hospital-a")]);
    }

    /// A patient consents to research by the institute.
    pub(crate) fn consent_of(&self, patient: &str) {
        let mut world = self.network.world();
        let study = format!("study of {patient}");
        world.consent(&study, patient, "institute", "HRESCH");
    }

    /// A request for everything under some custody keys.
    pub(crate) fn select(&self, cohort: &[CustodyId]) -> SignedStatement {
        let mut world = self.network.world();
        let request = AccessRequest {
            records: Vec::new(),
            selection: Some(testing::everything(cohort)),
            purpose: "HRESCH".to_owned(),
            role: "researcher".to_owned(),
            recipient: identity("ines").recipient().as_bytes().to_vec(),
            at: world.state().tree_size().unwrap(),
            second_factor: None,
        };
        let statement = world.statement(Body::AccessRequest(request));
        statement.sign(&[&key("ines")])
    }

    /// A request by somebody who holds the key of the same name.
    pub(crate) fn request(&self, who: &str, purpose: &str, records: &[Cid]) -> SignedStatement {
        ask(self, who, purpose, records, who)
    }

    /// Opens the record at `n` with what was granted.
    pub(crate) fn open(&self, who: &str, records: &[Cid], grant: &Grant, n: usize) -> Vec<u8> {
        let block = self.blocks.block(&records[n]).unwrap().unwrap();
        let record = Record::from_block(&block).unwrap();
        let header = Header::from_bytes(&record.header_bytes()).unwrap();
        let wrap = Wrap::from_bytes(&grant.wraps[n]).unwrap();
        let opener = Opener::new(&wrap, &identity(who), &header, record.commitment()).unwrap();
        let Chunks::Inline(sealed) = record.chunks() else {
            panic!("small records are inline");
        };
        opener.open_chunk(0, true, sealed).unwrap()
    }

    /// The patient consents to another purpose, for so many milliseconds. Gives the last moment.
    pub(crate) fn consent_until(&self, purpose: &str, ms: u64) -> u64 {
        let mut world = self.network.world();
        let mut given = testing::consented("limited", "patient", "institute", purpose);
        let end = world.now + ms;
        given.provision.valid.until = Some(end);
        world.accept(Body::Consented(given), &[&key("hospital-a")]);
        end
    }

    pub(crate) fn next(&self, fault: Fault) {
        self.network.faults.lock().unwrap().push_back(fault);
    }

    pub(crate) fn wait(&self, ms: u64) {
        self.network.world().now += ms;
    }

    /// Whether co-signatures are to be had.
    pub(crate) fn cut_off_witnesses(&self, cut_off: bool) {
        self.network.cut_off.store(cut_off, Ordering::SeqCst);
    }

    pub(crate) async fn append_reached(&self) {
        self.network.reached.notified().await;
    }

    pub(crate) fn last_submission(&self) -> Option<SignedStatement> {
        self.network.submissions.lock().unwrap().last().cloned()
    }

    pub(crate) fn tree_size(&self) -> u64 {
        self.network.world().state().tree_size().unwrap()
    }

    fn tables(&self) -> MemoryTables {
        self.network.world().tables.clone()
    }

    /// Outcomes of the leaves of a kind, in order.
    pub(crate) fn leaves_of(&self, kind: Kind) -> Vec<Outcome> {
        let tables = self.tables();
        let state = State::new(&tables);
        (0..state.tree_size().unwrap())
            .map(|index| state.leaf(index).unwrap().unwrap())
            .filter(|leaf| leaf.kind == kind)
            .map(|leaf| leaf.outcome)
            .collect()
    }
}

/// A request whose keys go to the key of name `recipient`.
pub(crate) fn ask(
    hospital: &Hospital,
    who: &str,
    purpose: &str,
    records: &[Cid],
    recipient: &str,
) -> SignedStatement {
    let mut world = hospital.network.world();
    let request = AccessRequest {
        records: records.to_vec(),
        selection: None,
        purpose: purpose.to_owned(),
        role: "researcher".to_owned(),
        recipient: identity(recipient).recipient().as_bytes().to_vec(),
        at: world.state().tree_size().unwrap(),
        second_factor: None,
    };
    let statement = world.statement(Body::AccessRequest(request));
    statement.sign(&[&key(who)])
}

fn identity(name: &str) -> Identity {
    Identity::from_bytes(Zeroizing::new(sha256(name.as_bytes())))
}

fn open_custody(folder: &TempDir, name: &str) -> Custody {
    Custody::open(&folder.path().join(name), Zeroizing::new([1; 32])).unwrap()
}

impl Network {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn apply(&self, submission: Submission) -> Result<Appended, AppendError> {
        let mut world = self.world();
        if let Some(list) = submission.list {
            world.take(list);
        }
        match world.submit(submission.signed) {
            Applied::Leaf(appended) => Ok(appended),
            Applied::Rejected(code) => Err(AppendError::Rejected(code)),
        }
    }
}

impl Append for Network {
    fn append(&self, submission: Submission) -> BoxFuture<'_, Result<Appended, AppendError>> {
        Box::pin(async move {
            let fault = self.faults.lock().unwrap().pop_front();
            self.submissions
                .lock()
                .unwrap()
                .push(submission.signed.clone());
            match fault {
                None => self.apply(submission),
                Some(Fault::Before(change)) => {
                    change(&mut self.world());
                    self.apply(submission)
                }
                Some(Fault::Fails) => Err(AppendError::Unavailable("cut off".into())),
                Some(Fault::FailsButPersists) => {
                    self.apply(submission)?;
                    Err(AppendError::OutcomeUnknown("cut off".into()))
                }
                Some(Fault::Never) => {
                    self.reached.notify_one();
                    pending().await
                }
            }
        })
    }
}

impl Read for Network {
    fn view(&self) -> Result<Box<dyn View + Send + '_>, ReadError> {
        Ok(Box::new(self.world().tables.clone()))
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(async { Ok(()) })
    }
}

impl Prove for Network {
    fn receipt(&self, index: LeafIndex, _: Strength) -> BoxFuture<'_, Result<Receipt, ReadError>> {
        Box::pin(async move {
            if self.cut_off.load(Ordering::SeqCst) {
                return Err(ReadError::Unavailable("no witness".into()));
            }
            let world = self.world();
            let size = world.state().tree_size().unwrap();
            Ok(world.receipt(index, world.checkpoint(size, "hospital-a", &MEMBERS)))
        })
    }
}

fn policies() -> Policies {
    Policies::default_set().unwrap()
}

/// Releases to one requester at once.
pub(crate) const RELEASES: u64 = 30;
