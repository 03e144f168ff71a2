"""Transparency-log proofs by the C2SP formats: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof and
tlog-policy (https://c2sp.org), over an RFC 6962 tree."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blocks import check

LOG, WITNESS = 0x01, 0x04
MAX_HASHES = 64


@dataclass(frozen=True)
class VerifierKey:
    name: str
    id: bytes
    kind: int
    key: bytes

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        parts = text.split("+", 2)
        check(len(parts) == 3, f"`{text}` is not a verifier key")
        name, key_id, encoded = parts
        key = decode_base64(encoded)
        check(len(key) == 33, f"key of `{name}` is not Ed25519")
        expected = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
        check(key_id == expected.hex(), f"verifier key of `{name}` has another id")
        return cls(name, expected, key[0], key[1:])

    def verify(self, text: str, signature: bytes) -> int | None:
        """Checks a signature over a note's text. The time that a witness gives, in unix seconds."""
        time, message = None, text.encode()
        if self.kind == WITNESS:
            check(len(signature) == 72, f"co-signature of `{self.name}` has another length")
            time = int.from_bytes(signature[:8], "big")
            signature = signature[8:]
            message = b"cosignature/v1\ntime %d\n" % time + message
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
        except InvalidSignature:
            check(False, f"signature of `{self.name}` does not verify")
        return time


@dataclass(frozen=True)
class Note:
    """A text and its signatures: each a key's name, its id, and the signature."""

    text: str
    signatures: list[tuple[str, bytes, bytes]]

    @classmethod
    def parse(cls, note: str) -> "Note":
        text, blank, lines = note.rpartition("\n\n")
        check(bool(blank) and lines.endswith("\n"), "note is malformed")
        return cls(text + "\n", [cls.parse_signature(line) for line in lines[:-1].split("\n")])

    @staticmethod
    def parse_signature(line: str) -> tuple[str, bytes, bytes]:
        parts = line.split(" ")
        check(len(parts) == 3 and parts[0] == "\u2014", "signature line is malformed")
        blob = decode_base64(parts[2])
        check(len(blob) > 4, "signature is too short")
        return parts[1], blob[:4], blob[4:]

    def verified(self, keys: list[VerifierKey]) -> dict[VerifierKey, int | None]:
        """The keys that signed, with their times. Unknown signatures are ignored, wrong ones are not."""
        known = {(key.name, key.id): key for key in keys}
        found = {}
        for name, key_id, signature in self.signatures:
            if key := known.get((name, key_id)):
                found[key] = key.verify(self.text, signature)
        return found


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        lines = text.split("\n")
        check(len(lines) >= 4 and lines[-1] == "", "checkpoint is malformed")
        root = decode_base64(lines[2])
        check(len(root) == 32, "root hash is not 32 bytes")
        return cls(lines[0], parse_count(lines[1]), root)


@dataclass(frozen=True)
class Proof:
    extra: bytes | None
    index: int
    hashes: list[bytes]
    checkpoint: str

    @classmethod
    def parse(cls, text: str) -> "Proof":
        head, blank, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        check(bool(blank) and lines.pop(0) == "c2sp.org/tlog-proof@v1", "not a tlog-proof")
        extra = None
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "))
        check(bool(lines) and lines[0].startswith("index "), "proof has no index")
        index = parse_count(lines.pop(0).removeprefix("index "))
        check(len(lines) <= MAX_HASHES, "proof has too many hashes")
        hashes = [decode_base64(line) for line in lines]
        check(all(len(value) == 32 for value in hashes), "hash of the proof is not 32 bytes")
        return cls(extra, index, hashes, checkpoint)

    def verify(self, leaf: bytes, policy: "Policy") -> tuple[Checkpoint, dict[VerifierKey, int | None]]:
        """The checkpoint that this leaf is under, and who signed that, if the policy is satisfied."""
        note = Note.parse(self.checkpoint)
        checkpoint = Checkpoint.parse(note.text)
        signers = note.verified([*policy.logs, *policy.witnesses.values()])
        policy.check(checkpoint, signers)
        root = root_from(leaf, self.index, checkpoint.size, self.hashes)
        check(root == checkpoint.root, "leaf is not under the checkpoint's root")
        return checkpoint, signers


class Policy:
    """Whom to believe: log keys, witnesses, and which of these must have co-signed."""

    def __init__(self, text: str):
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, tuple[int, list[str]]] = {}
        self.quorum: str | None = None
        for line in text.splitlines():
            words = line.split()
            if words and not words[0].startswith("#"):
                self.add(words)
        check(self.quorum is not None, "policy has no quorum")

    def add(self, words: list[str]) -> None:
        match words:
            case ["log", key, *url] if len(url) <= 1:
                self.logs.append(self.new_key(key, LOG))
            case ["witness", name, key, *url] if len(url) <= 1:
                self.new_name(name)
                self.witnesses[name] = self.new_key(key, WITNESS)
            case ["group", name, threshold, *members] if members:
                self.new_name(name)
                for member in members:
                    check(self.is_defined(member), f"policy names `{member}` before it is defined")
                    used = [m for _, others in self.groups.values() for m in others]
                    check(member not in used and members.count(member) == 1, f"`{member}` is in two groups")
                least = {"any": 1, "all": len(members)}.get(threshold) or parse_count(threshold)
                check(1 <= least <= len(members), f"threshold of group `{name}` cannot be met")
                self.groups[name] = (least, members)
            case ["quorum", name]:
                check(self.quorum is None, "policy has two quorums")
                check(name == "none" or self.is_defined(name), f"quorum `{name}` is not defined")
                self.quorum = name
            case _:
                check(False, f"policy line `{' '.join(words)[:80]}` is malformed")

    def new_key(self, text: str, kind: int) -> VerifierKey:
        key = VerifierKey.parse(text)
        check(key.kind == kind, f"key of `{key.name}` is of another type")
        known = [other.key for other in (*self.logs, *self.witnesses.values())]
        check(key.key not in known, f"key of `{key.name}` is listed twice")
        return key

    def new_name(self, name: str) -> None:
        check(name != "none" and not self.is_defined(name), f"policy defines `{name}` twice")

    def is_defined(self, name: str) -> bool:
        return name in self.witnesses or name in self.groups

    def check(self, checkpoint: Checkpoint, signers: dict[VerifierKey, int | None]) -> None:
        signed = any(key in signers and key.name == checkpoint.origin for key in self.logs)
        check(signed, f"checkpoint is not signed by a listed key of log `{checkpoint.origin}`")
        check(self.holds(self.quorum, signers), "too few witnesses co-signed the checkpoint")

    def holds(self, name: str, signers: dict[VerifierKey, int | None]) -> bool:
        if name == "none":
            return True
        if name in self.witnesses:
            return self.witnesses[name] in signers
        least, members = self.groups[name]
        return sum(self.holds(member, signers) for member in members) >= least


def root_from(leaf: bytes, index: int, size: int, hashes: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162, section 2.1.3.2)."""
    check(index < size, "leaf index is not in the tree")
    node, last, at = hashlib.sha256(b"\0" + leaf).digest(), size - 1, index
    for sibling in hashes:
        check(last > 0, "proof is too long")
        if at & 1 or at == last:
            node = hash_node(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = hash_node(node, sibling)
        at, last = at >> 1, last >> 1
    check(last == 0, "proof is too short")
    return node


def hash_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def parse_count(text: str) -> int:
    check(text.isascii() and text.isdigit(), f"`{text[:20]}` is not a number")
    check(text == "0" or not text.startswith("0"), f"`{text[:20]}` has a leading zero")
    value = int(text) if len(text) <= 20 else 1 << 64
    check(value < 1 << 64, "number is too large")
    return value


def decode_base64(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = None
    check(value is not None and base64.b64encode(value).decode() == text, "text is not base64")
    return value
