"""The three contractions by JAX's convolution, as its own derivatives have them."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from fnn.kernels.conv.form import Form
from fnn.kernels.sharding import is_divided


def _sharding(*axes: tuple[jax.Array, int]) -> Any:
    """The first axes of a result are divided as those of the operands that they come from; what is summed over is whole."""
    operands = [z for z, _ in axes]
    if not is_divided(*operands):
        return None
    parts = [jax.typeof(z).sharding.spec[axis] for z, axis in axes]
    mesh = next(jax.typeof(z).sharding.mesh for z in operands if is_divided(z))
    return jax.NamedSharding(mesh, jax.P(parts[0], None if parts[0] == parts[1] else parts[1]))


def _output(form: Form, x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        form.stride,
        form.pads,
        rhs_dilation=form.dilation,
        feature_group_count=form.groups,
        preferred_element_type=dtype,
        out_sharding=_sharding((x, 0), (w, 0)),
    )


def _input(form: Form, w: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    sharding = _sharding((y, 0), (w, 1))
    out, into, *kernel = w.shape
    groups, axes = form.groups, range(2, w.ndim)
    if groups > 1:
        w = w.reshape(groups, out // groups, into, *kernel).swapaxes(1, 2).reshape(groups * into, out // groups, *kernel)
    parts = zip(form.size, form.out, form.span, form.stride, form.pads, strict=True)
    pads = [(span - 1 - pad[0], size - 1 - (count - 1) * stride + pad[0]) for size, count, span, stride, pad in parts]
    spec = tuple(range(w.ndim))
    swapped = spec if groups > 1 else (1, 0, *axes)
    return lax.conv_general_dilated(
        y,
        lax.rev(w, axes),
        (1,) * len(axes),
        pads,
        form.stride,
        form.dilation,
        lax.ConvDimensionNumbers(spec, swapped, spec),
        feature_group_count=groups,
        preferred_element_type=dtype,
        out_sharding=sharding,
    )


def _weight(form: Form, x: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    parts = zip(form.size, form.out, form.span, form.stride, form.pads, strict=True)
    pads = [(pad[0], span + (count - 1) * stride - size - pad[0]) for size, count, span, stride, pad in parts]
    spec = (1, 0, *range(2, x.ndim))
    return lax.conv_general_dilated(
        x,
        y,
        form.dilation,
        pads,
        rhs_dilation=form.stride,
        dimension_numbers=lax.ConvDimensionNumbers(spec, spec, spec),
        batch_group_count=form.groups,
        preferred_element_type=dtype,
        out_sharding=_sharding((y, 1), (x, 1)),
    )


OPERATIONS = {"y": _output, "x": _input, "w": _weight}
