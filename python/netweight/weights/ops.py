"""Operations for torch.compile and CUDA graphs, which see them as single nodes."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from netweight import native

LIBRARY = torch.library.Library("netweight", "DEF")


def unpack(packed: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """A packed matrix as bf16 (rows, cols)."""
    dense = torch.empty(rows, cols, dtype=torch.bfloat16, device=packed.device)
    native.unpack_matrix(packed, (rows, cols), dense)
    return dense


def unpack_fake(packed: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    return packed.new_empty(rows, cols, dtype=torch.bfloat16)


def unpack_all(packed: torch.Tensor, starts: list[int], rows: int, cols: int) -> torch.Tensor:
    """Packed matrices of equal shape, which begin at `starts`, as bf16 (n, rows, cols)."""
    n = len(starts) - 1
    dense = torch.empty(n, rows, cols, dtype=torch.bfloat16, device=packed.device)
    for matrix, start, end in zip(dense, starts, starts[1:], strict=False):
        native.unpack_matrix(packed[start:end], (rows, cols), matrix)
    return dense


def unpack_all_fake(packed: torch.Tensor, starts: list[int], rows: int, cols: int) -> torch.Tensor:
    return packed.new_empty(len(starts) - 1, rows, cols, dtype=torch.bfloat16)


def embedding(ids: torch.Tensor, packed: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """The rows `ids`, any shape, of a packed matrix."""
    return native.embed(packed, (rows, cols), ids.reshape(-1)).view(*ids.shape, cols)


def embedding_fake(ids: torch.Tensor, packed: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    return packed.new_empty(*ids.shape, cols, dtype=torch.bfloat16)


def fused_linear(
    x: torch.Tensor, packed: torch.Tensor, rows: int, cols: int, bias: torch.Tensor | None
) -> torch.Tensor:
    """`x` (..., cols) times a packed matrix, which is decoded inside the multiplication: not vLLM's own bits."""
    return native.fused_linear(x, packed, (rows, cols), bias)


def cpu_linear(x: torch.Tensor, packed: torch.Tensor, rows: int, cols: int, bias: torch.Tensor | None) -> torch.Tensor:
    """`x` (..., cols) times a packed matrix, through the very kernel that vLLM's CPU build takes for this shape.

    That kernel wants weights in an order of its own, into which they are brought anew each time: exact, and slow.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    own_bias = None if bias is None else bias.clone()  # Some kernels have it replaced by one in f32.
    layer = SimpleNamespace(weight=unpack(packed, rows, cols), bias=own_bias)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    y: torch.Tensor = layer.cpu_linear(x, layer.weight, layer.bias)
    return y


def linear_fake(
    x: torch.Tensor, packed: torch.Tensor, rows: int, cols: int, bias: torch.Tensor | None
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], rows)


for schema, function, fake in (
    ("unpack(Tensor packed, int rows, int cols) -> Tensor", unpack, unpack_fake),
    ("unpack_all(Tensor packed, int[] starts, int rows, int cols) -> Tensor", unpack_all, unpack_all_fake),
    ("embedding(Tensor ids, Tensor packed, int rows, int cols) -> Tensor", embedding, embedding_fake),
    ("fused_linear(Tensor x, Tensor packed, int rows, int cols, Tensor? bias) -> Tensor", fused_linear, linear_fake),
    ("cpu_linear(Tensor x, Tensor packed, int rows, int cols, Tensor? bias) -> Tensor", cpu_linear, linear_fake),
):
    LIBRARY.define(schema)
    name = schema.partition("(")[0]
    LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"netweight::{name}", fake, lib=LIBRARY)

OPS = torch.ops.netweight
