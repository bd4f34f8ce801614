"""The arithmetic of the adaptive softmax; torch has it in the layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from fnn.functional.checks import accumulating, array, known
from fnn.precision import to_float32

__all__: list[str] = []


def check_adaptive(input: Any, target: Any, classes: int) -> tuple[jax.Array, jax.Array]:
    """An input (N, D) and its target (N,), or (D,) and ().

    Raises:
        RuntimeError: where they do not fit, or a class index is out of range, outside of transformations.
    """
    x, t = array(input, "input_"), array(target, "target_")
    if t.ndim > 1:
        raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported, got {list(t.shape)}")
    if x.ndim != t.ndim + 1:
        raise RuntimeError(
            f"{t.ndim}D target tensor expects {t.ndim + 1}D input tensors, but found inputs with size {list(x.shape)}"
        )
    if x.shape[:-1] != t.shape:
        raise RuntimeError(
            f"Input and target should have the same size in the batch dimension, got {list(x.shape)} and {list(t.shape)}."
        )
    values = known(t)
    if values is not None and values.size and (values.min() < 0 or values.max() >= classes):
        raise RuntimeError(
            f"Target values should be in [0, {classes - 1}], but values in range [{values.min()}, {values.max()}] were found."
        )
    return x, t


def _log_softmax(x: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(accumulating(x), axis=-1)


def _of_class(logs: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logs, index[..., None], -1)[..., 0]


def adaptive_log_likelihood(
    head: jax.Array, tails: Sequence[jax.Array], target: jax.Array, cutoffs: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each target, and minus their mean.

    Args:
        head: (*, shortlist + clusters), logits of the first classes and of the clusters of the rest.
        tails: (*, size of the cluster), logits of the classes in each cluster.
        target: (*), class indices. One that is out of range gives NaN.
        cutoffs: where each cluster ends, and before them the shortlist.
    """
    head, tails = to_float32(head), [to_float32(tail) for tail in tails]
    shortlist, cluster = cutoffs[0], sum((target >= cutoff for cutoff in cutoffs[:-1]), jnp.zeros_like(target))
    place = jnp.where(cluster > 0, shortlist + cluster - 1, jnp.clip(target, 0, shortlist - 1))
    output = _of_class(_log_softmax(head), place)
    for i, ((low, high), logits) in enumerate(zip(pairwise(cutoffs), tails, strict=True), start=1):
        inner = _of_class(_log_softmax(logits), jnp.clip(target - low, 0, high - low - 1))
        output = output + jnp.where(cluster == i, inner, 0)
    output = jnp.where((target >= 0) & (target < cutoffs[-1]), output, jnp.nan)
    return output.astype(head.dtype), -output.mean().astype(head.dtype)


def adaptive_log_prob(head: jax.Array, tails: Sequence[jax.Array]) -> jax.Array:
    """The log-probabilities of all classes, (N, classes), from logits as of `adaptive_log_likelihood`."""
    head, tails = to_float32(head), [to_float32(tail) for tail in tails]
    logs = _log_softmax(head)
    shortlist = logs.shape[-1] - len(tails)
    parts = [_log_softmax(logits) + logs[..., shortlist + i, None] for i, logits in enumerate(tails)]
    return jnp.concatenate([logs[..., :shortlist], *parts], axis=-1).astype(head.dtype)


def adaptive_predict(head: jax.Array, tails: Sequence[jax.Array]) -> jax.Array:
    """The most probable class of each row, (N,); a class of a cluster only where the cluster is likelier than the shortlist."""
    best = head.argmax(-1)
    return jnp.where(best < head.shape[-1] - len(tails), best, adaptive_log_prob(head, tails).argmax(-1))
