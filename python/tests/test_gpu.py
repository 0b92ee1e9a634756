"""Matrices packed for a GPU, on an emulated one: NETWEIGHT_STUBS is the folder of a libcuda.so.1 that emulates it."""

import os
import subprocess
import sys

import pytest

STUBS = os.environ.get("NETWEIGHT_STUBS")

PROGRAM = """
import numpy as np
from netweight import GpuError, InvalidArgument, _netweight

def aligned(n_bytes):
    whole = np.zeros(n_bytes + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + n_bytes]

def place(array):
    return array.ctypes.data, array.nbytes

random = np.random.default_rng()
for rows, cols in [(64, 256), (45, 500), (100, 1000), (1, 1000), (33, 64)]:
    floats = random.standard_normal((rows, cols)).astype(np.float32)
    matrix = np.ascontiguousarray((floats.view(np.uint32) >> 16).astype(np.uint16))
    buffer = _netweight.gpu_pack_at(0, matrix.ctypes.data, (rows, cols))
    if rows in (1, 33):
        assert buffer is None  # Tiles have 16 rows and 64 columns: filled up, that is no smaller.
        continue
    packed = np.frombuffer(buffer, np.uint8)
    assert packed.nbytes < matrix.nbytes and packed.nbytes % 64 == 0
    for start, stop in [(0, rows), (16, rows), (16, 17)]:
        shape = _netweight.gpu_padded(stop - start, cols)
        out = aligned(2 * shape[0] * shape[1]).view(np.uint16).reshape(shape)
        _netweight.gpu_unpack_at(0, 0, place(packed), (rows, cols), (start, stop), place(out))
        assert (out[: stop - start, :cols] == matrix[start:stop]).all()
    tokens = np.array([rows - 1, 0, 17], np.int32)
    out, wide = np.zeros((3, cols), np.uint16), np.zeros((3, cols), np.float32)
    outs = (out.ctypes.data, wide.ctypes.data)
    _netweight.gpu_embed_at(0, 0, place(packed), (rows, cols), (tokens.ctypes.data, 3), outs)
    assert (out == matrix[tokens]).all()
    stride = cols + -cols % 8
    x = aligned(3 * stride * 2).view(np.uint16).reshape(3, stride)
    x[:, :cols] = random.integers(0x3E00, 0x4000, (3, cols))
    out = np.zeros((3, rows), np.float32)
    _netweight.gpu_linear_at(0, 0, place(packed), (rows, cols), (x.ctypes.data, stride, 3), out.ctypes.data)
    widened = [(a.astype(np.uint32) << 16).view(np.float32).astype(float) for a in (x[:, :cols], matrix)]
    assert np.allclose(out, widened[0] @ widened[1].T, rtol=1e-4, atol=1e-3)
    for error, call in [
        (InvalidArgument, lambda: _netweight.gpu_linear_at(0, 0, place(packed), (rows, cols), (0, cols + 1, 1), 0)),
        (InvalidArgument, lambda: _netweight.gpu_unpack_at(0, 0, place(packed), (rows, cols), (8, 16), place(out))),
        (InvalidArgument, lambda: _netweight.gpu_unpack_at(0, 0, place(packed), (rows, cols), (0, rows), (0, 10))),
        (InvalidArgument, lambda: _netweight.gpu_unpack_at(0, 0, place(packed), (rows, cols), (0, rows + 16), (0, 10**9))),
        (GpuError, lambda: _netweight.gpu_unpack_at(0, 0, (0, 64), (rows, cols), (0, rows), (0, 10**9))),
        (GpuError, lambda: _netweight.gpu_pack_at(9, matrix.ctypes.data, (rows, cols))),
    ]:
        try:
            call()
        except error:
            continue
        raise AssertionError(error)
print("done")
"""


@pytest.mark.skipif(STUBS is None, reason="NETWEIGHT_STUBS does not say where an emulated GPU is")
def test_on_an_emulated_gpu():
    environment = {**os.environ, "LD_LIBRARY_PATH": os.path.join(STUBS, "driver")}
    run = subprocess.run([sys.executable, "-P", "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr


def test_without_a_gpu():
    from netweight import GpuError, _netweight

    with pytest.raises(GpuError, match=r"driver|GPU"):
        _netweight.gpu_pack_at(1000, 1, (16, 64))
