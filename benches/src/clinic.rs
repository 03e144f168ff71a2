use crate::{author::Author, payload::payload};
use anyhow::{Context, Result};
use futures::stream;
use medanchor_anchor::{
    Body, CustodyKind, Enrolled, PrincipalKind, SignedStatement, Statement, Strength,
};
use medanchor_api::Client;
use medanchor_cli::{
    CustodyMade, CustodyOptions, DeviceOptions, EnrolOptions, OwnKeys, Session, operations,
};
use medanchor_dag::{Cid, CustodyId, Did};
use medanchor_envelope::{Recipient, Suite};
use medanchor_node::Folder;
use medanchor_testnet::{Home, Network, NetworkOptions, NodeProcess};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// A running network of three hospitals and a witness, with a device that stores under a patient's custody
/// key and a clinician who may read. Its nodes are stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Clinic {
    /// The device's home.
    pub(crate) device: Home,
    /// The clinician's home.
    pub(crate) clinician: Home,
    /// The patient's custody key.
    pub(crate) custody: CustodyId,
    /// Its public key.
    custody_key: Recipient,
    operator: Session,
    operator_keys: OwnKeys,
    network: Network,
}

impl Clinic {
    /// Starts the network in `dir` and enrols everybody. Call it outside of a runtime's tasks.
    pub(crate) fn start(dir: &Path, runtime: &tokio::runtime::Runtime) -> Result<Self> {
        let options = NetworkOptions {
            program: std::env::current_exe().context("find this program")?,
            nodes: 3,
            witness: true,
            foreign_witnesses: Vec::new(),
        };
        let mut network = Network::found(dir, &options)?;
        network.start()?;
        let device = network.invite(0, "device")?;
        let clinician = network.invite(0, "clinician")?;
        let operator = session(&network.operator(0)?)?;
        let operator_keys = operator.home.own_keys()?;
        let device_did = session(&device)?.home.own_keys()?.did();
        let clinician_did = session(&clinician)?.home.own_keys()?.did();
        let made = runtime.block_on(async {
            enrol(&operator, device_did, PrincipalKind::Device, "device").await?;
            enrol(&operator, clinician_did, PrincipalKind::Person, "clinician").await?;
            new_custody(&operator).await
        })?;
        Ok(Self {
            device,
            clinician,
            custody: made.custody.parse()?,
            custody_key: public_key(&made)?,
            operator,
            operator_keys,
            network,
        })
    }

    /// A new device, enrolled, that seals to the patient's custody key.
    pub(crate) async fn author(&self) -> Result<Author> {
        self.author_of(self.custody, self.custody_key).await
    }

    /// A new device, enrolled, that seals to the custody key of a new patient.
    pub(crate) async fn author_of_another_patient(&self) -> Result<Author> {
        let made = new_custody(&self.operator).await?;
        self.author_of(made.custody.parse()?, public_key(&made)?)
            .await
    }

    async fn author_of(&self, custody: CustodyId, key: Recipient) -> Result<Author> {
        let author = Author::new(custody, key)?;
        enrol(
            &self.operator,
            author.key.did(),
            PrincipalKind::Device,
            "device",
        )
        .await?;
        Ok(author)
    }

    /// A record of so many bytes under the patient's custody key, by a new device.
    pub(crate) async fn anchored(&self, size: usize) -> Result<Cid> {
        let device = session(&self.device)?;
        let mut author = self.author().await?;
        let mut blocks = Vec::new();
        let suite = Suite::ChaCha20Poly1305;
        let sealed = author.seal(payload(size).as_slice(), suite, &mut |block| {
            blocks.push(block);
            Ok(())
        })?;
        blocks.extend(sealed.blocks());
        device
            .client
            .put(stream::iter(blocks))
            .await
            .context("upload a record")?;
        let statement = Statement::anchored(&device.origin, sealed.anchored()).sign(&[&author.key]);
        device
            .client
            .submit(&statement, Some(Strength::Published))
            .await
            .context("anchor a record")?;
        Ok(*sealed.record.cid())
    }

    /// A statement that names no record, so that no node has to hold any: somebody is enrolled.
    pub(crate) fn enrolment(&self) -> Result<SignedStatement> {
        let who = medanchor_dag::SigningKey::generate()?.did();
        let body = Body::Enrolled(Box::new(Enrolled {
            who,
            kind: PrincipalKind::Device,
            org: self.operator_keys.did(),
            roles: vec!["device".to_owned()],
            label: None,
            device: None,
        }));
        let statement = statement(&self.operator.origin, body)?;
        Ok(statement.sign(&[&self.operator_keys.signing]))
    }

    /// A guest of the first hospital's.
    pub(crate) fn invite(&self, name: &str) -> Result<Home> {
        self.network.invite(0, name)
    }

    /// The second hospital's operator.
    pub(crate) fn other_operator(&self) -> Result<Session> {
        session(&self.network.operator(1)?)
    }

    /// The network itself.
    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// What founded the network.
    pub(crate) fn founded(&self) -> Result<SignedStatement> {
        let node = self.network.nodes.first().context("no hospital")?;
        let bytes = std::fs::read(Folder::new(node.folder()).founded());
        let bytes = bytes.context("read the founding statement")?;
        SignedStatement::from_bytes(&bytes).context("parse the founding statement")
    }

    /// The hospitals' nodes.
    pub(crate) fn hospitals(&self) -> &[NodeProcess] {
        &self.network.nodes
    }

    /// Process ids of the hospitals' nodes and of the witness.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        let nodes = self.network.nodes.iter().chain(&self.network.witness);
        nodes.filter_map(NodeProcess::pid)
    }

    /// The operator's client.
    pub(crate) fn operator(&self) -> &Session {
        &self.operator
    }
}

async fn new_custody(operator: &Session) -> Result<CustodyMade> {
    let options = CustodyOptions {
        kind: CustodyKind::Person,
        writers: Vec::new(),
        controller: None,
    };
    operations::new_custody(operator, &options).await
}

fn public_key(made: &CustodyMade) -> Result<Recipient> {
    let mut public = [0; 32];
    hex::decode_to_slice(&made.public_key, &mut public).context("read the custody key")?;
    Ok(Recipient::from_bytes(public)?)
}

/// A session of this user's, with connections of its own. Call it within a runtime.
pub(crate) fn session(home: &Home) -> Result<Session> {
    Session::open(&medanchor_cli::Home::new(home.path()))
}

/// A connection of the device's own, to one node after the other.
pub(crate) async fn connect(clinic: &Clinic, number: usize) -> Result<Client> {
    connect_as(clinic, &clinic.device, number).await
}

/// A connection of its own, to one node after the other.
pub(crate) async fn connect_as(clinic: &Clinic, who: &Home, number: usize) -> Result<Client> {
    let client = session(who)?.client;
    let hospitals = clinic.hospitals();
    let node = hospitals.get(number % hospitals.len().max(1));
    let client = client.only(&node.context("no hospital")?.name);
    let client = client.context("they do not know a hospital")?;
    client.status().await.context("connect to a node")?;
    Ok(client)
}

/// A statement that ends in ten minutes.
pub(crate) fn statement(origin: &str, body: Body) -> Result<Statement> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("draw a nonce")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(Statement::new(
        origin,
        body,
        nonce,
        u64::try_from(now)? + VALID_FOR_MS,
    ))
}

/// Enrols somebody in one role.
pub(crate) async fn enrol(by: &Session, who: Did, kind: PrincipalKind, role: &str) -> Result<()> {
    let options = EnrolOptions {
        who,
        kind,
        roles: vec![role.to_owned()],
        label: None,
        device: DeviceOptions::default(),
    };
    operations::enrol(by, &options).await.map(drop)
}

const VALID_FOR_MS: u64 = 10 * 60 * 1000;
