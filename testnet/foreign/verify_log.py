#!/usr/bin/env python3
"""Verifies a receipt with aics-tlog, an implementation of the C2SP log formats that is not ours.

    verify_log.py RECEIPT POLICY

Checks the checkpoint's log signature and co-signatures, the policy's quorum, and the leaf's place in the
log. Every signature check and every tree hash is the package's; here is only the reading of the two files
and the counting of the quorum. Exit codes: 0 verified, 1 a file cannot be read, 2 usage,
4 did not verify, 5 the package cannot be installed.
"""

import base64
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "aics-tlog==0.2.1"


def main():
    if sys.argv[1:] == ["--package"]:
        print(PACKAGE)
        return
    if len(sys.argv) != 3:
        fail(2, "usage: verify_log.py RECEIPT POLICY")
    try:
        receipt, policy = (Path(name).read_bytes().decode() for name in sys.argv[1:])
    except (OSError, UnicodeDecodeError) as error:
        fail(1, f"could not be read: {error}")
    with tempfile.TemporaryDirectory() as folder:
        aics = load(folder)
        try:
            print(verify(aics, receipt, policy))
        except ValueError as error:
            fail(4, f"did not verify: {error}")


def fail(code, why):
    print(why, file=sys.stderr)
    sys.exit(code)


def load(folder):
    """The package, installed for this run where it is missing.

    It asks for Python 3.12 and runs on 3.11 all the same.
    """
    try:
        return importlib.import_module("aics_tlog")
    except ImportError:
        pass
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--ignore-requires-python", "--only-binary=:all:", "--target", folder]
    try:
        subprocess.run([*pip, *options, PACKAGE], check=True)
        sys.path.insert(0, folder)
        return importlib.import_module("aics_tlog")
    except (subprocess.CalledProcessError, OSError, ImportError) as error:
        fail(5, f"could not be checked: {PACKAGE} cannot be installed: {error}")


def verify(aics, receipt, policy):
    leaf, index, proof, note = parse_receipt(receipt)
    logs, witnesses, rules, quorum = parse_policy(aics, policy)
    note = aics.parse_note(note)
    verdict = check_log(aics, note, logs, list(witnesses.values()))
    cosigned = {name for name, key in witnesses.items() if key.name in verdict.witnesses}
    if quorum != "none" and not satisfied(quorum, cosigned, rules):
        raise ValueError(f"quorum not met: co-signed by {sorted(cosigned)}")
    if any(len(sibling) != 32 for sibling in proof):
        raise ValueError("the proof holds something that is no hash")
    if not aics.verify_leaf_inclusion(leaf, index, verdict.size, proof, verdict.root):
        raise ValueError("the leaf is not in the checkpoint's tree")
    return (
        f"verified: leaf {index} of {verdict.origin} at size {verdict.size}, "
        f"co-signed by {', '.join(verdict.witnesses)}"
    )


def check_log(aics, note, logs, witnesses):
    """The verdict by whichever listed log key signed: each member of a network has its own."""
    errors = []
    for log in logs:
        verdict = aics.verify_checkpoint(note, log, witnesses, expected_origin=log.name)
        if verdict.ok:
            return verdict
        errors.append(verdict.error)
    raise ValueError("; ".join(errors) or "the policy lists no log")


def parse_receipt(text):
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != "c2sp.org/tlog-proof@v1":
        raise ValueError("not a tlog-proof")
    if len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise ValueError("not a receipt: no leaf in it")
    extra = base64.b64decode(lines[1].removeprefix("extra "), validate=True)
    index = int(lines[2].removeprefix("index "))
    proof = [base64.b64decode(line, validate=True) for line in lines[3:]]
    return leaf_of(extra), index, proof, note


def leaf_of(extra):
    """The bytes of `leaf` in the canonical CBOR map { leaf, opening }."""
    start = b"\xa2\x64leaf"
    if not extra.startswith(start):
        raise ValueError("extra is not { leaf, opening }")
    return extra[len(start) : item_end(extra, len(start))]


def item_end(data, at):
    """Where the CBOR item that begins at `at` ends (RFC 8949 section 3; no indefinite lengths)."""
    if at >= len(data):
        raise ValueError("truncated CBOR")
    major, argument = data[at] >> 5, data[at] & 0x1F
    at += 1
    if argument >= 24:
        if argument > 27:
            raise ValueError("CBOR of indefinite length")
        width = 1 << (argument - 24)
        argument, at = int.from_bytes(data[at : at + width], "big"), at + width
    if major in (2, 3):
        at += argument
    elif major in (4, 5, 6):
        for _ in range({4: argument, 5: 2 * argument, 6: 1}[major]):
            at = item_end(data, at)
    if at > len(data):
        raise ValueError("truncated CBOR")
    return at


def parse_policy(aics, text):
    logs, witnesses, rules, quorum = [], {}, {}, None
    for line in text.split("\n"):
        match line.split():
            case [] | ["#", *_]:
                continue
            case ["log", key, *_]:
                logs.append(aics.parse_vkey(key))
            case ["witness", name, key, *_]:
                witnesses[name] = aics.parse_vkey(key)
            case ["group", name, threshold, *members]:
                rules[name] = ({"all": len(members), "any": 1}.get(threshold) or int(threshold), members)
            case ["quorum", name]:
                quorum = name
            case _:
                raise ValueError(f"policy line not understood: {line}")
    if quorum is None:
        raise ValueError("the policy has no quorum")
    return logs, witnesses, rules, quorum


def satisfied(name, cosigned, rules):
    if name not in rules:
        return name in cosigned
    threshold, members = rules[name]
    return sum(satisfied(member, cosigned, rules) for member in members) >= threshold


if __name__ == "__main__":
    main()
