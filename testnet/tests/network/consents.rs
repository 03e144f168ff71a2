use crate::stage::{Stage, assert_refused, did, done, enrol};
use medanchor_testnet::{Home, Ran};
use serde_json::{Value, json};
use std::fs;

/// A record of the patient's, and a researcher who asks for it.
struct Asked {
    stage: Stage,
    device: Home,
    record: String,
    researcher: Home,
}

impl Asked {
    fn start() -> Self {
        let stage = Stage::start(3);
        let device = stage.device("holter");
        let record = done(Ok(stage.put(&device, &stage.file("payload", b"one beat"))));
        let researcher = stage.network.invite(0, "researcher").unwrap();
        enrol(&stage.hospital, "person", &researcher, "researcher");
        Self {
            record: record.text("record").unwrap(),
            stage,
            device,
            researcher,
        }
    }
}

/// What somebody denies is denied to whoever asks, until that is withdrawn.
#[test]
fn denial_closes_what_policies_and_other_consents_permit() {
    let Asked {
        stage,
        device,
        record,
        researcher,
    } = Asked::start();
    let give = |more: &[&str]| {
        let give = ["consent", "give", &stage.custody];
        let given = done(stage.hospital.run(give.iter().chain(more).copied()));
        given.text("consent").unwrap()
    };
    let ask = |who: &Home, purpose: &str| {
        let request = ["request", &record, "--purpose", purpose];
        who.run(request).unwrap()
    };
    let assert_denied = |ran: &Ran| assert_refused(ran, 3, "consent-denied");

    // In the role, whoever acts in it.
    give(&["--role", "researcher", "--purpose", "HRESCH"]);
    done(Ok(ask(&researcher, "CLINTRCH")));
    stage.read(&record);
    let maker = did(&device);
    let denial = give(&["--deny", "--device", &maker]);
    assert_denied(&ask(&researcher, "CLINTRCH"));
    assert_denied(&ask(&stage.clinician, "TREAT"));
    // The same consent again, with what is excepted.
    let clinician = format!("party={},purpose=TREAT", did(&stage.clinician));
    let again = give(&[
        "--deny",
        "--device",
        &maker,
        "--except",
        &clinician,
        "--replace",
        &denial,
    ]);
    assert_eq!(again, denial);
    stage.read(&record);
    assert_denied(&ask(&researcher, "HRESCH"));
    let shown = done(
        stage
            .hospital
            .run(["consent", "show", &stage.custody, &denial]),
    );
    assert_eq!(shown.json["effect"], "deny");
    assert_eq!(shown.json["devices"], json!([maker]));
    assert_eq!(shown.json["except"][0]["purposes"], json!(["TREAT"]));
    done(
        stage
            .hospital
            .run(["consent", "withdraw", &stage.custody, &denial]),
    );
    done(Ok(ask(&researcher, "HRESCH")));
    let unknown = "00112233445566778899aabbccddeeff";
    let show = ["consent", "show", &stage.custody, unknown];
    assert_refused(&stage.hospital.run(show).unwrap(), 2, "usage");
}

/// A hospital's FHIR resource becomes a consent, its next version replaces it, and what goes out comes in the same.
#[test]
fn fhir_consent_comes_in_and_goes_out() {
    let Asked {
        stage,
        device,
        record,
        researcher,
    } = Asked::start();
    let ask = || {
        let request = ["request", &record, "--purpose", "HRESCH"];
        researcher.run(request).unwrap()
    };
    let mut resource: Value = serde_json::from_str(include_str!(
        "../../../crates/cli/src/consent/research.json"
    ))
    .unwrap();
    let nested = &mut resource["provision"]["provision"][0];
    nested["purpose"][0]["code"] = "HRESCH".into();
    for period in ["period", "dataPeriod"] {
        nested.as_object_mut().unwrap().remove(period);
    }
    let file = stage.path("consent.json");
    let import = |resource: &Value, more: &[&str]| {
        fs::write(&file, resource.to_string()).unwrap();
        let import = ["consent", "import", file.to_str().unwrap()];
        stage
            .hospital
            .run(import.iter().chain(more).copied())
            .unwrap()
    };
    let lab = format!("Organization/lab={}", did(&researcher));
    let maker = format!("Device/holter={}", did(&device));
    let who = [
        "--custody",
        &stage.custody,
        "--default",
        "--who",
        &lab,
        "--who",
        &maker,
    ];

    let unclear = import(&resource, &who[..2]);
    assert_refused(&unclear, 2, "usage");
    assert!(unclear.errors.contains("--dissent"), "{}", unclear.errors);
    let unknown = import(&resource, &who[..5]);
    assert_refused(&unknown, 2, "usage");
    assert!(
        unknown.errors.contains("--who 'Device/holter"),
        "{}",
        unknown.errors
    );
    let given = done(Ok(import(&resource, &who)));
    let consent = given.text("consent").unwrap();
    done(Ok(ask()));
    stage.read(&record);

    // The log shows it, and it is the same resource in another's hands.
    let exported = stage.path("exported.json");
    let export = ["consent", "export", &stage.custody, &consent, "--out"];
    let out = [exported.to_str().unwrap()];
    done(stage.hospital.run(export.iter().chain(&out).copied()));
    let mut exported: Value = serde_json::from_slice(&fs::read(exported).unwrap()).unwrap();
    assert_eq!(exported["status"], "active");
    let sent = &resource["provision"]["provision"][0];
    let came = &exported["provision"]["provision"][0];
    assert_eq!(
        (&came["type"], &came["purpose"]),
        (&sent["type"], &sent["purpose"])
    );
    let again = done(Ok(import(&exported, &[])));
    assert_eq!(again.text("consent").unwrap(), consent);
    done(Ok(ask()));

    // Its next version permits something else, and the last one nothing any more.
    resource["provision"]["provision"][0]["purpose"][0]["code"] = "CLINTRCHPC".into();
    let next = done(Ok(import(&resource, &who)));
    assert_eq!(next.text("consent").unwrap(), consent);
    assert_refused(&ask(), 3, "purpose-not-covered");
    exported["status"] = "inactive".into();
    done(Ok(import(&exported, &[])));
    let listed = done(stage.hospital.run(["consent", "list", &stage.custody]));
    assert_eq!(listed.json["consents"].as_array().unwrap().len(), 1);
    assert_eq!(listed.json["consents"][0]["withdrawn"], true);
    assert_refused(&import(&exported, &[]), 2, "usage");
    let show = ["consent", "export", &stage.custody, &consent];
    let shown = done(stage.hospital.run(show));
    assert_eq!(shown.json["resource"]["status"], "inactive");
}
