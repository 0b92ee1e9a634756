"""Packed matrices: a bf16 weight matrix in some 11.2 or 12 bits a weight, as one string of bytes that stays in memory
and is decoded on the way to a multiplication.

A packed matrix is self-describing (layout, shape, groups of rows) and can be kept in a 1-D uint8 tensor. Bytes of any
kind may be passed for one: what is no packed matrix raises ``DamagedError``. Functions that end in ``_at`` take
addresses, as of ``tensor.data_ptr()``: the caller sees to it that the memory is there, of that length, contiguous, and
that nobody else writes to it until the call returns. All of them leave the GIL and work on ``threads`` threads (0: as
many as there are cores), which are started once and sleep between calls. After ``os.fork`` they start anew.
"""

from __future__ import annotations

import os

from ._netweight import (
    AlignedBuffer,
    Reader,
    pack_matrix,
    pack_matrix_at,
    packed_info,
    packed_info_at,
    unpack_matrix,
    unpack_matrix_at,
)

__all__ = [
    "AlignedBuffer",
    "pack_matrix",
    "pack_matrix_at",
    "packed_info",
    "packed_info_at",
    "read_packed",
    "unpack_matrix",
    "unpack_matrix_at",
]


def read_packed(
    filename: str | os.PathLike[str],
    name: str,
    *,
    layout: str | None = None,
    rows: tuple[int, int] | None = None,
    cols: tuple[int, int] | None = None,
    threads: int = 0,
) -> AlignedBuffer | None:
    """Reads a bf16 matrix of an archive, or of safetensors files, packed. ``None`` where packing makes it no smaller.

    Where the archive is ``resident`` and stores the tensor in that layout, its groups are read as they are; otherwise
    some rows at a time are decoded and packed, so that the whole matrix is never in memory unpacked. ``layout`` is
    ``"exact11"`` or ``"exact12"``; ``None`` takes the one that it is stored in, or ``"exact11"``. ``rows`` and ``cols``
    are ``(start, stop)``: a part of the matrix, for tensor parallelism.

    Raises ``UnknownTensorError``; ``InvalidArgument`` where the tensor is no bf16 matrix or has no such rows or
    columns; ``DamagedError``. ``safe_open(...).read_packed`` does the same with a file that is open already.
    """
    return Reader(filename).read_packed(name, layout, rows, cols, threads)
