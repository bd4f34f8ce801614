"""Linear layers."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from fnn.functional import bilinear, linear
from fnn.nn import init
from fnn.nn.modules.lazy import LazyModuleMixin
from fnn.nn.modules.module import Declared, Module
from fnn.nn.parameter import Parameter

__all__ = ["Bilinear", "Identity", "LazyLinear", "Linear"]


class Identity(Module):
    """Returns its input.

    Args:
        args: accepted, and unused.
        kwargs: accepted, and unused.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Identity(54, unused=True)(jnp.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """A linear map of the last axis: `y = x Wᵀ + b`.

    Args:
        in_features: the size of the input's last axis.
        out_features: the size of the output's.
        bias: whether there is a bias.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        (*, in_features) to (*, out_features).

    Attributes:
        weight: (out_features, in_features), initially uniform on ±1/√in_features.
        bias: (out_features,), likewise.

    Raises:
        RuntimeError: by forward, where the input's shape does not fit or its dtype differs.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Linear(20, 30)(jnp.ones((128, 20))).shape
        (128, 30)
    """

    weight: Any = Declared("_parameters")
    bias: Any = Declared("_parameters")

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(init.zeros, (out_features, in_features), dtype)
        if bias:
            self.bias = Parameter(init.zeros, (out_features,), dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Any) -> jax.Array:
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """A bilinear map of two last axes: `y_o = x₁ᵀ W_o x₂ + b_o`.

    Args:
        in1_features: the size of the first input's last axis.
        in2_features: the size of the second's.
        out_features: the size of the output's.
        bias: whether there is a bias.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        (*, in1_features) and (*, in2_features) to (*, out_features).

    Attributes:
        weight: (out_features, in1_features, in2_features), initially uniform on ±1/√in1_features.
        bias: (out_features,), likewise.

    Raises:
        ValueError: where in1_features is not positive.
        RuntimeError: by forward, where shapes do not fit or dtypes differ.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Bilinear(20, 30, 40)(jnp.ones((128, 20)), jnp.ones((128, 30))).shape
        (128, 40)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = Parameter(init.zeros, (out_features, in1_features, in2_features), dtype)
        if bias:
            self.bias = Parameter(init.zeros, (out_features,), dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        if self.in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got (in1_features={self.in1_features})")
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Any, input2: Any) -> jax.Array:
        return bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class NonDynamicallyQuantizableLinear(Linear):
    """A `Linear` under the name that torch gives the projection of the output of `MultiheadAttention`."""


class LazyLinear(LazyModuleMixin, Linear):
    """A `Linear` that takes `in_features` from its first input, and is a `Linear` from then on.

    Args:
        out_features: the size of the output's last axis.
        bias: whether there is a bias.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyLinear(30)
        >>> layer(jnp.ones((128, 20))).shape, layer
        ((128, 30), Linear(in_features=20, out_features=30, bias=True))
    """

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(0, 0, False)
        self.out_features = out_features
        self._await(device, dtype, "weight", *["bias"] * bias)

    def initialize_parameters(self, input: Any) -> None:
        """Takes `in_features` from an input of forward."""
        features = np.shape(input)[-1]
        if self.has_uninitialized_params():
            self.in_features = features
            self.weight.materialize((self.out_features, features))
            if self.bias is not None:
                self.bias.materialize((self.out_features,))
            self.reset_parameters()
        if self.in_features == 0:  # a state_dict has been loaded
            if features != self.weight.shape[-1]:
                raise AssertionError(
                    f"The in_features inferred from input: {features} is not equal to in_features from self.weight: "
                    f"{self.weight.shape[-1]}"
                )
            self.in_features = features
