"""Losses that ask for a margin between scores or distances."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, broadcast, floating, promoted, same_dtype
from fnn.functional.distance import pairwise_distance
from fnn.functional.loss import check_classes, fits, no_bool, reduced, reduction_of
from fnn.kernels.activation import softplus
from fnn.precision import to_float32

__all__ = [
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _positive_part(x: jax.Array) -> jax.Array:
    """`max(x, 0)`, with the whole gradient at 0 as torch's clamp has it, and none for NaN."""
    return jnp.where(x >= 0, x, lax.stop_gradient(jnp.maximum(x, 0)))


@compiled
def hinge_embedding_loss(
    input: Any,
    target: Any,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`x` where the target is 1, and `max(0, margin − x)` where it is −1.

    Args:
        input: distances, any shape.
        target: 1 or −1, of the same shape, or broadcastable with it; for another value the loss is the sum of both.
        margin: the distance that dissimilar pairs shall have.
        size_average, reduce, reduction: as for `l1_loss`.

    Raises:
        RuntimeError: where shapes cannot be broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> hinge_embedding_loss(jnp.array([0.5, 0.25]), jnp.array([1, -1]), reduction="none").tolist()
        [0.5, 0.75]
    """
    reduction = reduction_of(size_average, reduce, reduction)
    input, target = to_float32(input, target)
    x, y = array(input, "input"), array(target, "target")
    no_bool("hinge_embedding_loss", x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise NotImplementedError(f"hinge_embedding_loss is not supported for complex types, got {x.dtype.name}")
    broadcast("hinge_embedding_loss", x.shape, y.shape)
    distance = accumulating(x)
    near = _positive_part(x.dtype.type(margin) - distance)  # torch gives the margin the dtype of the input, also an integer
    return reduced(jnp.where(y != 1, near, 0) + jnp.where(y != -1, distance, 0), reduction, _summed(x.dtype, reduction))


def _summed(dtype: Any, reduction: str) -> Any:
    """The dtype of a loss: integers are summed in a wider one."""
    return None if reduction == "sum" and jnp.issubdtype(dtype, jnp.integer) else dtype


@compiled
def margin_ranking_loss(
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`max(0, −y (x1 − x2) + margin)`, elementwise.

    Args:
        input1: any shape.
        input2: with as many axes, and broadcastable with it.
        target: likewise: 1 where the first input shall be larger, −1 where the second shall be.
        margin: by how much it shall be larger.
        size_average, reduce, reduction: as for `l1_loss`.

    Raises:
        RuntimeError: where shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> margin_ranking_loss(jnp.array([1.0, 2.0]), jnp.array([3.0, 1.0]), jnp.array([1, 1]), reduction="none").tolist()
        [2.0, 0.0]
    """
    reduction = reduction_of(size_average, reduce, reduction)
    input1, input2, target = to_float32(input1, input2, target)
    x1, x2, y = array(input1, "input1"), array(input2, "input2"), array(target, "target")
    if not x1.ndim == x2.ndim == y.ndim:
        raise RuntimeError(
            f"margin_ranking_loss: All input tensors should have same dimension but got sizes: input1: {list(x1.shape)}, "
            f"input2: {list(x2.shape)}, target: {list(y.shape)}"
        )
    no_bool("margin_ranking_loss", x1, x2, y)
    (a, b, sign), dtype = promoted("margin_ranking_loss", inexact=True, input1=x1, input2=x2, target=y)
    floating("margin_ranking_loss", dtype)
    return reduced(_positive_part(-sign * (a - b) + margin), reduction, dtype)


@compiled
def soft_margin_loss(
    input: Any, target: Any, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> jax.Array:
    """`log(1 + exp(−y x))`, elementwise.

    Args:
        input: any shape.
        target: 1 or −1, broadcastable to the same shape.
        size_average, reduce, reduction: as for `l1_loss`.

    Returns:
        A scalar, or the losses for reduction none, in the dtype of the input.

    Raises:
        RuntimeError: where the target cannot be broadcast to the input, or the input is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> soft_margin_loss(jnp.array([0.0, 2.0]), jnp.array([1.0, -1.0]), reduction="none").round(4).tolist()
        [0.6931, 2.1269]
    """
    reduction = reduction_of(size_average, reduce, reduction)
    input, target = to_float32(input, target)
    x = array(input, "input")
    y = fits("soft_margin_loss", "target", target, x.shape)
    if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise RuntimeError(f"soft_margin_loss: expected floating-point inputs, got {x.dtype.name} and {y.dtype.name}")
    # Not log1p(exp(.)), which overflows.
    return reduced(softplus(-y * accumulating(x), summed=reduction != "none"), reduction, x.dtype)


@compiled
def multilabel_soft_margin_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The binary cross entropy of logits, averaged over classes: `−mean_c(y log σ(x) + (1 − y) log σ(−x))`.

    Args:
        input: logits, (*, C).
        target: 0 or 1, of the same shape, or broadcastable with it.
        weight: (C,), or broadcastable with the losses.
        size_average, reduce, reduction: as for `l1_loss`.

    Returns:
        A scalar, or the losses of shape (*) for reduction none.

    Raises:
        IndexError: where the input has no axis.
        RuntimeError: where shapes cannot be broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> multilabel_soft_margin_loss(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 1.0]])).round(4).item()
        0.41
    """
    name = "multilabel_soft_margin_loss"
    reduction = reduction_of(size_average, reduce, reduction)
    input, target, weight = to_float32(input, target, weight)
    x, y = array(input, "input"), array(target, "target")
    floating(name, x.dtype)
    no_bool(name, y)
    if x.ndim == 0:
        raise IndexError(f"{name}: expected an input with an axis of classes, got a scalar")
    (a, b, *_), dtype = promoted(name, input=x, target=y, **({} if weight is None else {"weight": weight}))
    losses = b * softplus(-a, summed=True) + (1 - b) * softplus(a, summed=True)
    if weight is not None:
        losses = losses * array(weight, "weight")
    return reduced(losses.sum(x.ndim - 1) / x.shape[-1], reduction, dtype)


def _rows(function: str, input: Any, target: Any, one_a_row: bool) -> tuple[jax.Array, jax.Array]:
    """Scores as (N, C), and class indices as (N,) or (N, C)."""
    x, t = array(to_float32(input), "input"), array(target, "target")
    if x.ndim > 2 or (x.ndim and x.shape[-1] == 0):
        raise RuntimeError(
            f"{function}: Expected non-empty vector or matrix with optional 0-dim batch size, but got: {list(x.shape)}"
        )
    scores = x.reshape(-1 if x.ndim == 2 and x.size else x.shape[0] if x.ndim == 2 else 1, x.shape[-1] if x.ndim else 1)
    shape = scores.shape[:1] if one_a_row else scores.shape
    if t.size != math.prod(shape) or (t.ndim > 1 if one_a_row or x.ndim < 2 else t.shape != shape):
        raise RuntimeError(f"{function}: inconsistent target size: {list(t.shape)} for input of size: {list(x.shape)}")
    if t.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(f"{function}: expected target of dtype int64 or int32 but found {t.dtype.name}")
    floating(function, x.dtype)
    return scores, t.reshape(shape)


@compiled
def multi_margin_loss(
    input: Any,
    target: Any,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`Σ_c max(0, margin − x_y + x_c)^p / C` over the classes c other than the target y.

    Args:
        input: scores, (N, C) or (C,).
        target: class indices, (N,) or ().
        p: 1 or 2.
        margin: by how much the score of the target shall be larger than others.
        weight: (C,), a weight for each class.
        size_average, reduce, reduction: as for `l1_loss`.

    Returns:
        A scalar, or the losses in the target's shape for reduction none. Under a JAX transformation, where indices are
        not known, one that is out of range gives NaN.

    Raises:
        RuntimeError: where shapes do not fit, or an index is out of range, outside of transformations.
        ValueError: for another p.

    Example:
        >>> import jax.numpy as jnp
        >>> multi_margin_loss(jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([3])).round(4).item()
        0.325
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if p not in (1, 2):
        raise ValueError(f"only p == 1 and p == 2 supported, got {p}")
    w = None if weight is None else array(to_float32(weight), "weight")
    if w is not None and w.ndim != 1:
        raise ValueError(f"weight must be one-dimensional, got size {list(w.shape)}")
    scores, t = _rows("multi_margin_loss", input, target, one_a_row=True)
    dtype, classes = scores.dtype, scores.shape[1]
    same_dtype("multi_margin_loss", input=scores, weight=w)
    if w is not None and w.shape != (classes,):
        raise RuntimeError(f"inconsistent weight size, expected {classes} but got {list(w.shape)}")
    check_classes(t, classes, RuntimeError)
    valid = (t >= 0) & (t < classes)
    index = jnp.where(valid, t, 0)[:, None]
    x = accumulating(scores)
    excess = margin - jnp.take_along_axis(x, index, 1) + x
    excess = jnp.where((excess > 0) & (jnp.arange(classes) != index), excess, 0)
    losses = (excess**p).sum(1) / classes
    losses = losses if w is None else losses * accumulating(w)[index[:, 0]]
    losses = jnp.where(valid, losses, jnp.nan)
    return reduced(losses.reshape(array(target, "target").shape) if reduction == "none" else losses, reduction, dtype)


@compiled
def multilabel_margin_loss(
    input: Any, target: Any, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> jax.Array:
    """`Σ_y Σ_c max(0, 1 − (x_y − x_c)) / C` over the target classes y, and the classes c that are none of them.

    Args:
        input: scores, (N, C) or (C,).
        target: class indices, of the same shape; a −1 ends them.
        size_average, reduce, reduction: as for `l1_loss`.

    Returns:
        A scalar, or the losses (N,) or () for reduction none. Under a JAX transformation, where indices are not known,
        one that is out of range gives NaN.

    Raises:
        RuntimeError: where shapes do not fit, or an index is out of range, outside of transformations.

    Example:
        >>> import jax.numpy as jnp
        >>> multilabel_margin_loss(jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([[3, 0, -1, 1]])).round(4).item()
        0.85
    """
    reduction = reduction_of(size_average, reduce, reduction)
    scores, t = _rows("multilabel_margin_loss", input, target, one_a_row=False)
    dtype, classes = scores.dtype, scores.shape[1]
    check_classes(t, classes, RuntimeError, ignore_index=-1)
    valid = ((t >= -1) & (t < classes)).all(1)
    listed = jnp.cumulative_sum(t == -1, axis=1) == 0
    times = ((t[:, :, None] == jnp.arange(classes)) & listed[:, :, None]).sum(1)
    x = accumulating(scores)
    excess = 1 - x[:, :, None] + x[:, None, :]
    excess = jnp.where((excess > 0) & (times[:, None, :] == 0), excess, 0)
    losses = (times * excess.sum(2)).sum(1) / classes
    losses = jnp.where(valid, losses, jnp.nan)
    return reduced(losses[0] if reduction == "none" and array(target, "target").ndim < 2 else losses, reduction, dtype)


@compiled
def cosine_embedding_loss(
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`1 − cos(x1, x2)` where the target is 1, and `max(0, cos(x1, x2) − margin)` where it is −1.

    Args:
        input1: (N, D) or (D,).
        input2: likewise.
        target: 1 or −1, (N,) or ().
        margin: from −1 to 1.
        size_average, reduce, reduction: as for `l1_loss`.

    Raises:
        RuntimeError: where shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> cosine_embedding_loss(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]]), jnp.array([1])).round(4).item()
        0.2929
    """
    reduction = reduction_of(size_average, reduce, reduction)
    input1, input2, target = to_float32(input1, input2, target)
    y = array(target, "target")
    (a, b), dtype = promoted("cosine_embedding_loss", inexact=True, input1=input1, input2=input2)
    if y.ndim > 1:
        raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported, got {list(y.shape)}")
    if array(input1, "input1").ndim != y.ndim + 1:
        raise RuntimeError(
            f"{y.ndim}D target tensor expects {y.ndim + 1}D input tensors, but found inputs with sizes "
            f"{list(a.shape)} and {list(b.shape)}."
        )
    floating("cosine_embedding_loss", dtype)
    squares = (jnp.square(a).sum(y.ndim) + 1e-12) * (jnp.square(b).sum(y.ndim) + 1e-12)
    cosine = (a * b).sum(y.ndim) / jnp.sqrt(squares)
    broadcast("cosine_embedding_loss", cosine.shape, y.shape)
    losses = jnp.where(y == 1, 1 - cosine, 0) + jnp.where(y == -1, _positive_part(cosine - margin), 0)
    return reduced(losses, reduction, dtype)


def _triplet(
    distance: Callable[[Any, Any], Any] | None,
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float,
    swap: bool,
    reduction: str,
    power: float = 2,
    eps: float = 1e-6,
) -> jax.Array:
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    a, p, n = array(anchor, "anchor"), array(positive, "positive"), array(negative, "negative")
    if not a.ndim == p.ndim == n.ndim:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: anchor "
            f"{a.ndim}D, positive {p.ndim}D, and negative {n.ndim}D inputs"
        )
    if distance is None:
        broadcast("triplet_margin_loss", a.shape, p.shape)
        broadcast("triplet_margin_loss", a.shape, n.shape)
        distance = functools.partial(pairwise_distance, p=power, eps=eps)
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = jnp.minimum(far, distance(positive, negative))
    return reduced(_positive_part(margin + near - far), reduction)


@compiled
def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """`max(0, margin + d(anchor, positive) − d(anchor, negative))` with the p-norm distance d.

    Args:
        anchor: (N, D) or (D,), or any shape.
        positive, negative: with as many axes.
        margin: by how much the negative shall be farther.
        p, eps: as for `pairwise_distance`.
        swap: take the distance of positive and negative where that is less than the one of anchor and negative.
        size_average, reduce, reduction: as for `l1_loss`.

    Raises:
        RuntimeError: where shapes do not fit.
        ValueError: where the margin is not positive.

    References:
        Balntas et al., Learning shallow convolutional feature descriptors with triplet losses,
        https://bmva-archive.org.uk/bmvc/2016/papers/paper119/index.html

    Example:
        >>> import jax.numpy as jnp
        >>> triplet_margin_loss(jnp.array([[0.0]]), jnp.array([[1.0]]), jnp.array([[-1.5]])).round(3).item()
        0.5
    """
    reduction = reduction_of(size_average, reduce, reduction)
    return _triplet(None, anchor, positive, negative, margin, swap, reduction, p, eps)


def triplet_margin_with_distance_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """`max(0, margin + d(anchor, positive) − d(anchor, negative))` with any distance d.

    Args:
        anchor: any shape.
        positive, negative: with as many axes.
        distance_function: of two arrays; `pairwise_distance` by default.
        margin, swap: as for `triplet_margin_loss`.
        reduction: none, mean or sum.

    Raises:
        RuntimeError: where shapes do not fit.
        ValueError: where the margin is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> distance = lambda a, b: abs(a - b).max(-1)
        >>> x, y, z = jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.full((1, 2), 1.5)
        >>> triplet_margin_with_distance_loss(x, y, z, distance_function=distance).item()
        0.5
    """
    reduction = reduction_of(None, None, reduction)
    return _triplet(distance_function, anchor, positive, negative, margin, swap, reduction)
