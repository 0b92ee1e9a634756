"""The part that is written in Rust. Of what begins without an underscore, the package documents the meaning."""

import os
from collections.abc import Callable, Sequence

from typing_extensions import Buffer

__version__: str

_Path = str | os.PathLike[str]
_Progress = Callable[[int, int], object] | None

class AlignedBuffer:
    """Bytes at an address that is a multiple of 64, which numpy, torch and memoryview share without a copy."""

    @property
    def address(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Reader:
    def __init__(self, path: _Path) -> None: ...
    @property
    def is_archive(self) -> bool: ...
    def names(self) -> list[str]: ...
    def metadata(self) -> dict[str, str]: ...
    def about(self, name: str) -> tuple[str, list[int], int]: ...
    def resident_layout(self, name: str) -> str | None: ...
    def read_into(self, targets: Sequence[tuple[str, tuple[int, int] | None, int, int]], threads: int) -> None: ...
    def read_packed(
        self,
        name: str,
        layout: str | None,
        rows: tuple[int, int] | None,
        cols: tuple[int, int] | None,
        threads: int,
    ) -> AlignedBuffer | None: ...

def pack_matrix(
    src: Buffer, shape: tuple[int, int], layout: str = "exact11", threads: int = 0
) -> AlignedBuffer | None: ...
def pack_matrix_at(
    address: int, shape: tuple[int, int], layout: str = "exact11", threads: int = 0
) -> AlignedBuffer | None: ...
def packed_info(packed: Buffer) -> tuple[str, int, int]: ...
def packed_info_at(address: int, len: int) -> tuple[str, int, int]: ...
def unpack_matrix(packed: Buffer, out: Buffer, rows: tuple[int, int] | None = None, threads: int = 0) -> None: ...
def unpack_matrix_at(
    address: int, len: int, out_address: int, out_len: int, rows: tuple[int, int] | None = None, threads: int = 0
) -> None: ...
def gpu_linear_at(
    number: int,
    stream: int,
    packed: tuple[int, int],
    shape: tuple[int, int],
    x: tuple[int, int, int],
    out: int,
) -> None: ...
def linear_at(packed: tuple[int, int], x: tuple[int, int], out: int, threads: int = 0) -> None: ...
def gpu_pack_at(number: int, address: int, shape: tuple[int, int]) -> AlignedBuffer | None: ...
def gpu_padded(n_rows: int, cols: int) -> tuple[int, int]: ...
def gpu_unpack_at(
    number: int,
    stream: int,
    packed: tuple[int, int],
    shape: tuple[int, int],
    rows: tuple[int, int],
    out: tuple[int, int],
) -> None: ...
def gpu_embed_at(
    number: int,
    stream: int,
    packed: tuple[int, int],
    shape: tuple[int, int],
    tokens: tuple[int, int],
    outs: tuple[int, int],
) -> None: ...
def compress(
    source: _Path,
    archive: _Path,
    level: str,
    resident: str | None,
    threads: int,
    force: bool,
    check: bool,
    progress: _Progress,
) -> str: ...
def compress_tensors(
    tensors: Sequence[tuple[str, str, Sequence[int], int, int]],
    metadata: dict[str, str],
    archive: _Path,
    level: str,
    resident: str | None,
    threads: int,
    force: bool,
) -> str: ...
def restore(
    archive: _Path, destination: _Path, threads: int, force: bool, check_sha256: bool, progress: _Progress
) -> str: ...
def restore_tensor(
    archive: _Path, tensor: str, rows: tuple[int, int] | None, destination: _Path, force: bool
) -> str: ...
def verify(archive: _Path, against: _Path | None, threads: int, progress: _Progress) -> str: ...
def inspect(path: _Path, bounds: bool, threads: int, progress: _Progress) -> str: ...
def estimate(source: _Path, level: str, threads: int, max_seconds: float) -> str: ...
def is_archive(path: _Path) -> bool: ...
