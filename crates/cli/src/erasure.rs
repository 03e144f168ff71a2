use crate::{
    CliError, DisclosureRow, Exit, OwnKeys, Session, Wait,
    audit_account::stated,
    clock,
    custody_copy::CustodyCopy,
    epoch_key::{COPY_ANEW, Change, EpochKeys, HomeLock, elsewhere},
    files,
    policy::warnings_at,
    progress::{self, Counter},
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, Destroyed, Epochs, Erased, Gone, LeafIndex, Outcome, Receipt, StatedAccount,
    StatedErasure, Strength, Verified,
};
use medanchor_api::{LeafName, ListedErasure};
use medanchor_dag::CustodyId;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// What is to be erased.
#[derive(Clone, Debug)]
pub struct EraseOptions {
    /// Whose data: the custody key.
    pub custody: CustodyId,
    /// Whether the user has said that it is meant.
    pub yes: bool,
    /// Where to put the certificate; absent, in the user's folder.
    pub output: Option<PathBuf>,
    /// How long to wait for those that are to destroy something.
    pub wait: Duration,
}

/// An erasure, as its certificate shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ErasureShown {
    /// Whether it verified, and all that are listed have destroyed what they had.
    pub ok: bool,
    /// `unavailable` when somebody has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The custody key.
    pub custody: String,
    /// The leaf that erased it.
    pub leaf_index: LeafIndex,
    /// When: the leaf's log time.
    pub at: String,
    /// did:key of the owner, who said so.
    pub by: String,
    /// Who has destroyed what.
    pub destroyed: Vec<DestroyedRow>,
    /// Who has not yet.
    pub missing: Vec<MissingRow>,
    /// What was released before, and cannot be called back.
    pub disclosures: Vec<DisclosureRow>,
    /// The network's name.
    pub origin: String,
    /// How strong the receipts are.
    pub strength: Wait,
    /// What is weak in the trust policy.
    pub policy_warnings: Vec<String>,
    /// Where the certificate is.
    pub file: PathBuf,
}

/// Who has destroyed what.
#[derive(Clone, Debug, Serialize)]
pub struct DestroyedRow {
    /// did:key.
    pub who: String,
    /// `key` or `data`.
    pub gone: String,
    /// The leaf that says so.
    pub leaf_index: LeafIndex,
}

/// Who has not.
#[derive(Clone, Debug, Serialize)]
pub struct MissingRow {
    /// did:key.
    pub who: String,
    /// `key` or `data`.
    pub what: String,
}

/// Erases what a custody key protects, destroys what the user holds of it, waits for the others, and writes the certificate.
/// What was begun goes on, also after a crash.
///
/// # Errors
///
/// When the log refuses it, such as for a legal hold, or something does not verify. Who has not destroyed anything yet is in
/// the answer.
pub async fn erase(session: &Session, options: &EraseOptions) -> Result<ErasureShown> {
    let keys = session.home.own_keys()?;
    let custody = options.custody;
    let account = session
        .home
        .folder(FOLDER)?
        .join(format!("{custody}.account"));
    {
        let lock = HomeLock::take(&session.home).await?;
        let mut listed = erasure_of(session, &custody).await?;
        let own = Own::of(session, &keys, &listed)?;
        own.require_here()?;
        if listed.leaf_index.is_none() {
            if !options.yes {
                return Err(not_confirmed(&listed).into());
            }
            say_erased(session, &keys, &custody, &account).await?;
            listed = erasure_of(session, &custody).await?;
        }
        // No node's word alone destroys a copy.
        anyhow::ensure!(
            is_erased(session, &custody).await?,
            "the erasure is not in the log"
        );
        destroy_own(session, &keys, &lock, &listed).await?;
    }
    let listed = wait_for_others(session, &custody, options.wait).await?;
    let leaf = listed.leaf_index.context("the erasure is not in the log")?;
    let certificate = certificate(session, &listed, leaf, &account).await?;
    let file = match &options.output {
        Some(path) => path.clone(),
        None => account.with_extension("erasure"),
    };
    files::replace(&file, &certificate.to_bytes())
        .with_context(|| format!("write `{}`", file.display()))?;
    show(&certificate, &session.policy(), Strength::Published, &file)
}

/// Whether a file says that it is the certificate of an erasure.
pub fn is_erasure(file: &Path) -> bool {
    files::beginning(file).is_ok_and(|begins| StatedErasure::claims(&begins))
}

/// Verifies a certificate by a trust policy. Nobody is asked.
///
/// # Errors
///
/// When the file cannot be read, or something does not verify.
pub fn verify_erasure(file: &Path, epochs: &Epochs, strength: Strength) -> Result<ErasureShown> {
    let bytes = files::read(file, u64::try_from(StatedErasure::MAX_BYTES)?)?;
    let certificate = StatedErasure::from_bytes(&bytes).context("parse the certificate")?;
    show(&certificate, epochs, strength, file)
}

/// Whether the log has erased a custody key, by the receipt of the leaf.
pub(crate) async fn is_erased(session: &Session, custody: &CustodyId) -> Result<bool> {
    let Some(leaf) = erasure_of(session, custody).await?.leaf_index else {
        return Ok(false);
    };
    let receipt = receipt(session, leaf).await?;
    let is_its = |verified: &Verified<'_>| {
        let body = verified
            .opening
            .map(|opening| &opening.0.signed.statement.body);
        matches!(body, Some(Body::Erased(body)) if body.custody == *custody)
    };
    let checked = session.check(&receipt, Strength::Published, is_its);
    checked.context("check that it is erased")?;
    Ok(true)
}

/// How far an erasure is, as a node says.
pub(crate) async fn erasure_of(session: &Session, custody: &CustodyId) -> Result<ListedErasure> {
    let listed = session.client.erasure(custody).await;
    let listed = listed.context("ask how far the erasure is")?.value;
    listed.ok_or_else(|| {
        let problem = format!("the log has no custody key `{custody}`");
        CliError::Usage(problem).into()
    })
}

fn not_confirmed(listed: &ListedErasure) -> CliError {
    let Erased {
        custody,
        holders,
        replicas,
        disclosed,
    } = &listed.erased;
    CliError::Usage(format!(
        "this destroys what custody key `{custody}` protects for good, at {} holders of its key and {} nodes; {} releases \
         were made of it, which nobody can call back. Say it again with --yes",
        holders.len(),
        replicas.len(),
        disclosed.count
    ))
}

/// Commit point of an erasure: from its leaf on nobody may use the custody key. What was disclosed is on disk here before,
/// since the log forgets it.
async fn say_erased(
    session: &Session,
    keys: &OwnKeys,
    custody: &CustodyId,
    account: &Path,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let body = erasure_of(session, custody).await?.erased;
        let disclosed = stated(session, body.account()).await?;
        let policy = session.policy();
        let vouched = disclosed.verify(&*policy, Strength::Published);
        if vouched
            .context("check what was disclosed")?
            .account
            .stated()
            != body.disclosed
        {
            continue;
        }
        files::replace(account, &disclosed.to_bytes())
            .with_context(|| format!("write `{}`", account.display()))?;
        let said = session.say(keys, Body::Erased(Box::new(body))).await;
        match said {
            Ok(_) => return Ok(()),
            Err(error) if CliError::outcome_of(&error) == Some(Outcome::Stale) => (),
            Err(error) => return Err(error.context("erase it")),
        }
    }
    let problem = format!(
        "keys are released, or holders change, faster than it can be erased: {ATTEMPTS} times there was more"
    );
    Err(CliError::Unavailable(problem).into())
}

/// What an erasure is of the user's own.
struct Own {
    /// Whether a copy is in the user's folder.
    is_here: bool,
    /// Whether a change of the epoch key was interrupted there: it may have destroyed a copy already.
    is_changing: bool,
    /// The epoch key under which the user holds the custody key, as the erasure lists it.
    under: Option<[u8; 32]>,
    /// Whether the user has said that it is destroyed.
    is_said: bool,
    /// Whether the folder has the epoch key that the log has of the user, or the log has none.
    has_epoch_key: bool,
}

impl Own {
    fn of(session: &Session, keys: &OwnKeys, listed: &ListedErasure) -> Result<Self> {
        let (home, me) = (&session.home, keys.did());
        let mut holders = listed.erased.holders.iter();
        let holder = holders.find(|holder| holder.who == me);
        let mut destroyed = listed.destroyed.iter();
        let has_epoch_key = match listed.epoch_key_of(&me) {
            Some(said) => EpochKeys::exist(home) && EpochKeys::of(home)?.are(&said),
            None => true,
        };
        Ok(Self {
            is_changing: EpochKeys::are_changing(home),
            is_here: CustodyCopy::custodies(home)?.contains(&listed.erased.custody),
            under: holder.map(|holder| holder.epoch_key.into_array()),
            is_said: destroyed.any(|by| by.who == me && by.gone == Gone::Key),
            has_epoch_key,
        })
    }

    fn is_done(&self) -> bool {
        let is_left = self.is_here || self.is_changing;
        !is_left && (self.is_said || self.under.is_none())
    }

    /// That the user's copies are in this folder, where there are any: before anything is said.
    fn require_here(&self) -> Result<()> {
        match self.is_done() || self.has_epoch_key {
            true => Ok(()),
            false => Err(elsewhere()),
        }
    }
}

/// Destroys the copies in the user's folder and the epoch key that they were sealed to, and says so.
async fn destroy_own(
    session: &Session,
    keys: &OwnKeys,
    lock: &HomeLock,
    listed: &ListedErasure,
) -> Result<()> {
    let (custody, own) = (listed.erased.custody, Own::of(session, keys, listed)?);
    if own.is_done() {
        return Ok(());
    }
    let change = Change {
        erased: Some(custody),
        ..Change::of(session, keys, lock)
    };
    let mut epoch = change.settled().await?;
    if own.is_here && CustodyCopy::custodies(&session.home)?.contains(&custody) {
        epoch = change.next_epoch().await?;
    }
    if own.under == Some(epoch.public()) {
        change.next_epoch().await?;
    }
    anyhow::ensure!(
        !CustodyCopy::custodies(&session.home)?.contains(&custody),
        "a copy of the custody key is still here"
    );
    if own.under.is_none() || own.is_said {
        return Ok(());
    }
    let destroyed = Destroyed {
        by: keys.did(),
        custody,
        erasure: listed.leaf_index.context("the erasure is not in the log")?,
        gone: Gone::Key,
    };
    let said = session.say(keys, Body::Destroyed(destroyed)).await;
    said.map(drop).context("say that the copy is destroyed")?;
    progress::note(COPY_ANEW);
    Ok(())
}

async fn wait_for_others(
    session: &Session,
    custody: &CustodyId,
    wait: Duration,
) -> Result<ListedErasure> {
    let until = Instant::now() + wait;
    let mut listed = erasure_of(session, custody).await?;
    let all = listed.erased.listed().count();
    let mut counter = Counter::new("attestations", 0, u64::try_from(all)?);
    loop {
        counter.set(u64::try_from(listed.destroyed.len())?);
        if listed.destroyed.len() >= all || Instant::now() >= until {
            break;
        }
        sleep(LOOK_EVERY).await;
        listed = erasure_of(session, custody).await?;
    }
    counter.finish();
    Ok(listed)
}

async fn certificate(
    session: &Session,
    listed: &ListedErasure,
    erasure: LeafIndex,
    account: &Path,
) -> Result<StatedErasure> {
    let bytes = files::read(account, u64::try_from(StatedAccount::MAX_BYTES)?).context(
        "what was disclosed before is kept where it was erased: go on there, or write no certificate",
    )?;
    let disclosed = StatedAccount::from_bytes(&bytes).context("parse what was disclosed")?;
    let mut destroyed = Vec::with_capacity(listed.destroyed.len());
    for by in &listed.destroyed {
        destroyed.push(receipt(session, by.leaf).await?);
    }
    Ok(StatedErasure {
        erased: receipt(session, erasure).await?,
        destroyed,
        disclosed,
    })
}

async fn receipt(session: &Session, leaf: LeafIndex) -> Result<Receipt> {
    let receipt = session
        .client
        .receipt(LeafName::Index(leaf), Strength::Published);
    let (_, receipt) = receipt
        .await
        .with_context(|| format!("fetch the receipt of leaf {leaf}"))?;
    Ok(receipt)
}

fn show(
    certificate: &StatedErasure,
    epochs: &Epochs,
    strength: Strength,
    file: &Path,
) -> Result<ErasureShown> {
    let shown = certificate
        .verify(epochs, strength)
        .context("check the certificate")?;
    let checkpoint = &shown.verified.checkpoint.checkpoint;
    let destroyed = shown.destroyed.iter().map(|by| DestroyedRow {
        who: by.who.to_string(),
        gone: by.gone.to_string(),
        leaf_index: by.leaf,
    });
    let missing = shown.missing.iter().map(|(who, gone)| MissingRow {
        who: who.to_string(),
        what: gone.to_string(),
    });
    let missing: Vec<_> = missing.collect();
    let disclosures = certificate.disclosed.disclosures.iter();
    let ok = missing.is_empty();
    Ok(ErasureShown {
        ok,
        code: (!ok).then(|| Exit::Unavailable.name().to_owned()),
        custody: shown.erased.custody.to_string(),
        leaf_index: shown.verified.index,
        at: clock::rfc3339(shown.verified.leaf.at),
        by: shown.by.to_string(),
        destroyed: destroyed.collect(),
        missing,
        disclosures: disclosures.map(DisclosureRow::of).collect(),
        origin: checkpoint.origin.clone(),
        strength: strength.into(),
        policy_warnings: warnings_at(epochs, &[checkpoint.size]),
        file: file.to_owned(),
    })
}

impl fmt::Display for ErasureShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (custody, leaf, at, by) = (&self.custody, self.leaf_index, &self.at, &self.by);
        writeln!(
            f,
            "erased     {custody}, with leaf {leaf} of {}, at {at}",
            self.origin
        )?;
        writeln!(f, "by         {by}")?;
        let mut by_who: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for row in &self.destroyed {
            let said = format!("{} (leaf {})", row.gone, row.leaf_index);
            by_who.entry(&row.who).or_default().push(said);
        }
        for (who, gone) in by_who {
            writeln!(f, "destroyed  {who}: {}", gone.join(", "))?;
        }
        for row in &self.missing {
            writeln!(f, "MISSING    {}: {}", row.who, row.what)?;
        }
        let count = self.disclosures.len();
        writeln!(
            f,
            "released   {count} times before, which nobody can call back"
        )?;
        for row in &self.disclosures {
            writeln!(f, "           {row}")?;
        }
        write!(
            f,
            "kept in    {}, which `medanchor verify` checks without any server",
            self.file.display()
        )?;
        for warning in &self.policy_warnings {
            write!(f, "\nwarning    {warning}")?;
        }
        match self.ok {
            true => Ok(()),
            false => write!(
                f,
                "\nINCOMPLETE who is missing may not have been reached, or still has what was put lately: say `medanchor erase` again"
            ),
        }
    }
}

/// The folder of a home that has them.
const FOLDER: &str = "erasures";
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Each states the account.
const ATTEMPTS: usize = 8;
