#!/usr/bin/env python3
"""Decode netweight archives: the second, slow decoder, written from docs/format.md alone.

    decode.py ARCHIVE [-o OUT]

ARCHIVE is an archive shard or an archive folder. Without -o everything is decoded and checked and
nothing is written. With -o the original file or folder is written to OUT. Exit status 1 and one
line say which file, tensor and chunk break which rule. Sections are numbered as on the page.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import struct
import sys
import zlib


class Corrupt(Exception):
    """The archive breaks a rule of the format; the message says where and which."""


@contextlib.contextmanager
def where(place):
    """Puts `place` before the message of every failure inside."""
    try:
        yield
    except Corrupt as error:
        raise Corrupt("%s: %s" % (place, error)) from None


def check(rule_holds, message, *arguments):
    if not rule_holds:
        raise Corrupt(message % arguments if arguments else message)


class Reader:
    """Takes integers and byte strings off the front of `data`, never past its end."""

    def __init__(self, data):
        self.data, self.offset = data, 0

    def left(self):
        return len(self.data) - self.offset

    def take(self, len_bytes):
        check(len_bytes <= self.left(), "wants %d bytes, only %d are left", len_bytes, self.left())
        self.offset += len_bytes
        return self.data[self.offset - len_bytes : self.offset]

    def ints(self, code, count):
        """`count` little-endian integers; `code` is B, H, I or Q for 1, 2, 4 or 8 bytes."""
        return struct.unpack("<%d%s" % (count, code), self.take(count * struct.calcsize("<" + code)))

    def int(self, code):
        return self.ints(code, 1)[0]

    def end(self, what):
        check(self.left() == 0, "%d bytes too many at the end of %s", self.left(), what)


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
        check(field(self.metadata, "netweight", str, "__metadata__") == "1", "__metadata__: not format 1")
        check(tensors and tensors[-1].name == "netweight.manifest", "the manifest is not last")
        manifest = tensors.pop()
        read_manifest(self, self.data[manifest.begin : manifest.end])
        self.read_original_header()
        self.match_payloads(tensors)

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
    check(version <= 1, "format %d; this program reads format 1", version)
    check(version == 1, "manifest: format %d", version)
    field(table, "writer", str, "manifest")
    shard.mode = field(table, "mode", str, "manifest")
    check(shard.mode in ("tensors", "opaque"), "manifest: mode %r", shard.mode)
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
    n_chunks = -(-tensor.len_bytes // shard.chunk_bytes)
    reader = Reader(payload)
    directory = struct.iter_unpack("<IQ", reader.take(12 * n_chunks))
    chunks = []
    for index, (len_bytes, crc) in enumerate(directory):
        with where("chunk %d" % index):
            chunks.append(reader.take(len_bytes))
            check(crc64_nvme(chunks[-1]) == crc, "CRC is wrong")
    check(reader.left() == -reader.offset % 64, "the payload is not padded to 64 bytes")
    check(not any(reader.take(reader.left())), "the padding is not zero")
    return chunks


def payload_bytes(shard, tensor):
    width = 1 if shard.mode == "opaque" else WIDTHS.get(tensor.dtype, 1)
    parts = []
    for index, chunk in enumerate(check_payload(shard, tensor)):
        with where("chunk %d" % index):
            len_bytes = min(shard.chunk_bytes, tensor.len_bytes - index * shard.chunk_bytes)
            check(len_bytes % width == 0, "%d bytes are no whole elements", len_bytes)
            parts.append(chunk_bytes(chunk, len_bytes // width, width))
    return b"".join(parts)


# ---- 4. Chunk ------------------------------------------------------------------------------------

WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "C64": 4,
          "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


def chunk_bytes(chunk, n, width):
    """The bytes of `n` elements of `width` bytes."""
    reader = Reader(chunk)
    split = reader.int("B")
    fits = {0: True, 1: width == 1, 4: width >= 2, 6: width >= 2, 7: width >= 2, 9: width == 2}
    check(fits.get(split, False), "split %d", split)
    if split == 0:
        planes = [(8, "byte")] * width
    elif split == 1:
        planes = [(1, "sign"), (7, "rest")]
    elif split == 9:
        planes = [(8, "byte"), (2, "low"), (6, "field")]
    else:
        planes = [(8, "byte")] * (width - 2) + [(split + 1, "low"), (15 - split, "field")]
    heads = [(reader.int("B"), reader.int("I")) for _ in planes]
    values = []
    for index, ((bits, role), (coder, len_bytes)) in enumerate(zip(planes, heads)):
        with where("plane %d" % index):
            allowed = (1, 2, 3) if role == "field" else (0, 1, 3)
            check(coder in allowed, "coder %d", coder)
            payload = Reader(reader.take(len_bytes))
            values.append(CODERS[coder](payload, n, bits))
            payload.end("the plane")
            check(max(values[-1]) < 1 << bits, "a value has more than %d bits", bits)
    reader.end("the chunk")
    if split == 1:
        values = [[sign << 7 | rest for sign, rest in zip(*values)]]
    elif split == 9:
        top = [(low >> 1) << 15 | field << 9 | (low & 1) << 8 | byte for byte, low, field in zip(*values)]
        values = [[half & 255 for half in top], [half >> 8 for half in top]]
    elif split > 0:
        field_values, low_values = values.pop(), values.pop()
        mask = (1 << split) - 1
        top = [(low >> split) << 15 | value << split | (low & mask)
               for low, value in zip(low_values, field_values)]
        values += [[half & 255 for half in top], [half >> 8 for half in top]]
    element_bytes = bytearray(n * width)
    for j, plane in enumerate(values):
        element_bytes[j::width] = bytes(plane)
    return bytes(element_bytes)


# ---- 5. Coders -----------------------------------------------------------------------------------

def decode_raw(reader, n, bits):
    number = int.from_bytes(reader.take(-(-n * bits // 8)), "little")
    check(number >> n * bits == 0, "unused bits are not zero")
    if bits == 8:
        return list(number.to_bytes(n, "little"))
    values, mask = [], (1 << bits) - 1
    for first in range(0, n, 1024):  # in pieces: shifting the whole number each time is quadratic
        piece = number >> first * bits & (1 << 1024 * bits) - 1
        values += [piece >> i * bits & mask for i in range(min(1024, n - first))]
    return values


def decode_constant(reader, n, bits):
    return [reader.int("H")] * n


def decode_rans8(reader, n, bits):
    base = reader.int("H")
    frequencies = reader.ints("B", 32)
    n_escapes = reader.int("I")
    meaning = [base + s for s in range(31)] + [None]
    values = decode_rans(reader, n, bits, 128, (8, 1), frequencies, meaning)
    return fill_escapes(values, n_escapes, read_escapes(reader, n_escapes))


def decode_rans12(reader, n, bits):
    base = reader.int("H")
    present = int.from_bytes(reader.take(32), "little")
    frequencies = [0] * 256
    for s in range(256):
        if present >> s & 1:
            v = reader.int("B")
            if v >= 128:
                v = v & 127 | reader.int("B") << 7
                check(v >= 128, "a frequency takes two bytes where one is enough")
            frequencies[s] = v + 1
    check(bin(present).count("1") >= 2, "fewer than two symbols are present")
    n_escapes = reader.int("I")
    if bits <= 8:
        check(base == 0 and n_escapes == 0, "base and n_escapes are not 0")
        return decode_rans(reader, n, bits, 64, (12, 2), frequencies, list(range(256)))
    meaning = [base + s for s in range(255)] + [None]
    values = decode_rans(reader, n, bits, 64, (12, 2), frequencies, meaning)
    return fill_escapes(values, n_escapes, read_escapes(reader, n_escapes))


def decode_rans(reader, n, bits, n_lanes, widths, frequencies, meaning):
    """Both rANS coders: `widths` is bits of a probability and bytes of a stream word. An escape
    comes back as None. The tail, which follows the streams, is decoded too."""
    prob_bits, word_bytes = widths
    lowest_state = 1 << prob_bits if word_bytes == 1 else 1 << 16
    check(sum(frequencies) == 1 << prob_bits, "frequencies do not sum to %d", 1 << prob_bits)
    slots = []  # for each slot: the symbol's meaning, its freq, and slot - start
    for freq, value in zip(frequencies, meaning):
        check(freq == 0 or value is None or value < 1 << bits, "a symbol has more than %d bits", bits)
        slots += [(value, freq, rest) for rest in range(freq)]
    stream_len = reader.ints("I", 4)
    states = reader.ints("H" if word_bytes == 1 else "I", n_lanes)
    check(min(states) >= lowest_state, "an initial state is below %d", lowest_state)
    values, n_group = [0] * (n - n % n_lanes), n_lanes // 4
    for group in range(4):
        check(stream_len[group] % word_bytes == 0, "a stream's length is odd")
        words = reader.ints("B" if word_bytes == 1 else "H", stream_len[group] // word_bytes)
        x = list(states[group * n_group : (group + 1) * n_group])
        n_used = decode_group(x, words, slots, values, group * n_group, n_lanes, prob_bits, lowest_state)
        check(n_used == len(words), "a stream is not used up")
        check(all(state == lowest_state for state in x), "a lane does not end at %d", lowest_state)
    return values + list(reader.ints("H", n % n_lanes))


def decode_group(x, words, slots, values, first, n_lanes, prob_bits, lowest_state):
    """Decodes the lanes `x` of one group into `values`; returns how many words were used."""
    mask, word_bits, n_used = (1 << prob_bits) - 1, 8 if prob_bits == 8 else 16, 0
    lanes = range(len(x))
    for step in range(first, len(values), n_lanes):
        for lane in lanes:
            state = x[lane]
            values[step + lane], freq, rest = slots[state & mask]
            state = freq * (state >> prob_bits) + rest
            if state < lowest_state:
                check(n_used < len(words), "a stream ends too early")
                state = state << word_bits | words[n_used]
                n_used += 1
            x[lane] = state
    return n_used


def read_escapes(reader, n_escapes):
    n_common = reader.int("B")
    check(n_common <= 15, "n_common is %d", n_common)
    common = reader.ints("H", n_common)
    packed = reader.take((n_escapes + 1) // 2)
    nibbles = [nibble for byte in packed for nibble in (byte & 15, byte >> 4)]
    check(not any(nibbles[n_escapes:]), "the unused nibble is not 0")
    nibbles = nibbles[:n_escapes]
    rest = iter(reader.ints("H", nibbles.count(15)))
    check(all(nibble == 15 or nibble < n_common for nibble in nibbles), "a nibble names no common value")
    return [next(rest) if nibble == 15 else common[nibble] for nibble in nibbles]


def fill_escapes(values, n_escapes, escapes):
    check(values.count(None) == n_escapes, "%d escapes are used, not %d", values.count(None), n_escapes)
    following = iter(escapes)
    return [next(following) if value is None else value for value in values]


CODERS = {0: decode_raw, 1: decode_constant, 2: decode_rans8, 3: decode_rans12}


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
    check(version <= 1, "format %d; this program reads format 1", version)
    check(version == 1, "format %d", version)
    field(table, "writer", str, "table")
    files = field(table, "files", list, "table")
    for entry in files:
        path = field(entry, "path", str, "files")
        check(is_plain_path(path), "%r is no plain relative path", path)
        check(field(entry, "kind", str, path) in ("shard", "index", "side"), "%r: kind", path)
        count_of(entry, "bytes", path)
        sha256_of(entry, "sha256", path)
        if entry["kind"] == "index":
            sha256_of(entry, "archived_sha256", path)
            field(entry, "original", str, path)
    paths = [entry["path"].encode("utf-8", "surrogatepass") for entry in files]
    check(paths == sorted(set(paths)), "files are not sorted by path, or two paths are equal")
    return files


def restored_file(folder, entry):
    """The original bytes of one entry of netweight.json."""
    path = os.path.join(folder, *entry["path"].split("/"))
    check(os.path.isfile(path), "is not there")
    if entry["kind"] == "shard":
        original = original_bytes(Shard(path))
    else:
        with open(path, "rb") as file:
            original = file.read()
    if entry["kind"] == "index":
        check(hashlib.sha256(original).hexdigest() == entry["archived_sha256"], "archived_sha256 is wrong")
        try:
            packed = base64.b64decode(entry["original"], validate=True)
        except ValueError as error:
            raise Corrupt("original: %s" % error) from None
        original = inflate(packed, entry["bytes"], "original")
    check(len(original) == entry["bytes"], "%d bytes instead of %d", len(original), entry["bytes"])
    check(hashlib.sha256(original).hexdigest() == entry["sha256"], "SHA-256 is wrong")
    return original


def restored(archive):
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
            original = restored_file(archive, entry)
        yield entry["path"], original


def main():
    parser = argparse.ArgumentParser(description="Verify or restore a netweight archive.")
    parser.add_argument("archive", metavar="ARCHIVE")
    parser.add_argument("-o", metavar="OUT", dest="out")
    options = parser.parse_args()
    try:
        for relative, original in restored(options.archive):
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
