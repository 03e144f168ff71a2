//! Files that survive a crash: written whole or not at all, and fsynced with their folder.

use anyhow::{Context, Result};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Makes a file that must not exist yet; only its owner may read it.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = secret().create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_parent(path)
}

/// Replaces a file: after a crash it is the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = new_name(path);
    let mut file = secret().create(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename(&new, path)
}

/// The same without waiting for the disk: after a crash the file may be damaged.
pub(crate) fn replace_soon(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = new_name(path);
    let mut file = secret().create(true).truncate(true).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// Where [`replace`] writes the new content first.
pub(crate) fn new_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Makes a folder that only its owner may enter, and those above it, where they do not exist.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.is_dir();
    let missing = path.ancestors().take_while(is_missing).count();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    path.ancestors().take(missing).try_for_each(sync_parent)
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let context = || format!("read `{}`", path.display());
    let size = fs::metadata(path).with_context(context)?.len();
    anyhow::ensure!(
        size <= limit,
        "`{}` has {size} bytes, at most {limit} are expected",
        path.display()
    );
    fs::read(path).with_context(context)
}

/// The first bytes of a file, by which it says what it is.
pub(crate) fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut begins = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut begins)?;
    Ok(begins)
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?).with_context(|| format!("read `{}`", path.display()))
}

/// Writes zeros over a file, and waits for the disk.
pub(crate) fn overwrite(path: &Path) -> io::Result<()> {
    let size = usize::try_from(fs::metadata(path)?.len()).unwrap_or(0);
    let mut file = secret().open(path)?;
    file.write_all(&vec![0; size])?;
    file.sync_all()
}

/// Removes a file, for good.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_parent(path)
}

/// Gives a file another name in its folder, in the place of the one that had it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Overwrites a file and removes it, for good.
pub(crate) fn destroy(path: &Path) -> Result<()> {
    let destroy = || {
        overwrite(path)?;
        remove(path)
    };
    destroy().with_context(|| format!("destroy `{}`", path.display()))
}

/// Makes what happened in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// For writing what only its owner may read.
pub(crate) fn secret() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Opens a file that one process at a time writes and another may go on with, its owner's alone; makes it if it is not there.
pub(crate) fn unfinished(path: &Path) -> Result<File> {
    let file = lockable(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("another process is writing `{}`", path.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("open `{}`", path.display()))
        }
    }
}

/// Opens a file that stays as it is, its owner's alone; makes it if it is not there.
pub(crate) fn lockable(path: &Path) -> Result<File> {
    let mut options = secret();
    let options = options.read(true).create(true).truncate(false);
    let file = options.open(path);
    file.with_context(|| format!("open `{}`", path.display()))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => sync_folder(folder),
        _ => sync_folder(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn created_file_is_the_owners_alone_and_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, b"one").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let refused = create(&path, b"two").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn replaced_file_has_the_new_content_and_leaves_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.toml");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn replace_goes_on_over_what_a_crash_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.toml");
        replace(&path, b"one").unwrap();
        fs::write(
            folder.path().join("file.toml.new"),
            b"half of a longer file",
        )
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn file_that_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, b"12345").unwrap();
        assert!(read(&path, 4).is_err());
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
    }
}
