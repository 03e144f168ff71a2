use crate::{CliError, Home, OwnKeys, epoch_key::EpochKeys, passphrases::Passphrases, secret_file};
use anyhow::{Context, Result};
use medanchor_secrets::Protection;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// The public halves of the user's keys.
#[derive(Clone, Debug, Serialize)]
pub struct KeyShown {
    /// The user's name: the key that it was enrolled with.
    pub did: String,
    /// The key that the user signs with now.
    pub key: String,
    /// HPKE public key that released keys are sealed to (X25519), hexadecimal.
    pub recipient: String,
    /// Where the private halves are.
    pub path: PathBuf,
    /// Whether they are under a passphrase.
    pub passphrase: bool,
    /// Whether another key is made that the log may not have yet.
    pub rotating: bool,
    /// Whether that is new, so that its owner is told what follows from it.
    #[serde(skip)]
    fresh: bool,
}

/// What passphrase the user's keys are to be under.
#[derive(Clone, Debug)]
pub enum NewPassphrase {
    /// That of the home, or else one that is asked for at the terminal.
    Given,
    /// One that is asked for at the terminal.
    Asked,
    /// The one in this file.
    File(PathBuf),
    /// None: whoever may read the file has the keys.
    None,
}

/// Makes the user's keys.
///
/// # Errors
///
/// When there are keys already, which are never overwritten, or the passphrase is not given or too short.
pub fn new_key(home: &Home, passphrase: &NewPassphrase) -> Result<KeyShown> {
    home.folder("")?;
    let source = passphrase.source(home);
    let path = home.identity();
    // Nobody is asked for a passphrase in vain.
    let protection = match &source {
        Some(source) if !path.exists() => Protection::Passphrase(source.new_of(&path, GIVEN)?),
        _ => Protection::Plain,
    };
    let keys = OwnKeys::create(&path, protection)?;
    Ok(KeyShown::of(home, &keys, source.is_some(), true))
}

/// The user's keys.
///
/// # Errors
///
/// When there are none, or they cannot be opened.
pub fn show_key(home: &Home) -> Result<KeyShown> {
    let (keys, passphrase) = home.open_identity()?;
    Ok(KeyShown::of(home, &keys, passphrase, false))
}

/// Puts the user's keys under another passphrase. After a crash they are under the old one or the new one.
///
/// # Errors
///
/// When the keys cannot be opened, the new passphrase is not given or too short, or the file cannot be written. The keys are
/// under the old passphrase then.
pub fn change_passphrase(home: &Home, passphrase: &NewPassphrase) -> Result<KeyShown> {
    let path = home.identity();
    if home.next_identity().exists() {
        return Err(CliError::Usage(ROTATING.to_owned()).into());
    }
    let (keys, _) = home.open_identity()?;
    let source = passphrase.source(home);
    let protection = match &source {
        Some(source) => Protection::Passphrase(source.new_of(&path, NEW)?),
        None => Protection::Plain,
    };
    EpochKeys::protect(home, protection)?;
    secret_file::replace(&path, &keys.to_text(), protection)
        .with_context(|| format!("replace `{}`", path.display()))?;
    Ok(KeyShown::of(home, &keys, source.is_some(), true))
}

impl NewPassphrase {
    fn source(&self, home: &Home) -> Option<Passphrases> {
        match self {
            Self::Given => Some(home.passphrases().clone()),
            Self::Asked => Some(Passphrases::default()),
            Self::File(file) => Some(Passphrases::new(Some(file.clone()))),
            Self::None => None,
        }
    }
}

impl KeyShown {
    fn of(home: &Home, keys: &OwnKeys, passphrase: bool, fresh: bool) -> Self {
        Self {
            did: keys.did().to_string(),
            key: keys.key().to_string(),
            recipient: hex::encode(keys.recipient().as_bytes()),
            path: home.identity(),
            passphrase,
            rotating: home.next_identity().exists(),
            fresh,
        }
    }
}

impl fmt::Display for KeyShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "did        {}", self.did)?;
        if self.key != self.did {
            writeln!(f, "signs with {}", self.key)?;
        }
        writeln!(f, "recipient  {}", self.recipient)?;
        let how = match self.passphrase {
            true => "under a passphrase",
            false => "in clear: whoever may read it has the keys",
        };
        write!(f, "kept in    {}, {how}", self.path.display())?;
        if self.rotating {
            write!(f, "\n{ROTATING}")?;
        }
        match self.fresh && self.passphrase {
            true => write!(f, "\n{RECOVERY}"),
            false => Ok(()),
        }
    }
}

/// How a passphrase is given to whoever makes keys.
const GIVEN: &str = "--passphrase-file or MEDANCHOR_PASSPHRASE_FILE";
const NEW: &str = "--new-passphrase-file";
const ROTATING: &str = "a rotation of the key was begun: `medanchor key rotate` ends it";
const RECOVERY: &str = "\
Nobody can open the keys without the passphrase, and nobody can restore it. Keep a copy of it where the file is not, in a \
safe. If it is lost, your organisation revokes this did and enrols a new one; what was released to the old one is asked \
for again.";
