"""Connectionist temporal classification."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.function import _Loss

__all__ = ["CTCLoss"]


class CTCLoss(_Loss):
    """The negative log-likelihood of labels that are not aligned with the inputs: `−log Σ_alignments Π_t p_t`.

    Args:
        blank: the class of no label.
        reduction: none, mean or sum; for mean each loss is divided by the target's length first.
        zero_infinity: make infinite losses, where the inputs are too short for the labels, zero, with their gradients.

    Shape:
        Log-probabilities (T, N, C) or (T, C); targets (N, S) or (sum(target_lengths),); two lengths (N,) or (). To () or,
        for reduction none, (N,) or ().

    Raises:
        RuntimeError: by forward, where sizes do not fit, or a value is out of range; NaN where it is not known, under a
            transformation.

    References:
        Graves et al., Connectionist Temporal Classification, https://www.cs.toronto.edu/~graves/icml_2006.pdf

    Example:
        >>> import fnn.nn as nn, jax, jax.numpy as jnp
        >>> logs = jax.nn.log_softmax(jnp.zeros((5, 1, 3)), axis=-1)
        >>> nn.CTCLoss(reduction="sum")(logs, jnp.array([[1, 2]]), (5,), (2,)).round(4).item()
        1.9377
    """

    _function = staticmethod(F.ctc_loss)

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(  # type: ignore[override]
        self, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any
    ) -> jax.Array:
        return type(self)._function(log_probs, targets, input_lengths, target_lengths, **self._chosen())
