"""Memory that was freed, back to the system: glibc keeps tensors of up to 32 MiB for itself, which while a model is
packed adds up."""

from __future__ import annotations

import ctypes
import sys

EVERY = 64 << 20  # bytes
_freed = 0


def freed(n_bytes: int) -> None:
    """Notes that so much was freed, and gives memory back from time to time."""
    global _freed
    _freed += n_bytes
    if _freed >= EVERY and sys.platform == "linux":
        _freed = 0
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Not every libc has it.
        if trim is not None:
            trim(0)
