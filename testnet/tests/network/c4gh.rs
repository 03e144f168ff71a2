use crate::{
    stage::{Stage, assert_refused, done, put_arguments, until},
    wires::Wires,
};
use medanchor_testnet::Ran;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
};

/// To and from GA4GH Crypt4GH; `testnet/foreign/run` has another implementation read and write it.
#[test]
fn payload_leaves_and_comes_back_as_crypt4gh() {
    let stage = Stage::start(3);
    let device = stage.device("sequencer");
    let (public, secret) = (stage.file("pub", PUBLIC), stage.file("sec", SECRET));
    let payload: Vec<u8> = (0..=250).cycle().take(600_000).collect();
    let file = stage.file("payload", &payload);
    let first = done(Ok(stage.put(&device, &file))).text("record").unwrap();

    let exported = stage.path("payload.c4gh");
    let get = |range: &[&str]| {
        let arguments = [
            "get",
            &first,
            "--purpose",
            "TREAT",
            "--format",
            "c4gh",
            "--to",
        ];
        let files = [public.to_str().unwrap(), "-o", exported.to_str().unwrap()];
        let arguments = arguments.iter().chain(&files).chain(range);
        done(stage.clinician.run(arguments))
    };
    let got = get(&[]);
    let sealed = fs::read(&exported).unwrap();
    // A header for one reader, and ten segments.
    assert_eq!(sealed.len(), 124 + payload.len() + 10 * 28);
    assert!(sealed.starts_with(b"crypt4gh\x01\0\0\0\x01\0\0\0"));
    assert!(!sealed.windows(64).any(|window| window == &payload[..64]));
    assert_eq!(got.json["size_bytes"].as_u64(), Some(payload.len() as u64));
    let sha256 = medanchor_dag::Hash::of(&payload).to_string();
    assert_eq!(got.json["sha256"], sha256.as_str());

    let put = |file: &Path| -> Ran {
        let format = ["--format", "c4gh", "--key", secret.to_str().unwrap()];
        let arguments = put_arguments(file, &stage.custody)
            .into_iter()
            .chain(format);
        device.run(arguments).unwrap()
    };
    let second = done(Ok(put(&exported))).text("record").unwrap();
    assert!(stage.read(&second) == payload);
    get(&["--range", "65530-65540"]);
    let part = done(Ok(put(&exported))).text("record").unwrap();
    assert_eq!(stage.read(&part), payload[65530..=65540]);

    // What another implementation wrote.
    let foreign = stage.file("foreign.c4gh", &from_hex(FOREIGN));
    let third = done(Ok(put(&foreign))).text("record").unwrap();
    assert_eq!(stage.read(&third), b"heartbeat");

    // What is damaged, cut off within a segment, or for somebody else leaves nothing in the log.
    let before = stage.anchored();
    let mut damaged = sealed.clone();
    damaged[400_000] ^= 1;
    let mut another_version = sealed.clone();
    another_version[8] = 2;
    for (name, content) in [
        ("damaged", &damaged[..]),
        ("cut", &sealed[..sealed.len() - 1]),
        ("version", &another_version),
        ("plain", &payload),
    ] {
        let ran = put(&stage.file(name, content));
        assert_refused(&ran, 4, "not-verified");
    }
    assert_eq!(stage.anchored(), before);
}

#[test]
fn killed_export_goes_on_behind_what_was_encrypted() {
    let stage = Stage::start(3);
    let device = stage.device("sequencer");
    let (public, secret) = (stage.file("pub", PUBLIC), stage.file("sec", SECRET));
    let payload: Vec<u8> = (0_u32..5_000_000).flat_map(u32::to_le_bytes).collect();
    let file = stage.file("payload", &payload);
    let record = done(Ok(stage.put(&device, &file))).text("record").unwrap();
    let wires = Wires::default();
    wires.before(&stage.clinician);

    let (first, last) = (CHUNK * 3 - 7, CHUNK * 60 + 7);
    let range = format!("{first}-{last}");
    for (part, wanted) in [
        (&[][..], &payload[..]),
        (&["--range", &range], &payload[first..=last]),
    ] {
        let folder = stage.path(if part.is_empty() { "whole" } else { "part" });
        fs::create_dir(&folder).unwrap();
        let exported = folder.join("payload.c4gh");
        let format = ["--format", "c4gh", "--to", public.to_str().unwrap()];
        let get = [
            "get",
            &record,
            "--purpose",
            "TREAT",
            "-o",
            exported.to_str().unwrap(),
        ];
        let get: Vec<&str> = [&get[..], &format, part].concat();
        let mut getting = stage.clinician.command(&get);
        let mut getting = getting
            .args(["--limit", "4M"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let unfinished = || -> Option<PathBuf> {
            let mut files = fs::read_dir(&folder).unwrap().map(Result::unwrap);
            files.next().map(|file| file.path())
        };
        let len = || unfinished().map_or(0, |file| fs::metadata(file).map_or(0, |file| file.len()));
        until("segments are written", || len() > 20 * 65_564);
        getting.kill().unwrap();
        assert_eq!(
            getting.wait().unwrap().signal(),
            Some(9),
            "it was over already"
        );
        assert!(!exported.exists(), "it is not whole");
        let unfinished = unfinished().unwrap();
        let cut_off = fs::read(&unfinished).unwrap();
        assert!(!cut_off.windows(64).any(|window| window == &wanted[..64]));
        // Whole segments behind the header, and the chunks that they have all of.
        let kept_bytes = (cut_off.len() - 124) / 65_564 * 65_536;
        let begin = if part.is_empty() { 0 } else { first };
        let end = begin + wanted.len();
        let fetched = end.div_ceil(CHUNK) - (begin + kept_bytes) / CHUNK;
        let kept = end.div_ceil(CHUNK) - begin / CHUNK - fetched;
        assert!(kept > 0 && fetched > UNDER_WAY, "{kept} and {fetched}");

        let before = wires.bytes();
        let got = done(stage.clinician.run(&get));
        let counts = ["blocks_kept", "blocks_fetched"].map(|name| got.json[name].as_u64());
        assert_eq!(counts, [Some(kept as u64), Some(fetched as u64)]);
        let came = wires.bytes() - before;
        assert!(came < (fetched + 4) * SEALED_CHUNK, "{came} for {fetched}");
        assert!(!unfinished.exists());
        let again = fs::read(&exported).unwrap();
        let kept_len = 124 + kept_bytes / 65_536 * 65_564;
        assert!(
            again[..kept_len] == cut_off[..kept_len],
            "what was there stays"
        );
        if part.is_empty() {
            let sha256 = medanchor_dag::Hash::of(&payload).to_string();
            assert_eq!(got.json["sha256"], sha256.as_str());
        }
        // Whoever has the reader's key finds all of it in there.
        let put = put_arguments(&exported, &stage.custody);
        let format = ["--format", "c4gh", "--key", secret.to_str().unwrap()];
        let put = done(device.run(put.into_iter().chain(format)));
        assert!(stage.read(&put.text("record").unwrap()) == wanted);
    }
}

/// Plaintext in a block, and what it is when it is sealed, at `--chunk-log2 18`.
const CHUNK: usize = 262_128;
const SEALED_CHUNK: usize = 262_144;
/// Blocks on their way at one time.
const UNDER_WAY: usize = 8;

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    bytes.map(Result::unwrap).collect()
}

/// `crypt4gh-keygen --nocrypt` of crypt4gh 1.8.6 (Python) made them, for this test alone.
const PUBLIC: &[u8] = b"-----BEGIN CRYPT4GH PUBLIC KEY-----
vxBPl38mYj7CBpNuJuWdcdRDcAUCnfznicPwjw6O8ho=
-----END CRYPT4GH PUBLIC KEY-----
";
const SECRET: &[u8] = b"-----BEGIN CRYPT4GH PRIVATE KEY-----
YzRnaC12MQAEbm9uZQAEbm9uZQAghu5CT1uNM0FBtQ3aJfcWhOaNOV5wuO3RClcOn0ty3Oc=
-----END CRYPT4GH PRIVATE KEY-----
";
/// `heartbeat`, encrypted by the same program.
const FOREIGN: &str = "637279707434676801000000010000006c00000000000000bf104f977f26623ec206936e26e59d71d4437005029dfce789c3\
    f08f0e8ef21a86c5f724378d65395d5cc1ee7d42aae39db50dfd8c7253e8d6b0ebe34492770126edfb8d52043b0458434adb\
    f288079de677814f89c762766e1d0548eca0bcabdf4bc2ab6d4a3ebaffc4dd6c91b3dae461807d55b7f511d7e5994fbb42f3\
    0bd520133ecddcff34aab5";
