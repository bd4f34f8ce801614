"""Which algorithm computes a contraction on the CPU. On other platforms, and where nothing is said, it is the stock operation.

Figures are times over PyTorch's, of the stock operation → of the algorithm, on 2 cores with AVX-512 in float32; a case is the
channels, N the batch, and the places of an axis. They move by 20 % from run to run.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.kernels.conv import phases, products, shifts, stock, winograd
from fnn.kernels.conv.chunks import Algorithm, mapped, part, summed
from fnn.kernels.conv.form import Extent, Form
from fnn.kernels.conv.windows import reverse, reversed_weight

CACHED = 2 << 20  # bytes of an input that an algorithm works on at a time
GATHERED = 32 << 20  # bytes of patches at most: more is asked of the system anew at each call
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
        return {"y": products.output, "x": products.input, "w": products.weight}[which]
    return _dense(which, form, extent)


def _grouped(which: str, form: Form, extent: Extent) -> Algorithm | None:
    channels, outputs = extent.channels // form.groups, extent.outputs // form.groups
    terms = (outputs if which == "x" else channels) * math.prod(form.kernel)
    if terms <= 2 * TAPS:
        # Depthwise 3x3 256 N8 28²: 6.4, 5.8, 26 → 0.3, 0.2, 1.9. 128 in 32 groups N8 28²: 13, 13, 409 → 1.8, 1.9, 1.4
        algorithm = {"y": shifts.output, "x": shifts.input, "w": shifts.weight}[which]
        if which == "w" and channels == 1 and _bytes(extent.batch * extent.channels, form.size) > 8 * CACHED:
            count = part(extent.batch, _bytes(extent.channels, form.size), 2 * CACHED)
            return functools.partial(summed, algorithm, count)  # 32 N16 112²: 7.7, at once 2.7 → 1.1
        return algorithm
    if form.groups <= 8:
        return functools.partial(_each_group, which)  # 128 in 4 groups N8 28²: 3.4, 3.7, 86 → 1.3, 1.4, 1.6
    # 512 in 32 groups s2 N8 14²: 4.2, 6.7, 408 → 2.4, 2.9, 1.9
    patches = max(_bytes(extent.channels, form.out), _bytes(extent.outputs, form.size)) * math.prod(form.kernel)
    if math.prod(form.kernel) > TAPS or patches > GATHERED or (which == "x" and set(form.dilation) != {1}):
        return None
    if which == "w":
        return shifts.weight
    output = functools.partial(mapped, products.patches_output, part(extent.batch, patches, GATHERED))
    if which == "y":
        return output
    return functools.partial(_reversed, output) if set(form.stride) == {1} else functools.partial(phases.input, inner=output)


def _bytes(channels: int, size: tuple[int, ...]) -> int:
    return 4 * channels * math.prod(size)


def _each_group(which: str, form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    # Not `lax.map`: XLA:CPU takes ten times as long for a convolution in a loop.
    one = form._replace(groups=1)
    axes = {"y": (1, 0, 1), "x": (0, 1, 1), "w": (1, 1, 0)}[which]  # that groups are on: of the operands, and of the result
    pairs = zip(jnp.split(a, form.groups, axes[0]), jnp.split(b, form.groups, axes[1]), strict=True)
    return jnp.concatenate([stock.OPERATIONS[which](one, *pair, None) for pair in pairs], axes[2])


def _dense(which: str, form: Form, extent: Extent) -> Algorithm | None:
    simple = set(form.dilation) == {1} and not any(map(any, form.pads))
    if simple and form.size == form.kernel:
        # 4x4 100-256 N16, transposed from maps of 1²: 2.7, with gradients 2.4 → 0.4, 0.4
        return {"y": products.whole_output, "x": products.whole_input, "w": products.whole_weight}[which]
    if simple and form.stride == form.kernel:
        # 2x2s2 32-64 N8 64²: 2.4, 1.1, 2.3 → 1.7, 0.9, 1.5
        inputs: Algorithm = functools.partial(phases.input, inner=products.output)
        return {"y": products.patches_output, "x": inputs, "w": products.patches_weight}[which]
    if set(form.dilation) != {1} or len(form.kernel) == 1 or math.prod(form.kernel) > TAPS:
        return None
    into, out = (extent.outputs, extent.channels) if which == "x" else (extent.channels, extent.outputs)
    places, sample = extent.batch * math.prod(form.out), _bytes(max(into, out), form.size)
    count = extent.batch if sample * extent.batch <= 2 * CACHED else part(extent.batch, sample, CACHED)
    if set(form.stride) == {1}:
        return _stride_one(which, form, into, out, places, count)
    if len(form.kernel) == 2 and form.kernel[0] >= 5 and which != "w" and -(-form.kernel[0] // form.stride[0]) <= 5:
        # 7x7s2 3-64 N8 224²: 0.9, 1.3 → 0.6, 0.8. N1: 1.8, 0.6 → 1.3, 0.5
        if which == "x":
            return functools.partial(phases.input, inner=functools.partial(stock.OPERATIONS["y"], dtype=None))
        inner = functools.partial(winograd.output, tiles=(4,))
        return _guarded("y", functools.partial(mapped, functools.partial(phases.output, inner=inner), count))
    if which != "x" and places >= 1500:
        # 3x3s2 64-128 N8 56²: 2.3, 1.7 → 1.5, 1.5
        if which == "y":
            return functools.partial(mapped, products.patches_output, count)
        return functools.partial(summed, products.patches_weight, count)
    return None


def _stride_one(which: str, form: Form, into: int, out: int, places: int, count: int) -> Algorithm | None:
    first, solid = form.kernel[0], len(form.kernel) == 3
    if form.kernel[:-1] not in ((3,), (5,), (3, 3)) or form.kernel[-1] > 7:
        return None
    if which == "w":
        # 64 N8 56²: 1.9 → 0.9. 128 N8 28²: 1.9 → 0.8. 64 N1 56²: 1.7 → 1.1. 3-D 16-32 N2 32³: 6.0 → 1.9
        if min(into, out) < (16 if solid else 32) or places < 1500 or first > 3:
            return None
        weight = functools.partial(winograd.weight, tiles=(1, 4) if solid else (4,))
        return _guarded("w", functools.partial(summed, weight, count))
    # 64 N8 56²: 2.4 → 0.9. 128 N8 28²: 1.3 → 0.8. 3-32 N8 32²: 2.4 → 1.0. 3-D 16-32 N2 32³: 2.5 → 1.0
    if out < (16 if first == 3 else 64) or into < 3 or places < 512:
        return None
    output = functools.partial(winograd.output, tiles=(2, 4) if solid else (4,))
    algorithm = _guarded("y", functools.partial(mapped, output, count))
    return algorithm if which == "y" else functools.partial(_reversed, algorithm)


def _guarded(which: str, algorithm: Algorithm) -> Algorithm:
    return functools.partial(winograd.guarded, which, algorithm)


def _reversed(algorithm: Algorithm, form: Form, w: jax.Array, y: jax.Array) -> jax.Array:
    return algorithm(reverse(form), y, reversed_weight(form, w))
