"""The operations that nearly all of a model's weights meet, without the way through the dispatcher, and smaller."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from netweight import native
from netweight.weights.ops import OPS
from netweight.weights.packed_weight import SHORTCUTS, PackedWeight

MOST_ROWS = 4096  # On a CPU: beyond that many tokens, unpacking all of the embedding takes hardly longer.


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """`F.linear` for inference; autograd has to see the packed weight, and so takes the ordinary way."""
    if not isinstance(weight, PackedWeight) or not weight.is_whole or weight.is_traced or isinstance(x, PackedWeight):
        return NotImplemented
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return NotImplemented
    if native.FUSED and len(weight.store.starts) == 2 and x.dtype == weight.dtype and x.device == weight.device:
        return native.fused_linear(x, weight.store.packed, (weight.shape[0], weight.shape[1]), bias)
    with torch.no_grad():
        # Some shapes torch multiplies in another way if the weight might be trained, as an ordinary model's might be.
        return F.linear(x, weight.unpack(slot=0).detach().requires_grad_(), bias)


def embedding(
    ids: torch.Tensor,
    weight: torch.Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """`F.embedding` that unpacks the rows of the tokens that occur."""
    if not isinstance(weight, PackedWeight) or not weight.is_whole or max_norm is not None or weight.requires_grad:
        return NotImplemented
    if len(weight.store.starts) != 2 or (weight.device.type == "cpu" and ids.numel() > MOST_ROWS):
        return NotImplemented
    n_rows, cols = weight.shape
    if weight.is_traced:
        return OPS.embedding(ids, weight.store.packed, n_rows, cols)
    return native.embed(weight.store.packed, (n_rows, cols), ids.reshape(-1)).view(*ids.shape, cols)


def set_data(weight: torch.Tensor, data: torch.Tensor) -> Any:
    """`weight.data = data`, as in `module.float()` and in adapters that merge: packs what it is given."""
    if not isinstance(weight, PackedWeight):
        return NotImplemented
    if data.dtype != weight.dtype:
        raise TypeError(
            f"packed weights are {weight.dtype}, not {data.dtype}: "
            "call model.dequantize() before you change the model's number format"
        )
    if data.shape != weight.shape:
        raise RuntimeError(
            f"a packed weight of shape {tuple(weight.shape)} cannot become one of {tuple(data.shape)}: "
            "call model.dequantize() before you change the sizes of layers or the vocabulary"
        )
    weight.copy_(data)


def share_memory(weight: torch.Tensor) -> Any:
    """`module.share_memory()`: the packed bytes are what other processes see."""
    if not isinstance(weight, PackedWeight):
        return NotImplemented
    weight.store.packed.share_memory_()
    return weight


def dlpack(weight: torch.Tensor, **options: Any) -> Any:
    """For other libraries, which read memory: of a copy that is not packed."""
    return weight.unpack().__dlpack__(**options) if isinstance(weight, PackedWeight) else NotImplemented


def enter() -> None:
    """Makes packed weights use them."""
    SHORTCUTS[F.linear] = linear
    SHORTCUTS[F.embedding] = embedding
    SHORTCUTS[torch.Tensor.data.__set__] = set_data  # type: ignore[attr-defined]
    SHORTCUTS[torch.Tensor.share_memory_] = share_memory
    SHORTCUTS[torch.Tensor.__dlpack__] = dlpack
