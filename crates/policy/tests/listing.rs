//! Which records somebody is told of who names none.
#![expect(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use medanchor_anchor::{
    Anchored, Body, Class, CustodyKind, Kind, Period, PrincipalKind,
    testing::{HOUR, MEMBERS, World, break_glass, break_glass_rule, consented, custody, did, key},
};
use medanchor_dag::Cid;
use medanchor_policy::{Listing, Policies, PolicySets, Verdict, decide};

const HOSPITAL: &str = MEMBERS[0];
const INSTITUTE: &str = MEMBERS[1];

struct Clinic {
    world: World,
    policies: PolicySets,
    /// Of patient 1 an ECG and telemetry, of patient 2 an ECG, an open ECG, and firmware for the hospital.
    records: Vec<(&'static str, Cid)>,
}

fn clinic() -> Clinic {
    let mut world = World::with_policy(Policies::default_set().unwrap().cid());
    let person = PrincipalKind::Person;
    world.enrol("holter", PrincipalKind::Device, HOSPITAL, &["device"]);
    world.enrol("clara", person, HOSPITAL, &["clinician"]);
    world.enrol("otto", person, HOSPITAL, &["engineer", "operator"]);
    world.enrol("patient", person, HOSPITAL, &["patient"]);
    world.enrol("rita", person, INSTITUTE, &["researcher"]);
    let mut own = custody("patient-1", HOSPITAL, CustodyKind::Person);
    own.controller = Some(did("patient"));
    world.accept(Body::Custody(own), &[&key(HOSPITAL)]);
    world.custody("patient-2", HOSPITAL, CustodyKind::Person);
    world.custody("published", HOSPITAL, CustodyKind::Open);
    world.custody("firmware", HOSPITAL, CustodyKind::Dataset);
    let records = [
        ("ecg-1", "patient-1", Class::Ecg),
        ("telemetry-1", "patient-1", Class::Telemetry),
        ("ecg-2", "patient-2", Class::Ecg),
        ("open", "published", Class::Ecg),
        ("firmware", "firmware", Class::Firmware),
    ];
    let anchored = records.map(|(name, custody, class)| {
        let record = world.anchor(name, "holter", custody, class);
        (name, record)
    });
    Clinic {
        world,
        policies: PolicySets::default(),
        records: anchored.to_vec(),
    }
}

impl Clinic {
    fn anchored(&self, record: &Cid) -> Anchored {
        let entry = self.world.state().record(record).unwrap();
        entry.unwrap().anchored
    }

    /// What is listed, by name, and that it is just what would be released.
    fn listed(&mut self, who: &str, role: &str, purpose: &str) -> String {
        let mut names = Vec::new();
        for (name, record) in self.records.clone() {
            let anchored = self.anchored(&record);
            let state = self.world.state();
            let listing = Listing::of(
                state,
                &self.policies,
                &did(who),
                role,
                purpose,
                self.world.now,
            );
            let listed = listing
                .unwrap()
                .is_some_and(|mut listing| listing.has(&anchored).unwrap());
            let request = self.world.request(who, role, purpose, &[record]);
            let state = self.world.state();
            let decided = decide(&state, &self.policies, &request, &[], self.world.now).unwrap();
            let released = matches!(decided.verdict, Verdict::Permit(_));
            assert_eq!(listed, released, "{who} {role} {purpose}: {name}");
            if listed {
                names.push(name);
            }
        }
        names.join(" ")
    }
}

#[test]
fn who_is_told_of_what() {
    let mut clinic = clinic();
    let mut study = consented("study", "patient-1", INSTITUTE, "HRESCH");
    study.provision.classes = vec![Class::Ecg];
    clinic
        .world
        .accept(Body::Consented(study), &[&key(HOSPITAL)]);
    for (who, role, purpose, listed) in [
        ("rita", "researcher", "HRESCH", "ecg-1 open"),
        ("rita", "researcher", "CLINTRCH", "ecg-1 open"),
        ("rita", "researcher", "HMARKT", "open"),
        ("rita", "clinician", "TREAT", ""),
        ("rita", "researcher", "CURIOSITY", ""),
        (
            "clara",
            "clinician",
            "TREAT",
            "ecg-1 telemetry-1 ecg-2 open",
        ),
        ("clara", "clinician", "HRESCH", "open"),
        ("otto", "operator", "HOPERAT", "open"),
        ("otto", "engineer", "HOPERAT", "open firmware"),
        ("patient", "patient", "PATRQT", "ecg-1 telemetry-1 open"),
        ("holter", "device", "TREAT", "open"),
        ("stranger", "researcher", "HRESCH", ""),
    ] {
        assert_eq!(
            clinic.listed(who, role, purpose),
            listed,
            "{who} {role} {purpose}"
        );
    }
}

#[test]
fn key_in_force_is_told_what_the_one_of_before_was_and_that_nothing() {
    let mut clinic = clinic();
    let mut study = consented("study", "patient-1", INSTITUTE, "HRESCH");
    study.provision.devices = vec![did("holter")];
    clinic
        .world
        .accept(Body::Consented(study), &[&key(HOSPITAL)]);
    let asked = [
        ("rita", "researcher", "HRESCH"),
        ("clara", "clinician", "TREAT"),
        ("patient", "patient", "PATRQT"),
    ];
    let before = asked.map(|(who, role, purpose)| clinic.listed(who, role, purpose));
    for who in ["rita", "clara", "patient", "holter"] {
        clinic.world.rotate(who, who, &format!("{who}/2"));
    }
    for ((who, role, purpose), listed) in asked.into_iter().zip(before) {
        assert_eq!(clinic.listed(who, role, purpose), "", "{who}");
        assert_eq!(clinic.listed(&format!("{who}/2"), role, purpose), listed);
    }
    // What the device seals with another key is its own, too.
    let record = clinic
        .world
        .anchor("ecg-3", "holter/2", "patient-1", Class::Ecg);
    clinic.records.push(("ecg-3", record));
    let listed = clinic.listed("rita/2", "researcher", "HRESCH");
    assert!(listed.ends_with("ecg-3"), "{listed}");
}

#[test]
fn what_is_withdrawn_over_or_not_of_its_time_is_not_listed() {
    let mut clinic = clinic();
    clinic
        .world
        .consent("study", "patient-1", INSTITUTE, "HRESCH");
    let all = "ecg-1 telemetry-1 open";
    assert_eq!(clinic.listed("rita", "researcher", "HRESCH"), all);
    clinic.world.withdraw("study", "patient-1");
    assert_eq!(clinic.listed("rita", "researcher", "HRESCH"), "open");

    let now = clinic.world.now;
    for (captured, valid) in [
        (
            Period {
                from: Some(u64::MAX),
                until: None,
            },
            Period::default(),
        ),
        (
            Period::default(),
            Period {
                from: None,
                until: Some(now - 1),
            },
        ),
        (
            Period::default(),
            Period {
                from: Some(now + 1_000_000_000),
                until: None,
            },
        ),
    ] {
        let mut study = consented("later", "patient-1", INSTITUTE, "HRESCH");
        (study.provision.captured, study.provision.valid) = (captured, valid);
        clinic.world.say(Body::Consented(study), &[&key(HOSPITAL)]);
        assert_eq!(clinic.listed("rita", "researcher", "HRESCH"), "open");
    }
}

#[test]
fn patient_is_listed_to_whoever_overrode_consent_and_answers_for_it() {
    let mut clinic = clinic();
    let world = &mut clinic.world;
    world.enrol("rosa", PrincipalKind::Person, INSTITUTE, &["officer"]);
    world.enrol("cleo", PrincipalKind::Person, INSTITUTE, &["clinician"]);
    let rule = break_glass_rule(INSTITUTE, "rosa");
    world.accept(Body::BreakGlassRule(rule), &[&key(INSTITUTE)]);
    assert_eq!(clinic.listed("cleo", "clinician", "BTG"), "");
    let body = Body::BreakGlass(break_glass("cleo", "patient-1"));
    clinic.world.accept(body, &[&key("cleo")]);
    let own = "ecg-1 telemetry-1";
    assert_eq!(clinic.listed("cleo", "clinician", "BTG"), own);
    assert_eq!(clinic.listed("cleo", "clinician", "TREAT"), "open");
    clinic.world.now += HOUR + 1;
    assert_eq!(clinic.listed("cleo", "clinician", "BTG"), "");
    clinic.world.now += HOUR;
    assert_eq!(clinic.listed("cleo", "clinician", "TREAT"), "");
}

#[test]
fn whoever_may_not_act_is_told_of_nothing() {
    let mut clinic = clinic();
    assert_eq!(clinic.listed("rita", "researcher", "HRESCH"), "open");
    clinic.world.stand(Kind::Suspended, "rita", INSTITUTE);
    assert_eq!(clinic.listed("rita", "researcher", "HRESCH"), "");
    // Nor by policies that this version cannot read.
    assert_ne!(clinic.listed("clara", "clinician", "TREAT"), "");
    clinic.world.set_policy(b"no policy set");
    assert_eq!(clinic.listed("clara", "clinician", "TREAT"), "");
}
