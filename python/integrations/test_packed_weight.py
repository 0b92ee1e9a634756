"""A packed weight against an ordinary tensor with the same bits, in whatever models do to weights."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import netweight
from netweight.weights import PackedWeight


@pytest.fixture
def plain() -> torch.Tensor:
    return (torch.randn(96, 64, generator=torch.Generator().manual_seed(7)) * 0.02).bfloat16()


@pytest.fixture
def packed(plain: torch.Tensor) -> PackedWeight:
    weight = PackedWeight.pack(plain)
    assert weight is not None
    return weight


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = (t.unpack() if isinstance(t, PackedWeight) else t for t in (a, b))
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


OPERATIONS = {
    "linear": lambda w: F.linear(torch.ones(3, 5, 64).bfloat16(), w),
    "linear_bias": lambda w: F.linear(torch.ones(3, 64).bfloat16(), w, torch.ones(96).bfloat16()),
    "mm": lambda w: torch.ones(3, 96).bfloat16() @ w,
    "t": lambda w: w.t(),
    "cat": lambda w: torch.cat([w, w, w.t().reshape(96, 64)]),
    "stack": lambda w: torch.stack([w, w]),
    "slice": lambda w: w[17:40, 3:],
    "row": lambda w: w[5],
    "tensor index": lambda w: w[torch.tensor(5)],
    "rows": lambda w: w[torch.tensor([5, 2, 5])],
    "reshape": lambda w: w.reshape(2, -1),
    "chunk": lambda w: w.chunk(2)[1] + 1,
    "float": lambda w: w.float(),
    "add": lambda w: w + w,
    "embedding": lambda w: F.embedding(torch.tensor([[1, 95, 1], [0, 2, 3]]), w),
    "empty embedding": lambda w: F.embedding(torch.zeros(0, dtype=torch.long), w),
    "no rows": lambda w: w[96:],
    "contiguous": lambda w: w.t().contiguous(),
    "norm": lambda w: w.norm(),
    "bits": lambda w: w.view(torch.uint8),
    "bits of one size": lambda w: w.view(torch.int16),
    "unsafe view": lambda w: torch.ops.aten._unsafe_view(w, [64, 96]),
    "copy into": lambda w: torch.zeros(96, 64).bfloat16().copy_(w),
    "out": lambda w: torch.mm(torch.ones(3, 96).bfloat16(), w, out=torch.empty(3, 64).bfloat16()),
    "unbind": lambda w: w.unbind(0)[7],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str, plain: torch.Tensor, packed: PackedWeight) -> None:
    assert same(OPERATIONS[name](packed), OPERATIONS[name](plain))


def test_experts() -> None:
    plain = (torch.randn(4, 32, 64) * 0.02).bfloat16()
    packed = PackedWeight.pack(plain)
    assert packed is not None and packed.shape == plain.shape
    x = torch.ones(6, 64).bfloat16()
    assert same(F.linear(x, packed[torch.tensor(2)]), F.linear(x, plain[2]))
    offsets = torch.tensor([1, 1, 4, 6], dtype=torch.int32)
    grouped = F.grouped_mm(x, packed.transpose(-2, -1), offs=offsets)
    assert same(grouped, F.grouped_mm(x, plain.transpose(-2, -1), offs=offsets))


@pytest.mark.parametrize("shape", [(4, 64), (2, 3, 64)])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients(shape: tuple[int, ...], bias: bool, plain: torch.Tensor, packed: PackedWeight) -> None:
    grads = []
    for weight in (plain, packed):
        x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).bfloat16().requires_grad_()
        b = torch.ones(96).bfloat16().requires_grad_() if bias else None
        F.linear(x, weight, b).pow(2).sum().backward()
        grads.append(x.grad)
    assert same(grads[0], grads[1])


def test_copies(packed: PackedWeight, plain: torch.Tensor) -> None:
    layer = torch.nn.Linear(64, 96, bias=False)
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)["weight"]
    for other in (
        copy.deepcopy(layer).weight,
        pickle.loads(pickle.dumps(layer)).weight,
        saved,
        packed.to("cpu", copy=True),
    ):
        assert isinstance(other, PackedWeight) and same(other, plain)
        assert other.store is not packed.store
    assert isinstance(copy.deepcopy(layer).weight, torch.nn.Parameter)
    with pytest.raises(TypeError, match="dequantize"):
        layer.float()
    assert isinstance(layer.to("cpu", torch.bfloat16).weight, PackedWeight)


def test_state_dict_goes_into_a_packed_layer(packed: PackedWeight, plain: torch.Tensor) -> None:
    layer = torch.nn.Linear(64, 96, bias=False)
    layer.weight = torch.nn.Parameter(copy.deepcopy(packed), requires_grad=False)
    layer.load_state_dict({"weight": plain * 2})
    assert isinstance(layer.weight, PackedWeight) and same(layer.weight, plain * 2)
    layer.load_state_dict({"weight": packed})
    assert same(layer.weight, plain)


def test_writing_packs_anew(packed: PackedWeight, plain: torch.Tensor) -> None:
    alias = packed.data
    alias += 1
    assert same(packed, plain + 1) and isinstance(alias, PackedWeight)
    packed[3:5].zero_()
    assert packed.unpack()[3:5].abs().sum() == 0


def test_threads(packed: PackedWeight, plain: torch.Tensor) -> None:
    from concurrent.futures import ThreadPoolExecutor

    x = torch.ones(4, 64).bfloat16()
    wanted = F.linear(x, plain)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: same(F.linear(x, packed), wanted), range(200)))


def test_for_other_libraries(packed: PackedWeight, plain: torch.Tensor, tmp_path: Path) -> None:
    assert same(torch.from_dlpack(packed), plain)
    netweight.torch.save_file({"w": packed, "t": packed.t()}, tmp_path / "nw")
    found = netweight.torch.load_file(tmp_path / "nw")
    assert same(found["w"], plain) and same(found["t"], plain.t())
    assert torch.equal(netweight.torch.pack_matrix(packed), netweight.torch.pack_matrix(plain))


def test_another_shape(packed: PackedWeight, plain: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="dequantize"):
        packed.data = torch.zeros(100, 64).bfloat16()
    assert same(packed, plain)


def test_shared_memory(plain: torch.Tensor) -> None:
    layer = torch.nn.Linear(64, 96, bias=False)
    layer.weight = torch.nn.Parameter(PackedWeight.pack(plain), requires_grad=False)
    layer.share_memory()
    assert layer.weight.packed_bytes.is_shared() and same(layer.weight, plain)


def test_not_packed() -> None:
    assert PackedWeight.pack(torch.zeros(4, 4)) is None
    assert PackedWeight.pack(torch.randint(0, 256, (64, 64), dtype=torch.uint8).view(torch.bfloat16)) is None
    assert PackedWeight.pack(torch.zeros(64).bfloat16()) is None


@pytest.mark.parametrize("geometry", [((96, 65), (65, 1), 0), ((96, 64), (64, 1), 1), ((2, 64), (-64, 1), 64)])
def test_a_damaged_pickle(geometry: tuple[object, ...], packed: PackedWeight) -> None:
    rebuild, (plain, here, _, *rest) = packed.__reduce_ex__(2)
    with pytest.raises(ValueError, match="damaged"):
        rebuild(plain, here, geometry, *rest)
