"""Normalization over features and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, axis, floating, integer, same_parameters
from fnn.functional.distance import vector_norm
from fnn.kernels.normalization import moments, normalize_features, root_mean_square_features, standardize
from fnn.precision import to_float32
from fnn.scope import Cell, write

__all__ = ["group_norm", "layer_norm", "local_response_norm", "normalize", "rms_norm"]


def _feature_axes(x: jax.Array, normalized_shape: Any, **parameters: Any) -> tuple[int, ...]:
    """The axes that a normalized_shape names, where it and the parameters fit the input."""
    shape = tuple(integer(size, "normalized_shape") for size in normalized_shape)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got ()"
        )
    for name, part in parameters.items():
        if part is not None and part.shape != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape {part.shape} and {shape}"
            )
    if x.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], but got input "
            f"of size{list(x.shape)}"
        )
    return tuple(range(-len(shape), 0))


@compiled
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
    input, weight, bias = to_float32(input, weight, bias)
    x = array(input, "input")
    floating("layer_norm", x.dtype)
    w, b = (None if part is None else array(part, name) for name, part in (("weight", weight), ("bias", bias)))
    axes = _feature_axes(x, normalized_shape, weight=w, bias=b)
    same_parameters("layer_norm", x, weight=w, bias=b)
    wide = accumulating(x)
    return normalize_features(wide, axes, w, b, eps).astype(x.dtype)


@compiled
def rms_norm(input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> jax.Array:
    """Divides by the root of the mean of the squares over the last axes: `x / √(E[x²] + eps) · weight`.

    Args:
        input: (*, *normalized_shape).
        normalized_shape: the sizes of the last axes.
        weight: of shape normalized_shape, or None; of any dtype.
        eps: added to the mean; by default the machine epsilon of the dtype that it is computed in, which is float32 for
            inputs of 16 bits.

    Raises:
        RuntimeError: where shapes do not fit.

    References:
        Zhang and Sennrich, Root Mean Square Layer Normalization, https://arxiv.org/abs/1910.07467

    Example:
        >>> import jax.numpy as jnp
        >>> rms_norm(jnp.array([1.0, 7.0]), (2,)).round(3).tolist()
        [0.2, 1.4]
    """
    input, weight = to_float32(input, weight)
    x = array(input, "input")
    w = None if weight is None else array(weight, "weight")
    if not jnp.issubdtype(x.dtype, jnp.complexfloating):
        floating("rms_norm", x.dtype)
    axes = _feature_axes(x, normalized_shape, weight=w)
    wide = accumulating(x)
    eps = float(jnp.finfo(wide.dtype).eps) if eps is None else eps
    y = root_mean_square_features(wide, axes, w, eps)
    return (y if jnp.iscomplexobj(x) else y.real).astype(x.dtype)


@compiled
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> jax.Array:
    """Normalizes each group of channels of each sample: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.

    Args:
        input: (N, C, *).
        num_groups: the channels are split in so many groups of neighbours.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: added to the variance.

    Raises:
        ValueError: where there is one value a group, and one sample.
        RuntimeError: where shapes do not fit or dtypes differ; parameters of a 16-bit input may be float32.

    References:
        Wu and He, Group Normalization, https://arxiv.org/abs/1803.08494

    Example:
        >>> import jax.numpy as jnp
        >>> group_norm(jnp.array([[1.0, 3.0, 5.0, 9.0]]), 2).round(3).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    input, weight, bias = to_float32(input, weight, bias)
    x, groups = array(input, "input"), integer(num_groups, "num_groups")
    if x.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {x.ndim}")
    batch, channels, *space = x.shape
    if batch * channels // groups * math.prod(space) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
    if groups < 1:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {groups}")
    floating("group_norm", x.dtype)
    parts = {"weight": weight, "bias": bias}
    arrays = {name: None if part is None else array(part, name) for name, part in parts.items()}
    for name, part in arrays.items():
        if part is not None and part.shape != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of shape "
                f"{part.shape} and input of shape {list(x.shape)}"
            )
    if channels % groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(x.shape)} and num_groups={groups}"
        )
    same_parameters("group_norm", x, **arrays)
    wide = accumulating(x)
    w, b = (None if part is None else part.reshape(1, channels, *[1] * len(space)) for part in arrays.values())
    mean, var = moments(wide, tuple(range(2, x.ndim)), groups=groups)
    return standardize(wide, mean, var, eps, w, b).astype(x.dtype)


def _window_sum(x: jax.Array, before: int, after: int) -> jax.Array:
    """For each channel the sum over those around it, so many before and after."""
    window, pads = [1] * x.ndim, [(0, 0)] * x.ndim
    window[1], pads[1] = before + 1 + after, (before, after)
    zero: Any = np.zeros((), x.dtype)[()]  # a constant, which JAX needs to see that this is a sum
    return lax.reduce_window(x, zero, lax.add, window, [1] * x.ndim, pads)


@compiled
def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> jax.Array:
    """Divides each value by what its neighbour channels amount to: `x / (k + alpha / size · Σ x²)^beta`.

    Args:
        input: (N, C, *), with at least one axis behind the channels.
        size: the number of channels in the sum, of which ⌊size / 2⌋ are before the one to normalize.
        alpha: the factor.
        beta: the exponent.
        k: the term added.

    Raises:
        ValueError: for an input of fewer than 3 axes.
        RuntimeError: where size is not positive.

    References:
        Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012

    Example:
        >>> import jax.numpy as jnp
        >>> local_response_norm(jnp.array([[[3.0], [1.0]]]), 2, alpha=2.0, beta=1.0).round(2).tolist()
        [[[0.3], [0.09]]]
    """
    x, size = array(to_float32(input), "input"), integer(size, "size")
    if x.ndim < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {x.ndim} dimensions)")
    if not x.size:
        return x
    if size < 1:
        raise RuntimeError(f"local_response_norm: size should be greater than zero, but got {size}")
    if x.dtype == bool or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise NotImplementedError(f'"local_response_norm" not implemented for {x.dtype.name}: expected real numbers')
    wide = accumulating(x)
    total = _window_sum(jnp.square(wide), size // 2, (size - 1) // 2)
    mean = total / size if jnp.issubdtype(x.dtype, jnp.floating) else total // size
    y = wide / (mean * alpha + k) ** beta
    return y.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else y


@compiled
def cross_map_lrn2d(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> jax.Array:
    """What `torch.nn.CrossMapLRN2d` computes, in value and in gradient.

    It means to be `local_response_norm`, but differs: for an even size it sums over `size − 1` channels; the first
    channel never leaves the sum again; and its derivative of the sum is over channels one further on.
    """
    x = array(input, "input")
    if x.ndim != 4:
        raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {x.ndim}D instead.")
    floating("CrossMapLRN2d", x.dtype)
    wide = accumulating(x)
    squares, reach = jnp.square(wide), (size - 1) // 2
    left = (jnp.arange(x.shape[1]) > reach).reshape(-1, 1, 1)
    total = _window_sum(squares, reach, reach) + jnp.where(left, squares[:, :1], 0)
    after = int(size - (size - 1) / 2) if size > 1 else 0
    derived = _window_sum(squares, size - 1 - after, after)
    total = lax.stop_gradient(total - derived) + derived
    return (wide * (total * (alpha / size) + k) ** -beta).astype(x.dtype)


@compiled
def normalize(input: Any, p: Any = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> jax.Array:
    """Divides by the p-norm over axes: `x / max(‖x‖ₚ, eps)`.

    Args:
        input: any shape.
        p: the exponent; ∞, −∞ and 0 (the number of elements that are not zero) too.
        dim: the axis or axes; None for all.
        eps: the least number to divide by.
        out: a Parameter or Buffer that takes the result, or None.

    Raises:
        IndexError: where dim is not an axis of the input.
        RuntimeError: for integers, and where a norm over nothing has no value.

    Example:
        >>> import jax.numpy as jnp
        >>> normalize(jnp.array([[3.0, 4.0]])).round(2).tolist()
        [[0.6, 0.8]]
    """
    x = array(to_float32(input), "input")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise RuntimeError(f"normalize: Expected a floating point or complex tensor as input. Got {x.dtype.name}")
    if out is not None and not isinstance(out, Cell):
        raise TypeError(f"normalize: arrays cannot be written, out must be a Parameter or Buffer, got {type(out).__name__}")
    dims = () if dim is None else tuple(dim) if isinstance(dim, Sequence) else (dim,)
    axes = tuple(axis(d, x.ndim) for d in dims) or tuple(range(x.ndim))
    if len(set(axes)) < len(axes):
        raise RuntimeError(f"normalize: an axis appears multiple times in dim={dim}")
    wide, p = accumulating(x), 2.0 if p is None or p == "fro" else float(p)
    if (p < 0 or math.isinf(p)) and 0 in (x.shape[a] for a in axes if x.ndim):
        raise RuntimeError(
            f"normalize: cannot compute the {p:g} norm of shape {x.shape} over {axes}: an axis is empty and the operation does "
            "not have an identity"
        )
    norm = vector_norm(wide, p, axes if x.ndim else (), keepdims=True)
    y = (wide / jnp.where(norm < eps, eps, norm)).astype(x.dtype)
    if out is not None:
        write(out, y)
    return y
