//! Who may have which keys, and what those hear who may not.
#![expect(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use medanchor_anchor::{
    AccessRequest, Actor, Body, BreakGlassReviewed, BreakGlassRule, Class, Consented, Custody,
    CustodyKind, Effect, FactorEnrolled, FactorMethod, FactorRemoved, FactorVerified, Finding,
    Kind, LeafIndex, Log, Nonce, Period, PrincipalKind, Provision, SignedStatement, Statement,
    testing::{
        BEGINNING, HOUR, MEMBERS, ORIGIN, World, attested, break_glass, break_glass_rule, cid,
        consented, custody, custody_id, did, enrolled, everything, key, node_key, roles_changed,
        standing,
    },
};
use medanchor_dag::{Cid, CustodyId, Signature, SigningKey};
use medanchor_policy::{Code, Decision, Policies, PolicySets, Verdict, decide, purpose};
use proptest::{prelude::*, sample::select};

const HOSPITAL: &str = MEMBERS[0];
const INSTITUTE: &str = MEMBERS[1];

struct Clinic {
    world: World,
    sets: PolicySets,
    ecg: Cid,
}

/// A hospital with a patient's ECG and a receiver of firmware, and a partner institute without consent.
fn clinic() -> Clinic {
    let mut world = World::with_policy(Policies::default_set().unwrap().cid());
    let person = PrincipalKind::Person;
    world.enrol("holter", PrincipalKind::Device, HOSPITAL, &["device"]);
    world.enrol("pump", PrincipalKind::Device, HOSPITAL, &["device"]);
    world.enrol("clara", person, HOSPITAL, &["clinician"]);
    world.enrol(
        "otto",
        person,
        HOSPITAL,
        &["custodian", "engineer", "operator"],
    );
    world.enrol("resi", person, HOSPITAL, &["researcher"]);
    world.enrol("patient", person, HOSPITAL, &["patient"]);
    world.enrol("rita", person, INSTITUTE, &["clinician", "researcher"]);
    world.enrol("vendor", PrincipalKind::Organisation, "vendor", &["vendor"]);
    world.enrol("vera", person, "vendor", &["vendor"]);
    let mut own = custody("patient-1", HOSPITAL, CustodyKind::Person);
    own.controller = Some(did("patient"));
    world.accept(Body::Custody(own), &[&key(HOSPITAL)]);
    let ecg = world.anchor("ecg-1", "holter", "patient-1", Class::Ecg);
    Clinic {
        world,
        sets: PolicySets::default(),
        ecg,
    }
}

impl Clinic {
    fn decide(&self, request: &SignedStatement) -> Decision {
        decide(
            &self.world.state(),
            &self.sets,
            request,
            &[],
            self.world.now,
        )
        .unwrap()
    }

    fn ask(&mut self, who: &str, role: &str, purpose: &str, records: &[Cid]) -> Verdict {
        let request = self.world.request(who, role, purpose, records);
        self.decide(&request).verdict
    }

    /// Asks for the ECG.
    fn ask_ecg(&mut self, who: &str, role: &str, purpose: &str) -> Verdict {
        self.ask(who, role, purpose, &[self.ecg])
    }

    fn set_policies(&mut self, policies: &str) {
        let schema = include_str!("../src/default.cedarschema");
        let policies = Policies::parse(policies, schema).unwrap();
        self.world.set_policy(policies.block().bytes());
    }

    fn consent(&mut self, consent: Consented) {
        self.world
            .accept(Body::Consented(consent), &[&key(HOSPITAL)]);
    }
}

/// The code, or the permitting policies.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Permit(permit) => permit.policies().join(" "),
        Verdict::Deny { code, reason } => {
            assert!(!reason.is_empty() && !reason.ends_with('.'), "{reason}");
            assert!(Code::ALL.contains(code));
            code.to_string()
        }
    }
}

#[test]
fn request_is_permitted_by_the_key_in_force_alone() {
    let mut clinic = clinic();
    clinic.consent(study());
    let asked = [
        ("clara", "clinician", "TREAT"),
        ("rita", "researcher", "HRESCH"),
        ("patient", "patient", "PATRQT"),
    ];
    let permits: Vec<String> = asked
        .iter()
        .map(|(who, role, purpose)| short(&clinic.ask_ecg(who, role, purpose)))
        .collect();
    for (permit, (who, ..)) in permits.iter().zip(asked) {
        assert!(
            !Code::ALL.iter().any(|code| code.as_str() == permit),
            "{who}: {permit}"
        );
    }
    for (who, ..) in asked {
        for (from, to) in [("", "/2"), ("/2", "/3")] {
            clinic
                .world
                .rotate(who, &format!("{who}{from}"), &format!("{who}{to}"));
        }
    }
    for ((who, role, purpose), permit) in asked.iter().zip(&permits) {
        for old in ["", "/2"] {
            let refused = clinic.ask_ecg(&format!("{who}{old}"), role, purpose);
            assert_eq!(short(&refused), "not-enrolled", "{who}{old}");
        }
        // What names them, as a consent or a controller, goes on to mean them.
        let permitted = clinic.ask_ecg(&format!("{who}/3"), role, purpose);
        assert_eq!(&short(&permitted), permit, "{who}");
    }
}

#[test]
fn refusal_of_a_rotated_key_is_the_one_of_a_stranger() {
    let mut clinic = clinic();
    clinic.world.rotate("clara", "clara", "clara/2");
    let [rotated, stranger] = ["clara", "stranger"].map(|who| {
        let request = clinic
            .world
            .request(who, "clinician", "TREAT", &[clinic.ecg]);
        clinic.decide(&request)
    });
    assert_eq!(rotated, stranger);
    assert!(rotated.basis.tells_of_no_record());
    assert_eq!(rotated.basis.requester, 0);
}

#[test]
fn consent_for_a_device_covers_what_it_seals_with_any_of_its_keys() {
    let mut clinic = clinic();
    let mut of_holter = study();
    of_holter.provision.devices = vec![did("holter")];
    clinic.consent(of_holter);
    clinic.world.rotate("holter", "holter", "holter/2");
    let later = clinic
        .world
        .anchor("ecg-2", "holter/2", "patient-1", Class::Ecg);
    let other = clinic
        .world
        .anchor("pressure", "pump", "patient-1", Class::Ecg);
    let ecg = clinic.ecg;
    let mut ask = |record| short(&clinic.ask("rita", "researcher", "HRESCH", &[record]));
    assert_eq!(ask(later), ask(ecg));
    assert_ne!(ask(ecg), "device-not-covered");
    assert_eq!(ask(other), "device-not-covered");
}

#[test]
fn second_factor_stays_ones_own_over_a_rotation() {
    let mut clinic = clinic();
    let factor = Nonce::new([7; 16]);
    let node = node_key(HOSPITAL);
    let enrolled = FactorEnrolled {
        who: did("clara"),
        factor,
        method: FactorMethod::Totp,
        node: node.did(),
    };
    let since = clinic
        .world
        .accept(Body::FactorEnrolled(enrolled), &[&key(HOSPITAL), &node])
        .index;
    clinic.set_policies(
        "@id(\"with-factor\") permit (principal, action, resource) when { context.secondFactor };",
    );
    clinic.world.rotate("clara", "clara", "clara/2");
    let shown = |who| {
        let verified = FactorVerified { who, factor, since };
        let body = Body::FactorVerified(verified);
        let until = BEGINNING + FactorVerified::VALIDITY_MS;
        Statement::new(ORIGIN, body, [1; 16], until).sign(&[&node])
    };
    for (who, signs, expected) in [
        (did("clara"), "clara/2", "with-factor"),
        (did("clara/2"), "clara/2", "second-factor-required"),
        (did("clara"), "clara", "not-enrolled"),
    ] {
        let request = clinic
            .world
            .request(signs, "clinician", "TREAT", &[clinic.ecg]);
        let Body::AccessRequest(mut body) = request.statement.body else {
            unreachable!("it is one");
        };
        body.second_factor = Some(Box::new(shown(who)));
        let statement = clinic.world.statement(Body::AccessRequest(body));
        let decision = clinic.decide(&statement.sign(&[&key(signs)]));
        assert_eq!(short(&decision.verdict), expected, "{signs}");
    }
}

#[test]
fn role_that_was_taken_is_held_no_longer() {
    let mut clinic = clinic();
    let changed = roles_changed("clara", &["engineer"]);
    clinic.world.accept(changed, &[&key(HOSPITAL)]);
    let refused = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&refused), "role-not-held");
}

fn study() -> Consented {
    consented("study", "patient-1", INSTITUTE, "HRESCH")
}

#[test]
fn default_set_decides_as_the_table_says() {
    let cases = [
        ("clara", "clinician", "TREAT", "clinician-treats"),
        ("clara", "clinician", "BTG", "emergency-required"),
        ("clara", "clinician", "ETREAT", "clinician-treats"),
        ("clara", "clinician", "CLINTRL", "clinician-treats"),
        ("clara", "clinician", "HRESCH", "role-not-permitted"),
        ("clara", "researcher", "HRESCH", "role-not-held"),
        ("clara", "clinician", "CURIOSITY", "purpose-unknown"),
        ("otto", "custodian", "TREAT", "role-not-permitted"),
        ("otto", "operator", "HOPERAT", "role-not-permitted"),
        ("patient", "patient", "PATRQT", "patient-sees-own-data"),
        ("patient", "patient", "TREAT", "role-not-permitted"),
        ("rita", "researcher", "HRESCH", "not-permitted"),
        ("rita", "clinician", "TREAT", "not-permitted"),
        ("vera", "vendor", "HOPERAT", "not-permitted"),
        ("stranger", "clinician", "TREAT", "not-enrolled"),
    ];
    let mut clinic = clinic();
    for (who, role, purpose, expected) in cases {
        let verdict = clinic.ask_ecg(who, role, purpose);
        assert_eq!(short(&verdict), expected, "{who} {role} {purpose}");
    }
}

#[test]
fn researcher_gets_what_is_consented_and_hears_what_is_missing() {
    let mut clinic = clinic();
    clinic.consent(study());
    let cases = [
        ("HRESCH", "researcher-with-consent"),
        ("CLINTRCH", "researcher-with-consent"),
        ("CLINTRL", "purpose-not-covered"),
        ("HMARKT", "purpose-not-covered"),
    ];
    for (purpose, expected) in cases {
        let verdict = clinic.ask_ecg("rita", "researcher", purpose);
        assert_eq!(short(&verdict), expected, "{purpose}");
    }
    let as_clinician = clinic.ask_ecg("rita", "clinician", "HRESCH");
    assert_eq!(short(&as_clinician), "role-not-permitted");
}

#[test]
fn each_limit_of_a_consent_is_kept_and_named() {
    type Limit = fn(&mut Consented);
    let limits: [(&str, Limit); 12] = [
        ("class-not-covered", |given| {
            given.provision.classes = vec![Class::Imaging];
        }),
        ("researcher-with-consent", |given| {
            given.provision.classes = vec![Class::Imaging, Class::Ecg];
        }),
        ("capture-not-covered", |given| {
            given.provision.captured.until = Some(BEGINNING - 1);
        }),
        ("expired-consent", |given| {
            given.provision.valid.until = Some(BEGINNING - 1);
        }),
        ("consent-not-yet-valid", |given| {
            given.provision.valid.from = Some(BEGINNING + 1);
        }),
        ("purpose-not-covered", |given| {
            given.provision.purposes = vec!["CLINTRCH".into()];
        }),
        ("device-not-covered", |given| {
            given.provision.devices = vec![did("pump")];
        }),
        ("researcher-with-consent", |given| {
            given.provision.devices = vec![did("pump"), did("holter")];
        }),
        ("not-permitted", |given| {
            given.provision.actors = vec![Actor::party(did("vendor"))];
        }),
        ("not-permitted", |given| {
            given.provision.actors[0].role = Some("clinician".into());
        }),
        ("researcher-with-consent", |given| {
            given.provision.actors[0].role = Some("researcher".into());
        }),
        // Whoever acts in the role.
        ("researcher-with-consent", |given| {
            given.provision.actors = vec![in_role("researcher")];
        }),
    ];
    for (expected, limit) in limits {
        let mut clinic = clinic();
        let mut given = study();
        limit(&mut given);
        clinic.consent(given);
        let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
        assert_eq!(short(&verdict), expected);
    }
}

/// `captured` is when the data was made, `valid` is when it may be used: neither stands in for the other.
#[test]
fn period_of_capture_and_period_of_use_are_not_confused() {
    let mut clinic = clinic();
    let mut given = study();
    given.provision.captured = Period {
        from: Some(BEGINNING),
        until: Some(BEGINNING),
    };
    given.provision.valid = Period {
        from: Some(BEGINNING + HOUR),
        until: Some(BEGINNING + 2 * HOUR),
    };
    clinic.consent(given);
    let mut at = |later| {
        clinic.world.now = BEGINNING + later;
        short(&clinic.ask_ecg("rita", "researcher", "HRESCH"))
    };
    assert_eq!(at(0), "consent-not-yet-valid");
    assert_eq!(at(HOUR), "researcher-with-consent");
    assert_eq!(at(2 * HOUR), "researcher-with-consent");
    assert_eq!(at(2 * HOUR + 1), "expired-consent");
}

/// Until when the release holds; the request itself ends later than any consent here.
fn until(verdict: &Verdict) -> u64 {
    match verdict {
        Verdict::Permit(permit) => permit.until(),
        Verdict::Deny { .. } => 0,
    }
}

#[test]
fn release_ends_with_the_consent_that_it_rests_on() {
    let mut clinic = clinic();
    let given = |name: &str, until: Option<u64>| {
        let mut given = consented(name, "patient-1", INSTITUTE, "HRESCH");
        given.provision.valid.until = until;
        given
    };
    let ends = [3, 7, 5].map(|minutes| BEGINNING + minutes * 60_000);
    clinic.consent(given("first", Some(ends[0])));
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(until(&verdict), ends[0]);
    // Of several that cover it, the one that lasts longest.
    clinic.consent(given("second", Some(ends[1])));
    clinic.consent(given("third", Some(ends[2])));
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(until(&verdict), ends[1]);
    // One that was withdrawn counts no more.
    clinic.world.withdraw("second", "patient-1");
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(until(&verdict), ends[2]);
    // One without an end leaves the request's own.
    clinic.consent(given("endless", None));
    let request = clinic
        .world
        .request("rita", "researcher", "HRESCH", &[clinic.ecg]);
    let expiry = request.statement.not_after_unix_ms.unwrap();
    assert!(expiry > ends[1]);
    assert_eq!(until(&clinic.decide(&request).verdict), expiry);
}

#[test]
fn release_that_needs_no_consent_does_not_end_with_one() {
    let mut clinic = clinic();
    let mut given = consented("to-clara", "patient-1", "clara", "TREAT");
    given.provision.valid.until = Some(BEGINNING + 1);
    clinic.consent(given);
    let request = clinic
        .world
        .request("clara", "clinician", "TREAT", &[clinic.ecg]);
    let expiry = request.statement.not_after_unix_ms.unwrap();
    assert_eq!(until(&clinic.decide(&request).verdict), expiry);
}

fn in_role(role: &str) -> Actor {
    Actor {
        party: None,
        role: Some(role.to_owned()),
    }
}

/// What the patient does not want: imaging by whoever it is, or everything but research by the institute.
fn dissent(except: Vec<Provision>) -> Consented {
    let mut dissent = consented("dissent", "patient-1", INSTITUTE, "HRESCH");
    dissent.effect = Effect::Deny;
    dissent.except = except;
    dissent.provision = Provision::default();
    dissent
}

#[test]
fn what_is_denied_stays_closed_but_to_the_person_and_in_an_emergency() {
    let mut clinic = armed();
    clinic.consent(study());
    clinic.consent(dissent(Vec::new()));
    for (who, role, purpose, expected) in [
        ("rita", "researcher", "HRESCH", "consent-denied"),
        // Neither is what the policies permit without consent.
        ("clara", "clinician", "TREAT", "consent-denied"),
        // Who would not be permitted anyhow does not hear of it.
        ("otto", "operator", "HOPERAT", "role-not-permitted"),
        ("patient", "patient", "PATRQT", "patient-sees-own-data"),
        ("vera", "vendor", "HOPERAT", "not-permitted"),
        ("rita", "clinician", "BTG", "emergency-required"),
    ] {
        let verdict = clinic.ask_ecg(who, role, purpose);
        assert_eq!(short(&verdict), expected, "{who}");
    }
    begin(&mut clinic);
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "clinician-breaks-the-glass");
    clinic.world.withdraw("dissent", "patient-1");
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "researcher-with-consent");
}

#[test]
fn exception_of_a_denial_permits_and_that_of_a_permission_denies() {
    let mut clinic = clinic();
    clinic.consent(dissent(vec![study().provision]));
    let verdict = clinic.ask_ecg("rita", "researcher", "CLINTRCH");
    assert_eq!(short(&verdict), "researcher-with-consent");
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "consent-denied");

    let mut clinic = self::clinic();
    let mut all_but_ecg = study();
    all_but_ecg.except = vec![Provision {
        classes: vec![Class::Ecg],
        ..Provision::default()
    }];
    clinic.consent(all_but_ecg);
    // Whatever another consent permits.
    clinic.consent(consented("other", "patient-1", "rita", "HRESCH"));
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "consent-denied");
    let log = clinic
        .world
        .anchor("log-1", "holter", "patient-1", Class::Log);
    let verdict = clinic.ask("rita", "researcher", "HRESCH", &[log]);
    assert_eq!(short(&verdict), "researcher-with-consent");
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "clinician-treats");
}

#[test]
fn silent_consent_says_only_what_its_exceptions_say() {
    let mut clinic = clinic();
    let mut default = dissent(vec![study().provision]);
    default.effect = Effect::Silent;
    clinic.consent(default);
    for (who, role, purpose, expected) in [
        ("rita", "researcher", "HRESCH", "researcher-with-consent"),
        ("rita", "researcher", "HMARKT", "purpose-not-covered"),
        ("clara", "clinician", "TREAT", "clinician-treats"),
        ("vera", "vendor", "HRESCH", "not-permitted"),
    ] {
        let verdict = clinic.ask_ecg(who, role, purpose);
        assert_eq!(short(&verdict), expected, "{who} {purpose}");
    }
}

/// Who is only denied something does not hear of it, also who may know of the record for another reason.
#[test]
fn denial_names_nobody() {
    let mut clinic = clinic();
    let mut denial = study();
    denial.effect = Effect::Deny;
    denial.provision = Provision::default();
    clinic.consent(denial);
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "not-permitted");
    let verdict = clinic.ask_ecg("resi", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "no-consent");
}

#[test]
fn release_ends_before_a_denial_begins() {
    let mut clinic = clinic();
    let begins = BEGINNING + 5 * 60_000;
    let mut dissent = dissent(Vec::new());
    dissent.provision.valid.from = Some(begins);
    clinic.consent(dissent);
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(until(&verdict), begins - 1);
    clinic.world.now = begins;
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "consent-denied");
}

/// A patient may write down more periods than anybody looks at: the release ends before the first that is not.
#[test]
fn release_ends_before_what_is_not_looked_at() {
    let mut clinic = clinic();
    clinic.consent(study());
    let mut periods = consented("periods", "patient-1", "vendor", "HRESCH");
    for number in 1..=40 {
        periods.consent = medanchor_anchor::testing::consent_id(&number.to_string());
        periods.provision.valid.from = Some(BEGINNING + number);
        clinic.consent(periods.clone());
    }
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(until(&verdict), BEGINNING + 32);
}

#[test]
fn withdrawn_consent_permits_nothing() {
    let mut clinic = clinic();
    clinic.consent(study());
    clinic.world.withdraw("study", "patient-1");
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "consent-withdrawn");
    clinic.consent(consented("again", "patient-1", "rita", "HRESCH"));
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "researcher-with-consent");
}

#[test]
fn vendor_gets_telemetry_with_consent_and_nothing_else() {
    let mut clinic = clinic();
    let telemetry = clinic
        .world
        .anchor("t-1", "holter", "patient-1", Class::Telemetry);
    let refused = clinic.ask("vera", "vendor", "HOPERAT", &[telemetry]);
    assert_eq!(short(&refused), "not-permitted");
    clinic.consent(consented("care", "patient-1", "vendor", "HOPERAT"));
    let permitted = clinic.ask("vera", "vendor", "SYSDEV", &[telemetry]);
    assert_eq!(short(&permitted), "vendor-sees-telemetry-with-consent");
    let ecg = clinic.ask_ecg("vera", "vendor", "HOPERAT");
    assert_eq!(short(&ecg), "role-not-permitted");
    let both = clinic.ask("vera", "vendor", "HOPERAT", &[telemetry, clinic.ecg]);
    assert_eq!(short(&both), "role-not-permitted", "all or nothing");
}

#[test]
fn regulator_inspects_devices_with_consent_and_reads_no_patient() {
    let mut clinic = clinic();
    let telemetry = clinic
        .world
        .anchor("t-1", "holter", "patient-1", Class::Telemetry);
    clinic
        .world
        .enrol("agency", PrincipalKind::Organisation, "agency", &[]);
    clinic
        .world
        .enrol("ada", PrincipalKind::Person, "agency", &["regulator"]);
    let unknown = clinic.ask("ada", "regulator", "HCOMPL", &[telemetry]);
    assert_eq!(short(&unknown), "not-permitted");
    clinic.consent(consented("inspection", "patient-1", "agency", "HOPERAT"));
    let permitted = clinic.ask("ada", "regulator", "HCOMPL", &[telemetry]);
    assert_eq!(short(&permitted), "regulator-inspects-devices-with-consent");
    let ecg = clinic.ask_ecg("ada", "regulator", "HCOMPL");
    assert_eq!(short(&ecg), "role-not-permitted");
}

/// Whatever is consented, an emergency is no ordinary purpose.
#[test]
fn break_glass_is_no_ordinary_purpose() {
    let mut clinic = clinic();
    clinic.consent(consented("all", "patient-1", INSTITUTE, "TREAT"));
    clinic.consent(consented("glass", "patient-1", INSTITUTE, "BTG"));
    for (who, role) in [("clara", "clinician"), ("rita", "researcher")] {
        let verdict = clinic.ask_ecg(who, role, "BTG");
        assert_eq!(short(&verdict), "emergency-required", "{who}");
    }
}

const HALF_AN_HOUR: u64 = HOUR / 2;

/// The institute's clinicians may override consent for half an hour, and somebody reviews it within an hour.
fn armed() -> Clinic {
    let mut clinic = clinic();
    let world = &mut clinic.world;
    world.enrol("rosa", PrincipalKind::Person, INSTITUTE, &["officer"]);
    world.custody("patient-2", HOSPITAL, CustodyKind::Person);
    world.anchor("ecg-2", "holter", "patient-2", Class::Ecg);
    let rule = BreakGlassRule {
        lasts_ms: HALF_AN_HOUR,
        review_within_ms: HOUR,
        ..break_glass_rule(INSTITUTE, "rosa")
    };
    world.accept(Body::BreakGlassRule(rule), &[&key(INSTITUTE)]);
    clinic
}

fn begin(clinic: &mut Clinic) -> LeafIndex {
    let body = Body::BreakGlass(break_glass("rita", "patient-1"));
    clinic.world.accept(body, &[&key("rita")]).index
}

#[test]
fn emergency_overrides_consent_for_one_patient_role_and_purpose() {
    let mut clinic = armed();
    let other = cid("ecg-2");
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(
        short(&verdict),
        "not-permitted",
        "nothing is learnt without one"
    );
    begin(&mut clinic);
    let permitted = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&permitted), "clinician-breaks-the-glass");
    assert_eq!(until(&permitted), clinic.world.now + HALF_AN_HOUR);
    for (role, purpose, record, code) in [
        ("clinician", "TREAT", clinic.ecg, "not-permitted"),
        ("clinician", "ETREAT", clinic.ecg, "not-permitted"),
        ("researcher", "BTG", clinic.ecg, "not-permitted"),
        ("clinician", "BTG", other, "not-permitted"),
    ] {
        let verdict = clinic.ask("rita", role, purpose, &[record]);
        assert_eq!(short(&verdict), code, "{role} {purpose}");
    }
    let verdict = clinic.ask_ecg("clara", "clinician", "BTG");
    assert_eq!(short(&verdict), "emergency-required");
}

#[test]
fn emergency_is_over_after_its_time_and_when_it_is_reviewed() {
    let mut clinic = armed();
    let since = begin(&mut clinic);
    clinic.world.now += HALF_AN_HOUR;
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "clinician-breaks-the-glass");
    clinic.world.now += 1;
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "not-permitted");

    let again = begin(&mut clinic);
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "clinician-breaks-the-glass");
    for emergency in [since, again] {
        let reviewed = Body::BreakGlassReviewed(BreakGlassReviewed {
            who: did("rita"),
            custody: custody_id("patient-1"),
            emergency,
            finding: Finding::Justified,
        });
        clinic.world.accept(reviewed, &[&key("rosa")]);
    }
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "not-permitted");
}

/// Each that suffices by itself, each that is needed, and neither.
#[test]
fn release_ends_with_what_it_rests_on_of_consent_and_emergency() {
    let both = "context.consented && context.emergency";
    for (rule, minutes) in [
        ("context.consented || context.emergency", Some(40)),
        (both, Some(30)),
        ("context.consented", Some(40)),
        ("context.emergency", Some(30)),
        ("true", None),
    ] {
        let mut clinic = armed();
        let mut care = consented("care", "patient-1", INSTITUTE, "TREAT");
        care.provision.valid.until = Some(clinic.world.now + 40 * 60_000);
        clinic.consent(care);
        begin(&mut clinic);
        let policy =
            format!("@id(\"all\") permit (principal, action, resource) when {{ {rule} }};");
        clinic.set_policies(&policy);
        let until = match clinic.ask_ecg("rita", "clinician", "BTG") {
            Verdict::Permit(permit) => permit.until(),
            denied => panic!("{rule}: {denied:?}"),
        };
        let expected = minutes.map_or(HOUR, |minutes| minutes * 60_000);
        assert_eq!(until, clinic.world.now + expected, "{rule}");
    }
}

#[test]
fn emergency_is_of_no_use_when_the_organisation_lets_the_role_no_more() {
    let mut clinic = armed();
    begin(&mut clinic);
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "clinician-breaks-the-glass");
    let rule = BreakGlassRule {
        roles: Vec::new(),
        ..break_glass_rule(INSTITUTE, "rosa")
    };
    clinic
        .world
        .accept(Body::BreakGlassRule(rule), &[&key(INSTITUTE)]);
    let verdict = clinic.ask_ecg("rita", "clinician", "BTG");
    assert_eq!(short(&verdict), "not-permitted");
}

#[test]
fn role_whose_emergency_nobody_reviewed_is_suspended_and_no_grant_outlasts_that() {
    let mut clinic = armed();
    clinic.consent(consented("all", "patient-1", INSTITUTE, "HRESCH"));
    let until = |verdict: Verdict| match verdict {
        Verdict::Permit(permit) => permit.until(),
        Verdict::Deny { code, .. } => panic!("{code}"),
    };
    begin(&mut clinic);
    let due = clinic.world.now + HOUR;
    clinic.world.now = due - 10;
    // The request itself would be good for an hour.
    let open = clinic.world.custody("open", HOSPITAL, CustodyKind::Open);
    let record = clinic.world.anchor("open-1", "holter", "open", Class::Ecg);
    assert_eq!(open, custody_id("open"));
    assert_eq!(
        until(clinic.ask("rita", "clinician", "TREAT", &[record])),
        due
    );
    let research = until(clinic.ask_ecg("rita", "researcher", "HRESCH"));
    assert_eq!(research, clinic.world.now + HOUR);
    clinic.world.now = due;
    assert_eq!(
        until(clinic.ask("rita", "clinician", "TREAT", &[record])),
        due
    );
    clinic.world.now = due + 1;
    let verdict = clinic.ask("rita", "clinician", "TREAT", &[record]);
    assert_eq!(short(&verdict), "review-overdue");
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "researcher-with-consent");
}

#[test]
fn firmware_goes_to_its_receiver_and_open_data_to_everyone_enrolled() {
    let mut clinic = clinic();
    for (name, kind) in [("fw", CustodyKind::Dataset), ("open", CustodyKind::Open)] {
        clinic.world.custody(name, HOSPITAL, kind);
    }
    let firmware = clinic.world.anchor("fw-1", "holter", "fw", Class::Firmware);
    let log = clinic.world.anchor("log-1", "holter", "fw", Class::Log);
    let open = clinic
        .world
        .anchor("open-1", "holter", "open", Class::Firmware);
    let mut ask = |who, role, record| short(&clinic.ask(who, role, "HSYSADMIN", &[record]));
    assert_eq!(ask("otto", "engineer", firmware), "receiver-gets-firmware");
    assert_eq!(ask("otto", "custodian", firmware), "receiver-gets-firmware");
    assert_eq!(ask("otto", "operator", firmware), "role-not-permitted");
    assert_eq!(ask("otto", "engineer", log), "role-not-permitted");
    assert_eq!(ask("rita", "researcher", firmware), "not-permitted");
    let everyone = "open-data-is-for-everyone-enrolled";
    assert_eq!(ask("rita", "researcher", open), everyone);
    assert_eq!(
        ask("otto", "engineer", open),
        format!("{everyone} receiver-gets-firmware")
    );
    assert_eq!(ask("stranger", "engineer", open), "not-enrolled");
}

#[test]
fn absent_and_forbidden_read_the_same() {
    let mut clinic = clinic();
    let absent = clinic.ask("rita", "researcher", "HRESCH", &[cid("absent")]);
    let forbidden = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&absent), "not-permitted");
    assert_eq!(absent, forbidden);
    let both = clinic.ask("rita", "researcher", "HRESCH", &[cid("absent"), clinic.ecg]);
    assert_eq!(both, absent);
}

/// Whatever the condition that failed before it was clear that the requester may know of the records: the whole decision
/// is the same, basis and all.
#[test]
fn decision_on_what_is_absent_is_the_one_on_what_is_forbidden() {
    let mut clinic = clinic();
    clinic
        .world
        .enrol("silent", PrincipalKind::Person, INSTITUTE, &["researcher"]);
    clinic.world.stand(Kind::Suspended, "silent", INSTITUTE);
    let cases = [
        ("rita", "researcher", "HRESCH", "not-permitted"),
        ("rita", "vendor", "HRESCH", "role-not-held"),
        ("rita", "researcher", "CURIOSITY", "purpose-unknown"),
        ("silent", "researcher", "HRESCH", "inactive"),
        ("stranger", "researcher", "HRESCH", "not-enrolled"),
    ];
    for (who, role, purpose, code) in cases {
        let forbidden = clinic.ecg;
        let mut decision = |record| {
            let request = clinic.world.request(who, role, purpose, &[record]);
            clinic.decide(&request)
        };
        let (absent, forbidden) = (decision(cid("absent")), decision(forbidden));
        assert_eq!(short(&absent.verdict), code);
        assert_eq!(absent, forbidden, "{code}");
        assert!(absent.basis.tells_of_no_record());
    }
    // Who may know of it is told on what it was decided.
    clinic.consent(study());
    let request = clinic
        .world
        .request("rita", "researcher", "HMARKT", &[clinic.ecg]);
    let decision = clinic.decide(&request);
    assert_eq!(short(&decision.verdict), "purpose-not-covered");
    assert!(!decision.basis.tells_of_no_record());
}

#[test]
fn records_under_two_custody_keys_are_asked_for_separately() {
    let mut clinic = clinic();
    clinic
        .world
        .custody("patient-2", HOSPITAL, CustodyKind::Person);
    let other = clinic
        .world
        .anchor("ecg-2", "holter", "patient-2", Class::Ecg);
    let verdict = clinic.ask("clara", "clinician", "TREAT", &[clinic.ecg, other]);
    assert_eq!(short(&verdict), "mixed-custody");
    clinic.consent(study());
    let verdict = clinic.ask("rita", "researcher", "HRESCH", &[clinic.ecg, other]);
    assert_eq!(short(&verdict), "not-permitted", "nor is the mixture told");
}

#[test]
fn inactive_requesters_and_organisations_get_nothing() {
    let mut clinic = clinic();
    clinic.consent(consented("care", "patient-1", "vendor", "HOPERAT"));
    clinic.world.stand(Kind::Suspended, "clara", HOSPITAL);
    let person = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&person), "inactive");
    clinic
        .world
        .accept(standing(Kind::Suspended, "vendor"), &[&key(HOSPITAL)]);
    let colleague = clinic.ask_ecg("vera", "vendor", "HOPERAT");
    assert_eq!(short(&colleague), "inactive");
}

#[test]
fn requests_that_are_not_requests_are_denied() {
    let mut clinic = clinic();
    let good = clinic
        .world
        .request("clara", "clinician", "TREAT", &[clinic.ecg]);
    let code = |request: &SignedStatement| short(&clinic.decide(request).verdict);
    let mut forged = good.clone();
    forged.signatures = vec![(did("clara"), Signature::new([0; 64]))];
    assert_eq!(code(&forged), "bad-signature");
    let Body::AccessRequest(body) = good.statement.body else {
        unreachable!()
    };
    let sign = |body: AccessRequest, not_after| {
        Statement::new(ORIGIN, Body::AccessRequest(body), [1; 16], not_after).sign(&[&key("clara")])
    };
    assert_eq!(code(&sign(body.clone(), BEGINNING - 1)), "request-expired");
    let sized = |count: usize| AccessRequest {
        records: vec![clinic.ecg; count],
        ..body.clone()
    };
    for count in [0, AccessRequest::MAX_RECORDS + 1] {
        assert_eq!(code(&sign(sized(count), BEGINNING)), "malformed-request");
    }
    let other = enrolled("x", PrincipalKind::Device, HOSPITAL, &[]);
    let other = Statement::new(ORIGIN, other, [1; 16], BEGINNING).sign(&[&key("clara")]);
    assert_eq!(code(&other), "malformed-request");
}

#[test]
fn basis_is_what_apply_compares() {
    let mut clinic = clinic();
    clinic.consent(study());
    let request = clinic
        .world
        .request("rita", "researcher", "HRESCH", &[clinic.ecg]);
    let decision = clinic.decide(&request);
    assert_eq!(decision.basis, clinic.world.released(&request).basis);
    clinic.world.withdraw("study", "patient-1");
    assert_ne!(clinic.decide(&request).basis, decision.basis);
}

#[test]
fn decision_on_a_replayed_log_is_the_same() {
    let mut clinic = clinic();
    clinic.consent(study());
    let request = clinic
        .world
        .request("rita", "researcher", "HRESCH", &[clinic.ecg]);
    let mut replica = medanchor_anchor::MemoryTables::default();
    for batch in &clinic.world.batches {
        Log::apply(&mut replica, batch).unwrap();
    }
    let state = medanchor_anchor::State::new(&replica);
    let sets = PolicySets::default();
    let again = decide(&state, &sets, &request, &[], clinic.world.now).unwrap();
    assert_eq!(again, clinic.decide(&request));
}

#[test]
fn set_that_this_version_cannot_read_permits_nothing() {
    let founded_with = |policy| {
        let mut world = World::with_policy(policy);
        world.enrol("clara", PrincipalKind::Person, HOSPITAL, &["clinician"]);
        Clinic {
            world,
            sets: PolicySets::default(),
            ecg: cid("ecg"),
        }
    };
    let mut clinic = founded_with(cid("of another version"));
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "policy-mismatch");
    let mut clinic = founded_with(Policies::default_set().unwrap().cid());
    clinic.world.set_policy(b"no policy set");
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "policy-mismatch");
}

#[test]
fn set_that_members_put_in_force_decides_from_then_on() {
    let mut clinic = clinic();
    let request = clinic
        .world
        .request("clara", "clinician", "TREAT", &[clinic.ecg]);
    let before = clinic.decide(&request);
    assert_eq!(short(&before.verdict), "clinician-treats");
    clinic.set_policies(r#"@id("nobody") forbid (principal, action, resource);"#);
    let after = clinic.decide(&request);
    assert_eq!(short(&after.verdict), "forbidden");
    assert_ne!(before.basis.policy, after.basis.policy);
    let default = Policies::default_set().unwrap();
    clinic.world.set_policy(default.block().bytes());
    let again = clinic.decide(&request);
    assert_eq!(again.verdict, before.verdict);
    assert_ne!(again.basis.policy, before.basis.policy);
}

/// A clinic under other policies.
fn clinic_under(policies: &str) -> Clinic {
    let mut clinic = clinic();
    clinic.set_policies(policies);
    clinic
}

#[test]
fn forbid_beats_permit() {
    let mut clinic = clinic_under(r#"@id("all") permit (principal, action, resource);"#);
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "all");
    let mut clinic = clinic_under(
        r#"@id("all") permit (principal, action, resource);
           @id("no-ecg") forbid (principal, action, resource)
           when { context.class == "waveform.ecg" };"#,
    );
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "forbidden");
}

/// The factor of Clara's, which her hospital's node verifies.
fn factor() -> Nonce {
    Nonce::new([9; 16])
}

fn enrol_factor(clinic: &mut Clinic) {
    let node = node_key(HOSPITAL);
    let enrolled = Body::FactorEnrolled(FactorEnrolled {
        who: did("clara"),
        factor: factor(),
        method: FactorMethod::Totp,
        node: node.did(),
    });
    clinic.world.accept(enrolled, &[&key(HOSPITAL), &node]);
}

/// What a node says of it.
fn verified(clinic: &mut Clinic, who: &str, by: &SigningKey) -> SignedStatement {
    let state = clinic.world.state();
    let clara = state.principal(&did("clara")).unwrap().unwrap();
    let verified = FactorVerified {
        who: did(who),
        factor: factor(),
        since: clara.factors.first().map_or(0, |factor| factor.since),
    };
    let not_after = clinic.world.now + FactorVerified::VALIDITY_MS;
    let mut statement = clinic.world.statement(Body::FactorVerified(verified));
    statement.not_after_unix_ms = Some(not_after);
    statement.sign(&[by])
}

fn ask_with(clinic: &mut Clinic, shown: Option<SignedStatement>) -> Verdict {
    let mut request = clinic
        .world
        .request("clara", "clinician", "TREAT", &[clinic.ecg]);
    if let Body::AccessRequest(body) = &mut request.statement.body {
        body.second_factor = shown.map(Box::new);
    }
    let request = request.statement.sign(&[&key("clara")]);
    clinic.decide(&request).verdict
}

#[test]
fn second_factor_counts_when_the_node_that_verifies_it_says_so_and_only_then() {
    for policies in [
        r#"@id("all") permit (principal, action, resource);
           @id("never-alone") forbid (principal, action, resource)
           when { !context.secondFactor };"#,
        r#"@id("all") permit (principal, action, resource) when { context.secondFactor };"#,
    ] {
        let mut clinic = clinic_under(policies);
        let hospital = node_key(HOSPITAL);
        let needed = "second-factor-required";
        assert_eq!(short(&ask_with(&mut clinic, None)), needed);
        // The log knows of no factor of hers.
        let shown = verified(&mut clinic, "clara", &hospital);
        assert_eq!(short(&ask_with(&mut clinic, Some(shown))), needed);
        enrol_factor(&mut clinic);
        assert_eq!(short(&ask_with(&mut clinic, None)), needed);
        let good = verified(&mut clinic, "clara", &hospital);
        assert_eq!(short(&ask_with(&mut clinic, Some(good.clone()))), "all");

        let other_node = MEMBERS.into_iter().find(|name| *name != HOSPITAL).unwrap();
        for (who, by) in [
            ("rita", &hospital),
            ("clara", &node_key(other_node)),
            ("clara", &key("clara")),
            ("clara", &key(HOSPITAL)),
        ] {
            let shown = verified(&mut clinic, who, by);
            assert_eq!(short(&ask_with(&mut clinic, Some(shown))), needed, "{who}");
        }
        let mut elsewhere = good.statement.clone();
        elsewhere.origin = "example.org/other".to_owned();
        let mut of_another = good.statement.clone();
        of_another.body = Body::FactorVerified(FactorVerified {
            who: did("clara"),
            factor: Nonce::new([8; 16]),
            since: clinic.world.state().tree_size().unwrap() - 1,
        });
        let mut good_for_long = good.statement.clone();
        good_for_long.not_after_unix_ms =
            Some(clinic.world.now + FactorVerified::VALIDITY_MS + Log::MAX_AHEAD_MS + 1);
        let mut unsigned = good.clone();
        unsigned.statement.not_after_unix_ms = Some(u64::MAX);
        for shown in [
            elsewhere.sign(&[&hospital]),
            of_another.sign(&[&hospital]),
            good_for_long.sign(&[&hospital]),
            good.statement.clone().sign(&[&hospital, &key(HOSPITAL)]),
            unsigned,
        ] {
            assert_eq!(short(&ask_with(&mut clinic, Some(shown))), needed);
        }
        clinic.world.now = good.statement.not_after_unix_ms.unwrap();
        assert_eq!(short(&ask_with(&mut clinic, Some(good.clone()))), "all");
        clinic.world.now += 1;
        assert_eq!(short(&ask_with(&mut clinic, Some(good))), needed);
        let before = verified(&mut clinic, "clara", &hospital);
        assert_eq!(short(&ask_with(&mut clinic, Some(before.clone()))), "all");
        let removed = Body::FactorRemoved(FactorRemoved {
            who: did("clara"),
            factor: factor(),
        });
        clinic.world.accept(removed, &[&key(HOSPITAL)]);
        assert_eq!(short(&ask_with(&mut clinic, Some(before.clone()))), needed);
        // Enrolled again, it does not make what was shown before count again.
        enrol_factor(&mut clinic);
        assert_eq!(short(&ask_with(&mut clinic, Some(before))), needed);
    }
}

/// What is missing besides a second factor is said first: showing one would change nothing.
#[test]
fn second_factor_is_asked_for_last() {
    let mut clinic = clinic_under(&format!(
        "{}{}",
        include_str!("../src/default.cedar"),
        r#"@id("second-factor") forbid (principal, action, resource)
           when { context.role == "researcher" } unless { context.secondFactor };"#
    ));
    clinic.consent(consented("study", "patient-1", INSTITUTE, "CLINTRCH"));
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "purpose-not-covered");
    let verdict = clinic.ask_ecg("rita", "researcher", "CLINTRCH");
    assert_eq!(short(&verdict), "second-factor-required");
    let verdict = clinic.ask_ecg("rita", "researcher", "BTG");
    assert_eq!(short(&verdict), "forbidden");
}

/// A member that is removed verifies nothing any more, and whatever was decided before is decided again (I5).
#[test]
fn factor_of_a_node_that_was_removed_counts_no_longer() {
    let mut clinic = clinic_under(
        r#"@id("all") permit (principal, action, resource) when { context.secondFactor };"#,
    );
    let (gone, other) = (MEMBERS[2], node_key(MEMBERS[2]));
    let enrolled = Body::FactorEnrolled(FactorEnrolled {
        who: did("clara"),
        factor: factor(),
        method: FactorMethod::Totp,
        node: other.did(),
    });
    clinic.world.accept(enrolled, &[&key(HOSPITAL), &other]);
    let shown = verified(&mut clinic, "clara", &other);
    assert_eq!(short(&ask_with(&mut clinic, Some(shown.clone()))), "all");
    let before = clinic.world.state().requester_basis(&did("clara")).unwrap();
    let leaving = Body::MemberRemoved(clinic.world.leaving(gone, 2));
    let keys = [HOSPITAL, INSTITUTE].map(key);
    let authors: Vec<&SigningKey> = keys.iter().collect();
    clinic.world.accept(leaving, &authors);
    let needed = "second-factor-required";
    assert_eq!(short(&ask_with(&mut clinic, Some(shown))), needed);
    let after = clinic.world.state().requester_basis(&did("clara")).unwrap();
    assert_ne!(before, after);
}

/// Cedar skips a policy that fails, also a `forbid`; a decision must not.
#[test]
fn error_while_deciding_is_a_denial() {
    let mut clinic = clinic_under(
        r#"@id("all") permit (principal, action, resource);
           @id("broken") forbid (principal, action, resource)
           when { 9223372036854775807 + 1 == 0 };"#,
    );
    let verdict = clinic.ask_ecg("clara", "clinician", "TREAT");
    assert_eq!(short(&verdict), "policy-error");
}

#[test]
fn rotated_custody_key_keeps_its_consents() {
    let mut clinic = clinic();
    clinic.consent(study());
    let mut next: Custody = custody("patient-1", HOSPITAL, CustodyKind::Person);
    next.epoch = 1;
    let attest = |holder| attested(holder, next.custody, 1, &next.key);
    next.held_by = vec![attest(&node_key(HOSPITAL)), attest(&key(HOSPITAL))];
    clinic.world.accept(Body::Custody(next), &[&key(HOSPITAL)]);
    let verdict = clinic.ask_ecg("rita", "researcher", "HRESCH");
    assert_eq!(short(&verdict), "researcher-with-consent");
}

const CODES: [&str; 9] = [
    "TREAT",
    "ETREAT",
    "BTG",
    "CLINTRL",
    "HRESCH",
    "CLINTRCH",
    "CLINTRCHPC",
    "HMARKT",
    "PATRQT",
];

fn period() -> impl Strategy<Value = Period> {
    let moment = || proptest::option::of(0..5_u64).prop_map(|n| n.map(|n| BEGINNING + n));
    (moment(), moment()).prop_map(|(from, until)| match (from, until) {
        (Some(from), Some(until)) if until < from => Period {
            from: Some(until),
            until: Some(from),
        },
        _ => Period { from, until },
    })
}

fn any_actor() -> impl Strategy<Value = Actor> {
    let party = select(vec![
        None,
        Some(INSTITUTE),
        Some("rita"),
        Some("vendor"),
        Some("clara"),
    ]);
    let role = select(vec![None, Some("researcher"), Some("clinician")]);
    (party, role).prop_map(|(party, role)| Actor {
        party: party.or(role.is_none().then_some("rita")).map(did),
        role: role.map(str::to_owned),
    })
}

prop_compose! {
    fn any_provision()(
        actor in any_actor(),
        purpose in select(CODES.to_vec()),
        classes in prop::sample::subsequence(vec![Class::Ecg, Class::Log, Class::Imaging], 0..3),
        devices in prop::sample::subsequence(vec!["holter", "pump"], 0..2),
        captured in period(),
        valid in period(),
    ) -> Provision {
        Provision {
            actors: vec![actor],
            purposes: vec![purpose.to_owned()],
            classes,
            devices: devices.into_iter().map(did).collect(),
            captured,
            valid,
        }
    }
}

prop_compose! {
    fn any_consent()(
        effect in select(vec![Effect::Permit, Effect::Permit, Effect::Deny, Effect::Silent]),
        base in any_provision(),
        is_for_all in any::<bool>(),
        except in prop::collection::vec(any_provision(), 0..3),
        withdrawn in prop::bool::weighted(0.2),
    ) -> (Consented, bool) {
        let mut given = study();
        // Nothing is silent altogether, and nobody is permitted everything.
        given.effect = if except.is_empty() && effect == Effect::Silent { Effect::Deny } else { effect };
        given.provision = match (given.effect, is_for_all) {
            (Effect::Silent, _) | (Effect::Deny, true) => Provision::default(),
            _ => base,
        };
        given.except = except;
        (given, withdrawn)
    }
}

/// Whether Rita's research on the ECG is meant, from the description of each condition.
fn means_rita(provision: &Provision, asked: &str, now: u64) -> bool {
    let purposes = purpose::chain(asked).unwrap();
    let is_rita = |actor: &Actor| {
        let party = actor
            .party
            .is_none_or(|party| [did(INSTITUTE), did("rita")].contains(&party));
        party && actor.role.as_ref().is_none_or(|role| role == "researcher")
    };
    let lies = |period: &Period, moment: u64| {
        period.from.unwrap_or(0) <= moment && moment <= period.until.unwrap_or(u64::MAX)
    };
    let any_or_none = |is_empty: bool, any: bool| is_empty || any;
    any_or_none(
        provision.actors.is_empty(),
        provision.actors.iter().any(is_rita),
    ) && any_or_none(
        provision.purposes.is_empty(),
        provision
            .purposes
            .iter()
            .any(|code| purposes.contains(&code.as_str())),
    ) && any_or_none(
        provision.classes.is_empty(),
        provision.classes.contains(&Class::Ecg),
    ) && any_or_none(
        provision.devices.is_empty(),
        provision.devices.contains(&did("holter")),
    ) && lies(&provision.captured, BEGINNING)
        && lies(&provision.valid, now)
}

/// What the consents say of it: whether one permits it, and whether one denies it.
fn said_to_rita(consents: &[(Consented, bool)], asked: &str, now: u64) -> (bool, bool) {
    let (mut permits, mut denies) = (false, false);
    for (given, withdrawn) in consents {
        if *withdrawn || !means_rita(&given.provision, asked, now) {
            continue;
        }
        let is_excepted = given
            .except
            .iter()
            .any(|except| means_rita(except, asked, now));
        match (given.effect, is_excepted) {
            (Effect::Permit, false) | (Effect::Deny | Effect::Silent, true) => permits = true,
            (Effect::Deny, false) | (Effect::Permit, true) => denies = true,
            (Effect::Silent, false) => {}
        }
    }
    (permits, denies)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A researcher is permitted exactly when a consent permits it and none denies it, and for exactly as long; the rule is
    /// written again here, from its description.
    #[test]
    fn consent_permits_exactly_what_it_covers(
        consents in prop::collection::vec(any_consent(), 0..4),
        asked in select(CODES.to_vec()),
        later in 0..6_u64,
    ) {
        let mut clinic = clinic();
        for (number, (given, withdrawn)) in consents.iter().enumerate() {
            let name = format!("consent-{number}");
            let consent = medanchor_anchor::testing::consent_id(&name);
            clinic.consent(Consented { consent, ..given.clone() });
            if *withdrawn {
                clinic.world.withdraw(&name, "patient-1");
            }
        }
        let is_permitted = |now| asked != "BTG" && said_to_rita(&consents, asked, now) == (true, false);
        let now = BEGINNING + later;
        clinic.world.now = now;
        let request = clinic.world.request("rita", "researcher", asked, &[clinic.ecg]);
        let decision = clinic.decide(&request);
        prop_assert_eq!(matches!(decision.verdict, Verdict::Permit(_)), is_permitted(now));
        if let Verdict::Permit(permit) = &decision.verdict {
            let expiry = request.statement.not_after_unix_ms.unwrap();
            // Every period ends within a few milliseconds.
            let end = (now..now + 10).find(|moment| !is_permitted(*moment));
            prop_assert_eq!(permit.until(), end.map_or(expiry, |end| end - 1));
        }
        prop_assert_eq!(clinic.decide(&request), decision);
    }

    /// Whoever asks for whatever in whatever role without consent is denied, but for those whose own
    /// the data is.
    #[test]
    fn without_consent_only_the_own_organisation_reads(
        who in select(vec!["rita", "vera", "otto", "vendor", "holter", "stranger"]),
        role in select(vec!["clinician", "researcher", "vendor", "custodian", "member", "device"]),
        asked in select(CODES.to_vec()),
    ) {
        let mut clinic = clinic();
        let verdict = clinic.ask_ecg(who, role, asked);
        let is_denied = matches!(verdict, Verdict::Deny { .. });
        prop_assert!(is_denied);
    }
}

#[test]
fn custody_keys_of_another_cohort_are_malformed() {
    let mut clinic = clinic();
    let cohort = [custody_id("patient-1")];
    let selection = everything(&cohort);
    let request = clinic
        .world
        .request_all("clara", "clinician", "TREAT", selection);
    let code = |cohort: &[CustodyId]| {
        let (state, now) = (clinic.world.state(), clinic.world.now);
        short(
            &decide(&state, &clinic.sets, &request, cohort, now)
                .unwrap()
                .verdict,
        )
    };
    assert_ne!(code(&cohort), "malformed-request");
    for other in [&[][..], &[custody_id("patient-2")], &[cohort[0], cohort[0]]] {
        assert_eq!(code(other), "malformed-request", "{other:?}");
    }
}

/// Whether there is nothing under a custody key, nothing for the requester, or no such key: it is all the same.
#[test]
fn selection_of_what_is_absent_or_forbidden_is_refused_alike() {
    let mut clinic = clinic();
    let mut refusals = Vec::new();
    for custody in ["patient-1", "nobody"] {
        let cohort = [custody_id(custody)];
        let selection = everything(&cohort);
        let request = clinic
            .world
            .request_all("rita", "researcher", "HRESCH", selection);
        let (state, now) = (clinic.world.state(), clinic.world.now);
        refusals.push(decide(&state, &clinic.sets, &request, &cohort, now).unwrap());
    }
    assert_eq!(short(&refusals[0].verdict), "not-permitted");
    assert_eq!(refusals[0], refusals[1]);
}
