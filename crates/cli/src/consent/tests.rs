//! FHIR resources in and out.

use super::{
    check_purpose,
    fhir::{Consent, Ended},
    fhir_export::{Contained, categories},
    fhir_import::{BaseRule, Reading, base_rule as base_rule_of, check, consent_id, custody, who},
};
use crate::clock;
use medanchor_anchor::{
    Actor, Consented, Effect, Period, Provision,
    testing::{consented, custody_id, did},
};
use medanchor_dag::{Class, Did};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const RESEARCH: &str = include_str!("research.json");
const DEFAULT: Option<BaseRule> = Some(BaseRule::Default);
const DISSENT: Option<BaseRule> = Some(BaseRule::Dissent);

type Meaning = (Effect, Provision, Vec<Provision>);

/// What is taken from a resource, or why not.
fn read(
    resource: &Value,
    known: &[(String, Did)],
    base_rule: Option<BaseRule>,
) -> Result<Meaning, String> {
    let resource: Consent =
        serde_json::from_value(resource.clone()).map_err(|error| error.to_string())?;
    check(&resource).map_err(|error| error.to_string())?;
    let reading = Reading {
        who: known,
        contained: &resource.contained,
        base_rule: base_rule_of(&resource, base_rule).map_err(|error| error.to_string())?,
    };
    let meaning = reading.meaning(&resource.provision);
    meaning.map_err(|error| error.to_string())
}

fn research() -> Value {
    serde_json::from_str(RESEARCH).unwrap()
}

fn known() -> Vec<(String, Did)> {
    [("Organization/lab", "lab"), ("Device/holter", "holter")]
        .map(|(name, who_is_it)| (name.to_owned(), did(who_is_it)))
        .to_vec()
}

#[test]
fn usual_form_of_a_study_permits_what_it_names_and_leaves_the_rest() {
    let (effect, base, except) = read(&research(), &known(), DEFAULT).unwrap();
    assert_eq!((effect, base), (Effect::Silent, Provision::default()));
    let unix_ms = |text| clock::span(text).unwrap().0;
    let expected = Provision {
        actors: vec![Actor::party(did("lab"))],
        purposes: vec!["CLINTRCH".to_owned()],
        classes: vec![Class::Ecg],
        devices: vec![did("holter")],
        captured: Period {
            from: Some(unix_ms("2025-07-01")),
            until: Some(unix_ms("2027-01-01") - 1),
        },
        valid: Period {
            from: Some(unix_ms("2026-01-15")),
            until: Some(unix_ms("2027-01-16") - 1),
        },
    };
    assert_eq!(except, [expected]);
    let (effect, ..) = read(&research(), &known(), DISSENT).unwrap();
    assert_eq!(effect, Effect::Deny);
    // Neither is guessed, and what was said once is not said otherwise.
    let problem = read(&research(), &known(), None).unwrap_err();
    assert!(problem.contains("--dissent"), "{problem}");
    let mut own = research();
    let dissent = json!({ "system": "urn:medanchor:base-rule", "code": "dissent" });
    own["category"] = json!([{ "coding": [dissent] }]);
    let (effect, ..) = read(&own, &known(), None).unwrap();
    assert_eq!(effect, Effect::Deny);
    assert!(read(&own, &known(), DEFAULT).is_err());
}

/// IHE PCF's end of a consent: what is permitted ends with it.
#[test]
fn period_of_a_default_is_that_of_its_exceptions() {
    let mut resource = research();
    resource["provision"]["period"] = json!({ "end": "2026-06" });
    let (effect, base, except) = read(&resource, &known(), DEFAULT).unwrap();
    assert_eq!((effect, base), (Effect::Silent, Provision::default()));
    let end = clock::span("2026-06").unwrap().1;
    assert_eq!(except[0].valid.until, Some(end));
    resource["provision"]["period"] = json!({ "end": "2025" });
    assert!(read(&resource, &known(), DEFAULT).is_err());
}

/// Normal data is not all data: whoever says so means it.
#[test]
fn base_rule_with_a_label_is_no_default() {
    let mut resource = research();
    resource["provision"]["securityLabel"] = nested(&mut research())["securityLabel"].clone();
    resource["provision"]["securityLabel"]
        .as_array_mut()
        .unwrap()
        .pop();
    let (effect, ..) = read(&resource, &known(), DEFAULT).unwrap();
    assert_eq!(effect, Effect::Deny);
}

#[test]
fn base_rules_are_read_as_they_are_meant() {
    type Change = fn(&mut Value);
    let cases: [(Effect, usize, Change); 3] = [
        (Effect::Deny, 0, |base| *base = json!({ "type": "deny" })),
        (Effect::Deny, 1, |base| {
            base["purpose"] = json!([{ "system": ACT_REASON, "code": "HRESCH" }]);
        }),
        (Effect::Permit, 1, |base| {
            let nested = base["provision"][0].take();
            *base = nested;
            base["provision"] = json!([{ "type": "deny", "dataPeriod": { "end": "2025" } }]);
        }),
    ];
    for (expected, exceptions, change) in cases {
        let mut resource = research();
        change(&mut resource["provision"]);
        let (effect, _, except) = read(&resource, &known(), DEFAULT).unwrap();
        assert_eq!((effect, except.len()), (expected, exceptions));
    }
}

/// An exception holds where its base does: what it does not say of these, the base has said.
#[test]
fn exception_takes_over_whom_and_what_for_from_its_base() {
    let mut resource = research();
    let base = &mut resource["provision"];
    base["actor"] = base["provision"][0]["actor"].take();
    base["purpose"] = base["provision"][0]["purpose"].take();
    for gone in ["actor", "purpose"] {
        base["provision"][0].as_object_mut().unwrap().remove(gone);
    }
    let (effect, base, except) = read(&resource, &known(), DEFAULT).unwrap();
    assert_eq!(effect, Effect::Deny);
    assert_eq!(except[0].actors, base.actors);
    assert_eq!(except[0].purposes, ["CLINTRCH"]);
}

#[test]
fn what_cannot_be_kept_as_it_is_meant_is_refused() {
    type Fault = fn(&mut Value);
    let faults: [(&str, Fault); 32] = [
        ("SUBSETTED", |all| {
            all["meta"]["tag"] = json!([{ "code": "SUBSETTED" }]);
        }),
        ("HTEST", |all| {
            all["meta"]["security"] = json!([{ "system": ACT_REASON, "code": "HTEST" }]);
        }),
        ("extension", |all| all["meta"]["extension"] = json!([])),
        ("different people", |all| {
            nested(all)["actor"][0]["reference"]["identifier"] =
                json!({ "system": "urn:ietf:rfc:3986", "value": did("vendor").to_string() });
        }),
        // A role beside somebody is not everybody in it.
        ("urn:medanchor:role|researcher", |all| {
            nested(all)["actor"][0]["reference"]["identifier"] =
                json!({ "system": "urn:medanchor:role", "value": "researcher" });
        }),
        ("not in one role", |all| {
            let coding = |code| json!({ "system": "urn:medanchor:role", "code": code });
            all["contained"] = json!([{
                "resourceType": "PractitionerRole", "id": "both",
                "organization": { "reference": "Organization/lab" },
                "code": [{ "coding": [coding("nurse"), coding("clinician")] }],
            }]);
            nested(all)["actor"][0]["reference"]["reference"] = "#both".into();
        }),
        ("scope", |all| {
            all["scope"]["coding"][0]["code"] = "research".into();
        }),
        ("missing", |all| all["policy"] = json!([])),
        ("missing", |all| {
            all.as_object_mut().unwrap().remove("sourceReference");
        }),
        ("performer", |all| {
            all.as_object_mut().unwrap().remove("performer");
        }),
        ("dateTime", |all| all["dateTime"] = "15/01/2026".into()),
        ("modifierExtension", |all| {
            all["modifierExtension"] = json!([{ "url": "http://example.org/not" }]);
        }),
        ("verification", |all| all["verification"] = json!([])),
        ("_status", |all| all["_status"] = json!({})),
        ("maybe", |all| all["provision"]["type"] = "maybe".into()),
        ("class", |all| all["provision"]["class"] = json!([])),
        ("action", |all| nested(all)["action"] = json!([])),
        ("code", |all| nested(all)["code"] = json!([])),
        ("extension", |all| nested(all)["extension"] = json!([])),
        ("exceptions", |all| {
            nested(all)["provision"] = json!([{ "type": "deny" }]);
        }),
        ("only `permit`", |all| nested(all)["type"] = "deny".into()),
        ("everybody", |all| {
            nested(all).as_object_mut().unwrap().remove("actor");
        }),
        ("every purpose", |all| {
            nested(all).as_object_mut().unwrap().remove("purpose");
        }),
        ("--who 'Organization/x=DID'", |all| {
            nested(all)["actor"][0]["reference"]["reference"] = "Organization/x".into();
        }),
        ("IRCP", |all| {
            nested(all)["actor"][0]["role"]["coding"][0]["code"] = "CST".into();
        }),
        ("not contained", |all| {
            nested(all)["actor"][0]["reference"]["reference"] = "#role".into();
        }),
        ("FooBar", |all| {
            nested(all)["purpose"][0]["code"] = "FooBar".into();
        }),
        ("purpose", |all| {
            nested(all)["purpose"][0]["system"] = "http://example.org".into();
        }),
        ("labelled `R`", |all| {
            nested(all)["securityLabel"][0]["code"] = "R".into();
        }),
        ("no data class", |all| {
            nested(all)["securityLabel"][1]["code"] = "aura".into();
        }),
        ("related", |all| {
            nested(all)["data"][0]["meaning"] = "related".into();
        }),
        ("begins", |all| {
            nested(all)["period"]["end"] = "2025".into();
        }),
    ];
    for (expected, fault) in faults {
        let mut resource = research();
        fault(&mut resource);
        let problem = read(&resource, &known(), DEFAULT).unwrap_err();
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
}

/// Two labels of a denial could mean either of them: it would deny less than was meant.
#[test]
fn denial_by_class_and_another_label_is_refused() {
    let mut resource = research();
    resource["provision"] = json!({
        "type": "deny",
        "securityLabel": nested(&mut research())["securityLabel"],
    });
    let problem = read(&resource, &known(), DEFAULT).unwrap_err();
    assert!(problem.contains("denies data by class"), "{problem}");
}

fn ended(resource: &Value) -> Ended {
    serde_json::from_value(resource.clone()).unwrap()
}

#[test]
fn resource_is_the_same_consent_each_time_and_another_for_another_patient_or_server() {
    let resource = ended(&research());
    let id = |server, custody| consent_id(&resource, server, &custody_id(custody)).unwrap();
    assert_eq!(id("", "patient-1"), id("", "patient-1"));
    assert_ne!(id("", "patient-1"), id("", "patient-2"));
    assert_ne!(id("", "patient-1"), id("clinic", "patient-1"));
    let mut named = research();
    let own = json!({ "system": "urn:medanchor:consent", "value": "07".repeat(16) });
    named["identifier"] = json!([own]);
    let read = |resource: &Value| consent_id(&ended(resource), "", &custody_id("patient-1"));
    assert_eq!(read(&named).unwrap().as_slice(), [7; 16]);
    named["identifier"] = json!([own, own]);
    assert!(read(&named).is_err());
    let mut nameless = research();
    nameless.as_object_mut().unwrap().remove("id");
    let problem = read(&nameless).unwrap_err().to_string();
    assert!(problem.contains("no `id`"), "{problem}");
}

/// Whatever else a server left out or wrote beside it.
#[test]
fn end_of_a_consent_is_read_from_little() {
    let mut resource = research();
    resource["status"] = "inactive".into();
    resource["extension"] = json!([{ "url": "http://example.org/why" }]);
    resource.as_object_mut().unwrap().remove("provision");
    assert_eq!(ended(&resource).status, "inactive");
}

#[test]
fn patient_is_said_once() {
    let patient = ended(&research()).patient;
    assert!(custody(&patient, None).is_err());
    let given = Some(custody_id("patient-1"));
    assert_eq!(custody(&patient, given).ok(), given);
    let mut own = research();
    own["patient"]["identifier"] = json!({
        "system": "urn:medanchor:custody",
        "value": custody_id("patient-2").to_string(),
    });
    let patient = ended(&own).patient;
    assert!(custody(&patient, given).is_err());
    assert_eq!(custody(&patient, None).ok(), Some(custody_id("patient-2")));
}

#[test]
fn who_is_meant_is_a_reference_and_a_did() {
    let lab = did("lab");
    let read = who(&format!("Organization/lab={lab}"));
    assert_eq!(read, Ok(("Organization/lab".to_owned(), lab)));
    for text in ["", "x", "x=", "x=did:web:x", &format!("={lab}")] {
        assert!(who(text).is_err(), "{text}");
    }
}

#[test]
fn purposes_are_hl7_codes() {
    for code in ["TREAT", "HRESCH", "PATRQT", "HMARKT", "SYSDEV"] {
        assert!(check_purpose(code).is_ok(), "{code}");
    }
    for code in ["", "treat", "FUN"] {
        assert!(check_purpose(code).is_err(), "{code}");
    }
}

fn nested(all: &mut Value) -> &mut Value {
    &mut all["provision"]["provision"][0]
}

const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";

fn any_period() -> impl Strategy<Value = Period> {
    let moment = || proptest::option::of(0..253_402_300_800_000_u64);
    (moment(), moment()).prop_map(|(one, other)| match (one, other) {
        (Some(one), Some(other)) => Period {
            from: Some(one.min(other)),
            until: Some(one.max(other)),
        },
        (from, until) => Period { from, until },
    })
}

fn any_actor() -> impl Strategy<Value = Actor> {
    let party = proptest::option::of(select(vec!["lab", "clara", "vendor"]));
    let role = proptest::option::of(select(vec!["clinician", "researcher"]));
    (party, role).prop_map(|(party, role)| Actor {
        party: party.or(role.is_none().then_some("lab")).map(did),
        role: role.map(str::to_owned),
    })
}

prop_compose! {
    fn any_provision()(
        actors in prop::collection::vec(any_actor(), 1..4),
        purposes in prop::sample::subsequence(vec!["TREAT", "HRESCH", "BTG"], 1..3),
        classes in prop::sample::subsequence(vec![Class::Ecg, Class::Log, Class::Imaging], 0..3),
        devices in prop::sample::subsequence(vec!["holter", "pump"], 0..2),
        captured in any_period(),
        valid in any_period(),
    ) -> Provision {
        Provision {
            actors,
            purposes: purposes.into_iter().map(str::to_owned).collect(),
            classes,
            devices: devices.into_iter().map(did).collect(),
            captured,
            valid,
        }
    }
}

prop_compose! {
    fn any_consent()(
        effect in select(vec![Effect::Permit, Effect::Deny, Effect::Silent]),
        base in any_provision(),
        is_for_all in any::<bool>(),
        except in prop::collection::vec(any_provision(), 1..4),
        with_exceptions in any::<bool>(),
    ) -> Consented {
        let mut given = consented("study", "patient-1", "lab", "HRESCH");
        given.effect = effect;
        given.provision = match (effect, is_for_all) {
            (Effect::Silent, _) | (Effect::Deny, true) => Provision::default(),
            _ => base,
        };
        if with_exceptions || effect == Effect::Silent {
            given.except = except;
        }
        given
    }
}

proptest! {
    #[test]
    fn every_consent_goes_out_and_comes_in_the_same(given in any_consent()) {
        let mut contained = Contained::new(BTreeSet::from([did("lab"), did("vendor")]));
        let provision = contained.base(&given);
        let mut resource = research();
        resource["contained"] = serde_json::to_value(&contained.roles).unwrap();
        resource["provision"] = serde_json::to_value(&provision).unwrap();
        resource["category"] = serde_json::to_value(categories(&given)).unwrap();
        let meaning = read(&resource, &[], None).unwrap();
        prop_assert_eq!(meaning, (given.effect, given.provision, given.except));
    }

    /// Something in a good resource is something else.
    #[test]
    fn any_json_is_a_consent_or_an_error(
        at in any::<prop::sample::Index>(),
        other in select(vec![json!(null), json!(7), json!("x"), json!([]), json!({}), json!([{}])]),
    ) {
        let mut resource = research();
        let places = places(&resource, "");
        let place = &places[at.index(places.len())];
        *resource.pointer_mut(place).unwrap() = other;
        if let Ok((effect, base, except)) = read(&resource, &known(), DEFAULT) {
            // Whatever became of it, nothing is permitted to everybody or for everything.
            let permitting = match effect {
                Effect::Permit => vec![base],
                Effect::Deny | Effect::Silent => except,
            };
            for provision in permitting {
                prop_assert!(!provision.actors.is_empty() && !provision.purposes.is_empty());
            }
        }
    }
}

/// A JSON pointer to each value in it.
fn places(value: &Value, at: &str) -> Vec<String> {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(n, value)| (n.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    let below = below.into_iter().flat_map(|(name, value)| {
        let place = format!("{at}/{name}");
        let mut places = places(value, &place);
        places.push(place);
        places
    });
    below.collect()
}
