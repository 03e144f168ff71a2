//! Who is told in which emergencies consent was overridden.

use super::question::asker;
use medanchor_anchor::{AccountOf, EmergencyEntry, LeafIndex, State, TablesError};
use medanchor_api::EmergencyPage;
use medanchor_dag::Did;

/// The next of the emergencies that concern who signs with `key`, or, for an auditor, of all: `limit` are looked at for a page.
pub(super) fn page(
    state: &State<'_>,
    key: &Did,
    first: LeafIndex,
    limit: usize,
    auditor: bool,
) -> Result<EmergencyPage, TablesError> {
    let nothing = EmergencyPage {
        emergencies: Vec::new(),
        next: None,
    };
    let who = asker(state, key)?;
    if !auditor && who.is_none() {
        return Ok(nothing);
    }
    let read = state.emergencies(first, limit)?;
    let last = read.last().filter(|_| read.len() == limit);
    let mut page = EmergencyPage {
        next: last.map(|last| last.since + 1),
        ..nothing
    };
    for entry in read {
        let concerns = match &who {
            Some(who) => concerns(state, &entry, who)?,
            None => false,
        };
        if auditor || concerns {
            page.emergencies.push(entry);
        }
    }
    Ok(page)
}

/// Those whose data it is or who answer for it, whoever overrode consent, their organisation, and who reviews that.
fn concerns(state: &State<'_>, entry: &EmergencyEntry, who: &Did) -> Result<bool, TablesError> {
    let overrode = entry.broken.who == *who || entry.org == *who;
    if overrode || state.speaks_for(&AccountOf::Custody(entry.broken.custody), who)? {
        return Ok(true);
    }
    let rule = state.principal(&entry.org)?.and_then(|org| org.break_glass);
    Ok(rule.is_some_and(|rule| rule.reviewers.contains(who)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        Body, CustodyKind, Kind, PrincipalKind,
        testing::{MEMBERS, World, break_glass, break_glass_rule, custody, did, key},
    };

    /// Emergencies of a clinician of the second member, for the data of patients of the first.
    fn world() -> World {
        let mut world = World::new();
        for (name, org, role) in [
            ("paula", MEMBERS[0], "patient"),
            ("kim", MEMBERS[0], "clinician"),
            ("clara", MEMBERS[1], "clinician"),
            ("rosa", MEMBERS[1], "officer"),
            ("cleo", MEMBERS[1], "clinician"),
        ] {
            world.enrol(name, PrincipalKind::Person, org, &[role]);
        }
        let rule = break_glass_rule(MEMBERS[1], "rosa");
        world.accept(Body::BreakGlassRule(rule), &[&key(MEMBERS[1])]);
        for (name, controller) in [("patient-1", Some(did("paula"))), ("patient-2", None)] {
            let mut body = custody(name, MEMBERS[0], CustodyKind::Person);
            body.controller = controller;
            world.accept(Body::Custody(body), &[&key(MEMBERS[0])]);
            let body = Body::BreakGlass(break_glass("clara", name));
            world.accept(body, &[&key("clara")]);
        }
        world
    }

    fn seen(world: &World, who: &str, auditor: bool) -> usize {
        let page = page(&world.state(), &did(who), 0, 10, auditor).unwrap();
        assert_eq!(page.next, None);
        page.emergencies.len()
    }

    #[test]
    fn emergencies_are_for_those_whom_they_concern_and_for_auditors() {
        let mut world = world();
        for (who, expected) in [
            ("paula", 1),
            (MEMBERS[0], 2),
            ("clara", 2),
            (MEMBERS[1], 2),
            ("rosa", 2),
            ("cleo", 0),
            ("kim", 0),
            (MEMBERS[2], 0),
            ("stranger", 0),
        ] {
            assert_eq!(seen(&world, who, false), expected, "{who}");
            assert_eq!(seen(&world, who, true), 2);
        }
        for (who, expected) in [("paula", 1), ("clara", 2), ("rosa", 2)] {
            let next = format!("{who}/2");
            world.rotate(who, who, &next);
            assert_eq!(seen(&world, who, false), 0, "{who}");
            assert_eq!(seen(&world, &next, false), expected, "{next}");
        }
        world.stand(Kind::Suspended, "rosa", MEMBERS[1]);
        assert_eq!(seen(&world, "rosa/2", false), 0);
    }

    #[test]
    fn pages_have_every_emergency_once() {
        let world = world();
        let all = world.state().emergencies(0, 10).unwrap();
        let (mut found, mut first) = (Vec::new(), 0);
        for pages in 1.. {
            let page = page(&world.state(), &did("rosa"), first, 1, false).unwrap();
            found.extend(page.emergencies);
            match page.next {
                Some(next) => first = next,
                None => {
                    assert_eq!(pages, 3);
                    break;
                }
            }
        }
        assert_eq!(found, all);
    }
}
