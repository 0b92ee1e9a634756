"""Counts what packing saves, and says so once all layers are packed."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.config import VllmConfig
from vllm.logger import init_logger

from netweight import native
from netweight.memory import gib
from netweight.weights import Store

logger = init_logger("vllm.netweight")


@dataclass
class Tally:
    """Of one worker.

    Attributes:
        kv_bytes: what one token takes in the KV cache of this worker; 0 where that is not known.
    """

    kv_bytes: int = 0
    open_layers: int = 0
    packed: int = 0
    unpacked: int = 0
    largest: int = 0

    def expect(self) -> None:
        """One more layer will be packed."""
        self.open_layers += 1

    def done(self, *stores: Store | None) -> None:
        """A layer is packed, or (None) stayed as it was."""
        whole = [(store.packed.numel(), store.n_rows * store.cols * 2) for store in stores if store is not None]
        self.packed += sum(size for size, _ in whole)
        self.unpacked += sum(size for _, size in whole)
        self.largest = max(self.largest, sum(size for _, size in whole))
        self.open_layers -= 1
        if self.open_layers == 0 and self.packed:
            logger.info("%s", self)
            if native.FUSED:
                logger.warning(
                    "netweight: NETWEIGHT_FUSED=1: linear layers decode inside the multiplication; tokens and logprobs "
                    "are no longer those of the uncompressed model to the bit"
                )

    def __str__(self) -> str:
        saved = self.unpacked - self.packed
        text = (
            f"netweight: weights {gib(self.packed)} packed instead of {gib(self.unpacked)}, "
            f"scratch at most {gib(self.largest)} while a layer computes"
        )
        if self.kv_bytes:
            text += f"; room for {max(saved - self.largest, 0) // self.kv_bytes:,} more tokens in the KV cache"
        return text


def kv_bytes_per_token(config: VllmConfig) -> int:
    """Bytes of keys and values of a token on one worker, where all layers have full attention in bf16; else a bound."""
    model, parallel = config.model_config, config.parallel_config
    heads = model.get_num_kv_heads(parallel) * model.get_head_size()
    return 2 * 2 * heads * model.get_num_layers(parallel)
