use crate::{
    CliError, PartRow, Session, clock, erasure::is_erased, log::proved, progress::Counter,
    session::patiently,
};
use anyhow::{Context, Result};
use futures::TryStreamExt;
use medanchor_anchor::{
    AccessRequest, Basis, Body, LeafIndex, Receipt, Recomputed, ReleaseList, SignedStatement,
    Strength, tree::leaf_hash,
};
use medanchor_api::LeafName;
use medanchor_policy::{Agreement, Replay, Replayed, Verdict};
use serde::Serialize;
use std::{collections::BTreeSet, fmt, pin::pin};

/// A decision that the log records, made again from the leaves before it.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Whether it came out the same.
    pub ok: bool,
    /// `not-verified` when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The leaf that records it, whose receipt was verified.
    pub leaf_index: LeafIndex,
    /// `released` or `refused`.
    pub decision: String,
    /// Whether the leaf took effect: `ok`, or why not.
    pub outcome: String,
    /// The broker that decided.
    pub broker: Option<String>,
    /// When.
    pub decided_at: String,
    /// Who asked.
    pub requester: Option<String>,
    /// For what.
    pub purpose: String,
    /// In which role.
    pub role: String,
    /// For which records: those that were released, or named and refused.
    pub records: Vec<String>,
    /// What was released, for each custody key, and the leaves that this rests on.
    pub parts: Vec<PartRow>,
    /// The code that the log records, of a refusal.
    pub refusal: Option<String>,
    /// `same`, `refused-for-bytes`, `not-decided` or `differs`.
    pub agreement: String,
    /// What comes out now: the code of the denial, absent when it is a permit.
    pub denied: Option<String>,
    /// The condition that failed and what would change it, of a denial.
    pub reason: Option<String>,
    /// The policies that permit it.
    pub policies: Vec<String>,
    /// The last moment of the release, of a permit.
    pub until: Option<String>,
    /// The leaves that the log says it rests on: policy set, custody key, newest consent, requester, its organisation.
    pub basis: BasisRow,
    /// Leaves whose openings the decision may read and are not to be had.
    pub missing: Vec<LeafIndex>,
    /// Leaves that were passed over: they are of erased custody keys which the decision does not read. That is the node's word.
    pub passed_over: Vec<LeafIndex>,
}

/// Leaves that a decision rests on.
#[derive(Clone, Debug, Serialize)]
pub struct BasisRow {
    /// Since which the policy set is in force.
    pub policy: LeafIndex,
    /// That last changed the custody key; absent when the decision tells of no record, and of a release, whose parts say it.
    pub custody: Option<LeafIndex>,
    /// That gave or withdrew the newest consent under it.
    pub consent: Option<LeafIndex>,
    /// That last changed the requester's standing.
    pub requester: LeafIndex,
    /// That of its organisation.
    pub requester_org: LeafIndex,
    /// That of each record's device.
    pub devices: Vec<LeafIndex>,
}

/// Makes a recorded decision again, from the leaves before it, which are shown to be that log's by the receipt.
///
/// # Errors
///
/// When no node answers, the openings are not for this user, the leaf records no decision, or something does not verify.
pub async fn explain(session: &Session, leaf: LeafName) -> Result<Explained> {
    let (receipt, shown) = proved(session, leaf, Strength::Published).await?;
    let Some(opening) = &receipt.opening else {
        let problem =
            "the leaf's opening is not to be had: operators and auditors of members are given it";
        return Err(CliError::NotVerified(problem.to_owned()).into());
    };
    let signed = &opening.0.signed;
    let list = list_of(session, &receipt, signed).await?;
    let Some(mut replay) = Replay::of(signed, list.clone()) else {
        return Err(CliError::Usage(not_replayed(&receipt, signed)).into());
    };
    read_leaves(session, &receipt, shown.tree_size, &mut replay).await?;
    let replayed = replay.finish().context("decide again")?;
    explained(&receipt, signed, list.as_ref(), replayed).context("read the decision")
}

/// What a release was of: the one that its statement says the head of.
async fn list_of(
    session: &Session,
    receipt: &Receipt,
    signed: &SignedStatement,
) -> Result<Option<ReleaseList>> {
    let Body::Released(released) = &signed.statement.body else {
        return Ok(None);
    };
    let index = receipt.index;
    let list = patiently(async || session.client.release_list(index).await).await;
    let list = list.context("fetch what was released")?;
    if list
        .as_ref()
        .is_some_and(|list| list.head() != released.list)
    {
        let problem = format!("what the node gives as released with leaf {index} is not what was");
        return Err(CliError::NotVerified(problem).into());
    }
    Ok(list)
}

fn not_replayed(receipt: &Receipt, signed: &SignedStatement) -> String {
    let index = receipt.index;
    match &signed.statement.body {
        Body::Released(_) => format!(
            "what leaf {index} released is not to be had: it did not take effect, or its list was deleted"
        ),
        Body::Refused(body) => format!(
            "leaf {index} refuses a selection, `{}`: the log does not say which custody keys were asked for",
            body.code
        ),
        body => format!("leaf {index} is `{}`: it records no decision", body.kind()),
    }
}

/// Gives every leaf before that of the receipt, which was verified, to `replay`, and checks that together they are the log
/// that it is of.
async fn read_leaves(
    session: &Session,
    receipt: &Receipt,
    tree_size: u64,
    replay: &mut Replay,
) -> Result<()> {
    let mut tree = Recomputed::default();
    let mut counter = Counter::new("leaves", 0, receipt.index);
    let mut erased = BTreeSet::new();
    let mut leaves = pin!(session.client.leaves(0, Some(receipt.index)));
    while let Some(entry) = leaves.try_next().await.context("read the log")? {
        if entry.index != tree.size() {
            let problem = format!("the node left out leaf {}", tree.size());
            return Err(CliError::NotVerified(problem).into());
        }
        tree.push(leaf_hash(&entry.leaf.to_bytes()));
        match entry.erased_with {
            Some(custody) => {
                erased.insert(custody);
                replay.take_erased(entry.index, &entry.leaf, custody);
            }
            None => replay.take(entry.index, &entry.leaf, entry.opening.as_ref())?,
        }
        counter.set(tree.size());
    }
    counter.finish();
    // That a leaf was of one of these is the node's word; that they are erased at all is the log's.
    for custody in erased {
        if !is_erased(session, &custody).await? {
            let problem =
                format!("the node says that custody key `{custody}` is erased, and it is not");
            return Err(CliError::NotVerified(problem).into());
        }
    }
    let last = leaf_hash(&receipt.leaf.to_bytes());
    tree.push(last);
    let root = receipt.proof.prefix_root(&last, receipt.index, tree_size);
    match tree.root() == root && tree.size() == receipt.index + 1 {
        true => Ok(()),
        false => {
            let problem = "the leaves that the node gives are not those of the log".to_owned();
            Err(CliError::NotVerified(problem).into())
        }
    }
}

fn explained(
    receipt: &Receipt,
    signed: &SignedStatement,
    list: Option<&ReleaseList>,
    replayed: Replayed,
) -> Option<Explained> {
    let (request, basis, decided_at, refusal) = match &signed.statement.body {
        Body::Released(body) => (&body.request, &body.basis, body.decided_at, None),
        Body::Refused(body) => {
            let code = Some(body.code.clone());
            (&body.request, &body.basis, body.decided_at, code)
        }
        _ => return None,
    };
    let Body::AccessRequest(AccessRequest {
        records,
        purpose,
        role,
        ..
    }) = &request.statement.body
    else {
        return None;
    };
    let (denied, reason, policies, until) = match replayed.decision.verdict {
        Verdict::Permit(permit) => {
            let until = Some(clock::rfc3339(permit.until()));
            (None, None, permit.policies(), until)
        }
        Verdict::Deny { code, reason } => (Some(code.to_string()), Some(reason), Vec::new(), None),
    };
    let ok = replayed.agrees != Agreement::Differs;
    Some(Explained {
        ok,
        code: (!ok).then(|| "not-verified".to_owned()),
        leaf_index: receipt.index,
        decision: receipt.leaf.kind.to_string(),
        outcome: receipt.leaf.outcome.to_string(),
        broker: signed.author().map(ToString::to_string),
        decided_at: clock::rfc3339(decided_at),
        requester: request.author().map(ToString::to_string),
        purpose: purpose.clone(),
        role: role.clone(),
        records: match list {
            Some(list) => list.rows().map(|row| row.record.to_string()).collect(),
            None => records.iter().map(ToString::to_string).collect(),
        },
        parts: list
            .iter()
            .flat_map(|list| PartRow::all(&list.parts))
            .collect(),
        refusal,
        agreement: match replayed.agrees {
            Agreement::Same => "same",
            Agreement::RefusedForBytes => "refused-for-bytes",
            Agreement::NotDecided => "not-decided",
            Agreement::Differs => "differs",
        }
        .to_owned(),
        denied,
        reason,
        policies,
        until,
        basis: BasisRow::new(basis),
        missing: replayed.missing,
        passed_over: replayed.passed_over,
    })
}

impl BasisRow {
    pub(crate) fn new(basis: &Basis) -> Self {
        Self {
            policy: basis.policy,
            custody: (!basis.tells_of_no_record()).then_some(basis.custody),
            consent: basis.consent,
            requester: basis.requester,
            requester_org: basis.requester_org,
            devices: basis.devices.clone(),
        }
    }
}

fn rests_on(custody: LeafIndex, consent: Option<LeafIndex>) -> String {
    match consent {
        Some(consent) => format!("custody key of leaf {custody}, consents up to leaf {consent}"),
        None => format!("custody key of leaf {custody}, no consent"),
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = self.refusal.as_deref().unwrap_or_default();
        writeln!(
            f,
            "leaf       {} {} {refusal}",
            self.leaf_index, self.decision
        )?;
        writeln!(f, "outcome    {}", self.outcome)?;
        let unknown = String::from("unknown");
        writeln!(
            f,
            "asked by   {}",
            self.requester.as_ref().unwrap_or(&unknown)
        )?;
        writeln!(f, "for        {} as {}", self.purpose, self.role)?;
        for record in &self.records {
            writeln!(f, "record     {record}")?;
        }
        let broker = self.broker.as_ref().unwrap_or(&unknown);
        writeln!(f, "decided    {} by {broker}", self.decided_at)?;
        let basis = &self.basis;
        write!(f, "rests on   policy set of leaf {}", basis.policy)?;
        if let Some(custody) = basis.custody {
            write!(f, ", {}", rests_on(custody, basis.consent))?;
        }
        writeln!(
            f,
            ", standing of leaves {} and {}",
            basis.requester, basis.requester_org
        )?;
        for part in &self.parts {
            let on = rests_on(part.since, part.consent);
            writeln!(f, "under      {}: {on}", part.custody)?;
        }
        for policy in &self.policies {
            writeln!(f, "permitted  by {policy}")?;
        }
        if let (Some(code), Some(reason)) = (&self.denied, &self.reason) {
            writeln!(f, "denied     {code}: {reason}")?;
        }
        for leaf in &self.missing {
            writeln!(f, "missing    the opening of leaf {leaf}")?;
        }
        if !self.passed_over.is_empty() {
            let count = self.passed_over.len();
            writeln!(
                f,
                "passed     over {count} leaves of erased custody keys that have nothing to do with it, says the node"
            )?;
        }
        f.write_str(match self.agreement.as_str() {
            "same" => "replayed   the log gives the same decision",
            "not-decided" => {
                "replayed   the broker could not read the policy set in force: its node must be updated"
            }
            "refused-for-bytes" => {
                "replayed   the policies permit it; the broker refused for the record's bytes, which the log does not hold"
            }
            _ => "replayed   THE LOG GIVES ANOTHER DECISION: see what is missing, or ask the broker's organisation",
        })
    }
}
