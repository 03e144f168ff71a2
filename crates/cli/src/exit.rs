use crate::{CliError, c4gh::C4ghError};
use medanchor_anchor::{
    AccountError, BatchConflictError, BatchConflictFormatError, EquivocationError,
    EquivocationFormatError, Outcome, ReceiptError, ReceiptFormatError, StatedAccountError,
    StatedAccountFormatError, TileError, TrustError,
};
use medanchor_api::{ClientError, ConfigError, LogReadError, NodesSource};
use medanchor_dag::{CarError, ExportError, LinksError, RecordError, SignatureError, SourceError};
use medanchor_envelope::OpenError;
use std::{error::Error, io, process::ExitCode};

/// How a command ended: its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it is done.
    Done,
    /// 1: it failed.
    Failed,
    /// 1 too: no node has it.
    NotFound,
    /// 2: it was not given as it must be.
    Usage,
    /// 3: it is not permitted.
    Denied,
    /// 4: something did not verify.
    NotVerified,
    /// 5: not now; try again.
    Unavailable,
}

impl Exit {
    /// What an error means, judged by the first of its causes that says so.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(judge).unwrap_or(Self::Failed)
    }

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::NotFound => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NotVerified => 4,
            Self::Unavailable => 5,
        }
    }

    /// The stable code of an error that has none of its own.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Failed => "failed",
            Self::NotFound => "not-found",
            Self::Usage => "usage",
            Self::Denied => "denied",
            Self::NotVerified => "not-verified",
            Self::Unavailable => "unavailable",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Failed,
            Self::NotFound,
            Self::Usage,
            Self::Denied,
            Self::NotVerified,
            Self::Unavailable,
        ];
        all.into_iter().find(|exit| exit.name() == name)
    }

    /// What to do about it.
    pub(crate) fn hint(self) -> Option<&'static str> {
        match self {
            Self::Done | Self::Failed => None,
            Self::NotFound => Some(
                "asking again alone changes nothing: check the CID; if the record is anchored, bring its blocks back with \
                 `medanchor car import` or a lost node's disk",
            ),
            Self::Usage => Some("see `medanchor help` and the help of the command"),
            Self::Denied => Some("ask whoever may permit it; asking again alone changes nothing"),
            Self::NotVerified => {
                Some("do not use it; keep it, and tell the operators of the other nodes")
            }
            Self::Unavailable => Some("try again later; what was recorded stays recorded"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The stable code of an error: its own, or that of how the command ends.
pub(crate) fn stable_code(error: &anyhow::Error) -> String {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return error.code().to_owned();
    }
    match error.downcast_ref() {
        Some(CliError::Denied { code, .. }) => code.clone(),
        Some(CliError::Refused { outcome, .. }) => outcome.to_string(),
        Some(CliError::WrongPassphrase(_)) => "wrong-passphrase".to_owned(),
        _ => Exit::of(error).name().to_owned(),
    }
}

/// What two failures come to: what must not be used before what may come by itself, before what may not.
pub(crate) fn graver(one: Exit, other: Exit) -> Exit {
    const ORDER: [Exit; 7] = [
        Exit::NotVerified,
        Exit::Unavailable,
        Exit::NotFound,
        Exit::Failed,
        Exit::Denied,
        Exit::Usage,
        Exit::Done,
    ];
    let both = [one, other];
    let gravest = ORDER.into_iter().find(|exit| both.contains(exit));
    gravest.unwrap_or(Exit::Failed)
}

/// Names the nodes that said so, when nobody has a block.
pub(crate) fn said_by(nodes: &NodesSource, error: anyhow::Error) -> anyhow::Error {
    if Exit::of(&error) != Exit::NotFound {
        return error;
    }
    let names: Vec<&str> = nodes.names().collect();
    error.context(format!("{} say that no node has it", names.join(", ")))
}

fn judge(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<CliError>() {
        return Some(of_ours(error));
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return Some(of_client(error));
    }
    if let Some(error) = cause.downcast_ref::<LogReadError>() {
        return Some(of_log(error));
    }
    if let Some(error) = cause.downcast_ref::<ExportError>() {
        return Some(match error {
            ExportError::Source(error) => of_source(error),
            ExportError::Malformed(_) => Exit::NotVerified,
        });
    }
    if let Some(error) = cause.downcast_ref::<SourceError>() {
        return Some(of_source(error));
    }
    if let Some(error) = cause.downcast_ref::<CarError>() {
        return Some(match error {
            CarError::Io(_) => Exit::Failed,
            _ => Exit::NotVerified,
        });
    }
    if cause.is::<ConfigError>() {
        return Some(Exit::Usage);
    }
    let inner = cause
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    if inner.is_some_and(|inner| inner.is::<C4ghError>()) {
        return Some(Exit::NotVerified);
    }
    let unverified = cause.is::<AccountError>()
        || cause.is::<StatedAccountError>()
        || cause.is::<StatedAccountFormatError>()
        || cause.is::<ReceiptError>()
        || cause.is::<ReceiptFormatError>()
        || cause.is::<EquivocationFormatError>()
        || cause.is::<EquivocationError>()
        || cause.is::<BatchConflictError>()
        || cause.is::<BatchConflictFormatError>()
        || cause.is::<TrustError>()
        || cause.is::<TileError>()
        || cause.is::<LinksError>()
        || cause.is::<RecordError>()
        || cause.is::<SignatureError>()
        || cause.is::<OpenError>();
    unverified.then_some(Exit::NotVerified)
}

fn of_ours(error: &CliError) -> Exit {
    match error {
        CliError::Denied { .. }
        | CliError::Refused {
            outcome: Outcome::Forbidden | Outcome::Inactive | Outcome::Erased | Outcome::LegallyHeld,
            ..
        } => Exit::Denied,
        CliError::Refused { .. } => Exit::Failed,
        CliError::NotVerified(_) => Exit::NotVerified,
        CliError::Unavailable(_) => Exit::Unavailable,
        CliError::WrongPassphrase(_) => Exit::Failed,
        CliError::Usage(_) => Exit::Usage,
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Unavailable { .. } => Exit::Unavailable,
        ClientError::Denied(_) => Exit::Denied,
        ClientError::NotFound(_) | ClientError::Rejected(_) => Exit::Failed,
        ClientError::InvalidAnswer { .. } => Exit::NotVerified,
    }
}

fn of_log(error: &LogReadError) -> Exit {
    match error {
        LogReadError::NotFound(_) => Exit::Failed,
        LogReadError::Denied(_) => Exit::Denied,
        LogReadError::Unavailable { .. } => Exit::Unavailable,
        LogReadError::Invalid { .. } => Exit::NotVerified,
    }
}

fn of_source(error: &SourceError) -> Exit {
    match error {
        SourceError::NotFound(_) => Exit::NotFound,
        SourceError::Unavailable { .. } => Exit::Unavailable,
        SourceError::Store(_) => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn errors_have_the_exit_codes_of_the_style_guide() {
        let denied = CliError::Denied {
            code: "no-consent".to_owned(),
            reason: "no consent".to_owned(),
            leaf_index: None,
        };
        let refused = |outcome| CliError::Refused {
            outcome,
            leaf_index: 1,
        };
        for (error, code) in [
            (anyhow!("disk full"), 1),
            (CliError::Usage("no file".to_owned()).into(), 2),
            (denied.into(), 3),
            (refused(Outcome::Forbidden).into(), 3),
            (refused(Outcome::Inactive).into(), 3),
            (refused(Outcome::Erased).into(), 3),
            (refused(Outcome::LegallyHeld).into(), 3),
            (refused(Outcome::Conflict).into(), 1),
            (CliError::NotVerified("no".to_owned()).into(), 4),
            (ReceiptError::Opening.into(), 4),
            (TileError::Content.into(), 4),
            (AccountError::Head.into(), 4),
            (StatedAccountError::NotAnAccount.into(), 4),
            (CliError::Unavailable("busy".to_owned()).into(), 5),
            (LogReadError::Denied("tile".to_owned()).into(), 3),
            (LogReadError::NotFound("tile".to_owned()).into(), 1),
            (OpenError::Commitment.into(), 4),
            (CarError::NoRoot.into(), 4),
            (CarError::Io(io::ErrorKind::Other.into()).into(), 1),
            (io::Error::other(C4ghError::Segment(1)).into(), 4),
            (ConfigError::NoNodes.into(), 2),
        ] {
            let error = error.context("do something");
            assert_eq!(Exit::of(&error).code(), code, "{error:#}");
        }
    }

    #[test]
    fn what_nobody_has_is_told_from_what_cannot_be_had_now() {
        let cid = medanchor_dag::Cid::default();
        let unavailable = SourceError::Unavailable {
            cid,
            source: "starting".into(),
        };
        for (error, code, name) in [
            (SourceError::NotFound(cid), 1, "not-found"),
            (unavailable, 5, "unavailable"),
        ] {
            let exported = anyhow::Error::from(ExportError::Source(error)).context("fetch it");
            let exit = Exit::of(&exported);
            assert_eq!((exit.code(), stable_code(&exported).as_str()), (code, name));
            assert_eq!(Exit::named(name), Some(exit));
            assert_eq!(exit.hint().unwrap().contains("try again"), code == 5);
        }
    }

    #[test]
    fn gravest_failure_says_how_it_ended() {
        assert_eq!(graver(Exit::Done, Exit::Done), Exit::Done);
        assert_eq!(graver(Exit::Done, Exit::Denied), Exit::Denied);
        assert_eq!(graver(Exit::Denied, Exit::Unavailable), Exit::Unavailable);
        assert_eq!(graver(Exit::Failed, Exit::Denied), Exit::Failed);
        assert_eq!(graver(Exit::NotFound, Exit::Unavailable), Exit::Unavailable);
        assert_eq!(
            graver(Exit::NotVerified, Exit::Unavailable),
            Exit::NotVerified
        );
    }
}
