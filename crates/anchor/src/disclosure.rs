use crate::{
    AccountHead, AccountOf, Body, InclusionProof, Kind, Leaf, LeafIndex, ListHead, Opening,
    Outcome, PartProof, ProofError, ReleaseList, ReleasePart, Released, tree::leaf_hash,
};
use medanchor_dag::Hash;
use serde::{Deserialize, Serialize};

/// An entry of an account: the leaf of a release that took effect, and what shows that it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosure {
    /// The leaf's index.
    pub index: LeafIndex,
    /// The leaf.
    pub leaf: Leaf,
    /// What it commits to; null when it was deleted.
    pub opening: Option<Opening>,
    /// What was released, as far as it is of the account; null when it was deleted.
    pub disclosed: Option<Disclosed>,
    /// Its place in a tree.
    pub proof: InclusionProof,
}

/// What was released, as far as it is of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disclosed {
    /// Of the account of a custody key: what is under it, and nothing of what is under others.
    Part(PartProof),
    /// Of the account of a principal: all of it.
    Whole(ReleaseList),
}

/// The tree that disclosures are to be in, as a checkpoint that is believed says it.
#[derive(Clone, Copy, Debug)]
pub struct DisclosedIn<'c> {
    /// The log's name.
    pub origin: &'c str,
    /// How many leaves it has.
    pub size: u64,
    /// Its root.
    pub root: &'c Hash,
}

/// Why disclosures are not those of an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Some were left out, or added.
    #[error("the account has {stated} disclosures, and {given} were given: {}", what_is_wrong(*stated, *given))]
    Count {
        /// How many the account has.
        stated: u64,
        /// How many there are.
        given: u64,
    },
    /// Their number is right, and they are others.
    #[error(
        "the disclosures that were given are not those of the account: one was withheld and another put in its place, or changed"
    )]
    Head,
    /// They are not in the order of the log, each once.
    #[error("leaf {0} is given out of order")]
    Order(LeafIndex),
    /// The leaf is not in the tree.
    #[error("leaf {index} is not shown to be in the log")]
    Inclusion {
        /// The leaf.
        index: LeafIndex,
        /// Why not.
        #[source]
        source: ProofError,
    },
    /// The leaf is of something else.
    #[error("leaf {0} is not of a release that took effect")]
    Kind(LeafIndex),
    /// The opening is not the one that the leaf commits to, or a signature in it does not verify.
    #[error("what is given as the content of leaf {0} is not its content")]
    Opening(LeafIndex),
    /// What is given as released is not what the release is of.
    #[error("what is given as released with leaf {0} is not what was")]
    Disclosed(LeafIndex),
    /// It is a release under another custody key.
    #[error("leaf {0} is of another account")]
    OfAnother(LeafIndex),
}

impl Disclosure {
    /// What was released to whom, where its opening is there.
    pub fn released(&self) -> Option<&Released> {
        match &self.opening.as_ref()?.0.signed.statement.body {
            Body::Released(released) => Some(released),
            _ => None,
        }
    }

    /// The parts of the release that are of the account, where they are there.
    pub fn parts(&self) -> &[ReleasePart] {
        match &self.disclosed {
            Some(Disclosed::Part(proof)) => std::slice::from_ref(&proof.part),
            Some(Disclosed::Whole(list)) => &list.parts,
            None => &[],
        }
    }

    /// Checks its place in the log, and its content against that.
    fn verify(&self, of: &AccountOf, tree: &DisclosedIn<'_>) -> Result<Hash, AccountError> {
        let index = self.index;
        let hash = leaf_hash(&self.leaf.to_bytes());
        let in_tree = self.proof.verify(&hash, index, tree.size, tree.root);
        in_tree.map_err(|source| AccountError::Inclusion { index, source })?;
        let Leaf {
            v, kind, outcome, ..
        } = self.leaf;
        if (v, kind, outcome) != (1, Kind::Released, Outcome::Ok) {
            return Err(AccountError::Kind(index));
        }
        match &self.opening {
            Some(opening) => self.verify_opening(opening, of, tree.origin)?,
            // Nothing says what was released.
            None if self.disclosed.is_some() => return Err(AccountError::Disclosed(index)),
            None => (),
        }
        Ok(hash)
    }

    fn verify_opening(
        &self,
        opening: &Opening,
        of: &AccountOf,
        origin: &str,
    ) -> Result<(), AccountError> {
        let signed = &opening.0.signed;
        let released = self.released();
        let released = released.ok_or(AccountError::Opening(self.index))?;
        let is_its = opening.commitment() == self.leaf.opening
            && signed.statement.origin == origin
            && signed.verifies()
            && released.request.verifies();
        if !is_its {
            return Err(AccountError::Opening(self.index));
        }
        self.verify_disclosed(of, &released.list)
    }

    fn verify_disclosed(&self, of: &AccountOf, list: &ListHead) -> Result<(), AccountError> {
        let is_of_it = match (&self.disclosed, of) {
            (None, _) => true,
            (Some(Disclosed::Part(proof)), AccountOf::Custody(custody)) => {
                if proof.part.custody != *custody {
                    return Err(AccountError::OfAnother(self.index));
                }
                !proof.part.rows.is_empty() && proof.verify(list).is_ok()
            }
            // Whom a requester belongs to does not stand in its request.
            (Some(Disclosed::Whole(whole)), AccountOf::Principal(_)) => {
                whole.is_well_formed() && whole.head() == *list
            }
            _ => false,
        };
        match is_of_it {
            true => Ok(()),
            false => Err(AccountError::Disclosed(self.index)),
        }
    }
}

impl AccountHead {
    /// Checks that these are all the disclosures of the account, in order and nothing else, that they are in the log, and that
    /// what they say is what the log has of them. What is missing is found too: the chain ends otherwise.
    ///
    /// That the account is one of the log's is for the caller to show.
    ///
    /// # Errors
    ///
    /// [`AccountError`]
    pub fn verify(
        &self,
        of: &AccountOf,
        disclosures: &[Disclosure],
        tree: &DisclosedIn<'_>,
    ) -> Result<(), AccountError> {
        let given = u64::try_from(disclosures.len()).unwrap_or(u64::MAX);
        if given != self.count {
            let stated = self.count;
            return Err(AccountError::Count { stated, given });
        }
        let (mut account, mut last) = (Self::default(), None);
        for disclosure in disclosures {
            if last.is_some_and(|last| disclosure.index <= last) {
                return Err(AccountError::Order(disclosure.index));
            }
            last = Some(disclosure.index);
            account = account.then(&disclosure.verify(of, tree)?);
        }
        match account == *self {
            true => Ok(()),
            false => Err(AccountError::Head),
        }
    }

    /// Whether an account with these disclosures was once this one: they begin with its own.
    pub fn was(&self, disclosures: &[Disclosure]) -> bool {
        let Some(first) = usize::try_from(self.count)
            .ok()
            .and_then(|count| disclosures.get(..count))
        else {
            return false;
        };
        let link = |account: Self, disclosure: &Disclosure| {
            account.then(&leaf_hash(&disclosure.leaf.to_bytes()))
        };
        first.iter().fold(Self::default(), link) == *self
    }
}

fn what_is_wrong(stated: u64, given: u64) -> &'static str {
    match given < stated {
        true => "a disclosure was withheld",
        false => "there is one too many",
    }
}
