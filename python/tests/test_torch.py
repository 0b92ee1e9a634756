"""The torch side: the same bytes, as tensors."""

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from conftest import BOOKWORM  # noqa: E402

import netweight  # noqa: E402


def test_as_safetensors_loads_it(bookworm_archive):
    found = netweight.torch.load_file(bookworm_archive)
    expected = {}
    for shard in BOOKWORM.glob("*.safetensors"):
        expected |= safetensors.torch.load_file(shard)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    same = netweight.load_file(bookworm_archive, framework="pt", device=torch.device("cpu"))
    assert torch.equal(same["model.norm.weight"], found["model.norm.weight"])
    name = max(expected, key=lambda name: expected[name].numel())
    with netweight.safe_open(bookworm_archive, framework="pt") as file:
        cut = file.get_slice(name)[3:20:2, 5:-1]
        assert cut.is_contiguous() and torch.equal(cut, expected[name][3:20:2, 5:-1])
        assert torch.equal(file.get_tensor(name), expected[name])


def test_save_file(tmp_path):
    matrix = torch.randn(64, 256, dtype=torch.bfloat16)
    tensors = {
        "w": matrix,
        "half": torch.randn(10, 10).half(),
        "eight": torch.randn(32, 32).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.0),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "long": torch.arange(10),
    }
    netweight.torch.save_file(tensors, tmp_path / "nw", {"format": "pt"})
    safetensors.torch.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    netweight.restore(tmp_path / "nw", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "theirs").read_bytes()
    found = netweight.torch.load_file(tmp_path / "nw")
    assert all(torch.equal(found[name].view(torch.uint8) if tensors[name].dim() else found[name],
                           tensors[name].view(torch.uint8) if tensors[name].dim() else tensors[name])
               for name in tensors)
    shared = {"a": matrix, "b": matrix, "t": matrix.T}
    report = netweight.torch.save_file(shared, tmp_path / "shared")
    assert report.n_tied == 1
    found = netweight.torch.load_file(tmp_path / "shared")
    assert torch.equal(found["a"], matrix) and torch.equal(found["b"], matrix) and torch.equal(found["t"], matrix.T)
    assert found["a"].data_ptr() != found["b"].data_ptr()


def test_what_cannot_be_saved(tmp_path):
    for tensor, error in [
        (torch.ones(2, dtype=torch.complex128), netweight.DtypeError),
        (torch.ones(2, 2).to_sparse(), netweight.DtypeError),
        (torch.ones(2, device="meta"), netweight.InvalidArgument),
        ([1.0], netweight.InvalidArgument),
    ]:
        with pytest.raises(error, match="'w'"):
            netweight.torch.save_file({"w": tensor}, tmp_path / "nw")


def test_packed(bookworm_archive):
    matrix = torch.randn(100, 300, dtype=torch.bfloat16)
    packed = netweight.torch.pack_matrix(matrix, "exact12", threads=2)
    assert netweight.torch.packed_info(packed) == ("exact12", 100, 300)
    out = torch.empty_like(matrix)
    assert netweight.torch.unpack_matrix(packed, out) is out and torch.equal(out, matrix)
    assert torch.equal(netweight.torch.unpack_matrix(packed.clone(), out[:7], (5, 12)), matrix[5:12])
    with netweight.safe_open(bookworm_archive, framework="pt") as file:
        name = next(name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2)
        whole = file.get_tensor(name)
    packed = netweight.torch.read_packed(bookworm_archive, name)
    assert torch.equal(netweight.torch.unpack_matrix(packed, torch.empty_like(whole)), whole)
    for call in [
        lambda: netweight.torch.pack_matrix(matrix.float()),
        lambda: netweight.torch.pack_matrix(matrix[0]),
        lambda: netweight.torch.unpack_matrix(packed.view(torch.int8), whole),
        lambda: netweight.torch.unpack_matrix(packed, whole.float()),
        lambda: netweight.torch.unpack_matrix(packed, whole.half()),
        lambda: netweight.torch.unpack_matrix(packed, whole.T),
    ]:
        with pytest.raises(netweight.InvalidArgument):
            call()
