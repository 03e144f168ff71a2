//! When a snapshot's certificate is believed.
#![expect(
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    CertificateError, Certifiers, Digested, Founded, StateDigest,
    testing::{self, MEMBERS, ORIGIN, World, cid, did, node_key, verifier_key},
};
use medanchor_dag::Hash;

#[test]
fn one_more_than_may_lie_must_say_the_same() {
    // Members, outside witnesses, quorum of the policy, organisations that must have signed.
    let table = [
        (1, 0, 1, 1),
        (1, 1, 2, 1),
        (3, 0, 2, 1),
        (3, 1, 3, 2),
        (3, 0, 3, 3),
        (3, 2, 4, 3),
    ];
    for (members, witnesses, quorum, needed) in table {
        let certifiers = certifiers(members, witnesses, quorum);
        assert_eq!(
            certifiers.needed(),
            needed,
            "{members}+{witnesses}, {quorum}"
        );
        let digests: Vec<_> = (0..members).map(|at| digest(at, said())).collect();
        for count in 0..=members {
            let checked = certifiers.check(&digests[..count]);
            assert_eq!(checked.is_ok(), count >= needed, "{count} of {members}");
        }
        assert_eq!(certifiers.check(&digests).unwrap(), said());
    }
}

#[test]
fn state_names_the_certifiers_that_the_founding_statement_names() {
    let world = World::new();
    let founded = testing::founded(cid("policy"));
    let from_state = Certifiers::of(&world.state()).unwrap().unwrap();
    assert_eq!(from_state, Certifiers::founded(ORIGIN, &founded));
    assert_eq!(Certifiers::of(&World::empty().state()).unwrap(), None);
}

#[test]
fn organisation_counts_once() {
    let twice = [digest(0, said()), digest(0, said())];
    let error = certifiers(3, 1, 3).check(&twice).unwrap_err();
    assert_eq!(error, CertificateError::Twice("hospital-a".to_owned()));
}

#[test]
fn stranger_spoils_a_certificate() {
    let stranger = StateDigest::sign(&testing::key("stranger"), ORIGIN, said());
    let certificate = [digest(0, said()), digest(1, said()), stranger];
    let error = certifiers(3, 1, 3).check(&certificate).unwrap_err();
    assert_eq!(error, CertificateError::Stranger(did("stranger")));
}

#[test]
fn two_states_at_one_index_name_who_signed_them() {
    let others = [
        Digested {
            index: 41,
            ..said()
        },
        Digested { term: 4, ..said() },
        Digested {
            tree_size: 6,
            ..said()
        },
        Digested { size: 99, ..said() },
        Digested {
            digest: Hash::of(b"another state"),
            ..said()
        },
    ];
    for other in others {
        let certificate = [digest(0, said()), digest(1, said()), digest(2, other)];
        let error = certifiers(3, 1, 3).check(&certificate).unwrap_err();
        let (a, c) = ("hospital-a".to_owned(), "hospital-c".to_owned());
        assert_eq!(error, CertificateError::Conflict(a, c, said().index));
    }
}

#[test]
fn state_digest_of_another_log_does_not_count() {
    let other = StateDigest::sign(&node_key(MEMBERS[0]), "other.example/log", said());
    let error = certifiers(1, 0, 1).check(&[other]).unwrap_err();
    assert_eq!(
        error,
        CertificateError::BadSignature("hospital-a".to_owned())
    );
}

#[test]
fn state_digest_with_any_flipped_bit_does_not_count() {
    let certifiers = certifiers(1, 0, 1);
    let bytes = digest(0, said()).to_bytes();
    assert!(
        certifiers
            .check(&[StateDigest::from_bytes(&bytes).unwrap()])
            .is_ok()
    );
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let counts = StateDigest::from_bytes(&flipped)
            .is_ok_and(|digest| certifiers.check(&[digest]).is_ok());
        assert!(!counts, "bit {at}");
    }
}

fn certifiers(members: usize, witnesses: usize, quorum: u8) -> Certifiers {
    let mut founded: Founded = testing::founded(cid("policy"));
    founded.members.truncate(members);
    founded.witnesses = (0..witnesses)
        .map(|at| format!("witness-{at}"))
        .map(|name| verifier_key(&name, 0x04, &did(&name)))
        .collect();
    founded.quorum = quorum;
    Certifiers::founded(ORIGIN, &founded)
}

fn digest(member: usize, said: Digested) -> StateDigest {
    StateDigest::sign(&node_key(MEMBERS[member]), ORIGIN, said)
}

fn said() -> Digested {
    Digested {
        index: 40,
        term: 3,
        tree_size: 5,
        digest: Hash::of(b"the state"),
        size: 100,
    }
}
