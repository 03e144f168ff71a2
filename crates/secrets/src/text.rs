use crate::{OpenError, Passphrase, age, armor};
use zeroize::Zeroizing;

/// How the text of a key file is kept.
#[derive(Clone, Copy, Debug)]
pub enum Protection<'a> {
    /// As it is: whoever may read the file has the key.
    Plain,
    /// Under this passphrase.
    Passphrase(&'a Passphrase),
}

/// What the file is to hold. Of a text of at most 64 KiB; it takes about a second and 256 MiB of memory.
///
/// # Errors
///
/// When the operating system gives no random bytes: try again.
pub fn protect(
    text: &str,
    protection: Protection<'_>,
) -> Result<Zeroizing<String>, getrandom::Error> {
    Ok(Zeroizing::new(match protection {
        Protection::Plain => text.to_owned(),
        Protection::Passphrase(passphrase) => {
            armor::armor(&age::seal(text.as_bytes(), passphrase, LOG_N)?)
        }
    }))
}

/// Whether a file with this content is under a passphrase.
pub fn is_protected(content: &[u8]) -> bool {
    armor::is_armored(content) || age::is_age(content)
}

/// The text of what [`protect`] made under a passphrase, or any program that writes age files.
///
/// # Errors
///
/// Says whether the passphrase is wrong, or the file cannot be used.
pub fn open(content: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<String>, OpenError> {
    let opened = match armor::is_armored(content) {
        true => age::open(&armor::dearmor(content)?, passphrase),
        false => age::open(content, passphrase),
    }?;
    let text = str::from_utf8(&opened).map_err(|_| OpenError::Malformed("it holds no text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The largest content that can be opened.
pub const MAX_BYTES: u64 = 128 * 1024;
/// The usual work factor of age.
const LOG_N: u8 = 18;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    #[test]
    fn plain_text_stays_as_it_is_and_protected_text_does_not_show() {
        let plain = protect("a secret\n", Protection::Plain).unwrap();
        assert_eq!(*plain, "a secret\n");
        assert!(!is_protected(plain.as_bytes()));
        let key = passphrase("correct horse");
        let protected = protect("a secret\n", Protection::Passphrase(&key)).unwrap();
        assert!(is_protected(protected.as_bytes()));
        assert!(!protected.contains("secret"));
        assert_eq!(*open(protected.as_bytes(), &key).unwrap(), "a secret\n");
    }

    /// `tests/vectors/README.md` says how they were made.
    #[test]
    fn files_of_other_programs_are_opened() {
        for (armored, key, text) in [
            (TYPAGE, "correct horse battery staple", "typage made this\n"),
            (PYRAGE, "naïve cæsar, 馬", "pyrage made this\n"),
        ] {
            assert!(is_protected(armored));
            assert_eq!(*open(armored, &passphrase(key)).unwrap(), text);
            let binary = armor::dearmor(armored).unwrap();
            assert!(is_protected(&binary));
            assert_eq!(*open(&binary, &passphrase(key)).unwrap(), text);
            let wrong = open(armored, &passphrase("correct horse")).unwrap_err();
            assert_eq!(wrong, OpenError::WrongPassphrase);
        }
    }

    #[test]
    fn armor_is_strict() {
        let text = str::from_utf8(TYPAGE).unwrap();
        let binary = armor::dearmor(TYPAGE).unwrap();
        assert_eq!(armor::armor(&binary), text);
        let crlf = text.replace('\n', "\r\n");
        for good in [text.trim_end(), &format!("\n {text} \n"), &crlf] {
            assert_eq!(armor::dearmor(good.as_bytes()).unwrap(), binary);
        }
        let lines: Vec<&str> = text.lines().collect();
        let without = |at: usize| {
            let mut lines = lines.clone();
            lines.remove(at);
            lines.join("\n")
        };
        for bad in [
            text.replacen('\n', "\n\n", 2),
            text.replacen('\n', "\nHeader: x\n", 1),
            text.replace("END AGE", "END PGP"),
            text.replacen("YWdl", "YW dl", 1),
            text.replacen("YWdl", "YWd", 1),
            format!("{text}more"),
            format!("more\n{text}"),
            without(0),
            without(lines.len() - 1),
        ] {
            assert!(armor::dearmor(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(armor::dearmor(b"").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_armored_and_back(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            prop_assert_eq!(armor::dearmor(armor::armor(&bytes).as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn opening_never_panics(text in any::<String>(), at in 0usize..100) {
            let key = passphrase("correct horse");
            prop_assert!(open(text.as_bytes(), &key).is_err());
            let mut changed = str::from_utf8(TYPAGE).unwrap().to_owned();
            changed.insert_str(at, &text);
            let _ = armor::dearmor(changed.as_bytes());
        }
    }

    const TYPAGE: &[u8] = include_bytes!("../tests/vectors/typage.age");
    const PYRAGE: &[u8] = include_bytes!("../tests/vectors/pyrage.age");
}
