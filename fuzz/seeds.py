"""Writes the examples of a Markdown file, hexadecimal ones as bytes, into a folder: seeds.py FILE FOLDER"""

import hashlib
import pathlib
import re
import sys

text = pathlib.Path(sys.argv[1]).read_text()
folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
for kind, block in re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", text, re.M | re.S):
    seed = bytes.fromhex("".join(block.split())) if kind == "hex" else block.encode()
    folder.joinpath(hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
