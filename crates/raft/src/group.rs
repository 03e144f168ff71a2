use crate::batcher::{Answers, ProposeError};
use crate::replica::{Replica, proposed};
use crate::runtime::{Instant, timeout_at};
use futures::future::join_all;
use medanchor_anchor::{Append, AppendError, Appended, Group, Hold, SignedStatement, Submission};

impl Replica {
    /// Appends each statement as [`Append::append`] does, in order one answer for each, with one message to
    /// the leader for all of them.
    pub async fn append_group(&self, group: Group) -> Vec<Result<Appended, AppendError>> {
        let deadline = Instant::now() + self.deadline();
        let Group { statements, holds } = &group;
        let answers = match timeout_at(deadline, self.propose_once(&group)).await {
            Ok(Ok(answers)) if answers.len() == statements.len() => answers,
            // Alone each finds the way to the leader, and why there is none.
            _ => return join_all(statements.iter().map(|one| self.alone(one, holds))).await,
        };
        let last = answers.iter().flatten().map(|proposed| proposed.log_index);
        let applied = match last.max() {
            Some(last) => self.applied(last, deadline).await.is_ok(),
            None => true,
        };
        let each = statements
            .iter()
            .zip(answers)
            .map(async |(one, answer)| match answer {
                Ok(proposed) if applied => Ok(proposed.appended),
                Err(ProposeError::Rejected(code)) => Err(AppendError::Rejected(code)),
                _ => self.alone(one, holds).await,
            });
        join_all(each).await
    }

    /// At the node that leads now, if one does.
    async fn propose_once(&self, group: &Group) -> Result<Answers, ProposeError> {
        match self.leader() {
            None => Err(ProposeError::NotLeader(None)),
            Some(leader) if leader == self.node_id() => self.propose_group(group.clone()).await,
            Some(leader) => {
                let request = group.into();
                let answer = self.peers().propose_group(leader, request, self.deadline());
                let answers = answer.await.map_err(ProposeError::Unknown)?.proposed;
                Ok(answers.into_iter().map(proposed).collect())
            }
        }
    }

    async fn alone(
        &self,
        signed: &SignedStatement,
        holds: &[Hold],
    ) -> Result<Appended, AppendError> {
        let submission = Submission {
            signed: signed.clone(),
            holds: holds.to_vec(),
        };
        self.append(submission).await
    }
}
