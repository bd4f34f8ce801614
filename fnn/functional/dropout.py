"""Dropout."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, floating
from fnn.random import next_key

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

# selu tends to its negative far below 0
_ALPHA = 1.7580993408473766


def _dropout(input: Any, p: float, training: bool, leading: int | None = None, alpha: bool = False) -> jax.Array:
    """Drops elements or whole channels.

    Args:
        input: any shape.
        p: the probability.
        training: where False, the input is returned.
        leading: how many axes name a channel, whose elements share their fate; all by default.
        alpha: whether dropped elements become −1.758..., and all are scaled and shifted to keep mean 0 and variance 1.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    x = array(input, "input")
    return x if not training or p == 0.0 or x.size == 0 else _dropped(x, p, leading, alpha)


@compiled
def _dropped(x: jax.Array, p: float, leading: int | None, alpha: bool) -> jax.Array:
    if p == 1.0:
        return x * jnp.zeros((), x.dtype)
    leading = x.ndim if leading is None else leading
    if x.ndim < leading:
        raise RuntimeError(f"Feature dropout requires at least 2 dimensions in the input, got {list(x.shape)}")
    floating("dropout", x.dtype)
    keep = jax.random.bernoulli(next_key(), 1.0 - p, x.shape[:leading] + (1,) * (x.ndim - leading))
    # A product, not a choice, so that what is not finite stays seen where it is dropped, as in torch.
    if not alpha:
        return (accumulating(x) * jnp.where(keep, 1.0 / (1.0 - p), 0.0)).astype(x.dtype)
    scale = ((1.0 - p) * (1.0 + p * _ALPHA**2)) ** -0.5
    shift = jnp.where(keep, p * scale * _ALPHA, (p - 1.0) * scale * _ALPHA)
    return (accumulating(x) * jnp.where(keep, scale, 0.0) + shift).astype(x.dtype)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """Sets elements to zero with probability p, and divides the others by 1 − p.

    Args:
        input: any shape.
        p: the probability.
        training: where False, the input is returned.
        inplace: accepted, and changes nothing.

    Raises:
        ValueError: where p is not between 0 and 1.
        NotImplementedError: where something is to be dropped, for other dtypes than floating point.
        StateError: under plain JAX tracing without a key; see `fnn.rng`.

    References:
        Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors,
        https://arxiv.org/abs/1207.0580

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(dropout(jnp.ones(100), 0.75).tolist()))
        [0.0, 4.0]
    """
    return _dropout(input, p, training)


def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """As `dropout2d`, for channels of one axis.

    Args:
        input: (N, C, L) or (C, L).
        p, training, inplace: as for `dropout`.

    Raises:
        RuntimeError: for another number of axes.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(dropout1d(jnp.ones((100, 4))).mean(1).tolist()))
        [0.0, 2.0]
    """
    x = array(input, "input")
    if x.ndim not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, but received a {x.ndim}D input of shape {list(x.shape)}")
    return _dropout(x, p, training, x.ndim - 1)


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """Sets whole channels to zero with probability p, and divides the others by 1 − p.

    Args:
        input: (N, C, H, W). With a warning, inputs of other numbers of axes are taken as (N, C, ...), (C, H, W) too.
        p, training, inplace: as for `dropout`.

    Raises:
        RuntimeError: in training, for inputs of less than two axes; otherwise as `dropout`.

    References:
        Tompson et al., Efficient Object Localization Using Convolutional Networks, https://arxiv.org/abs/1411.4280

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(dropout2d(jnp.ones((10, 10, 2, 2))).mean((2, 3)).flatten().tolist()))
        [0.0, 2.0]
    """
    x = array(input, "input")
    _expect("dropout2d", x, 4)
    return _dropout(x, p, training, 2)


def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """As `dropout2d`, for channels of three axes.

    Args:
        input: (N, C, D, H, W) or (C, D, H, W). With a warning, inputs of other numbers of axes are taken as (C, ...).
        p, training, inplace: as for `dropout`.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(dropout3d(jnp.ones((100, 2, 2, 2))).mean((1, 2, 3)).tolist()))
        [0.0, 2.0]
    """
    x = array(input, "input")
    _expect("dropout3d", x, 4, 5)
    return _dropout(x, p, training, 2 if x.ndim == 5 else 1)


def _expect(name: str, x: jax.Array, *axes: int) -> None:
    if x.ndim not in axes:
        warnings.warn(
            f"{name}: an input of shape {list(x.shape)} is deprecated, expected {' or '.join(f'{n}D' for n in axes)}; use "
            "dropout for elements, or dropout1d for (N, C, L).",
            UserWarning,
            stacklevel=3,
        )


def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> jax.Array:
    """Sets elements to the limit of selu at −∞ with probability p, then scales and shifts all to keep mean 0 and variance 1.

    Args:
        input: any shape.
        p: the probability.
        training: where False, the input is returned.
        inplace: accepted, and changes nothing.

    Raises:
        As `dropout`.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, https://arxiv.org/abs/1706.02515

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(alpha_dropout(jnp.zeros(100), training=True).round(4).tolist()))
        [-0.7792, 0.7792]
    """
    return _dropout(input, p, training, alpha=True)


def feature_alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> jax.Array:
    """As `alpha_dropout`, for whole channels.

    Args:
        input: (N, C, ...).
        p, training, inplace: as for `alpha_dropout`.

    Raises:
        RuntimeError: in training, for inputs of less than two axes; otherwise as `dropout`.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     sorted(set(feature_alpha_dropout(jnp.zeros((10, 10, 2)), training=True).mean(2).round(4).flatten().tolist()))
        [-0.7792, 0.7792]
    """
    return _dropout(input, p, training, 2, alpha=True)
