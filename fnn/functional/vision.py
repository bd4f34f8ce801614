"""Sampling of images at given places."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled, warn
from fnn.functional.checks import accumulating, array, floating, integer, same_dtype
from fnn.functional.upsampling import cubic_weights
from fnn.precision import to_widest

__all__ = ["affine_grid", "grid_sample"]

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def _aligned(align_corners: Any) -> bool:
    if align_corners is None:
        warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. Please specify "
            "align_corners=True if the old behavior is desired. See the documentation of grid_sample for details.",
            stacklevel=3,
        )
        return False
    if not isinstance(align_corners, (bool, np.bool_)):
        raise TypeError(f"argument 'align_corners' must be bool, not {type(align_corners).__name__}")
    return bool(align_corners)


def _inside(place: jax.Array, size: int, padding: str, aligned: bool, lost: int) -> jax.Array:
    """Places brought inside the axis as the padding says; `lost` is for those that are not numbers."""
    if padding == "zeros":
        return place
    if padding == "reflection":
        low, span = (0.0, size - 1.0) if aligned else (-0.5, float(size))
        if span == 0:
            return jnp.zeros_like(place)
        offset = place - low
        offset = jnp.where(offset < 0, -offset, offset)
        offset = offset - lax.stop_gradient(jnp.floor(offset / (2 * span))) * (2 * span)
        place = jnp.where(offset > span, 2 * span - offset, offset) + low
    # As in torch a place on the border has no gradient.
    within = (place > 0) & (place < size - 1)
    return jnp.where(within, place, jnp.where(place <= 0, 0, jnp.where(jnp.isnan(place), lost, size - 1)))


def _unnormalized(coordinate: jax.Array, size: int, aligned: bool) -> jax.Array:
    """The place that a coordinate from -1 to 1 stands for."""
    if aligned:
        return (coordinate + 1) * ((size - 1) / 2)
    # (coordinate + 1) * size / 2 - 0.5 rounded once, as by torch's fused multiply-add, however XLA fuses: each step but
    # the last is exact.
    offset = coordinate + 1
    info = jnp.finfo(offset.dtype)
    high = lax.stop_gradient(lax.reduce_precision(offset, info.nexp, info.nmant // 2))
    low = jnp.where(jnp.isfinite(offset), offset - high, 0)
    return (high * (size / 2) - 0.5) + low * (size / 2)


def _taps(
    coordinate: jax.Array, size: int, mode: str, padding: str, aligned: bool, axes: int
) -> list[tuple[jax.Array, jax.Array | None]]:
    """The elements of an axis, as whole numbers in floating point, and their weights, that each coordinate asks for."""
    place = _unnormalized(coordinate, size, aligned)
    lost = 0 if axes == 2 else size - 1
    if axes == 3 and padding == "zeros":
        place = jnp.where(jnp.isfinite(place), place, -2)  # outside, where torch's code for two axes gives NaN
    if mode != "bicubic":
        place = _inside(place, size, padding, aligned, lost)
    if mode == "nearest":
        return [(lax.stop_gradient(jnp.round(place)), None)]
    base = lax.stop_gradient(jnp.floor(place))
    fraction = place - base
    if mode == "bilinear":
        return [(base, 1 - fraction), (base + 1, fraction)]
    places = [_inside(base + t, size, padding, aligned, lost) for t in (-1, 0, 1, 2)]
    return [(jnp.trunc(lax.stop_gradient(p)), w) for p, w in zip(places, cubic_weights(fraction), strict=True)]


def grid_sample(
    input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> jax.Array:
    """The values of an image at the places that a grid names.

    −1 and 1 are the borders of the image; its first and last elements with `align_corners`.

    Args:
        input: (N, C, H, W) or (N, C, D, H, W).
        grid: (N, H_out, W_out, 2) places (x, y), or (N, D_out, H_out, W_out, 3) places (x, y, z).
        mode: bilinear (trilinear for five axes), nearest (of two the even one), or bicubic with a = −0.75 (four axes).
        padding_mode: beyond the image there are zeros, its border, or its reflection.
        align_corners: False by default, with a warning.

    Returns:
        (N, C, H_out, W_out) or (N, C, D_out, H_out, W_out). The nearest mode has no gradient in the grid.

    Raises:
        ValueError: for an unknown mode or padding_mode.
        RuntimeError: where shapes do not fit or dtypes differ.

    References:
        Jaderberg et al., Spatial Transformer Networks, https://arxiv.org/abs/1506.02025

    Example:
        >>> import jax.numpy as jnp
        >>> image = jnp.array([[[[0.0, 2.0], [4.0, 6.0]]]])
        >>> grid_sample(image, jnp.array([[[[0.0, 0.0], [1.0, -1.0]]]]), align_corners=True).tolist()
        [[[[3.0, 2.0]]]]
    """
    if mode not in _MODES:
        raise ValueError(f"nn.functional.grid_sample(): expected mode to be one of {_MODES}, but got: '{mode}'")
    if padding_mode not in _PADDINGS:
        raise ValueError(
            f"nn.functional.grid_sample(): expected padding_mode to be one of {_PADDINGS}, but got: '{padding_mode}'"
        )
    aligned = _aligned(align_corners)
    input, grid = to_widest(input, grid)
    x, places = array(input, "input"), array(grid, "grid")
    sizes = f"input with sizes {list(x.shape)} and grid with sizes {list(places.shape)}"
    if not x.ndim or not places.ndim:
        raise IndexError(f"grid_sampler(): expected 4D or 5D input and grid, but got {sizes}")
    axes = x.ndim - 2
    if x.ndim not in (4, 5) or places.ndim != x.ndim:
        raise RuntimeError(
            f"grid_sampler(): expected 4D or 5D input and grid with the same number of dimensions, but got {sizes}"
        )
    if x.shape[0] != places.shape[0] or places.shape[-1] != axes:
        raise RuntimeError(
            f"grid_sampler(): expected grid and input to have same batch size and grid to have size {axes} in last dimension, "
            f"but got {sizes}"
        )
    if 0 in x.shape[2:]:
        raise RuntimeError(f"grid_sampler(): expected input to have non-empty spatial dimensions, but got {sizes}")
    if mode == "bicubic" and axes != 2:
        raise RuntimeError(f"grid_sampler(): bicubic interpolation only supports 4D input, but got {sizes}")
    floating("grid_sampler", x.dtype)
    same_dtype("grid_sampler", input=x, grid=places)
    return _sampled(x, places, mode, padding_mode, aligned)


@partial(jax.jit, static_argnums=(2, 3, 4))  # some hundred small steps, slow one by one
def _sampled(x: jax.Array, grid: jax.Array, mode: str, padding: str, aligned: bool) -> jax.Array:
    batch, channels, *space = x.shape
    axes, out = len(space), grid.shape[1:-1]
    # One more element, a zero, for the places outside.
    values = jnp.pad(accumulating(x).reshape(batch, channels, math.prod(space)), [(0, 0), (0, 0), (0, 1)])
    coordinates = accumulating(grid).reshape(batch, math.prod(out), axes)
    taps = [_taps(coordinates[..., axes - 1 - i], size, mode, padding, aligned, axes) for i, size in enumerate(space)]
    corners = list(itertools.product(*taps))
    indices = [_flat([place for place, _ in corner], space) for corner in corners]
    if mode == "nearest":
        y = _pick(values, indices[0])
    else:
        y = _weighted(values, indices, [math.prod(w for _, w in corner) for corner in corners])
    return y.reshape(batch, channels, *out).astype(x.dtype)


def _flat(places: list[jax.Array], space: list[int]) -> jax.Array:
    """The index in a flat image of places along its axes; of those outside the index behind all."""
    index: Any = 0
    exists: Any = True
    for place, size in zip(places, space, strict=True):
        valid = (place >= 0) & (place < size)
        index, exists = index * size + jnp.where(valid, place, 0).astype(jnp.int32), exists & valid
    return jnp.where(exists, index, math.prod(space))


def _pick(values: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda image, i: image.at[:, i].get(mode="promise_in_bounds"))(values, index)


@jax.custom_jvp
def _weighted(values: jax.Array, indices: list[jax.Array], weights: list[jax.Array]) -> jax.Array:
    """The weighted sum of elements (N, C, place) that indices (N, place) name.

    The sum is fastest corner by corner; but each corner has a scatter in the transpose, which takes long to compile and
    run, so the derivative takes all corners at once.
    """
    return sum(_pick(values, index) * weight[:, None] for index, weight in zip(indices, weights, strict=True))  # type: ignore[return-value]


@_weighted.defjvp
def _weighted_jvp(primals: Any, tangents: Any) -> Any:
    values, indices, weights = primals
    index = jnp.stack(indices, 1)
    corners = index.shape[1:]
    index = index.reshape(len(index), math.prod(corners))

    def total(values: jax.Array, weights: list[jax.Array]) -> jax.Array:
        picked = _pick(values, index).reshape(*values.shape[:2], *corners)
        return (picked * jnp.stack(weights, 1)[:, None]).sum(2)

    return _weighted(*primals), total(tangents[0], weights) + total(values, tangents[2])


@compiled
def affine_grid(theta: Any, size: Any, align_corners: bool | None = None) -> jax.Array:
    """The places `theta · (x, y, 1)` or `theta · (x, y, z, 1)` for all elements of an image, as `grid_sample` takes them.

    Args:
        theta: (N, 2, 3) or (N, 3, 4), floating point.
        size: of the image: (N, C, H, W) or (N, C, D, H, W).
        align_corners: −1 and 1 are the first and last elements instead of the borders; False by default, with a warning.

    Returns:
        (N, H, W, 2) or (N, D, H, W, 3).

    Raises:
        ValueError: where theta is not of floating point or does not fit the size, or a size is not positive.
        NotImplementedError: for another number of axes.

    References:
        Jaderberg et al., Spatial Transformer Networks, https://arxiv.org/abs/1506.02025

    Example:
        >>> import jax.numpy as jnp
        >>> affine_grid(jnp.eye(2, 3)[None], (1, 1, 1, 2), align_corners=False).tolist()
        [[[[-0.5, 0.0], [0.5, 0.0]]]]
    """
    aligned = _aligned(align_corners)
    matrix = array(theta, "theta")
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise ValueError(f"Expected theta to have floating point type, but got {matrix.dtype.name}")
    if len(size) not in (4, 5):
        raise NotImplementedError(
            f"affine_grid only supports 4D and 5D sizes, for 2D and 3D affine transforms, respectively. Got size {tuple(size)}."
        )
    axes = len(size) - 2
    if matrix.ndim != 3 or matrix.shape[1:] != (axes, axes + 1):
        raise ValueError(
            f"Expected a batch of {axes}D affine matrices of shape Nx{axes}x{axes + 1} for size {tuple(size)}. Got "
            f"{matrix.shape}."
        )
    sizes = [integer(n, "size") for n in size]
    batch, _, *space = sizes
    if aligned and min(space) == 1:
        warn(
            "Since version 1.3.0, affine_grid behavior has changed for unit-size grids when align_corners=True. This is not an "
            "intended use case of affine_grid. See the documentation of affine_grid for details.",
            stacklevel=2,
        )
    elif min(sizes) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {tuple(size)}")
    if batch != matrix.shape[0]:
        raise RuntimeError(f"affine_grid: expected {batch} matrices for size {tuple(size)}, got theta of shape {matrix.shape}")
    t = accumulating(matrix).reshape(batch, *[1] * axes, axes, axes + 1)
    places = t[..., axes]
    for i, n in enumerate(space):
        ends = 1 - (0 if aligned else 1 / n)
        ticks = np.linspace(-ends, ends, n) if n > 1 else np.zeros(n)
        places = places + t[..., axes - 1 - i] * ticks.astype(t.dtype).reshape([n if j == i else 1 for j in range(axes)] + [1])
    return places.astype(matrix.dtype)
