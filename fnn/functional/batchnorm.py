"""Batch normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, floating, same_parameters
from fnn.kernels.normalization import moments, standardize
from fnn.scope import Cell, write

__all__ = ["batch_norm"]


def _verify_batch_size(size: Sequence[int]) -> None:
    """Raises where there is one value for each channel, in an input of a size (N, C, *)."""
    if size[0] * math.prod(size[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(size)}")


@compiled
def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
    *,
    axis_name: Any = None,
    return_statistics: bool = False,
) -> Any:
    """Normalizes each channel to mean 0 and variance 1 over batch and space: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.

    Args:
        input: (N, C, *).
        running_mean: (C,), or None. In training a Buffer is updated in place, to
            `(1 − momentum) · running + momentum · batch`; an array cannot be, see `return_statistics`.
        running_var: (C,), or None; updated with the unbiased variance.
        weight: (C,) or None.
        bias: (C,) or None.
        training: normalize by the statistics of the batch, instead of the running ones.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        axis_name: a named axis of `jax.vmap` or `jax.shard_map`, or several, that the batch is split over: in training the
            statistics are those of the whole batch.
        return_statistics: return `(output, running_mean, running_var)`, the statistics as they are after this batch.

    Raises:
        ValueError: where training sees one value a channel, or eps does not keep the variance from 0.
        RuntimeError: where shapes do not fit or dtypes differ; parameters of a 16-bit input may be float32.

    References:
        Ioffe and Szegedy, Batch Normalization, https://arxiv.org/abs/1502.03167

    Example:
        >>> import jax.numpy as jnp
        >>> x, mean, var = jnp.array([[1.0], [3.0]]), jnp.zeros(1), jnp.ones(1)
        >>> y, mean, var = batch_norm(x, mean, var, training=True, return_statistics=True)
        >>> y.round(3).tolist(), mean.round(3).tolist(), var.round(3).tolist()
        ([[-1.0], [1.0]], [0.2], [1.1])
    """
    x = array(input, "input")
    shape = x.shape
    if shape == (0,):
        x = x.reshape(0, 0)  # torch takes it as a batch of no channels
    if x.ndim < 2:
        raise RuntimeError(f"batch_norm: expected an input of shape (N, C, *), got {x.shape}")
    shards = 1 if axis_name is None else lax.axis_size(axis_name)
    values = x.size // max(x.shape[1], 1) * shards
    if training:
        _verify_batch_size([len(x) * shards, *x.shape[1:]])
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"batch_norm eps must be {'positive during training' if training else 'non-negative'}, but got {eps}")
    axes = (0, *range(2, x.ndim))
    parts = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    y, *statistics = normalize_channels("batch_norm", x, axes, parts, training, momentum, eps, values, axis_name)
    y = y.reshape(shape)
    return (y, *statistics) if return_statistics else y


def normalize_channels(
    function: str,
    x: jax.Array,
    axes: tuple[int, ...],
    parts: dict[str, Any],
    training: bool,
    momentum: Any,
    eps: float,
    values: int,
    axis_name: Any = None,
) -> tuple[jax.Array, Any, Any]:
    """What batch and instance normalization share: running statistics, and a weight and a bias for each channel.

    Args:
        function: its name, for errors.
        x: (N, C, *).
        axes: those that statistics are taken over.
        parts: running_mean, running_var, weight and bias.
        training: whether to normalize by the statistics of the batch, and to update Buffers among the running ones.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        values: how many values there are in each mean.
        axis_name: named axes of JAX to take statistics over, too.

    Returns:
        The output, and the running mean and variance as they are after this batch.
    """
    floating(function, x.dtype)
    channels = x.shape[1]
    arrays: dict[str, Any] = {name: None if part is None else array(part, name) for name, part in parts.items()}
    for name, part in arrays.items():
        if part is not None and part.size != channels:
            raise RuntimeError(
                f"{name} should contain {channels} elements, not {part.size}: got shape {part.shape} for input {x.shape}"
            )
    same_parameters(function, x, **arrays)
    running = arrays["running_mean"], arrays["running_var"]
    if not training and any(part is None for part in running):
        flag = "training" if function == "batch_norm" else "use_input_stats"
        raise RuntimeError(f"Expected running_mean and running_var to be defined when {flag}=False")
    if (running[0] is None) != (running[1] is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")

    spread: list[Any] = [
        None if part is None else accumulating(part).reshape(1, channels, *[1] * (x.ndim - 2)) for part in arrays.values()
    ]
    mean, var, weight, bias = spread
    wide = accumulating(x)
    new = running
    if training:
        mean, var = moments(wide, axes, axis_name)
        if running[0] is not None and x.size:  # torch takes nothing from an empty batch
            seen = lax.stop_gradient((mean, var * (values / (values - 1))))
            new = tuple(
                (1 - momentum) * old + momentum * now.reshape(-1, channels).mean(0).reshape(old.shape).astype(old.dtype)
                for old, now in zip(running, seen, strict=True)
            )
            for name, value in zip(("running_mean", "running_var"), new, strict=True):
                if isinstance(parts[name], Cell):
                    write(parts[name], value.astype(arrays[name].dtype))
    return standardize(wide, mean, var, eps, weight, bias).astype(x.dtype), *new
