"""Losses of elements. Others are in `margin`, those of class likelihoods in `cross_entropy`, and `ctc`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from fnn.eager import compiled, warn
from fnn.functional.checks import accumulating, array, broadcast, checked, floating, promoted, same_dtype
from fnn.functional.distance import absolute, floored
from fnn.kernels.activation import softplus
from fnn.precision import refuse, to_float32

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]


def reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction that torch's older arguments `size_average` and `reduce` mean, where they are given.

    Raises:
        ValueError: for a reduction other than none, mean and sum.
    """
    if size_average is not None or reduce is not None:
        average, reducing = size_average is not False, reduce is not False
        older = "none" if not reducing else "mean" if average else "sum"
        warn(f"size_average and reduce args will be deprecated, please use reduction='{older}' instead.", stacklevel=3)
        return older
    if reduction == "elementwise_mean":
        warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.", stacklevel=3)
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction: expected none, mean or sum")
    return reduction


def reduced(values: jax.Array, reduction: str, dtype: Any = None) -> jax.Array:
    """The values, their mean, or their sum; in a dtype, which they are rounded to once."""
    if reduction == "mean" and not jnp.issubdtype(values.dtype, jnp.inexact):
        raise RuntimeError(f"mean(): expected a floating-point dtype, got {values.dtype.name}")
    result = values if reduction == "none" else values.mean() if reduction == "mean" else values.sum()
    return result if dtype is None else result.astype(dtype)


def check_classes(target: jax.Array, classes: int, error: type[Exception], ignore_index: int | None = None) -> None:
    """Raises where a class index is known to be out of range."""

    def check(values: np.ndarray) -> None:
        wrong = values[((values < 0) | (values >= classes)) & (values != ignore_index)]
        if wrong.size:
            ignored = "" if ignore_index is None else f", or ignore_index {ignore_index}"
            raise error(f"Target {wrong[0]} is out of bounds: expected class indices from 0 to {classes - 1}{ignored}.")

    checked(target, check)


def no_bool(function: str, *operands: Any) -> None:
    if any(operand.dtype == bool for operand in operands):
        raise RuntimeError(f"{function}: subtraction is not supported for bool operands")


def fits(function: str, name: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    """An operand that broadcasts to a shape, and does not enlarge it."""
    operand = array(value, name)
    if broadcast(function, operand.shape, shape) != shape:
        raise RuntimeError(f"{function}: {name} of size {list(operand.shape)} cannot be broadcast to size {list(shape)}")
    return operand


def _of_difference(
    function: str, formula: Callable[[jax.Array], jax.Array], input: Any, target: Any, reduction: str, weight: Any, share: bool
) -> tuple[jax.Array, np.dtype]:
    """A loss of `input − target`, and the dtype it has; `share` is whether a mean is divided by the sum of the weights."""
    input, target, weight = to_float32(input, target, weight)
    x, y = array(input, "input"), array(target, "target")
    if x.shape != y.shape:
        warn(
            f"Using a target size ({list(y.shape)}) that is different to the input size ({list(x.shape)}). This will likely "
            "lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=3,
        )
    (a, b), dtype = promoted(function, input=x, target=y)
    if weight is None:
        return reduced(formula(a - b), reduction), dtype
    w = array(weight, "weight")
    if w.shape != x.shape:
        raise ValueError(f"Weights and input must have the same size, got {list(w.shape)} and {list(x.shape)}")
    values, dtype = formula(a - b) * w, jnp.promote_types(dtype, w.dtype)
    if share and reduction == "mean":
        return values.sum() / accumulating(w).sum(), dtype if jnp.issubdtype(dtype, jnp.inexact) else np.dtype(np.float32)
    return reduced(values, reduction), dtype


def _smooth(difference: jax.Array, beta: float) -> jax.Array:
    size = absolute(difference)
    near = ~(size >= beta)
    return jnp.where(near, 0.5 * jnp.square(jnp.where(near, difference, 0)) / beta, size - 0.5 * beta)


@compiled
def l1_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Any = None,
) -> jax.Array:
    """The absolute difference, elementwise: `|x − y|`.

    Args:
        input: any shape.
        target: of the same shape, or broadcastable with it.
        size_average, reduce: torch's older way to say the reduction.
        reduction: none, mean or sum.
        weight: of the input's shape; the mean is then weighted.

    Returns:
        A scalar, or the losses for reduction none.

    Raises:
        RuntimeError: where shapes cannot be broadcast.
        ValueError: where the weight has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> l1_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        1.0
    """
    reduction = reduction_of(size_average, reduce, reduction)
    no_bool("l1_loss", array(input, "input"), array(target, "target"))
    loss, dtype = _of_difference("l1_loss", absolute, input, target, reduction, weight, share=True)
    return loss.astype(jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype)


@compiled
def mse_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Any = None,
) -> jax.Array:
    """The squared difference, elementwise: `(x − y)²`.

    Args:
        input, target, size_average, reduce, reduction, weight: as for `l1_loss`.

    Raises:
        RuntimeError: where shapes cannot be broadcast.
        ValueError: where the weight has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> mse_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if weight is None:
        floating("mse_loss", jnp.promote_types(array(input, "input").dtype, array(target, "target").dtype))
    loss, dtype = _of_difference("mse_loss", jnp.square, input, target, reduction, weight, share=True)
    return loss.astype(dtype)


@compiled
def smooth_l1_loss(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> jax.Array:
    """`(x − y)² / (2 beta)` where `|x − y| < beta`, and `|x − y| − beta / 2` elsewhere.

    Args:
        input, target, size_average, reduce, reduction: as for `l1_loss`.
        beta: where the square ends; 0 for the absolute difference alone.

    Raises:
        RuntimeError: where shapes cannot be broadcast or beta is negative.

    References:
        Girshick, Fast R-CNN, https://arxiv.org/abs/1504.08083

    Example:
        >>> import jax.numpy as jnp
        >>> smooth_l1_loss(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]), reduction="none").tolist()
        [0.5, 2.5]
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta, got {beta}")
    floating("smooth_l1_loss", jnp.promote_types(array(input, "input").dtype, array(target, "target").dtype))
    loss, dtype = _of_difference(
        "smooth_l1_loss", lambda d: _smooth(d, beta) if beta else absolute(d), input, target, reduction, None, share=False
    )
    return loss.astype(dtype)


@compiled
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> jax.Array:
    """`(x − y)² / 2` where `|x − y| < delta`, and `delta (|x − y| − delta / 2)` elsewhere.

    Args:
        input, target, reduction: as for `l1_loss`.
        delta: where the square ends.
        weight: of the input's shape. The mean is not divided by it.

    Returns:
        A scalar, or the losses for reduction none, in the dtype of the input.

    Raises:
        RuntimeError: where shapes cannot be broadcast or delta is not positive.
        ValueError: where the weight has another shape.

    References:
        Huber, Robust estimation of a location parameter, https://doi.org/10.1214/aoms/1177703732

    Example:
        >>> import jax.numpy as jnp
        >>> huber_loss(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0]), "none", delta=2.0).tolist()
        [0.5, 4.0]
    """
    reduction = reduction_of(None, None, reduction)
    input, target, weight = to_float32(input, target, weight)
    if delta <= 0:
        raise RuntimeError(f"huber_loss does not support non-positive values for delta, got {delta}")
    x, y = array(input, "input"), array(target, "target")
    floating("huber_loss", jnp.promote_types(x.dtype, y.dtype))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuntimeError(f"huber_loss: a loss of {y.dtype.name} cannot be cast to the input's {x.dtype.name}")
    loss, _ = _of_difference("huber_loss", lambda d: delta * _smooth(d, delta), x, y, reduction, weight, share=False)
    return loss.astype(x.dtype if weight is None else jnp.promote_types(x.dtype, array(weight, "weight").dtype))


@jax.custom_jvp
def _bounded_log(x: jax.Array) -> jax.Array:
    """`max(log x, −100)`."""
    return jnp.maximum(jnp.log(x), -100)


@_bounded_log.defjvp
def _bounded_log_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    # As torch has it: the whole loss then has the derivative (x - y) / max(x (1 - x), 1e-12).
    return _bounded_log(x), (1 - x) / jnp.maximum(x * (1 - x), 1e-12) * tangent


@compiled
def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The cross entropy of probabilities, elementwise: `−(y log x + (1 − y) log(1 − x))`, with no logarithm under −100.

    Args:
        input: probabilities, any shape.
        target: probabilities, of the same shape and dtype.
        weight: broadcastable to the same shape.
        size_average, reduce, reduction: as for `l1_loss`.

    Returns:
        A scalar, or the losses for reduction none. Under a JAX transformation, where values are not known, one that is
        not in [0, 1] gives NaN.

    Raises:
        RuntimeError: where a value is not in [0, 1], outside of transformations, or dtypes differ.
        ValueError: where shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> binary_cross_entropy(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0]), reduction="none").round(4).tolist()
        [0.6931, 0.0]
    """
    name = "binary_cross_entropy"
    refuse(name, "binary_cross_entropy_with_logits")
    reduction = reduction_of(size_average, reduce, reduction)
    x, y = array(input, "input"), array(target, "target")
    if x.shape != y.shape:
        raise ValueError(
            f"Using a target size ({list(y.shape)}) that is different to the input size ({list(x.shape)}) is deprecated. "
            "Please ensure they have the same size."
        )
    w = None if weight is None else fits(name, "weight", weight, x.shape)
    same_dtype(name, input=x, target=y)
    floating(name, x.dtype)

    def check(what: str, values: np.ndarray) -> None:
        if not ((values >= 0) & (values <= 1)).all():
            raise RuntimeError(f"all elements of {what} should be between 0 and 1, got {values.min()} to {values.max()}")

    for what, operand in (("input", x), ("target", y)):
        checked(operand, functools.partial(check, what))
    p, q = accumulating(x), accumulating(y)
    losses = -(q * _bounded_log(p) + (1 - q) * _bounded_log(1 - p))
    losses = jnp.where((q >= 0) & (q <= 1), losses, jnp.nan)
    return reduced(losses if w is None else losses * w, reduction, x.dtype)


@compiled
def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> jax.Array:
    """The binary cross entropy of logits, elementwise: `−(pos_weight · y log σ(x) + (1 − y) log(1 − σ(x)))`.

    Args:
        input: logits, any shape.
        target: probabilities, of the same shape.
        weight: broadcastable to the same shape.
        size_average, reduce, reduction: as for `l1_loss`.
        pos_weight: broadcastable to the same shape; the weight of `y`.

    Returns:
        A scalar, or the losses for reduction none, in the dtype of the target.

    Raises:
        RuntimeError: where weights cannot be broadcast, or the target is not floating point.
        ValueError: where shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> binary_cross_entropy_with_logits(jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0])).round(4).item()
        1.41
    """
    name = "binary_cross_entropy_with_logits"
    input, target, weight, pos_weight = to_float32(input, target, weight, pos_weight)
    reduction = reduction_of(size_average, reduce, reduction)
    x, y = array(input, "input"), array(target, "target")
    if x.shape != y.shape:
        raise ValueError(f"Target size ({list(y.shape)}) must be the same as input size ({list(x.shape)})")
    floating(name, x.dtype)
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise RuntimeError(f"{name}: expected a floating-point target, got {y.dtype.name}")
    (a, b), _ = promoted(name, input=x, target=y)
    positive = 1 if pos_weight is None else 1 + (fits(name, "pos_weight", pos_weight, x.shape) - 1) * b
    losses = (1 - b) * a + positive * softplus(-a, summed=reduction != "none")
    if weight is not None:
        losses = losses * fits(name, "weight", weight, x.shape)
    return reduced(losses, reduction, y.dtype)


@compiled
def poisson_nll_loss(
    input: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The negative log-likelihood of counts under a Poisson distribution, elementwise: `exp(x) − y x`.

    Args:
        input: the logarithms of the expectations, any shape.
        target: counts, of the same shape, or broadcastable with it.
        log_input: whether the input is logarithms; if not, the loss is `x − y log(x + eps)`.
        full: add Stirling's approximation of `log(y!)` where y > 1: `y log y − y + log(2π y) / 2`.
        eps: keeps the logarithm finite.
        size_average, reduce, reduction: as for `l1_loss`.

    Raises:
        RuntimeError: where shapes cannot be broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> poisson_nll_loss(jnp.array([0.0, 1.0]), jnp.array([2.0, 2.0]), reduction="none").round(4).tolist()
        [1.0, 0.7183]
    """
    reduction = reduction_of(size_average, reduce, reduction)
    input, target = to_float32(input, target)
    if array(input, "input").dtype == array(target, "target").dtype == bool:
        no_bool("poisson_nll_loss", array(input, "input"))
    (x, y), dtype = promoted("poisson_nll_loss", inexact=True, input=input, target=target)
    losses = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + eps)
    if full:
        many = jnp.where(y <= 1, 1, y)
        losses = losses + jnp.where(y <= 1, 0, many * jnp.log(many) - many + 0.5 * jnp.log(2 * math.pi * many))
    return reduced(losses, reduction, dtype)


@compiled
def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> jax.Array:
    """The negative log-likelihood under normal distributions, elementwise: `(log var + (x − y)² / var) / 2`.

    Args:
        input: expectations, any shape.
        target: samples, of the same shape, or broadcastable with it.
        var: variances: a float, or of the input's shape, or that without its last axis, or with one axis of size 1.
        full: add the constant `log(2π) / 2`.
        eps: the least variance; the gradient is that of the variance itself.
        reduction: none, mean or sum.

    Returns:
        A scalar, or the losses for reduction none. Under a JAX transformation, where values are not known, a negative
        variance gives NaN.

    Raises:
        ValueError: where a variance is negative, outside of transformations, or the variances have another size.

    References:
        Nix and Weigend, Estimating the mean and variance of the target probability distribution,
        https://doi.org/10.1109/ICNN.1994.374138

    Example:
        >>> import jax.numpy as jnp
        >>> gaussian_nll_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), jnp.ones(2)).item()
        1.0
    """
    input, target, var = to_float32(input, target, var)
    x = array(input, "input")
    if isinstance(var, int):
        raise TypeError(f"argument 'var' must be an array or a float, got {var!r}")
    if isinstance(var, float):
        var = np.full(x.shape, var, x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else np.float32)
    v = array(var, "var")

    def check(values: np.ndarray) -> None:
        if (values < 0).any():
            raise ValueError(f"var has negative entry/entries: {values.min()}")

    checked(v, check)
    if v.shape != x.shape:
        differing = [mine for mine, other in zip(v.shape, x.shape, strict=False) if mine != other]
        if v.shape == x.shape[:-1]:
            v = v[..., None]
        elif v.ndim != x.ndim or sum(differing) != 1:
            raise ValueError(f"var is of incorrect size: {list(v.shape)} for an input of size {list(x.shape)}")
    reduction = reduction_of(None, None, reduction)
    if not jnp.issubdtype(v.dtype, jnp.floating):
        raise RuntimeError(f"gaussian_nll_loss: expected var of a floating-point dtype, got {v.dtype.name}")
    (mean, sample, variance), dtype = promoted("gaussian_nll_loss", input=x, target=target, var=v)
    least = floored(jnp.where(variance < 0, jnp.nan, variance), eps)
    losses = 0.5 * (jnp.log(least) + jnp.square(mean - sample) / least)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction, dtype)


@compiled
def kl_div(
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> jax.Array:
    """The Kullback-Leibler divergence of log-probabilities from a target, elementwise: `y (log y − x)`.

    Args:
        input: log-probabilities, any shape.
        target: probabilities, of the same shape, or broadcastable with it.
        size_average, reduce: as for `l1_loss`.
        reduction: none, batchmean, mean or sum; batchmean divides the sum by the size of the first axis, which is the
            divergence of its definition, and mean by the number of elements.
        log_target: whether the target too is log-probabilities; then the loss is `exp(y) (y − x)`.

    Raises:
        RuntimeError: where shapes cannot be broadcast, and for integers and complex numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> kl_div(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([[0.5, 0.5]]), reduction="batchmean").round(4).item()
        0.1438
    """
    input, target = to_float32(input, target)
    batch_mean = reduction == "batchmean"
    if size_average is not None or reduce is not None or not batch_mean:
        chosen = reduction_of(size_average, reduce, reduction)
        if size_average is None and reduce is None and chosen == "mean":
            warn(
                "reduction: 'mean' divides the total loss by both the batch size and the support size. 'batchmean' divides "
                "only by the batch size, and aligns with the KL div math definition. 'mean' will be changed to behave the same "
                "as 'batchmean' in the next major release.",
                stacklevel=2,
            )
    else:
        chosen = "sum"
    (x, y), dtype = promoted("kl_div", input=input, target=target)
    if not all(jnp.issubdtype(array(a, "input").dtype, jnp.floating) for a in (input, target)):
        raise RuntimeError(f"kl_div: expected floating-point inputs, got a common dtype {dtype.name}")
    loss = reduced(jnp.exp(y) * (y - x) if log_target else xlogy(y, y) - y * x, chosen)
    batch = array(input, "input").shape
    return (loss / batch[0] if batch_mean and batch else loss).astype(dtype)
