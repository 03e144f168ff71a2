#!/usr/bin/env python3
"""Runs a witness that is not ours, aics-witness, for a network that names it, and shows what it did.

    foreign_witness.py init --folder FOLDER
    foreign_witness.py serve --folder FOLDER --policy FILE
    foreign_witness.py check --folder FOLDER --log-key FILE --receipt FILE
                             --url URL --policy FILE --ca FILE --cert FILE --key FILE

`init` makes its key and prints what a network is founded with to name it: `[[foreign_witnesses]]`. `serve` tells it of
every log key in the network's policy, and is the witness from then on. `check` shows that the checkpoint which the
network publishes, and the one in a receipt, bear its co-signature; that the policy is not satisfied by that receipt
without it; and that it refuses forks that `--log-key`, a node's own `keys/log.key`, signs as a lying operator would.
Exit codes: 0 as it must be, 1 something cannot be read, 2 usage, 4 not as it must be.
"""

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import aics_tlog as aics
from aics_witness.protocol import format_add_checkpoint_request
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_log import Log, add_log_arguments, judge
from verify_log import check_log, fail, parse_policy, verify

NAME = "foreign.example/witness"
PREFIX = "/w"
SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    init, serve, check = (commands.add_parser(name) for name in ("init", "serve", "check"))
    serve.add_argument("--policy", type=Path, required=True)
    add_log_arguments(check)
    check.add_argument("--log-key", type=Path, required=True, help="a node's keys/log.key")
    check.add_argument("--receipt", type=Path, required=True, help="one whose quorum needs the witness")
    for command in (init, serve, check):
        command.add_argument("--folder", type=Path, required=True, help="for the witness's files")
    args = parser.parse_args()
    try:
        witness = Witness(args.folder)
        if args.command == "init":
            print(witness.init(), end="")
        elif args.command == "serve":
            witness.serve(args.policy.read_text())
        else:
            print(show(witness, Log(args), args.policy.read_text(), args.receipt.read_text(), log_key(args.log_key)))
    except ValueError as error:
        fail(4, f"not as it must be: {error}")
    except OSError as error:
        fail(1, f"could not be read: {error}")


def show(witness: "Witness", log: Log, policy: str, receipt: str, key: Ed25519PrivateKey) -> str:
    published = judge(aics, log.get("checkpoint"), policy)
    if NAME not in published.witnesses:
        raise ValueError(f"what is published is co-signed by {published.witnesses} alone")
    needs_it(receipt, policy)
    logs = parse_policy(aics, policy)[0]
    shown = aics.parse_note(witness.shows(published.origin).decode())
    last = check_log(aics, shown, logs, [witness.key])
    if list(last.witnesses) != [NAME] or last.size < published.size:
        raise ValueError("the witness does not show what it co-signed last")

    forks = 0
    for size in (last.size, last.size + 1, 2 * last.size):
        root = hashlib.sha256(b"another log").digest()
        lie = aics.Checkpoint(origin=last.origin, size=size, root=root)
        lie = aics.sign_checkpoint(lie, key, last.origin).serialise().encode()
        shape = aics.consistency_proof_from_tiles(zeros(size), last.size, size) if size > last.size else []
        witness.refuses(422, last.size, shape, lie)
        forks += 1
    witness.keeps_evidence()
    stranger = aics.Checkpoint(origin=last.origin, size=last.size, root=last.root)
    stranger = aics.sign_checkpoint(stranger, Ed25519PrivateKey.generate(), last.origin)
    witness.refuses(403, last.size, [], stranger.serialise().encode())
    if aics.parse_note(witness.shows(last.origin).decode()).text != shown.text:
        raise ValueError("the witness shows another checkpoint than before the forks")
    return f"verified: {NAME} co-signed {published.size} published leaves, a receipt needs it, {forks} forks are refused"


def needs_it(receipt: str, policy: str) -> None:
    verify(aics, receipt, policy)
    lines = receipt.splitlines(keepends=True)
    without = "".join(line for line in lines if not line.startswith(f"\u2014 {NAME} "))
    try:
        verify(aics, without, policy)
    except ValueError:
        return
    raise ValueError("the receipt verifies without the witness as well")


def zeros(size: int):
    """Tiles of as many equal leaves: a proof of the right shape, of another log."""
    return aics.MemoryTileReader(aics.tiles.materialise_tiles([b""] * size))


def log_key(path: Path) -> Ed25519PrivateKey:
    magic, kind, seed = path.read_text().split()
    if (magic, kind) != ("medanchor-key-1", "log"):
        raise ValueError(f"{path} is not a log key")
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


class Witness:
    """Its files, and where it is on loopback."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "witness.json"

    def init(self) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = "{}:{}".format(*free.getsockname())
        said = self.run("init", "--name", NAME, "--listen", listen, "--prefix", PREFIX)
        key = next(word for word in said.split() if word.startswith(f"{NAME}+"))
        (self.folder / "witness.vkey").write_text(key)
        return f'[[foreign_witnesses]]\nkey = "{key}"\nurl = "{self.url}"\n'

    def serve(self, policy: str) -> None:
        known = self.config.read_text()
        for log in parse_policy(aics, policy)[0]:
            key = aics.format_vkey(log)
            if key not in known:
                self.run("add-log", "--origin", log.name, "--vkey", key)
        command = [str(word) for word in self.command("serve")]
        os.execv(command[0], command)

    @property
    def key(self):
        return aics.parse_vkey((self.folder / "witness.vkey").read_text())

    @property
    def url(self) -> str:
        return f"http://{json.loads(self.config.read_text())['witness']['listen']}{PREFIX}"

    def command(self, name: str, *arguments: str) -> list:
        return [sys.executable, "-m", "aics_witness", name, "--config", self.config, *arguments]

    def run(self, name: str, *arguments: str) -> str:
        command = self.command(name, *arguments)
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if ran.returncode != 0:
            raise ValueError(f"aics-witness {name} failed: {ran.stderr.strip()}")
        return ran.stdout

    def refuses(self, expected: int, old: int, proof: list[bytes], text: bytes) -> None:
        body = format_add_checkpoint_request(old, proof, text)
        status, answer = self.ask(urllib.request.Request(f"{self.url}/add-checkpoint", data=body, method="POST"))
        if status != expected:
            raise ValueError(f"the witness answered {status} and not {expected}: {answer.decode()}")

    def shows(self, origin: str) -> bytes:
        name = hashlib.sha256(origin.encode()).hexdigest()
        status, answer = self.ask(urllib.request.Request(f"{self.url}/{name}/checkpoint"))
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
