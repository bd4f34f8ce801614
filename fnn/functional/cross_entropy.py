"""Negative log-likelihoods of classes, and cross entropies."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, floating, same_dtype
from fnn.functional.loss import check_classes, reduced, reduction_of
from fnn.kernels import softmax as kernels
from fnn.precision import to_float32, to_lower

__all__ = ["cross_entropy", "linear_cross_entropy", "nll_loss"]


def _class_axis(x: jax.Array) -> int:
    return min(1, x.ndim - 1)


def _by_class(weight: jax.Array, like: jax.Array) -> jax.Array:
    """Weights of classes, shaped to broadcast with losses that have an axis of classes."""
    return weight.reshape(-1, *[1] * (like.ndim - _class_axis(like) - 1))


def _check_indices(function: str, x: jax.Array, t: jax.Array, w: jax.Array | None, ignore_index: int) -> jax.Array:
    """Class indices in the shape of the losses."""
    if x.ndim == 0:
        raise ValueError(f"{function}: expected an input of shape (C,), (N, C) or (N, C, d1, ...), got a scalar")
    along = _class_axis(x)
    classes, shape = x.shape[along], x.shape[:along] + x.shape[along + 1 :]
    if x.ndim == 1 and t.shape == (1,):
        t = t.reshape(())
    if t.shape != shape:
        error = ValueError if t.ndim == x.ndim == 1 or t.shape[:1] != shape[:1] else RuntimeError
        raise error(
            f"{function}: expected target of shape {list(shape)} (class indices) or, for cross_entropy, {list(x.shape)} "
            f"(probabilities) for input {list(x.shape)}, got {list(t.shape)}"
        )
    if t.dtype not in (jnp.int32, jnp.int64, jnp.uint8):
        raise RuntimeError(f"{function}: expected class indices of an integer dtype, int64, int32 or uint8, got {t.dtype.name}")
    same_dtype(function, input=x, weight=w)
    check_classes(t, classes, IndexError, ignore_index)
    return t


def _check_weight(function: str, weight: Any, classes: int) -> jax.Array | None:
    if weight is None:
        return None
    w = array(weight, "weight")
    if w.shape != (classes,):
        raise RuntimeError(
            f"{function}: weight tensor should be defined either for all {classes} classes or no classes but got weight of "
            f"shape {list(w.shape)}"
        )
    return w


def _picked(logs: jax.Array, index: jax.Array) -> jax.Array:
    """Minus the log-probability of each class that is named; NaN for one that is out of range."""
    along = _class_axis(logs)
    valid = (index >= 0) & (index < logs.shape[along])
    place = jnp.expand_dims(jnp.where(valid, index, 0), along)
    return jnp.where(valid, -kernels.pick(logs, place, along).squeeze(along), jnp.nan)


def _surprise(x: jax.Array, largest: jax.Array, total: jax.Array, index: jax.Array) -> jax.Array:
    """Minus the log-probability of each class that is named, from logits and what `kernels.log_sum` makes of them."""
    along = _class_axis(x)
    return (_picked(x, index) + largest.squeeze(along)) + total.squeeze(along)


def _weighted(
    losses: jax.Array, index: jax.Array, w: jax.Array | None, ignore_index: int, reduction: str, spread: Any = None
) -> jax.Array:
    """Losses weighted by class and reduced; `spread` is what is added to each, already weighted."""
    counted = index != ignore_index
    if w is None:
        weights = jnp.ones_like(losses)
    else:
        weights = w.astype(losses.dtype).at[jnp.where(counted, index, 0)].get(mode="fill", wrap_negative_indices=False)
        losses = losses * weights
    losses = jnp.where(counted, losses if spread is None else losses + spread, 0)
    if reduction != "mean":
        return reduced(losses, reduction)
    return losses.sum() / jnp.where(counted, weights, 0).sum()


@compiled
def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The negative log-likelihood of classes: `−input_target`.

    Args:
        input: log-probabilities, (C,), (N, C) or (N, C, d1, ..., dK).
        target: class indices of shape (), (N,) or (N, d1, ..., dK), integers in [0, C).
        weight: (C,), a weight for each class. The mean is then weighted.
        size_average, reduce: torch's older way to say the reduction.
        ignore_index: a class index that counts for nothing, neither in the sum nor in the mean.
        reduction: none, mean or sum.

    Returns:
        A scalar, or the losses in the target's shape for reduction none. Under a JAX transformation, where indices are
        not known, one that is out of range gives NaN.

    Raises:
        IndexError: where an index is out of range, outside of transformations.
        RuntimeError, ValueError: where shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> nll_loss(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]), jnp.array([0, 1])).item()
        2.5
    """
    reduction = reduction_of(size_average, reduce, reduction)
    input, target, weight = to_float32(input, target, weight)
    x, t = array(input, "input"), array(target, "target")
    floating("nll_loss", x.dtype)
    w = _check_weight("nll_loss", weight, x.shape[_class_axis(x)]) if x.ndim else None
    t = _check_indices("nll_loss", x, t, w, ignore_index)
    return _weighted(_picked(accumulating(x), t), t, w, ignore_index, reduction).astype(x.dtype)


@compiled
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
    input, target, weight = to_float32(input, target, weight)
    x, t = array(input, "input"), array(target, "target")
    floating("cross_entropy", x.dtype)
    if label_smoothing > 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if x.ndim == 0:
        raise RuntimeError("cross_entropy: expected an input of shape (C,), (N, C) or (N, C, d1, ...), got a scalar")
    along = _class_axis(x)
    classes, smoothing = x.shape[along], max(label_smoothing, 0.0)
    w = _check_weight("cross_entropy", weight, classes)
    if t.shape != x.shape:
        t = _check_indices("cross_entropy", x, t, w, ignore_index)
        largest, total = kernels.log_sum(accumulating(x), along)
        spread = None
        if smoothing:
            of_classes = accumulating(x) - largest
            of_classes = of_classes if w is None else of_classes * _by_class(w, x)
            share = classes if w is None else accumulating(w).sum()
            spread = (smoothing / classes) * (total.squeeze(along) * share - of_classes.sum(along))
        losses = (1 - smoothing) * _surprise(accumulating(x), largest, total, t)
        return _weighted(losses, t, w, ignore_index, reduction, spread).astype(x.dtype)
    if not jnp.issubdtype(t.dtype, jnp.floating):
        raise RuntimeError(f"Expected floating point type for target with class probabilities, got {t.dtype.name}")
    if ignore_index >= 0:
        raise RuntimeError(f"ignore_index is not supported for floating point target, got {ignore_index}")
    dtype = jnp.promote_types(x.dtype, t.dtype)
    values = accumulating(t) * (1 - smoothing) + smoothing / max(classes, 1)
    if w is not None:
        values, dtype = values * _by_class(w, x), jnp.promote_types(dtype, w.dtype)
    if classes:
        largest, total = kernels.log_sum(accumulating(x), along)
        losses = total.squeeze(along) * values.sum(along) - (values * (accumulating(x) - largest)).sum(along)
    else:
        losses = -values.sum(along)
    rows = math.prod(losses.shape) if x.size else 0
    return (losses.sum() / rows if reduction == "mean" else reduced(losses, reduction)).astype(dtype)


@dataclass(slots=True, frozen=True)
class LinearCrossEntropyOptions:
    """How `linear_cross_entropy` splits its batch into chunks, of which one at a time has its logits in memory.

    The result is that without chunks, up to rounding. It pays where there are more classes than features.

    Args:
        allow_retain_graph: accepted; the gradient can always be taken again.
        batch_chunk_size: the rows of a chunk; all by default, where there is no `chunking_method`.
        chunking_method: 'aspect_ratio' for chunks whose logits take as much memory as the input, 'aspect_ratio:N' for an
            N-th of it, 'auto' for 'aspect_ratio:2', None for `batch_chunk_size`.
        acc_policy: auto, accurate, balanced or compact; accepted: sums are always accumulated in float32 or better.
        acc_dtype: None, or float32 for inputs of 16 bits, or the dtype of the input; accepted likewise.

    Raises:
        ValueError: for another value.

    Example:
        >>> import fnn.nn as nn
        >>> nn.LinearCrossEntropyOptions(batch_chunk_size=128).batch_chunk_size
        128
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: Any = None

    def __post_init__(self) -> None:
        if self.acc_policy not in ("auto", "accurate", "balanced", "compact"):
            raise ValueError(f"invalid acc_policy: {self.acc_policy!r}")
        if self.chunking_method not in (None, "auto", "aspect_ratio"):
            name, _, share = str(self.chunking_method).partition(":")
            if name != "aspect_ratio" or not share.isdigit() or int(share) == 0:
                raise ValueError(f"invalid chunking_method: {self.chunking_method!r}")
        size = self.batch_chunk_size
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"batch_chunk_size must be positive int or None, got {size!r}")
        if self.acc_dtype is not None and _dtype_name(self.acc_dtype) not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(f"acc_dtype must be None, float16, bfloat16, float32 or float64, got {self.acc_dtype!r}")


def _dtype_name(dtype: Any) -> str:
    """The name of a dtype of JAX, numpy or torch."""
    try:
        return jnp.dtype(dtype).name
    except TypeError:
        return str(dtype).removeprefix("torch.")


def _chunk_rows(options: Any, rows: int, features: int, classes: int) -> int:
    size, method = options.batch_chunk_size, options.chunking_method
    if method == "auto":
        method = "aspect_ratio:2" if size is None else None
    if method is None:
        return max(1, min(size or rows, rows))
    share = int(method.partition(":")[2] or 1)
    wanted = -(-rows // -(-classes // features))
    chosen = min((1 << (wanted - 1).bit_length()) // share, rows)
    if size not in (None, chosen):
        raise ValueError(
            f"batch_chunk_size (={size}) and chunking_method ('{method}') give different chunk sizes ({size} vs {chosen}); "
            "pass only one."
        )
    return max(1, chosen)


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> jax.Array:
    """The cross entropy of a linear map: `cross_entropy(linear(input, linear_weight, linear_bias), target)`.

    Args:
        input: (N, F) or (F,).
        linear_weight: (C, F) or, for a batch, (C, d1, ..., dK, F).
        target: class indices of shape (N,), () or (N, d1, ..., dK); or class probabilities, with an axis C behind N.
        linear_bias: (C,) or (C, d1, ..., dK).
        weight: (C,), a weight for each class.
        reduction: none, mean or sum.
        ignore_index: a class index that counts for nothing; None for −100.
        label_smoothing: the share, from 0 to 1, of the uniform distribution in the target.
        options: how to split the batch, so that the logits of a part at a time are in memory, forward and backward. It
            is for class indices without label smoothing and axes beyond C, and ignored with a warning elsewhere.

    Returns:
        As for `cross_entropy`.

    Raises:
        IndexError: where an index is out of range, outside of transformations.
        RuntimeError, ValueError: where shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> linear_cross_entropy(jnp.ones((1, 2)), jnp.zeros((4, 2)), jnp.array([2])).round(4).item()
        1.3863
    """
    name = "linear_cross_entropy"
    input, linear_weight, linear_bias, target, weight = to_float32(input, linear_weight, linear_bias, target, weight)
    x, m, t = array(input, "input"), array(linear_weight, "linear_weight"), array(target, "target")
    b = None if linear_bias is None else array(linear_bias, "linear_bias")
    if x.ndim not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {x.ndim}")
    if m.ndim < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {m.ndim}")
    (classes, *outer), features = m.shape[:-1], m.shape[-1]
    if x.shape[-1] != features:
        raise RuntimeError(
            f"expected equal input and linear_weight last dimensions (in_features), got {x.shape[-1]} and {features}"
        )
    if b is not None and b.shape != m.shape[:-1]:
        raise RuntimeError(f"expected linear_bias shape {m.shape[:-1]}, got {b.shape}")
    if outer and x.ndim == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {m.shape} requires batched input, (N, {features}), got "
            f"unbatched input with shape {x.shape}"
        )
    probabilities = t.shape == (*x.shape[:-1], classes, *outer)
    if probabilities and ignore_index is not None:
        raise RuntimeError(f"ignore_index cannot be specified when target contains probabilities, got {ignore_index}")
    ignored = -100 if ignore_index is None else ignore_index
    fits = reduction in ("mean", "sum", "none") and label_smoothing == 0 and not outer and t.dtype in (jnp.int32, jnp.int64)
    if options is None or not fits:
        if options is not None:
            warnings.warn(
                f"{name}: ``options`` ignored; chunked path needs reduction in {{'mean','sum','none'}}, label_smoothing == 0, "
                f"target.dtype == int64, out_features == (). Got reduction={reduction!r}, label_smoothing={label_smoothing}, "
                f"target.dtype={t.dtype.name}, out_features={tuple(outer)}.",
                stacklevel=2,
            )

        def loss(logits: jax.Array) -> jax.Array:
            return cross_entropy(logits, t, weight, None, ignored, None, reduction, label_smoothing)

        shape = (*x.shape[:-1], *m.shape[:-1])
        dtype = jax.eval_shape(loss, jax.ShapeDtypeStruct(shape, x.dtype)).dtype  # refuses before anything is computed
        weight = None if weight is None else accumulating(array(weight, "weight"))
        return loss(_logits(x, m.reshape(-1, features), None if b is None else b.reshape(-1)).reshape(shape)).astype(dtype)
    return _chunked(x, m, t, b, weight, reduction, ignored, options)


def _logits(x: jax.Array, m: jax.Array, b: Any) -> jax.Array:
    """The linear map, not yet rounded to 16 bits."""
    same_dtype("linear_cross_entropy", input=x, linear_weight=m, linear_bias=b)
    wide = accumulating(x).dtype
    x, m, b = to_lower(x, m, b)
    y = jnp.matmul(x, m.T, preferred_element_type=wide)
    return y if b is None else y + b


def _chunked(
    x: jax.Array, m: jax.Array, t: jax.Array, b: Any, weight: Any, reduction: str, ignore_index: int, options: Any
) -> jax.Array:
    name, classes = "linear_cross_entropy", m.shape[0]
    floating(name, x.dtype)
    same_dtype(name, input=x, linear_weight=m, linear_bias=b)
    if options.acc_dtype is not None and _dtype_name(options.acc_dtype) not in (x.dtype.name, accumulating(x).dtype.name):
        raise RuntimeError(
            f"{name} supports float32 acc_dtype with float16/bfloat16 inputs, but got {_dtype_name(options.acc_dtype)} "
            f"acc_dtype and {x.dtype.name} inputs."
        )
    if t.shape != x.shape[:-1]:
        raise RuntimeError(f"{name}: expected target of shape {list(x.shape[:-1])}, got {list(t.shape)}")
    w = _check_weight(name, weight, classes)
    check_classes(t, classes, RuntimeError, ignore_index)

    @jax.checkpoint  # else the logits of all chunks would be kept for the gradient
    def of_row(row: Any) -> jax.Array:
        features, index = row
        logits = _logits(features, m, b)
        largest, total = kernels.log_sum(logits, 0)
        return _surprise(logits, largest, total, index)

    rows, indices = x.reshape(-1, x.shape[-1]), t.reshape(-1)
    size = _chunk_rows(options, len(rows), rows.shape[1], classes)
    losses = lax.map(of_row, (rows, indices), batch_size=size) if len(rows) else jnp.zeros(0, accumulating(x).dtype)
    return _weighted(losses.reshape(t.shape), t, w, ignore_index, reduction).astype(x.dtype)
