"""A layer's weight, packed and unpacked."""

from __future__ import annotations

from typing import Any

import torch

from netweight.weights import Store


def pack_parameter(layer: torch.nn.Module, name: str) -> Store | None:
    """Replaces a bf16 parameter by an empty one, and keeps its packed bytes beside it as `<name>_packed`.

    None, and nothing is changed, where packing saves nothing.
    """
    weight = getattr(layer, name)
    store = Store.pack(weight.data)
    if store is None:
        return None
    layer.register_parameter(f"{name}_packed", torch.nn.Parameter(store.packed, requires_grad=False))
    empty = torch.nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False)
    layer.register_parameter(name, empty)
    return store


def packed_once(layer: torch.nn.Module) -> bool:
    """Whether the layer was packed before; vLLM processes a layer when it is read, and once more at the end."""
    done = getattr(layer, "_already_called_process_weights_after_loading", False)
    layer._already_called_process_weights_after_loading = True
    return bool(done)


class Unpacked:
    """What a method for unquantized layers sees of a packed one: other weights, and else the layer."""

    def __init__(self, layer: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
        self._layer = layer
        for name, weight in weights.items():
            setattr(self, name, weight)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)
