"""`open_record.py` on the known answers, on index nodes, and on damage."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import dag_cbor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from multiformats import CID
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

import open_record
from blocks import NotVerified, cid_of, name_of
from open_record import AEADS, MAX_LINKS, TAG, sha256

HERE = Path(__file__).parent
VECTORS = json.loads((HERE / "../../crates/dag/tests/vectors/medanchor-v1.json").read_text())
CASES = ["inline_small", "three_chunks", "aes256gcm", "empty"]
PRIVATE = bytes.fromhex(VECTORS["keys"]["custody_private"])


class OpenRecord(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def test_known_records_open(self):
        for case in CASES:
            with self.subTest(case):
                vector = VECTORS[case]
                root = self.store(bytes.fromhex(vector["record_cbor"]), vector_chunks(vector))
                self.assertEqual(name_of(root), vector["record_cid"])
                payload = self.open(root, wrap(record_of(vector)))
                self.assertEqual(payload, plaintext(vector["plaintext_len"]))

    def test_known_wraps_open(self):
        for name in ("wrap_to_custody", "wrap_to_partner"):
            with self.subTest(name):
                vector = VECTORS[name]
                context = dag_cbor.decode(bytes.fromhex(vector["context_cbor"]))
                wrapped = {"v": 1, "kem": 0x20, "ctx": context}
                wrapped |= {part: bytes.fromhex(vector[part]) for part in ("enc", "ct")}
                private = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["recipient_private"]))
                record = record_of(VECTORS["three_chunks"])
                key = open_record.unwrap(dag_cbor.encode(wrapped), record, private)
                self.assertEqual(key.hex(), vector["content_key"])

    def test_record_with_index_nodes_opens(self):
        size = MAX_LINKS * 65_520 + 7
        chunks = list(seal(VECTORS["three_chunks"], plaintext(size)))
        record = self.indexed(size, [chunks[:MAX_LINKS], chunks[MAX_LINKS:]])
        root = self.store(dag_cbor.encode(record), chunks)
        self.assertEqual(self.open(root, wrap(record)), plaintext(size))
        short = self.indexed(size, [chunks[:1], chunks[1:MAX_LINKS]])
        self.refuses(self.store(dag_cbor.encode(short), []), wrap(short), "more or fewer")

    def test_every_flipped_bit_of_a_record_is_refused(self):
        record = bytes.fromhex(VECTORS["empty"]["record_cbor"])
        for bit in range(len(record) * 8):
            flipped = bytearray(record)
            flipped[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(NotVerified, msg=f"bit {bit}"):
                open_record.open_record(bytes(flipped))

    def test_changed_block_wrap_and_key_are_refused(self):
        vector = VECTORS["three_chunks"]
        record, chunks = record_of(vector), vector_chunks(vector)
        root = self.store(bytes.fromhex(vector["record_cbor"]), chunks)
        good = wrap(record)
        for field, value in (("header", bytes(32)), ("commitment", bytes(32)), ("to", bytes(32))):
            bad = dag_cbor.decode(good)
            bad["ctx"][field] = value
            self.refuses(root, dag_cbor.encode(bad), "wrap")
        bad = dag_cbor.decode(good)
        bad["ct"] = bytes(48)
        self.refuses(root, dag_cbor.encode(bad), "does not open")
        self.refuses(root, wrap(record, content_key=bytes(32)), "commitment")
        (self.folder / name_of(cid_of("raw", chunks[1]))).write_bytes(chunks[2])
        self.refuses(root, good, "another hash")

    def test_swapped_chunks_do_not_open(self):
        record, chunks = record_of(VECTORS["three_chunks"]), vector_chunks(VECTORS["three_chunks"])
        record["chunks"][:2] = reversed(record["chunks"][:2])
        record = sign(record)
        self.refuses(self.store(dag_cbor.encode(record), chunks), wrap(record), "chunk 0 does not open")

    def test_command_answers_with_exit_codes(self):
        vector = VECTORS["three_chunks"]
        root = self.store(bytes.fromhex(vector["record_cbor"]), vector_chunks(vector))
        arguments = self.arguments(root, wrap(record_of(vector)))
        done = command(arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("150000 bytes", done.stdout)
        shutil.copy(self.folder / name_of(root), self.folder / vector["chunk_cids"][0])
        refused = command(arguments)
        self.assertEqual(refused.returncode, 4)
        self.assertIn("not verified: block", refused.stderr)
        self.assertEqual(command(arguments[:2]).returncode, 2)

    def store(self, record: bytes, chunks: list[bytes]) -> CID:
        for chunk in chunks:
            (self.folder / name_of(cid_of("raw", chunk))).write_bytes(chunk)
        return self.put("dag-cbor", record)

    def put(self, codec: str, block: bytes) -> CID:
        cid = cid_of(codec, block)
        (self.folder / name_of(cid)).write_bytes(block)
        return cid

    def indexed(self, size: int, lists: list[list[bytes]]) -> dict:
        nodes = [dag_cbor.encode([cid_of("raw", chunk) for chunk in chunks]) for chunks in lists]
        index = [self.put("dag-cbor", node) for node in nodes]
        return sign(record_of(VECTORS["three_chunks"]) | {"size": size, "chunks": {"index": index}})

    def arguments(self, root: CID, wrapped: bytes) -> list[str]:
        grant = {"v": 1, "leaf": 7, "wrap": wrapped, "proof": {}}
        (self.folder / "grant").write_bytes(dag_cbor.encode(grant))
        (self.folder / "key").write_text(PRIVATE.hex() + "\n")
        files = {name: str(self.folder / name) for name in ("grant", "key", "out")}
        options = {"blocks": str(self.folder), "record": name_of(root)} | files
        return [part for name, value in options.items() for part in ("--" + name, value)]

    def open(self, root: CID, wrapped: bytes) -> bytes:
        sys.argv = ["open_record.py", *self.arguments(root, wrapped)]
        with contextlib.redirect_stdout(io.StringIO()):
            open_record.main()
        return (self.folder / "out").read_bytes()

    def refuses(self, root: CID, wrapped: bytes, reason: str):
        (self.folder / "out").unlink(missing_ok=True)
        with self.assertRaisesRegex(NotVerified, reason):
            self.open(root, wrapped)
        self.assertFalse((self.folder / "out").exists())


def command(arguments: list[str]) -> subprocess.CompletedProcess:
    tool = [sys.executable, str(HERE / "open_record.py"), *arguments]
    return subprocess.run(tool, capture_output=True, text=True, check=False)


def record_of(vector: dict) -> dict:
    return dag_cbor.decode(bytes.fromhex(vector["record_cbor"]))


def sign(record: dict) -> dict:
    unsigned = {name: value for name, value in record.items() if name != "sig"}
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["keys"]["device_seed"]))
    message = b"medanchor/v1/record\0" + sha256(dag_cbor.encode(unsigned))
    return unsigned | {"sig": key.sign(message)}


def plaintext(length: int) -> bytes:
    period = bytes((7 * i + 3) & 255 for i in range(256))
    return (period * (length // 256 + 1))[:length]


def vector_chunks(vector: dict) -> list[bytes]:
    return list(seal(vector, plaintext(vector["plaintext_len"])))


def seal(vector: dict, payload: bytes):
    aead = AEADS[vector["suite"]](bytes.fromhex(vector["payload_key"]))
    full = (1 << vector["chunk_log2"]) - TAG
    count = max(1, -(-len(payload) // full))
    for index in range(count):
        nonce = index.to_bytes(11, "big") + bytes([index == count - 1])
        chunk = payload[index * full : (index + 1) * full]
        yield aead.encrypt(nonce, chunk, bytes.fromhex(vector["header_hash"]))


def wrap(record: dict, content_key: bytes | None = None) -> bytes:
    content_key = content_key or bytes.fromhex(VECTORS["three_chunks"]["content_key"])
    public = X25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()
    context = {
        "v": 1,
        "header": sha256(dag_cbor.encode(record["header"])),
        "commitment": record["commitment"],
        "custody": record["header"]["custody"],
        "to": sha256(public),
    }
    info = b"medanchor/v1/wrap\0" + sha256(dag_cbor.encode(context))
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
    recipient = KEMKey.from_pyca_cryptography_key(X25519PublicKey.from_public_bytes(public))
    encapsulated, sender = suite.create_sender_context(recipient, info=info)
    wrapped = {"v": 1, "kem": 0x20, "ctx": context, "enc": encapsulated, "ct": sender.seal(content_key)}
    return dag_cbor.encode(wrapped)


if __name__ == "__main__":
    unittest.main()
