//! A second factor: enrolled, shown once, and asked for by the policies.

use crate::stage::{Stage, assert_refused, copy_folder, did, done, get, set_policies};
use medanchor_testnet::{Authenticator, Home};
use std::{fs, path::Path};

/// A factor of `who`'s, which its app has, and which is in the log.
fn enrol(stage: &Stage, who: &str) -> (Authenticator, String) {
    let made = done(stage.hospital.run(["factor", "new", who]));
    let [factor, node, uri] = ["factor", "node", "uri"].map(|field| made.text(field).unwrap());
    let app = Authenticator::scan(&uri).unwrap();
    let confirm = |code: &str| {
        let confirm = ["factor", "confirm", who, &factor, code, "--at", &node];
        stage.hospital.run(confirm)
    };
    let size = stage.tree_size();
    let wrong = if app.code(0).unwrap() == "000000" {
        "000001"
    } else {
        "000000"
    };
    assert_refused(&confirm(wrong).unwrap(), 3, "wrong-code");
    assert_eq!(stage.tree_size(), size, "nothing is in the log");
    done(confirm(&app.code(0).unwrap()));
    (app, factor)
}

/// A key and a certificate that were copied, without what was shown of a second factor.
fn thief(stage: &Stage, of: &Home) -> Home {
    let folder = stage.path("thief");
    copy_folder(of.path(), &folder);
    fs::remove_file(folder.join("second-factor")).unwrap();
    Home::new(folder, Path::new(crate::stage::PROGRAM))
}

#[test]
fn key_is_released_to_whoever_shows_a_second_factor_and_to_no_thief_of_the_first() {
    let stage = Stage::start(3);
    let device = stage.device("holter");
    let put = |name: &str| {
        let put = done(Ok(stage.put(&device, &stage.file(name, name.as_bytes()))));
        put.text("record").unwrap()
    };
    let [one, two, three] = ["one", "two", "three"].map(put);
    let shown = stage.path("shown");
    let show = [
        "admin",
        "access-policy",
        "show",
        "--output",
        shown.to_str().unwrap(),
    ];
    done(stage.hospital.run(show));
    let mut policies = fs::read_to_string(shown.join("policies.cedar")).unwrap();
    policies += r#"
        @id("second-factor")
        forbid (principal, action, resource)
        when { context.role == "clinician" }
        unless { context.secondFactor };
    "#;
    set_policies(
        &stage,
        Some(&stage.file("strict.cedar", policies.as_bytes())),
    );

    let copy = stage.path("copy");
    let denied = get(&stage.clinician, &one, "TREAT", &copy).unwrap();
    assert_refused(&denied, 3, "second-factor-required");
    assert!(denied.errors.contains("second factor"), "{}", denied.errors);

    let who = did(&stage.clinician);
    let (app, factor) = enrol(&stage, &who);
    let listed = done(stage.clinician.run(["factor", "list", &who]));
    assert_eq!(listed.json["factors"][0]["factor"], factor.as_str());
    // It counts once it is shown, and no code twice: this one confirmed the enrolment.
    let denied = get(&stage.clinician, &one, "TREAT", &copy).unwrap();
    assert_refused(&denied, 3, "second-factor-required");
    let verify = |code: String| stage.clinician.run(["factor", "verify", &code]);
    assert_refused(&verify(app.code(0).unwrap()).unwrap(), 3, "wrong-code");
    let shown = done(verify(app.code(1).unwrap()));
    assert_eq!(shown.json["factor"], factor.as_str());
    let got = done(get(&stage.clinician, &one, "TREAT", &copy));
    assert_eq!(fs::read(&copy).unwrap(), b"one");
    // The log shows it to whoever decides again.
    let leaf = got.json["leaf_index"].as_u64().unwrap().to_string();
    let explained = done(stage.hospital.run(["audit", "explain", &leaf]));
    assert_eq!(explained.json["agreement"], "same", "{}", explained.json);

    let thief = thief(&stage, &stage.clinician);
    let stolen = stage.path("stolen");
    let denied = get(&thief, &two, "TREAT", &stolen).unwrap();
    assert_refused(&denied, 3, "second-factor-required");
    assert_refused(
        &thief
            .run(["factor", "verify", &app.code(1).unwrap()])
            .unwrap(),
        3,
        "wrong-code",
    );
    assert!(!stolen.exists());

    // Any node takes a code, and has the one look at it that can.
    let (app, other) = enrol(&stage, &who);
    let node = stage.network.nodes[1].name.clone();
    let code = app.code(1).unwrap();
    let elsewhere = [
        "--node", &node, "factor", "verify", &code, "--factor", &other,
    ];
    let shown = done(stage.clinician.run(elsewhere));
    assert_eq!(shown.json["factor"], other.as_str());
    done(get(&stage.clinician, &two, "TREAT", &copy));

    // What was removed counts no longer, also what was shown before.
    done(stage.hospital.run(["factor", "remove", &who, &other]));
    let denied = get(&stage.clinician, &three, "TREAT", &copy).unwrap();
    assert_refused(&denied, 3, "second-factor-required");
}
