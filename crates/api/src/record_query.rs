use crate::{AsOf, ConvertError, SignedQuery, convert, pb::registry as pb, signed_query};
use medanchor_anchor::{Anchored, LeafIndex};
use medanchor_dag::{Cid, Class, CustodyId, Did, SigningKey};
use serde::{Deserialize, Serialize};

/// Which records somebody asks to be told of, and in whose name: a certificate does not say that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordQuery {
    /// 1.
    pub v: u8,
    /// The network's name.
    pub origin: String,
    /// Who asks, by the key that signs this.
    pub who: Did,
    /// The role acted in.
    pub role: String,
    /// The purpose of use.
    pub purpose: String,
    /// When it was signed, unix ms.
    pub at: u64,
    /// Only records under this custody key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custody: Option<CustodyId>,
    /// Only records of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Only records that were captured then or later, unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Only records that were captured before, unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// Where a page of records begins: behind all whose digest begins with this or, where the query names a custody key, behind
/// the one that this leaf anchored. It names no record.
pub type RecordPlace = [u8; 8];

/// A record that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRecord {
    /// The record.
    pub record: Cid,
    /// The custody key that it is under.
    pub custody: CustodyId,
    /// The leaf that anchored it.
    pub index: LeafIndex,
}

/// A page of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPage {
    /// The records. At most [`RecordQuery::MAX_PAGE`].
    pub records: Vec<ListedRecord>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<RecordPlace>,
}

impl SignedQuery for RecordQuery {
    const LABEL: &'static str = "medanchor/v1/record-query";
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

impl RecordQuery {
    /// The most records in one page.
    pub const MAX_PAGE: usize = 4096;

    /// Whether a record is meant.
    pub fn has(&self, anchored: &Anchored) -> bool {
        self.custody.is_none_or(|wanted| wanted == anchored.custody)
            && self.class.is_none_or(|wanted| wanted == anchored.class)
            && self.from.is_none_or(|from| anchored.captured_at >= from)
            && self.until.is_none_or(|until| anchored.captured_at < until)
    }

    /// The request for a page of it, signed by who asks.
    pub fn sign(&self, key: &SigningKey, after: Option<&RecordPlace>) -> pb::ListRecordsRequest {
        let (query, signature) = signed_query::sign(self, &[], key);
        pb::ListRecordsRequest {
            query,
            signature,
            after: after.map(|after| after.to_vec()).unwrap_or_default(),
        }
    }
}

/// The records asked for, and where the page begins.
///
/// # Errors
///
/// [`ConvertError`] when it is malformed, or not signed by who asks.
pub fn records_asked_for(
    request: &pb::ListRecordsRequest,
) -> Result<(RecordQuery, Option<RecordPlace>), ConvertError> {
    let query = signed_query::verify(&request.query, &[], &request.signature)?;
    Ok((query, place("after", &request.after)?))
}

impl From<AsOf<RecordPage>> for pb::ListRecordsResponse {
    fn from(AsOf { tree_size, value }: AsOf<RecordPage>) -> Self {
        Self {
            records: value.records.into_iter().map(Into::into).collect(),
            next: value.next.map(|next| next.to_vec()).unwrap_or_default(),
            tree_size,
        }
    }
}

impl TryFrom<pb::ListRecordsResponse> for AsOf<RecordPage> {
    type Error = ConvertError;

    fn try_from(response: pb::ListRecordsResponse) -> Result<Self, ConvertError> {
        if response.records.len() > RecordQuery::MAX_PAGE {
            return Err(ConvertError::TooMany {
                field: "records",
                limit: RecordQuery::MAX_PAGE,
            });
        }
        let records = response.records.into_iter().map(ListedRecord::try_from);
        let records = records.collect::<Result<_, _>>()?;
        Ok(Self {
            tree_size: response.tree_size,
            value: RecordPage {
                records,
                next: place("next", &response.next)?,
            },
        })
    }
}

impl From<ListedRecord> for pb::ListedRecord {
    fn from(listed: ListedRecord) -> Self {
        Self {
            record: listed.record.to_bytes(),
            custody: listed.custody.as_bytes().to_vec(),
            leaf_index: listed.index,
        }
    }
}

impl TryFrom<pb::ListedRecord> for ListedRecord {
    type Error = ConvertError;

    fn try_from(listed: pb::ListedRecord) -> Result<Self, ConvertError> {
        Ok(Self {
            record: convert::cid("record", &listed.record)?,
            custody: convert::custody_id("custody", &listed.custody)?,
            index: listed.leaf_index,
        })
    }
}

fn place(field: &'static str, bytes: &[u8]) -> Result<Option<RecordPlace>, ConvertError> {
    match bytes {
        [] => Ok(None),
        bytes => convert::array(field, bytes).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::to_canonical;
    use std::fmt::Write as _;

    #[test]
    fn query_is_as_in_the_documentation() {
        let query = RecordQuery {
            v: 1,
            origin: "test.example/medanchor".to_owned(),
            who: SigningKey::from_seed(&[1; 32]).did(),
            role: "researcher".to_owned(),
            purpose: "HRESCH".to_owned(),
            at: 1_800_000_000_000,
            custody: Some(CustodyId::new([3; 16])),
            class: Some(Class::Ecg),
            from: Some(1_772_323_200_000),
            until: None,
        };
        let mut hex = String::new();
        for (number, byte) in to_canonical(&query).iter().enumerate() {
            let line_ends = number > 0 && number % 50 == 0;
            write!(hex, "{}{byte:02x}", if line_ends { "\n" } else { "" }).unwrap();
        }
        let documentation = include_str!("../../../docs/formats.md");
        let example = format!("```hex record query\n{hex}\n```");
        assert!(documentation.contains(&example), "{example}");
        let signed = query.sign(&SigningKey::from_seed(&[1; 32]), None);
        assert_eq!(records_asked_for(&signed).unwrap(), (query, None));
    }

    #[test]
    fn page_survives_the_wire() {
        let record = ListedRecord {
            record: medanchor_dag::cid_of(medanchor_dag::Codec::DagCbor, &[7; 32]),
            custody: CustodyId::new([3; 16]),
            index: 5,
        };
        for (records, next) in [(vec![], None), (vec![record], Some([9; 8]))] {
            let page = AsOf {
                tree_size: 7,
                value: RecordPage { records, next },
            };
            let sent = pb::ListRecordsResponse::from(page.clone());
            assert_eq!(AsOf::try_from(sent).unwrap(), page);
        }
        let long = pb::ListRecordsResponse {
            next: vec![0; 9],
            ..Default::default()
        };
        assert!(AsOf::<RecordPage>::try_from(long).is_err());
        let many = pb::ListRecordsResponse {
            records: vec![record.into(); RecordQuery::MAX_PAGE + 1],
            ..Default::default()
        };
        assert!(AsOf::<RecordPage>::try_from(many).is_err());
    }
}
