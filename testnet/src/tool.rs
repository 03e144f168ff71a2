use crate::node::PASSPHRASE_FILE;
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The home folder of one user of `medanchor`.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    program: PathBuf,
}

/// What a run of `medanchor` said.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// The JSON object that it printed; null when it printed none.
    pub json: Value,
    /// Its errors.
    pub errors: String,
}

impl Home {
    /// The home at `path`. `program` is the testnet's own.
    pub fn new(path: impl Into<PathBuf>, program: &Path) -> Self {
        Self {
            path: path.into(),
            program: program.to_owned(),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `medanchor --json` with these arguments, as this user.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or prints something that is not JSON.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        let output = self
            .command(arguments)
            .stdin(Stdio::null())
            .output()
            .context("run medanchor")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)
                .with_context(|| format!("medanchor printed `{text}`, which is not JSON"))?,
        };
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            json,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The command that [`Home::run`] runs.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("medanchor")
            .arg("--json")
            .arg("--home")
            .arg(&self.path)
            .args(arguments)
            .env_remove(PASSPHRASE_FILE);
        command
    }
}

impl Ran {
    /// Itself, when the exit code is 0.
    ///
    /// # Errors
    ///
    /// Otherwise, with what was printed as an error.
    pub fn success(self) -> Result<Self> {
        anyhow::ensure!(
            self.code == 0,
            "medanchor failed with exit code {}: {}{}",
            self.code,
            self.errors.trim(),
            self.json
        );
        Ok(self)
    }

    /// A text field of the printed object.
    ///
    /// # Errors
    ///
    /// When it has none.
    pub fn text(&self, field: &str) -> Result<String> {
        self.json[field]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("no `{field}` in {}", self.json))
    }
}
