"""The `quantization_config` of an archive, as vLLM reads it, and which layers are packed."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from netweight.format import METHOD, check_format
from netweight.vllm.embedding import PackedEmbeddingMethod
from netweight.vllm.linear import PackedLinearMethod
from netweight.vllm.tally import Tally, kv_bytes_per_token
from netweight.vllm.versions import GATE_CLASSES, MOE_CLASSES

READS_WITH_SAFETENSORS = ("auto", "hf", "safetensors", "dummy")


class NetweightVllmConfig(QuantizationConfig):
    """Keeps linear layers, embeddings, the head and experts packed.

    Raises:
        ValueError: the archive is newer than this version, or vLLM is to read it in a way that knows no archives.
    """

    def __init__(self, format: int) -> None:
        super().__init__()
        self.format = check_format(format)
        self.tally: Tally | None = None

    @classmethod
    def get_name(cls) -> str:
        return METHOD

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 80  # bf16

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NetweightVllmConfig:
        return cls(config.get("format", 0))

    def get_quant_method(self, layer: Any, prefix: str) -> QuantizeMethodBase | None:
        if isinstance(layer, GATE_CLASSES):
            return UnquantizedLinearMethod()  # Small, and vLLM has kernels of its own for them.
        if isinstance(layer, LinearBase):
            return PackedLinearMethod(self.expect_layer())
        if isinstance(layer, VocabParallelEmbedding):
            return PackedEmbeddingMethod(self.expect_layer())
        if isinstance(layer, MOE_CLASSES):
            from netweight.vllm.moe import PackedMoEMethod

            return PackedMoEMethod(layer.moe_config, self.expect_layer())
        return None

    def expect_layer(self) -> Tally:
        """This worker's tally, in which one more layer is expected."""
        if self.tally is None:
            check_load_format()
            self.tally = Tally(kv_bytes_per_token(get_current_vllm_config()))
        self.tally.expect()
        return self.tally


def check_load_format() -> None:
    """Refuses loaders that read files without safetensors.

    Raises:
        ValueError: says which to use.
    """
    load_format = get_current_vllm_config().load_config.load_format
    name = getattr(load_format, "value", load_format)
    if name not in READS_WITH_SAFETENSORS:
        raise ValueError(
            f"--load-format {name} cannot read a netweight archive: leave it out, or restore the archive first "
            "with `netweight restore`"
        )
