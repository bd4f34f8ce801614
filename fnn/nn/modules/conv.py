"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any

import jax

from fnn import functional as F
from fnn.nn import init
from fnn.nn.modules.module import Module
from fnn.nn.modules.utils import _ntuple
from fnn.nn.parameter import Parameter

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

_ARGS = """
    Args:
        in_channels: the number of input channels.
        out_channels: the number of output channels.
        kernel_size: the size of the kernel, one number or one for each axis.
        stride: the step.
        padding: how much is added on both sides; 'valid' for nothing, 'same' for as much as keeps the size.
        dilation: the distance between kernel elements.
        groups: channels are split in so many groups, convolved apart.
        bias: whether there is a bias.
        padding_mode: zeros, reflect, replicate or circular.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.
"""


class _ConvNd(Module):
    """What convolutions share: hyperparameters, their checks, and parameters."""

    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if groups <= 0:
            raise ValueError(f"groups must be a positive integer, got {groups}")
        if in_channels % groups:
            raise ValueError(f"in_channels must be divisible by groups, got {in_channels} and {groups}")
        if out_channels % groups:
            raise ValueError(f"out_channels must be divisible by groups, got {out_channels} and {groups}")
        each = _ntuple(self._axes)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'same', 'valid'}}")
            if padding == "same" and any(s != 1 for s in each(stride)):
                raise ValueError("padding='same' is not supported for strided convolutions")
        modes = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(f"padding_mode must be one of {modes}, but got padding_mode='{padding_mode}'")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = each(kernel_size)
        self.stride = each(stride)
        self.padding = padding if isinstance(padding, str) else each(padding)
        self.dilation = each(dilation)
        self.transposed = False
        self.output_padding = each(0)
        self.groups = groups
        self.padding_mode = padding_mode
        self.weight = Parameter(init.zeros, (out_channels, in_channels // groups, *self.kernel_size), dtype)
        if bias:
            self.bias = Parameter(init.zeros, (out_channels,), dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _pads(self) -> list[int]:
        """The pads of each axis, last axis first, as `F.pad` takes them."""
        if self.padding == "valid":
            return [0, 0] * self._axes
        pads = []
        for k, d, p in zip(
            self.kernel_size, self.dilation, self.padding if self.padding != "same" else self.kernel_size, strict=True
        ):
            total = d * (k - 1)
            pads.append((total // 2, total - total // 2) if self.padding == "same" else (p, p))
        return [p for pair in reversed(pads) for p in pair]

    def forward(self, input: Any) -> jax.Array:
        function = (F.conv1d, F.conv2d, F.conv3d)[self._axes - 1]
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._pads(), mode=self.padding_mode), 0
        return function(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class Conv1d(_ConvNd):
    __doc__ = f"""Cross-correlation over one axis: `out = bias + Σ weight ⋆ input`.
{_ARGS}
    Shape:
        (N, C_in, L) or (C_in, L) to (N, C_out, L_out) or (C_out, L_out).

    Attributes:
        weight: (out_channels, in_channels / groups, kernel_size), initially uniform on ±1/√fan_in.
        bias: (out_channels,), likewise.

    Raises:
        ValueError: where channels are not divisible by groups, or padding is not possible.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Conv1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 33, 24)
    """
    _axes = 1


class Conv2d(_ConvNd):
    __doc__ = f"""Cross-correlation over two axes: `out = bias + Σ weight ⋆ input`.
{_ARGS}
    Shape:
        (N, C_in, H, W) or (C_in, H, W) to (N, C_out, H_out, W_out) or (C_out, H_out, W_out), with
        H_out = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1) / stride⌋ + 1.

    Attributes:
        weight: (out_channels, in_channels / groups, *kernel_size), initially uniform on ±1/√fan_in.
        bias: (out_channels,), likewise.

    Raises:
        ValueError: where channels are not divisible by groups, or padding is not possible.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2))(jnp.ones((20, 16, 50, 100))).shape
        (20, 33, 28, 100)
    """
    _axes = 2


class Conv3d(_ConvNd):
    __doc__ = f"""Cross-correlation over three axes: `out = bias + Σ weight ⋆ input`.
{_ARGS}
    Shape:
        (N, C_in, D, H, W) or (C_in, D, H, W) to (N, C_out, D_out, H_out, W_out) or (C_out, D_out, H_out, W_out).

    Attributes:
        weight: (out_channels, in_channels / groups, *kernel_size), initially uniform on ±1/√fan_in.
        bias: (out_channels,), likewise.

    Raises:
        ValueError: where channels are not divisible by groups, or padding is not possible.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Conv3d(2, 4, 3, stride=2)(jnp.ones((1, 2, 9, 9, 9))).shape
        (1, 4, 4, 4, 4)
    """
    _axes = 3
