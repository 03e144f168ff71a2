use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Measures sealing, storing, anchoring and releasing on this machine, and prints under which conditions.
#[derive(Clone, Debug, Parser)]
#[command(name = "medanchor-benches")]
pub(crate) struct Arguments {
    /// Smaller payloads and fewer rounds: about a minute.
    #[arg(long)]
    pub(crate) brief: bool,
    /// Print one JSON object on standard output and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure this part alone; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<Part>,
    /// In `large-log`: the leaves that the log is filled with; may be given several times. 1,000,000 leaves take
    /// about 5 GB for three nodes.
    #[arg(long, value_name = "COUNT")]
    pub(crate) leaves: Vec<u64>,
    /// Keep files below this folder while measuring, instead of the system's temporary one: its disk is what
    /// is measured.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Seal and open in memory.
    Seal,
    /// Seal and open from file to file, beside `age`.
    Age,
    /// The block store and the private peer, beside Kubo where `benches/beside-kubo` started this.
    Storage,
    /// Put and get records through a network of three nodes and a witness.
    Records,
    /// How long the log takes to commit and to publish, alone and with 64 clients.
    Anchors,
    /// How fast the log is, beside `etcd`.
    Etcd,
    /// How long an access request takes.
    Grants,
    /// How many keys are released at once, and that a release costs the same whatever the payload weighs.
    Releases,
    /// How long one takes for ten thousand records of a hundred patients.
    Bulk,
    /// What a receipt weighs and takes to verify.
    Receipt,
    /// How the log does when it is long.
    LargeLog,
}

impl Arguments {
    /// Whether this part is wanted.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Whether something is wanted that needs a network.
    pub(crate) fn wants_network(&self) -> bool {
        [
            Part::Records,
            Part::Anchors,
            Part::Etcd,
            Part::Grants,
            Part::Releases,
            Part::Bulk,
            Part::Receipt,
        ]
        .into_iter()
        .any(|part| self.wants(part))
    }

    /// `full`, or `brief` when it is asked for.
    pub(crate) fn choose<T>(&self, full: T, brief: T) -> T {
        if self.brief { brief } else { full }
    }
}
