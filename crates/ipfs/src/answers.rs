use crate::{
    frame,
    link::Link,
    local::LocalBlocks,
    message::{Message, Payload, Presence, PresenceType, WantType, Wantlist},
};
use medanchor_dag::{Block, Cid, MAX_BLOCK_BYTES};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
};

/// What a peer wants from us and has not been answered yet, presences first.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    entries: BTreeMap<Place, Entry>,
    places: HashMap<Cid, Place>,
    next: u64,
}

/// Where an entry stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    wants_block: bool,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    cid: Cid,
    wants_block: bool,
    send_dont_have: bool,
}

impl Wanted {
    /// Takes in what the peer wants and no longer wants. Beyond [`MAX_ENTRIES`] nothing is added: the
    /// peer asks again.
    pub(crate) fn update(&self, wantlist: &Wantlist) {
        let mut queue = self.queue();
        if wantlist.full {
            *queue = Queue::default();
        }
        for entry in &wantlist.entries {
            let Ok(cid) = Cid::try_from(entry.block.as_ref()) else {
                continue;
            };
            let wants_block = entry.want_type == i32::from(WantType::Block);
            // Who wants the block learns that it is here from the block.
            if entry.cancel || wants_block || !queue.places.contains_key(&cid) {
                queue.remove(&cid);
            } else {
                continue;
            }
            if !entry.cancel {
                queue.push(Entry {
                    cid,
                    wants_block,
                    send_dont_have: entry.send_dont_have,
                });
            }
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Waits until something is wanted.
    async fn wait(&self) {
        while self.queue().entries.is_empty() {
            self.changed.notified().await;
        }
    }

    fn pop(&self) -> Option<Entry> {
        self.queue().pop()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, entry: Entry) {
        if self.entries.len() >= MAX_ENTRIES {
            return;
        }
        let place = Place {
            wants_block: entry.wants_block,
            number: self.next,
        };
        self.next += 1;
        self.places.insert(entry.cid, place);
        self.entries.insert(place, entry);
    }

    fn remove(&mut self, cid: &Cid) {
        if let Some(place) = self.places.remove(cid) {
            self.entries.remove(&place);
        }
    }

    fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.entries.pop_first()?;
        self.places.remove(&entry.cid);
        Some(entry)
    }
}

/// Answers what `link`'s peer wants, for as long as somebody takes the answers.
///
/// INVARIANT: blocks are read when there is room in `frames`, which is when an earlier message was
/// written: a peer that reads nothing holds two messages in memory and no more.
pub(crate) async fn answer(
    link: Arc<Link>,
    local: Arc<LocalBlocks>,
    frames: mpsc::Sender<Vec<u8>>,
) {
    let mut left_over = None;
    while let Ok(room) = frames.reserve().await {
        if left_over.is_none() {
            link.wanted.wait().await;
        }
        let (link, local) = (Arc::clone(&link), Arc::clone(&local));
        let composing = spawn_blocking(move || compose(&link.wanted, &local, left_over));
        let Ok((message, rest)) = composing.await else {
            return;
        };
        left_over = rest;
        if let Some(message) = message {
            room.send(frame::encode(&message));
        }
    }
}

/// The next message, unless nobody needs an answer, and a block that did not fit into it.
fn compose(
    wanted: &Wanted,
    local: &LocalBlocks,
    left_over: Option<Block>,
) -> (Option<Message>, Option<Block>) {
    let mut message = Message::default();
    let mut size = 0;
    let mut add = |message: &mut Message, block: Block| {
        let len = block.bytes().len();
        if size > 0 && size + len > MAX_BLOCKS_IN_MESSAGE_BYTES {
            return Some(block);
        }
        size += len;
        message.payload.push(Payload::new(&block));
        None
    };
    let mut rest = left_over.and_then(|block| add(&mut message, block));
    for _ in 0..MAX_ENTRIES_IN_MESSAGE {
        if rest.is_some() {
            break;
        }
        let Some(entry) = wanted.pop() else {
            break;
        };
        match answer_to(&entry, local) {
            Answer::Block(block) => rest = add(&mut message, block),
            Answer::Presence(presence_type) => {
                message
                    .presences
                    .push(Presence::new(&entry.cid, presence_type));
            }
            Answer::Nothing => {}
        }
    }
    let is_empty = message.payload.is_empty() && message.presences.is_empty();
    ((!is_empty).then_some(message), rest)
}

enum Answer {
    Block(Block),
    Presence(PresenceType),
    Nothing,
}

fn answer_to(entry: &Entry, local: &LocalBlocks) -> Answer {
    let absent = if entry.send_dont_have {
        Answer::Presence(PresenceType::DontHave)
    } else {
        Answer::Nothing
    };
    if entry.wants_block {
        local.readable(&entry.cid).map_or(absent, Answer::Block)
    } else if local.has(&entry.cid) {
        Answer::Presence(PresenceType::Have)
    } else {
        absent
    }
}

/// Wants of one peer that wait for an answer. Kubo has at most 1024.
const MAX_ENTRIES: usize = 4096;
const MAX_ENTRIES_IN_MESSAGE: usize = 512;
/// Unless one block alone is larger. Old rust-ipfs nodes read no message over 2 MiB.
const MAX_BLOCKS_IN_MESSAGE_BYTES: usize = MAX_BLOCK_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message,
        testing::{FlakyStore, raw},
    };
    use proptest::prelude::*;
    use prost::Message as _;

    fn entry(cid: &Cid, want_type: WantType) -> message::Entry {
        message::Entry {
            block: cid.to_bytes().into(),
            priority: 1,
            cancel: false,
            want_type: want_type.into(),
            send_dont_have: true,
        }
    }

    fn wanted(entries: Vec<message::Entry>) -> Wanted {
        let wanted = Wanted::default();
        wanted.update(&Wantlist {
            entries,
            full: false,
        });
        wanted
    }

    fn local(blocks: &[Block]) -> LocalBlocks {
        LocalBlocks::new(Arc::new(FlakyStore::with(blocks))).0
    }

    #[test]
    fn wants_are_answered_with_block_have_and_dont_have() {
        let [here, absent] = [raw(1, 100), raw(2, 100)];
        let local = local(std::slice::from_ref(&here));
        let wanted = wanted(vec![
            entry(here.cid(), WantType::Block),
            entry(absent.cid(), WantType::Block),
        ]);
        let (message, rest) = compose(&wanted, &local, None);
        let message = message.unwrap();
        assert_eq!(message.payload, [Payload::new(&here)]);
        assert_eq!(
            message.presences,
            [Presence::new(absent.cid(), PresenceType::DontHave)]
        );
        assert_eq!(rest, None);

        wanted.update(&Wantlist {
            entries: vec![entry(here.cid(), WantType::Have)],
            full: false,
        });
        let message = compose(&wanted, &local, None).0.unwrap();
        assert_eq!(
            message.presences,
            [Presence::new(here.cid(), PresenceType::Have)]
        );
        assert!(message.payload.is_empty());
    }

    #[test]
    fn nothing_is_said_of_absent_blocks_unless_asked_for() {
        let mut want = entry(raw(1, 10).cid(), WantType::Have);
        want.send_dont_have = false;
        assert_eq!(
            compose(&wanted(vec![want]), &local(&[]), None),
            (None, None)
        );
    }

    #[test]
    fn cancelled_want_is_not_answered() {
        let block = raw(1, 10);
        let mut cancel = entry(block.cid(), WantType::Block);
        cancel.cancel = true;
        let wanted = wanted(vec![entry(block.cid(), WantType::Block), cancel]);
        assert_eq!(compose(&wanted, &local(&[block]), None), (None, None));
    }

    #[test]
    fn full_wantlist_replaces_the_earlier_one() {
        let [first, second] = [raw(1, 10), raw(2, 10)];
        let wanted = wanted(vec![entry(first.cid(), WantType::Block)]);
        wanted.update(&Wantlist {
            entries: vec![entry(second.cid(), WantType::Block)],
            full: true,
        });
        let message = compose(&wanted, &local(&[first, second.clone()]), None).0;
        assert_eq!(message.unwrap().payload, [Payload::new(&second)]);
    }

    #[test]
    fn messages_hold_one_mebibyte_of_blocks_and_lose_none() {
        let blocks: Vec<Block> = (0..9).map(|i| raw(i, 300 << 10)).collect();
        let wants = blocks.iter().map(|b| entry(b.cid(), WantType::Block));
        let wanted = wanted(wants.collect());
        let local = local(&blocks);
        let mut sent = Vec::new();
        let mut rest = None;
        while let (Some(message), left_over) = compose(&wanted, &local, rest) {
            assert!(message.encoded_len() < (1 << 20) + 1024);
            sent.extend(message.payload);
            rest = left_over;
        }
        let expected: Vec<Payload> = blocks.iter().map(Payload::new).collect();
        assert_eq!(sent, expected);
    }

    #[test]
    fn wantlist_is_bounded() {
        let blocks: Vec<Block> = (0..=MAX_ENTRIES as u64).map(|i| raw(i, 8)).collect();
        let wants = blocks.iter().map(|b| entry(b.cid(), WantType::Block));
        let wanted = wanted(wants.collect());
        let count = std::iter::from_fn(|| wanted.pop()).count();
        assert_eq!(count, MAX_ENTRIES);
    }

    #[test]
    fn corrupt_block_is_absent_and_reported_for_repair() {
        let block = raw(1, 100);
        let store = Arc::new(FlakyStore::with(std::slice::from_ref(&block)));
        store.corrupt(block.cid());
        let (local, mut corrupt) = LocalBlocks::new(store);
        let wanted = wanted(vec![entry(block.cid(), WantType::Block)]);
        let message = compose(&wanted, &local, None).0.unwrap();
        assert_eq!(
            message.presences,
            [Presence::new(block.cid(), PresenceType::DontHave)]
        );
        assert_eq!(corrupt.try_recv().unwrap(), *block.cid());
    }

    #[tokio::test]
    async fn blocks_are_read_only_as_fast_as_they_are_written() {
        let blocks: Vec<Block> = (0..8).map(|i| raw(i, MAX_BLOCK_BYTES)).collect();
        let store = Arc::new(FlakyStore::with(&blocks));
        let (local, _corrupt) = LocalBlocks::new(Arc::clone(&store) as _);
        let link = Arc::new(Link::new(1));
        link.wanted.update(&Wantlist {
            entries: blocks
                .iter()
                .map(|block| entry(block.cid(), WantType::Block))
                .collect(),
            full: false,
        });
        let (sender, mut frames) = mpsc::channel(1);
        let answering = tokio::spawn(answer(link, Arc::new(local), sender));
        for taken in 1..=blocks.len() {
            frames.recv().await.unwrap();
            assert!(store.reads() <= taken + 2, "{} of {taken}", store.reads());
        }
        answering.abort();
    }

    proptest! {
        #[test]
        fn queue_holds_what_the_last_entry_of_each_block_says(
            entries in prop::collection::vec((0..6u64, any::<bool>(), 0..2i32), 0..40),
        ) {
            let wanted = Wanted::default();
            let mut expected = BTreeMap::new();
            for (number, cancel, want_type) in entries {
                let cid = *raw(number, 8).cid();
                let mut entry = entry(&cid, WantType::Block);
                entry.cancel = cancel;
                entry.want_type = want_type;
                wanted.update(&Wantlist { entries: vec![entry], full: false });
                let wants_block = want_type == 0;
                if cancel {
                    expected.remove(&cid);
                } else {
                    let either = expected.entry(cid).or_insert(wants_block);
                    *either |= wants_block;
                }
            }
            let queued: Vec<Entry> = std::iter::from_fn(|| wanted.pop()).collect();
            prop_assert!(queued.is_sorted_by_key(|entry| entry.wants_block));
            let queued: BTreeMap<Cid, bool> =
                queued.iter().map(|entry| (entry.cid, entry.wants_block)).collect();
            prop_assert_eq!(queued, expected);
            prop_assert!(wanted.queue().places.is_empty());
        }
    }
}
