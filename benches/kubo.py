#!/usr/bin/env python3
"""Kubo's side of the benchmark `storage`: adds a file, serves what it has, or pins a DAG from another node.

Each prints one line: what it took in seconds, without its start, and the most memory that the process had.
"""

import argparse
import ctypes
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "testnet" / "foreign"))

from blocks import Unavailable, run  # noqa: E402
from kubo_pin import Kubo, Repository, absolute, report, start_deadline  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=absolute, required=True, help="folder for Kubo's repository")
    parser.add_argument("--swarm-key", type=absolute, required=True, help="the private network's key file")
    parser.add_argument("--add", type=absolute, metavar="FILE", help="add this file")
    parser.add_argument("--connect", metavar="MULTIADDR", help="the node to fetch from, with its /p2p/ id")
    parser.add_argument("--cid", help="root of the DAG to pin")
    parser.add_argument("--deadline", type=float, default=120, metavar="SECONDS", help="for adding or fetching; 120")
    parser.add_argument("--serve", action="store_true", help="serve blocks until standard input closes")
    args = parser.parse_args()

    # Without a key Kubo then refuses to start, instead of joining the public network.
    os.environ["LIBP2P_FORCE_PNET"] = "1"
    kubo = Kubo(Repository(args.repo))
    kubo.library.AddFile.restype = ctypes.c_char_p
    kubo.create(args.swarm_key, 0)
    kubo.start()
    deadline = start_deadline(args.deadline)
    if args.add:
        path = str(args.add).encode()
        figures(lambda: {"cid": kubo.library.AddFile(kubo.path, path, False).decode()})
    if args.cid:
        connect(kubo, args.connect)
        figures(lambda: kubo.call("PinCID", kubo.path, args.cid.encode()) or {})
    deadline.cancel()
    if args.serve:
        report(f"serving {kubo.address()}")
        sys.stdin.read()
    kubo.stop()


def connect(kubo: Kubo, address: str) -> None:
    """Another Kubo that was just started does not always take a connection."""
    for attempt in range(10):
        try:
            return kubo.connect(address)
        except Unavailable:
            if attempt == 9:
                raise
            time.sleep(1)


def figures(work) -> None:
    began, processor = time.monotonic(), time.process_time()
    done = work()
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    report(json.dumps({"seconds": seconds, "processor_seconds": processor, "peak_kib": peak_kib()} | done))


def peak_kib() -> int:
    """Not by getrusage, which counts what started this process, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    run(main)
