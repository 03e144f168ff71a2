use crate::batcher::{Answers, ProposeError, Proposed};
use crate::replica::{Replica, proposed};
use crate::runtime::{Instant, timeout_at};
use crate::status::Role;
use crate::types::NodeId;
use medanchor_anchor::{AppendError, Appended, BoxError, Group, ReadError};
use medanchor_api::pb::raft as pb;
use std::error::Error;
use std::sync::Arc;

impl Replica {
    /// Appends each statement as [`medanchor_anchor::Append::append`] does: in order one answer for each, with one
    /// message to the leader for all of them. What keeps the group from the log is the answer to each.
    pub async fn append_group(&self, group: Group) -> Vec<Result<Appended, AppendError>> {
        let count = group.statements.len();
        if count == 0 {
            return Vec::new();
        }
        let deadline = Instant::now() + self.deadline();
        match self.append_until(&group, deadline).await {
            Ok(appended) => {
                let each = appended.into_iter();
                each.map(|one| one.map_err(AppendError::Rejected)).collect()
            }
            Err(error) => repeated(error, count),
        }
    }

    /// Waits until the group is applied here: each statement has a leaf, or a code for why it can never have one.
    pub(crate) async fn append_until(
        &self,
        group: &Group,
        deadline: Instant,
    ) -> Result<Vec<Result<Appended, &'static str>>, AppendError> {
        let mut attempt = Attempt::new(group);
        let proposed = loop {
            let leader = attempt.redirect.take().or(self.leader());
            let answer = match leader {
                Some(leader) => self.propose_at(leader, group, &attempt, deadline).await,
                None => Err(ProposeError::NotLeader(None)),
            };
            match answer {
                Ok(proposed) => break proposed,
                Err(ProposeError::Rejected(code)) => return Err(AppendError::Rejected(code)),
                Err(ProposeError::Stopped(error)) => return Err(AppendError::Stopped(error)),
                Err(ProposeError::Overloaded { retry_after }) if attempt.unknown.is_none() => {
                    return Err(AppendError::Overloaded { retry_after });
                }
                Err(ProposeError::Overloaded { .. }) => {}
                Err(ProposeError::NotLeader(hint)) => attempt.follow(hint, leader),
                Err(ProposeError::Unknown(error)) => attempt.unknown = Some(error),
            }
            if Instant::now() >= deadline {
                return Err(attempt.give_up());
            }
            if attempt.redirect.is_none() {
                self.pause(leader, deadline).await;
            }
            if self.role() == Role::Stopped {
                return Err(AppendError::Stopped(self.stopped().await.into()));
            }
        };
        let last = proposed.iter().flatten().map(|proposed| proposed.log_index);
        if let Some(last) = last.max() {
            self.applied(last, deadline)
                .await
                .map_err(|error| match error {
                    ReadError::Stopped(error) => AppendError::Stopped(error),
                    ReadError::Unavailable(error) => AppendError::OutcomeUnknown(error),
                })?;
        }
        let each = proposed.into_iter();
        Ok(each.map(|one| Ok(one?.appended)).collect())
    }

    async fn propose_at(
        &self,
        leader: NodeId,
        group: &Group,
        attempt: &Attempt,
        deadline: Instant,
    ) -> Result<Vec<Result<Proposed, &'static str>>, ProposeError> {
        let answers = if leader == self.node_id() {
            timeout_at(deadline, self.propose_group(group.clone()))
                .await
                .unwrap_or_else(|elapsed| Err(ProposeError::Unknown(elapsed.into())))?
        } else {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = attempt.request.clone();
            let answer = self.peers().propose_group(leader, request, left).await;
            let answer = answer.map_err(ProposeError::Unknown)?;
            answer.proposed.into_iter().map(proposed).collect()
        };
        judged(answers, group.statements.len())
    }
}

/// Only a code is for one statement alone; any other error is for all of them.
fn judged(
    answers: Answers,
    count: usize,
) -> Result<Vec<Result<Proposed, &'static str>>, ProposeError> {
    if answers.len() != count {
        let missing = "there is not one answer for each statement";
        return Err(ProposeError::Unknown(missing.into()));
    }
    let each = answers.into_iter().map(|answer| match answer {
        Ok(proposed) => Ok(Ok(proposed)),
        Err(ProposeError::Rejected(code)) => Ok(Err(code)),
        Err(error) => Err(error),
    });
    each.collect()
}

/// What is known while one group is tried on one node after another.
struct Attempt {
    request: pb::ProposeGroupRequest,
    /// The node that the last one named.
    redirect: Option<NodeId>,
    redirects: u32,
    /// Once an answer was lost, nobody knows whether the statements are recorded.
    unknown: Option<BoxError>,
}

impl Attempt {
    fn new(group: &Group) -> Self {
        Self {
            request: group.into(),
            redirect: None,
            redirects: 0,
            unknown: None,
        }
    }

    /// Goes where the answer points, a few times: then whoever was asked does not know either.
    fn follow(&mut self, hint: Option<NodeId>, asked: Option<NodeId>) {
        if hint != asked && self.redirects < MAX_REDIRECTS {
            self.redirects = self.redirects.saturating_add(1);
            self.redirect = hint;
        }
    }

    fn give_up(self) -> AppendError {
        match self.unknown {
            Some(error) => AppendError::OutcomeUnknown(error),
            None => AppendError::Unavailable("no leader is known".into()),
        }
    }
}

fn repeated(error: AppendError, count: usize) -> Vec<Result<Appended, AppendError>> {
    let again: Box<dyn Fn() -> AppendError> = match error {
        AppendError::Rejected(code) => Box::new(move || AppendError::Rejected(code)),
        AppendError::Overloaded { retry_after } => {
            Box::new(move || AppendError::Overloaded { retry_after })
        }
        AppendError::Unavailable(source) => shared(source, AppendError::Unavailable),
        AppendError::OutcomeUnknown(source) => shared(source, AppendError::OutcomeUnknown),
        AppendError::Stopped(source) => shared(source, AppendError::Stopped),
    };
    (0..count).map(|_| Err(again())).collect()
}

fn shared(source: BoxError, error: fn(BoxError) -> AppendError) -> Box<dyn Fn() -> AppendError> {
    let source: Arc<dyn Error + Send + Sync> = source.into();
    Box::new(move || error(Arc::clone(&source).into()))
}

const MAX_REDIRECTS: u32 = 3;
