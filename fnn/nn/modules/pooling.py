"""Pooling layers."""

from __future__ import annotations

from typing import Any, ClassVar

import jax

from fnn import functional as F
from fnn.nn.modules.function import FunctionModule
from fnn.nn.modules.utils import _ntuple
from fnn.nn.parameter import Buffer

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _Pool(FunctionModule):
    """What pooling layers share: the hyperparameters that repr shows."""

    _axes: ClassVar[int]
    _shown: ClassVar[tuple[str, ...]] = ("kernel_size", "stride", "padding")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._shown)


_WINDOW = """kernel_size: the size of the window.
        stride: the step; the size of the window by default."""
_MAX = f"""
    Args:
        {_WINDOW}
        padding: of −∞ on both sides; at most half of the window.
        dilation: the distance between elements of a window.
        return_indices: return also where each maximum was found.
        ceil_mode: round the size of the output up instead of down.
"""


class _MaxPoolNd(_Pool):
    _shown = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            dilation=dilation,
            return_indices=return_indices,
            ceil_mode=ceil_mode,
        )


class MaxPool1d(_MaxPoolNd):
    __doc__ = f"""The maximum of each window over one axis.
{_MAX}
    Shape:
        (N, C, L) or (C, L) to
        (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxPool1d(2)(jnp.array([[1.0, 3.0, 2.0, 0.0]])).tolist()
        [[3.0, 2.0]]
    """
    _function = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPoolNd):
    __doc__ = f"""The maximum of each window over two axes.
{_MAX}
    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out),
        with H_out = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1) / stride⌋ + 1.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxPool2d(3, stride=2)(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 15)
    """
    _function = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPoolNd):
    __doc__ = f"""The maximum of each window over three axes.
{_MAX}
    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxPool3d(2)(jnp.ones((1, 4, 4, 4))).shape
        (1, 2, 2, 2)
    """
    _function = staticmethod(F.max_pool3d)


_AVG = f"""
    Args:
        {_WINDOW}
        padding: of zeros on both sides; at most half of the window.
        ceil_mode: round the size of the output up instead of down.
        count_include_pad: divide by the elements inside the input and its padding, and not only inside the input.
"""
_DIVISOR = "divisor_override: what to divide by instead."


class _AvgPoolNd(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )


class AvgPool1d(_AvgPoolNd):
    __doc__ = f"""The mean of each window over one axis.
{_AVG}
    Shape:
        (N, C, L) or (C, L) to
        (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AvgPool1d(2)(jnp.array([[1.0, 3.0, 2.0, 0.0]])).tolist()
        [[2.0, 1.0]]
    """
    _function = staticmethod(F.avg_pool1d)

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        each = _ntuple(1)
        _Pool.__init__(  # past that of the others, which have a divisor
            self,
            kernel_size=each(kernel_size),
            stride=each(kernel_size if stride is None else stride),
            padding=each(padding),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )


class AvgPool2d(_AvgPoolNd):
    __doc__ = f"""The mean of each window over two axes.
{_AVG}        {_DIVISOR}

    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out),
        with H_out = ⌊(H + 2·padding − kernel_size) / stride⌋ + 1.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AvgPool2d((3, 2), stride=(2, 1))(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 31)
    """
    _function = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPoolNd):
    __doc__ = f"""The mean of each window over three axes.
{_AVG}        {_DIVISOR}

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AvgPool3d(2)(jnp.ones((1, 4, 4, 4))).shape
        (1, 2, 2, 2)
    """
    _function = staticmethod(F.avg_pool3d)


_LP = f"""
    Args:
        norm_type: p; ±∞ for the largest and the smallest magnitude.
        {_WINDOW}
        ceil_mode: round the size of the output up instead of down.
"""


class _LPPoolNd(_Pool):
    _shown = ("norm_type", "kernel_size", "stride", "ceil_mode")

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        super().__init__(norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode)

    def _chosen(self) -> dict[str, Any]:
        return super()._chosen() | {"norm_type": float(self.norm_type)}


class LPPool1d(_LPPoolNd):
    __doc__ = f"""`(Σ x^p)^(1/p)` of each window over one axis.
{_LP}
    Shape:
        (N, C, L) or (C, L) to
        (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LPPool1d(2, 2)(jnp.array([[3.0, 4.0, 0.0, 1.0]])).tolist()
        [[5.0, 1.0]]
    """
    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPoolNd):
    __doc__ = f"""`(Σ x^p)^(1/p)` of each window over two axes.
{_LP}
    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out),
        with H_out = ⌊(H − kernel_size) / stride⌋ + 1.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LPPool2d(2, (3, 2), stride=(2, 1))(jnp.ones((20, 16, 50, 32))).shape
        (20, 16, 24, 31)
    """
    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPoolNd):
    __doc__ = f"""`(Σ x^p)^(1/p)` of each window over three axes.
{_LP}
    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.LPPool3d(1, 2)(jnp.ones((1, 4, 4, 4))).shape
        (1, 2, 2, 2)
    """
    _function = staticmethod(F.lp_pool3d)


class _AdaptiveMaxPoolNd(_Pool):
    _shown = ("output_size",)

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size=output_size, return_indices=return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """The maximum of as many windows of nearly equal size as the output shall have elements, over one axis.

    Args:
        output_size: one number.
        return_indices: return also where each maximum was found.

    Shape:
        (N, C, L) or (C, L) to
        (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveMaxPool1d(5)(jnp.ones((1, 64, 8))).shape
        (1, 64, 5)
    """

    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """The maximum of as many windows of nearly equal size as the output shall have elements, over two axes.

    Args:
        output_size: one number, or (H_out, W_out); None keeps the size of the input.
        return_indices: return also where each maximum was found.

    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveMaxPool2d((5, 7))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 7)
    """

    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """The maximum of as many windows of nearly equal size as the output shall have elements, over three axes.

    Args:
        output_size: one number, or (D_out, H_out, W_out); None keeps the size of the input.
        return_indices: return also where each maximum was found.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveMaxPool3d((7, None, None))(jnp.ones((1, 64, 10, 9, 8))).shape
        (1, 64, 7, 9, 8)
    """

    _function = staticmethod(F.adaptive_max_pool3d)


class _AdaptiveAvgPoolNd(_Pool):
    _shown = ("output_size",)

    def __init__(self, output_size: Any) -> None:
        super().__init__(output_size=output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """The mean over as many windows of nearly equal size as the output shall have elements, over one axis.

    Args:
        output_size: one number.

    Shape:
        (N, C, L) or (C, L) to
        (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveAvgPool1d(5)(jnp.ones((1, 64, 8))).shape
        (1, 64, 5)
    """

    _function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """The mean over as many windows of nearly equal size as the output shall have elements, over two axes.

    Args:
        output_size: one number, or (H_out, W_out); None keeps the size of the input.

    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveAvgPool2d((5, 7))(jnp.ones((1, 64, 8, 9))).shape
        (1, 64, 5, 7)
    """

    _function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """The mean over as many windows of nearly equal size as the output shall have elements, over three axes.

    Args:
        output_size: one number, or (D_out, H_out, W_out); None keeps the size of the input.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.AdaptiveAvgPool3d((7, None, None))(jnp.ones((1, 64, 10, 9, 8))).shape
        (1, 64, 7, 9, 8)
    """

    _function = staticmethod(F.adaptive_avg_pool3d)


_FRACTIONAL = """
    Args:
        kernel_size: the size of the window.
        output_size: the size of the output, one number or one for each axis.
        output_ratio: or its ratio to the size of the input, between 0 and 1.
        return_indices: return also where each maximum was found.
"""
_RAISES = """
    Raises:
        ValueError: where not one of size and ratio is given, or the ratio is out of range.

    References:
        Graham, Fractional Max-Pooling, https://arxiv.org/abs/1412.6071
"""


class _FractionalMaxPoolNd(_Pool):
    _shown = ()

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        each = _ntuple(self._axes)
        super().__init__(
            kernel_size=each(kernel_size),
            return_indices=return_indices,
            output_size=None if output_size is None else each(output_size),
            output_ratio=None if output_ratio is None else each(output_ratio),
        )
        self.register_buffer("_random_samples", None if _random_samples is None else Buffer(_random_samples))
        name = type(self).__name__
        if self._axes == 3 and not all(k > 0 for k in self.kernel_size):  # only so in torch
            raise ValueError(f"kernel_size must be greater than 0, but got {kernel_size}")
        if output_size is None and output_ratio is None:
            raise ValueError(f"{name} requires specifying either an output size, or a pooling ratio")
        if output_size is not None and output_ratio is not None:
            raise ValueError(f"only one of output_size and output_ratio may be specified, got {output_size} and {output_ratio}")
        if output_ratio is not None and not all(0 < self.output_ratio[i] < 1 for i in range(self._axes)):
            raise ValueError(f"output_ratio must be between 0 and 1 (got {output_ratio})")


class FractionalMaxPool2d(_FractionalMaxPoolNd):
    __doc__ = f"""The maximum of a given number of windows over two axes, at places drawn for each channel and call.
{_FRACTIONAL}
    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out).
{_RAISES}
    Example:
        >>> import fnn, fnn.nn as nn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     nn.FractionalMaxPool2d(3, output_ratio=(0.5, 0.7))(jnp.ones((20, 16, 50, 30))).shape
        (20, 16, 25, 21)
    """
    _axes = 2
    _function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPoolNd):
    __doc__ = f"""The maximum of a given number of windows over three axes, at places drawn for each channel and call.
{_FRACTIONAL}
    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).
{_RAISES}
    Example:
        >>> import fnn, fnn.nn as nn, jax.numpy as jnp
        >>> with fnn.rng(0):
        ...     nn.FractionalMaxPool3d(3, output_size=(3, 4, 2))(jnp.ones((2, 1, 9, 8, 7))).shape
        (2, 1, 3, 4, 2)
    """
    _axes = 3
    _function = staticmethod(F.fractional_max_pool3d)


_UNPOOL = f"""
    Args:
        {_WINDOW}
        padding: that of the pooling.
"""


class _MaxUnpoolNd(_Pool):
    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        each = _ntuple(self._axes)
        super().__init__(
            kernel_size=each(kernel_size),
            stride=each(kernel_size if stride is None else stride),
            padding=each(padding),
        )

    def forward(self, input: Any, indices: Any, output_size: Any = None) -> jax.Array:  # type: ignore[override]
        return type(self)._function(input, indices, **self._chosen(), output_size=output_size)


class MaxUnpool1d(_MaxUnpoolNd):
    __doc__ = f"""The partial inverse of `MaxPool1d`: the maxima back where they were found, among zeros.
{_UNPOOL}
    Shape:
        (N, C, L) or (C, L) to
        (N, C, L_out) or (C, L_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxUnpool1d(2)(jnp.array([[3.0, 2.0]]), jnp.array([[1, 2]])).tolist()
        [[0.0, 3.0, 2.0, 0.0]]
    """
    _axes = 1
    _function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpoolNd):
    __doc__ = f"""The partial inverse of `MaxPool2d`: the maxima back where they were found, among zeros.
{_UNPOOL}
    Shape:
        (N, C, H, W) or (C, H, W) to
        (N, C, H_out, W_out) or (C, H_out, W_out),
        with H_out = (H − 1) · stride + kernel_size − 2 · padding, or less than a stride away from it by forward's
        `output_size`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxUnpool2d(2)(*nn.MaxPool2d(2, return_indices=True)(jnp.eye(4)[None])).tolist()
        [[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    """
    _axes = 2
    _function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpoolNd):
    __doc__ = f"""The partial inverse of `MaxPool3d`: the maxima back where they were found, among zeros.
{_UNPOOL}
    Shape:
        (N, C, D, H, W) or (C, D, H, W) to
        (N, C, D_out, H_out, W_out) or (C, D_out, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MaxUnpool3d(2)(jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1), int)).shape
        (1, 2, 2, 2)
    """
    _axes = 3
    _function = staticmethod(F.max_unpool3d)
