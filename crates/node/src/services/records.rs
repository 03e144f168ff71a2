//! Which records somebody is told of who names none.

use medanchor_anchor::{LeafIndex, RecordEntry, State, TablesError};
use medanchor_api::{ListedRecord, RecordPage, RecordPlace, RecordQuery, status};
use medanchor_dag::{Cid, CustodyId};
use medanchor_policy::{Listing, PolicySets};
use tonic::{Code, Status};

/// The same to everybody, whatever is missing.
pub(super) fn nothing() -> Status {
    status(
        Code::PermissionDenied,
        "not-listed",
        "nothing is listed for whoever asks: they must be enrolled and active, hold the role, and name an HL7 purpose of use",
    )
}

/// A page of the records that are meant and that the reader may have, after a look at no more than [`ROWS`] of all, or of
/// those under a custody key that it has to do with. `None` where nothing is listed for the reader.
pub(super) fn page(
    state: State<'_>,
    policies: &PolicySets,
    query: &RecordQuery,
    after: Option<RecordPlace>,
    now: u64,
) -> Result<Option<RecordPage>, TablesError> {
    let (role, purpose) = (&query.role, &query.purpose);
    let Some(mut listing) = Listing::of(state, policies, &query.who, role, purpose, now)? else {
        return Ok(None);
    };
    let Some(custody) = &query.custody else {
        let (rows, next) = anywhere(state, after)?;
        let records = listed(&mut listing, query, rows)?;
        return Ok(Some(RecordPage { records, next }));
    };
    // INVARIANT: whoever has nothing to do with a custody key is not told that there is anything, nor by how long it takes.
    let (rows, next) = match listing.may_have_under(custody)? {
        true => under(state, custody, after)?,
        false => (Vec::new(), None),
    };
    let records = listed(&mut listing, query, rows)?;
    Ok(Some(RecordPage { records, next }))
}

/// Those of the records that are meant and that the reader may have.
fn listed(
    listing: &mut Listing<'_>,
    query: &RecordQuery,
    rows: Vec<RecordEntry>,
) -> Result<Vec<ListedRecord>, TablesError> {
    let mut records = Vec::new();
    for row in rows {
        if query.has(&row.anchored) && listing.has(&row.anchored)? {
            records.push(ListedRecord {
                record: row.anchored.record,
                custody: row.anchored.custody,
                index: row.index,
            });
        }
    }
    Ok(records)
}

/// Records of the whole log, and where the next page begins.
fn anywhere(
    state: State<'_>,
    after: Option<RecordPlace>,
) -> Result<(Vec<RecordEntry>, Option<RecordPlace>), TablesError> {
    let mut rows = state.records(after.and_then(last_of).as_ref(), ROWS)?;
    if rows.len() < ROWS {
        return Ok((rows, None));
    }
    // A place is not a record: the page ends where no other record has the place of its last one.
    let last = rows.last().map(|row| place_of(&row.anchored.record));
    let of_others = rows
        .iter()
        .rposition(|row| Some(place_of(&row.anchored.record)) != last);
    if let Some(of_others) = of_others {
        rows.truncate(of_others + 1);
    }
    let next = rows.last().map(|row| place_of(&row.anchored.record));
    Ok((rows, next))
}

/// Records under a custody key, and where the next page begins: a leaf.
fn under(
    state: State<'_>,
    custody: &CustodyId,
    after: Option<RecordPlace>,
) -> Result<(Vec<RecordEntry>, Option<RecordPlace>), TablesError> {
    let after = after.map(LeafIndex::from_be_bytes);
    let first = after.map_or(0, |after| after.saturating_add(1));
    let rows = state.records_under(custody, first, ROWS)?;
    let last = rows.last().filter(|_| rows.len() == ROWS);
    let next = last.map(|last| last.index.to_be_bytes());
    Ok((rows, next))
}

/// The first bytes of its digest. Whoever is shown them can name no record by them.
fn place_of(record: &Cid) -> RecordPlace {
    let digest = record.hash().digest();
    digest.first_chunk().copied().unwrap_or([u8::MAX; 8])
}

/// A CID behind those of all records with this place.
fn last_of(place: RecordPlace) -> Option<Cid> {
    let mut digest = [u8::MAX; 32];
    for (byte, of_place) in digest.iter_mut().zip(place) {
        *byte = of_place;
    }
    // CIDv1, dag-cbor, sha2-256 of 32 bytes.
    let bytes = [[1, 0x71, 0x12, 0x20].as_slice(), &digest].concat();
    Cid::try_from(bytes.as_slice()).ok()
}

/// How many records are looked at for a page.
const ROWS: usize = RecordQuery::MAX_PAGE;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::question;
    use medanchor_anchor::{
        Class, CustodyKind, PrincipalKind,
        testing::{MEMBERS, World, custody_id, did, key},
    };
    use medanchor_api::{SignedQuery, records_asked_for, stable_code};
    use medanchor_policy::Policies;
    use std::collections::BTreeSet;

    fn query() -> RecordQuery {
        RecordQuery {
            v: 1,
            origin: "example.org/log".to_owned(),
            who: did("rita"),
            role: "researcher".to_owned(),
            purpose: "HRESCH".to_owned(),
            at: 10_000_000,
            custody: None,
            class: None,
            from: None,
            until: None,
        }
    }

    #[test]
    fn query_is_of_this_network_and_of_now() {
        let (query, origin) = (query(), "example.org/log");
        for now in [
            query.at - RecordQuery::GOOD_MS,
            query.at,
            query.at + RecordQuery::GOOD_MS,
        ] {
            assert!(question::check(&query, origin, now).is_ok(), "{now}");
        }
        for now in [
            0,
            query.at - RecordQuery::GOOD_MS - 1,
            query.at + RecordQuery::GOOD_MS + 1,
        ] {
            let refused = question::check(&query, origin, now).unwrap_err();
            assert_eq!(stable_code(&refused), Some("query-expired"), "{now}");
        }
        let refused = question::check(&query, "example.org/other", query.at).unwrap_err();
        assert_eq!(stable_code(&refused), Some("wrong-origin"));
    }

    #[test]
    fn query_is_taken_from_whoever_signed_it_alone() {
        let place = [7; 8];
        let signed = query().sign(&key("rita"), Some(&place));
        assert_eq!(records_asked_for(&signed).unwrap(), (query(), Some(place)));
        assert!(records_asked_for(&query().sign(&key("rudi"), None)).is_err());
        for at in 0..signed.query.len() {
            let mut changed = signed.clone();
            changed.query[at] ^= 1;
            assert!(records_asked_for(&changed).is_err(), "byte {at}");
        }
        let later = RecordQuery { v: 2, ..query() };
        assert!(records_asked_for(&later.sign(&key("rita"), None)).is_err());
        let mut short = signed;
        short.after.pop();
        assert!(records_asked_for(&short).is_err());
    }

    #[test]
    fn pages_have_every_record_once_and_name_no_other() {
        let mut world = World::with_policy(Policies::default_set().unwrap().cid());
        let policies = PolicySets::default();
        world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &["device"]);
        world.enrol("rita", PrincipalKind::Person, MEMBERS[1], &["researcher"]);
        world.custody("mine", MEMBERS[0], CustodyKind::Person);
        world.custody("theirs", MEMBERS[0], CustodyKind::Person);
        world.consent("study", "mine", MEMBERS[1], "HRESCH");
        let mut mine = BTreeSet::new();
        for number in 0..ROWS / 2 + 10 {
            let name = number.to_string();
            mine.insert(world.anchor(&name, "holter", "mine", Class::Ecg));
            for copy in ["other", "another"] {
                world.anchor(&format!("{copy}-{name}"), "holter", "theirs", Class::Ecg);
            }
        }
        let (state, mut after, mut listed) = (world.state(), None, Vec::new());
        loop {
            let page = page(state, &policies, &query(), after, world.now)
                .unwrap()
                .unwrap();
            assert!(page.records.len() < ROWS);
            listed.extend(page.records.iter().map(|listed| listed.record));
            match page.next {
                Some(next) => assert_ne!(after.replace(next), Some(next)),
                None => break,
            }
        }
        assert!(after.is_some(), "there was one page alone");
        assert_eq!(listed.len(), mine.len());
        assert_eq!(BTreeSet::from_iter(listed), mine);

        let of_theirs = RecordQuery {
            custody: Some(custody_id("theirs")),
            ..query()
        };
        let page = page(state, &policies, &of_theirs, None, world.now);
        // There are more than a page, and no word of it.
        let nothing = RecordPage {
            records: Vec::new(),
            next: None,
        };
        assert_eq!(page.unwrap(), Some(nothing));
        let stranger = RecordQuery {
            who: did("stranger"),
            ..query()
        };
        assert!(
            super::page(state, &policies, &stranger, None, world.now)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn records_under_a_custody_key_come_in_the_order_of_the_log() {
        let mut world = World::with_policy(Policies::default_set().unwrap().cid());
        let policies = PolicySets::default();
        world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &["device"]);
        world.enrol("rita", PrincipalKind::Person, MEMBERS[1], &["researcher"]);
        world.custody("mine", MEMBERS[0], CustodyKind::Person);
        world.consent("study", "mine", MEMBERS[1], "HRESCH");
        let mut mine = Vec::new();
        for number in 0..ROWS + 10 {
            let name = number.to_string();
            mine.push(world.anchor(&name, "holter", "mine", Class::Ecg));
        }
        let query = RecordQuery {
            custody: Some(custody_id("mine")),
            ..query()
        };
        let (state, mut after, mut listed) = (world.state(), None, Vec::new());
        loop {
            let page = page(state, &policies, &query, after, world.now);
            let page = page.unwrap().unwrap();
            listed.extend(page.records);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let records: Vec<Cid> = listed.iter().map(|listed| listed.record).collect();
        assert_eq!(records, mine);
        assert!(listed.is_sorted_by_key(|listed| listed.index));
        assert!(
            listed
                .iter()
                .all(|listed| listed.custody == custody_id("mine"))
        );
    }
}
