//! The keys of many records, asked for together: one leaf for all that a broker releases.

use crate::{
    Asking, Exit, OwnKeys, Session,
    consent::check_purpose,
    grant::Grant,
    progress::{Counter, note},
    request::{Answer, Asked, Refusal, ask_for, first_role},
    selection::Selection,
};
use anyhow::Result;
use medanchor_anchor::{Cohort, LeafIndex, Leaves, Period, ReleaseList, StreamName};
use medanchor_dag::{Cid, CustodyId};
use medanchor_policy::Code;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A record that is to be asked for, and where the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) record: Cid,
    pub(crate) custody: CustodyId,
    /// The leaf that anchored it, where it is known.
    pub(crate) index: Option<LeafIndex>,
}

/// Keys that were released together.
#[derive(Clone, Debug, Serialize)]
pub struct ReleasedTogether {
    /// The leaf that released them.
    pub leaf_index: LeafIndex,
    /// How many.
    pub records: u64,
    /// Under how many custody keys.
    pub custodies: u64,
    /// How many records were selected and not released, by the code that each would be refused with.
    pub left_out: BTreeMap<String, u64>,
}

/// What came of asking for many records.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    pub(crate) releases: Vec<ReleasedTogether>,
    /// Why those that were asked for together and that no key was released of were refused.
    pub(crate) denied: BTreeMap<Cid, Refusal>,
}

/// What is asked for at once.
struct Portion {
    cohort: BTreeSet<CustodyId>,
    leaves: Leaves,
    places: Vec<Place>,
}

/// Asks for the keys that are lacking of the records of the selection, with as few requests as there may be, and keeps them.
/// What fails so is left to be asked for by itself, and so are the few that are lacking where most are there: no key is
/// released again for them.
///
/// # Errors
///
/// When there is no role to ask in, a node's answer does not verify, or the grants cannot be kept.
pub(crate) async fn ask_together(
    session: &Session,
    keys: &OwnKeys,
    selection: &Selection,
    wanted: &[(bool, Place)],
    asking: &Asking,
) -> Result<Bulk> {
    let mut bulk = Bulk::default();
    let Some(purpose) = asking.purpose.as_deref() else {
        return Ok(bulk);
    };
    check_purpose(purpose)?;
    let role = match &asking.role {
        Some(role) => role.clone(),
        None => first_role(session, keys).await?,
    };
    let mut selection = selection.clone();
    if let Some((device, _)) = &mut selection.stream {
        // A request names a device by the key that it was enrolled with.
        *device = session.identity(device).await?;
    }
    let mut waiting = portions(wanted);
    let total = u64::try_from(
        waiting
            .iter()
            .map(|portion| portion.places.len())
            .sum::<usize>(),
    )?;
    let (mut counter, mut released) = (Counter::new("keys", 0, total), 0);
    for _ in 0..MAX_REQUESTS {
        let Some(portion) = waiting.pop() else { break };
        let asked = portion.asked(&selection, purpose, &role);
        let (grants, left_out, elsewhere) = match ask_for(session, keys, asked).await {
            Ok(Answer::Granted {
                grants,
                left_out,
                elsewhere,
            }) => (grants, left_out, elsewhere),
            // More is there than was asked for: nothing is said of any one record.
            Ok(Answer::Denied(refusal)) if refusal.code == Code::TooManyRecords.as_str() => {
                continue;
            }
            Ok(Answer::Denied(refusal)) => {
                bulk.deny(&portion, &refusal);
                continue;
            }
            // A key that is not what the log shows is not asked for in another way.
            Err(error) if Exit::of(&error) == Exit::NotVerified => return Err(error),
            Err(error) => {
                let problem = "keys are not released together, and are asked for one by one";
                counter.suspend(|| note(&format!("{problem}: {error:#}")));
                continue;
            }
        };
        Grant::keep_all(session, &grants)?;
        released += u64::try_from(grants.len())?;
        counter.set(released.min(total));
        bulk.releases.extend(together(&grants, left_out)?);
        waiting.extend(portion.left_to_others(&elsewhere));
    }
    counter.finish();
    Ok(bulk)
}

fn together(grants: &[Grant], left_out: Vec<(String, u64)>) -> Result<Option<ReleasedTogether>> {
    let Some(first) = grants.first() else {
        return Ok(None);
    };
    let custodies: BTreeSet<_> = grants.iter().map(Grant::custody).collect();
    Ok(Some(ReleasedTogether {
        leaf_index: first.leaf_index,
        records: u64::try_from(grants.len())?,
        custodies: u64::try_from(custodies.len())?,
        left_out: left_out.into_iter().collect(),
    }))
}

/// As few as there may be, each of no more records than are released at once: cut where the log was at some time, and asked for
/// where at least half is lacking. Records whose leaf is not known are in one portion, if they are few enough.
fn portions(wanted: &[(bool, Place)]) -> Vec<Portion> {
    let mut known: Vec<(LeafIndex, &(bool, Place))> = Vec::new();
    let mut unknown = Vec::new();
    for place in wanted {
        match place.1.index {
            Some(index) => known.push((index, place)),
            None => unknown.push(place),
        }
    }
    known.sort_unstable_by_key(|(index, _)| *index);
    let known = known.chunks(ReleaseList::MAX_RECORDS).filter_map(|chunk| {
        let leaves = Leaves {
            from: chunk.first()?.0,
            until: chunk.last()?.0,
        };
        let all: Vec<_> = chunk.iter().map(|(_, place)| *place).collect();
        Portion::lacking(&all, leaves)
    });
    let is_few = unknown.len() <= ReleaseList::MAX_RECORDS;
    let unknown = is_few.then(|| Portion::lacking(&unknown, ALL_LEAVES));
    known.chain(unknown.flatten()).collect()
}

impl Portion {
    /// What is lacking of these, if that is more than one and at least half.
    fn lacking(all: &[&(bool, Place)], leaves: Leaves) -> Option<Self> {
        let lacking = all.iter().filter(|(is_lacking, _)| *is_lacking);
        let lacking: Vec<Place> = lacking.map(|(_, place)| *place).collect();
        let is_worth_it = lacking.len() > 1 && lacking.len() >= all.len().div_ceil(2);
        is_worth_it.then(|| Self::new(lacking, leaves))
    }

    fn new(places: Vec<Place>, leaves: Leaves) -> Self {
        Self {
            cohort: places.iter().map(|place| place.custody).collect(),
            leaves,
            places,
        }
    }

    /// The request for it.
    fn asked<'a>(&self, selection: &Selection, purpose: &'a str, role: &'a str) -> Asked<'a> {
        let cohort: Vec<CustodyId> = self.cohort.iter().copied().collect();
        Asked {
            records: Vec::new(),
            selection: Some(selection.asked_for(&cohort, self.leaves)),
            cohort,
            purpose,
            role,
        }
    }

    /// What of it another broker must be asked for; nothing where a node names all of it, or what was not asked for, so that
    /// none is followed without end.
    fn left_to_others(self, elsewhere: &[CustodyId]) -> Option<Self> {
        let (all, mut places) = (self.cohort.len(), self.places);
        places.retain(|place| elsewhere.contains(&place.custody));
        let left = Self::new(places, self.leaves);
        (1..all).contains(&left.cohort.len()).then_some(left)
    }
}

impl Bulk {
    fn deny(&mut self, portion: &Portion, refusal: &Refusal) {
        let records = portion.places.iter().map(|place| place.record);
        self.denied
            .extend(records.map(|record| (record, refusal.clone())));
    }
}

impl Selection {
    /// The same as a request says it.
    fn asked_for(&self, cohort: &[CustodyId], leaves: Leaves) -> medanchor_anchor::Selection {
        let stream = self.stream;
        medanchor_anchor::Selection {
            cohort: Cohort::of(cohort),
            stream: stream.map(|(device, stream)| StreamName { device, stream }),
            class: self.class,
            captured: Period {
                from: self.from.map(|from| from.unix_ms()),
                // Here the end is not part of it.
                until: self.until.map(|until| until.unix_ms().saturating_sub(1)),
            },
            leaves,
        }
    }
}

const ALL_LEAVES: Leaves = Leaves {
    from: 0,
    until: LeafIndex::MAX,
};
/// For as many records as may be fetched into a folder, each portion from a few brokers.
const MAX_REQUESTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_dag::{Codec, cid_of};

    fn place(number: u64, custody: u8, index: Option<u64>) -> Place {
        Place {
            record: cid_of(Codec::DagCbor, &[7; 32]),
            custody: CustodyId::new([custody; 16]),
            index: index.map(|index| index * 2 + number % 2),
        }
    }

    #[test]
    fn records_are_asked_for_in_portions_of_the_log_that_do_not_overlap() {
        let most = u64::try_from(ReleaseList::MAX_RECORDS).unwrap();
        let places: Vec<(bool, Place)> = (0..most + 5)
            .rev()
            .map(|number| (true, place(number, u8::from(number < 3), Some(number))))
            .collect();
        let portions = portions(&places);
        let sizes: Vec<usize> = portions
            .iter()
            .map(|portion| portion.places.len())
            .collect();
        assert_eq!(sizes, [ReleaseList::MAX_RECORDS, 5]);
        let cohorts: Vec<usize> = portions
            .iter()
            .map(|portion| portion.cohort.len())
            .collect();
        assert_eq!(cohorts, [2, 1]);
        assert!(portions[0].leaves.until < portions[1].leaves.from);
    }

    #[test]
    fn records_without_a_leaf_are_asked_for_together_when_they_are_few_enough() {
        for (count, expected) in [
            (1, 0),
            (2, 1),
            (ReleaseList::MAX_RECORDS, 1),
            (ReleaseList::MAX_RECORDS + 1, 0),
        ] {
            let places = vec![(true, place(0, 1, None)); count];
            let portions = portions(&places);
            assert_eq!(portions.len(), expected, "{count}");
            assert!(portions.iter().all(|portion| portion.leaves == ALL_LEAVES));
        }
    }

    /// After an interruption most may be there: their keys are not released again for the few that are not.
    #[test]
    fn few_that_are_lacking_are_asked_for_one_by_one() {
        for (lacking, expected) in [
            (0, None),
            (1, None),
            (4, None),
            (5, Some(5)),
            (10, Some(10)),
        ] {
            let places: Vec<(bool, Place)> = (0..10)
                .map(|number| (number < lacking, place(number, 1, Some(number))))
                .collect();
            let portions = portions(&places);
            let sizes = portions.first().map(|portion| portion.places.len());
            assert_eq!(
                (portions.len(), sizes),
                (usize::from(expected.is_some()), expected)
            );
        }
    }

    #[test]
    fn only_what_was_asked_for_is_asked_of_another_broker_and_never_all_of_it() {
        let portion = || Portion::new(vec![place(0, 1, Some(0)), place(0, 2, Some(1))], ALL_LEAVES);
        let id = |byte| CustodyId::new([byte; 16]);
        let left = portion().left_to_others(&[id(2), id(3)]).unwrap();
        assert_eq!(left.cohort, BTreeSet::from([id(2)]));
        assert_eq!(left.places, [place(0, 2, Some(1))]);
        for elsewhere in [&[][..], &[id(3)], &[id(1), id(2)]] {
            assert!(
                portion().left_to_others(elsewhere).is_none(),
                "{elsewhere:?}"
            );
        }
    }
}
