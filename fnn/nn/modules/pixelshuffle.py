"""Layers that move elements between channels and space."""

from __future__ import annotations

from fnn import functional as F
from fnn.nn.modules.function import FunctionModule

__all__ = ["PixelShuffle", "PixelUnshuffle"]


class PixelShuffle(FunctionModule):
    """Spreads the channels of a picture over space: of r² channels each gives one element of an r × r square.

    Args:
        upscale_factor: r.

    Shape:
        (*, C · r², H, W) to (*, C, H · r, W · r).

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution, https://arxiv.org/abs/1609.05158

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.PixelShuffle(3)(jnp.ones((1, 9, 4, 4))).shape
        (1, 1, 12, 12)
    """

    _function = staticmethod(F.pixel_shuffle)

    def __init__(self, upscale_factor: int) -> None:
        super().__init__(upscale_factor=upscale_factor)


class PixelUnshuffle(FunctionModule):
    """Moves the elements of each r × r square of a picture to channels; undoes PixelShuffle.

    Args:
        downscale_factor: r.

    Shape:
        (*, C, H · r, W · r) to (*, C · r², H, W).

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution, https://arxiv.org/abs/1609.05158

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.PixelUnshuffle(3)(jnp.ones((1, 1, 12, 12))).shape
        (1, 9, 4, 4)
    """

    _function = staticmethod(F.pixel_unshuffle)

    def __init__(self, downscale_factor: int) -> None:
        super().__init__(downscale_factor=downscale_factor)
