use crate::types::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::{Code, Status};

/// Says once when a node can no longer be reached, or refuses to listen, and once when it is back.
#[derive(Clone, Default)]
pub(crate) struct Reach(Arc<Mutex<BTreeMap<NodeId, Code>>>);

impl Reach {
    /// Notes what became of a call to `node_id`.
    pub(crate) fn heard<T>(&self, node_id: NodeId, answer: Result<T, Status>) -> Result<T, Status> {
        match &answer {
            Ok(_) if self.is_back(node_id) => {
                tracing::info!(node_id, "the node is reached again");
            }
            Ok(_) => (),
            Err(status) if self.is_news(node_id, status.code()) => {
                tracing::warn!(node_id, "the node is not reached: {status}");
            }
            Err(status) => tracing::debug!(node_id, "the node is still not reached: {status}"),
        }
        answer
    }

    fn is_back(&self, node_id: NodeId) -> bool {
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lost.remove(&node_id).is_some()
    }

    /// A dead node may refuse connections now and leave calls without an answer then.
    fn is_news(&self, node_id: NodeId, code: Code) -> bool {
        let silent = |code| {
            matches!(
                code,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
            )
        };
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lost.insert(node_id, code);
        known.is_none_or(|known| known != code && !(silent(known) && silent(code)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_is_news_once_and_its_end_too() {
        let reach = Reach::default();
        assert!(!reach.is_back(2));
        assert!(reach.is_news(2, Code::Unavailable));
        assert!(!reach.is_news(2, Code::Unavailable));
        assert!(!reach.is_news(2, Code::DeadlineExceeded));
        assert!(reach.is_news(3, Code::Unavailable));
        // It runs and has something against this node: that is another story.
        assert!(reach.is_news(2, Code::PermissionDenied));
        assert!(!reach.is_news(2, Code::PermissionDenied));
        assert!(reach.is_back(2));
        assert!(!reach.is_back(2));
        assert!(reach.is_news(2, Code::Unavailable));
    }
}
