"""Convolutions, plain and transposed: 1-, 2- and 3-dimensional doors to one function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, integer, ntuple, same_dtype
from fnn.kernels.conv import Form, convolution, transposed_convolution
from fnn.precision import to_lower

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]


@compiled
def _conv(
    n: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_padding: Any = None,
) -> jax.Array:
    """Plain convolution, or transposed where there is an output padding."""
    input, weight, bias = to_lower(input, weight, bias)
    transposed = output_padding is not None
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    x, w = array(input, "input"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    strides, dilations = ntuple(stride, n, "stride"), ntuple(dilation, n, "dilation")
    extra = ntuple(output_padding, n, "output_padding") if transposed else (0,) * n
    groups = integer(groups, "groups")
    same_dtype(name, input=x, weight=w, bias=b)
    _convolvable(name, x, jnp.bool_, *((jnp.int8, jnp.uint8, jnp.int16) if transposed else ()))
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(
            f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input of size: {list(x.shape)}"
        )
    if w.ndim != n + 2:
        layout = "in_channels, out_channels / groups" if transposed else "out_channels, in_channels / groups"
        raise RuntimeError(f"{name}: expected a {n + 2}D weight ({layout}, *kernel), got shape {w.shape}")
    if groups < 1:
        raise RuntimeError(f"{name}: non-positive groups is not supported, got {groups}")
    if min(strides) < 1 or min(dilations) < 1:
        raise RuntimeError(f"{name}: stride and dilation must be positive, got stride={strides}, dilation={dilations}")
    if 0 in (w.shape[0], *w.shape[1 + (not transposed) :]):
        raise RuntimeError(f"{name}: expected a weight with output channels and a kernel, but got size {list(w.shape)}")
    if w.shape[0] % groups:
        raise RuntimeError(
            f"{name}: expected dimension 0 of the weight to be divisible by groups, got weight of size {list(w.shape)} and "
            f"groups={groups}"
        )
    into, out = (w.shape[0], w.shape[1] * groups) if transposed else (w.shape[1] * groups, w.shape[0])
    batch, channels, *space = x.shape if x.ndim == n + 2 else (1, *x.shape)
    if channels != into:
        raise RuntimeError(
            f"{name}: Given groups={groups}, weight of size {list(w.shape)}, expected input{list(x.shape)} to have {into} "
            f"channels, but got {channels} channels instead"
        )
    if b is not None and b.shape != (out,):
        raise RuntimeError(f"{name}: expected a bias of shape ({out},), got {b.shape}")
    if 0 in space and batch and channels:
        raise RuntimeError(f"{name}: only zero batch or zero channel inputs are supported, but got shape {list(x.shape)}")
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    pads = _pads(n, padding, strides, spans, named=not transposed)
    if transposed:
        too_much = x.size and any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
        if min(extra) < 0 or too_much:
            raise RuntimeError(
                f"output padding must be non-negative, and smaller than either stride or dilation, but got output_padding="
                f"{extra}, stride={strides}, dilation={dilations}"
            )
        # Those of the plain convolution that this is the transpose of: it takes what this gives, and gives what this takes.
        pads = [(p, p - e) for (p, _), e in zip(pads, extra, strict=True)]
        parts = zip(space, strides, spans, pads, strict=True)
        padded, steps = [(size - 1) * s + 1 + 2 * (span - 1) - sum(pad) for size, s, span, pad in parts], (1,) * n
    else:
        padded, steps = [size + sum(pad) for size, pad in zip(space, pads, strict=True)], strides
    # A transposed convolution may come out empty, as a place where the padding takes all.
    if any(size < span - transposed for size, span in zip(padded, spans, strict=True)):
        raise RuntimeError(
            f"{name}: Calculated padded input size per channel: {tuple(padded)}. Kernel size: {tuple(spans)}. Kernel size "
            "can't be greater than actual input size"
        )
    result = [(size - span) // step + 1 for size, span, step in zip(padded, spans, steps, strict=True)]
    if x.size:
        y = x.reshape(batch, channels, *space)
        wide = x.dtype if b is None else accumulating(b).dtype  # one rounding, behind the bias
        form = Form(tuple(result if transposed else space), w.shape[2:], strides, tuple(pads), dilations, groups)
        y = transposed_convolution(form, w, y, wide) if transposed else convolution(form, y, w, wide)
        y = y if b is None else (y + b.reshape(-1, *[1] * n)).astype(x.dtype)
    else:  # of no channels torch makes none
        y = jnp.zeros((batch, out if channels else 0, *result), x.dtype)
    return y if x.ndim == n + 2 else y.reshape(y.shape[1:])


def _convolvable(name: str, x: jax.Array, *refused: Any) -> None:
    if x.dtype in refused:
        raise NotImplementedError(f'"{name}" not implemented for {x.dtype.name}')


def _pads(n: int, padding: Any, strides: tuple[int, ...], spans: list[int], named: bool) -> list[tuple[int, int]]:
    """Zeros before and behind each axis, from numbers or a name for them."""
    if not named or not isinstance(padding, str):
        pads = [(p, p) for p in ntuple(padding, n, "padding")]
        if min(pads)[0] < 0:
            raise RuntimeError(f"negative padding is not supported, got {padding}")
        return pads
    if padding == "valid":
        return [(0, 0)] * n
    if padding == "same":
        if any(s != 1 for s in strides):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        return [((span - 1) // 2, span // 2) for span in spans]
    raise RuntimeError(f"Invalid padding string {padding!r}, should be one of 'valid', 'same'")


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

    On the CPU, kernels of 3 and 5 rows with many channels are computed by minimal filtering: its rounding errors, and those of
    its derivatives, are up to 30 machine epsilons of the sum of magnitudes, where a plain sum's are a few. Ask for plain sums
    with `fnn.plain_kernels()`.

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


def conv_transpose1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> jax.Array:
    """The transpose of `conv1d`: of its derivative in the input; see `conv_transpose2d`.

    Args:
        input: (N, C_in, L) or (C_in, L).
        weight: (C_in, C_out / groups, kernel).
        bias, stride, padding, output_padding, groups, dilation: as for `conv_transpose2d`.

    Returns:
        (N, C_out, L_out) or (C_out, L_out).

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose1d(jnp.array([[1.0, 2.0]]), jnp.array([[[1.0, -1.0]]]), stride=2).tolist()
        [[1.0, -1.0, 2.0, -2.0]]
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, output_padding)


def conv_transpose2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> jax.Array:
    """The transpose of `conv2d`: every element of the input adds the kernel, times itself, to the output.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W).
        weight: (C_in, C_out / groups, kernel_h, kernel_w).
        bias: (C_out,).
        stride: the distance, in the output, of what neighbours in the input add; one number or one for each axis.
        padding: how much is cut off on both sides of the output.
        output_padding: how much is cut off less behind; smaller than the stride or the dilation.
        groups: channels are split in so many groups, convolved apart.
        dilation: the distance between kernel elements.

    Returns:
        (N, C_out, H_out, W_out) or (C_out, H_out, W_out), with
        H_out = (H − 1) · stride − 2 · padding + dilation · (kernel − 1) + output_padding + 1.

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    References:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, https://arxiv.org/abs/1603.07285

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose2d(jnp.ones((1, 3, 4, 4)), jnp.ones((3, 2, 3, 3)), stride=2, padding=1, output_padding=1).shape
        (1, 2, 8, 8)
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, output_padding)


def conv_transpose3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> jax.Array:
    """The transpose of `conv3d`; see `conv_transpose2d`.

    Args:
        input: (N, C_in, D, H, W) or (C_in, D, H, W).
        weight: (C_in, C_out / groups, kernel_d, kernel_h, kernel_w).
        bias, stride, padding, output_padding, groups, dilation: as for `conv_transpose2d`.

    Returns:
        (N, C_out, D_out, H_out, W_out) or (C_out, D_out, H_out, W_out).

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose3d(jnp.ones((2, 3, 3, 3)), jnp.ones((2, 1, 2, 2, 2)), stride=2).shape
        (1, 6, 6, 6)
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, output_padding)


@compiled
def conv_tbc(input: Any, weight: Any, bias: Any, pad: int = 0) -> jax.Array:
    """Cross-correlation over time, with the axes time, batch, channels.

    Args:
        input: (T, N, C_in).
        weight: (kernel, C_in, C_out).
        bias: (C_out,).
        pad: zeros on both sides; a negative number cuts off.

    Returns:
        (T + 2 · pad − kernel + 1, N, C_out).

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_tbc(jnp.ones((5, 2, 3)), jnp.ones((3, 3, 4)), jnp.zeros(4), pad=1).shape
        (5, 2, 4)
    """
    input, weight, bias = to_lower(input, weight, bias)
    x, w, b = array(input, "input"), array(weight, "weight"), array(bias, "bias")
    pad = integer(pad, "pad")
    if x.ndim != 3 or w.ndim != 3 or b.ndim != 1:
        raise RuntimeError(
            "conv_tbc: expected an input (time, batch, in_channels), a weight (kernel_width, in_channels, out_channels) and a "
            f"bias (out_channels,), got shapes {x.shape}, {w.shape} and {b.shape}"
        )
    if w.shape[1] != x.shape[2] or b.shape[0] != w.shape[2]:
        raise RuntimeError(
            f"conv_tbc: expected a weight (kernel_width, {x.shape[2]}, out_channels) and a bias (out_channels,), got shapes "
            f"{w.shape} and {b.shape}"
        )
    same_dtype("conv_tbc", input=x, weight=w)
    _convolvable("conv_tbc", x, jnp.bool_)
    steps = x.shape[0] + 2 * pad - w.shape[0] + 1
    if steps < 0:
        raise RuntimeError(f"conv_tbc: a kernel of {w.shape[0]} steps is longer than {x.shape[0]} steps padded by {pad}")
    if 0 in (steps, *x.shape, *w.shape):
        y = jnp.zeros((steps, x.shape[1], w.shape[2]), x.dtype)
    else:
        y = lax.conv_general_dilated(x, w, (1,), [(pad, pad)], dimension_numbers=("WNC", "WIO", "WNC"))
    return y + b.astype(x.dtype)
