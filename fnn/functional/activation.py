"""Activations."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.arrays import held_dtype
from fnn.eager import compiled, warn
from fnn.functional.checks import accumulating, array, axis, floating, same_dtype
from fnn.kernels import activation as elementwise
from fnn.kernels import softmax as kernels
from fnn.precision import to_float32, to_lower
from fnn.random import next_key

__all__ = [
    "celu",
    "celu_",
    "elu",
    "elu_",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "leaky_relu",
    "leaky_relu_",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rrelu",
    "rrelu_",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
]

_Function = TypeVar("_Function", bound=Callable[..., jax.Array])

# The fixed point of mean 0 and variance 1, https://arxiv.org/abs/1706.02515
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def _activation(*others: Any, wide: bool = False) -> Callable[[_Function], _Function]:
    """Makes an activation of a formula, which is given floating-point numbers, those of 16 bits in float32.

    Args:
        others: kinds of dtypes that are taken as well; integers and booleans become float32.
        wide: whether autocast has it in float32.
    """

    def of(formula: _Function) -> _Function:
        @compiled
        @functools.wraps(formula)
        def activation(input: Any, *args: Any, **options: Any) -> jax.Array:
            x = array(to_float32(input) if wide else input, "input")
            floating(formula.__name__, x.dtype, *others)
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                x = x.astype(jnp.float32)
            return formula(accumulating(x), *args, **options).astype(x.dtype)

        return cast(_Function, activation)

    return of


def _number(value: Any, dtype: Any) -> Any:
    """A hyperparameter as torch converts it to an integer dtype: cut off, and refused where it is out of range."""
    if not jnp.issubdtype(dtype, jnp.integer):
        return value
    limits = jnp.iinfo(dtype)
    lowest = limits.min if isinstance(value, float) else -limits.max - 1  # integers wrap around in unsigned dtypes
    if not lowest <= value <= limits.max:
        raise RuntimeError(f"value cannot be converted to type {dtype.name} without overflow: {value}")
    return np.asarray(int(value)).astype(dtype)


@compiled
def _above(name: str, input: Any, limit: Any, value: Any) -> jax.Array:
    x = array(input, "input")
    floating(name, x.dtype, jnp.integer)
    y = accumulating(x)
    return jnp.where(y <= _number(limit, x.dtype), _number(value, x.dtype), y).astype(x.dtype)


def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> jax.Array:
    """`x` where it is larger than a threshold, else a value, elementwise.

    Args:
        input: any shape, floating point or integers.
        threshold: the threshold.
        value: what replaces elements that do not exceed it.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for booleans and complex numbers.
        RuntimeError: where a number is out of the range of the input's integers.

    Example:
        >>> import jax.numpy as jnp
        >>> threshold(jnp.array([-1.0, 0.5, 2.0]), 0.5, 9.0).tolist()
        [9.0, 9.0, 2.0]
    """
    return _above("threshold", input, threshold, value)


def relu(input: Any, inplace: bool = False) -> jax.Array:
    """`max(0, x)`, elementwise, with the derivative 0 at 0.

    Args:
        input: any shape, floating point or integers.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for booleans and complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return _above("relu", input, 0, 0)


@compiled
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> jax.Array:
    """`min(max(x, min_val), max_val)`, elementwise, with the derivative 0 at both limits.

    Args:
        input: any shape, floating point or integers.
        min_val, max_val: the limits.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for booleans and complex numbers.
        RuntimeError: where a limit is out of the range of the input's integers.
        ValueError: where min_val is larger than max_val.

    Example:
        >>> import jax.numpy as jnp
        >>> hardtanh(jnp.array([-2.0, 0.5, 2.0])).tolist()
        [-1.0, 0.5, 1.0]
    """
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val, got {min_val} and {max_val}")
    x = array(input, "input")
    floating("hardtanh", x.dtype, jnp.integer)
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        if min_val <= -1:
            raise RuntimeError(f"cannot do hardtanh on an unsigned type with negative limits, got {x.dtype.name}, {min_val}")
        min_val = max(min_val, 0)
    low, high = _number(min_val, x.dtype), _number(max_val, x.dtype)
    y = accumulating(x)
    # Outside, the clip gives the limits and passes NaN on; its own derivative at the limits is not torch's.
    return jnp.where((y > low) & (y < high), y, lax.stop_gradient(jnp.clip(y, low, high))).astype(x.dtype)


def relu6(input: Any, inplace: bool = False) -> jax.Array:
    """`min(max(0, x), 6)`, elementwise, with the derivative 0 at both limits.

    Args:
        input: any shape, floating point or integers.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for booleans and complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> relu6(jnp.array([-2.0, 0.5, 8.0])).tolist()
        [0.0, 0.5, 6.0]
    """
    return hardtanh(input, 0.0, 6.0)


@_activation()
def hardsigmoid(input: Any, inplace: bool = False) -> jax.Array:
    """`min(max(0, x / 6 + 1 / 2), 1)`, elementwise, with the derivative 0 at ±3.

    Args:
        input: any shape, floating point.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> hardsigmoid(jnp.array([-4.0, 0.0, 1.5, 4.0])).tolist()
        [0.0, 0.5, 0.75, 1.0]
    """
    # Beyond ±3 the clip gives 0 and 1, and passes NaN on; its own derivative at the limits is not torch's.
    return jnp.where((input > -3) & (input < 3), input / 6 + 0.5, lax.stop_gradient(jnp.clip(input, 0, 1)))


@_activation()
def hardswish(input: Any, inplace: bool = False) -> jax.Array:
    """`x · hardsigmoid(x)`, elementwise, with the derivative 0 at −3 and 1 at 3.

    Args:
        input: any shape, floating point.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    References:
        Howard et al., Searching for MobileNetV3, https://arxiv.org/abs/1905.02244

    Example:
        >>> import jax.numpy as jnp
        >>> hardswish(jnp.array([-4.0, 1.5, 4.0])).tolist()
        [0.0, 1.125, 4.0]
    """
    return input * hardsigmoid(input)


def _exponential_linear(x: jax.Array, negative: Any, positive: Any, rate: Any) -> jax.Array:
    """`negative · (exp(rate · x) − 1)` for x < 0 and `positive · x` for x > 0.

    At 0 the slope is that of the negative side, and there is no curvature.
    """
    bent = ~(x >= 0)  # NaN too, which has no gradient but NaN
    below = negative * jnp.expm1(jnp.where(bent, x, 0) * rate)
    return jnp.where(bent, below, x * jnp.where(x == 0, negative * rate, positive))


@_activation()
def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """`x` where it is positive, else `alpha · (exp(x) − 1)`, elementwise, with the derivative alpha at 0.

    Args:
        input: any shape, floating point.
        alpha: minus the limit at −∞.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    References:
        Clevert et al., Fast and Accurate Deep Network Learning by Exponential Linear Units,
        https://arxiv.org/abs/1511.07289

    Example:
        >>> import jax.numpy as jnp
        >>> elu(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-0.6321, 2.0]
    """
    return _exponential_linear(input, alpha, 1.0, 1.0)


@_activation()
def selu(input: Any, inplace: bool = False) -> jax.Array:
    """`scale · elu(x, alpha)`, elementwise, with the scale 1.0507... and the alpha 1.6733... that keep mean and variance.

    Args:
        input: any shape, floating point.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, https://arxiv.org/abs/1706.02515

    Example:
        >>> import jax.numpy as jnp
        >>> selu(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-1.1113, 2.1014]
    """
    return _exponential_linear(input, _SELU_ALPHA * _SELU_SCALE, _SELU_SCALE, 1.0)


@_activation()
def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """`x` where it is positive, else `alpha · (exp(x / alpha) − 1)`, elementwise.

    Args:
        input: any shape, floating point.
        alpha: minus the limit at −∞.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.
        RuntimeError: for alpha 0.

    References:
        Barron, Continuously Differentiable Exponential Linear Units, https://arxiv.org/abs/1704.07483

    Example:
        >>> import jax.numpy as jnp
        >>> celu(jnp.array([-1.0, 2.0]), 0.5).round(4).tolist()
        [-0.4323, 2.0]
    """
    if alpha == 0:
        raise RuntimeError("alpha cannot be 0 for celu")
    return _exponential_linear(input, alpha, 1.0, 1.0 / alpha)


@_activation()
def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> jax.Array:
    """`x` where it is positive, else `negative_slope · x`, elementwise, with the derivative negative_slope at 0.

    Args:
        input: any shape, floating point.
        negative_slope: the slope below 0.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> leaky_relu(jnp.array([-1.0, 2.0])).round(4).tolist()
        [-0.01, 2.0]
    """
    return jnp.where(input > 0, input, input * negative_slope)


@compiled
def prelu(input: Any, weight: Any) -> jax.Array:
    """`x` where it is positive, else `weight · x`, elementwise, with the derivative weight at 0.

    Args:
        input: any shape, floating point.
        weight: () or (1,), or (C,) for inputs (N, C, ...).

    Raises:
        NotImplementedError: for other dtypes.
        RuntimeError: where shapes do not fit or dtypes differ.

    References:
        He et al., Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852

    Example:
        >>> import jax.numpy as jnp
        >>> prelu(jnp.array([[-1.0, -1.0, 2.0]]), jnp.array([0.5, 0.25, 0.0])).tolist()
        [[-0.5, -0.25, 2.0]]
    """
    input, weight = to_lower(input, weight)
    x, w = array(input, "input"), array(weight, "weight")
    same_dtype("prelu", input=x, weight=w)
    floating("prelu", x.dtype)
    channels = x.shape[1] if x.ndim > 1 else 1
    if w.ndim > 1 or (w.size != 1 and (w.shape != (channels,) or x.ndim == 0)):
        raise RuntimeError(
            f"prelu: expected a weight that is a scalar or has an element for each of {channels} channels of the input "
            f"{list(x.shape)}, but got shape {list(w.shape)}"
        )
    w = w.reshape(-1, *[1] * (x.ndim - 2)) if w.size != 1 else w.reshape(())
    y = accumulating(x)
    return jnp.where(y > 0, y, y * accumulating(w)).astype(x.dtype)


@_activation()
def rrelu(
    input: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> jax.Array:
    """`x` where it is positive, else `slope · x`, elementwise, with a random slope for each element in training.

    Args:
        input: any shape, floating point.
        lower, upper: slopes are uniform from lower to upper in training, and their mean otherwise.
        training: whether slopes are random.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.
        RuntimeError: where lower is larger than upper, or one is not finite.
        StateError: under plain JAX tracing without a key; see `fnn.rng`.

    References:
        Xu et al., Empirical Evaluation of Rectified Activations in Convolutional Network,
        https://arxiv.org/abs/1505.00853

    Example:
        >>> import jax.numpy as jnp
        >>> rrelu(jnp.array([-1.0, 2.0]), 0.25, 0.75).tolist()
        [-0.5, 2.0]
    """
    if not (math.isfinite(lower) and math.isfinite(upper)):
        raise RuntimeError(f"rrelu: bounds must be finite, got {lower} and {upper}")
    if lower > upper:
        raise RuntimeError(f"Lower bound should be less than or equal to the upper bound, got {lower} and {upper}")
    if not training or input.size == 0:
        return leaky_relu(input, (lower + upper) / 2)
    slope = jax.random.uniform(next_key(), input.shape, input.dtype, lower, upper)
    return jnp.where(input <= 0, input * slope, input)


def relu_(input: Any) -> jax.Array:
    """As `relu`; the result is returned, and the input stays as it is."""
    return relu(input)


def threshold_(input: Any, threshold: float, value: float) -> jax.Array:
    """As `threshold`; the result is returned, and the input stays as it is."""
    return _above("threshold", input, threshold, value)


def hardtanh_(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """As `hardtanh`; the result is returned, and the input stays as it is."""
    return hardtanh(input, min_val, max_val)


def elu_(input: Any, alpha: float = 1.0) -> jax.Array:
    """As `elu`; the result is returned, and the input stays as it is."""
    return elu(input, alpha)


def selu_(input: Any) -> jax.Array:
    """As `selu`; the result is returned, and the input stays as it is."""
    return selu(input)


def celu_(input: Any, alpha: float = 1.0) -> jax.Array:
    """As `celu`; the result is returned, and the input stays as it is."""
    return celu(input, alpha)


def leaky_relu_(input: Any, negative_slope: float = 0.01) -> jax.Array:
    """As `leaky_relu`; the result is returned, and the input stays as it is."""
    return leaky_relu(input, negative_slope)


def rrelu_(input: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> jax.Array:
    """As `rrelu`; the result is returned, and the input stays as it is."""
    return rrelu(input, lower, upper, training)


@_activation()
def glu(input: Any, dim: int = -1) -> jax.Array:
    """`a · sigmoid(b)`, where a and b are the two halves of the input along an axis.

    Args:
        input: any shape but (), floating point, of an even size along the axis.
        dim: the axis.

    Raises:
        IndexError: where the input has no such axis.
        NotImplementedError: for other dtypes.
        RuntimeError: for a scalar or an odd size.

    References:
        Dauphin et al., Language Modeling with Gated Convolutional Networks, https://arxiv.org/abs/1612.08083

    Example:
        >>> import jax.numpy as jnp
        >>> glu(jnp.array([2.0, 4.0, 0.0, 100.0])).tolist()
        [1.0, 4.0]
    """
    if input.ndim == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    along = axis(dim, input.ndim)
    if input.shape[along] % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {along} is size {input.shape[along]}")
    a, b = jnp.split(input, 2, along)
    return a * lax.logistic(b)


@_activation()
def gelu(input: Any, approximate: str = "none") -> jax.Array:
    """`x · Φ(x)`, elementwise, with the distribution function of the normal distribution.

    Args:
        input: any shape, floating point.
        approximate: none, or tanh for `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.

    Raises:
        NotImplementedError: for other dtypes.
        RuntimeError: for another approximation.

    References:
        Hendrycks and Gimpel, Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415

    Example:
        >>> import jax.numpy as jnp
        >>> gelu(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.8413]
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, got {approximate!r}")
    if approximate == "tanh":
        return jax.nn.gelu(input, approximate=True)
    # Half the time of erfc on XLA:CPU, and torch's own form.
    return input * 0.5 * (1 + lax.erf(input * math.sqrt(0.5)))


@_activation()
def logsigmoid(input: Any) -> jax.Array:
    """`log(1 / (1 + exp(−x)))`, elementwise.

    Args:
        input: any shape, floating point.

    Raises:
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> logsigmoid(jnp.array([-100.0, 0.0])).round(4).tolist()
        [-100.0, -0.6931]
    """
    return -elementwise.softplus(-input)


def _shrunk(x: jax.Array, limit: Any, distance: Any) -> jax.Array:
    """Elements beyond ±limit closer to 0 by a distance, else 0, and NaN for NaN, without a gradient."""
    rounded = jnp.asarray(limit, x.dtype)  # to their dtype, as torch does it
    y = accumulating(x)
    beyond = (x > rounded) | (x < -rounded)
    return jnp.where(beyond, y - jnp.sign(y) * distance, lax.stop_gradient(jnp.where(jnp.isnan(y), y, 0))).astype(x.dtype)


@compiled
def hardshrink(input: Any, lambd: float = 0.5) -> jax.Array:
    """0 from −lambd to lambd, else `x`, elementwise, with the derivative 0 at ±lambd.

    Args:
        input: any shape, floating point.
        lambd: the limit.

    Raises:
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> hardshrink(jnp.array([-2.0, 0.5, 1.0])).tolist()
        [-2.0, 0.0, 1.0]
    """
    x = array(input, "input")
    floating("hardshrink", x.dtype)
    return _shrunk(x, lambd, 0)


@compiled
def softshrink(input: Any, lambd: float = 0.5) -> jax.Array:
    """0 from −lambd to lambd, else `x` closer to 0 by lambd, elementwise, with the derivative 0 at ±lambd.

    Args:
        input: any shape, floating point.
        lambd: the limit, not negative.

    Raises:
        NotImplementedError: for other dtypes.
        RuntimeError: for a negative limit.

    Example:
        >>> import jax.numpy as jnp
        >>> softshrink(jnp.array([-2.0, 0.5, 1.0])).tolist()
        [-1.5, 0.0, 0.5]
    """
    x = array(input, "input")
    floating("softshrink", x.dtype)
    if not lambd >= 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}")
    return _shrunk(x, lambd, lambd)


@_activation(jnp.complexfloating, jnp.integer)
def tanhshrink(input: Any) -> jax.Array:
    """`x − tanh(x)`, elementwise.

    Args:
        input: any shape, floating point or complex; integers become float32.

    Raises:
        NotImplementedError: for booleans.

    Example:
        >>> import jax.numpy as jnp
        >>> tanhshrink(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.2384]
    """
    return input - jnp.tanh(input)


@_activation(jnp.complexfloating, jnp.integer)
def softsign(input: Any) -> jax.Array:
    """`x / (1 + |x|)`, elementwise.

    Args:
        input: any shape, floating point or complex; integers become float32.

    Raises:
        NotImplementedError: for booleans.

    Example:
        >>> import jax.numpy as jnp
        >>> softsign(jnp.array([-1.0, 3.0])).tolist()
        [-0.5, 0.75]
    """
    # As torch's absolute value, this one has the derivative 0 at 0.
    size = jnp.abs(input) if jnp.iscomplexobj(input) else input * jnp.sign(input)
    return input / (1 + size)


@_activation(wide=True)
def softplus(input: Any, beta: float = 1, threshold: float = 20) -> jax.Array:
    """`log(1 + exp(beta · x)) / beta`, elementwise.

    Args:
        input: any shape, floating point.
        beta: the larger, the sharper the bend at 0.
        threshold: where beta · x is larger, the result is x.

    Raises:
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> softplus(jnp.array([0.0, 100.0])).round(4).tolist()
        [0.6931, 100.0]
    """
    scaled = input * beta
    return jnp.where(scaled > threshold, input, elementwise.softplus(scaled) / beta)


def _get_softmax_dim(name: str, ndim: int, stacklevel: int) -> int:
    """The axis where none is given, with the warning that this is deprecated."""
    dim = 0 if ndim in (0, 1, 3) else 1
    warn(f"Implicit dimension choice for {name} has been deprecated; pass dim={dim}.", stacklevel=stacklevel)
    return dim


def _softmax(
    name: str, function: Callable[..., jax.Array], input: jax.Array, dim: int | None, stacklevel: int, dtype: Any
) -> jax.Array:
    if dim is None:
        dim = _get_softmax_dim(name, input.ndim, stacklevel + 1)
    if dtype is None:
        input = to_float32(input)
    else:
        real = jnp.iscomplexobj(input) and not jnp.issubdtype(dtype, jnp.complexfloating)
        input = (input.real if real else input).astype(held_dtype(dtype))
    floating(name, input.dtype)
    along = axis(dim, input.ndim)
    return function(accumulating(jnp.atleast_1d(input)), axis=along).reshape(input.shape).astype(input.dtype)


@compiled
def softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    """`exp(x) / Σ exp(x)` along an axis.

    Args:
        input: any shape, floating point.
        dim: the axis; by default, which torch deprecates, 0 for inputs of 0, 1 or 3 axes and 1 for others.
        dtype: what to convert the input to first, in which the result is.

    Raises:
        IndexError: where the input has no such axis.
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> softmax(jnp.array([[0.0, 0.0], [0.0, 100.0]]), dim=1).tolist()
        [[0.5, 0.5], [0.0, 1.0]]
    """
    return _softmax("softmax", kernels.softmax, array(input, "input"), dim, _stacklevel, dtype)


@compiled
def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    """`softmax(−x)` along an axis.

    Args:
        input, dim, dtype: as for `softmax`.

    Raises:
        IndexError: where the input has no such axis.
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> softmin(jnp.array([[0.0, 0.0], [0.0, 100.0]]), dim=1).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    x = array(input, "input")
    floating("softmin", x.dtype, jnp.integer, jnp.complexfloating)
    return _softmax("softmin", kernels.softmax, -x, dim, _stacklevel, dtype)


@compiled
def log_softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    """`log(softmax(x))` along an axis.

    Args:
        input, dim, dtype: as for `softmax`.

    Raises:
        IndexError: where the input has no such axis.
        NotImplementedError: for other dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> log_softmax(jnp.zeros((1, 2)), dim=1).round(4).tolist()
        [[-0.6931, -0.6931]]
    """
    return _softmax("log_softmax", kernels.log_softmax, array(input, "input"), dim, _stacklevel, dtype)


def gumbel_softmax(logits: Any, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> jax.Array:
    """`softmax((logits + g) / tau)` along an axis, with random g of the Gumbel distribution.

    Args:
        logits: any shape, floating point: unnormalized log-probabilities.
        tau: the temperature.
        hard: return 1 for the largest along the axis and 0 for the others, with the gradient of the softmax.
        eps: without effect; deprecated.
        dim: the axis.

    Raises:
        IndexError: where there is no such axis, or it is empty and hard is asked for.
        RuntimeError: for other dtypes.
        StateError: under plain JAX tracing without a key; see `fnn.rng`.

    References:
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, https://arxiv.org/abs/1611.01144
        Maddison et al., The Concrete Distribution, https://arxiv.org/abs/1611.00712

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     gumbel_softmax(jnp.array([0.0, 100.0]), hard=True).tolist()
        [0.0, 1.0]
    """
    if eps != 1e-10:
        warnings.warn("The eps of gumbel_softmax is deprecated and has no effect.", UserWarning, stacklevel=2)
    x = array(to_float32(logits), "logits")
    floating("gumbel_softmax", x.dtype)
    along = axis(dim, x.ndim)
    y = accumulating(jnp.atleast_1d(x))
    if hard and y.shape[along] == 0:
        raise IndexError(f"gumbel_softmax: expected dimension {along} to have non-zero size, got {list(x.shape)}")
    out = kernels.softmax((y + jax.random.gumbel(next_key(), y.shape, y.dtype)) / tau, axis=along)
    if hard:
        largest = jax.nn.one_hot(jnp.argmax(out, along), y.shape[along], dtype=y.dtype, axis=along)
        out = largest + (out - lax.stop_gradient(out))
    return out.reshape(x.shape).astype(x.dtype)


@_activation(jnp.complexfloating, jnp.integer, jnp.bool_)
def tanh(input: Any) -> jax.Array:
    """`(exp(x) − exp(−x)) / (exp(x) + exp(−x))`, elementwise.

    Args:
        input: any shape, floating point or complex; integers and booleans become float32.

    Example:
        >>> import jax.numpy as jnp
        >>> tanh(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.7616]
    """
    return jnp.tanh(input)


@_activation(jnp.complexfloating, jnp.integer, jnp.bool_)
def sigmoid(input: Any) -> jax.Array:
    """`1 / (1 + exp(−x))`, elementwise.

    Args:
        input: any shape, floating point or complex; integers and booleans become float32.

    Example:
        >>> import jax.numpy as jnp
        >>> sigmoid(jnp.array([-100.0, 0.0])).tolist()
        [0.0, 0.5]
    """
    return lax.logistic(input)


@_activation(jnp.complexfloating)
def silu(input: Any, inplace: bool = False) -> jax.Array:
    """`x · sigmoid(x)`, elementwise.

    Args:
        input: any shape, floating point or complex.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    References:
        Elfwing et al., Sigmoid-Weighted Linear Units, https://arxiv.org/abs/1702.03118

    Example:
        >>> import jax.numpy as jnp
        >>> silu(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.7311]
    """
    return elementwise.silu(input)


@_activation()
def mish(input: Any, inplace: bool = False) -> jax.Array:
    """`x · tanh(log(1 + exp(x)))`, elementwise.

    Args:
        input: any shape, floating point.
        inplace: accepted, and changes nothing.

    Raises:
        NotImplementedError: for other dtypes.

    References:
        Misra, Mish: A Self Regularized Non-Monotonic Activation Function, https://arxiv.org/abs/1908.08681

    Example:
        >>> import jax.numpy as jnp
        >>> mish(jnp.array([0.0, 1.0])).round(4).tolist()
        [0.0, 0.8651]
    """
    return elementwise.mish(input)
