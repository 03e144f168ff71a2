use crate::{NoteSignature, SignatureKind, SignedNote, VerifierKey, VerifierKeyError};
use medanchor_dag::SigningKey;

/// Co-signs a checkpoint: as of `unix_seconds`, it is the largest consistent one that `name` has seen of
/// its log (<https://c2sp.org/tlog-cosignature>, Ed25519).
///
/// The caller answers for that being true, and has made it durable before it calls (I4):
/// [`crate::AddCheckpoint::decide`].
///
/// # Errors
///
/// [`VerifierKeyError::Name`] when `name` may not name a key.
pub fn cosign(
    note: &SignedNote,
    name: &str,
    key: &SigningKey,
    unix_seconds: u64,
) -> Result<NoteSignature, VerifierKeyError> {
    let verifier = VerifierKey::new(name, SignatureKind::Cosignature, key.did())?;
    let signature = key.sign_bytes(message(note.text(), unix_seconds).as_bytes());
    let mut bytes = unix_seconds.to_be_bytes().to_vec();
    bytes.extend_from_slice(signature.as_bytes());
    Ok(NoteSignature::new(&verifier, bytes))
}

/// What a co-signature is over. It does not hold the co-signer's name: no key may have two names.
pub(crate) fn message(text: &str, unix_seconds: u64) -> String {
    format!("cosignature/v1\ntime {unix_seconds}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, NoteError};
    use medanchor_dag::Hash;

    #[test]
    fn cosignature_carries_its_time() {
        let (mut note, key, verifier) = cosigner();
        let cosignature = cosign(&note, "anchor.example/a", &key, 1_792_000_000).unwrap();
        assert_eq!(cosignature.bytes().len(), 72);
        note.add(cosignature).unwrap();
        let signers = note.signers([&verifier]).unwrap();
        assert_eq!(signers[0].at_unix_seconds, Some(1_792_000_000));
    }

    #[test]
    fn cosignature_with_another_time_is_refused() {
        let (note, key, verifier) = cosigner();
        let cosignature = cosign(&note, "anchor.example/a", &key, 1_792_000_000).unwrap();
        for bit in 0..72 * 8 {
            let mut bytes = cosignature.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut note = note.clone();
            note.add(NoteSignature::new(&verifier, bytes)).unwrap();
            let refused = NoteError::Signature("anchor.example/a".to_owned());
            assert_eq!(note.signers([&verifier]), Err(refused));
        }
    }

    #[test]
    fn answer_of_a_witness_is_checked_before_it_is_added() {
        let (mut note, key, verifier) = cosigner();
        let cosignature = cosign(&note, "anchor.example/a", &key, 1_000).unwrap();
        let stranger = SigningKey::from_seed(&[3; 32]);
        let other = cosign(&note, "anchor.example/b", &stranger, 1_000).unwrap();
        let forged = cosign(&note, "anchor.example/a", &key, 2_000).unwrap();
        let forged = NoteSignature::new(&verifier, [&[1], &forged.bytes()[1..]].concat());
        for refused in [String::new(), format!("{other}\n"), format!("{forged}\n")] {
            assert!(note.add_answer(&refused, &verifier).is_err());
        }
        let answer = format!("{other}\n{cosignature}\n");
        note.add_answer(&answer, &verifier).unwrap();
        note.add_answer(&answer, &verifier).unwrap();
        assert_eq!(note.signatures().len(), 2);
        assert_eq!(note.signers([&verifier]).unwrap().len(), 1);
    }

    #[test]
    fn log_signature_is_not_a_cosignature() {
        let (mut note, key, verifier) = cosigner();
        let plain = key.sign_bytes(note.text().as_bytes()).as_bytes().to_vec();
        note.add(NoteSignature::new(&verifier, plain)).unwrap();
        assert!(note.signers([&verifier]).is_err());
    }

    fn cosigner() -> (SignedNote, SigningKey, VerifierKey) {
        let checkpoint = Checkpoint {
            origin: "anchor.example".to_owned(),
            size: 3,
            root: Hash::of(b"root"),
        };
        let note = checkpoint.sign(&SigningKey::from_seed(&[1; 32])).unwrap();
        let key = SigningKey::from_seed(&[2; 32]);
        let kind = SignatureKind::Cosignature;
        let verifier = VerifierKey::new("anchor.example/a", kind, key.did()).unwrap();
        (note, key, verifier)
    }
}
