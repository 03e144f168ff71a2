use crate::samples::Samples;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Instant,
};

/// Under which conditions is measured: without them no figure means anything.
pub(crate) fn conditions(dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let sync = sync_ms(dir)?;
    Ok(vec![
        ("processor", processor()),
        ("cores", cores.to_string()),
        ("load", read_words("/proc/loadavg", 3)),
        ("kernel", read_words("/proc/sys/kernel/osrelease", 1)),
        ("memory", memory()),
        ("build", build().to_owned()),
        (
            "disk",
            format!(
                "{}: 4 KiB written and synced in {:.2} ms (median of {}, {:.2} to {:.2})",
                file_system(dir),
                sync.median(),
                sync.len(),
                sync.min(),
                sync.max()
            ),
        ),
    ])
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let flags = field("flags").unwrap_or_default();
    let has = |flag: &&str| flags.split(' ').any(|other| other == *flag);
    let useful: Vec<&str> = ["aes", "avx2", "avx512f", "sha_ni", "vaes"]
        .into_iter()
        .filter(has)
        .collect();
    format!("{model} ({})", useful.join(" "))
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
}

fn build() -> &'static str {
    if cfg!(debug_assertions) {
        "dev profile: our code lightly optimised, dependencies fully; with assertions"
    } else {
        "release profile"
    }
}

/// The first words of a file of the kernel's.
fn read_words(path: &str, words: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|_| "unknown".to_owned());
    let words: Vec<&str> = text.split_ascii_whitespace().take(words).collect();
    words.join(" ")
}

/// The kind of file system that the folder is on: that of the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point)
            .then(|| (point.len(), kind.to_owned()))
    });
    above
        .max()
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

/// What a small durable write costs here: every commit waits for some of these.
fn sync_ms(dir: &Path) -> Result<Samples> {
    let mut file = File::create(dir.join("sync-probe")).context("write to the folder")?;
    (0..SYNCS)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[0x5a; 4096])?;
            file.sync_data()?;
            Ok(began.elapsed().as_secs_f64() * 1000.0)
        })
        .collect()
}

const SYNCS: usize = 50;
