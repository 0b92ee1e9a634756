"""Archives in vLLM: an out-of-tree plugin, which vLLM finds through the entry point `vllm.general_plugins`.

Weights stay packed on the device. Before each use they are decoded, and vLLM's own kernels compute with them: tokens
and logprobs are those of the uncompressed model, bit for bit.
"""

from __future__ import annotations


def register() -> None:
    """Makes vLLM know the method "netweight" and read archives. vLLM calls it in every process."""
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.model_loader import weight_utils

    from netweight.format import METHOD
    from netweight.reading import read_archives_in
    from netweight.vllm.config import NetweightVllmConfig

    register_quantization_config(METHOD)(NetweightVllmConfig)
    read_archives_in(weight_utils)
