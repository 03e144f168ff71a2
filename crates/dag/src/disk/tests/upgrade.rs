use super::*;

/// What `tests/stores/first` is, its README says.
#[test]
fn store_of_the_first_version_opens() {
    let folder = folder();
    copy_all(&first(), folder.path());
    let store = open(&folder);
    let blocks = blocks();
    for block in &blocks {
        assert!(store.has(block.cid()).unwrap());
        assert_eq!(store.block(block.cid()).unwrap().as_ref(), Some(block));
    }
    assert_eq!(store.cids(None, 9).unwrap().len(), blocks.len());
    let bytes = blocks.iter().map(|block| block.bytes().len() as u64).sum();
    let before = Figures {
        blocks: 6,
        bytes,
        ..Figures::default()
    };
    assert_eq!(store.figures().unwrap(), before);
    // What there was not yet in that version.
    assert_eq!(store.promised(), 0);
    assert_eq!(store.scrub_progress().unwrap(), ScrubProgress::default());
    fs::remove_file(file_of(&folder, &blocks[5])).unwrap();
    assert!(store.quarantine(blocks[5].cid()).unwrap());
    assert_eq!(store.figures().unwrap().missing, 1);
    store.put(&blocks).unwrap();
    let after = Figures {
        found_bad: 1,
        repaired: 1,
        ..before
    };
    assert_eq!(store.figures().unwrap(), after);
    drop(store);
    assert_eq!(open(&folder).figures().unwrap(), after);
}

/// Every write and every fsync of the conversion fails once, in turn, before it does anything or after it has done it,
/// as a crash would make it: the next start has all blocks, and no start has some of them.
#[test]
fn conversion_that_fails_at_any_step_is_finished_by_the_next_start() {
    for is_after in [false, true] {
        let mut at = 0;
        loop {
            let folder = folder();
            copy_all(&first(), folder.path());
            let (device, armed) = match is_after {
                false => failing_at(at, io::ErrorKind::Other),
                true => failing_after(at, io::ErrorKind::Other),
            };
            armed.store(true, Ordering::SeqCst);
            let opened = DiskStore::open_on(folder.path(), device);
            let is_open = opened.is_ok();
            if let Ok(store) = opened {
                has_all(&store, at);
                armed.store(false, Ordering::SeqCst);
            }
            let store = open(&folder);
            has_all(&store, at);
            store.put(&[small(1), large(1)]).unwrap();
            assert!(store.remove(blocks()[1].cid()).unwrap());
            drop(store);
            let store = open(&folder);
            assert_eq!(store.figures().unwrap().blocks, 7);
            assert_eq!(store.cids(None, 9).unwrap().len(), 7);
            if is_open && at > 100 {
                break;
            }
            at += 1;
        }
    }
}

fn has_all(store: &DiskStore, at: usize) {
    for block in blocks() {
        let found = store.block(block.cid()).unwrap();
        assert_eq!(found, Some(block), "step {at}");
    }
    assert_eq!(store.cids(None, 9).unwrap().len(), 6, "step {at}");
    assert_eq!(store.figures().unwrap().blocks, 6, "step {at}");
}

#[test]
fn version_that_reads_the_first_format_refuses_what_was_converted() {
    let folder = folder();
    copy_all(&first(), folder.path());
    drop(open(&folder));
    let index = redb::Database::open(folder.path().join("blocks.redb")).unwrap();
    let view = redb::ReadableDatabase::begin_read(&index).unwrap();
    let formats = view.open_table(tables::FORMATS).unwrap();
    let format = formats.get(tables::FORMAT_KEY).unwrap().unwrap();
    // It says so, and that it reads `blocks-1`: since the first version a store of another format is refused.
    assert_eq!(format.value(), "blocks-2");
}

fn blocks() -> [Block; 6] {
    [0, 1, 100, 16_384, 16_385, 20_000].map(|len| {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        Block::new(Codec::Raw, bytes).unwrap()
    })
}

fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/first")
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}
