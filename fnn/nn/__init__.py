"""The stateful face, `torch.nn`."""

from fnn.nn import attention, common_types, functional, grad, init, modules, parallel, parameter, utils
from fnn.nn.modules import *
from fnn.nn.modules import __all__ as _layers
from fnn.nn.parallel import DataParallel
from fnn.nn.parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter

__all__ = [
    *_layers,
    "Buffer",
    "DataParallel",
    "Parameter",
    "UninitializedBuffer",
    "UninitializedParameter",
    "attention",
    "common_types",
    "functional",
    "grad",
    "init",
    "modules",
    "parallel",
    "parameter",
    "utils",
]
