"""Lossless compression of LLM checkpoints, and tensors straight from the compressed archive.

    >>> import netweight
    >>> netweight.compress("Llama-3.1-8B", "Llama-3.1-8B.nw")                    # doctest: +SKIP
    >>> netweight.load_file("Llama-3.1-8B.nw", framework="pt")                   # doctest: +SKIP
    >>> with netweight.safe_open("Llama-3.1-8B.nw", framework="pt") as file:     # doctest: +SKIP
    ...     rows = file.get_slice("lm_head.weight")[:1024]

Verbs: :func:`compress`, :func:`restore`, :func:`verify`, :func:`inspect`, :func:`estimate`. Tensors: :class:`safe_open`,
:func:`load_file`, and ``netweight.numpy`` and ``netweight.torch`` with ``load_file`` and ``save_file``. Matrices that
stay packed in memory: :func:`pack_matrix`, :func:`unpack_matrix`, :func:`read_packed`.

Neither numpy nor torch is needed to import it. Nothing here holds the GIL while it works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._errors import DamagedError, DtypeError, Error, FormatError, GpuError, InvalidArgument, SliceError, UnknownTensorError
from ._matrix import (
    AlignedBuffer,
    pack_matrix,
    pack_matrix_at,
    packed_info,
    packed_info_at,
    read_packed,
    unpack_matrix,
    unpack_matrix_at,
)
from ._netweight import __version__
from ._tensors import TensorSlice, load_file, safe_open
from ._verbs import (
    CoderUse,
    Estimate,
    FileReport,
    InspectedRefinement,
    Inspection,
    Problem,
    RefinementReport,
    Report,
    RowsReport,
    TensorReport,
    Totals,
    VerifyReport,
    compress,
    estimate,
    inspect,
    is_archive,
    restore,
    restore_tensor,
    verify,
)

if TYPE_CHECKING:
    from . import numpy, torch

__all__ = [
    "AlignedBuffer",
    "CoderUse",
    "DamagedError",
    "DtypeError",
    "Error",
    "Estimate",
    "FileReport",
    "FormatError",
    "GpuError",
    "InspectedRefinement",
    "Inspection",
    "InvalidArgument",
    "Problem",
    "RefinementReport",
    "Report",
    "RowsReport",
    "SliceError",
    "TensorReport",
    "TensorSlice",
    "Totals",
    "UnknownTensorError",
    "VerifyReport",
    "__version__",
    "compress",
    "estimate",
    "inspect",
    "is_archive",
    "load_file",
    "numpy",
    "pack_matrix",
    "pack_matrix_at",
    "packed_info",
    "packed_info_at",
    "read_packed",
    "restore",
    "restore_tensor",
    "safe_open",
    "torch",
    "unpack_matrix",
    "unpack_matrix_at",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in ("numpy", "torch"):
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
