"""Padding layers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn import functional as F
from fnn.nn.modules.module import Module
from fnn.nn.modules.utils import _ntuple

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


# What each family pads with, and what (1, 2) makes of 1, 2, 3; the constant one takes a value as well.
_FAMILIES = {
    "CircularPad": ("what the other end has", "3.0, 1.0, 2.0, 3.0, 1.0, 2.0", ""),
    "ConstantPad": ("a number", "9.0, 1.0, 2.0, 3.0, 9.0, 9.0", ", 9.0"),
    "ReflectionPad": ("a reflection, without the edge", "2.0, 1.0, 2.0, 3.0, 2.0, 1.0", ""),
    "ReplicationPad": ("the edge", "1.0, 1.0, 2.0, 3.0, 3.0, 3.0", ""),
    "ZeroPad": ("zeros", "0.0, 1.0, 2.0, 3.0, 0.0, 0.0", ""),
}


def _doc(family: str, axes: int) -> str:
    """The documentation of a layer: what all of them say, with an example that pads the last axis."""
    filler, result, value = _FAMILIES[family]
    count = ("axis", "two axes", "three axes")[axes - 1]
    shape = ", ".join(("D", "H", "W")[3 - axes :])
    padded = ", ".join(f"{letter}_out" for letter in ("D", "H", "W")[3 - axes :])
    pads = "(" + ", ".join(["1", "2"] + ["0"] * (2 * axes - 2)) + ")"
    left, right = "[" * axes, "]" * axes
    of_value = "\n        value: the number." if value else ""
    return f"""Pads the last {count} with {filler}.

    Args:
        padding: how much, one number or (before, after) for the last axis, then for the one before it, and so on; a
            negative number cuts off.{of_value}

    Shape:
        (N, C, {shape}) or (C, {shape}) to (N, C, {padded}) or (C, {padded}), each size + before + after.

    Raises:
        RuntimeError: by forward, where a pad does not fit the input.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.{family}{axes}d({pads}{value})(jnp.array([{left}1.0, 2.0, 3.0{right}])).tolist()
        [{left}{result}{right}]
    """


class _PadNd(Module):
    """What padding layers share."""

    _axes: int
    _mode: str

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = _ntuple(2 * self._axes)(padding)

    def forward(self, input: Any) -> jax.Array:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _CircularPadNd(_PadNd):
    _mode = "circular"

    def forward(self, input: Any) -> jax.Array:
        wanted = (self._axes + 1, self._axes + 2)
        if np.ndim(input) not in wanted:
            raise ValueError(f"expected {wanted[0]}D or {wanted[1]}D input (got {np.ndim(input)}D input)")
        return super().forward(input)


class _ConstantPadNd(_PadNd):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Any) -> jax.Array:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ReflectionPadNd(_PadNd):
    _mode = "reflect"


class _ReplicationPadNd(_PadNd):
    _mode = "replicate"


class _ZeroPadNd(_ConstantPadNd):
    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class CircularPad1d(_CircularPadNd):
    __doc__ = _doc("CircularPad", 1)
    _axes = 1


class CircularPad2d(_CircularPadNd):
    __doc__ = _doc("CircularPad", 2)
    _axes = 2


class CircularPad3d(_CircularPadNd):
    __doc__ = _doc("CircularPad", 3)
    _axes = 3


class ConstantPad1d(_ConstantPadNd):
    __doc__ = _doc("ConstantPad", 1)
    _axes = 1


class ConstantPad2d(_ConstantPadNd):
    __doc__ = _doc("ConstantPad", 2)
    _axes = 2


class ConstantPad3d(_ConstantPadNd):
    __doc__ = _doc("ConstantPad", 3)
    _axes = 3


class ReflectionPad1d(_ReflectionPadNd):
    __doc__ = _doc("ReflectionPad", 1)
    _axes = 1


class ReflectionPad2d(_ReflectionPadNd):
    __doc__ = _doc("ReflectionPad", 2)
    _axes = 2


class ReflectionPad3d(_ReflectionPadNd):
    __doc__ = _doc("ReflectionPad", 3)
    _axes = 3


class ReplicationPad1d(_ReplicationPadNd):
    __doc__ = _doc("ReplicationPad", 1)
    _axes = 1


class ReplicationPad2d(_ReplicationPadNd):
    __doc__ = _doc("ReplicationPad", 2)
    _axes = 2


class ReplicationPad3d(_ReplicationPadNd):
    __doc__ = _doc("ReplicationPad", 3)
    _axes = 3


class ZeroPad1d(_ZeroPadNd, ConstantPad1d):
    __doc__ = _doc("ZeroPad", 1)
    _axes = 1


class ZeroPad2d(_ZeroPadNd, ConstantPad2d):
    __doc__ = _doc("ZeroPad", 2)
    _axes = 2


class ZeroPad3d(_ZeroPadNd, ConstantPad3d):
    __doc__ = _doc("ZeroPad", 3)
    _axes = 3
