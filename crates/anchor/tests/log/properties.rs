use medanchor_anchor::{
    Applied, Batch, Body, Class, CustodyKind, Entry, Holding, Kind, Leaf, LegalHold,
    LegalHoldPlaced, Log, MemoryTables, PrincipalKind, SignedStatement, State, Status,
    testing::{
        self, MEMBERS, World, cid, consented, custody, did, enrolled, key, node_key, roles_changed,
        rotated, standing,
    },
    tree,
};
use medanchor_dag::{Hash, SigningKey};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Who may sign: members, their nodes, principals and a stranger.
const AUTHORS: [&str; 10] = [
    "hospital-a",
    "hospital-b",
    "hospital-a/node",
    "hospital-b/node",
    "holter",
    "holter/next",
    "anna",
    "anna/next",
    "vendor",
    "stranger",
];
const NAMES: [&str; 4] = ["holter", "anna", "vendor", "hospital-b"];

#[derive(Clone, Debug)]
enum Act {
    Enrol(Index),
    Stand(Index, Index),
    Rotate(Index, Index),
    ChangeRoles(Index, Index),
    Custody(Index),
    Consent(Index),
    Withdraw,
    PlaceLegalHold(Index, Index),
    ReleaseLegalHold(Index, Index),
    Hold(Index, Index, bool),
    Anchor(Index, u64),
    Release(Index),
    Refuse,
    Join(Index),
    Leave(Index),
    SetPolicy(Index),
    Repeat(Index),
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<Index>;
    prop_oneof![
        index().prop_map(Act::Enrol),
        (index(), index()).prop_map(|(who, how)| Act::Stand(who, how)),
        (index(), index()).prop_map(|(who, to)| Act::Rotate(who, to)),
        (index(), index()).prop_map(|(who, roles)| Act::ChangeRoles(who, roles)),
        index().prop_map(Act::Custody),
        index().prop_map(Act::Consent),
        Just(Act::Withdraw),
        (index(), index()).prop_map(|(org, what)| Act::PlaceLegalHold(org, what)),
        (index(), index()).prop_map(|(org, what)| Act::ReleaseLegalHold(org, what)),
        (index(), index(), any::<bool>()).prop_map(|(by, name, gives)| Act::Hold(by, name, gives)),
        (index(), 0..4_u64).prop_map(|(name, seq)| Act::Anchor(name, seq)),
        index().prop_map(Act::Release),
        Just(Act::Refuse),
        index().prop_map(Act::Join),
        index().prop_map(Act::Leave),
        index().prop_map(Act::SetPolicy),
        index().prop_map(Act::Repeat),
    ]
}

fn perform(world: &mut World, act: &Act, author: &SigningKey) -> SignedStatement {
    let body = match act {
        Act::Enrol(name) => {
            let (name, kind, org) = [
                ("holter", PrincipalKind::Device, "hospital-a"),
                ("anna", PrincipalKind::Person, "hospital-b"),
                ("vendor", PrincipalKind::Organisation, "vendor"),
            ][name.index(3)];
            enrolled(name, kind, org, &["clinician"])
        }
        Act::Stand(who, how) => {
            let kinds = [Kind::Suspended, Kind::Reinstated, Kind::Revoked];
            standing(kinds[how.index(kinds.len())], NAMES[who.index(NAMES.len())])
        }
        Act::Custody(owner) => {
            let owner = MEMBERS[owner.index(2)];
            Body::Custody(custody("patient-1", owner, CustodyKind::Person))
        }
        Act::Rotate(who, to) => {
            let to = AUTHORS[to.index(AUTHORS.len())];
            let body = rotated(NAMES[who.index(NAMES.len())], to);
            return by_all(world.statement(body), [author, &key(to), author, &key(to)]);
        }
        Act::ChangeRoles(who, roles) => {
            let roles = [&[][..], &["clinician"], &["clinician", "nurse"]][roles.index(3)];
            roles_changed(NAMES[who.index(NAMES.len())], roles)
        }
        Act::Consent(party) => Body::Consented(consented(
            "study",
            "patient-1",
            NAMES[party.index(NAMES.len())],
            "TREAT",
        )),
        Act::Withdraw => Body::Withdrawn(medanchor_anchor::Withdrawn {
            consent: testing::consent_id("study"),
            custody: testing::custody_id("patient-1"),
        }),
        Act::PlaceLegalHold(org, what) => Body::LegalHoldPlaced(LegalHoldPlaced {
            legal_hold: legal_hold(org, what),
            matter: "7 O 123/26".to_owned(),
        }),
        Act::ReleaseLegalHold(org, what) => Body::LegalHoldReleased(legal_hold(org, what)),
        Act::Hold(by, name, gives) => {
            let records = vec![cid(&format!("record-{}", name.index(4)))];
            let (holds, gives_back) = match gives {
                true => (Vec::new(), records),
                false => (records, Vec::new()),
            };
            let node = node_key(MEMBERS[by.index(MEMBERS.len())]);
            let body = Body::Holding(Holding {
                node: node.did(),
                holds,
                gives_back,
            });
            return world.statement(body).sign(&[&node]);
        }
        Act::Anchor(name, seq) => {
            let name = format!("record-{}", name.index(4));
            let mut body = world.anchored(&name, "holter", "patient-1", Class::Ecg);
            body.seq = *seq;
            Body::Anchored(body)
        }
        Act::Release(name) => {
            let record = cid(&format!("record-{}", name.index(4)));
            let request = world.request("anna", "clinician", "TREAT", &[record]);
            Body::Released(Box::new(world.released(&request)))
        }
        Act::Refuse => {
            let request = world.request("anna", "clinician", "TREAT", &[cid("record-0")]);
            Body::Refused(Box::new(medanchor_anchor::Refused {
                basis: world.basis(&request),
                decided_at: world.now,
                code: "not-permitted".into(),
                request,
            }))
        }
        Act::SetPolicy(which) => {
            let body = Body::PolicySet(medanchor_anchor::PolicySet {
                set: vec![b"one set".to_vec(), b"another".to_vec()][which.index(2)].clone(),
            });
            return by_all(
                world.statement(body),
                [author, &key(MEMBERS[0]), &key(MEMBERS[1]), &key(MEMBERS[2])],
            );
        }
        Act::Join(name) => {
            let name = ["hospital-b", "vendor", "hospital-e"][name.index(3)];
            let body = Body::MemberAdded(Box::new(testing::joining(name, 2)));
            let joiner = key(name);
            return by_all(
                world.statement(body),
                [author, &joiner, &key(MEMBERS[0]), &key(MEMBERS[2])],
            );
        }
        Act::Leave(index) => {
            let members = world.state().members().unwrap();
            let name = &members[index.index(members.len())].name;
            let body = Body::MemberRemoved(world.leaving(name, 2));
            return by_all(
                world.statement(body),
                [author, &key(MEMBERS[0]), &key(MEMBERS[2]), author],
            );
        }
        Act::Repeat(index) => {
            let batch = &world.batches[index.index(world.batches.len())];
            return batch.entries[0].signed.clone();
        }
    };
    world.statement(body).sign(&[author])
}

fn legal_hold(org: &Index, what: &Index) -> LegalHold {
    let records = [None, Some(cid("record-0")), Some(cid("record-1"))];
    LegalHold {
        hold: testing::consent_id("matter"),
        org: did(MEMBERS[org.index(2)]),
        custody: testing::custody_id("patient-1"),
        record: records[what.index(records.len())],
    }
}

/// Signed by each of them once.
fn by_all(statement: medanchor_anchor::Statement, authors: [&SigningKey; 4]) -> SignedStatement {
    let mut signed = statement.sign(&authors);
    signed.signatures.sort_unstable_by_key(|(by, _)| *by);
    signed.signatures.dedup_by_key(|(by, _)| *by);
    signed
}

/// RFC 6962 section 2.1, word for word.
fn tree_hash(leaves: &[Vec<u8>]) -> Hash {
    match leaves {
        [] => Hash::of(b""),
        [leaf] => Hash::of(&[&[0], leaf.as_slice()].concat()),
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            let (left, right) = (tree_hash(left), tree_hash(right));
            Hash::of(&[&[1], left.as_bytes().as_slice(), right.as_bytes()].concat())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_sequence_of_batches_keeps_the_log_sound(
        steps in vec((vec((act(), any::<Index>()), 1..4), 0..2_000_u64), 1..24),
    ) {
        let mut world = World::new();
        world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &[]);
        world.custody("patient-1", MEMBERS[0], CustodyKind::Person);
        for (acts, later) in steps {
            world.now = testing::BEGINNING + later;
            let signed = acts
                .iter()
                .map(|(act, author)| perform(&mut world, act, &key(AUTHORS[author.index(AUTHORS.len())])))
                .collect();
            world.apply(signed);
        }
        let state = world.state();
        let size = state.tree_size().unwrap();
        let leaves = state.leaves(0, usize::MAX).unwrap();
        prop_assert_eq!(u64::try_from(leaves.len()).unwrap(), size);
        prop_assert_eq!(state.root().unwrap(), tree_hash(&leaves));
        let times: Vec<u64> = leaves.iter().map(|leaf| Leaf::from_bytes(leaf).unwrap().at).collect();
        prop_assert!(times.is_sorted());
        let root = state.root().unwrap();
        for (index, leaf) in (0..).zip(&leaves) {
            let proof = state.inclusion_proof(index, size).unwrap();
            prop_assert!(proof.verify(&tree::leaf_hash(leaf), index, size, &root).is_ok());
            let prefix = proof.prefix_root(&tree::leaf_hash(leaf), index, size);
            prop_assert_eq!(prefix, state.root_at(index + 1).unwrap());
            let opening = state.opening(index).unwrap().unwrap();
            prop_assert_eq!(opening.commitment(), Leaf::from_bytes(leaf).unwrap().opening);
        }
        let entries = state.member_entries().unwrap();
        prop_assert!(!state.members().unwrap().is_empty());
        prop_assert!(entries.iter().map(|entry| entry.member.node_id).eq(1..=entries.len() as u64));
        let mut replica = MemoryTables::default();
        for batch in &world.batches {
            Log::apply(&mut replica, batch).unwrap();
        }
        prop_assert_eq!(&replica, &world.tables);
    }

    #[test]
    fn mutated_statement_changes_nothing(
        acts in vec((act(), any::<Index>()), 1..6),
        position in any::<Index>(),
        bit in 0..8_u8,
    ) {
        let mut world = World::new();
        world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &[]);
        world.custody("patient-1", MEMBERS[0], CustodyKind::Person);
        for (act, author) in acts {
            let signed = perform(&mut world, &act, &key(AUTHORS[author.index(AUTHORS.len())]));
            let mut bytes = signed.to_bytes();
            let at = position.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let before = world.tables.clone();
            if let Ok(mutated) = SignedStatement::from_bytes(&bytes) {
                let applied = world.submit(mutated);
                let is_first = matches!(&applied, Applied::Leaf(first)
                    if first.index < State::new(&before).tree_size().unwrap());
                prop_assert!(is_first || matches!(applied, Applied::Rejected(_)));
            }
            prop_assert_eq!(&world.tables, &before);
            world.submit(signed);
        }
    }

    #[test]
    fn any_bytes_are_a_batch_or_an_error(bytes in vec(any::<u8>(), 0..512)) {
        if let Ok(batch) = Batch::from_bytes(&bytes) {
            Log::apply(&mut World::new().tables, &batch).unwrap();
        }
    }

    /// A revoked principal's standing never changes again, whatever is said.
    #[test]
    fn revoked_stays_revoked(acts in vec((act(), any::<Index>()), 1..12)) {
        let mut world = World::new();
        world.enrol("holter", PrincipalKind::Device, MEMBERS[0], &[]);
        world.stand(Kind::Revoked, "holter", MEMBERS[0]);
        for (act, author) in acts {
            let signed = perform(&mut world, &act, &key(AUTHORS[author.index(AUTHORS.len())]));
            world.submit(signed);
        }
        let entry = world.state().principal(&did("holter")).unwrap().unwrap();
        prop_assert_eq!(entry.standing, Status::Revoked);
    }
}

#[test]
fn entries_with_broken_form_are_rejected_even_without_a_parser() {
    let mut world = World::new();
    let signed = world
        .statement(standing(Kind::Revoked, "holter"))
        .sign(&[&node_key(MEMBERS[0])]);
    let mut without_nonce = signed.clone();
    without_nonce.statement.nonce = None;
    let mut unsigned = signed.clone();
    unsigned.signatures.clear();
    let mut twice = signed;
    twice.signatures.push(twice.signatures[0]);
    for signed in [without_nonce, unsigned, twice] {
        let entry = Entry {
            salt: [0; 32],
            signed,
        };
        let mut batch = world.batches[0].clone();
        batch.entries = vec![entry];
        let applied = Log::apply(&mut world.tables, &batch).unwrap();
        assert_eq!(applied, [Applied::Rejected("malformed")]);
    }
}
