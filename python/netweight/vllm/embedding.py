"""Embeddings and heads whose weight stays packed."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from netweight.vllm.linear import PackedMatrixMethod
from netweight.weights.ops import OPS


class PackedEmbeddingMethod(PackedMatrixMethod, QuantizeMethodBase):
    """For `VocabParallelEmbedding` and `ParallelLMHead`."""

    plain_class = UnquantizedEmbeddingMethod

    def embedding(self, layer: torch.nn.Module, input_: torch.Tensor) -> torch.Tensor:
        if layer.packed_shape is None:
            return self.plain.embedding(layer, input_)
        return OPS.embedding(input_, layer.weight_packed, *layer.packed_shape)

    def tie_weights(self, layer: torch.nn.Module, embed_tokens: torch.nn.Module) -> torch.nn.Module:
        """The embedding is the head, too: one packed matrix."""
        self.tally.done(None)
        return embed_tokens
