"""What `run` runs: a network, four records, and what others' tools make of them.

It prints one line for each thing that was shown, and at the end how many.
"""

import argparse
import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import dag_cbor

from blocks import cid_of, name_of

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
ECG, SMALL = DATA / "mitbih208x.dat", DATA / "mitbih208x.hea"
OPERATOR = Path("hospital-a", "operator")
NODES = ("hospital-a", "hospital-b", "hospital-c")
NOT_VERIFIED = 4
STEP_SECONDS = 120
# With what is in the log already, more than a tile of 256.
TILE_LEAVES = 250
# More than 1024 chunks of 64 KiB.
LARGE_BYTES = 68_000_000


class Failed(Exception):
    """Something was not shown."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="the testnet's program")
    parser.add_argument("--interop", type=Path, required=True, help="the interop test of medanchor-ipfs")
    parser.add_argument("--folder", type=Path, required=True, help="temporary folder, removed at the end")
    args = parser.parse_args()

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    witness = Witness(args.folder / "witness")
    network = Network(args.program, args.folder / "network", witness)
    report = Report()
    try:
        show(network, args, report)
    except KeyboardInterrupt:
        report.fail("interrupted", "stopped before the end")
    finally:
        # A second Ctrl-C must not leave nodes behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        network.stop()
        witness.stop()
        if report.failed:
            network.print_complaints()
        shutil.rmtree(args.folder, ignore_errors=True)
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    sys.exit(report.failed > 0)


def interrupt(_number, _frame) -> None:
    raise KeyboardInterrupt


def show(network: "Network", args: argparse.Namespace, report: "Report") -> None:
    folder = args.folder
    report.step("the commands pass their own tests", own_tests)
    report.step("Kubo and a peer of ours exchange blocks of 4 KiB to 1 MiB", lambda: exchange(args.interop))
    if not report.step("a witness that is not ours, aics-witness, makes its key", network.witness.init):
        return
    if not report.step("three hospitals and a regulator run, and name it in their policy", network.start):
        return
    report.step("aics-witness runs, and co-signs what is published from then on", network.witness_follows)
    people = People(network)
    if not report.step("a device and a researcher are enrolled, a patient consents", people.enrol):
        return
    records = Records(people, folder)
    if not report.step("four records are sealed, anchored and released", records.make):
        return
    tools = Tools(network, people, folder)
    report.step("Python gRPC: health by reflection, a receipt verified", lambda: tools.read_receipt(records.ecg))
    for record in records.all():
        report.step(f"Python opens {record.what} from its blocks and a wrap", lambda: tools.open(record))
    report.step("Python refuses a record with one changed bit", lambda: tools.refuse_changed_block(records.ecg))
    for name, verifier in (("aics-tlog", tools.aics), ("sigstore", tools.sigstore), ("Go x/mod/sumdb", tools.go)):
        report.step(f"{name} verifies the receipt", lambda: tools.verify(verifier, records.ecg))
        report.step(f"{name} refuses tampered receipts", lambda: tools.refuse_tampered(verifier, records.ecg))
    cars = Cars(people, records, folder)
    exported = report.step("four records are exported as a CAR", cars.export)
    if exported:
        report.step("Kubo takes the CAR as its `dag import` does, and pins the four records", cars.into_kubo)
    if exported and cars.has_node():
        report.step("@ipld/car reads the CAR, and writes the same bytes", cars.through_js)
        report.step("@ipld/car and we refuse a CAR with one changed bit", cars.refuse_changed)
        report.step("what @ipld/car wrote is imported", cars.import_back)
        report.step("Kubo pins the four records from the CAR's blocks alone", cars.pin)
    crypt4gh = Crypt4gh(people, folder)
    report.step("crypt4gh decrypts what we export", lambda: crypt4gh.export(records.ecg))
    report.step("crypt4gh decrypts an export that was killed and went on", lambda: crypt4gh.go_on(records.large))
    report.step("what crypt4gh encrypts is sealed, and comes out as it was", lambda: crypt4gh.bring_back(records.ecg))
    report.step("crypt4gh and we refuse a file with one changed bit", crypt4gh.refuse_changed)
    audit = Audit(network, folder, tools, people.custody)
    if report.step("an auditor is let in, and the log grows beyond a tile", audit.prepare):
        report.step("another member leads, and signs with its own log key under the same origin", audit.change_leader)
        report.step("aics-tlog audits the whole log over HTTPS", audit.aics)
        report.step("Go x/mod/sumdb audits the whole log over HTTPS", audit.go)
        report.step("entries are not for a guest", audit.refuse_guest)
        report.step("a receipt whose quorum needs aics-witness verifies, and not without it", audit.need_witness)
        report.step("aics-witness has co-signed under both keys, and refuses forks", audit.witness)
        report.step("without aics-witness the log goes on, and with it again", audit.lose_witness)
    kubo = Kubo(network, folder)
    if report.step("nodes restart with a Kubo node among their peers", kubo.introduce):
        for record in records.all():
            report.step(f"Kubo pins {record.what}, all blocks", lambda: kubo.pin(record))
            report.step("a CAR of it, as Kubo's `dag export` writes one, is imported", lambda: kubo.export(record, people))
        report.step("a node of ours fetches a block that Kubo alone has", lambda: kubo.give(tools))


def own_tests() -> str:
    ran = run([sys.executable, "-m", "unittest", "discover", "--start-directory", HERE])
    ensure(ran.returncode == 0, ran.stderr)
    return next(line for line in ran.stderr.splitlines() if line.startswith("Ran "))


def exchange(interop: Path) -> str:
    """Both directions, also at once, windows 1, 16 and 64, incomplete DAGs: `interop/run kubo` prints the table."""
    os.environ["MEDANCHOR_FOREIGN"] = shlex.join([sys.executable, str(HERE / "kubo_pin.py")])
    table = checked([interop, "--ignored", "--nocapture"])
    rows = [line for line in table.splitlines() if line.startswith(("we ", "they ", "both "))]
    ensure(len(rows) > 0, f"it was not run: {table}")
    return f"{len(rows)} ways"


class Report:
    """Counts and prints what was shown."""

    def __init__(self):
        self.passed = self.failed = 0

    def step(self, what: str, act: Callable[[], str | None]) -> bool:
        began = time.monotonic()
        try:
            said = act()
        except Failed as error:
            self.fail(what, str(error))
            return False
        except Exception as error:  # Whatever one step meets, the others go on and the count is right.
            self.fail(what, f"{type(error).__name__}: {error}")
            return False
        self.passed += 1
        took = f"{time.monotonic() - began:.1f} s"
        print(f"ok {what} ({took}{': ' + said if said else ''})", flush=True)
        return True

    def fail(self, what: str, why: str) -> None:
        self.failed += 1
        print(f"FAILED {what}: {why}", flush=True)


class Witness:
    """aics-witness, as a process that knows nothing of ours but the policy file."""

    def __init__(self, folder: Path):
        self.folder, self.named, self.process = folder, folder / "named.toml", None

    def init(self) -> str:
        said = checked(self.command("init"))
        self.named.write_text(said)
        return said.splitlines()[1]

    def start(self, policy: Path) -> None:
        command = words([*self.command("serve"), "--policy", policy])
        with (self.folder / "witness.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STEP_SECONDS)
            self.process = None

    def command(self, name: str) -> list:
        return [sys.executable, HERE / "foreign_witness.py", name, "--folder", self.folder]


class Network:
    """Three hospitals and a regulator, each a process, and a witness that others run."""

    def __init__(self, program: Path, folder: Path, witness: Witness):
        self.program, self.folder, self.witness = program, folder, witness

    def start(self) -> str:
        self.testnet("up", "--nodes", str(len(NODES)), "--foreign-witnesses", self.witness.named, "--dir", self.folder)
        return self.policy.read_text().splitlines()[-2]

    def witness_follows(self) -> str:
        """Until the newest checkpoint bears its co-signature, which it does without anything new in the log."""
        self.witness.start(self.policy)
        deadline = time.monotonic() + STEP_SECONDS
        line = ""
        while not line:
            ensure(time.monotonic() < deadline, "aics-witness co-signs nothing that is published")
            time.sleep(0.1)
            receipt = self.folder / "first.tlog-proof"
            receipt.unlink(missing_ok=True)
            self.medanchor(OPERATOR, "log", "prove", "0", "-o", receipt)
            lines = receipt.read_text().splitlines()
            line = next((line for line in lines if line.startswith("\u2014 foreign.example/witness ")), "")
        return line

    @property
    def policy(self) -> Path:
        return self.folder / "hospital-a" / "policy.txt"

    def stop(self) -> None:
        if self.folder.exists():
            # In a session of its own, which Ctrl-C does not reach.
            down = [self.program, "down", "--dir", self.folder]
            subprocess.run(down, timeout=STEP_SECONDS, check=False, start_new_session=True)

    def print_complaints(self) -> None:
        """The last that the nodes warned of: their logs are about to go."""
        for log in sorted(self.folder.glob("*/medanchord.log")):
            complaints = [line for line in log.read_text().splitlines() if " WARN " in line or " ERROR " in line]
            for line in complaints[-5:]:
                print(f"{log.parent.name}: {line}", file=sys.stderr)

    def restart(self) -> None:
        self.testnet("down", "--dir", self.folder)
        self.testnet("up", "--dir", self.folder)

    def testnet(self, *arguments) -> str:
        return checked([self.program, *arguments])

    def medanchor(self, home: Path, *arguments) -> dict:
        return json.loads(self.testnet("medanchor", "--json", "--home", self.folder / home, *arguments))

    def invite(self, name: str) -> Path:
        """A home for somebody whom hospital A lets in, with new keys."""
        home = Path("homes", name)
        node = self.folder / "hospital-a"
        self.testnet("medanchord", "--data", node, "invite", name, "--home", self.folder / home)
        self.medanchor(home, "key", "new", "--no-passphrase")
        return home

    def config(self, node: str) -> dict:
        return tomllib.loads((self.folder / node / "medanchord.toml").read_text())

    def swarm(self) -> Iterator[str]:
        """The multiaddresses of the nodes' private IPFS peers: ports by configuration, ids by the founding."""
        founding = dag_cbor.decode((self.folder / "hospital-a" / "founded.cbor").read_bytes())
        ids = {member["node_id"]: member["peer_id"] for member in founding["statement"]["body"]["members"]}
        for member in self.config("hospital-a")["members"]:
            host, _, port = member["swarm"].rpartition(":")
            yield f"/ip4/{host}/tcp/{port}/p2p/{ids[member['node_id']]}"


class People:
    """Who takes part: a device of hospital A, a researcher of an institute."""

    def __init__(self, network: Network):
        self.network = network

    def enrol(self) -> None:
        self.device, self.researcher = self.network.invite("holter"), self.network.invite("researcher")
        institute = self.network.invite("institute")
        institute_did = self.did(institute)
        self.run(OPERATOR, "org", "enrol", institute_did, "--role", "researcher")
        self.run(institute, "person", "enrol", self.did(self.researcher), "--role", "researcher")
        self.run(OPERATOR, "device", "enrol", self.did(self.device), "--role", "device")
        self.custody = self.run(OPERATOR, "custody", "new", "--kind", "person")["custody"]
        self.run(OPERATOR, "consent", "give", self.custody, "--party", institute_did, "--purpose", "HRESCH")

    def did(self, home: Path) -> str:
        return self.run(home, "key", "show")["did"]

    def run(self, home: Path, *arguments) -> dict:
        return self.network.medanchor(home, *arguments)


@dataclass
class Record:
    """A payload that is sealed, anchored, and released to the researcher."""

    what: str
    payload: Path
    options: tuple[str, ...] = ()
    cid: str = field(default="", init=False)
    leaf: int = field(default=0, init=False)


class Records:
    """What the device sends: an ECG in several chunks by both suites, something so small that it is one block, and
    something so large that an index lists its chunks."""

    def __init__(self, people: People, folder: Path):
        self.people, self.folder = people, folder
        chunks = ("--chunk-log2", "16")
        self.ecg = Record("a record of suite 1", ECG, chunks)
        self.second = Record("a record of suite 2", ECG, (*chunks, "--suite", "aes-256-gcm"))
        self.small = Record("a record of one block", SMALL)
        self.large = Record("a record with an index", folder / "large", chunks)

    def all(self) -> list[Record]:
        return [self.ecg, self.second, self.small, self.large]

    def make(self) -> None:
        self.large.payload.write_bytes(os.urandom(LARGE_BYTES))
        for record in self.all():
            put = ("put", record.payload, "--custody", self.people.custody, "--class", "waveform.ecg")
            stored = self.people.run(self.people.device, *put, *record.options)
            record.cid, record.leaf = stored["record"], stored["leaf_index"]
            # Which leaves the wrap in the researcher's home.
            self.people.run(self.people.researcher, "request", record.cid, "--purpose", "HRESCH")


class Tools:
    """Others' tools on what the network made."""

    def __init__(self, network: Network, people: People, folder: Path):
        self.network, self.folder = network, folder
        self.device, self.researcher = network.folder / people.device, network.folder / people.researcher
        self.aics = [sys.executable, HERE / "verify_log.py"]
        self.sigstore = [sys.executable, HERE / "verify_sigstore.py"]
        self.go = [folder / "verify_note"]

    def read_receipt(self, record: Record) -> str:
        policy = ("--policy", self.researcher / "policy.txt")
        said = self.tool("read_receipt.py", *self.server(self.researcher), *policy, "--record", record.cid)
        ensure(f"record {record.cid}, outcome ok, statement signed by 1" in said, said)
        return said

    def server(self, home: Path) -> tuple:
        """Any node, and who asks it."""
        certificates = ("--ca", home / "ca.pem", "--cert", home / "cert.pem", "--key", home / "key.pem")
        return ("--server", self.network.config("hospital-b")["listen"], *certificates)

    def open(self, record: Record) -> str:
        blocks, out = self.folder / "blocks" / record.cid, self.folder / "opened"
        fetched = self.tool("fetch_blocks.py", *self.server(self.researcher), "--record", record.cid, "--out", blocks)
        checked(self.open_command(record, blocks, out))
        ensure(out.read_bytes() == record.payload.read_bytes(), "what was opened is not what was sealed")
        return f"{fetched}; byte-identical"

    def open_command(self, record: Record, blocks: Path, out: Path) -> list:
        key = self.folder / "receive.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(tomllib.loads((self.researcher / "identity.toml").read_text())["receive_private"])
        grant = self.researcher / "grants" / f"{record.cid}.grant"
        arguments = ("--blocks", blocks, "--record", record.cid, "--grant", grant, "--key", key, "--out", out)
        return [sys.executable, HERE / "open_record.py", *arguments]

    def refuse_changed_block(self, record: Record) -> str:
        changed, out = self.folder / "changed", self.folder / "never"
        shutil.copytree(self.folder / "blocks" / record.cid, changed)
        chunk = max(changed.iterdir(), key=lambda file: file.stat().st_size)
        chunk.write_bytes(flip(chunk.read_bytes(), 1000))
        refusal = refused(self.open_command(record, changed, out))
        ensure(not out.exists(), "something was written all the same")
        return refusal

    def verify(self, verifier: list, record: Record) -> str:
        said = checked([*verifier, self.receipt(record), self.device / "policy.txt"])
        ensure(said.startswith(f"verified: leaf {record.leaf} of "), said)
        return said

    def refuse_tampered(self, verifier: list, record: Record) -> str:
        receipt, tampered = self.receipt(record).read_text(), self.folder / "tampered.tlog-proof"
        kinds = tamper(receipt)
        for kind, text in kinds.items():
            tampered.write_text(text)
            try:
                refused([*verifier, tampered, self.device / "policy.txt"])
            except Failed as error:
                raise Failed(f"{kind}: {error}") from error
        return ", ".join(kinds)

    def receipt(self, record: Record) -> Path:
        return self.device / "receipts" / f"{record.cid}.tlog-proof"

    def tool(self, name: str, *arguments) -> str:
        return checked([sys.executable, HERE / name, *arguments])


class Crypt4gh:
    """GA4GH Crypt4GH, by its reference implementation."""

    def __init__(self, people: People, folder: Path):
        self.people, self.folder = people, folder
        self.secret, self.public = folder / "c4gh.sec", folder / "c4gh.pub"
        self.ours, self.theirs, self.changed = folder / "ours.c4gh", folder / "theirs.c4gh", folder / "changed.c4gh"
        self.plain = folder / "c4gh.plain"

    def export(self, record: Record) -> str:
        keygen = Path(sys.executable).with_name("crypt4gh-keygen")
        checked([keygen, "--sk", self.secret, "--pk", self.public, "--nocrypt", "-f"])
        get = ("get", record.cid, "--purpose", "HRESCH", "--format", "c4gh", "--to", self.public, "-o", self.ours)
        self.people.run(self.people.researcher, *get)
        plain = self.piped(self.ours, "decrypt", "--sk", self.secret)
        ensure(plain.returncode == 0 and plain.stdout == record.payload.read_bytes(), "another payload came out")
        return f"{len(plain.stdout)} bytes"

    def go_on(self, record: Record) -> str:
        network, whole = self.people.network, self.folder / "whole.c4gh"
        get = ("get", record.cid, "--purpose", "HRESCH", "--format", "c4gh", "--to", self.public, "-o", whole)
        home = network.folder / self.people.researcher
        slowly = words([network.program, "medanchor", "--home", home, *get, "--limit", "8M"])
        with subprocess.Popen(slowly, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as getting:
            unfinished = None
            while unfinished is None or unfinished.stat().st_size < LARGE_BYTES // 8:
                ensure(getting.poll() is None, "it was over already")
                unfinished = next(self.folder.glob("*.c4gh.partial"), None)
                time.sleep(0.02)
            getting.kill()
        got = self.people.run(self.people.researcher, *get)
        ensure(got["blocks_kept"] > 0 and got["blocks_fetched"] > 0, str(got))
        plain = self.piped(whole, "decrypt", "--sk", self.secret)
        ensure(plain.returncode == 0 and plain.stdout == record.payload.read_bytes(), "another payload came out")
        return f"{got['blocks_kept']} blocks were there, {got['blocks_fetched']} were fetched"

    def bring_back(self, record: Record) -> str:
        theirs = self.piped(record.payload, "encrypt", "--sk", self.secret, "--recipient_pk", self.public)
        ensure(theirs.returncode == 0, "crypt4gh does not encrypt")
        self.theirs.write_bytes(theirs.stdout)
        stored = self.people.run(self.people.device, *self.put(self.theirs))
        got = ("get", stored["record"], "--purpose", "HRESCH", "-o", self.plain)
        self.people.run(self.people.researcher, *got)
        ensure(self.plain.read_bytes() == record.payload.read_bytes(), "another payload came out")
        return f"{stored['size_bytes']} bytes"

    def refuse_changed(self) -> str:
        self.changed.write_bytes(flip(self.ours.read_bytes(), 100_000))
        ensure(self.piped(self.changed, "decrypt", "--sk", self.secret).returncode != 0, "crypt4gh accepts it")
        network = self.people.network
        home = network.folder / self.people.device
        return refused([network.program, "medanchor", "--home", home, *self.put(self.changed)]).splitlines()[0]

    def put(self, file: Path) -> tuple:
        custody = ("--custody", self.people.custody, "--class", "waveform.ecg")
        return ("put", file, "--format", "c4gh", "--key", self.secret, *custody)

    def piped(self, file: Path, *arguments) -> subprocess.CompletedProcess:
        command = [Path(sys.executable).with_name("crypt4gh"), *arguments]
        with file.open("rb") as stdin:
            return subprocess.run(command, stdin=stdin, capture_output=True, timeout=STEP_SECONDS, check=False)


class Cars:
    """All records in a CAR, and what others make of it."""

    def __init__(self, people: People, records: Records, folder: Path):
        self.people, self.records, self.folder = people, records, folder
        self.car, self.again, self.blocks = folder / "records.car", folder / "again.car", folder / "car-blocks"
        # `run` puts it there with its packages, when there is a Node.
        self.js = folder / "js"

    def export(self) -> str:
        cids = [record.cid for record in self.records.all()]
        exported = self.people.run(self.people.device, "car", "export", *cids, "--out", self.car)
        return f"{exported['blocks']} blocks, {exported['size_bytes']} bytes"

    def into_kubo(self) -> str:
        swarm_key = self.people.network.folder / "hospital-a" / "swarm.key"
        repo = ("--repo", self.folder / "kubo-import", "--swarm-key", swarm_key)
        _, *pinned = checked([sys.executable, HERE / "kubo_pin.py", *repo, "--import", self.car]).splitlines()
        for record, said in zip(self.records.all(), pinned, strict=True):
            ensure(said.startswith(f"pinned {record.cid}: "), said)
        return ", ".join(said.split(": ")[1].split(",")[0] for said in pinned)

    def has_node(self) -> bool:
        return (self.js / "node_modules").exists()

    def through_js(self) -> str:
        *roots, read = checked(self.command(self.car, self.again, self.blocks)).splitlines()
        ensure(roots == [f"root {record.cid}" for record in self.records.all()], f"other roots: {roots}")
        ensure(self.again.read_bytes() == self.car.read_bytes(), "other bytes were written")
        return read

    def refuse_changed(self) -> str:
        changed = self.folder / "changed.car"
        changed.write_bytes(flip(self.car.read_bytes(), 100_000))
        refusal = refused(self.command(changed, self.folder / "never.car", self.folder / "never-blocks"))
        network = self.people.network
        home = network.folder / self.people.device
        ours = refused([network.program, "medanchor", "--home", home, "car", "import", changed])
        return f"{refusal}; {ours.splitlines()[0]}"

    def import_back(self) -> str:
        imported = self.people.run(self.people.device, "car", "import", self.again)
        ensure(imported["ok"] and len(imported["roots"]) == len(self.records.all()), str(imported))
        leaves = [root["anchored_index"] for root in imported["roots"]]
        ensure(leaves == [record.leaf for record in self.records.all()], f"other leaves: {leaves}")
        return f"{imported['blocks']} blocks"

    def pin(self) -> str:
        swarm_key = self.people.network.folder / "hospital-a" / "swarm.key"
        repo = ("--repo", self.folder / "kubo-of-car", "--swarm-key", swarm_key)
        kubo, said = [sys.executable, HERE / "kubo_pin.py", *repo], []
        for number, record in enumerate(self.records.all()):
            add = ("--add", self.blocks) if number == 0 else ()
            pinned = checked([*kubo, *add, "--cid", record.cid]).splitlines()[-1]
            ensure(pinned.startswith(f"pinned {record.cid}: "), pinned)
            said.append(pinned.split(": ")[1].split(",")[0])
        return ", ".join(said)

    def command(self, *paths: Path) -> list:
        return ["node", self.js / "car.mjs", *paths]


def tamper(receipt: str) -> dict[str, str]:
    """The receipt with one bit changed in its leaf, in its root hash, in the log's signature; of another index."""
    lines = receipt.split("\n")
    index = next(at for at, line in enumerate(lines) if line.startswith("index "))
    note = lines.index("") + 1
    signature = lines.index("", note) + 1
    *words, signed = lines[signature].split(" ")
    changes = {
        # Within the leaf's own bytes, which come first.
        "leaf": (1, "extra " + flip_base64(lines[1].removeprefix("extra "), 30)),
        "index": (index, f"index {int(lines[index].removeprefix('index ')) - 1}"),
        "root": (note + 2, flip_base64(lines[note + 2], 7)),
        "signature": (signature, " ".join((*words, flip_base64(signed, 40)))),
    }
    return {kind: "\n".join((*lines[:at], line, *lines[at + 1 :])) for kind, (at, line) in changes.items()}


def flip_base64(text: str, at: int) -> str:
    return base64.b64encode(flip(base64.b64decode(text), at)).decode()


def flip(data: bytes, at: int) -> bytes:
    """The data with the lowest bit of one byte changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Audit:
    """The whole log, as an auditor reads it over HTTPS."""

    def __init__(self, network: Network, folder: Path, tools: Tools, custody: str):
        self.network, self.folder, self.tools, self.custody = network, folder, tools, custody
        self.auditor, self.old = network.folder / "homes" / "supervisor", folder / "old.checkpoint"

    def prepare(self) -> str:
        node = self.network.folder / "hospital-a"
        self.network.testnet("medanchord", "--data", node, "invite", "--auditor", "supervisor", "--home", self.auditor)
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(self.add_leaf, OPERATOR) for _ in range(TILE_LEAVES)]
        for leaf in made:
            leaf.result()
        return self.tools.tool("audit_log.py", *self.arguments(NODES[0]), "--save", self.old)

    def change_leader(self) -> str:
        """Kills the leader, so that another one publishes. It comes back before anything else."""
        leader = self.network.medanchor(OPERATOR, "status")["leader"]
        ensure(leader in NODES, f"the leader is `{leader}`")
        self.other = next(node for node in NODES if node != leader)
        self.network.testnet("kill", leader, "--dir", self.network.folder)
        try:
            self.add_leaf(Path(self.other, "operator"))
        finally:
            self.network.testnet("start", leader, "--dir", self.network.folder)
        new = self.folder / "new.checkpoint"
        self.tools.tool("audit_log.py", *self.arguments(self.other), "--save", new)
        ensure(signer(self.old) != signer(new), "both checkpoints are signed with one log key")
        return f"after {leader}, {signer(self.old)} and {signer(new)}"

    def aics(self) -> str:
        return self.tools.tool("audit_log.py", *self.arguments(self.other), "--old", self.old)

    def go(self) -> str:
        return checked([*self.tools.go, "--log", *self.go_arguments(self.auditor), self.old])

    def refuse_guest(self) -> str:
        return refused([*self.tools.go, "--log", *self.go_arguments(self.tools.researcher)])

    def need_witness(self) -> str:
        """While the regulator is away, four of five are three hospitals and aics-witness."""
        self.network.testnet("kill", "regulator", "--dir", self.network.folder)
        try:
            put = ("put", SMALL, "--custody", self.custody, "--class", "log")
            self.needed = Path(self.network.medanchor(self.tools.device, *put)["receipt"])
        finally:
            self.network.testnet("start", "regulator", "--dir", self.network.folder)
        policy, without = self.tools.device / "policy.txt", self.folder / "without.tlog-proof"
        lines = self.needed.read_text().splitlines(keepends=True)
        without.write_text("".join(line for line in lines if not line.startswith("\u2014 foreign.example/witness ")))
        ours = [self.network.program, "medanchor", "verify"]
        checked([*ours, self.needed, "--policy", policy])
        said = checked([*self.tools.aics, self.needed, policy])
        for verifier in ([*ours, without, "--policy", policy], [*self.tools.aics, without, policy]):
            refused(verifier)
        return said

    def witness(self) -> str:
        log_key = self.network.folder / "hospital-a" / "keys" / "log.key"
        more = ("--log-key", log_key, "--receipt", self.needed)
        return checked([*self.network.witness.command("check"), *self.arguments(self.other), *more])

    def lose_witness(self) -> str:
        self.network.witness.stop()
        for _ in range(5):
            self.add_leaf(OPERATOR)
        return self.network.witness_follows()

    def add_leaf(self, home: Path) -> None:
        self.network.medanchor(home, "custody", "new", "--kind", "dataset")

    def arguments(self, node: str) -> tuple:
        home = self.auditor
        certificates = ("--ca", home / "ca.pem", "--cert", home / "cert.pem", "--key", home / "key.pem")
        return ("--url", self.url(node), "--policy", home / "policy.txt", *certificates)

    def go_arguments(self, home: Path) -> list:
        return [self.url(self.other), *(home / name for name in ("policy.txt", "ca.pem", "cert.pem", "key.pem"))]

    def url(self, node: str) -> str:
        return f"https://{self.network.config(node)['log_listen']}"


def signer(checkpoint: Path) -> str:
    """The id of the log key that signed: the first signature's."""
    line = checkpoint.read_text().split("\n\n")[1].split("\n")[0]
    return base64.b64decode(line.split(" ")[2])[:4].hex()


class Kubo:
    """A Kubo node in the private swarm."""

    def __init__(self, network: Network, folder: Path):
        self.network, self.folder = network, folder
        swarm_key = network.folder / "hospital-a" / "swarm.key"
        self.command = [sys.executable, HERE / "kubo_pin.py", "--repo", folder / "kubo", "--swarm-key", swarm_key]

    def introduce(self) -> str:
        """Makes Kubo's identity and names it in every node's configuration."""
        peer = checked(self.command).strip().removeprefix("peer ")
        for node in NODES:
            path = self.network.folder / node / "medanchord.toml"
            text = path.read_text().replace("foreign_peers = []\n", "")
            path.write_text(f'{text}\n[[foreign_peers]]\npeer_id = "{peer}"\n')
        self.network.restart()
        return peer

    def pin(self, record: Record) -> str:
        said = checked([*self.command, *self.connect(), "--cid", record.cid]).splitlines()[-1]
        ensure(said.startswith(f"pinned {record.cid}: "), said)
        return said

    def export(self, record: Record, people: People) -> str:
        theirs, ours = self.folder / "theirs.car", self.folder / "ours.car"
        said = checked([*self.command, "--cid", record.cid, "--export", theirs]).splitlines()[-1]
        people.run(people.device, "car", "export", record.cid, "--out", ours)
        # Ours has the record's wrap behind it, which no record links.
        ensure(ours.read_bytes().startswith(theirs.read_bytes()), "it has other blocks, or in another order")
        imported = people.run(people.device, "car", "import", theirs)
        (root,) = imported["roots"]
        ensure(imported["ok"] and root["anchored_index"] == record.leaf, str(imported))
        return said

    def give(self, tools: Tools) -> str:
        block, own, out = os.urandom(100_000), self.folder / "own", self.folder / "given"
        cid = name_of(cid_of("raw", block))
        own.mkdir()
        (own / cid).write_bytes(block)
        command = words([*self.command, *self.connect(), "--add", own, "--serve"])
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as kubo:
            serving = any(line.startswith("serving ") for line in kubo.stdout)
            ensure(serving, "Kubo does not serve")
            said = tools.tool("fetch_blocks.py", *tools.server(tools.researcher), "--record", cid, "--out", out)
            # It ends when its standard input does.
            kubo.communicate(timeout=STEP_SECONDS)
        ensure((out / cid).read_bytes() == block, "another block came")
        return said

    def connect(self) -> list[str]:
        return [word for address in self.network.swarm() for word in ("--connect", address)]


def checked(command: list) -> str:
    """What a command prints; it must succeed."""
    ran = run(command)
    ensure(ran.returncode == 0, f"{Path(command[0]).name} ended with {ran.returncode}: {ran.stderr.strip()}{ran.stdout}")
    return ran.stdout.strip()


def refused(command: list) -> str:
    """Why a command refuses; it must, as not verified."""
    ran = run(command)
    ensure(ran.returncode == NOT_VERIFIED, f"ended with {ran.returncode}, not {NOT_VERIFIED}: {ran.stderr}{ran.stdout}")
    return ran.stderr.strip()


def run(command: list) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(words(command), capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
    except FileNotFoundError as error:
        raise Failed(f"{Path(command[0]).name} could not be made: see above") from error


def words(command: list) -> list[str]:
    return [str(word) for word in command]


def ensure(holds: bool, why: str) -> None:
    if not holds:
        raise Failed(why)


if __name__ == "__main__":
    main()
