use medanchor_anchor::{Table, TablesError};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Rows in memory that lie over older ones: each hides the row with its key below.
///
/// A row keeps what it was in every version of the state, so that a reader sees one version while the next are
/// written.
#[derive(Default)]
pub(crate) struct Layer(RwLock<Versioned>);

/// Rows that no version of the state has yet.
pub(crate) type Written = BTreeMap<Table, BTreeMap<Vec<u8>, Value>>;

/// None: the row was removed.
pub(crate) type Value = Option<Vec<u8>>;

/// A row that a layer or the database has.
pub(crate) type Found<'a> = Result<(Cow<'a, [u8]>, Option<Cow<'a, [u8]>>), TablesError>;

/// The rows of a layer while it is read.
pub(crate) struct Reader<'a>(RwLockReadGuard<'a, Versioned>);

#[derive(Default)]
struct Versioned {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Versions>>,
    bytes: usize,
}

struct Versions {
    newest: (u64, Value),
    /// In order.
    older: Vec<(u64, Value)>,
}

impl Layer {
    /// Makes these rows what they are from `version` on, which is later than all before.
    pub(crate) fn write(&self, written: Written, version: u64) {
        let mut layer = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Versioned { tables, bytes } = &mut *layer;
        for (table, rows) in written {
            let into = tables.entry(table).or_default();
            for (key, value) in rows {
                *bytes += ROW_BYTES + value.as_ref().map_or(0, Vec::len);
                match into.entry(key) {
                    btree_map::Entry::Occupied(mut known) => {
                        known.get_mut().supersede((version, value));
                    }
                    btree_map::Entry::Vacant(new) => {
                        *bytes += new.key().len();
                        new.insert(Versions {
                            newest: (version, value),
                            older: Vec::new(),
                        });
                    }
                }
            }
        }
    }

    /// About as much memory as it takes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.reader().0.bytes
    }

    /// What the row was in `version`, if this layer says.
    pub(crate) fn get(&self, table: Table, key: &[u8], version: u64) -> Option<Value> {
        let reader = self.reader();
        let versions = reader.0.tables.get(&table)?.get(key)?;
        versions.at(version).cloned()
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reader<'_> {
    /// The rows that this layer had in `version`, in order.
    pub(crate) fn range<'a>(
        &'a self,
        table: Table,
        range: (Bound<&'a [u8]>, Bound<&'a [u8]>),
        version: u64,
    ) -> impl Iterator<Item = Found<'a>> {
        let rows = self.0.tables.get(&table).into_iter();
        let rows = rows.flat_map(move |rows| rows.range::<[u8], _>(range));
        rows.filter_map(move |(key, versions)| Some(found(key, versions.at(version)?)))
    }

    /// Every row as it is in the end.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        let tables = self.0.tables.iter();
        tables.flat_map(|(table, rows)| {
            let rows = rows.iter();
            rows.map(|(key, row)| (*table, key.as_slice(), row.newest.1.as_deref()))
        })
    }
}

impl Versions {
    fn supersede(&mut self, newest: (u64, Value)) {
        self.older.push(std::mem::replace(&mut self.newest, newest));
    }

    fn at(&self, version: u64) -> Option<&Value> {
        let versions = std::iter::once(&self.newest).chain(self.older.iter().rev());
        let mut versions = versions.skip_while(|(since, _)| *since > version);
        versions.next().map(|(_, value)| value)
    }
}

/// The rows of both, in order; where both have a key, the upper one's.
pub(crate) fn over<'a>(
    upper: impl Iterator<Item = Found<'a>>,
    lower: impl Iterator<Item = Found<'a>>,
) -> impl Iterator<Item = Found<'a>> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    std::iter::from_fn(move || {
        let order = match (upper.peek(), lower.peek()) {
            (Some(Ok((above, _))), Some(Ok((below, _)))) => above.cmp(below),
            (None, _) | (_, Some(Err(_))) => Ordering::Greater,
            (Some(_), _) => Ordering::Less,
        };
        match order {
            Ordering::Less => upper.next(),
            Ordering::Greater => lower.next(),
            Ordering::Equal => {
                lower.next();
                upper.next()
            }
        }
    })
}

/// A row of rows that are written.
pub(crate) fn found<'a>(key: &'a [u8], value: &'a Value) -> Found<'a> {
    Ok((Cow::Borrowed(key), value.as_deref().map(Cow::Borrowed)))
}

/// What a row takes in memory besides key and value.
const ROW_BYTES: usize = 96;
