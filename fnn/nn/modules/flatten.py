"""Reshaping layers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import axis
from fnn.nn.modules.module import Module

__all__ = ["Flatten"]


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
