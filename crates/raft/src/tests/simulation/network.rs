use super::executor::{ProcessId, WORLD, here, random};
use super::liar::Liar;
use super::runtime::sleep;
use super::trace::{Fault, Trace};
use crate::{HeadServiceServer, NodeId, RaftServiceServer};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::{Service, StdError, http};

/// The network between replicas: carries whole messages, each with a delay of its own. Clones are the same
/// network.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>, Trace);

#[derive(Default)]
struct State {
    servers: BTreeMap<NodeId, Server>,
    /// From whom nothing reaches whom.
    cut: BTreeSet<(NodeId, NodeId)>,
    weather: Weather,
    liar: Option<Liar>,
    sent: u64,
    delivered: BTreeMap<(NodeId, NodeId), u64>,
}

/// What answers at a node while one of its processes runs, for each caller.
struct Server {
    process: ProcessId,
    services: BTreeMap<NodeId, (RaftServiceServer, HeadServiceServer)>,
}

/// How many of 1000 messages are lost, late or doubled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) late: u32,
    pub(crate) doubled: u32,
}

/// The way from one node to another.
#[derive(Clone)]
pub(crate) struct Link {
    network: Network,
    from: NodeId,
    to: NodeId,
}

/// A request on its way.
#[derive(Clone)]
struct Message {
    path: String,
    headers: http::HeaderMap,
    body: Bytes,
}

struct Answer {
    headers: http::HeaderMap,
    body: Bytes,
    trailers: Option<http::HeaderMap>,
}

impl Network {
    pub(crate) fn new(trace: Trace) -> Self {
        Self(Arc::default(), trace)
    }

    pub(crate) fn link(&self, from: NodeId, to: NodeId) -> Link {
        let network = self.clone();
        Link { network, from, to }
    }

    /// From now on `process` answers for `node`.
    pub(crate) fn serve(
        &self,
        node: NodeId,
        process: ProcessId,
        services: BTreeMap<NodeId, (RaftServiceServer, HeadServiceServer)>,
    ) {
        let server = Server { process, services };
        self.lock().servers.insert(node, server);
    }

    /// Nobody answers for `node`.
    pub(crate) fn remove(&self, node: NodeId) {
        let server = self.lock().servers.remove(&node);
        drop(server);
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    pub(crate) fn cut(&self, ways: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.lock().cut.extend(ways);
    }

    pub(crate) fn heal(&self) {
        self.lock().cut.clear();
    }

    pub(crate) fn set_liar(&self, liar: Option<Liar>) {
        self.lock().liar = liar;
    }

    async fn call(
        &self,
        from: NodeId,
        to: NodeId,
        mut message: Message,
    ) -> Result<Answer, StdError> {
        if let Some(liar) = &mut self.lock().liar {
            message.body = liar.tell(from, to, &message.path, message.body, &self.1);
        }
        let number = self.leave(from, to).await;
        let doubled = self.happens(|weather| weather.doubled);
        if doubled {
            self.1.fault(Fault::MessageDuplicated, &way(from, to));
            let (network, again) = (self.clone(), message.clone());
            here().spawn_in(WORLD, async move {
                sleep(late()).await;
                drop(network.deliver(from, to, again));
            });
        }
        self.overtakes(from, to, number);
        let Some(answer) = self.deliver(from, to, message) else {
            return Err("connection refused".into());
        };
        let answer = answer.await;
        self.leave(to, from).await;
        match answer {
            Ok(answer) => answer,
            Err(_) => Err("connection reset".into()),
        }
    }

    /// Waits until a message arrives that is sent now, for ever if it does not. Gives its number.
    async fn leave(&self, from: NodeId, to: NodeId) -> u64 {
        let number = {
            let mut state = self.lock();
            state.sent += 1;
            state.sent
        };
        if self.happens(|weather| weather.lost) {
            self.1.fault(Fault::MessageLost, &way(from, to));
            return pending().await;
        }
        let delay = match self.happens(|weather| weather.late) {
            true => {
                self.1.fault(Fault::MessageDelayed, &way(from, to));
                late()
            }
            false => Duration::from_micros(random(|rng| rng.u64(100..2_000))),
        };
        sleep(delay).await;
        if self.lock().cut.contains(&(from, to)) {
            return pending().await;
        }
        number
    }

    /// Notes when a message arrives after one that was sent later.
    fn overtakes(&self, from: NodeId, to: NodeId, number: u64) {
        let last = self.lock().delivered.insert((from, to), number);
        if last > Some(number) {
            self.1.fault(Fault::MessageOvertaken, &way(from, to));
        }
    }

    fn happens(&self, of_1000: impl FnOnce(&Weather) -> u32) -> bool {
        let of_1000 = of_1000(&self.lock().weather);
        of_1000 > 0 && random(|rng| rng.u32(..1000)) < of_1000
    }

    /// Hands a message to a node: `None` when nobody answers there.
    fn deliver(
        &self,
        from: NodeId,
        to: NodeId,
        message: Message,
    ) -> Option<oneshot::Receiver<Result<Answer, StdError>>> {
        let (process, (mut raft, mut heads)) = {
            let state = self.lock();
            let server = state.servers.get(&to)?;
            (server.process, server.services.get(&from)?.clone())
        };
        let name = message.path.rsplit('/').next().unwrap_or_default();
        let size = message.body.len();
        if name == "InstallSnapshot" {
            self.1.count("snapshots sent");
        }
        self.1
            .note(&format_args!("{} {name} {size}", way(from, to)));
        let (sender, receiver) = oneshot::channel();
        here().spawn_in(process, async move {
            let is_raft = message.path.contains("RaftService");
            let request = message.into_request();
            let answer = match is_raft {
                true => raft.call(request).await,
                false => heads.call(request).await,
            };
            let answer = match answer {
                Ok(answer) => Answer::read(answer).await,
                Err(never) => match never {},
            };
            // Who asked may be gone.
            let _unheard = sender.send(answer);
        });
        Some(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Link {
    pub(crate) async fn call(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, StdError> {
        let (head, body) = request.into_parts();
        let message = Message {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        };
        let answer = self.network.call(self.from, self.to, message).await?;
        Ok(answer.into_response())
    }
}

impl Message {
    fn into_request(self) -> http::Request<Body> {
        let mut request = http::Request::new(Body::new(Full::new(self.body)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = self.path.parse().unwrap();
        *request.headers_mut() = self.headers;
        request
    }
}

impl Answer {
    async fn read(response: http::Response<Body>) -> Result<Self, StdError> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        Ok(Self {
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        })
    }

    fn into_response(self) -> http::Response<Body> {
        let trailers = self.trailers.map(Ok);
        let body = Full::new(self.body).with_trailers(async { trailers });
        let mut response = http::Response::new(Body::new(body));
        *response.headers_mut() = self.headers;
        response
    }
}

fn late() -> Duration {
    Duration::from_millis(random(|rng| rng.u64(20..1_500)))
}

fn way(from: NodeId, to: NodeId) -> String {
    format!("{from}>{to}")
}
