"""The adaptive softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.functional.adaptive import adaptive_log_likelihood, adaptive_log_prob, adaptive_predict, check_adaptive
from fnn.nn.modules.container import ModuleList, Sequential
from fnn.nn.modules.linear import Linear
from fnn.nn.modules.module import Module

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _ASMoutput(NamedTuple):
    """What an adaptive softmax gives: the log-probability of each target, and minus their mean."""

    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(Module):
    """The log-probability of a class among many, by frequency: a softmax over the frequent classes and clusters of the rest,
    and one inside each cluster, of fewer features the rarer it is.

    Every cluster is computed for every row: under JAX shapes do not depend on values.

    Args:
        in_features: D, the size of the input's last axis.
        n_classes: the number of classes, the most frequent first.
        cutoffs: where clusters begin, increasing.
        div_value: each cluster has so many times fewer features than the one before.
        head_bias: whether the first softmax has a bias.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        Input (N, D) or (D,), and target class indices (N,) or (); to the log-probabilities of the targets, of their shape,
        and minus their mean, ().

    Attributes:
        head: a `Linear` to the shortlist and the clusters.
        tail: for each cluster a `Sequential` of two.

    Raises:
        ValueError: where cutoffs are not unique, positive, increasing and less than `n_classes`.
        RuntimeError: by forward, where a class index is out of range; NaN where it is not known, under a transformation.

    References:
        Grave et al., Efficient softmax approximation for GPUs, https://arxiv.org/abs/1609.04309

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.AdaptiveLogSoftmaxWithLoss(4, 10, [2, 5], div_value=2.0)
        >>> output, loss = layer(jnp.ones((3, 4)), jnp.array([0, 4, 9]))
        >>> output.shape, loss.shape
        ((3,), ())
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        ends = list(cutoffs)
        if not ends:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if ends != sorted(set(ends)) or ends[0] <= 0 or ends[-1] > n_classes - 1 or any(int(end) != end for end in ends):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where each value is "
                f"between 1 and n_classes-1, got {ends} for {n_classes} classes"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*ends, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = ends[0]
        self.n_clusters = len(ends)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            features = int(in_features // div_value ** (i + 1))
            self.tail.append(
                Sequential(
                    Linear(in_features, features, False, device, dtype),
                    Linear(features, self.cutoffs[i + 1] - self.cutoffs[i], False, device, dtype),
                )
            )

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        for layer in (self.head, *(layer for cluster in self.tail for layer in cluster)):
            layer.reset_parameters()

    def _logits(self, input: Any) -> tuple[jax.Array, list[jax.Array]]:
        return self.head(input), [cluster(input) for cluster in self.tail]

    def forward(self, input_: Any, target_: Any) -> _ASMoutput:
        x, target = check_adaptive(input_, target_, self.n_classes)
        return _ASMoutput(*adaptive_log_likelihood(*self._logits(x), target, self.cutoffs))

    def log_prob(self, input: Any) -> jax.Array:
        """The log-probabilities of all classes.

        Args:
            input: (N, D).

        Returns:
            (N, n_classes).

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> nn.AdaptiveLogSoftmaxWithLoss(4, 10, [2, 5]).log_prob(jnp.ones((3, 4))).shape
            (3, 10)
        """
        return adaptive_log_prob(*self._logits(_batched(input)))

    def predict(self, input: Any) -> jax.Array:
        """The most probable class of each row.

        Args:
            input: (N, D).

        Returns:
            (N,), integers.

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> nn.AdaptiveLogSoftmaxWithLoss(4, 10, [2, 5]).predict(jnp.ones((3, 4))).shape
            (3,)
        """
        return adaptive_predict(*self._logits(_batched(input)))


def _batched(input: Any) -> Any:
    if np.ndim(input) != 2:
        raise IndexError(f"expected an input of shape (N, D), got {list(np.shape(input))}")
    return input
