"""`import fnn.nn.functional as F`: the functions of `fnn.functional`, and what model code asks torch's for by private names."""

from fnn.functional import *  # noqa: F403
from fnn.functional import __all__ as __all__
from fnn.nn import _reduction as _Reduction  # noqa: F401
from fnn.nn import grad  # noqa: F401
from fnn.nn.modules.utils import _list_with_default, _pair, _single, _triple  # noqa: F401
