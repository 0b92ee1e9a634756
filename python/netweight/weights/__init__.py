"""Tensors that hold their elements packed, for whoever computes with torch."""

from netweight.weights import shortcuts
from netweight.weights.packed_weight import PackedWeight
from netweight.weights.scratch import release_scratch, scratch_bytes
from netweight.weights.store import Store

shortcuts.enter()

__all__ = ["PackedWeight", "Store", "release_scratch", "scratch_bytes"]
