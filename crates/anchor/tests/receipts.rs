//! Receipts of a whole small network, for us and for verifiers that we did not write.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what goes wrong here is a failed test"
)]

use medanchor_anchor::{
    Body, Class, CustodyKind, PrincipalKind, Receipt, SignedNote, Strength, TrustPolicy,
    testing::{MEMBERS, ORIGIN, World},
};
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
