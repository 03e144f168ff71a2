#!/usr/bin/env python3
"""Audits a whole log over HTTPS with aics-tlog, an implementation of the C2SP log formats that is not ours.

    audit_log.py --url URL --policy FILE --ca FILE --cert FILE --key FILE [--old CHECKPOINT] [--save CHECKPOINT]

Reads the newest checkpoint, every entry bundle and every tile. The package checks signatures and co-signatures,
builds every tile anew from the entries, and computes the root from the tiles and the proofs between sizes; here
is only the fetching and the comparing. `--old` names a checkpoint that the log must extend, `--save` a file for
the one that was audited. Exit codes: 0 verified, 1 something cannot be read, 2 usage, 4 did not verify, 5 the
package cannot be installed or the log not be reached.
"""

import argparse
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from verify_log import check_log, fail, load, parse_policy, satisfied

SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_log_arguments(parser)
    parser.add_argument("--old", type=Path, help="a checkpoint that the log must extend")
    parser.add_argument("--save", type=Path, help="where to write the checkpoint that was audited")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        aics = load(folder)
        try:
            log = Log(args)
            policy = args.policy.read_text()
            text = log.get("checkpoint")
            print(audit(aics, log, policy, text, args.old and args.old.read_bytes()))
        except ValueError as error:
            fail(4, f"did not verify: {error}")
        except urllib.error.URLError as error:
            fail(5, f"could not be reached: {error}")
        except OSError as error:
            fail(1, f"could not be read: {error}")
        if args.save:
            args.save.write_bytes(text)


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="where the log is, such as https://127.0.0.1:7442")
    for name in ("policy", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)


class Log:
    """A log over HTTPS."""

    def __init__(self, args: argparse.Namespace):
        self.url = args.url.rstrip("/")
        self.tls = ssl.create_default_context(cafile=args.ca)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.tls.load_cert_chain(args.cert, args.key)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=SECONDS, context=self.tls) as answer:
            return answer.read()

    def is_there(self, path: str) -> bool:
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise
        return True

    def entries(self, aics, size: int) -> list[bytes]:
        entries = []
        for first in range(0, size, 256):
            width = min(256, size - first)
            path = aics.tiles.entry_bundle_path(first // 256, None if width == 256 else width)
            bundle = aics.tiles.parse_entry_bundle(self.get(path))
            if len(bundle) != width:
                raise ValueError(f"{path} holds {len(bundle)} entries")
            entries += bundle
        return entries


def audit(aics, log: Log, policy: str, text: bytes, old: bytes | None) -> str:
    verdict = judge(aics, text, policy)
    size, root = verdict.size, verdict.root
    entries = log.entries(aics, size)
    # What the package would serve of these entries is what is served, byte for byte, and nothing beside it.
    pieces = aics.tiles.materialise_tiles(entries)
    for path, expected in pieces.items():
        if log.get(path) != expected:
            raise ValueError(f"{path} is not what the entries make")
    for path in beyond(aics, size):
        if log.is_there(path):
            raise ValueError(f"{path} is served, and no checkpoint covers it")
    reader = aics.MemoryTileReader(pieces)
    report = aics.audit_tiles(reader, size, root)
    sizes = sorted({1, size // 2, size - 1, size} - {0})
    for older in sizes:
        older_root = aics.tree_root_from_tiles(reader, older, size)
        check_growth(aics, reader, (older, older_root), (size, root))
    if old:
        before = judge(aics, old, policy)
        check_growth(aics, reader, (before.size, before.root), (size, root))
    return f"verified: all {size} entries and {report.tiles} tiles of {verdict.origin}, grown from {sizes[:-1]}"


def judge(aics, text: bytes, policy: str):
    """The verdict on a checkpoint that has the policy's quorum."""
    logs, witnesses, rules, quorum = parse_policy(aics, policy)
    verdict = check_log(aics, aics.parse_note(text.decode()), logs, list(witnesses.values()))
    cosigned = {name for name, key in witnesses.items() if key.name in verdict.witnesses}
    if quorum != "none" and not satisfied(quorum, cosigned, rules):
        raise ValueError(f"quorum not met: co-signed by {sorted(cosigned)}")
    return verdict


def beyond(aics, size: int) -> list[str]:
    """Pieces that a log of this size does not have, unless it has grown."""
    return [aics.tiles.tile_path(0, size // 256 + 1000), aics.tiles.entry_bundle_path(size // 256 + 1000), aics.tiles.tile_path(5, 0, 1)]


def check_growth(aics, reader, old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
    proof = aics.consistency_proof_from_tiles(reader, old[0], new[0])
    if not aics.verify_consistency(old[0], new[0], old[1], new[1], proof):
        raise ValueError(f"the log of {new[0]} leaves does not extend that of {old[0]}")


if __name__ == "__main__":
    main()
