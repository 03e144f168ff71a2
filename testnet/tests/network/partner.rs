use crate::stage::{Stage, assert_refused, did, done, enrol};
use medanchor_testnet::{Home, Ran};
use std::{collections::BTreeSet, fs};

/// A partner that names no record gets those that it may have, and does not hear of any other.
#[test]
fn partner_gets_a_class_a_custody_key_and_a_period_of_what_it_may_have() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let institute = stage.network.invite(0, "institute").unwrap();
    enrol(&stage.hospital, "org", &institute, "researcher");
    let researcher = stage.network.invite(0, "researcher").unwrap();
    enrol(&institute, "person", &researcher, "researcher");
    let custody = |kind: &str| {
        let made = done(stage.hospital.run(["custody", "new", "--kind", kind]));
        made.text("custody").unwrap()
    };
    let (other_patient, open) = (custody("person"), custody("open"));
    let put = |name: &str, custody: &str, class: &str, captured_at: &str| {
        let file = stage.file(name, name.as_bytes());
        let arguments = ["put", file.to_str().unwrap(), "--custody", custody];
        let more = ["--class", class, "--captured-at", captured_at];
        let ran = device.run(arguments.into_iter().chain(more));
        done(ran).text("record").unwrap()
    };
    let (march, april) = ("1772323200000", "1775001600000");
    let ecg_march = put("ecg-march", &stage.custody, "waveform.ecg", march);
    let ecg_april = put("ecg-april", &stage.custody, "waveform.ecg", april);
    let telemetry = put("telemetry", &stage.custody, "telemetry", april);
    let theirs = put("theirs", &other_patient, "waveform.ecg", march);
    let published = put("published", &open, "waveform.ecg", march);
    let party = did(&institute);
    let consent = ["consent", "give", &stage.custody, "--party", &party];
    let scope = ["--purpose", "HRESCH", "--class", "waveform.ecg"];
    let given = done(stage.hospital.run(consent.into_iter().chain(scope)));

    let all = [&ecg_march, &ecg_april, &published];
    let by_class = ["--class", "waveform.ecg"];
    for (name, what, expected) in [
        ("class", &by_class[..], &all[..]),
        ("no-class", &["--class", "telemetry"], &[]),
        ("custody", &["--custody", &stage.custody], &all[..2]),
        ("open", &["--custody", &open], &all[2..]),
        ("from", &["--from", "2026-04-01"], &all[1..2]),
        ("until", &["--until", "2026-04-01"], &[all[0], all[2]]),
        (
            "all-of-it",
            &[
                "--custody",
                &stage.custody,
                "--class",
                "waveform.ecg",
                "--from",
                "2026-03-01",
                "--until",
                "2026-03-02",
            ],
            &all[..1],
        ),
        // What it may not have reads as what there is not.
        ("theirs", &["--custody", &other_patient], &[]),
        (
            "nobodys",
            &["--custody", "00112233445566778899aabbccddeeff"],
            &[],
        ),
    ] {
        assert_got(&stage, &researcher, name, what, "HRESCH", expected);
    }
    let payload = fs::read(stage.path("into-class").join(&ecg_april)).unwrap();
    assert_eq!(payload, b"ecg-april");
    // Every file has its line, and no other record has one.
    let manifest = fs::read_to_string(stage.path("into-class/manifest.jsonl")).unwrap();
    assert_eq!(manifest.lines().count(), 3, "{manifest}");
    assert!(!manifest.contains(&theirs) && !manifest.contains(&telemetry));

    // Consent is for a purpose. What there is no purpose for is not even asked for.
    assert_got(
        &stage,
        &researcher,
        "marketing",
        &by_class,
        "HMARKT",
        &all[2..],
    );
    let ran = get(&stage, &researcher, "purposeless", &by_class, None);
    assert_refused(&ran, 2, "usage");
    // Whoever is not enrolled has nothing; a clinician has what is for treatment.
    let stranger = stage.network.invite(0, "stranger").unwrap();
    let more = [&by_class[..], &["--role", "researcher"]].concat();
    let ran = get(&stage, &stranger, "stranger", &more, Some("HRESCH"));
    assert_refused(&ran, 3, "not-listed");
    let treated = [&ecg_march, &ecg_april, &theirs, &published];
    assert_got(
        &stage,
        &stage.clinician,
        "treated",
        &by_class,
        "TREAT",
        &treated,
    );

    // What was withdrawn is not listed any more, and neither is what comes later.
    let consent = given.text("consent").unwrap();
    let withdraw = ["consent", "withdraw", &stage.custody, &consent];
    done(stage.hospital.run(withdraw));
    put("later", &stage.custody, "waveform.ecg", march);
    assert_got(
        &stage,
        &researcher,
        "withdrawn",
        &by_class,
        "HRESCH",
        &all[2..],
    );
}

fn get(stage: &Stage, reader: &Home, into: &str, what: &[&str], purpose: Option<&str>) -> Ran {
    let into = stage.path(&format!("into-{into}"));
    let purpose = purpose.map(|purpose| ["--purpose", purpose]);
    let arguments = ["get", "--into", into.to_str().unwrap()];
    let arguments = arguments.into_iter().chain(purpose.into_iter().flatten());
    reader.run(arguments.chain(what.iter().copied())).unwrap()
}

/// Exactly these records come into the folder.
#[track_caller]
fn assert_got(
    stage: &Stage,
    reader: &Home,
    into: &str,
    what: &[&str],
    purpose: &str,
    expected: &[&String],
) {
    let ran = get(stage, reader, into, what, Some(purpose));
    if expected.is_empty() {
        assert_refused(&ran, 2, "usage");
    } else {
        assert_eq!(ran.code, 0, "{into}: {}{}", ran.errors, ran.json);
    }
    let files = fs::read_dir(stage.path(&format!("into-{into}"))).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let got: BTreeSet<String> = files.filter(|name| name != "manifest.jsonl").collect();
    let expected: BTreeSet<String> = expected.iter().copied().cloned().collect();
    assert_eq!(got, expected, "{into}");
}
