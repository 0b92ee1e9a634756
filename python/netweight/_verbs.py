"""The verbs: a checkpoint becomes an archive and comes back. What they report are dataclasses with the names and the
meaning that the program's ``--json`` has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _netweight

Path = str | os.PathLike[str]
OnProgress = Callable[[int, int], object]
"""Called with the bytes of originals that are done and the bytes of all, some 20 times a second at most."""


@dataclass(frozen=True)
class FileReport:
    """One file of a :class:`Report`."""

    path: str
    """Relative path; the file name for a single file."""
    kind: str
    """``"shard"``, ``"index"`` or ``"side"``."""
    original_bytes: int
    archive_bytes: int
    sha256: str
    """Of the original."""
    mode: str | None
    """For a shard: ``"tensors"``, ``"resident"``, ``"opaque"`` or, restored with its refinement, ``"refined"``."""
    is_resumed: bool
    """Whether an earlier run had finished it."""


@dataclass(frozen=True)
class CoderUse:
    """Chunks that are coded alike: how many, and their size before and after."""

    n_chunks: int
    bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class RefinementReport:
    """What was written beside a tuned archive for its original to come back."""

    n_files: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """What :func:`compress` or :func:`restore` did."""

    files: list[FileReport]
    original_bytes: int
    archive_bytes: int
    refinement: RefinementReport | None
    """What the program's ``tune --keep-exact`` wrote; of neither ``compress`` nor ``restore``."""
    seconds: float
    n_tensors: int
    n_tied: int
    """Tensors without payload, because their bytes are those of another."""
    coders: dict[str, CoderUse]
    """How chunks were coded; empty for ``restore`` and for files of an earlier run."""
    left_out: list[str]
    """Folders that are no part of a checkpoint, as ``.git``."""

    @property
    def ratio(self) -> float:
        """Archive size divided by original size."""
        return self.archive_bytes / self.original_bytes if self.original_bytes else 1.0


@dataclass(frozen=True)
class RowsReport:
    """What :func:`restore_tensor` wrote."""

    tensor: str
    dtype: str
    shape: list[int]
    bytes: int


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file."""

    path: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found."""

    n_files: int
    original_bytes: int
    n_refinements: int
    """Refinements of a tuned archive that are there: the original comes out of them."""
    n_left_out: int
    """Refinements that belong to it and are not there. It is whole without."""
    is_compared: bool
    """Whether originals were there to compare with."""
    seconds: float
    problems: list[Problem]
    """What is wrong; nothing where the archive is whole."""

    @property
    def is_ok(self) -> bool:
        """Whether the archive is whole."""
        return not self.problems


@dataclass(frozen=True)
class TensorReport:
    """One tensor of an :class:`Inspection`. Sizes in bytes; of an archive alone what is about storing."""

    name: str
    shard: str
    dtype: str
    shape: list[int]
    n_elements: int
    bytes: int
    stored_bytes: int | None
    coder: str
    """How its chunks are coded: ``"half 6: raw + rans8"``."""
    layout: str | None
    """The resident layout that it is stored in."""
    bits_per_element: float | None
    bound_bits: float | None
    """Bits per element with the exponent coded at its entropy."""
    joint_bits: float | None
    """Bits per element with the top 16 bits together coded at their entropy."""
    exponents: list[tuple[int, int]]
    """(exponent field, how often), ascending."""
    same_as: str | None
    """The tensor that holds its bytes, where that is another."""


@dataclass(frozen=True)
class Totals:
    """Sums over all tensors, in bytes."""

    bytes: int
    stored_bytes: int | None
    bound_bytes: float | None
    joint_bytes: float | None


@dataclass(frozen=True)
class InspectedRefinement:
    """The refinement of a tuned archive, from which its original comes."""

    n_files: int
    n_here: int
    bytes: int
    """Of the files that are here."""


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found."""

    path: str
    kind: str
    """``"checkpoint"`` or ``"archive"``."""
    format: int | None
    level: str | None
    resident: str | None
    refinement: InspectedRefinement | None
    tensors: list[TensorReport]
    totals: Totals


@dataclass(frozen=True)
class Estimate:
    """What :func:`estimate` predicts."""

    original_bytes: int
    sampled_bytes: int
    predicted_bytes: int
    ratio: float
    saving_bytes: int
    encode_bytes_per_second: float
    predicted_seconds: float
    worth_it: bool
    """Whether it saves at least 5 %."""
    advice: str


def compress(
    source: Path,
    archive: Path,
    *,
    level: str = "default",
    resident: str | None = None,
    threads: int = 0,
    force: bool = False,
    check: bool = True,
    progress: OnProgress | None = None,
) -> Report:
    """Archives a checkpoint: a ``.safetensors`` file, or a folder with such files, all of whose files are kept.

    ``level`` is ``"default"`` or ``"max"`` (a little smaller, slower). ``resident`` is ``"exact11"`` or ``"exact12"``:
    bf16 matrices are stored as an engine multiplies with them, somewhat larger. ``threads`` is 0 for as many as there
    are cores; the archive does not depend on it. ``force`` replaces an archive that is at the destination. ``check``
    decodes every chunk again before it is written.

    The destination appears at the end, whole. Ctrl-C, and what ``progress(done, total)`` raises, leave it as it was.

    Raises ``FileNotFoundError``, ``FileExistsError`` and other ``OSError``; ``InvalidArgument`` where the source is no
    checkpoint; ``DamagedError`` where it is damaged.

    >>> import numpy, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> from safetensors.numpy import save_file
    >>> save_file({"weight": numpy.zeros((256, 256), "float16")}, folder + "/model.safetensors")
    >>> report = netweight.compress(folder + "/model.safetensors", folder + "/model.nw.safetensors")
    >>> report.original_bytes, report.n_tensors, report.ratio < 0.1
    (131152, 1, True)
    """
    return _report(_netweight.compress(source, archive, level, resident, threads, force, check, progress))


def restore(
    archive: Path,
    destination: Path,
    *,
    threads: int = 0,
    force: bool = False,
    check_sha256: bool = True,
    tuned: bool = False,
    progress: OnProgress | None = None,
) -> Report:
    """Gives the original of an archive back, byte for byte; of a tuned archive without a refinement its values in bf16.

    ``check_sha256`` compares each restored file's SHA-256 with the original's; checksums of chunks are always checked.
    ``tuned`` asks for the tuned values of an archive that has a refinement; without it, ``InvalidArgument`` says so
    where the refinement was left out. Raises what :func:`compress` raises, and ``FormatError`` for an archive of a newer
    format.
    """
    return _report(_netweight.restore(archive, destination, threads, force, check_sha256, tuned, progress))


def restore_tensor(
    archive: Path,
    tensor: str,
    destination: Path,
    *,
    rows: tuple[int, int] | None = None,
    force: bool = False,
    tuned: bool = False,
) -> RowsReport:
    """Writes one tensor of an archive, or rows ``(start, stop)`` of it, as a safetensors file of its own. ``tuned`` is
    that of :func:`restore`."""
    return RowsReport(**json.loads(_netweight.restore_tensor(archive, tensor, rows, destination, force, tuned)))


def verify(
    archive: Path, *, against: Path | None = None, threads: int = 0, progress: OnProgress | None = None
) -> VerifyReport:
    """Checks every byte of an archive, and that every original comes out of it; with ``against``, that it is that one.

    Damage is in the report's ``problems``, not an exception. Raises ``InvalidArgument`` where it is no archive.
    """
    report = json.loads(_netweight.verify(archive, against, threads, progress))
    report["problems"] = [Problem(**problem) for problem in report["problems"]]
    return VerifyReport(**report)


def inspect(
    path: Path, *, bounds: bool = True, threads: int = 0, progress: OnProgress | None = None
) -> Inspection:
    """Lists the tensors of a checkpoint or an archive: how each is stored, and how small it could get.

    ``bounds`` goes through all weights for ``bound_bits``, ``joint_bits`` and ``exponents``; without, it is quick.
    """
    found = json.loads(_netweight.inspect(path, bounds, threads, progress))
    found["totals"] = Totals(**found["totals"])
    found["refinement"] = InspectedRefinement(**found["refinement"]) if found["refinement"] else None
    found["tensors"] = [_tensor_report(tensor) for tensor in found["tensors"]]
    return Inspection(**found)


def estimate(
    source: Path, *, level: str = "default", threads: int = 0, max_seconds: float = 2.0
) -> Estimate:
    """Predicts from a sample what compressing a checkpoint would bring."""
    return Estimate(**json.loads(_netweight.estimate(source, level, threads, max_seconds)))


def is_archive(path: Path) -> bool:
    """Whether there is an archive at a path: a folder, or a single archive shard. Raises ``FileNotFoundError``."""
    return _netweight.is_archive(path)


def save_tensors(
    tensors: list[tuple[str, str, list[int], int, int]],
    archive: Path,
    metadata: dict[str, str] | None,
    level: str,
    resident: str | None,
    threads: int,
    force: bool,
) -> Report:
    """Archives tensors in memory: (name, dtype, shape, address, bytes) of each. The caller holds what lies there."""
    return _report(
        _netweight.compress_tensors(tensors, dict(metadata or {}), archive, level, resident, threads, force)
    )


def _report(text: str) -> Report:
    report: dict[str, Any] = json.loads(text)
    report["files"] = [FileReport(**file) for file in report["files"]]
    report["refinement"] = RefinementReport(**report["refinement"]) if report["refinement"] else None
    report["coders"] = {label: CoderUse(**use) for label, use in report["coders"].items()}
    return Report(**report)


def _tensor_report(tensor: dict[str, Any]) -> TensorReport:
    exponents = [(field, count) for field, count in tensor.pop("exponents")]
    return TensorReport(exponents=exponents, **tensor)
