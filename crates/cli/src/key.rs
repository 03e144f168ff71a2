use crate::{Home, OwnKeys};
use anyhow::Result;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// The public halves of the user's keys.
#[derive(Clone, Debug, Serialize)]
pub struct KeyShown {
    /// The user's name.
    pub did: String,
    /// HPKE public key that released keys are sealed to (X25519), hexadecimal.
    pub recipient: String,
    /// Where the private halves are.
    pub path: PathBuf,
}

/// Makes the user's keys.
///
/// # Errors
///
/// When there are keys already: they are never overwritten.
pub fn new_key(home: &Home) -> Result<KeyShown> {
    home.folder("")?;
    OwnKeys::create(&home.identity())?;
    show_key(home)
}

/// The user's keys.
///
/// # Errors
///
/// When there are none.
pub fn show_key(home: &Home) -> Result<KeyShown> {
    let keys = home.own_keys()?;
    Ok(KeyShown {
        did: keys.did().to_string(),
        recipient: hex::encode(keys.recipient().as_bytes()),
        path: home.identity(),
    })
}

impl fmt::Display for KeyShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "did        {}", self.did)?;
        writeln!(f, "recipient  {}", self.recipient)?;
        write!(f, "kept in    {}", self.path.display())
    }
}
