"""What numpy and torch each do in their own way: allocate a tensor of a dtype, and say where it lies in memory.

A dtype is named as in a safetensors header (``"BF16"``). Both are imported when they are first asked for.
"""

from __future__ import annotations

from typing import Any, Protocol

from ._errors import DtypeError, InvalidArgument


class Framework(Protocol):
    """One of the two."""

    def empty(self, name: str, dtype: str, shape: list[int], n_bytes: int) -> Any:
        """A tensor on the CPU, contiguous, of whatever bytes; ``name`` is for errors."""

    def place(self, tensor: Any) -> tuple[int, int]:
        """Address and length in bytes."""

    def finish(self, tensor: Any) -> Any:
        """The tensor where the user wants it: contiguous, on the device."""


class Numpy:
    """numpy arrays. What numpy has no dtype for comes from ml_dtypes, or as unsigned integers where asked."""

    OWN = {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "C64": "complex64",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
    }
    ML_DTYPES = {
        "BF16": ("bfloat16", "uint16"),
        "F8_E4M3": ("float8_e4m3fn", "uint8"),
        "F8_E5M2": ("float8_e5m2", "uint8"),
        "F8_E4M3FNUZ": ("float8_e4m3fnuz", "uint8"),
        "F8_E5M2FNUZ": ("float8_e5m2fnuz", "uint8"),
        "F8_E8M0": ("float8_e8m0fnu", "uint8"),
    }

    def __init__(self, as_uint: bool = False) -> None:
        import numpy

        self.numpy = numpy
        self.as_uint = as_uint

    def empty(self, name: str, dtype: str, shape: list[int], n_bytes: int) -> Any:
        if dtype in self.OWN:
            return self.numpy.empty(shape, self.OWN[dtype])
        if dtype in self.ML_DTYPES:
            return self.numpy.empty(shape, self.ml_dtype(name, dtype))
        if self.as_uint:
            return self.numpy.empty(packed_shape(dtype, shape) or [n_bytes], "uint8")
        raise DtypeError(f"tensor {name!r} is {dtype}, which numpy has not; as_uint=True gives its bytes")

    def ml_dtype(self, name: str, dtype: str) -> Any:
        own, unsigned = self.ML_DTYPES[dtype]
        if self.as_uint:
            return unsigned
        try:
            import ml_dtypes
        except ImportError:
            raise DtypeError(
                f"tensor {name!r} is {dtype}, which numpy has not itself: pip install ml_dtypes to get it as "
                f"{own}, or pass as_uint=True to get its bits as {unsigned}"
            ) from None
        if not hasattr(ml_dtypes, own):
            raise DtypeError(f"tensor {name!r} is {dtype}, which this ml_dtypes has not; update it")
        return getattr(ml_dtypes, own)

    def place(self, tensor: Any) -> tuple[int, int]:
        return tensor.ctypes.data, tensor.nbytes

    def finish(self, tensor: Any) -> Any:
        if tensor.ndim == 0:
            return tensor.copy()
        return self.numpy.ascontiguousarray(tensor)

    @classmethod
    def name_of(cls, dtype: Any) -> str | None:
        """The dtype's name in a header, if it has one."""
        names = {own: name for name, own in cls.OWN.items()}
        names.update({own: name for name, (own, _) in cls.ML_DTYPES.items()})
        return names.get(dtype.name)


class Torch:
    """torch tensors on any device."""

    NAMES = {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "C64": "complex64",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "F4": "float4_e2m1fn_x2",
    }

    def __init__(self, device: Any = "cpu") -> None:
        import torch

        self.torch = torch
        self.device = torch.device(device) if not isinstance(device, int) else torch.device("cuda", device)

    def empty(self, name: str, dtype: str, shape: list[int], n_bytes: int) -> Any:
        own = getattr(self.torch, self.NAMES.get(dtype, ""), None)
        shape = packed_shape(dtype, shape) or shape
        if own is None or len(shape) > 0 and dtype == "F4" and shape[-1] * 2 == 0:
            raise DtypeError(f"tensor {name!r} is {dtype}, which torch {self.torch.__version__} has not")
        return self.torch.empty(shape, dtype=own)

    def place(self, tensor: Any) -> tuple[int, int]:
        return tensor.data_ptr(), tensor.numel() * tensor.element_size()

    def finish(self, tensor: Any) -> Any:
        tensor = tensor.contiguous()
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    @classmethod
    def name_of(cls, dtype: Any) -> str | None:
        """The dtype's name in a header, if it has one."""
        names = {f"torch.{own}": name for name, own in cls.NAMES.items()}
        return names.get(str(dtype))


def packed_shape(dtype: str, shape: list[int]) -> list[int] | None:
    """Shape in bytes of a dtype that has two values in each; ``None`` for other dtypes and for odd rows."""
    if dtype != "F4" or not shape or shape[-1] % 2 != 0:
        return None
    return [*shape[:-1], shape[-1] // 2]


def framework(name: str, device: Any = "cpu", as_uint: bool = False) -> Framework:
    """The framework of that name, as safetensors spells them."""
    if name in ("np", "numpy"):
        if str(device) != "cpu":
            raise InvalidArgument(f"numpy arrays are on the CPU, not on {device!r}; use framework='pt'")
        return Numpy(as_uint)
    if name in ("pt", "torch", "pytorch"):
        if as_uint:
            raise InvalidArgument("as_uint is for numpy; torch has bf16 and fp8 itself: tensor.view(torch.uint8)")
        return Torch(device)
    raise InvalidArgument(f"{name!r} is no framework that netweight knows: 'numpy' and 'pt' are")
