"""Makes transformers know the method."""

from __future__ import annotations

from netweight.format import METHOD


def register() -> None:
    """Registers config and quantizer; a second time does nothing."""
    from transformers.quantizers import auto

    from netweight.transformers.config import NetweightConfig
    from netweight.transformers.quantizer import NetweightHfQuantizer

    auto.AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, NetweightConfig)
    auto.AUTO_QUANTIZER_MAPPING.setdefault(METHOD, NetweightHfQuantizer)
    known = getattr(auto, "LOADING_ATTRIBUTES_CONFIG_TYPES", None)  # Whose attributes a caller may change.
    if known is not None and NetweightConfig not in known:
        auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*known, NetweightConfig)
