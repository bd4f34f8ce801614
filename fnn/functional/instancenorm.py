"""Instance normalization."""

from __future__ import annotations

import math
from typing import Any

from fnn.eager import compiled
from fnn.functional.batchnorm import normalize_channels
from fnn.functional.checks import array

__all__ = ["instance_norm"]


@compiled
def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: Any = 0.1,
    eps: float = 1e-5,
    *,
    return_statistics: bool = False,
) -> Any:
    """Normalizes each channel of each sample over space: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.

    Args:
        input: (N, C, *).
        running_mean: (C,), or None. With `use_input_stats` a Buffer is updated in place, to
            `(1 − momentum) · running + momentum · E`, E the mean over the batch; an array cannot be, see
            `return_statistics`.
        running_var: (C,), or None; updated with the mean over the batch of unbiased variances.
        weight: (C,) or None.
        bias: (C,) or None.
        use_input_stats: normalize by the statistics of the input, instead of the running ones.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        return_statistics: return `(output, running_mean, running_var)`, the statistics as they are after this batch.

    Raises:
        ValueError: where the statistics of the input are asked for, and it has one value a channel.
        RuntimeError: where shapes do not fit or dtypes differ; parameters of a 16-bit input may be float32.

    References:
        Ulyanov, Vedaldi and Lempitsky, Instance Normalization, https://arxiv.org/abs/1607.08022

    Example:
        >>> import jax.numpy as jnp
        >>> instance_norm(jnp.array([[[1.0, 3.0], [5.0, 9.0]]])).round(3).tolist()
        [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    x = array(input, "input")
    values = math.prod(x.shape[2:])
    if use_input_stats and values == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {list(x.shape)}")
    if x.ndim < 2:
        raise IndexError(f"instance_norm: expected an input of shape (N, C, *), got {x.shape}")
    parts = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    axes = tuple(range(2, x.ndim))
    y, *statistics = normalize_channels("instance_norm", x, axes, parts, use_input_stats, momentum, eps, values)
    return (y, *statistics) if return_statistics else y
