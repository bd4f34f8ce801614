"""Losses."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import accumulating, array, floating, known, same_dtype

__all__ = ["cross_entropy", "mse_loss"]


def reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction that torch's older arguments `size_average` and `reduce` mean, where they are given.

    Raises:
        ValueError: for a reduction other than none, mean and sum.
    """
    if size_average is not None or reduce is not None:
        average, reducing = size_average is not False, reduce is not False
        older = "none" if not reducing else "mean" if average else "sum"
        warnings.warn(f"size_average and reduce args will be deprecated, please use reduction='{older}' instead.", stacklevel=3)
        return older
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def reduced(values: jax.Array, reduction: str) -> jax.Array:
    """The values, their mean, or their sum."""
    return values if reduction == "none" else values.mean() if reduction == "mean" else values.sum()


def _broadcast(*shapes: tuple[int, ...]) -> None:
    try:
        jnp.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(f"the sizes {' and '.join(str(list(shape)) for shape in shapes)} cannot be broadcast") from None


def mse_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Any = None,
) -> jax.Array:
    """The squared difference, elementwise.

    Args:
        input: any shape.
        target: of the same shape, or broadcastable to it.
        size_average, reduce: torch's older way to say the reduction.
        reduction: none, mean or sum.
        weight: of the input's shape; the mean is then weighted.

    Raises:
        RuntimeError: where shapes cannot be broadcast.
        ValueError: where the weight has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> mse_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """
    reduction = reduction_of(size_average, reduce, reduction)
    x, y = array(input, "input"), array(target, "target")
    if x.shape != y.shape:
        warnings.warn(
            f"Using a target size ({list(y.shape)}) that is different to the input size ({list(x.shape)}). This will likely "
            "lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=2,
        )
        _broadcast(x.shape, y.shape)
    floating("mse_loss", jnp.promote_types(x.dtype, y.dtype))
    values = jnp.square(x - y)
    if weight is None:
        return reduced(values, reduction)
    w = array(weight, "weight")
    if w.shape != x.shape:
        raise ValueError(f"Weights and input must have the same size, got {list(w.shape)} and {list(x.shape)}")
    return (values * w).sum() / w.sum() if reduction == "mean" else reduced(values * w, reduction)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """The cross entropy between unnormalized log-probabilities and a target: `−Σ_c target_c · log softmax(input)_c`.

    Args:
        input: (C,), (N, C) or (N, C, d1, ..., dK).
        target: class indices of shape (), (N,) or (N, d1, ..., dK), integers in [0, C); or class probabilities, of the
            input's shape.
        weight: (C,), a weight for each class. The mean is then weighted, for class indices.
        size_average, reduce: torch's older way to say the reduction.
        ignore_index: a class index that counts for nothing, neither in the sum nor in the mean.
        reduction: none, mean or sum.
        label_smoothing: the share, from 0 to 1, of the uniform distribution in the target.

    Returns:
        A scalar, or the losses in the target's shape for reduction none. Under a JAX transformation, where indices are
        not known, one that is out of range gives NaN.

    Raises:
        IndexError: where an index is out of range, outside of transformations.
        RuntimeError, ValueError: where shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4).item()
        1.3863
    """
    reduction = reduction_of(size_average, reduce, reduction)
    x, t = array(input, "input"), array(target, "target")
    w = None if weight is None else array(weight, "weight")
    floating("cross_entropy", x.dtype)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if x.ndim == 0:
        raise RuntimeError("cross_entropy: expected an input of shape (C,), (N, C) or (N, C, d1, ...), got a scalar")
    axis = 0 if x.ndim == 1 else 1
    classes = x.shape[axis]
    if w is not None and w.shape != (classes,):
        raise RuntimeError(
            f"cross_entropy: weight tensor should be defined either for all {classes} classes or no classes but got weight of "
            f"shape {list(w.shape)}"
        )
    logs = jax.nn.log_softmax(accumulating(x), axis=axis)
    by_class = None if w is None else w.reshape(classes, *[1] * (x.ndim - axis - 1))
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    if t.shape == x.shape:
        if not jnp.issubdtype(t.dtype, jnp.floating):
            raise RuntimeError(f"Expected floating point type for target with class probabilities, got {t.dtype.name}")
        if ignore_index >= 0:
            raise RuntimeError(f"ignore_index is not supported for floating point target, got {ignore_index}")
        kind = jnp.promote_types(x.dtype, t.dtype)
        t = t * (1 - label_smoothing) + label_smoothing / max(classes, 1)
        losses = -(t * logs if by_class is None else t * logs * by_class).sum(axis)
        return (losses.sum() / math.prod(shape) if reduction == "mean" else reduced(losses, reduction)).astype(kind)
    if t.shape != shape:
        error = ValueError if x.ndim > 1 and t.shape[:1] != shape[:1] else RuntimeError
        raise error(
            f"Expected target of shape {list(shape)} (class indices) or {list(x.shape)} (probabilities) for input "
            f"{list(x.shape)}, got {list(t.shape)}"
        )
    if not jnp.issubdtype(t.dtype, jnp.integer):
        raise RuntimeError(f"expected class indices of an integer dtype, got {t.dtype.name}")
    same_dtype("cross_entropy", input=x, weight=w)
    counted = t != ignore_index
    valid = (t >= 0) & (t < classes)
    values = known(t)
    wrong = None if values is None else values[((values < 0) | (values >= classes)) & (values != ignore_index)]
    if wrong is not None and wrong.size:
        raise IndexError(
            f"Target {wrong[0]} is out of bounds: expected class indices from 0 to {classes - 1}, or ignore_index "
            f"{ignore_index}."
        )
    index = jnp.expand_dims(jnp.where(valid, t, 0), axis)
    picked = -jnp.take_along_axis(logs, index, axis).squeeze(axis)
    picked = jnp.where(valid, picked, jnp.nan)
    weights = jnp.ones_like(picked) if w is None else w[jnp.where(valid, t, 0)].astype(picked.dtype)
    losses = picked * weights
    if label_smoothing > 0.0:
        spread = -(logs if by_class is None else logs * by_class).sum(axis)
        losses = (1 - label_smoothing) * losses + label_smoothing / classes * spread
    losses = jnp.where(counted, losses, 0)
    if reduction != "mean":
        return reduced(losses, reduction).astype(x.dtype)
    return (losses.sum() / jnp.where(counted, weights, 0).sum()).astype(x.dtype)
