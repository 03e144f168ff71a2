use clap::ValueEnum;
use medanchor_anchor::Strength;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// What is waited for once a statement is on its way to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// A quorum of nodes has it on disk, says the node that answers: it survives crashes, but nothing proves it yet.
    Committed,
    /// A receipt shows it that some honest organisation besides the publisher's has seen.
    Witnessed,
    /// A receipt shows it that the policy's whole quorum has co-signed.
    #[default]
    Published,
}

/// Where the log has what was said.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// The leaf's index.
    pub leaf_index: u64,
    /// How sure that is.
    pub strength: Wait,
    /// SHA-256 of the statement, hexadecimal: names the leaf in `medanchor log prove`.
    pub statement: String,
    /// Size of the tree that the receipt's checkpoint is of; absent without a receipt.
    pub tree_size: Option<u64>,
    /// How many witnesses co-signed it.
    pub cosigners: usize,
    /// Where the receipt is; absent until there is one.
    pub receipt: Option<PathBuf>,
}

impl Wait {
    /// The receipt that is waited for.
    pub fn strength(self) -> Option<Strength> {
        match self {
            Self::Committed => None,
            Self::Witnessed => Some(Strength::Witnessed),
            Self::Published => Some(Strength::Published),
        }
    }
}

impl From<Strength> for Wait {
    fn from(strength: Strength) -> Self {
        match strength {
            Strength::Witnessed => Self::Witnessed,
            Strength::Published => Self::Published,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::Witnessed => "witnessed",
            Self::Published => "published",
        })
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (leaf, strength) = (self.leaf_index, self.strength);
        match (self.tree_size, &self.receipt) {
            (Some(size), Some(receipt)) => write!(
                f,
                "leaf     {leaf} of {size}, {strength} with {} co-signatures\nreceipt  {}",
                self.cosigners,
                receipt.display()
            ),
            _ => write!(
                f,
                "leaf     {leaf}, {strength}: a node says so\nreceipt  none yet; `medanchor log prove {}` gets it",
                self.statement
            ),
        }
    }
}
