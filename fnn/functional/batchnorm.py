"""Batch normalization."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.functional.checks import accumulating, array, floating, same_parameters
from fnn.scope import Cell, write

__all__ = ["batch_norm"]


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
    floating("batch_norm", x.dtype)
    if x.ndim < 2:
        raise RuntimeError(f"batch_norm: expected an input of shape (N, C, *), got {x.shape}")
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"batch_norm eps must be {'positive during training' if training else 'non-negative'}, but got {eps}")
    channels, axes = x.shape[1], (0, *range(2, x.ndim))
    parts = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    arrays = {name: None if part is None else array(part, name) for name, part in parts.items()}
    for name, part in arrays.items():
        if part is not None and part.shape != (channels,):
            raise RuntimeError(
                f"{name} should contain {channels} elements, not {part.size}: got shape {part.shape} for input {x.shape}"
            )
    same_parameters("batch_norm", x, **arrays)
    old_mean, old_var = arrays["running_mean"], arrays["running_var"]
    if not training and (old_mean is None or old_var is None):
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    if (old_mean is None) != (old_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")

    def spread(v: jax.Array) -> jax.Array:
        return v.reshape(1, channels, *[1] * (x.ndim - 2))

    wide = accumulating(x)
    new_mean, new_var = old_mean, old_var
    if training:
        count = x.size // max(channels, 1)
        if count <= 1 and x.size:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        mean = wide.mean(axes)
        var = jnp.square(wide - spread(mean)).mean(axes)
        batch = lax.stop_gradient((mean, var * (count / (count - 1))))
        new_mean, new_var = (
            None if old is None else (1 - momentum) * old + momentum * now.astype(old.dtype)
            for old, now in zip((old_mean, old_var), batch, strict=True)
        )
        for cell, old, new in ((running_mean, old_mean, new_mean), (running_var, old_var, new_var)):
            if isinstance(cell, Cell) and old is not None and new is not None:
                write(cell, new.astype(old.dtype))
    else:
        mean, var = accumulating(old_mean), accumulating(old_var)  # type: ignore[arg-type]
    scale = lax.rsqrt(var + eps)
    y = (wide - spread(mean)) * spread(scale)
    if arrays["weight"] is not None:
        y = y * spread(arrays["weight"])
    if arrays["bias"] is not None:
        y = y + spread(arrays["bias"])
    y = y.astype(x.dtype)
    return (y, new_mean, new_var) if return_statistics else y
