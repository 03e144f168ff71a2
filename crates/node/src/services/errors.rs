//! What a caller is told: a stable code and a public sentence. The detail goes to the log, once.

use crate::{holders::HoldingError, submit::SubmitError};
use medanchor_anchor::{AppendError, BoxError, ReadError, TablesError};
use medanchor_api::{overloaded, status};
use medanchor_dag::{SourceError, StoreError};
use medanchor_ipfs::FetchError;
use tonic::{Code, Status};

/// What was parsed; otherwise the caller is told what is wrong with it.
pub(crate) fn parsed<T>(result: Result<T, impl Into<anyhow::Error>>) -> Result<T, Status> {
    result.map_err(|error| {
        let sentence = format!("{:#}", error.into());
        status(Code::InvalidArgument, "malformed", sentence)
    })
}

pub(crate) fn internal(error: impl Into<anyhow::Error>) -> Status {
    tracing::error!("a request failed: {:#}", error.into());
    status(
        Code::Internal,
        "internal",
        "the node failed; its operator can find the cause in its log",
    )
}

pub(crate) fn append_status(error: AppendError) -> Status {
    match error {
        // Other holders, or the same a little later, may hold it.
        AppendError::Rejected("not-held") => status(
            Code::Unavailable,
            "not-held",
            "too few nodes hold the record long enough; nothing was anchored: try again",
        ),
        AppendError::Rejected(code) => status(Code::FailedPrecondition, code, rejection(code)),
        AppendError::Overloaded { retry_after } => overloaded(retry_after),
        AppendError::Unavailable(source) => unavailable(&source),
        AppendError::OutcomeUnknown(source) => {
            tracing::warn!("outcome of an append is unknown: {source}");
            status(
                Code::Unavailable,
                "outcome-unknown",
                "the statement may still be recorded: submit the same statement again",
            )
        }
        AppendError::Stopped(source) => stopped(&source),
    }
}

pub(crate) fn read_status(error: ReadError) -> Status {
    match error {
        ReadError::Unavailable(source) => unavailable(&source),
        ReadError::Stopped(source) => stopped(&source),
    }
}

pub(crate) fn tables_status(error: TablesError) -> Status {
    internal(error)
}

pub(crate) fn store_status(error: StoreError) -> Status {
    match error {
        StoreError::Full(source) => {
            tracing::warn!("blocks are refused: no room on the disk: {source}");
            status(
                Code::ResourceExhausted,
                "disk-full",
                "this node's disk is full: use another node, or free space on it",
            )
        }
        StoreError::Block(error) => status(Code::InvalidArgument, "malformed", error.to_string()),
        error => internal(error),
    }
}

pub(crate) fn holding_status(error: HoldingError) -> Status {
    match error {
        HoldingError::Statement(code) => append_status(AppendError::Rejected(code)),
        // Also when it is full of what other nodes were to give.
        HoldingError::Incomplete(FetchError::Block(SourceError::Store(error)))
        | HoldingError::Store(SourceError::Store(error)) => store_status(error),
        HoldingError::Incomplete(source) => {
            tracing::info!("a record is incomplete: {source}");
            // Another node may have them, and so may this one when they are sent again.
            status(
                Code::Aborted,
                "record-incomplete",
                "blocks of the record are missing on this node: upload them all, then submit again",
            )
        }
        HoldingError::Record(source) => status(
            Code::InvalidArgument,
            "record-invalid",
            format!("the record is not valid: {source}"),
        ),
        HoldingError::Signature(_) => status(
            Code::InvalidArgument,
            "record-invalid",
            "the record is not signed by its device",
        ),
        HoldingError::Disagrees => status(
            Code::InvalidArgument,
            "record-invalid",
            "the statement says something else of the record than its device signed",
        ),
        HoldingError::Store(source) => internal(source),
        HoldingError::Read(error) => read_status(error),
        HoldingError::Tables(error) => tables_status(error),
        HoldingError::TooFew { held, copies } => status(
            Code::Unavailable,
            "not-held",
            format!(
                "{held} of {copies} nodes hold the record; nothing was anchored: try again when more \
                 nodes are up"
            ),
        ),
    }
}

pub(crate) fn submit_status(error: SubmitError) -> Status {
    match error {
        SubmitError::Holding(error) => holding_status(error),
        SubmitError::Append(error) => append_status(error),
        SubmitError::Read(error) => read_status(error),
        SubmitError::Tables(error) => tables_status(error),
    }
}

fn unavailable(source: &BoxError) -> Status {
    tracing::warn!("no quorum: {source}");
    status(
        Code::Unavailable,
        "no-quorum",
        "no quorum of nodes can be reached: try again, or another node",
    )
}

fn stopped(source: &BoxError) -> Status {
    tracing::error!("the replica has stopped: {source}");
    status(
        Code::Unavailable,
        "stopped",
        "this node has stopped: use another one",
    )
}

fn rejection(code: &str) -> String {
    let why = match code {
        "bad-signature" => "a signature does not verify",
        "unknown-author" => "its author is not enrolled: enrol it first",
        "wrong-origin" => "it is meant for another network",
        "not-for-the-log" => "send access requests to the access service",
        "expiry-too-far" => "it expires more than a day ahead: check the clock",
        "already-founded" => "the network exists already",
        "over-quota" => {
            "the organisation that owns the custody key has no room left for it: ask the members for more (`medanchor admin \
             placement show`)"
        }
        _ => "it is malformed",
    };
    format!("the statement cannot be recorded: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_api::stable_code;
    use std::io;

    #[test]
    fn full_block_store_says_so_wherever_it_is_noticed() {
        let full = || SourceError::Store(StoreError::Full(io::ErrorKind::StorageFull.into()));
        let noticed = [
            HoldingError::Store(full()),
            HoldingError::Incomplete(FetchError::Block(full())),
        ];
        for error in noticed {
            let status = holding_status(error);
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(stable_code(&status), Some("disk-full"));
        }
    }
}
