#!/usr/bin/env python3
"""Fetches a record's blocks from a node, with stock gRPC and no stubs of ours.

It begins with the record and follows the links. Every block is checked against its CID before it is kept.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from multiformats import CID

from blocks import Unavailable, check, check_block, links, name_of, parse_cid, run
from node_client import Reflected, add_arguments, connect

BLOCKS = "medanchor.block.v1.BlockService"
MAX_CIDS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--record", required=True, metavar="CID", help="root of the DAG to fetch")
    parser.add_argument("--out", type=Path, required=True, help="folder to write block files to, named by CID")
    args = parser.parse_args()

    record = parse_cid(args.record)
    args.out.mkdir(parents=True, exist_ok=True)
    seen, todo, size = {record}, [record], 0
    with connect(args) as channel:
        service = Reflected(channel, args.deadline)
        while todo:
            wanted, todo = todo[:MAX_CIDS], todo[MAX_CIDS:]
            for cid, block in fetch(service, wanted):
                (args.out / name_of(cid)).write_bytes(block)
                size += len(block)
                new = [link for link in dict.fromkeys(links(cid, block)) if link not in seen]
                seen.update(new)
                todo.extend(new)
    print(f"fetched {args.record}: {len(seen)} blocks, {size} bytes, every hash checked")


def fetch(service: Reflected, wanted: list[CID]) -> Iterator[tuple[CID, bytes]]:
    """The blocks, in the order they were asked for."""
    answers = service.stream(BLOCKS, "Get", cids=[bytes(cid) for cid in wanted])
    left = iter(wanted)
    for answer in answers:
        cid = next(left, None)
        check(cid is not None and answer.cid == bytes(cid), "node gives a block that was not asked for")
        if answer.missing:
            reason = answer.DESCRIPTOR.fields_by_name["missing"].enum_type.values_by_number[answer.missing].name
            raise Unavailable(f"block {name_of(cid)}: {reason}")
        yield cid, check_block(cid, answer.data)
    for cid in left:
        raise Unavailable(f"node does not answer for block {name_of(cid)}")


if __name__ == "__main__":
    run(main)
