"""What netweight raises. Files that are missing, or there already, are Python's own ``OSError`` subclasses."""

from __future__ import annotations


class Error(Exception):
    """Anything that netweight refuses or finds wrong. ``path``, ``tensor`` and ``offset`` say where, as far as known.

    The text says what is wrong, where, and what to do next.
    """

    path: str | None = None
    """The file or folder."""
    tensor: str | None = None
    """Name of the tensor."""
    offset: int | None = None
    """Offset in bytes in the file."""


class DamagedError(Error):
    """A file is truncated or corrupt: a checksum, a digest or a rule of its format does not hold."""


class FormatError(Error):
    """An archive of a format that this version does not read: it was written by a newer one."""


class GpuError(Error, RuntimeError):
    """A GPU, its driver or its memory: none is there, it is too old, its memory is short, or a call failed."""


class InvalidArgument(Error, ValueError):
    """The call asks for something that cannot be."""


class UnknownTensorError(InvalidArgument, KeyError):
    """There is no tensor of that name."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError's would be in quotes.


class SliceError(InvalidArgument, IndexError):
    """A slice reaches beyond the tensor, or is of a kind that cannot be read."""


class DtypeError(Error, TypeError):
    """The framework has no such dtype, at least not as it is installed."""
