"""Tensors by name, in the manner of safetensors: all of them, one, or some rows of one."""

from __future__ import annotations

import os
from types import EllipsisType, TracebackType
from typing import Any

from ._errors import InvalidArgument, SliceError
from ._frameworks import Framework, framework as find_framework
from ._netweight import AlignedBuffer, Reader

_BATCH_BYTES = 1 << 30
"""Bytes that lie in the CPU's memory on their way to another device."""

Path = str | os.PathLike[str]
Index = int | slice | EllipsisType


def load_file(
    filename: Path, framework: str = "numpy", device: Any = "cpu", *, threads: int = 0, as_uint: bool = False
) -> dict[str, Any]:
    """Loads all tensors of an archive, or of safetensors files, by name.

    ``filename`` is an archive or a ``.safetensors`` file, or a folder of either. Tensors are decoded by ``threads``
    threads (0: as many as there are cores) straight into the memory of new arrays or tensors, which nothing else uses.
    Every chunk's checksum is checked.

    ``framework`` is ``"numpy"`` or ``"pt"``. numpy takes bf16 and fp8 from ``ml_dtypes``, or with ``as_uint`` as
    ``uint16`` and ``uint8`` of the same bits. torch puts tensors on ``device``.

    Raises ``FileNotFoundError``, ``DamagedError``, ``FormatError``, ``DtypeError``, ``InvalidArgument``.

    >>> import numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/model.nw.safetensors"
    >>> report = netweight.numpy.save_file({"weight": numpy.ones((4, 8), "float32")}, path)
    >>> netweight.load_file(path)["weight"].shape
    (4, 8)
    """
    with safe_open(filename, framework, device, threads=threads, as_uint=as_uint) as file:
        return file.get_tensors()


class safe_open:
    """Opens an archive or safetensors files, to read tensors or parts of them; use it in a ``with`` statement.

    Takes what :func:`load_file` takes, and does what ``safetensors.safe_open`` does.

    >>> import numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/model.nw.safetensors"
    >>> report = netweight.numpy.save_file({"weight": numpy.arange(32.0).reshape(4, 8)}, path, metadata={"format": "np"})
    >>> with netweight.safe_open(path, framework="numpy") as file:
    ...     print(file.keys(), file.metadata())
    ...     print(file.get_slice("weight")[1:3, :2])
    ['weight'] {'format': 'np'}
    [[ 8.  9.]
     [16. 17.]]
    """

    def __init__(
        self,
        filename: Path,
        framework: str = "numpy",
        device: Any = "cpu",
        *,
        threads: int = 0,
        as_uint: bool = False,
    ) -> None:
        self._framework = find_framework(framework, device, as_uint)
        self._is_on_cpu = str(device) == "cpu"
        self._threads = threads
        self._reader: Reader | None = Reader(filename)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader = None

    def _open(self) -> Reader:
        if self._reader is None:
            raise InvalidArgument("the file is closed: read inside the with statement")
        return self._reader

    def keys(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._open().names())

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order of their bytes, which is the fastest to read them in."""
        return self._open().names()

    def metadata(self) -> dict[str, str] | None:
        """The strings in the header of the original; of a folder, those of all files together. ``None`` if none."""
        return self._open().metadata() or None

    def get_tensor(self, name: str) -> Any:
        """A tensor as a new array. Raises ``UnknownTensorError``, ``DamagedError``, ``DtypeError``."""
        reader = self._open()
        dtype, shape, n_bytes = reader.about(name)
        tensor = self._framework.empty(name, dtype, shape, n_bytes)
        reader.read_into([(name, None, *self._framework.place(tensor))], self._threads)
        return self._framework.finish(tensor)

    def get_tensors(self) -> dict[str, Any]:
        """All tensors by name, in the order of their bytes."""
        reader = self._open()
        tensors: dict[str, Any] = {}
        batch: list[tuple[str, Any]] = []
        n_batch = 0
        names = reader.names()
        for name in names:
            dtype, shape, n_bytes = reader.about(name)
            batch.append((name, self._framework.empty(name, dtype, shape, n_bytes)))
            n_batch += n_bytes
            if name == names[-1] or (n_batch >= _BATCH_BYTES and not self._is_on_cpu):
                targets = [(name, None, *self._framework.place(tensor)) for name, tensor in batch]
                reader.read_into(targets, self._threads)
                tensors.update((name, self._framework.finish(tensor)) for name, tensor in batch)
                batch, n_batch = [], 0
        return tensors

    def read_packed(
        self,
        name: str,
        *,
        layout: str | None = None,
        rows: tuple[int, int] | None = None,
        cols: tuple[int, int] | None = None,
    ) -> AlignedBuffer | None:
        """A bf16 matrix, packed: :func:`netweight.read_packed`."""
        return self._open().read_packed(name, layout, rows, cols, self._threads)

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor to be cut with ``[]``: only the chunks that hold the rows are decoded."""
        return TensorSlice(self._open(), self._framework, self._threads, name)


class TensorSlice:
    """A tensor that is read where it is indexed, as in ``slice[2:5, ..., 0]``.

    Integers, slices with a positive step and one ``...`` are indices. The first dimension's decide which chunks are
    read and decoded; the others are cut from the rows afterwards. Slices end where the dimension does; an integer beyond
    it raises ``SliceError``, an ``IndexError``.
    """

    def __init__(self, reader: Reader, framework: Framework, threads: int, name: str) -> None:
        self._reader, self._framework, self._threads, self._name = reader, framework, threads, name
        self._dtype, self._shape, self._n_bytes = reader.about(name)

    def get_shape(self) -> list[int]:
        """The tensor's dimensions."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """The tensor's dtype as headers spell it: ``"BF16"``."""
        return self._dtype

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Any:
        indices = _indices(self._name, index, self._shape)
        if not indices:
            return self._read(None, self._shape)
        first = indices[0]
        if isinstance(first, int):
            rows = (first, first + 1)
        else:
            rows = (first.start, first.stop)
        inner = 0 if isinstance(first, int) else slice(None, None, first.step)
        tensor = self._read(rows, [rows[1] - rows[0], *self._shape[1:]])
        if tuple(tensor.shape[1:]) != tuple(self._shape[1:]) and any(
            index != slice(0, dim, 1) for index, dim in zip(indices[1:], self._shape[1:])
        ):
            raise SliceError(f"tensor {self._name!r} is {self._dtype}, which can be cut into whole rows only")
        return self._framework.finish(tensor[(inner, *indices[1:])])

    def _read(self, rows: tuple[int, int] | None, shape: list[int]) -> Any:
        n_bytes = self._n_bytes
        if rows is not None and self._shape[0] > 0:
            n_bytes = n_bytes // self._shape[0] * (rows[1] - rows[0])
        tensor = self._framework.empty(self._name, self._dtype, shape, n_bytes)
        self._reader.read_into([(self._name, rows, *self._framework.place(tensor))], self._threads)
        return tensor if rows is not None else self._framework.finish(tensor)


def _indices(name: str, index: Any, shape: list[int]) -> list[Any]:
    """One index for each dimension: an integer, or a slice whose bounds are in it. Nothing for a scalar."""
    indices = list(index) if isinstance(index, tuple) else [index]
    n_ellipsis = sum(1 for index in indices if index is Ellipsis)
    if n_ellipsis > 1:
        raise SliceError(f"tensor {name!r}: one ... is an index, not {n_ellipsis}")
    if len(indices) - n_ellipsis > len(shape):
        raise SliceError(f"tensor {name!r} has {len(shape)} dimensions, but there are {len(indices)} indices")
    at = next((at for at, index in enumerate(indices) if index is Ellipsis), len(indices))
    n_whole = len(shape) - (len(indices) - n_ellipsis)
    indices[at : at + n_ellipsis] = [slice(None)] * n_whole
    return [_within(name, index, dim) for index, dim in zip(indices, shape)]


def _within(name: str, index: Any, dim: int) -> Any:
    if isinstance(index, bool):
        raise SliceError(f"tensor {name!r}: {index!r} is no index; integers, slices and ... are")
    try:
        if isinstance(index, slice):
            start, stop, step = index.indices(dim)
            if step < 0:
                raise ValueError
            return slice(start, max(start, stop), step)
        place = index.__index__()
    except ValueError:
        raise SliceError(f"tensor {name!r}: a step of {index.step}; only positive ones can be read") from None
    except (AttributeError, TypeError):
        raise SliceError(f"tensor {name!r}: {index!r} is no index; integers, slices and ... are") from None
    if not -dim <= place < dim:
        raise SliceError(f"tensor {name!r}: {place} is beyond a dimension of {dim}")
    return place + dim if place < 0 else place
