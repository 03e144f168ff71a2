use crate::{AsOf, ConvertError, SignedQuery, convert, pb::registry as pb, signed_query};
use medanchor_anchor::{EmergencyEntry, LeafIndex};
use medanchor_dag::{CustodyId, Did, SigningKey, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// Somebody asks for the emergencies that concern them, in their own name: a certificate does not say that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmergencyQuery {
    /// 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// Who asks.
    pub who: Did,
    /// When it was signed, unix ms.
    pub at: u64,
}

/// Where a page of emergencies begins: behind that of this custody key and leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmergencyPlace {
    /// The custody key.
    pub custody: CustodyId,
    /// The leaf.
    pub since: LeafIndex,
}

/// A page of emergencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmergencyPage {
    /// The emergencies. At most [`EmergencyQuery::MAX_PAGE`].
    pub emergencies: Vec<EmergencyEntry>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<EmergencyPlace>,
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

    /// The request for a page of them, signed by who asks.
    pub fn sign(
        &self,
        key: &SigningKey,
        after: Option<&EmergencyPlace>,
    ) -> pb::ListEmergenciesRequest {
        let (query, signature) = signed_query::sign(self, &[], key);
        pb::ListEmergenciesRequest {
            query,
            signature,
            after: after.map(EmergencyPlace::to_bytes).unwrap_or_default(),
        }
    }
}

/// The emergencies asked for, and where the page begins.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed, or not signed by who asks.
pub fn emergencies_asked_for(
    request: &pb::ListEmergenciesRequest,
) -> Result<(EmergencyQuery, Option<EmergencyPlace>), ConvertError> {
    let query = signed_query::verify(&request.query, &[], &request.signature)?;
    Ok((query, EmergencyPlace::parse("after", &request.after)?))
}

impl EmergencyPlace {
    fn to_bytes(&self) -> Vec<u8> {
        [
            self.custody.as_bytes().as_slice(),
            &self.since.to_be_bytes(),
        ]
        .concat()
    }

    fn parse(field: &'static str, bytes: &[u8]) -> Result<Option<Self>, ConvertError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let [custody @ .., a, b, c, d, e, f, g, h] = convert::array::<24>(field, bytes)?;
        Ok(Some(Self {
            custody: CustodyId::new(custody),
            since: LeafIndex::from_be_bytes([a, b, c, d, e, f, g, h]),
        }))
    }
}

impl From<AsOf<EmergencyPage>> for pb::ListEmergenciesResponse {
    fn from(AsOf { tree_size, value }: AsOf<EmergencyPage>) -> Self {
        Self {
            emergencies: value.emergencies.iter().map(to_canonical).collect(),
            next: value.next.map(|next| next.to_bytes()).unwrap_or_default(),
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
                next: EmergencyPlace::parse("next", &response.next)?,
            },
        })
    }
}

const MAX_ENTRY_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{BreakGlass, Finding, OverrideReason, Review};
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
        let place = EmergencyPlace {
            custody: CustodyId::new([3; 16]),
            since: 0x0102_0304_0506_0708,
        };
        for after in [None, Some(place)] {
            let signed = query().sign(&key, after.as_ref());
            assert_eq!(emergencies_asked_for(&signed).unwrap(), (query(), after));
            for at in 0..signed.query.len() {
                let mut changed = signed.clone();
                changed.query[at] ^= 1;
                assert!(emergencies_asked_for(&changed).is_err(), "byte {at}");
            }
        }
        assert!(emergencies_asked_for(&query().sign(&other, None)).is_err());
        let later = EmergencyQuery { v: 2, ..query() };
        assert!(emergencies_asked_for(&later.sign(&key, None)).is_err());
        let mut elsewhere = query().sign(&key, Some(&place));
        elsewhere.after.pop();
        assert!(emergencies_asked_for(&elsewhere).is_err());
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
                next: Some(EmergencyPlace {
                    custody: CustodyId::new([3; 16]),
                    since: 7,
                }),
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
