use super::{
    accounts, emergencies,
    errors::{internal, parsed, read_status, tables_status},
    question, records,
};
use crate::{
    alarms::{Alarms, Raised},
    caller::Callers,
    clock,
    collector::Collector,
    fatal_store::FatalStore,
    membership::Membership,
    publisher::Publisher,
    replicator::Replicator,
    scrub::Scrubber,
};
use medanchor_anchor::{
    Anchored, Body, CustodyEntry, DeviceDetails, LeafIndex, LegalHoldEntry, MemberEntry,
    PrincipalEntry, Read, State, TablesError, View,
};
use medanchor_api::{
    Alarm, AnchoredRecord, AsOf, Collected, EmergencyQuery, ListedCustody, ListedErasure,
    ListedLegalHold, ListedMember, ListedPrincipal, MAX_ROWS, NodeStatus, PeerStatus, RecordCheck,
    Scrubbed, StreamHead, account_asked_for, consents_asked_for, disclosures_asked_for,
    emergencies_asked_for, erasure_asked_for, legal_holds_after, overloaded,
    pb::registry::{
        CheckRecordRequest, CheckRecordResponse, GetAccountRequest, GetAccountResponse,
        GetErasureRequest, GetErasureResponse, GetRecordRequest, GetRecordResponse,
        GetStreamRequest, GetStreamResponse, ListConsentsRequest, ListConsentsResponse,
        ListCustodiesRequest, ListCustodiesResponse, ListDisclosuresRequest,
        ListDisclosuresResponse, ListEmergenciesRequest, ListEmergenciesResponse,
        ListLegalHoldsRequest, ListLegalHoldsResponse, ListMembersRequest, ListMembersResponse,
        ListPrincipalsRequest, ListPrincipalsResponse, ListRecordsRequest, ListRecordsResponse,
        StatusRequest, StatusResponse, registry_service_server::RegistryService,
    },
    principal_kind_name, record_asked_for, record_to_check, records_asked_for, status,
    stream_asked_for,
};
use medanchor_dag::{CustodyId, Did, RawBlocks, ScrubProgress, to_canonical, walk};
use medanchor_ipfs::Peer;
use medanchor_policy::PolicySets;
use medanchor_raft::{Replica, Role};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

/// What the log's state says, as this replica has applied it.
pub(crate) struct Registry {
    pub(crate) origin: String,
    pub(crate) name: String,
    pub(crate) did: Did,
    pub(crate) replica: Arc<Replica>,
    pub(crate) store: Arc<FatalStore>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) scrubber: Arc<Scrubber>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) replicator: Arc<Replicator>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) checks: Checks,
    /// By which it is decided which records somebody is told of.
    pub(crate) policies: Arc<PolicySets>,
}

/// Records that are read or looked for at a time because somebody asks: each keeps a thread and the disk busy. Whoever
/// only looks does not wait for those who read, nor who asks for a list for either.
pub(crate) struct Checks {
    reads: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

impl Checks {
    fn of(&self, raw: RawBlocks) -> &Arc<Semaphore> {
        match raw {
            RawBlocks::Read => &self.reads,
            RawBlocks::Look => &self.looks,
        }
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            reads: Arc::new(Semaphore::new(MAX_READS)),
            looks: Arc::new(Semaphore::new(MAX_LOOKS)),
            lists: Arc::new(Semaphore::new(MAX_LISTS)),
        }
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn list_members(
        &self,
        _: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let entries = state.member_entries().map_err(tables_status)?;
        let quorum = state.quorum().map_err(tables_status)?;
        let witnesses = state.witnesses().map_err(tables_status)?.len();
        let placement = state.placement().map_err(tables_status)?;
        let founded = state.founded().map_err(tables_status)?;
        let policy = state.access_policy().map_err(tables_status)?;
        let usages = placement.quotas.iter().map(|quota| state.usage(&quota.org));
        let usages = usages.collect::<Result<_, _>>().map_err(tables_status)?;
        Ok(Response::new(ListMembersResponse {
            members: entries.into_iter().map(listed_member).collect(),
            quorum: u32::try_from(quorum).unwrap_or(u32::MAX),
            witnesses: u32::try_from(witnesses).unwrap_or(u32::MAX),
            tree_size: tree_size(&state)?,
            placement: to_canonical(&placement),
            copies: founded.map_or(0, |entry| entry.founded.copies.into()),
            usages,
            access_policy_leaf_index: policy.map_or(0, |entry| entry.since),
        }))
    }

    async fn list_principals(
        &self,
        request: Request<ListPrincipalsRequest>,
    ) -> Result<Response<ListPrincipalsResponse>, Status> {
        let auditor = Callers::is_auditor(request.extensions());
        let ListPrincipalsRequest {
            kinds,
            after,
            limit,
            only,
        } = request.into_inner();
        if !only.is_empty() {
            return self.principal(parsed(only.parse::<Did>())?).await;
        }
        require_auditor(auditor)?;
        let mut after = match after.as_str() {
            "" => None,
            text => Some(parsed(text.parse::<Did>())?),
        };
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let limit = page(limit);
        let mut principals = Vec::new();
        while principals.len() < limit {
            let rows = state
                .principals(after.as_ref(), limit)
                .map_err(tables_status)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(*last);
            for (did, entry) in rows {
                let kind = principal_kind_name(entry.kind);
                let wanted = kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
                if wanted && principals.len() < limit {
                    principals.push(listed(&state, did, entry)?.into());
                }
            }
        }
        Ok(Response::new(ListPrincipalsResponse {
            principals,
            tree_size: tree_size(&state)?,
        }))
    }

    async fn list_custodies(
        &self,
        request: Request<ListCustodiesRequest>,
    ) -> Result<Response<ListCustodiesResponse>, Status> {
        let auditor = Callers::is_auditor(request.extensions());
        let ListCustodiesRequest { after, limit, only } = request.into_inner();
        if !only.is_empty() {
            let only = CustodyId::new(parsed(only.as_slice().try_into())?);
            return self.custody(&only).await;
        }
        require_auditor(auditor)?;
        let after = match after.as_slice() {
            [] => None,
            bytes => Some(CustodyId::new(parsed(bytes.try_into())?)),
        };
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let entries = state
            .custodies(after.as_ref(), page(limit))
            .map_err(tables_status)?;
        let custodies: Result<_, Status> = entries.into_iter().map(custody).collect();
        Ok(Response::new(ListCustodiesResponse {
            custodies: custodies?,
            tree_size: tree_size(&state)?,
        }))
    }

    async fn list_consents(
        &self,
        request: Request<ListConsentsRequest>,
    ) -> Result<Response<ListConsentsResponse>, Status> {
        let id = parsed(consents_asked_for(request.get_ref()))?;
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let entries = state.consents(&id).map_err(tables_status)?;
        Ok(Response::new(ListConsentsResponse {
            consents: entries.into_iter().map(Into::into).collect(),
            tree_size: tree_size(&state)?,
        }))
    }

    async fn list_legal_holds(
        &self,
        request: Request<ListLegalHoldsRequest>,
    ) -> Result<Response<ListLegalHoldsResponse>, Status> {
        require_auditor(Callers::is_auditor(request.extensions()))?;
        let after = parsed(legal_holds_after(request.get_ref()))?;
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let limit = page(request.get_ref().limit);
        let entries = state.legal_holds(after.as_ref(), limit);
        let entries = entries.map_err(tables_status)?.into_iter();
        let legal_holds = entries.map(|entry| Ok(legal_hold(&state, entry)?.into()));
        let legal_holds = legal_holds.collect::<Result<_, _>>();
        Ok(Response::new(ListLegalHoldsResponse {
            legal_holds: legal_holds.map_err(tables_status)?,
            tree_size: tree_size(&state)?,
        }))
    }

    async fn get_record(
        &self,
        request: Request<GetRecordRequest>,
    ) -> Result<Response<GetRecordResponse>, Status> {
        let cid = parsed(record_asked_for(request.get_ref()))?;
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let record = state
            .record(&cid)
            .map_err(tables_status)?
            .ok_or_else(no_record)?;
        let record = AnchoredRecord {
            anchored: record.anchored,
            leaf_index: record.index,
            holders: record.holders,
            tree_size: tree_size(&state)?,
        };
        Ok(Response::new(record.into()))
    }

    async fn list_records(
        &self,
        request: Request<ListRecordsRequest>,
    ) -> Result<Response<ListRecordsResponse>, Status> {
        let (query, after) = parsed(records_asked_for(request.get_ref()))?;
        question::check(&query, &self.origin, clock::unix_ms())?;
        let policies = Arc::clone(&self.policies);
        let page = self.list(move |state| {
            let now = clock::unix_ms().max(state.log_time().map_err(tables_status)?);
            let page = records::page(state, &policies, &query, after, now);
            page.map_err(tables_status)?.ok_or_else(records::nothing)
        });
        let page = page.await?;
        Ok(Response::new(page.into()))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let auditor = Callers::is_auditor(request.extensions());
        let query = parsed(account_asked_for(request.get_ref()))?;
        question::check(&query, &self.origin, clock::unix_ms())?;
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        accounts::require_reader(&state, &query, auditor)?;
        let account = AsOf {
            tree_size: tree_size(&state)?,
            value: state.account(&query.of).map_err(tables_status)?,
        };
        Ok(Response::new(account.into()))
    }

    async fn list_disclosures(
        &self,
        request: Request<ListDisclosuresRequest>,
    ) -> Result<Response<ListDisclosuresResponse>, Status> {
        let auditor = Callers::is_auditor(request.extensions());
        let asked = parsed(disclosures_asked_for(request.get_ref()))?;
        question::check(&asked.query, &self.origin, clock::unix_ms())?;
        let page = self.list(move |state| {
            accounts::require_reader(&state, &asked.query, auditor)?;
            accounts::page(&state, &asked, tree_size(&state)?)
        });
        let page = page.await?;
        Ok(Response::new(page.into()))
    }

    async fn list_emergencies(
        &self,
        request: Request<ListEmergenciesRequest>,
    ) -> Result<Response<ListEmergenciesResponse>, Status> {
        let auditor = Callers::is_auditor(request.extensions());
        let (query, first) = parsed(emergencies_asked_for(request.get_ref()))?;
        question::check(&query, &self.origin, clock::unix_ms())?;
        let page = self.list(move |state| {
            let limit = EmergencyQuery::MAX_PAGE;
            let page = emergencies::page(&state, &query.who, first, limit, auditor);
            page.map_err(tables_status)
        });
        let page = page.await?;
        Ok(Response::new(page.into()))
    }

    async fn get_erasure(
        &self,
        request: Request<GetErasureRequest>,
    ) -> Result<Response<GetErasureResponse>, Status> {
        require_auditor(Callers::is_auditor(request.extensions()))?;
        let custody = parsed(erasure_asked_for(request.get_ref()))?;
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let erasure = AsOf {
            tree_size: tree_size(&state)?,
            value: erasure(&state, &custody).map_err(tables_status)?,
        };
        Ok(Response::new(erasure.into()))
    }

    async fn get_stream(
        &self,
        request: Request<GetStreamRequest>,
    ) -> Result<Response<GetStreamResponse>, Status> {
        let (device, stream) = parsed(stream_asked_for(request.get_ref()))?;
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let known = state.identity(&device).map_err(tables_status)?;
        let device = known.map_or(device, |(device, _)| device);
        let head = state.stream(&device, &stream).map_err(tables_status)?;
        let head = AsOf {
            tree_size: tree_size(&state)?,
            value: head.map(|head| StreamHead {
                seq: head.seq,
                record: head.record,
                gaps_and_forks: head.gaps_and_forks,
            }),
        };
        Ok(Response::new(head.into()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let raft = self.replica.status();
        let connected = self.peer.connected();
        let view = self.replica.view().map_err(read_status)?;
        let state = State::new(view.as_ref());
        let members = state.members().map_err(tables_status)?;
        let leader = members
            .iter()
            .find(|member| Some(member.node_id) == raft.leader);
        let peers = members.iter().filter_map(|member| {
            let remote = self.membership.to(member.node_id)?;
            Some(PeerStatus {
                node: remote.name.clone(),
                swarm_connected: connected.contains(&member.peer_id),
                address: remote.address.to_string(),
            })
        });
        let placing = state.placing().map_err(tables_status)?;
        let figures = self.store.figures().map_err(internal)?;
        let status = NodeStatus {
            origin: self.origin.clone(),
            node: self.name.clone(),
            did: self.did,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role_name(raft.role).to_owned(),
            leader: leader.map(|member| member.name.clone()),
            tree_size: state.tree_size().map_err(tables_status)?,
            published_size: self.publisher.published_size(),
            cosignatures: self.publisher.cosignatures(),
            blocks: figures.blocks,
            blocks_size_bytes: figures.bytes,
            blocks_repaired: figures.repaired,
            blocks_found_bad: figures.found_bad,
            blocks_missing: figures.missing,
            scrub: scrubbed(&self.scrubber.progress()),
            collection: Collected {
                cycles: self.collector.cycles(),
                ended_at_unix_ms: self.collector.ended_at_unix_ms(),
                blocks: figures.freed_blocks,
                size_bytes: figures.freed_bytes,
                waits_for: self.collector.waits_for(),
            },
            replication: self.replicator.progress(placing.as_ref()),
            peers: peers.collect(),
            alarms: self.alarms.active().into_iter().map(alarm).collect(),
        };
        Ok(Response::new(status.into()))
    }

    async fn check_record(
        &self,
        request: Request<CheckRecordRequest>,
    ) -> Result<Response<CheckRecordResponse>, Status> {
        let (cid, raw) = parsed(record_to_check(request.get_ref()))?;
        let place = Arc::clone(self.checks.of(raw)).try_acquire_owned();
        let place = place.map_err(|_| overloaded(CHECK_AGAIN_AFTER))?;
        let (entry, copies, holders, legal_holders, tree_size) = {
            let view = self.replica.view().map_err(read_status)?;
            let state = State::new(view.as_ref());
            let entry = state.record(&cid).map_err(tables_status)?;
            let entry = entry.ok_or_else(no_record)?;
            let placing = state.placing().map_err(tables_status)?;
            let placing = placing.ok_or_else(no_record)?;
            let places = state.places(&placing, &entry.anchored);
            let copies = places.map_err(tables_status)?.copies();
            let members = placing.members().iter();
            let holders = members.filter(|member| entry.holders.contains(&member.node));
            let holders = holders.map(|member| member.name.clone()).collect();
            let legal_holders = legal_holders(&state, &entry.anchored);
            let legal_holders = legal_holders.map_err(tables_status)?;
            (entry, copies, holders, legal_holders, tree_size(&state)?)
        };
        // From before any block is looked for.
        let read_since = self.scrubber.progress().read_since_unix_ms;
        let store = Arc::clone(&self.store);
        let roots = [cid, entry.anchored.wrap];
        let walked = tokio::task::spawn_blocking(move || {
            // Whoever asked may be gone; the place is taken until this ends.
            let _place = place;
            let read = |root| walk(&store.unnoticed(), root, raw);
            roots.iter().map(read).collect::<Result<Vec<_>, _>>()
        })
        .await
        .map_err(internal)?
        .map_err(internal)?;
        let missing: usize = walked.iter().map(|walked| walked.missing.len()).sum();
        let check = RecordCheck {
            holder: entry.holders.contains(&self.did),
            blocks: walked.iter().map(|walked| walked.blocks).sum(),
            size_bytes: walked.iter().map(|walked| walked.bytes).sum(),
            missing: u64::try_from(missing).unwrap_or(u64::MAX),
            checked_at_unix_ms: clock::unix_ms(),
            copies: u32::try_from(copies).unwrap_or(u32::MAX),
            tree_size,
            to_fetch: self.replicator.is_to_fetch(&cid),
            to_give_back: self.replicator.is_to_give_back(&cid),
            // What came after that was not read again since it came.
            verified_since_unix_ms: read_since.filter(|since| *since > entry.at).unwrap_or(0),
            holders,
            legal_holders,
        };
        Ok(Response::new(check.into()))
    }
}

impl Registry {
    async fn principal(&self, key: Did) -> Result<Response<ListPrincipalsResponse>, Status> {
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let known = state.identity(&key).map_err(tables_status)?;
        let found = known.map(|(did, entry)| listed(&state, did, entry));
        let found = found.transpose()?;
        Ok(Response::new(ListPrincipalsResponse {
            principals: found.into_iter().map(Into::into).collect(),
            tree_size: tree_size(&state)?,
        }))
    }

    async fn custody(&self, id: &CustodyId) -> Result<Response<ListCustodiesResponse>, Status> {
        let view = self.newest_view().await?;
        let state = State::new(view.as_ref());
        let entry = state.custody(id).map_err(tables_status)?;
        Ok(Response::new(ListCustodiesResponse {
            custodies: entry.map(custody).transpose()?.into_iter().collect(),
            tree_size: tree_size(&state)?,
        }))
    }

    /// A linearizable view: whoever was told that something is recorded finds it on every node.
    async fn newest_view(&self) -> Result<Box<dyn View + Send + '_>, Status> {
        self.replica.barrier().await.map_err(read_status)?;
        self.replica.view().map_err(read_status)
    }

    /// What `read` finds on such a view, on a thread that may block: for what takes long, of which only so many go on at once.
    async fn list<T: Send + 'static>(
        &self,
        read: impl FnOnce(State<'_>) -> Result<T, Status> + Send + 'static,
    ) -> Result<AsOf<T>, Status> {
        let place = Arc::clone(&self.checks.lists).try_acquire_owned();
        let place = place.map_err(|_| overloaded(CHECK_AGAIN_AFTER))?;
        self.replica.barrier().await.map_err(read_status)?;
        let replica = Arc::clone(&self.replica);
        let listed = tokio::task::spawn_blocking(move || {
            // Whoever asked may be gone; the place is taken until this ends.
            let _place = place;
            let view = replica.view().map_err(read_status)?;
            let state = State::new(view.as_ref());
            Ok(AsOf {
                tree_size: tree_size(&state)?,
                value: read(state)?,
            })
        });
        listed.await.map_err(internal)?
    }
}

/// Whoever names nothing learns of everybody: that is for those who answer for the network.
pub(super) fn require_auditor(auditor: bool) -> Result<(), Status> {
    match auditor {
        true => Ok(()),
        false => Err(status(
            Code::PermissionDenied,
            "not-an-auditor",
            "only operators and auditors of the network's organisations may read this",
        )),
    }
}

fn no_record() -> Status {
    status(Code::NotFound, "not-found", "the log has no such record")
}

fn listed(state: &State<'_>, did: Did, entry: PrincipalEntry) -> Result<ListedPrincipal, Status> {
    let (label, device) = described(state, entry.enrolled_at).map_err(tables_status)?;
    Ok(ListedPrincipal {
        did,
        key: entry.key_of(&did),
        kind: entry.kind,
        org: entry.org,
        standing: entry.standing,
        roles: entry.roles,
        label,
        device,
        leaf_index: entry.since,
        factors: entry.factors,
    })
}

/// What every answer says it was read from.
fn tree_size(state: &State<'_>) -> Result<u64, Status> {
    state.tree_size().map_err(tables_status)
}

/// Label and details stand in the opening alone, so that they can be forgotten.
fn described(
    state: &State<'_>,
    enrolled_at: LeafIndex,
) -> Result<(String, Option<DeviceDetails>), TablesError> {
    let opening = state.opening(enrolled_at)?;
    let body = opening.map(|opening| opening.0.signed.statement.body);
    Ok(match body {
        Some(Body::Enrolled(enrolled)) => (enrolled.label.unwrap_or_default(), enrolled.device),
        _ => (String::new(), None),
    })
}

/// Why it was placed stands in the opening alone, likewise.
fn legal_hold(state: &State<'_>, entry: LegalHoldEntry) -> Result<ListedLegalHold, TablesError> {
    let opening = state.opening(entry.since)?;
    let body = opening.map(|opening| opening.0.signed.statement.body);
    Ok(ListedLegalHold {
        legal_hold: entry.legal_hold,
        leaf_index: entry.since,
        matter: match body {
            Some(Body::LegalHoldPlaced(placed)) => placed.matter,
            _ => String::new(),
        },
    })
}

/// Short names of the members that keep a record by a legal hold.
fn legal_holders(state: &State<'_>, anchored: &Anchored) -> Result<Vec<String>, TablesError> {
    let mut names = Vec::new();
    for member in state.members()? {
        if state.is_legally_held(&member.org, anchored)? {
            names.push(member.name);
        }
    }
    Ok(names)
}

fn listed_member(entry: MemberEntry) -> medanchor_api::pb::registry::Member {
    let member = entry.member;
    let contact = entry.contact;
    let listed = ListedMember {
        node_id: member.node_id,
        name: member.name,
        org: member.org,
        node: member.node,
        log_key: member.log_key,
        cosigner_key: member.cosigner_key,
        address: contact.map(|contact| contact.address).unwrap_or_default(),
        added_at: entry.added_at,
        removed_at: entry.removed_at,
    };
    listed.into()
}

/// How far an erasure is, or what it would have to say.
fn erasure(state: &State<'_>, custody: &CustodyId) -> Result<Option<ListedErasure>, TablesError> {
    let Some(entry) = state.custody(custody)? else {
        return Ok(None);
    };
    let said = state.erasure(custody)?;
    let erased = match &said {
        Some(said) => said.erased.clone(),
        None => state.to_erase(&entry)?,
    };
    let mut epoch_keys = Vec::with_capacity(erased.holders.len());
    for holder in &erased.holders {
        let key = state.epoch_key(&holder.who)?;
        epoch_keys.extend(key.map(|entry| (holder.who, entry.key.into_array())));
    }
    Ok(Some(ListedErasure {
        erased,
        leaf_index: said.as_ref().map(|said| said.since),
        is_swept: said.as_ref().is_some_and(|said| said.is_swept),
        records: said.as_ref().map_or(0, |said| said.records),
        destroyed: said.map_or_else(Vec::new, |said| said.destroyed),
        epoch_keys,
    }))
}

fn custody(entry: CustodyEntry) -> Result<medanchor_api::pb::registry::Custody, Status> {
    let custody = entry.custody;
    let public_key = custody.key.try_into();
    let listed = ListedCustody {
        custody: custody.custody,
        owner: custody.owner,
        kind: custody.kind,
        public_key: public_key
            .map_err(|_| internal(anyhow::anyhow!("a custody key of another size")))?,
        epoch: custody.epoch,
        brokers: custody.brokers,
        writers: custody.writers,
        leaf_index: entry.since,
        erased: entry.erased.is_some(),
    };
    Ok(listed.into())
}

fn scrubbed(progress: &ScrubProgress) -> Scrubbed {
    Scrubbed {
        passes: progress.passes,
        ended_at_unix_ms: progress.ended_at_unix_ms,
        began_at_unix_ms: progress.began_at_unix_ms,
        blocks: progress.blocks,
        size_bytes: progress.bytes,
    }
}

fn alarm(raised: Raised) -> Alarm {
    Alarm {
        id: raised.id,
        origin: raised.origin,
        raised_at_unix_ms: raised.raised_at_unix_ms,
        details: raised.details,
        means: raised.means,
        todo: raised.todo,
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    }
}

fn page(limit: u32) -> usize {
    let limit = if limit == 0 { MAX_ROWS } else { limit };
    usize::try_from(limit.min(MAX_ROWS)).unwrap_or(usize::MAX)
}

const MAX_READS: usize = 2;
const MAX_LOOKS: usize = 8;
const MAX_LISTS: usize = 2;
const CHECK_AGAIN_AFTER: Duration = Duration::from_millis(500);
