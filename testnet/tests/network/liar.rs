use medanchor_api::{
    ClientConfig, MAX_MESSAGE_BYTES, NodeAddress,
    pb::{
        access::{
            RequestRequest, RequestResponse,
            access_service_client::AccessServiceClient,
            access_service_server::{AccessService, AccessServiceServer},
        },
        anchor::{
            CheckpointRequest, CheckpointResponse, ListLeavesRequest, ListLeavesResponse,
            PolicyChainRequest, PolicyChainResponse, ReceiptRequest, ReceiptResponse,
            SubmitRequest, SubmitResponse, SubmitStreamRequest, SubmitStreamResponse,
            anchor_service_client::AnchorServiceClient,
            anchor_service_server::{AnchorService, AnchorServiceServer},
        },
        registry::{
            CheckRecordRequest, CheckRecordResponse, Disclosure, GetAccountRequest,
            GetAccountResponse, GetErasureRequest, GetErasureResponse, GetRecordRequest,
            GetRecordResponse, GetStreamRequest, GetStreamResponse, ListConsentsRequest,
            ListConsentsResponse, ListCustodiesRequest, ListCustodiesResponse,
            ListDisclosuresRequest, ListDisclosuresResponse, ListEmergenciesRequest,
            ListEmergenciesResponse, ListLegalHoldsRequest, ListLegalHoldsResponse,
            ListMembersRequest, ListMembersResponse, ListPrincipalsRequest, ListPrincipalsResponse,
            ListRecordsRequest, ListRecordsResponse, StatusRequest, StatusResponse,
            registry_service_client::RegistryServiceClient,
            registry_service_server::{RegistryService, RegistryServiceServer},
        },
    },
};
use medanchor_testnet::{Home, NodeProcess};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status, Streaming,
    codegen::BoxStream,
    transport::{Certificate, Channel, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

/// An operator who puts a program of their own in their node's place: it has the node's certificate, asks
/// the true node, and changes the answers to access requests, and to questions for what was disclosed.
pub(crate) struct Liar {
    lie: Arc<Mutex<Lie>>,
    listing: Arc<Mutex<Listing>>,
    stated: Arc<Mutex<Stated>>,
    _runtime: Runtime,
}

type Lie = Box<dyn Fn(&mut Vec<RequestResponse>) + Send>;
type Listing = Box<dyn Fn(&mut Vec<Disclosure>) + Send>;
/// How many disclosures it says that an account has, and the head of their chain.
type Stated = Option<(u64, Vec<u8>)>;

impl Liar {
    /// Takes the place of `node` for this user. It tells the truth at first.
    pub(crate) fn between(user: &Home, node: &NodeProcess) -> Self {
        let runtime = Runtime::new().unwrap();
        let lie: Arc<Mutex<Lie>> = Arc::new(Mutex::new(Box::new(|_| ())));
        let listing: Arc<Mutex<Listing>> = Arc::new(Mutex::new(Box::new(|_| ())));
        let stated = Arc::default();
        let service = Service {
            truth: runtime.block_on(async { true_node(user, node) }),
            lie: Arc::clone(&lie),
            listing: Arc::clone(&listing),
            stated: Arc::clone(&stated),
        };
        let address = runtime.block_on(serve(service, tls_of(node)));
        edit_client_file(user.path(), &node.name, |old| *old = address.to_string());
        Self {
            lie,
            listing,
            stated,
            _runtime: runtime,
        }
    }

    /// From now on every answer is changed like this.
    pub(crate) fn tells(&self, lie: impl Fn(&mut Vec<RequestResponse>) + Send + 'static) {
        *self.lie.lock().unwrap() = Box::new(lie);
    }

    /// From now on it changes every page of disclosures like this.
    pub(crate) fn lists(&self, lie: impl Fn(&mut Vec<Disclosure>) + Send + 'static) {
        *self.listing.lock().unwrap() = Box::new(lie);
    }

    /// From now on it says of every account that it is like this.
    pub(crate) fn states(&self, count: u64, head: Vec<u8>) {
        *self.stated.lock().unwrap() = Some((count, head));
    }
}

async fn serve(service: Service, tls: ServerTlsConfig) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(AccessServiceServer::new(service.clone()))
        .add_service(AnchorServiceServer::new(service.clone()))
        .add_service(RegistryServiceServer::new(service));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

#[derive(Clone)]
struct Service {
    truth: Channel,
    lie: Arc<Mutex<Lie>>,
    listing: Arc<Mutex<Listing>>,
    stated: Arc<Mutex<Stated>>,
}

impl Service {
    fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.truth.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl AccessService for Service {
    type RequestStream = BoxStream<RequestResponse>;

    async fn request(
        &self,
        request: Request<RequestRequest>,
    ) -> Result<Response<Self::RequestStream>, Status> {
        let mut truth = AccessServiceClient::new(self.truth.clone());
        let mut messages = truth.request(request.into_inner()).await?.into_inner();
        let mut answer = Vec::new();
        while let Some(message) = messages.message().await? {
            answer.push(message);
        }
        self.lie.lock().unwrap()(&mut answer);
        let answer = futures::stream::iter(answer.into_iter().map(Ok));
        Ok(Response::new(Box::pin(answer)))
    }
}

#[tonic::async_trait]
impl AnchorService for Service {
    type ListLeavesStream = BoxStream<ListLeavesResponse>;

    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitResponse>, Status> {
        let truth = AnchorServiceClient::new(self.truth.clone());
        let mut truth = truth.max_decoding_message_size(MAX_MESSAGE_BYTES);
        truth.submit(request.into_inner()).await
    }

    type SubmitStreamStream = BoxStream<SubmitStreamResponse>;

    async fn submit_stream(
        &self,
        _: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        Err(Status::unavailable("not this one"))
    }

    async fn receipt(
        &self,
        request: Request<ReceiptRequest>,
    ) -> Result<Response<ReceiptResponse>, Status> {
        let truth = AnchorServiceClient::new(self.truth.clone());
        let mut truth = truth.max_decoding_message_size(MAX_MESSAGE_BYTES);
        truth.receipt(request.into_inner()).await
    }

    async fn list_leaves(
        &self,
        _: Request<ListLeavesRequest>,
    ) -> Result<Response<Self::ListLeavesStream>, Status> {
        Err(Status::unavailable("not this one"))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        let mut truth = AnchorServiceClient::new(self.truth.clone());
        truth.checkpoint(request.into_inner()).await
    }

    async fn policy_chain(
        &self,
        request: Request<PolicyChainRequest>,
    ) -> Result<Response<PolicyChainResponse>, Status> {
        let mut truth = AnchorServiceClient::new(self.truth.clone());
        truth.policy_chain(request.into_inner()).await
    }
}

#[tonic::async_trait]
impl RegistryService for Service {
    async fn list_disclosures(
        &self,
        request: Request<ListDisclosuresRequest>,
    ) -> Result<Response<ListDisclosuresResponse>, Status> {
        let answer = self
            .registry()
            .list_disclosures(request.into_inner())
            .await?;
        let mut answer = answer.into_inner();
        if !answer.disclosures.is_empty() {
            self.listing.lock().unwrap()(&mut answer.disclosures);
        }
        Ok(Response::new(answer))
    }

    async fn list_emergencies(
        &self,
        request: Request<ListEmergenciesRequest>,
    ) -> Result<Response<ListEmergenciesResponse>, Status> {
        self.registry().list_emergencies(request.into_inner()).await
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        self.registry().list_members(request.into_inner()).await
    }

    async fn list_principals(
        &self,
        request: Request<ListPrincipalsRequest>,
    ) -> Result<Response<ListPrincipalsResponse>, Status> {
        self.registry().list_principals(request.into_inner()).await
    }

    async fn list_custodies(
        &self,
        request: Request<ListCustodiesRequest>,
    ) -> Result<Response<ListCustodiesResponse>, Status> {
        self.registry().list_custodies(request.into_inner()).await
    }

    async fn list_consents(
        &self,
        request: Request<ListConsentsRequest>,
    ) -> Result<Response<ListConsentsResponse>, Status> {
        self.registry().list_consents(request.into_inner()).await
    }

    async fn list_legal_holds(
        &self,
        request: Request<ListLegalHoldsRequest>,
    ) -> Result<Response<ListLegalHoldsResponse>, Status> {
        self.registry().list_legal_holds(request.into_inner()).await
    }

    async fn get_record(
        &self,
        request: Request<GetRecordRequest>,
    ) -> Result<Response<GetRecordResponse>, Status> {
        self.registry().get_record(request.into_inner()).await
    }

    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        self.registry().list_records(request.into_inner()).await
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let answer = self.registry().get_account(request.into_inner()).await?;
        let mut answer = answer.into_inner();
        if let Some((count, head)) = self.stated.lock().unwrap().clone() {
            (answer.count, answer.head) = (count, head);
        }
        Ok(Response::new(answer))
    }

    async fn get_erasure(
        &self,
        request: Request<GetErasureRequest>,
    ) -> Result<Response<GetErasureResponse>, Status> {
        self.registry().get_erasure(request.into_inner()).await
    }

    async fn get_stream(
        &self,
        request: Request<GetStreamRequest>,
    ) -> Result<Response<GetStreamResponse>, Status> {
        self.registry().get_stream(request.into_inner()).await
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.registry().status(request.into_inner()).await
    }

    async fn check_record(
        &self,
        request: Request<CheckRecordRequest>,
    ) -> Result<Response<CheckRecordResponse>, Status> {
        self.registry().check_record(request.into_inner()).await
    }
}

fn true_node(user: &Home, node: &NodeProcess) -> Channel {
    let pem = |name: &str| fs::read_to_string(user.path().join(name)).unwrap();
    let mut address = String::new();
    edit_client_file(user.path(), &node.name, |known| address.clone_from(known));
    let address = NodeAddress {
        name: node.name.clone(),
        address,
    };
    let config = ClientConfig {
        nodes: vec![address.clone()],
        ca: pem("ca.pem"),
        certificate: pem("cert.pem"),
        key: pem("key.pem").into(),
    };
    config.channel(&address).unwrap()
}

pub(crate) fn tls_of(node: &NodeProcess) -> ServerTlsConfig {
    let pem = |name: &str| fs::read(node.folder().join("tls").join(name)).unwrap();
    ServerTlsConfig::new()
        .identity(Identity::from_pem(pem("cert.pem"), pem("key.pem")))
        .client_ca_root(Certificate::from_pem(pem("ca.pem")))
}

/// Changes the address of a node in `client.toml`.
fn edit_client_file(home: &Path, node: &str, change: impl FnOnce(&mut String)) {
    let path = home.join("client.toml");
    let mut client: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let mut nodes = client["nodes"].as_array_mut().unwrap().iter_mut();
    let line = nodes.find(|line| line["name"].as_str() == Some(node));
    let Some(toml::Value::String(address)) = line.and_then(|line| line.get_mut("address")) else {
        panic!("node `{node}` is not in `{}`", path.display());
    };
    change(address);
    fs::write(&path, client.to_string()).unwrap();
}
