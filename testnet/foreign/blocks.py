"""Content-addressed blocks and the DAGs they form: CID version 1, sha2-256, codec raw or dag-cbor."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dag_cbor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from dag_cbor.decoding import CBORDecodingError
from multiformats import CID, multibase

MAX_BLOCK_BYTES = 1 << 20

# Exit codes, as those of `medanchor`.
FAILED = 1
NOT_VERIFIED = 4
UNAVAILABLE = 5


class NotVerified(Exception):
    """Something is not what it is said to be."""


class Unavailable(Exception):
    """Somebody could not be reached in time."""


def run(main: Callable[[], None]) -> None:
    """Runs a command and turns what goes wrong into one line and an exit code."""
    try:
        main()
    except NotVerified as error:
        stop(NOT_VERIFIED, f"not verified: {error}")
    except Unavailable as error:
        stop(UNAVAILABLE, f"unavailable: {error}")
    except OSError as error:
        stop(FAILED, f"failed: {error}")


def stop(code: int, line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code)


def check(holds: bool, error: str) -> None:
    if not holds:
        raise NotVerified(error)


def parse_cid(text: str) -> CID:
    try:
        cid = CID.decode(text)
    except (ValueError, KeyError) as error:
        raise NotVerified(f"`{text}` is not a CID: {error}") from error
    check_cid(cid)
    return cid


def check_cid(cid: CID) -> None:
    known = cid.version == 1 and cid.hashfun.name == "sha2-256" and len(cid.raw_digest) == 32
    check(known and cid.codec.name in ("raw", "dag-cbor"), f"{name_of(cid)} is of another kind")


def name_of(cid: CID) -> str:
    """The CID in base32, whatever it was parsed from: how blocks are named."""
    return cid.encode("base32")


def cid_of(codec: str, block: bytes) -> CID:
    return CID("base32", 1, codec, ("sha2-256", hashlib.sha256(block).digest()))


def check_block(cid: CID, block: bytes) -> bytes:
    """The block, if it is what the CID names."""
    check(len(block) <= MAX_BLOCK_BYTES, f"block {name_of(cid)} is larger than 1 MiB")
    check(hashlib.sha256(block).digest() == cid.raw_digest, f"block {name_of(cid)} has another hash")
    return block


def decode(block: bytes, what: str):
    """Canonical DAG-CBOR and nothing else."""
    try:
        value = dag_cbor.decode(block)
        canonical = dag_cbor.encode(value) == block
    except (CBORDecodingError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise NotVerified(f"{what} is not DAG-CBOR: {reason}") from error
    check(canonical, f"{what} is not canonical DAG-CBOR")
    return value


def did_key(did) -> Ed25519PublicKey:
    """The Ed25519 key that a did:key names."""
    prefix = "did:key:"
    check(isinstance(did, str) and did.startswith(prefix + "z"), "not a did:key")
    try:
        key = multibase.decode(did.removeprefix(prefix))
    except (ValueError, KeyError):
        key = b""
    check(len(key) == 34 and key[:2] == b"\xed\x01", f"{did} is not of an Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(key[2:])


def links(cid: CID, block: bytes) -> list[CID]:
    """The CIDs that a block names, in order."""
    if cid.codec.name == "raw":
        return []
    found = list(links_in(decode(block, f"block {name_of(cid)}")))
    for link in found:
        check_cid(link)
    return found


def links_in(value) -> Iterator[CID]:
    if isinstance(value, CID):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from links_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from links_in(item)


def walk(root: CID, read: Callable[[CID], bytes]) -> tuple[int, int]:
    """Reads every block of a DAG once and checks it. Returns how many blocks and bytes there are."""
    seen, todo, size = {root}, [root], 0
    while todo:
        cid = todo.pop()
        block = check_block(cid, read(cid))
        size += len(block)
        new = [link for link in dict.fromkeys(links(cid, block)) if link not in seen]
        seen.update(new)
        todo.extend(new)
    return len(seen), size


class Folder:
    """Blocks in files that are named by their CIDs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, cid: CID) -> bytes:
        try:
            block = (self.folder / name_of(cid)).read_bytes()
        except FileNotFoundError as error:
            raise NotVerified(f"block {name_of(cid)} is missing") from error
        return check_block(cid, block)
