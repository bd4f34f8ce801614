"""The layers, one file a family, named as torch's."""

from fnn.nn.modules.activation import GELU, ReLU
from fnn.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from fnn.nn.modules.container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from fnn.nn.modules.conv import Conv1d, Conv2d, Conv3d
from fnn.nn.modules.dropout import Dropout
from fnn.nn.modules.flatten import Flatten
from fnn.nn.modules.linear import Identity, Linear
from fnn.nn.modules.loss import CrossEntropyLoss, MSELoss
from fnn.nn.modules.module import Module
from fnn.nn.modules.normalization import LayerNorm
from fnn.nn.modules.pooling import AdaptiveAvgPool2d, MaxPool1d, MaxPool2d, MaxPool3d
from fnn.nn.modules.sparse import Embedding

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "ReLU",
    "Sequential",
]
