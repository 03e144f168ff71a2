use crate::{
    OwnKeys,
    c4gh::{Encrypting, Making, PublicKey},
    files,
    payload::folder_of,
};
use anyhow::{Context, Result};
use medanchor_dag::{Cid, Hash};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
};

/// A payload, or a part of it, that is being encrypted into a Crypt4GH file, segment by segment in order.
///
/// Until it is whole it is in `<CID>.<A>-<B>.<reader>.c4gh.partial` beside the file. Nothing else is kept of an attempt, and no
/// key: those of the file follow from the user's own key and from what stands in its header. What is in it counts as far
/// as it is good, so that a killed process, a power loss or a damaged file costs what is behind that.
pub(crate) struct C4ghFile {
    pub(crate) encrypting: Encrypting<File>,
    /// Of the plaintext that is in it.
    pub(crate) hasher: Sha256,
    /// Bytes of that.
    pub(crate) kept: u64,
    path: PathBuf,
    output: PathBuf,
}

impl C4ghFile {
    /// Goes on with these bytes of a record's payload, on their way to the file `output`. No other process writes it meanwhile.
    pub(crate) fn open(
        output: &Path,
        record: &Cid,
        bytes: &Range<u64>,
        reader: &PublicKey,
        keys: &OwnKeys,
    ) -> Result<Self> {
        let of_reader = Hash::of(&reader.0).to_string();
        let of_reader = of_reader.get(..16).unwrap_or_default();
        let (first, last) = (bytes.start, bytes.end.saturating_sub(1));
        let name = format!("{record}.{first}-{last}.{of_reader}.c4gh.partial");
        let path = folder_of(output).join(name);
        let file = files::unfinished(&path)?;
        // What names the plaintext: the record does, and which of its bytes.
        let content = [
            record.to_bytes().as_slice(),
            &bytes.start.to_be_bytes(),
            &bytes.end.to_be_bytes(),
            &reader.0,
        ]
        .concat();
        let mut hasher = Sha256::new();
        let making = Making {
            secret: &keys.receiving.to_bytes(),
            content: &content,
            reader,
            size: bytes.end.saturating_sub(bytes.start),
        };
        let gone_on = making.go_on(file, &mut |plain| hasher.update(plain));
        let (encrypting, kept) =
            gone_on.with_context(|| format!("encrypt into `{}`", path.display()))?;
        Ok(Self {
            encrypting,
            hasher,
            kept,
            path,
            output: output.to_owned(),
        })
    }

    /// Everything was written: gives the file its name, and the SHA-256 of the plaintext.
    pub(crate) fn finish(self) -> Result<Hash> {
        let context = || format!("write `{}`", self.output.display());
        let file = self.encrypting.finish().with_context(context)?;
        file.sync_all().with_context(context)?;
        // Commit point: the file appears whole.
        fs::rename(&self.path, &self.output).with_context(context)?;
        files::sync_folder(folder_of(&self.output)).with_context(context)?;
        Ok(Hash::new(self.hasher.finalize().into()))
    }
}
