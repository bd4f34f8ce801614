"""Convolutions: 1-, 2- and 3-dimensional doors to one function."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from fnn.functional.checks import array, integer, ntuple, same_dtype

__all__ = ["conv1d", "conv2d", "conv3d"]


def _conv(n: int, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> jax.Array:
    name = f"conv{n}d"
    x, w = array(input, "input"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    same_dtype(name, input=x, weight=w, bias=b)
    if w.ndim != n + 2:
        raise RuntimeError(
            f"{name}: expected a {n + 2}D weight (out_channels, in_channels / groups, *kernel), got shape {w.shape}"
        )
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input of size: {list(x.shape)}"
        )
    strides, dilations = ntuple(stride, n, "stride"), ntuple(dilation, n, "dilation")
    groups = integer(groups, "groups")
    if 0 in (w.shape[0], *w.shape[2:]):
        raise RuntimeError(f"{name}: expected a weight with output channels and a kernel, but got size {list(w.shape)}")
    if groups < 1:
        raise RuntimeError(f"{name}: non-positive groups is not supported, got {groups}")
    if min(strides) < 1 or min(dilations) < 1:
        raise RuntimeError(f"{name}: stride and dilation must be positive, got stride={strides}, dilation={dilations}")
    unbatched = x.ndim == n + 1
    if unbatched:
        x = x[None]
    if x.shape[1] != w.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(w.shape)}, expected input{list(x.shape)} to have "
            f"{w.shape[1] * groups} channels, but got {x.shape[1]} channels instead"
        )
    if w.shape[0] % groups:
        raise RuntimeError(
            f"{name}: expected out_channels to be divisible by groups, got weight of size {list(w.shape)} and groups={groups}"
        )
    if b is not None and b.shape != (w.shape[0],):
        raise RuntimeError(f"{name}: expected a bias of shape ({w.shape[0]},), got {b.shape}")
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    if padding == "valid":
        pads = [(0, 0)] * n
    elif padding == "same":
        if any(s != 1 for s in strides):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        pads = [((span - 1) // 2, span - 1 - (span - 1) // 2) for span in spans]
    elif isinstance(padding, str):
        raise RuntimeError(f"Invalid padding string {padding!r}, should be one of 'valid', 'same'")
    else:
        pads = [(p, p) for p in ntuple(padding, n, "padding")]
        if min(pads)[0] < 0:
            raise RuntimeError(f"negative padding is not supported, got {padding}")
    padded = [size + before + after for size, (before, after) in zip(x.shape[2:], pads, strict=True)]
    if any(size < span for size, span in zip(padded, spans, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: {tuple(padded)}. Kernel size: {tuple(spans)}. Kernel size can't be "
            "greater than actual input size"
        )
    y = lax.conv_general_dilated(x, w, strides, pads, rhs_dilation=dilations, feature_group_count=groups)
    if b is not None:
        y = y + b.reshape(-1, *[1] * n)
    return y[0] if unbatched else y


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """Cross-correlation over one axis; see `conv2d`.

    Args:
        input: (N, C_in, L) or (C_in, L).
        weight: (C_out, C_in / groups, kernel).
        bias, stride, padding, dilation, groups: as for `conv2d`.

    Returns:
        (N, C_out, L_out) or (C_out, L_out).

    Example:
        >>> import jax.numpy as jnp
        >>> conv1d(jnp.array([[1.0, 2.0, 4.0]]), jnp.array([[[1.0, -1.0]]])).tolist()
        [[-1.0, -2.0]]
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """Cross-correlation over two axes.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_out, C_in / groups, kernel_h, kernel_w).
        bias: (C_out,).
        stride: the step, one number or one for each axis.
        padding: zeros on both sides, one number or one for each axis; 'valid' for none, 'same' for as many as keep the
            size (with stride 1; an odd one goes behind).
        dilation: the distance between kernel elements.
        groups: channels are split in so many groups, convolved apart.

    Returns:
        (N, C_out, H_out, W_out) or (C_out, H_out, W_out), with
        H_out = ⌊(H + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1.

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d(jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3)), padding="same").shape
        (1, 4, 8, 8)
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """Cross-correlation over three axes; see `conv2d`.

    Args:
        input: (N, C_in, D, H, W) or (C_in, D, H, W).
        weight: (C_out, C_in / groups, kernel_d, kernel_h, kernel_w).
        bias, stride, padding, dilation, groups: as for `conv2d`.

    Returns:
        (N, C_out, D_out, H_out, W_out) or (C_out, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp
        >>> conv3d(jnp.ones((2, 4, 4, 4)), jnp.ones((1, 2, 2, 2, 2)), stride=2).shape
        (1, 2, 2, 2)
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)
