use crate::stage::{Stage, assert_refused, did, done};

/// What a device is goes into its enrolment; its serial number as a commitment that only who has the salt can open.
#[test]
fn device_is_enrolled_with_what_it_is_and_shows_its_serial_number() {
    let stage = Stage::start(1);
    let device = stage.network.invite(0, "holter").unwrap();
    let who = did(&device);
    let enrol = [
        "device",
        "enrol",
        &who,
        "--role",
        "device",
        "--manufacturer",
        "Acme",
        "--model",
        "Holter 7",
        "--udi",
        "00844588003288",
        "--firmware",
        "4.2.1",
        "--serial",
        "HX-0042",
    ];
    let enrolled = done(stage.hospital.run(enrol));
    let salt = enrolled.text("serial_salt").unwrap();
    let listed = done(stage.hospital.run(["device", "list"]));
    let rows = listed.json["principals"].as_array().unwrap();
    let row = rows.iter().find(|row| row["did"] == who.as_str()).unwrap();
    assert_eq!(row["device"]["udi"], "00844588003288");
    assert_eq!(row["device"]["firmware"], "4.2.1");
    assert!(!listed.json.to_string().contains("HX-0042"));

    let serial = |serial: &str, salt: &str| {
        let serial = ["device", "serial", &who, serial, "--salt", salt];
        stage.hospital.run(serial).unwrap()
    };
    let shown = done(Ok(serial("HX-0042", &salt)));
    assert_eq!(shown.json["serial"], row["device"]["serial"]);
    assert_refused(&serial("HX-0043", &salt), 4, "not-verified");
    assert_refused(&serial("HX-0042", &"00".repeat(16)), 4, "not-verified");

    // People have no serial numbers.
    let person = did(&stage.network.invite(0, "nurse").unwrap());
    let person = [
        "person", "enrol", &person, "--role", "nurse", "--serial", "1",
    ];
    assert_refused(&stage.hospital.run(person).unwrap(), 2, "usage");
}
