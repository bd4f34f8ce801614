"""Tools around layers, `torch.nn.utils`."""

from fnn.nn.utils import parametrizations, parametrize, prune, rnn, stateless
from fnn.nn.utils.clip_grad import clip_grad_norm, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from fnn.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters
from fnn.nn.utils.fusion import *
from fnn.nn.utils.fusion import __all__ as _fusion
from fnn.nn.utils.init import skip_init
from fnn.nn.utils.memory_format import *
from fnn.nn.utils.memory_format import __all__ as _memory_format
from fnn.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from fnn.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    *_fusion,
    *_memory_format,
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "prune",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "skip_init",
    "spectral_norm",
    "stateless",
    "vector_to_parameters",
    "weight_norm",
]
