//! The user's keys under a passphrase: every way to give one, and to change it.

#![expect(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

#[test]
fn key_without_terminal_and_passphrase_is_not_made() {
    let place = Place::new();
    let refused = place.run(&["key", "new"], None);
    assert_eq!(refused.code, 2, "{}", refused.errors);
    for way in [
        "--passphrase-file",
        "MEDANCHOR_PASSPHRASE_FILE",
        "terminal",
        "--no-passphrase",
    ] {
        assert!(refused.errors.contains(way), "{}", refused.errors);
    }
    assert!(!place.identity().exists());
    let short = place.file("short", "eleven char\n");
    let refused = place.run(&["key", "new"], Some(&short));
    assert_eq!(refused.code, 2, "{}", refused.errors);
    assert!(
        refused.errors.contains("12 characters"),
        "{}",
        refused.errors
    );
    assert!(!place.identity().exists());
}

#[test]
fn key_under_a_passphrase_opens_with_it_alone() {
    let place = Place::new();
    let right = place.file("right", "correct horse battery\n");
    let made = place.run(&["key", "new"], Some(&right));
    assert_eq!(made.code, 0, "{}", made.errors);
    assert_eq!(made.json["passphrase"], true);
    let kept = fs::read_to_string(place.identity()).unwrap();
    assert!(
        kept.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"),
        "{kept}"
    );
    let mode = fs::metadata(place.identity()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let option = ["--passphrase-file", right.to_str().unwrap(), "key", "show"];
    for shown in [
        place.run(&["key", "show"], Some(&right)),
        place.run(&option, None),
    ] {
        assert_eq!(shown.json["did"], made.json["did"], "{}", shown.errors);
    }
    let silent = place.run(&["key", "show"], None);
    assert_eq!(silent.code, 2, "{}", silent.errors);
    assert!(
        silent.errors.contains("MEDANCHOR_PASSPHRASE_FILE"),
        "{}",
        silent.errors
    );
    let wrong = place.run(
        &["key", "show"],
        Some(&place.file("wrong", "correct house battery")),
    );
    assert_eq!(
        (wrong.code, &wrong.json["code"]),
        (1, &"wrong-passphrase".into())
    );
    assert!(!wrong.errors.contains("house"), "{}", wrong.errors);
    let absent = place.run(&["key", "show"], Some(&place.0.path().join("absent")));
    assert_eq!(absent.code, 1, "{}", absent.errors);
    assert!(absent.errors.contains("absent"), "{}", absent.errors);
}

#[test]
fn passphrase_is_added_changed_and_removed_and_the_keys_stay_the_same() {
    let place = Place::new();
    let made = place.run(&["key", "new", "--no-passphrase"], None);
    assert_eq!((made.code, &made.json["passphrase"]), (0, &false.into()));
    let plain = fs::read_to_string(place.identity()).unwrap();
    let (one, two) = (
        place.file("one", "the first passphrase"),
        place.file("two", "the second one"),
    );
    let short = place.file("short", "short");

    let refused = place.run(&["key", "passphrase"], None);
    assert_eq!(refused.code, 2, "{}", refused.errors);
    assert!(
        refused.errors.contains("--new-passphrase-file"),
        "{}",
        refused.errors
    );
    let change = |new: &Path, current| {
        let arguments = [
            "key",
            "passphrase",
            "--new-passphrase-file",
            new.to_str().unwrap(),
        ];
        place.run(&arguments, current)
    };
    let added = change(&one, None);
    assert_eq!((added.code, &added.json["passphrase"]), (0, &true.into()));
    assert_eq!(change(&two, Some(&two)).json["code"], "wrong-passphrase");
    assert_eq!(change(&short, Some(&one)).code, 2);
    assert_eq!(
        place.run(&["key", "show"], Some(&one)).json["did"],
        made.json["did"]
    );
    assert_eq!(change(&two, Some(&one)).code, 0);
    assert_eq!(
        place.run(&["key", "show"], Some(&one)).json["code"],
        "wrong-passphrase"
    );
    let removed = place.run(&["key", "passphrase", "--no-passphrase"], Some(&two));
    assert_eq!(
        (removed.code, &removed.json["passphrase"]),
        (0, &false.into())
    );
    assert_eq!(fs::read_to_string(place.identity()).unwrap(), plain);
}

#[test]
fn terminal_is_asked_for_the_passphrase_without_echo() {
    let place = Place::new();
    let typed = "typed at a terminal\n";
    let said = place.at_a_terminal("key new", &[("New passphrase", typed), ("again", typed)]);
    assert!(said.contains("did:key:"), "{said}");
    assert!(said.contains("safe"), "{said}");
    assert!(!said.contains("typed at"), "{said}");
    let shown = place.at_a_terminal("key show", &[("Passphrase", typed)]);
    assert!(shown.contains("did:key:"), "{shown}");
    let shown = place.at_a_terminal("key show", &[("Passphrase", "something else\n")]);
    assert!(shown.contains("is wrong"), "{shown}");

    let other = Place::new();
    let said = other.at_a_terminal("key new", &[("New", typed), ("again", "typed otherwise\n")]);
    assert!(said.contains("differ"), "{said}");
    assert!(!other.identity().exists());
}

/// A folder with a home in it.
struct Place(TempDir);

struct Ran {
    code: i32,
    json: Value,
    errors: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    fn identity(&self) -> PathBuf {
        self.home().join("identity.toml")
    }

    /// A file that its owner alone may read.
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn run(&self, arguments: &[&str], passphrase_file: Option<&Path>) -> Ran {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--json")
            .arg("--home")
            .arg(self.home())
            .args(arguments);
        match passphrase_file {
            Some(file) => command.env(VARIABLE, file),
            None => command.env_remove(VARIABLE),
        };
        let Output {
            status,
            stdout,
            stderr,
        } = command.stdin(Stdio::null()).output().unwrap();
        Ran {
            code: status.code().unwrap(),
            json: serde_json::from_slice(&stdout).unwrap(),
            errors: String::from_utf8(stderr).unwrap(),
        }
    }

    /// What stands on a terminal on which each prompt is answered, once the echo is off.
    fn at_a_terminal(&self, line: &str, answers: &[(&str, &str)]) -> String {
        let home = self.home();
        let line = format!("tty; exec '{PROGRAM}' --home '{}' {line}", home.display());
        let mut terminal = Command::new("script")
            .args(["--quiet", "--command", &line, "/dev/null"])
            .env_remove(VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut keyboard, mut screen) = (
            terminal.stdin.take().unwrap(),
            terminal.stdout.take().unwrap(),
        );
        let mut read_to = |said: &mut Vec<u8>, is_reached: &dyn Fn(&str) -> bool| {
            let before = said.len();
            while !is_reached(&String::from_utf8_lossy(said.get(before..).unwrap())) {
                let mut byte = [0];
                screen.read_exact(&mut byte).unwrap();
                said.extend(byte);
            }
        };
        let mut device = Vec::new();
        read_to(&mut device, &|said| said.ends_with('\n'));
        let device = String::from_utf8(device).unwrap();
        let mut said = Vec::new();
        for (prompt, answer) in answers {
            read_to(&mut said, &|said| {
                said.contains(prompt) && said.ends_with(": ")
            });
            wait_for_no_echo(device.trim());
            keyboard.write_all(answer.as_bytes()).unwrap();
        }
        screen.read_to_end(&mut said).unwrap();
        terminal.wait().unwrap();
        String::from_utf8(said).unwrap()
    }
}

/// The prompt is written before the echo is turned off.
fn wait_for_no_echo(device: &str) {
    loop {
        let modes = Command::new("stty")
            .args(["--file", device, "--all"])
            .output()
            .unwrap();
        assert!(modes.status.success(), "stty of {device:?}");
        if String::from_utf8(modes.stdout).unwrap().contains(" -echo ") {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_medanchor");
const VARIABLE: &str = "MEDANCHOR_PASSPHRASE_FILE";
