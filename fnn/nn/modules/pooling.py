"""Pooling layers."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.module import Module

__all__ = ["AdaptiveAvgPool2d", "MaxPool1d", "MaxPool2d", "MaxPool3d"]

_ARGS = """
    Args:
        kernel_size: the size of the window.
        stride: the step; the size of the window by default.
        padding: of −∞ on both sides; at most half of the window.
        dilation: the distance between elements of a window.
        return_indices: return also where each maximum was found.
        ceil_mode: round the size of the output up instead of down.
"""


class _MaxPoolNd(Module):
    """What max pooling layers share."""

    _axes: int

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Any) -> Any:
        function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self._axes - 1]
        return function(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    __doc__ = f"""The maximum of each window over one axis.
{_ARGS}
    Shape:
        (N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxPool1d(2)(jnp.array([[1.0, 3.0, 2.0, 0.0]])).tolist()
        [[3.0, 2.0]]
    """
    _axes = 1


class MaxPool2d(_MaxPoolNd):
    __doc__ = f"""The maximum of each window over two axes.
{_ARGS}
    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out), with
        H_out = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1) / stride⌋ + 1.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxPool2d(3, stride=2)(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 15)
    """
    _axes = 2


class MaxPool3d(_MaxPoolNd):
    __doc__ = f"""The maximum of each window over three axes.
{_ARGS}
    Shape:
        (N, C, D, H, W) or (C, D, H, W) to (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxPool3d(2)(jnp.ones((1, 4, 4, 4))).shape
        (1, 2, 2, 2)
    """
    _axes = 3


class AdaptiveAvgPool2d(Module):
    """The mean over as many windows of nearly equal size as the output shall have elements.

    Args:
        output_size: one number, or (H_out, W_out); None keeps the size of the input.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveAvgPool2d((5, 7))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 7)
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Any) -> jax.Array:
        return F.adaptive_avg_pool2d(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
