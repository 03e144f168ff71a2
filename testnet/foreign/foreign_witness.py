#!/usr/bin/env python3
"""Has a witness that is not ours, aics-witness, co-sign our checkpoints, and shows that it refuses a fork.

    foreign_witness.py --url URL --policy FILE --ca FILE --cert FILE --key FILE --old CHECKPOINT
                       --log-key FILE --folder FOLDER

Starts the witness as a process on loopback, told of every log key in the policy. It is asked over the C2SP
tlog-witness protocol to co-sign the checkpoint `--old`, then the newest with the proof from our tiles, and then
forks that `--log-key`, a node's own `keys/log.key`, signs as a lying operator would. Exit codes: 0 as it must be,
1 something cannot be read, 2 usage, 4 not as it must be.
"""

import argparse
import base64
import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import aics_tlog as aics
from aics_witness.protocol import format_add_checkpoint_request, parse_signature_lines
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_log import Log, add_log_arguments, judge
from verify_log import check_log, fail, parse_policy

NAME = "foreign.example/witness"
SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_log_arguments(parser)
    parser.add_argument("--old", type=Path, required=True, help="an older checkpoint")
    parser.add_argument("--log-key", type=Path, required=True, help="a node's keys/log.key")
    parser.add_argument("--folder", type=Path, required=True, help="for the witness's files")
    args = parser.parse_args()
    try:
        policy = args.policy.read_text()
        with Witness(args.folder, policy) as witness:
            print(show(witness, Log(args), policy, args.old.read_bytes(), log_key(args.log_key)))
    except ValueError as error:
        fail(4, f"not as it must be: {error}")
    except OSError as error:
        fail(1, f"could not be read: {error}")


def show(witness: "Witness", log: Log, policy: str, old: bytes, key: Ed25519PrivateKey) -> str:
    newest = log.get("checkpoint")
    before, after = judge(aics, old, policy), judge(aics, newest, policy)
    if not 0 < before.size < after.size:
        raise ValueError(f"the log has not grown from {before.size} to {after.size}")
    tiles = aics.MemoryTileReader(aics.tiles.materialise_tiles(log.entries(aics, after.size)))
    proof = aics.consistency_proof_from_tiles(tiles, before.size, after.size)

    witness.cosigns(0, [], old, before)
    witness.refuses(409, 0, [], newest)
    witness.refuses(422, before.size, [bytes(32)] * len(proof), newest)
    witness.cosigns(before.size, proof, newest, after)
    forks = 0
    for size in (after.size, after.size + 1, 2 * after.size):
        root = hashlib.sha256(b"another log").digest()
        lie = aics.Checkpoint(origin=after.origin, size=size, root=root)
        lie = aics.sign_checkpoint(lie, key, after.origin).serialise().encode()
        shape = aics.consistency_proof_from_tiles(zeros(size), after.size, size) if size > after.size else []
        witness.refuses(422, after.size, shape, lie)
        forks += 1
    witness.keeps_evidence()
    stranger = aics.Checkpoint(origin=after.origin, size=after.size, root=after.root)
    stranger = aics.sign_checkpoint(stranger, Ed25519PrivateKey.generate(), after.origin)
    witness.refuses(403, after.size, [], stranger.serialise().encode())
    shown = aics.parse_note(witness.shows(after.origin).decode())
    shown = check_log(aics, shown, parse_policy(aics, policy)[0], [witness.key])
    if (shown.size, list(shown.witnesses)) != (after.size, [NAME]):
        raise ValueError("the witness does not show what it co-signed last")
    return f"verified: {NAME} co-signed {before.size} and {after.size} leaves, and refused {forks} forks"


def zeros(size: int):
    """Tiles of as many equal leaves: a proof of the right shape, of another log."""
    return aics.MemoryTileReader(aics.tiles.materialise_tiles([b""] * size))


def log_key(path: Path) -> Ed25519PrivateKey:
    magic, kind, seed = path.read_text().split()
    if (magic, kind) != ("medanchor-key-1", "log"):
        raise ValueError(f"{path} is not a log key")
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


class Witness:
    """A process on loopback."""

    def __init__(self, folder: Path, policy: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "witness.json"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.listen = "{}:{}".format(*free.getsockname())
        said = self.run("init", "--name", NAME, "--listen", self.listen)
        vkey = next(word for word in said.split() if word.startswith(f"{NAME}+"))
        self.key = aics.parse_vkey(vkey)
        for log in parse_policy(aics, policy)[0]:
            self.run("add-log", "--origin", log.name, "--vkey", aics.format_vkey(log))
        self.log = (folder / "witness.log").open("w")

    def __enter__(self) -> "Witness":
        command = self.command("serve")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(self.listen.split(":"), timeout=1).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.__exit__()
                    raise
            time.sleep(0.05)

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        self.log.close()

    def command(self, name: str, *arguments: str) -> list:
        return [sys.executable, "-m", "aics_witness", name, "--config", self.config, *arguments]

    def run(self, name: str, *arguments: str) -> str:
        command = self.command(name, *arguments)
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if ran.returncode != 0:
            raise ValueError(f"aics-witness {name} failed: {ran.stderr.strip()}")
        return ran.stdout

    def cosigns(self, old: int, proof: list[bytes], text: bytes, verdict) -> None:
        """It answers with a co-signature that verifies, with others' code again."""
        status, answer = self.add_checkpoint(old, proof, text)
        if status != 200:
            raise ValueError(f"the witness answered {status}: {answer.decode()}")
        lines = [line for line in parse_signature_lines(answer.decode()) if line.key_id == self.key.key_id]
        good = [
            aics.verify_cosignature(
                line.signature, NAME, self.key.public_key, verdict.origin, verdict.size, verdict.root
            )
            for line in lines
        ]
        if good != [True]:
            raise ValueError("the witness's co-signature does not verify")

    def refuses(self, expected: int, old: int, proof: list[bytes], text: bytes) -> None:
        status, answer = self.add_checkpoint(old, proof, text)
        if status != expected:
            raise ValueError(f"the witness answered {status} and not {expected}: {answer.decode()}")

    def add_checkpoint(self, old: int, proof: list[bytes], text: bytes) -> tuple[int, bytes]:
        body = format_add_checkpoint_request(old, proof, text)
        return self.ask(urllib.request.Request(f"http://{self.listen}/add-checkpoint", data=body, method="POST"))

    def shows(self, origin: str) -> bytes:
        name = hashlib.sha256(origin.encode()).hexdigest()
        status, answer = self.ask(urllib.request.Request(f"http://{self.listen}/{name}/checkpoint"))
        if status != 200:
            raise ValueError(f"the witness shows nothing: {status}")
        return answer

    @staticmethod
    def ask(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def keeps_evidence(self) -> None:
        if not json.loads(self.run("evidence")):
            raise ValueError("the witness kept no evidence of the forks")


if __name__ == "__main__":
    main()
