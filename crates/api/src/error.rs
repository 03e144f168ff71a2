use crate::{
    BoxError, ConvertError,
    status::{retry_after, stable_code},
};
use std::{error::Error, time::Duration};
use tonic::{Code, Status};

/// Why a call did not succeed on any node.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node that was tried could serve the call: try again later. The call may have taken effect; the
    /// same call again is safe.
    #[error("none of {tried} nodes could serve the call")]
    Unavailable {
        /// How many nodes were tried.
        tried: usize,
        /// What the last of them said.
        #[source]
        last: NodeError,
    },
    /// The caller may not do this.
    #[error(transparent)]
    Denied(NodeError),
    /// What was asked for does not exist, or is not the caller's to see.
    #[error(transparent)]
    NotFound(NodeError),
    /// The call is not acceptable as it is: change it.
    #[error(transparent)]
    Rejected(NodeError),
    /// A node answered with something that is not an answer: it is broken or lies.
    #[error("node `{node}` gave an invalid answer")]
    InvalidAnswer {
        /// The node's short name.
        node: String,
        /// What is wrong with the answer.
        #[source]
        source: ConvertError,
    },
}

/// An error answer of one node, or that there was none.
#[derive(Debug, thiserror::Error)]
#[error("node `{node}`: {message}")]
pub struct NodeError {
    /// The node's short name.
    pub node: String,
    /// The stable code; `unreachable` when the node did not answer, `unknown` when it gave no code.
    pub code: String,
    /// The public sentence.
    pub message: String,
    /// When it asked for the call to be made again, if it did.
    pub retry_after: Option<Duration>,
    /// What lies below, when the node could not be reached.
    #[source]
    source: Option<BoxError>,
}

impl ClientError {
    /// The stable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Unavailable { last: error, .. }
            | Self::Denied(error)
            | Self::NotFound(error)
            | Self::Rejected(error) => &error.code,
            Self::InvalidAnswer { .. } => "invalid-answer",
        }
    }
}

/// What one node made of a call.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another node may do better.
    Node(NodeError),
    /// So may it after an answer that cannot be parsed.
    Invalid(ConvertError),
    /// Every node would say the same.
    Final(ClientError),
}

impl Failure {
    pub(crate) fn new(node: &str, status: &Status) -> Self {
        let code = status.code();
        let error = NodeError::new(node, status);
        match code {
            Code::PermissionDenied | Code::Unauthenticated => {
                Self::Final(ClientError::Denied(error))
            }
            Code::NotFound => Self::Final(ClientError::NotFound(error)),
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Unimplemented => Self::Final(ClientError::Rejected(error)),
            _ => Self::Node(error),
        }
    }
}

impl Failure {
    /// When the node asked for the call to be made again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Node(error) => error.retry_after,
            _ => None,
        }
    }

    /// Whether the node said something, and was not just silent.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self, Self::Node(error) if [UNREACHABLE, TIMED_OUT].contains(&error.code.as_str()))
    }

    /// What a caller is told when the last of `tried` nodes failed like this.
    pub(crate) fn after(self, tried: usize, node: &str) -> ClientError {
        match self {
            Self::Node(last) => ClientError::Unavailable { tried, last },
            Self::Invalid(source) => ClientError::InvalidAnswer {
                node: node.to_owned(),
                source,
            },
            Self::Final(error) => error,
        }
    }
}

impl NodeError {
    pub(crate) fn new(node: &str, status: &Status) -> Self {
        let code = match (stable_code(status), status.code()) {
            (Some(code), _) => code,
            (None, Code::Unavailable) => UNREACHABLE,
            // Made on this side, of a refused certificate or of a connection that closed before the call
            // was written, under whatever code: a node's own answers have no source.
            (None, _) if status.source().is_some() => UNREACHABLE,
            (None, _) => "unknown",
        };
        let code = code.to_owned();
        let message = if code == UNREACHABLE {
            // The transport's own words name its layers, not the matter; the root cause follows.
            "cannot be reached".to_owned()
        } else {
            let printable = status.message().chars().filter(|char| !char.is_control());
            printable.take(MAX_MESSAGE_CHARS).collect()
        };
        Self {
            node: node.to_owned(),
            code,
            message,
            retry_after: retry_after(status),
            source: status.source().map(|source| root_cause(source).into()),
        }
    }

    pub(crate) fn timed_out(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            code: TIMED_OUT.to_owned(),
            message: "no answer in time".to_owned(),
            retry_after: None,
            source: None,
        }
    }
}

/// The deepest of a borrowed chain of errors, as text: a `Status` lends its source and cannot give it away.
fn root_cause(mut error: &dyn Error) -> String {
    while let Some(deeper) = error.source() {
        error = deeper;
    }
    error.to_string()
}

const UNREACHABLE: &str = "unreachable";
const TIMED_OUT: &str = "timed-out";
const MAX_MESSAGE_CHARS: usize = 1000;

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use crate::status;

    #[test]
    fn node_failures_are_tried_elsewhere_and_refusals_are_not() {
        let failure = |code| Failure::new("a", &status(code, "some-code", "sentence"));
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Internal,
            Code::ResourceExhausted,
            Code::Unknown,
        ] {
            assert!(matches!(failure(code), Failure::Node(_)), "{code:?}");
        }
        for code in [
            Code::PermissionDenied,
            Code::NotFound,
            Code::InvalidArgument,
        ] {
            assert!(matches!(failure(code), Failure::Final(_)), "{code:?}");
        }
    }

    #[test]
    fn failures_of_the_connection_are_unreachable_nodes_under_whatever_code() {
        for code in [Code::Cancelled, Code::Unknown, Code::Internal] {
            let mut status = Status::new(code, "operation was canceled");
            assert_eq!(NodeError::new("a", &status).code, "unknown");
            status.set_source(Arc::new(io::Error::other("connection closed")));
            let error = NodeError::new("a", &status);
            assert_eq!(error.code, "unreachable", "{code:?}");
            assert!(error.source().is_some(), "{code:?}");
        }
    }

    #[test]
    fn message_of_a_node_is_bounded_and_printable() {
        let message = format!("\u{1b}[2J{}", "x".repeat(5000));
        let error = NodeError::new("a", &Status::new(Code::Internal, message));
        assert!(error.message.len() <= MAX_MESSAGE_CHARS);
        assert!(!error.message.contains('\u{1b}'));
    }
}
