"""Batch normalization folded into the layer before it, for evaluation."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax

from fnn.arrays import to_array
from fnn.nn.modules.batchnorm import _BatchNorm
from fnn.nn.modules.conv import _ConvNd
from fnn.nn.modules.linear import Linear
from fnn.nn.parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]

C = TypeVar("C", bound=_ConvNd)
L = TypeVar("L", bound=Linear)


def fuse_conv_bn_eval(conv: C, bn: _BatchNorm, transpose: bool = False) -> C:
    """A new convolution that computes `bn(conv(x))`, for modules in evaluation mode.

    Args:
        conv: the convolution; it stays as it is.
        bn: the normalization, which tracks statistics.
        transpose: whether the convolution is a transposed one.

    Raises:
        AssertionError: where one of them is in training mode, or there are no statistics.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> conv, bn, x = nn.Conv2d(3, 4, 1).eval(), nn.BatchNorm2d(4).eval(), jnp.ones((1, 3, 2, 2))
        >>> bool(jnp.allclose(fuse_conv_bn_eval(conv, bn)(x), bn(conv(x)), atol=1e-6))
        True
    """
    return _fused(conv, bn, fuse_conv_bn_weights, transpose)


def fuse_conv_bn_weights(
    conv_w: Any, conv_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any, transpose: bool = False
) -> tuple[Parameter, Parameter]:
    """Weight and bias of a convolution with a batch normalization behind it: `s w` and `s (b - mean) + shift`.

    The factor is `s = scale / √(variance + eps)`, one for each output channel.

    Args:
        conv_w: the weight, (out, in / groups, *kernel), or (in, out / groups, *kernel) for `transpose`.
        conv_b: the bias (out,), or None.
        bn_rm: the running mean (out,).
        bn_rv: the running variance (out,).
        bn_eps: what is added to the variance.
        bn_w: the scale (out,), or None.
        bn_b: the shift (out,), or None.
        transpose: whether the convolution is a transposed one; it must have one group then.

    Returns:
        The weight and the bias, in the dtypes of the given ones, which require a gradient where those do.
    """
    shape = [1] * len(conv_w.shape)
    shape[1 if transpose else 0] = -1
    mean = to_array(bn_rm)
    scale = jnp.ones_like(mean) if bn_w is None else bn_w
    return _folded(conv_w, conv_b, mean, bn_rv, bn_eps, scale, jnp.zeros_like(mean) if bn_b is None else bn_b, shape)


def fuse_linear_bn_eval(linear: L, bn: _BatchNorm) -> L:
    """A new linear layer that computes `bn(linear(x))`, for modules in evaluation mode.

    Args:
        linear: the layer; it stays as it is.
        bn: the normalization of its outputs, or of one channel; it tracks statistics.

    Raises:
        AssertionError: where one of them is in training mode, the sizes differ, or there are no statistics.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> linear, bn, x = nn.Linear(3, 4).eval(), nn.BatchNorm1d(4).eval(), jnp.ones((2, 3))
        >>> bool(jnp.allclose(fuse_linear_bn_eval(linear, bn)(x), bn(linear(x)), atol=1e-6))
        True
    """
    if bn.num_features not in (1, linear.out_features):
        raise AssertionError(
            "To fuse, linear.out_features == bn.num_features or bn.num_features == 1, got "
            f"linear.out_features={linear.out_features} and bn.num_features={bn.num_features}"
        )
    return _fused(linear, bn, fuse_linear_bn_weights)


def fuse_linear_bn_weights(
    linear_w: Any, linear_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """Weight and bias of a linear layer with a batch normalization behind it; as for `fuse_conv_bn_weights`.

    Args:
        linear_w: the weight (out, in).
        linear_b: the bias (out,), or None.
        bn_rm: the running mean (out,) or (1,).
        bn_rv: the running variance, likewise.
        bn_eps: what is added to the variance.
        bn_w: the scale, likewise.
        bn_b: the shift, likewise.

    Returns:
        The weight and the bias.
    """
    return _folded(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, [-1, 1])


def _fused(layer: Any, bn: _BatchNorm, fuse: Any, *options: Any) -> Any:
    if layer.training or bn.training:
        raise AssertionError("Fusion only for eval!")
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")
    fused = copy.deepcopy(layer)
    statistics = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    fused.weight, fused.bias = fuse(layer.weight, layer.bias, *statistics, *options)
    return fused


def _folded(
    weight: Any, bias: Any, mean: Any, variance: Any, eps: float, scale: Any, shift: Any, shape: list[int]
) -> tuple[Parameter, Parameter]:
    w, mean = to_array(weight), to_array(mean)
    b = jnp.zeros_like(mean) if bias is None else to_array(bias)
    factor = scale * lax.rsqrt(to_array(variance) + eps)
    new_bias = (b - mean) * factor + shift
    return (
        Parameter((w * factor.reshape(shape)).astype(w.dtype), requires_grad=getattr(weight, "requires_grad", False)),
        Parameter(new_bias.astype(w.dtype if bias is None else b.dtype), requires_grad=getattr(bias, "requires_grad", False)),
    )
