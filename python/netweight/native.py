"""The compiled functions that the integrations call: a matrix packed and unpacked on the device where it is."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F

from netweight import _netweight, safe_open
from netweight.torch import pack_matrix as pack_on_cpu
from netweight.torch import unpack_matrix as unpack_on_cpu

__all__ = ["FUSED", "embed", "fused_linear", "pack_matrix", "safe_open", "unpack_matrix"]

FUSED = os.environ.get("NETWEIGHT_FUSED") == "1"
"""Whether weights are decoded inside the multiplication: faster, and no longer the bits of torch's own multiplication."""
MOST_FUSED_TOKENS = 64  # On a GPU.

Shape = tuple[int, int]  # rows, columns
TILE_ROWS = 16


def pack_matrix(matrix: torch.Tensor) -> torch.Tensor | None:
    """Packs bf16 (rows, cols) as u8 (bytes,) on the same device; None where that saves nothing.

    Each kind of device has a layout of its own.

    Raises:
        NotImplementedError: neither the CPU nor CUDA.
        GpuError: the GPU is too old, or its memory is short.
    """
    host = matrix.detach().cpu().contiguous()
    if matrix.device.type == "cpu":
        return pack_on_cpu(host)
    packed = _netweight.gpu_pack_at(number_of(matrix.device), host.data_ptr(), tuple(host.shape))
    return None if packed is None else torch.frombuffer(packed, dtype=torch.uint8).to(matrix.device)


def unpack_matrix(packed: torch.Tensor, shape: Shape, out: torch.Tensor, rows: Shape | None = None) -> None:
    """Decodes a packed matrix of that shape, or its rows [rows[0], rows[1]), into `out`.

    On a GPU it is done when the current stream is there.

    Args:
        packed: u8, (bytes,).
        out: contiguous bf16, (rows, cols), on the same device.
    """
    if out.device.type == "cpu":
        unpack_on_cpu(packed, out, rows)
        return
    start, stop = rows or (0, shape[0])
    if start == stop:
        return
    first = start // TILE_ROWS * TILE_ROWS
    padded = _netweight.gpu_padded(stop - first, shape[1])
    is_direct = first == start and padded == tuple(out.shape)
    dense = out if is_direct else torch.empty(padded, dtype=out.dtype, device=out.device)
    _netweight.gpu_unpack_at(
        *place_of(packed), shape, (first, stop), (dense.data_ptr(), dense.numel() * dense.element_size())
    )
    if not is_direct:
        out.copy_(dense[start - first : stop - first, : shape[1]])


def embed(packed: torch.Tensor, shape: Shape, tokens: torch.Tensor) -> torch.Tensor:
    """The rows `tokens` (n,) of a packed matrix as bf16 (n, cols). On a GPU, a token past the last row takes that.

    Raises:
        IndexError: on the CPU, there is no such row.
    """
    n_rows, cols = shape
    out = torch.empty(tokens.numel(), cols, dtype=torch.bfloat16, device=packed.device)
    if packed.device.type != "cpu":
        ids = tokens.to(torch.int32)
        wide = torch.empty(out.shape, dtype=torch.float32, device=out.device)
        if tokens.numel():
            place = (ids.data_ptr(), ids.numel())
            _netweight.gpu_embed_at(*place_of(packed), shape, place, (out.data_ptr(), wide.data_ptr()))
        return out
    different, places = torch.unique(tokens, return_inverse=True)
    if different.numel() and not (0 <= int(different[0]) and int(different[-1]) < n_rows):
        least, most = int(different[0]), int(different[-1])
        raise IndexError(f"a token is outside of the embedding's {n_rows} rows: {least}..{most}")
    table = torch.empty(different.numel(), cols, dtype=torch.bfloat16)
    for place, token in enumerate(different.tolist()):
        unpack_on_cpu(packed, table[place : place + 1], (token, token + 1))
    return torch.index_select(table, 0, places, out=out)


def fused_linear(x: torch.Tensor, packed: torch.Tensor, shape: Shape, bias: torch.Tensor | None) -> torch.Tensor:
    """`x` (..., cols) bf16 times a packed matrix, which is decoded inside the multiplication: (..., rows) bf16.

    Sums are in f32 and in an order of their own, so that the last bits differ from the library's; they do not depend on how
    many tokens run together. On a GPU more than 64 tokens are multiplied with what is unpacked first.
    """
    rows, cols = shape
    tokens = x.reshape(-1, cols)
    out = torch.empty(tokens.shape[0], rows, dtype=torch.float32, device=x.device)
    if tokens.shape[0] == 0:
        return out.to(x.dtype).view(*x.shape[:-1], rows)
    if x.device.type == "cpu":
        tokens = tokens.contiguous()
        bytes_of_packed = (packed.data_ptr(), packed.numel())
        tokens_at = (tokens.data_ptr(), tokens.shape[0])
        _netweight.linear_at(bytes_of_packed, tokens_at, out.data_ptr(), torch.get_num_threads())
    elif tokens.shape[0] > MOST_FUSED_TOKENS:
        weight = torch.empty(shape, dtype=x.dtype, device=x.device)
        unpack_matrix(packed, shape, weight)
        return F.linear(x, weight, bias)
    else:
        tokens = F.pad(tokens, (0, -cols % 8)).contiguous()
        if tokens.data_ptr() % 16:
            tokens = tokens.clone()
        place = (tokens.data_ptr(), tokens.shape[1], tokens.shape[0])
        _netweight.gpu_linear_at(*place_of(packed), shape, place, out.data_ptr())
    if bias is not None:
        out += bias
    return out.to(x.dtype).view(*x.shape[:-1], rows)


def place_of(packed: torch.Tensor) -> tuple[int, int, tuple[int, int]]:
    """GPU, current stream, and where the bytes are."""
    stream = torch.cuda.current_stream(packed.device).cuda_stream
    return number_of(packed.device), stream, (packed.data_ptr(), packed.numel())


def number_of(device: torch.device) -> int:
    """Of a GPU among those that the driver shows."""
    if device.type != "cuda":
        raise NotImplementedError(f"netweight computes on CPUs and NVIDIA GPUs, not on {device.type!r}")
    return torch.cuda.current_device() if device.index is None else device.index
