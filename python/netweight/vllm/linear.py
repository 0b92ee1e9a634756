"""Linear layers whose weight stays packed."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.linear import LinearMethodBase, UnquantizedLinearMethod
from vllm.platforms import current_platform

from netweight import native
from netweight.weights.ops import OPS
from netweight.vllm.packing import Unpacked, pack_parameter, packed_once
from netweight.vllm.tally import Tally
from netweight.vllm.versions import LAYER_BY_LAYER, loaded_late


class PackedMatrixMethod:
    """What linear layers, embeddings and heads have in common: `weight`, one matrix.

    Loads and shards as vLLM does an unquantized layer, through its method for those, then packs this rank's part.
    """

    uses_meta_device = LAYER_BY_LAYER
    plain_class: type

    def __init__(self, tally: Tally) -> None:
        self.plain = self.plain_class()
        self.tally = tally

    def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        with loaded_late(layer):
            self.plain.create_weights(layer, *args, **kwargs)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        if packed_once(layer):
            return
        layer.packed_shape = tuple(layer.weight.shape)
        store = pack_parameter(layer, "weight")
        self.tally.done(store)
        if store is None:
            layer.packed_shape = None
            self.plain.process_weights_after_loading(layer)

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return apply_packed(self.plain, layer, x, bias)


class PackedLinearMethod(PackedMatrixMethod, LinearMethodBase):
    """For linear layers."""

    plain_class = UnquantizedLinearMethod


def apply_packed(plain: Any, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x` (..., in) times the layer's weight, through vLLM's method for unquantized layers `plain`: (..., out)."""
    if layer.packed_shape is None:
        return plain.apply(layer, x, bias)
    rows, cols = layer.packed_shape
    if current_platform.is_cpu():
        return OPS.cpu_linear(x, layer.weight_packed, rows, cols, bias)
    if native.FUSED:
        return OPS.fused_linear(x, layer.weight_packed, rows, cols, bias)
    weight = OPS.unpack(layer.weight_packed, rows, cols)
    return plain.apply(Unpacked(layer, {"weight": weight}), x, bias)
