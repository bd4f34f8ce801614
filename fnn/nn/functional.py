"""`import fnn.nn.functional as F`: the functions of `fnn.functional`, and what model code asks torch's for by private names."""

# ruff: noqa: F401

from fnn.functional import *  # noqa: F403
from fnn.functional import __all__ as __all__
from fnn.functional.activation import _get_softmax_dim
from fnn.functional.batchnorm import _verify_batch_size
from fnn.functional.multihead_attention import (
    _canonical_mask,
    _in_projection,
    _in_projection_packed,
    _mha_shape_check,
    _none_or_dtype,
)
from fnn.nn import _reduction as _Reduction
from fnn.nn import grad
from fnn.nn.modules.utils import _list_with_default, _pair, _single, _triple
