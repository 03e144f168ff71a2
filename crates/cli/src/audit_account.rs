use crate::{
    CliError, DisclosureRow, Exit, OwnKeys, Session, Wait, clock,
    disclosures::{account, fetch},
    files,
    policy::warnings_at,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Account, AccountHead, AccountOf, Body, Epochs, Outcome, Receipt, StatedAccount, Strength, Trust,
};
use serde::Serialize;
use std::{fmt, path::Path};

/// All that was disclosed, as the log vouches for it.
#[derive(Clone, Debug, Serialize)]
pub struct AccountShown {
    /// Whether it verified and the content of every disclosure was given.
    pub ok: bool,
    /// `not-verified` when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The custody key, of an account of what is under one.
    pub custody: Option<String>,
    /// The principal, of an account of what somebody was given.
    pub principal: Option<String>,
    /// The disclosures, in the order of the log.
    pub disclosures: Vec<DisclosureRow>,
    /// How many there are: the log vouches that these are all, up to its leaf.
    pub count: u64,
    /// The head of the hash chain over them.
    pub head: String,
    /// The leaf that states it.
    pub leaf_index: u64,
    /// When: the leaf's log time.
    pub at: String,
    /// Who stated it.
    pub stated_by: String,
    /// The network's name.
    pub origin: String,
    /// Size of the tree that the receipt's checkpoint is of.
    pub tree_size: u64,
    /// How strong the receipt is: `witnessed` or `published`.
    pub strength: Wait,
    /// Who co-signed that checkpoint, and so vouches.
    pub cosigners: Vec<String>,
    /// What is weak in the trust policy.
    pub policy_warnings: Vec<String>,
    /// Where it was written to.
    pub file: Option<String>,
}

/// Has the log vouch for an account, fetches its disclosures and checks that they are all.
///
/// # Errors
///
/// When the user does not speak for the account, no node answers, something does not verify, or a disclosure is withheld.
pub async fn audit_account(
    session: &Session,
    of: AccountOf,
    output: Option<&Path>,
) -> Result<AccountShown> {
    let stated = stated(session, of).await?;
    let mut shown = show(&stated, &session.policy(), Strength::Published)?;
    if let Some(path) = output {
        let bytes = stated.to_bytes();
        if bytes.len() > StatedAccount::MAX_BYTES {
            let problem = format!(
                "an account of {} bytes is too large for a file",
                bytes.len()
            );
            anyhow::bail!(problem);
        }
        files::replace(path, &bytes).with_context(|| format!("write `{}`", path.display()))?;
        shown.file = Some(path.display().to_string());
    }
    Ok(shown)
}

/// Whether a file says that it is an account.
pub fn is_account(file: &Path) -> bool {
    files::beginning(file).is_ok_and(|begins| StatedAccount::claims(&begins))
}

/// Verifies a written account by a trust policy. Nobody is asked.
///
/// # Errors
///
/// When the file cannot be read, or something does not verify.
pub fn verify_account(file: &Path, epochs: &Epochs, strength: Strength) -> Result<AccountShown> {
    let bytes = files::read(file, u64::try_from(StatedAccount::MAX_BYTES)?)?;
    let stated = StatedAccount::from_bytes(&bytes).context("parse the account")?;
    show(&stated, epochs, strength)
}

/// The account with the receipt of the leaf that states it, and what a node gives of its disclosures. The receipt is verified.
pub(crate) async fn stated(session: &Session, of: AccountOf) -> Result<StatedAccount> {
    let keys = session.home.own_keys()?;
    let (receipt, count) = state(session, &keys, of).await?;
    let checked = session
        .policy()
        .check(&receipt.checkpoint, Strength::Published)
        .context("verify the receipt")?;
    let size = checked.checkpoint.size;
    Ok(StatedAccount {
        disclosures: fetch(session, &keys, of, count, size).await?,
        receipt,
    })
}

/// States the account as a node says that it is. What the log does not agree with is stated again: something may have been
/// released meanwhile.
async fn state(session: &Session, keys: &OwnKeys, of: AccountOf) -> Result<(Receipt, u64)> {
    let mut refused: Option<(AccountHead, u64)> = None;
    for _ in 0..ATTEMPTS {
        let said = account(session, &session.client, keys, of).await;
        let said = said.context("ask for the account")?.value;
        if let Some((before, leaf)) = refused
            && said.count <= before.count
        {
            return Err(withheld(said, leaf));
        }
        let body = Body::Account(Account::new(of, said));
        let signed = session.statement(body)?.sign(&[&keys.signing]);
        match session.submit_for(&signed, Strength::Published).await {
            Ok(taken) => {
                session.recorded(&signed, &taken)?;
                let receipt = taken.receipt.context("the receipt is not there")?;
                return Ok((receipt, said.count));
            }
            Err(error) => match error.downcast_ref() {
                Some(CliError::Refused {
                    outcome: Outcome::Stale,
                    leaf_index,
                }) => refused = Some((said, *leaf_index)),
                _ => return Err(error.context("state the account")),
            },
        }
    }
    let problem = format!(
        "keys are released faster than the account can be stated: {ATTEMPTS} times the log had more"
    );
    Err(CliError::Unavailable(problem).into())
}

/// An account only grows: what the log has once refused as out of date is never right later.
fn withheld(said: AccountHead, leaf: u64) -> anyhow::Error {
    let problem = format!(
        "a disclosure is withheld: a node says that the account has {} disclosures, and the log's leaf {leaf} shows that these \
         are not all, or others",
        said.count
    );
    CliError::NotVerified(problem).into()
}

fn show(stated: &StatedAccount, epochs: &Epochs, strength: Strength) -> Result<AccountShown> {
    let vouched = stated
        .verify(epochs, strength)
        .context("check the account")?;
    let disclosures: Vec<DisclosureRow> =
        stated.disclosures.iter().map(DisclosureRow::of).collect();
    let ok = disclosures.iter().all(|row| row.content.is_some());
    let (account, verified) = (vouched.account, &vouched.verified);
    let (custody, principal) = match account.of {
        AccountOf::Custody(custody) => (Some(custody.to_string()), None),
        AccountOf::Principal(principal) => (None, Some(principal.to_string())),
    };
    let checkpoint = &verified.checkpoint;
    let cosigners = checkpoint.cosigners.iter();
    let size = checkpoint.checkpoint.size;
    Ok(AccountShown {
        ok,
        code: (!ok).then(|| Exit::NotVerified.name().to_owned()),
        custody,
        principal,
        disclosures,
        count: account.count,
        head: account.head.to_string(),
        leaf_index: verified.index,
        at: clock::rfc3339(verified.leaf.at),
        stated_by: vouched.by.to_string(),
        origin: checkpoint.checkpoint.origin.clone(),
        tree_size: size,
        strength: strength.into(),
        cosigners: cosigners
            .map(|cosigner| cosigner.key.name().to_owned())
            .collect(),
        policy_warnings: warnings_at(epochs, &[size]),
        file: None,
    })
}

impl fmt::Display for AccountShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.disclosures {
            writeln!(f, "{row}")?;
        }
        let of = match (&self.custody, &self.principal) {
            (Some(custody), _) => format!("of what is under custody key {custody}"),
            (None, Some(principal)) => format!("to {principal}"),
            (None, None) => String::new(),
        };
        writeln!(f, "{} disclosures {of}", self.count)?;
        writeln!(
            f,
            "verified   these are all, up to leaf {} of {}, at {}",
            self.leaf_index, self.origin, self.at
        )?;
        writeln!(f, "stated by  {}", self.stated_by)?;
        let cosigners = self.cosigners.join(", ");
        write!(f, "vouched by {cosigners} ({})", self.strength)?;
        if let Some(file) = &self.file {
            write!(
                f,
                "\nkept in    {file}, which `medanchor verify` checks without any server"
            )?;
        }
        for warning in &self.policy_warnings {
            write!(f, "\nwarning    {warning}")?;
        }
        if !self.ok {
            write!(
                f,
                "\nNOT ALL    the content of a disclosure was not given: ask another node with --node"
            )?;
        }
        Ok(())
    }
}

/// Each is a leaf.
const ATTEMPTS: usize = 8;
