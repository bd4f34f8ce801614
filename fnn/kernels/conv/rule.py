"""Which algorithm computes a contraction on the CPU. On other platforms, and where nothing is said, it is the stock operation.

Figures are times over PyTorch's, of the stock operation → of the algorithm, on 2 cores with AVX-512 in float32; a case is the
channels, N the batch, and the places of an axis. They move by 20 % from run to run.

On CUDA the stock operation needs no other layout: XLA gives cuDNN's convolutions channels last where that pays, whatever the
order of axes is (`HeuristicLayoutAssignment` in openxla/xla, xla/service/gpu/transforms/layout_assignment.cc).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.kernels.conv import phases, products, shifts, stock, winograd
from fnn.kernels.conv.chunks import Algorithm, chunked, part
from fnn.kernels.conv.form import Extent, Form
from fnn.kernels.conv.windows import reverse, reversed_weight

CACHED = 2 << 20  # bytes of an input, or of patches, that an algorithm works on at a time
GATHERED = 32 << 20  # bytes of patches or columns at most: more is asked of the system anew at each call
TAPS = 64  # elements of a kernel, at most, that a program has a term for


@functools.lru_cache(4096)
def choose(which: str, form: Form, extent: Extent, dtype: Any) -> Algorithm | None:
    """The algorithm for y of x and w, for x of w and y, or for w of x and y; None for the stock one.

    Args:
        which: "y", "x" or "w".
        dtype: of the operands.
    """
    if not jnp.issubdtype(dtype, jnp.floating) or 0 in (*form.size, *form.out, *extent):
        return None
    if form.groups > 1:
        return _grouped(which, form, extent)
    if math.prod(form.kernel) == 1:
        # 256-64 N8 56²: 4.4, 2.6, 3.8 → 1.0, 1.2, 1.5. 512-2048 N8 7²: 1.6, 1.2, 1.1 → 1.3, 1.2, 1.0
        return _PRODUCTS[which]
    return _dense(which, form, extent)


def _grouped(which: str, form: Form, extent: Extent) -> Algorithm | None:
    channels, outputs = extent.channels // form.groups, extent.outputs // form.groups
    few, terms = min(channels, outputs), (outputs if which == "x" else channels) * math.prod(form.kernel)
    large = few * _places(form, extent) >= 16_000 or (which == "w" and form.out[-1] >= 28)
    if _filtered(form) and form.kernel[:-1] == (3,) and few >= (4 if which == "w" else 8) and large:
        # 256 in 32 groups N8 28²: 5, 9, 590, by shifts 1.2, 2.4, 5.2 → 0.8, 1.0, 3.0. 128 in 4 N8 28²: 5, 5, 93 → 1.0, 1.0, 1.2
        return _winograd(which, form, extent, (4,), shifts.weight if which == "w" else products.reversed_output)
    if terms <= 2 * TAPS and (which == "w" or few < 8):
        # Depthwise 3x3 256 N8 28²: 6.4, 5.8, 26 → 0.3, 0.2, 1.9. 128 in 32 groups N8 28²: 13, 13, 409 → 1.4, 1.4, 1.2
        algorithm = {"y": shifts.output, "x": shifts.input, "w": shifts.weight}[which]
        if which == "w" and channels == 1 and _bytes(extent.batch * extent.channels, form.size) > 8 * CACHED:
            count = part(extent.batch, _bytes(extent.channels, form.size), 2 * CACHED)
            return functools.partial(chunked, "w", algorithm, count)  # 32 N16 112²: 7.7, at once 2.7 → 1.1
        return algorithm
    if math.prod(form.kernel) > TAPS:
        return None
    # 512 in 32 groups s2 N8 14²: 4.1, 6.0, 420 → 2.8, 1.7, 1.8. 256 in 32 N8 14²: 7.2, 6.5, 900 → 2.2, 2.4, 3.5
    return shifts.weight if which == "w" else _product(which, form, extent)


def _dense(which: str, form: Form, extent: Extent) -> Algorithm | None:
    simple = set(form.dilation) == {1} and not any(map(any, form.pads))
    taps, axes, one = math.prod(form.kernel), len(form.kernel), set(form.stride) == {1}
    if simple and form.size == form.kernel:
        # 4x4 100-256 N16, transposed from maps of 1²: 2.7, with gradients 2.4 → 0.4, 0.4
        return {"y": products.whole_output, "x": products.whole_input, "w": products.whole_weight}[which]
    if simple and form.stride == form.kernel and (which == "x" or taps <= TAPS):
        # 4x4s4 3-96 N4 224²: 3.1, 0.8, 3.0 → 1.7, 0.5, 1.4. 2x2s2 96-192 N4 56²: 2.4, 0.6, 2.7 → 1.5, 0.4, 1.4
        if _places(form, extent) < 512 and (extent.channels > 4 or which != "x"):
            return None
        return functools.partial(phases.input, inner=products.output) if which == "x" else _PRODUCTS[which]
    if set(form.dilation) != {1} or taps > TAPS:
        return None
    into, out = (extent.outputs, extent.channels) if which == "x" else (extent.channels, extent.outputs)
    if out <= 4 and into >= 8 and (which == "x" or (which == "y" and one)):
        # x of 3-64 N8 112²: 1.5 → 0.8, of 3-D 3-32 N2 16x32x32: 6.2 → 0.4. y of 64-3 N8 32²: 0.9 → 0.5
        return _product(which, form, extent)
    if axes == 1:
        # 9 s4 1-32 N8 4096: 2.3, 1.0, 1.9 → 1.1, 0.8, 1.3. 3 32-32 N4 1024, over stock: 0.7, 0.8
        few = extent.channels <= 4 or (one and taps <= 5 and max(into, out) <= 32 and which != "w")
        return _product(which, form, extent) if few else None
    if _filtered(form):
        algorithm = _dense_winograd(which, form, extent, into, out)
        if algorithm is not None:
            return algorithm
    if axes == 3:
        # s2 16-32 N2 32³: 4, 36, 21 → 3.3, 0.4, 4.3. 1x3x3 16-32 N1 16³: 3.0, 3.5, 5.9 → 1.8, 0.5, 1.9
        return _product(which, form, extent)
    if extent.channels <= 4 and which == "y" and not one and form.kernel[0] >= 5 and -(-form.kernel[0] // form.stride[0]) <= 5:
        # 7x7s2 3-64 N8 224²: 0.9 → 0.6. N1: 1.8 → 1.3
        inner = functools.partial(winograd.output, tiles=(4,))
        return _cached("y", functools.partial(phases.output, inner=inner), form, extent)
    if extent.channels * taps <= 16 and which != "x" and one:
        return _product(which, form, extent)  # 1-32 N32 28²: 3.3, 2.6 → 2.2, 2.1
    return None


def _filtered(form: Form) -> bool:
    """Whether minimal filtering computes it."""
    return {*form.stride, *form.dilation} == {1} and form.kernel[:-1] in ((3,), (5,), (7,), (3, 3)) and form.kernel[-1] <= 7


def _dense_winograd(which: str, form: Form, extent: Extent, into: int, out: int) -> Algorithm | None:
    first, solid, places, few = form.kernel[0], len(form.kernel) == 3, _places(form, extent), min(into, out)
    if first > 3:
        if first == 5:
            # 64 N8 28²: 2.3, 2.3, 2.2 → 0.9, 1.3, 1.2. 32-64 N32 14²: 2.4, 2.5, 2.2 → 1.5, 1.9, 1.2
            # 5x1 32 N4 56², over stock: 1.06
            faster = out >= (32 if form.kernel[-1] > 1 else 64) and places >= (3000 if which == "w" else 1200)
        else:
            # 7x7 64 N4 28²: 2.4, 2.4, 2.4 → 1.5, 1.5, 1.3. 32 N8 28², over stock: 0.9. 128 N16 17²: 1.2
            faster = out == 64 and into <= 64 and places >= 3000
        faster &= few >= (32 if which == "w" or form.out[-1] < 28 else 3)
        return _winograd(which, form, extent, (4 if first == 5 else 2,)) if faster else None
    if which == "w":
        # 64 N8 56²: 1.9 → 0.9. 128 N8 28²: 1.9 → 0.8. 64 N1 56²: 1.7 → 1.1. 3-D 16-32 N2 32³: 6.0 → 1.9
        if few < (8 if solid else 32) or places < 1500:
            return None
        return _winograd(which, form, extent, (1, 4) if solid else (4,))
    # 64 N8 56²: 2.4 → 0.9. 128 N8 28²: 1.3 → 0.8. 3-32 N8 32²: 2.4 → 1.0. 3-D 16-32 N2 32³: 2.5 → 1.0
    if out < 16 or into < 3 or places < (512 if few >= 64 else 1200):
        return None
    if not solid and form.out[-1] < 28 and few < 40:
        return None  # 16 N8 14², over stock: 1.3. 24-40 N3 19²: 1.1, 1.2
    return _winograd(which, form, extent, (2, 4) if solid else (4,))


def _winograd(which: str, form: Form, extent: Extent, tiles: winograd.Tiles, other: Algorithm | None = None) -> Algorithm:
    if which == "x":
        return functools.partial(_reversed, _winograd("y", form, extent, tiles, other))
    algorithm = functools.partial(winograd.weight if which == "w" else winograd.output, tiles=tiles)
    return _cached(which, algorithm, form, extent, other)


def _cached(which: str, algorithm: Algorithm, form: Form, extent: Extent, other: Algorithm | None = None) -> Algorithm:
    """Minimal filtering of so many samples at a time, and of finite numbers."""
    sample = _bytes(max(extent.channels, extent.outputs), form.size)
    count = extent.batch if sample * extent.batch <= 2 * CACHED else part(extent.batch, sample, CACHED)
    usual = functools.partial(chunked, which, algorithm, count)
    return functools.partial(winograd.guarded, usual, other or functools.partial(stock.OPERATIONS[which], dtype=None))


def _reversed(algorithm: Algorithm, form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    return algorithm(reverse(form), y, reversed_weight(form, w))


def _product(which: str, form: Form, extent: Extent) -> Algorithm | None:
    """By columns where these are smaller or of more than one group, else by patches."""
    columns = which == "x" or (
        which == "y" and set(form.stride) == {1} and (form.groups > 1 or extent.outputs <= extent.channels)
    )
    algorithm, sample = _PRODUCTS[which], _bytes(extent.channels, form.out)
    if which == "y" and columns:
        algorithm, sample = products.reversed_output, _bytes(extent.outputs, form.size)
    sample *= math.prod(form.kernel)
    if sample > GATHERED:
        strided = which == "x" and set(form.stride) != {1}
        # 3-D 4 s2 16-32 N2 32³: 228, by columns 6.1 → 2.0
        return functools.partial(phases.input, inner=functools.partial(stock.OPERATIONS["y"], dtype=None)) if strided else None
    return functools.partial(chunked, which, algorithm, part(extent.batch, sample, CACHED))


_PRODUCTS: dict[str, Algorithm] = {"y": products.output, "x": products.input, "w": products.weight}


def _places(form: Form, extent: Extent) -> int:
    return extent.batch * math.prod(form.out)


def _bytes(channels: int, size: tuple[int, ...]) -> int:
    return 4 * channels * math.prod(size)
