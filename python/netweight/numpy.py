"""numpy arrays in and out of archives, in the manner of ``safetensors.numpy``."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy

from . import _netweight, _tensors
from ._errors import DtypeError, InvalidArgument
from ._frameworks import Numpy
from ._verbs import Report, save_tensors


def load_file(filename: str | os.PathLike[str], *, threads: int = 0, as_uint: bool = False) -> dict[str, numpy.ndarray]:
    """Loads all tensors of an archive, or of safetensors files, as arrays: :func:`netweight.load_file`.

    bf16 and fp8 become dtypes of ``ml_dtypes``; with ``as_uint``, ``uint16`` and ``uint8`` of the same bits.
    """
    return _tensors.load_file(filename, "numpy", threads=threads, as_uint=as_uint)


def save_file(
    tensors: dict[str, numpy.ndarray],
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    *,
    level: str = "default",
    resident: str | None = None,
    threads: int = 0,
    force: bool = True,
) -> Report:
    """Saves arrays as an archive of one file, without writing anything else on the way.

    ``netweight.restore`` makes of it the very file that ``safetensors.numpy.save_file`` would have written. Arrays
    that are not contiguous or not little-endian are copied first. ``force`` replaces an archive that is there, but
    never anything else: ``FileExistsError``. ``level``, ``resident`` and ``threads`` as for :func:`netweight.compress`.

    >>> import numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/model.nw.safetensors"
    >>> report = netweight.numpy.save_file({"weight": numpy.ones((64, 64), "float32")}, path)
    >>> netweight.numpy.load_file(path)["weight"].sum()
    np.float32(4096.0)
    """
    held, flat = [], []
    for name, tensor in tensors.items():
        if not isinstance(tensor, numpy.ndarray):
            raise InvalidArgument(f"tensor {name!r} is {type(tensor).__name__}, not a numpy array")
        dtype = Numpy.name_of(tensor.dtype)
        if dtype is None:
            raise DtypeError(f"tensor {name!r} is {tensor.dtype}, which safetensors has not")
        shape = list(tensor.shape)
        is_big = tensor.dtype.byteorder == ">" or (tensor.dtype.byteorder == "=" and sys.byteorder == "big")
        tensor = numpy.ascontiguousarray(tensor.byteswap() if is_big else tensor)
        held.append(tensor)
        flat.append((name, dtype, shape, tensor.ctypes.data, tensor.nbytes))
    return save_tensors(flat, filename, metadata, level, resident, threads, force)


def pack_matrix(matrix: numpy.ndarray, layout: str = "exact11", threads: int = 0) -> Any:
    """Packs a bf16 matrix, (rows, cols) of ``ml_dtypes.bfloat16`` or of ``uint16`` bits, as a 1-D uint8 array.

    ``None`` where that is not smaller. See :func:`netweight.pack_matrix`.
    """
    if matrix.ndim != 2 or matrix.dtype.name not in ("bfloat16", "uint16"):
        raise InvalidArgument(f"a 2-D bf16 matrix can be packed, not {matrix.dtype} of shape {matrix.shape}")
    matrix = numpy.ascontiguousarray(matrix)
    packed = _netweight.pack_matrix_at(matrix.ctypes.data, matrix.shape, layout, threads)
    return None if packed is None else numpy.frombuffer(packed, numpy.uint8)


def unpack_matrix(
    packed: numpy.ndarray, out: numpy.ndarray, rows: tuple[int, int] | None = None, threads: int = 0
) -> numpy.ndarray:
    """Decodes a packed matrix, or its rows ``(start, stop)``, into ``out``, contiguous and of 2 bytes an element.

    Returns ``out``. See :func:`netweight.unpack_matrix`.
    """
    if out.dtype.name not in ("bfloat16", "uint16", "int16"):  # In float16 the bits would be other numbers.
        raise InvalidArgument(f"out must be bf16 or uint16, not {out.dtype}")
    _netweight.unpack_matrix(packed.view(numpy.uint8), out.view(numpy.uint8), rows, threads)
    return out
