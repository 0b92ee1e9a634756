"""Lets libraries that read safetensors files themselves read the shards of archives, as the originals."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import safetensors

from netweight import native

LONGEST_HEADER = 100_000_000
"""Bytes, as safetensors has it."""


def read_archives_in(module: ModuleType) -> None:
    """Replaces `module.safe_open`; twice does nothing.

    Raises:
        ImportError: the module reads files in a way that this version of netweight does not know.
    """
    before = getattr(module, "safe_open", None)
    if before is None:
        raise ImportError(
            f"{module.__name__} does not read files through safetensors' safe_open any more: "
            "this netweight is too old for it, `pip install --upgrade netweight`"
        )
    if not getattr(before, "reads_archives", False):
        module.safe_open = _with_archives(before)  # type: ignore[attr-defined]


def _with_archives(before: Callable[..., Any]) -> Callable[..., Any]:
    def safe_open(filename: Any, framework: str = "pt", device: Any = "cpu", **options: Any) -> Any:
        if is_archive_shard(filename):
            return native.safe_open(filename, framework=framework, device=device)
        return before(filename, framework=framework, device=device, **options)

    safe_open.reads_archives = True  # type: ignore[attr-defined]
    return safe_open


def is_archive_shard(filename: Any) -> bool:
    """Whether the file says of itself that netweight wrote it."""
    try:
        with safetensors.safe_open(filename, framework="numpy") as file:
            return "netweight" in (file.metadata() or {})
    except safetensors.SafetensorError:  # Damaged: if it is ours, our reader says how, and what to do.
        return "netweight" in _metadata(filename)


def _metadata(filename: Any) -> dict[str, Any]:
    """The metadata in the header of a safetensors file whose tensors may be damaged; empty where that is, too."""
    with open(filename, "rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), LONGEST_HEADER))
    try:
        return dict(json.loads(header)["__metadata__"])
    except (ValueError, KeyError, TypeError):
        return {}
