use super::{APPEND_DEADLINE, Client, anchor};
use crate::{
    ClientError, ConvertError, NodeError, Submit, Submitted, error::Failure, pb::anchor as pb,
};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use medanchor_anchor::{SignedStatement, Strength};
use std::collections::VecDeque;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

pub(super) fn submit_stream(
    client: Client,
    statements: BoxStream<'static, SignedStatement>,
    strength: Option<Strength>,
) -> impl Stream<Item = Result<Submitted, ClientError>> + Send {
    let submissions = Submissions {
        client,
        strength,
        statements: statements.fuse(),
        unanswered: VecDeque::new(),
        open: None,
    };
    stream::unfold(submissions, |mut submissions| async {
        let answer = submissions.next().await?;
        Some((answer, submissions))
    })
}

/// Where a stream of submissions stands.
struct Submissions {
    client: Client,
    strength: Option<Strength>,
    statements: stream::Fuse<BoxStream<'static, SignedStatement>>,
    /// In order; all of them are sent while a stream is open.
    unanswered: VecDeque<SignedStatement>,
    open: Option<Open>,
}

struct Open {
    requests: mpsc::Sender<pb::SubmitStreamRequest>,
    answers: Streaming<pb::SubmitStreamResponse>,
}

impl Submissions {
    /// `None` when all are answered and no more come.
    async fn next(&mut self) -> Option<Result<Submitted, ClientError>> {
        if self.unanswered.is_empty() {
            let first = self.statements.next().await?;
            self.begin(first).await;
        }
        let answered = self.answered().await;
        let signed = self.unanswered.pop_front()?;
        match answered {
            Ok(Some(submitted)) => Some(Ok(submitted)),
            // Alone it is tried on every node, and its refusal has a reason.
            Ok(None) => Some(self.client.submit(&signed, self.strength).await),
            Err(failure) => {
                tracing::debug!(?failure, "a stream of submissions failed");
                self.open = None;
                Some(self.client.submit(&signed, self.strength).await)
            }
        }
    }

    /// Sends the first of several, on a new stream if none is open. Without one it is submitted alone.
    async fn begin(&mut self, first: SignedStatement) {
        if self.open.is_none() {
            self.open = open(&self.client).await.ok();
        }
        self.send(first).await;
    }

    async fn send(&mut self, signed: SignedStatement) {
        let request = Submit {
            signed: signed.clone(),
            strength: self.strength,
        };
        self.unanswered.push_back(signed);
        if let Some(open) = &self.open {
            // A stream that has ended says so when it is asked for the answer.
            let _ended = open.requests.send(request.into()).await;
        }
    }

    /// The next answer. Meanwhile more is sent.
    async fn answered(&mut self) -> Result<Option<Submitted>, Failure> {
        loop {
            let Some(open) = &mut self.open else {
                return Ok(None);
            };
            let answer = timeout(APPEND_DEADLINE, open.answers.message());
            tokio::select! {
                biased;
                Some(next) = self.statements.next(), if self.unanswered.len() < WINDOW => {
                    self.send(next).await;
                }
                answer = answer => {
                    return match answer {
                        Ok(Ok(Some(answer))) => {
                            let submitted = answer.submitted.map(Submitted::try_from);
                            submitted.transpose().map_err(Failure::Invalid)
                        }
                        Ok(Ok(None)) => Err(Failure::Invalid(ConvertError::Missing("submitted"))),
                        Ok(Err(status)) => Err(Failure::new("a node", &status)),
                        Err(_) => Err(Failure::Node(NodeError::timed_out("a node"))),
                    };
                }
            }
        }
    }
}

async fn open(client: &Client) -> Result<Open, ClientError> {
    client
        .try_nodes(|node| async move {
            let (requests, receiver) = mpsc::channel(WINDOW);
            let mut service = anchor(node.channel.clone());
            let call = service.submit_stream(Request::new(ReceiverStream::new(receiver)));
            let answers = node.within(APPEND_DEADLINE, call).await?.into_inner();
            Ok(Open { requests, answers })
        })
        .await
}

/// Statements that are under way at the same time.
const WINDOW: usize = 256;
