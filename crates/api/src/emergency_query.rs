use crate::{AsOf, ConvertError, SignedQuery, pb::registry as pb, signed_query};
use medanchor_anchor::{EmergencyEntry, LeafIndex};
use medanchor_dag::{Did, SigningKey, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// Somebody asks for the emergencies that concern them, in their own name: a certificate does not say that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmergencyQuery {
    /// 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// Who asks, by the key that signs this.
    pub who: Did,
    /// When it was signed, unix ms.
    pub at: u64,
}

/// A page of emergencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmergencyPage {
    /// The emergencies. At most [`EmergencyQuery::MAX_PAGE`].
    pub emergencies: Vec<EmergencyEntry>,
    /// The leaf from which the next page goes on; `None`: this was the last.
    pub next: Option<LeafIndex>,
}

impl SignedQuery for EmergencyQuery {
    const LABEL: &'static str = "medanchor/v1/emergency-query";
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

impl EmergencyQuery {
    /// The most emergencies in one page.
    pub const MAX_PAGE: usize = 1000;

    /// The request for those that began with leaf `first` or a later one, signed by who asks.
    pub fn sign(&self, key: &SigningKey, first: LeafIndex) -> pb::ListEmergenciesRequest {
        let (query, signature) = signed_query::sign(self, &[], key);
        pb::ListEmergenciesRequest {
            query,
            signature,
            first,
        }
    }
}

/// The emergencies asked for, and the leaf from which the page goes on.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed, or not signed by who asks.
pub fn emergencies_asked_for(
    request: &pb::ListEmergenciesRequest,
) -> Result<(EmergencyQuery, LeafIndex), ConvertError> {
    let query = signed_query::verify(&request.query, &[], &request.signature)?;
    Ok((query, request.first))
}

impl From<AsOf<EmergencyPage>> for pb::ListEmergenciesResponse {
    fn from(AsOf { tree_size, value }: AsOf<EmergencyPage>) -> Self {
        Self {
            emergencies: value.emergencies.iter().map(to_canonical).collect(),
            next: value.next.unwrap_or(0),
            tree_size,
        }
    }
}

impl TryFrom<pb::ListEmergenciesResponse> for AsOf<EmergencyPage> {
    type Error = ConvertError;

    fn try_from(response: pb::ListEmergenciesResponse) -> Result<Self, ConvertError> {
        if response.emergencies.len() > EmergencyQuery::MAX_PAGE {
            return Err(ConvertError::TooMany {
                field: "emergencies",
                limit: EmergencyQuery::MAX_PAGE,
            });
        }
        let emergencies = response.emergencies.iter();
        let emergencies: Result<_, _> = emergencies
            .map(|bytes| from_canonical(bytes, MAX_ENTRY_BYTES))
            .collect();
        let emergencies =
            emergencies.map_err(|error| ConvertError::malformed("emergencies", error))?;
        Ok(Self {
            tree_size: response.tree_size,
            value: EmergencyPage {
                emergencies,
                // Leaf 0 is the founding.
                next: Some(response.next).filter(|next| *next > 0),
            },
        })
    }
}

const MAX_ENTRY_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{BreakGlass, Finding, OverrideReason, Review};
    use medanchor_dag::CustodyId;
    use std::fmt::Write as _;

    fn query() -> EmergencyQuery {
        EmergencyQuery {
            v: 1,
            origin: "test.example/medanchor".to_owned(),
            who: SigningKey::from_seed(&[1; 32]).did(),
            at: 1_800_000_000_000,
        }
    }

    fn emergency() -> EmergencyEntry {
        EmergencyEntry {
            broken: BreakGlass {
                who: SigningKey::from_seed(&[1; 32]).did(),
                custody: CustodyId::new([3; 16]),
                role: "clinician".to_owned(),
                reason: OverrideReason::Emergency,
            },
            org: SigningKey::from_seed(&[2; 32]).did(),
            since: 7,
            at: 1_800_000_000_000,
            until: 1_800_003_600_000,
            due: 1_800_007_200_000,
            review: Some(Review {
                by: SigningKey::from_seed(&[4; 32]).did(),
                finding: Finding::Justified,
                since: 9,
                at: 1_800_000_000_500,
            }),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        let mut hex = String::new();
        for (number, byte) in bytes.iter().enumerate() {
            let line_ends = number > 0 && number % 50 == 0;
            write!(hex, "{}{byte:02x}", if line_ends { "\n" } else { "" }).unwrap();
        }
        hex
    }

    #[test]
    fn query_and_entry_are_as_in_the_documentation() {
        let documentation = include_str!("../../../docs/formats.md");
        for (name, bytes) in [
            ("emergency query", to_canonical(&query())),
            ("emergency", to_canonical(&emergency())),
        ] {
            let example = format!("```hex {name}\n{}\n```", hex(&bytes));
            assert!(documentation.contains(&example), "{example}");
        }
    }

    #[test]
    fn query_is_taken_from_whoever_signed_it_alone() {
        let (key, other) = (
            SigningKey::from_seed(&[1; 32]),
            SigningKey::from_seed(&[2; 32]),
        );
        for first in [0, 7] {
            let signed = query().sign(&key, first);
            assert_eq!(emergencies_asked_for(&signed).unwrap(), (query(), first));
            for at in 0..signed.query.len() {
                let mut changed = signed.clone();
                changed.query[at] ^= 1;
                assert!(emergencies_asked_for(&changed).is_err(), "byte {at}");
            }
        }
        assert!(emergencies_asked_for(&query().sign(&other, 0)).is_err());
        let later = EmergencyQuery { v: 2, ..query() };
        assert!(emergencies_asked_for(&later.sign(&key, 0)).is_err());
    }

    #[test]
    fn page_survives_the_wire_and_is_bounded() {
        let page = AsOf {
            tree_size: 12,
            value: EmergencyPage {
                emergencies: vec![
                    emergency(),
                    EmergencyEntry {
                        review: None,
                        ..emergency()
                    },
                ],
                next: Some(9),
            },
        };
        let sent = pb::ListEmergenciesResponse::from(page.clone());
        assert_eq!(AsOf::try_from(sent.clone()).unwrap(), page);
        let mut damaged = sent.clone();
        damaged.emergencies[0].push(0);
        assert!(AsOf::<EmergencyPage>::try_from(damaged).is_err());
        let many = pb::ListEmergenciesResponse {
            emergencies: vec![sent.emergencies[0].clone(); EmergencyQuery::MAX_PAGE + 1],
            ..sent
        };
        let refused = AsOf::<EmergencyPage>::try_from(many);
        assert!(matches!(refused, Err(ConvertError::TooMany { .. })));
    }
}
