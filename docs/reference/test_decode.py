#!/usr/bin/env python3
"""decode.py, with chunks.py, reads every golden archive, and notices every flipped byte. Run: python3 test_decode.py"""

import os
import shutil
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import chunks  # noqa: E402
import decode  # noqa: E402

GOLDEN_ROOT = os.path.join(HERE, "..", "..", "tests", "golden")
N_FLIPS = 50


def archives():
    """(archive file or folder, the original that belongs to it, which need not be there)"""
    for version in sorted(os.listdir(GOLDEN_ROOT)):
        for name in sorted(os.listdir(os.path.join(GOLDEN_ROOT, version))):
            golden = os.path.join(GOLDEN_ROOT, version, name)
            for archive in sorted(a for a in os.listdir(golden) if a.startswith("archive")):
                yield from archives_in(os.path.join(golden, archive), os.path.join(golden, "original"))


def archives_in(folder, original):
    if os.path.exists(os.path.join(folder, "netweight.json")):
        yield folder, original
    else:
        for file_name in sorted(os.listdir(folder)):
            yield os.path.join(folder, file_name), os.path.join(original, file_name)


def files_below(path):
    """The files that are or lie below `path`, sorted."""
    found = [path] if os.path.isfile(path) else []
    for folder, _, names in os.walk(path):
        found += [os.path.join(folder, name) for name in names]
    return sorted(found)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def accepts(archive):
    """Whether `archive` decodes; anything but Corrupt and OSError is a bug and is raised."""
    try:
        for _ in decode.restored(archive):
            pass
    except (chunks.Corrupt, OSError):
        return False
    return True


class Golden(unittest.TestCase):
    def test_there_are_goldens(self):
        self.assertGreaterEqual(len(list(archives())), 30)

    def test_restores_what_was_compressed(self):
        for archive, original in archives():
            with self.subTest(archive=os.path.relpath(archive, GOLDEN_ROOT)):
                restored = {relative: content for relative, content in decode.restored(archive)}
                expected = {}
                for path in files_below(original):
                    relative = None if path == original else os.path.relpath(path, original).replace(os.sep, "/")
                    expected[relative] = read(path)
                if expected:
                    self.assertEqual(restored.keys(), expected.keys())
                    self.assertTrue(restored == expected, "restored bytes differ")


class Corruption(unittest.TestCase):
    def check_flips(self, archive, positions_of):
        """Flips bytes in a copy of `archive`; `positions_of(path, len_bytes)` says which."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = os.path.join(scratch, os.path.basename(archive))
            (shutil.copytree if os.path.isdir(archive) else shutil.copyfile)(archive, copy)
            for path in files_below(copy):
                content = read(path)
                for position in positions_of(path, len(content)):
                    flipped = bytearray(content)
                    flipped[position] ^= 1 << position % 8
                    write(path, flipped)
                    self.assertFalse(accepts(copy), "%s: byte %d" % (path, position))
                write(path, content)
            self.assertTrue(accepts(copy))

    def test_spread_positions(self):
        for archive, _ in archives():
            n_files = len(files_below(archive))
            n_flips = max(5, N_FLIPS // n_files)

            def spread(_, len_bytes):
                return sorted({len_bytes * i // n_flips for i in range(n_flips)} & set(range(len_bytes)))

            with self.subTest(archive=os.path.relpath(archive, GOLDEN_ROOT)):
                self.check_flips(archive, spread)

    def test_every_byte_of_a_small_archive(self):
        archive = os.path.join(GOLDEN_ROOT, "v1", "header-order", "archive", "model.safetensors")
        self.check_flips(archive, lambda _, len_bytes: range(len_bytes))

    def test_every_byte_of_a_small_resident_archive(self):
        archive = os.path.join(GOLDEN_ROOT, "v1", "resident-folder", "archive-exact11")
        small = os.path.join(archive, "model-00001.safetensors")
        self.assertEqual(list(decode.Shard(small).matrices), ["embed", "a"])
        self.check_flips(small, lambda _, len_bytes: range(0, len_bytes, 7))

    def test_every_truncation_of_a_small_archive(self):
        content = read(os.path.join(GOLDEN_ROOT, "v1", "header-order", "archive", "model.safetensors"))
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, "model.safetensors")
            for len_bytes in range(len(content)):
                write(path, content[:len_bytes])
                self.assertFalse(accepts(path), "%d bytes" % len_bytes)
            write(path, content + b"\0")
            self.assertFalse(accepts(path), "one byte more")


class Chunks(unittest.TestCase):
    """Flips below the checksums: decoding wrong chunks fails cleanly or gives other bytes, never crashes."""

    def test_flips_within_chunks(self):
        for name in ("weights", "escapes"):
            for archive in ("archive", "archive-max"):
                path = os.path.join(GOLDEN_ROOT, "v1", name, archive, "model.safetensors")
                shard = decode.Shard(path)
                tensor = shard.tensors[0]
                (chunk,) = decode.check_payload(shard, tensor)
                n = tensor.len_bytes // 2
                expected = chunks.chunk_bytes(chunk, n, 2)
                for position in list(range(0, 120, 3)) + list(range(120, len(chunk), len(chunk) // 20)):
                    flipped = bytearray(chunk)
                    flipped[position] ^= 1 << position % 8
                    try:
                        self.assertNotEqual(chunks.chunk_bytes(bytes(flipped), n, 2), expected, position)
                    except chunks.Corrupt:
                        pass


class Groups(unittest.TestCase):
    """The same for groups of resident tensors; what means nothing may change without a difference."""

    def test_flips_within_groups(self):
        for layout in ("exact11", "exact12"):
            path = os.path.join(GOLDEN_ROOT, "v1", "resident", "archive-" + layout, "model.safetensors")
            shard = decode.Shard(path)
            self.assertEqual(list(shard.matrices), ["trained", "one.tile", "wide", "escapes", "zeros"])
            for name in ("one.tile", "escapes"):
                matrix = shard.matrices[name]
                (group,) = decode.check_payload(shard, shard.tensor[name])
                expected = chunks.group_bytes(group, matrix, matrix.rows)
                for position in list(range(0, 128)) + list(range(128, len(group) - 128, len(group) // 40)):
                    flipped = bytearray(group)
                    flipped[position] ^= 1 << position % 8
                    try:
                        found = chunks.group_bytes(bytes(flipped), matrix, matrix.rows)
                    except chunks.Corrupt:
                        continue
                    table_end = 64 + 8 * (-(-matrix.rows // 16) + 1)
                    may_be_unused = position < 24 or table_end <= position < 128
                    self.assertTrue(found != expected or may_be_unused, position)


if __name__ == "__main__":
    unittest.main()
