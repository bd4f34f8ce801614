"""Elements moved between channels and space."""

from __future__ import annotations

from typing import Any

import jax

from fnn.eager import compiled
from fnn.functional.checks import array, integer

__all__ = ["pixel_shuffle", "pixel_unshuffle"]


def _image(function: str, input: Any, factor: Any, name: str) -> tuple[jax.Array, int]:
    x, r = array(input, "input"), integer(factor, name)
    if x.ndim < 3:
        raise RuntimeError(f"{function} expects input to have at least 3 dimensions, but got input with {x.ndim} dimension(s)")
    if r < 1:
        raise RuntimeError(f"{function} expects a positive {name}, but got {r}")
    return x, r


@compiled
def pixel_shuffle(input: Any, upscale_factor: int) -> jax.Array:
    """Spreads the channels of a picture over space: of r² channels each gives one element of an r × r square.

    Args:
        input: (*, C · r², H, W).
        upscale_factor: r.

    Returns:
        (*, C, H · r, W · r).

    Raises:
        RuntimeError: where r² does not divide the channels.

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution, https://arxiv.org/abs/1609.05158

    Example:
        >>> import jax.numpy as jnp
        >>> pixel_shuffle(jnp.arange(4).reshape(4, 1, 1), 2).tolist()
        [[[0, 1], [2, 3]]]
    """
    x, r = _image("pixel_shuffle", input, upscale_factor, "upscale_factor")
    *lead, channels, height, width = x.shape
    if r * r >= 1 << 63:
        raise ValueError(f"upscale factor is too large, (upscale_factor)^2 overflowed: upscale_factor={r}")
    if channels % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, but "
            f"input.size(-3)={channels} is not divisible by {r * r}"
        )
    n, out = len(lead), channels // (r * r)
    split = x.reshape(*lead, out, r, r, height, width)
    moved = split.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return moved.reshape(*lead, out, height * r, width * r)


@compiled
def pixel_unshuffle(input: Any, downscale_factor: int) -> jax.Array:
    """Moves the elements of each r × r square of a picture to channels; undoes `pixel_shuffle`.

    Args:
        input: (*, C, H · r, W · r).
        downscale_factor: r.

    Returns:
        (*, C · r², H, W).

    Raises:
        RuntimeError: where r does not divide height and width.

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution, https://arxiv.org/abs/1609.05158

    Example:
        >>> import jax.numpy as jnp
        >>> pixel_unshuffle(jnp.arange(4).reshape(1, 2, 2), 2).tolist()
        [[[0]], [[1]], [[2]], [[3]]]
    """
    x, r = _image("pixel_unshuffle", input, downscale_factor, "downscale_factor")
    *lead, channels, height, width = x.shape
    for name, place, size in (("height", -2, height), ("width", -1, width)):
        if size % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size({place})={size} is not "
                f"divisible by {r}"
            )
    if not x.size:
        return x  # as torch, which leaves even the shape of an empty picture
    n = len(lead)
    split = x.reshape(*lead, channels, height // r, r, width // r, r)
    moved = split.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return moved.reshape(*lead, channels * r * r, height // r, width // r)
