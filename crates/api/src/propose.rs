use crate::{ConvertError, hold::hold, pb::raft::ProposeRequest};
use medanchor_anchor::{SignedStatement, Submission};
use medanchor_dag::to_canonical;

impl From<&Submission> for ProposeRequest {
    fn from(submission: &Submission) -> Self {
        Self {
            signed_statement: submission.signed.to_bytes(),
            holds: submission.holds.iter().map(to_canonical).collect(),
        }
    }
}

impl TryFrom<ProposeRequest> for Submission {
    type Error = ConvertError;

    fn try_from(request: ProposeRequest) -> Result<Self, ConvertError> {
        let signed = SignedStatement::from_bytes(&request.signed_statement)
            .map_err(|error| ConvertError::malformed("signed_statement", error))?;
        if request.holds.len() > MAX_HOLDS {
            return Err(ConvertError::TooMany {
                field: "holds",
                limit: MAX_HOLDS,
            });
        }
        let holds = request.holds.iter().map(|bytes| hold("holds", bytes));
        Ok(Self {
            signed,
            holds: holds.collect::<Result<_, _>>()?,
        })
    }
}

/// Members of a network: each holds once.
const MAX_HOLDS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{Body, Hold, Standing, Statement};
    use medanchor_dag::SigningKey;

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

    fn submission() -> Submission {
        let key = SigningKey::from_seed(&[1; 32]);
        let body = Body::Suspended(Standing { who: key.did() });
        Submission {
            signed: Statement::new("test.example", body, [2; 16], 3).sign(&[&key]),
            holds: vec![Hold::sign(&key, "test.example", Vec::new(), 4)],
        }
    }
}
