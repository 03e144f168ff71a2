//! Benchmarks: what sealing, storing, anchoring and releasing cost on this machine, and beside `age`, `etcd` and Kubo.
//!
//! They assert no target and fail only when something is broken. How to read them: `benches/README.md`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a report for the terminal is what this program is for"
)]

mod anchors;
mod arguments;
mod author;
mod beside_age;
mod beside_etcd;
mod block_file;
mod bulk;
mod clinic;
mod conditions;
mod cpu;
mod etcd;
mod file_commands;
mod grants;
mod hpke;
mod interrupt;
mod large_log;
mod memory;
mod payload;
mod process_memory;
mod receipts;
mod records;
mod releases;
mod report;
mod samples;
mod storage;
mod storage_commands;

use crate::{
    arguments::{Arguments, Part},
    clinic::Clinic,
    interrupt::Interrupt,
    report::Report,
};
use anyhow::{Context, Result};
use clap::Parser;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tempfile::TempDir;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let second = arguments.next();
    // Nodes, tools and the commands beside `age` are this same program, run again under another name.
    match second.as_ref().and_then(|name| name.to_str()) {
        Some(name @ (file_commands::SEAL_FILE | file_commands::OPEN_FILE)) => {
            ended(name, file_commands::run(name, arguments))
        }
        Some(
            name @ (storage_commands::ADD | storage_commands::SERVE | storage_commands::FETCH),
        ) => ended(name, storage_commands::run(name, arguments)),
        Some("medanchord") => medanchor_node::main(second.into_iter().chain(arguments)),
        Some("medanchor") => medanchor_cli::main(second.into_iter().chain(arguments)),
        _ => benches(program.into_iter().chain(second).chain(arguments)),
    }
}

fn benches(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    ended("medanchor-benches", measure(&arguments))
}

/// Says what failed, if anything did.
fn ended(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures every part that is wanted.
fn measure(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let _entered = runtime.enter();
    let interrupt = Interrupt::listen()?;
    let folder = match &arguments.dir {
        Some(dir) => TempDir::new_in(dir),
        None => TempDir::new(),
    };
    let folder = folder.context("create a temporary folder")?;
    let mut report = Report::new(arguments.json, &conditions::conditions(folder.path())?);
    if arguments.wants(Part::Seal) {
        memory::measure(arguments, &mut report, &interrupt)?;
    }
    if arguments.wants(Part::Age) {
        let dir = folder_in(folder.path(), "age")?;
        beside_age::measure(arguments, &dir, &mut report, &interrupt)?;
    }
    if arguments.wants(Part::Storage) {
        let dir = folder_in(folder.path(), "storage")?;
        storage::measure(arguments, &dir, &mut report, &interrupt)?;
    }
    if arguments.wants_network() {
        let dir = folder_in(folder.path(), "network")?;
        let clinic = Clinic::start(&dir, &runtime)?;
        if arguments.wants(Part::Records) {
            let dir = folder_in(folder.path(), "records")?;
            records::measure(arguments, &clinic, &runtime, &dir, &mut report, &interrupt)?;
        }
        if arguments.wants(Part::Anchors) {
            let measured = anchors::measure(arguments, &clinic, &mut report, &interrupt);
            runtime.block_on(measured)?;
        }
        if arguments.wants(Part::Etcd) {
            let dir = folder_in(folder.path(), "etcd")?;
            let measured = beside_etcd::measure(arguments, &clinic, &dir, &mut report, &interrupt);
            runtime.block_on(measured)?;
        }
        if arguments.wants(Part::Receipt) {
            let measured = receipts::measure(arguments, &clinic, &mut report, &interrupt);
            runtime.block_on(measured)?;
        }
        if arguments.wants(Part::Grants) {
            let measured = grants::measure(arguments, &clinic, &mut report, &interrupt);
            runtime.block_on(measured)?;
        }
        if arguments.wants(Part::Bulk) {
            let measured = bulk::measure(arguments, &clinic, &mut report, &interrupt);
            runtime.block_on(measured)?;
        }
        if arguments.wants(Part::Releases) {
            let dir = folder_in(folder.path(), "releases")?;
            let measured = releases::measure(arguments, &clinic, &dir, &mut report, &interrupt);
            runtime.block_on(measured)?;
        }
    }
    if arguments.wants(Part::LargeLog) {
        let dir = folder_in(folder.path(), "large-log")?;
        large_log::measure(arguments, &runtime, &dir, &mut report, &interrupt)?;
    }
    report.finish();
    Ok(())
}

fn folder_in(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path).context("create a folder")?;
    Ok(path)
}
