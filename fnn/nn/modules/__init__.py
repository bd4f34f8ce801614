"""The layers, one file a family, named as torch's."""

from fnn.nn.modules.activation import *
from fnn.nn.modules.activation import __all__ as _activation
from fnn.nn.modules.adaptive import *
from fnn.nn.modules.adaptive import __all__ as _adaptive
from fnn.nn.modules.batchnorm import *
from fnn.nn.modules.batchnorm import __all__ as _batchnorm
from fnn.nn.modules.channelshuffle import *
from fnn.nn.modules.channelshuffle import __all__ as _channelshuffle
from fnn.nn.modules.container import *
from fnn.nn.modules.container import __all__ as _container
from fnn.nn.modules.conv import *
from fnn.nn.modules.conv import __all__ as _conv
from fnn.nn.modules.distance import *
from fnn.nn.modules.distance import __all__ as _distance
from fnn.nn.modules.dropout import *
from fnn.nn.modules.dropout import __all__ as _dropout
from fnn.nn.modules.flatten import *
from fnn.nn.modules.flatten import __all__ as _flatten
from fnn.nn.modules.fold import *
from fnn.nn.modules.fold import __all__ as _fold
from fnn.nn.modules.instancenorm import *
from fnn.nn.modules.instancenorm import __all__ as _instancenorm
from fnn.nn.modules.linear import *
from fnn.nn.modules.linear import __all__ as _linear
from fnn.nn.modules.loss import *
from fnn.nn.modules.loss import __all__ as _loss
from fnn.nn.modules.module import Module
from fnn.nn.modules.multihead_attention import *
from fnn.nn.modules.multihead_attention import __all__ as _multihead_attention
from fnn.nn.modules.normalization import *
from fnn.nn.modules.normalization import __all__ as _normalization
from fnn.nn.modules.padding import *
from fnn.nn.modules.padding import __all__ as _padding
from fnn.nn.modules.pixelshuffle import *
from fnn.nn.modules.pixelshuffle import __all__ as _pixelshuffle
from fnn.nn.modules.pooling import *
from fnn.nn.modules.pooling import __all__ as _pooling
from fnn.nn.modules.rnn import *
from fnn.nn.modules.rnn import __all__ as _rnn
from fnn.nn.modules.sparse import *
from fnn.nn.modules.sparse import __all__ as _sparse
from fnn.nn.modules.transformer import *
from fnn.nn.modules.transformer import __all__ as _transformer
from fnn.nn.modules.upsampling import *
from fnn.nn.modules.upsampling import __all__ as _upsampling

__all__ = [
    *_activation,
    *_adaptive,
    *_batchnorm,
    *_channelshuffle,
    *_container,
    *_conv,
    *_distance,
    *_dropout,
    *_flatten,
    *_fold,
    *_instancenorm,
    *_linear,
    *_loss,
    "Module",
    *_multihead_attention,
    *_normalization,
    *_padding,
    *_pixelshuffle,
    *_pooling,
    *_rnn,
    *_sparse,
    *_transformer,
    *_upsampling,
]
