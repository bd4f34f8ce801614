"""Negative log-likelihoods of classes, and cross entropies."""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import jax

from fnn import functional as F
from fnn.functional.cross_entropy import LinearCrossEntropyOptions
from fnn.nn.modules.function import _WeightedLoss
from fnn.nn.modules.linear import Linear

__all__ = ["CrossEntropyLoss", "LinearCrossEntropyLoss", "LinearCrossEntropyOptions", "NLLLoss", "NLLLoss2d"]


class NLLLoss(_WeightedLoss):
    """The negative log-likelihood of classes: `−input_target`.

    Args:
        weight: (C,), a weight for each class.
        size_average: as for `L1Loss`.
        ignore_index: a class index that counts for nothing.
        reduce, reduction: as for `L1Loss`.

    Shape:
        Log-probabilities (C,), (N, C) or (N, C, d1, ..., dK), and target class indices (), (N,) or (N, d1, ..., dK); to
        () or, for reduction none, the shape of the indices.

    Raises:
        IndexError: by forward, where a class index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.NLLLoss()(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]), jnp.array([0, 1])).item()
        2.5
    """

    _function = staticmethod(F.nll_loss)

    def __init__(
        self,
        weight: Any = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index


class NLLLoss2d(NLLLoss):
    """`NLLLoss` under an older name, with a FutureWarning.

    Args:
        weight, size_average, ignore_index, reduce, reduction: as for `NLLLoss`.

    Example:
        >>> import warnings, fnn.nn as nn, jax.numpy as jnp
        >>> with warnings.catch_warnings(action="ignore"):
        ...     loss = nn.NLLLoss2d()
        >>> loss(jnp.array([[-1.0, -2.0]]), jnp.array([1])).item()
        2.0
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # torch's warns here as well, and so has no other signature
        warnings.warn("`NLLLoss2d` has been deprecated. Please use `NLLLoss` instead.", FutureWarning, stacklevel=2)
        return super().__new__(cls)


class CrossEntropyLoss(_WeightedLoss):
    """The cross entropy between unnormalized log-probabilities and a target: `−Σ_c target_c · log softmax(input)_c`.

    Args:
        weight: (C,), a weight for each class.
        size_average: as for `L1Loss`.
        ignore_index: a class index that counts for nothing.
        reduce, reduction: as for `L1Loss`.
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

    _function = staticmethod(F.cross_entropy)

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


class LinearCrossEntropyLoss(_WeightedLoss):
    """The cross entropy of a linear map: `cross_entropy(linear(input), target)`.

    Args:
        in_features: F, the size of the input's last axis.
        num_classes: C.
        out_features: (d1, ..., dK), the axes beyond C.
        bias: whether the map has a bias.
        device: where its parameters are; by default where JAX puts arrays.
        dtype: of its parameters.
        reduction: none, mean or sum.
        weight: (C,), a weight for each class.
        ignore_index: a class index that counts for nothing; None for −100.
        label_smoothing: the share, from 0 to 1, of the uniform distribution in the target.
        options: how to split the batch, so that the logits of a part at a time are in memory.

    Shape:
        Input (N, F) or (F,), and target class indices (N,), () or (N, d1, ..., dK), or probabilities with an axis C
        behind N; to () or, for reduction none, the shape of the indices.

    Attributes:
        linear: the map, a `Linear`.

    Raises:
        RuntimeError: where the weight has another size, or the smoothing is not in [0, 1].
        IndexError: by forward, where a class index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> options = nn.LinearCrossEntropyOptions(batch_chunk_size=2)
        >>> nn.LinearCrossEntropyLoss(3, 5, options=options)(jnp.zeros((4, 3)), jnp.array([0, 1, 2, 4])).round(4).item()
        1.6094
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        super().__init__(weight, None, None, reduction)
        if self.weight is not None and self.weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {self.weight.shape}")
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = Linear(in_features, num_classes * math.prod(out_features), bias, device, dtype)
        self.options = options

    def forward(self, input: Any, target: Any) -> jax.Array:  # type: ignore[override]
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features}, "
            f"bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )
