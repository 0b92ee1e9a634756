"""What transformers asks of a quantization method, while it loads and when it saves a model."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging

from netweight.reading import read_archives_in
from netweight.transformers.config import NetweightConfig
from netweight.weights import PackedWeight
from netweight.weights.heap import freed
from netweight.weights.packed_weight import as_parameter

logger = logging.get_logger(__name__)

OLDEST, TESTED = (4, 57), (5, 23)  # Versions of transformers.
SMALLEST = 16 * 32  # weights; a tile. Smaller matrices stay as they are.


class NetweightHfQuantizer(HfQuantizer):
    """Packs each weight matrix as soon as transformers has read it, after whatever it did to names and shapes.

    To transformers this is quantization on the fly, which it does tensor by tensor: the file may be an archive, read
    through `netweight.safe_open`, or an ordinary checkpoint. Nothing is known of architectures, nor any layer replaced.
    """

    requires_calibration = False
    requires_parameters_quantization = True  # transformers 4
    quantization_config: NetweightConfig

    def __init__(self, quantization_config: NetweightConfig, **kwargs: Any) -> None:
        check_version(transformers.__version__)
        super().__init__(quantization_config, **kwargs)
        self.pre_quantized = False  # As far as transformers is concerned: what it reads are ordinary weights.
        from transformers import modeling_utils  # Which imports this module, if indirectly.

        read_archives_in(modeling_utils)

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        places = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
        if "disk" in places:
            raise ValueError("packed weights cannot be offloaded to disk: take 'disk' out of device_map")

    def update_dtype(self, dtype: torch.dtype | None) -> torch.dtype:
        if dtype not in (None, torch.bfloat16):
            logger.warning(
                f"netweight: weights stay packed in bfloat16 only, so that with dtype={dtype} the model takes the "
                "memory of unpacked weights; leave out dtype, or say dtype=torch.bfloat16"
            )
        return torch.bfloat16 if dtype is None else dtype

    def update_torch_dtype(self, dtype: torch.dtype | None) -> torch.dtype:
        return self.update_dtype(dtype)

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter is a matrix, or one of experts, to be packed."""
        if self.quantization_config.dequantize:
            return False
        if any(part in param_name for part in self.quantization_config.modules_to_not_convert or ()):
            return False
        path, _, name = param_name.rpartition(".")
        module = model.get_submodule(path)
        weight = module._parameters.get(name)
        if weight is None or isinstance(module, torch.nn.modules.conv._ConvNd):
            return False
        return weight.dim() in (2, 3) and weight.numel() >= SMALLEST

    def get_quantize_ops(self) -> Any:
        from netweight.transformers.pack_op import Pack

        return Pack()

    def create_quantized_param(
        self, model: Any, param_value: torch.Tensor, param_name: str, target_device: Any, *args: Any, **kwargs: Any
    ) -> None:
        """transformers 4: packs a parameter and puts it into the model."""
        path, _, name = param_name.rpartition(".")
        module = model.get_submodule(path)
        plain = param_value.to(target_device)
        setattr(module, name, packed_parameter(plain, param_name, module._parameters[name].shape))

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        return model  # transformers 4 wants to have it.

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self.quantization_config.dequantize:
            self.remove_quantization_config(model)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """Unpacks every weight; tied ones stay tied."""
        plain: dict[int, torch.nn.Parameter] = {}
        for module in model.modules():
            for name, weight in list(module._parameters.items()):
                if isinstance(weight, PackedWeight):
                    if id(weight) not in plain:
                        plain[id(weight)] = torch.nn.Parameter(weight.unpack(), requires_grad=weight.requires_grad)
                    module._parameters[name] = plain[id(weight)]
        return model

    def get_state_dict_and_metadata(
        self, model: Any, *args: Any
    ) -> tuple[dict[str, torch.Tensor] | None, dict[str, str]]:
        """For `save_pretrained`: an ordinary checkpoint, which any program reads, and which is packed when loaded."""
        if getattr(model, "_hf_peft_config_loaded", False):
            return None, {}  # Adapters alone are saved.
        plain: dict[int, torch.Tensor] = {}
        state = {}
        for name, weight in model.state_dict(keep_vars=True).items():
            if isinstance(weight, PackedWeight):
                if id(weight) not in plain:
                    plain[id(weight)] = weight.unpack()
                state[name] = plain[id(weight)]
            else:
                state[name] = weight.detach()
        return state, {}

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # Adapters; the packed weights are frozen.

    @property
    def is_compileable(self) -> bool:
        return True


def check_version(version: str) -> None:
    """Refuses what is too old; says of what is newer than tested that it is.

    Raises:
        ImportError: with the version that is needed.
    """
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < OLDEST:
        raise ImportError(
            f"netweight needs transformers {OLDEST[0]}.{OLDEST[1]} or newer, here is {version}: "
            "`pip install --upgrade transformers`"
        )
    if found > TESTED:
        logger.info(f"netweight was tested with transformers up to {TESTED[0]}.{TESTED[1]}, here is {version}")


def packed_parameter(plain: torch.Tensor, name: str, shape: torch.Size) -> torch.nn.Parameter:
    """`plain` packed, or as it is where packing saves nothing.

    Raises:
        ValueError: it has not the shape that config.json asks for.
    """
    if plain.shape != shape:
        raise ValueError(
            f"{name}: the checkpoint has shape {tuple(plain.shape)}, config.json asks for {tuple(shape)}: "
            "they do not belong together"
        )
    packed = PackedWeight.pack(plain)
    freed(plain.numel() * plain.element_size() if plain.device.type == "cpu" else 0)
    if packed is None:
        return torch.nn.Parameter(plain, requires_grad=plain.is_floating_point())
    return as_parameter(packed)
