"""Packed matrices: whatever rows, whatever bytes."""

import threading

import numpy
import pytest
from conftest import BOOKWORM, weights, write_safetensors

import netweight


@pytest.mark.parametrize("layout", ["exact11", "exact12"])
@pytest.mark.parametrize("shape", [(16, 128), (60, 120), (333, 1000), (70, 16400), (2100, 512)], ids=str)
def test_any_rows_come_back(layout, shape):
    bits = weights(shape)
    packed = netweight.pack_matrix(bits, shape, layout, threads=2)
    assert netweight.packed_info(packed) == (layout, *shape)
    assert len(packed) < bits.nbytes and packed.address % 64 == 0
    assert bytes(netweight.pack_matrix(bits, shape, layout, threads=3)) == bytes(packed)
    rows = shape[0]
    for begin, end in [(0, rows), (0, 1), (rows - 1, rows), (3, 3), (1, rows - 1), (15, 17), (16, 32)]:
        if end > rows:
            continue
        out = numpy.full((end - begin, shape[1]), 0xAAAA, "uint16")
        netweight.unpack_matrix(packed, out, (begin, end), threads=2)
        assert (out == bits[begin:end]).all(), (begin, end)


def test_any_bits_come_back():
    bits = numpy.arange(65536, dtype="uint16").reshape(256, 256)
    assert netweight.pack_matrix(bits, bits.shape) is None  # As likely as not: it would be larger.
    bits = weights((512, 256))
    bits[7] = numpy.random.default_rng(1).integers(0, 65536, 256, "uint16")
    packed = netweight.pack_matrix(bits, bits.shape)
    out = numpy.empty_like(bits)
    netweight.unpack_matrix(packed, out)
    assert (out == bits).all()


def test_buffers_of_all_kinds():
    import ml_dtypes

    bits = weights((32, 64))
    packed = netweight.pack_matrix(bits.tobytes(), (32, 64))
    for copy in (bytes(packed), bytearray(packed), numpy.frombuffer(packed, "uint8"), memoryview(packed)):
        out = bytearray(32 * 64 * 2)
        netweight.unpack_matrix(copy, out)
        assert bytes(out) == bits.tobytes()
    array = netweight.numpy.pack_matrix(bits.view(ml_dtypes.bfloat16))
    assert array.dtype == "uint8" and array.tobytes() == bytes(packed)
    out = numpy.empty((16, 64), ml_dtypes.bfloat16)
    assert netweight.numpy.unpack_matrix(array, out, (8, 24)) is out
    assert (out.view("uint16") == bits[8:24]).all()
    assert netweight.packed_info_at(packed.address, len(packed)) == ("exact11", 32, 64)
    view = memoryview(packed)
    del packed
    assert view[:8] == b"NWMATRX1"


def test_arguments():
    bits = weights((32, 64))
    packed = netweight.pack_matrix(bits, (32, 64))
    out = numpy.empty_like(bits)
    invalid = netweight.InvalidArgument
    for error, part, call in [
        (invalid, "do not fill the shape", lambda: netweight.pack_matrix(bits, (32, 65))),
        (invalid, "without weights", lambda: netweight.pack_matrix(b"", (0, 65))),
        (invalid, "no layout", lambda: netweight.pack_matrix(bits, (32, 64), "bf16")),
        (invalid, "no such rows", lambda: netweight.unpack_matrix(packed, out, (0, 33))),
        (invalid, "no such rows", lambda: netweight.unpack_matrix(packed, out, (3, 2))),
        (invalid, "out has 4096 bytes", lambda: netweight.unpack_matrix(packed, out, (0, 31))),
        (BufferError, "read-only", lambda: netweight.unpack_matrix(packed, bytes(4096))),
        (BufferError, "contiguous", lambda: netweight.unpack_matrix(packed, out[:, ::2])),
        (BufferError, "contiguous", lambda: netweight.pack_matrix(bits.T, (64, 32))),
        (invalid, "2-D bf16", lambda: netweight.numpy.pack_matrix(bits[0])),
        (invalid, "2-D bf16", lambda: netweight.numpy.pack_matrix(bits.astype("float32"))),
        (ValueError, "no memory", lambda: netweight.pack_matrix_at(0, (32, 64))),
        (OverflowError, "negative", lambda: netweight.pack_matrix(bits, (-1, 64))),
    ]:
        with pytest.raises(error, match=part):
            call()


def test_bytes_of_all_kinds():
    """Untrusted bytes give an error or some weights, never a panic or a crash."""
    bits = weights((40, 96))
    packed = bytes(netweight.pack_matrix(bits, (40, 96)))
    out = numpy.empty_like(bits)
    for length in [0, 1, 63, 64, 100, len(packed) - 1]:
        with pytest.raises(netweight.DamagedError, match="truncated"):
            netweight.unpack_matrix(packed[:length], out)
    with pytest.raises(netweight.DamagedError):
        netweight.packed_info(packed + b"\0")
    with pytest.raises(netweight.DamagedError, match="not a packed matrix"):
        netweight.packed_info(bytes(1000))
    random = numpy.random.default_rng(3)
    n_errors = 0
    for at in [*range(400), *random.integers(400, len(packed), 400)]:
        changed = bytearray(packed)
        changed[at] ^= 1 << random.integers(8)
        try:
            netweight.unpack_matrix(changed, out)
        except (netweight.DamagedError, netweight.InvalidArgument):
            n_errors += 1
    assert n_errors > 100


def test_from_archives(bookworm_archive, bookworm_resident):
    expected = netweight.load_file(BOOKWORM, as_uint=True)
    name = next(name for name, tensor in expected.items() if tensor.ndim == 2 and tensor.shape[0] > 100)
    bits = expected[name]
    whole = bytes(netweight.pack_matrix(bits, bits.shape))
    for path in (BOOKWORM, bookworm_archive, bookworm_resident):
        assert bytes(netweight.read_packed(path, name, layout="exact11")) == whole
        other = netweight.read_packed(path, name, layout="exact12", threads=2)
        assert bytes(other) == bytes(netweight.pack_matrix(bits, bits.shape, "exact12"))
        n_rows, n_cols = bits.shape
        for rows, cols in [((16, 80), None), (None, (32, n_cols)), ((5, n_rows - 2), (3, n_cols - 4))]:
            part = numpy.ascontiguousarray(bits[slice(*(rows or (None,))), slice(*(cols or (None,)))])
            packed = netweight.read_packed(path, name, rows=rows, cols=cols)
            out = numpy.empty_like(part)
            netweight.unpack_matrix(packed, out)
            assert (out == part).all(), (rows, cols)
    with netweight.safe_open(bookworm_resident) as file:
        assert bytes(file.read_packed(name)) == whole
        with pytest.raises(netweight.InvalidArgument, match="no such rows or columns"):
            file.read_packed(name, rows=(0, 1 << 40))
        with pytest.raises(netweight.UnknownTensorError):
            file.read_packed("nobody")


def test_what_is_no_matrix(plain):
    for name, part in [("vector", "2-D"), ("wide", "2-D"), ("scalar", "2-D")]:
        with pytest.raises(netweight.InvalidArgument, match=part):
            netweight.read_packed(plain, name)
    path = write_safetensors(plain.parent / "half.safetensors", {"w": ("F16", [16, 32], bytes(1024))})
    with pytest.raises(netweight.InvalidArgument, match="bf16"):
        netweight.read_packed(path, "w")


def test_many_threads_at_once():
    shape = (256, 512)
    bits = [weights(shape, seed) for seed in range(4)]
    packed = [netweight.pack_matrix(one, shape) for one in bits]
    wrong = []

    def unpack(idx):
        out = numpy.empty(shape, "uint16")
        for _ in range(50):
            netweight.unpack_matrix(packed[idx], out, threads=2 + idx % 2)
            if not (out == bits[idx]).all():
                wrong.append(idx)

    threads = [threading.Thread(target=unpack, args=(idx,)) for idx in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
