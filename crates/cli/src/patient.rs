use crate::session::PAUSES;
use futures::future::BoxFuture;
use medanchor_dag::{Block, BlockSource, Cid, SourceError};
use std::{sync::Arc, time::Duration};

/// A source that is asked again for a while when a block cannot be had now: nodes may be starting.
pub(crate) struct Patient {
    source: Arc<dyn BlockSource>,
    /// Between attempts.
    pauses: &'static [Duration],
}

impl Patient {
    pub(crate) fn new(source: Arc<dyn BlockSource>) -> Self {
        Self {
            source,
            pauses: &PAUSES,
        }
    }
}

impl BlockSource for Patient {
    fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
        Box::pin(async move {
            for &pause in self.pauses {
                match self.source.fetch(cid).await {
                    Err(SourceError::Unavailable { .. }) => tokio::time::sleep(pause).await,
                    answer => return answer,
                }
            }
            self.source.fetch(cid).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{Codec, cid_of};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Has the block from its `ready`th call on; later than that it never was there.
    struct Later {
        calls: AtomicUsize,
        ready: usize,
        found: bool,
    }

    impl BlockSource for Later {
        fn fetch<'a>(&'a self, cid: &'a Cid) -> BoxFuture<'a, Result<Block, SourceError>> {
            let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move {
                match (call >= self.ready, self.found) {
                    (true, true) => Ok(Block::verify(*cid, &b"here"[..]).unwrap()),
                    (true, false) => Err(SourceError::NotFound(*cid)),
                    (false, _) => Err(SourceError::Unavailable {
                        cid: *cid,
                        source: "starting".into(),
                    }),
                }
            })
        }
    }

    const THRICE: &[Duration] = &[Duration::ZERO; 3];

    async fn fetch(source: &Arc<Later>, cid: &Cid) -> Result<Block, SourceError> {
        let patient = Patient {
            source: Arc::<Later>::clone(source),
            pauses: THRICE,
        };
        patient.fetch(cid).await
    }

    fn later(ready: usize, found: bool) -> Arc<Later> {
        Arc::new(Later {
            calls: AtomicUsize::new(0),
            ready,
            found,
        })
    }

    #[tokio::test]
    async fn block_is_asked_for_again_while_it_may_still_come() {
        let here = Block::new(Codec::Raw, &b"here"[..]).unwrap();
        let source = later(3, true);
        let block = fetch(&source, here.cid()).await.unwrap();
        assert_eq!((block, source.calls.load(Ordering::Relaxed)), (here, 3));

        let cid = cid_of(Codec::Raw, &[1; 32]);
        let source = later(2, false);
        let error = fetch(&source, &cid).await.unwrap_err();
        assert!(matches!(error, SourceError::NotFound(_)), "{error}");
        assert_eq!(source.calls.load(Ordering::Relaxed), 2);

        let source = later(usize::MAX, true);
        let error = fetch(&source, &cid).await.unwrap_err();
        assert!(matches!(error, SourceError::Unavailable { .. }), "{error}");
        assert_eq!(source.calls.load(Ordering::Relaxed), THRICE.len() + 1);
    }
}
