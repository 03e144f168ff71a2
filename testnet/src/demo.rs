//! The demo: one story, told with its timings, every line of it checked.

use crate::{
    Home, Network, NetworkOptions, Ran, interrupt::on_ctrl_c, network::this_program,
    run_folder::RunFolder,
};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// How to tell the story.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The payload; `None`: the electrocardiogram that comes with the program.
    pub input: Option<PathBuf>,
    /// Hospitals, 3 or more.
    pub nodes: u8,
    /// One JSON object instead of a story.
    pub json: bool,
    /// Leave the network running.
    pub keep: bool,
    /// Folder of the network; `None`: a new temporary one.
    pub dir: Option<PathBuf>,
}

/// Runs the demo. The exit code says whether every step was as it should be.
///
/// # Errors
///
/// When it cannot begin, or cannot write what happened.
pub fn demo(options: &DemoOptions) -> Result<ExitCode> {
    let interrupted = on_ctrl_c()?;
    let folder = RunFolder::make(options.dir.as_deref(), "medanchor-demo-")?;
    let mut story = Story {
        json: options.json,
        began: Instant::now(),
        steps: Vec::new(),
        interrupted,
    };
    let told = tell(options, folder.path(), &mut story);
    let ok = told.is_ok();
    if let Err(error) = &told {
        story.say(&format!("\nFAILED: {error:#}"));
    }
    if options.json {
        println!("{}", json!({ "ok": ok, "steps": story.steps }));
    }
    if options.keep && ok {
        folder.keep();
    }
    Ok(ExitCode::from(u8::from(!ok)))
}

/// The story, read downward.
fn tell(options: &DemoOptions, dir: &Path, story: &mut Story) -> Result<()> {
    let payload = payload(options.input.as_deref(), dir)?;
    let mut network = story.step(
        "start",
        "Three hospitals and a regulator start, each a process with keys of its own",
        |facts| {
            let options = NetworkOptions {
                program: this_program()?,
                nodes: options.nodes,
                witness: true,
                foreign_witnesses: Vec::new(),
            };
            let mut network = Network::found(dir, &options)?;
            network.start()?;
            facts.set("nodes", network.nodes.len());
            Ok(network)
        },
    )?;
    let cast = story.step(
        "enrol",
        "Everybody is enrolled by a signed entry in the log",
        |facts| Cast::enrol(&network, facts),
    )?;
    let patient_key = story.step(
        "custody",
        "Hospital A makes a custody key for a patient; a second holder keeps a copy",
        |facts| custody(&cast.hospital_a, "person", &[], facts),
    )?;
    let consent = story.step(
        "consent",
        "The patient consents to research (HRESCH) by the institute",
        |facts| give_consent(&cast, &patient_key, facts),
    )?;
    let ecg = story.step(
        "put",
        "The device seals the ECG, two nodes hold it, the log anchors it",
        |facts| put(&cast.device, &payload, &patient_key, "waveform.ecg", facts),
    )?;
    let first_copy = dir.join("researcher-copy");
    story.step(
        "get",
        "The research partner asks for it under HRESCH, gets it, and it is the same byte for byte",
        |facts| {
            get_same(
                &cast.researcher,
                &ecg,
                "HRESCH",
                &payload,
                &first_copy,
                facts,
            )
        },
    )?;
    story.step(
        "verify",
        "The receipt is verified offline, with the policy file and no server",
        |facts| verify_offline(&cast.researcher, &ecg, facts),
    )?;
    story.step(
        "treat",
        "A clinician of the hospital opens it for treatment (TREAT)",
        |facts| {
            let copy = dir.join("clinician-copy");
            get_same(&cast.clinician, &ecg, "TREAT", &payload, &copy, facts)
        },
    )?;
    story.step(
        "deny-purpose",
        "Marketing (HMARKT) was never consented to: denied, and the refusal is in the log",
        |facts| expect_denied(&cast.researcher, &ecg, "HMARKT", facts),
    )?;
    let image = firmware(&network, &cast, dir, story)?;
    let second = kill_the_leader(&mut network, &cast, &payload, &patient_key, &ecg, story)?;
    story.step(
        "withdraw",
        "The patient withdraws consent: the next request is denied",
        |facts| {
            let arguments = ["consent", "withdraw", &patient_key, &consent];
            facts.leaf(&cast.hospital_a.run(arguments)?.success()?);
            expect_denied(&cast.researcher, &second, "HRESCH", facts)
        },
    )?;
    story.step(
        "bit-flip",
        "One byte flips on a node's disk: it is noticed, and another node's copy is used",
        |facts| image.flip_and_get(&cast, facts),
    )?;
    story.step("log", "The log, as anybody may read it", |facts| {
        let log = cast.hospital_a.run(["log", "list"])?.success()?;
        let leaves = log.json["leaves"].as_array().context("no leaves")?.clone();
        facts.set("leaves", leaves.len());
        facts.table(&leaves);
        Ok(())
    })?;
    story.say(&format!(
        "\nAll {} steps were as they should be, in {:.1} s.",
        story.steps.len(),
        story.began.elapsed().as_secs_f64()
    ));
    if options.keep {
        story.say(&format!("\n{}", network.how_to_go_on()?));
        story.say(&cast.how_to_go_on(&second));
        network.keep();
    }
    Ok(())
}

/// Who is who: each has a home folder with keys of its own.
struct Cast {
    hospital_a: Home,
    hospital_b: Home,
    institute: Home,
    institute_did: String,
    researcher: Home,
    clinician: Home,
    engineer: Home,
    device: Home,
    vendor_did: String,
    release_service: Home,
}

impl Cast {
    fn enrol(network: &Network, facts: &mut Facts) -> Result<Self> {
        let cast = Self {
            hospital_a: network.operator(0)?,
            hospital_b: network.operator(1)?,
            institute: network.invite(0, "institute")?,
            institute_did: String::new(),
            researcher: network.invite(0, "researcher")?,
            clinician: network.invite(0, "clinician")?,
            engineer: network.invite(1, "engineer")?,
            device: network.invite(0, "holter-7")?,
            vendor_did: String::new(),
            release_service: network.invite(1, "vendor-releases")?,
        };
        let vendor = network.invite(1, "vendor")?;
        let institute_did = did(&cast.institute)?;
        let vendor_did = did(&vendor)?;
        let enrol = |by: &Home, kind: &str, who: &str, role: &str, label: &str| {
            let arguments = [kind, "enrol", who, "--role", role, "--label", label];
            by.run(arguments)?.success()
        };
        let (a, b) = (&cast.hospital_a, &cast.hospital_b);
        let label = "Institute of Cardiology Research";
        enrol(a, "org", &institute_did, "researcher", label)?;
        enrol(b, "org", &vendor_did, "vendor", "Holter devices Ltd")?;
        let clinician = did(&cast.clinician)?;
        enrol(a, "person", &clinician, "clinician", "Cardiologist 12")?;
        let engineer = did(&cast.engineer)?;
        enrol(b, "person", &engineer, "engineer", "Clinical engineer 3")?;
        let researcher = did(&cast.researcher)?;
        let by = &cast.institute;
        enrol(by, "person", &researcher, "researcher", "Research fellow 5")?;
        let device = did(&cast.device)?;
        enrol(a, "device", &device, "device", "Holter 7")?;
        let service = did(&cast.release_service)?;
        let last = enrol(&vendor, "service", &service, "vendor", "Firmware releases")?;
        facts.set("researcher", researcher);
        facts.set("device", device);
        facts.leaf(&last);
        Ok(Self {
            institute_did,
            vendor_did,
            ..cast
        })
    }

    fn how_to_go_on(&self, record: &str) -> String {
        let home = |home: &Home| home.path().display().to_string();
        format!(
            "put a file:      cargo medanchor --home {} put FILE --custody CUSTODY --class other\n\
             ask for it:      cargo medanchor --home {} get {record} --purpose TREAT -o OUT",
            home(&self.device),
            home(&self.clinician),
        )
    }
}

fn did(home: &Home) -> Result<String> {
    home.run(["key", "show"])?.success()?.text("did")
}

fn custody(operator: &Home, kind: &str, writers: &[&str], facts: &mut Facts) -> Result<String> {
    let mut arguments = vec!["custody", "new", "--kind", kind];
    for writer in writers {
        arguments.extend(["--writer", writer]);
    }
    let made = operator.run(arguments)?.success()?;
    facts.leaf(&made);
    let custody = made.text("custody")?;
    facts.set("custody", custody.as_str());
    Ok(custody)
}

fn give_consent(cast: &Cast, custody: &str, facts: &mut Facts) -> Result<String> {
    let given = cast
        .hospital_a
        .run([
            "consent",
            "give",
            custody,
            "--party",
            &cast.institute_did,
            "--purpose",
            "HRESCH",
        ])?
        .success()?;
    facts.leaf(&given);
    let consent = given.text("consent")?;
    facts.set("consent", consent.as_str());
    Ok(consent)
}

fn put(
    device: &Home,
    payload: &Path,
    custody: &str,
    class: &str,
    facts: &mut Facts,
) -> Result<String> {
    let path = payload.to_str().context("the path is not text")?;
    let stored = device
        .run(["put", path, "--custody", custody, "--class", class])?
        .success()?;
    facts.leaf(&stored);
    facts.set("size_bytes", fs::metadata(payload)?.len());
    let record = stored.text("record")?;
    facts.set("record", record.as_str());
    Ok(record)
}

fn get(reader: &Home, record: &str, purpose: &str, copy: &Path) -> Result<Ran> {
    let copy = copy.to_str().context("the path is not text")?;
    reader.run(["get", record, "--purpose", purpose, "-o", copy])
}

fn get_same(
    reader: &Home,
    record: &str,
    purpose: &str,
    payload: &Path,
    copy: &Path,
    facts: &mut Facts,
) -> Result<()> {
    let got = get(reader, record, purpose, copy)?.success()?;
    facts.leaf(&got);
    anyhow::ensure!(same(payload, copy)?, "what arrived is not what was sent");
    facts.set("identical", true);
    Ok(())
}

fn verify_offline(reader: &Home, record: &str, facts: &mut Facts) -> Result<()> {
    let receipt = reader
        .path()
        .join("receipts")
        .join(format!("{record}.tlog-proof"));
    let receipt = receipt.to_str().context("the path is not text")?;
    let verified = reader.run(["verify", receipt])?.success()?;
    facts.leaf(&verified);
    facts.copy(&verified, "tree_size");
    facts.copy(&verified, "cosigners");
    Ok(())
}

fn expect_denied(reader: &Home, record: &str, purpose: &str, facts: &mut Facts) -> Result<()> {
    let answer = reader.run(["request", record, "--purpose", purpose])?;
    anyhow::ensure!(
        answer.code == EXIT_DENIED,
        "the request should have been denied, but the exit code was {}: {}{}",
        answer.code,
        answer.errors,
        answer.json
    );
    facts.set("code", answer.text("code")?);
    facts.set("reason", answer.text("reason")?);
    facts.leaf(&answer);
    Ok(())
}

fn firmware(network: &Network, cast: &Cast, dir: &Path, story: &mut Story) -> Result<Image> {
    story.step(
        "firmware",
        "The device vendor sends firmware to hospital B, which fetches and verifies it",
        |facts| {
            let file = dir.join("holter-1.4.0.bin");
            fs::write(&file, firmware_image())?;
            let node = network.nodes.get(1).context("no hospital B")?;
            let blocks = node.folder().join("blocks");
            let before = block_files(&blocks)?;
            let writers = [cast.vendor_did.as_str()];
            let key = custody(&cast.hospital_b, "dataset", &writers, facts)?;
            let record = put(&cast.release_service, &file, &key, "firmware", facts)?;
            let new = block_files(&blocks)?
                .into_iter()
                .find(|block| !before.contains(block));
            let copy = dir.join("holter-1.4.0.received");
            get_same(&cast.engineer, &record, "SYSDEV", &file, &copy, facts)?;
            Ok(Image {
                node: node.name.clone(),
                block: new.context("hospital B stored no block")?,
                record,
                file,
                copy,
            })
        },
    )
}

/// Kills the leader under load: what was acknowledged is there, what comes next goes on.
fn kill_the_leader(
    network: &mut Network,
    cast: &Cast,
    payload: &Path,
    custody: &str,
    ecg: &str,
    story: &mut Story,
) -> Result<String> {
    story.step(
        "kill-leader",
        "The leader is killed mid-way; the others elect another and nothing is lost",
        |facts| {
            let before = cast.hospital_a.run(["status"])?;
            let leader = before.text("leader")?;
            let size = before.json["tree_size"].as_u64().context("no tree size")?;
            facts.set("leader", leader.as_str());
            // A payload is under way while its leader dies.
            let path = payload.to_str().context("the path is not text")?;
            let sending = cast
                .device
                .command(["put", path, "--custody", custody, "--class", "waveform.ecg"])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()?;
            network.process(&leader)?.kill()?;
            let sent = sending.wait_with_output()?;
            anyhow::ensure!(
                sent.status.success(),
                "the payload under way was lost: {}",
                String::from_utf8_lossy(&sent.stderr)
            );
            let sent: Value = serde_json::from_slice(&sent.stdout)?;
            let record = sent["record"].as_str().context("no record")?.to_owned();
            let after = cast.hospital_b.run(["status"])?;
            let now = after.json["tree_size"].as_u64().context("no tree size")?;
            anyhow::ensure!(now > size, "the log of {size} leaves has shrunk to {now}");
            facts.set("new_leader", after.text("leader")?);
            facts.set("record", record.as_str());
            // A hospital's keys are released by its own broker alone: it may be the one that was killed.
            network.process(&leader)?.start()?;
            network.wait_for(&leader)?;
            let copy = network.dir().join("after-the-kill");
            get_same(&cast.researcher, &record, "HRESCH", payload, &copy, facts)?;
            get_same(&cast.clinician, ecg, "TREAT", payload, &copy, facts)?;
            Ok(record)
        },
    )
}

/// A firmware image that hospital B was sent.
struct Image {
    node: String,
    /// One of its blocks on that node's disk.
    block: PathBuf,
    record: String,
    file: PathBuf,
    copy: PathBuf,
}

impl Image {
    /// Flips one byte of the block, and fetches the image from that node alone.
    fn flip_and_get(&self, cast: &Cast, facts: &mut Facts) -> Result<()> {
        let good = fs::read(&self.block)?;
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        *bad.get_mut(middle).context("the block is empty")? ^= 1;
        fs::write(&self.block, bad)?;
        facts.set("node", self.node.as_str());
        facts.set(
            "block",
            self.block.file_name().and_then(|name| name.to_str()),
        );
        let copy = self.copy.to_str().context("the path is not text")?;
        let arguments = [
            "--node",
            &self.node,
            "get",
            &self.record,
            "--purpose",
            "SYSDEV",
        ];
        let got = cast
            .engineer
            .run(arguments.into_iter().chain(["-o", copy]))?;
        facts.leaf(&got.success()?);
        anyhow::ensure!(
            same(&self.file, &self.copy)?,
            "what arrived is not what was sent"
        );
        anyhow::ensure!(fs::read(&self.block)? == good, "the block was not repaired");
        let status = cast.engineer.run(["--node", &self.node, "status"])?;
        facts.copy(&status, "blocks_repaired");
        anyhow::ensure!(
            status.json["blocks_repaired"] != 0,
            "the flipped byte was not counted"
        );
        Ok(())
    }
}

/// What happened in a step.
#[derive(Default)]
struct Facts {
    values: Map<String, Value>,
    lines: Vec<String>,
}

impl Facts {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    fn copy(&mut self, ran: &Ran, field: &str) {
        self.set(field, ran.json[field].clone());
    }

    fn leaf(&mut self, ran: &Ran) {
        self.copy(ran, "leaf_index");
    }

    fn table(&mut self, leaves: &[Value]) {
        for leaf in leaves {
            let text = |field: &str| leaf[field].as_str().unwrap_or_default().to_owned();
            let index = leaf["leaf_index"].as_u64().unwrap_or_default();
            let (kind, outcome) = (text("kind"), text("outcome"));
            let (at, record) = (text("at"), text("record"));
            let line = format!("{index:>5}  {at}  {kind:<10}  {outcome:<8}  {record}");
            self.lines.push(line.trim_end().to_owned());
        }
    }
}

/// The story as it is told.
struct Story {
    json: bool,
    began: Instant,
    steps: Vec<Value>,
    interrupted: Arc<AtomicBool>,
}

impl Story {
    fn step<T>(
        &mut self,
        name: &str,
        what: &str,
        act: impl FnOnce(&mut Facts) -> Result<T>,
    ) -> Result<T> {
        anyhow::ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        let began = Instant::now();
        let mut facts = Facts::default();
        let result = act(&mut facts);
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mark = if result.is_ok() { "ok" } else { "FAILED" };
        self.say(&format!("{mark:>6} {ms:>6} ms  {what}"));
        for (fact, value) in &facts.values {
            self.say(&format!("                  {fact}: {}", plain(value)));
        }
        for line in &facts.lines {
            self.say(&format!("        {line}"));
        }
        let mut step = json!({ "name": name, "ok": result.is_ok(), "ms": ms });
        if let Some(step) = step.as_object_mut() {
            step.extend(facts.values);
            if let Err(error) = &result {
                step.insert("error".to_owned(), format!("{error:#}").into());
            }
        }
        self.steps.push(step);
        result.with_context(|| format!("step `{name}`"))
    }

    fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}

fn payload(input: Option<&Path>, dir: &Path) -> Result<PathBuf> {
    match input {
        Some(input) => {
            fs::canonicalize(input).with_context(|| format!("find the input `{}`", input.display()))
        }
        None => {
            let path = dir.join("mitbih208x.dat");
            fs::write(&path, ECG).context("write the electrocardiogram")?;
            Ok(path)
        }
    }
}

/// 300 kB that look like firmware: a header and incompressible code, the same each time.
fn firmware_image() -> Vec<u8> {
    let mut image = b"HOLTER-7 FIRMWARE 1.4.0\n".to_vec();
    let mut word: u32 = 0x1400;
    while image.len() < 300_000 {
        // Marsaglia's xorshift32.
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        image.extend_from_slice(&word.to_le_bytes());
    }
    image
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    use std::io::{BufReader, Read};
    let open = |path: &Path| -> Result<BufReader<fs::File>> {
        Ok(BufReader::with_capacity(1 << 20, fs::File::open(path)?))
    };
    let (mut one, mut other) = (open(one)?.bytes(), open(other)?.bytes());
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (Some(one), Some(other)) if one == other => (),
            _ => return Ok(false),
        }
    }
}

/// The blocks that a node keeps in files of their own.
fn block_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let named_by_hash = path.file_name().is_some_and(|name| name.len() == 64);
            if path.is_dir() {
                folders.push(path);
            } else if named_by_hash {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

const ECG: &[u8] = include_bytes!("../data/mitbih208x.dat");
/// Exit code of `medanchor` for a denial.
const EXIT_DENIED: i32 = 3;
