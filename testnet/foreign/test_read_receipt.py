"""`tlog.py` on the known answers, and `read_receipt.py` against a server made here."""

import base64
import datetime
import hashlib
import importlib
import ipaddress
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dag_cbor
import grpc
import grpc_tools
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_tools import protoc
from multiformats import multibase

import read_receipt
from blocks import NotVerified, cid_of, name_of
from tlog import LOG, WITNESS, Policy, Proof, VerifierKey, hash_node

HERE = Path(__file__).parent
PROTO = HERE / "../../proto"
VECTORS = HERE / "../../crates/anchor/tests/vectors/c2sp"
ORIGIN = "hospitals.example/medanchor"
LEAVES = 7
LEAF = 3


class KnownProofs(unittest.TestCase):
    def test_known_proofs_verify(self):
        for name in ("n1", "n70"):
            with self.subTest(name):
                vector = json.loads((VECTORS / name / "vector.json").read_text())
                policy, proof = known(name)
                leaf = base64.b64decode(vector["leaf"])
                checkpoint, signers = Proof.parse(proof).verify(leaf, policy)
                self.assertEqual(checkpoint.size, vector["size"])
                self.assertEqual(len(signers), 4)

    def test_every_changed_character_is_refused(self):
        vector = json.loads((VECTORS / "n70" / "vector.json").read_text())
        leaf = base64.b64decode(vector["leaf"])
        policy, proof = known("n70")
        good = Proof.parse(proof).verify(leaf, policy)
        for at, character in enumerate(proof):
            changed = proof[:at] + ("A" if character != "A" else "B") + proof[at + 1 :]
            try:
                checkpoint, signers = Proof.parse(changed).verify(leaf, policy)
            except NotVerified:
                continue
            # A signature line under another name is one that nobody knows.
            self.assertEqual(checkpoint, good[0])
            self.assertLess(len(signers), len(good[1]))
        for other in (leaf + b"x", leaf[:-1], b""):
            with self.assertRaises(NotVerified):
                Proof.parse(proof).verify(other, policy)

    def test_policy_counts_witnesses(self):
        text = (VECTORS / "n70" / "policy.txt").read_text()
        vector = json.loads((VECTORS / "n70" / "vector.json").read_text())
        leaf = base64.b64decode(vector["leaf"])
        proof = known("n70")[1]
        lines = proof.rstrip("\n").split("\n")
        one = "\n".join(lines[:-2]) + "\n"
        two = "\n".join(lines[:-1]) + "\n"
        Proof.parse(two).verify(leaf, Policy(text))
        with self.assertRaisesRegex(NotVerified, "too few"):
            Proof.parse(one).verify(leaf, Policy(text))
        Proof.parse(one).verify(leaf, Policy(text.replace("quorum orgs", "quorum W0")))
        Proof.parse(one).verify(leaf, Policy(text.replace("quorum orgs", "quorum none")))

    def test_malformed_policies_are_refused(self):
        good = (VECTORS / "n70" / "policy.txt").read_text()
        for old, new in (
            ("quorum orgs", ""),
            ("quorum orgs", "quorum others"),
            ("quorum orgs", "quorum orgs\nquorum orgs"),
            ("group orgs 2", "group orgs 4"),
            ("group orgs 2", "group orgs 0"),
            ("W1 W2", "W1 W1"),
            ("W1 W2", "W1 W3"),
            ("witness W1", "witness W0"),
            ("+a5d91b69+", "+a5d91b68+"),
            ("log ", "lag "),
        ):
            with self.subTest(new), self.assertRaises(NotVerified):
                Policy(good.replace(old, new, 1))


class ReadReceipt(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        make_certificates(cls.folder)
        pb, services = compile_protos(cls.folder)
        cls.log = Log()
        (cls.folder / "policy").write_text(cls.log.policy())

        class Anchor(services.AnchorServiceServicer):
            def Receipt(self, request, context):
                # It knows one record, whatever it is asked for.
                index = request.leaf_index if request.WhichOneof("leaf") == "leaf_index" else LEAF
                return pb.ReceiptResponse(leaf_index=index, receipt=cls.log.receipt(index).encode())

        server = grpc.server(ThreadPoolExecutor(2))
        services.add_AnchorServiceServicer_to_server(Anchor(), server)
        status = health.HealthServicer()
        status.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        names = (read_receipt.HEALTH, read_receipt.ANCHOR, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        pairs = [tuple((cls.folder / name).read_bytes() for name in ("key.pem", "cert.pem"))]
        ca = (cls.folder / "ca.pem").read_bytes()
        credentials = grpc.ssl_server_credentials(pairs, ca, require_client_auth=True)
        cls.port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        cls.addClassCleanup(server.stop, None)

    def test_receipt_is_read_and_verified(self):
        done = self.command()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"verified leaf {LEAF} of {LEAVES} in {ORIGIN}: anchored, record bafy", done.stdout)
        self.assertIn("outcome ok, statement signed by 1, co-signed by", done.stdout)
        self.assertEqual((self.folder / "out").read_text(), self.log.receipt(LEAF))

    def test_receipt_is_asked_for_by_record(self):
        record = self.log.leaves[LEAF]["record"]
        done = self.command(asked={"record": name_of(record)})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"anchored, record {name_of(record)}, outcome ok", done.stdout)

    def test_receipt_of_another_record_is_refused(self):
        other = name_of(cid_of("dag-cbor", b"another"))
        refused = self.command(asked={"record": other})
        self.assertEqual(refused.returncode, 4, refused.stderr)
        self.assertIn("not verified: receipt is of another record", refused.stderr)

    def test_receipt_does_not_satisfy_another_policy(self):
        other = self.folder / "other-policy"
        other.write_text(Log().policy())
        refused = self.command("--policy", str(other))
        self.assertEqual(refused.returncode, 4, refused.stderr)
        self.assertIn("not verified: checkpoint is not signed by a listed key", refused.stderr)

    def test_server_that_is_not_there_is_unavailable(self):
        refused = self.command("--server", "127.0.0.1:1", "--deadline", "1")
        self.assertEqual(refused.returncode, 5, refused.stderr)

    def test_changed_receipts_are_refused(self):
        policy = Policy(self.log.policy())
        for change in (
            {"outcome": "stale"},
            {"kind": "released"},
            {"opening": bytes(32)},
            {"other": 1},
        ):
            with self.subTest(change), self.assertRaises(NotVerified):
                receipt = self.log.receipt(LEAF, leaf=self.log.leaves[LEAF] | change)
                read_receipt.verify(receipt.encode(), LEAF, policy)
        opening = dict(self.log.openings[LEAF], salt=bytes(32))
        with self.assertRaisesRegex(NotVerified, "another opening"):
            read_receipt.verify(self.log.receipt(LEAF, opening=opening).encode(), LEAF, policy)
        with self.assertRaisesRegex(NotVerified, "another leaf"):
            read_receipt.verify(self.log.receipt(LEAF).encode(), LEAF + 1, policy)

    def command(self, *changed: str, asked: dict | None = None) -> subprocess.CompletedProcess:
        files = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem", "policy": "policy", "out": "out"}
        options = {name: str(self.folder / file) for name, file in files.items()}
        options |= {"server": f"127.0.0.1:{self.port}"} | (asked or {"leaf": str(LEAF)})
        arguments = [part for name, value in options.items() for part in ("--" + name, value)]
        tool = [sys.executable, str(HERE / "read_receipt.py"), *arguments, *changed]
        return subprocess.run(tool, capture_output=True, text=True, check=False)


class Log:
    """A log of a few leaves, with three witnesses."""

    def __init__(self):
        self.device = Ed25519PrivateKey.generate()
        self.log_key = Ed25519PrivateKey.generate()
        self.witnesses = {f"{ORIGIN}/{name}": Ed25519PrivateKey.generate() for name in ("a", "b", "c")}
        self.openings = [self.opening(index) for index in range(LEAVES)]
        self.leaves = [self.leaf(index, opening) for index, opening in enumerate(self.openings)]

    def opening(self, index: int) -> dict:
        statement = {"v": 1, "origin": ORIGIN, "kind": "anchored", "body": {"seq": index}}
        digest = hashlib.sha256(dag_cbor.encode(statement)).digest()
        by = multibase.encode(b"\xed\x01" + self.device.public_key().public_bytes_raw(), "base58btc")
        signature = self.device.sign(b"medanchor/v1/statement\0" + digest)
        signatures = [{"by": f"did:key:{by}", "sig": signature}]
        return {"salt": hashlib.sha256(b"%d" % index).digest(), "statement": statement, "signatures": signatures}

    def leaf(self, index: int, opening: dict) -> dict:
        commitment = hashlib.sha256(b"medanchor/v1/opening\0" + dag_cbor.encode(opening)).digest()
        record = cid_of("dag-cbor", b"%d" % index)
        return {"v": 1, "kind": "anchored", "at": index, "outcome": "ok", "record": record, "opening": commitment}

    def receipt(self, index: int, leaf: dict | None = None, opening: dict | None = None) -> str:
        extra = {"leaf": leaf or self.leaves[index], "opening": opening or self.openings[index]}
        path = inclusion([dag_cbor.encode(leaf) for leaf in self.leaves], index)
        lines = ["c2sp.org/tlog-proof@v1", f"extra {b64(dag_cbor.encode(extra))}", f"index {index}"]
        return "\n".join([*lines, *map(b64, path), "", self.checkpoint()])

    def checkpoint(self) -> str:
        root = tree_head([dag_cbor.encode(leaf) for leaf in self.leaves])
        text = f"{ORIGIN}\n{LEAVES}\n{b64(root)}\n"
        lines = [signature_line(vkey(ORIGIN, LOG, self.log_key), self.log_key.sign(text.encode()))]
        for name, key in self.witnesses.items():
            time = 1_700_000_000
            signature = key.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
            lines.append(signature_line(vkey(name, WITNESS, key), time.to_bytes(8, "big") + signature))
        return "\n".join([text, *lines, ""])

    def policy(self) -> str:
        lines = [f"log {vkey(ORIGIN, LOG, self.log_key)}"]
        lines += [f"witness {name[-1]} {vkey(name, WITNESS, key)}" for name, key in self.witnesses.items()]
        return "\n".join([*lines, "group all-of-them 3 a b c", "quorum all-of-them", ""])


def known(name: str) -> tuple[Policy, str]:
    policy = (VECTORS / name / "policy.txt").read_text()
    return Policy(policy), (VECTORS / name / "proof.tlog-proof").read_text()


def vkey(name: str, kind: int, private: Ed25519PrivateKey) -> str:
    key = bytes([kind]) + private.public_key().public_bytes_raw()
    key_id = hashlib.sha256(name.encode() + b"\n" + key).hexdigest()[:8]
    return f"{name}+{key_id}+{b64(key)}"


def signature_line(key: str, signature: bytes) -> str:
    parsed = VerifierKey.parse(key)
    return f"\u2014 {parsed.name} {b64(parsed.id + signature)}"


def tree_head(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = split_of(leaves)
    return hash_node(tree_head(leaves[:split]), tree_head(leaves[split:]))


def inclusion(leaves: list[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = split_of(leaves)
    if index < split:
        return [*inclusion(leaves[:split], index), tree_head(leaves[split:])]
    return [*inclusion(leaves[split:], index - split), tree_head(leaves[:split])]


def split_of(leaves: list[bytes]) -> int:
    return 1 << (len(leaves) - 1).bit_length() - 1


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def make_certificates(folder: Path) -> None:
    """One authority, and one certificate that serves both sides."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test node")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    is_authority = x509.BasicConstraints(ca=True, path_length=None)
    ca = certificate(issuer, issuer, authority, authority, is_authority)
    cert = certificate(subject, issuer, key, authority, address)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    plain = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))


def certificate(subject, issuer, key, signer, extension) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
    return builder.add_extension(extension, critical=False).sign(signer, hashes.SHA256())


def compile_protos(folder: Path):
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    options = [f"-I{PROTO}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", *options, "medanchor/anchor/v1/anchor.proto"]) != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, str(folder))
    module = "medanchor.anchor.v1.anchor_pb2"
    return importlib.import_module(module), importlib.import_module(module + "_grpc")


if __name__ == "__main__":
    unittest.main()
