use crate::{
    author::{Author, Place, Sealed},
    liar::Liar,
    stage::{Stage, assert_refused, copy_folder, did, done, enrol, get, put_arguments, until},
};
use medanchor_anchor::{Outcome, Receipt, ReleaseList};
use medanchor_api::{
    ClientError, Submitted,
    pb::{
        access::{Grant, RequestResponse, Wraps, request_response::Part},
        anchor::{CheckpointRequest, anchor_service_client::AnchorServiceClient},
    },
};
use medanchor_dag::{
    Block, Codec, CustodyId, Hash, Record, StreamId, from_canonical, to_canonical,
};
use medanchor_envelope::{Header, Identity, Opener, Wrap};
use medanchor_testnet::{Home, Network, NetworkOptions};
use std::fs;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

#[test]
fn who_may_not_put_is_told_so_and_nothing_is_anchored() {
    let stage = Stage::start(3);
    let file = stage.file("payload", b"one heartbeat");

    let stranger = stage.network.invite(0, "stranger").unwrap();
    let size = stage.tree_size();
    let refused = stage.put(&stranger, &file);
    assert_refused(&refused, 1, "unknown-author");
    assert!(
        refused.errors.contains("enrol it first"),
        "{}",
        refused.errors
    );
    assert_eq!(stage.tree_size(), size, "nobody unknown writes to the log");
    // Nothing was lost either: once enrolled, what was sealed is sent.
    enrol(&stage.hospital, "device", &stranger, "device");
    let stored = done(Ok(stage.put(&stranger, &file)));
    assert_eq!(stored.json["resumed"], true);

    let device = stage.device("holter-1");
    let first = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    done(stage.hospital.run(["device", "revoke", &did(&device)]));
    let refused = stage.put(&device, &file);
    assert_refused(&refused, 3, "inactive");
    assert!(refused.json["leaf_index"].is_u64(), "the refusal is logged");
    // A device may be reinstated: what it sealed is not lost.
    let sealed = |home: &Home| fs::read_dir(home.path().join("outbox")).unwrap();
    let is_folder = |entry: &fs::DirEntry| entry.path().is_dir();
    assert_eq!(sealed(&device).flatten().filter(is_folder).count(), 1);
    assert_eq!(
        stage.anchored(),
        [stored.text("record").unwrap(), first.clone()]
    );
    // What it put before stays readable.
    assert_eq!(stage.read(&first), b"one heartbeat");

    let unknown = "00".repeat(16);
    let device = stage.device("holter-2");
    let ran = device.run(put_arguments(&file, &unknown)).unwrap();
    assert_refused(&ran, 1, "failed");
    assert!(ran.errors.contains("no custody key"), "{}", ran.errors);
    // Hospital B's device may not write under hospital A's key.
    let foreign = stage.network.invite(1, "holter-b").unwrap();
    enrol(
        &stage.network.operator(1).unwrap(),
        "device",
        &foreign,
        "device",
    );
    assert_refused(&stage.put(&foreign, &file), 3, "forbidden");
    assert_eq!(sealed(&foreign).flatten().filter(is_folder).count(), 0);
    assert_eq!(stage.anchored().len(), 2);
}

#[test]
fn statements_that_break_a_rule_get_a_leaf_that_says_so() {
    let stage = Stage::start(3);
    let custody: CustodyId = stage.custody.parse().unwrap();
    let device = Author::of(&stage.device("holter-1"));
    let thief = Author::of(&stage.device("holter-2"));
    let begin = |byte| Place {
        stream: StreamId::new([byte; 16]),
        seq: 0,
        prev: None,
    };

    let first = Sealed::new(&device.keys.signing, custody, begin(1), b"mine");
    device.upload(&first.blocks());
    let said = device.anchored(first.anchored());
    let leaf = device.submit(&said).unwrap();
    assert_eq!(leaf.leaf.outcome, Outcome::Ok);
    let size = stage.tree_size();
    let replayed = device.submit(&said).unwrap();
    assert_eq!((replayed.index, &replayed.leaf), (leaf.index, &leaf.leaf));
    assert_eq!(stage.tree_size(), size, "a replay adds nothing");

    // Somebody else's ciphertext cannot be signed as one's own: the header names its device.
    let mut stolen = first.anchored();
    stolen.device = thief.keys.did();
    let answer = thief.submit(&thief.anchored(stolen));
    assert_rejected(&answer, "record-invalid");
    // And no device uses a header twice.
    let twice = Header::from_bytes(&first.record.header_bytes()).unwrap();
    let twice = Sealed::with_header(&device.keys.signing, twice, begin(1), b"other");
    device.upload(&twice.blocks());
    let answer = device.submit(&device.anchored(twice.anchored()));
    assert_outcome(&answer, Outcome::Conflict);

    // A gap is anchored, and flagged: the data exists.
    let gap = Place {
        seq: 2,
        prev: Some(*first.record.cid()),
        ..begin(1)
    };
    let gap = Sealed::new(&device.keys.signing, custody, gap, b"third");
    device.upload(&gap.blocks());
    let answer = device.submit(&device.anchored(gap.anchored()));
    assert_outcome(&answer, Outcome::Ok);
    let (did, stream) = (device.keys.did(), begin(1).stream);
    let head = device.block_on(device.session.client.stream(&did, &stream));
    let head = head.unwrap().value.unwrap();
    assert_eq!((head.seq, head.gaps_and_forks), (2, 1));

    let anchored = [&first, &gap].map(|sealed| sealed.record.cid().to_string());
    assert_eq!(stage.anchored(), anchored);
}

#[test]
fn incomplete_and_lying_records_are_never_anchored() {
    let stage = Stage::start(3);
    let custody: CustodyId = stage.custody.parse().unwrap();
    let device = Author::of(&stage.device("holter-1"));
    let begin = Place {
        stream: StreamId::new([1; 16]),
        seq: 0,
        prev: None,
    };
    let size = stage.tree_size();

    let sealed = Sealed::new(&device.keys.signing, custody, begin, &[7; 200_000]);
    let said = device.anchored(sealed.anchored());
    assert_rejected(&device.submit(&said), "record-incomplete");
    // The last chunk is missing.
    let (_, all_but_one) = sealed.chunks.split_last().unwrap();
    device.upload(all_but_one);
    device.upload(&[sealed.record.to_block(), sealed.wrap.clone()]);
    assert_rejected(&device.submit(&said), "record-incomplete");

    // A record that claims to be larger than its chunks can be.
    let huge = with_field(&sealed.record, "size", u64::MAX);
    device.upload(std::slice::from_ref(&huge));
    let mut lie = sealed.anchored();
    lie.record = *huge.cid();
    lie.size = u64::MAX;
    device.upload(&sealed.chunks);
    assert_rejected(&device.submit(&device.anchored(lie)), "record-invalid");
    // A record that its device did not sign like this.
    let forged = with_field(&sealed.record, "seq", 7);
    device.upload(std::slice::from_ref(&forged));
    let mut lie = sealed.anchored();
    lie.record = *forged.cid();
    assert_rejected(&device.submit(&device.anchored(lie)), "record-invalid");

    // Another network's statement.
    let mut elsewhere = said.clone();
    elsewhere.statement.origin = "elsewhere.example/log".to_owned();
    let elsewhere = elsewhere.statement.sign(&[&device.keys.signing]);
    assert_rejected(&device.submit(&elsewhere), "wrong-origin");
    // A signature over something else.
    let mut forged = said.clone();
    if let medanchor_anchor::Body::Anchored(anchored) = &mut forged.statement.body {
        anchored.size += 1;
    }
    assert_rejected(&device.submit(&forged), "bad-signature");

    assert_eq!(stage.tree_size(), size, "none of it is in the log");
    // Now that all of its blocks are there, the first statement is taken as it is.
    assert_outcome(&device.submit(&said), Outcome::Ok);
}

#[test]
fn statement_cannot_say_of_a_record_what_its_device_did_not_sign() {
    let stage = Stage::start(3);
    let custody: CustodyId = stage.custody.parse().unwrap();
    let device = stage.device("holter-1");
    let author = Author::of(&device);
    let begin = Place {
        stream: StreamId::new([1; 16]),
        seq: 0,
        prev: None,
    };
    let sealed = Sealed::new(&author.keys.signing, custody, begin, b"one heartbeat");
    author.upload(&sealed.blocks());
    let mut lie = sealed.anchored();
    lie.size = 1 << 60;
    assert_rejected(&author.submit(&author.anchored(lie)), "record-invalid");
    assert!(stage.anchored().is_empty());
}

#[test]
fn released_keys_open_for_their_requester_alone_and_only_with_their_receipt() {
    let stage = Stage::start(3);
    let device = stage.device("holter-1");
    let record = |content: &[u8]| {
        let file = stage.file("payload", content);
        done(Ok(stage.put(&device, &file))).text("record").unwrap()
    };
    let (first, second) = (record(b"first"), record(b"second"));
    assert_eq!(stage.read(&first), b"first");

    // Another's grant is of no use: it is not asked with it, and does not open.
    let other = stage.network.invite(0, "other").unwrap();
    copy_folder(
        &stage.clinician.path().join("grants"),
        &other.path().join("grants"),
    );
    let out = stage.path("out");
    let ran = other
        .run(["get", &first, "-o", out.to_str().unwrap()])
        .unwrap();
    assert_refused(&ran, 2, "usage");
    let wrap = kept_wrap(&stage, &first);
    let author = Author::of(&stage.clinician);
    let fetched = fetch_record(&author, &first);
    let header = Header::from_bytes(&fetched.header_bytes()).unwrap();
    let open = |key: &Identity| Opener::new(&wrap, key, &header, fetched.commitment());
    assert!(open(&author.keys.receiving).is_ok());
    assert!(open(&Author::of(&other).keys.receiving).is_err());
    // Who is not enrolled gets none.
    let ran = other.run([
        "request",
        &first,
        "--purpose",
        "TREAT",
        "--role",
        "clinician",
    ]);
    assert_eq!(ran.unwrap().code, 3);

    // An operator lies about the release (I2).
    let anchored = fs::read_dir(stage.clinician.path().join("receipts")).unwrap();
    let anchored = fs::read(anchored.flatten().next().unwrap().path()).unwrap();
    let other_wrap = wrap.to_bytes();
    let liar = Liar::between(&stage.clinician, &stage.network.nodes[0]);
    let path = out.to_str().unwrap();
    let asked = [
        "get",
        &second,
        "--purpose",
        "TREAT",
        "--role",
        "clinician",
        "-o",
        path,
    ];
    let refused = |lie: fn(&mut Told<'_>, &[u8]), with: &[u8]| {
        let with = with.to_vec();
        liar.tells(move |answer| lie(&mut Told::of(answer), &with));
        let ran = stage.clinician.run(asked).unwrap();
        assert_eq!(ran.code, 4, "{}{}", ran.errors, ran.json);
        assert!(!out.exists());
        let kept = format!("grants/{second}.grant");
        let kept = stage.clinician.path().join(kept);
        assert!(!kept.exists(), "a key without its receipt is not kept");
    };
    refused(|told, with| told.grant.receipt = with.to_vec(), &anchored);
    refused(
        |told, with| told.wraps.wraps = vec![with.to_vec()],
        &other_wrap,
    );
    refused(|told, _| told.wraps.wraps.clear(), b"");
    refused(
        |told, _| told.grant.receipt = unwitnessed(&told.grant.receipt),
        b"",
    );
    // A list whose every row is as it was, of another record or on another ground, is not the one of the statement.
    refused(
        |told, _| told.change_list(|list| list.parts[0].rows[0].device += 1),
        b"",
    );
    refused(
        |told, _| told.change_list(|list| list.parts[0].since += 1),
        b"",
    );
    refused(
        |told, _| told.change_list(|list| list.parts[0].rows[0].wrap = Hash::of(b"another")),
        b"",
    );
    // What is no answer at all is asked of another node.
    liar.tells(|answer| Told::of(answer).grant.receipt.clear());
    done(stage.clinician.run(asked));
    assert_eq!(fs::read(&out).unwrap(), b"second");
    // A kept grant that is damaged is asked for again.
    let grants = stage.clinician.path().join("grants");
    for kept in fs::read_dir(&grants).unwrap() {
        fs::write(kept.unwrap().path(), b"damaged").unwrap();
    }
    done(stage.clinician.run(asked));
}

#[test]
fn callers_without_authority_are_kept_out() {
    let stage = Stage::start(3);
    let guest = stage.device("holter-1");
    // With an epoch key of its own, so that nothing is looked up before the node is asked.
    let epoch_key = format!("version = 1\nepoch_private = \"{}\"\n", "07".repeat(32));
    fs::write(guest.path().join("epoch-key.toml"), epoch_key).unwrap();
    let ran = guest.run(["custody", "new", "--kind", "person"]).unwrap();
    assert_refused(&ran, 3, "not-the-operator");

    // A certificate of somebody whom no member knows.
    let elsewhere = another_network(&stage);
    let intruder = elsewhere.invite(0, "intruder").unwrap();
    for name in ["cert.pem", "key.pem"] {
        fs::copy(intruder.path().join(name), guest.path().join(name)).unwrap();
    }
    assert_refused(&guest.run(["status"]).unwrap(), 5, "unreachable");
    // None at all.
    let author = Author::of(&stage.hospital);
    let said = author.block_on(without_certificate(&stage.hospital));
    assert!(said.is_err(), "{said:?}");

    // A user of another network does not take this one's nodes for theirs.
    fs::copy(
        stage.hospital.path().join("client.toml"),
        intruder.path().join("client.toml"),
    )
    .unwrap();
    assert_refused(&intruder.run(["status"]).unwrap(), 5, "unreachable");
}

#[test]
fn log_that_the_trust_policy_does_not_know_is_not_believed() {
    let stage = Stage::start(3);
    let device = stage.device("holter-1");
    let file = stage.file("payload", b"one heartbeat");
    let policy = device.path().join("policy.txt");
    let right = fs::read(&policy).unwrap();
    let elsewhere = another_network(&stage).operator(0).unwrap();
    fs::copy(elsewhere.path().join("policy.txt"), &policy).unwrap();
    assert_refused(&stage.put(&device, &file), 4, "not-verified");
    // With the right policy it is anchored, once.
    fs::write(policy, right).unwrap();
    let stored = done(Ok(stage.put(&device, &file)));
    assert_eq!(stage.anchored(), [stored.text("record").unwrap()]);
}

#[test]
fn put_without_reachable_nodes_or_holders_can_be_repeated() {
    let mut stage = Stage::start(2);
    let device = stage.device("holter-1");
    let file = stage.file("payload", b"one heartbeat");

    // A node with another swarm key reaches no other: nobody holds what it is given.
    let key = stage.network.nodes[1].folder().join("swarm.key");
    let right = fs::read(&key).unwrap();
    restart_with(&mut stage, || {
        let wrong = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "5a".repeat(32));
        fs::write(&key, wrong).unwrap();
    });
    let status = stage.status();
    assert_eq!(status.json["swarm_peers"].as_array().map(Vec::len), Some(0));
    let size = stage.tree_size();
    // One says that the other does not hold it, the other that it was not given it.
    let refused = stage.put(&device, &file);
    assert_eq!(refused.code, 5, "{}{}", refused.errors, refused.json);
    assert_eq!(
        stage.tree_size(),
        size,
        "nothing is anchored that is not held"
    );
    restart_with(&mut stage, || fs::write(&key, right).unwrap());
    until("the swarm is whole", || {
        let status = stage.status();
        status.json["swarm_peers"].as_array().map(Vec::len) == Some(1)
    });
    let stored = done(Ok(stage.put(&device, &file)));
    assert_eq!(stored.json["resumed"], true);

    stage.network.stop().unwrap();
    let another = stage.file("another", b"another heartbeat");
    assert_refused(&stage.put(&device, &another), 5, "unreachable");
    let record = stored.text("record").unwrap();
    let ran = get(&stage.clinician, &record, "TREAT", &stage.path("out")).unwrap();
    assert_eq!(ran.code, 5, "{}{}", ran.errors, ran.json);
    stage.network.start().unwrap();
    done(Ok(stage.put(&device, &another)));
    assert_eq!(stage.anchored().len(), 2);
}

#[track_caller]
fn assert_outcome(answer: &Result<Submitted, ClientError>, outcome: Outcome) {
    let answer = answer.as_ref().unwrap();
    assert_eq!(answer.leaf.outcome, outcome);
}

#[track_caller]
fn assert_rejected(answer: &Result<Submitted, ClientError>, code: &str) {
    let Err(error) = answer else {
        panic!("it is in the log: {answer:?}");
    };
    assert_eq!(error.code(), code, "{error:?}");
}

/// The record with one number changed after it was signed.
fn with_field(record: &Record, field: &str, number: u64) -> Block {
    use ipld_core::ipld::Ipld;
    let bytes = record.to_block().into_bytes();
    let mut form: Ipld = from_canonical(&bytes, bytes.len()).unwrap();
    let Ipld::Map(fields) = &mut form else {
        panic!("a record is a map");
    };
    let before = fields.insert(field.to_owned(), Ipld::Integer(number.into()));
    assert!(before.is_some(), "a record has a field `{field}`");
    Block::new(Codec::DagCbor, to_canonical(&form)).unwrap()
}

fn fetch_record(author: &Author, record: &str) -> Record {
    use futures::StreamExt;
    let cid = record.parse().unwrap();
    let block = author.block_on(async {
        let blocks = author.session.client.blocks(&[cid], false).await.unwrap();
        Box::pin(blocks).next().await
    });
    Record::from_block(&block.unwrap().unwrap().unwrap()).unwrap()
}

/// What a node answers that grants keys, no more than one message holds.
pub(crate) struct Told<'a> {
    pub(crate) grant: &'a mut Grant,
    pub(crate) wraps: &'a mut Wraps,
}

impl<'a> Told<'a> {
    pub(crate) fn of(answer: &'a mut Vec<RequestResponse>) -> Self {
        let [first, second] = answer.as_mut_slice() else {
            panic!("not two messages");
        };
        match (&mut first.part, &mut second.part) {
            (Some(Part::Grant(grant)), Some(Part::Wraps(wraps))) => Self { grant, wraps },
            denied => panic!("not granted: {denied:?}"),
        }
    }

    pub(crate) fn change_list(&mut self, change: impl FnOnce(&mut ReleaseList)) {
        let mut list = ReleaseList::from_bytes(&self.grant.list).unwrap();
        change(&mut list);
        self.grant.list = list.to_bytes();
    }
}

/// The wrap of a record's grant, as the client keeps it.
fn kept_wrap(stage: &Stage, record: &str) -> Wrap {
    use ipld_core::ipld::Ipld;
    let kept = stage
        .clinician
        .path()
        .join(format!("grants/{record}.grant"));
    let kept = fs::read(kept).unwrap();
    let Ipld::Map(kept) = from_canonical(&kept, kept.len()).unwrap() else {
        panic!("a grant is a map");
    };
    let Some(Ipld::Bytes(wrap)) = kept.get("wrap") else {
        panic!("a grant has a wrap");
    };
    Wrap::from_bytes(wrap).unwrap()
}

/// The receipt without the signatures of all but the log.
fn unwitnessed(receipt: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(receipt.to_vec()).unwrap();
    let mut signatures = 0;
    let kept = text.split_inclusive('\n').filter(|line| {
        let is_signature = line.starts_with('\u{2014}');
        signatures += usize::from(is_signature);
        !is_signature || signatures == 1
    });
    let kept: String = kept.collect();
    assert!(signatures > 1 && kept.parse::<Receipt>().is_ok());
    kept.into_bytes()
}

/// A call that shows no certificate.
async fn without_certificate(home: &Home) -> Result<(), tonic::Status> {
    let client = fs::read_to_string(home.path().join("client.toml")).unwrap();
    let client: toml::Table = client.parse().unwrap();
    let node = &client["nodes"][0];
    let ca = fs::read(home.path().join("ca.pem")).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(node["name"].as_str().unwrap());
    let address = format!("https://{}", node["address"].as_str().unwrap());
    let endpoint = Endpoint::from_shared(address).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
    let mut anchor = AnchorServiceClient::new(channel);
    anchor.checkpoint(CheckpointRequest {}).await.map(drop)
}

/// A network that nobody here knows, not running.
fn another_network(stage: &Stage) -> Network {
    let options = NetworkOptions {
        program: crate::stage::PROGRAM.into(),
        nodes: 3,
        witness: false,
        foreign_witnesses: Vec::new(),
    };
    Network::found(&stage.path("elsewhere"), &options).unwrap()
}

fn restart_with(stage: &mut Stage, change: impl FnOnce()) {
    stage.network.stop().unwrap();
    change();
    stage.network.start().unwrap();
}

#[test]
fn suspending_reinstating_and_suspending_again_are_three_leaves() {
    let stage = Stage::start(2);
    let file = stage.file("heartbeat", b"one heartbeat");
    let device = stage.device("holter");
    let stand = |change: &str| {
        let ran = stage.hospital.run(["device", change, &did(&device)]);
        done(ran).json["leaf_index"].as_u64().unwrap()
    };
    let leaves = ["suspend", "reinstate", "suspend"].map(stand);
    assert!(leaves.is_sorted_by(|one, next| one < next), "{leaves:?}");
    assert_refused(&stage.put(&device, &file), 3, "inactive");
    stand("reinstate");
    // What it sealed meanwhile is not lost.
    let stored = done(Ok(stage.put(&device, &file)));
    assert_eq!(stored.json["resumed"], true);
}
