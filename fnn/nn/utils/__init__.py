"""Tools around layers, `torch.nn.utils`."""

from fnn.nn.utils import prune, rnn
from fnn.nn.utils.fusion import *
from fnn.nn.utils.fusion import __all__ as _fusion
from fnn.nn.utils.memory_format import *
from fnn.nn.utils.memory_format import __all__ as _memory_format
from fnn.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from fnn.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    *_fusion,
    *_memory_format,
    "prune",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "spectral_norm",
    "weight_norm",
]
