"""Initial values of parameters, as `torch.nn.init`.

Every distribution comes in two forms: a pure initialiser `f(key, shape, dtype)`, such as `uniform(a, b)`, and torch's
in-place function, such as `uniform_(parameter, a, b)`, which makes it the parameter's initialiser. The value is drawn
when it is first looked at.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from fnn.functional.checks import floating
from fnn.nn.handle import Handle, Initializer
from fnn.random import Generator

P = ParamSpec("P")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The recommended gain for a nonlinearity.

    Args:
        nonlinearity: linear, conv1d to conv3d, conv_transpose1d to 3d, sigmoid, tanh, relu, leaky_relu or selu.
        param: the negative slope, for leaky_relu; 0.01 by default.

    Raises:
        ValueError: for any other nonlinearity.

    Example:
        >>> round(calculate_gain("relu"), 4)
        1.4142
    """
    linear = ("linear", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), "sigmoid")
    if nonlinearity in linear:
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) < 2:
        raise ValueError(
            f"Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, got shape {tuple(shape)}"
        )
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _calculate_fan_in_and_fan_out(tensor: Any) -> tuple[int, int]:
    return _fans(tensor.shape)


def _pure(make: Callable[P, Initializer]) -> Callable[P, Initializer]:
    """Refuses a parameter as the first argument: torch once had in-place functions by these names, too."""

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Initializer:
        if args and isinstance(args[0], Handle):
            name = make.__name__
            raise TypeError(f"nn.init.{name} makes an initialiser f(key, shape, dtype); use nn.init.{name}_ to set a parameter")
        return make(*args, **kwargs)

    return checked


def _compiled(draw: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A way to draw, as one function for XLA whatever the numbers of the distribution are.

    It draws in at least float32: in 16 bits there are few random numbers, and no tails.
    """

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def compiled(key: Any, shape: Any, dtype: Any, *numbers: Any) -> jax.Array:
        return draw(key, shape, jnp.promote_types(dtype, jnp.float32), *numbers).astype(dtype)

    return compiled


_uniform = _compiled(jax.random.uniform)
_normal = _compiled(lambda key, shape, dtype, mean, std: mean + std * jax.random.normal(key, shape, dtype))
_truncated = _compiled(
    lambda key, shape, dtype, mean, std, a, b: jnp.clip(
        mean + std * jax.random.truncated_normal(key, (a - mean) / std, (b - mean) / std, shape, dtype), a, b
    )
)


def _drawing(draw: Callable[..., jax.Array], numbers: Callable[[Any], tuple[float, ...]]) -> Initializer:
    """An initialiser, from a way to draw and the numbers that the distribution has for a shape."""

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        floating("nn.init", jnp.dtype(dtype))
        return draw(key, tuple(shape), jnp.dtype(dtype), *numbers(shape))

    return initializer


@_pure
def constant(val: float) -> Initializer:
    """Every element is `val`."""

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jnp.full(shape, val, dtype)

    return initializer


def zeros(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Every element is zero; an initialiser itself, as `jax.nn.initializers.zeros`."""
    return jnp.zeros(shape, dtype)


def ones(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Every element is one; an initialiser itself, as `jax.nn.initializers.ones`."""
    return jnp.ones(shape, dtype)


def _interval(a: float, b: float) -> None:
    if a > b:
        raise RuntimeError(f"expected an interval [a, b], but got a={a} > b={b}")


@_pure
def uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    """Uniform on [a, b)."""
    _interval(a, b)
    return _drawing(_uniform, lambda shape: (a, b))


@_pure
def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Normal with a mean and a standard deviation."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    return _drawing(_normal, lambda shape: (mean, std))


@_pure
def trunc_normal(mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Initializer:
    """Normal with a mean and a standard deviation, restricted to [a, b]."""
    _interval(a, b)
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            f"mean {mean} is more than 2 std {std} from [a, b] = [{a}, {b}] in nn.init.trunc_normal: the distribution of "
            "values may be incorrect.",
            stacklevel=3,
        )
    return _drawing(_truncated, lambda shape: (mean, std, a, b))


@_pure
def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform on ±gain·√(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return _symmetric(lambda shape: gain * math.sqrt(6.0 / sum(_fans(shape))))


@_pure
def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with standard deviation gain·√(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return _centred(lambda shape: gain * math.sqrt(2.0 / sum(_fans(shape))))


@_pure
def kaiming_uniform(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Uniform on ±gain·√(3 / fan) (He et al., 2015)."""
    gain, fan = calculate_gain(nonlinearity, a), _fan_of(mode)
    return _symmetric(lambda shape: math.sqrt(3.0) * gain / math.sqrt(fan(shape)))


@_pure
def kaiming_normal(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Normal with standard deviation gain / √fan (He et al., 2015)."""
    gain, fan = calculate_gain(nonlinearity, a), _fan_of(mode)
    return _centred(lambda shape: gain / math.sqrt(fan(shape)))


def _of_rank(shape: Sequence[int], *ranks: int) -> None:
    if len(shape) not in ranks:
        wanted = ", ".join(map(str, ranks))
        raise ValueError(f"Only tensors with {wanted} dimensions are supported, got shape {tuple(shape)}")


@_pure
def eye() -> Initializer:
    """The identity matrix: a layer that keeps as many inputs as it can."""

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        _of_rank(shape, 2)
        return jnp.eye(shape[0], shape[1], dtype=dtype)

    return initializer


def _out_of_group(shape: Sequence[int], groups: int) -> int:
    _of_rank(shape, 3, 4, 5)
    if shape[0] % groups:
        raise ValueError(f"dim 0 must be divisible by groups, got shape {tuple(shape)} and groups={groups}")
    return shape[0] // groups


@_pure
def dirac(groups: int = 1) -> Initializer:
    """Kernels that are 1 in the middle: a convolution that keeps as many input channels of each group as it can."""

    def initializer(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        out = _out_of_group(shape, groups)
        middle = tuple(size // 2 for size in shape[2:])
        kept = jnp.tile(jnp.eye(out, shape[1], dtype=dtype), (groups, 1))
        return jnp.zeros(shape, dtype).at[(..., *middle)].set(kept)

    return initializer


@_compiled
def _orthogonal(key: Any, shape: Any, dtype: Any, gain: Any) -> jax.Array:
    rows, columns = shape[0], math.prod(shape[1:])
    if not rows or not columns:
        return jnp.zeros(shape, dtype)
    q, r = jnp.linalg.qr(jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype))
    q = q * jnp.sign(jnp.diagonal(r))  # without it, q is not uniformly distributed (Mezzadri, arXiv:math-ph/0609050)
    return gain * (q if rows >= columns else q.T).reshape(shape)


@_pure
def orthogonal(gain: float = 1.0) -> Initializer:
    """A (semi-)orthogonal matrix, of the first axis by all others (Saxe et al., 2013)."""

    def numbers(shape: Any) -> tuple[float, ...]:
        _matrix(shape)
        return (gain,)

    return _drawing(_orthogonal, numbers)


def _matrix(shape: Sequence[int]) -> None:
    if len(shape) < 2:
        raise ValueError(f"Only tensors with 2 or more dimensions are supported, got shape {tuple(shape)}")


@_compiled
def _sparse(key: Any, shape: Any, dtype: Any, zeros: Any, std: Any) -> jax.Array:
    values, order = jax.random.split(key)
    rank = jax.random.permutation(order, jnp.broadcast_to(jnp.arange(shape[0])[:, None], shape), independent=True)
    return jnp.where(rank < zeros, 0, std * jax.random.normal(values, shape, dtype))


@_pure
def sparse(sparsity: float, std: float = 0.01) -> Initializer:
    """Normal, but a share of each column, rounded up, is zero (Martens, 2010)."""

    def numbers(shape: Any) -> tuple[float, ...]:
        _of_rank(shape, 2)
        return math.ceil(sparsity * shape[0]), std

    return _drawing(_sparse, numbers)


def _symmetric(bound: Callable[[Any], float]) -> Initializer:
    return _drawing(_uniform, lambda shape: (-bound(shape), bound(shape)))


def _centred(std: Callable[[Any], float]) -> Initializer:
    return _drawing(_normal, lambda shape: (0.0, std(shape)))


def _is_fan_out(mode: str) -> bool:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return mode == "fan_out"


def _calculate_correct_fan(tensor: Any, mode: str) -> int:
    return _fans(tensor.shape)[_is_fan_out(mode)]


def _fan_of(mode: str) -> Any:
    place = _is_fan_out(mode)
    return lambda shape: max(_fans(shape)[place], 1)  # where it is 0 there is nothing to draw


def _set(tensor: Any, initializer: Initializer, generator: Generator | None = None) -> Any:
    if not isinstance(tensor, Handle):
        raise TypeError(
            f"the in-place functions of nn.init change a Parameter or Buffer, got {type(tensor).__name__}: arrays are "
            "immutable. The form without the underscore is a pure initialiser f(key, shape, dtype)."
        )
    return tensor.initialize(initializer, generator)


def constant_(tensor: Any, val: float) -> Any:
    """Sets every element to `val`; returns the parameter.

    Example:
        >>> import fnn
        >>> constant_(fnn.nn.Linear(2, 1).bias, 0.5).tolist()
        [0.5]
    """
    return _set(tensor, constant(val))


def ones_(tensor: Any) -> Any:
    """Sets every element to one; returns the parameter."""
    return _set(tensor, ones)


def zeros_(tensor: Any) -> Any:
    """Sets every element to zero; returns the parameter."""
    return _set(tensor, zeros)


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Any:
    """Draws from the uniform distribution on [a, b); returns the parameter."""
    return _set(tensor, uniform(a, b), generator)


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Any:
    """Draws from a normal distribution; returns the parameter."""
    return _set(tensor, normal(mean, std), generator)


def trunc_normal_(
    tensor: Any, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Generator | None = None
) -> Any:
    """Draws from a normal distribution restricted to [a, b]; returns the parameter."""
    return _set(tensor, trunc_normal(mean, std, a, b), generator)


def xavier_uniform_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """Draws uniformly with Glorot and Bengio's bound; returns the parameter."""
    _fans(tensor.shape)
    return _set(tensor, xavier_uniform(gain), generator)


def xavier_normal_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """Draws normally with Glorot and Bengio's standard deviation; returns the parameter."""
    _fans(tensor.shape)
    return _set(tensor, xavier_normal(gain), generator)


def _nothing(tensor: Any) -> bool:
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return 0 in tensor.shape


def kaiming_uniform_(
    tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator | None = None
) -> Any:
    """Draws uniformly with He et al.'s bound; returns the parameter."""
    if _nothing(tensor):
        return tensor
    _fans(tensor.shape)
    return _set(tensor, kaiming_uniform(a, mode, nonlinearity), generator)


def kaiming_normal_(
    tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator | None = None
) -> Any:
    """Draws normally with He et al.'s standard deviation; returns the parameter."""
    if _nothing(tensor):
        return tensor
    _fans(tensor.shape)
    return _set(tensor, kaiming_normal(a, mode, nonlinearity), generator)


def eye_(tensor: Any) -> Any:
    """Sets a matrix to the identity; returns the parameter."""
    _of_rank(tensor.shape, 2)
    return _set(tensor, eye())


def dirac_(tensor: Any, groups: int = 1) -> Any:
    """Sets the kernels of a convolution so that it keeps as many input channels of each group as it can; returns the parameter.

    Example:
        >>> import fnn
        >>> dirac_(fnn.nn.Conv1d(2, 2, 3).weight).tolist()
        [[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    _out_of_group(tensor.shape, groups)
    return _set(tensor, dirac(groups))


def orthogonal_(tensor: Any, gain: float = 1, generator: Generator | None = None) -> Any:
    """Draws a (semi-)orthogonal matrix, of the first axis by all others; returns the parameter.

    References:
        Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural networks,
        https://arxiv.org/abs/1312.6120
    """
    _matrix(tensor.shape)
    return _set(tensor, orthogonal(gain), generator)


def sparse_(tensor: Any, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Any:
    """Draws normally, with a share of zeros in each column; returns the parameter.

    References:
        Martens, Deep learning via Hessian-free optimization, ICML 2010
    """
    _of_rank(tensor.shape, 2)
    return _set(tensor, sparse(sparsity, std), generator)


# What nothing here records a gradient of, so that torch's names for that mean the same.
_no_grad_uniform_, _no_grad_normal_, _no_grad_trunc_normal_ = uniform_, normal_, trunc_normal_
_no_grad_fill_, _no_grad_zero_ = constant_, zeros_
