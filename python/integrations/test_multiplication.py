"""Linear layers over packed weights: torch's own bits by default, and the fused kernel's promises where it is asked for."""

import os

import pytest
import torch
import torch.nn.functional as F

from netweight import native
from netweight.weights import PackedWeight, release_scratch

COLS = 96


def weights(rows: int, seed: int = 3) -> torch.Tensor:
    return (torch.randn(rows, COLS, generator=torch.Generator().manual_seed(seed)) * 0.02).bfloat16()


def activations(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, COLS, generator=torch.Generator().manual_seed(5)).bfloat16()


def packed(plain: torch.Tensor) -> PackedWeight:
    weight = PackedWeight.pack(plain)
    assert weight is not None
    return weight


INPUTS = {
    "one token": activations(1, 1),
    "tokens": activations(2, 7),
    "the last token of a prompt": activations(1, 128)[:, -1:],
    "the last tokens of two": activations(2, 9)[:, -1:],
    "not contiguous": activations(4, 6).transpose(0, 1),
    "a vector": activations(),
    "no tokens": activations(0, 3),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_the_bits_of_a_parameter(name: str, inference: bool, bias: bool) -> None:
    """A frozen packed weight is multiplied as an ordinary model's parameter is: torch has several ways."""
    plain, x = torch.nn.Parameter(weights(2000)), INPUTS[name]
    added = torch.nn.Parameter(weights(2000)[:, 0].clone()) if bias else None
    weight = torch.nn.Parameter(packed(plain.detach()), requires_grad=False)
    with torch.inference_mode() if inference else torch.no_grad():
        assert torch.equal(F.linear(x, weight, added), F.linear(x, plain, added))


def test_scratch_made_in_inference_is_used_outside() -> None:
    release_scratch()
    plain, x = weights(48), activations(3)
    weight = torch.nn.Parameter(packed(plain), requires_grad=False)
    with torch.inference_mode():
        F.linear(x, weight)
    with torch.no_grad():
        assert torch.equal(F.linear(x, weight), F.linear(x, plain))
    y = F.linear(x, weight)
    assert not y.requires_grad
    assert torch.equal(y, F.linear(x, plain))


def test_compiled(llama: tuple[str, str]) -> None:
    """As one graph. (Inductor makes of it code of its own, which rounds less often and multiplies in its own ways.)"""
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[1, 5, 9, 2, 7]])
    logits = []
    for path in llama:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        with torch.no_grad():
            logits.append(torch.compile(model, fullgraph=True, backend="aot_eager")(ids, use_cache=False).logits)
    assert any(isinstance(p, PackedWeight) for p in model.parameters())
    assert torch.equal(*logits)


def test_compiled_by_inductor() -> None:
    plain, x = weights(64), activations(3)
    weight = torch.nn.Parameter(packed(plain), requires_grad=False)
    with torch.no_grad():
        compiled = torch.compile(lambda x, w: F.silu(F.linear(x, w)), fullgraph=True)(x, weight)
        assert torch.allclose(compiled, F.silu(F.linear(x, plain)), rtol=2**-6, atol=1e-3)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FUSED", True)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [16, 40, 250])
def test_fused(rows: int, bias: bool) -> None:
    plain = weights(rows)
    weight, added = packed(plain), weights(rows)[:, 0].clone() if bias else None
    x = activations(300)  # More than are multiplied at once.
    calls: list[int] = []
    original = native._netweight.linear_at
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(native._netweight, "linear_at", lambda *args: (calls.append(1), original(*args))[1])
        y = F.linear(x, weight, added)
        assert calls, "the fused kernel was not called"
        alone = torch.cat([F.linear(token, weight, added) for token in x.split(1)])
    exact = F.linear(x.double(), plain.double(), None if added is None else added.double())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, alone), "the sums depend on how many tokens there are"
    assert torch.allclose(y.double(), exact, rtol=2**-7, atol=1e-4)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("name", INPUTS)
def test_fused_shapes(name: str) -> None:
    plain, x = weights(64), INPUTS[name]
    with torch.no_grad():
        y = F.linear(x, packed(plain))
        assert y.shape == F.linear(x, plain).shape
        assert torch.allclose(y, F.linear(x, plain), rtol=2**-6, atol=1e-3)


def test_fused_refuses_what_is_damaged() -> None:
    weight, x = packed(weights(64)), activations(2)
    out = torch.empty(2, 64)
    place = (weight.packed_bytes.data_ptr(), weight.packed_bytes.numel())
    at = (x.data_ptr(), 2)
    weight.packed_bytes[0] ^= 1
    with pytest.raises(Exception, match="not a packed matrix"):
        native._netweight.linear_at(place, at, out.data_ptr())
    weight.packed_bytes[0] ^= 1
    shifted = torch.empty(place[1] + 64, dtype=torch.uint8)
    shifted[8 : 8 + place[1]] = weight.packed_bytes
    with pytest.raises(Exception, match="multiple of 64"):
        native._netweight.linear_at((shifted[8:].data_ptr(), place[1]), at, out.data_ptr())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_unpacks() -> None:
    """torch's threads do not exist in a fork; whoever decodes there must not wait for them."""
    plain = weights(4000)
    weight = packed(plain)
    assert torch.equal(weight.unpack(), plain)  # Threads are there now.
    child = os.fork()
    if child == 0:
        is_right = False
        try:
            out = torch.empty_like(plain)
            native.unpack_matrix(weight.packed_bytes, (4000, COLS), out)
            is_right = out.view(torch.int16).numpy().tobytes() == plain.view(torch.int16).numpy().tobytes()
        finally:
            os._exit(0 if is_right else 1)
    assert os.waitpid(child, 0)[1] == 0
