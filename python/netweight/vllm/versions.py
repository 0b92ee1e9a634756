"""Where vLLM's versions differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

try:  # 0.20 and later
    from vllm.model_executor.layers.fused_moe import RoutedExperts

    MOE_CLASSES: tuple[Any, ...] = (RoutedExperts,)
except ImportError:
    from vllm.model_executor.layers.fused_moe import FusedMoE

    MOE_CLASSES = (FusedMoE,)

try:
    from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear

    GATE_CLASSES: tuple[Any, ...] = (GateLinear,)
except ImportError:
    GATE_CLASSES = ()

try:
    from vllm.model_executor.model_loader.reload.layerwise import initialize_online_processing
except ImportError:
    initialize_online_processing = None

LAYER_BY_LAYER = initialize_online_processing is not None


@contextmanager
def loaded_late(layer: torch.nn.Module) -> Iterator[None]:
    """Weights that are created inside take no memory until the layer's last one is read; then the layer is packed.

    Without this, in older versions, all weights are there unpacked before the first one is packed.
    """
    if not LAYER_BY_LAYER:
        yield
        return
    with torch.device("meta"):
        yield
    initialize_online_processing(layer)
