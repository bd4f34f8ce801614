"""Padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.eager import compiled
from fnn.functional.checks import array, integer

__all__ = ["pad"]

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@compiled
def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> jax.Array:
    """Pads the last axes.

    Args:
        input: any shape.
        pad: (before, after) for the last axis, then for the one before it, and so on. A negative number cuts off.
        mode: constant, reflect (without the edge), replicate (the edge) or circular. All but constant take pads for all
            axes but the first two (or one, where the input has no batch axis).
        value: what constant pads with; 0 by default.

    Raises:
        RuntimeError: where a pad does not fit the input.
        NotImplementedError: for an unknown mode, or pads of too many axes.

    Example:
        >>> import jax.numpy as jnp
        >>> pad(jnp.array([1, 2, 3]), (1, 2)).tolist()
        [0, 1, 2, 3, 0, 0]
        >>> pad(jnp.array([[1.0, 2.0, 3.0]]), (2, 1), mode="reflect").tolist()
        [[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]]
    """
    x = array(input, "input")
    if not isinstance(pad, (tuple, list)):
        raise TypeError(f"argument 'pad' must be a tuple of ints, not {type(pad).__name__}")
    if not isinstance(mode, str):
        raise TypeError(f"argument 'mode' must be str, not {type(mode).__name__}")
    amounts = [integer(p, "pad") for p in pad]
    if len(amounts) % 2:
        raise RuntimeError(f"Padding length must be divisible by 2, got {tuple(amounts)}")
    axes = len(amounts) // 2
    if axes > x.ndim:
        raise RuntimeError(
            f"Padding length should be at most twice the number of dimensions of the input: got {tuple(amounts)} for {x.shape}"
        )
    if mode not in _MODES:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    widths = [(0, 0)] * (x.ndim - axes) + [(amounts[2 * i], amounts[2 * i + 1]) for i in reversed(range(axes))]
    if mode != "constant":
        if value is not None and value != 0:
            raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
        if not axes or axes not in (x.ndim - 1, x.ndim - 2):
            raise NotImplementedError(
                f"Only 2D, 3D, 4D, 5D padding with non-constant padding are supported, got pads {tuple(amounts)} for {x.shape}"
            )
        _check_lead(x, axes, mode)
    for axis in range(x.ndim - axes, x.ndim):
        _check(x.shape, axis, widths[axis], mode)
    padded = [size + sum(width) for size, width in zip(x.shape, widths, strict=True)][x.ndim - axes :]
    if mode in ("reflect", "replicate") and max(padded) < 1:  # torch lets some of the sizes be 0, but not all
        raise RuntimeError(
            f"pads {tuple(amounts)} leave sizes {padded} of an input of shape {x.shape}: expected one of 1 or more"
        )
    if mode == "constant":
        return jax.lax.pad(x, _fill(0 if value is None else value, x.dtype), [(before, after, 0) for before, after in widths])
    more, less = [(max(b, 0), max(a, 0)) for b, a in widths], [(min(b, 0), min(a, 0)) for b, a in widths]
    if mode == "circular":
        return jnp.pad(_cut(x, less), more, mode="wrap")
    return _cut(jnp.pad(x, more, mode=_MODES[mode]), less)


def _fill(value: Any, dtype: Any) -> jax.Array:
    """What constant pads with, in the input's dtype, which must hold it."""
    if isinstance(value, jax.core.Tracer):
        return value.astype(dtype)
    if isinstance(value, (str, complex)):
        raise TypeError(f"argument 'value' must be float, not {type(value).__name__}")
    number = float(value)
    whole = jnp.issubdtype(dtype, jnp.integer)
    if whole or jnp.issubdtype(dtype, jnp.floating):
        limits = jnp.iinfo(dtype) if whole else jnp.finfo(dtype)
        if not (float(limits.min) <= number <= float(limits.max) or (not whole and not math.isfinite(number))):
            raise RuntimeError(f"value {value} cannot be converted to type {dtype.name} without overflow")
    return jnp.asarray(int(number) if whole else number, dtype)


def _check_lead(x: jax.Array, axes: int, mode: str) -> None:
    """Raises where torch's kernels of reflect and replicate, unlike circular's, refuse the input."""
    if mode == "circular":
        return
    if x.dtype == bool:
        raise NotImplementedError(f"padding mode {mode!r} is not implemented for bool")
    if not x.shape[x.ndim - axes - 1]:
        raise RuntimeError(
            f"Expected {axes + 1}D or {axes + 2}D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
            f"for input, but got: {list(x.shape)}"
        )


def _check(shape: tuple[int, ...], axis: int, width: tuple[int, int], mode: str) -> None:
    size = shape[axis]
    padded, cut = size + sum(width), size + sum(min(w, 0) for w in width)
    whole = mode in ("reflect", "replicate")  # these continue the input before they cut it
    if padded < 0 or (cut < 0 and not whole):
        raise RuntimeError(f"pad {width} on dimension {axis} leaves size {padded} of an input of shape {shape}")
    limit = {"constant": math.inf, "reflect": size - 1, "replicate": math.inf if size else 0, "circular": cut}[mode]
    if max(width) > limit:
        raise RuntimeError(
            f"Padding size should be less than the corresponding input dimension for mode {mode!r}, but got: padding "
            f"{width} at dimension {axis} of input {shape}"
        )


def _cut(x: jax.Array, widths: Sequence[tuple[int, int]]) -> jax.Array:
    return x[tuple(slice(-before, size + after) for size, (before, after) in zip(x.shape, widths, strict=True))]
