"""The gradients of convolutions as functions, `torch.nn.grad`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional import conv1d, conv2d, conv3d
from fnn.functional.checks import array, ntuple, same_dtype


def _gradient(n: int, input: Any, weight: Any, grad_output: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """The gradient in the one of input and weight that is given by its shape."""
    of_input = not hasattr(input, "dtype")
    g = array(grad_output, "grad_output")
    other = array(weight if of_input else input, "weight" if of_input else "input")
    same_dtype(f"conv{n}d", grad_output=g, **{"weight" if of_input else "input": other})
    options = ntuple(stride, n, "stride"), ntuple(padding, n, "padding"), ntuple(dilation, n, "dilation"), groups

    def convolve(x: jax.Array) -> jax.Array:
        x, w = (x, other) if of_input else (other, x)
        return (conv1d, conv2d, conv3d)[n - 1](x, w, None, *options)

    shape = tuple(input if of_input else weight)
    out = jax.eval_shape(convolve, jax.ShapeDtypeStruct(shape, g.dtype)).shape
    if g.shape != out:
        raise RuntimeError(f"conv{n}d: expected grad_output of shape {out}, got {g.shape}")
    return jax.vjp(convolve, jnp.zeros(shape, g.dtype))[1](g)[0]


def conv1d_input(
    input_size: Any, weight: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """As for `conv2d_input`."""
    return _gradient(1, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv2d_input(
    input_size: Any, weight: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """The gradient of `conv2d` in its input.

    Args:
        input_size: the shape of the input, (N, in, H, W), or without N.
        weight: (out, in / groups, *kernel).
        grad_output: the gradient in the output, of its shape.
        stride, padding, dilation, groups: of the convolution.

    Raises:
        RuntimeError: where shapes or dtypes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d_input((1, 1, 2, 2), jnp.full((1, 1, 1, 1), 3.0), jnp.ones((1, 1, 2, 2))).tolist()
        [[[[3.0, 3.0], [3.0, 3.0]]]]
    """
    return _gradient(2, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv3d_input(
    input_size: Any, weight: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """As for `conv2d_input`."""
    return _gradient(3, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv1d_weight(
    input: Any, weight_size: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """As for `conv2d_weight`."""
    return _gradient(1, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv2d_weight(
    input: Any, weight_size: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """The gradient of `conv2d` in its weight.

    Args:
        input: (N, in, H, W), or without N.
        weight_size: the shape of the weight, (out, in / groups, *kernel).
        grad_output: the gradient in the output, of its shape.
        stride, padding, dilation, groups: of the convolution.

    Raises:
        RuntimeError: where shapes or dtypes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d_weight(jnp.ones((1, 1, 2, 2)), (1, 1, 1, 1), jnp.ones((1, 1, 2, 2))).tolist()
        [[[[4.0]]]]
    """
    return _gradient(2, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv3d_weight(
    input: Any, weight_size: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> jax.Array:
    """As for `conv2d_weight`."""
    return _gradient(3, input, weight_size, grad_output, stride, padding, dilation, groups)
