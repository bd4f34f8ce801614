"""Recurrent layers and their cells: one recurrence for all, with a cell for each kind.

A layer is a scan over time, whose input is projected before it by one matrix product. Layers and directions are loops over
it. What is packed is padded for the scan, and a mask keeps the state of a sequence that has ended, or not yet begun where
the scan goes backwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled
from fnn.functional.activation import relu
from fnn.functional.checks import accumulating, array, floating, integer, known, same_dtype
from fnn.functional.dropout import dropout as drop
from fnn.kernels import rnn as kernel
from fnn.precision import to_lower

__all__ = [
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
]

State = tuple[jax.Array, ...]


class _Kind(NamedTuple):
    """A kind of cell: its name, the number of gates, and what makes the new state.

    That takes the projected input, the projected hidden state (both with the gates side by side), and the state, of which
    the hidden state is the first. Where the two projections are but added, `added` is true.
    """

    name: str
    gates: int
    states: int
    added: bool
    step: Callable[[jax.Array, jax.Array, State], State]


def _lstm_step(x: jax.Array, h: jax.Array, state: State) -> State:
    input, forget, new, output = jnp.split(x + h, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * state[1] + jax.nn.sigmoid(input) * jnp.tanh(new)
    return jax.nn.sigmoid(output) * jnp.tanh(cell), cell


def _gru_step(x: jax.Array, h: jax.Array, state: State) -> State:
    (x_reset, x_update, x_new), (h_reset, h_update, h_new) = jnp.split(x, 3, axis=-1), jnp.split(h, 3, axis=-1)
    new = jnp.tanh(x_new + jax.nn.sigmoid(x_reset + h_reset) * h_new)
    return (new + jax.nn.sigmoid(x_update + h_update) * (state[0] - new),)


_LSTM = _Kind("lstm", 4, 2, True, _lstm_step)
_GRU = _Kind("gru", 3, 1, False, _gru_step)
_TANH = _Kind("rnn_tanh", 1, 1, True, lambda x, h, state: (jnp.tanh(x + h),))
_RELU = _Kind("rnn_relu", 1, 1, True, lambda x, h, state: (relu(x + h),))


class _Weights(NamedTuple):
    """The parameters of one direction of one layer."""

    ih: jax.Array
    hh: jax.Array
    bias_ih: jax.Array | None = None
    bias_hh: jax.Array | None = None
    hr: jax.Array | None = None  # projects the hidden state of an LSTM


def _times(x: jax.Array, weight: jax.Array) -> jax.Array:
    """`x @ weight.T`, without a transposed copy of the weight that would be kept for the gradient."""
    return lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def _project(kind: _Kind, x: jax.Array, weights: _Weights) -> tuple[jax.Array, jax.Array | None]:
    """The projected input, and the bias that is left for the hidden state."""
    biases = [weights.bias_ih, weights.bias_hh][: 2 if kind.added else 1]
    projected = _times(x, weights.ih)
    for bias in biases:
        projected = projected if bias is None else projected + bias
    return projected, None if kind.added else weights.bias_hh


def _step(kind: _Kind, x: jax.Array, state: State, weights: _Weights, bias: jax.Array | None) -> State:
    h = _times(state[0], weights.hh)
    new = kind.step(x, h if bias is None else h + bias, state)
    return new if weights.hr is None else (_times(new[0], weights.hr), *new[1:])


# Compiled once for all eager calls: a scan whose body is a new function is compiled at every call.
@functools.partial(jax.jit, static_argnames=("kind", "reverse"), inline=True)
def _scan(
    kind: _Kind, x: jax.Array, state: State, weights: _Weights, running: jax.Array | None, reverse: bool
) -> tuple[jax.Array, State]:
    """One direction of one layer: the hidden states (T, N, ...), and the last state.

    Args:
        x: (T, N, ...).
        state: the initial one.
        running: (T, N, 1), where a sequence has an element at that time; None where all have.
        reverse: whether time goes backwards.
    """
    projected, bias = _project(kind, x, weights)
    # Given or made of zeros, it must be sharded as the input is, or vary over the same axes, for the scan to carry it.
    state = tuple(s + jnp.zeros_like(projected[0, :, : s.shape[-1]]) for s in state)

    def body(state: State, inputs: Any) -> tuple[State, jax.Array]:
        x, running = inputs
        new = _step(kind, x, state, weights, bias)
        if running is not None:
            new = tuple(jnp.where(running, n, s) for n, s in zip(new, state, strict=True))
        return new, new[0]

    last, hidden = lax.scan(body, state, (projected, running), reverse=reverse)
    return hidden, last


def _layers(
    kind: _Kind,
    x: jax.Array,
    states: Sequence[jax.Array],
    weights: Sequence[_Weights],
    running: jax.Array | None,
    directions: int,
    between: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, list[jax.Array]]:
    """All layers: the outputs (T, N, ...), and the last states.

    Args:
        between: what is done to the outputs of all layers but the last.
    """
    last = []
    for first in range(0, len(weights), directions):
        outputs = []
        for i in range(first, first + directions):
            hidden, state = _scan(kind, x, tuple(s[i] for s in states), weights[i], running, reverse=i > first)
            outputs.append(hidden)
            last.append(state)
        x = outputs[0] if directions == 1 else jnp.concatenate(outputs, axis=-1)
        if between and first + directions < len(weights):
            x = between(x)
    return x, [jnp.stack(parts) for parts in zip(*last, strict=True)]


_lstm_layers = functools.partial(_layers, _LSTM, running=None)


def _recurrence(kind: _Kind, *arguments: Any) -> tuple[jax.Array, ...]:
    """Checks the arguments of the public functions, padded or packed, and computes."""
    sizes = None
    if isinstance(arguments[3], bool):
        input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first = arguments
    else:
        input, sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional = arguments
        batch_first, sizes = False, array(sizes, "batch_sizes")
    x, states = array(input, "input"), states_of(kind.name, kind.states, hx)
    given = [array(p, "params") for p in params]
    x, states, given = to_lower(x), [to_lower(s) for s in states], [to_lower(p) for p in given]
    same_dtype(
        kind.name, input=x, **{f"hx{i}": s for i, s in enumerate(states)}, **{f"params{i}": p for i, p in enumerate(given)}
    )
    floating(kind.name, x.dtype)
    layers, directions = integer(num_layers, "num_layers"), 2 if bidirectional else 1
    if x.ndim != (3 if sizes is None else 2):
        raise RuntimeError(f"{kind.name}: input must have {3 if sizes is None else 2} dimensions, got {list(x.shape)}")
    weights = _grouped(kind, given, bool(has_biases), layers * directions)
    time, batch = (x.shape[1::-1] if batch_first else x.shape[:2]) if sizes is None else (sizes.shape[0], states[0].shape[1])
    _check_shapes(kind, x, batch, states, weights, directions)
    if time == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    wide = [jax.tree.map(accumulating, group) for group in weights]
    states, dtype, running = [accumulating(s) for s in states], x.dtype, None
    if sizes is not None:
        states = [poisoned(s, fit(sizes, len(x), batch)) for s in states]
        running = (np.arange(batch) < sizes[:, None])[..., None]
        padded = pad_packed(x, sizes, batch)
    else:
        padded = jnp.swapaxes(x, 0, 1) if batch_first else x
    padded, between = accumulating(padded), functools.partial(drop, p=dropout, training=train)
    for_cudnn = kind is _LSTM and running is None and 0.0 <= dropout <= 1.0
    if for_cudnn and kernel.cudnn_takes(padded, states, wide, directions):
        y, last = kernel.lstm(_lstm_layers, padded, states, wide, directions, between if train and dropout else None)
    else:
        y, last = _layers(kind, padded, states, wide, running, directions, between)
    if sizes is not None:
        y = pack_padded(y, sizes, len(x))
    elif batch_first:
        y = jnp.swapaxes(y, 0, 1)
    return y.astype(dtype), *(s.astype(dtype) for s in last)


def states_of(name: str, count: int, hx: Any) -> list[jax.Array]:
    """The states that a layer or function of that name was given: an array, or a tuple of as many as it has.

    Raises:
        TypeError: where they are neither.
        RuntimeError: for another number.
    """
    if count == 1:
        if isinstance(hx, (tuple, list)):
            raise TypeError(f"{name}: argument 'hx' must be an array, not {type(hx).__name__}")
        return [array(hx, "hx")]
    if not isinstance(hx, (tuple, list)):
        raise TypeError(f"{name}: argument 'hx' must be a tuple of arrays, not {type(hx).__name__}")
    if len(hx) != count:
        raise RuntimeError(f"{name} expects two hidden states, got {len(hx)}")
    return [array(h, f"hx[{i}]") for i, h in enumerate(hx)]


def _grouped(kind: _Kind, params: list[jax.Array], has_biases: bool, count: int) -> list[_Weights]:
    """The parameters of each direction of each layer."""
    each = len(params) // count if count > 0 else 0
    plain = 4 if has_biases else 2
    if each * count != len(params) or each not in ((plain, plain + 1) if kind.states > 1 else (plain,)):
        raise RuntimeError(
            f"{kind.name}: got an incorrect number of RNN parameters: expected {plain} for each of {count} layers and "
            f"directions, got {len(params)}"
        )
    groups = [params[i : i + each] for i in range(0, len(params), each)]
    return [_Weights(*g[:2], *(g[2:4] if has_biases else (None, None)), *g[plain:]) for g in groups]


def _check_shapes(
    kind: _Kind, x: jax.Array, batch: int, states: list[jax.Array], weights: list[_Weights], directions: int
) -> None:
    """Raises where shapes do not fit."""

    def expect(what: str, given: jax.Array | None, *shape: int) -> None:
        if given is not None and given.shape != shape:
            raise RuntimeError(f"{kind.name}: Expected {what} size {shape}, got {list(given.shape)}")

    size = weights[0].hh.shape[0] // kind.gates
    hidden = size if weights[0].hr is None else weights[0].hr.shape[0]
    for i, group in enumerate(weights):
        into = x.shape[-1] if i < directions else hidden * directions
        suffix = f"_l{i // directions}{'_reverse' * (i % directions)}"
        expect(f"weight_ih{suffix}", group.ih, kind.gates * size, into)
        expect(f"weight_hh{suffix}", group.hh, kind.gates * size, hidden)
        expect(f"bias_ih{suffix}", group.bias_ih, kind.gates * size)
        expect(f"bias_hh{suffix}", group.bias_hh, kind.gates * size)
        expect(f"weight_hr{suffix}", group.hr, hidden, size)
    for i, (state, last) in enumerate(zip(states, (hidden, size), strict=False)):
        expect("hidden" if len(states) == 1 else f"hidden[{i}]", state, len(weights), batch, last)


# Packed sequences: the elements of sequences sorted by length, all of one time behind those of the time before


def numbers(values: jax.Array) -> tuple[Any, Any]:
    """Whole numbers as numpy has them and numpy, where they are known; else as JAX traces them and jax.numpy."""
    concrete = known(values)
    return (values, jnp) if concrete is None else (concrete, np)


def pad_packed(data: jax.Array, batch_sizes: jax.Array, batch: int, value: Any = 0) -> jax.Array:
    """Packed elements (rows, *) as padded ones (T, batch, *)."""
    sizes, xp = numbers(batch_sizes)
    rows = (xp.cumsum(sizes) - sizes)[:, None] + np.arange(batch)
    rows = xp.where(np.arange(batch) < sizes[:, None], rows, data.shape[0])
    return jnp.take(data, rows, axis=0, mode="fill", fill_value=value)


def pack_padded(padded: jax.Array, batch_sizes: jax.Array, rows: int) -> jax.Array:
    """Padded elements (T, batch, *) as packed ones (rows, *); rows that are left over are zero."""
    sizes, xp = numbers(batch_sizes)
    time, batch = padded.shape[:2]
    ends, row = xp.cumsum(sizes), np.arange(rows)
    at = xp.minimum(xp.searchsorted(ends, row, side="right"), time - 1)
    place = xp.where(row < ends[-1], at * batch + row - (ends - sizes)[at], time * batch)
    return jnp.take(padded.reshape(time * batch, *padded.shape[2:]), place, axis=0, mode="fill", fill_value=0)


def poisoned(x: jax.Array, fine: Any) -> jax.Array:
    """The operand; all NaN, or of integers the least, where JAX traces what is found out to be wrong."""
    if isinstance(fine, jax.Array):
        x = jnp.where(fine, x, jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min)
    return x


def fit(batch_sizes: jax.Array, rows: int, batch: int) -> Any:
    """Whether there can be such batch sizes.

    Raises:
        RuntimeError: where they are known and there cannot.
    """
    if batch_sizes.ndim != 1 or not jnp.issubdtype(batch_sizes.dtype, jnp.integer):
        raise RuntimeError(
            f"expected batch_sizes to be a 1D tensor of integers, got {batch_sizes.dtype.name} of shape {batch_sizes.shape}"
        )
    sizes, xp = numbers(batch_sizes)
    fit = (sizes[:1] == batch).all() & (sizes.sum() <= rows) & (sizes[1:] <= sizes[:-1]).all() & (sizes[-1:] >= 0).all()
    if xp is np and not fit:
        raise RuntimeError(
            f"expected batch_sizes that begin with the batch size, {batch}, do not increase, and add up to at most {rows}, the "
            f"size of data, got {sizes.tolist()}"
        )
    return fit


def _cell(kind: _Kind, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> State:
    """Checks the arguments of a cell, and computes."""
    name = f"{kind.name}_cell"
    x, states = array(input, "input"), states_of(kind.name, kind.states, hx)
    given = {"w_ih": array(w_ih, "w_ih"), "w_hh": array(w_hh, "w_hh")}
    given |= {key: array(bias, key) for key, bias in (("b_ih", b_ih), ("b_hh", b_hh)) if bias is not None}
    x, states, given = to_lower(x), [to_lower(s) for s in states], {key: to_lower(p) for key, p in given.items()}
    same_dtype(name, input=x, **{f"hx[{i}]": s for i, s in enumerate(states)}, **given)
    floating(name, x.dtype)
    weights = _Weights(given["w_ih"], given["w_hh"], given.get("b_ih"), given.get("b_hh"))
    if x.ndim != 2 or weights.ih.ndim != 2 or weights.hh.ndim != 2:
        raise RuntimeError(
            f"{name}: expected input, w_ih and w_hh to be 2D, got sizes {list(x.shape)}, {list(weights.ih.shape)} and "
            f"{list(weights.hh.shape)}"
        )
    size = weights.hh.shape[1]
    if x.shape[1] != weights.ih.shape[1]:
        raise RuntimeError(
            f"input has inconsistent input_size: got {x.shape[1]} expected {weights.ih.shape[1]}, for an input of size "
            f"{list(x.shape)}"
        )
    for i, state in enumerate(states):
        if state.shape[:1] != x.shape[:1]:
            raise RuntimeError(
                f"Input batch size {x.shape[0]} doesn't match hidden{i} batch size {state.shape[0] if state.ndim else 'none'}: "
                f"got {list(x.shape)} and {list(state.shape)}"
            )
        if state.shape[1:] != (size,):
            raise RuntimeError(
                f"hidden{i} has inconsistent hidden_size: got {state.shape[1] if state.ndim > 1 else 'none'}, expected {size}, "
                f"for hidden{i} of size {list(state.shape)}"
            )
    for key, value in given.items():
        if value.shape[:1] != (kind.gates * size,):
            raise RuntimeError(
                f"{name}: {key} first dim must be {kind.gates} * hidden_size = {kind.gates * size}, but got size "
                f"{list(value.shape)}"
            )
    wide = jax.tree.map(accumulating, weights)
    projected, bias = _project(kind, accumulating(x), wide)
    new = _step(kind, projected, tuple(accumulating(s) for s in states), wide, bias)
    return tuple(s.astype(x.dtype) for s in new)


@compiled
def lstm(
    input: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Layers of long short-term memory: `c' = f · c + i · g` and `h' = o · tanh(c')`.

    There `(i, f, g, o)` are `W_ih x + b_ih + W_hh h + b_hh`, parted in four, behind a sigmoid, for g behind tanh. With a
    projection, `h' = W_hr (o · tanh(c'))`.

    What is packed takes the places `lstm(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train,
    bidirectional)`: data (rows, I), and the number of sequences at each time (T,).

    Args:
        input: (T, N, I), or (N, T, I) with `batch_first`.
        hx: the initial `h` (layers · directions, N, R) and `c` (layers · directions, N, H), where R is H or the size that is
            projected to.
        params: W_ih (4 H, I or R · directions), W_hh (4 H, R), with `has_biases` b_ih and b_hh (4 H,), and where there is a
            projection W_hr (R, H), of all directions of all layers, one after the other.
        has_biases: whether there are biases.
        num_layers: the number of layers.
        dropout: the probability of dropout on the outputs of all layers but the last.
        train: whether there is dropout.
        bidirectional: whether there are two directions, side by side in the output.
        batch_first: whether the input and the output begin with the batch.

    Returns:
        The output (T, N, R · directions), or (N, T, R · directions), or (rows, R · directions), and the last `h` and `c`, as
        hx.

    Raises:
        RuntimeError: where shapes do not fit, dtypes differ, or there is no time; where batch sizes are not possible (they
            make all NaN where they are traced).
        TypeError: where hx is not a tuple of arrays.

    References:
        Hochreiter and Schmidhuber, Long Short-Term Memory, https://doi.org/10.1162/neco.1997.9.8.1735

    Example:
        >>> import jax.numpy as jnp
        >>> params = [jnp.ones((8, 3)), jnp.ones((8, 2)), jnp.zeros(8), jnp.zeros(8)]
        >>> y, h, c = lstm(jnp.ones((5, 1, 3)), (jnp.zeros((1, 1, 2)),) * 2, params, True, 1, 0.0, False, False, False)
        >>> y.shape, h.shape, c.shape
        ((5, 1, 2), (1, 1, 2), (1, 1, 2))
    """
    y, h, c = _recurrence(_LSTM, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return y, h, c


@compiled
def gru(
    input: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[jax.Array, jax.Array]:
    """Layers of gated recurrent units: `h' = (1 − z) · n + z · h`, with `n = tanh(W_in x + b_in + r · (W_hn h + b_hn))`.

    There `r` and `z` are the sigmoid of `W_ih x + b_ih + W_hh h + b_hh`; weights and biases hold those of r, z and n, one
    below the other.

    Args:
        input: as for `lstm`; so what is packed.
        hx: the initial `h` (layers · directions, N, H).
        params: as for `lstm`, with 3 in the place of 4; there is no projection.
        has_biases, num_layers, dropout, train, bidirectional, batch_first: as for `lstm`.

    Returns:
        The output and the last `h`, as for `lstm`.

    Raises:
        As `lstm`.

    References:
        Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, https://arxiv.org/abs/1406.1078

    Example:
        >>> import jax.numpy as jnp
        >>> y, h = gru(jnp.ones((5, 1, 3)), jnp.zeros((1, 1, 2)), [jnp.ones((6, 3)), jnp.ones((6, 2))], False, 1, 0.0, False,
        ...     False, False)
        >>> y.shape, h.shape
        ((5, 1, 2), (1, 1, 2))
    """
    y, h = _recurrence(_GRU, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return y, h


@compiled
def rnn_tanh(
    input: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[jax.Array, jax.Array]:
    """Elman's layers: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`.

    Args:
        input: as for `lstm`; so what is packed.
        hx: the initial `h` (layers · directions, N, H).
        params: as for `lstm`, with 1 in the place of 4; there is no projection.
        has_biases, num_layers, dropout, train, bidirectional, batch_first: as for `lstm`.

    Returns:
        The output and the last `h`, as for `lstm`.

    Raises:
        As `lstm`.

    References:
        Elman, Finding Structure in Time, https://doi.org/10.1207/s15516709cog1402_1

    Example:
        >>> import jax.numpy as jnp
        >>> params = [jnp.ones((1, 1)), jnp.ones((1, 1))]
        >>> y, h = rnn_tanh(jnp.ones((2, 1, 1)), jnp.zeros((1, 1, 1)), params, False, 1, 0.0, False, False, False)
        >>> y.round(4).flatten().tolist()
        [0.7616, 0.9427]
    """
    y, h = _recurrence(_TANH, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return y, h


@compiled
def rnn_relu(
    input: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[jax.Array, jax.Array]:
    """As `rnn_tanh`, with relu: `h' = relu(W_ih x + b_ih + W_hh h + b_hh)`.

    Args:
        input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first: as for `rnn_tanh`.

    References:
        Le et al., A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, https://arxiv.org/abs/1504.00941

    Example:
        >>> import jax.numpy as jnp
        >>> params = [jnp.ones((1, 1)), jnp.ones((1, 1))]
        >>> y, h = rnn_relu(jnp.ones((2, 1, 1)), jnp.zeros((1, 1, 1)), params, False, 1, 0.0, False, False, False)
        >>> y.flatten().tolist()
        [1.0, 2.0]
    """
    y, h = _recurrence(_RELU, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return y, h


@compiled
def lstm_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> tuple[jax.Array, jax.Array]:
    """One step of `lstm`.

    Args:
        input: (N, I).
        hx: `h` and `c`, (N, H) each.
        w_ih: (4 H, I).
        w_hh: (4 H, H).
        b_ih, b_hh: (4 H,), or None.

    Returns:
        The new `h` and `c`.

    Raises:
        RuntimeError: where shapes do not fit, or dtypes differ.
        TypeError: where hx is not a tuple of arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> h, c = lstm_cell(jnp.ones((1, 3)), (jnp.zeros((1, 2)),) * 2, jnp.ones((8, 3)), jnp.ones((8, 2)))
        >>> h.shape, c.shape
        ((1, 2), (1, 2))
    """
    h, c = _cell(_LSTM, input, hx, w_ih, w_hh, b_ih, b_hh)
    return h, c


@compiled
def gru_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> jax.Array:
    """One step of `gru`.

    Args:
        input: (N, I).
        hx: `h`, (N, H).
        w_ih: (3 H, I).
        w_hh: (3 H, H).
        b_ih, b_hh: (3 H,), or None.

    Returns:
        The new `h`.

    Raises:
        As `lstm_cell`.

    Example:
        >>> import jax.numpy as jnp
        >>> gru_cell(jnp.ones((1, 3)), jnp.zeros((1, 2)), jnp.ones((6, 3)), jnp.ones((6, 2))).shape
        (1, 2)
    """
    return _cell(_GRU, input, hx, w_ih, w_hh, b_ih, b_hh)[0]


@compiled
def rnn_tanh_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> jax.Array:
    """One step of `rnn_tanh`.

    Args:
        input: (N, I).
        hx: `h`, (N, H).
        w_ih: (H, I).
        w_hh: (H, H).
        b_ih, b_hh: (H,), or None.

    Returns:
        The new `h`.

    Raises:
        As `lstm_cell`.

    Example:
        >>> import jax.numpy as jnp
        >>> rnn_tanh_cell(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1))).round(4).tolist()
        [[0.7616]]
    """
    return _cell(_TANH, input, hx, w_ih, w_hh, b_ih, b_hh)[0]


@compiled
def rnn_relu_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> jax.Array:
    """One step of `rnn_relu`.

    Args:
        input, hx, w_ih, w_hh, b_ih, b_hh: as for `rnn_tanh_cell`.

    Example:
        >>> import jax.numpy as jnp
        >>> rnn_relu_cell(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1))).tolist()
        [[1.0]]
    """
    return _cell(_RELU, input, hx, w_ih, w_hh, b_ih, b_hh)[0]
