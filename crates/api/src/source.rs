use crate::{Client, ClientError, Missing};
use futures::future::BoxFuture;
use medanchor_dag::{Block, BlockSource, Cid, SourceError};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Fetches blocks from several nodes: each block from the node with the fewest fetches under way, and from
/// the next one when that fails. Nodes that did not serve a block are noted and asked last from then on. A
/// node whose own copy is corrupt is asked to repair it.
#[derive(Debug)]
pub struct NodesSource {
    client: Client,
    nodes: Vec<Load>,
}

/// What is known of one node.
#[derive(Debug, Default)]
struct Load {
    under_way: AtomicUsize,
    note: Mutex<Option<Note>>,
}

/// What a node was noted for; the worst of it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// It did not have a block.
    Missing,
    /// It did not answer in time, or not at all.
    Unreachable,
    /// Its copy of a block is corrupt, and it said so.
    Corrupt,
    /// It gave bytes that are not the block that was asked for.
    WrongBytes,
}

impl Note {
    /// The name that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreachable => "unreachable",
            Self::Corrupt => "corrupt",
            Self::WrongBytes => "wrong-bytes",
        }
    }
}

/// Why a node did not give a block.
#[derive(Debug, thiserror::Error)]
enum NotGiven {
    /// It says that nobody has it.
    #[error("not found")]
    NotFound,
    /// It says that it, or another one, may have it.
    #[error("node `{node}`: {missing}")]
    Missing { node: String, missing: Missing },
    /// It says nothing of use.
    #[error(transparent)]
    Call(ClientError),
}

impl NodesSource {
    /// Fetches from all of the client's nodes.
    pub fn new(client: Client) -> Self {
        let nodes = client.node_names().map(|_| Load::default()).collect();
        Self { client, nodes }
    }

    /// Another of the same nodes, for another record: a node that was noted is asked last there too, unless it
    /// only had no copy of a block.
    #[must_use]
    pub fn for_another(&self) -> Self {
        let another = Self::new(self.client.clone());
        for (load, known) in another.nodes.iter().zip(&self.nodes) {
            if let Some(note) = known.note().filter(|&note| note != Note::Missing) {
                load.set_note(note);
            }
        }
        another
    }

    /// Takes over what another one of the same nodes has noted.
    pub fn learn(&self, other: &Self) {
        for (load, other) in self.nodes.iter().zip(&other.nodes) {
            if let Some(note) = other.note() {
                load.set_note(note);
            }
        }
    }

    /// The nodes that are asked.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.client.node_names()
    }

    /// The nodes that failed to serve a block, and why.
    pub fn notes(&self) -> Vec<(String, Note)> {
        self.client
            .node_names()
            .zip(&self.nodes)
            .filter_map(|(name, load)| Some((name.to_owned(), load.note()?)))
            .collect()
    }

    /// First what the nodes hold themselves, so that each serves a share; then anyone who can get it. It is not
    /// found when each of them then says that nobody has it.
    async fn fetch_from_any(&self, cid: &Cid) -> Result<Block, SourceError> {
        let mut other_answer = None;
        for local_only in [true, false] {
            other_answer = None;
            for (node, load) in self.in_turn() {
                match self.fetch_from(node, load, cid, local_only).await {
                    Ok(block) => return Ok(block),
                    Err(NotGiven::NotFound) => (),
                    Err(answer) => other_answer = Some(answer),
                }
            }
        }
        Err(match other_answer {
            None => SourceError::NotFound(*cid),
            Some(answer) => SourceError::Unavailable {
                cid: *cid,
                source: answer.into(),
            },
        })
    }

    async fn fetch_from(
        &self,
        node: usize,
        load: &Load,
        cid: &Cid,
        local_only: bool,
    ) -> Result<Block, NotGiven> {
        let _under_way = UnderWay::new(load);
        let mut answer = self.client.block_from(node, cid, local_only).await;
        if matches!(answer, Ok(Err(Missing::Corrupt))) {
            load.set_note(Note::Corrupt);
            // It replaces its copy by another node's, and answers with that.
            answer = self.client.block_from(node, cid, false).await;
        }
        match answer {
            Ok(Ok(block)) => Ok(block),
            Ok(Err(missing)) => {
                load.set_note(missing.into());
                Err(match missing {
                    Missing::NotFound => NotGiven::NotFound,
                    missing => NotGiven::Missing {
                        node: self.name(node).to_owned(),
                        missing,
                    },
                })
            }
            Err(error) => {
                load.set_note(match error {
                    ClientError::InvalidAnswer { .. } => Note::WrongBytes,
                    _ => Note::Unreachable,
                });
                Err(NotGiven::Call(error))
            }
        }
    }

    fn name(&self, node: usize) -> &str {
        self.names().nth(node).unwrap_or_default()
    }

    /// The nodes in the order to ask them.
    fn in_turn(&self) -> Vec<(usize, &Load)> {
        let mut nodes: Vec<_> = self.nodes.iter().enumerate().collect();
        nodes.sort_by_cached_key(|(_, load)| (load.note(), load.under_way.load(Ordering::Relaxed)));
        nodes
    }
}

impl Load {
    fn note(&self) -> Option<Note> {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_note(&self, note: Note) {
        let mut noted = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = (*noted).max(Some(note));
    }
}

/// Counts one fetch, also when it is dropped midway.
struct UnderWay<'a>(&'a Load);

impl<'a> UnderWay<'a> {
    fn new(load: &'a Load) -> Self {
        load.under_way.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<Missing> for Note {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::NotFound => Self::Missing,
            Missing::Unavailable => Self::Unreachable,
            Missing::Corrupt => Self::Corrupt,
        }
    }
}

impl BlockSource for NodesSource {
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        Box::pin(self.fetch_from_any(cid))
    }
}
