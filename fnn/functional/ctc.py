"""Connectionist temporal classification."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.functional.checks import accumulating, array, floating, integer, known
from fnn.functional.loss import reduced, reduction_of

__all__ = ["ctc_loss"]


def _lengths(value: Any, name: str, batch: int) -> jax.Array:
    if isinstance(value, (list, tuple)):
        value = np.array([integer(length, name) for length in value], np.int32)
    elif isinstance(value, (int, float)):
        raise TypeError(f"argument '{name}' must be an array or a tuple of ints, got {value!r}")
    lengths = array(value, name)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise RuntimeError(f"{name} must be integral, got {lengths.dtype.name}")
    if lengths.size != batch:
        raise RuntimeError(f"{name} must be of size batch_size, {batch}, got size {list(lengths.shape)}")
    return lengths.reshape(batch).astype(jnp.int32)


def _check_lengths(name: str, lengths: jax.Array, most: int) -> np.ndarray | None:
    values = known(lengths)
    if values is not None and (values.min() < 0 or values.max() > most):
        raise RuntimeError(f"Expected {name} to have values from 0 to {most}, but got {values.tolist()}")
    return values


def _log_add(*terms: jax.Array) -> jax.Array:
    """`log Σ exp(term)`, with a zero gradient in terms of −∞."""
    top = lax.stop_gradient(functools.reduce(jnp.maximum, terms))
    top = jnp.where(top == -jnp.inf, 0, top)
    total = sum((jnp.exp(term - top) for term in terms), jnp.zeros_like(top))
    return jnp.where(total == 0, -jnp.inf, jnp.log(jnp.where(total == 0, 1, total)) + top)


def _log_likelihood(
    log_probs: jax.Array, labels: jax.Array, input_lengths: jax.Array, target_lengths: jax.Array, blank: int
) -> jax.Array:
    """The logarithm of the probability of all alignments of labels (N, S) with (T, N, C)."""
    batch, most = labels.shape
    lowest = jnp.full((batch, 1), -jnp.inf, log_probs.dtype)
    repeated = jnp.pad(labels[:, 1:] == labels[:, :-1], ((0, 0), (min(most, 1), 0)))
    emitted = jnp.take_along_axis(log_probs, labels[None], axis=2, mode="fill")  # fills with NaN
    times = jnp.arange(len(log_probs))

    # The alignments that are in a label, (N, S), and those that are in the blank before one or in the last, (N, S + 1).
    def step(carry: Any, now: Any) -> Any:
        at_blank, at_label = carry
        time, blank_log, label_log = now
        from_label = jnp.concatenate([lowest, at_label], 1)
        skipping = jnp.where(repeated, -jnp.inf, from_label[:, :-1])
        new = (
            _log_add(at_blank, from_label) + blank_log[:, None],
            _log_add(at_label, at_blank[:, :-1], skipping) + label_log,
        )
        going = (time < input_lengths)[:, None]
        return tuple(jnp.where(going, a, b) for a, b in zip(new, carry, strict=True)), None

    start = jnp.pad(jnp.zeros_like(lowest), ((0, 0), (0, most)), constant_values=-jnp.inf)
    (at_blank, at_label), _ = lax.scan(step, (start, start[:, 1:]), (times, log_probs[:, :, blank], emitted))
    ends = (at_blank, jnp.concatenate([lowest, at_label], 1))
    place = jnp.clip(target_lengths, 0, most)[:, None]
    return _log_add(*(jnp.take_along_axis(end, place, 1)[:, 0] for end in ends))


@jax.custom_jvp
def _leaning(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Zero, with a given derivative."""
    return jnp.zeros_like(x)


@_leaning.defjvp
def _leaning_jvp(primals: Any, tangents: Any) -> Any:
    x, slope = primals
    return _leaning(x, slope), slope * tangents[0]  # itself, so that an outer derivative sees the slope too


def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> jax.Array:
    """The negative log-likelihood of labels that are not aligned with the inputs: `−log Σ_alignments Π_t p_t`.

    An alignment names a class for each time; without repetitions, and then without blanks, it is the labels.

    As in torch the gradient in `log_probs` is the one of unnormalized logits, `exp(log_probs)` minus the probability of
    each class at each time; behind `log_softmax` there is no difference.

    Args:
        log_probs: (T, N, C) or (T, C), logarithms of probabilities.
        targets: class indices, (N, S), or all of them one after the other, (sum(target_lengths),).
        input_lengths: (N,) or (), an array, or a tuple or list of integers: the times that count.
        target_lengths: likewise: the labels that count.
        blank: the class of no label.
        reduction: none, mean or sum; for mean each loss is divided by the target's length first.
        zero_infinity: make infinite losses, where the inputs are too short for the labels, zero, with their gradients.

    Returns:
        A scalar, or the losses (N,) or () for reduction none. Under a JAX transformation, where indices and lengths are
        not known, one that is out of range gives NaN.

    Raises:
        RuntimeError: where sizes do not fit, or a value is out of range, outside of transformations.
        TypeError: where one of the lengths is an array and the other is not.

    References:
        Graves et al., Connectionist Temporal Classification, https://www.cs.toronto.edu/~graves/icml_2006.pdf

    Example:
        >>> import jax, jax.numpy as jnp
        >>> logs = jax.nn.log_softmax(jnp.zeros((5, 1, 3)), axis=-1)
        >>> ctc_loss(logs, jnp.array([[1, 2]]), (5,), (2,), reduction="sum").round(4).item()
        1.9377
    """
    reduction = reduction_of(None, None, reduction)
    logs, t, blank = array(log_probs, "log_probs"), array(targets, "targets"), integer(blank, "blank")
    if isinstance(input_lengths, (list, tuple)) != isinstance(target_lengths, (list, tuple)):
        raise TypeError("ctc_loss: expected input_lengths and target_lengths to be both arrays or both tuples of ints")
    if logs.ndim not in (2, 3):
        raise RuntimeError(f"ctc_loss: expected log_probs of shape (T, N, C) or (T, C), got size {list(logs.shape)}")
    if logs.size == 0:
        raise RuntimeError(f"log_probs tensor must not be empty, got size {list(logs.shape)}")
    floating("ctc_loss", logs.dtype)
    x = accumulating(logs if logs.ndim == 3 else logs[:, None])
    times, batch, classes = x.shape
    ins, outs = _lengths(input_lengths, "input_lengths", batch), _lengths(target_lengths, "target_lengths", batch)
    if not 0 <= blank < classes:
        raise RuntimeError(f"blank must be in label range, 0 to {classes - 1}, got {blank}")
    if t.ndim not in (1, 2):
        raise RuntimeError(f"ctc_loss: expected targets of 1 or 2 dimensions, got size {list(t.shape)}")
    if t.ndim == 2 and len(t) != batch:
        raise RuntimeError(f"ctc_loss: expected targets of size {batch} at dimension 0, got size {list(t.shape)}")
    _check_lengths("input_lengths", ins, times)
    lengths = _check_lengths("target_lengths", outs, t.shape[-1])
    possible = (ins >= 0) & (ins <= times) & (outs >= 0) & (outs <= t.shape[-1])
    t = t.astype(jnp.int32)
    if t.ndim == 1:
        if lengths is not None and lengths.sum() != t.size:
            raise RuntimeError(f"ctc_loss: expected targets of size {lengths.sum()} at dimension 0, but got size {t.size}")
        possible &= outs.sum() == t.size
        most = t.size if lengths is None else int(lengths.max())
        starts = jnp.cumulative_sum(outs) - outs
        t = jnp.take(t, starts[:, None] + jnp.arange(most), mode="clip") if most else jnp.zeros((batch, 0), jnp.int32)
    labels = jnp.where(jnp.arange(t.shape[1]) < outs[:, None], t, blank)
    values = known(labels)
    if values is not None and ((values < 0) | (values >= classes)).any():
        raise RuntimeError(f"ctc_loss: expected targets from 0 to {classes - 1}, got {values.min()} to {values.max()}")
    labels = jnp.where(labels < 0, classes, labels)  # a negative index would count from the end
    losses = jnp.where(possible, -_log_likelihood(x, labels, ins, outs, blank), jnp.nan)
    infinite = losses == jnp.inf
    slope = jnp.where(jnp.isfinite(losses)[:, None], jnp.exp(x), jnp.nan)
    if zero_infinity:
        losses = jnp.where(infinite, 0, losses)
        slope = jnp.where(infinite[:, None], 0, slope)
    slope = jnp.where((jnp.arange(times)[:, None] < ins)[:, :, None], slope, 0)
    losses = losses + _leaning(x, slope).sum((0, 2))
    if reduction == "mean":
        losses = losses / jnp.maximum(outs, 1)
    return reduced(losses if logs.ndim == 3 else losses.reshape(()), reduction, logs.dtype)
