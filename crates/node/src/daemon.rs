//! The command line of `medanchord`.

use crate::{
    alarms, app,
    config::{Folder, ForeignWitness},
    found::{self, Invitee, Plan, PlannedMember},
    join::{self, Newcomer},
    passphrase, witness,
};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use medanchor_raft::Replica;
use std::{
    ffi::OsString,
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Storage node, log replica and access broker of one organisation, or an outside witness.
#[derive(Debug, Parser)]
#[command(name = "medanchord", version)]
struct Arguments {
    /// Data folder with `medanchord.toml`. One that does not exist yet becomes a network of one node.
    #[arg(long, env = "MEDANCHOR_DATA", default_value = "medanchor-data")]
    data: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
    /// A file with the node's passphrase: goes before `passphrase_file` in `medanchord.toml`. What is made for a new node is kept
    /// under it.
    #[arg(long, env = "MEDANCHOR_PASSPHRASE_FILE", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Keep the keys of a new node in clear: whoever has its disk opens its custody keys.
    #[arg(long)]
    no_passphrase: bool,
    /// Address of the gRPC services of a new node.
    #[arg(long, default_value = "127.0.0.1:7440")]
    listen: SocketAddr,
    /// Address of the private swarm of a new node.
    #[arg(long, default_value = "127.0.0.1:7441")]
    swarm_listen: SocketAddr,
    /// Address of the log over HTTPS of a new node.
    #[arg(long, default_value = "127.0.0.1:7442")]
    log_listen: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node. This is what happens without a command.
    Run,
    /// Make a home folder for somebody whom this node's organisation lets in.
    Invite {
        /// Who it is for: stands in the certificate.
        name: String,
        /// The folder to make; give it to them as `MEDANCHOR_HOME`.
        #[arg(long)]
        home: PathBuf,
        /// Let them read the log's entries over HTTPS, as an auditor does.
        #[arg(long)]
        auditor: bool,
    },
    /// Found a network of this one node, which others then join.
    Found {
        /// The organisation's short name.
        name: String,
        /// The network's name.
        #[arg(long)]
        origin: String,
        /// Outside witnesses that others run: a file with `[[foreign_witnesses]]`, as in the config.
        #[arg(long)]
        witnesses: Option<PathBuf>,
        /// Co-signatures that a published checkpoint carries, of this node and the witnesses.
        #[arg(long, default_value_t = 1)]
        quorum: u8,
        /// Nodes that hold a record before it is anchored; this never changes. With 2, none is before another has joined.
        #[arg(long, default_value_t = 1)]
        copies: u8,
    },
    /// Make the keys and certificates of a node that is to join a network, and the request that its members sign.
    Prepare {
        /// The organisation's short name.
        name: String,
        /// The network's name.
        #[arg(long)]
        origin: String,
        /// Co-signatures that a published checkpoint carries once it has joined, as agreed with the members.
        #[arg(long)]
        quorum: u8,
        /// Where to put the request: `medanchor admin member approve` and `add` take it.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Write the file that a newcomer joins with. It holds the swarm's key: hand it over as a secret.
    Welcome {
        /// Where to put it.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Join a network, once its log names this node as a member. Start the node afterwards.
    Join {
        /// The file that a member made with `medanchord welcome`.
        welcome: PathBuf,
    },
    /// Begin to co-sign a log of others that the config lists, and that this node has never co-signed.
    WitnessLog {
        /// The log's origin.
        origin: String,
    },
    /// Put the keys of custody and second factors under another passphrase. The node must not run.
    Passphrase {
        /// A file with the new one. The old one comes from the config, or from --passphrase-file before the command.
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "plain",
            conflicts_with = "plain"
        )]
        new_passphrase_file: Option<PathBuf>,
        /// Keep them in clear from now on.
        #[arg(long = "no-passphrase", id = "plain")]
        plain: bool,
    },
    /// Put aside a state that is damaged: the next start makes it anew from the newest certified snapshot and this
    /// node's own log. The node must not run.
    RebuildState,
    /// Go on in spite of an alarm, once you have looked into it. The node may run meanwhile.
    Acknowledge {
        /// The alarm, as `medanchor status` names it.
        alarm: String,
    },
}

/// Runs `medanchord` with these arguments, the first of which is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            match error.downcast_ref::<app::DiskFailed>() {
                Some(_) => ExitCode::from(DISK_FAILED),
                None if error.is::<NoPassphraseGiven>() => ExitCode::from(USAGE),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<()> {
    log_to_stderr();
    medanchor_secrets::forbid_core_dumps().context("keep memory out of core dumps")?;
    let folder = Folder::new(&arguments.data);
    let given = arguments.passphrase_file.as_deref();
    match &arguments.command {
        Some(Command::WitnessLog { origin }) => witness::begin(&folder, origin),
        Some(Command::RebuildState) => {
            let aside = Replica::rebuild_state(&folder.raft()).context("put the state aside")?;
            tracing::info!("the old state is in `{}`: start the node", aside.display());
            Ok(())
        }
        Some(Command::Found {
            name,
            origin,
            witnesses,
            quorum,
            copies,
        }) => {
            let witnesses = witnesses.as_deref().map(ForeignWitness::read_all);
            let plan = Plan {
                origin: origin.clone(),
                foreign_witnesses: witnesses.transpose()?.unwrap_or_default(),
                quorum: *quorum,
                copies: *copies,
                ..alone(arguments, name)?
            };
            found_alone(&folder, &plan)
        }
        Some(Command::Prepare {
            name,
            origin,
            quorum,
            output,
        }) => {
            let newcomer = Newcomer {
                origin: origin.clone(),
                member: planned(arguments, name)?,
                quorum: *quorum,
            };
            join::prepare(&newcomer, output)?;
            say_what_is_lost_without(newcomer.member.passphrase_file.as_deref());
            Ok(())
        }
        Some(Command::Welcome { output }) => join::welcome(&folder, output),
        Some(Command::Join { welcome }) => {
            let node_id = runtime()?.block_on(join::join(&folder, welcome))?;
            tracing::info!("this is node {node_id} of the network: start it with `medanchord`");
            Ok(())
        }
        Some(Command::Passphrase {
            new_passphrase_file,
            plain: _,
        }) => passphrase::change(&folder, given, new_passphrase_file.as_deref()),
        Some(Command::Acknowledge { alarm }) => alarms::acknowledge(&folder.alarms(), alarm),
        Some(Command::Invite {
            name,
            home,
            auditor,
        }) => {
            let invitee = match auditor {
                true => Invitee::Auditor,
                false => Invitee::Guest,
            };
            found::invite(&folder, invitee, name, home)
        }
        None | Some(Command::Run) => {
            if !folder.config().exists() {
                found_alone(&folder, &alone(arguments, "hospital")?)?;
            }
            runtime()?.block_on(run_until_signalled(&folder, given))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

fn planned(arguments: &Arguments, name: &str) -> Result<PlannedMember> {
    let passphrase_file = match (arguments.no_passphrase, &arguments.passphrase_file) {
        (true, _) => None,
        (false, Some(file)) => Some(std::path::absolute(file).context("find the passphrase file")?),
        (false, None) => return Err(NoPassphraseGiven.into()),
    };
    Ok(PlannedMember {
        name: name.to_owned(),
        folder: arguments.data.clone(),
        listen: arguments.listen,
        swarm_listen: arguments.swarm_listen,
        log_listen: arguments.log_listen,
        passphrase_file,
    })
}

/// The keys of a new node are in clear only when somebody says so.
#[derive(Debug, thiserror::Error)]
#[error(
    "a new node's keys are kept under a passphrase: name a file that holds one with --passphrase-file or \
     MEDANCHOR_PASSPHRASE_FILE; --no-passphrase does without one"
)]
struct NoPassphraseGiven;

/// A network of one: to try it, for a single site, or for others to join.
fn alone(arguments: &Arguments, name: &str) -> Result<Plan> {
    Ok(Plan {
        origin: "localhost/medanchor".to_owned(),
        members: vec![planned(arguments, name)?],
        witnesses: Vec::new(),
        foreign_witnesses: Vec::new(),
        copies: 1,
        quorum: 1,
    })
}

fn found_alone(folder: &Folder, plan: &Plan) -> Result<()> {
    found::found(plan, |_| PathBuf::new()).context("found a network of one node")?;
    tracing::info!(
        "founded a network of one node in `{}`; use it with `medanchor --home {} status`",
        folder.path().display(),
        folder.operator().display()
    );
    for member in &plan.members {
        say_what_is_lost_without(member.passphrase_file.as_deref());
    }
    Ok(())
}

fn say_what_is_lost_without(passphrase_file: Option<&Path>) {
    if let Some(file) = passphrase_file {
        tracing::info!(
            "keep a copy of the passphrase in `{}` in a safe, apart from every backup of the node: nobody can restore it, and \
             without it custody keys and second factors are lost",
            file.display()
        );
    }
}

async fn run_until_signalled(folder: &Folder, passphrase_file: Option<&Path>) -> Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        tracing::info!("stopping: finishing what is under way");
        stopping.cancel();
    });
    app::run(folder, passphrase_file, stop).await
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MEDANCHOR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(DEFAULT_LOG));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only when a test has set a subscriber already.
    let _ = log.try_init();
}

/// Exit code when something was not given as it must be.
const USAGE: u8 = 2;
/// Exit code when a disk failed or is full: the same as `EX_IOERR` of `sysexits.h`.
const DISK_FAILED: u8 = 74;
/// Our own parts say what an operator should know. openraft says again and again that a node cannot be reached,
/// which `medanchor_raft` says once; what is fatal to it ends the node, with the reason.
const DEFAULT_LOG: &str = "info,openraft=off,libp2p_swarm=warn";
