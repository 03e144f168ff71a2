//! Every kind of requester, role, purpose, class, custody key, consent and second factor, against a model of the rules that
//! shares nothing with the policies: no Cedar, no tree of purposes, no code of consents.
#![expect(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use medanchor_anchor::{
    Actor, Body, Class, CustodyKind, Effect, FactorEnrolled, FactorMethod, FactorVerified, Kind,
    Nonce, Period, PrincipalKind, Provision, SignedStatement, Withdrawn,
    testing::{
        BEGINNING, HOUR, MEMBERS, World, break_glass, break_glass_rule, consent_id, consented,
        custody, custody_id, did, everything, key, node_key,
    },
};
use medanchor_dag::{Cid, CustodyId};
use medanchor_policy::{Code, Policies, PolicySets, Verdict, decide};
use std::collections::{BTreeMap, BTreeSet};

const HOSPITAL: &str = MEMBERS[0];
const INSTITUTE: &str = MEMBERS[1];

/// Name, organisation, roles.
type Person = (&'static str, &'static str, &'static [&'static str]);

/// Who may ask.
static PEOPLE: [Person; 10] = [
    ("clara", HOSPITAL, &["clinician"]),
    ("resi", HOSPITAL, &["researcher"]),
    ("otto", HOSPITAL, &["custodian", "engineer", "operator"]),
    ("patient", HOSPITAL, &["patient"]),
    ("other-patient", HOSPITAL, &["patient"]),
    ("rita", INSTITUTE, &["clinician", "researcher"]),
    ("ada", "agency", &["regulator"]),
    ("vera", "vendor", &["vendor"]),
    ("sam", HOSPITAL, &["clinician", "researcher"]),
    ("cora", "closed", &["researcher"]),
];
/// Who has a second factor.
const WITH_FACTOR: [&str; 3] = ["clara", "resi", "rita"];
/// Who has overridden consent in an emergency, for the data under these custody keys.
const OVERRODE: [&str; 2] = ["clara", "rita"];
const OVERRIDDEN: [(CustodyKind, usize); 2] = [(CustodyKind::Person, 0), (CustodyKind::Person, 9)];
/// Suspended, itself or its organisation.
const INACTIVE: [&str; 2] = ["sam", "cora"];
const ROLES: [&str; 8] = [
    "clinician",
    "researcher",
    "regulator",
    "vendor",
    "patient",
    "custodian",
    "engineer",
    "operator",
];
/// A code, and all that covers it.
type Purpose = (&'static str, &'static [&'static str]);

/// By hand from HL7's code system.
static PURPOSES: [Purpose; 13] = [
    ("TREAT", &["TREAT"]),
    ("ETREAT", &["ETREAT", "TREAT"]),
    ("BTG", &["BTG", "ETREAT", "TREAT"]),
    ("CLINTRL", &["CLINTRL", "TREAT"]),
    ("HRESCH", &["HRESCH"]),
    ("CLINTRCH", &["CLINTRCH", "HRESCH"]),
    ("CLINTRCHPC", &["CLINTRCHPC", "CLINTRCH", "HRESCH"]),
    ("HOPERAT", &["HOPERAT"]),
    ("SYSDEV", &["SYSDEV", "HOPERAT"]),
    ("HMARKT", &["HMARKT"]),
    ("PATRQT", &["PATRQT"]),
    ("FAMRQT", &["FAMRQT", "PATRQT"]),
    ("CURIOSITY", &[]),
];
const CLASSES: [Class; 6] = [
    Class::Ecg,
    Class::Imaging,
    Class::Telemetry,
    Class::Log,
    Class::Firmware,
    Class::Document,
];
const KINDS: [CustodyKind; 3] = [CustodyKind::Person, CustodyKind::Dataset, CustodyKind::Open];
const ORGS: [&str; 5] = [INSTITUTE, "agency", "vendor", "closed", HOSPITAL];

/// A consent, as both sides are told of it.
#[derive(Clone, Copy)]
struct Given {
    parties: &'static [&'static str],
    purpose: &'static str,
    classes: &'static [Class],
    /// From BEGINNING on, ms.
    captured_until: Option<i64>,
    valid_from: Option<i64>,
    valid_until: Option<i64>,
    withdrawn: bool,
    /// Instead of permitted.
    denied: bool,
    /// Only who acts in it.
    role: Option<&'static str>,
    /// Classes of which the opposite is said.
    except: &'static [Class],
}

const TO_ALL: Given = Given {
    parties: &ORGS,
    purpose: "HRESCH",
    classes: &[],
    captured_until: None,
    valid_from: None,
    valid_until: None,
    withdrawn: false,
    denied: false,
    role: None,
    except: &[],
};

/// What is consented under a custody key.
fn consents() -> Vec<Vec<Given>> {
    let withdrawn = Given {
        withdrawn: true,
        ..TO_ALL
    };
    let for_purpose = |purpose| Given { purpose, ..TO_ALL };
    vec![
        vec![],
        vec![TO_ALL],
        vec![for_purpose("TREAT")],
        vec![for_purpose("HOPERAT")],
        vec![for_purpose("CLINTRCH")],
        vec![for_purpose("BTG")],
        vec![Given {
            parties: &["rita", "clara"],
            ..TO_ALL
        }],
        vec![Given {
            classes: &[Class::Telemetry, Class::Log],
            ..TO_ALL
        }],
        vec![Given {
            captured_until: Some(-1),
            ..TO_ALL
        }],
        vec![Given {
            valid_from: Some(1),
            ..TO_ALL
        }],
        vec![Given {
            valid_until: Some(-1),
            ..TO_ALL
        }],
        vec![withdrawn],
        vec![withdrawn, for_purpose("HOPERAT"), for_purpose("TREAT")],
        vec![Given {
            role: Some("researcher"),
            ..TO_ALL
        }],
        vec![Given {
            denied: true,
            ..for_purpose("TREAT")
        }],
        vec![
            TO_ALL,
            Given {
                denied: true,
                role: Some("researcher"),
                except: &[Class::Ecg, Class::Log],
                ..for_purpose("CLINTRCH")
            },
        ],
        vec![Given {
            except: &[Class::Ecg],
            ..TO_ALL
        }],
        vec![
            Given {
                denied: true,
                withdrawn: true,
                ..TO_ALL
            },
            TO_ALL,
        ],
    ]
}

/// What is asked.
struct Case {
    who: &'static Person,
    role: &'static str,
    purpose: &'static Purpose,
    class: Class,
    kind: CustodyKind,
    given: Vec<Given>,
    shown: bool,
    /// Consent was overridden for the custody key.
    overridden: bool,
}

/// What must come of it.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Permitted,
    Denied,
    /// Nothing may be learnt of the record.
    NotPermitted,
}

/// The rules in as many lines.
fn model(case: &Case, is_strict: bool) -> Expected {
    let (name, org, roles) = *case.who;
    let (_, covered_by) = *case.purpose;
    let may_act = !INACTIVE.contains(&name) && roles.contains(&case.role) && !covered_by.is_empty();
    if !may_act {
        return Expected::Denied;
    }
    let is_actor = |given: &&Given| {
        let is_party = given.parties.contains(&name) || given.parties.contains(&org);
        is_party && given.role.is_none_or(|role| role == case.role)
    };
    let may_permit = |given: &Given| !given.denied || !given.except.is_empty();
    let is_own = org == HOSPITAL;
    let is_open = case.kind == CustodyKind::Open;
    let is_subject = name == "patient" && case.kind == CustodyKind::Person;
    let is_emergency = case.overridden && OVERRODE.contains(&name);
    let is_emergency = is_emergency && case.role == "clinician" && covered_by.contains(&"BTG");
    if !(is_own
        || is_open
        || is_subject
        || is_emergency
        || case
            .given
            .iter()
            .any(|given| is_actor(&given) && may_permit(given)))
    {
        return Expected::NotPermitted;
    }
    let said: Vec<bool> = case
        .given
        .iter()
        .filter(is_actor)
        .filter(|given| {
            covered_by.contains(&given.purpose)
                && (given.classes.is_empty() || given.classes.contains(&case.class))
                && given.captured_until.is_none_or(|until| until >= 0)
                && given.valid_from.is_none_or(|from| from <= 0)
                && given.valid_until.is_none_or(|until| until >= 0)
                && !given.withdrawn
        })
        .map(|given| given.denied == given.except.contains(&case.class))
        .collect();
    let is_denied = said.contains(&false);
    let consented = said.contains(&true) && !is_denied;
    let is_device_data = [Class::Telemetry, Class::Log].contains(&case.class);
    let by_role = match case.role {
        "clinician" => case.kind == CustodyKind::Person && is_own && covered_by.contains(&"TREAT"),
        "researcher" => consented,
        "vendor" => consented && is_device_data,
        "regulator" => consented && (is_device_data || case.class == Class::Firmware),
        "custodian" | "engineer" => {
            case.class == Class::Firmware && case.kind != CustodyKind::Person && is_own
        }
        "patient" => is_subject && covered_by.contains(&"PATRQT"),
        _ => false,
    };
    let is_ordinary = !covered_by.contains(&"BTG");
    let lacks_factor = is_strict && ["clinician", "researcher"].contains(&case.role) && !case.shown;
    let is_closed = is_denied && !is_subject;
    let is_permitted = (by_role || is_open) && is_ordinary && !is_closed || is_emergency;
    match is_permitted && !lacks_factor {
        true => Expected::Permitted,
        false => Expected::Denied,
    }
}

/// Every case, and the name of its custody key.
fn cases() -> impl Iterator<Item = (Case, String)> {
    let custodies = KINDS.into_iter().flat_map(|kind| {
        let consents = consents().into_iter().enumerate();
        consents.map(move |(number, given)| {
            let overridden = OVERRIDDEN.contains(&(kind, number));
            (kind, given, overridden, key_name(kind, number))
        })
    });
    let custodies: Vec<_> = custodies.collect();
    let asked = PEOPLE.iter().flat_map(|who| {
        let roles = ROLES.into_iter();
        roles.flat_map(move |role| PURPOSES.iter().map(move |purpose| (who, role, purpose)))
    });
    asked.flat_map(move |(who, role, purpose)| {
        let under = custodies.clone().into_iter();
        under.flat_map(move |(kind, given, overridden, custody)| {
            CLASSES.into_iter().map(move |class| {
                let case = Case {
                    who,
                    role,
                    purpose,
                    class,
                    kind,
                    given: given.clone(),
                    shown: false,
                    overridden,
                };
                (case, custody.clone())
            })
        })
    })
}

/// A hospital's custody keys of every kind under all these consents, with a record of each class.
struct Hospital {
    world: World,
    sets: PolicySets,
}

fn key_name(kind: CustodyKind, consents: usize) -> String {
    format!("{kind:?}-{consents}")
}

fn factor_of(name: &str) -> Nonce {
    consent_id(&format!("{name}/factor"))
}

impl Hospital {
    fn new() -> Self {
        let mut world = World::with_policy(Policies::default_set().unwrap().cid());
        for org in ["agency", "vendor", "closed"] {
            world.enrol(org, PrincipalKind::Organisation, org, &[]);
        }
        world.enrol("holter", PrincipalKind::Device, HOSPITAL, &["device"]);
        for (name, org, roles) in &PEOPLE {
            world.enrol(name, PrincipalKind::Person, org, roles);
        }
        for name in WITH_FACTOR {
            let (_, org, _) = PEOPLE.iter().find(|(who, ..)| *who == name).unwrap();
            let enrolled = Body::FactorEnrolled(FactorEnrolled {
                who: did(name),
                factor: factor_of(name),
                method: FactorMethod::Totp,
                node: node_key(org).did(),
            });
            world.accept(enrolled, &[&key(org), &node_key(org)]);
        }
        let mut hospital = Self {
            world,
            sets: PolicySets::default(),
        };
        for kind in KINDS {
            for (number, given) in consents().into_iter().enumerate() {
                hospital.custody(&key_name(kind, number), kind, &given);
            }
        }
        for (org, officer) in [(HOSPITAL, "hugo"), (INSTITUTE, "ines")] {
            let world = &mut hospital.world;
            world.enrol(officer, PrincipalKind::Person, org, &["officer"]);
            let rule = Body::BreakGlassRule(break_glass_rule(org, officer));
            world.accept(rule, &[&key(org)]);
        }
        for who in OVERRODE {
            for (kind, number) in OVERRIDDEN {
                let body = Body::BreakGlass(break_glass(who, &key_name(kind, number)));
                hospital.world.accept(body, &[&key(who)]);
            }
        }
        hospital.world.stand(Kind::Suspended, "sam", HOSPITAL);
        hospital.world.stand(Kind::Suspended, "closed", HOSPITAL);
        hospital
    }

    fn custody(&mut self, name: &str, kind: CustodyKind, consents: &[Given]) {
        let mut body = custody(name, HOSPITAL, kind);
        if kind == CustodyKind::Person {
            body.controller = Some(did("patient"));
        }
        self.world.accept(Body::Custody(body), &[&key(HOSPITAL)]);
        for class in CLASSES {
            let record = format!("{name}/{class:?}");
            self.world.anchor(&record, "holter", name, class);
        }
        for (number, given) in consents.iter().enumerate() {
            let id = format!("{name}/{number}");
            let after = |ms: i64| BEGINNING.checked_add_signed(ms).unwrap();
            let actors = given.parties.iter().map(|party| Actor {
                party: Some(did(party)),
                role: given.role.map(str::to_owned),
            });
            let mut body = consented(&id, name, INSTITUTE, given.purpose);
            body.provision = Provision {
                actors: actors.collect(),
                classes: given.classes.to_vec(),
                captured: Period {
                    from: None,
                    until: given.captured_until.map(after),
                },
                valid: Period {
                    from: given.valid_from.map(after),
                    until: given.valid_until.map(after),
                },
                ..body.provision
            };
            if given.denied {
                body.effect = Effect::Deny;
            }
            if !given.except.is_empty() {
                body.except.push(Provision {
                    classes: given.except.to_vec(),
                    ..body.provision.clone()
                });
            }
            self.world.accept(Body::Consented(body), &[&key(HOSPITAL)]);
            if given.withdrawn {
                let body = Body::Withdrawn(Withdrawn {
                    consent: consent_id(&id),
                    custody: custody_id(name),
                });
                self.world.accept(body, &[&key(HOSPITAL)]);
            }
        }
    }

    fn request(&mut self, case: &Case, record: Cid) -> SignedStatement {
        let (name, org, _) = *case.who;
        let (purpose, _) = *case.purpose;
        let mut request = self.world.request(name, case.role, purpose, &[record]);
        if case.shown
            && let Body::AccessRequest(body) = &mut request.statement.body
        {
            let entry = self.world.state().principal(&did(name)).unwrap().unwrap();
            let verified = Body::FactorVerified(FactorVerified {
                who: did(name),
                factor: factor_of(name),
                since: entry.factors.first().unwrap().since,
            });
            let mut shown = self.world.statement(verified);
            shown.not_after_unix_ms = Some(self.world.now + FactorVerified::VALIDITY_MS);
            body.second_factor = Some(Box::new(shown.sign(&[&node_key(org)])));
            request = request.statement.sign(&[&key(name)]);
        }
        request
    }

    /// Decides on every `stride`th of all cases, and compares each with the model.
    fn compare(&mut self, is_strict: bool, stride: usize) -> usize {
        let (mut compared, mut permitted) = (0, 0);
        for (number, (mut case, custody)) in cases().enumerate() {
            let (name, _, roles) = *case.who;
            // What is not held is denied in one way.
            let stride = if roles.contains(&case.role) {
                stride
            } else {
                31 * stride
            };
            if number % stride != 0 {
                continue;
            }
            case.shown = WITH_FACTOR.contains(&name) && compared % 2 == 0;
            permitted += usize::from(self.decides(&case, &custody, is_strict));
            compared += 1;
        }
        // A model that denies everything would show nothing.
        assert!(permitted * 20 > compared, "{permitted} of {compared}");
        compared
    }

    fn decides(&mut self, case: &Case, custody: &str, is_strict: bool) -> bool {
        let record = medanchor_anchor::testing::cid(&format!("{custody}/{:?}", case.class));
        let request = self.request(case, record);
        let state = self.world.state();
        let decision = decide(&state, &self.sets, &request, &[], self.world.now).unwrap();
        let found = match &decision.verdict {
            Verdict::Permit(_) => Expected::Permitted,
            Verdict::Deny { code, .. } if *code == Code::NotPermitted => Expected::NotPermitted,
            Verdict::Deny { .. } => Expected::Denied,
        };
        let (name, ..) = *case.who;
        let (purpose, _) = *case.purpose;
        let (role, class) = (case.role, case.class);
        let expected = model(case, is_strict);
        assert_eq!(
            found, expected,
            "{name} as {role} for {purpose}: {class:?} under {custody}, shown: {}; {decision:?}",
            case.shown
        );
        if found == Expected::NotPermitted {
            assert!(decision.basis.tells_of_no_record());
        }
        found == Expected::Permitted
    }
}

#[test]
fn default_set_decides_as_the_model_in_thousands_of_cases() {
    let mut hospital = Hospital::new();
    assert!(hospital.world.now < BEGINNING + HOUR);
    let compared = hospital.compare(false, 7);
    assert!(compared > 5000, "{compared}");
}

#[test]
fn set_that_asks_for_a_second_factor_decides_as_the_model() {
    let mut hospital = Hospital::new();
    let policies = include_str!("../src/default.cedar").to_owned()
        + r#"
        @id("second-factor")
        forbid (principal, action, resource)
        when { ["clinician", "researcher"].contains(context.role) }
        unless { context.secondFactor };"#;
    let set = Policies::parse(&policies, include_str!("../src/default.cedarschema")).unwrap();
    hospital.world.set_policy(set.block().bytes());
    let compared = hospital.compare(true, 11);
    assert!(compared > 3000, "{compared}");
}

/// Whoever selects is released, of all custody keys at once, just the records that they would be if they named each alone, and
/// is told of those that are left out just what a refusal of each tells.
#[test]
fn selection_permits_exactly_what_is_permitted_one_by_one() {
    let mut hospital = Hospital::new();
    let custodies = hospital.world.state().custodies(None, usize::MAX).unwrap();
    let cohort: Vec<CustodyId> = custodies
        .iter()
        .map(|entry| entry.custody.custody)
        .collect();
    let (mut permitted, mut left_out) = (0, 0);
    for (name, _, roles) in PEOPLE {
        for (role, (purpose, _)) in roles.iter().flat_map(|role| PURPOSES.map(|of| (role, of))) {
            let (released, denied) = hospital.one_by_one(name, role, purpose, &cohort);
            permitted += released.len();
            left_out += denied.values().sum::<u64>();
            let selection = everything(&cohort);
            let request = hospital.world.request_all(name, role, purpose, selection);
            let (state, now) = (hospital.world.state(), hospital.world.now);
            let decision = decide(&state, &hospital.sets, &request, &cohort, now).unwrap();
            assert!(decision.basis.tells_of_no_record());
            let found = match &decision.verdict {
                Verdict::Permit(permit) => {
                    assert_eq!(permit.left_out, denied, "{name} as {role} for {purpose}");
                    permit
                        .rows()
                        .map(|row| row.record.anchored.record)
                        .collect()
                }
                Verdict::Deny { .. } => BTreeSet::new(),
            };
            assert_eq!(found, released, "{name} as {role} for {purpose}");
        }
    }
    // A model that denies everything would show nothing.
    assert!(
        permitted > 1_000 && left_out > 1_000,
        "{permitted}, {left_out}"
    );
}

impl Hospital {
    /// What is permitted of all records, each named alone, and how many are denied that the requester may know of, by why.
    fn one_by_one(
        &mut self,
        name: &str,
        role: &str,
        purpose: &str,
        cohort: &[CustodyId],
    ) -> (BTreeSet<Cid>, BTreeMap<Code, u64>) {
        let (mut released, mut denied) = (BTreeSet::new(), BTreeMap::new());
        for custody in cohort {
            let records = self.world.state().records_under(custody, 0, usize::MAX);
            for record in records.unwrap() {
                let record = record.anchored.record;
                let request = self.world.request(name, role, purpose, &[record]);
                let (state, now) = (self.world.state(), self.world.now);
                let decision = decide(&state, &self.sets, &request, &[], now).unwrap();
                match decision.verdict {
                    Verdict::Permit(_) => {
                        released.insert(record);
                    }
                    Verdict::Deny { code, .. } if code.tells_of_records() => {
                        *denied.entry(code).or_default() += 1;
                    }
                    Verdict::Deny { .. } => (),
                }
            }
        }
        (released, denied)
    }
}
