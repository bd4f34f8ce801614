"""The stateful face, `torch.nn`."""

from fnn.nn import functional, init, modules, parameter
from fnn.nn.modules import *
from fnn.nn.modules import __all__ as _layers
from fnn.nn.parameter import Buffer, Parameter

__all__ = [*_layers, "Buffer", "Parameter", "functional", "init", "modules", "parameter"]
