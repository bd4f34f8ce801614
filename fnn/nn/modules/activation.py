"""Activation layers."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from fnn import functional as F
from fnn.nn import init as _init
from fnn.nn.modules.function import FunctionModule
from fnn.nn.modules.module import Module
from fnn.nn.modules.multihead_attention import MultiheadAttention as MultiheadAttention  # where torch has it
from fnn.nn.parameter import Parameter

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _OfInput(FunctionModule):
    """What activations that depend on nothing but the input share: hyperparameters need not be looked up."""

    def forward(self, input: Any) -> Any:
        return self._function(input)


class _Plain(_OfInput):
    """What activations without hyperparameters share."""

    def __init__(self) -> None:
        super().__init__()


class _InPlace(_OfInput):
    """What activations without other hyperparameters than inplace share; it changes nothing."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(inplace=inplace)


class _Exponential(FunctionModule):
    """What ELU and CELU share."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(alpha=alpha, inplace=inplace)


class _Shrink(FunctionModule):
    """What Hardshrink and Softshrink share."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(lambd=lambd)

    def extra_repr(self) -> str:
        return str(self.lambd)


class _Along(FunctionModule):
    """What Softmax and its like share: the axis."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim=dim)


class Threshold(FunctionModule):
    """`x` where it is larger than a threshold, else a value, elementwise.

    Args:
        threshold: the threshold.
        value: what replaces elements that do not exceed it.
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Threshold(0.5, 9.0)(jnp.array([-1.0, 0.5, 2.0])).tolist()
        [9.0, 9.0, 2.0]
    """

    _function = staticmethod(F.threshold)

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__(threshold=threshold, value=value, inplace=inplace)


class ReLU(_InPlace):
    """`max(0, x)`, elementwise.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    _function = staticmethod(F.relu)


class RReLU(FunctionModule):
    """`x` where it is positive, else `slope · x`, elementwise, with a random slope for each element in training.

    Slopes are drawn as the masks of `Dropout`.

    Args:
        lower, upper: slopes are uniform from lower to upper in training, and their mean otherwise.
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Xu et al., Empirical Evaluation of Rectified Activations in Convolutional Network,
        https://arxiv.org/abs/1505.00853

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.RReLU(0.25, 0.75).eval()(jnp.array([-1.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    _function = staticmethod(F.rrelu)

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__(lower=lower, upper=upper, inplace=inplace)

    def forward(self, input: Any) -> jax.Array:
        return F.rrelu(input, training=self.training, **self._chosen())


class Hardtanh(FunctionModule):
    """`min(max(x, min_val), max_val)`, elementwise.

    Args:
        min_val, max_val: the limits.
        inplace: accepted, and changes nothing.
        min_value, max_value: older names of the limits, which torch deprecates.

    Shape:
        (*), and the same out.

    Raises:
        AssertionError: where max_val is not larger than min_val.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Hardtanh()(jnp.array([-2.0, 0.5, 2.0])).tolist()
        [-1.0, 0.5, 1.0]
    """

    _function = staticmethod(F.hardtanh)
    _hyperparameters = ("min_val", "max_val", "inplace")

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        for name, older in (("min", min_value), ("max", max_value)):
            if older is not None:
                warnings.warn(f"argument {name}_value is deprecated and renamed to {name}_val", FutureWarning, stacklevel=2)
        min_val, max_val = min_val if min_value is None else min_value, max_val if max_value is None else max_value
        if max_val <= min_val:
            raise AssertionError(f"max_val ({max_val}) must be greater than min_val ({min_val})")
        super().__init__(min_val=min_val, max_val=max_val, inplace=inplace)


class ReLU6(Hardtanh):
    """`min(max(0, x), 6)`, elementwise.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ReLU6()(jnp.array([-2.0, 0.5, 8.0])).tolist()
        [0.0, 0.5, 6.0]
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Sigmoid(_Plain):
    """`1 / (1 + exp(−x))`, elementwise.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Sigmoid()(jnp.array([-100.0, 0.0])).tolist()
        [0.0, 0.5]
    """

    _function = staticmethod(F.sigmoid)


class Hardsigmoid(_InPlace):
    """`min(max(0, x / 6 + 1 / 2), 1)`, elementwise.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Hardsigmoid()(jnp.array([-4.0, 0.0, 1.5, 4.0])).tolist()
        [0.0, 0.5, 0.75, 1.0]
    """

    _function = staticmethod(F.hardsigmoid)

    def extra_repr(self) -> str:
        return ""


class Tanh(_Plain):
    """`(exp(x) − exp(−x)) / (exp(x) + exp(−x))`, elementwise.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Tanh()(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.7616]
    """

    _function = staticmethod(F.tanh)


class SiLU(_InPlace):
    """`x · sigmoid(x)`, elementwise.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Elfwing et al., Sigmoid-Weighted Linear Units, https://arxiv.org/abs/1702.03118

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.SiLU()(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.7311]
    """

    _function = staticmethod(F.silu)


class Mish(_InPlace):
    """`x · tanh(log(1 + exp(x)))`, elementwise.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Misra, Mish: A Self Regularized Non-Monotonic Activation Function, https://arxiv.org/abs/1908.08681

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Mish()(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.8651]
    """

    _function = staticmethod(F.mish)


class Hardswish(_InPlace):
    """`x · hardsigmoid(x)`, elementwise.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Howard et al., Searching for MobileNetV3, https://arxiv.org/abs/1905.02244

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Hardswish()(jnp.array([-4.0, 1.5, 4.0])).tolist()
        [0.0, 1.125, 4.0]
    """

    _function = staticmethod(F.hardswish)

    def extra_repr(self) -> str:
        return ""


class ELU(_Exponential):
    """`x` where it is positive, else `alpha · (exp(x) − 1)`, elementwise.

    Args:
        alpha: minus the limit at −∞.
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Clevert et al., Fast and Accurate Deep Network Learning by Exponential Linear Units,
        https://arxiv.org/abs/1511.07289

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ELU()(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-0.6321, 2.0]
    """

    _function = staticmethod(F.elu)


class CELU(_Exponential):
    """`x` where it is positive, else `alpha · (exp(x / alpha) − 1)`, elementwise.

    Args:
        alpha: minus the limit at −∞.
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Barron, Continuously Differentiable Exponential Linear Units, https://arxiv.org/abs/1704.07483

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.CELU(0.5)(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-0.4323, 2.0]
    """

    _function = staticmethod(F.celu)


class SELU(_InPlace):
    """`scale · elu(x, alpha)`, elementwise, with the scale 1.0507... and the alpha 1.6733... that keep mean and variance.

    Args:
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, https://arxiv.org/abs/1706.02515

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.SELU()(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-1.1113, 2.1014]
    """

    _function = staticmethod(F.selu)


class GLU(FunctionModule):
    """`a · sigmoid(b)`, where a and b are the two halves of the input along an axis.

    Args:
        dim: the axis.

    Shape:
        (*, 2 · N, *) to (*, N, *).

    References:
        Dauphin et al., Language Modeling with Gated Convolutional Networks, https://arxiv.org/abs/1612.08083

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.GLU()(jnp.array([2.0, 4.0, 0.0, 100.0])).tolist()
        [1.0, 4.0]
    """

    _function = staticmethod(F.glu)

    def __init__(self, dim: int = -1) -> None:
        super().__init__(dim=dim)


class GELU(FunctionModule):
    """`x · Φ(x)`, elementwise, with the distribution function of the normal distribution.

    Args:
        approximate: none, or tanh for an approximation.

    Shape:
        (*), and the same out.

    References:
        Hendrycks and Gimpel, Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.GELU()(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.8413]
    """

    _function = staticmethod(F.gelu)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=approximate)


class Hardshrink(_Shrink):
    """0 from −lambd to lambd, else `x`, elementwise.

    Args:
        lambd: the limit.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Hardshrink()(jnp.array([-2.0, 0.5, 1.0])).tolist()
        [-2.0, 0.0, 1.0]
    """

    _function = staticmethod(F.hardshrink)


class LeakyReLU(FunctionModule):
    """`x` where it is positive, else `negative_slope · x`, elementwise.

    Args:
        negative_slope: the slope below 0.
        inplace: accepted, and changes nothing.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LeakyReLU()(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-0.01, 2.0]
    """

    _function = staticmethod(F.leaky_relu)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(negative_slope=negative_slope, inplace=inplace)


class LogSigmoid(_Plain):
    """`log(1 / (1 + exp(−x)))`, elementwise.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LogSigmoid()(jnp.array([-100.0, 0.0])).round(4).tolist()
        [-100.0, -0.6931]
    """

    _function = staticmethod(F.logsigmoid)


class Softplus(FunctionModule):
    """`log(1 + exp(beta · x)) / beta`, elementwise.

    Args:
        beta: the larger, the sharper the bend at 0.
        threshold: where beta · x is larger, the result is x.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Softplus()(jnp.array([0.0, 100.0])).round(4).tolist()
        [0.6931, 100.0]
    """

    _function = staticmethod(F.softplus)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__(beta=beta, threshold=threshold)


class Softshrink(_Shrink):
    """0 from −lambd to lambd, else `x` closer to 0 by lambd, elementwise.

    Args:
        lambd: the limit, not negative.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Softshrink()(jnp.array([-2.0, 0.5, 1.0])).tolist()
        [-1.5, 0.0, 0.5]
    """

    _function = staticmethod(F.softshrink)


class PReLU(Module):
    """`x` where it is positive, else `weight · x`, elementwise, with a learnable weight.

    Args:
        num_parameters: 1, or C for a weight of each channel.
        init: the initial weight.
        device: where the parameter is; by default where JAX puts arrays.
        dtype: of the parameter.

    Shape:
        (*), or (N, C, *) for C parameters, and the same out.

    Attributes:
        weight: (num_parameters,), initially init.

    References:
        He et al., Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.PReLU()(jnp.array([-1.0, 2.0])).tolist()
        [-0.25, 2.0]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(_init.zeros, (num_parameters,), dtype)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial weight."""
        _init.constant_(self.weight, self.init)

    def forward(self, input: Any) -> jax.Array:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softsign(_Plain):
    """`x / (1 + |x|)`, elementwise.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Softsign()(jnp.array([-1.0, 3.0])).tolist()
        [-0.5, 0.75]
    """

    _function = staticmethod(F.softsign)


class Tanhshrink(_Plain):
    """`x − tanh(x)`, elementwise.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Tanhshrink()(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.2384]
    """

    _function = staticmethod(F.tanhshrink)


class Softmin(_Along):
    """`softmax(−x)` along an axis.

    Args:
        dim: the axis; by default, which torch deprecates, 0 for inputs of 0, 1 or 3 axes and 1 for others.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Softmin(dim=1)(jnp.array([[0.0, 0.0], [0.0, 100.0]])).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """

    _function = staticmethod(F.softmin)


class Softmax(_Along):
    """`exp(x) / Σ exp(x)` along an axis.

    Args:
        dim: the axis; by default, which torch deprecates, 0 for inputs of 0, 1 or 3 axes and 1 for others.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Softmax(dim=1)(jnp.array([[0.0, 0.0], [0.0, 100.0]])).tolist()
        [[0.5, 0.5], [0.0, 1.0]]
    """

    _function = staticmethod(F.softmax)


class Softmax2d(Module):
    """`exp(x) / Σ exp(x)` over the channels of each place.

    Shape:
        (N, C, H, W) or (C, H, W), and the same out.

    Raises:
        ValueError: by forward, for another number of axes.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Softmax2d()(jnp.zeros((4, 1, 2))).tolist()
        [[[0.25, 0.25]], [[0.25, 0.25]], [[0.25, 0.25]], [[0.25, 0.25]]]
    """

    def forward(self, input: Any) -> jax.Array:
        if np.ndim(input) not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {np.ndim(input)}D of shape {np.shape(input)}")
        return F.softmax(input, -3)


class LogSoftmax(_Along):
    """`log(softmax(x))` along an axis.

    Args:
        dim: the axis; by default, which torch deprecates, 0 for inputs of 0, 1 or 3 axes and 1 for others.

    Shape:
        (*), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LogSoftmax(dim=1)(jnp.zeros((1, 2))).round(4).tolist()
        [[-0.6931, -0.6931]]
    """

    _function = staticmethod(F.log_softmax)
