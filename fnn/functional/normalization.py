"""Normalization over features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.functional.checks import accumulating, array, floating, same_parameters

__all__ = ["layer_norm"]


def layer_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> jax.Array:
    """Normalizes the last axes to mean 0 and variance 1: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.

    Args:
        input: (*, *normalized_shape).
        normalized_shape: the sizes of the last axes.
        weight: of shape normalized_shape, or None.
        bias: of shape normalized_shape, or None.
        eps: added to the variance.

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ; parameters of a 16-bit input may be float32.

    References:
        Ba, Kiros and Hinton, Layer Normalization, https://arxiv.org/abs/1607.06450

    Example:
        >>> import jax.numpy as jnp
        >>> layer_norm(jnp.array([1.0, 3.0]), (2,)).round(3).tolist()
        [-1.0, 1.0]
    """
    x, shape = array(input, "input"), tuple(normalized_shape)
    floating("layer_norm", x.dtype)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got ()"
        )
    if x.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], but got input "
            f"of size{list(x.shape)}"
        )
    w, b = (None if part is None else array(part, "weight") for part in (weight, bias))
    for name, part in (("weight", w), ("bias", b)):
        if part is not None and part.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape {part.shape} and {shape}"
            )
    same_parameters("layer_norm", x, weight=w, bias=b)
    axes = tuple(range(-len(shape), 0))
    wide = accumulating(x)
    centred = wide - wide.mean(axes, keepdims=True)
    y = centred * lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + eps)
    if w is not None:
        y = y * w
    if b is not None:
        y = y + b
    return y.astype(x.dtype)
