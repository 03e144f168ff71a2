use crate::{
    liar::tls_of,
    stage::{PROGRAM, Stage, done, put_arguments, until},
};
use medanchor_anchor::{Checkpoint, SignedNote};
use medanchor_api::pb::anchor::{
    CheckpointRequest, CheckpointResponse, ListLeavesRequest, ListLeavesResponse,
    PolicyChainRequest, PolicyChainResponse, ReceiptRequest, ReceiptResponse, SubmitRequest,
    SubmitResponse, SubmitStreamRequest, SubmitStreamResponse,
    anchor_service_server::{AnchorService, AnchorServiceServer},
};
use medanchor_dag::{Hash, SigningKey};
use medanchor_node::{Config, Folder};
use medanchor_testnet::{NodeProcess, Ran};
use serde_json::json;
use std::{fs, path::Path, process::Command, thread};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status, Streaming,
    codegen::BoxStream,
    transport::{Server, server::TcpIncoming},
};

#[test]
fn leader_that_shows_another_log_is_proved_a_liar_and_stops_cosigning_until_acknowledged() {
    let mut stage = Stage::start(3);
    let device = stage.device("monitor");
    let file = stage.file("payload", b"before");
    stage.put(&device, &file).success().unwrap();
    let status = stage.status();
    let leader = status.text("leader").unwrap();
    let origin = status.text("origin").unwrap();
    let honest: Vec<String> = ["hospital-a", "hospital-b", "hospital-c"]
        .map(str::to_owned)
        .into_iter()
        .filter(|name| *name != leader)
        .collect();

    let process = stage.network.process(&leader).unwrap();
    process.kill().unwrap();
    let _impostor = Impostor::in_place_of(process, &another_log(process, &origin));

    // Both others find it by themselves, and prove who it was.
    let log_key = log_key(process);
    for name in &honest {
        until("an alarm is raised", || {
            status_of(&stage, name).json["alarms"][0].is_object()
        });
        assert_eq!(status_of(&stage, name).code, 4);
        let status = status_of(&stage, name);
        let alarm = status.json["alarms"][0]["id"].as_str().unwrap().to_owned();
        let folder = stage.network.process(name).unwrap().folder().to_owned();
        let evidence = folder.join("alarms").join(format!("{alarm}.evidence"));
        // The alarm counts before it is proved.
        until("it is proved", || evidence.exists());
        let evidence = evidence.to_str().unwrap();
        let proven = done(stage.hospital.run(["verify", evidence]));
        assert_eq!(proven.text("proven").unwrap(), "equivocation");
        assert_eq!(proven.json["signed_both"], json!([log_key]));
    }

    // What is recorded now is durable, but nobody co-signs it.
    let second = stage.file("second", b"after");
    thread::scope(|scope| {
        let arguments = put_arguments(&second, &stage.custody);
        let through = ["--node", &honest[0]].into_iter().chain(arguments);
        let put = scope.spawn(|| device.run(through));
        let waits = |name: &String| {
            let status = status_of(&stage, name).json;
            status["tree_size"].as_u64() > status["published_size"].as_u64()
        };
        until("a leaf waits for its checkpoint", || {
            honest.iter().any(waits)
        });
        for name in &honest {
            let folder = stage.network.dir().join(name);
            let status = status_of(&stage, name);
            for alarm in status.json["alarms"].as_array().unwrap() {
                acknowledge(&folder, alarm["id"].as_str().unwrap());
            }
        }
        done(put.join().unwrap());
    });
    // The impostor goes on, and is old news.
    for name in &honest {
        assert_eq!(status_of(&stage, name).json["alarms"], json!([]));
    }
}

pub(crate) fn status_of(stage: &Stage, name: &str) -> Ran {
    stage.hospital.run(["--node", name, "status"]).unwrap()
}

fn acknowledge(folder: &Path, alarm: &str) {
    let status = Command::new(PROGRAM)
        .args(["medanchord", "--data", folder.to_str().unwrap()])
        .args(["acknowledge", alarm])
        .status()
        .unwrap();
    assert!(status.success());
}

/// A node's private key of this name.
pub(crate) fn key_of(node: &NodeProcess, name: &str) -> SigningKey {
    let path = node.folder().join("keys").join(format!("{name}.key"));
    let text = fs::read_to_string(path).unwrap();
    let hex = text.trim_end().rsplit(' ').next().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    SigningKey::from_seed(&std::array::from_fn(byte))
}

fn log_key(node: &NodeProcess) -> String {
    let policy = fs::read_to_string(node.folder().join("policy.txt")).unwrap();
    let policy: medanchor_anchor::TrustPolicy = policy.parse().unwrap();
    let did = key_of(node, "log").did();
    let mut logs = policy.logs();
    logs.find(|key| *key.key() == did).unwrap().to_string()
}

/// A checkpoint of a log that never was, signed with the node's log key.
fn another_log(node: &NodeProcess, origin: &str) -> SignedNote {
    let checkpoint = Checkpoint {
        origin: origin.to_owned(),
        size: 1,
        root: Hash::of(b"another log"),
    };
    checkpoint.sign(&key_of(node, "log")).unwrap()
}

/// A program of the operator's own in the place of their node, with its certificate: it shows another log.
struct Impostor {
    _runtime: Runtime,
}

impl Impostor {
    fn in_place_of(node: &NodeProcess, shows: &SignedNote) -> Self {
        let config = Config::open(&Folder::new(node.folder()).config()).unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(config.listen)).unwrap();
        let shows = Shows(shows.to_string());
        let server = Server::builder()
            .tls_config(tls_of(node))
            .unwrap()
            .add_service(AnchorServiceServer::new(shows));
        runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { _runtime: runtime }
    }
}

struct Shows(String);

#[tonic::async_trait]
impl AnchorService for Shows {
    type ListLeavesStream = BoxStream<ListLeavesResponse>;
    type SubmitStreamStream = BoxStream<SubmitStreamResponse>;

    async fn checkpoint(
        &self,
        _: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        let checkpoint = self.0.clone();
        Ok(Response::new(CheckpointResponse { checkpoint }))
    }

    async fn policy_chain(
        &self,
        _: Request<PolicyChainRequest>,
    ) -> Result<Response<PolicyChainResponse>, Status> {
        Err(Status::unavailable("not this one"))
    }

    async fn submit(&self, _: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        Err(Status::unavailable("not this one"))
    }

    async fn submit_stream(
        &self,
        _: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        Err(Status::unavailable("not this one"))
    }

    async fn receipt(
        &self,
        _: Request<ReceiptRequest>,
    ) -> Result<Response<ReceiptResponse>, Status> {
        Err(Status::unavailable("not this one"))
    }

    async fn list_leaves(
        &self,
        _: Request<ListLeavesRequest>,
    ) -> Result<Response<Self::ListLeavesStream>, Status> {
        Err(Status::unavailable("not this one"))
    }
}
