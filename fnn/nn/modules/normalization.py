"""Normalization over features."""

from __future__ import annotations

import numbers
from typing import Any

import jax

from fnn.functional import layer_norm
from fnn.nn import init
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Parameter

__all__ = ["LayerNorm"]


class LayerNorm(Module):
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
        super().__init__()
        self.normalized_shape = (
            (normalized_shape,) if isinstance(normalized_shape, numbers.Integral) else tuple(normalized_shape)
        )
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        for name, wanted in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            self.register_parameter(name, Parameter(init.zeros, self.normalized_shape, dtype) if wanted else None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial values."""
        if self.elementwise_affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def forward(self, input: Any) -> jax.Array:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )
