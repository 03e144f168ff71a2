use crate::CliError;
use anyhow::{Context, Result};
use medanchor_secrets::Passphrase;
use std::{
    fmt,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use zeroize::Zeroizing;

/// Where the passphrase of a home's files comes from: a file, or whoever sits at the terminal. Nobody is asked twice.
#[derive(Clone, Default)]
pub(crate) struct Passphrases {
    file: Option<PathBuf>,
    given: Arc<OnceLock<Passphrase>>,
}

impl Passphrases {
    /// From this file, or else from the terminal.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            given: Arc::default(),
        }
    }

    /// The passphrase that opens this file.
    pub(crate) fn of(&self, path: &Path) -> Result<&Passphrase> {
        self.once(|| match &self.file {
            Some(file) => read(file),
            None if !io::stdin().is_terminal() => {
                let problem = format!(
                    "`{}` is under a passphrase: name a file that holds it with --passphrase-file or \
                     MEDANCHOR_PASSPHRASE_FILE, or run this at a terminal",
                    path.display()
                );
                Err(CliError::Usage(problem).into())
            }
            None => ask(&format!("Passphrase of {}: ", path.display())),
        })
    }

    /// The passphrase that this file is to be under from now on. `option` is how else it can be given.
    pub(crate) fn new_of(&self, path: &Path, option: &str) -> Result<&Passphrase> {
        self.once(|| {
            let passphrase = match &self.file {
                Some(file) => read(file)?,
                None if !io::stdin().is_terminal() => {
                    let problem = format!(
                        "`{}` is to be under a passphrase: name a file that holds it with {option}, or run this at a \
                         terminal; --no-passphrase does without one",
                        path.display()
                    );
                    return Err(CliError::Usage(problem).into());
                }
                None => ask_twice(path)?,
            };
            usable(passphrase.for_new_files())
        })
    }

    fn once(&self, come_by: impl FnOnce() -> Result<Passphrase>) -> Result<&Passphrase> {
        match self.given.get() {
            Some(passphrase) => Ok(passphrase),
            None => {
                let passphrase = come_by()?;
                Ok(self.given.get_or_init(|| passphrase))
            }
        }
    }
}

impl fmt::Debug for Passphrases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrases")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

fn read(file: &Path) -> Result<Passphrase> {
    usable(Passphrase::read(file))
        .with_context(|| format!("use passphrase file `{}`", file.display()))
}

fn ask_twice(path: &Path) -> Result<Passphrase> {
    let passphrase = ask(&format!("New passphrase of {}: ", path.display()))?;
    let again = ask("The same again: ")?;
    if !passphrase.is_same(&again) {
        let problem = "the two passphrases differ: nothing was changed";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    Ok(passphrase)
}

/// Without echo, from the terminal itself.
fn ask(prompt: &str) -> Result<Passphrase> {
    let text = rpassword::prompt_password(prompt).context("ask for the passphrase")?;
    usable(Passphrase::new(Zeroizing::new(text)))
}

/// What cannot be used was given wrongly.
fn usable(
    passphrase: Result<Passphrase, medanchor_secrets::PassphraseError>,
) -> Result<Passphrase> {
    use medanchor_secrets::PassphraseError::{NotOneLine, OpenToEverybody, Read, TooShort};
    passphrase.map_err(|error| match error {
        Read(error) => error.into(),
        OpenToEverybody | NotOneLine | TooShort => CliError::Usage(error.to_string()).into(),
    })
}
