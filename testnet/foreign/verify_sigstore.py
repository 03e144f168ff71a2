#!/usr/bin/env python3
"""Verifies a receipt with sigstore's own code for Rekor's log, which is not ours.

    verify_sigstore.py RECEIPT POLICY

The log's signature on the checkpoint and the leaf's place are checked by the package, which knows of no
co-signatures: their quorum is not looked at here. Both functions are internal to the package and are given an
object with the attributes that they read. Exit codes: 0 verified, 1 a file cannot be read, 2 usage, 4 did not
verify.
"""

import base64
import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace as Object

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint, verify_checkpoint
from sigstore._internal.trust import Key, Keyring
from sigstore.errors import VerificationError
from sigstore_models.common import v1 as common

from verify_log import fail, parse_receipt

ED25519 = 1


def main() -> None:
    if len(sys.argv) != 3:
        fail(2, "usage: verify_sigstore.py RECEIPT POLICY")
    try:
        receipt, policy = (Path(name).read_bytes().decode() for name in sys.argv[1:])
    except (OSError, UnicodeDecodeError) as error:
        fail(1, f"could not be read: {error}")
    try:
        print(verify(receipt, policy))
    except (ValueError, VerificationError) as error:
        fail(4, f"did not verify: {error}")


def verify(receipt: str, policy: str) -> str:
    leaf, index, proof, note = parse_receipt(receipt)
    checkpoint = SignedCheckpoint.from_text(note).checkpoint
    inclusion = Object(
        log_index=index,
        tree_size=checkpoint.log_size,
        hashes=proof,
        root_hash=bytes.fromhex(checkpoint.log_hash),
        checkpoint=Object(envelope=note),
    )
    logs = log_keys(policy, checkpoint.origin)
    signed = [name for name, key_id, keyring in logs if is_signed(keyring, key_id, leaf, inclusion)]
    if not signed:
        raise ValueError("no listed log key signed the checkpoint")
    if not 0 <= index < checkpoint.log_size:
        raise ValueError("the leaf is beyond the checkpoint")
    verify_merkle_inclusion(entry(b"", leaf, inclusion))
    return f"verified: leaf {index} of {checkpoint.origin} at size {checkpoint.log_size}, signed by {signed[0]}"


def is_signed(keyring: Keyring, key_id: bytes, leaf: bytes, inclusion: Object) -> bool:
    """Each member of a network has a log key of its own, and one of them has signed."""
    try:
        verify_checkpoint(keyring, entry(key_id, leaf, inclusion))
    except VerificationError as error:
        if "not found" in str(error):
            return False
        raise
    return True


def entry(key_id: bytes, leaf: bytes, inclusion: Object) -> Object:
    inner = Object(inclusion_proof=inclusion, log_id=Object(key_id=key_id), canonicalized_body=leaf)
    return Object(_inner=inner)


def log_keys(policy: str, origin: str):
    """Name, key id in notes, and keyring of each log key of this origin."""
    for line in policy.splitlines():
        if not line.startswith("log "):
            continue
        name, key_id, encoded = line.split()[1].split("+", 2)
        key = base64.b64decode(encoded, validate=True)
        if name != origin or key[0] != ED25519:
            continue
        if hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() != key_id:
            raise ValueError(f"verifier key of `{name}` has another id")
        der = Ed25519PublicKey.from_public_bytes(key[1:]).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        public = common.PublicKey(raw_bytes=base64.b64encode(der), key_details=common.PublicKeyDetails.PKIX_ED25519)
        keyring = Keyring()
        keyring._keyring[bytes.fromhex(key_id)] = Key(public)
        yield f"{name}+{key_id}", bytes.fromhex(key_id), keyring


if __name__ == "__main__":
    main()
