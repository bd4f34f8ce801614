"""Resizing layers."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.module import Module

__all__ = ["Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"]


class Upsample(Module):
    """Resizes all axes but the first two, as `F.interpolate` does.

    Args:
        size: of the output, one number or one for each axis.
        scale_factor: instead of it the output size / input size, rounded down to whole sizes.
        mode: nearest, nearest-exact, linear, bilinear, trilinear, bicubic or area.
        align_corners: the first and last elements of input and output lie at the same places; for the linear modes and
            bicubic.
        recompute_scale_factor: compute places from the sizes although scale_factor is given.

    Shape:
        (N, C, L), (N, C, H, W) or (N, C, D, H, W) to the same with other sizes.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Upsample(scale_factor=2, mode="linear")(jnp.array([[[0.0, 4.0]]])).tolist()
        [[[0.0, 1.0, 3.0, 4.0]]]
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        if isinstance(scale_factor, tuple):
            self.scale_factor: Any = tuple(map(float, scale_factor))
        else:
            self.scale_factor = float(scale_factor) if scale_factor else None
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Any) -> jax.Array:
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor)

    def extra_repr(self) -> str:
        sized = f"size={self.size!r}" if self.scale_factor is None else f"scale_factor={self.scale_factor!r}"
        return f"{sized}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Resizes two axes to the nearest element; torch deprecates it for Upsample.

    Args:
        size: of the output, one number or (H_out, W_out).
        scale_factor: instead of it the output size / input size.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.UpsamplingNearest2d(scale_factor=2)(jnp.array([[[[1.0, 2.0]]]])).tolist()
        [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]
    """

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Resizes two axes bilinearly, with aligned corners; torch deprecates it for Upsample.

    Args:
        size: of the output, one number or (H_out, W_out).
        scale_factor: instead of it the output size / input size.

    Shape:
        (N, C, H, W) to (N, C, H_out, W_out).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.UpsamplingBilinear2d((1, 3))(jnp.array([[[[0.0, 2.0]]]])).tolist()
        [[[[0.0, 1.0, 2.0]]]]
    """

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
