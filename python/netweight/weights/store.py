"""Equal-sized bf16 matrices, packed, in one buffer."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch

from netweight import native


class Store:
    """`n` matrices of `rows` x `cols` bf16 weights, packed one by one: a linear layer has one, experts one each.

    Attributes:
        packed: u8, (bytes,): the packed matrices, back to back, on the device where they are decoded.
        starts: where each begins in `packed`, and where the last ends; n + 1 numbers.
        rows, cols: the shape of each matrix.
    """

    def __init__(self, packed: torch.Tensor, starts: tuple[int, ...], rows: int, cols: int) -> None:
        self.packed = packed
        self.starts = starts
        self.rows = rows
        self.cols = cols

    @staticmethod
    def pack(weights: torch.Tensor) -> Store | None:
        """Packs `weights`, bf16 (rows, cols) or (n, rows, cols); the store is on the same device.

        None where that would save nothing: another dtype or number of dimensions, or weights without regularity.
        """
        if weights.dtype != torch.bfloat16 or weights.dim() not in (2, 3) or weights.numel() == 0:
            return None
        *_, rows, cols = weights.shape
        parts = []
        for matrix in weights.detach().reshape(-1, rows, cols):
            part = native.pack_matrix(matrix)
            if part is None:
                return None
            parts.append(part)
        starts = tuple(accumulate((part.numel() for part in parts), initial=0))
        return Store(torch.cat(parts), starts, rows, cols)

    @property
    def n_rows(self) -> int:
        """Rows of all matrices together."""
        return (len(self.starts) - 1) * self.rows

    def unpack(self, first: int, last: int, out: torch.Tensor) -> None:
        """Decodes the rows [first, last), counted through all matrices, to `out`, bf16 (last - first, cols)."""
        for idx, (start, end) in enumerate(pairwise(self.starts)):
            begins = idx * self.rows
            low, high = max(first, begins), min(last, begins + self.rows)
            if low < high:
                part = out[low - first : high - first]
                shape = (self.rows, self.cols)
                native.unpack_matrix(self.packed[start:end], shape, part, (low - begins, high - begins))

    def unpacked(self) -> torch.Tensor:
        """All matrices, bf16 (n, rows, cols)."""
        rows = torch.empty(self.n_rows, self.cols, dtype=torch.bfloat16, device=self.packed.device)
        self.unpack(0, self.n_rows, rows)
        return rows.view(-1, self.rows, self.cols)

    def to(self, device: torch.device) -> Store | None:
        """The same on another device; a copy, even where it is there already.

        Another kind of device has another layout: packed anew. None where that would save nothing.
        """
        if device.type == self.packed.device.type:
            return Store(self.packed.to(device, copy=True), self.starts, self.rows, self.cols)
        return Store.pack(self.unpacked().to(device))
