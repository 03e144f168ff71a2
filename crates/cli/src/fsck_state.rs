use crate::{CliError, files, known::Known};
use anyhow::{Context, Result};
use medanchor_anchor::{Epochs, HashTiles, Recomputed, Tile};
use medanchor_dag::{Hash, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{fs, io::ErrorKind, path::PathBuf};

/// Where an audit keeps what it has verified, so that an interrupted one goes on from there:
/// `checkpoints/<H(origin)>/fsck-<H(url)>` in the home. SHA-256 of the rest, then canonical DAG-CBOR.
#[derive(Debug)]
pub(crate) struct FsckState {
    path: PathBuf,
    origin: String,
    server: String,
    policy: Hash,
}

/// The first part of a log, of which everything was read and nothing was wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VerifiedPart {
    /// Its tree: the edge is all that is kept of it, and its root all that is needed to prove it again.
    pub(crate) tree: Recomputed,
    /// Log time of its last leaf.
    pub(crate) last_at: u64,
    /// Entry bundles and hash tiles read.
    pub(crate) pieces: u64,
    /// Bytes read.
    pub(crate) size_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    v: u8,
    origin: String,
    server: String,
    policy: ByteBuf,
    size: u64,
    /// Bytes of the hash tiles at the edge of the tree, from level 0 up.
    edge: Vec<ByteBuf>,
    last_at: u64,
    pieces: u64,
    size_bytes: u64,
}

impl FsckState {
    /// That of an audit of the log at the URL `server` under a trust policy. What was verified of another
    /// server, or under another policy, does not count.
    pub(crate) fn new(known: &Known, origin: &str, server: &str, policy: &Epochs) -> Self {
        Self {
            path: known.join(&format!("fsck-{}", Hash::of(server.as_bytes()))),
            origin: origin.to_owned(),
            server: server.to_owned(),
            policy: Hash::of(policy.current().to_string().as_bytes()),
        }
    }

    /// What an earlier audit had verified when it ended. Whether it is still part of the log is not checked.
    ///
    /// # Errors
    ///
    /// When there is a file that is damaged or not of this audit: it is best left aside.
    pub(crate) fn read(&self) -> Result<Option<VerifiedPart>> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            _ => (),
        }
        let bytes = files::read(&self.path, MAX_BYTES)?;
        self.parse(&bytes).map(Some)
    }

    /// Keeps what is verified: after a crash it is this or what was kept before.
    pub(crate) fn keep(&self, part: &VerifiedPart) -> Result<()> {
        let tiles = part.tree.partial_tiles().into_iter();
        let edge = tiles.map(|(_, hashes)| {
            let bytes = hashes.iter().flat_map(|hash| *hash.as_bytes());
            ByteBuf::from(bytes.collect::<Vec<u8>>())
        });
        let file = to_canonical(&StateFile {
            v: VERSION,
            origin: self.origin.clone(),
            server: self.server.clone(),
            policy: ByteBuf::from(*self.policy.as_bytes()),
            size: part.tree.size(),
            edge: edge.collect(),
            last_at: part.last_at,
            pieces: part.pieces,
            size_bytes: part.size_bytes,
        });
        let bytes = [Hash::of(&file).as_bytes().as_slice(), &file].concat();
        files::replace(&self.path, &bytes)
            .with_context(|| format!("keep `{}`", self.path.display()))
    }

    /// The next audit begins with the first leaf.
    pub(crate) fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove `{}`", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<VerifiedPart> {
        let damaged = || CliError::Usage(format!("`{}` is damaged", self.path.display()));
        let (checksum, bytes) = bytes.split_at_checked(32).ok_or_else(damaged)?;
        if Hash::of(bytes).as_bytes() != checksum {
            return Err(damaged().into());
        }
        let file: StateFile = from_canonical(bytes, usize::try_from(MAX_BYTES)?)?;
        let is_of_this = file.v == VERSION
            && file.origin == self.origin
            && file.server == self.server
            && file.policy == self.policy.as_bytes();
        anyhow::ensure!(is_of_this, "it is of another log, server or policy");
        let places = Recomputed::edge(file.size);
        anyhow::ensure!(places.len() == file.edge.len(), "its edge is not whole");
        let mut tiles = HashTiles::default();
        for (tile, bytes) in places.iter().zip(&file.edge) {
            tiles.insert(tile, bytes)?;
        }
        anyhow::ensure!(
            file.size.is_multiple_of(u64::from(Tile::FULL)),
            "it ends within a tile"
        );
        Ok(VerifiedPart {
            tree: Recomputed::resume(file.size, &tiles)?,
            last_at: file.last_at,
            pieces: file.pieces,
            size_bytes: file.size_bytes,
        })
    }
}

const VERSION: u8 = 1;
/// At most seven tiles are not full at the edge of what a u64 counts in tiles.
const MAX_BYTES: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Home;
    use medanchor_anchor::{SignatureKind, TrustPolicy, VerifierKey};
    use medanchor_dag::SigningKey;
    use std::path::Path;

    fn policy(seed: u8) -> Epochs {
        let key = SigningKey::from_seed(&[seed; 32]).did();
        let log = VerifierKey::new("log.example", SignatureKind::Ed25519, key).unwrap();
        let key = SigningKey::from_seed(&[seed + 1; 32]).did();
        let witness = VerifierKey::new("w.example", SignatureKind::Cosignature, key).unwrap();
        Epochs::new(TrustPolicy::new(&[log], &[witness], 1).unwrap())
    }

    fn state(home: &Path, origin: &str, server: &str, seed: u8) -> FsckState {
        let known = Known::open(&Home::new(home), "log.example").unwrap();
        FsckState::new(&known, origin, server, &policy(seed))
    }

    fn part(leaves: u64) -> VerifiedPart {
        let mut tree = Recomputed::default();
        for leaf in 0..leaves {
            tree.push(Hash::of(&leaf.to_be_bytes()));
        }
        VerifiedPart {
            tree,
            last_at: 9,
            pieces: 4,
            size_bytes: 5,
        }
    }

    #[test]
    fn what_was_verified_is_read_back() {
        let home = tempfile::tempdir().unwrap();
        let state = state(home.path(), "log.example", "https://a", 1);
        assert_eq!(state.read().unwrap(), None);
        for leaves in [0, 256, 512, 65_536, 65_792] {
            let part = part(leaves);
            state.keep(&part).unwrap();
            assert_eq!(state.read().unwrap(), Some(part), "{leaves}");
        }
        state.forget().unwrap();
        state.forget().unwrap();
        assert_eq!(state.read().unwrap(), None);
    }

    #[test]
    fn what_was_verified_elsewhere_or_within_a_tile_does_not_count() {
        let home = tempfile::tempdir().unwrap();
        let ours = state(home.path(), "log.example", "https://a", 1);
        ours.keep(&part(512)).unwrap();
        let bytes = fs::read(&ours.path).unwrap();
        for other in [
            state(home.path(), "other.example", "https://a", 1),
            state(home.path(), "log.example", "https://b", 1),
            state(home.path(), "log.example", "https://a", 3),
        ] {
            fs::write(&other.path, &bytes).unwrap();
            assert!(other.read().is_err());
        }
        ours.keep(&part(300)).unwrap();
        assert!(ours.read().is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let state = state(home.path(), "log.example", "https://a", 1);
        state.keep(&part(512)).unwrap();
        let bytes = fs::read(&state.path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(state.parse(&changed).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(state.parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
