use crate::{
    AccountQuery, AnchoredRecord, AsOf, Asked, ClientConfig, ClientError, Code, ConfigError,
    ConfirmFactor, ConvertError, CreateKey, CreatedFactor, CreatedKey, Decision, EmergencyPage,
    EmergencyQuery, FactorClaim, Get, ImportKey, ImportedKey, LeafEntry, LeafName, ListedCustody,
    ListedErasure, ListedLegalHold, ListedPrincipal, MAX_CIDS, Members, Missing, NodeError,
    NodeStatus, ReceiptOf, RecordCheck, RecordPage, RecordPlace, RecordQuery, Stored, StreamHead,
    Submit, Submitted, block, convert, custody, erasure,
    error::Failure,
    log::{self, optional_release_list},
    pb::{
        access::{
            self as access_pb, access_service_client::AccessServiceClient,
            custody_service_client::CustodyServiceClient,
            factor_service_client::FactorServiceClient,
        },
        anchor::{self as anchor_pb, anchor_service_client::AnchorServiceClient},
        block::{self as block_pb, block_service_client::BlockServiceClient},
        registry::{self as registry_pb, registry_service_client::RegistryServiceClient},
    },
    registry,
};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use medanchor_anchor::{
    AccountHead, Attestation, ConsentEntry, Disclosure, LeafIndex, LegalHold, PolicyChain,
    PrincipalKind, Receipt, ReleaseList, SignedStatement, StoreKey, Strength,
};
use medanchor_dag::{Block, Cid, CustodyId, Did, RawBlocks, SigningKey, StreamId, to_canonical};
use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tonic::{Request, Response, Status, Streaming, transport::Channel};

mod submissions;

/// A typed client of the network's nodes.
///
/// A call goes to the node that answered last; when that cannot serve it, the others are tried in order.
/// Every call is safe to repeat, so that a call whose answer was lost is simply made again. Connections
/// are made when they are needed; clones share them.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<[Node]>,
    preferred: Arc<AtomicUsize>,
}

struct Node {
    name: String,
    channel: Channel,
}

impl Client {
    /// A client of these nodes. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when there is no node, or an address or the certificates cannot be used.
    pub fn new(config: &ClientConfig) -> Result<Self, ConfigError> {
        if config.nodes.is_empty() {
            return Err(ConfigError::NoNodes);
        }
        let connect = |address: &crate::NodeAddress| {
            Ok(Node {
                name: address.name.clone(),
                channel: config.channel(address)?,
            })
        };
        Ok(Self {
            nodes: config.nodes.iter().map(connect).collect::<Result<_, _>>()?,
            preferred: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// The nodes' short names, in order.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// A client of one of the nodes alone.
    pub fn only(&self, node: &str) -> Option<Self> {
        let node = self.nodes.iter().find(|known| known.name == node)?;
        Some(Self {
            nodes: Arc::new([Node {
                name: node.name.clone(),
                channel: node.channel.clone(),
            }]),
            preferred: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// A client of the node that answered last, alone.
    #[must_use]
    pub fn nearest(&self) -> Self {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let node = self.nodes.get(preferred).or_else(|| self.nodes.first());
        let node = node.and_then(|node| self.only(&node.name));
        node.unwrap_or_else(|| self.clone())
    }

    /// Records a statement. With a `strength` it waits for a receipt that strong. Without, it answers as soon as
    /// the leaf is *committed*: durable on a quorum of nodes, as the node that answers says. A committed leaf
    /// survives crashes and the loss of a minority of nodes, but its answer proves nothing to anybody; the same
    /// call again with a strength, or [`Client::receipt`], gives the receipt later.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; recording the same statement again is safe.
    pub async fn submit(
        &self,
        signed: &SignedStatement,
        strength: Option<Strength>,
    ) -> Result<Submitted, ClientError> {
        let request = anchor_pb::SubmitRequest::from(Submit {
            signed: signed.clone(),
            strength,
        });
        self.call(
            &request,
            APPEND_DEADLINE,
            Submitted::try_from,
            |channel, request| async { anchor(channel).submit(request).await },
        )
        .await
    }

    /// Records statements as they come, many at a time, and gives the answers in the same order, each as
    /// [`Client::submit`] would. When a node fails midway, the rest goes on by another.
    pub fn submit_stream(
        &self,
        statements: impl Stream<Item = SignedStatement> + Send + 'static,
        strength: Option<Strength>,
    ) -> BoxStream<'static, Result<Submitted, ClientError>> {
        submissions::submit_stream(self.clone(), statements.boxed(), strength).boxed()
    }

    /// The receipt of a leaf, not verified yet.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn receipt(
        &self,
        leaf: LeafName,
        strength: Strength,
    ) -> Result<(LeafIndex, Receipt), ClientError> {
        let request = anchor_pb::ReceiptRequest::from(ReceiptOf { leaf, strength });
        let parse = |response: anchor_pb::ReceiptResponse| {
            Ok((response.leaf_index, Receipt::try_from(response)?))
        };
        self.call(&request, APPEND_DEADLINE, parse, |channel, request| async {
            anchor(channel).receipt(request).await
        })
        .await
    }

    /// Leaves in order from index `from`, at most `limit` (`None`: to the end of the log). When a node
    /// fails midway, the stream goes on from another.
    pub fn leaves(
        &self,
        from: LeafIndex,
        limit: Option<u64>,
    ) -> impl Stream<Item = Result<LeafEntry, ClientError>> + use<> {
        let leaves = self.leaves_as_of(from, limit);
        leaves.try_filter_map(async |listed| Ok(listed.value))
    }

    /// The same, each with the size of the tree that the node read it from; without a leaf once when there is
    /// none to give. A node may be behind what was acknowledged.
    pub fn leaves_as_of(
        &self,
        from: LeafIndex,
        limit: Option<u64>,
    ) -> impl Stream<Item = Result<AsOf<Option<LeafEntry>>, ClientError>> + use<> {
        let walk = Leaves {
            client: self.clone(),
            from,
            next: from,
            left: limit,
            open: None,
            retries_left: self.nodes.len(),
        };
        stream::try_unfold(walk, |mut walk| async {
            Ok(walk.advance().await?.map(|leaf| (leaf, walk)))
        })
    }

    /// The newest published checkpoint (C2SP tlog-checkpoint), `None` before the first. Not verified yet.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn checkpoint(&self) -> Result<Option<String>, ClientError> {
        let parse = |response: anchor_pb::CheckpointResponse| {
            convert::at_most(
                "checkpoint",
                response.checkpoint.as_bytes(),
                MAX_CHECKPOINT_BYTES,
            )?;
            Ok((!response.checkpoint.is_empty()).then_some(response.checkpoint))
        };
        let request = anchor_pb::CheckpointRequest {};
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            anchor(channel).checkpoint(request).await
        })
        .await
    }

    /// Has a signed access request decided. A denial is an answer, not an error.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; the same request again gets the same grant until it expires.
    pub async fn request(&self, asked: &Asked) -> Result<Decision, ClientError> {
        let request = access_pb::RequestRequest::from(asked);
        let parse = Decision::try_from;
        self.call(
            &request,
            RELEASE_DEADLINE,
            parse,
            |channel, request| async {
                let mut client =
                    AccessServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                let mut stream = client.request(request).await?.into_inner();
                let mut messages = Vec::new();
                while let Some(message) = stream.message().await? {
                    if messages.len() == MAX_RELEASE_MESSAGES {
                        return Err(Status::out_of_range("the answer does not end"));
                    }
                    messages.push(message);
                }
                Ok(Response::new(messages))
            },
        )
        .await
    }

    /// What a release was of, for whoever may see all openings; `None` when it was deleted, or is not for the caller. Not
    /// verified: the leaf's opening says its head.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn release_list(&self, index: LeafIndex) -> Result<Option<ReleaseList>, ClientError> {
        let request = anchor_pb::ReceiptRequest::from(ReceiptOf {
            leaf: LeafName::Index(index),
            strength: Strength::Witnessed,
        });
        let parse =
            |response: anchor_pb::ReceiptResponse| optional_release_list(&response.release_list);
        self.call(&request, APPEND_DEADLINE, parse, |channel, request| async {
            anchor(channel).receipt(request).await
        })
        .await
    }

    /// Has a custody key made on the first node that answers; nothing is in the log yet. Use
    /// [`Client::only`] to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn create_custody_key(&self, create: CreateKey) -> Result<CreatedKey, ClientError> {
        let request = access_pb::CreateKeyRequest::from(create);
        self.call(
            &request,
            READ_DEADLINE,
            CreatedKey::try_from,
            |channel, request| async {
                CustodyServiceClient::new(channel).create_key(request).await
            },
        )
        .await
    }

    /// What copies of custody keys for the broker on the first node that answers are sealed to. Not verified yet. Use
    /// [`Client::only`] to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn custody_store_key(&self) -> Result<StoreKey, ClientError> {
        self.call(
            &access_pb::GetStoreKeyRequest {},
            READ_DEADLINE,
            |response| custody::store_key(&response),
            |channel, request| async {
                CustodyServiceClient::new(channel)
                    .get_store_key(request)
                    .await
            },
        )
        .await
    }

    /// Has the first node that answers keep a copy of a custody key. Use [`Client::only`] to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; code `copy-unusable` when the copy does not open there, `other-key-held` when another key is held
    /// in its place.
    pub async fn import_custody_key(&self, import: ImportKey) -> Result<ImportedKey, ClientError> {
        let request = access_pb::ImportKeyRequest::from(import);
        self.call(
            &request,
            READ_DEADLINE,
            ImportedKey::try_from,
            |channel, request| async {
                CustodyServiceClient::new(channel).import_key(request).await
            },
        )
        .await
    }

    /// Which of these custody keys, at most [`crate::MAX_CHECKED_KEYS`], the broker on the first node that answers holds now, in
    /// their order: it attests each. Not verified yet. Use [`Client::only`] to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn check_custody_keys(
        &self,
        custodies: &[CustodyId],
    ) -> Result<Vec<Option<Attestation>>, ClientError> {
        let ids = custodies.iter().map(|id| id.as_bytes().to_vec());
        let request = access_pb::CheckKeysRequest {
            custodies: ids.collect(),
        };
        self.call(
            &request,
            READ_DEADLINE,
            |response| {
                let checked = custody::attestations(&response)?;
                match checked.len() == custodies.len() {
                    true => Ok(checked),
                    false => Err(ConvertError::malformed(
                        "attestations",
                        "not one for each custody",
                    )),
                }
            },
            |channel, request| async {
                CustodyServiceClient::new(channel).check_keys(request).await
            },
        )
        .await
    }

    /// Has a secret made for a person's authenticator app, on the first node that answers; nothing is in the log yet. Use
    /// [`Client::only`] to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn create_factor(&self, who: &Did) -> Result<CreatedFactor, ClientError> {
        let request = access_pb::CreateFactorRequest {
            who: who.to_string(),
        };
        self.call(
            &request,
            READ_DEADLINE,
            CreatedFactor::try_from,
            |channel, request| async {
                FactorServiceClient::new(channel)
                    .create_factor(request)
                    .await
            },
        )
        .await
    }

    /// Has the node that made a factor sign its enrolment.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; code `wrong-code` when the app does not have the secret, or the code was used.
    pub async fn confirm_factor(
        &self,
        confirm: ConfirmFactor,
    ) -> Result<SignedStatement, ClientError> {
        let request = access_pb::ConfirmFactorRequest::from(confirm);
        self.call(
            &request,
            READ_DEADLINE,
            |response: access_pb::ConfirmFactorResponse| {
                log::signed_statement(&response.signed_statement)
            },
            |channel, request| async {
                FactorServiceClient::new(channel)
                    .confirm_factor(request)
                    .await
            },
        )
        .await
    }

    /// Shows a second factor to the node that verifies it. What it says of it counts for some minutes.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; codes `wrong-code`, `factor-locked`, `no-factor`.
    pub async fn verify_factor(
        &self,
        claim: &FactorClaim,
        key: &SigningKey,
        code: Code,
    ) -> Result<SignedStatement, ClientError> {
        let request = claim.sign(key, code);
        self.call(
            &request,
            READ_DEADLINE,
            |response: access_pb::VerifyFactorResponse| {
                log::signed_statement(&response.signed_statement)
            },
            |channel, request| async {
                FactorServiceClient::new(channel)
                    .verify_factor(request)
                    .await
            },
        )
        .await
    }

    /// Which of the blocks the node that answers holds, in the order of `cids`.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn has(&self, cids: &[Cid]) -> Result<Vec<bool>, ClientError> {
        let mut held = Vec::with_capacity(cids.len());
        for part in cids.chunks(MAX_CIDS) {
            let request = block_pb::HasRequest {
                cids: block::cids_to_pb(part),
            };
            let parse = |response: block_pb::HasResponse| {
                if response.held.len() == part.len() {
                    Ok(response.held)
                } else {
                    Err(ConvertError::malformed("held", "not one answer per block"))
                }
            };
            let answer = self
                .call(&request, READ_DEADLINE, parse, |channel, request| async {
                    blocks(channel).has(request).await
                })
                .await?;
            held.extend(answer);
        }
        Ok(held)
    }

    /// Stores blocks. All of them are fsynced when this returns. They are sent in windows of
    /// [`PUT_WINDOW_BYTES`] and a bounded number, so that memory does not grow with their number and a window can be sent again
    /// to another node.
    ///
    /// When a node fails midway, the blocks may lie on several nodes.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; some of the blocks may have been stored. Putting them again is safe.
    pub async fn put(
        &self,
        blocks: impl Stream<Item = Block> + Send,
    ) -> Result<Stored, ClientError> {
        let windows = windows(blocks).map(|window| self.put_window(window));
        windows
            .buffered(PUT_WINDOWS_IN_FLIGHT)
            .try_fold(Stored::default(), |sum, stored| async move {
                Ok(Stored {
                    blocks: sum.blocks.saturating_add(stored.blocks),
                    size_bytes: sum.size_bytes.saturating_add(stored.size_bytes),
                })
            })
            .await
    }

    async fn put_window(&self, window: Vec<Block>) -> Result<Stored, ClientError> {
        let sent = window.len();
        let parse = |response: block_pb::PutResponse| {
            if usize::try_from(response.blocks) != Ok(sent) {
                return Err(ConvertError::malformed(
                    "blocks",
                    "not all blocks were stored",
                ));
            }
            Ok(Stored {
                blocks: response.blocks,
                size_bytes: response.size_bytes,
            })
        };
        self.call(&window, PUT_DEADLINE, parse, |channel, window| async move {
            let (metadata, extensions, window) = window.into_parts();
            let messages = stream::iter(window.into_iter().map(block_pb::PutRequest::from));
            let request = Request::from_parts(metadata, extensions, messages);
            blocks(channel).put(request).await
        })
        .await
    }

    /// Streams blocks from the node that answers, in the order of `cids`, each verified.
    ///
    /// # Errors
    ///
    /// [`ClientError`] when no node begins to answer; in the stream, when the node fails midway: the rest
    /// has to be asked for again.
    pub async fn blocks(
        &self,
        cids: &[Cid],
        local_only: bool,
    ) -> Result<impl Stream<Item = Result<Result<Block, Missing>, ClientError>> + use<>, ClientError>
    {
        let request = block_pb::GetRequest::from(Get {
            cids: cids.to_vec(),
            local_only,
        });
        let (node, answers) = self
            .try_nodes(|node| {
                let request = Request::new(request.clone());
                async move {
                    let mut client = blocks(node.channel.clone());
                    let answers = node.within(READ_DEADLINE, client.get(request)).await?;
                    Ok((node.name.clone(), answers.into_inner()))
                }
            })
            .await?;
        let cids = stream::iter(cids.to_vec());
        Ok(stream::try_unfold(
            (node, answers, cids),
            |(node, mut answers, mut cids)| async {
                let Some(cid) = cids.next().await else {
                    return Ok(None);
                };
                let block = next_block(&node, &mut answers, cid).await?;
                Ok(Some((block, (node, answers, cids))))
            },
        ))
    }

    /// One block from one node, by the node's place in the order.
    pub(crate) async fn block_from(
        &self,
        node: usize,
        cid: &Cid,
        local_only: bool,
    ) -> Result<Result<Block, Missing>, ClientError> {
        let Some(node) = self.nodes.get(node) else {
            return Ok(Err(Missing::NotFound));
        };
        let request = block_pb::GetRequest::from(Get {
            cids: vec![*cid],
            local_only,
        });
        let mut client = blocks(node.channel.clone());
        let get = client.get(Request::new(request));
        let answers = node.within(BLOCK_DEADLINE, get).await;
        let mut answers = answers
            .map_err(|failure| failure.after(1, &node.name))?
            .into_inner();
        next_block(&node.name, &mut answers, *cid).await
    }

    /// Who is enrolled, at most [`crate::MAX_ROWS`] after `after` in key order. No `kinds` means all. For
    /// operators and auditors.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn principals(
        &self,
        kinds: &[PrincipalKind],
        after: Option<Did>,
    ) -> Result<AsOf<Vec<ListedPrincipal>>, ClientError> {
        let request = registry_pb::ListPrincipalsRequest {
            kinds: kinds
                .iter()
                .map(|&kind| registry::principal_kind_name(kind).to_owned())
                .collect(),
            after: after.map_or_else(String::new, |did| did.to_string()),
            limit: registry::MAX_ROWS,
            only: String::new(),
        };
        let parse = |response: registry_pb::ListPrincipalsResponse| {
            let value = rows("principals", response.principals, ListedPrincipal::try_from)?;
            let tree_size = response.tree_size;
            Ok(AsOf { tree_size, value })
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_principals(request).await
        })
        .await
    }

    /// Who keeps the log, and who did.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn members(&self) -> Result<Members, ClientError> {
        let request = registry_pb::ListMembersRequest {};
        self.call(
            &request,
            READ_DEADLINE,
            Members::try_from,
            |channel, request| async { registry_client(channel).list_members(request).await },
        )
        .await
    }

    /// How the trust policy changed with the members. It proves itself, and that checkpoints of these `sizes` are
    /// of the log as it is now, where the node knows them.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn policy_chain(&self, sizes: &[u64]) -> Result<PolicyChain, ClientError> {
        let request = anchor_pb::PolicyChainRequest {
            sizes: sizes.to_vec(),
        };
        let parse = |response: anchor_pb::PolicyChainResponse| {
            PolicyChain::from_bytes(&response.policy_chain)
                .map_err(|error| ConvertError::malformed("policy_chain", error))
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            anchor(channel).policy_chain(request).await
        })
        .await
    }

    /// Whether somebody is enrolled, and how. Whoever can name them, by the key that they were enrolled with, may ask.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn principal(&self, did: &Did) -> Result<AsOf<Option<ListedPrincipal>>, ClientError> {
        self.one_principal(did, |listed| listed.did == *did).await
    }

    /// Whose key this is or once was, as a node says. Whoever can name the key may ask.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn identity(&self, key: &Did) -> Result<AsOf<Option<ListedPrincipal>>, ClientError> {
        self.one_principal(key, |_| true).await
    }

    async fn one_principal(
        &self,
        key: &Did,
        is_it: impl Fn(&ListedPrincipal) -> bool,
    ) -> Result<AsOf<Option<ListedPrincipal>>, ClientError> {
        let request = registry_pb::ListPrincipalsRequest {
            only: key.to_string(),
            ..registry_pb::ListPrincipalsRequest::default()
        };
        let parse = |response: registry_pb::ListPrincipalsResponse| {
            let rows = rows("principals", response.principals, ListedPrincipal::try_from)?;
            let tree_size = response.tree_size;
            let value = the_one("principals", rows, &is_it)?;
            Ok(AsOf { tree_size, value })
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_principals(request).await
        })
        .await
    }

    /// A custody key. Whoever can name it may ask.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn custody(
        &self,
        custody: &CustodyId,
    ) -> Result<AsOf<Option<ListedCustody>>, ClientError> {
        let request = registry_pb::ListCustodiesRequest {
            only: custody.as_bytes().to_vec(),
            ..registry_pb::ListCustodiesRequest::default()
        };
        let parse = |response: registry_pb::ListCustodiesResponse| {
            let rows = rows("custodies", response.custodies, ListedCustody::try_from)?;
            let tree_size = response.tree_size;
            let value = the_one("custodies", rows, |listed| listed.custody == *custody)?;
            Ok(AsOf { tree_size, value })
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_custodies(request).await
        })
        .await
    }

    /// Custody keys, at most [`crate::MAX_ROWS`] after `after` in the order of ids. For operators and auditors.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn custodies(
        &self,
        after: Option<CustodyId>,
    ) -> Result<AsOf<Vec<ListedCustody>>, ClientError> {
        let request = registry_pb::ListCustodiesRequest {
            after: after.map_or_else(Vec::new, |custody| custody.as_bytes().to_vec()),
            limit: registry::MAX_ROWS,
            only: Vec::new(),
        };
        let parse = |response: registry_pb::ListCustodiesResponse| {
            let value = rows("custodies", response.custodies, ListedCustody::try_from)?;
            let tree_size = response.tree_size;
            Ok(AsOf { tree_size, value })
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_custodies(request).await
        })
        .await
    }

    /// How far the erasure of a custody key is, or what it would have to say now; `None`: there is no such custody key. For
    /// operators and auditors.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn erasure(
        &self,
        custody: &CustodyId,
    ) -> Result<AsOf<Option<ListedErasure>>, ClientError> {
        let request = registry_pb::GetErasureRequest {
            custody: custody.as_bytes().to_vec(),
        };
        let parse = |response| erasure::erasure(custody, &response);
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).get_erasure(request).await
        })
        .await
    }

    /// The consents given for a custody key, in force or withdrawn.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn consents(
        &self,
        custody: CustodyId,
    ) -> Result<AsOf<Vec<ConsentEntry>>, ClientError> {
        let request = registry_pb::ListConsentsRequest {
            custody: custody.as_bytes().to_vec(),
        };
        let parse = |response: registry_pb::ListConsentsResponse| {
            let value = rows("consents", response.consents, |entry| {
                registry::consent_from_pb(&entry)
            })?;
            let tree_size = response.tree_size;
            Ok(AsOf { tree_size, value })
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_consents(request).await
        })
        .await
    }

    /// Legal holds in force, at most [`crate::MAX_ROWS`] after `after`, those of an organisation together. For operators
    /// and auditors.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn legal_holds(
        &self,
        after: Option<&LegalHold>,
    ) -> Result<AsOf<Vec<ListedLegalHold>>, ClientError> {
        let request = registry_pb::ListLegalHoldsRequest {
            after: after.map_or_else(Vec::new, to_canonical),
            limit: registry::MAX_ROWS,
        };
        let parse = |response: registry_pb::ListLegalHoldsResponse| {
            let value = rows(
                "legal_holds",
                response.legal_holds,
                ListedLegalHold::try_from,
            )?;
            let tree_size = response.tree_size;
            Ok(AsOf { tree_size, value })
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_legal_holds(request).await
        })
        .await
    }

    /// What the log holds of a record.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotFound`] when it holds nothing.
    pub async fn record(&self, record: &Cid) -> Result<AnchoredRecord, ClientError> {
        let request = registry_pb::GetRecordRequest {
            record: record.to_bytes(),
        };
        let parse = |response| {
            let entry = AnchoredRecord::try_from(response)?;
            if entry.anchored.record == *record {
                Ok(entry)
            } else {
                Err(ConvertError::malformed("anchored", "another record"))
            }
        };
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).get_record(request).await
        })
        .await
    }

    /// A page of the records that whoever signs may have now, in the role and for the purpose that the query names, from
    /// `after` on. Each says which tree it was read from.
    ///
    /// # Errors
    ///
    /// [`ClientError::Denied`] when nothing is listed for who signs.
    pub async fn records(
        &self,
        query: &RecordQuery,
        key: &SigningKey,
        after: Option<&RecordPlace>,
    ) -> Result<AsOf<RecordPage>, ClientError> {
        let request = query.sign(key, after);
        let parse = AsOf::<RecordPage>::try_from;
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_records(request).await
        })
        .await
    }

    /// How many disclosures an account has, and the head of the hash chain over them: a node's word.
    ///
    /// # Errors
    ///
    /// [`ClientError::Denied`] when it is not for who signs.
    pub async fn account(
        &self,
        query: &AccountQuery,
        key: &SigningKey,
    ) -> Result<AsOf<AccountHead>, ClientError> {
        let request = query.sign(key);
        let parse = AsOf::<AccountHead>::try_from;
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).get_account(request).await
        })
        .await
    }

    /// A page of the disclosures of an account, from number `first` on, with their proofs in the tree of `proof_tree_size`
    /// leaves. Nothing of it is verified yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Denied`] when they are not for who signs.
    pub async fn disclosures(
        &self,
        query: &AccountQuery,
        key: &SigningKey,
        first: u64,
        proof_tree_size: u64,
    ) -> Result<AsOf<Vec<Disclosure>>, ClientError> {
        let request = query.sign_for_disclosures(key, first, proof_tree_size);
        let parse = AsOf::<Vec<Disclosure>>::try_from;
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_disclosures(request).await
        })
        .await
    }

    /// A page of the emergencies that concern who signs, from leaf `first` on, as a node lists them.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn emergencies(
        &self,
        query: &EmergencyQuery,
        key: &SigningKey,
        first: LeafIndex,
    ) -> Result<AsOf<EmergencyPage>, ClientError> {
        let request = query.sign(key, first);
        let parse = AsOf::<EmergencyPage>::try_from;
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).list_emergencies(request).await
        })
        .await
    }

    /// The head of a device's stream; no value when it has no record.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn stream(
        &self,
        device: &Did,
        stream: &StreamId,
    ) -> Result<AsOf<Option<StreamHead>>, ClientError> {
        let request = registry_pb::GetStreamRequest {
            device: device.to_string(),
            stream: stream.as_bytes().to_vec(),
        };
        let parse = |response| registry::stream_head(&response);
        self.call(&request, READ_DEADLINE, parse, |channel, request| async {
            registry_client(channel).get_stream(request).await
        })
        .await
    }

    /// The view that the node that answers has of itself. Use [`Client::only`] to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError`]
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        let request = registry_pb::StatusRequest {};
        self.call(
            &request,
            READ_DEADLINE,
            NodeStatus::try_from,
            |channel, request| async { registry_client(channel).status(request).await },
        )
        .await
    }

    /// Has the node that answers read a record on its own disk, or only look for its raw blocks. Use [`Client::only`]
    /// to choose the node.
    ///
    /// # Errors
    ///
    /// [`ClientError::NotFound`] when that node's log holds no such record.
    pub async fn check_record(
        &self,
        record: &Cid,
        raw: RawBlocks,
    ) -> Result<RecordCheck, ClientError> {
        let request = registry_pb::CheckRecordRequest {
            record: record.to_bytes(),
            look: raw == RawBlocks::Look,
        };
        self.call(
            &request,
            CHECK_DEADLINE,
            RecordCheck::try_from,
            |channel, request| async { registry_client(channel).check_record(request).await },
        )
        .await
    }

    /// One unary call: sent to the nodes in order until one answers with what `parse` accepts, and again after
    /// a pause when they ask for one.
    async fn call<Q, A, T, F>(
        &self,
        request: &Q,
        deadline: Duration,
        parse: impl Fn(A) -> Result<T, ConvertError>,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<T, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut pauses_left = MAX_PAUSES;
        loop {
            let answer = self.try_nodes(|node| {
                let mut message = Request::new(request.clone());
                // The node gives up a little later, so that who was too slow is told from who could not be reached.
                message.set_timeout(deadline + GRACE);
                let sent = send(node.channel.clone(), message);
                let parse = &parse;
                async move {
                    let answer = node.within(deadline, sent).await?;
                    parse(answer.into_inner()).map_err(Failure::Invalid)
                }
            });
            match answer.await {
                // All of them are busy; they say for how long.
                Err(ClientError::Unavailable {
                    last:
                        NodeError {
                            retry_after: Some(pause),
                            ..
                        },
                    ..
                }) if pauses_left > 0 => {
                    pauses_left -= 1;
                    tokio::time::sleep(pause.min(MAX_PAUSE)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Tries the nodes in order, the preferred one first, until one succeeds or says what all would say.
    ///
    /// The attempt is no `AsyncFn`: its futures could not be shown to be `Send`.
    async fn try_nodes<'c, T, F>(
        &'c self,
        attempt: impl Fn(&'c Node) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let (before, from) = self.nodes.split_at_checked(preferred).unwrap_or_default();
        let mut last = None;
        for (index, node) in (preferred..).zip(from).chain((0..).zip(before)) {
            match attempt(node).await {
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(failure) => {
                    tracing::debug!(node = node.name, ?failure, "node did not serve a call");
                    // When one of them asks for a pause, that is what to do; and who says why is heard before who does not
                    // answer.
                    let keep = |(_, known): &(_, Failure)| {
                        known.retry_after().is_some() || (known.is_answer() && !failure.is_answer())
                    };
                    if !last.as_ref().is_some_and(keep) {
                        last = Some((node, failure));
                    }
                }
            }
        }
        let tried = self.nodes.len();
        #[expect(clippy::expect_used, reason = "`new` refuses an empty list of nodes")]
        let (node, failure) = last.expect("at least one node was tried");
        Err(failure.after(tried, &node.name))
    }
}

impl Client {
    /// The next call begins with another node.
    fn prefer_another(&self) {
        let next = self.preferred.load(Ordering::Relaxed).saturating_add(1);
        let next = next.checked_rem(self.nodes.len()).unwrap_or(0);
        self.preferred.store(next, Ordering::Relaxed);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.node_names()).finish()
    }
}

impl Node {
    async fn within<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer.map_err(|status| Failure::new(&self.name, &status)),
            Err(_) => Err(Failure::Node(NodeError::timed_out(&self.name))),
        }
    }
}

/// Where a walk over the leaves stands.
struct Leaves {
    client: Client,
    from: LeafIndex,
    next: LeafIndex,
    left: Option<u64>,
    open: Option<(String, Streaming<anchor_pb::ListLeavesResponse>)>,
    retries_left: usize,
}

impl Leaves {
    async fn advance(&mut self) -> Result<Option<AsOf<Option<LeafEntry>>>, ClientError> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let (node, leaves) = match &mut self.open {
                Some(open) => open,
                None => self
                    .open
                    .insert(open_leaves(&self.client, self.next, self.left).await?),
            };
            match next_leaf(node, leaves, self.next).await {
                Ok(Some(listed)) => {
                    if listed.value.is_some() {
                        self.next = self.next.saturating_add(1);
                        self.left = self.left.map(|left| left.saturating_sub(1));
                        self.retries_left = self.client.nodes.len();
                    } else if self.next > self.from {
                        // Another node goes on for one that failed, and has no more.
                        return Ok(None);
                    } else {
                        self.left = Some(0);
                    }
                    return Ok(Some(listed));
                }
                Ok(None) => return Ok(None),
                Err(error) if self.retries_left == 0 => return Err(error),
                Err(_) => {
                    self.retries_left -= 1;
                    self.open = None;
                    self.client.prefer_another();
                }
            }
        }
    }
}

async fn open_leaves(
    client: &Client,
    from: LeafIndex,
    limit: Option<u64>,
) -> Result<(String, Streaming<anchor_pb::ListLeavesResponse>), ClientError> {
    let request = anchor_pb::ListLeavesRequest {
        from_index: from,
        limit: limit.unwrap_or(0),
    };
    client
        .try_nodes(|node| async move {
            let mut client = anchor(node.channel.clone());
            let leaves = client.list_leaves(Request::new(request));
            let leaves = node.within(READ_DEADLINE, leaves).await?;
            Ok((node.name.clone(), leaves.into_inner()))
        })
        .await
}

async fn next_leaf(
    node: &str,
    leaves: &mut Streaming<anchor_pb::ListLeavesResponse>,
    expected: LeafIndex,
) -> Result<Option<AsOf<Option<LeafEntry>>>, ClientError> {
    let Some(response) = next_message(node, leaves).await? else {
        return Ok(None);
    };
    let listed = AsOf::<Option<LeafEntry>>::try_from(response);
    let listed = listed.and_then(|listed| {
        let index = listed.value.as_ref().map(|entry| entry.index);
        if index.is_none_or(|index| index == expected) {
            Ok(listed)
        } else {
            Err(ConvertError::malformed(
                "leaf_index",
                "leaves are not in order",
            ))
        }
    });
    listed
        .map(Some)
        .map_err(|source| ClientError::InvalidAnswer {
            node: node.to_owned(),
            source,
        })
}

async fn next_block(
    node: &str,
    answers: &mut Streaming<block_pb::GetResponse>,
    cid: Cid,
) -> Result<Result<Block, Missing>, ClientError> {
    let answer = match next_message(node, answers).await? {
        Some(response) => block::answer(cid, response),
        None => Err(ConvertError::Missing("cid")),
    };
    answer.map_err(|source| ClientError::InvalidAnswer {
        node: node.to_owned(),
        source,
    })
}

async fn next_message<T>(
    node: &str,
    messages: &mut Streaming<T>,
) -> Result<Option<T>, ClientError> {
    let failure = match tokio::time::timeout(MESSAGE_DEADLINE, messages.message()).await {
        Ok(Ok(message)) => return Ok(message),
        Ok(Err(status)) => Failure::new(node, &status),
        Err(_) => Failure::Node(NodeError::timed_out(node)),
    };
    Err(failure.after(1, node))
}

/// Blocks in windows of at most [`PUT_WINDOW_BYTES`] and [`PUT_WINDOW_BLOCKS`], or one block.
fn windows(blocks: impl Stream<Item = Block> + Send) -> impl Stream<Item = Vec<Block>> + Send {
    let blocks = Box::pin(blocks.peekable());
    stream::unfold(blocks, |mut blocks| async {
        let mut window = vec![blocks.next().await?];
        let mut size = window
            .iter()
            .map(|block| block.bytes().len())
            .sum::<usize>();
        while let Some(next) = blocks.as_mut().peek().await {
            size = size.saturating_add(next.bytes().len());
            if size > PUT_WINDOW_BYTES || window.len() >= PUT_WINDOW_BLOCKS {
                break;
            }
            window.extend(blocks.next().await);
        }
        Some((window, blocks))
    })
}

fn rows<A, T>(
    field: &'static str,
    rows: Vec<A>,
    parse: impl Fn(A) -> Result<T, ConvertError>,
) -> Result<Vec<T>, ConvertError> {
    let limit = usize::try_from(registry::MAX_ROWS).unwrap_or(usize::MAX);
    if rows.len() > limit {
        return Err(ConvertError::TooMany { field, limit });
    }
    rows.into_iter().map(parse).collect()
}

/// The row asked for, or none.
fn the_one<T>(
    field: &'static str,
    rows: Vec<T>,
    is_it: impl Fn(&T) -> bool,
) -> Result<Option<T>, ConvertError> {
    match rows.len() <= 1 && rows.iter().all(is_it) {
        true => Ok(rows.into_iter().next()),
        false => Err(ConvertError::malformed(field, "another was asked for")),
    }
}

fn anchor(channel: Channel) -> AnchorServiceClient<Channel> {
    AnchorServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn blocks(channel: Channel) -> BlockServiceClient<Channel> {
    BlockServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn registry_client(channel: Channel) -> RegistryServiceClient<Channel> {
    RegistryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// The largest message that is accepted or sent, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// How much [`Client::put`] sends in one call, in bytes.
pub const PUT_WINDOW_BYTES: usize = 16 << 20;
/// Blocks may be empty: their number is bounded too.
const PUT_WINDOW_BLOCKS: usize = 16_384;
/// One window is on its way while the other is being written to disk.
const PUT_WINDOWS_IN_FLIGHT: usize = 2;
const MAX_CHECKPOINT_BYTES: usize = 128 * 1024;

/// Some thousands of keys are unwrapped and sealed, and then it waits as a statement does.
const RELEASE_DEADLINE: Duration = Duration::from_secs(60);
/// An answer has half as many: a node that sends more is not heard to the end.
const MAX_RELEASE_MESSAGES: usize = 64;
/// A statement waits for its holders, a quorum and co-signatures.
const APPEND_DEADLINE: Duration = Duration::from_secs(30);
/// How much longer than the caller a node may work at a call.
const GRACE: Duration = Duration::from_secs(2);
/// How often a call pauses because nodes ask it to.
const MAX_PAUSES: u32 = 5;
/// The longest that a node may make a call pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A node reads a large record from its disk.
const CHECK_DEADLINE: Duration = Duration::from_secs(600);
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// A window at 256 KiB/s.
const PUT_DEADLINE: Duration = Duration::from_secs(64);
/// Another node is tried after this.
const BLOCK_DEADLINE: Duration = Duration::from_secs(10);
const MESSAGE_DEADLINE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::Codec;

    #[tokio::test]
    async fn window_is_bounded_in_bytes_and_in_blocks() {
        for (len, count, expected) in [(1 << 20, 20, vec![16, 4]), (0, 20_000, vec![16_384, 3_616])]
        {
            let block = Block::new(Codec::Raw, vec![0; len]).unwrap();
            let blocks = stream::iter(vec![block; count]);
            let windows: Vec<usize> = windows(blocks).map(|window| window.len()).collect().await;
            assert_eq!(windows, expected);
        }
    }
}
