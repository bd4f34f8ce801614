"""Losses that ask for a margin between scores or distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.distance import PairwiseDistance
from fnn.nn.modules.function import _Loss, _WeightedLoss

__all__ = [
    "CosineEmbeddingLoss",
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class _PairLoss(_Loss):
    """What losses of two inputs share."""

    def forward(self, input1: Any, input2: Any, target: Any) -> jax.Array:  # type: ignore[override]
        return type(self)._function(input1, input2, target, **self._chosen())


class _TripletLoss(_Loss):
    """What losses of an anchor, a positive and a negative share."""

    def forward(self, anchor: Any, positive: Any, negative: Any) -> jax.Array:  # type: ignore[override]
        return type(self)._function(anchor, positive, negative, **self._chosen())


class HingeEmbeddingLoss(_Loss):
    """`x` where the target is 1, and `max(0, margin − x)` where it is −1.

    Args:
        margin: the distance that dissimilar pairs shall have.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        As for `L1Loss`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.HingeEmbeddingLoss(reduction="none")(jnp.array([0.5, 0.25]), jnp.array([1, -1])).tolist()
        [0.5, 0.75]
    """

    _function = staticmethod(F.hinge_embedding_loss)

    def __init__(
        self, margin: float = 1.0, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


class MarginRankingLoss(_PairLoss):
    """`max(0, −y (x1 − x2) + margin)`, elementwise.

    Args:
        margin: by how much the larger input shall be larger.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        Two inputs and a target of (*); to () or, for reduction none, (*).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MarginRankingLoss(reduction="none")(jnp.array([1.0, 2.0]), jnp.array([3.0, 1.0]), jnp.array([1, 1])).tolist()
        [2.0, 0.0]
    """

    _function = staticmethod(F.margin_ranking_loss)

    def __init__(
        self, margin: float = 0.0, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


class SoftMarginLoss(_Loss):
    """`log(1 + exp(−y x))`, elementwise.

    Args:
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        As for `L1Loss`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.SoftMarginLoss(reduction="none")(jnp.array([0.0, 2.0]), jnp.array([1.0, -1.0])).round(4).tolist()
        [0.6931, 2.1269]
    """

    _function = staticmethod(F.soft_margin_loss)


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """The binary cross entropy of logits, averaged over classes: `−mean_c(y log σ(x) + (1 − y) log σ(−x))`.

    Args:
        weight: (C,), a weight for each class.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        Input and target (N, C); to () or, for reduction none, (N,).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MultiLabelSoftMarginLoss()(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 1.0]])).round(4).item()
        0.41
    """

    _function = staticmethod(F.multilabel_soft_margin_loss)


class MultiMarginLoss(_WeightedLoss):
    """`Σ_c max(0, margin − x_y + x_c)^p / C` over the classes c other than the target y.

    Args:
        p: 1 or 2.
        margin: by how much the score of the target shall be larger than others.
        weight: (C,), a weight for each class.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        Input (N, C) or (C,), and target (N,) or (); to () or, for reduction none, the shape of the target.

    Raises:
        ValueError: for another p, or a weight of another number of axes.
        RuntimeError: by forward, where a class index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MultiMarginLoss()(jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([3])).round(4).item()
        0.325
    """

    _function = staticmethod(F.multi_margin_loss)

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        if p not in (1, 2):
            raise ValueError(f"only p == 1 and p == 2 supported, got {p}")
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"MultiMarginLoss: expected weight to be None or 1D tensor, got {self.weight.ndim}D instead")
        self.p = p
        self.margin = margin


class MultiLabelMarginLoss(_Loss):
    """`Σ_y Σ_c max(0, 1 − (x_y − x_c)) / C` over the target classes y, and the classes c that are none of them.

    Args:
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        Input and target (N, C) or (C,); to () or, for reduction none, (N,) or ().

    Raises:
        RuntimeError: by forward, where a class index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MultiLabelMarginLoss()(jnp.array([[0.1, 0.2, 0.4, 0.8]]), jnp.array([[3, 0, -1, 1]])).round(4).item()
        0.85
    """

    _function = staticmethod(F.multilabel_margin_loss)


class CosineEmbeddingLoss(_PairLoss):
    """`1 − cos(x1, x2)` where the target is 1, and `max(0, cos(x1, x2) − margin)` where it is −1.

    Args:
        margin: from −1 to 1.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        Two inputs (N, D) or (D,), and a target (N,) or (); to () or, for reduction none, the shape of the target.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.CosineEmbeddingLoss()(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]]), jnp.array([1])).round(4).item()
        0.2929
    """

    _function = staticmethod(F.cosine_embedding_loss)

    def __init__(
        self, margin: float = 0.0, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin


def _check_margin(layer: str, margin: float) -> None:
    if margin <= 0:
        raise ValueError(f"{layer}: expected margin to be greater than 0, got {margin} instead")


class TripletMarginLoss(_TripletLoss):
    """`max(0, margin + d(anchor, positive) − d(anchor, negative))` with the p-norm distance d.

    Args:
        margin: by how much the negative shall be farther.
        p, eps: as for `PairwiseDistance`.
        swap: take the distance of positive and negative where that is less than the one of anchor and negative.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        Three of (N, D) or (D,); to () or, for reduction none, (N,) or ().

    Raises:
        ValueError: where the margin is not positive.

    References:
        Balntas et al., Learning shallow convolutional feature descriptors with triplet losses,
        https://bmva-archive.org.uk/bmvc/2016/papers/paper119/index.html

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.TripletMarginLoss()(jnp.array([[0.0]]), jnp.array([[1.0]]), jnp.array([[-1.5]])).round(3).item()
        0.5
    """

    _function = staticmethod(F.triplet_margin_loss)

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        _check_margin("TripletMarginLoss", margin)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap


class TripletMarginWithDistanceLoss(_TripletLoss):
    """`max(0, margin + d(anchor, positive) − d(anchor, negative))` with any distance d.

    Args:
        distance_function: of two arrays, a function or a layer; `PairwiseDistance()` by default.
        margin, swap: as for `TripletMarginLoss`.
        reduction: none, mean or sum.

    Shape:
        Three of (N, *); to () or, for reduction none, the shape of the distances.

    Raises:
        ValueError: where the margin is not positive.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> loss = nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: abs(a - b).max(-1))
        >>> loss(jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.full((1, 2), 1.5)).item()
        0.5
    """

    _function = staticmethod(F.triplet_margin_with_distance_loss)

    def __init__(
        self,
        *,
        distance_function: Callable[[Any, Any], Any] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(None, None, reduction)
        _check_margin("TripletMarginWithDistanceLoss", margin)
        self.distance_function = PairwiseDistance() if distance_function is None else distance_function
        self.margin = margin
        self.swap = swap
