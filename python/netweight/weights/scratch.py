"""Memory that weights are decoded into just before they are used, shared by all layers."""

from __future__ import annotations

import threading
import weakref

import torch

_local = threading.local()
_buffers: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()  # Of all threads.


def scratch(shape: tuple[int, ...], device: torch.device, slot: int = 0) -> torch.Tensor:
    """Uninitialised bf16 (shape), valid until this thread asks for the same device, stream and slot again.

    Work on a CUDA stream is in order, so that a buffer for each stream can be used anew while the GPU still computes
    with what was in it before: that decoding comes after.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    mine: dict[object, torch.Tensor] = _local.__dict__.setdefault("buffers", {})
    n = 1
    for size in shape:
        n *= size
    key = (device, stream, slot)
    buffer = mine.get(key)
    if buffer is None or buffer.numel() < n:
        mine.pop(key, None)  # So that both are never there at once.
        with torch.inference_mode(False):  # What is made inside may not be used outside.
            buffer = torch.empty(n, dtype=torch.bfloat16, device=device)
        mine[key] = buffer
        _buffers[id(buffer)] = buffer
    return buffer[:n].view(shape)


def scratch_bytes(device: torch.device | None = None) -> int:
    """Bytes of scratch of all threads, on `device` or everywhere."""
    return sum(b.numel() * b.element_size() for b in list(_buffers.values()) if device is None or b.device == device)


def release_scratch() -> None:
    """Frees this thread's scratch; the next layer makes it anew."""
    _local.__dict__.pop("buffers", None)
