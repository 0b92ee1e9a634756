"""What tests share: the bundled model, and small random files of every dtype."""

from __future__ import annotations

import pathlib

import numpy
import pytest

import netweight

BOOKWORM = pathlib.Path(__file__).resolve().parents[2] / "models" / "bookworm"

ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2}


def write_safetensors(path, tensors, metadata=None):
    """A safetensors file of {name: (dtype, shape, bytes)}, written from the rules of the format alone."""
    import json

    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def weights(shape, seed=0):
    """bf16 weights, as bits, as a trained matrix has them: many magnitudes, few exponents."""
    random = numpy.random.default_rng(seed)
    values = random.standard_normal(shape, dtype=numpy.float32) * 0.02
    return (values.view(numpy.uint32) >> 16).astype(numpy.uint16)


@pytest.fixture(scope="session")
def bookworm_archive(tmp_path_factory):
    """The bundled model as an archive folder."""
    archive = tmp_path_factory.mktemp("bookworm") / "bookworm.nw"
    netweight.compress(BOOKWORM, archive)
    return archive


@pytest.fixture(scope="session")
def bookworm_resident(tmp_path_factory):
    """The same, with resident matrices."""
    archive = tmp_path_factory.mktemp("resident") / "bookworm.nw"
    netweight.compress(BOOKWORM, archive, resident="exact11")
    return archive


@pytest.fixture
def plain(tmp_path):
    """A small safetensors file: two matrices, a vector, a scalar, nothing."""
    tensors = {
        "matrix": ("BF16", [70, 90], weights((70, 90)).tobytes()),
        "wide": ("F32", [5, 3, 4], numpy.arange(60, dtype="float32").tobytes()),
        "vector": ("I16", [7], numpy.arange(7, dtype="int16").tobytes()),
        "scalar": ("F64", [], numpy.float64(2.5).tobytes()),
        "empty": ("F16", [0, 3], b""),
    }
    return write_safetensors(tmp_path / "plain.safetensors", tensors, {"format": "np", "key": "value"})


@pytest.fixture
def archive(plain, tmp_path):
    """The same as an archive."""
    path = tmp_path / "plain.nw.safetensors"
    netweight.compress(plain, path)
    return path


@pytest.fixture(params=["plain", "archive"])
def either(request):
    """One and then the other: what is read must not depend on it."""
    return request.getfixturevalue(request.param)
