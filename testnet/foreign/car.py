"""CAR files, version 1, as Kubo's commands write and read them.

The library that Kubo comes in has no `dag export` and no `dag import`. This does what they do with a repository:
`dag export` walks a DAG depth first, in the order of a block's links, and writes each block once behind a header with
the one root (go-car, `SelectiveCar` with `TraverseLinksOnlyOnce`); `dag import` takes every block whose hash is
right, in any order, and pins the roots.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import dag_cbor
from multiformats import CID, varint

from blocks import MAX_BLOCK_BYTES, check, check_block, check_cid, decode, links

MAX_HEADER_BYTES = 1 << 20
MAX_VARINT_BYTES = 9


def write(path: Path, root: CID, read: Callable[[CID], bytes]) -> int:
    """Writes the DAG below a root. Returns how many blocks it has."""
    seen, todo = set(), [root]
    with path.open("wb") as file:
        section(file, dag_cbor.encode({"roots": [root], "version": 1}))
        while todo:
            cid = todo.pop()
            if cid in seen:
                continue
            seen.add(cid)
            block = check_block(cid, read(cid))
            section(file, bytes(cid) + block)
            todo.extend(reversed(links(cid, block)))
    return len(seen)


def section(file: BinaryIO, content: bytes) -> None:
    file.write(varint.encode(len(content)) + content)


def open_car(file: BinaryIO) -> tuple[list[CID], Iterator[tuple[CID, bytes]]]:
    """The roots, and the blocks in the order of the file, each checked."""
    header = decode(next_section(file, MAX_HEADER_BYTES) or b"", "the header")
    roots = header.get("roots") if isinstance(header, dict) else None
    known = isinstance(roots, list) and header.keys() == {"roots", "version"} and header["version"] == 1
    check(known and all(isinstance(root, CID) for root in roots), "not a CAR of version 1")
    return roots, blocks(file)


def blocks(file: BinaryIO) -> Iterator[tuple[CID, bytes]]:
    while (content := next_section(file, MAX_BLOCK_BYTES + 64)) is not None:
        # A CID of version 1 with 32 bytes of hash has 36.
        cid = CID.decode(content[:36])
        check_cid(cid)
        yield cid, check_block(cid, content[36:])


def next_section(file: BinaryIO, limit: int) -> bytes | None:
    """What comes next in the file; nothing at its end."""
    length = b""
    while not length or length[-1] & 0x80:
        byte = file.read(1)
        if not byte and not length:
            return None
        check(byte != b"" and len(length) < MAX_VARINT_BYTES, "the CAR is cut off")
        length += byte
    size = varint.decode(length)
    check(size <= limit, "a section is larger than any can be")
    content = file.read(size)
    check(len(content) == size, "the CAR is cut off")
    return content
