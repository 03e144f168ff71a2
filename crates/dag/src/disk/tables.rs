//! The tables of the index: `docs/formats.md`, Block store.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

/// Number of the row -> the block's bytes.
pub(super) const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
/// SHA-256 digest of a block -> number of its row. What the journal says comes later.
pub(super) const PLACES: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("places");
/// Number of the first change -> changes of places that were made together.
pub(super) const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
/// SHA-256 digest -> the block's bytes: where `blocks-1` has what is now in rows with numbers.
pub(super) const SMALL: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("small");
/// SHA-256 digest -> the file's length.
pub(super) const LARGE: TableDefinition<'_, [u8; 32], u64> = TableDefinition::new("large");
/// SHA-256 digest of a block that is bad or missing -> the bad bytes, if they were in its row.
pub(super) const BAD: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("bad");
/// How far the reading of the whole store has come: see `ScrubProgress`.
pub(super) const SCRUB: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("scrub");
/// Totals over all rows, and over the store's life; until when blocks were promised; the next number.
pub(super) const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");
pub(super) const FORMATS: TableDefinition<'_, &str, &str> = TableDefinition::new("format");

pub(super) const BLOCKS: &str = "blocks";
pub(super) const BYTES: &str = "bytes";
pub(super) const FOUND_BAD: &str = "found-bad";
pub(super) const REPAIRED: &str = "repaired";
pub(super) const FREED_BLOCKS: &str = "freed-blocks";
pub(super) const FREED_BYTES: &str = "freed-bytes";
/// Log time, unix ms, beyond which no block was promised to be kept.
pub(super) const PROMISED: &str = "promised-until";
/// The number of the next change of places.
pub(super) const NEXT: &str = "next";
pub(super) const PROGRESS: &str = "progress";
pub(super) const FORMAT_KEY: &str = "format";

pub(super) fn total(txn: &WriteTransaction, name: &str) -> Result<u64, redb::Error> {
    let totals = txn.open_table(TOTALS)?;
    let total = totals.get(name)?;
    Ok(total.map_or(0, |total| total.value()))
}

pub(super) fn change_total(
    txn: &WriteTransaction,
    name: &str,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), redb::Error> {
    let mut totals = txn.open_table(TOTALS)?;
    let total = totals.get(name)?.map_or(0, |total| total.value());
    totals.insert(name, change(total))?;
    Ok(())
}
