"""Memory formats, which XLA chooses itself."""

from __future__ import annotations

from typing import Any, TypeVar

from fnn.nn.modules.module import Module

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]

M = TypeVar("M", bound=Module)

_FORMATS = ("channels_last", "channels_last_3d", "contiguous_format", "preserve_format")


def convert_conv2d_weight_memory_format(module: M, memory_format: Any) -> M:
    """Returns the module as it is: in JAX the order of axes in memory is the compiler's choice, and no array's property.

    Args:
        module: any module.
        memory_format: "channels_last", "contiguous_format" or "preserve_format", torch's object of that name, or None.

    Raises:
        TypeError: where it is no memory format.

    Example:
        >>> import fnn.nn as nn
        >>> convert_conv2d_weight_memory_format(nn.Conv2d(3, 4, 1), "channels_last").weight.shape
        (4, 3, 1, 1)
    """
    if memory_format is not None and str(memory_format).removeprefix("torch.") not in _FORMATS:
        raise TypeError(f"memory_format must be one of {', '.join(_FORMATS)}, got {memory_format!r}")
    return module


def convert_conv3d_weight_memory_format(module: M, memory_format: Any) -> M:
    """Returns the module as it is; as for `convert_conv2d_weight_memory_format`."""
    return convert_conv2d_weight_memory_format(module, memory_format)
