"""The pure floor, `torch.nn.functional`: arrays in, arrays out.

Functions take jax arrays, numpy arrays, and Parameters and Buffers. Arrays are immutable, so `inplace=` changes nothing:
the result is returned.
"""

from fnn.functional.activation import gelu, log_softmax, relu
from fnn.functional.batchnorm import batch_norm
from fnn.functional.conv import conv1d, conv2d, conv3d
from fnn.functional.dropout import dropout
from fnn.functional.linear import linear
from fnn.functional.loss import cross_entropy, mse_loss
from fnn.functional.normalization import layer_norm
from fnn.functional.padding import pad
from fnn.functional.pooling import adaptive_avg_pool2d, max_pool1d, max_pool2d, max_pool3d
from fnn.functional.sparse import embedding

__all__ = [
    "adaptive_avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv3d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "pad",
    "relu",
]
