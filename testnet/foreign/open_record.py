#!/usr/bin/env python3
"""Opens a sealed record with the recipient's key. Written from docs/formats.md, without our own code.

It checks, in this order: block hashes, canonical form, the device's signature, the wrap, the commitment to
the content key, every chunk. Whether the device was in good standing is not its business: that is in the log.
"""

import argparse
import hashlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from multiformats import CID
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey
from pyhpke.exceptions import PyHPKEError

import dag_cbor
from blocks import Folder, check, check_cid, decode, did_key, parse_cid, run

RECORD_FIELDS = {"v", "header", "commitment", "size", "chunks", "meta", "seq", "prev", "sig"}
HEADER_FIELDS = {
    "v", "suite", "oid", "salt", "chunk_log2", "custody", "device", "stream", "class", "captured_at",
}
CLASSES = {
    "waveform.ecg", "waveform.ppg", "waveform.eeg", "waveform.other", "imaging", "telemetry",
    "document", "log", "firmware", "other",
}
GRANT_FIELDS = {"v", "leaf", "wrap", "proof"}
WRAP_FIELDS = {"v", "kem", "ctx", "enc", "ct"}
DURABLE = {"v", "header", "commitment", "custody", "to"}
GRANTED = DURABLE | {"request", "not_after"}
AEADS = {1: ChaCha20Poly1305, 2: AESGCM}
KEM_X25519 = 0x0020
MAX_INLINE, MAX_LINKS, TAG = 16 * 1024, 1024, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=Path, required=True, help="folder of block files, named by CID")
    parser.add_argument("--record", required=True, help="CID of the record")
    parser.add_argument("--grant", type=Path, required=True, help="file with the grant, as a home keeps it")
    parser.add_argument("--key", type=Path, required=True, help="file with the X25519 private key in hex")
    parser.add_argument("--out", type=Path, required=True, help="file to write the payload to")
    args = parser.parse_args()

    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(args.key.read_text().strip()))
    store = Folder(args.blocks)
    record = open_record(store.read(parse_cid(args.record)))
    content_key = unwrap(wrap_of(args.grant.read_bytes()), record, private)
    payload_key, meta = derive(record, content_key)
    # Nobody may take an unfinished payload for a whole one: it gets its name last.
    part = args.out.with_name(args.out.name + ".part")
    digest, size = hashlib.sha256(), 0
    with part.open("wb") as out:
        for plaintext in open_chunks(store, record, payload_key):
            out.write(plaintext)
            digest.update(plaintext)
            size += len(plaintext)
    check(size == record["size"], f"payload has {size} bytes, its record says {record['size']}")
    os.replace(part, args.out)
    print(f"opened {args.record}: {size} bytes, sha256 {digest.hexdigest()}, metadata {meta}")


def open_record(block: bytes) -> dict:
    """A record whose form and signature are good."""
    record = decode(block, "record")
    check(isinstance(record, dict) and set(record) == RECORD_FIELDS, "record has other fields")
    header = record["header"]
    check(isinstance(header, dict) and set(header) == HEADER_FIELDS, "header has other fields")
    check(record["v"] == 1 and header["v"] == 1, "version is not 1")
    check(header["suite"] in AEADS, f"suite {header['suite']} is unknown")
    check(header["chunk_log2"] in range(16, 21), "chunk size is unknown")
    check(header["class"] in CLASSES, "class is unknown")
    for field, length in (("oid", 16), ("salt", 32), ("custody", 16), ("stream", 16)):
        check(is_bytes(header[field], length), f"header field {field} is not {length} bytes")
    check(is_count(header["captured_at"]), "header field captured_at is not a time")
    check(is_bytes(record["commitment"], 32), "commitment is not 32 bytes")
    check(is_bytes(record["sig"], 64), "signature is not 64 bytes")
    check(is_count(record["size"]) and is_count(record["seq"]), "size or seq is not a count")
    check(isinstance(record["meta"], bytes) and len(record["meta"]) <= MAX_INLINE, "metadata is too long")
    if record["prev"] is not None:
        check_prev(record["prev"])
    unsigned = {name: value for name, value in record.items() if name != "sig"}
    signed = b"medanchor/v1/record\0" + sha256(dag_cbor.encode(unsigned))
    try:
        did_key(header["device"]).verify(record["sig"], signed)
    except InvalidSignature:
        check(False, "record is not signed by its device")
    return record


def check_prev(prev: bytes) -> None:
    check(isinstance(prev, bytes), "prev is not a byte string")
    try:
        cid = CID.decode(prev)
    except (ValueError, KeyError):
        check(False, "prev is not a CID")
    check(bytes(cid) == prev and cid.codec.name == "dag-cbor", "prev is not the CID of a record")
    check_cid(cid)


def wrap_of(grant_bytes: bytes) -> bytes:
    grant = decode(grant_bytes, "grant")
    check(isinstance(grant, dict) and set(grant) == GRANT_FIELDS, "grant has other fields")
    check(grant["v"] == 1 and isinstance(grant["wrap"], bytes), "grant is of another version")
    return grant["wrap"]


def unwrap(wrap_bytes: bytes, record: dict, private: X25519PrivateKey) -> bytes:
    """The content key, from a wrap that was made for this record and this recipient."""
    wrap = decode(wrap_bytes, "wrap")
    check(isinstance(wrap, dict) and set(wrap) == WRAP_FIELDS, "wrap has other fields")
    check(wrap["v"] == 1 and wrap["kem"] == KEM_X25519, "version or KEM of the wrap is not supported")
    check(is_bytes(wrap["enc"], 32), "encapsulated key is not 32 bytes")
    check(is_bytes(wrap["ct"], 48), "wrapped key is not 48 bytes")
    ctx, header = wrap["ctx"], record["header"]
    check(isinstance(ctx, dict) and set(ctx) in (DURABLE, GRANTED), "context has other fields")
    public = private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    check(ctx["v"] == 1, "version of the context is not 1")
    check(ctx["header"] == sha256(dag_cbor.encode(header)), "wrap is of another record")
    check(ctx["commitment"] == record["commitment"], "wrap commits to another key")
    check(ctx["custody"] == header["custody"], "wrap names another custody")
    check(ctx["to"] == sha256(public), "wrap is for another recipient")
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
    info = b"medanchor/v1/wrap\0" + sha256(dag_cbor.encode(ctx))
    recipient = KEMKey.from_pyca_cryptography_key(private)
    try:
        content_key = suite.create_recipient_context(wrap["enc"], recipient, info=info).open(wrap["ct"])
    except PyHPKEError:
        check(False, "wrap does not open")
    check(len(content_key) == 32, "content key is not 32 bytes")
    return content_key


def derive(record: dict, content_key: bytes) -> tuple[bytes, dict]:
    """The payload key and the metadata, once the commitment is known to be this key's."""
    header = record["header"]
    hh = sha256(dag_cbor.encode(header))
    prk = hmac.digest(header["salt"], content_key, "sha256")

    def expand(purpose: bytes) -> bytes:
        label = b"medanchor/v1/" + purpose + b"\0" + hh
        return HKDFExpand(algorithm=SHA256(), length=32, info=label).derive(prk)

    check(
        hmac.compare_digest(expand(b"commitment"), record["commitment"]),
        "commitment is to another content key",
    )
    aead = AEADS[header["suite"]](expand(b"metadata"))
    meta = decode(decrypt(aead, bytes(12), record["meta"], hh, "metadata"), "metadata")
    check(isinstance(meta, dict), "metadata is not a map")
    return expand(b"payload"), meta


def open_chunks(store: Folder, record: dict, payload_key: bytes) -> Iterator[bytes]:
    header = record["header"]
    hh = sha256(dag_cbor.encode(header))
    aead = AEADS[header["suite"]](payload_key)
    full = (1 << header["chunk_log2"]) - TAG
    count = max(1, -(-record["size"] // full))
    for index, sealed in enumerate(sealed_chunks(store, record["chunks"], count)):
        last = index == count - 1
        expected = record["size"] - index * full if last else full
        check(len(sealed) == expected + TAG, f"chunk {index} has another length")
        nonce = index.to_bytes(11, "big") + (b"\1" if last else b"\0")
        yield decrypt(aead, nonce, sealed, hh, f"chunk {index}")


def sealed_chunks(store: Folder, chunks, count: int) -> Iterator[bytes]:
    """The sealed chunks in order: exactly `count` of them."""
    if isinstance(chunks, bytes):
        check(count == 1 and len(chunks) <= MAX_INLINE, "inline chunk is too long")
        yield chunks
        return
    if isinstance(chunks, list):
        lists = [(chunks, count)]
    else:
        check(isinstance(chunks, dict) and set(chunks) == {"index"}, "chunks are of another form")
        nodes = linked(chunks["index"], "dag-cbor")
        check(count > MAX_LINKS, "index is not needed")
        check(len(nodes) == -(-count // MAX_LINKS), "there are more or fewer index nodes")
        lists = (
            (decode(store.read(cid), "index node"), min(MAX_LINKS, count - i * MAX_LINKS))
            for i, cid in enumerate(nodes)
        )
    for links, expected in lists:
        cids = linked(links, "raw")
        check(len(cids) == expected, "there are more or fewer chunks than the size says")
        for cid in cids:
            yield store.read(cid)


def linked(links, codec: str) -> list[CID]:
    check(isinstance(links, list) and len(links) <= MAX_LINKS, "list of links is too long")
    for link in links:
        check(isinstance(link, CID) and link.codec.name == codec, "not a link of the right kind")
        check_cid(link)
    return links


def decrypt(aead, nonce: bytes, sealed: bytes, hh: bytes, what: str) -> bytes:
    try:
        return aead.decrypt(nonce, sealed, hh)
    except InvalidTag:
        check(False, f"{what} does not open")


def is_bytes(value, length: int) -> bool:
    return isinstance(value, bytes) and len(value) == length


def is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


if __name__ == "__main__":
    run(main)
