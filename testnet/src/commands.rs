//! The command line of `cargo testnet`.

use crate::{
    DemoOptions, FaultOptions, Network, NetworkOptions, SoakOptions, demo, fault,
    network::this_program, soak,
};
use anyhow::Result;
use clap::{Parser, Subcommand};
use medanchor_node::ForeignWitness;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A network of real nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "testnet", bin_name = "cargo testnet")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the whole story: a payload from a device to a research partner, with everything that can go
    /// wrong on the way.
    Demo {
        /// Send this file instead of the electrocardiogram that comes with the program.
        #[arg(long)]
        input: Option<PathBuf>,
        /// Hospitals, 3 to 26.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=26))]
        nodes: u8,
        /// Print one JSON object on standard output and nothing else.
        #[arg(long)]
        json: bool,
        /// Leave the network running, and say how to go on by hand.
        #[arg(long)]
        keep: bool,
        /// Where the network keeps its files; a folder that does not exist yet or is empty.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Let things go wrong under load, and check that nothing acknowledged is lost and one log explains
    /// what every client was told. The last lines say what was checked.
    Soak {
        /// How long faults strike; the checks come after.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// The same seed draws the same faults and statements again; when exactly they meet differs.
        #[arg(long)]
        seed: Option<u64>,
        /// Print one JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Where the network keeps its files; a folder that does not exist yet or is empty.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Let nodes lie, their disks fail and their files be changed under load, and check that nothing acknowledged
    /// is lost, that one log explains what every client was told, and that who lies is named. It needs a second
    /// build of this program: `testnet/fault/run` makes it, and runs this.
    Fault {
        /// This program, built with `--cfg medanchor_fault`.
        #[arg(long)]
        faulty: PathBuf,
        /// The same seed draws the same faults again; when exactly they strike differs.
        #[arg(long)]
        seed: Option<u64>,
        /// Only the stories with this in their names.
        #[arg(long)]
        only: Option<String>,
        /// One of each kind.
        #[arg(long)]
        brief: bool,
        /// Print one JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Where the networks keep their files; a folder that does not exist yet or is empty.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Start a network, or start again what does not run of it.
    Up {
        /// Hospitals of a new network, 1 to 26.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=26))]
        nodes: u8,
        /// Outside witnesses of a new network that others run: a file with `[[foreign_witnesses]]`, as in the config.
        #[arg(long)]
        foreign_witnesses: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Stop a network. Its files stay.
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// Kill one node at once, as power loss would.
    Kill {
        /// Such as `hospital-b` or `regulator`.
        node: String,
        #[command(flatten)]
        place: Place,
    },
    /// Start one node again.
    Start {
        /// Such as `hospital-b` or `regulator`.
        node: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Folder of the network.
    #[arg(long)]
    dir: PathBuf,
}

/// Runs `cargo testnet` with these arguments, the first of which is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testnet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo {
            input,
            nodes,
            json,
            keep,
            dir,
        } => demo(&DemoOptions {
            input,
            nodes,
            json,
            keep,
            dir,
        }),
        Command::Soak {
            minutes,
            seed,
            json,
            dir,
        } => soak(&SoakOptions {
            minutes,
            seed,
            json,
            dir,
        }),
        Command::Fault {
            faulty,
            seed,
            only,
            brief,
            json,
            dir,
        } => fault(&FaultOptions {
            faulty,
            seed,
            only,
            brief,
            json,
            dir,
        }),
        Command::Up {
            nodes,
            foreign_witnesses,
            place,
        } => up(nodes, foreign_witnesses.as_deref(), &place).map(|()| ExitCode::SUCCESS),
        Command::Down { place } => {
            Network::open(&place.dir, &this_program()?)?.stop()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Kill { node, place } => on_one(&place, |network| network.process(&node)?.kill()),
        Command::Start { node, place } => on_one(&place, |network| network.process(&node)?.start()),
    }
}

fn up(nodes: u8, foreign_witnesses: Option<&Path>, place: &Place) -> Result<()> {
    let foreign_witnesses = foreign_witnesses.map(ForeignWitness::read_all);
    let options = NetworkOptions {
        program: this_program()?,
        nodes,
        witness: true,
        foreign_witnesses: foreign_witnesses.transpose()?.unwrap_or_default(),
    };
    let exists = place.dir.join("hospital-a").exists();
    let mut network = match exists {
        true => Network::open(&place.dir, &options.program)?,
        false => Network::found(&place.dir, &options)?,
    };
    network.start()?;
    network.keep();
    println!("{}", network.how_to_go_on()?);
    Ok(())
}

fn on_one(place: &Place, act: impl FnOnce(&mut Network) -> Result<()>) -> Result<ExitCode> {
    let mut network = Network::open(&place.dir, &this_program()?)?;
    network.keep();
    act(&mut network)?;
    Ok(ExitCode::SUCCESS)
}
