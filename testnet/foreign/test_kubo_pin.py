"""`kubo_pin.py` with one Kubo node against another, on loopback."""

import secrets
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import dag_cbor

from blocks import cid_of, name_of

TOOL = [sys.executable, str(Path(__file__).parent / "kubo_pin.py")]


class KuboPin(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.key = self.swarm_key("swarm.key")
        self.blocks = self.folder / "blocks"
        self.blocks.mkdir()

    def test_dag_is_fetched_from_another_node(self):
        root = self.dag()
        address = self.serve("--add", str(self.blocks))
        pinned = self.pin("b", self.key, address, root)
        self.assertEqual(pinned.returncode, 0, pinned.stderr)
        self.assertIn("peer 12D3KooW", pinned.stdout)
        self.assertIn(f"pinned {root}: 27 blocks, ", pinned.stdout)

    def test_car_of_a_pinned_dag_is_pinned_from_it_alone(self):
        root, file = self.dag(), self.folder / "dag.car"
        made = self.run_alone("a", "--add", str(self.blocks), "--cid", root, "--export", str(file))
        self.assertEqual(made.returncode, 0, made.stderr)
        self.assertIn("exported 27 blocks", made.stdout)
        taken = self.run_alone("b", "--import", str(file))
        self.assertEqual(taken.returncode, 0, taken.stderr)
        self.assertIn(f"pinned {root}: 27 blocks, ", taken.stdout)

    def test_car_that_is_cut_off_or_changed_is_refused(self):
        root, file = self.dag(), self.folder / "dag.car"
        made = self.run_alone("a", "--add", str(self.blocks), "--cid", root, "--export", str(file))
        self.assertEqual(made.returncode, 0, made.stderr)
        whole = file.read_bytes()
        for bad in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"\x01" + whole):
            file.write_bytes(bad)
            refused = self.run_alone("b", "--import", str(file))
            self.assertEqual(refused.returncode, 4, refused.stderr)
            self.assertNotIn("pinned", refused.stdout)

    def test_incomplete_dag_ends_at_the_deadline(self):
        root = self.dag()
        next(file for file in self.blocks.iterdir() if file.stat().st_size > 1000).unlink()
        address = self.serve("--add", str(self.blocks))
        pinned = self.pin("b", self.key, address, root, deadline="10")
        self.assertEqual(pinned.returncode, 5, pinned.stderr)
        self.assertIn("not done within 10 seconds", pinned.stderr)

    def test_node_with_another_key_is_not_reached(self):
        address = self.serve()
        other = self.swarm_key("other.key")
        pinned = self.pin("b", other, address, self.dag(), deadline="30")
        self.assertEqual(pinned.returncode, 5, pinned.stderr)

    def test_node_without_a_good_key_does_not_start(self):
        self.key.write_text("not a key")
        arguments = ["--repo", str(self.folder / "a"), "--swarm-key", str(self.key)]
        refused = subprocess.run([*TOOL, *arguments], capture_output=True, text=True, check=False)
        self.assertEqual(refused.returncode, 1, refused.stderr)
        self.assertIn("failed: Kubo did not start", refused.stderr)

    def dag(self) -> str:
        """A root over two lists of twelve raw blocks of 200,000 bytes each."""
        lists = [[self.put("raw", secrets.token_bytes(200_000)) for _ in range(12)] for _ in range(2)]
        nodes = [self.put("dag-cbor", dag_cbor.encode(links)) for links in lists]
        return name_of(self.put("dag-cbor", dag_cbor.encode({"index": nodes})))

    def put(self, codec: str, block: bytes):
        cid = cid_of(codec, block)
        (self.blocks / name_of(cid)).write_bytes(block)
        return cid

    def swarm_key(self, name: str) -> Path:
        path = self.folder / name
        path.write_text(f"/key/swarm/psk/1.0.0/\n/base16/\n{secrets.token_hex(32)}\n")
        return path

    def serve(self, *options: str) -> str:
        """Starts a node that serves. Its address."""
        arguments = ["--repo", str(self.folder / "a"), "--swarm-key", str(self.key), "--serve", *options]
        node = subprocess.Popen(
            [*TOOL, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(node.communicate)
        for line in node.stdout:
            if line.startswith("serving "):
                return line.split()[1]
        self.fail("node did not start")

    def run_alone(self, repo: str, *options: str):
        arguments = ["--repo", str(self.folder / repo), "--swarm-key", str(self.key), *options]
        return subprocess.run([*TOOL, *arguments], capture_output=True, text=True, check=False)

    def pin(self, repo: str, key: Path, address: str, root: str, deadline: str = "60"):
        options = {
            "repo": str(self.folder / repo), "swarm-key": str(key), "connect": address,
            "cid": root, "deadline": deadline,
        }
        arguments = [part for name, value in options.items() for part in ("--" + name, value)]
        return subprocess.run([*TOOL, *arguments], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    unittest.main()
