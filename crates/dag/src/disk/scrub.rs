use crate::{from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// How far the reading of a whole store has come. It survives a restart: [`DiskStore::save_scrub_progress`].
///
/// [`DiskStore::save_scrub_progress`]: super::DiskStore::save_scrub_progress
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubProgress {
    /// Passes that ended.
    pub passes: u64,
    /// When the last of them ended, unix ms; 0: none has.
    pub ended_at_unix_ms: u64,
    /// When the pass began in which all blocks were read last, unix ms. Whatever came later was hashed when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_since_unix_ms: Option<u64>,
    /// When the pass that is under way began, unix ms; 0: none is.
    pub began_at_unix_ms: u64,
    /// What it is at.
    pub step: ScrubStep,
    /// The last that was looked at in this step, as the step names it; empty: none yet.
    pub after: ByteBuf,
    /// Blocks read in it.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// What a pass is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubStep {
    /// Every block that the store knows is read. A block is named by its CID.
    #[default]
    Blocks,
    /// Every record that must be here is looked for. A record is named by its CID.
    Records,
}

impl ScrubProgress {
    /// Begins a pass.
    pub fn begin(&mut self, now_unix_ms: u64) {
        *self = Self {
            passes: self.passes,
            ended_at_unix_ms: self.ended_at_unix_ms,
            read_since_unix_ms: self.read_since_unix_ms,
            began_at_unix_ms: now_unix_ms,
            ..Self::default()
        };
    }

    /// Goes on to another step.
    pub fn enter(&mut self, step: ScrubStep) {
        if step == ScrubStep::Records {
            self.read_since_unix_ms = Some(self.began_at_unix_ms);
        }
        self.step = step;
        self.after.clear();
    }

    /// Ends the pass, and counts it.
    pub fn end(&mut self, now_unix_ms: u64) {
        self.passes = self.passes.saturating_add(1);
        self.ended_at_unix_ms = now_unix_ms;
        self.began_at_unix_ms = 0;
        self.enter(ScrubStep::Blocks);
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        to_canonical(self)
    }

    /// What cannot be read was of no other use than to save time: begin anew.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        from_canonical(bytes, MAX_BYTES).unwrap_or_default()
    }
}

const MAX_BYTES: usize = 1024;
