//! A small network in memory: three member organisations, and keys that follow from their names.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use it: what goes wrong here is a failed test"
)]

use crate::{
    AccessRequest, Actor, Anchored, Appended, Applied, Attestation, Basis, Batch, Body, BreakGlass,
    BreakGlassRule, Checkpoint, Class, Cohort, Consented, Custody, CustodyKind, Effect, Enrolled,
    Entry, Founded, Hold, Kind, Leaves, ListHead, Log, Member, MemberAdded, MemberRemoved,
    MemoryTables, Nonce, Outcome, OverrideReason, Period, PolicySet, PrincipalKind, Provision,
    Receipt, RecordEntry, ReleaseList, ReleasePart, ReleaseRow, Released, RolesChanged, Rotated,
    Selection, SignedNote, SignedStatement, Standing, State, Statement, Withdrawn, WitnessAdded,
    cosign,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cid::Cid;
use medanchor_dag::{Codec, CustodyId, Did, Hash, SigningKey, StreamId, cid_of, sha256};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

/// The network's name.
pub const ORIGIN: &str = "test.example/medanchor";
/// Names of the member organisations. The node of `a` signs as `a/node`.
pub const MEMBERS: [&str; 3] = ["hospital-a", "hospital-b", "hospital-c"];
/// Log time of the founding, unix ms.
pub const BEGINNING: u64 = 1_800_000_000_000;
/// One hour in ms: how long statements are valid.
pub const HOUR: u64 = 60 * 60 * 1000;

/// The key of a name: its seed is the name's SHA-256.
pub fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(&sha256(name.as_bytes()))
}

/// The key of a member's node.
pub fn node_key(member: &str) -> SigningKey {
    key(&format!("{member}/node"))
}

/// The public key of a name.
pub fn did(name: &str) -> Did {
    key(name).did()
}

/// The id that follows from a name.
pub fn custody_id(name: &str) -> CustodyId {
    CustodyId::new(first_16(name))
}

/// The stream id that follows from a name.
pub fn stream_id(name: &str) -> StreamId {
    StreamId::new(first_16(name))
}

/// The consent id that follows from a name.
pub fn consent_id(name: &str) -> Nonce {
    Nonce::new(first_16(name))
}

/// The CID of a DAG-CBOR block that a name stands for.
pub fn cid(name: &str) -> Cid {
    cid_of(Codec::DagCbor, &sha256(name.as_bytes()))
}

/// The founding statement's body: three copies would need every node, so two.
pub fn founded(policy: Cid) -> Founded {
    let members = MEMBERS.iter().zip(1..).map(|(name, node_id)| Member {
        org: did(name),
        name: (*name).to_owned(),
        node: node_key(name).did(),
        node_id,
        log_key: verifier_key(ORIGIN, 0x01, &did(&format!("{name}/log"))),
        cosigner_key: verifier_key(
            &format!("{ORIGIN}/{name}"),
            0x04,
            &did(&format!("{name}/cosigner")),
        ),
        certificate: Hash::of(name.as_bytes()),
        peer_id: "12D3KooWTest".to_owned(),
    });
    Founded {
        members: members.collect(),
        witnesses: Vec::new(),
        quorum: 3,
        copies: 2,
        policy,
    }
}

/// What `name` says to join with a node of its own, under `quorum`.
pub fn joining(name: &str, quorum: u8) -> MemberAdded {
    MemberAdded {
        org: did(name),
        name: name.to_owned(),
        node: node_key(name).did(),
        log_key: verifier_key(ORIGIN, 0x01, &did(&format!("{name}/log"))),
        cosigner_key: verifier_key(
            &format!("{ORIGIN}/{name}"),
            0x04,
            &did(&format!("{name}/cosigner")),
        ),
        certificate: Hash::of(name.as_bytes()),
        peer_id: format!("12D3KooW{}", name.replace('-', "")),
        address: "192.0.2.1:7440".to_owned(),
        swarm: "192.0.2.1:7441".to_owned(),
        authority: name.as_bytes().to_vec(),
        quorum,
    }
}

/// A witness that others run, named by a key that it signs with.
pub fn watching(name: &str, quorum: u8) -> WitnessAdded {
    WitnessAdded {
        key: verifier_key(name, 0x04, &did(&format!("{name}/cosigner"))),
        url: "https://witness.example/w".to_owned(),
        certificate: name.as_bytes().to_vec(),
        quorum,
    }
}

/// A signed-note verifier key (C2SP signed-note, `vkey`).
pub fn verifier_key(name: &str, algorithm: u8, did: &Did) -> String {
    let mut typed = vec![algorithm];
    typed.extend_from_slice(did.as_bytes());
    let named = [name.as_bytes(), b"\n", &typed].concat();
    let hash: String = sha256(&named)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{name}+{hash}+{}", STANDARD.encode(typed))
}

/// A log in memory, and a clock that tests move.
#[derive(Debug)]
pub struct World {
    /// The log and its state.
    pub tables: MemoryTables,
    /// When the next batch is proposed, unix ms.
    pub now: u64,
    /// Every batch so far.
    pub batches: Vec<Batch>,
    /// The lists of the releases that were made.
    lists: RefCell<BTreeMap<ListHead, ReleaseList>>,
    next_nonce: u128,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// The network after its founding, under a policy set that does not exist.
    pub fn new() -> Self {
        Self::with_policy(cid("policy"))
    }

    /// The network after its founding.
    pub fn with_policy(policy: Cid) -> Self {
        Self::founded_as(founded(policy))
    }

    /// The network after this founding by its three members.
    pub fn founded_as(founding: Founded) -> Self {
        let mut world = Self::empty();
        let orgs = MEMBERS.map(key);
        let authors: Vec<&SigningKey> = orgs.iter().collect();
        world.accept(Body::Founded(founding), &authors);
        world
    }

    /// Before leaf 0.
    pub fn empty() -> Self {
        Self {
            tables: MemoryTables::default(),
            now: BEGINNING,
            batches: Vec::new(),
            lists: RefCell::default(),
            next_nonce: 0,
        }
    }

    /// The state.
    pub fn state(&self) -> State<'_> {
        State::new(&self.tables)
    }

    /// A statement with a nonce of its own, valid for an hour; `anchored` has neither.
    pub fn statement(&mut self, body: Body) -> Statement {
        match body {
            Body::Anchored(anchored) => Statement::anchored(ORIGIN, anchored),
            body => {
                self.next_nonce += 1;
                let nonce = self.next_nonce.to_be_bytes();
                Statement::new(ORIGIN, body, nonce, self.now + HOUR)
            }
        }
    }

    /// Applies statements in one batch; every member's node says that it holds what they name.
    pub fn apply(&mut self, signed: Vec<SignedStatement>) -> Vec<Applied> {
        let until = self.now + HOUR;
        let anchored = signed.iter().filter(|signed| is_anchored(signed));
        let statements: Vec<Hash> = anchored.map(|signed| signed.statement.hash()).collect();
        let hold = |name: &&str| Hold::sign(&node_key(name), ORIGIN, statements.clone(), until);
        let holds = match statements.len() {
            0 => Vec::new(),
            _ => MEMBERS.iter().map(hold).collect(),
        };
        self.apply_with(signed, holds)
    }

    /// Applies statements in one batch with these holds.
    pub fn apply_with(&mut self, signed: Vec<SignedStatement>, holds: Vec<Hold>) -> Vec<Applied> {
        let entry = |signed: SignedStatement| Entry {
            salt: *Hash::of(&signed.to_bytes()).as_bytes(),
            signed,
        };
        let batch = Batch {
            v: 1,
            proposed_at: self.now,
            lists: self.lists_of(&signed),
            entries: signed.into_iter().map(entry).collect(),
            holds,
        };
        self.batches.push(batch.clone());
        Log::apply(&mut self.tables, &batch).expect("memory does not fail")
    }

    /// Applies one statement.
    pub fn submit(&mut self, signed: SignedStatement) -> Applied {
        let mut applied = self.apply(vec![signed]);
        applied.pop().expect("one answer per statement")
    }

    /// Says something signed by `authors`.
    pub fn say(&mut self, body: Body, authors: &[&SigningKey]) -> Applied {
        let signed = self.statement(body).sign(authors);
        self.submit(signed)
    }

    /// Says something that must take effect.
    pub fn accept(&mut self, body: Body, authors: &[&SigningKey]) -> Appended {
        match self.say(body, authors) {
            Applied::Leaf(appended) if appended.leaf.outcome == Outcome::Ok => appended,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Enrols `name` under organisation `org`; an organisation by the first member.
    pub fn enrol(&mut self, name: &str, kind: PrincipalKind, org: &str, roles: &[&str]) -> Did {
        let author = match kind {
            PrincipalKind::Organisation => key(MEMBERS[0]),
            _ => key(org),
        };
        self.accept(enrolled(name, kind, org, roles), &[&author]);
        did(name)
    }

    /// Adds `name` with the signatures of these members.
    pub fn join(&mut self, name: &str, quorum: u8, approvers: &[&str]) -> Appended {
        let keys: Vec<SigningKey> = approvers
            .iter()
            .chain([&name])
            .map(|name| key(name))
            .collect();
        let body = Body::MemberAdded(Box::new(joining(name, quorum)));
        self.accept(body, &keys.iter().collect::<Vec<_>>())
    }

    /// Adds a witness with the signatures of these members.
    pub fn watch(&mut self, name: &str, quorum: u8, approvers: &[&str]) -> Appended {
        let keys: Vec<SigningKey> = approvers.iter().map(|name| key(name)).collect();
        let body = Body::WitnessAdded(Box::new(watching(name, quorum)));
        self.accept(body, &keys.iter().collect::<Vec<_>>())
    }

    /// What removes the member that is named so now.
    pub fn leaving(&self, name: &str, quorum: u8) -> MemberRemoved {
        let members = self.state().members().expect("memory does not fail");
        let member = members.into_iter().find(|member| member.name == name);
        let member = member.expect("it is a member");
        MemberRemoved {
            org: member.org,
            node_id: member.node_id,
            log_key: member.log_key,
            cosigner_key: member.cosigner_key,
            quorum,
        }
    }

    /// Removes `name` with the signatures of these members.
    pub fn leave(&mut self, name: &str, quorum: u8, approvers: &[&str]) -> Appended {
        let keys: Vec<SigningKey> = approvers.iter().map(|name| key(name)).collect();
        let body = Body::MemberRemoved(self.leaving(name, quorum));
        self.accept(body, &keys.iter().collect::<Vec<_>>())
    }

    /// The checkpoint of the first `size` leaves, signed by `log` and co-signed by `cosigners`: members, or witnesses,
    /// which have a dot in their names.
    pub fn checkpoint(&self, size: u64, log: &str, cosigners: &[&str]) -> SignedNote {
        let root = self.state().root_at(size).expect("the log is that long");
        let origin = ORIGIN.to_owned();
        let note = Checkpoint { origin, size, root }.sign(&key(&format!("{log}/log")));
        let mut note = note.expect("the origin names a key");
        for name in cosigners {
            let cosigner = key(&format!("{name}/cosigner"));
            let named = match name.contains('.') {
                true => (*name).to_owned(),
                false => format!("{ORIGIN}/{name}"),
            };
            let signature = cosign(&note, &named, &cosigner, self.now / 1000);
            note.add(signature.expect("the name names a key"))
                .expect("it fits");
        }
        note
    }

    /// The receipt of a leaf by that checkpoint.
    pub fn receipt(&self, index: u64, checkpoint: SignedNote) -> Receipt {
        let state = self.state();
        let checked: Checkpoint = checkpoint.text().parse().expect("it is a checkpoint");
        Receipt {
            leaf: state
                .leaf(index)
                .expect("memory does not fail")
                .expect("a leaf"),
            opening: state.opening(index).expect("memory does not fail"),
            index,
            proof: state
                .inclusion_proof(index, checked.size)
                .expect("it is below the size"),
            checkpoint,
        }
    }

    /// Changes the standing of a principal of `org`.
    pub fn stand(&mut self, kind: Kind, who: &str, org: &str) -> Appended {
        self.accept(standing(kind, who), &[&key(org)])
    }

    /// The principal `who`, which signs with the key of the name `from`, signs with that of the name `to`.
    pub fn rotate(&mut self, who: &str, from: &str, to: &str) -> Appended {
        self.accept(rotated(who, to), &[&key(from), &key(to)])
    }

    /// A custody key of `owner`, a member whose node is its broker.
    pub fn custody(&mut self, name: &str, owner: &str, kind: CustodyKind) -> CustodyId {
        let custody = custody(name, owner, kind);
        let id = custody.custody;
        self.accept(Body::Custody(custody), &[&key(owner)]);
        id
    }

    /// Lists the node of `member` as one more broker of a custody key.
    pub fn list_broker(&mut self, custody: &str, member: &str) -> Appended {
        let entry = self.state().custody(&custody_id(custody));
        let entry = entry.expect("memory does not fail").expect("it is known");
        let owner = self.owner_of(custody);
        let body = with_broker(entry.custody, member);
        self.accept(Body::Custody(body), &[&owner])
    }

    /// Takes the node of `member` from the brokers of a custody key.
    pub fn unlist_broker(&mut self, custody: &str, member: &str) -> Appended {
        let entry = self.state().custody(&custody_id(custody));
        let mut body = entry
            .expect("memory does not fail")
            .expect("it is known")
            .custody;
        let (owner, node) = (self.owner_of(custody), node_key(member).did());
        body.brokers.retain(|broker| *broker != node);
        body.held_by.retain(|held| held.by != node);
        self.accept(Body::Custody(body), &[&owner])
    }

    /// Consent for `party` to use what `custody` protects for `purpose`, given by its owner.
    pub fn consent(&mut self, name: &str, custody: &str, party: &str, purpose: &str) -> Appended {
        let owner = self.owner_of(custody);
        let signed = self
            .statement(Body::Consented(consented(name, custody, party, purpose)))
            .sign(&[&owner]);
        match self.submit(signed) {
            Applied::Leaf(appended) if appended.leaf.outcome == Outcome::Ok => appended,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Withdraws a consent, by the custody's owner.
    pub fn withdraw(&mut self, name: &str, custody: &str) -> Appended {
        let owner = self.owner_of(custody);
        let withdrawn = Withdrawn {
            consent: consent_id(name),
            custody: custody_id(custody),
        };
        self.accept(Body::Withdrawn(withdrawn), &[&owner])
    }

    /// Anchors record `name` of `device` in its stream `main`.
    pub fn anchor(&mut self, name: &str, device: &str, custody: &str, class: Class) -> Cid {
        let anchored = self.anchored(name, device, custody, class);
        let record = anchored.record;
        self.accept(Body::Anchored(anchored), &[&key(device)]);
        record
    }

    /// The statement body that continues the stream `main` of the device with this key, in force or not.
    pub fn anchored(&self, name: &str, device: &str, custody: &str, class: Class) -> Anchored {
        let known = self.state().identity(&did(device));
        let known = known.expect("memory does not fail");
        let who = known.map_or(did(device), |(who, _)| who);
        let head = self
            .state()
            .stream(&who, &stream_id("main"))
            .expect("memory does not fail");
        Anchored {
            record: cid(name),
            wrap: cid(&format!("{name}/wrap")),
            custody: custody_id(custody),
            device: did(device),
            stream: stream_id("main"),
            seq: head.as_ref().map_or(0, |head| head.seq + 1),
            prev: head.map(|head| serde_bytes::ByteBuf::from(head.record.to_bytes())),
            class,
            captured_at: self.now,
            size: 500,
            header: Hash::of(format!("{name}/header").as_bytes()),
        }
    }

    /// The members put another access policy set in force.
    pub fn set_policy(&mut self, set: &[u8]) -> Appended {
        let body = Body::PolicySet(PolicySet { set: set.to_vec() });
        let keys = MEMBERS.map(key);
        let authors: Vec<&SigningKey> = keys.iter().collect();
        self.accept(body, &authors)
    }

    /// An access request by `requester`.
    pub fn request(
        &mut self,
        requester: &str,
        role: &str,
        purpose: &str,
        records: &[Cid],
    ) -> SignedStatement {
        self.ask(requester, role, purpose, records, None)
    }

    /// A request for all that a selection describes.
    pub fn request_all(
        &mut self,
        requester: &str,
        role: &str,
        purpose: &str,
        selection: Selection,
    ) -> SignedStatement {
        self.ask(requester, role, purpose, &[], Some(selection))
    }

    fn ask(
        &mut self,
        requester: &str,
        role: &str,
        purpose: &str,
        records: &[Cid],
        selection: Option<Selection>,
    ) -> SignedStatement {
        let request = AccessRequest {
            records: records.to_vec(),
            selection,
            purpose: purpose.to_owned(),
            role: role.to_owned(),
            recipient: sha256(requester.as_bytes()).to_vec(),
            at: self.state().tree_size().expect("memory does not fail"),
            second_factor: None,
        };
        self.statement(Body::AccessRequest(request))
            .sign(&[&key(requester)])
    }

    /// A release on the state as it is now.
    pub fn released(&self, request: &SignedStatement) -> Released {
        self.released_with(request, |_| ())
    }

    /// The same, of a list that was changed.
    pub fn released_with(
        &self,
        request: &SignedStatement,
        change: impl FnOnce(&mut ReleaseList),
    ) -> Released {
        let mut list = self.list(request, &[]);
        change(&mut list);
        self.released_as(request, list)
    }

    /// From now on this list goes into the log with whatever statement says its head, which it gives.
    pub fn take(&self, list: ReleaseList) -> ListHead {
        let head = list.head();
        self.lists.borrow_mut().insert(head, list);
        head
    }

    /// The same, of this list.
    pub fn released_as(&self, request: &SignedStatement, list: ReleaseList) -> Released {
        let head = self.take(list);
        let requester = request.author().expect("a request is signed");
        let basis = self.state().requester_basis(requester);
        Released {
            request: request.clone(),
            decided_at: self.now,
            policies: vec!["test".to_owned()],
            list: head,
            basis: basis
                .expect("memory does not fail")
                .expect("the network is founded"),
            valid_until: self.now + HOUR,
        }
    }

    /// All records that a request is of, whoever may have them: those that it names, under the custody key of the first that is
    /// known, or those that it selects under these custody keys.
    pub fn list(&self, request: &SignedStatement, custodies: &[CustodyId]) -> ReleaseList {
        let body = access_request(request);
        let parts = match &body.selection {
            Some(selection) => {
                let of = |custody: &CustodyId| self.selected(selection, custody);
                custodies.iter().map(of).collect()
            }
            None => vec![self.named(&body.records)],
        };
        ReleaseList { parts }
    }

    /// What a decision on a request that names its records reads.
    pub fn basis(&self, request: &SignedStatement) -> Basis {
        let requester = request.author().expect("a request is signed");
        let basis = self.state().basis(access_request(request), requester);
        let basis = basis.expect("memory does not fail");
        basis.expect("the network is founded")
    }

    fn selected(&self, selection: &Selection, custody: &CustodyId) -> ReleasePart {
        let records = self.state().records_under(custody, 0, usize::MAX);
        let records = records.expect("memory does not fail").into_iter();
        let is_selected = |entry: &RecordEntry| {
            let selects = self.state().selects(selection, entry);
            selects.expect("memory does not fail")
        };
        let selected = records
            .filter(is_selected)
            .map(|entry| entry.anchored.record);
        self.part(*custody, &selected.collect::<Vec<_>>())
    }

    fn named(&self, records: &[Cid]) -> ReleasePart {
        let custody = records.iter().find_map(|record| {
            let record = self.state().record(record).expect("memory does not fail")?;
            Some(record.anchored.custody)
        });
        self.part(custody.unwrap_or_else(|| custody_id("none")), records)
    }

    fn part(&self, custody: CustodyId, records: &[Cid]) -> ReleasePart {
        let key = self
            .state()
            .custody(&custody)
            .expect("memory does not fail");
        let key = key.filter(|_| !records.is_empty());
        let rows = records.iter().map(|record| {
            let entry = self.state().record(record).expect("memory does not fail");
            let since = entry.map(|entry| self.state().device_since(&entry.anchored.device));
            ReleaseRow {
                record: *record,
                device: since.map_or(0, |since| since.expect("memory does not fail")),
                wrap: Hash::of(&record.to_bytes()),
            }
        });
        ReleasePart {
            custody,
            since: key.as_ref().map_or(0, |key| key.since),
            consent: key.and_then(|key| key.newest_consent),
            rows: rows.collect(),
        }
    }

    /// The lists that statements say the heads of.
    fn lists_of(&self, signed: &[SignedStatement]) -> Vec<ReleaseList> {
        let heads = signed
            .iter()
            .filter_map(|signed| match &signed.statement.body {
                Body::Released(body) => Some(body.list),
                _ => None,
            });
        let known = self.lists.borrow();
        let heads: BTreeSet<ListHead> = heads.collect();
        heads
            .iter()
            .filter_map(|head| known.get(head).cloned())
            .collect()
    }

    fn owner_of(&self, custody: &str) -> SigningKey {
        let entry = self.state().custody(&custody_id(custody));
        let owner = entry
            .expect("memory does not fail")
            .expect("custody exists")
            .custody
            .owner;
        let name = MEMBERS.into_iter().find(|name| did(name) == owner);
        key(name.expect("a member owns it"))
    }
}

fn access_request(request: &SignedStatement) -> &AccessRequest {
    match &request.statement.body {
        Body::AccessRequest(body) => body,
        _ => panic!("not an access request"),
    }
}

/// Everything under these custody keys.
pub fn everything(custodies: &[CustodyId]) -> Selection {
    Selection {
        cohort: Cohort::of(custodies),
        stream: None,
        class: None,
        captured: Period::default(),
        leaves: Leaves {
            from: 0,
            until: u64::MAX,
        },
    }
}

/// Enrols `name` under organisation `org`.
pub fn enrolled(name: &str, kind: PrincipalKind, org: &str, roles: &[&str]) -> Body {
    let mut roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
    roles.sort();
    Body::Enrolled(Box::new(Enrolled {
        who: did(name),
        kind,
        org: did(org),
        roles,
        label: None,
        device: None,
    }))
}

/// `who` signs with the key of the name `to`.
pub fn rotated(who: &str, to: &str) -> Body {
    Body::Rotated(Rotated {
        who: did(who),
        key: did(to),
    })
}

/// Gives `who` these roles.
pub fn roles_changed(who: &str, roles: &[&str]) -> Body {
    Body::RolesChanged(RolesChanged {
        who: did(who),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    })
}

/// Suspends, reinstates or revokes `who`.
pub fn standing(kind: Kind, who: &str) -> Body {
    let body = Standing { who: did(who) };
    match kind {
        Kind::Suspended => Body::Suspended(body),
        Kind::Reinstated => Body::Reinstated(body),
        Kind::Revoked => Body::Revoked(body),
        other => panic!("`{other}` changes no standing"),
    }
}

/// Epoch 0 of a custody key of `owner`, held by its node and by itself.
pub fn custody(name: &str, owner: &str, kind: CustodyKind) -> Custody {
    let id = custody_id(name);
    let public_key = sha256(format!("{name}/key").as_bytes()).to_vec();
    let attest = |holder: &SigningKey| attested(holder, id, 0, &public_key);
    Custody {
        custody: id,
        owner: did(owner),
        kind,
        kem: 0x0020,
        epoch: 0,
        brokers: vec![node_key(owner).did()],
        writers: Vec::new(),
        controller: None,
        held_by: vec![attest(&node_key(owner)), attest(&key(owner))],
        key: public_key,
    }
}

/// A holder's attestation, under an epoch key of its own.
pub fn attested(
    holder: &SigningKey,
    custody: CustodyId,
    epoch: u32,
    public_key: &[u8],
) -> Attestation {
    let under = epoch_key(&holder.did());
    Attestation::sign(holder, custody, epoch, public_key, under)
}

/// The first epoch key of a holder.
pub fn epoch_key(holder: &Did) -> [u8; 32] {
    sha256(&[b"epoch key/".as_slice(), holder.as_bytes()].concat())
}

/// Clinicians of `org` may override consent for an hour, and `reviewer` reviews it within two.
pub fn break_glass_rule(org: &str, reviewer: &str) -> BreakGlassRule {
    BreakGlassRule {
        org: did(org),
        roles: vec!["clinician".to_owned()],
        reviewers: vec![did(reviewer)],
        lasts_ms: HOUR,
        review_within_ms: 2 * HOUR,
    }
}

/// `who` overrides consent as a clinician.
pub fn break_glass(who: &str, custody: &str) -> BreakGlass {
    BreakGlass {
        who: did(who),
        custody: custody_id(custody),
        role: "clinician".to_owned(),
        reason: OverrideReason::Emergency,
    }
}

/// The same custody key with the node of `member` as one more broker, which holds it.
pub fn with_broker(mut body: Custody, member: &str) -> Custody {
    let node = node_key(member);
    let attestation = attested(&node, body.custody, body.epoch, &body.key);
    body.brokers.push(node.did());
    body.held_by.push(attestation);
    body
}

/// Consent for `party` and `purpose`, without any other limit.
pub fn consented(name: &str, custody: &str, party: &str, purpose: &str) -> Consented {
    Consented {
        consent: consent_id(name),
        custody: custody_id(custody),
        effect: Effect::Permit,
        provision: Provision {
            actors: vec![Actor::party(did(party))],
            purposes: vec![purpose.to_owned()],
            ..Provision::default()
        },
        except: Vec::new(),
        document: None,
    }
}

fn is_anchored(signed: &SignedStatement) -> bool {
    matches!(signed.statement.body, Body::Anchored(_))
}

fn first_16(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let hash = sha256(name.as_bytes());
    bytes.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    bytes
}
