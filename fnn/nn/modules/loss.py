"""Losses."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.functional.loss import reduction_of
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Buffer

__all__ = ["CrossEntropyLoss", "MSELoss"]


class _Loss(Module):
    """What losses share: the reduction."""

    reduction: str

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        older = size_average is not None or reduce is not None
        self.reduction = reduction_of(size_average, reduce, reduction) if older else reduction


class _WeightedLoss(_Loss):
    """What losses with a weight for each class share."""

    def __init__(
        self, weight: Any = None, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", None if weight is None else Buffer(weight))


class MSELoss(_Loss):
    """The squared difference, elementwise: `(x − y)²`.

    Args:
        size_average, reduce: torch's older way to say the reduction.
        reduction: none, mean or sum.

    Shape:
        Two of (*), to () or, for reduction none, (*).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """

    def forward(self, input: Any, target: Any) -> jax.Array:
        return F.mse_loss(input, target, reduction=self.reduction)


class CrossEntropyLoss(_WeightedLoss):
    """The cross entropy between unnormalized log-probabilities and a target: `−Σ_c target_c · log softmax(input)_c`.

    Args:
        weight: (C,), a weight for each class.
        size_average, reduce: torch's older way to say the reduction.
        ignore_index: a class index that counts for nothing.
        reduction: none, mean or sum.
        label_smoothing: the share, from 0 to 1, of the uniform distribution in the target.

    Shape:
        Input (C,), (N, C) or (N, C, d1, ..., dK), and target class indices (), (N,) or (N, d1, ..., dK), or
        probabilities of the input's shape; to () or, for reduction none, the shape of the indices.

    Raises:
        IndexError: by forward, where a class index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.CrossEntropyLoss()(jnp.zeros((1, 4)), jnp.array([2])).round(4).item()
        1.3863
    """

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> jax.Array:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
