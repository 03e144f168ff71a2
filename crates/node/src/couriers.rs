//! Outside witnesses, each asked at its own pace: one that is slow, away or dishonest delays nothing and nobody. What a
//! slow one signs is taken late, and one that was away is asked again.

use crate::{asker::Asker, remote::RemoteCosigner};
use anyhow::Result;
use medanchor_anchor::{Checkpoint, SignedNote, VerifierKey};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// Asks outside witnesses one by one, always for the newest checkpoint.
pub(crate) struct Couriers {
    asker: Arc<Asker>,
    /// After how long a signature on the same text is worth another.
    again_after: Duration,
    to_sign: watch::Sender<Option<Arc<ToSign>>>,
    /// What each said last, by its key; nothing while it is asked for the first time, or again.
    said: watch::Sender<BTreeMap<String, Said>>,
}

/// What is to be signed: a checkpoint that enough members have signed.
pub(crate) struct ToSign {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) note: SignedNote,
}

/// What a witness said.
#[derive(Debug)]
enum Said {
    /// It signed this text then, with these lines.
    Signed {
        text: String,
        lines: String,
        at: Instant,
    },
    /// Nothing of use. It is asked again after a while.
    Nothing,
}

impl Couriers {
    pub(crate) fn new(asker: Arc<Asker>, again_after: Duration) -> Self {
        Self {
            asker,
            again_after,
            to_sign: watch::Sender::default(),
            said: watch::Sender::default(),
        }
    }

    /// From now on this is to be signed, and nothing before it.
    pub(crate) fn send(&self, to_sign: ToSign) {
        // Who has just signed it is not asked again.
        let text = to_sign.note.text();
        self.said.send_modify(|all| {
            all.retain(|_, said| match &*said {
                Said::Signed { at, .. } => said.is_for(text) && at.elapsed() < self.again_after,
                Said::Nothing => true,
            });
        });
        self.to_sign.send_replace(Some(Arc::new(to_sign)));
    }

    /// Waits until a witness has signed `text`, for its lines.
    ///
    /// # Errors
    ///
    /// When it is away, or says nothing of use.
    pub(crate) async fn lines(&self, key: &VerifierKey, text: &str) -> Result<String> {
        let mut said = self.said.subscribe();
        let key = key.to_string();
        let has_said = |all: &BTreeMap<String, Said>| {
            let said = all.get(&key);
            said.is_some_and(|said| matches!(said, Said::Nothing) || said.is_for(text))
        };
        let said = said.wait_for(has_said).await?;
        match said.get(&key) {
            Some(Said::Signed { lines, .. }) => Ok(lines.clone()),
            _ => anyhow::bail!("witness `{key}` does not sign now"),
        }
    }

    /// Asks one witness for ever. `is_wanted` says whether its signature on a checkpoint counts, and is needed of
    /// this node; `take` is given each good one.
    pub(crate) async fn ask_task(
        &self,
        witness: &RemoteCosigner,
        is_wanted: impl Fn(&Checkpoint) -> bool,
        take: impl Fn(&SignedNote, &str),
    ) {
        // Of an earlier task that was stopped while it waited.
        self.set(witness, None);
        let mut to_sign = self.to_sign.subscribe();
        // Also what was to be signed before.
        to_sign.mark_changed();
        let mut pause = SHORTEST_PAUSE;
        while to_sign.changed().await.is_ok() {
            let asked = to_sign.borrow_and_update().clone();
            let is_due = |asked: &Arc<ToSign>| {
                is_wanted(&asked.checkpoint) && !self.has_signed(&witness.key, asked.note.text())
            };
            let Some(asked) = asked.filter(is_due) else {
                continue;
            };
            match self.ask(witness, &asked).await {
                Ok(lines) => {
                    if pause > SHORTEST_PAUSE {
                        tracing::info!("witness `{}` signs again", witness.key.name());
                    }
                    pause = SHORTEST_PAUSE;
                    self.set(witness, Some(Said::signed(&asked, &lines)));
                    take(&asked.note, &lines);
                }
                Err(error) => {
                    if pause == SHORTEST_PAUSE {
                        tracing::warn!("witness `{}` does not sign: {error:#}", witness.key.name());
                    }
                    self.set(witness, Some(Said::Nothing));
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    self.set(witness, None);
                    to_sign.mark_changed();
                }
            }
        }
    }

    /// Only a good signature of the one that was asked is of use.
    async fn ask(&self, witness: &RemoteCosigner, asked: &ToSign) -> Result<String> {
        let ToSign { checkpoint, note } = asked;
        let lines = self.asker.ask(witness, checkpoint, note).await?;
        note.clone().add_answer(&lines, &witness.key)?;
        Ok(lines)
    }

    fn has_signed(&self, key: &VerifierKey, text: &str) -> bool {
        let said = self.said.borrow();
        said.get(&key.to_string())
            .is_some_and(|said| said.is_for(text))
    }

    fn set(&self, witness: &RemoteCosigner, said: Option<Said>) {
        let key = witness.key.to_string();
        self.said.send_modify(|all| {
            match said {
                Some(said) => all.insert(key, said),
                None => all.remove(&key),
            };
        });
    }
}

impl Said {
    fn signed(asked: &ToSign, lines: &str) -> Self {
        Self::Signed {
            text: asked.note.text().to_owned(),
            lines: lines.to_owned(),
            at: Instant::now(),
        }
    }

    fn is_for(&self, of: &str) -> bool {
        matches!(self, Self::Signed { text, .. } if text == of)
    }
}

/// How long one that said nothing of use is left alone: this, then twice as long each time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// At most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
