"""Experts whose weights stay packed."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from netweight.weights.ops import OPS
from netweight.vllm.packing import Unpacked, pack_parameter, packed_once
from netweight.vllm.tally import Tally
from netweight.vllm.versions import LAYER_BY_LAYER, loaded_late

NAMES = ("w13_weight", "w2_weight")


class PackedMoEMethod(UnquantizedFusedMoEMethod):
    """vLLM's method for unquantized experts, of which the weights are unpacked for each call.

    What is packed are the weights in the order that vLLM's kernel wants, so that any of its kernels can be used.
    """

    uses_meta_device = LAYER_BY_LAYER

    def __init__(self, moe: Any, tally: Tally) -> None:
        super().__init__(moe)
        self.tally = tally

    def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        with loaded_late(layer):
            super().create_weights(layer, *args, **kwargs)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        if packed_once(layer):
            return
        super().process_weights_after_loading(layer)
        layer.packed_experts = {}
        stores = []
        for name in NAMES:
            shape = tuple(getattr(layer, name).shape)
            store = pack_parameter(layer, name)
            if store is not None:
                layer.packed_experts[name] = (list(store.starts), store.rows, store.cols, shape)
                stores.append(store)
        self.tally.done(*stores)

    def apply(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return super().apply(unpacked(layer), *args, **kwargs)

    def apply_monolithic(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return super().apply_monolithic(unpacked(layer), *args, **kwargs)


def unpacked(layer: torch.nn.Module) -> Unpacked:
    """The layer with ordinary weights, for one call."""
    weights = {}
    for name, (starts, rows, cols, shape) in layer.packed_experts.items():
        dense = OPS.unpack_all(getattr(layer, f"{name}_packed"), starts, rows, cols)
        weights[name] = dense.view(shape)
    return Unpacked(layer, weights)
