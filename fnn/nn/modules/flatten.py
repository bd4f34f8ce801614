"""Reshaping layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.nn.modules.module import Module


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
        n = max(len(shape), 1)
        for dim in (self.start_dim, self.end_dim):
            if not -n <= dim < n:
                raise IndexError(
                    f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim}) for an input of shape {shape}"
                )
        start, end = self.start_dim % n, self.end_dim % n
        if start > end:
            raise RuntimeError(
                f"flatten() has invalid args: start_dim cannot come after end_dim, got {self.start_dim} and {self.end_dim}"
            )
        size = 1
        for part in shape[start : end + 1]:
            size *= part
        return jnp.reshape(input, (*shape[:start], size, *shape[end + 1 :]))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
