"""Normalization over features and channels."""

from __future__ import annotations

import numbers
from typing import Any

import jax

from fnn import functional as F
from fnn.functional.normalization import cross_map_lrn2d
from fnn.nn import init
from fnn.nn.modules.function import FunctionModule
from fnn.nn.modules.module import Declared, Module
from fnn.nn.parameter import Parameter

__all__ = ["CrossMapLRN2d", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]

_shape_t = int | list[int] | tuple[int, ...]


class Affine(Module):
    """What normalizations share: a weight of ones and a bias of zeros."""

    weight: Any = Declared("_parameters")
    bias: Any = Declared("_parameters")

    def _declare(self, shape: Any, dtype: Any, **wanted: bool) -> None:
        for name, present in wanted.items():
            self.register_parameter(name, Parameter(init.zeros, shape, dtype) if present else None)

    def reset_parameters(self) -> None:
        """Sets the initial values."""
        for name, fill in (("weight", init.ones_), ("bias", init.zeros_)):
            if self._parameters.get(name) is not None:
                fill(self._parameters[name])


class _FeatureNorm(Affine):
    """What normalizations of the last axes share."""

    def __init__(
        self, normalized_shape: Any, eps: Any, elementwise_affine: bool, device: Any, dtype: Any, **bias: bool
    ) -> None:
        super().__init__()
        self.normalized_shape = (
            (normalized_shape,) if isinstance(normalized_shape, numbers.Integral) else tuple(normalized_shape)
        )
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._declare(self.normalized_shape, dtype, weight=elementwise_affine, **bias)
        self.reset_parameters()
        self._place(device)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LayerNorm(_FeatureNorm):
    """Normalizes the last axes of each sample: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.

    Args:
        normalized_shape: the sizes of the last axes, or of the last one.
        eps: added to the variance.
        elementwise_affine: whether there is a weight.
        bias: whether there is a bias, with the weight.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        (*, *normalized_shape), and the same out.

    Attributes:
        weight: of shape normalized_shape, initially 1.
        bias: of shape normalized_shape, initially 0.

    Raises:
        RuntimeError: by forward, where the input's shape does not fit.

    References:
        Ba, Kiros and Hinton, Layer Normalization, https://arxiv.org/abs/1607.06450

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LayerNorm(2)(jnp.array([1.0, 3.0])).round(3).tolist()
        [-1.0, 1.0]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype, bias=elementwise_affine and bias)

    def forward(self, input: Any) -> jax.Array:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bias={self.bias is not None}"


class RMSNorm(_FeatureNorm):
    """Divides by the root of the mean of the squares over the last axes: `x / √(E[x²] + eps) · weight`.

    Args:
        normalized_shape: the sizes of the last axes, or of the last one.
        eps: added to the mean; by default the machine epsilon of the dtype that it is computed in.
        elementwise_affine: whether there is a weight.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        (*, *normalized_shape), and the same out.

    Attributes:
        weight: of shape normalized_shape, initially 1.

    Raises:
        RuntimeError: by forward, where the input's shape does not fit.

    References:
        Zhang and Sennrich, Root Mean Square Layer Normalization, https://arxiv.org/abs/1910.07467

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.RMSNorm(2)(jnp.array([1.0, 7.0])).round(3).tolist()
        [0.2, 1.4]
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)

    def forward(self, x: Any) -> jax.Array:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(Affine):
    """Normalizes each group of channels of each sample: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.

    Args:
        num_groups: the channels are split in so many groups of neighbours.
        num_channels: C, the size of axis 1.
        eps: added to the variance.
        affine: whether there are a weight and a bias.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.
        bias: whether there is a bias, with the weight.

    Shape:
        (N, C, *), and the same out.

    Attributes:
        weight: (num_channels,), initially 1.
        bias: (num_channels,), initially 0.

    Raises:
        ValueError: where num_channels is not divisible by num_groups; by forward, where there is one value in all.
        RuntimeError: by forward, where the input's shape does not fit.

    References:
        Wu and He, Group Normalization, https://arxiv.org/abs/1803.08494

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.GroupNorm(2, 4)(jnp.array([[1.0, 3.0, 5.0, 9.0]])).round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._declare((num_channels,), dtype, weight=affine, bias=affine and bias)
        self.reset_parameters()
        self._place(device)

    def forward(self, input: Any) -> jax.Array:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"


class LocalResponseNorm(FunctionModule):
    """Divides each value by what its neighbour channels amount to: `x / (k + alpha / size · Σ x²)^beta`.

    Args:
        size: the number of channels in the sum.
        alpha: the factor.
        beta: the exponent.
        k: the term added.

    Shape:
        (N, C, *), and the same out.

    References:
        Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LocalResponseNorm(2, alpha=2.0, beta=1.0)(jnp.array([[[3.0], [1.0]]])).round(2).tolist()
        [[[0.3], [0.09]]]
    """

    _function = F.local_response_norm

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__(size=size, alpha=alpha, beta=beta, k=k)

    def extra_repr(self) -> str:
        return super().extra_repr().removeprefix("size=")


class CrossMapLRN2d(LocalResponseNorm):
    """`LocalResponseNorm` of images with the sums, and their derivative, that torch has under this name.

    For an even size the sum is over `size − 1` channels, and the first channel never leaves the sum again.

    Args:
        size: the number of channels in the sum.
        alpha: the factor.
        beta: the exponent.
        k: the term added.

    Shape:
        (N, C, H, W), and the same out.

    Raises:
        ValueError: by forward, where the input has another number of axes.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.CrossMapLRN2d(1, alpha=2.0, beta=1.0)(jnp.array([[[[3.0]]]])).round(2).tolist()
        [[[[0.16]]]]
    """

    _function = cross_map_lrn2d

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size, alpha, beta, k)
