"""Other compressors, measured on request.

usage: peers.py DATA SETUP

DATA holds tensors back to back; SETUP is JSON: {"segments": [[dtype, start, end], ...], "n_repeats": n}.
Writes one line, a JSON list of {"name", "missing"}, then answers each line "INDEX encode" or "INDEX decode"
with {"cpu_s", "wall_s", "len_bytes", "error"}. Only the calls into the compressor are timed, on one thread;
the decoded bytes are compared with the original after every decode.

Each peer runs in the setting that was fastest for it at its usual size: blocks of 16 MiB for ZipNN (which
cuts them into its own of 256 KiB), of 1 MiB for zstd, of 128 KiB for OpenZL. Tensors of one dtype that follow
each other are one piece of work; pieces under 4 KiB, and dtypes that a peer does not know, are stored.
"""

import importlib.metadata
import json
import os
import sys
import time
import warnings

SMALL_BYTES = 4096
HINT = "not installed (pip install zipnn zstandard openzl)"
WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8, "C64": 4}


def stored():
    """What a peer that does not know a dtype does: a copy."""
    return bytes, bytes


class Zipnn:
    """The package, threads=1, as its documentation calls it."""

    package = "zipnn"
    label = "ZipNN"
    block_bytes = 16 << 20
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}

    def __init__(self):
        import zipnn

        self.zipnn = zipnn

    def codec(self, dtype):
        if dtype not in self.names:
            return stored()
        coder = self.zipnn.ZipNN(input_format="byte", bytearray_dtype=self.names[dtype], threads=1)
        return coder.compress, coder.decompress

    @staticmethod
    def own(piece):
        # ZipNN changes its input.
        return bytearray(piece)


class ZipnnCore(Zipnn):
    """The C extension inside the package, called without the copies that the Python class makes."""

    label = "ZipNN C core"
    # (planes, bit reorder, byte reorder, its chunk) as the Python class sets them.
    settings = {"BF16": (2, 1, 10, 1 << 18), "F16": (2, 0, 10, 1 << 18), "F32": (4, 1, 220, 1 << 18), "F8_E4M3": (1, 1, 10, 1 << 17)}

    def __init__(self):
        import zipnn_core

        self.core = zipnn_core

    def codec(self, dtype):
        if dtype not in self.settings:
            return stored()
        n_planes, bits, order, chunk = self.settings[dtype]
        head = bytes(32)

        def compress(piece):
            packed = self.core.zipnn_core(head, piece, n_planes, bits, order, 0, chunk, 0.95, 10, 1)
            return packed, len(piece)

        def decompress(packed):
            return self.core.combine_dtype(memoryview(packed[0])[32:], n_planes, bits, order, chunk, packed[1], 1)

        return compress, decompress


class Zstd:
    """zstd level 1."""

    package = "zstandard"
    label = "zstd -1"
    block_bytes = 1 << 20

    def __init__(self):
        import zstandard

        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()

    def codec(self, dtype):
        return self.compressor.compress, self.decompressor.decompress

    @staticmethod
    def own(piece):
        return piece


class PlanesZstd(Zstd):
    """Byte planes, each through zstd level 1. Planes are cut and joined by numpy's widening and narrowing."""

    label = "byte planes + zstd -1"

    def codec(self, dtype):
        import numpy as np

        width = WIDTH.get(dtype, 1)
        if width == 1:
            return super().codec(dtype)
        word = np.dtype(f"<u{width}")
        zip_, unzip = self.compressor.compress, self.decompressor.decompress

        def compress(piece):
            words = piece.view(word)
            return [zip_((words >> 8 * j if j else words).astype(np.uint8)) for j in range(width)]

        def decompress(planes):
            words = np.frombuffer(unzip(planes[-1]), np.uint8).astype(word)
            for plane in planes[-2::-1]:
                words <<= 8
                words |= np.frombuffer(unzip(plane), np.uint8)
            return words

        return compress, decompress


class OpenZl:
    """OpenZL with a graph for the dtype: exponents, or byte lanes, through one of its Huffman coders."""

    package = "openzl"
    label = "OpenZL Huffman"
    coder = "zl.huffman"
    block_bytes = 128 << 10

    def __init__(self):
        import numpy as np
        import openzl.ext as zl

        self.np, self.zl = np, zl

    def graph(self, compressor, dtype):
        nodes, store = self.zl.nodes, self.zl.graphs.Store()(compressor)
        coder = compressor.get_graph(self.coder)
        if dtype == "BF16":
            return nodes.BFloat16Deconstruct()(compressor, store, coder)
        lanes = nodes.TransposeSplit()(compressor, coder)
        width = WIDTH.get(dtype, 1)
        if width > 1:
            coder = nodes.ConvertSerialToStruct(width)(compressor, lanes)
        return nodes.ConvertNumToSerialLE()(compressor, coder)

    def codec(self, dtype):
        zl, word = self.zl, self.np.dtype(f"<u{WIDTH.get(dtype, 1)}")
        compressor = zl.Compressor()
        compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
        compressor.select_starting_graph(self.graph(compressor, dtype))
        context, reader = zl.CCtx(), zl.DCtx()
        context.ref_compressor(compressor)
        context.set_parameter(zl.CParam.StickyParameters, 1)

        def compress(piece):
            return context.compress([zl.Input(zl.Type.Numeric, piece.view(word))])

        def decompress(packed):
            return reader.decompress(packed)[0]

        # The compressor must outlive the context.
        compress.keep = compressor
        return compress, decompress

    @staticmethod
    def own(piece):
        return piece


class OpenZlPivCo(OpenZl):
    label = "OpenZL PivCo-Huffman"
    coder = "zl.huffman_pivco"


class OpenZlFloat32(OpenZl):
    """For f32 the exponent split is smaller and encodes faster than lanes, and decodes slower."""

    label = "OpenZL f32 split + Huffman"

    def graph(self, compressor, dtype):
        if dtype != "F32":
            return super().graph(compressor, dtype)
        zl = self.zl
        return zl.nodes.Float32Deconstruct()(compressor, zl.graphs.Store()(compressor), zl.graphs.Huffman()(compressor))


class Runner:
    """One peer on all pieces of the data."""

    def __init__(self, peer, data, segments, n_repeats):
        self.peer, self.n_repeats, self.packed = peer, n_repeats, None
        codecs, self.jobs = {}, []
        for dtype, start, end in segments:
            for at in range(start, end, peer.block_bytes):
                piece = data[at : min(end, at + peer.block_bytes)]
                if dtype not in codecs:
                    codecs[dtype] = peer.codec(dtype)
                self.jobs.append((piece, *(codecs[dtype] if len(piece) >= SMALL_BYTES else stored())))

    def encode(self):
        cpu, wall = 0, 0
        for _ in range(self.n_repeats):
            work = [(encode, self.peer.own(piece)) for piece, encode, _ in self.jobs]
            self.packed = None
            cpu0, wall0 = time.process_time(), time.perf_counter()
            self.packed = [encode(piece) for encode, piece in work]
            wall += time.perf_counter() - wall0
            cpu += time.process_time() - cpu0
        return cpu, wall

    def decode(self):
        cpu, wall = 0, 0
        for _ in range(self.n_repeats):
            work = [(decode, packed) for (_, _, decode), packed in zip(self.jobs, self.packed)]
            unpacked = None
            cpu0, wall0 = time.process_time(), time.perf_counter()
            unpacked = [decode(packed) for decode, packed in work]
            wall += time.perf_counter() - wall0
            cpu += time.process_time() - cpu0
        if not all(same(job[0], piece) for job, piece in zip(self.jobs, unpacked)):
            raise ValueError("decoded data differ from the original")
        return cpu, wall

    def len_bytes(self):
        return sum(packed_bytes(packed) for packed in self.packed)


def packed_bytes(packed):
    if isinstance(packed, list):
        return sum(map(len, packed))
    return len(packed[0]) if isinstance(packed, tuple) else len(packed)


def same(original, decoded):
    import numpy as np

    if hasattr(decoded, "content"):
        decoded = decoded.content.as_nparray()
    flat = decoded.view(np.uint8) if isinstance(decoded, np.ndarray) else np.frombuffer(decoded, np.uint8)
    return np.array_equal(original, flat)


def merged(segments):
    """Segments with neighbours of one dtype joined."""
    out = []
    for dtype, start, end in segments:
        if out and out[-1][0] == dtype and out[-1][2] == start:
            out[-1][2] = end
        else:
            out.append([dtype, start, end])
    return out


def kinds_for(segments):
    """The peers that make sense for the dtype that most of the data have."""
    n_bytes = {}
    for dtype, start, end in segments:
        n_bytes[dtype] = n_bytes.get(dtype, 0) + end - start
    main_dtype = max(n_bytes, key=n_bytes.get)
    split = [OpenZlFloat32] if main_dtype == "F32" else []
    planes = [PlanesZstd] if WIDTH.get(main_dtype, 1) > 1 else []
    return [Zipnn, ZipnnCore, OpenZl, OpenZlPivCo] + split + planes + [Zstd]


def start(kind, path, segments, n_repeats, data):
    """(name, why it is missing or None, runner or None)."""
    try:
        import numpy as np

        if not data:
            data.append(np.fromfile(path, np.uint8))
        name = f"{kind.label} ({importlib.metadata.version(kind.package)})"
        return name, None, Runner(kind(), data[0], segments, n_repeats)
    except ImportError:
        return kind.label, HINT, None
    except Exception as error:
        return kind.label, f"failed: {str(error)[:100]}", None


def main():
    warnings.simplefilter("ignore")
    # What peers print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    with open(sys.argv[2]) as file:
        setup = json.load(file)
    segments, data = merged(setup["segments"]), []
    started = [start(kind, sys.argv[1], segments, setup["n_repeats"], data) for kind in kinds_for(segments)]
    answer([{"name": name, "missing": missing} for name, missing, _ in started])
    for line in sys.stdin:
        index, operation = line.split()
        runner = started[int(index)][2]
        try:
            cpu, wall = getattr(runner, operation)()
            answer({"cpu_s": cpu, "wall_s": wall, "len_bytes": runner.len_bytes(), "error": None})
        except Exception as error:
            answer({"cpu_s": 0, "wall_s": 0, "len_bytes": 0, "error": str(error)[:100]})


main()
