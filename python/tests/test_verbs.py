"""The verbs and what they raise."""

import _thread
import shutil
import threading
import time

import numpy
import pytest
from conftest import BOOKWORM, weights, write_safetensors

import netweight


def test_there_and_back(tmp_path):
    calls = []
    report = netweight.compress(BOOKWORM, tmp_path / "nw", threads=2, progress=lambda *call: calls.append(call))
    assert calls and calls[-1] == (report.original_bytes, report.original_bytes)
    assert report.ratio < 0.67 and report.n_tensors == 57 and report.archive_bytes < report.original_bytes
    assert {file.kind for file in report.files} >= {"shard", "side"} and report.coders
    shard = next(file for file in report.files if file.kind == "shard")
    assert len(shard.sha256) == 64 and shard.mode == "tensors" and not shard.is_resumed
    found = netweight.verify(tmp_path / "nw", against=BOOKWORM)
    assert found.is_ok and found.is_compared and found.n_files == len(report.files)
    back = netweight.restore(tmp_path / "nw", tmp_path / "back")
    assert back.original_bytes == report.original_bytes
    for file in BOOKWORM.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_inspect_and_estimate(bookworm_archive, bookworm_resident):
    found = netweight.inspect(bookworm_archive)
    assert (found.kind, found.format, found.level, found.resident) == ("archive", 1, "default", None)
    tensor = max(found.tensors, key=lambda tensor: tensor.bytes)
    assert tensor.dtype == "BF16" and tensor.bits_per_element < 11 and tensor.coder and tensor.exponents
    assert found.totals.stored_bytes < found.totals.bytes
    resident = netweight.inspect(bookworm_resident, bounds=False)
    assert resident.resident == "exact11" and resident.totals.bound_bytes is None
    assert netweight.inspect(BOOKWORM, bounds=False).kind == "checkpoint"
    predicted = netweight.estimate(BOOKWORM, max_seconds=0.2)
    assert 0.6 < predicted.ratio < 0.7 and predicted.worth_it and predicted.advice


def test_options(plain, archive, tmp_path):
    report = netweight.compress(plain, tmp_path / "a", level="max", check=False)
    assert netweight.inspect(tmp_path / "a").level == "max" and report.files[0].path == "plain.safetensors"
    with pytest.raises(FileExistsError, match="force=True") as caught:
        netweight.compress(plain, tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")
    netweight.compress(plain, tmp_path / "a", force=True)
    rows = netweight.restore_tensor(tmp_path / "a", "matrix", tmp_path / "rows.safetensors", rows=(3, 5))
    assert rows.shape == [2, 90] and rows.bytes == 360
    assert (netweight.load_file(tmp_path / "rows.safetensors", as_uint=True)["matrix"] == weights((70, 90))[3:5]).all()
    netweight.restore(tmp_path / "a", tmp_path / "back", check_sha256=False, threads=1)
    assert (tmp_path / "back").read_bytes() == plain.read_bytes()
    for call, part in [
        (lambda: netweight.compress(plain, tmp_path / "b", level="best"), "no level"),
        (lambda: netweight.compress(plain, tmp_path / "b", resident="raw"), "no layout"),
        (lambda: netweight.compress(plain, tmp_path / "b", threads=10**9), "at most 1024"),
        (lambda: netweight.verify(archive, threads=1025), "at most 1024"),
        (lambda: netweight.compress(archive, tmp_path / "b"), "archive already.*restore"),
        (lambda: netweight.restore(plain, tmp_path / "b"), "not a netweight archive.*compress"),
        (lambda: netweight.verify(plain), "not a netweight archive"),
        (lambda: netweight.restore_tensor(tmp_path / "a", "matrix", tmp_path / "b", rows=(0, 71)), "no such rows"),
    ]:
        with pytest.raises(netweight.InvalidArgument, match=part):
            call()
    with pytest.raises(netweight.UnknownTensorError):
        netweight.restore_tensor(tmp_path / "a", "nobody", tmp_path / "b")


@pytest.mark.parametrize(
    "call",
    [
        lambda path: netweight.load_file(path),
        lambda path: netweight.safe_open(path),
        lambda path: netweight.compress(path, path.parent / "out"),
        lambda path: netweight.restore(path, path.parent / "out"),
        lambda path: netweight.verify(path),
        lambda path: netweight.inspect(path),
        lambda path: netweight.estimate(path),
        lambda path: netweight.is_archive(path),
        lambda path: netweight.read_packed(path, "w"),
    ],
)
def test_missing_files(tmp_path, call):
    with pytest.raises(FileNotFoundError) as caught:
        call(tmp_path / "gone")
    assert caught.value.filename == str(tmp_path / "gone") and caught.value.errno == 2


def test_damage(archive):
    content = archive.read_bytes()
    for length in [0, 7, 100, len(content) // 2, len(content) - 1]:
        archive.write_bytes(content[:length])
        with pytest.raises(netweight.DamagedError, match="fetch it again") as caught:
            netweight.load_file(archive)
        assert isinstance(caught.value, netweight.Error) and caught.value.path == str(archive)
    random = numpy.random.default_rng(5)
    n_silent = 0
    for at in random.integers(0, len(content), 60):
        changed = bytearray(content)
        changed[at] ^= 1 << random.integers(8)
        archive.write_bytes(changed)
        try:
            netweight.load_file(archive)
            n_silent += 1  # In the padding between payloads, which only verify looks at.
        except netweight.Error:
            pass
        try:
            assert not netweight.verify(archive).is_ok, at
        except netweight.Error:
            pass
    assert n_silent < 10
    archive.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(netweight.InvalidArgument, match="git lfs pull"):
        netweight.load_file(archive)


def test_damage_is_a_problem(bookworm_archive, tmp_path):
    shutil.copytree(bookworm_archive, tmp_path / "copy")
    shard = next((tmp_path / "copy").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = netweight.verify(tmp_path / "copy")
    assert not found.is_ok and found.problems[0].path == shard.name and "CRC-64" in found.problems[0].what
    with pytest.raises(netweight.DamagedError):
        netweight.restore(tmp_path / "copy", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_refinement(tmp_path):
    """A tuned archive gives its original, or its tuned values; and only these where its refinement was left out."""
    golden = BOOKWORM.parents[1] / "tests" / "golden" / "v2" / "refined"
    tuned, original = tmp_path / "tuned", golden / "original"
    shutil.copytree(golden / "archive", tuned)

    def shard(folder):
        return (folder / "model-1.safetensors").read_bytes()

    report = netweight.restore(tuned, tmp_path / "back")
    assert shard(tmp_path / "back") == shard(original) and report.refinement is None
    netweight.restore(tuned, tmp_path / "values", tuned=True)
    assert shard(tmp_path / "values") != shard(original)
    found = netweight.verify(tuned, against=original)
    assert found.is_ok and (found.n_refinements, found.n_left_out) == (2, 0)
    for refinement in tuned.glob("*.refinement"):
        refinement.unlink()
    with pytest.raises(netweight.InvalidArgument, match="refinement is not here"):
        netweight.restore(tuned, tmp_path / "none")
    with pytest.raises(netweight.InvalidArgument, match="refinement is not here"):
        netweight.restore_tensor(tuned, "every", tmp_path / "none")
    netweight.restore_tensor(tuned, "every", tmp_path / "every.safetensors", tuned=True)
    found = netweight.verify(tuned)
    assert found.is_ok and (found.n_refinements, found.n_left_out) == (0, 2)
    assert netweight.inspect(tuned).refinement == netweight.InspectedRefinement(n_files=2, n_here=0, bytes=0)


def test_newer_format(archive):
    archive.write_bytes(archive.read_bytes().replace(b'"netweight":"1"', b'"netweight":"9"'))
    with pytest.raises(netweight.FormatError, match="update netweight"):
        netweight.load_file(archive)


def test_callbacks_stop(tmp_path):
    class Enough(Exception):
        pass

    def progress(done, total):
        raise Enough

    with pytest.raises(Enough):
        netweight.compress(BOOKWORM, tmp_path / "nw", progress=progress)


def test_interrupt(tmp_path):
    """Ctrl-C ends a verb, and leaves its destination as it was."""
    plain = tmp_path / "plain.safetensors"
    write_safetensors(plain, {"w": ("BF16", [64, 1 << 20], weights((1, 1 << 20)).tobytes() * 64)})
    threading.Timer(0.1, _thread.interrupt_main).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(50):
            netweight.compress(plain, tmp_path / "nw", level="max", threads=1, force=True)
            time.sleep(0)
    assert time.monotonic() - begin < 20
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_the_gil_is_left(plain, tmp_path):
    """While one thread compresses, another runs."""
    count, done = 0, threading.Event()

    def work():
        for idx in range(20):
            netweight.compress(BOOKWORM, tmp_path / f"nw{idx}", threads=1)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        count += 1
        time.sleep(0.001)
    worker.join()
    assert count > 20
