"""Reshaping layers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import array, axis, integer
from fnn.nn.modules.module import Module

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Joins neighbouring axes into one.

    Args:
        start_dim: the first of them.
        end_dim: the last of them.

    Shape:
        (*, S_start, ..., S_end, *) to (*, ∏ S, *).

    Raises:
        IndexError: by forward, where the input has no such axis.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Flatten()(jnp.ones((32, 5, 5))).shape
        (32, 25)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Any) -> jax.Array:
        shape = jnp.shape(input)
        start, end = axis(self.start_dim, len(shape)), axis(self.end_dim, len(shape))
        if start > end:
            raise RuntimeError(
                f"flatten() has invalid args: start_dim cannot come after end_dim, got {self.start_dim} and {self.end_dim}"
            )
        return jnp.reshape(input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits an axis into several; undoes Flatten.

    Args:
        dim: the axis.
        unflattened_size: their sizes, of which one may be −1, for what the others leave.

    Shape:
        (*, ∏ S, *) to (*, S_1, ..., S_n, *).

    Raises:
        TypeError: where the sizes are not a tuple or list of integers.
        IndexError: by forward, where the input has no such axis.
        RuntimeError: by forward, where the sizes do not multiply up to that of the axis.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Unflatten(1, (2, 5, 5))(jnp.ones((2, 50))).shape
        (2, 2, 5, 5)
    """

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        if not isinstance(unflattened_size, (tuple, list)):
            raise TypeError(f"unflattened_size must be a tuple of ints, but found type {type(unflattened_size).__name__}")
        for i, size in enumerate(unflattened_size):
            if not isinstance(size, int):
                raise TypeError(
                    f"unflattened_size must be tuple of ints, but found element of type {type(size).__name__} at pos {i}"
                )
        self.dim = dim
        self.unflattened_size = unflattened_size

    def forward(self, input: Any) -> jax.Array:
        x = array(input, "input")
        place, sizes = axis(self.dim, x.ndim), [integer(size, "sizes") for size in self.unflattened_size]
        whole = x.shape[place] if x.ndim else 1
        if not sizes:
            raise RuntimeError("unflatten: sizes must be non-empty")
        known = math.prod(size for size in sizes if size != -1)
        inferred = sizes.count(-1)
        if inferred > 1 or min(sizes) < -1 or not x.ndim:
            raise RuntimeError(f"unflatten: cannot split a dim of a tensor of shape {list(x.shape)} into sizes {sizes}")
        if (whole % known if inferred and known else whole != known) or (inferred and not known):
            raise RuntimeError(
                f"unflatten: Provided sizes {sizes} don't multiply up to the size of dim {place} ({whole}) in the input tensor"
            )
        split = [whole // known if size == -1 else size for size in sizes]
        return x.reshape(*x.shape[:place], *split, *x.shape[place + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
