//! The example in `docs/formats.md` is what this crate reads.

use medanchor_secrets::{Passphrase, is_protected, open};
use zeroize::Zeroizing;

#[test]
fn key_file_of_the_manual_opens() {
    let (_, after) = FORMATS.split_once("```text key file\n").unwrap();
    let (example, _) = after.split_once("```").unwrap();
    let passphrase = Zeroizing::new("correct horse battery staple".to_owned());
    let passphrase = Passphrase::new(passphrase).unwrap();
    assert!(is_protected(example.as_bytes()));
    let text = open(example.as_bytes(), &passphrase).unwrap();
    assert_eq!(*text, "typage made this\n");
}

const FORMATS: &str = include_str!("../../../docs/formats.md");
