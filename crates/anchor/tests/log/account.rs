use crate::{outcome, rejected};
use medanchor_anchor::{
    Account, AccountError, AccountHead, AccountOf, Applied, Body, Class, CustodyKind, Disclosed,
    DisclosedIn, Disclosure, Kind, Leaf, LeafIndex, Outcome, PrincipalKind, Refused,
    SignedStatement, StatedAccount, StatedAccountError, Strength, TrustPolicy,
    testing::{MEMBERS, ORIGIN, World, cid, custody, custody_id, did, founded, key, node_key},
    tree,
};
use medanchor_dag::{Cid, Hash};
use proptest::{collection::vec, prelude::*, sample::Index};
use std::collections::BTreeMap;

const OWNER: &str = MEMBERS[0];
const PARTNER: &str = MEMBERS[1];
const PATIENTS: [&str; 2] = ["patient-1", "patient-2"];
/// Who asks: people of two organisations, and an organisation for itself.
const REQUESTERS: [(&str, &str); 4] = [
    ("rita", PARTNER),
    ("rudi", PARTNER),
    ("clara", OWNER),
    (PARTNER, PARTNER),
];

/// Two patients with two records each, and people of two organisations.
fn world() -> World {
    let mut world = World::new();
    world.enrol("holter", PrincipalKind::Device, OWNER, &["device"]);
    for (name, org) in REQUESTERS.iter().filter(|(name, org)| name != org) {
        world.enrol(name, PrincipalKind::Person, org, &["researcher"]);
    }
    for patient in PATIENTS {
        world.custody(patient, OWNER, CustodyKind::Person);
        for number in 0..2 {
            world.anchor(&record(patient, number), "holter", patient, Class::Ecg);
        }
    }
    world
}

fn record(patient: &str, number: usize) -> String {
    format!("{patient}/{number}")
}

fn ask(world: &mut World, requester: &str, records: &[Cid]) -> SignedStatement {
    world.request(requester, "researcher", "HRESCH", records)
}

fn submit(world: &mut World, body: Body) -> Applied {
    world.say(body, &[&node_key(OWNER)])
}

fn release(world: &mut World, request: &SignedStatement) -> Applied {
    let body = Body::Released(Box::new(world.released(request)));
    submit(world, body)
}

fn refuse(world: &mut World, request: &SignedStatement) -> Applied {
    let body = Body::Refused(Box::new(Refused {
        request: request.clone(),
        code: "no-consent".to_owned(),
        basis: world.basis(request),
        decided_at: world.now,
    }));
    submit(world, body)
}

#[track_caller]
fn leaf_of(applied: &Applied) -> LeafIndex {
    match applied {
        Applied::Leaf(appended) => appended.index,
        Applied::Rejected(code) => panic!("rejected: {code}"),
    }
}

/// Every account, read off the leaves alone.
fn model(world: &World) -> BTreeMap<AccountOf, (Vec<LeafIndex>, Hash)> {
    let mut accounts: BTreeMap<AccountOf, (Vec<LeafIndex>, Hash)> = BTreeMap::new();
    let leaves = world.state().leaves(0, usize::MAX).unwrap();
    for (index, bytes) in (0..).zip(&leaves) {
        let leaf = Leaf::from_bytes(bytes).unwrap();
        if (leaf.kind, leaf.outcome) != (Kind::Released, Outcome::Ok) {
            continue;
        }
        let opening = world.state().opening(index).unwrap().unwrap();
        let Body::Released(body) = opening.0.signed.statement.body else {
            panic!("leaf {index} is of another kind");
        };
        let who = *body.request.author().unwrap();
        let org = world.state().principal(&who).unwrap().unwrap().org;
        let list = world.state().release_list(index).unwrap().unwrap();
        assert_eq!(list.head(), body.list);
        let mut of: Vec<_> = list.custodies().map(AccountOf::Custody).collect();
        of.extend([AccountOf::Principal(who), AccountOf::Principal(org)]);
        of.dedup();
        for of in of {
            let (disclosures, head) = accounts
                .entry(of)
                .or_insert((Vec::new(), Hash::new([0; 32])));
            disclosures.push(index);
            let leaf_hash = tree::leaf_hash(bytes);
            let link = [
                b"medanchor/v1/account\0".as_slice(),
                head.as_bytes(),
                leaf_hash.as_bytes(),
            ];
            *head = Hash::of(&link.concat());
        }
    }
    accounts
}

/// The accounts of the state are those of the leaves, whoever's they are.
#[track_caller]
fn assert_as_modelled(world: &World) {
    let mut model = model(world);
    let custodies = PATIENTS.map(|patient| AccountOf::Custody(custody_id(patient)));
    let principals = [
        REQUESTERS[0].0,
        REQUESTERS[1].0,
        REQUESTERS[2].0,
        OWNER,
        PARTNER,
    ];
    let principals = principals.map(|name| AccountOf::Principal(did(name)));
    for of in custodies.into_iter().chain(principals) {
        let none = (Vec::new(), Hash::new([0; 32]));
        let (expected, head) = model.remove(&of).unwrap_or(none);
        let state = world.state();
        let account = state.account(&of).unwrap();
        let count = u64::try_from(expected.len()).unwrap();
        assert_eq!(account, AccountHead { count, head }, "{of:?}");
        assert_eq!(state.disclosures(&of, 0, usize::MAX).unwrap(), expected);
        // Page by page it is the same.
        let pages = (0..count).map(|from| state.disclosures(&of, from, 1).unwrap());
        assert_eq!(pages.collect::<Vec<_>>().concat(), expected);
        assert!(state.disclosures(&of, count, 1).unwrap().is_empty());
    }
    assert!(model.is_empty(), "{model:?}");
}

/// Ground truth: what happened, in the order in which it happened.
#[test]
fn accounts_have_what_was_released_and_nothing_else() {
    let mut world = world();
    let records = |patient| [0, 1].map(|number| cid(&record(patient, number)));
    let (of_one, of_two) = (records(PATIENTS[0]), records(PATIENTS[1]));

    let both = ask(&mut world, "rita", &of_one);
    let first = release(&mut world, &both);
    // A retry is the first leaf, and a second release on one request has no effect.
    let again = world.batches.last().unwrap().entries[0].signed.clone();
    assert_eq!(world.submit(again), first);
    assert_eq!(outcome(&release(&mut world, &both)), Outcome::Conflict);
    // A refusal discloses nothing.
    let refused = ask(&mut world, "rita", &of_two);
    assert_eq!(outcome(&refuse(&mut world, &refused)), Outcome::Ok);
    let second = ask(&mut world, "rudi", &of_two[..1]);
    let second = release(&mut world, &second);
    let third = ask(&mut world, "clara", &of_one[1..]);
    let third = release(&mut world, &third);
    let for_itself = ask(&mut world, PARTNER, &of_two[1..]);
    let for_itself = release(&mut world, &for_itself);
    // Decided before a revocation, and too late for it.
    let late = ask(&mut world, "rita", &of_two);
    let stale = Body::Released(Box::new(world.released(&late)));
    world.stand(Kind::Revoked, "rita", PARTNER);
    assert_eq!(outcome(&submit(&mut world, stale)), Outcome::Stale);
    assert_eq!(outcome(&release(&mut world, &late)), Outcome::Inactive);
    let last = ask(&mut world, "rudi", &of_one);
    let last = release(&mut world, &last);

    let [first, second, third, for_itself, last] =
        [first, second, third, for_itself, last].map(|applied| leaf_of(&applied));
    let state = world.state();
    let disclosures = |of: AccountOf| state.disclosures(&of, 0, 100).unwrap();
    let to = |name: &str| disclosures(AccountOf::Principal(did(name)));
    let under = |patient: &str| disclosures(AccountOf::Custody(custody_id(patient)));
    assert_eq!(to("rita"), [first]);
    assert_eq!(to("rudi"), [second, last]);
    assert_eq!(to(PARTNER), [first, second, for_itself, last]);
    assert_eq!(to("clara"), [third]);
    assert_eq!(to(OWNER), [third]);
    assert_eq!(under(PATIENTS[0]), [first, third, last]);
    assert_eq!(under(PATIENTS[1]), [second, for_itself]);
    assert!(to("holter").is_empty());
    assert_as_modelled(&world);
}

#[test]
fn release_under_another_custody_key_than_it_says_is_in_conflict() {
    let mut world = world();
    let request = ask(&mut world, "rita", &[cid(&record(PATIENTS[0], 0))]);
    let body = world.released_with(&request, |list| {
        list.parts[0].custody = custody_id(PATIENTS[1]);
    });
    let applied = submit(&mut world, Body::Released(Box::new(body)));
    assert_eq!(outcome(&applied), Outcome::Conflict);
    assert_as_modelled(&world);
}

/// Two people of one organisation who were given keys of two patients.
fn disclosed_world() -> World {
    let mut world = world();
    for (requester, patient) in [
        ("rita", PATIENTS[0]),
        ("rudi", PATIENTS[1]),
        ("rudi", PATIENTS[0]),
        ("rita", PATIENTS[0]),
    ] {
        let request = ask(&mut world, requester, &[cid(&record(patient, 1))]);
        assert_eq!(outcome(&release(&mut world, &request)), Outcome::Ok);
    }
    world
}

/// What a node gives of a release to whoever speaks for the account.
fn disclosed(world: &World, of: &AccountOf, index: LeafIndex) -> Option<Disclosed> {
    let list = world.state().release_list(index).unwrap()?;
    match of {
        AccountOf::Custody(custody) => list.prove_part(custody).map(Disclosed::Part),
        AccountOf::Principal(_) => Some(Disclosed::Whole(list)),
    }
}

fn disclosures(world: &World, of: &AccountOf) -> Vec<Disclosure> {
    let state = world.state();
    let size = state.tree_size().unwrap();
    let leaves = state.disclosures(of, 0, usize::MAX).unwrap().into_iter();
    leaves
        .map(|index| Disclosure {
            index,
            leaf: state.leaf(index).unwrap().unwrap(),
            opening: state.opening(index).unwrap(),
            disclosed: disclosed(world, of, index),
            proof: state.inclusion_proof(index, size).unwrap(),
        })
        .collect()
}

fn verify(world: &World, of: &AccountOf, disclosures: &[Disclosure]) -> Result<(), AccountError> {
    let state = world.state();
    let root = state.root().unwrap();
    let tree = DisclosedIn {
        origin: ORIGIN,
        size: state.tree_size().unwrap(),
        root: &root,
    };
    state.account(of).unwrap().verify(of, disclosures, &tree)
}

#[test]
fn account_verifies_with_its_own_disclosures_alone() {
    let world = disclosed_world();
    let of = AccountOf::Custody(custody_id(PATIENTS[0]));
    let all = disclosures(&world, &of);
    assert_eq!(all.len(), 3);
    assert_eq!(verify(&world, &of, &all), Ok(()));
    let principals = ["rita", "rudi", PARTNER].map(|name| AccountOf::Principal(did(name)));
    for of in principals {
        assert_eq!(verify(&world, &of, &disclosures(&world, &of)), Ok(()));
    }

    for at in 0..all.len() {
        let changed = |change: fn(&mut Disclosure)| {
            let mut all = all.clone();
            change(&mut all[at]);
            verify(&world, &of, &all)
        };
        let mut fewer = all.clone();
        fewer.remove(at);
        let count = AccountError::Count {
            stated: 3,
            given: 2,
        };
        assert_eq!(verify(&world, &of, &fewer), Err(count));
        let mut twice = all.clone();
        twice.insert(at, all[at].clone());
        assert!(verify(&world, &of, &twice).is_err());
        let mut repeated = fewer.clone();
        repeated.push(fewer[0].clone());
        assert!(verify(&world, &of, &repeated).is_err());
        let index = all[at].index;
        assert!(matches!(
            changed(|one| one.index -= 1),
            Err(AccountError::Inclusion { .. } | AccountError::Order(_))
        ));
        assert!(matches!(
            changed(|one| one.leaf.at += 1),
            Err(AccountError::Inclusion { .. })
        ));
        assert!(matches!(
            changed(|one| one.proof.0.truncate(1)),
            Err(AccountError::Inclusion { .. })
        ));
        // Its content may be gone, but not another.
        let gone = changed(|one| (one.opening, one.disclosed) = (None, None));
        assert_eq!(gone, Ok(()));
        assert_eq!(changed(|one| one.disclosed = None), Ok(()));
        let unsaid = changed(|one| one.opening = None);
        assert_eq!(unsaid, Err(AccountError::Disclosed(index)));
        let other = changed(|one| one.opening.as_mut().unwrap().0.salt[0] ^= 1);
        assert_eq!(other, Err(AccountError::Opening(index)));
    }
}

#[test]
fn disclosure_of_another_account_is_found() {
    let world = disclosed_world();
    let of = AccountOf::Custody(custody_id(PATIENTS[0]));
    let other = AccountOf::Custody(custody_id(PATIENTS[1]));
    let mut all = disclosures(&world, &of);
    let foreign = disclosures(&world, &other).remove(0);
    let index = foreign.index;
    // In its place in the log, and the number of them is right.
    all[1] = foreign;
    let found = verify(&world, &of, &all);
    assert_eq!(found, Err(AccountError::OfAnother(index)));
    // Without its content it does not say whose it is; the chain does.
    (all[1].opening, all[1].disclosed) = (None, None);
    assert_eq!(verify(&world, &of, &all), Err(AccountError::Head));

    // A leaf of another kind, or of a release that did not take effect, is none.
    let refused = {
        let mut world = disclosed_world();
        let request = ask(&mut world, "rita", &[cid(&record(PATIENTS[0], 0))]);
        refuse(&mut world, &request);
        let stale = world.released_with(&request, |list| list.parts[0].since += 1);
        submit(&mut world, Body::Released(Box::new(stale)));
        world
    };
    let (state, size) = (refused.state(), refused.state().tree_size().unwrap());
    for index in [size - 2, size - 1] {
        let mut all = disclosures(&refused, &of);
        all[2] = Disclosure {
            index,
            leaf: state.leaf(index).unwrap().unwrap(),
            opening: None,
            disclosed: None,
            proof: state.inclusion_proof(index, size).unwrap(),
        };
        let found = verify(&refused, &of, &all);
        assert_eq!(found, Err(AccountError::Kind(index)));
    }
}

#[test]
fn account_of_yesterday_is_the_beginning_of_todays() {
    let mut world = disclosed_world();
    let of = AccountOf::Principal(did(PARTNER));
    let before = world.state().account(&of).unwrap();
    let request = ask(&mut world, "rudi", &[cid(&record(PATIENTS[1], 0))]);
    release(&mut world, &request);
    let all = disclosures(&world, &of);
    assert!(before.was(&all));
    assert!(AccountHead::default().was(&all));
    assert!(world.state().account(&of).unwrap().was(&all));
    assert!(!before.was(&all[..3]));
    assert!(!before.was(&all[1..]));
    let more = AccountHead {
        count: before.count + 1,
        ..before
    };
    assert!(!more.was(&all));
}

fn account(world: &World, of: AccountOf) -> Account {
    Account::new(of, world.state().account(&of).unwrap())
}

fn state(world: &mut World, account: Account, author: &str) -> Outcome {
    outcome(&world.say(Body::Account(account), &[&key(author)]))
}

/// A patient who speaks for her own custody key; and everybody else.
#[test]
fn account_is_stated_by_who_speaks_for_it() {
    let mut world = disclosed_world();
    world.enrol("paula", PrincipalKind::Person, OWNER, &["patient"]);
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &[]);
    world.enrol("vera", PrincipalKind::Person, "vendor", &["vendor"]);
    let mut body = custody("patient-3", OWNER, CustodyKind::Person);
    body.controller = Some(did("paula"));
    world.accept(Body::Custody(body), &[&key(OWNER)]);
    let under = |name| AccountOf::Custody(custody_id(name));
    let to = |name| AccountOf::Principal(did(name));
    for (of, author, expected) in [
        (under("patient-3"), "paula", Outcome::Ok),
        (under("patient-3"), OWNER, Outcome::Ok),
        (under(PATIENTS[0]), OWNER, Outcome::Ok),
        (under(PATIENTS[0]), "paula", Outcome::Forbidden),
        (under(PATIENTS[0]), PARTNER, Outcome::Forbidden),
        (under(PATIENTS[0]), "rita", Outcome::Forbidden),
        (under("nobody"), OWNER, Outcome::Forbidden),
        (to("rita"), "rita", Outcome::Ok),
        (to("rita"), PARTNER, Outcome::Ok),
        (to("rita"), OWNER, Outcome::Ok),
        (to("rita"), "rudi", Outcome::Forbidden),
        (to("rita"), "vendor", Outcome::Forbidden),
        (to("vera"), "vendor", Outcome::Ok),
        (to(PARTNER), PARTNER, Outcome::Ok),
        (to(PARTNER), "rita", Outcome::Forbidden),
    ] {
        let stated = account(&world, of);
        assert_eq!(
            state(&mut world, stated, author),
            expected,
            "{author}, {of:?}"
        );
    }
    world.stand(Kind::Suspended, "paula", OWNER);
    let stated = account(&world, under("patient-3"));
    assert_eq!(state(&mut world, stated, "paula"), Outcome::Inactive);
}

#[test]
fn account_that_is_not_the_states_is_stale() {
    let mut world = disclosed_world();
    let of = AccountOf::Custody(custody_id(PATIENTS[0]));
    let before = account(&world, of);
    let request = ask(&mut world, "rita", &[cid(&record(PATIENTS[0], 0))]);
    release(&mut world, &request);
    let now = account(&world, of);
    assert_eq!(state(&mut world, before.clone(), OWNER), Outcome::Stale);
    let mut fewer = now.clone();
    fewer.count -= 1;
    assert_eq!(state(&mut world, fewer, OWNER), Outcome::Stale);
    let mut other = now.clone();
    other.head = before.head;
    assert_eq!(state(&mut world, other, OWNER), Outcome::Stale);
    let of_another = Account {
        of: AccountOf::Custody(custody_id(PATIENTS[1])),
        count: now.count,
        head: now.head,
    };
    assert_eq!(state(&mut world, of_another, OWNER), Outcome::Stale);
    // Stating it changes nothing, and what comes in the same batch before it counts.
    assert_eq!(state(&mut world, now.clone(), OWNER), Outcome::Ok);
    assert_eq!(account(&world, of), now);
    let request = ask(&mut world, "rudi", &[cid(&record(PATIENTS[0], 0))]);
    let released = Body::Released(Box::new(world.released(&request)));
    let released = world.statement(released).sign(&[&node_key(OWNER)]);
    let stated = world.statement(Body::Account(now)).sign(&[&key(OWNER)]);
    let applied = world.apply(vec![released, stated]);
    assert_eq!(outcome(&applied[0]), Outcome::Ok);
    assert_eq!(outcome(&applied[1]), Outcome::Stale);
    assert_as_modelled(&world);
}

#[test]
fn account_without_a_disclosure_has_no_chain() {
    let mut world = world();
    let of = AccountOf::Custody(custody_id(PATIENTS[0]));
    let none = AccountHead::default();
    let stated = Account::new(of, none);
    assert_eq!(state(&mut world, stated, OWNER), Outcome::Ok);
    for wrong in [
        AccountHead { count: 1, ..none },
        AccountHead {
            head: Hash::new([1; 32]),
            ..none
        },
    ] {
        let body = Body::Account(Account::new(of, wrong));
        assert_eq!(rejected(&world.say(body, &[&key(OWNER)])), "malformed");
    }
}

/// What a patient keeps: the receipt of the statement, and all that it is of.
fn stated(world: &mut World, of: AccountOf) -> StatedAccount {
    let body = Body::Account(account(world, of));
    let leaf = world.accept(body, &[&key(OWNER)]).index;
    let size = world.state().tree_size().unwrap();
    let checkpoint = world.checkpoint(size, MEMBERS[0], &MEMBERS);
    StatedAccount {
        receipt: world.receipt(leaf, checkpoint),
        disclosures: disclosures(world, &of),
    }
}

fn policy() -> TrustPolicy {
    TrustPolicy::founded(&founded(cid("policy"))).unwrap()
}

#[test]
fn stated_account_verifies_without_a_server_and_shows_what_is_missing() {
    let mut world = disclosed_world();
    let of = AccountOf::Custody(custody_id(PATIENTS[0]));
    let stated = stated(&mut world, of);
    let bytes = stated.to_bytes();
    assert!(StatedAccount::claims(&bytes));
    let read = StatedAccount::from_bytes(&bytes).unwrap();
    assert_eq!(read, stated);
    let vouched = read.verify(&policy(), Strength::Published).unwrap();
    assert_eq!((vouched.account.of, vouched.account.count), (of, 3));
    assert_eq!(vouched.by, &did(OWNER));
    assert_eq!(vouched.verified.checkpoint.cosigners.len(), 3);

    let refused = |stated: &StatedAccount| stated.verify(&policy(), Strength::Published).map(drop);
    for at in 0..3 {
        let mut fewer = stated.clone();
        fewer.disclosures.remove(at);
        let count = AccountError::Count {
            stated: 3,
            given: 2,
        };
        assert_eq!(refused(&fewer), Err(StatedAccountError::Account(count)));
    }
    // The receipt of a release states no account, nor does that of an account that the log refused.
    let size = world.state().tree_size().unwrap();
    let checkpoint = world.checkpoint(size, MEMBERS[0], &MEMBERS);
    let of_release = StatedAccount {
        receipt: world.receipt(stated.disclosures[0].index, checkpoint),
        ..stated.clone()
    };
    assert_eq!(refused(&of_release), Err(StatedAccountError::NotAnAccount));
    let mut untrue = account(&world, of);
    untrue.count = 2;
    let Applied::Leaf(stale) = world.say(Body::Account(untrue), &[&key(OWNER)]) else {
        panic!("rejected")
    };
    let checkpoint = world.checkpoint(size + 1, MEMBERS[0], &MEMBERS);
    let mut of_stale = StatedAccount {
        receipt: world.receipt(stale.index, checkpoint),
        disclosures: disclosures(&world, &of),
    };
    of_stale.disclosures.pop();
    assert_eq!(refused(&of_stale), Err(StatedAccountError::NotAnAccount));
    // Nobody but the log vouches.
    let mut unsigned = stated;
    unsigned.receipt.checkpoint = world.checkpoint(size, MEMBERS[0], &MEMBERS[..1]);
    assert!(matches!(
        refused(&unsigned),
        Err(StatedAccountError::Receipt(_))
    ));
}

#[test]
fn every_changed_bit_of_a_stated_account_is_seen() {
    let mut world = disclosed_world();
    let bytes = stated(&mut world, AccountOf::Principal(did("rudi"))).to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let verified = StatedAccount::from_bytes(&changed)
            .is_ok_and(|changed| changed.verify(&policy(), Strength::Published).is_ok());
        assert!(!verified, "byte {at}");
    }
    for len in [0, 1, 20, 21, bytes.len() - 1] {
        assert!(StatedAccount::from_bytes(&bytes[..len]).is_err());
    }
}

#[derive(Clone, Debug)]
enum Act {
    Release(Index, Index, Index),
    Refuse(Index, Index),
    Stale(Index, Index),
    Repeat(Index),
    Stand(Index, bool),
    State(Index),
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<Index>;
    prop_oneof![
        4 => (index(), index(), index()).prop_map(|(who, of, which)| Act::Release(who, of, which)),
        1 => (index(), index()).prop_map(|(who, of)| Act::Refuse(who, of)),
        1 => (index(), index()).prop_map(|(who, of)| Act::Stale(who, of)),
        1 => index().prop_map(Act::Repeat),
        1 => (index(), any::<bool>()).prop_map(|(who, back)| Act::Stand(who, back)),
        1 => index().prop_map(Act::State),
    ]
}

fn perform(world: &mut World, act: &Act) -> SignedStatement {
    let who = |index: &Index| REQUESTERS[index.index(REQUESTERS.len())].0;
    let of = |index: &Index| PATIENTS[index.index(PATIENTS.len())];
    let node = node_key(OWNER);
    match act {
        Act::Release(by, patient, which) => {
            let records = [0, 1].map(|number| cid(&record(of(patient), number)));
            let records = [&records[..1], &records[1..], &records[..]][which.index(3)];
            let request = ask(world, who(by), records);
            let body = Body::Released(Box::new(world.released(&request)));
            world.statement(body).sign(&[&node])
        }
        Act::Refuse(by, patient) => {
            let request = ask(world, who(by), &[cid(&record(of(patient), 0))]);
            let body = Body::Refused(Box::new(Refused {
                basis: world.basis(&request),
                decided_at: world.now,
                code: "no-consent".to_owned(),
                request,
            }));
            world.statement(body).sign(&[&node])
        }
        Act::Stale(by, patient) => {
            let request = ask(world, who(by), &[cid(&record(of(patient), 0))]);
            let body = world.released_with(&request, |list| list.parts[0].since += 1);
            let body = Body::Released(Box::new(body));
            world.statement(body).sign(&[&node])
        }
        Act::Repeat(index) => {
            let batch = &world.batches[index.index(world.batches.len())];
            batch.entries[0].signed.clone()
        }
        Act::State(patient) => {
            let of = AccountOf::Custody(custody_id(of(patient)));
            let body = Body::Account(account(world, of));
            world.statement(body).sign(&[&key(OWNER)])
        }
        Act::Stand(who, back) => {
            let (name, org) = REQUESTERS[who.index(3)];
            let kind = if *back {
                Kind::Reinstated
            } else {
                Kind::Suspended
            };
            let body = medanchor_anchor::testing::standing(kind, name);
            world.statement(body).sign(&[&key(org)])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_bytes_are_an_account_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let file = [b"medanchor-account@v1\n".as_slice(), &bytes].concat();
        for bytes in [bytes, file] {
            if let Ok(stated) = StatedAccount::from_bytes(&bytes) {
                prop_assert_eq!(stated.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn accounts_of_any_history_are_those_of_its_leaves(batches in vec(vec(act(), 1..5), 1..12)) {
        let mut world = world();
        for acts in batches {
            let signed = acts.iter().map(|act| perform(&mut world, act)).collect();
            world.apply(signed);
        }
        assert_as_modelled(&world);
    }
}
