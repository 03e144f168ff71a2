use super::{
    FIRST_FORMAT, FORMAT,
    tables::{
        BAD, FORMAT_KEY, FORMATS, JOURNAL, LARGE, NEXT, PLACES, ROWS, SCRUB, SMALL, TOTALS,
        change_total, total,
    },
};
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableHandle};

/// Makes the tables that are missing, and moves what an earlier version has elsewhere. Returns the format.
///
/// From the first commit on, no earlier version opens the store. What is not moved then is moved by the next start.
pub(super) fn prepare(database: &Database) -> Result<String, redb::Error> {
    let txn = database.begin_write()?;
    let found = {
        let mut formats = txn.open_table(FORMATS)?;
        let found = formats.insert(FORMAT_KEY, FORMAT)?;
        found.map(|found| found.value().to_owned())
    };
    if let Some(found) = found
        && found != FORMAT
        && found != FIRST_FORMAT
    {
        return Ok(found);
    }
    // A store from before there was a quarantine gets its tables now.
    txn.open_table(BAD)?;
    txn.open_table(SCRUB)?;
    txn.open_table(LARGE)?;
    txn.open_table(TOTALS)?;
    txn.open_table(ROWS)?;
    txn.open_table(PLACES)?;
    txn.open_table(JOURNAL)?;
    txn.commit()?;
    while has_small(database)? {
        move_some(database)?;
    }
    Ok(FORMAT.to_owned())
}

fn has_small(database: &Database) -> Result<bool, redb::Error> {
    let view = database.begin_read()?;
    let mut tables = view.list_tables()?;
    Ok(tables.any(|table| table.name() == SMALL.name()))
}

/// Gives some blocks rows with numbers. In the order of their digests: their places are written at the end, too.
fn move_some(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    let is_empty = {
        let mut small = txn.open_table(SMALL)?;
        let mut rows = txn.open_table(ROWS)?;
        let mut places = txn.open_table(PLACES)?;
        let mut next = total(&txn, NEXT)?;
        for _ in 0..STEP {
            let Some((digest, block)) = small.pop_first()? else {
                break;
            };
            rows.insert(next, block.value())?;
            places.insert(digest.value(), next)?;
            next += 1;
        }
        change_total(&txn, NEXT, |_| next)?;
        small.is_empty()?
    };
    if is_empty {
        txn.delete_table(SMALL)?;
    }
    // Commit point: these are in their new rows, and no longer in the old ones.
    txn.commit()?;
    Ok(())
}

/// How many blocks are moved by a commit: at most 32 MiB. Tests have few blocks.
const STEP: usize = if cfg!(test) { 2 } else { 2048 };
