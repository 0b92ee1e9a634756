"""A bf16 tensor that is packed in memory and unpacked whenever an operation needs its elements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from netweight.weights.ops import OPS
from netweight.weights.scratch import scratch
from netweight.weights.store import Store

aten = torch.ops.aten
SHORTCUTS: dict[Any, Callable[..., Any]] = {}  # Functions of torch that need not go through the dispatcher.
Geometry = tuple[tuple[int, ...], tuple[int, ...], int]  # size, stride, offset, in elements of the unpacked store


class PackedWeight(torch.Tensor):
    """Looks like a bf16 tensor to torch, and gives the very bits of one; only its bytes are packed.

    Views (`weight.t()`, `weight[expert]`) stay packed and unpack their own rows only. Any other operation gets the
    unpacked elements in a scratch that the next one overwrites. Writing in place packs anew, so that whoever merges an
    adapter into its base can. Autograd keeps the packed tensor and unpacks again in the backward pass.
    """

    store: Store
    # Not properties: torch would intercept them.
    is_whole: bool  # Whether this is all of the store, in its order.
    is_traced: bool  # Whether there are no bytes, only what torch.compile knows of them.

    @staticmethod
    def __new__(cls, store: Store, geometry: Geometry | None = None, requires_grad: bool = False) -> PackedWeight:
        size, stride, offset = geometry or whole_geometry(store)  # Tuples of int: they are compared.
        weight: PackedWeight = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            size,
            strides=stride,
            storage_offset=offset,
            dtype=torch.bfloat16,
            device=store.packed.device,
            requires_grad=requires_grad,
        )
        weight.store = store
        weight.is_traced = type(store.packed) is not torch.Tensor
        weight.is_whole = (size, stride, offset) == whole_geometry(store, len(size))
        return weight

    @staticmethod
    def pack(weights: torch.Tensor) -> PackedWeight | None:
        """`weights`, (rows, cols) or (n, rows, cols), packed; None where that would save nothing."""
        store = Store.pack(weights)
        if store is None:
            return None
        return PackedWeight(store, whole_geometry(store, weights.dim()))

    def unpack(self, slot: int | None = None) -> torch.Tensor:
        """The elements as an ordinary tensor: this tensor's shape and strides; in a scratch where `slot` is given.

        Rows of the store that this tensor does not touch are neither decoded nor allocated; but in what torch.compile makes.
        """
        if self.is_traced:
            rows = OPS.unpack_all(self.store.packed, self.store.starts, self.store.rows, self.store.cols)
            return rows.as_strided(self.shape, self.stride(), self.storage_offset())
        cols = self.store.cols
        extent = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride(), strict=True)) + 1
        first = self.storage_offset() // cols
        last = -(-(self.storage_offset() + (extent if self.numel() else 0)) // cols)
        shape, device = (max(last - first, 0), cols), self.device
        rows = torch.empty(shape, dtype=self.dtype, device=device) if slot is None else scratch(shape, device, slot)
        self.store.unpack(first, last, rows)
        return rows.as_strided(self.shape, self.stride(), self.storage_offset() - first * cols)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PackedWeight({tuple(self.shape)}, {self.store.packed.numel()} bytes, device={str(self.device)!r})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["packed_bytes"], (self.store.starts, self.store.rows, self.store.cols, geometry_of(self))

    def _stable_hash_for_caching(self) -> str:
        """Of what compiled code depends on; torch asks for it by this name."""
        return repr(self.__tensor_flatten__())

    @property
    def packed_bytes(self) -> torch.Tensor:
        """u8, (bytes,): what this tensor and its views hold together."""
        return self.store.packed

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], meta: Any, size: Any, stride: Any) -> PackedWeight:
        starts, rows, cols, geometry = meta
        return PackedWeight(Store(inner["packed_bytes"], starts, rows, cols), geometry)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As on the CPU, from wherever: GPUs have another layout, and do not check bytes that may be anybody's."""
        here = torch.empty(0, device=self.device)  # `map_location` moves it.
        store = self.store if self.device.type == "cpu" else self.store.to(torch.device("cpu"))
        if store is None:
            return self.unpack().__reduce_ex__(protocol)
        plain = (store.packed, store.starts, store.rows, store.cols)
        return _load, (plain, here, geometry_of(self), self.requires_grad, isinstance(self, torch.nn.Parameter))

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            whole = PackedWeight(_copied(self.store), geometry_of(self), self.requires_grad)
            memo[id(self)] = as_parameter(whole) if isinstance(self, torch.nn.Parameter) else whole
        return memo[id(self)]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            shortcut = SHORTCUTS.get(func)
            if shortcut is not None:
                result = shortcut(*args, **(kwargs or {}))
                if result is not NotImplemented:
                    return result
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        special = SPECIAL.get(func)
        if special is not None:
            result = special(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if is_view(func) and isinstance(args[0], PackedWeight):
            return _view(func, args, kwargs)
        if func._schema.is_mutable:
            return _write(func, args, kwargs)
        slots = count()  # Lists of tensors, as of torch.cat, have any number of them.
        unpacked = tree_map_only(PackedWeight, lambda weight: weight.unpack(next(slots)), (args, kwargs))
        return func(*unpacked[0], **unpacked[1])


def whole_geometry(store: Store, n_dims: int = 0) -> Geometry:
    """(rows, cols) of one matrix, unless 3 dimensions are asked for; else (n, rows, cols)."""
    n = len(store.starts) - 1
    if n == 1 and n_dims != 3:
        return (store.rows, store.cols), (store.cols, 1), 0
    return (n, store.rows, store.cols), (store.rows * store.cols, store.cols, 1), 0


def geometry_of(weight: torch.Tensor) -> Geometry:
    return tuple(weight.shape), tuple(weight.stride()), int(weight.storage_offset())


def as_parameter(weight: PackedWeight) -> torch.nn.Parameter:
    """A frozen parameter: adapters train on top, the packed weights stay."""
    return torch.nn.Parameter(weight, requires_grad=False)


def is_view(func: Any) -> bool:
    """Whether what an operation returns shares its first argument's memory, which it does not write."""
    if func is aten._unsafe_view.default:
        return True  # It does not say so.
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _view(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    weight: PackedWeight = args[0]
    flat = torch.empty(weight.store.n_rows * weight.store.cols, dtype=weight.dtype, device="meta")
    shadow = flat.as_strided(weight.shape, weight.stride(), weight.storage_offset())
    viewed = func(shadow, *args[1:], **kwargs)
    if isinstance(viewed, torch.Tensor) and viewed.dtype != weight.dtype:
        return func(weight.unpack(), *args[1:], **kwargs)  # The bits as another type: of a copy.
    return tree_map_only(torch.Tensor, lambda view: PackedWeight(weight.store, geometry_of(view)), viewed)


def _write(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs an operation that writes to its first argument, and packs what came out."""
    weight = args[0]
    if not isinstance(weight, PackedWeight):
        unpacked = tree_map_only(PackedWeight, lambda other: other.unpack(), (args, kwargs))
        return func(*unpacked[0], **unpacked[1])
    store = weight.store
    rows = torch.empty(store.n_rows, store.cols, dtype=weight.dtype, device=weight.device)
    store.unpack(0, store.n_rows, rows)
    others = tree_map_only(PackedWeight, lambda other: other.unpack(), (args[1:], kwargs))
    func(rows.as_strided(weight.shape, weight.stride(), weight.storage_offset()), *others[0], **others[1])
    packed = Store.pack(rows.view(-1, store.rows, store.cols))
    if packed is None:
        raise RuntimeError(
            f"what {func} wrote to a packed weight does not get smaller by packing: call model.dequantize() first"
        )
    store.packed, store.starts = packed.packed, packed.starts
    return weight


def _load(plain: Any, here: torch.Tensor, geometry: Geometry, requires_grad: bool, parameter: bool) -> torch.Tensor:
    """What was pickled, on the device where `here` is; unpacked where that device would save nothing."""
    packed, *shape = plain
    store, (sizes, strides, offset) = Store(packed.cpu(), *shape), geometry
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min(offset, *sizes, *strides) < 0 or last >= store.n_rows * store.cols:
        raise ValueError("a packed weight that reaches beyond its bytes: the file is damaged")
    weight: torch.Tensor = PackedWeight(store, geometry, requires_grad)
    if here.device.type != "cpu":
        weight = weight.to(here.device)
    if not parameter:
        return weight
    return as_parameter(weight) if isinstance(weight, PackedWeight) else torch.nn.Parameter(weight, requires_grad)


def _copied(store: Store) -> Store:
    return Store(store.packed.clone(), store.starts, store.rows, store.cols)


def _clone(weight: torch.Tensor, *, memory_format: Any = None) -> Any:
    if not isinstance(weight, PackedWeight) or not weight.is_whole:
        return NotImplemented
    return PackedWeight(_copied(weight.store), geometry_of(weight))


def _to(weight: torch.Tensor, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    """Moves to another device; a change of the number format unpacks."""
    if not isinstance(weight, PackedWeight) or dtype not in (None, weight.dtype) or not weight.is_whole:
        return NotImplemented
    target = torch.device(device or weight.device)
    store = weight.store.to(target)
    return weight.unpack().to(target) if store is None else PackedWeight(store, geometry_of(weight))


def _copy(weight: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> Any:
    """`load_state_dict` copies packed to packed without unpacking."""
    if not isinstance(weight, PackedWeight) or not isinstance(src, PackedWeight):
        return NotImplemented
    if not (weight.is_whole and src.is_whole and weight.shape == src.shape):
        return NotImplemented
    moved = src.store.to(weight.device)
    if moved is None:
        return NotImplemented
    weight.store.packed, weight.store.starts = moved.packed, moved.starts
    return weight


def _grouped_mm(
    x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor | None = None, *rest: Any, **more: Any
) -> Any:
    """`F.grouped_mm` that unpacks those experts only that have tokens; on the CPU, where it can be seen which."""
    if not isinstance(weight, PackedWeight) or offs is None or offs.device.type != "cpu":
        return NotImplemented
    store, n = weight.store, len(weight.store.starts) - 1
    if (
        weight.dim() != 3
        or weight.shape[0] != n
        or weight.numel() != store.n_rows * store.cols
        or isinstance(x, PackedWeight)
    ):
        return NotImplemented
    rows = scratch((store.n_rows, store.cols), weight.device)
    ends = offs.tolist()
    for expert, (start, end) in enumerate(pairwise([0, *ends])):
        if start < end:
            span = slice(expert * store.rows, (expert + 1) * store.rows)
            store.unpack(span.start, span.stop, rows[span])
    dense = rows.as_strided(weight.shape, weight.stride(), weight.storage_offset())
    return aten._grouped_mm.default(x, dense, offs, *rest, **more)


torch.serialization.add_safe_globals([_load])  # For torch.load, which by default makes known things only.

SPECIAL: dict[Any, Callable[..., Any]] = {
    aten.clone.default: _clone,
    aten._to_copy.default: _to,
    aten.copy_.default: _copy,
}
if hasattr(aten, "_grouped_mm"):  # torch 2.8 and later
    SPECIAL[aten._grouped_mm.default] = _grouped_mm
