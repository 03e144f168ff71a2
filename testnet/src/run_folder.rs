use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of one run: the one that the user names, or a temporary one, which is removed at the end
/// unless it is kept.
pub(crate) struct RunFolder {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl RunFolder {
    pub(crate) fn make(dir: Option<&Path>, prefix: &str) -> Result<Self> {
        if let Some(dir) = dir {
            fs::create_dir_all(dir).context("make the folder")?;
            let path = fs::canonicalize(dir).context("find the folder")?;
            return Ok(Self {
                path,
                temporary: None,
            });
        }
        let temporary = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir()
            .context("make a temporary folder")?;
        Ok(Self {
            path: temporary.path().to_owned(),
            temporary: Some(temporary),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keep(self) {
        if let Some(temporary) = self.temporary {
            let _ = temporary.keep();
        }
    }
}
