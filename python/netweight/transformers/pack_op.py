"""The step that transformers 5 runs on each weight after it has read and rearranged it."""

from typing import Any

import torch
from transformers.core_model_loading import ConversionOps

from netweight.transformers.quantizer import packed_parameter


class Pack(ConversionOps):
    """Turns `{name: weight}` into `{name: packed parameter}`."""

    def convert(self, input_dict: dict[str, Any], *, model: Any = None, **kwargs: Any) -> dict[str, torch.nn.Parameter]:
        packed = {}
        for name in list(input_dict):
            value = input_dict.pop(name)
            plain = value[0] if isinstance(value, list) else value
            packed[name] = packed_parameter(plain, name, model.get_parameter(name).shape)
        return packed
