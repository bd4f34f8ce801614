"""Distances and similarities."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.module import Module

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class PairwiseDistance(Module):
    """The distance of rows: `(Σ |x1 − x2 + eps|^p)^(1/p)` over the last axis.

    Args:
        p: the power of the norm; 0 counts what differs, infinity takes the largest.
        eps: added to the difference, so that the gradient is never of a zero vector.
        keepdim: keep the last axis, with size 1.

    Shape:
        Two of (N, D) or (D,); to (N,) or (), with a last axis of 1 if `keepdim`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.PairwiseDistance()(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))).round(3).tolist()
        [5.0]
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Any, x2: Any) -> jax.Array:
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """The cosine of the angle between vectors: `x1 · x2 / (max(‖x1‖, eps) · max(‖x2‖, eps))` along an axis.

    Args:
        dim: the axis of the vectors.
        eps: the least norm to divide by.

    Shape:
        Two that broadcast; to their shape without the axis.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.CosineSimilarity()(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]])).round(4).tolist()
        [0.7071]
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Any, x2: Any) -> jax.Array:
        return F.cosine_similarity(x1, x2, self.dim, self.eps)
