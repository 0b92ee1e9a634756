#!/usr/bin/env python3
"""Decode netweight archives: the second, slow decoder, written from docs/format.md alone.

    decode.py ARCHIVE [-o OUT] [--tuned]

ARCHIVE is an archive shard or an archive folder. Without -o everything is decoded and checked and
nothing is written. With -o the original file or folder is written to OUT. Exit status 1 and one
line say which file, tensor and chunk break which rule. Sections are numbered as on the page; what
stands in a payload, sections 4, 5, 7, 8 and 9, is in chunks.py. A folder with a refinement gives its original; one
that lacks the refinement that belongs to it is refused, unless --tuned asks for its values.
"""

import argparse
import base64
import hashlib
import json
import os
import struct
import sys
import zlib

from chunks import (WIDTHS, Corrupt, Grid, Matrix, Reader, check, chunk_bytes, group_bytes, refined_bytes,
                    rows_bytes, where)


def parse_json(data, what):
    def without_duplicates(pairs):
        result = dict(pairs)
        check(len(result) == len(pairs), "%s: a key occurs twice", what)
        return result

    def no_constant(name):
        raise Corrupt("%s: %s is not JSON" % (what, name))

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=without_duplicates,
                           parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise Corrupt("%s: not JSON: %s" % (what, error)) from None
    check(isinstance(value, dict), "%s: not a JSON object", what)
    return value


def field(table, key, kind, what):
    """The value under `key`, which must be there and of this kind (bool is no int)."""
    check(isinstance(table, dict) and key in table, "%s: no key %r", what, key)
    check(type(table[key]) is kind, "%s: %r is no %s", what, key, kind.__name__)
    return table[key]


def count_of(table, key, what):
    check(field(table, key, int, what) >= 0, "%s: %r is negative", what, key)
    return table[key]


def sha256_of(table, key, what):
    text = field(table, key, str, what)
    check(len(text) == 64 and set(text) <= set("0123456789abcdef"), "%s: %r is no SHA-256", what, key)
    return text


def inflate(data, len_bytes, what):
    """The one zlib stream that `data` is, which must inflate to exactly `len_bytes`."""
    inflater = zlib.decompressobj()
    try:
        result = inflater.decompress(data, len_bytes + 1)
    except zlib.error as error:
        raise Corrupt("%s: %s" % (what, error)) from None
    check(len(result) == len_bytes, "%s: inflates to a wrong size", what)
    check(inflater.eof and not inflater.unused_data, "%s: not exactly one zlib stream", what)
    return result


# ---- 1. Archive shard ----------------------------------------------------------------------------

class Tensor:
    def __init__(self, name, entry):
        what = "header entry %r" % name
        offsets = field(entry, "data_offsets", list, what)
        check(len(offsets) == 2 and all(type(o) is int for o in offsets), "%s: bad offsets", what)
        self.name, (self.begin, self.end) = name, offsets
        self.dtype, self.shape = field(entry, "dtype", str, what), field(entry, "shape", list, what)
        check(0 <= self.begin <= self.end, "%s: bad offsets", what)
        self.len_bytes = self.end - self.begin


def parse_header(header, data_bytes, what):
    """Tensors of a safetensors header in offset order, and `__metadata__` (None if absent)."""
    entries = parse_json(header, what)
    metadata = entries.pop("__metadata__", None)
    tensors = [Tensor(name, entry) for name, entry in entries.items()]
    tensors.sort(key=lambda t: (t.begin, t.end, t.name.encode("utf-8", "surrogatepass")))
    position = 0
    for tensor in tensors:
        check(tensor.begin == position, "%s: a hole or an overlap before %r", what, tensor.name)
        position = tensor.end
    check(position == data_bytes, "%s: tensors end at %d of %d bytes", what, position, data_bytes)
    return tensors, metadata


class Shard:
    """An archive shard whose manifest and layout have been checked, payloads not yet."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            reader = Reader(file.read())
        header = reader.take(reader.int("Q"))
        check(reader.offset % 64 == 0, "the data begins at %d, no multiple of 64", reader.offset)
        self.before_data, self.data = reader.data[: reader.offset], reader.data[reader.offset :]
        tensors, self.metadata = parse_header(header, len(self.data), "header")
        for tensor in tensors:
            check(tensor.dtype == "U8" and tensor.shape == [tensor.len_bytes],
                  "header: %r is not U8 of one dimension", tensor.name)
        self.format = field(self.metadata, "netweight", str, "__metadata__")
        check(self.format in ("1", "2"), "__metadata__: format %r", self.format)
        check(tensors and tensors[-1].name == "netweight.manifest", "the manifest is not last")
        manifest = tensors.pop()
        read_manifest(self, self.data[manifest.begin : manifest.end])
        self.read_original_header()
        self.matrices = resident_matrices(self)
        self.steps = tensors.pop() if self.grid_names else None
        self.match_payloads(tensors)
        self.grids = read_grids(self)
        self.base, self.refined = read_base(self)

    def read_original_header(self):
        """Fills `original_header` and `tensors`, which are what the payloads stand for."""
        if self.mode == "opaque":
            check(not self.header_zlib, "header_zlib is not empty in mode opaque")
            check(not self.same_as, "same_as is not empty in mode opaque")
            whole = {"dtype": "U8", "shape": [self.len_bytes], "data_offsets": [0, self.len_bytes]}
            self.original_header, self.tensors = b"", [Tensor("netweight.file", whole)]
        else:
            self.original_header = inflate(self.header_zlib, self.header_bytes, "header_zlib")
            self.tensors = self.check_original_header(self.original_header)

    def check_original_header(self, original_header):
        """The original's tensors; its `format` must be the one that the archive shows."""
        reader = Reader(original_header)
        text = reader.take(reader.int("Q"))
        reader.end("the original's header")
        data_bytes = self.len_bytes - self.header_bytes
        tensors, metadata = parse_header(text, data_bytes, "the original's header")
        shown = (metadata or {}).get("format")
        if shown is not None and len(shown.encode("utf-8")) > 64:
            shown = None
        check(self.metadata.get("format") == shown, "__metadata__: not the original's format")
        return tensors

    def match_payloads(self, payloads):
        """Payloads stand in the original's offset order; an empty one sorts before its neighbour."""
        self.payloads = {p.name: self.data[p.begin : p.end] for p in payloads}
        self.tensor = {t.name: t for t in self.tensors}
        check(set(self.payloads) == set(self.tensor), "payloads and the original's tensors differ in name")
        check(set(self.same_as) <= set(self.tensor), "same_as: names a tensor that is not there")
        begin_of, position = {p.name: p.begin for p in payloads}, 0
        for tensor in self.tensors:
            check(begin_of[tensor.name] == position, "payload %r is not in offset order", tensor.name)
            position += len(self.payloads[tensor.name])
        if self.steps is not None:
            check(self.steps.name == "netweight.steps", "the last payload is not that of the steps")
            self.payloads[self.steps.name] = self.data[self.steps.begin : self.steps.end]


# ---- 2. Manifest ---------------------------------------------------------------------------------

def read_manifest(shard, manifest):
    """Fills the fields of `shard` that the manifest holds."""
    check(len(manifest) >= 36, "manifest: too short")
    content, digest = manifest[:-32], manifest[-32:]
    check(hashlib.sha256(shard.before_data + content).digest() == digest, "manifest: digest is wrong")
    reader = Reader(content)
    table = parse_json(reader.take(reader.int("I")), "manifest")
    shard.header_zlib = reader.take(reader.left())
    version = count_of(table, "format", "manifest")
    check(version <= 2, "format %d; this program reads formats 1 and 2", version)
    check(str(version) == shard.format, "manifest: format %d", version)
    field(table, "writer", str, "manifest")
    shard.mode = field(table, "mode", str, "manifest")
    check(shard.mode in ("tensors", "resident", "opaque", "refined"), "manifest: mode %r", shard.mode)
    shard.chunk_bytes = count_of(table, "chunk_bytes", "manifest")
    check(shard.chunk_bytes in [1 << power for power in range(12, 25)],
          "manifest: chunk_bytes %d", shard.chunk_bytes)
    original = field(table, "original", dict, "manifest")
    shard.len_bytes = count_of(original, "bytes", "manifest")
    shard.sha256 = sha256_of(original, "sha256", "manifest")
    shard.header_bytes = count_of(original, "header_bytes", "manifest")
    check(8 <= shard.header_bytes <= shard.len_bytes, "manifest: header_bytes %d", shard.header_bytes)
    shard.same_as = field(table, "same_as", dict, "manifest")
    for name, target in shard.same_as.items():
        field(target, "tensor", str, "same_as %r" % name)
        check("shard" in target, "same_as %r: no key 'shard'", name)
        if target["shard"] is not None:
            sibling = field(target, "shard", str, "same_as %r" % name)
            check(is_plain_path(sibling) and "/" not in sibling, "same_as %r: %r is no sibling", name, sibling)
    check(("resident" in table) == (shard.mode == "resident"), "manifest: mode %r and `resident`", shard.mode)
    check(("refines" in table) == (shard.mode == "refined"), "manifest: mode %r and `refines`", shard.mode)
    has_grids = version == 2 and shard.mode == "tensors"
    check(version == (2 if has_grids or shard.mode == "refined" else 1), "manifest: format %d", version)
    check(("grids" in table) == has_grids, "manifest: format %d and `grids`", version)
    shard.grid_names = field(table, "grids", list, "manifest") if has_grids else []
    check(shard.grid_names or not has_grids, "manifest: no grids")
    shard.refines, shard.refined = None, {}
    if shard.mode == "refined":
        shard.refines = field(table, "refines", dict, "manifest")
        base = field(shard.refines, "shard", str, "refines")
        check(is_plain_path(base) and "/" not in base, "refines: %r is no sibling", base)
        sha256_of(shard.refines, "sha256", "refines")
        field(shard.refines, "tensors", list, "refines")
    shard.layout, shard.resident = None, []
    if shard.mode == "resident":
        resident = field(table, "resident", dict, "manifest")
        shard.layout = field(resident, "layout", str, "resident")
        check(shard.layout in ("exact11", "exact12"), "resident: layout %r", shard.layout)
        shard.resident = field(resident, "tensors", list, "resident")
        check(shard.resident, "resident: no tensors")


def original_bytes(shard):
    """The original file: its header bytes, then its tensors' bytes in offset order."""
    for tensor in shard.tensors:  # cheap checks of everything first
        with where("tensor %r" % tensor.name):
            check_payload(shard, tensor)
    parts, siblings = [shard.original_header], {}
    for tensor in shard.tensors:
        with where("tensor %r" % tensor.name):
            if tensor.name in shard.same_as:
                parts.append(same_as_bytes(shard, tensor, siblings))
            else:
                parts.append(payload_bytes(shard, tensor))
    original = b"".join(parts)
    check(len(original) == shard.len_bytes, "%d bytes instead of %d", len(original), shard.len_bytes)
    check(hashlib.sha256(original).hexdigest() == shard.sha256, "SHA-256 of the original is wrong")
    if shard.mode == "opaque":
        shard.check_original_header(original[: shard.header_bytes])
    return original


def same_as_bytes(shard, tensor, siblings):
    target, file_name = shard.same_as[tensor.name]["tensor"], shard.same_as[tensor.name]["shard"]
    other = shard
    if file_name is not None:
        path = os.path.join(os.path.dirname(shard.path), file_name)
        with where("same as %r in %s" % (target, file_name)):
            check(os.path.isfile(path), "no such file")
            if file_name not in siblings:
                siblings[file_name] = Shard(path)
        other = siblings[file_name]
    with where("same as %r" % target):
        check(target in other.tensor, "no such tensor")
        check(target not in other.same_as, "it is itself in same_as")
        check(other.tensor[target].len_bytes == tensor.len_bytes, "it has another size")
        check_payload(other, other.tensor[target])
        return payload_bytes(other, other.tensor[target])


# ---- 3. Payload ----------------------------------------------------------------------------------

def crc64_table():
    reflected = int("{:064b}".format(0xAD93D23594C93659)[::-1], 2)
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (reflected if byte & 1 else 0)
        table.append(byte)
    return table


CRC64_TABLE = crc64_table()


def crc64_nvme(data):
    crc, table = 0xFFFFFFFFFFFFFFFF, CRC64_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFFFFFFFFFF


assert crc64_nvme(b"123456789") == 0xAE8B14860A799888


def check_payload(shard, tensor):
    """Checks lengths, CRCs and padding; returns the encoded chunks."""
    payload = shard.payloads[tensor.name]
    if tensor.name in shard.same_as or tensor.len_bytes == 0:
        check(not payload, "the payload should be empty")
        return []
    matrix = shard.matrices.get(tensor.name)
    cut = matrix or shard.grids.get(tensor.name) or shard.refined.get(tensor.name) or shard
    n_chunks = -(-tensor.len_bytes // cut.chunk_bytes)
    reader = Reader(payload)
    directory = struct.iter_unpack("<IQ", reader.take(12 * n_chunks))
    if matrix:
        check(not any(reader.take(-reader.offset % 64)), "the padding of the directory is not zero")
    chunks = []
    for index, (len_bytes, crc) in enumerate(directory):
        with where("chunk %d" % index):
            chunks.append(reader.take(len_bytes))
            check(not matrix or len_bytes % 64 == 0, "%d bytes are no multiple of 64", len_bytes)
            check(crc64_nvme(chunks[-1]) == crc, "CRC is wrong")
    check(reader.left() == -reader.offset % 64, "the payload is not padded to 64 bytes")
    check(not any(reader.take(reader.left())), "the padding is not zero")
    return chunks


def payload_bytes(shard, tensor):
    if tensor.name in shard.matrices:
        return resident_bytes(shard, tensor)
    if tensor.name in shard.grids:
        return grid_bytes(shard, tensor)
    if tensor.name in shard.refined:
        return refined_tensor_bytes(shard, tensor)
    width = 1 if shard.mode == "opaque" else WIDTHS.get(tensor.dtype, 1)
    parts = []
    for index, chunk in enumerate(check_payload(shard, tensor)):
        with where("chunk %d" % index):
            len_bytes = min(shard.chunk_bytes, tensor.len_bytes - index * shard.chunk_bytes)
            check(len_bytes % width == 0, "%d bytes are no whole elements", len_bytes)
            parts.append(chunk_bytes(chunk, len_bytes // width, width))
    return b"".join(parts)


def resident_matrices(shard):
    """The matrices that `resident` lists, by name; they are listed in offset order."""
    matrices, names = {}, list(shard.resident)
    for tensor in shard.tensors:
        if names and names[0] == tensor.name:
            with where("resident %r" % names.pop(0)):
                check(tensor.name not in shard.same_as, "it is in same_as, too")
                matrices[tensor.name] = Matrix(shard.layout, tensor)
    check(not names, "resident: %r is not there, or not in order", names[:1])
    return matrices


def resident_bytes(shard, tensor):
    matrix, parts = shard.matrices[tensor.name], []
    for index, group in enumerate(check_payload(shard, tensor)):
        with where("group %d" % index):
            n_rows = min(matrix.group_rows, matrix.rows - index * matrix.group_rows)
            parts.append(group_bytes(group, matrix, n_rows))
    return b"".join(parts)


def read_grids(shard):
    """The grids that `grids` lists, by name, with their steps; they are listed in offset order."""
    shard.grids, names, grids = {}, list(shard.grid_names), {}
    for tensor in shard.tensors:
        if names and names[0] == tensor.name:
            with where("grid %r" % names.pop(0)):
                check(tensor.name not in shard.same_as, "it is in same_as, too")
                grids[tensor.name] = Grid(tensor, shard.chunk_bytes)
    check(not names, "grids: %r is not there, or not in order", names[:1])
    if grids:
        with where("netweight.steps"):
            len_bytes = sum(2 * (grid.rows + grid.cols) for grid in grids.values())
            check(len_bytes <= 67108864, "%d bytes of steps", len_bytes)
            whole = {"dtype": "BF16", "shape": [len_bytes // 2], "data_offsets": [0, len_bytes]}
            reader = Reader(payload_bytes(shard, Tensor("netweight.steps", whole)))
            for grid in grids.values():
                grid.read_steps(reader)
    return grids


def grid_bytes(shard, tensor):
    grid, parts = shard.grids[tensor.name], []
    for index, chunk in enumerate(check_payload(shard, tensor)):
        with where("chunk %d" % index):
            parts.append(rows_bytes(chunk, grid, grid.rows_of(index)))
    return b"".join(parts)


# ---- 9. Refinements ------------------------------------------------------------------------------

def read_base(shard):
    """The shard that is refined, and the grids of the tensors that `refines` lists, by name."""
    if shard.refines is None:
        return None, {}
    path = os.path.join(os.path.dirname(shard.path), shard.refines["shard"])
    with where("refines %r" % shard.refines["shard"]):
        check(os.path.isfile(path) and not os.path.samefile(path, shard.path), "no such file")
        base = Shard(path)
        check(base.mode == "tensors" and base.format == "2", "it is of mode %r and format %s", base.mode, base.format)
        check(base.sha256 == shard.refines["sha256"], "it holds another model")
    names, refined = list(shard.refines["tensors"]), {}
    for tensor in shard.tensors:
        if names and names[0] == tensor.name:
            with where("refined %r" % names.pop(0)):
                check(tensor.name not in shard.same_as, "it is in same_as, too")
                check(tensor.name in base.grids, "it has no grid")
                grid = base.grids[tensor.name]
                check(tensor.dtype == "BF16" and tensor.shape == [grid.rows, grid.cols], "it is no such matrix")
                refined[tensor.name] = grid
    check(not names, "refines: %r is not there, or not in order", names[:1])
    return base, refined


def refined_tensor_bytes(shard, tensor):
    grid, parts = shard.refined[tensor.name], []
    base_chunks = check_payload(shard.base, shard.base.tensor[tensor.name])
    for index, (chunk, base_chunk) in enumerate(zip(check_payload(shard, tensor), base_chunks)):
        with where("chunk %d" % index):
            parts.append(refined_bytes(chunk, base_chunk, grid, grid.rows_of(index)))
    return b"".join(parts)


# ---- 6. Archive folder ---------------------------------------------------------------------------

def is_plain_path(path):
    return "\\" not in path and "\0" not in path and all(p not in ("", ".", "..") for p in path.split("/"))


def read_folder_table(data):
    """The `files` of a netweight.json, checked."""
    cut = data.rfind(b'"digest"')
    check(cut >= 0, "no digest")
    expected = b'"digest": "' + hashlib.sha256(data[:cut]).hexdigest().encode() + b'"\n}\n'
    check(data[cut:] == expected, "digest is wrong")
    table = parse_json(data, "table")
    check(list(table)[-1] == "digest", "digest is not the last key")
    version = count_of(table, "format", "table")
    check(version <= 2, "format %d; this program reads formats 1 and 2", version)
    check(version >= 1, "format %d", version)
    field(table, "writer", str, "table")
    files = field(table, "files", list, "table")
    for entry in files:
        path = field(entry, "path", str, "files")
        check(is_plain_path(path), "%r is no plain relative path", path)
        check(field(entry, "kind", str, path) in ("shard", "index", "config", "side"), "%r: kind", path)
        count_of(entry, "bytes", path)
        sha256_of(entry, "sha256", path)
        if entry["kind"] in ("index", "config"):
            sha256_of(entry, "archived_sha256", path)
            field(entry, "original", str, path)
        if "refined" in entry:
            check(entry["kind"] == "shard" and version == 2, "%r: refined", path)
            count_of(field(entry, "refined", dict, path), "bytes", path)
            sha256_of(entry["refined"], "sha256", path)
    refinements = {entry["path"] + ".refinement" for entry in files if "refined" in entry}
    check(not refinements & {entry["path"] for entry in files}, "a refinement in the place of another file")
    paths = [entry["path"].encode("utf-8", "surrogatepass") for entry in files]
    check(paths == sorted(set(paths)), "files are not sorted by path, or two paths are equal")
    return files


def restored_file(folder, entry, tuned):
    """The original bytes of one entry of netweight.json; of a refined shard the tuned values where `tuned` is set."""
    path = os.path.join(folder, *entry["path"].split("/"))
    check(os.path.isfile(path), "is not there")
    if entry["kind"] == "shard":
        original = original_bytes(Shard(path))
    else:
        with open(path, "rb") as file:
            original = file.read()
    if entry["kind"] in ("index", "config"):
        check(hashlib.sha256(original).hexdigest() == entry["archived_sha256"], "archived_sha256 is wrong")
        try:
            packed = base64.b64decode(entry["original"], validate=True)
        except ValueError as error:
            raise Corrupt("original: %s" % error) from None
        original = inflate(packed, entry["bytes"], "original")
    check(len(original) == entry["bytes"], "%d bytes instead of %d", len(original), entry["bytes"])
    check(hashlib.sha256(original).hexdigest() == entry["sha256"], "SHA-256 is wrong")
    if "refined" in entry and not tuned:
        with where("its refinement"):
            check(os.path.isfile(path + ".refinement"), "is not there")
            original = original_bytes(Shard(path + ".refinement"))
            check(len(original) == entry["refined"]["bytes"], "%d bytes", len(original))
            check(hashlib.sha256(original).hexdigest() == entry["refined"]["sha256"], "SHA-256 is wrong")
    return original


def restored(archive, tuned=False):
    """Yields (relative path or None, original bytes) for everything that `archive` stands for."""
    if not os.path.isdir(archive):
        with where(archive):
            original = original_bytes(Shard(archive))
        yield None, original
        return
    with where(os.path.join(archive, "netweight.json")):
        table_path = os.path.join(archive, "netweight.json")
        check(os.path.isfile(table_path), "is not there")
        with open(table_path, "rb") as file:
            files = read_folder_table(file.read())
    for entry in files:
        with where(os.path.join(archive, entry["path"])):
            original = restored_file(archive, entry, tuned)
        yield entry["path"], original


def main():
    parser = argparse.ArgumentParser(description="Verify or restore a netweight archive.")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("-o", metavar="OUT", dest="out")
    parser.add_argument("--tuned", action="store_true", help="the tuned values, where a refinement gives the original")
    options = parser.parse_args()
    try:
        for relative, original in restored(options.archive, options.tuned):
            if options.out is None:
                continue
            path = options.out if relative is None else os.path.join(options.out, *relative.split("/"))
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(path, "wb") as file:
                file.write(original)
    except (Corrupt, OSError) as error:
        sys.exit(str(error).replace("\n", "\\n"))


if __name__ == "__main__":
    main()
