use crate::{
    author::Author,
    stage::{Stage, custody_key, done, until},
    wires::Wires,
};
use futures::StreamExt;
use hpke::{
    Deserializable, Kem, OpModeR, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256,
    single_shot_open,
};
use medanchor_dag::{Cid, sha256, to_canonical};
use medanchor_envelope::Wrap;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn node_without_custody_keys_sees_neither_plaintext_nor_keys() {
    let wires = Wires::default();
    let stage = Stage::start_with(3, |network| wires.between(network));
    let device = stage.device("device");
    // What goes between nodes and their clients, too.
    for home in [&device, &stage.clinician] {
        wires.before(home);
    }
    let payload = CANARY.repeat(20_000);
    let file = stage.file(&format!("{NAME_CANARY}.dat"), payload.as_bytes());
    let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    assert!(stage.read(&record) == payload.as_bytes());
    // It went to a node, over the swarm to another one, and to the clinician.
    until("the record is replicated", || {
        wires.bytes() > 3 * payload.len()
    });

    let operator = stage.hospital.path();
    let copy = operator.join(format!("custody/{}-0.toml", stage.custody));
    let custody_key = custody_key(&medanchor_cli::Home::new(operator), &copy);
    let content_key = content_key(&stage, &record, &custody_key);
    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("plaintext", CANARY.into()),
        ("file name", NAME_CANARY.into()),
    ];
    for (name, key) in [("custody key", custody_key), ("content key", content_key)] {
        secrets.push((name, hex(&key).into_bytes()));
        secrets.push((name, key));
    }
    for (name, home) in [("device", &device), ("clinician", &stage.clinician)] {
        let keys = medanchor_cli::Home::new(home.path()).own_keys().unwrap();
        for key in [keys.signing.to_seed(), keys.receiving.to_bytes()] {
            secrets.push((name, hex(&key[..]).into_bytes()));
            secrets.push((name, key.to_vec()));
        }
    }
    // The search finds what is there.
    assert_eq!(found(&payload.into_bytes(), &secrets), ["plaintext"]);
    let own = found_below(device.path(), &secrets);
    assert!(own.iter().any(|(_, what)| *what == "device"));
    // The operator's copy of the custody key is sealed.
    assert_eq!(found_below(stage.hospital.path(), &secrets), []);

    for node in &stage.network.nodes[1..] {
        assert_eq!(found_below(node.folder(), &secrets), [], "{}", node.name);
    }
    for bytes in wires.captured() {
        assert_eq!(found(&bytes, &secrets), [""; 0]);
    }
}

/// The record's content key: it is in the durable wrap (`docs/formats.md`).
fn content_key(stage: &Stage, record: &str, custody_key: &[u8]) -> Vec<u8> {
    let author = Author::of(&stage.hospital);
    let record: Cid = record.parse().unwrap();
    let anchored = author.block_on(author.session.client.record(&record));
    let wrap = author.block_on(async {
        let wrap = [anchored.unwrap().anchored.wrap];
        let blocks = author.session.client.blocks(&wrap, false).await.unwrap();
        Box::pin(blocks).next().await.unwrap().unwrap().unwrap()
    });
    let wrap = Wrap::from_bytes(wrap.bytes()).unwrap();
    let mut info = b"medanchor/v1/wrap\0".to_vec();
    info.extend(sha256(&to_canonical(&wrap.ctx)));
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(custody_key).unwrap();
    let encapped = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&wrap.enc).unwrap();
    single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapped,
        &info,
        &wrap.ct,
        &[],
    )
    .unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which of the secrets stand in these bytes.
fn found<'a>(bytes: &[u8], secrets: &[(&'a str, Vec<u8>)]) -> Vec<&'a str> {
    let stands = |secret: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret);
    let found = secrets.iter().filter(|(_, secret)| stands(secret));
    found.map(|(name, _)| *name).collect()
}

fn found_below<'a>(folder: &Path, secrets: &[(&'a str, Vec<u8>)]) -> Vec<(PathBuf, &'a str)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(found_below(&path, secrets));
        } else if path.is_file() {
            let found = found(&fs::read(&path).unwrap(), secrets);
            all.extend(found.into_iter().map(|what| (path.clone(), what)));
        }
    }
    all
}

const CANARY: &str = "a canary sings in the ECG of nobody";
const NAME_CANARY: &str = "canary-in-the-name-of-a-file";
