//! From file to file, beside [`age`](https://age-encryption.org): the same input, in the same run, each in a
//! process of its own.

use crate::{
    arguments::Arguments,
    cpu,
    file_commands::{OPEN_FILE, SEAL_FILE},
    interrupt::Interrupt,
    payload::{Compare, MIB, payload, size_name},
    report::Report,
    samples::{Samples, count},
};
use anyhow::{Context, Result};
use medanchor_envelope::Identity;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Measures it in `dir`.
pub(crate) fn measure(
    arguments: &Arguments,
    dir: &Path,
    report: &mut Report,
    interrupt: &Interrupt,
) -> Result<()> {
    let size = arguments.choose(256 * MIB, 64 * MIB);
    let rounds = arguments.choose(5, 3);
    let age = Age::find(dir)?;
    report.begin(
        "age",
        &format!(
            "{} from file to file, not synced, each run a process",
            size_name(size)
        ),
    );
    report.note(
        age.as_ref()
            .map_or("age: not installed", |age| &age.version),
    );
    let content = payload(size);
    let files = Files::new(dir, &content)?;
    let runs = runs(&files, age.as_ref())?;
    let mut figures: Vec<Figures> = runs.iter().map(|_| Figures::default()).collect();
    for round in 0..rounds {
        for (run, figures) in runs.iter().zip(&mut figures) {
            interrupt.check()?;
            figures.add(run, &content, round == 0)?;
        }
    }
    print(&runs, &figures, size, report);
    Ok(())
}

/// One of the programs, in one direction.
struct Run {
    name: &'static str,
    /// Name of the run of `age` that it is compared with.
    beside: Option<&'static str>,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    output: PathBuf,
    opens: bool,
}

#[derive(Default)]
struct Figures {
    wall_seconds: Samples,
    cpu_seconds: Samples,
}

impl Figures {
    fn add(&mut self, run: &Run, content: &[u8], check: bool) -> Result<()> {
        remove(&run.output)?;
        let cpu_before = cpu::of_ended_children()?;
        let began = Instant::now();
        let status = Command::new(&run.program)
            .args(&run.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("run `{}`", run.name))?;
        self.wall_seconds.push(began.elapsed().as_secs_f64());
        let cpu = cpu::of_ended_children()? - cpu_before;
        self.cpu_seconds.push(cpu.as_secs_f64());
        anyhow::ensure!(status.success(), "`{}` failed with {status}", run.name);
        if check && run.opens {
            let mut rest = Compare(content);
            io::copy(&mut File::open(&run.output)?, &mut rest)?;
            anyhow::ensure!(rest.0.is_empty(), "`{}` lost bytes", run.name);
        }
        Ok(())
    }
}

fn print(runs: &[Run], figures: &[Figures], size: usize, report: &mut Report) {
    for (run, figures) in runs.iter().zip(figures) {
        let ms = |seconds| seconds * 1000.0;
        let name = |what| format!("{}, {what}", run.name);
        report.median(&name("wall"), "ms", &figures.wall_seconds.map(ms));
        // The processor's time is counted in coarse steps, so that only the mean of the runs is exact.
        let mean = figures.cpu_seconds.mean();
        report.figure(&name("processor, mean"), "ms", ms(mean));
        report.figure(
            &name("rate by processor time"),
            "GB/s",
            count(size) / 1e9 / mean,
        );
    }
    for (run, ours) in runs.iter().zip(figures) {
        let beside = runs.iter().position(|other| Some(other.name) == run.beside);
        if let Some(age) = beside.and_then(|place| figures.get(place)) {
            let wall = age.wall_seconds.median() / ours.wall_seconds.median();
            let cpu = age.cpu_seconds.mean() / ours.cpu_seconds.mean();
            report.figure(
                &format!("{}: age takes this much wall time", run.name),
                "times",
                wall,
            );
            report.figure(
                &format!("{}: age takes this much processor", run.name),
                "times",
                cpu,
            );
        }
    }
}

fn runs(files: &Files, age: Option<&Age>) -> Result<Vec<Run>> {
    let own = std::env::current_exe().context("find this program")?;
    let mut runs = Vec::new();
    for (suite, seal, open) in [
        ("1", "seal, suite 1", "open, suite 1"),
        ("2", "seal, suite 2", "open, suite 2"),
    ] {
        let folder = files.dir.join(format!("sealed-{suite}"));
        let opened = files.dir.join(format!("opened-{suite}"));
        runs.push(Run {
            name: seal,
            beside: age.map(|_| AGE_SEALS),
            program: own.clone(),
            arguments: vec![
                SEAL_FILE.into(),
                files.input.clone(),
                folder.clone(),
                suite.into(),
                files.recipient.clone(),
            ],
            output: folder.clone(),
            opens: false,
        });
        runs.push(Run {
            name: open,
            beside: age.map(|_| AGE_OPENS),
            program: own.clone(),
            arguments: vec![
                OPEN_FILE.into(),
                folder,
                opened.clone(),
                files.identity.clone(),
            ],
            output: opened,
            opens: true,
        });
    }
    runs.extend(age.map(|age| age.runs(files)).into_iter().flatten());
    Ok(runs)
}

/// The input and our keys.
struct Files {
    dir: PathBuf,
    input: PathBuf,
    identity: PathBuf,
    recipient: PathBuf,
}

impl Files {
    fn new(dir: &Path, content: &[u8]) -> Result<Self> {
        let files = Self {
            dir: dir.to_owned(),
            input: dir.join("input"),
            identity: dir.join("identity"),
            recipient: dir.join("recipient"),
        };
        let identity = Identity::generate()?;
        fs::write(&files.input, content).context("write the input")?;
        // A throw-away key, in a folder that is removed at the end.
        fs::write(&files.identity, identity.to_bytes().as_slice())?;
        fs::write(&files.recipient, identity.recipient().as_bytes())?;
        Ok(files)
    }
}

/// The program `age`, and a key for it.
struct Age {
    version: String,
    identity: PathBuf,
    recipient: String,
}

impl Age {
    /// `None` when it is not installed.
    fn find(dir: &Path) -> Result<Option<Self>> {
        let Ok(version) = Command::new("age").arg("--version").output() else {
            return Ok(None);
        };
        let version = String::from_utf8_lossy(&version.stdout);
        let identity = dir.join("age-identity");
        let made = Command::new("age-keygen")
            .arg("-o")
            .arg(&identity)
            .stderr(Stdio::null())
            .status()
            .context("run `age-keygen`")?;
        anyhow::ensure!(made.success(), "`age-keygen` failed with {made}");
        let text = fs::read_to_string(&identity).context("read the key of `age`")?;
        let recipient = text
            .lines()
            .find_map(|line| line.strip_prefix("# public key: "));
        Ok(Some(Self {
            version: format!("age {}", version.trim()),
            recipient: recipient
                .context("`age-keygen` names no public key")?
                .to_owned(),
            identity,
        }))
    }

    fn runs(&self, files: &Files) -> [Run; 2] {
        let (sealed, opened) = (files.dir.join("age-sealed"), files.dir.join("age-opened"));
        let to = |output: &Path| [PathBuf::from("-o"), output.to_owned()];
        let [seal_to, open_to] = [to(&sealed), to(&opened)];
        let seal = ["-r".into(), PathBuf::from(&self.recipient)];
        let open = ["-d".into(), "-i".into(), self.identity.clone()];
        [
            Run {
                name: AGE_SEALS,
                beside: None,
                program: "age".into(),
                arguments: seal
                    .into_iter()
                    .chain(seal_to)
                    .chain([files.input.clone()])
                    .collect(),
                output: sealed.clone(),
                opens: false,
            },
            Run {
                name: AGE_OPENS,
                beside: None,
                program: "age".into(),
                arguments: open.into_iter().chain(open_to).chain([sealed]).collect(),
                output: opened,
                opens: true,
            },
        ]
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

const AGE_SEALS: &str = "age -r";
const AGE_OPENS: &str = "age -d";
