//! Files that survive a crash: written whole or not at all.

use anyhow::{Context, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Who may read a file.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    /// Its owner alone (0600).
    Secret,
    /// Everybody (0644).
    Public,
}

/// Makes a file that must not exist yet, fsynced with its folder.
pub(crate) fn create(path: &Path, mode: Mode, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = options(mode).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_parent(path)
    };
    write().with_context(|| format!("create `{}`", path.display()))
}

/// Replaces a file: after a crash it is the old one or the new one.
pub(crate) fn replace(path: &Path, mode: Mode, bytes: &[u8]) -> std::io::Result<()> {
    let new = new_name(path);
    let mut file = options(mode).create(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)
}

/// Writes zeros over a file, and waits for the disk.
pub(crate) fn overwrite(path: &Path) -> std::io::Result<()> {
    let size = usize::try_from(fs::metadata(path)?.len()).unwrap_or(0);
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(&vec![0; size])?;
    file.sync_all()
}

/// Removes a file, for good.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    fs::remove_file(path)?;
    sync_parent(path)
}

/// Overwrites a file and removes it, for good, if it is there.
pub(crate) fn destroy(path: &Path) -> std::io::Result<()> {
    match path.try_exists()? {
        true => {
            overwrite(path)?;
            remove(path)
        }
        false => Ok(()),
    }
}

/// Where [`replace`] writes the new content first.
pub(crate) fn new_name(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Makes a folder and those above it.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create folder `{}`", path.display()))
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let context = || format!("read `{}`", path.display());
    let size = fs::metadata(path).with_context(context)?.len();
    anyhow::ensure!(
        size <= limit,
        "`{}` has {size} bytes, at most {limit} are expected",
        path.display()
    );
    fs::read_to_string(path).with_context(context)
}

fn options(mode: Mode) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(match mode {
        Mode::Secret => 0o600,
        Mode::Public => 0o644,
    });
    options
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_refuses_to_overwrite() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, Mode::Secret, b"one").unwrap();
        assert!(create(&path, Mode::Secret, b"two").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn replace_leaves_the_new_content_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.txt");
        replace(&path, Mode::Public, b"one").unwrap();
        replace(&path, Mode::Public, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn read_text_refuses_a_file_that_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, Mode::Public, b"12345").unwrap();
        assert!(read_text(&path, 4).is_err());
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
    }
}
