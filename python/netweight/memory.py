"""What a model with packed weights takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from netweight.weights import PackedWeight, scratch_bytes


@dataclass(frozen=True)
class MemoryReport:
    """Bytes; tensors that several layers share count once.

    Attributes:
        packed: of packed weights, as they are.
        unpacked: of the same weights, if they were not packed.
        other: of all other parameters and buffers.
        scratch: that weights are decoded into, of all threads.
    """

    packed: int
    unpacked: int
    other: int
    scratch: int

    @property
    def saved(self) -> int:
        """What packing leaves for a longer context, or more of them."""
        return self.unpacked - self.packed - self.scratch

    def __str__(self) -> str:
        return (
            f"weights {gib(self.packed)} packed instead of {gib(self.unpacked)}, "
            f"{gib(self.other)} more that is not packed; scratch {gib(self.scratch)}; saved {gib(self.saved)}"
        )


def gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if abs(n_bytes) >= 2**30 else f"{n_bytes / 2**20:.2f} MiB"


def memory_report(model: torch.nn.Module) -> MemoryReport:
    """Of a model on any devices. The scratch is counted as it is: run the model once before."""
    packed: dict[int, tuple[int, int]] = {}
    other: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if isinstance(tensor, PackedWeight):
            store = tensor.store
            packed[id(store)] = (store.packed.numel(), store.n_rows * store.cols * 2)
        else:
            other[id(tensor)] = tensor.numel() * tensor.element_size()
    sizes = list(packed.values())
    return MemoryReport(
        packed=sum(size for size, _ in sizes),
        unpacked=sum(size for _, size in sizes),
        other=sum(other.values()),
        scratch=scratch_bytes(),
    )
