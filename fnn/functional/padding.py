"""Padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import array, integer

__all__ = ["pad"]

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


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
    for axis in range(x.ndim - axes, x.ndim):
        _check(x.shape, axis, widths[axis], mode)
    if mode == "constant":
        fill = jnp.asarray(0 if value is None else value, x.dtype)
        return jax.lax.pad(x, fill, [(before, after, 0) for before, after in widths])
    more, less = [(max(b, 0), max(a, 0)) for b, a in widths], [(min(b, 0), min(a, 0)) for b, a in widths]
    if mode == "circular":
        return jnp.pad(_cut(x, less), more, mode="wrap")
    return _cut(jnp.pad(x, more, mode=_MODES[mode]), less)


def _check(shape: tuple[int, ...], axis: int, width: tuple[int, int], mode: str) -> None:
    size = shape[axis]
    padded, cut = size + sum(width), size + sum(min(w, 0) for w in width)
    whole = mode in ("reflect", "replicate")  # these continue the input before they cut it
    if padded < whole or (cut < 0 and not whole):
        raise RuntimeError(f"pad {width} on dimension {axis} leaves size {padded} of an input of shape {shape}")
    limit = {"constant": math.inf, "reflect": size - 1, "replicate": math.inf if size else 0, "circular": cut}[mode]
    if max(width) > limit:
        raise RuntimeError(
            f"Padding size should be less than the corresponding input dimension for mode {mode!r}, but got: padding "
            f"{width} at dimension {axis} of input {shape}"
        )


def _cut(x: jax.Array, widths: Sequence[tuple[int, int]]) -> jax.Array:
    return x[tuple(slice(-before, size + after) for size, (before, after) in zip(x.shape, widths, strict=True))]
