"""Losses: of elements here; with a margin, of class likelihoods and of sequences in files of their own, named here too."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.cross_entropy import (
    CrossEntropyLoss,
    LinearCrossEntropyLoss,
    LinearCrossEntropyOptions,
    NLLLoss,
    NLLLoss2d,
)
from fnn.nn.modules.ctc import CTCLoss
from fnn.nn.modules.function import _Loss, _WeightedLoss
from fnn.nn.modules.margin import (
    CosineEmbeddingLoss,
    HingeEmbeddingLoss,
    MarginRankingLoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    SoftMarginLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "LinearCrossEntropyOptions",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]


class L1Loss(_Loss):
    """The absolute difference, elementwise: `|x − y|`.

    Args:
        size_average, reduce: torch's older way to say the reduction.
        reduction: none, mean or sum.

    Shape:
        Input and target (*); to () or, for reduction none, (*).

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.L1Loss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        1.0
    """

    _function = staticmethod(F.l1_loss)


class MSELoss(_Loss):
    """The squared difference, elementwise: `(x − y)²`.

    Args:
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        As for `L1Loss`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.MSELoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).item()
        2.0
    """

    _function = staticmethod(F.mse_loss)


class SmoothL1Loss(_Loss):
    """`(x − y)² / (2 beta)` where `|x − y| < beta`, and `|x − y| − beta / 2` elsewhere.

    Args:
        size_average, reduce, reduction: as for `L1Loss`.
        beta: where the square ends; 0 for the absolute difference alone.

    Shape:
        As for `L1Loss`.

    References:
        Girshick, Fast R-CNN, https://arxiv.org/abs/1504.08083

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.SmoothL1Loss(reduction="none")(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])).tolist()
        [0.5, 2.5]
    """

    _function = staticmethod(F.smooth_l1_loss)

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean", beta: float = 1.0
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.beta = beta


class HuberLoss(_Loss):
    """`(x − y)² / 2` where `|x − y| < delta`, and `delta (|x − y| − delta / 2)` elsewhere.

    Args:
        reduction: none, mean or sum.
        delta: where the square ends.

    Shape:
        As for `L1Loss`.

    Raises:
        TypeError: where delta is not a number.

    References:
        Huber, Robust estimation of a location parameter, https://doi.org/10.1214/aoms/1177703732

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.HuberLoss("none", delta=2.0)(jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])).tolist()
        [0.5, 4.0]
    """

    _function = staticmethod(F.huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        super().__init__(reduction=reduction)
        self.delta = delta


class BCELoss(_WeightedLoss):
    """The cross entropy of probabilities, elementwise: `−(y log x + (1 − y) log(1 − x))`, with no logarithm under −100.

    Args:
        weight: broadcastable with the input.
        size_average, reduce, reduction: as for `L1Loss`.

    Shape:
        As for `L1Loss`.

    Raises:
        RuntimeError: by forward, where a value is not in [0, 1]; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.BCELoss()(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0])).round(4).item()
        0.3466
    """

    _function = staticmethod(F.binary_cross_entropy)


class BCEWithLogitsLoss(_Loss):
    """The binary cross entropy of logits, elementwise: `−(pos_weight · y log σ(x) + (1 − y) log(1 − σ(x)))`.

    Args:
        weight: broadcastable with the input.
        size_average, reduce, reduction: as for `L1Loss`.
        pos_weight: broadcastable with the input; the weight of `y`.

    Shape:
        As for `L1Loss`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.BCEWithLogitsLoss()(jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0])).round(4).item()
        1.41
    """

    _function = staticmethod(F.binary_cross_entropy_with_logits)

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Any = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self._register_weights(weight=weight, pos_weight=pos_weight)


class PoissonNLLLoss(_Loss):
    """The negative log-likelihood of counts under a Poisson distribution, elementwise: `exp(x) − y x`.

    Args:
        log_input: whether the input is logarithms of the expectations; if not, the loss is `x − y log(x + eps)`.
        full: add Stirling's approximation of `log(y!)` where y > 1.
        size_average: as for `L1Loss`.
        eps: keeps the logarithm finite.
        reduce, reduction: as for `L1Loss`.

    Shape:
        As for `L1Loss`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.PoissonNLLLoss(reduction="none")(jnp.array([0.0, 1.0]), jnp.array([2.0, 2.0])).round(4).tolist()
        [1.0, 0.7183]
    """

    _function = staticmethod(F.poisson_nll_loss)

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: Any, target: Any) -> jax.Array:  # type: ignore[override]
        return super().forward(log_input, target)


class GaussianNLLLoss(_Loss):
    """The negative log-likelihood under normal distributions, elementwise: `(log var + (x − y)² / var) / 2`.

    Args:
        full: add the constant `log(2π) / 2`.
        eps: the least variance.
        reduction: none, mean or sum.

    Shape:
        Input and target (*), and variances of the same shape, or without its last axis, or with one axis of size 1; to
        () or, for reduction none, (*).

    Raises:
        ValueError: by forward, where a variance is negative; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.GaussianNLLLoss()(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), jnp.ones(2)).item()
        1.0
    """

    _function = staticmethod(F.gaussian_nll_loss)

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(None, None, reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Any, target: Any, var: Any) -> jax.Array:  # type: ignore[override]
        return type(self)._function(input, target, var, **self._chosen())


class KLDivLoss(_Loss):
    """The Kullback-Leibler divergence of log-probabilities from a target, elementwise: `y (log y − x)`.

    Args:
        size_average, reduce: as for `L1Loss`.
        reduction: none, batchmean, mean or sum; batchmean is the divergence of its definition.
        log_target: whether the target too is log-probabilities.

    Shape:
        As for `L1Loss`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.KLDivLoss(reduction="batchmean")(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([[0.5, 0.5]])).round(4).item()
        0.1438
    """

    _function = staticmethod(F.kl_div)

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean", log_target: bool = False
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target
