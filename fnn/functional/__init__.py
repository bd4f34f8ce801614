"""The pure floor, `torch.nn.functional`: arrays in, arrays out.

Functions take jax arrays, numpy arrays, and Parameters and Buffers. Arrays are immutable, so `inplace=` changes nothing:
the result is returned.
"""

from fnn.functional.activation import *
from fnn.functional.activation import __all__ as _activation
from fnn.functional.attention import *
from fnn.functional.attention import __all__ as _attention
from fnn.functional.batchnorm import *
from fnn.functional.batchnorm import __all__ as _batchnorm
from fnn.functional.channelshuffle import *
from fnn.functional.channelshuffle import __all__ as _channelshuffle
from fnn.functional.conv import *
from fnn.functional.conv import __all__ as _conv
from fnn.functional.cross_entropy import *
from fnn.functional.cross_entropy import __all__ as _cross_entropy
from fnn.functional.ctc import *
from fnn.functional.ctc import __all__ as _ctc
from fnn.functional.distance import *
from fnn.functional.distance import __all__ as _distance
from fnn.functional.dropout import *
from fnn.functional.dropout import __all__ as _dropout
from fnn.functional.fold import *
from fnn.functional.fold import __all__ as _fold
from fnn.functional.instancenorm import *
from fnn.functional.instancenorm import __all__ as _instancenorm
from fnn.functional.linear import *
from fnn.functional.linear import __all__ as _linear
from fnn.functional.loss import *
from fnn.functional.loss import __all__ as _loss
from fnn.functional.margin import *
from fnn.functional.margin import __all__ as _margin
from fnn.functional.multihead_attention import *
from fnn.functional.multihead_attention import __all__ as _multihead_attention
from fnn.functional.normalization import *
from fnn.functional.normalization import __all__ as _normalization
from fnn.functional.padding import *
from fnn.functional.padding import __all__ as _padding
from fnn.functional.pixelshuffle import *
from fnn.functional.pixelshuffle import __all__ as _pixelshuffle
from fnn.functional.pooling import *
from fnn.functional.pooling import __all__ as _pooling
from fnn.functional.rnn import *
from fnn.functional.rnn import __all__ as _rnn
from fnn.functional.sparse import *
from fnn.functional.sparse import __all__ as _sparse
from fnn.functional.upsampling import *
from fnn.functional.upsampling import __all__ as _upsampling
from fnn.functional.vision import *
from fnn.functional.vision import __all__ as _vision

__all__ = [
    *_activation,
    *_attention,
    *_batchnorm,
    *_channelshuffle,
    *_conv,
    *_cross_entropy,
    *_ctc,
    *_distance,
    *_dropout,
    *_fold,
    *_instancenorm,
    *_linear,
    *_loss,
    *_margin,
    *_multihead_attention,
    *_normalization,
    *_padding,
    *_pixelshuffle,
    *_pooling,
    *_rnn,
    *_sparse,
    *_upsampling,
    *_vision,
]
