"""Recurrent layers and their cells."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import functional as F
from fnn.functional.checks import array, known
from fnn.functional.rnn import states_of
from fnn.nn import init
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Parameter
from fnn.nn.utils.rnn import PackedSequence, batch_of
from fnn.precision import is_autocast_enabled

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]


def _uniform(layer: RNNBase | RNNCellBase) -> None:
    """Sets the initial distribution of recurrent layers and cells."""
    bound = 1.0 / math.sqrt(layer.hidden_size) if layer.hidden_size > 0 else 0
    for weight in layer.parameters():
        init.uniform_(weight, -bound, bound)


def _apply_permutation(tensor: Any, permutation: Any, dim: int = 1) -> jax.Array:
    return jnp.take(array(tensor, "tensor"), array(permutation, "permutation"), axis=dim)


def apply_permutation(tensor: Any, permutation: Any, dim: int = 1) -> jax.Array:
    """The slices of an array along an axis in another order; deprecated, as in torch.

    Args:
        tensor: the array.
        permutation: the places of the slices, whole numbers.
        dim: the axis.
    """
    warnings.warn(
        "`apply_permutation` is deprecated, please use `jnp.take(tensor, permutation, dim)` instead",
        FutureWarning,
        stacklevel=2,
    )
    return _apply_permutation(tensor, permutation, dim)


class RNNBase(Module):
    """What recurrent layers share: hyperparameters and parameters; it has no forward.

    Args:
        mode: LSTM, GRU, RNN_TANH or RNN_RELU.
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as for `LSTM`.

    Raises:
        ValueError: for sizes that are not positive, a probability that is none, and an unknown mode.
        TypeError: for arguments of another type.

    Example:
        >>> import fnn.nn as nn
        >>> [len(weights) for weights in nn.RNNBase("LSTM", 3, 2, num_layers=2).all_weights]
        [4, 4]
    """

    _gates = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= self.dropout <= 1:
            raise ValueError(
                f"dropout should be a number in range [0, 1], the probability of zeroing an element, got {dropout}"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
                f"greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        for name, kind in (("bias", bool), ("batch_first", bool), ("input_size", int), ("hidden_size", int)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(getattr(self, name)).__name__}")
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero, got {getattr(self, name)}")
        if proj_size < 0:
            raise ValueError(f"proj_size should be a positive integer or zero to disable projections, got {proj_size}")
        if proj_size >= hidden_size:
            raise ValueError(f"proj_size has to be smaller than hidden_size, got {proj_size} and {hidden_size}")
        if mode not in self._gates:
            raise ValueError(f"Unrecognized RNN mode: {mode}")
        rows, out = self._gates[mode] * hidden_size, proj_size or hidden_size
        directions = 2 if bidirectional else 1
        self._all_weights = []
        for layer in range(num_layers):
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, out * directions if layer else input_size),
                "weight_hh": (rows, out),
            }
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if proj_size:
                shapes |= {"weight_hr": (proj_size, hidden_size)}
            for suffix in ("", "_reverse")[:directions]:
                named = {f"{name}_l{layer}{suffix}": shape for name, shape in shapes.items()}
                for name, shape in named.items():
                    setattr(self, name, Parameter(init.zeros, shape, dtype))
                self._all_weights.append(list(named))
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        _uniform(self)

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Any]:
        """What stands under the names of the parameters now, be it a Parameter or what took its place."""
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each direction of each layer."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Does nothing: JAX has no use for parameters that lie side by side."""

    def check_input(self, input: Any, batch_sizes: Any) -> None:
        """Raises where forward cannot take an input: (T, N, I), or with batch sizes the packed (rows, I)."""
        weight = self._flat_weights[0]
        if input.dtype != weight.dtype and not is_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype.name}) does not match weight dtype ({weight.dtype.name}). Convert input: "
                f"input.astype('{weight.dtype.name}'), or convert model: model.to('{input.dtype.name}')"
            )
        axes = 3 if batch_sizes is None else 2
        if input.ndim != axes:
            raise RuntimeError(f"input must have {axes} dimensions, got {input.ndim}, of size {list(input.shape)}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}, of size "
                f"{list(input.shape)}"
            )

    def _state_size(self, input: Any, batch_sizes: Any, last: int) -> tuple[int, int, int]:
        batch = input.shape[0 if self.batch_first else 1] if batch_sizes is None else int(batch_sizes[0])
        return self.num_layers * (2 if self.bidirectional else 1), batch, last

    def get_expected_hidden_size(self, input: Any, batch_sizes: Any) -> tuple[int, int, int]:
        """The shape of the hidden state: (layers · directions, N, H), or the size that is projected to in the place of H."""
        return self._state_size(input, batch_sizes, self.proj_size or self.hidden_size)

    def check_hidden_size(
        self, hx: Any, expected_hidden_size: tuple[int, int, int], msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """Raises where a state has another shape."""
        if hx.shape != expected_hidden_size:
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.shape)))

    def check_forward_args(self, input: Any, hidden: Any, batch_sizes: Any) -> None:
        """Raises where forward cannot take an input and states."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Any) -> Any:
        """States with the sequences in another order."""
        if permutation is None:
            return hx
        return jax.tree.map(lambda state: _apply_permutation(state, permutation), hx)

    def _initial(self, input: Any, batch_sizes: Any) -> Any:
        """The states that there are where none are given."""
        return jnp.zeros(self.get_expected_hidden_size(input, batch_sizes), input.dtype)

    def _given(self, hx: Any) -> Any:
        return states_of(self._get_name(), 1, hx)[0]

    def _run(self, function: Callable[..., Any], input: Any, hx: Any) -> tuple[Any, Any]:
        """Checks the arguments of forward, and calls the function of the layer: the output, and the last states."""
        states = None if hx is None else self._given(hx)
        if isinstance(input, PackedSequence):
            return self._run_packed(function, input, states)
        x = array(input, "input")
        if x.ndim not in (2, 3):
            raise ValueError(
                f"{self._get_name()}: Expected input to be 2D or 3D, got {x.ndim}D instead, of size {list(x.shape)}"
            )
        given = jax.tree.leaves(states)
        if any(state.ndim != x.ndim for state in given):
            raise RuntimeError(
                f"For {'batched 3-D' if x.ndim == 3 else 'unbatched 2-D'} input, hx should also be {x.ndim}-D but got sizes "
                + " and ".join(str(list(state.shape)) for state in given)
            )
        single = x.ndim == 2
        if single:
            x = jnp.expand_dims(x, 0 if self.batch_first else 1)
            states = jax.tree.map(lambda state: state[:, None], states)
        states = self._checked(x, states, None)
        options = (self.bias, self.num_layers, self.dropout, self.training, bool(self.bidirectional))
        output, *last = function(x, states, self._flat_weights, *options, self.batch_first)
        if single:
            output, last = jnp.squeeze(output, 0 if self.batch_first else 1), [state[:, 0] for state in last]
        return output, jax.tree.unflatten(jax.tree.structure(states), last)

    def _run_packed(self, function: Callable[..., Any], packed: PackedSequence, states: Any) -> tuple[Any, Any]:
        data, sizes = array(packed.data, "input"), array(packed.batch_sizes, "batch_sizes")
        concrete = known(sizes)
        if concrete is None:  # only the first is looked at
            known_batch = packed.batch_size() is not None or states is None
            concrete = np.array([batch_of(packed) if known_batch else jax.tree.leaves(states)[0].shape[1]])
        states = self._checked(data, states, concrete)
        states = self.permute_hidden(states, packed.sorted_indices)
        options = (self.bias, self.num_layers, self.dropout, self.training, bool(self.bidirectional))
        output, *last = function(data, sizes, states, self._flat_weights, *options)
        last = jax.tree.unflatten(jax.tree.structure(states), last)
        return packed._replace(data=output), self.permute_hidden(last, packed.unsorted_indices)

    def _checked(self, input: Any, states: Any, batch_sizes: Any) -> Any:
        """The states, given or initial, after all checks."""
        if states is None:
            self.check_input(input, batch_sizes)
            return self._initial(input, batch_sizes)
        self.check_forward_args(input, states, batch_sizes)
        return states

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, usual in (
            ("proj_size", 0),
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0),
            ("bidirectional", False),
        ):
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(RNNBase):
    """Elman's recurrent layers: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`, or with relu.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as for `LSTM`.
        nonlinearity: tanh or relu.

    Shape:
        input and output: as for `LSTM`.
        hx, and the last state: h, (layers · directions, N, H), or (layers · directions, H) without a batch.

    Attributes:
        As of `LSTM`, with H in the place of 4 H.

    Raises:
        As `LSTM`; ValueError by the constructor for an unknown nonlinearity, or a `proj_size`.

    References:
        Elman, Finding Structure in Time, https://doi.org/10.1207/s15516709cog1402_1

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> output, h = nn.RNN(10, 20, 2)(jnp.ones((5, 3, 10)), jnp.zeros((2, 3, 20)))
        >>> output.shape, h.shape
        ((5, 3, 20), (2, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: Any = None,
    ) -> None:
        _refuse_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity {nonlinearity!r}. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, jax.Array]:
        return self._run(F.rnn_tanh if self.mode == "RNN_TANH" else F.rnn_relu, input, hx)


class LSTM(RNNBase):
    """Layers of long short-term memory; the formula is that of `fnn.functional.lstm`.

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the number of features of the hidden state.
        num_layers: the number of layers; each takes the outputs of the one before.
        bias: whether there are biases.
        batch_first: whether input and output are (N, T, *); states are not.
        dropout: the probability of dropout on the outputs of all layers but the last, in training.
        bidirectional: whether a second direction goes through time backwards; its outputs stand behind those of the first.
        proj_size: what size the hidden state is projected to, smaller than H; 0 for no projection.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        input: (T, N, I), (N, T, I) with `batch_first`, (T, I) without a batch, or a PackedSequence.
        output: as the input, with R · directions features, where R is H or proj_size.
        hx, by default 0, and the last states: h (layers · directions, N, R) and c (layers · directions, N, H), without N where
            there is no batch.

    Attributes:
        weight_ih_l0: (4 H, I), in the next layers weight_ih_l1 and so on, (4 H, R · directions); in the order i, f, g, o.
        weight_hh_l0: (4 H, R).
        bias_ih_l0, bias_hh_l0: (4 H,).
        weight_hr_l0: (R, H), where there is a projection.
        weight_ih_l0_reverse and so on: those of the second direction. All are initially uniform within ±1/√H.

    Raises:
        TypeError, ValueError: by the constructor, for what cannot be.
        ValueError: by forward, for another number of axes, or another dtype than that of the parameters.
        RuntimeError: by forward, where shapes do not fit.

    References:
        Hochreiter and Schmidhuber, Long Short-Term Memory, https://doi.org/10.1162/neco.1997.9.8.1735

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> output, (h, c) = nn.LSTM(10, 20, 2)(jnp.ones((5, 3, 10)))
        >>> output.shape, h.shape, c.shape
        ((5, 3, 20), (2, 3, 20), (2, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )

    def get_expected_cell_size(self, input: Any, batch_sizes: Any) -> tuple[int, int, int]:
        """The shape of the cell state: (layers · directions, N, H)."""
        return self._state_size(input, batch_sizes, self.hidden_size)

    def check_forward_args(self, input: Any, hidden: Any, batch_sizes: Any) -> None:
        """Raises where forward cannot take an input and states."""
        self.check_input(input, batch_sizes)
        expected = (self.get_expected_hidden_size(input, batch_sizes), self.get_expected_cell_size(input, batch_sizes))
        for i, size in enumerate(expected):
            self.check_hidden_size(hidden[i], size, f"Expected hidden[{i}] size {{}}, got {{}}")

    def _initial(self, input: Any, batch_sizes: Any) -> Any:
        return super()._initial(input, batch_sizes), jnp.zeros(self.get_expected_cell_size(input, batch_sizes), input.dtype)

    def _given(self, hx: Any) -> Any:
        return tuple(states_of(self._get_name(), 2, hx))

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        return self._run(F.lstm, input, hx)


class GRU(RNNBase):
    """Layers of gated recurrent units; the formula is that of `fnn.functional.gru`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as for `LSTM`.

    Shape:
        input and output: as for `LSTM`.
        hx, and the last state: h, (layers · directions, N, H), or (layers · directions, H) without a batch.

    Attributes:
        As of `LSTM`, with 3 H in the place of 4 H, in the order r, z, n.

    Raises:
        As `LSTM`; ValueError by the constructor for a `proj_size`.

    References:
        Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, https://arxiv.org/abs/1406.1078

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> output, h = nn.GRU(10, 20, bidirectional=True)(jnp.ones((5, 3, 10)))
        >>> output.shape, h.shape
        ((5, 3, 40), (2, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: Any = None,
    ) -> None:
        _refuse_projection(proj_size)
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, jax.Array]:
        return self._run(F.gru, input, hx)


def _refuse_projection(proj_size: Any) -> None:
    if proj_size is not None:
        raise ValueError(f"proj_size argument is only supported for LSTM, not RNN or GRU, got {proj_size}")


class RNNCellBase(Module):
    """What recurrent cells share: parameters.

    Args:
        input_size, hidden_size, bias, device, dtype: as for `LSTMCell`.
        num_chunks: how many gates there are.

    Example:
        >>> import fnn.nn as nn
        >>> nn.RNNCellBase(3, 2, True, 4).weight_ih.shape
        (8, 3)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(init.zeros, (rows, input_size), dtype)
        self.weight_hh = Parameter(init.zeros, (rows, hidden_size), dtype)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(init.zeros, (rows,), dtype) if bias else None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distributions."""
        _uniform(self)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            text += f", nonlinearity={self.nonlinearity}"
        return text

    def _run(self, function: Callable[..., Any], input: Any, hx: Any, states: int = 1) -> Any:
        """Checks the number of axes, and calls the function of the cell."""
        x = array(input, "input")
        if hx is None:
            hx = jnp.zeros((*x.shape[:-1], self.hidden_size), x.dtype)
            hx = hx if states == 1 else (hx,) * states
        else:
            given = states_of(self._get_name(), states, hx)
            hx = given[0] if states == 1 else tuple(given)
        named = {"input": x} | ({"hidden": hx} if states == 1 else {f"hx[{i}]": state for i, state in enumerate(hx)})
        for name, value in named.items():
            if value.ndim not in (1, 2):
                raise ValueError(
                    f"{self._get_name()}: Expected {name} to be 1D or 2D, got {value.ndim}D instead, of size "
                    f"{list(value.shape)}"
                )
        single = x.ndim == 1
        if single:
            x, hx = jax.tree.map(lambda value: value[None], (x, hx))
        out = function(x, hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return jax.tree.map(lambda value: value[0], out) if single else out


class RNNCell(RNNCellBase):
    """One step of an Elman layer: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`, or with relu.

    Args:
        input_size, hidden_size, bias, device, dtype: as for `LSTMCell`.
        nonlinearity: tanh or relu.

    Shape:
        input: (N, I) or (I,); hx, by default 0, and the result: (N, H) or (H,).

    Attributes:
        weight_ih: (H, I); weight_hh: (H, H); bias_ih, bias_hh: (H,). Initially uniform within ±1/√H.

    Raises:
        ValueError: by forward, for another number of axes.
        RuntimeError: by forward, where shapes do not fit or dtypes differ; for an unknown nonlinearity.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.RNNCell(10, 20)(jnp.ones((3, 10))).shape
        (3, 20)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> jax.Array:
        functions = {"tanh": F.rnn_tanh_cell, "relu": F.rnn_relu_cell}
        if self.nonlinearity not in functions:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._run(functions[self.nonlinearity], input, hx)


class LSTMCell(RNNCellBase):
    """One step of long short-term memory; the formula is that of `fnn.functional.lstm`.

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the number of features of the hidden state.
        bias: whether there are biases.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        input: (N, I) or (I,); hx, by default 0, and the result: h and c, (N, H) or (H,) each.

    Attributes:
        weight_ih: (4 H, I); weight_hh: (4 H, H); bias_ih, bias_hh: (4 H,). Initially uniform within ±1/√H.

    Raises:
        ValueError: by forward, for another number of axes.
        RuntimeError: by forward, where shapes do not fit or dtypes differ.
        TypeError: by forward, where hx is not a tuple.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> h, c = nn.LSTMCell(10, 20)(jnp.ones((3, 10)))
        >>> h.shape, c.shape
        ((3, 20), (3, 20))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Any, hx: Any = None) -> tuple[jax.Array, jax.Array]:
        return self._run(F.lstm_cell, input, hx, states=2)


class GRUCell(RNNCellBase):
    """One step of a gated recurrent unit; the formula is that of `fnn.functional.gru`.

    Args:
        input_size, hidden_size, bias, device, dtype: as for `LSTMCell`.

    Shape:
        input: (N, I) or (I,); hx, by default 0, and the result: (N, H) or (H,).

    Attributes:
        weight_ih: (3 H, I); weight_hh: (3 H, H); bias_ih, bias_hh: (3 H,). Initially uniform within ±1/√H.

    Raises:
        ValueError: by forward, for another number of axes.
        RuntimeError: by forward, where shapes do not fit or dtypes differ.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.GRUCell(10, 20)(jnp.ones((3, 10)), jnp.zeros((3, 20))).shape
        (3, 20)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Any, hx: Any = None) -> jax.Array:
        return self._run(F.gru_cell, input, hx)
