//! Receipts of a whole small network, for us and for verifiers that we did not write.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    Body, Checkpoint, Class, CustodyKind, InclusionProof, Opening, PrincipalKind, Receipt,
    SignatureKind, SignedNote, Strength, TrustPolicy, VerifierKey, cosign,
    testing::{MEMBERS, ORIGIN, World, did, key},
};
use medanchor_dag::Hash;
use std::{env, fs, path::Path};

/// `MEDANCHOR_RECEIPTS`, where it is set, names a folder that gets the policy and each leaf's receipt, to
/// be checked with `testnet/foreign/verify_log.py` and `verify_note.go`.
#[test]
fn receipt_of_every_leaf_verifies() {
    let world = world();
    let policy = TrustPolicy::founded(&founded(&world)).unwrap();
    let checkpoint = checkpoint(&world);
    let size = world.state().tree_size().unwrap();
    for index in 0..size {
        let receipt = world.receipt(index, checkpoint.clone());
        let verified = receipt.verify(&policy, Strength::Published).unwrap();
        assert_eq!(verified.checkpoint.checkpoint.size, size);
        let text = receipt.to_string();
        assert_eq!(text.parse::<Receipt>().unwrap(), receipt);
        export(&format!("receipt-{index}.tlog-proof"), &text);
    }
    export("policy", &policy.to_string());
}

#[test]
fn founding_statement_gives_the_policy() {
    let world = world();
    let policy = TrustPolicy::founded(&founded(&world)).unwrap();
    assert_eq!(policy.logs().count(), MEMBERS.len());
    assert!(policy.logs().all(|key| key.name() == ORIGIN));
    let cosigners: Vec<_> = policy.witnesses().map(|key| key.name()).collect();
    assert_eq!(cosigners, MEMBERS.map(|name| format!("{ORIGIN}/{name}")));
}

#[test]
fn receipt_carries_the_fewest_signatures_in_the_order_of_the_policy() {
    let (world, policy) = (world(), policy());
    let size = world.state().tree_size().unwrap();
    let signers = |cosigners: &[&str], strength| {
        let note = cosigned(&world, size, cosigners);
        let checked = policy.check(&note, strength).unwrap();
        let trimmed = policy.trim(&note, &checked, strength);
        policy.check(&trimmed, strength).unwrap();
        assert_eq!(trimmed.text(), note.text());
        let names = trimmed.signatures().iter().map(|s| s.name().to_owned());
        names.collect::<Vec<_>>()
    };
    let named = |names: &[&str]| {
        let cosigners = names.iter().map(|name| cosigner_name(name));
        let names = [ORIGIN.to_owned()].into_iter().chain(cosigners);
        names.collect::<Vec<_>>()
    };
    for all in [
        [WITNESS, "hospital-c", "hospital-a", "hospital-b"],
        ["hospital-a", "hospital-b", "hospital-c", WITNESS],
    ] {
        assert_eq!(
            signers(&all, Strength::Published),
            named(&["hospital-b", "hospital-c", WITNESS])
        );
        assert_eq!(
            signers(&all, Strength::Witnessed),
            named(&["hospital-b", "hospital-c"])
        );
    }
    let members = ["hospital-c", "hospital-a", "hospital-b"];
    assert_eq!(signers(&members, Strength::Published), named(&MEMBERS));
    let two = ["hospital-b", "hospital-a"];
    assert_eq!(
        signers(&two, Strength::Witnessed),
        named(&["hospital-a", "hospital-b"])
    );
}

/// Also in a receipt with a co-signature more than it needs, and by whoever needs less than it has.
#[test]
fn every_flipped_bit_of_a_receipt_is_refused() {
    let policy = policy();
    let mut redacted = anchored_receipt(Some(Strength::Published));
    redacted.opening = None;
    for (receipt, strength) in [
        (
            anchored_receipt(Some(Strength::Published)),
            Strength::Published,
        ),
        (
            anchored_receipt(Some(Strength::Published)),
            Strength::Witnessed,
        ),
        (
            anchored_receipt(Some(Strength::Witnessed)),
            Strength::Witnessed,
        ),
        (anchored_receipt(None), Strength::Published),
        (anchored_receipt(None), Strength::Witnessed),
        (redacted, Strength::Published),
    ] {
        receipt.verify(&policy, strength).unwrap();
        let text = receipt.to_string().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut changed = text.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let accepted = is_accepted(&changed, &policy, strength);
            assert!(!accepted, "bit {bit} of {strength:?}");
        }
    }
}

/// Without whole co-signatures at its end a published receipt is a witnessed one, and nothing more.
#[test]
fn truncated_receipt_is_refused() {
    let policy = policy();
    for (strength, asked) in [
        (Strength::Published, Strength::Published),
        (Strength::Witnessed, Strength::Witnessed),
        (Strength::Witnessed, Strength::Published),
    ] {
        let text = anchored_receipt(Some(strength)).to_string().into_bytes();
        for length in 0..text.len() {
            assert!(
                !is_accepted(&text[..length], &policy, asked),
                "{length} bytes"
            );
        }
    }
    let text = anchored_receipt(Some(Strength::Published)).to_string();
    let accepted = |length: &usize| {
        let bytes = &text.as_bytes()[..*length];
        is_accepted(bytes, &policy, Strength::Witnessed)
    };
    let lengths: Vec<_> = (0..text.len()).filter(accepted).collect();
    let last_line = text.trim_end().rfind('\n').unwrap() + 1;
    assert_eq!(lengths, [last_line]);
}

/// `docs/performance.md` has these numbers.
#[test]
fn receipt_in_a_log_of_ten_million_leaves_weighs_what_is_documented() {
    let policy = policy();
    let (index, size) = (5_000_000, 10_000_000);
    let proof = InclusionProof((0_u8..24).map(|level| Hash::of(&[level])).collect());
    let small = anchored_receipt(None);
    let root = root_above(&small.leaf.to_bytes(), index, &proof);
    let origin = ORIGIN.to_owned();
    let note = signed(&Checkpoint { origin, size, root }, &ALL);
    let weigh = |strength, opening| {
        let checked = policy.check(&note, strength).unwrap();
        let receipt = Receipt {
            leaf: small.leaf.clone(),
            opening,
            index,
            proof: proof.clone(),
            checkpoint: policy.trim(&note, &checked, strength),
        };
        receipt.verify(&policy, strength).unwrap();
        receipt.to_string().len()
    };
    let of = |opening: &Option<Opening>| {
        [Strength::Published, Strength::Witnessed].map(|strength| weigh(strength, opening.clone()))
    };
    assert_eq!(of(&small.opening), [2712, 2593]);
    assert_eq!(of(&None), [1924, 1805]);
}

/// The root of a tree in which the leaf's path turns left and right as the bits of `index` say.
fn root_above(leaf: &[u8], index: u64, proof: &InclusionProof) -> Hash {
    let leaf = Hash::of(&[&[0], leaf].concat());
    (0..).zip(&proof.0).fold(leaf, |below, (level, sibling)| {
        let (left, right) = match index >> level & 1 {
            0 => (&below, sibling),
            _ => (sibling, &below),
        };
        let node = [&[1], left.as_bytes().as_slice(), right.as_bytes()].concat();
        Hash::of(&node)
    })
}

const WITNESS: &str = "regulator";
const ALL: [&str; 4] = ["hospital-a", "hospital-b", "hospital-c", WITNESS];

/// Three members with a log key each, and an outside witness: three of four, so that one may lie.
fn policy() -> TrustPolicy {
    let kind = SignatureKind::Ed25519;
    let log = |name: &&str| VerifierKey::new(ORIGIN, kind, did(&format!("{name}/log"))).unwrap();
    let logs: Vec<_> = MEMBERS.iter().map(log).collect();
    let cosigner = |name: &&str| {
        let key = did(&format!("{name}/cosigner"));
        VerifierKey::new(&cosigner_name(name), SignatureKind::Cosignature, key).unwrap()
    };
    let cosigners: Vec<_> = ALL.iter().map(cosigner).collect();
    let policy = TrustPolicy::new(&logs, &cosigners, 3).unwrap();
    assert_eq!(policy.tolerated_faults(), 1);
    policy
}

/// Only members have names under the origin.
fn cosigner_name(name: &str) -> String {
    match name {
        WITNESS => name.to_owned(),
        member => format!("{ORIGIN}/{member}"),
    }
}

fn cosigned(world: &World, size: u64, cosigners: &[&str]) -> SignedNote {
    let root = world.state().root_at(size).unwrap();
    let origin = ORIGIN.to_owned();
    signed(&Checkpoint { origin, size, root }, cosigners)
}

fn signed(checkpoint: &Checkpoint, cosigners: &[&str]) -> SignedNote {
    let mut note = checkpoint.sign(&key("hospital-b/log")).unwrap();
    for (name, seconds) in cosigners.iter().zip(1_800_000_000..) {
        let cosigner = key(&format!("{name}/cosigner"));
        let signature = cosign(&note, &cosigner_name(name), &cosigner, seconds).unwrap();
        note.add(signature).unwrap();
    }
    note
}

/// Of a record that continues a stream, with the signatures that this strength needs, or with all.
fn anchored_receipt(strength: Option<Strength>) -> Receipt {
    let (world, policy) = (world(), policy());
    let size = world.state().tree_size().unwrap();
    let note = cosigned(&world, size, &ALL);
    let trim = |strength| {
        let checked = policy.check(&note, strength).unwrap();
        policy.trim(&note, &checked, strength)
    };
    world.receipt(size - 2, strength.map_or_else(|| note.clone(), trim))
}

fn is_accepted(text: &[u8], policy: &TrustPolicy, strength: Strength) -> bool {
    let receipt = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<Receipt>().ok());
    receipt.is_some_and(|receipt| receipt.verify(policy, strength).is_ok())
}

fn world() -> World {
    let mut world = World::new();
    world.enrol("monitor", PrincipalKind::Device, "hospital-a", &["device"]);
    world.custody("patient", "hospital-a", CustodyKind::Person);
    for record in 0..12 {
        world.anchor(
            &format!("record-{record}"),
            "monitor",
            "patient",
            Class::Ecg,
        );
    }
    world
}

fn founded(world: &World) -> medanchor_anchor::Founded {
    let opening = world.state().opening(0).unwrap().unwrap();
    match opening.0.signed.statement.body {
        Body::Founded(founded) => Some(founded),
        _ => None,
    }
    .expect("leaf 0 is the founding")
}

fn checkpoint(world: &World) -> SignedNote {
    let size = world.state().tree_size().unwrap();
    world.checkpoint(size, "hospital-b", &MEMBERS)
}

fn export(name: &str, text: &str) {
    if let Some(folder) = env::var_os("MEDANCHOR_RECEIPTS") {
        fs::write(Path::new(&folder).join(name), text).unwrap();
    }
}
