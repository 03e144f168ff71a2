//! How long a decision takes on one thread: requests by who needs no consent, by who has it, and one that is denied.
//! `cargo bench -p medanchor-policy`. Nothing is asserted.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a report for the terminal, of a world that is made here"
)]

use medanchor_anchor::{
    Class, CustodyKind, PrincipalKind,
    testing::{MEMBERS, World},
};
use medanchor_policy::{Policies, PolicySets, Verdict, decide};
use std::time::Instant;

fn main() {
    let [hospital, institute, _] = MEMBERS;
    let mut world = World::with_policy(Policies::default_set().unwrap().cid());
    world.enrol("holter", PrincipalKind::Device, hospital, &["device"]);
    world.enrol("clara", PrincipalKind::Person, hospital, &["clinician"]);
    world.enrol("rita", PrincipalKind::Person, institute, &["researcher"]);
    world.custody("patient", hospital, CustodyKind::Person);
    let record = world.anchor("ecg", "holter", "patient", Class::Ecg);
    for number in 0..8 {
        let name = format!("study-{number}");
        world.consent(&name, "patient", institute, "CLINTRCH");
    }
    let sets = PolicySets::default();
    for (what, who, role, purpose) in [
        ("without consent", "clara", "clinician", "TREAT"),
        (
            "with one of eight consents",
            "rita",
            "researcher",
            "CLINTRCH",
        ),
        ("not consented", "rita", "researcher", "HMARKT"),
    ] {
        let request = world.request(who, role, purpose, &[record]);
        let state = world.state();
        let mut took: Vec<f64> = (0..RUNS)
            .map(|_| {
                let began = Instant::now();
                let decision = decide(&state, &sets, &request, &[], world.now).unwrap();
                let took = began.elapsed().as_secs_f64() * 1e6;
                let is_denied = matches!(decision.verdict, Verdict::Deny { .. });
                assert_eq!(is_denied, what == "not consented");
                took
            })
            .collect();
        took.sort_by(f64::total_cmp);
        let (p50, p99) = (took[RUNS / 2], took[RUNS * 99 / 100]);
        println!("{what}: p50 {p50:.1} us, p99 {p99:.1} us");
    }
}

const RUNS: usize = 20_000;
