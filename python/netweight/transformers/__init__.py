"""Archives in transformers: `from_pretrained` of an archive keeps its weights packed.

Importing this module registers the quantizer. The wheel does that by itself as soon as transformers is imported,
unless NETWEIGHT_AUTOLOAD=0.
"""

from netweight.transformers.config import NetweightConfig
from netweight.transformers.quantizer import NetweightHfQuantizer
from netweight.transformers.registration import register

register()

__all__ = ["NetweightConfig", "NetweightHfQuantizer", "register"]
