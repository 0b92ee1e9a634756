"""load_file, safe_open and slices, over archives and plain files alike."""

import numpy
import pytest
from conftest import BOOKWORM, weights, write_safetensors
from safetensors import safe_open as their_open

import netweight


def test_whole_file(either):
    tensors = netweight.load_file(either)
    assert sorted(tensors) == ["empty", "matrix", "scalar", "vector", "wide"]
    assert tensors["matrix"].dtype.name == "bfloat16"
    assert (tensors["matrix"].view("uint16") == weights((70, 90))).all()
    assert (tensors["wide"] == numpy.arange(60, dtype="float32").reshape(5, 3, 4)).all()
    assert tensors["scalar"].shape == () and tensors["scalar"] == 2.5
    assert tensors["empty"].shape == (0, 3) and tensors["empty"].dtype == "float16"
    assert all(tensor.flags.owndata and tensor.flags.writeable for tensor in tensors.values())


def test_bookworm_as_safetensors_reads_it(bookworm_archive, bookworm_resident):
    expected = netweight.load_file(BOOKWORM, as_uint=True)
    assert len(expected) == 57
    for path in (bookworm_archive, bookworm_resident):
        found = netweight.numpy.load_file(path, as_uint=True, threads=3)
        assert list(found) == list(expected)
        assert all((found[name] == expected[name]).all() for name in expected)
    with netweight.safe_open(bookworm_archive, as_uint=True) as ours:
        shard = next(BOOKWORM.glob("*.safetensors"))
        with their_open(shard, framework="np") as theirs:
            names = [name for name in ours.offset_keys() if name in theirs.keys()]
            assert names == theirs.offset_keys()
            assert ours.get_slice(names[0]).get_shape() == theirs.get_slice(names[0]).get_shape()
            assert ours.get_slice(names[0]).get_dtype() == theirs.get_slice(names[0]).get_dtype()


def test_safe_open(either):
    with netweight.safe_open(either) as file:
        assert file.keys() == ["empty", "matrix", "scalar", "vector", "wide"]
        assert file.offset_keys() == ["matrix", "wide", "vector", "scalar", "empty"]
        assert file.metadata() == {"format": "np", "key": "value"}
        assert file.get_tensor("vector").tolist() == list(range(7))
        with pytest.raises(netweight.UnknownTensorError, match="no tensor of that name.*keys()"):
            file.get_tensor("nobody")
        with pytest.raises(KeyError):
            file.get_slice("nobody")
    with pytest.raises(netweight.InvalidArgument, match="closed"):
        file.get_tensor("vector")


SLICES = [
    numpy.s_[:],
    numpy.s_[...],
    numpy.s_[0],
    numpy.s_[-1],
    numpy.s_[2:5],
    numpy.s_[2:2],
    numpy.s_[-3:],
    numpy.s_[1:5:2],
    numpy.s_[:, 1],
    numpy.s_[1:3, 1:],
    numpy.s_[..., 1],
    numpy.s_[3, ...],
    numpy.s_[2:4, ..., -1],
    numpy.s_[numpy.int64(2)],
    numpy.s_[:100],
    numpy.s_[100:],
    numpy.s_[-100:2, -100:],
    numpy.s_[3:1],
]


@pytest.mark.parametrize("index", SLICES, ids=str)
@pytest.mark.parametrize("name", ["matrix", "wide"])
def test_slices(either, name, index):
    whole = netweight.load_file(either, as_uint=True)[name]
    with netweight.safe_open(either, as_uint=True) as file:
        cut = file.get_slice(name)[index]
    expected = whole[index]
    assert cut.shape == expected.shape and cut.dtype == expected.dtype
    assert (cut == expected).all() and cut.flags.c_contiguous


def test_slices_of_three_dimensions_and_of_none(either):
    with netweight.safe_open(either) as file:
        wide = file.get_slice("wide")
        assert wide[1, 2, 3] == 23 and wide[1, 2, 3].shape == ()
        assert wide[1:3, 0, 1:3].tolist() == [[13, 14], [25, 26]]
        assert file.get_slice("scalar")[()] == 2.5 and file.get_slice("scalar")[...] == 2.5
        assert file.get_slice("empty")[:].shape == (0, 3)
        assert file.get_slice("empty")[0:0, 1].shape == (0,)
        assert file.get_slice("empty")[0:1].shape == file.get_slice("empty")[1:].shape == (0, 3)


BAD_SLICES = [70, -71, numpy.s_[:, 90], numpy.s_[0, 0, 0], numpy.s_[::-1], numpy.s_[::0], True, None, "x", 1.5]
BAD_SLICES += [[1, 2], numpy.array([1, 2]), numpy.s_[1.5:], numpy.s_[..., ...], numpy.s_[:, ::-1]]


@pytest.mark.parametrize("index", BAD_SLICES, ids=str)
def test_slices_that_cannot_be(either, index):
    with netweight.safe_open(either, as_uint=True) as file:
        with pytest.raises(netweight.SliceError, match="'matrix'"):
            file.get_slice("matrix")[index]
        with pytest.raises(IndexError):
            file.get_slice("matrix")[index]


def test_slices_read_only_their_chunks(tmp_path):
    """A damaged chunk does not matter to rows of others."""
    bits = weights((4096, 1024))
    plain = write_safetensors(tmp_path / "plain.safetensors", {"w": ("BF16", [4096, 1024], bits.tobytes())})
    archive = tmp_path / "archive.safetensors"
    netweight.compress(plain, archive)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with netweight.safe_open(archive, as_uint=True) as file:
        rows = file.get_slice("w")
        assert (rows[:512] == bits[:512]).all() and (rows[-512:, 5:9] == bits[-512:, 5:9]).all()
        with pytest.raises(netweight.DamagedError, match="CRC-64") as caught:
            file.get_tensor("w")
        assert caught.value.path == str(archive) and caught.value.offset > 0


def test_folders(tmp_path):
    first = {"a": ("F32", [2], bytes(8)), "b": ("U8", [4], b"abcd")}
    (tmp_path / "model").mkdir()
    write_safetensors(tmp_path / "model" / "model-00001-of-00002.safetensors", first, {"format": "pt"})
    write_safetensors(tmp_path / "model" / "model-00002-of-00002.safetensors", {"c": ("U8", [1], b"x")})
    write_safetensors(tmp_path / "model" / "other.safetensors", {"c": ("U8", [1], b"y")})
    netweight.compress(tmp_path / "model", tmp_path / "archive")
    for path in (tmp_path / "model", tmp_path / "archive"):
        with netweight.safe_open(path) as file:
            assert file.offset_keys() == ["a", "b", "c"] and file.metadata() == {"format": "pt"}
            assert file.get_tensor("c").tobytes() == b"x"
        assert sorted(netweight.load_file(path)) == ["a", "b", "c"]
    assert netweight.load_file(tmp_path / "archive" / "other.safetensors")["c"].tobytes() == b"y"
    assert netweight.is_archive(tmp_path / "archive") and not netweight.is_archive(tmp_path / "model")


ML = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz"}
ML |= {"F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu"}


@pytest.mark.parametrize("dtype", [*netweight._frameworks.Numpy.OWN, *ML])
def test_dtypes(tmp_path, dtype):
    size = netweight._frameworks.Numpy(True).empty("t", dtype, [1], 1).itemsize
    content = bytes(idx % 2 for idx in range(12 * size))
    path = write_safetensors(tmp_path / "plain.safetensors", {"t": (dtype, [3, 4], content)})
    netweight.compress(path, tmp_path / "archive")
    found = netweight.load_file(tmp_path / "archive")["t"]
    assert found.dtype.name == ML.get(dtype, netweight._frameworks.Numpy.OWN.get(dtype)) and found.shape == (3, 4)
    assert found.tobytes() == content
    unsigned = netweight.load_file(tmp_path / "archive", as_uint=True)["t"]
    assert unsigned.tobytes() == content and (unsigned.dtype.kind == "u" or dtype not in ML)


def test_dtypes_that_numpy_has_not(tmp_path, monkeypatch):
    tensors = {"four": ("F4", [3, 4], bytes(6)), "six": ("F6_E2M3", [4], bytes(3)), "new": ("F5_NEW", [9], bytes(5))}
    path = write_safetensors(tmp_path / "plain.safetensors", tensors)
    shapes = {name: tensor.shape for name, tensor in netweight.load_file(path, as_uint=True).items()}
    assert shapes == {"four": (3, 2), "six": (3,), "new": (5,)}
    with netweight.safe_open(path) as file, pytest.raises(netweight.DtypeError, match="F5_NEW.*as_uint"):
        file.get_tensor("new")
    with netweight.safe_open(path, as_uint=True) as file:
        assert file.get_slice("four")[1:3].shape == (2, 2)
        with pytest.raises(netweight.SliceError, match="whole rows"):
            file.get_slice("four")[1:3, :1]
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    bf16 = write_safetensors(tmp_path / "bf16.safetensors", {"t": ("BF16", [2], bytes(4))})
    with pytest.raises(netweight.DtypeError, match="pip install ml_dtypes.*as_uint=True.*uint16"):
        netweight.load_file(bf16)


def test_arguments(plain):
    for options, part in [
        ({"framework": "jax"}, "no framework"),
        ({"device": "cuda"}, "on the CPU"),
        ({"framework": "pt", "as_uint": True}, "for numpy"),
    ]:
        with pytest.raises(netweight.InvalidArgument, match=part):
            netweight.safe_open(plain, **options)


def test_without_frameworks():
    import subprocess
    import sys

    code = "import sys; sys.modules['numpy'] = sys.modules['torch'] = None; import netweight; print(netweight.__version__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == netweight.__version__


def test_after_fork(archive):
    """Threads do not survive a fork; a child that reads must start its own."""
    import os

    expected = netweight.load_file(archive, threads=2, as_uint=True)
    child = os.fork()
    if child == 0:
        found = netweight.load_file(archive, threads=2, as_uint=True)
        os._exit(0 if (found["matrix"] == expected["matrix"]).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_tuned_tensors():
    """Of format 2: what comes out are the values that its indices and steps stand for."""
    golden = BOOKWORM.parents[1] / "tests" / "golden" / "v2" / "grid"
    tuned, expected = (netweight.load_file(golden / name, as_uint=True) for name in ("archive", "original"))
    assert tuned.keys() == expected.keys() and len(tuned) > 1
    assert all((tuned[name] == expected[name]).all() for name in expected)
