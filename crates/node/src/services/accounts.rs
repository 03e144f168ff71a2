//! Who is told what was disclosed, and to whom.

use super::{errors::tables_status, question::asker};
use medanchor_anchor::{
    AccountOf, Disclosed, Disclosure, Leaf, LeafIndex, Opening, State, TablesError,
};
use medanchor_api::{AccountQuery, DisclosuresAsked, status};
use medanchor_dag::to_canonical;
use tonic::{Code, Status};

/// An account is for those who speak for it, while they are active, and for auditors. Whether there is one at all is not
/// for others to know.
pub(super) fn require_reader(
    state: &State<'_>,
    query: &AccountQuery,
    auditor: bool,
) -> Result<(), Status> {
    if auditor || is_reader(state, query).map_err(tables_status)? {
        return Ok(());
    }
    Err(status(
        Code::PermissionDenied,
        "not-its-account",
        "an account of disclosures is for the controller and the owner of the custody key, what somebody received for them and \
         their organisation, and both for operators and auditors of members",
    ))
}

fn is_reader(state: &State<'_>, query: &AccountQuery) -> Result<bool, TablesError> {
    match asker(state, &query.who)? {
        Some(who) => state.speaks_for(&query.of, &who),
        None => Ok(false),
    }
}

/// The disclosures asked for, until their number or their bytes are enough for a page.
pub(super) fn page(
    state: &State<'_>,
    asked: &DisclosuresAsked,
    tree_size: u64,
) -> Result<Vec<Disclosure>, Status> {
    if asked.proof_tree_size > tree_size {
        return Err(status(
            Code::FailedPrecondition,
            "tree-too-large",
            "the log has fewer leaves than the tree that the proofs are to be for: name the size of a published checkpoint",
        ));
    }
    let leaves = state.disclosures(&asked.query.of, asked.first, asked.limit);
    let (mut page, mut bytes) = (Vec::new(), 0_usize);
    for index in leaves.map_err(tables_status)? {
        // What is not in that tree has no proof in it.
        if index >= asked.proof_tree_size {
            break;
        }
        let read = disclosure(state, &asked.query.of, index, asked.proof_tree_size);
        let Some(disclosure) = read.map_err(tables_status)? else {
            break;
        };
        let size = size_bytes(&disclosure);
        // A list may be as large as a page may be.
        if !page.is_empty() && bytes + size > AccountQuery::MAX_PAGE_BYTES {
            break;
        }
        bytes += size;
        page.push(disclosure);
    }
    Ok(page)
}

fn size_bytes(disclosure: &Disclosure) -> usize {
    let opening = disclosure.opening.as_ref().map(Opening::to_bytes);
    let disclosed = disclosure.disclosed.as_ref().map(to_canonical);
    disclosure.leaf.to_bytes().len()
        + opening.map_or(0, |opening| opening.len())
        + disclosed.map_or(0, |disclosed| disclosed.len())
}

fn disclosure(
    state: &State<'_>,
    of: &AccountOf,
    index: LeafIndex,
    size: u64,
) -> Result<Option<Disclosure>, TablesError> {
    let Some(leaf): Option<Leaf> = state.leaf(index)? else {
        return Ok(None);
    };
    let opening = state.opening(index)?;
    // Without its opening nothing says what a list is of.
    let list = match &opening {
        Some(_) => state.release_list(index)?,
        None => None,
    };
    let disclosed = list.and_then(|list| match of {
        AccountOf::Custody(custody) => list.prove_part(custody).map(Disclosed::Part),
        AccountOf::Principal(_) => Some(Disclosed::Whole(list)),
    });
    Ok(Some(Disclosure {
        index,
        leaf,
        opening,
        disclosed,
        proof: state.inclusion_proof(index, size)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use medanchor_anchor::{
        AccountHead, AccountOf, Applied, Body, Class, CustodyKind, DisclosedIn, Kind,
        PrincipalKind,
        testing::{BEGINNING, MEMBERS, ORIGIN, World, custody, custody_id, did, key, node_key},
    };
    use medanchor_api::stable_code;

    fn query(who: &str, of: AccountOf) -> AccountQuery {
        AccountQuery {
            v: 1,
            origin: ORIGIN.to_owned(),
            who: did(who),
            of,
            at: BEGINNING,
        }
    }

    /// A patient who speaks for her own custody key, people of two organisations and of none that is a member, and a record.
    fn world() -> World {
        let mut world = World::new();
        world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
        world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &["device"]);
        for (name, org) in [
            ("paula", MEMBERS[0]),
            ("clara", MEMBERS[0]),
            ("rita", "vendor"),
            ("rudi", "vendor"),
        ] {
            world.enrol(name, PrincipalKind::Person, org, &["researcher"]);
        }
        let mut body = custody("patient-1", MEMBERS[0], CustodyKind::Person);
        body.controller = Some(did("paula"));
        world.accept(Body::Custody(body), &[&key(MEMBERS[0])]);
        world.anchor("ecg", "holter", "patient-1", Class::Ecg);
        world
    }

    fn release(world: &mut World) {
        let record = medanchor_anchor::testing::cid("ecg");
        let request = world.request("rita", "researcher", "HRESCH", &[record]);
        let body = Body::Released(Box::new(world.released(&request)));
        let applied = world.say(body, &[&node_key(MEMBERS[0])]);
        assert!(matches!(applied, Applied::Leaf(_)));
    }

    #[test]
    fn account_is_for_those_who_speak_for_it_and_for_auditors() {
        let mut world = world();
        let (under, absent) = (custody_id("patient-1"), custody_id("nobody"));
        let (under, absent) = (AccountOf::Custody(under), AccountOf::Custody(absent));
        let to = |name: &str| AccountOf::Principal(did(name));
        let may = |world: &World, who: &str, of: AccountOf| {
            require_reader(&world.state(), &query(who, of), false).is_ok()
        };
        for (who, of, expected) in [
            ("paula", under, true),
            (MEMBERS[0], under, true),
            (MEMBERS[1], under, false),
            ("clara", under, false),
            ("rita", under, false),
            ("paula", absent, false),
            ("rita", to("rita"), true),
            ("vendor", to("rita"), true),
            (MEMBERS[2], to("rita"), true),
            ("rudi", to("rita"), false),
            ("clara", to("rita"), false),
            ("rita", to("vendor"), false),
            ("stranger", to("stranger"), false),
        ] {
            assert_eq!(may(&world, who, of), expected, "{who} asks for {of:?}");
            assert!(require_reader(&world.state(), &query(who, of), true).is_ok());
        }
        for who in ["paula", "rita"] {
            world.rotate(who, who, &format!("{who}/2"));
        }
        for (who, of, expected) in [
            ("paula", under, false),
            ("paula/2", under, true),
            ("rita", to("rita"), false),
            ("rita/2", to("rita"), true),
            ("rita/2", to("rita/2"), false),
        ] {
            assert_eq!(may(&world, who, of), expected, "{who} asks for {of:?}");
        }
        world.stand(Kind::Revoked, "rita", "vendor");
        assert!(!may(&world, "rita/2", to("rita")));
        assert!(may(&world, "vendor", to("rita")));
    }

    #[test]
    fn pages_have_every_disclosure_once_with_its_proof() {
        let mut world = world();
        let count = AccountQuery::MAX_PAGE + 3;
        for _ in 0..count {
            release(&mut world);
        }
        let state = world.state();
        let (of, size) = (
            AccountOf::Custody(custody_id("patient-1")),
            state.tree_size().unwrap(),
        );
        let asked = |first: usize, proof_tree_size| DisclosuresAsked {
            query: query("paula", of),
            first: u64::try_from(first).unwrap(),
            limit: AccountQuery::MAX_PAGE,
            proof_tree_size,
        };
        let mut all = Vec::new();
        loop {
            let page = page(&state, &asked(all.len(), size), size).unwrap();
            assert!(page.len() <= AccountQuery::MAX_PAGE);
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        assert_eq!(all.len(), count);
        let root = state.root().unwrap();
        let tree = DisclosedIn {
            origin: ORIGIN,
            size,
            root: &root,
        };
        let account: AccountHead = state.account(&of).unwrap();
        account.verify(&of, &all, &tree).unwrap();

        // A smaller tree has fewer of them, and one that is not there yet has none.
        let last = all.last().unwrap().index;
        let fewer = page(&state, &asked(AccountQuery::MAX_PAGE, last), size).unwrap();
        assert_eq!(fewer.len(), 2);
        let refused = page(&state, &asked(0, size + 1), size).unwrap_err();
        assert_eq!(stable_code(&refused), Some("tree-too-large"));
    }
}
