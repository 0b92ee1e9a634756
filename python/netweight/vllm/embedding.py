"""Embeddings and heads whose weight stays packed."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from netweight.vllm.linear import apply_packed
from netweight.vllm.ops import OPS
from netweight.vllm.packing import pack_parameter, packed_once
from netweight.vllm.tally import Tally
from netweight.vllm.versions import LAYER_BY_LAYER, loaded_late


class PackedEmbeddingMethod(QuantizeMethodBase):
    """For `VocabParallelEmbedding` and `ParallelLMHead`."""

    uses_meta_device = LAYER_BY_LAYER

    def __init__(self, tally: Tally) -> None:
        self.plain = UnquantizedEmbeddingMethod()
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

    def embedding(self, layer: torch.nn.Module, input_: torch.Tensor) -> torch.Tensor:
        if layer.packed_shape is None:
            return self.plain.embedding(layer, input_)
        return OPS.embedding(input_, layer.weight_packed, *layer.packed_shape)

    def tie_weights(self, layer: torch.nn.Module, embed_tokens: torch.nn.Module) -> torch.nn.Module:
        """The embedding is the head, too: one packed matrix."""
        self.tally.done(None)
        return embed_tokens
