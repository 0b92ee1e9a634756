"""The `quantization_config` of an archive's config.json."""

from __future__ import annotations

from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from netweight.format import METHOD, check_format


class NetweightConfig(QuantizationConfigMixin):
    """Says that weights are to stay packed in memory. Also for a checkpoint that is no archive: packs it while loading.

    Args:
        format: that of the archive.
        modules_to_not_convert: parts of the names of parameters that are to be unpacked once, while loading.
        dequantize: unpack all of them, for a model like any other.

    Raises:
        ValueError: the archive is newer than this version, or the configuration is none.
    """

    def __init__(
        self,
        format: int = 1,
        modules_to_not_convert: list[str] | None = None,
        dequantize: bool = False,
        **unknown: Any,
    ) -> None:
        unknown.pop("quant_method", None)
        self.quant_method = METHOD
        self.format = check_format(format)
        self.modules_to_not_convert = modules_to_not_convert
        self.dequantize = dequantize

    def to_dict(self) -> dict[str, Any]:
        """What belongs into config.json: what differs from the default, and the format."""
        fields = {"quant_method": METHOD, "format": self.format}
        if self.modules_to_not_convert:
            fields["modules_to_not_convert"] = self.modules_to_not_convert
        return fields

    def get_loading_attributes(self) -> dict[str, Any]:
        """What `from_pretrained(archive, quantization_config=...)` changes."""
        return {"modules_to_not_convert": self.modules_to_not_convert, "dequantize": self.dequantize}
