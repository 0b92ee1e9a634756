"""save_file: an archive straight from arrays, the same as by way of safetensors."""

import ml_dtypes
import numpy
import pytest
import safetensors.numpy

import netweight


def test_restores_to_what_safetensors_writes(tmp_path):
    random = numpy.random.default_rng(0)
    tensors = {
        "b": random.standard_normal((64, 128)).astype("float32"),
        "a": random.standard_normal((64, 128)).astype("float16"),
        "c": numpy.arange(5),
        "scalar": numpy.array(3.0),
        "empty": numpy.zeros((0, 2), "uint8"),
        "flags": numpy.array([True, False]),
        "transposed": random.standard_normal((30, 20)).astype("float32").T,
    }
    report = netweight.numpy.save_file(tensors, tmp_path / "ours", {"format": "np"})
    assert report.n_tensors == 7 and report.archive_bytes == (tmp_path / "ours").stat().st_size
    tensors["transposed"] = numpy.ascontiguousarray(tensors["transposed"])
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors", {"format": "np"})
    netweight.restore(tmp_path / "ours", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    netweight.compress(tmp_path / "theirs.safetensors", tmp_path / "by-way-of-theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "by-way-of-theirs").read_bytes()
    found = netweight.numpy.load_file(tmp_path / "ours")
    assert all((found[name] == tensors[name]).all() and found[name].shape == tensors[name].shape for name in tensors)


def test_other_dtypes_and_ties(tmp_path):
    matrix = numpy.random.default_rng(0).standard_normal((100, 200)).astype(ml_dtypes.bfloat16)
    tensors = {"w": matrix, "tied": matrix, "eight": matrix.astype(ml_dtypes.float8_e4m3fn)}
    tensors["big"] = numpy.arange(10, dtype=">i4")
    report = netweight.numpy.save_file(tensors, tmp_path / "nw", level="max", threads=1)
    assert report.n_tied == 1
    found = netweight.numpy.load_file(tmp_path / "nw")
    assert all((found[name] == tensors[name]).all() for name in tensors)
    assert found["w"].dtype == ml_dtypes.bfloat16 and found["eight"].dtype == ml_dtypes.float8_e4m3fn
    netweight.numpy.save_file({"w": matrix}, tmp_path / "nw", resident="exact11")  # Replaces an archive.
    assert netweight.inspect(tmp_path / "nw").resident == "exact11"


def test_what_cannot_be_saved(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    one = {"w": numpy.ones(3)}
    with pytest.raises(FileExistsError, match="no archive"):
        netweight.numpy.save_file(one, tmp_path / "mine")
    netweight.numpy.save_file(one, tmp_path / "nw")
    with pytest.raises(FileExistsError, match="force=True"):
        netweight.numpy.save_file(one, tmp_path / "nw", force=False)
    with pytest.raises(netweight.DtypeError, match="'w'.*complex128"):
        netweight.numpy.save_file({"w": numpy.ones(3, complex)}, tmp_path / "new")
    with pytest.raises(netweight.InvalidArgument, match="'w' is list"):
        netweight.numpy.save_file({"w": [1.0]}, tmp_path / "new")
    with pytest.raises(FileNotFoundError):
        netweight.numpy.save_file(one, tmp_path / "no" / "folder")
    assert not (tmp_path / "new").exists() and (tmp_path / "mine").read_bytes() == b"mine"
