#!/usr/bin/env python3
"""Asks a node for the receipt of a leaf and verifies it, with stock gRPC and no stubs of ours.

It learns the messages by server reflection, and believes nobody: the inclusion proof, the log's signature, the
witnesses' co-signatures and the policy's quorum are checked against a policy file (C2SP tlog-policy).
"""

import argparse
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import dag_cbor
from cryptography.exceptions import InvalidSignature
from multiformats import CID

from blocks import check, decode, did_key, name_of, parse_cid, run
from node_client import Reflected, add_arguments, connect
from tlog import Policy, Proof

HEALTH = "grpc.health.v1.Health"
ANCHOR = "medanchor.anchor.v1.AnchorService"
SERVING = 1
LEAF_FIELDS = {"v", "kind", "at", "outcome", "opening"}
OPENING_FIELDS = {"salt", "statement", "signatures"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--policy", type=Path, required=True, help="whom to believe about the log")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--leaf", type=int, metavar="INDEX", help="leaf by its index: its statement is for operators alone")
    which.add_argument("--record", metavar="CID", help="leaf that anchored this record, with its statement")
    parser.add_argument("--out", type=Path, help="file to write the receipt to")
    args = parser.parse_args()

    policy = Policy(args.policy.read_text())
    record = parse_cid(args.record) if args.record else None
    asked = {"leaf_index": args.leaf} if record is None else {"record": bytes(record)}
    with connect(args) as channel:
        service = Reflected(channel, args.deadline)
        health = service.call(HEALTH, "Check")
        check(health.status == SERVING, "node does not serve")
        answer = service.call(ANCHOR, "Receipt", **asked)
    check(args.leaf in (None, answer.leaf_index), "receipt is of another leaf")
    print(verify(answer.receipt, answer.leaf_index, policy, record), flush=True)
    if args.out:
        args.out.write_bytes(answer.receipt)


def verify(receipt: bytes, index: int, policy: Policy, record: CID | None = None) -> str:
    """What a receipt shows, in one line. It must be of this leaf and, if one is named, of this record."""
    try:
        proof = Proof.parse(receipt.decode())
    except UnicodeDecodeError:
        check(False, "receipt is not text")
    check(proof.index == index, "receipt is of another leaf")
    check(proof.extra is not None, "receipt does not carry its leaf")
    extra = decode(proof.extra, "leaf and opening")
    check(isinstance(extra, dict) and set(extra) == {"leaf", "opening"}, "receipt carries other things")
    leaf, opening = extra["leaf"], extra["opening"]
    check(isinstance(leaf, dict) and set(leaf) - {"record"} == LEAF_FIELDS, "leaf has other fields")
    check(leaf["v"] == 1, "version of the leaf is not 1")
    check(record is None or leaf.get("record") == record, "receipt is of another record")
    checkpoint, signers = proof.verify(dag_cbor.encode(leaf), policy)
    if opening is not None:
        verify_opening(leaf, opening, checkpoint.origin)
    witnesses = [f"{key.name} at {at_seconds(time)}" for key, time in signers.items() if time is not None]
    anchors = f", record {name_of(leaf['record'])}" if "record" in leaf else ""
    said = "withheld" if opening is None else f"signed by {len(opening['signatures'])}"
    return (
        f"verified leaf {index} of {checkpoint.size} in {checkpoint.origin}: {leaf['kind']}{anchors}, "
        f"outcome {leaf['outcome']}, statement {said}, co-signed by {', '.join(witnesses) or 'nobody'}"
    )


def verify_opening(leaf: dict, opening, origin: str) -> None:
    """Checks that the leaf commits to the statement, and that its authors signed that."""
    digest = hashlib.sha256(b"medanchor/v1/opening\0" + dag_cbor.encode(opening)).digest()
    check(leaf["opening"] == digest, "leaf commits to another opening")
    check(isinstance(opening, dict) and set(opening) == OPENING_FIELDS, "opening has other fields")
    statement = opening["statement"]
    check(isinstance(statement, dict), "statement is malformed")
    check(statement.get("kind") == leaf["kind"], "leaf and statement are of different kinds")
    check(statement.get("origin") == origin, "statement is for another network")
    digest = hashlib.sha256(dag_cbor.encode(statement)).digest()
    check(isinstance(opening["signatures"], list) and opening["signatures"], "statement is not signed")
    for signature in opening["signatures"]:
        verify_signature(signature, b"medanchor/v1/statement\0" + digest)


def verify_signature(signature, message: bytes) -> None:
    check(isinstance(signature, dict) and set(signature) == {"by", "sig"}, "signature is malformed")
    try:
        did_key(signature["by"]).verify(signature["sig"], message)
    except (InvalidSignature, TypeError):
        check(False, f"statement is not signed by {signature['by']}")


def at_seconds(time: int) -> str:
    if time >= 1 << 35:
        return f"{time} s"
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    run(main)
