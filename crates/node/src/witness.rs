//! Every node is a C2SP tlog-witness: for its network's log, and for the logs of others that it is
//! configured for.

use crate::{
    alarms::Alarms,
    config::{Config, Folder, WitnessedLog},
    cosigner::{CosignError, Cosigner, CosignerParts, Follows, SeenFile},
    keys::{self, KeyName},
    membership::Believed,
    monitor::{Monitor, MonitorParts},
    sources::{Sources, monitoring_path},
};
use anyhow::{Context, Result};
use medanchor_anchor::{AddCheckpoint, AddCheckpointError, Epochs, NoteSignature, TrustPolicy};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Co-signs several logs, each for itself, with one key under one name.
pub(crate) struct Witness {
    logs: BTreeMap<String, Arc<Cosigner>>,
    failed: CancellationToken,
}

impl Witness {
    /// Co-signs the network's log with `own`, and those that the config lists.
    pub(crate) fn open(
        folder: &Folder,
        config: &Config,
        own: Arc<Cosigner>,
        alarms: &Arc<Alarms>,
    ) -> Result<Self> {
        let (name, failed) = (own.verifier().name().to_owned(), own.failed());
        let mut logs = BTreeMap::from([(own.origin().to_owned(), own)]);
        for log in &config.witnessed_logs {
            let cosigner = open_other(folder, log, &name, alarms, failed.clone());
            let cosigner = cosigner.with_context(|| format!("witness log `{}`", log.origin))?;
            logs.insert(log.origin.clone(), Arc::new(cosigner));
        }
        Ok(Self { logs, failed })
    }

    /// Cancelled when the record of what was signed could not be written: the node must stop.
    pub(crate) fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Answers `add-checkpoint` for whichever log it is about.
    pub(crate) async fn add_checkpoint(
        &self,
        request: AddCheckpoint,
    ) -> Result<NoteSignature, CosignError> {
        let origin = request.checkpoint()?.origin;
        match self.logs.get(&origin) {
            Some(cosigner) => cosigner.add_checkpoint(request).await,
            None => Err(AddCheckpointError::UnknownLog(origin).into()),
        }
    }

    /// What the monitoring endpoint shows at `path`: the checkpoint that was co-signed last.
    pub(crate) fn last_note(&self, path: &str) -> Option<String> {
        let mut logs = self.logs.iter();
        let (_, cosigner) = logs.find(|(origin, _)| monitoring_path(origin) == path)?;
        cosigner.last_note().map(|note| note.to_string())
    }
}

/// Begins to witness a log of the config: from now on, the absence of its record is an error.
pub(crate) fn begin(folder: &Folder, origin: &str) -> Result<()> {
    let config = Config::open(&folder.config())?;
    let listed = config.witnessed_logs.iter().any(|log| log.origin == origin);
    anyhow::ensure!(
        listed,
        "`witnessed_logs` of the config has no log `{origin}`"
    );
    SeenFile::create(&folder.cosigned(), origin)
}

fn open_other(
    folder: &Folder,
    log: &WitnessedLog,
    name: &str,
    alarms: &Arc<Alarms>,
    failed: CancellationToken,
) -> Result<Cosigner> {
    let policy = TrustPolicy::new(&log.log_keys()?, &[], 0).context("trust the log's keys")?;
    let believed = Believed::Fixed(Arc::new(Epochs::new(policy)));
    let monitor = Monitor::open(MonitorParts {
        believed: believed.clone(),
        tree: None,
        sources: Sources {
            origin: log.origin.clone(),
            membership: None,
        },
        alarms: Arc::clone(alarms),
        folder: folder.known_checkpoints(),
    })?;
    let parts = CosignerParts {
        origin: log.origin.clone(),
        name: name.to_owned(),
        key: keys::open_signing(&folder.keys(), KeyName::Cosigner)?,
        believed,
        follows: Follows::Itself,
        monitor: Arc::new(monitor),
        alarms: Arc::clone(alarms),
        failed,
    };
    Cosigner::open(&folder.cosigned(), parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app,
        config::WitnessAddress,
        found::{Plan, PlannedMember, found},
        http,
        membership::Membership,
        tls::Tls,
    };
    use medanchor_anchor::{
        Checkpoint, ConsistencyProof, Equivocation, MemoryTables, SignatureKind, SignedNote,
        VerifierKey, cosign, tree,
    };
    use medanchor_dag::SigningKey;
    use std::{fs, net::SocketAddr, path::PathBuf};

    const ORIGIN: &str = "test.example/medanchor";
    const OTHER: &str = "other.example/log";
    const TRUE: u8 = 0;
    const FALSE: u8 = 1;

    /// Three hospitals and the regulator's witness, on disk.
    struct Network {
        data: tempfile::TempDir,
    }

    impl Network {
        fn found() -> Self {
            Self::found_with_witness_at(([127, 0, 0, 1], 7).into())
        }

        fn found_with_witness_at(witness: SocketAddr) -> Self {
            let data = tempfile::tempdir().unwrap();
            let address = |port: u16| ([127, 0, 0, 1], port).into();
            let member = |(name, port): (&str, u16)| PlannedMember {
                name: name.to_owned(),
                folder: data.path().join(name),
                listen: address(port),
                swarm_listen: address(port + 1),
                log_listen: address(port + 10),
                passphrase_file: None,
            };
            let plan = Plan {
                origin: ORIGIN.to_owned(),
                members: [("a", 1), ("b", 3), ("c", 5)].map(member).into(),
                witnesses: vec![WitnessAddress {
                    name: "regulator".to_owned(),
                    address: witness,
                }],
                foreign_witnesses: Vec::new(),
                copies: 2,
                quorum: 3,
            };
            found(&plan, |name| data.path().join(name)).unwrap();
            Self { data }
        }

        fn folder(&self, name: &str) -> Folder {
            Folder::new(self.data.path().join(name))
        }

        fn config(&self) -> Config {
            Config::open(&self.folder("regulator").config()).unwrap()
        }

        fn policy(&self) -> TrustPolicy {
            let text = fs::read_to_string(self.folder("regulator").policy()).unwrap();
            text.parse().unwrap()
        }

        fn regulator(&self, config: &Config) -> Result<(Witness, Arc<Alarms>)> {
            let folder = self.folder("regulator");
            let alarms = Arc::new(Alarms::open(&folder.alarms())?);
            let founding = app::open_founding(&folder)?;
            let founded = app::founded_of(&founding)?;
            let membership = Membership::open(&folder, config, founded, None)?;
            let (witness, _) = app::open_witness(&folder, config, &membership, &alarms)?;
            Ok((witness, alarms))
        }

        fn key(&self, name: &str, key: KeyName) -> SigningKey {
            keys::open_signing(&self.folder(name).keys(), key).unwrap()
        }

        /// A checkpoint of one of two logs, signed by a hospital and co-signed by these.
        fn note(&self, log: u8, size: u64, by: &str, cosigners: &[&str]) -> SignedNote {
            let checkpoint = Checkpoint {
                origin: ORIGIN.to_owned(),
                size,
                root: tree::root(&tables(log), size).unwrap(),
            };
            let mut note = checkpoint.sign(&self.key(by, KeyName::Log)).unwrap();
            for name in cosigners {
                let key = self.key(name, KeyName::Cosigner);
                let name = format!("{ORIGIN}/{name}");
                note.add(cosign(&note, &name, &key, 1_000).unwrap())
                    .unwrap();
            }
            note
        }

        fn seen(&self, origin: &str) -> PathBuf {
            let path = monitoring_path(origin);
            let name = path.trim_start_matches('/').trim_end_matches("/checkpoint");
            self.folder("regulator").cosigned().join(name)
        }
    }

    /// Two logs that differ from their third leaf on.
    fn tables(log: u8) -> MemoryTables {
        let mut tables = MemoryTables::default();
        for index in 0..9_u64 {
            let leaf = [
                u8::try_from(index).unwrap(),
                if index < 2 { 0 } else { log },
            ];
            tree::append(&mut tables, index, &leaf).unwrap();
        }
        tables
    }

    fn request(log: u8, old_size: u64, note: SignedNote) -> AddCheckpoint {
        let size = note.text().parse::<Checkpoint>().unwrap().size;
        AddCheckpoint {
            old_size,
            proof: tree::consistency(&tables(log), old_size, size).unwrap(),
            note,
        }
    }

    #[tokio::test]
    async fn lone_liar_cannot_have_a_log_of_its_own_witnessed() {
        let network = Network::found();
        let (witness, alarms) = network.regulator(&network.config()).unwrap();
        let lie = network.note(FALSE, 7, "a", &["a"]);
        // Nor by signing twice, at another time.
        let key = network.key("a", KeyName::Cosigner);
        let again = cosign(&lie, &format!("{ORIGIN}/a"), &key, 2_000).unwrap();
        let twice = SignedNote::parse(&format!("{lie}{again}\n")).unwrap();
        for lie in [network.note(FALSE, 7, "a", &[]), lie, twice] {
            let refused = witness.add_checkpoint(request(FALSE, 0, lie)).await;
            let refused = refused.unwrap_err();
            let too_few = matches!(refused, CosignError::NotEndorsed { needed: 2, .. });
            assert!(too_few, "{refused}");
        }
        assert_eq!(witness.last_note(&monitoring_path(ORIGIN)), None);
        // And so the true one is signed.
        let truth = network.note(TRUE, 7, "a", &["b", "c"]);
        witness
            .add_checkpoint(request(TRUE, 0, truth))
            .await
            .unwrap();
        assert_eq!(alarms.active(), vec![]);
    }

    #[tokio::test]
    async fn what_was_cosigned_is_shown_and_survives_a_restart() {
        let network = Network::found();
        let (witness, _) = network.regulator(&network.config()).unwrap();
        let truth = network.note(TRUE, 4, "a", &["a", "b"]);
        let signature = witness.add_checkpoint(request(TRUE, 0, truth.clone()));
        let signature = signature.await.unwrap();
        let shown = witness.last_note(&monitoring_path(ORIGIN)).unwrap();
        assert_eq!(shown, format!("{truth}{signature}\n"));
        assert_eq!(fs::read_to_string(network.seen(ORIGIN)).unwrap(), shown);

        let (again, _) = network.regulator(&network.config()).unwrap();
        assert_eq!(again.last_note(&monitoring_path(ORIGIN)), Some(shown));
        let next = || network.note(TRUE, 9, "b", &["b", "c"]);
        let stale = again.add_checkpoint(request(TRUE, 0, next())).await;
        let conflict = CosignError::Refused(AddCheckpointError::Conflict(4));
        assert_eq!(stale.unwrap_err().to_string(), conflict.to_string());
        again
            .add_checkpoint(request(TRUE, 4, next()))
            .await
            .unwrap();
        assert_eq!(witness.last_note("/checkpoint"), None);
        assert_eq!(witness.last_note("/../checkpoint"), None);
    }

    #[tokio::test]
    async fn lying_majority_is_proved_from_what_it_had_witnessed() {
        // The second lie has the size of the truth; the third only a proof that gives it away.
        for (size, old_size) in [(5, 5), (9, 5)] {
            let network = Network::found();
            let (witness, alarms) = network.regulator(&network.config()).unwrap();
            let lie = network.note(FALSE, 5, "a", &["a", "b"]);
            witness
                .add_checkpoint(request(FALSE, 0, lie))
                .await
                .unwrap();
            let truth = network.note(TRUE, size, "a", &["b", "c"]);
            let refused = witness.add_checkpoint(request(TRUE, old_size, truth)).await;
            let inconsistent = CosignError::Refused(AddCheckpointError::Inconsistent);
            assert_eq!(refused.unwrap_err().to_string(), inconsistent.to_string());

            let raised = alarms.active().pop().unwrap();
            let evidence = format!("{}.evidence", raised.id);
            let evidence = network.folder("regulator").alarms().join(evidence);
            let proof: Equivocation = fs::read_to_string(evidence).unwrap().parse().unwrap();
            let shown = proof.verify(&network.policy()).unwrap();
            // The log key of A, and B's co-signing key.
            assert_eq!(shown.signed_both.len(), 2, "{}", raised.details);

            let more = network.note(FALSE, 6, "a", &["a", "b"]);
            let stopped = witness.add_checkpoint(request(FALSE, 5, more)).await;
            let stopped = stopped.unwrap_err();
            assert!(matches!(stopped, CosignError::Stopped(_)), "{stopped}");
        }
    }

    #[tokio::test]
    async fn clock_that_was_set_back_signs_with_the_time_that_it_had_signed() {
        let network = Network::found();
        let mut note = network.note(TRUE, 4, "a", &["a", "b"]);
        let key = network.key("regulator", KeyName::Cosigner);
        let tomorrow = crate::clock::unix_ms() / 1000 + 86_400;
        note.add(cosign(&note, "regulator", &key, tomorrow).unwrap())
            .unwrap();
        fs::write(network.seen(ORIGIN), note.to_string()).unwrap();
        let (witness, _) = network.regulator(&network.config()).unwrap();
        let next = network.note(TRUE, 9, "b", &["b", "c"]);
        witness
            .add_checkpoint(request(TRUE, 4, next))
            .await
            .unwrap();
        let kept = fs::read_to_string(network.seen(ORIGIN)).unwrap();
        let kept = SignedNote::parse(&kept).unwrap();
        let kind = SignatureKind::Cosignature;
        let verifier = VerifierKey::new("regulator", kind, key.did()).unwrap();
        let signers = kept.signers([&verifier]).unwrap();
        assert_eq!(signers[0].at_unix_seconds, Some(tomorrow));
        let checkpoint: Checkpoint = kept.text().parse().unwrap();
        assert_eq!(checkpoint.size, 9);
    }

    #[tokio::test]
    async fn endpoints_answer_over_https_as_the_specification_says() {
        let address = free_address();
        let network = Network::found_with_witness_at(address);
        let stop = CancellationToken::new();
        let (folder, stopped) = (network.folder("regulator"), stop.clone());
        let serving = tokio::spawn(async move { app::run(&folder, None, stopped).await });
        let client = Tls::open(&network.folder("a")).unwrap().client().unwrap();
        let server = http::Server::of_node("regulator", address);
        let path = monitoring_path(ORIGIN);
        let status = loop {
            match client.get(&server, &path).await {
                Ok((status, _)) => break status,
                // It is not listening yet.
                Err(_) => assert!(!serving.is_finished()),
            }
        };
        assert_eq!(status, 404);
        let post = async |request: String| {
            let posted = client.post(&server, "/add-checkpoint", request).await;
            let (status, answer) = posted.unwrap();
            (status.as_u16(), String::from_utf8(answer.into()).unwrap())
        };
        let note = |size, cosigners: &[&str]| network.note(TRUE, size, "a", cosigners);
        assert_eq!(post("old 0\n".to_owned()).await.0, 400);
        let lonely = request(TRUE, 0, note(4, &["a"])).to_string();
        assert_eq!(post(lonely).await.0, 403);
        let (status, signature) = post(request(TRUE, 0, note(4, &["a", "c"])).to_string()).await;
        assert_eq!(status, 200);
        let (status, shown) = client.get(&server, &path).await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(shown, format!("{}{signature}", note(4, &["a", "c"])));
        let stale = request(TRUE, 0, note(9, &["a", "c"])).to_string();
        assert_eq!(post(stale).await, (409, "4\n".to_owned()));
        let mut unproved = request(TRUE, 4, note(9, &["a", "c"]));
        unproved.proof.0.pop();
        assert_eq!(post(unproved.to_string()).await.0, 422);
        stop.cancel();
        serving.await.unwrap().unwrap();
    }

    fn free_address() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn after_a_failed_write_nothing_is_signed_any_more() {
        let network = Network::found();
        let (witness, _) = network.regulator(&network.config()).unwrap();
        let truth = || request(TRUE, 0, network.note(TRUE, 4, "a", &["a", "b"]));
        let nothing = fs::read(network.seen(ORIGIN)).unwrap();
        // The new record has no place to be written to.
        let obstacle = network.seen(ORIGIN).with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        let refused = witness.add_checkpoint(truth()).await;
        assert!(matches!(refused, Err(CosignError::Failed(_))));
        assert!(witness.failed().is_cancelled());
        fs::remove_dir(&obstacle).unwrap();
        let refused = witness.add_checkpoint(truth()).await;
        assert!(matches!(refused, Err(CosignError::Failed(_))));
        assert_eq!(witness.last_note(&monitoring_path(ORIGIN)), None);
        assert_eq!(fs::read(network.seen(ORIGIN)).unwrap(), nothing);
    }

    #[tokio::test]
    async fn missing_or_damaged_record_is_an_error() {
        let network = Network::found();
        let nothing = fs::read(network.seen(ORIGIN)).unwrap();
        let mut note = network.note(TRUE, 4, "a", &[]);
        // Whoever has no key of this witness cannot make it believe that it has signed.
        fs::write(network.seen(ORIGIN), note.to_string()).unwrap();
        assert!(network.regulator(&network.config()).is_err());
        let key = network.key("regulator", KeyName::Cosigner);
        note.add(cosign(&note, "regulator", &key, 1_000).unwrap())
            .unwrap();
        fs::write(network.seen(ORIGIN), note.to_string()).unwrap();
        assert!(network.regulator(&network.config()).is_ok());
        let damaged = note.to_string().replace("\n4\n", "\n3\n");
        for bytes in [damaged.as_bytes(), b"", &nothing[1..]] {
            fs::write(network.seen(ORIGIN), bytes).unwrap();
            assert!(network.regulator(&network.config()).is_err());
        }
        fs::remove_file(network.seen(ORIGIN)).unwrap();
        assert!(network.regulator(&network.config()).is_err());
    }

    #[tokio::test]
    async fn logs_of_others_are_witnessed_from_an_explicit_beginning() {
        let network = Network::found();
        let folder = network.folder("regulator");
        let log = SigningKey::from_seed(&[9; 32]);
        let key = VerifierKey::new(OTHER, SignatureKind::Ed25519, log.did()).unwrap();
        let mut config = network.config();
        assert!(begin(&folder, OTHER).is_err());
        config.witnessed_logs = vec![WitnessedLog {
            origin: OTHER.to_owned(),
            keys: vec![key.to_string()],
        }];
        fs::write(folder.config(), config.to_text().unwrap()).unwrap();
        assert!(network.regulator(&config).is_err());
        begin(&folder, OTHER).unwrap();
        assert!(begin(&folder, OTHER).is_err());
        let (witness, _) = network.regulator(&config).unwrap();

        let checkpoint = Checkpoint {
            origin: OTHER.to_owned(),
            size: 4,
            root: tree::root(&tables(TRUE), 4).unwrap(),
        };
        let note = checkpoint.sign(&log).unwrap();
        let signature = witness
            .add_checkpoint(request(TRUE, 0, note.clone()))
            .await
            .unwrap();
        // Under one name for every log.
        assert_eq!(signature.name(), "regulator");
        assert!(witness.last_note(&monitoring_path(OTHER)).is_some());
        assert_eq!(witness.last_note(&monitoring_path(ORIGIN)), None);

        let elsewhere = Checkpoint {
            origin: "third.example".to_owned(),
            ..checkpoint
        };
        let unknown = AddCheckpoint {
            old_size: 0,
            proof: ConsistencyProof(Vec::new()),
            note: elsewhere.sign(&log).unwrap(),
        };
        let refused = witness.add_checkpoint(unknown).await.unwrap_err();
        let unknown = CosignError::Refused(AddCheckpointError::UnknownLog("third.example".into()));
        assert_eq!(refused.to_string(), unknown.to_string());
        fs::remove_file(network.seen(OTHER)).unwrap();
        assert!(network.regulator(&config).is_err());
    }
}
