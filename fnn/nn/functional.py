"""`import fnn.nn.functional as F`: the functions of `fnn.functional`."""

from fnn.functional import *  # noqa: F403
from fnn.functional import __all__ as __all__
