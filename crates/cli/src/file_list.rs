use crate::{CliError, clock, outbox::SourceFile};
use anyhow::{Context, Result};
use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
};

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) file: SourceFile,
    /// Its name for readers: its path below the folder that was named, or its own name.
    pub(crate) name: String,
}

/// The path of what cannot be listed, and why.
pub(crate) type Unlisted = (String, anyhow::Error);

/// The regular files that are named and all below the folders that are, in the order of their paths. Links are
/// followed where they are named, and not below a folder. Nothing under `but_not` is found.
pub(crate) fn list(paths: &[PathBuf], but_not: &[PathBuf]) -> Result<(Vec<Listed>, Vec<Unlisted>)> {
    let mut found = Found {
        but_not,
        files: Vec::new(),
        failed: Vec::new(),
    };
    for path in paths {
        let context = || format!("open `{}`", path.display());
        let root = fs::canonicalize(path).with_context(context)?;
        let metadata = fs::metadata(&root).with_context(context)?;
        if metadata.is_dir() {
            found.walk(&root)?;
        } else if metadata.is_file() {
            found.take(&root, root.parent().unwrap_or(&root), &metadata);
        } else {
            let problem = format!("`{}` is neither a file nor a folder", path.display());
            return Err(CliError::Usage(problem).into());
        }
    }
    found.files.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    found.files.dedup_by(|a, b| a.file.path == b.file.path);
    Ok((found.files, found.failed))
}

/// What is known of a file by its path and metadata.
pub(crate) fn source_file(path: &str, metadata: &Metadata) -> io::Result<SourceFile> {
    Ok(SourceFile {
        path: path.to_owned(),
        size: metadata.len(),
        modified_unix_ms: clock::to_unix_ms(metadata.modified()?),
    })
}

struct Found<'a> {
    but_not: &'a [PathBuf],
    files: Vec<Listed>,
    failed: Vec<Unlisted>,
}

impl Found<'_> {
    fn walk(&mut self, root: &Path) -> Result<()> {
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            if self.but_not.contains(&folder) {
                continue;
            }
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    self.fail(&folder, error);
                    continue;
                }
            };
            for entry in entries {
                let entry = entry.with_context(|| format!("list `{}`", folder.display()))?;
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                    Ok(metadata) if metadata.is_file() => {
                        self.take(&entry.path(), root, &metadata);
                    }
                    // A link, or gone since it was listed.
                    Ok(_) => (),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                    Err(error) => self.fail(&entry.path(), error),
                }
            }
            if self.files.len() > MAX_FILES {
                let problem = format!("at most {MAX_FILES} files are put at one time");
                return Err(CliError::Usage(problem).into());
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, root: &Path, metadata: &Metadata) {
        if self.but_not.iter().any(|folder| path == folder) {
            return;
        }
        let name = path.strip_prefix(root).unwrap_or(path);
        let (Some(path_text), Some(name)) = (path.to_str(), name.to_str()) else {
            let error = io::Error::new(io::ErrorKind::InvalidFilename, "its name is not UTF-8");
            return self.fail(path, error);
        };
        match source_file(path_text, metadata) {
            Ok(file) => self.files.push(Listed {
                file,
                name: name.to_owned(),
            }),
            Err(error) => self.fail(path, error),
        }
    }

    fn fail(&mut self, path: &Path, error: io::Error) {
        let path = path.display().to_string();
        self.failed.push((path, error.into()));
    }
}

const MAX_FILES: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{ffi::OsStrExt, fs::symlink};

    #[test]
    fn files_of_folders_are_listed_once_in_order_and_without_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir_all(root.join("home")).unwrap();
        for name in ["b/c/2", "b/1", "a", "home/identity.toml", "z"] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink(root.join("a"), root.join("b/link")).unwrap();
        symlink(&root, root.join("b/loop")).unwrap();
        let odd = root.join(std::ffi::OsStr::from_bytes(b"\xff"));
        fs::write(odd, "odd").unwrap();
        let but_not = [root.join("home"), root.join("z")];
        let paths = [root.clone(), root.join("a"), root.join("b/link")];
        let (files, failed) = list(&paths, &but_not).unwrap();
        let names: Vec<&str> = files.iter().map(|listed| listed.name.as_str()).collect();
        assert_eq!(names, ["a", "b/1", "b/c/2"]);
        let paths: Vec<&str> = files.iter().map(|file| file.file.path.as_str()).collect();
        assert_eq!(paths[2], root.join("b/c/2").to_str().unwrap());
        assert_eq!(files[2].file.size, 5);
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(list(&[root.join("nothing")], &[]).is_err());
    }
}
