"""Layers of sliding windows."""

from __future__ import annotations

from typing import Any

from fnn import functional as F
from fnn.nn.modules.function import FunctionModule

__all__ = ["Fold", "Unfold"]


class Fold(FunctionModule):
    """The image whose windows are the columns: the transpose of `Unfold`, which adds up where windows overlap.

    Args:
        output_size: (H, W).
        kernel_size, dilation, padding, stride: as for `Unfold`.

    Shape:
        (N, C · kernel_h · kernel_w, L) or (C · kernel_h · kernel_w, L), where L is the number of windows, to (N, C, H, W) or
        (C, H, W).

    Raises:
        RuntimeError: by forward, where sizes do not fit.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Fold((2, 3), kernel_size=2)(jnp.ones((4, 2))).tolist()
        [[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]
    """

    _function = staticmethod(F.fold)

    def __init__(self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__(output_size=output_size, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)


class Unfold(FunctionModule):
    """The windows of an image, as columns.

    Args:
        kernel_size: the size of the window, one number or one for each axis; so are the following.
        dilation: the distance between elements of a window.
        padding: zeros on both sides.
        stride: the distance between windows.

    Shape:
        (N, C, H, W) or (C, H, W) to (N, C · kernel_h · kernel_w, L) or (C · kernel_h · kernel_w, L), where L is the number
        of windows.

    Raises:
        RuntimeError: by forward, where sizes do not fit.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Unfold((2, 3))(jnp.ones((2, 5, 3, 4))).shape
        (2, 30, 4)
    """

    _function = staticmethod(F.unfold)

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__(kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)
