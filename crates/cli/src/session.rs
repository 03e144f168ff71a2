use crate::{
    CliError, Exit, Home, OwnKeys, Recorded, Wait, clock, files,
    home::ClientFile,
    known::{Known, Shown},
    policy::update_policy,
};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Body, Custody, Epochs, LeafIndex, Outcome, Receipt, SignedNote, SignedStatement, Statement,
    Strength, Trust, Verified,
};
use medanchor_api::{
    AsOf, Client, ClientError, LeafName, ListedCustody, ListedPrincipal, Submitted,
};
use medanchor_dag::{CustodyId, Did};
use std::{
    cmp::Reverse,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// A home with its trust policy and its nodes.
#[derive(Debug)]
pub struct Session {
    /// The home.
    pub home: Home,
    /// The network's name.
    pub origin: String,
    /// The nodes.
    pub client: Client,
    /// What is waited for once the log has taken a statement.
    pub wait: Wait,
    /// Whom the user believes, by the size of the log.
    policy: RwLock<Arc<Epochs>>,
    operator: Option<String>,
}

/// A statement that the log holds, with the receipt that shows it, where one was waited for.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its leaf's index.
    pub leaf_index: LeafIndex,
    /// Log time of its leaf, unix ms.
    pub at_unix_ms: u64,
    /// How sure that is.
    pub strength: Wait,
    /// Size of the tree that the receipt's checkpoint is of.
    pub tree_size: Option<u64>,
    /// How many witnesses co-signed it.
    pub cosigners: usize,
    /// The receipt, verified.
    pub receipt: Option<Receipt>,
}

impl Session {
    /// Opens a home. Nothing is connected yet. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When a file of the home is missing or malformed.
    pub fn open(home: &Home) -> Result<Self> {
        let file = home.client_file()?;
        let config = home.client_config(&file)?;
        let policy = home.epochs(&file)?;
        let client = Client::new(&config).context("use the nodes of `client.toml`")?;
        let ClientFile {
            origin, operator, ..
        } = file;
        Ok(Self {
            home: home.clone(),
            origin,
            policy: RwLock::new(Arc::new(policy)),
            client,
            wait: Wait::default(),
            operator,
        })
    }

    /// The same session, whose statements wait for this.
    #[must_use]
    pub fn waiting_for(self, wait: Wait) -> Self {
        Self { wait, ..self }
    }

    /// Whom the user believes, by the size of the log, as far as is known now.
    pub fn policy(&self) -> Arc<Epochs> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&policy)
    }

    pub(crate) fn set_policy(&self, epochs: Epochs) {
        let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        *policy = Arc::new(epochs);
    }

    /// When a checkpoint does not satisfy the policies known here, or is signed by somebody whom they do not list, the
    /// members may have changed: follows them. What it is worth is then for the check to say.
    pub(crate) async fn keep_up(&self, checkpoint: &SignedNote, strength: Strength) {
        let policy = self.policy();
        let is_known = policy.check(checkpoint, strength).is_ok_and(|checked| {
            let policy = policy.at(checked.checkpoint.size);
            policy.stranger(checkpoint).is_none()
        });
        if !is_known {
            // Without an answer, the check says that the policy is not satisfied.
            let _ = Box::pin(update_policy(self, &[])).await;
        }
    }

    /// The same session with one node alone.
    ///
    /// # Errors
    ///
    /// When `client.toml` lists no such node.
    pub fn only(self, node: &str) -> Result<Self> {
        let client = self.client.only(node);
        let client = client.with_context(|| format!("node `{node}` is not in `client.toml`"))?;
        Ok(Self { client, ..self })
    }

    /// A client of the node that makes custody keys.
    pub(crate) fn operator(&self) -> Result<Client> {
        match &self.operator {
            Some(node) => self
                .client
                .only(node)
                .with_context(|| format!("node `{node}` is not in `client.toml`")),
            None => {
                let first = self.client.node_names().next();
                first
                    .and_then(|node| self.client.only(node))
                    .context("no node is listed")
            }
        }
    }

    /// Says something in the user's name.
    ///
    /// # Errors
    ///
    /// When the log does not take it, or the receipt does not verify.
    pub async fn say(&self, keys: &OwnKeys, body: Body) -> Result<Recorded> {
        let signed = self.statement(body)?.sign(&[&keys.signing]);
        let said = self.submit(&signed).await?;
        self.recorded(&signed, &said)
    }

    /// Keeps the receipt of what was said, where there is one, and says where.
    pub(crate) fn recorded(&self, signed: &SignedStatement, said: &Said) -> Result<Recorded> {
        let name = match &signed.statement.body {
            Body::Anchored(anchored) => anchored.record.to_string(),
            body => format!("{:08}-{}", said.leaf_index, body.kind()),
        };
        let keep = |receipt| self.keep_receipt(&name, receipt);
        Ok(Recorded {
            leaf_index: said.leaf_index,
            strength: said.strength,
            statement: signed.statement.hash().to_string(),
            tree_size: said.tree_size,
            cosigners: said.cosigners,
            receipt: said.receipt.as_ref().map(keep).transpose()?,
        })
    }

    /// A statement that ends soon. The log knows each by its nonce.
    pub(crate) fn statement(&self, body: Body) -> Result<Statement> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).context("draw a nonce")?;
        let not_after = clock::unix_ms().saturating_add(VALID_FOR_MS);
        Ok(Statement::new(&self.origin, body, nonce, not_after))
    }

    /// Records a signed statement, and waits for what the session waits for.
    ///
    /// # Errors
    ///
    /// [`CliError::Refused`] when a verified receipt shows that the log holds it as refused, and otherwise
    /// when no node takes it or the receipt does not verify.
    pub async fn submit(&self, signed: &SignedStatement) -> Result<Said> {
        match self.wait.strength() {
            Some(strength) => self.submit_for(signed, strength).await,
            None => {
                let submitted = self.commit(signed).await?;
                self.said(signed, &submitted).await
            }
        }
    }

    /// Records a signed statement, and waits for no receipt: the answer is a node's word.
    pub(crate) async fn commit(&self, signed: &SignedStatement) -> Result<Submitted> {
        let submitted = patiently(async || self.client.submit(signed, None).await);
        submitted.await.context("record the statement")
    }

    /// Waits for what the session waits for, once a node says that a statement is recorded.
    pub(crate) async fn said(
        &self,
        signed: &SignedStatement,
        submitted: &Submitted,
    ) -> Result<Said> {
        let strength = match self.wait.strength() {
            Some(strength) => strength,
            None if submitted.leaf.outcome == Outcome::Ok => {
                return committed(submitted, &signed.statement);
            }
            // A node's word is enough to go on, but not to give up.
            None => Strength::Witnessed,
        };
        self.submit_for(signed, strength).await
    }

    /// Records a signed statement, and waits for its receipt.
    pub(crate) async fn submit_for(
        &self,
        signed: &SignedStatement,
        strength: Strength,
    ) -> Result<Said> {
        let submitted = patiently(async || self.client.submit(signed, Some(strength)).await);
        let submitted = submitted.await.context("record the statement")?;
        let receipt = submitted.receipt.ok_or_else(|| {
            CliError::NotVerified("the node recorded the statement but gives no receipt".to_owned())
        })?;
        self.keep_up(&receipt.checkpoint, strength).await;
        let said = taken(&*self.policy(), &receipt, strength, &signed.statement)?;
        self.remember(&receipt)?;
        Ok(said)
    }

    /// Checks a receipt: by the trust policy, that the leaf says ok, and that it is `the_one`.
    pub(crate) fn check(
        &self,
        receipt: &Receipt,
        strength: Strength,
        the_one: impl FnOnce(&Verified<'_>) -> bool,
    ) -> Result<Said> {
        let said = shown(&*self.policy(), receipt, strength, the_one)?;
        self.remember(receipt)?;
        match receipt.leaf.outcome {
            Outcome::Ok => Ok(said),
            _ => Err(not_shown(said.leaf_index)),
        }
    }

    /// Takes note of the checkpoint of a verified receipt: the log cannot show another one later.
    pub(crate) fn remember(&self, receipt: &Receipt) -> Result<()> {
        let shown = Shown::new(&receipt.checkpoint)?;
        Known::open(&self.home, &shown.checkpoint.origin)?.see(&shown)
    }

    /// Keeps a verified receipt under `receipts/`.
    pub(crate) fn keep_receipt(&self, name: &str, receipt: &Receipt) -> Result<PathBuf> {
        let path = self
            .home
            .folder("receipts")?
            .join(format!("{name}.tlog-proof"));
        files::replace(&path, receipt.to_string().as_bytes())
            .with_context(|| format!("keep `{}`", path.display()))?;
        Ok(path)
    }

    /// The current key of a custody, proved by the receipt of its leaf: no node can put a key of its own in
    /// its place, and what a node cannot prove does not count. That it is the newest is what every node that
    /// can be reached says.
    pub(crate) async fn custody(&self, custody: CustodyId) -> Result<ListedCustody> {
        Ok(self.proved_custody(custody).await?.0)
    }

    /// All that its leaf says of it, proved likewise: who controls it and who holds it, too.
    pub(crate) async fn custody_in_force(&self, custody: CustodyId) -> Result<Custody> {
        Ok(self.proved_custody(custody).await?.1)
    }

    async fn proved_custody(&self, custody: CustodyId) -> Result<(ListedCustody, Custody)> {
        let candidates = self.listed_custody(custody).await?;
        let mut pauses = PAUSES.iter();
        loop {
            let prove =
                async |node: &Client, listed: &ListedCustody| self.prove(node, listed).await;
            match (newest_proved(&candidates, prove).await, pauses.next()) {
                (Err(error), Some(&pause)) if Exit::of(&error) == Exit::Unavailable => {
                    tokio::time::sleep(pause).await;
                }
                (answer, _) => return answer.context("check the custody key"),
            }
        }
    }

    /// What each node that can be reached says is the current key.
    async fn listed_custody(&self, custody: CustodyId) -> Result<Vec<(ListedCustody, Client)>> {
        let names: Vec<&str> = self.client.node_names().collect();
        let asked = names
            .into_iter()
            .filter_map(|node| self.client.only(node))
            .map(async |client| {
                let found = client.custody(&custody).await?.value;
                Ok::<_, ClientError>(found.map(|found| (found, client)))
            });
        let mut candidates = Vec::new();
        let mut failure = None;
        for answer in futures::future::join_all(asked).await {
            match answer {
                Ok(found) => candidates.extend(found),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            _ if !candidates.is_empty() => Ok(candidates),
            Some(error) => Err(error).context("look up the custody key"),
            None => anyhow::bail!("the log holds no custody key `{custody}`"),
        }
    }

    /// Has the node that named a custody key prove it.
    async fn prove(&self, client: &Client, listed: &ListedCustody) -> Result<Custody> {
        let (leaf, strength) = (LeafName::Index(listed.leaf_index), Strength::Published);
        let (_, receipt) = client
            .receipt(leaf, strength)
            .await
            .context("fetch the receipt of the custody key")?;
        self.keep_up(&receipt.checkpoint, strength).await;
        let said = self.check(&receipt, strength, |verified| shows(verified, listed))?;
        let opening = receipt.opening.map(|opening| opening.0.signed);
        match opening.map(|signed| signed.statement.body) {
            Some(Body::Custody(custody)) => Ok(custody),
            _ => Err(not_shown(said.leaf_index)),
        }
    }

    /// Whose key this is or once was, as a node says; the key itself where nobody has it.
    pub(crate) async fn identity(&self, key: &Did) -> Result<Did> {
        let listed = patiently(async || self.client.identity(key).await).await;
        let listed = listed.context("look up whose key it is")?.value;
        Ok(listed.map_or(*key, |listed| listed.did))
    }

    /// What a node says of a principal.
    pub(crate) async fn principal(&self, who: &Did) -> Result<Option<ListedPrincipal>> {
        let AsOf { value, .. } = patiently(async || self.client.principal(who).await)
            .await
            .context("look up a principal")?;
        Ok(value)
    }
}

/// Tries again for a while when no node could serve a call: a leader may just have changed.
pub(crate) async fn patiently<T>(
    call: impl AsyncFn() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    for pause in PAUSES {
        match call().await {
            Err(ClientError::Unavailable { .. }) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
    }
    call().await
}

/// What a node says of a statement that took effect. It proves nothing, but it must at least be of its kind.
fn committed(submitted: &Submitted, statement: &Statement) -> Result<Said> {
    let record = match &statement.body {
        Body::Anchored(anchored) => Some(anchored.record),
        _ => None,
    };
    let leaf = &submitted.leaf;
    if leaf.kind != statement.body.kind() || leaf.record != record {
        let problem = format!(
            "the node answers with leaf {}, of something else",
            submitted.index
        );
        return Err(CliError::NotVerified(problem).into());
    }
    Ok(Said {
        leaf_index: submitted.index,
        at_unix_ms: leaf.at,
        strength: Wait::Committed,
        tree_size: None,
        cosigners: 0,
        receipt: None,
    })
}

/// What a receipt shows of a statement: that it took effect, or why it was refused. A node's word alone shows
/// neither.
fn taken(
    policy: &impl Trust,
    receipt: &Receipt,
    strength: Strength,
    statement: &Statement,
) -> Result<Said> {
    let said = shown(policy, receipt, strength, |verified| {
        let opening = verified.opening.map(|opening| &opening.0.signed);
        opening.is_some_and(|opened| opened.statement == *statement)
    })?;
    match receipt.leaf.outcome {
        Outcome::Ok => Ok(said),
        outcome => Err(CliError::Refused {
            outcome,
            leaf_index: said.leaf_index,
        }
        .into()),
    }
}

/// Checks a receipt by the trust policy, and that its leaf is `the_one`, whatever its outcome.
fn shown(
    policy: &impl Trust,
    receipt: &Receipt,
    strength: Strength,
    the_one: impl FnOnce(&Verified<'_>) -> bool,
) -> Result<Said> {
    let verified = receipt
        .verify(policy, strength)
        .context("verify the receipt")?;
    if !the_one(&verified) {
        return Err(not_shown(verified.index));
    }
    Ok(Said {
        leaf_index: verified.index,
        at_unix_ms: verified.leaf.at,
        strength: strength.into(),
        tree_size: Some(verified.checkpoint.checkpoint.size),
        cosigners: verified.checkpoint.cosigners.len(),
        receipt: Some(receipt.clone()),
    })
}

fn not_shown(leaf: LeafIndex) -> anyhow::Error {
    let problem = format!("the receipt is of leaf {leaf}, which does not show what it should");
    CliError::NotVerified(problem).into()
}

/// Whether a leaf records exactly this custody key.
fn shows(verified: &Verified<'_>, listed: &ListedCustody) -> bool {
    let opening = verified.opening.map(|opening| &opening.0.signed);
    match opening.map(|signed| &signed.statement.body) {
        Some(Body::Custody(custody)) => {
            custody.custody == listed.custody
                && custody.owner == listed.owner
                && custody.kind == listed.kind
                && custody.epoch == listed.epoch
                && custody.key.as_slice() == listed.public_key.as_slice()
                && custody.brokers == listed.brokers
                && custody.writers == listed.writers
        }
        _ => false,
    }
}

/// The key of the newest epoch, as the newest leaf has it, that the node which named it can prove.
async fn newest_proved<N, P>(
    candidates: &[(ListedCustody, N)],
    prove: impl AsyncFn(&N, &ListedCustody) -> Result<P>,
) -> Result<(ListedCustody, P)> {
    let mut candidates: Vec<_> = candidates.iter().collect();
    candidates.sort_by_key(|(listed, _)| Reverse((listed.epoch, listed.leaf_index)));
    let mut failure = None;
    for (listed, node) in candidates {
        match prove(node, listed).await {
            Ok(proof) => return Ok((listed.clone(), proof)),
            // Whoever cannot answer now may be the one who can prove its key.
            Err(error) if failure.is_none() || Exit::of(&error) == Exit::Unavailable => {
                failure = Some(error);
            }
            Err(_) => (),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("no node names a key")))
}

/// How long a statement may take to reach the log.
pub(crate) const VALID_FOR_MS: u64 = 10 * 60 * 1000;
pub(crate) const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        Checkpoint, Entry, Leaf, MemoryTables, Opening, SignatureKind, TrustPolicy, VerifierKey,
        cosign, tree,
    };
    use medanchor_dag::SigningKey;

    #[tokio::test]
    async fn node_that_names_a_key_it_cannot_prove_does_not_hide_the_others() {
        let (old, newest, liar) = (listed(0, 1), listed(1, 2), listed(u32::MAX, 9));
        let same_epoch = listed(1, 9);
        let prove = async |honest: &bool, _: &ListedCustody| {
            anyhow::ensure!(*honest, "not in the log");
            Ok(())
        };
        let named = [
            (old, true),
            (same_epoch, false),
            (liar.clone(), false),
            (newest.clone(), true),
        ];
        assert_eq!(newest_proved(&named, prove).await.unwrap().0, newest);
        assert!(newest_proved(&[(liar, false)], prove).await.is_err());
    }

    #[tokio::test]
    async fn brokers_of_a_key_are_those_of_its_newest_leaf() {
        let before = listed(1, 2);
        let mut since = before.clone();
        since.leaf_index += 1;
        let prove = async |(): &(), _: &ListedCustody| anyhow::Ok(());
        for named in [[&before, &since], [&since, &before]] {
            let named = named.map(|listed| (listed.clone(), ()));
            assert_eq!(newest_proved(&named, prove).await.unwrap().0, since);
        }
    }

    #[test]
    fn custody_key_is_shown_by_its_own_leaf_alone() {
        let honest = listed(1, 2);
        let receipt = receipt(&custody_statement(&honest), Outcome::Ok, 1);
        let verified = receipt.verify(&policy(), Strength::Published).unwrap();
        assert!(shows(&verified, &honest));
        assert!(!shows(&verified, &listed(1, 9)));
        assert!(!shows(&verified, &listed(u32::MAX, 2)));
        let mut other_brokers = honest;
        other_brokers.brokers = vec![Did::new([9; 32])];
        assert!(!shows(&verified, &other_brokers));
    }

    #[test]
    fn committed_leaf_must_be_of_what_was_said() {
        let ours = custody_statement(&listed(0, 1));
        let leaf = receipt(&ours, Outcome::Ok, 0).leaf;
        let mut submitted = Submitted {
            index: 7,
            leaf,
            receipt: None,
        };
        let said = committed(&submitted, &ours).unwrap();
        assert_eq!((said.leaf_index, said.strength), (7, Wait::Committed));
        assert!(said.receipt.is_none() && said.tree_size.is_none());
        submitted.leaf.kind = medanchor_anchor::Kind::Enrolled;
        assert!(committed(&submitted, &ours).is_err());
    }

    #[test]
    fn refusal_is_believed_only_with_the_published_receipt_of_the_statement() {
        let ours = custody_statement(&listed(0, 1));
        let judged = |receipt: &Receipt| taken(&policy(), receipt, Strength::Published, &ours);
        let said = judged(&receipt(&ours, Outcome::Ok, 1)).unwrap();
        assert_eq!((said.leaf_index, said.cosigners), (0, 1));

        let refused = receipt(&ours, Outcome::Conflict, 1);
        let error = judged(&refused).unwrap_err();
        let Some(CliError::Refused { outcome, .. }) = error.downcast_ref() else {
            panic!("{error:#}");
        };
        assert_eq!(*outcome, Outcome::Conflict);

        let mut changed = receipt(&ours, Outcome::Ok, 1);
        changed.leaf.outcome = Outcome::Conflict;
        let mut withheld = refused;
        withheld.opening = None;
        let of_another = receipt(&custody_statement(&listed(0, 2)), Outcome::Conflict, 1);
        let unpublished = receipt(&ours, Outcome::Conflict, 0);
        for lie in [changed, withheld, of_another, unpublished] {
            let error = judged(&lie).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::NotVerified, "{error:#}");
        }
    }

    fn listed(epoch: u32, key: u8) -> ListedCustody {
        ListedCustody {
            custody: CustodyId::new([1; 16]),
            owner: Did::new([2; 32]),
            kind: medanchor_anchor::CustodyKind::Person,
            public_key: [key; 32],
            epoch,
            brokers: Vec::new(),
            writers: Vec::new(),
            leaf_index: 3,
            erased: false,
        }
    }

    fn custody_statement(listed: &ListedCustody) -> Statement {
        let custody = Custody {
            custody: listed.custody,
            owner: listed.owner,
            kind: listed.kind,
            kem: 0x20,
            key: listed.public_key.to_vec(),
            epoch: listed.epoch,
            brokers: Vec::new(),
            writers: Vec::new(),
            controller: None,
            held_by: Vec::new(),
        };
        Statement::new(ORIGIN, Body::Custody(custody), [1; 16], 9)
    }

    /// The receipt of a log with this leaf alone.
    fn receipt(statement: &Statement, outcome: Outcome, cosigners: u8) -> Receipt {
        let opening = Opening(Entry {
            salt: [5; 32],
            signed: statement.clone().sign(&[&SigningKey::from_seed(&[7; 32])]),
        });
        let leaf = Leaf {
            v: 1,
            kind: statement.body.kind(),
            at: 1_792_000_000_000,
            outcome,
            record: None,
            opening: opening.commitment(),
        };
        let mut tables = MemoryTables::default();
        tree::append(&mut tables, 0, &leaf.to_bytes()).unwrap();
        let checkpoint = Checkpoint {
            origin: ORIGIN.to_owned(),
            size: 1,
            root: tree::root(&tables, 1).unwrap(),
        };
        let mut checkpoint = checkpoint.sign(&log()).unwrap();
        for _ in 0..cosigners {
            let signature = cosign(&checkpoint, WITNESS, &witness(), 1_000).unwrap();
            checkpoint.add(signature).unwrap();
        }
        Receipt {
            leaf,
            opening: Some(opening),
            index: 0,
            proof: tree::inclusion(&tables, 0, 1).unwrap(),
            checkpoint,
        }
    }

    /// One of one.
    fn policy() -> TrustPolicy {
        let log = VerifierKey::new(ORIGIN, SignatureKind::Ed25519, log().did()).unwrap();
        let kind = SignatureKind::Cosignature;
        let witness = VerifierKey::new(WITNESS, kind, witness().did()).unwrap();
        TrustPolicy::new(&[log], &[witness], 1).unwrap()
    }

    fn log() -> SigningKey {
        SigningKey::from_seed(&[1; 32])
    }

    fn witness() -> SigningKey {
        SigningKey::from_seed(&[2; 32])
    }

    const ORIGIN: &str = "anchor.example";
    const WITNESS: &str = "anchor.example/org";
}
