use crate::{
    Anchored, Body, FoundedEntry, Hold, LeafIndex, ListHead, Log, Member, Outcome, Places, Placing,
    PrincipalEntry, ReleaseList, SignedStatement, State, TablesError,
};
use medanchor_dag::{Did, Hash};
use std::collections::{BTreeMap, BTreeSet};

/// Why a statement does not take effect.
pub(super) enum Refusal {
    /// There is no leaf.
    Rejected(&'static str),
    /// There is a leaf that says why.
    Leaf(Outcome),
    /// The storage failed.
    Tables(TablesError),
}

impl From<TablesError> for Refusal {
    fn from(error: TablesError) -> Self {
        Self::Tables(error)
    }
}

impl From<Outcome> for Refusal {
    fn from(outcome: Outcome) -> Self {
        Self::Leaf(outcome)
    }
}

/// `Ok` if `condition` holds, else refused with `outcome`.
pub(super) fn require(condition: bool, outcome: Outcome) -> Result<(), Refusal> {
    if condition {
        Ok(())
    } else {
        Err(outcome.into())
    }
}

/// What holds for a whole batch, read and checked once.
pub(super) struct Network {
    founded: FoundedEntry,
    witnesses: Vec<String>,
    placing: Placing,
    /// Who holds what a statement names, by the statement's hash.
    held: BTreeMap<Hash, BTreeSet<Did>>,
}

impl Network {
    /// `None` before leaf 0.
    pub(super) fn load(
        state: State<'_>,
        holds: &[Hold],
        at: u64,
    ) -> Result<Option<Self>, TablesError> {
        let Some(founded) = state.founded()? else {
            return Ok(None);
        };
        let mut network = Self {
            placing: state.placing_of(&founded)?,
            founded,
            witnesses: state.witnesses()?,
            held: BTreeMap::new(),
        };
        for hold in holds {
            network.count(hold, at);
        }
        Ok(Some(network))
    }

    /// Notes who holds what. Only a member's node counts: its organisation cannot be suspended.
    fn count(&mut self, hold: &Hold, at: u64) {
        let counts = hold.until >= at
            && self.member_of_node(&hold.holder).is_some()
            && hold.verify(&self.founded.origin).is_ok();
        if counts {
            for statement in &hold.statements {
                let holders = self.held.entry(*statement).or_default();
                holders.insert(hold.holder);
            }
        }
    }

    pub(super) fn placing(&self) -> &Placing {
        &self.placing
    }

    /// The nodes that hold what a statement names, sorted.
    pub(super) fn holders(&self, statement: &Hash) -> Vec<Did> {
        let holders = self.held.get(statement);
        holders.into_iter().flatten().copied().collect()
    }

    pub(super) fn members(&self) -> &[Member] {
        self.placing.members()
    }

    /// Keys of the outside witnesses.
    pub(super) fn witnesses(&self) -> &[String] {
        &self.witnesses
    }

    pub(super) fn is_member(&self, org: &Did) -> bool {
        self.members().iter().any(|member| member.org == *org)
    }

    pub(super) fn member_of_node(&self, node: &Did) -> Option<&Member> {
        self.members().iter().find(|member| member.node == *node)
    }
}

/// The lists that came with a batch, by what statements say of them.
#[derive(Default)]
pub(super) struct Lists<'a>(BTreeMap<ListHead, &'a ReleaseList>);

impl<'a> Lists<'a> {
    /// What is out of bounds is left out.
    pub(super) fn of(lists: &'a [ReleaseList]) -> Self {
        let sound = lists.iter().filter(|list| list.is_well_formed());
        Self(sound.map(|list| (list.head(), list)).collect())
    }

    pub(super) fn find(&self, head: &ListHead) -> Option<&'a ReleaseList> {
        self.0.get(head).copied()
    }
}

/// Who has signed: of a principal the key that it was enrolled with, where the signature is by its key in force. A key that was
/// rotated signs for nobody. Of whom the log does not know as a principal, such as nodes and founders, it is their key.
pub(super) fn signers(state: State<'_>, signed: &SignedStatement) -> Result<Vec<Did>, TablesError> {
    let mut signers = Vec::with_capacity(signed.signatures.len());
    for (key, _) in &signed.signatures {
        match state.identity(key)? {
            Some((who, entry)) if entry.key_of(&who) == *key => signers.push(who),
            Some(_) => (),
            None => signers.push(*key),
        }
    }
    Ok(signers)
}

/// One statement, and all that it is judged by.
pub(super) struct Context<'a> {
    pub(super) state: State<'a>,
    /// `None` before leaf 0.
    pub(super) network: Option<&'a Network>,
    pub(super) lists: &'a Lists<'a>,
    pub(super) signed: &'a SignedStatement,
    /// Those of [`signers`].
    pub(super) signers: Vec<Did>,
    /// Length of the statement's canonical form.
    pub(super) size_bytes: usize,
    /// The statement's hash.
    pub(super) hash: Hash,
    /// Its leaf, if it gets one.
    pub(super) index: LeafIndex,
    /// Log time, unix ms.
    pub(super) at: u64,
}

impl<'a> Context<'a> {
    pub(super) fn check_origin(&self) -> Result<(), Refusal> {
        let founding = matches!(self.signed.statement.body, Body::Founded(_));
        match self.network {
            None if founding => Ok(()),
            None => Err(Refusal::Rejected("not-founded")),
            Some(_) if founding => Err(Refusal::Rejected("already-founded")),
            Some(network) if network.founded.origin == self.signed.statement.origin => Ok(()),
            Some(_) => Err(Refusal::Rejected("wrong-origin")),
        }
    }

    /// Every signature, also those inside the body.
    pub(super) fn check_signatures(&self) -> Result<(), Refusal> {
        let inside = match &self.signed.statement.body {
            Body::Released(body) => body.request.verifies(),
            Body::Refused(body) => body.request.verifies(),
            Body::Custody(body) => body
                .held_by
                .iter()
                .all(|held| held.is_valid(body.custody, body.epoch, &body.key)),
            _ => true,
        };
        if inside && self.signed.verifies_hash(&self.hash) {
            Ok(())
        } else {
            Err(Refusal::Rejected("bad-signature"))
        }
    }

    /// Nobody unknown writes to the log. Founders and joining organisations enrol themselves.
    pub(super) fn check_authors(&self) -> Result<(), Refusal> {
        let Some(network) = self.network else {
            return Ok(());
        };
        for (author, _) in &self.signed.signatures {
            let known = self.is_joining(author)
                || network.member_of_node(author).is_some()
                || self.is_another_key(author)?
                || self.state.signer(author)?.is_some();
            if !known {
                return Err(Refusal::Rejected("unknown-author"));
            }
        }
        Ok(())
    }

    fn is_joining(&self, author: &Did) -> bool {
        matches!(&self.signed.statement.body, Body::MemberAdded(body) if body.org == *author)
    }

    /// Keys that are not in force and sign all the same: the one that a principal rotates to, beside another author, and the one
    /// that a device sealed a record with which it anchors late.
    fn is_another_key(&self, author: &Did) -> Result<bool, TablesError> {
        match &self.signed.statement.body {
            Body::Rotated(body) if body.key == *author => Ok(self.signed.signatures.len() > 1),
            Body::Anchored(body) if body.device == *author => {
                Ok(self.state.identity(author)?.is_some())
            }
            _ => Ok(false),
        }
    }

    pub(super) fn check_expiry(&self) -> Result<(), Refusal> {
        let Some(not_after) = self.signed.statement.not_after_unix_ms else {
            return Ok(());
        };
        let validity = match self.signed.statement.body.needs_majority() {
            true => Log::MAX_MEMBER_VALIDITY_MS,
            false => Log::MAX_VALIDITY_MS,
        };
        if not_after > self.at.saturating_add(validity) {
            return Err(Refusal::Rejected("expiry-too-far"));
        }
        require(not_after >= self.at, Outcome::Expired)
    }

    /// What is released; it must have come with the statement.
    pub(super) fn list(&self, head: &ListHead) -> Result<&'a ReleaseList, Refusal> {
        let list = self.lists.find(head);
        list.ok_or(Refusal::Rejected("list-missing"))
    }

    /// Where a record is to be held.
    pub(super) fn places(&self, anchored: &Anchored) -> Result<Places<'a>, Refusal> {
        Ok(self.state.places(self.network()?.placing(), anchored)?)
    }

    /// The network that the statement is said in.
    pub(super) fn network(&self) -> Result<&'a Network, Refusal> {
        self.network.ok_or(Refusal::Rejected("not-founded"))
    }

    /// Whether `who`, a principal or a node, has signed, with its key in force.
    pub(super) fn is_signed_by(&self, who: &Did) -> bool {
        self.signers.contains(who)
    }

    /// Whether this very key has signed, in force or not.
    pub(super) fn is_signed_with(&self, key: &Did) -> bool {
        self.signed.signatures.iter().any(|(by, _)| by == key)
    }

    /// A principal that the statement names.
    pub(super) fn known(&self, who: &Did) -> Result<PrincipalEntry, Refusal> {
        let entry = self.state.principal(who)?;
        entry.ok_or(Refusal::Leaf(Outcome::Unknown))
    }

    pub(super) fn require_known<'d>(
        &self,
        all: impl IntoIterator<Item = &'d Did>,
    ) -> Result<(), Refusal> {
        all.into_iter()
            .try_for_each(|who| self.known(who).map(drop))
    }

    /// A principal that the statement names and that must be active.
    pub(super) fn active(&self, who: &Did) -> Result<PrincipalEntry, Refusal> {
        let entry = self.known(who)?;
        require(entry.is_active(), Outcome::Inactive)?;
        Ok(entry)
    }

    /// `who` must have signed, and be active.
    pub(super) fn require_authority(&self, who: &Did) -> Result<PrincipalEntry, Refusal> {
        require(self.is_signed_by(who), Outcome::Forbidden)?;
        self.active(who)
    }
}
