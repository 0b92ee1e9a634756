"""torch tensors in and out of archives, in the manner of ``safetensors.torch``."""

from __future__ import annotations

import os
from typing import Any

import torch

from . import _matrix, _netweight, _tensors
from ._errors import DtypeError, InvalidArgument
from ._frameworks import Torch
from ._verbs import Report, save_tensors

BF16_BITS = (torch.bfloat16, torch.int16, torch.uint16)  # In an f16 tensor they would be other numbers.


def load_file(
    filename: str | os.PathLike[str], device: str | int | torch.device = "cpu", *, threads: int = 0
) -> dict[str, torch.Tensor]:
    """Loads all tensors of an archive, or of safetensors files, to ``device``: :func:`netweight.load_file`."""
    return _tensors.load_file(filename, "pt", device, threads=threads)


def save_file(
    tensors: dict[str, torch.Tensor],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    *,
    level: str = "default",
    resident: str | None = None,
    threads: int = 0,
    force: bool = True,
) -> Report:
    """Saves tensors as an archive of one file, without writing anything else on the way.

    ``netweight.restore`` makes of it the very file that ``safetensors.torch.save_file`` would have written. Tensors
    that are on another device or not contiguous are copied first. Tensors that are the same memory are stored once
    (safetensors refuses them) and come back as tensors of their own. ``force`` replaces an archive that is there, but
    never anything else. ``level``, ``resident`` and ``threads`` as for :func:`netweight.compress`.
    """
    held, flat = [], []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidArgument(f"tensor {name!r} is {type(tensor).__name__}, not a torch tensor")
        dtype = Torch.name_of(tensor.dtype)
        if dtype is None or tensor.layout != torch.strided:
            raise DtypeError(f"tensor {name!r} is {tensor.dtype} ({tensor.layout}), which safetensors has not")
        if tensor.is_meta:
            raise InvalidArgument(f"tensor {name!r} is on the meta device: it has no bytes")
        tensor = in_memory(tensor).detach().resolve_conj().resolve_neg().cpu().contiguous()
        held.append(tensor)
        shape = list(tensor.shape)
        if dtype == "F4":
            shape[-1] *= 2
        flat.append((name, dtype, shape, tensor.data_ptr(), tensor.numel() * tensor.element_size()))
    return save_tensors(flat, filename, metadata, level, resident, threads, force)


def pack_matrix(matrix: torch.Tensor, layout: str = "exact11", threads: int = 0) -> torch.Tensor | None:
    """Packs a bf16 matrix (rows, cols) as a 1-D uint8 tensor on the CPU; ``None`` where that is not smaller.

    >>> import torch
    >>> matrix = torch.randn(64, 256, dtype=torch.bfloat16)
    >>> packed = netweight.torch.pack_matrix(matrix)
    >>> packed.dtype, packed.numel() < matrix.numel() * 2
    (torch.uint8, True)
    >>> out = torch.empty(16, 256, dtype=torch.bfloat16)
    >>> bool((netweight.torch.unpack_matrix(packed, out, rows=(16, 32)) == matrix[16:32]).all())
    True
    """
    if matrix.dim() != 2 or matrix.dtype != torch.bfloat16:
        raise InvalidArgument(f"a 2-D bf16 matrix can be packed, not {matrix.dtype} of shape {tuple(matrix.shape)}")
    matrix = in_memory(matrix).detach().cpu().contiguous()
    packed = _netweight.pack_matrix_at(matrix.data_ptr(), (matrix.shape[0], matrix.shape[1]), layout, threads)
    return None if packed is None else torch.frombuffer(packed, dtype=torch.uint8)


def in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, unless it is a ``PackedWeight``, at whose address are no elements: those."""
    unpack = getattr(tensor, "unpack", None)
    return tensor if unpack is None else unpack()


def unpack_matrix(
    packed: torch.Tensor, out: torch.Tensor, rows: tuple[int, int] | None = None, threads: int = 0
) -> torch.Tensor:
    """Decodes a packed matrix, or its rows ``(start, stop)``, into ``out``: bf16, contiguous, on the CPU.

    Returns ``out``. ``packed`` is a 1-D uint8 tensor on the CPU, wherever it came from. No rows are copied on the way.
    """
    if packed.dtype != torch.uint8 or packed.device.type != "cpu" or not packed.is_contiguous():
        raise InvalidArgument("packed must be a contiguous uint8 tensor on the CPU")
    if out.dtype not in BF16_BITS or out.device.type != "cpu" or not out.is_contiguous():
        raise InvalidArgument(f"out must be a contiguous bf16 tensor on the CPU, not {out.dtype} on {out.device}")
    _netweight.unpack_matrix_at(packed.data_ptr(), packed.numel(), out.data_ptr(), out.numel() * 2, rows, threads)
    return out


def packed_info(packed: torch.Tensor) -> tuple[str, int, int]:
    """(layout, rows, cols) of a packed matrix, a 1-D uint8 tensor on the CPU."""
    if packed.dtype != torch.uint8 or packed.device.type != "cpu" or not packed.is_contiguous():
        raise InvalidArgument("packed must be a contiguous uint8 tensor on the CPU")
    return _netweight.packed_info_at(packed.data_ptr(), packed.numel())


def read_packed(filename: str | os.PathLike[str], name: str, **options: Any) -> torch.Tensor | None:
    """:func:`netweight.read_packed` as a 1-D uint8 tensor on the CPU."""
    packed = _matrix.read_packed(filename, name, **options)
    return None if packed is None else torch.frombuffer(packed, dtype=torch.uint8)

