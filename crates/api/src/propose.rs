use crate::{
    ConvertError,
    hold::hold,
    log::{optional_release_list, release_list, release_list_to_pb},
    pb::raft::{ProposeGroupRequest, ProposeRequest},
};
use medanchor_anchor::{Batch, Group, Hold, ReleaseList, SignedStatement, Submission};
use medanchor_dag::to_canonical;

impl From<&Submission> for ProposeRequest {
    fn from(submission: &Submission) -> Self {
        Self {
            signed_statement: submission.signed.to_bytes(),
            holds: submission.holds.iter().map(to_canonical).collect(),
            release_list: release_list_to_pb(submission.list.as_ref()),
        }
    }
}

impl TryFrom<ProposeRequest> for Submission {
    type Error = ConvertError;

    fn try_from(request: ProposeRequest) -> Result<Self, ConvertError> {
        let signed = SignedStatement::from_bytes(&request.signed_statement)
            .map_err(|error| ConvertError::malformed("signed_statement", error))?;
        Ok(Self {
            signed,
            holds: holds(&request.holds)?,
            list: optional_release_list(&request.release_list)?,
        })
    }
}

impl From<&Group> for ProposeGroupRequest {
    fn from(group: &Group) -> Self {
        let statements = group.statements.iter();
        Self {
            signed_statements: statements.map(SignedStatement::to_bytes).collect(),
            holds: group.holds.iter().map(to_canonical).collect(),
            release_lists: group.lists.iter().map(ReleaseList::to_bytes).collect(),
        }
    }
}

impl TryFrom<ProposeGroupRequest> for Group {
    type Error = ConvertError;

    fn try_from(request: ProposeGroupRequest) -> Result<Self, ConvertError> {
        if request.signed_statements.len() > Batch::MAX_ENTRIES {
            return Err(ConvertError::TooMany {
                field: STATEMENTS,
                limit: Batch::MAX_ENTRIES,
            });
        }
        let statements = request.signed_statements.iter().map(|bytes| {
            SignedStatement::from_bytes(bytes)
                .map_err(|error| ConvertError::malformed(STATEMENTS, error))
        });
        Ok(Self {
            statements: statements.collect::<Result<_, _>>()?,
            holds: holds(&request.holds)?,
            lists: lists(&request.release_lists)?,
        })
    }
}

fn holds(holds: &[Vec<u8>]) -> Result<Vec<Hold>, ConvertError> {
    if holds.len() > MAX_HOLDS {
        return Err(ConvertError::TooMany {
            field: "holds",
            limit: MAX_HOLDS,
        });
    }
    holds.iter().map(|bytes| hold("holds", bytes)).collect()
}

fn lists(lists: &[Vec<u8>]) -> Result<Vec<ReleaseList>, ConvertError> {
    if lists.len() > Batch::MAX_ENTRIES {
        return Err(ConvertError::TooMany {
            field: "release_lists",
            limit: Batch::MAX_ENTRIES,
        });
    }
    lists.iter().map(|bytes| release_list(bytes)).collect()
}

const STATEMENTS: &str = "signed_statements";

/// Members of a network: each holds once.
const MAX_HOLDS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{Body, ReleasePart, ReleaseRow, Standing, Statement};
    use medanchor_dag::{CustodyId, Hash, SigningKey};

    #[test]
    fn submission_survives_the_wire() {
        let submission = submission();
        let request = ProposeRequest::from(&submission);
        assert_eq!(Submission::try_from(request).unwrap(), submission);
    }

    #[test]
    fn propose_request_rejects_too_many_holds_and_malformed_ones() {
        let mut request = ProposeRequest::from(&submission());
        request.holds = vec![request.holds[0].clone(); MAX_HOLDS + 1];
        assert!(matches!(
            Submission::try_from(request.clone()),
            Err(ConvertError::TooMany { field: "holds", .. })
        ));
        request.holds = vec![b"\xa0".to_vec()];
        assert!(matches!(
            Submission::try_from(request.clone()),
            Err(ConvertError::Malformed { field: "holds", .. })
        ));
        request.holds.clear();
        request.signed_statement.push(0);
        assert!(matches!(
            Submission::try_from(request),
            Err(ConvertError::Malformed { .. })
        ));
    }

    #[test]
    fn group_survives_the_wire_and_is_not_larger_than_a_batch() {
        let group = Group::from(submission());
        let mut request = ProposeGroupRequest::from(&group);
        assert_eq!(Group::try_from(request.clone()).unwrap(), group);
        request.signed_statements =
            vec![request.signed_statements[0].clone(); Batch::MAX_ENTRIES + 1];
        assert!(matches!(
            Group::try_from(request.clone()),
            Err(ConvertError::TooMany {
                field: STATEMENTS,
                ..
            })
        ));
        request.signed_statements = vec![b"\xa0".to_vec()];
        assert!(matches!(
            Group::try_from(request),
            Err(ConvertError::Malformed {
                field: STATEMENTS,
                ..
            })
        ));
    }

    fn submission() -> Submission {
        let key = SigningKey::from_seed(&[1; 32]);
        let body = Body::Suspended(Standing { who: key.did() });
        Submission {
            signed: Statement::new("test.example", body, [2; 16], 3).sign(&[&key]),
            holds: vec![Hold::sign(&key, "test.example", Vec::new(), 4)],
            list: Some(ReleaseList {
                parts: vec![ReleasePart {
                    custody: CustodyId::new([1; 16]),
                    since: 2,
                    consent: None,
                    rows: vec![ReleaseRow {
                        record: medanchor_dag::cid_of(medanchor_dag::Codec::DagCbor, &[1; 32]),
                        device: 1,
                        wrap: Hash::of(b"wrap"),
                    }],
                }],
            }),
        }
    }
}
