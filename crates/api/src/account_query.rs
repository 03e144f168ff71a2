use crate::{AsOf, ConvertError, SignedQuery, convert, pb::registry as pb, signed_query};
use medanchor_anchor::{
    AccountHead, AccountOf, Disclosure, InclusionProof, Leaf, Opening, ReleaseList,
};
use medanchor_dag::{Did, SigningKey, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// Whose account somebody asks for, and in whose name: a certificate does not say that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountQuery {
    /// 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// Who asks, by the key that signs this.
    pub who: Did,
    /// Whose account.
    pub of: AccountOf,
    /// When it was signed, unix ms.
    pub at: u64,
}

/// Which disclosures of an account are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisclosuresAsked {
    /// Whose, and by whom.
    pub query: AccountQuery,
    /// The number of the first.
    pub first: u64,
    /// At most this many; at most [`AccountQuery::MAX_PAGE`].
    pub limit: usize,
    /// Size of the tree that the proofs are to be for.
    pub proof_tree_size: u64,
}

impl SignedQuery for AccountQuery {
    const LABEL: &'static str = "medanchor/v1/account-query";
    const FIELD: &'static str = "query";
    const MAX_BYTES: usize = 1024;

    fn version(&self) -> u8 {
        self.v
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn who(&self) -> &Did {
        &self.who
    }

    fn at(&self) -> u64 {
        self.at
    }
}

impl AccountQuery {
    /// The most disclosures in one page.
    pub const MAX_PAGE: usize = 256;
    /// A page with more bytes of leaves and openings ends there.
    pub const MAX_PAGE_BYTES: usize = 1 << 20;

    /// The request for the account, signed by who asks.
    pub fn sign(&self, key: &SigningKey) -> pb::GetAccountRequest {
        let (query, signature) = signed_query::sign(self, &[], key);
        pb::GetAccountRequest { query, signature }
    }

    /// The request for its disclosures from number `first` on, with proofs in the tree of that size, signed by who asks.
    pub fn sign_for_disclosures(
        &self,
        key: &SigningKey,
        first: u64,
        proof_tree_size: u64,
    ) -> pb::ListDisclosuresRequest {
        let pb::GetAccountRequest { query, signature } = self.sign(key);
        pb::ListDisclosuresRequest {
            query,
            signature,
            first,
            limit: 0,
            proof_tree_size,
        }
    }
}

/// The account asked for.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed, or not signed by who asks.
pub fn account_asked_for(request: &pb::GetAccountRequest) -> Result<AccountQuery, ConvertError> {
    signed_query::verify(&request.query, &[], &request.signature)
}

/// The disclosures asked for.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed, or not signed by who asks.
pub fn disclosures_asked_for(
    request: &pb::ListDisclosuresRequest,
) -> Result<DisclosuresAsked, ConvertError> {
    let limit = usize::try_from(request.limit).unwrap_or(AccountQuery::MAX_PAGE);
    let limit = if limit == 0 {
        AccountQuery::MAX_PAGE
    } else {
        limit.min(AccountQuery::MAX_PAGE)
    };
    Ok(DisclosuresAsked {
        query: signed_query::verify(&request.query, &[], &request.signature)?,
        first: request.first,
        limit,
        proof_tree_size: request.proof_tree_size,
    })
}

impl From<AsOf<AccountHead>> for pb::GetAccountResponse {
    fn from(AsOf { tree_size, value }: AsOf<AccountHead>) -> Self {
        Self {
            count: value.count,
            head: value.head.as_bytes().to_vec(),
            tree_size,
        }
    }
}

impl TryFrom<pb::GetAccountResponse> for AsOf<AccountHead> {
    type Error = ConvertError;

    fn try_from(response: pb::GetAccountResponse) -> Result<Self, ConvertError> {
        Ok(Self {
            tree_size: response.tree_size,
            value: AccountHead {
                count: response.count,
                head: convert::hash("head", &response.head)?,
            },
        })
    }
}

impl From<AsOf<Vec<Disclosure>>> for pb::ListDisclosuresResponse {
    fn from(AsOf { tree_size, value }: AsOf<Vec<Disclosure>>) -> Self {
        Self {
            disclosures: value.into_iter().map(pb::Disclosure::from).collect(),
            tree_size,
        }
    }
}

impl TryFrom<pb::ListDisclosuresResponse> for AsOf<Vec<Disclosure>> {
    type Error = ConvertError;

    fn try_from(response: pb::ListDisclosuresResponse) -> Result<Self, ConvertError> {
        if response.disclosures.len() > AccountQuery::MAX_PAGE {
            return Err(ConvertError::TooMany {
                field: "disclosures",
                limit: AccountQuery::MAX_PAGE,
            });
        }
        let disclosures = response.disclosures.into_iter();
        let disclosures: Result<_, _> = disclosures.map(Disclosure::try_from).collect();
        Ok(Self {
            tree_size: response.tree_size,
            value: disclosures?,
        })
    }
}

impl From<Disclosure> for pb::Disclosure {
    fn from(disclosure: Disclosure) -> Self {
        let opening = disclosure.opening.as_ref().map(Opening::to_bytes);
        let proof = disclosure.proof.0.iter();
        Self {
            leaf_index: disclosure.index,
            leaf: disclosure.leaf.to_bytes(),
            opening: opening.unwrap_or_default(),
            proof: proof.map(|hash| hash.as_bytes().to_vec()).collect(),
            disclosed: disclosure
                .disclosed
                .as_ref()
                .map(to_canonical)
                .unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Disclosure> for Disclosure {
    type Error = ConvertError;

    fn try_from(disclosure: pb::Disclosure) -> Result<Self, ConvertError> {
        let leaf = Leaf::from_bytes(&disclosure.leaf);
        let opening = match disclosure.opening.as_slice() {
            [] => None,
            bytes => Some(
                Opening::from_bytes(bytes)
                    .map_err(|error| ConvertError::malformed("opening", error))?,
            ),
        };
        if disclosure.proof.len() > MAX_HASHES {
            return Err(ConvertError::TooMany {
                field: "proof",
                limit: MAX_HASHES,
            });
        }
        let proof = disclosure.proof.iter();
        let proof: Result<_, _> = proof.map(|hash| convert::hash("proof", hash)).collect();
        let disclosed = match disclosure.disclosed.as_slice() {
            [] => None,
            bytes => Some(
                from_canonical(bytes, MAX_DISCLOSED_BYTES)
                    .map_err(|error| ConvertError::malformed("disclosed", error))?,
            ),
        };
        Ok(Self {
            disclosed,
            index: disclosure.leaf_index,
            leaf: leaf.map_err(|error| ConvertError::malformed("leaf", error))?,
            opening,
            proof: InclusionProof(proof?),
        })
    }
}

/// Levels of a tree of 2^64 leaves.
const MAX_HASHES: usize = 64;
/// A list, or a part of one with its path.
const MAX_DISCLOSED_BYTES: usize = ReleaseList::MAX_BYTES + 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{CustodyId, Hash, to_canonical};
    use std::fmt::Write as _;

    fn query() -> AccountQuery {
        AccountQuery {
            v: 1,
            origin: "test.example/medanchor".to_owned(),
            who: SigningKey::from_seed(&[1; 32]).did(),
            of: AccountOf::Custody(CustodyId::new([3; 16])),
            at: 1_800_000_000_000,
        }
    }

    #[test]
    fn query_is_as_in_the_documentation() {
        let mut hex = String::new();
        for (number, byte) in to_canonical(&query()).iter().enumerate() {
            let line_ends = number > 0 && number % 50 == 0;
            write!(hex, "{}{byte:02x}", if line_ends { "\n" } else { "" }).unwrap();
        }
        let documentation = include_str!("../../../docs/formats.md");
        let example = format!("```hex account query\n{hex}\n```");
        assert!(documentation.contains(&example), "{example}");
    }

    #[test]
    fn query_is_taken_from_whoever_signed_it_alone() {
        let (key, other) = (
            SigningKey::from_seed(&[1; 32]),
            SigningKey::from_seed(&[2; 32]),
        );
        for of in [query().of, AccountOf::Principal(other.did())] {
            let query = AccountQuery { of, ..query() };
            let signed = query.sign(&key);
            assert_eq!(account_asked_for(&signed).unwrap(), query);
            assert!(account_asked_for(&query.sign(&other)).is_err());
            for at in 0..signed.query.len() {
                let mut changed = signed.clone();
                changed.query[at] ^= 1;
                assert!(account_asked_for(&changed).is_err(), "byte {at}");
            }
            let later = AccountQuery { v: 2, ..query };
            assert!(account_asked_for(&later.sign(&key)).is_err());
        }
    }

    #[test]
    fn query_is_good_for_some_minutes() {
        let (query, good) = (query(), AccountQuery::GOOD_MS);
        for (now, fresh) in [
            (query.at - good - 1, false),
            (query.at - good, true),
            (query.at + good, true),
            (query.at + good + 1, false),
        ] {
            assert_eq!(query.is_fresh(now), fresh, "{now}");
        }
    }

    #[test]
    fn page_is_bounded_whatever_is_asked_for() {
        let mut request = query().sign_for_disclosures(&SigningKey::from_seed(&[1; 32]), 7, 9);
        for (limit, expected) in [(0, 256), (1, 1), (256, 256), (257, 256), (u32::MAX, 256)] {
            request.limit = limit;
            let asked = disclosures_asked_for(&request).unwrap();
            assert_eq!(
                (asked.first, asked.proof_tree_size, asked.limit),
                (7, 9, expected)
            );
        }
        let many = pb::ListDisclosuresResponse {
            disclosures: vec![pb::Disclosure::default(); AccountQuery::MAX_PAGE + 1],
            tree_size: 1,
        };
        assert!(matches!(
            AsOf::<Vec<Disclosure>>::try_from(many),
            Err(ConvertError::TooMany { .. })
        ));
    }

    #[test]
    fn account_survives_the_wire() {
        let account = AsOf {
            tree_size: 7,
            value: AccountHead {
                count: 2,
                head: Hash::new([5; 32]),
            },
        };
        let sent = pb::GetAccountResponse::from(account);
        assert_eq!(AsOf::try_from(sent.clone()).unwrap(), account);
        let short = pb::GetAccountResponse {
            head: vec![5; 31],
            ..sent
        };
        assert!(AsOf::<AccountHead>::try_from(short).is_err());
    }
}
