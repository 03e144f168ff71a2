//! Put and get through the network: by the tool, a process per call, and by its functions in this process,
//! which keeps its connections.

use crate::{
    arguments::Arguments,
    clinic::{Clinic, session},
    interrupt::Interrupt,
    payload::{KIB, MIB, payload, size_name},
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use medanchor_anchor::Strength;
use medanchor_cli::{Asking, GetOptions, Input, PutOptions, Session, operations};
use medanchor_dag::{Cid, Class, CustodyId};
use medanchor_envelope::Suite;
use medanchor_testnet::Home;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};
use tokio::runtime::Runtime;

/// Measures it. Files are kept in `dir`.
pub(crate) fn measure(
    arguments: &Arguments,
    clinic: &Clinic,
    runtime: &Runtime,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    report.begin(
        "records",
        "put (seal, spool, upload, two holders, anchor, receipt) and get (request, fetch, check, open)",
    );
    let large = arguments.choose((256 * MIB, 3), (16 * MIB, 2));
    let small = [
        (4 * KIB, arguments.choose(10, 3)),
        (MIB, arguments.choose(5, 3)),
    ];
    let mut bench = Bench {
        device: session(&clinic.device)?,
        clinician: session(&clinic.clinician)?,
        clinic,
        runtime,
        output: dir.join("output"),
    };
    let mut sizes = Vec::new();
    for (size, rounds) in small.into_iter().chain([large]) {
        sizes.push(Size::new(dir, size, rounds)?);
    }
    // The first call of each kind also makes connections, and is not counted.
    if let Some(smallest) = sizes.first() {
        bench.round(smallest)?;
    }
    let rounds = sizes.iter().map(|size| size.rounds).max().unwrap_or(0);
    for round in 0..rounds {
        for size in sizes.iter_mut().filter(|size| round < size.rounds) {
            interrupt.check()?;
            let ms = bench.round(size)?;
            for (samples, ms) in size.ms.iter_mut().zip(ms) {
                samples.push(ms);
            }
        }
    }
    for size in &sizes {
        for (name, ms) in WAYS.iter().zip(&size.ms) {
            let name = format!("{}, {name}", size_name(size.bytes));
            report.median(&name, "ms", ms);
            let rate = count(size.bytes) / 1e6 / (ms.median() / 1000.0);
            report.figure(&format!("{name}, rate"), "MB/s", rate);
        }
    }
    Ok(())
}

const WAYS: [&str; 4] = [
    "put, a process",
    "get, a process",
    "put, in process",
    "get, in process",
];

struct Size {
    bytes: usize,
    rounds: usize,
    input: PathBuf,
    content: Vec<u8>,
    ms: [Samples; WAYS.len()],
}

impl Size {
    fn new(dir: &Path, bytes: usize, rounds: usize) -> Result<Self> {
        let (input, content) = (dir.join(format!("input-{bytes}")), payload(bytes));
        fs::write(&input, &content).context("write the input")?;
        Ok(Self {
            bytes,
            rounds,
            input,
            content,
            ms: Default::default(),
        })
    }
}

struct Bench<'a> {
    clinic: &'a Clinic,
    runtime: &'a Runtime,
    device: Session,
    clinician: Session,
    output: PathBuf,
}

impl Bench<'_> {
    /// Puts and gets once in each way. Milliseconds, in the order of [`WAYS`].
    fn round(&mut self, size: &Size) -> Result<[f64; WAYS.len()]> {
        let Clinic {
            device,
            clinician,
            custody,
            ..
        } = self.clinic;
        let (record, put) = timed(|| put_by_tool(device, &size.input, *custody))?;
        let ((), get) = timed(|| get_by_tool(clinician, &record, &self.output))?;
        self.check(size)?;
        let (record, put_here) = timed(|| {
            self.runtime
                .block_on(put_here(&self.device, &size.input, *custody))
        })?;
        let ((), get_here) = timed(|| {
            self.runtime
                .block_on(get_here(&self.clinician, record, &self.output))
        })?;
        self.check(size)?;
        Ok([put, get, put_here, get_here])
    }

    /// What arrived is what was sent.
    fn check(&self, size: &Size) -> Result<()> {
        let arrived = fs::read(&self.output).context("read what arrived")?;
        anyhow::ensure!(arrived == size.content, "what arrived is not what was sent");
        fs::remove_file(&self.output).context("remove what arrived")
    }
}

/// What a call returns, and how many milliseconds it took.
pub(crate) fn timed<T>(call: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let began = Instant::now();
    let done = call()?;
    Ok((done, began.elapsed().as_secs_f64() * 1000.0))
}

fn put_by_tool(device: &Home, input: &Path, custody: CustodyId) -> Result<String> {
    let custody = custody.to_string();
    let class = Class::Ecg.as_str();
    let input = input.to_str().context("the path is not text")?;
    let arguments = ["put", input, "--custody", &custody, "--class", class];
    device.run(arguments)?.success()?.text("record")
}

fn get_by_tool(clinician: &Home, record: &str, output: &Path) -> Result<()> {
    let output = output.to_str().context("the path is not text")?;
    let arguments = ["get", record, "--purpose", PURPOSE, "-o", output];
    clinician.run(arguments)?.success().map(drop)
}

async fn put_here(device: &Session, input: &Path, custody: CustodyId) -> Result<Cid> {
    let options = PutOptions {
        input: Input::File(input.to_owned()),
        custody,
        class: Class::Ecg,
        suite: Suite::ChaCha20Poly1305,
        chunk_log2: crate::author::CHUNK_LOG2,
        captured_at_unix_ms: None,
        filename: None,
        content_type: None,
        limit: None,
        c4gh_key: None,
    };
    let stored = Box::pin(operations::put(device, &options)).await?;
    Ok(Cid::try_from(stored.record)?)
}

async fn get_here(clinician: &Session, record: Cid, output: &Path) -> Result<()> {
    let options = GetOptions {
        record,
        asking: Asking {
            purpose: Some(PURPOSE.to_owned()),
            role: None,
            strength: Strength::Witnessed,
        },
        output: Some(output.to_owned()),
        range: None,
        limit: None,
        c4gh_to: None,
    };
    Box::pin(operations::get(clinician, &options))
        .await
        .map(drop)
}

/// Treatment: what the custodian's own clinicians may read for.
pub(crate) const PURPOSE: &str = "TREAT";
