//! A leader that signs two batches for one place in the log.

use crate::{
    equivocation::{key_of, status_of},
    liar::tls_of,
    stage::{Stage, done, until},
};
use medanchor_anchor::{BatchHead, SignedBatchHead};
use medanchor_api::{
    ClientConfig, NodeAddress,
    pb::raft::{
        ListHeadsRequest, ListHeadsResponse,
        head_service_client::HeadServiceClient,
        head_service_server::{HeadService, HeadServiceServer},
    },
};
use medanchor_dag::Hash;
use medanchor_node::{Config, Folder};
use medanchor_testnet::NodeProcess;
use std::fs;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

#[test]
fn leader_that_signed_two_batches_is_found_by_the_others_and_proved_a_liar() {
    let mut stage = Stage::start(3);
    let leader = stage.status().text("leader").unwrap();
    let honest: Vec<String> = ["hospital-a", "hospital-b", "hospital-c"]
        .map(str::to_owned)
        .into_iter()
        .filter(|name| *name != leader)
        .collect();
    let runtime = Runtime::new().unwrap();
    let key = key_of(stage.network.process(&leader).unwrap(), "node");
    let heads = {
        let asking = Folder::new(stage.network.process(&honest[0]).unwrap().folder());
        let asked = stage.network.process(&honest[1]).unwrap();
        runtime.block_on(heads_of(asked, &asking))
    };
    let true_one = heads
        .iter()
        .rev()
        .find(|signed| signed.head.node == key.did());
    let true_one = true_one.expect("the leader has signed batches");
    let other = BatchHead {
        batch: Hash::of(b"another batch"),
        ..true_one.head.clone()
    };

    let process = stage.network.process(&leader).unwrap();
    process.kill().unwrap();
    let config = Config::open(&Folder::new(process.folder()).config()).unwrap();
    let tls = tls_of(process);
    let shows = Shows(other.sign(&key));
    let listener = runtime.block_on(TcpListener::bind(config.listen)).unwrap();
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(HeadServiceServer::new(shows));
    runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    for name in &honest {
        until("an alarm is raised", || {
            status_of(&stage, name).json["alarms"][0].is_object()
        });
        assert_eq!(status_of(&stage, name).code, 4);
        let status = status_of(&stage, name);
        let alarm = status.json["alarms"][0]["id"].as_str().unwrap().to_owned();
        assert!(alarm.starts_with("batch-conflict"), "{alarm}");
        let folder = stage.network.process(name).unwrap().folder().to_owned();
        let evidence = folder.join("alarms").join(format!("{alarm}.evidence"));
        // Anybody with the policy file can check it, without a node, once the node has proved whose key it is.
        let verify = || stage.clinician.run(["verify", evidence.to_str().unwrap()]);
        until("the evidence names the liar", || {
            verify().unwrap().code == 0
        });
        let proven = done(verify());
        assert_eq!(proven.text("liar").unwrap(), leader, "{}", proven.json);
    }
}

/// The heads that a node keeps, as another member asks for them.
async fn heads_of(node: &NodeProcess, asking: &Folder) -> Vec<SignedBatchHead> {
    let pem = |name: &str| fs::read_to_string(asking.tls().join(name)).unwrap();
    let config = Config::open(&Folder::new(node.folder()).config()).unwrap();
    let address = NodeAddress {
        name: node.name.clone(),
        address: config.listen.to_string(),
    };
    let client = ClientConfig {
        nodes: vec![address.clone()],
        ca: pem("ca.pem"),
        certificate: pem("cert.pem"),
        key: pem("key.pem").into(),
    };
    let mut service = HeadServiceClient::new(client.channel(&address).unwrap());
    let request = ListHeadsRequest { from_index: 0 };
    let heads = service
        .list_heads(request)
        .await
        .unwrap()
        .into_inner()
        .heads;
    let heads = heads.iter().map(|bytes| SignedBatchHead::from_bytes(bytes));
    heads.collect::<Result<_, _>>().unwrap()
}

/// The other head alone.
struct Shows(SignedBatchHead);

#[tonic::async_trait]
impl HeadService for Shows {
    async fn list_heads(
        &self,
        request: Request<ListHeadsRequest>,
    ) -> Result<Response<ListHeadsResponse>, Status> {
        let asked_for = request.get_ref().from_index <= self.0.head.index;
        let heads = asked_for.then(|| self.0.to_bytes());
        Ok(Response::new(ListHeadsResponse {
            heads: heads.into_iter().collect(),
            refused: Vec::new(),
        }))
    }
}
