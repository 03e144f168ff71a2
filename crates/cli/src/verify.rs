use crate::{CliError, clock, files, policy::warnings_at};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Epochs, Outcome, Receipt, Strength};
use medanchor_dag::{CarError, CarReader, Cid, MAX_RECORD_BYTES, Record};
use serde::Serialize;
use std::{fmt, fs::File, path::Path};

/// A receipt that verifies.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The leaf's index.
    pub leaf_index: u64,
    /// Kind of the statement.
    pub kind: String,
    /// Log time of the leaf.
    pub at: String,
    /// The record, of an `anchored` leaf.
    pub record: Option<String>,
    /// did:key of those who signed the statement; empty when the receipt does not carry it.
    pub signed_by: Vec<String>,
    /// The network's name.
    pub origin: String,
    /// Size of the tree that the checkpoint is of.
    pub tree_size: u64,
    /// The log key that signed it.
    pub log: String,
    /// How strong the receipt is: `witnessed`, or `published`, which is stronger.
    pub strength: String,
    /// The witnesses that co-signed it.
    pub cosigners: Vec<String>,
    /// What is weak in the policy that judges it.
    pub policy_warnings: Vec<String>,
}

/// Verifies a receipt by the policy of its time, and that it is of a record where one is given: by its CID, by a file
/// with its block, or by a CAR of which it is a root. Nobody is asked.
///
/// # Errors
///
/// When a file cannot be read, or something does not verify.
pub fn verify(
    receipt: &Path,
    record: Option<&Path>,
    epochs: &Epochs,
    strength: Strength,
) -> Result<Verified> {
    let limit = u64::try_from(Receipt::MAX_BYTES)?;
    let receipt: Receipt = files::read_text(receipt, limit)?
        .parse()
        .context("parse the receipt")?;
    let verified = receipt
        .verify(epochs, strength)
        .context("verify the receipt")?;
    if verified.leaf.outcome != Outcome::Ok {
        let (index, outcome) = (verified.index, verified.leaf.outcome);
        let problem = format!("leaf {index} says `{outcome}`: the statement has no effect");
        return Err(CliError::NotVerified(problem).into());
    }
    if let Some(record) = record {
        check_record(record, &verified)?;
    }
    let checkpoint = &verified.checkpoint;
    let published = receipt.verify(epochs, Strength::Published);
    let strength = if published.is_ok() {
        "published"
    } else {
        "witnessed"
    };
    let signed = verified.opening.map(|opening| &opening.0.signed.signatures);
    let signers = signed.into_iter().flatten();
    Ok(Verified {
        leaf_index: verified.index,
        kind: verified.leaf.kind.to_string(),
        at: clock::rfc3339(verified.leaf.at),
        record: verified.leaf.record.map(|cid| cid.to_string()),
        signed_by: signers.map(|(by, _)| by.to_string()).collect(),
        origin: checkpoint.checkpoint.origin.clone(),
        tree_size: checkpoint.checkpoint.size,
        log: checkpoint.log.to_string(),
        strength: strength.to_owned(),
        cosigners: checkpoint
            .cosigners
            .iter()
            .map(|cosigner| cosigner.key.name().to_owned())
            .collect(),
        policy_warnings: warnings_at(epochs, &[checkpoint.checkpoint.size]),
    })
}

/// The leaf names this record. A file holds the record itself, signed by the device that had it anchored.
fn check_record(path: &Path, verified: &medanchor_anchor::Verified<'_>) -> Result<()> {
    let cid = path.to_str().and_then(|text| text.parse::<Cid>().ok());
    if let Some(cid) = cid.filter(|_| !path.exists()) {
        return match verified.leaf.record == Some(cid) {
            true => Ok(()),
            false => Err(not_of(&cid)),
        };
    }
    let record = read_record(path, verified.leaf.record)?;
    record
        .verify_signature()
        .context("check the device's signature")?;
    let body = verified
        .opening
        .map(|opening| &opening.0.signed.statement.body);
    let by_its_device = match body {
        Some(Body::Anchored(anchored)) => anchored.device == record.device(),
        _ => true,
    };
    if verified.leaf.record == Some(*record.cid()) && by_its_device {
        return Ok(());
    }
    Err(not_of(record.cid()))
}

/// The record whose block a file is, or the one that is wanted, of a CAR.
fn read_record(path: &Path, wanted: Option<Cid>) -> Result<Record> {
    let context = || format!("read `{}`", path.display());
    let limit = u64::try_from(MAX_RECORD_BYTES)?;
    let file = File::open(path).with_context(context)?;
    let is_short = file.metadata().with_context(context)?.len() <= limit;
    match CarReader::new(file) {
        Ok(car) => record_of_car(car, wanted).with_context(context),
        Err(error @ (CarError::Io(_) | CarError::Version(_))) => Err(error).with_context(context),
        // A record's block is short, and does not begin as a CAR does.
        Err(_) if is_short => {
            Record::from_bytes(files::read(path, limit)?).context("parse the record")
        }
        Err(error) => Err(error).with_context(context),
    }
}

/// Every block up to the record's is hashed; those behind it are not read.
fn record_of_car(car: CarReader<File>, wanted: Option<Cid>) -> Result<Record> {
    let root = wanted.filter(|wanted| car.roots().contains(wanted));
    let root = root.ok_or_else(|| {
        let problem = "the receipt is of none of the car's roots";
        CliError::NotVerified(problem.to_owned())
    })?;
    for block in car {
        let block = block?;
        if *block.cid() == root {
            return Record::from_block(&block).context("parse the record");
        }
    }
    Err(CliError::NotVerified(format!("the car has no block of record `{root}`")).into())
}

fn not_of(record: &Cid) -> anyhow::Error {
    CliError::NotVerified(format!("the receipt is not of record `{record}`")).into()
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "verified  leaf {}, {}, at {}",
            self.leaf_index, self.kind, self.at
        )?;
        if let Some(record) = &self.record {
            writeln!(f, "record    {record}")?;
        }
        for signer in &self.signed_by {
            writeln!(f, "signed by {signer}")?;
        }
        writeln!(f, "log       {}, {} leaves", self.origin, self.tree_size)?;
        writeln!(f, "strength  {}", self.strength)?;
        write!(f, "witnesses {}", self.cosigners.join(", "))?;
        for warning in &self.policy_warnings {
            write!(f, "\nwarning   {warning}")?;
        }
        Ok(())
    }
}
