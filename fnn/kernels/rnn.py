"""LSTM by cuDNN on an NVIDIA GPU: all steps of all layers, value and gradient, in one call each.

Everything else is the scan of `fnn.functional.rnn`: on other platforms, in other derivatives, under `vmap`, and where the
conditions below do not hold. A program with cuDNN's LSTM can be exported with `disabled_checks` for its custom calls,
`cudnn_rnn_ffi` and `cudnn_rnn_bwd_ffi`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from fnn.kernels import plain
from fnn.kernels.derivative import faster
from fnn.kernels.sharding import is_local, on_nvidia, varying_alike

# At most, of steps in time (PyTorch fails for more: https://github.com/pytorch/pytorch/issues/133751) and of sequences.
STEPS = 65_535
# At most, of numbers in the input and in the hidden states of all layers and times. JAX counts the bytes of cuDNN's space in
# 32 bits, and allocates four times as many: at some 6 numbers a state, as the gradient needs, 1.6 GB. Not measured.
STATES = 1 << 24
# That `jax.default_matmul_precision` may ask for. cuDNN has TF32, as products on these GPUs have unasked, and float32.
TF32, FLOAT32 = (None, "high", "tensorfloat32"), ("highest", "float32")

_Options = tuple[int, int, int, float, bool, lax.Precision]
Result = tuple[jax.Array, list[jax.Array]]
Way = Callable[..., Result]


def cudnn_takes(x: jax.Array, states: Sequence[jax.Array], weights: Sequence[Any], directions: int) -> bool:
    """Whether cuDNN computes this LSTM, of sequences of equal length, as the scan does; the arguments are those of `lstm`.

    With unequal lengths it does not: there have been NaN and random numbers (https://github.com/jax-ml/jax/issues/15183,
    https://github.com/tensorflow/tensorflow/issues/60192).
    """
    if not on_nvidia() or plain():
        return False
    time, batch, size = x.shape
    hidden = weights[0].hh.shape[1]
    if not (
        x.dtype == jnp.float32  # JAX gives cuDNN no other
        and all(group.hr is None for group in weights)  # nor a projection
        and min(time, batch, size, hidden) > 0
        and max(time, batch) <= STEPS
        and time * batch * (size + hidden * len(weights)) <= STATES
        and _asked() in TF32 + FLOAT32
        and is_local(*jax.tree.leaves((x, states, weights)))
    ):
        return False
    try:  # cuDNN itself is asked for the size of its space
        fused = functools.partial(_fused, directions=directions, precision=_precision())
        jax.eval_shape(fused, x, states, weights)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _asked() -> str | None:
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def _precision() -> lax.Precision:
    return lax.Precision.HIGHEST if _asked() in FLOAT32 else lax.Precision.HIGH


def lstm(
    scan: Way,
    x: jax.Array,
    states: Sequence[jax.Array],
    weights: Sequence[Any],
    directions: int,
    between: Callable[[jax.Array], jax.Array] | None = None,
) -> Result:
    """Layers of LSTM: the outputs (T, N, H · directions), and the last h and c.

    Args:
        scan: the same by other means, of the arguments that follow but the last, without dropout; one object for all calls.
        x: (T, N, I).
        states: the initial h and c, (layers · directions, N, H) each.
        weights: of each direction of each layer: `ih`, `hh`, and where there are biases `bias_ih` and `bias_hh`, as torch
            has them.
        directions: 1 or 2.
        between: what is done to the outputs of all layers but the last; None for nothing. cuDNN's own dropout takes no key.
    """
    each = directions if between else len(weights)  # in one call
    last = []
    for first in range(0, len(weights), each):
        if between and first:
            x = between(x)
        of_call = slice(first, first + each)
        x, state = _stack(scan, x, [s[of_call] for s in states], weights[of_call], directions)
        last.append(state)
    return x, [jnp.concatenate(parts) for parts in zip(*last, strict=True)]


@functools.partial(jax.jit, static_argnames=("scan", "directions"))
def _stack(scan: Way, x: jax.Array, states: Sequence[jax.Array], weights: Sequence[Any], directions: int) -> Result:
    """Layers with nothing between them."""
    leaves, tree = jax.tree.flatten((x, states, weights))

    def of_leaves(way: Way, **options: Any) -> Way:
        return lambda *leaves: way(*jax.tree.unflatten(tree, leaves), directions=directions, **options)

    # The precision is chosen now: the gradient may be asked for where it is another.
    fused = of_leaves(_fused, precision=_precision())
    return faster(fused, of_leaves(scan), *leaves, platform="cuda", batched=False)


@functools.partial(jax.jit, static_argnames=("directions", "precision"))
def _fused(
    x: jax.Array, states: Sequence[jax.Array], weights: Sequence[Any], directions: int, precision: lax.Precision
) -> Result:
    """Layers by cuDNN."""
    time, batch, size = x.shape
    hidden = weights[0].hh.shape[1]
    options: _Options = size, hidden, len(weights) // directions, 0.0, directions == 2, precision  # 0.0 is for dropout
    lengths = jnp.full(batch, time, jnp.int32)
    y, h, c = _cudnn(options, x.swapaxes(0, 1), *states, _packed(weights), lengths)
    return y.swapaxes(0, 1), [h, c]


# JAX's operation has outputs that do not vary over the axes of shard_map, whatever its operands do: what is done about that
# must have no derivative, as it would be a sum over devices.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cudnn(options: _Options, *operands: jax.Array) -> list[jax.Array]:
    return _cudnn_forward(options, *operands)[0]


def _cudnn_forward(options: _Options, *operands: Any) -> tuple[list[jax.Array], Any]:
    x, h, c, weights, lengths = operands
    results, kept = rnn.lstm_fwd(x, h, c, weights, lengths, *options)
    return varying_alike(*results, x)[:-1], kept


def _cudnn_backward(options: _Options, kept: Any, cotangents: Any) -> tuple[jax.Array, ...]:
    return rnn.lstm_bwd(*options, kept, cotangents)


_cudnn.defvjp(_cudnn_forward, _cudnn_backward)


def _packed(weights: Sequence[Any]) -> jax.Array:
    """All weights as cuDNN wants them, with the gates in torch's order: all matrices, then all biases."""
    matrices = [matrix for group in weights for matrix in (group.ih, group.hh)]
    zeros = jnp.zeros(len(weights[0].hh), weights[0].hh.dtype)
    biases = [zeros if bias is None else bias for group in weights for bias in (group.bias_ih, group.bias_hh)]
    return jnp.concatenate([x.ravel() for x in matrices + biases])
