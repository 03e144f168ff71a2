use crate::{CliError, OwnKeys, Session, clock, files, session::patiently};
use anyhow::{Context, Result};
use medanchor_anchor::{
    AccessRequest, Body, LeafIndex, Receipt, Released, RowProof, SignedStatement, Strength,
};
use medanchor_api::{Granted, LeafName};
use medanchor_dag::{Cid, CustodyId, Hash, from_canonical, to_canonical};
use medanchor_envelope::Wrap;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A released key of one record, with the receipt of the leaf that released it.
///
/// It exists only checked (I2): a witnessed receipt shows a `released` leaf of a list that has exactly this wrap, in answer
/// to this user's own request.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) wrap: Wrap,
    /// That the list has it.
    proof: RowProof,
    /// One for all grants of a release.
    pub(crate) receipt: Arc<Receipt>,
    pub(crate) leaf_index: LeafIndex,
    pub(crate) purpose: String,
    pub(crate) role: String,
    /// The end of the grant, unix ms.
    pub(crate) not_after_unix_ms: u64,
}

/// A grant as it is kept: the receipt has a file of its own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    v: u8,
    leaf: LeafIndex,
    wrap: ByteBuf,
    proof: RowProof,
}

/// A `released` leaf that is in the log, in answer to this user's own request.
struct Release<'r> {
    receipt: &'r Arc<Receipt>,
    leaf_index: LeafIndex,
    released: &'r Released,
    asked: &'r AccessRequest,
    request: Hash,
}

impl Grant {
    /// Checks what a broker answered to `request`: one receipt for all of it, and each wrap against that.
    pub(crate) fn check_all(
        session: &Session,
        keys: &OwnKeys,
        request: &SignedStatement,
        granted: Granted,
        strength: Strength,
    ) -> Result<Vec<Self>> {
        let Granted {
            list,
            wraps,
            receipt,
            ..
        } = granted;
        let receipt = Arc::new(receipt);
        let release = Release::check(session, keys, &receipt, strength)?;
        if release.request != request.statement.hash() {
            let problem = "the broker answered another request";
            return Err(CliError::NotVerified(problem.to_owned()).into());
        }
        if list.head() != release.released.list {
            return Err(unshown("another list of records than the broker gave"));
        }
        let proofs = list.prove_rows();
        if proofs.len() != wraps.len() {
            let problem = "the broker gave another number of keys than its list has";
            return Err(CliError::NotVerified(problem.to_owned()).into());
        }
        let wraps = wraps.iter().zip(proofs);
        wraps
            .map(|(wrap, proof)| release.grant(wrap, proof))
            .collect()
    }

    /// The record.
    pub(crate) fn record(&self) -> &Cid {
        &self.proof.row.record
    }

    /// The custody key that it is under.
    pub(crate) fn custody(&self) -> CustodyId {
        self.proof.part.custody
    }

    /// The grant kept for a record, when it still stands and was made for this purpose and role.
    pub(crate) fn kept(
        session: &Session,
        keys: &OwnKeys,
        record: &Cid,
        purpose: Option<&str>,
        role: Option<&str>,
    ) -> Result<Option<Self>> {
        let folder = session.home.folder("grants")?;
        let path = grant_path(&folder, record);
        if !path.exists() {
            return Ok(None);
        }
        let Ok(grant) = Self::read(session, keys, &folder, &path) else {
            // A damaged file, a crash before it was whole, or another identity: ask again.
            return Ok(None);
        };
        let fits = grant.record() == record
            && purpose.is_none_or(|purpose| purpose == grant.purpose)
            && role.is_none_or(|role| role == grant.role)
            && grant.not_after_unix_ms > clock::unix_ms();
        Ok(fits.then_some(grant))
    }

    fn read(session: &Session, keys: &OwnKeys, folder: &Path, path: &Path) -> Result<Self> {
        let bytes = files::read(path, limit(MAX_KEPT_BYTES))?;
        let kept: Kept = from_canonical(&bytes, MAX_KEPT_BYTES)?;
        anyhow::ensure!(kept.v == 1, "the grant is of another version");
        let receipt = receipt_path(folder, kept.leaf);
        let receipt: Receipt = files::read_text(&receipt, limit(Receipt::MAX_BYTES))?.parse()?;
        let receipt = Arc::new(receipt);
        let release = Release::check(session, keys, &receipt, Strength::Witnessed)?;
        release.grant(&kept.wrap, kept.proof)
    }

    /// The records of which a grant is kept, whether or not it still stands.
    pub(crate) fn records(session: &Session) -> Result<Vec<Cid>> {
        let folder = session.home.folder("grants")?;
        let context = || format!("read `{}`", folder.display());
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).with_context(context)? {
            let name = entry.with_context(context)?.file_name();
            let record = name.to_str().and_then(|name| name.strip_suffix(".grant"));
            records.extend(record.and_then(|record| record.parse::<Cid>().ok()));
        }
        Ok(records)
    }

    /// Waits for a receipt this strong, where the grant has none yet.
    pub(crate) async fn proved(
        self,
        session: &Session,
        keys: &OwnKeys,
        strength: Strength,
    ) -> Result<Self> {
        if self.receipt.verify(&*session.policy(), strength).is_ok() {
            return Ok(self);
        }
        let leaf = LeafName::Index(self.leaf_index);
        let (_, receipt) = patiently(async || session.client.receipt(leaf, strength).await)
            .await
            .context("fetch the receipt of the release")?;
        // Only whoever may see every opening is given it by index.
        let opening = self.receipt.opening.clone();
        let receipt = Arc::new(Receipt { opening, ..receipt });
        session.keep_up(&receipt.checkpoint, strength).await;
        let release = Release::check(session, keys, &receipt, strength)?;
        release.grant(&self.wrap.to_bytes(), self.proof)
    }

    /// Keeps it until it ends.
    pub(crate) fn keep(&self, session: &Session) -> Result<()> {
        Self::keep_all(session, std::slice::from_ref(self))
    }

    /// Keeps the grants of one release. One that a crash takes is asked for again.
    pub(crate) fn keep_all(session: &Session, grants: &[Self]) -> Result<()> {
        let Some(first) = grants.first() else {
            return Ok(());
        };
        let folder = session.home.folder("grants")?;
        let receipt = receipt_path(&folder, first.leaf_index);
        let kept = || {
            files::replace(&receipt, first.receipt.to_string().as_bytes())?;
            for grant in grants {
                let path = grant_path(&folder, grant.record());
                files::replace_soon(&path, &grant.to_bytes())?;
            }
            files::sync_folder(&folder)
        };
        kept().context("keep the grant")
    }

    fn to_bytes(&self) -> Vec<u8> {
        to_canonical(&Kept {
            v: 1,
            leaf: self.leaf_index,
            wrap: self.wrap.to_bytes().into(),
            proof: self.proof.clone(),
        })
    }
}

impl<'r> Release<'r> {
    fn check(
        session: &Session,
        keys: &OwnKeys,
        receipt: &'r Arc<Receipt>,
        strength: Strength,
    ) -> Result<Self> {
        let said = session
            .check(receipt, strength, |_| true)
            .context("check that the release is in the log")?;
        let (released, asked) = released(receipt).ok_or_else(|| unshown("no release"))?;
        let is_own = |author| keys.is_own(author);
        if !released.request.author().is_some_and(is_own) {
            return Err(unshown("a release to somebody else"));
        }
        Ok(Self {
            receipt,
            leaf_index: said.leaf_index,
            released,
            asked,
            request: released.request.statement.hash(),
        })
    }

    /// One of its keys.
    fn grant(&self, wrap: &[u8], proof: RowProof) -> Result<Grant> {
        let is_listed =
            proof.row.wrap == Hash::of(wrap) && proof.verify(&self.released.list).is_ok();
        if !is_listed {
            return Err(unshown("another key than the broker gave"));
        }
        let wrap = Wrap::from_bytes(wrap).context("parse the released key")?;
        if wrap.ctx.request != Some(*self.request.as_bytes()) {
            return Err(unshown("a release to somebody else"));
        }
        Ok(Grant {
            not_after_unix_ms: wrap.ctx.not_after.unwrap_or(0),
            wrap,
            proof,
            receipt: Arc::clone(self.receipt),
            leaf_index: self.leaf_index,
            purpose: self.asked.purpose.clone(),
            role: self.asked.role.clone(),
        })
    }
}

fn released(receipt: &Receipt) -> Option<(&Released, &AccessRequest)> {
    let Body::Released(released) = &receipt.opening.as_ref()?.0.signed.statement.body else {
        return None;
    };
    match &released.request.statement.body {
        Body::AccessRequest(request) => Some((released, request)),
        _ => None,
    }
}

fn unshown(what: &str) -> anyhow::Error {
    let problem = format!("the receipt that came with the released key shows {what}");
    CliError::NotVerified(problem).into()
}

fn grant_path(folder: &Path, record: &Cid) -> PathBuf {
    folder.join(format!("{record}.grant"))
}

fn receipt_path(folder: &Path, leaf: LeafIndex) -> PathBuf {
    folder.join(format!("leaf-{leaf}.tlog-proof"))
}

fn limit(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A wrap, a row and two paths of at most 14 hashes.
const MAX_KEPT_BYTES: usize = Wrap::MAX_BYTES + 4 * 1024;
