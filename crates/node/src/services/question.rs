use medanchor_api::status;
use tonic::{Code, Status};

/// That what somebody signed to ask for something is for this network, and signed about now.
pub(super) fn check(asked_in: &str, origin: &str, is_fresh: bool) -> Result<(), Status> {
    if asked_in != origin {
        let sentence = "what was signed is for another network";
        return Err(status(Code::InvalidArgument, "wrong-origin", sentence));
    }
    match is_fresh {
        true => Ok(()),
        false => Err(status(
            Code::FailedPrecondition,
            "query-expired",
            "the request was signed at another time than this node's clock says: sign a new one, and compare the clocks",
        )),
    }
}
