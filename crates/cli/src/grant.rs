use crate::{CliError, OwnKeys, Session, clock, files, session::patiently};
use anyhow::{Context, Result};
use medanchor_anchor::{AccessRequest, Body, LeafIndex, Receipt, Released, Strength};
use medanchor_api::LeafName;
use medanchor_dag::{Cid, Hash};
use medanchor_envelope::Wrap;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A released key of one record, with the receipt of the leaf that released it.
///
/// It exists only checked (I2): a witnessed receipt shows a `released` leaf for exactly this wrap, in answer
/// to this user's own request for this record.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) wrap: Wrap,
    pub(crate) receipt: Receipt,
    pub(crate) leaf_index: LeafIndex,
    pub(crate) purpose: String,
    pub(crate) role: String,
    /// The end of the grant, unix ms.
    pub(crate) not_after_unix_ms: u64,
}

impl Grant {
    /// Checks a wrap and the receipt that came with it.
    pub(crate) fn check(
        session: &Session,
        keys: &OwnKeys,
        record: &Cid,
        wrap_bytes: &[u8],
        receipt: Receipt,
        strength: Strength,
    ) -> Result<Self> {
        let wrap = Wrap::from_bytes(wrap_bytes).context("parse the released key")?;
        let said = session
            .check(&receipt, strength, |_| true)
            .context("check that the release is in the log")?;
        let (released, request) = released(&receipt).ok_or_else(|| unshown("no release"))?;
        let place = request.records.iter().position(|asked| asked == record);
        let named = place.and_then(|place| released.wraps.get(place));
        if named != Some(&Hash::new(wrap.hash())) {
            return Err(unshown("another key than the broker gave"));
        }
        let requester = released.request.author();
        let request_hash = released.request.statement.hash();
        if requester != Some(&keys.did()) || wrap.ctx.request != Some(*request_hash.as_bytes()) {
            return Err(unshown("a release to somebody else"));
        }
        let (purpose, role) = (request.purpose.clone(), request.role.clone());
        Ok(Self {
            not_after_unix_ms: wrap.ctx.not_after.unwrap_or(0),
            wrap,
            receipt,
            leaf_index: said.leaf_index,
            purpose,
            role,
        })
    }

    /// The grant kept for a record, when it still stands and was made for this purpose and role.
    pub(crate) fn kept(
        session: &Session,
        keys: &OwnKeys,
        record: &Cid,
        purpose: Option<&str>,
        role: Option<&str>,
    ) -> Result<Option<Self>> {
        let (wrap, receipt) = paths(session, record)?;
        if !wrap.exists() || !receipt.exists() {
            return Ok(None);
        }
        let read = read(&wrap, &receipt);
        let checked = read.and_then(|(wrap, receipt)| {
            Self::check(session, keys, record, &wrap, receipt, Strength::Witnessed)
        });
        let Ok(grant) = checked else {
            // A damaged file, a crash between the two, or another identity: ask again.
            return Ok(None);
        };
        let fits = purpose.is_none_or(|purpose| purpose == grant.purpose)
            && role.is_none_or(|role| role == grant.role)
            && grant.not_after_unix_ms > clock::unix_ms();
        Ok(fits.then_some(grant))
    }

    /// The records of which a grant is kept, whether or not it still stands.
    pub(crate) fn records(session: &Session) -> Result<Vec<Cid>> {
        let folder = session.home.folder("grants")?;
        let context = || format!("read `{}`", folder.display());
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).with_context(context)? {
            let name = entry.with_context(context)?.file_name();
            let record = name.to_str().and_then(|name| name.strip_suffix(".wrap"));
            records.extend(record.and_then(|record| record.parse::<Cid>().ok()));
        }
        Ok(records)
    }

    /// Waits for a receipt this strong, where the grant has none yet.
    pub(crate) async fn proved(
        self,
        session: &Session,
        keys: &OwnKeys,
        record: &Cid,
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
        let opening = self.receipt.opening;
        let receipt = Receipt { opening, ..receipt };
        session.keep_up(&receipt.checkpoint, strength).await;
        Self::check(
            session,
            keys,
            record,
            &self.wrap.to_bytes(),
            receipt,
            strength,
        )
    }

    /// Keeps it until it ends.
    pub(crate) fn keep(&self, session: &Session, record: &Cid) -> Result<()> {
        let (wrap, receipt) = paths(session, record)?;
        files::replace(&wrap, &self.wrap.to_bytes())
            .and_then(|()| files::replace(&receipt, self.receipt.to_string().as_bytes()))
            .context("keep the grant")
    }
}

fn read(wrap: &Path, receipt: &Path) -> Result<(Vec<u8>, Receipt)> {
    let wrap = files::read(wrap, limit(Wrap::MAX_BYTES))?;
    let receipt = files::read_text(receipt, limit(Receipt::MAX_BYTES))?;
    Ok((wrap, receipt.parse()?))
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

fn paths(session: &Session, record: &Cid) -> Result<(PathBuf, PathBuf)> {
    let folder = session.home.folder("grants")?;
    Ok((
        folder.join(format!("{record}.wrap")),
        folder.join(format!("{record}.tlog-proof")),
    ))
}

fn limit(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
