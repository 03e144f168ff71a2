//! The block store and the private peer, each side a process: a large file added and fetched, beside Kubo, and many
//! small blocks. `benches/beside-kubo` says where Kubo is.

use crate::{
    arguments::Arguments,
    author::{Author, CHUNK_LOG2},
    cpu,
    interrupt::Interrupt,
    payload::{KIB, MIB, payload, size_name},
    process_memory::anonymous_mib,
    report::Report,
    samples::{Samples, count},
    storage_commands::{ADD, FETCH, Figures, GROUP_BYTES, SERVE, SWARM_KEY},
};
use anyhow::{Context, Result};
use medanchor_dag::{
    Block, BlockStore, Codec, CustodyId, DiskStore, Effort, Marks, StoreError, sha256,
};
use medanchor_envelope::{Identity, Suite};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit, StreamCipher},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Measures it in `dir`.
pub(crate) fn measure(
    arguments: &Arguments,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    large(arguments, dir, report, interrupt)?;
    small(arguments, dir, report, interrupt)
}

/// One of the two that are compared.
struct Side {
    name: &'static str,
    program: PathBuf,
    /// What the program runs, where it is Kubo's.
    script: Option<PathBuf>,
    added: Samples,
    fetched: Samples,
    add_peak: Samples,
    fetch_peak: Samples,
    /// Processor time of the side that fetches, in seconds, and of the one that serves meanwhile.
    fetch_processor: Samples,
    serve_processor: Samples,
    /// What went wrong in a round that does not count.
    failed: Vec<String>,
}

fn large(
    arguments: &Arguments,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let size = arguments.choose(1024 * MIB, 32 * MIB);
    let rounds = arguments.choose(3, 1);
    let what = "added durably, then fetched by another node on loopback, which keeps it durably";
    report.begin("storage", &format!("{} {what}", size_name(size)));
    let input = dir.join("input");
    fs::write(&input, payload(size)).context("write the input")?;
    fs::write(dir.join("swarm.key"), SWARM_KEY).context("write the swarm key")?;
    let mut sides = vec![Side::ours()?];
    match std::env::var_os("MEDANCHOR_KUBO") {
        Some(python) => sides.push(Side::kubo(&python)),
        None => report.note("Kubo: start this with benches/beside-kubo"),
    }
    for round in 0..rounds {
        for side in &mut sides {
            interrupt.check()?;
            // Stays until the end: ext4 looks at every inode that was freed in the last minutes for each new file.
            let folder = dir.join(format!("{}-{round}", side.name));
            side.round(&folder, &input, dir)?;
        }
    }
    let cores = count(std::thread::available_parallelism()?.get());
    let rate = |seconds: &Samples| seconds.map(|seconds| count(size) / 1e6 / seconds);
    for side in &sides {
        for failed in &side.failed {
            report.note(failed);
        }
        let name = side.name;
        let sealed = if side.is_kubo() { "" } else { ", sealed first" };
        report.median(
            &format!("{name}: added{sealed}"),
            "MB/s",
            &rate(&side.added),
        );
        report.median(&format!("{name}: fetched"), "MB/s", &rate(&side.fetched));
        report.median(&format!("{name}: memory when added"), "MiB", &side.add_peak);
        report.median(
            &format!("{name}: memory when fetched"),
            "MiB",
            &side.fetch_peak,
        );
        report.median(
            &format!("{name}: processor of the side that fetches"),
            "s",
            &side.fetch_processor,
        );
        report.median(
            &format!("{name}: processor of the side that serves"),
            "s",
            &side.serve_processor,
        );
        report.figure(
            &format!("{name}: cores that both kept busy during a fetch"),
            &format!("of {cores}"),
            side.busy_cores(),
        );
    }
    if let [ours, kubo] = sides.as_slice() {
        let added = kubo.added.median() / ours.added.median();
        report.figure("added, as a multiple of Kubo", "times", added);
        let fetched = kubo.fetched.median() / ours.fetched.median();
        report.figure("fetched, as a multiple of Kubo", "times", fetched);
    }
    let part = arguments.choose(256 * MIB, 16 * MIB);
    report.figure("what sealing alone allows", "MB/s", sealing(part)?);
    let files = Files::measure(dir, part)?;
    report.figure(
        "what files and their syncs alone allow",
        "MB/s",
        files.rate(),
    );
    let floor = Floor::measure(part)?;
    report.figure("ciphers and hashes alone, one side", "MB/s", floor.alone);
    report.figure(
        "ciphers and hashes alone, both sides at once",
        "MB/s",
        floor.together,
    );
    let needed = floor.processor + files.processor;
    report.figure(
        "ciphers, hashes and files of both sides, when all cores do nothing else",
        "MB/s",
        count(part) / 1e6 / needed.as_secs_f64() * cores,
    );
    if let Some(ours) = sides.first() {
        let fetched = rate(&ours.fetched).median();
        let share = fetched / floor.together * 100.0;
        report.figure("fetched, as a share of ciphers and hashes", "%", share);
        let allowed = count(size) / 1e6 / ours.processor() * cores;
        report.figure(
            "what our processor time of both sides allows, when no core waits",
            "MB/s",
            allowed,
        );
    }
    fs::remove_file(&input).context("remove the input")
}

impl Side {
    fn new(name: &'static str, program: PathBuf, script: Option<PathBuf>) -> Self {
        Self {
            name,
            program,
            script,
            added: Samples::default(),
            fetched: Samples::default(),
            add_peak: Samples::default(),
            fetch_peak: Samples::default(),
            fetch_processor: Samples::default(),
            serve_processor: Samples::default(),
            failed: Vec::new(),
        }
    }

    fn ours() -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        Ok(Self::new("ours", program, None))
    }

    fn kubo(python: &OsStr) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubo.py");
        Self::new("Kubo", python.into(), Some(script))
    }

    /// Processor seconds of both sides for a fetch.
    fn processor(&self) -> f64 {
        self.fetch_processor.median() + self.serve_processor.median()
    }

    fn busy_cores(&self) -> f64 {
        self.processor() / self.fetched.median()
    }

    fn is_kubo(&self) -> bool {
        self.script.is_some()
    }

    /// Adds the file to one node, and fetches it from there to another.
    fn round(&mut self, folder: &Path, input: &Path, dir: &Path) -> Result<()> {
        let (first, second) = (folder.join("first"), folder.join("second"));
        fs::create_dir_all(folder).context("create the folder")?;
        let added = figures(self.add(dir, &first, input))?;
        self.added.push(added.seconds);
        self.add_peak.push(added.peak_mib());
        let serving = Server::start(self.serve(dir, &first))?;
        let before = serving.processor()?;
        match figures(self.fetch(dir, &second, &serving.address, &added.cid)) {
            Ok(fetched) => {
                let served = serving.processor()?.saturating_sub(before);
                self.serve_processor.push(served.as_secs_f64());
                self.fetch_processor.push(fetched.processor_seconds);
                self.fetched.push(fetched.seconds);
                self.fetch_peak.push(fetched.peak_mib());
            }
            // It hangs now and then, also beside another Kubo.
            Err(error) if self.is_kubo() => {
                let failed = format!("Kubo did not fetch it: {error:#}");
                self.failed.push(failed);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn add(&self, dir: &Path, folder: &Path, input: &Path) -> Command {
        let mut command = self.command(dir, ADD, folder);
        if self.is_kubo() {
            command.arg("--add");
        }
        command.arg(input);
        command
    }

    fn serve(&self, dir: &Path, folder: &Path) -> Command {
        let mut command = self.command(dir, SERVE, folder);
        if self.is_kubo() {
            command.arg("--serve");
        }
        command
    }

    fn fetch(&self, dir: &Path, folder: &Path, address: &str, root: &str) -> Command {
        let mut command = self.command(dir, FETCH, folder);
        match self.is_kubo() {
            true => command.args(["--connect", address, "--cid", root]),
            false => command.args([address, root]),
        };
        command
    }

    /// `ours` is what our program calls it; Kubo's tells by its options.
    fn command(&self, dir: &Path, ours: &str, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        match &self.script {
            Some(script) => command
                .arg(script)
                .arg("--repo")
                .arg(folder)
                .arg("--swarm-key")
                .arg(dir.join("swarm.key")),
            None => command.arg(ours).arg(folder),
        };
        command
    }
}

/// What a command says on the last line.
fn figures(mut command: Command) -> Result<Figures> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.context("run one of the two")?;
    anyhow::ensure!(output.status.success(), "it failed with {}", output.status);
    let text = String::from_utf8(output.stdout).context("read what it says")?;
    let last = text.lines().last().context("it says nothing")?;
    serde_json::from_str(last).context("read its figures")
}

/// A node that serves what it has, until this is dropped.
struct Server {
    child: Child,
    address: String,
    _output: BufReader<ChildStdout>,
}

impl Server {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a node")?;
        let output = child.stdout.take().context("read what the node says")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        while !line.starts_with("serving ") {
            line.clear();
            anyhow::ensure!(output.read_line(&mut line)? > 0, "the node does not serve");
        }
        let address = line.trim_start_matches("serving ").trim_end().to_owned();
        Ok(Self {
            child,
            address,
            _output: output,
        })
    }

    /// Processor time that the node has used.
    fn processor(&self) -> Result<Duration> {
        cpu::of_processes(&[self.child.id()])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its standard input.
        self.child.stdin = None;
        // Nothing is left to do about a node that cannot be waited for.
        let _ = self.child.wait();
    }
}

/// MB/s that one thread seals, with the names of all blocks.
fn sealing(size: usize) -> Result<f64> {
    let payload = payload(size);
    let mut author = Author::new(CustodyId::generate()?, Identity::generate()?.recipient())?;
    let began = Instant::now();
    author.seal(payload.as_slice(), Suite::ChaCha20Poly1305, &mut |block| {
        std::hint::black_box(block);
        Ok(())
    })?;
    Ok(count(size) / 1e6 / began.elapsed().as_secs_f64())
}

/// What it takes to write and fsync files as large as sealed chunks as the store does it, with nothing else.
struct Files {
    size: usize,
    took: Duration,
    /// User and system, without what the kernel does in threads of its own.
    processor: Duration,
}

impl Files {
    fn measure(dir: &Path, size: usize) -> Result<Self> {
        let this = [std::process::id()];
        let before = cpu::of_processes(&this)?;
        let began = Instant::now();
        write_files(&dir.join("files"), size)?;
        Ok(Self {
            size,
            took: began.elapsed(),
            processor: cpu::of_processes(&this)?.saturating_sub(before),
        })
    }

    fn rate(&self) -> f64 {
        count(self.size) / 1e6 / self.took.as_secs_f64()
    }
}

fn write_files(folder: &Path, size: usize) -> Result<()> {
    fs::create_dir(folder).context("create the folder")?;
    let bytes = payload(CHUNK_BYTES);
    for group in 0..size / GROUP_BYTES {
        std::thread::scope(|scope| {
            let write = |thread: usize| -> io::Result<()> {
                let mut files = Vec::new();
                for number in 0..GROUP_BYTES / CHUNK_BYTES / SYNCS {
                    let mut file = File::create(folder.join(format!("{group}-{thread}-{number}")))?;
                    file.write_all(&bytes)?;
                    files.push(file);
                }
                files.iter().try_for_each(File::sync_all)
            };
            let threads: Vec<_> = (0..SYNCS)
                .map(|thread| scope.spawn(move || write(thread)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))?
                    .context("write files")
            })
        })?;
    }
    Ok(())
}

/// MB/s that two nodes could exchange if they did nothing but what they must: cipher and authenticator of Noise and the
/// cipher of the private network on both sides, and the hash of what is read from the disk and of what is received.
struct Floor {
    /// The slower side, with nothing else on the machine.
    alone: f64,
    /// The slower side while the other one works, too, as they do: two threads of one core are not two cores.
    together: f64,
    /// What both took then.
    processor: Duration,
}

impl Floor {
    fn measure(size: usize) -> Result<Self> {
        let rate = |slower: Duration| count(size) / 1e6 / slower.as_secs_f64();
        let alone = rate(sends(size)?.max(receives(size)?));
        let both = std::thread::scope(|scope| {
            let sending = scope.spawn(|| sends(size));
            let received = receives(size)?;
            let sent = sending
                .join()
                .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
            anyhow::Ok((sent, received))
        })?;
        let (sent, received) = both;
        Ok(Self {
            alone,
            together: rate(sent.max(received)),
            processor: sent + received,
        })
    }
}

fn sends(size: usize) -> Result<Duration> {
    let (key, mut psk) = ciphers()?;
    let plain = payload(FRAME);
    let mut took = Duration::ZERO;
    for _ in 0..size / FRAME {
        let mut message = plain.clone();
        let began = Instant::now();
        std::hint::black_box(sha256(&message));
        seal(&key, &mut message)?;
        psk.apply_keystream(&mut message);
        took += began.elapsed();
        std::hint::black_box(message);
    }
    Ok(took)
}

fn receives(size: usize) -> Result<Duration> {
    let (key, mut psk) = ciphers()?;
    let mut sealed = payload(FRAME);
    seal(&key, &mut sealed)?;
    let mut took = Duration::ZERO;
    for _ in 0..size / FRAME {
        let (mut masked, mut received) = (sealed.clone(), sealed.clone());
        let began = Instant::now();
        psk.apply_keystream(&mut masked);
        let opened = key.open_in_place(nonce(), Aad::empty(), &mut received);
        let opened = opened.map_err(|_| anyhow::anyhow!("a frame cannot be opened"))?;
        std::hint::black_box(sha256(opened));
        took += began.elapsed();
        std::hint::black_box(masked);
    }
    Ok(took)
}

fn ciphers() -> Result<(LessSafeKey, XSalsa20)> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]);
    let key = key.map_err(|_| anyhow::anyhow!("a key of 32 bytes"))?;
    Ok((
        LessSafeKey::new(key),
        XSalsa20::new(&[7; 32].into(), &[1; 24].into()),
    ))
}

fn seal(key: &LessSafeKey, message: &mut Vec<u8>) -> Result<()> {
    let sealed = key.seal_in_place_append_tag(nonce(), Aad::empty(), message);
    sealed.map_err(|_| anyhow::anyhow!("a frame cannot be sealed"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([1; 12])
}

/// Many small blocks: how fast they are stored, whether a put and a start are slower when there are many, and a
/// read while they are collected.
fn small(
    arguments: &Arguments,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let many = arguments.choose(1_000_000_usize, 20_000);
    let (records, group) = (arguments.choose(100_000_usize, 5_000), 256);
    report.begin("storage", "blocks of 1 KiB, each put fsynced");
    let before = anonymous_mib(std::process::id())?;
    let folder = dir.join("small");
    let store = DiskStore::open(&folder).context("open a store")?;
    let put = |from: usize, number: usize| -> Result<f64> {
        let began = Instant::now();
        let numbers: Vec<usize> = (from..from + number).collect();
        for group in numbers.chunks(group) {
            let blocks = group.iter().map(|number| block(*number));
            store.put(&blocks.collect::<Result<Vec<_>>>()?)?;
        }
        Ok(began.elapsed().as_secs_f64())
    };
    let alone = |from: usize| -> Result<Samples> {
        let mut samples = Samples::default();
        for number in from..from + arguments.choose(200, 20) {
            let block = block(number)?;
            let began = Instant::now();
            store.put(&[block])?;
            samples.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(samples)
    };
    let empty = alone(0)?;
    let rate = store_records(&store, records, group, interrupt)?;
    let name = format!("{records} records, {group} together");
    report.figure(&name, "per s", rate);
    report.figure(
        "that, as a multiple of rust-ipfs's 1942",
        "times",
        rate / 1942.0,
    );
    interrupt.check()?;
    put(1000, many)?;
    interrupt.check()?;
    let full = alone(10_000_000)?;
    report.latency("one block alone, empty store", &empty);
    report.latency(&format!("one block alone, {many} blocks"), &full);
    report.figure(
        "p50 with many, as a multiple",
        "times",
        full.percentile(50) / empty.percentile(50),
    );
    let own = anonymous_mib(std::process::id())? - before;
    report.figure(&format!("memory with {many} blocks"), "MiB", own);
    drop(store);
    let mut opened = Samples::default();
    for _ in 0..3 {
        let began = Instant::now();
        let store = DiskStore::open(&folder).context("open a store")?;
        opened.push(began.elapsed().as_secs_f64());
        drop(store);
    }
    report.median(&format!("start with {many} blocks"), "s", &opened);
    let store = DiskStore::open(&folder).context("open a store")?;
    let times = arguments.choose(2_000_000, 20_000);
    // The first reads also fill the caches.
    drop(reads(&store, many, times)?);
    let quiet = reads(&store, many, times)?;
    let p99 = |samples: &Samples| samples.percentile(99) * 1000.0;
    report.figure("read of a block, p99", "us", p99(&quiet));
    // All are needed: a cycle looks at each and removes none.
    let marks = Marks::new(count_u64(many), 1);
    for number in 1000..many + 1000 {
        marks.mark(&store, block(number)?.cid())?;
    }
    let collecting = AtomicBool::new(true);
    let (busy, steps) = std::thread::scope(|scope| {
        // As a node collects, without an end.
        let collector = scope.spawn(|| {
            let (mut after, mut steps) = (None, 0);
            while collecting.load(Ordering::Relaxed) {
                let effort = Effort::begin();
                after = store.collect(after.as_ref(), 256, &marks)?.last;
                std::thread::sleep(effort.rest(REST));
                steps += 1;
            }
            Ok::<_, StoreError>(steps)
        });
        let busy = reads(&store, many, times);
        collecting.store(false, Ordering::Relaxed);
        let steps = collector
            .join()
            .map_err(|_| anyhow::anyhow!("the collection panicked"))?;
        anyhow::Ok((busy?, steps?))
    })?;
    report.figure("steps of a collection, meanwhile", "", count(steps));
    report.figure("read of a block during a collection, p99", "us", p99(&busy));
    let ratio = p99(&busy) / p99(&quiet);
    report.figure("that, as a multiple", "times", ratio);
    Ok(())
}

/// Records of 1 KiB stored per second, each its own block and that of its wrap. They were sealed before.
fn store_records(
    store: &DiskStore,
    records: usize,
    group: usize,
    interrupt: &Interrupt,
) -> Result<f64> {
    let mut author = Author::new(CustodyId::generate()?, Identity::generate()?.recipient())?;
    let payload = payload(KIB);
    let (mut left, mut took) = (records, Duration::ZERO);
    while left > 0 {
        interrupt.check()?;
        let sealed = (0..group.min(left)).map(|_| {
            let none = &mut |_| Err(io::Error::other("a small payload is inside its record"));
            let sealed = author.seal(payload.as_slice(), Suite::ChaCha20Poly1305, none)?;
            anyhow::Ok(sealed.blocks())
        });
        let blocks: Vec<[Block; 2]> = sealed.collect::<Result<_>>()?;
        left -= blocks.len();
        let blocks = blocks.concat();
        let began = Instant::now();
        store.put(&blocks)?;
        took += began.elapsed();
    }
    Ok(count(records) / took.as_secs_f64())
}

fn reads(store: &DiskStore, many: usize, times: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    for read in 0..times {
        // Spread over all of them, in no order of theirs.
        let number = 1000 + read.wrapping_mul(7_919_993) % many;
        let cid = *block(number)?.cid();
        let began = Instant::now();
        let found = store.block(&cid)?;
        samples.push(began.elapsed().as_secs_f64() * 1000.0);
        anyhow::ensure!(found.is_some(), "block {number} is missing");
    }
    Ok(samples)
}

fn block(number: usize) -> Result<Block> {
    let mut bytes = vec![0; KIB];
    for (place, byte) in bytes.iter_mut().zip(count_u64(number).to_le_bytes()) {
        *place = byte;
    }
    Ok(Block::new(Codec::Raw, bytes)?)
}

fn count_u64(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// How long a node's collection rests, without being told.
const REST: u32 = 110;
const CHUNK_BYTES: usize = 1 << CHUNK_LOG2;
/// How many fsyncs the store runs at once.
const SYNCS: usize = 8;
/// As much as Noise puts into one message.
const FRAME: usize = 64 * KIB - KIB;
