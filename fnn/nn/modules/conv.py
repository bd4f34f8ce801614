"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import numpy as np

from fnn import functional as F
from fnn.nn import init
from fnn.nn.modules.lazy import LazyModuleMixin
from fnn.nn.modules.module import Declared, Module
from fnn.nn.modules.utils import _ntuple
from fnn.nn.parameter import Parameter

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
]

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

    _axes: ClassVar[int]
    weight: Any = Declared("_parameters")
    bias: Any = Declared("_parameters")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        transposed: bool,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
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
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'same', 'valid'}}")
            if padding == "same" and any(s != 1 for s in stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        modes = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(f"padding_mode must be one of {modes}, but got padding_mode='{padding_mode}'")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.transposed = transposed
        self.output_padding = output_padding
        self.groups = groups
        self.padding_mode = padding_mode
        self.weight = Parameter(init.zeros, self._weight_shape(), dtype)
        if bias:
            self.bias = Parameter(init.zeros, (out_channels,), dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        self._place(device)

    def _weight_shape(self) -> tuple[int, ...]:
        ends = (self.in_channels, self.out_channels) if self.transposed else (self.out_channels, self.in_channels)
        return (ends[0], ends[1] // self.groups, *self.kernel_size)

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            bound = 1 / math.sqrt(fan_in) if fan_in else 0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            value = getattr(self, name)
            if value != (usual,) * len(value):
                text += f", {name}={value}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_ConvNd):
    """Plain convolution over any number of axes."""

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
        each = _ntuple(self._axes)
        super().__init__(
            in_channels,
            out_channels,
            each(kernel_size),
            each(stride),
            padding if isinstance(padding, str) else each(padding),
            each(dilation),
            False,
            each(0),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    @property
    def _reversed_padding_repeated_twice(self) -> list[int]:
        """The pads of each axis, last axis first, as `F.pad` takes them; model code uses torch's name for them."""
        pads = [(p, p) for p in self.padding] if not isinstance(self.padding, str) else [(0, 0)] * self._axes
        if self.padding == "same":
            totals = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            pads = [(total // 2, total - total // 2) for total in totals]
        return [p for pair in reversed(pads) for p in pair]

    def _conv_forward(self, input: Any, weight: Any, bias: Any) -> jax.Array:
        function = (F.conv1d, F.conv2d, F.conv3d)[self._axes - 1]
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return function(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def forward(self, input: Any) -> jax.Array:
        return self._conv_forward(input, self.weight, self.bias)


class _ConvTransposeNd(_ConvNd):
    """Transposed convolution over any number of axes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        each = _ntuple(self._axes)
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}, got {padding_mode!r}')
        super().__init__(
            in_channels,
            out_channels,
            each(kernel_size),
            each(stride),
            each(padding),
            each(dilation),
            True,
            each(output_padding),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def _output_padding(self, input: Any, output_size: Any, *sizes: Any) -> tuple[int, ...]:
        """What must be added behind each axis for an output of a given size; the layer's own sizes, which torch's method
        is given as well, count for nothing."""
        if output_size is None:
            return self.output_padding
        n, shape = self._axes, np.shape(input)
        lead = 2 if len(shape) == n + 2 else 1
        wanted = tuple(output_size[lead:]) if len(output_size) == lead + n else tuple(output_size)
        if len(wanted) != n:
            raise ValueError(
                f"ConvTranspose{n}D: for {len(shape)}D input, output_size must have {n} or {lead + n} elements, got "
                f"{len(wanted)}"
            )
        smallest = [
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(shape[lead:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        ]
        largest = [size + s - 1 for size, s in zip(smallest, self.stride, strict=True)]
        if any(not low <= size <= high for size, low, high in zip(wanted, smallest, largest, strict=True)):
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {smallest} to {largest} (for an input of "
                f"{tuple(shape)})"
            )
        return tuple(size - low for size, low in zip(wanted, smallest, strict=True))

    def forward(self, input: Any, output_size: Any = None) -> jax.Array:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self._axes - 1]
        extra = self._output_padding(input, output_size)
        return function(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)


class Conv1d(_Conv):
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


class Conv2d(_Conv):
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


class Conv3d(_Conv):
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


class ConvTranspose1d(_ConvTransposeNd):
    """The transpose of `Conv1d`: every element of the input adds the kernel, times itself, to the output.

    Args: as for `ConvTranspose2d`.

    Shape:
        (N, C_in, L) or (C_in, L) to (N, C_out, L_out) or (C_out, L_out).

    Attributes:
        weight: (in_channels, out_channels / groups, kernel_size), initially uniform on ±1/√fan_in.
        bias: (out_channels,), likewise.

    Raises:
        ValueError: as for `ConvTranspose2d`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ConvTranspose1d(16, 33, 3, stride=2)(jnp.ones((20, 16, 50))).shape
        (20, 33, 101)
    """

    _axes = 1


class ConvTranspose2d(_ConvTransposeNd):
    """The transpose of `Conv2d`: every element of the input adds the kernel, times itself, to the output.

    Forward takes also `output_size`, the size of the output's space or its whole shape, in the place of
    `output_padding`.

    Args:
        in_channels: the number of input channels.
        out_channels: the number of output channels.
        kernel_size: the size of the kernel, one number or one for each axis.
        stride: the distance, in the output, of what neighbours in the input add.
        padding: how much is cut off on both sides of the output.
        output_padding: how much is cut off less behind; smaller than the stride or the dilation.
        groups: channels are split in so many groups, convolved apart.
        bias: whether there is a bias.
        dilation: the distance between kernel elements.
        padding_mode: zeros.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        (N, C_in, H, W) or (C_in, H, W) to (N, C_out, H_out, W_out) or (C_out, H_out, W_out), with
        H_out = (H − 1) · stride − 2 · padding + dilation · (kernel_size − 1) + output_padding + 1.

    Attributes:
        weight: (in_channels, out_channels / groups, *kernel_size), initially uniform on ±1/√fan_in, where fan_in is
            out_channels / groups times the size of the kernel.
        bias: (out_channels,), likewise.

    Raises:
        ValueError: where channels are not divisible by groups, for another padding mode, and by forward where the output
            cannot have the size.

    References:
        Zeiler et al., Deconvolutional networks, CVPR 2010; Dumoulin and Visin, A guide to convolution arithmetic for deep
        learning, https://arxiv.org/abs/1603.07285

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> down, up = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1)
        >>> x = jnp.ones((1, 16, 12, 12))
        >>> up(down(x), output_size=x.shape).shape
        (1, 16, 12, 12)
    """

    _axes = 2


class ConvTranspose3d(_ConvTransposeNd):
    """The transpose of `Conv3d`: every element of the input adds the kernel, times itself, to the output.

    Args: as for `ConvTranspose2d`.

    Shape:
        (N, C_in, D, H, W) or (C_in, D, H, W) to (N, C_out, D_out, H_out, W_out) or (C_out, D_out, H_out, W_out).

    Attributes:
        weight: (in_channels, out_channels / groups, *kernel_size), initially uniform on ±1/√fan_in.
        bias: (out_channels,), likewise.

    Raises:
        ValueError: as for `ConvTranspose2d`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ConvTranspose3d(16, 33, (3, 5, 2), stride=(2, 1, 1), padding=(0, 4, 2))(jnp.ones((2, 16, 5, 9, 9))).shape
        (2, 33, 11, 5, 6)
    """

    _axes = 3


class _LazyConvNd(LazyModuleMixin, _ConvNd):
    """What lazy convolutions share."""

    def initialize_parameters(self, input: Any, *args: Any, **kwargs: Any) -> None:
        """Takes `in_channels` from an input of forward."""
        if not self.has_uninitialized_params():
            return
        shape, n = np.shape(input), self._axes
        if len(shape) not in (n + 1, n + 2):
            raise RuntimeError(
                f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {type(self).__name__}, but got input of size: "
                f"{list(shape)}"
            )
        self.in_channels = shape[-n - 1]
        if self.in_channels % self.groups:
            raise ValueError(f"in_channels must be divisible by groups, got {self.in_channels} and {self.groups}")
        self.weight.materialize(self._weight_shape())
        if self.bias is not None:
            self.bias.materialize((self.out_channels,))
        self.reset_parameters()


class _LazyConv(_LazyConvNd, _Conv):
    def __init__(
        self,
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
        super().__init__(0, 0, kernel_size, stride, padding, dilation, groups, False, padding_mode)
        self.out_channels = out_channels
        self._await(device, dtype, "weight", *["bias"] * bias)


class _LazyConvTranspose(_LazyConvNd, _ConvTransposeNd):
    def __init__(
        self,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(0, 0, kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode)
        self.out_channels = out_channels
        self._await(device, dtype, "weight", *["bias"] * bias)


class LazyConv1d(_LazyConv, Conv1d):
    """A `Conv1d` that takes `in_channels` from its first input, and is a `Conv1d` from then on.

    Args:
        out_channels, kernel_size, stride, padding, dilation, groups, bias: as for `Conv1d`.
        padding_mode, device, dtype: likewise.

    Raises:
        RuntimeError: by the first call, where the input has another number of axes.
        ValueError: by the first call, where its channels are not divisible by groups.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyConv1d(33, 3)
        >>> layer(jnp.ones((20, 16, 50))).shape, layer.in_channels
        ((20, 33, 48), 16)
    """

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """A `Conv2d` that takes `in_channels` from its first input, and is a `Conv2d` from then on.

    Args:
        out_channels, kernel_size, stride, padding, dilation, groups, bias: as for `Conv2d`.
        padding_mode, device, dtype: likewise.

    Raises:
        RuntimeError: by the first call, where the input has another number of axes.
        ValueError: by the first call, where its channels are not divisible by groups.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyConv2d(33, 3)
        >>> layer(jnp.ones((2, 16, 9, 9))).shape, layer.in_channels
        ((2, 33, 7, 7), 16)
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """A `Conv3d` that takes `in_channels` from its first input, and is a `Conv3d` from then on.

    Args:
        out_channels, kernel_size, stride, padding, dilation, groups, bias: as for `Conv3d`.
        padding_mode, device, dtype: likewise.

    Raises:
        RuntimeError: by the first call, where the input has another number of axes.
        ValueError: by the first call, where its channels are not divisible by groups.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyConv3d(33, 3)
        >>> layer(jnp.ones((1, 4, 5, 5, 5))).shape, layer.in_channels
        ((1, 33, 3, 3, 3), 4)
    """

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A `ConvTranspose1d` that takes `in_channels` from its first input, and is a `ConvTranspose1d` from then on.

    Args:
        out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias: as for `ConvTranspose1d`.
        padding_mode, device, dtype: likewise.

    Raises:
        RuntimeError: by the first call, where the input has another number of axes.
        ValueError: by the first call, where its channels are not divisible by groups.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyConvTranspose1d(33, 3)
        >>> layer(jnp.ones((20, 16, 50))).shape, layer.in_channels
        ((20, 33, 52), 16)
    """

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A `ConvTranspose2d` that takes `in_channels` from its first input, and is a `ConvTranspose2d` from then on.

    Args:
        out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias: as for `ConvTranspose2d`.
        padding_mode, device, dtype: likewise.

    Raises:
        RuntimeError: by the first call, where the input has another number of axes.
        ValueError: by the first call, where its channels are not divisible by groups.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyConvTranspose2d(33, 3)
        >>> layer(jnp.ones((2, 16, 9, 9))).shape, layer.in_channels
        ((2, 33, 11, 11), 16)
    """

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A `ConvTranspose3d` that takes `in_channels` from its first input, and is a `ConvTranspose3d` from then on.

    Args:
        out_channels, kernel_size, stride, padding, output_padding, dilation, groups, bias: as for `ConvTranspose3d`.
        padding_mode, device, dtype: likewise.

    Raises:
        RuntimeError: by the first call, where the input has another number of axes.
        ValueError: by the first call, where its channels are not divisible by groups.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyConvTranspose3d(33, 3)
        >>> layer(jnp.ones((1, 4, 5, 5, 5))).shape, layer.in_channels
        ((1, 33, 7, 7, 7), 4)
    """

    cls_to_become = ConvTranspose3d
