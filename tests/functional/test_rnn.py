"""Recurrent functions agree with torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, normal, tensor, torch

import fnn.functional as F
from fnn.nn.utils.rnn import pack_padded_sequence

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
PLATFORMS = ["cpu", "cuda", "tpu"]


def parameters(name, layers=1, directions=1, biases=True, size=3, hidden=4, projected=0):
    """Random parameters in torch's order."""
    rows, out, shapes = GATES[name] * hidden, projected or hidden, []
    for layer in range(layers):
        into = out * directions if layer else size
        one = [(rows, into), (rows, out), *[(rows,)] * (2 * biases), *[(projected, hidden)] * bool(projected)]
        shapes += one * directions
    return [normal(*shape) * np.float32(0.5) for shape in shapes]


def states(name, *batch, hidden=4, projected=0):
    sizes = [projected or hidden, hidden] if name == "lstm" else [hidden]
    return [normal(*batch, size) for size in sizes]


def called(module, name, lead, count, *options):
    """A function of arrays alone: those before the state, the states, and the parameters."""

    def call(*operands):
        first, hx, params = operands[:lead], operands[lead : lead + count], operands[lead + count :]
        return getattr(module, name)(*first, tuple(hx) if count == 2 else hx[0], list(params), *options)

    return call


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "directions", "biases"), [(1, 1, True), (2, 2, False)])
@pytest.mark.parametrize("name", GATES)
def test_padded(name, layers, directions, biases, batch_first):
    hx = states(name, layers * directions, 2)
    params = parameters(name, layers, directions, biases)
    options = (biases, layers, 0.0, True, directions == 2, batch_first)
    x = normal(2, 5, 3) if batch_first else normal(5, 2, 3)
    ours, theirs = (called(module, name, 1, len(hx), *options) for module in (F, torch))
    assert_agree(ours, theirs, x, *hx, *params, tolerance=1e-4)


@pytest.mark.parametrize("name", GATES)
def test_packed(name):
    hx, params = states(name, 2, 3), parameters(name, 1, 2)
    data, sizes = normal(8, 3), np.array([3, 2, 2, 1])
    options = (True, 1, 0.0, False, True)

    def run(module):
        call = called(module, name, 2, len(hx), *options)
        given = torch.tensor(sizes) if module is torch else jnp.asarray(sizes)
        return lambda data, *others: call(data, given, *others)

    assert_agree(run(F), run(torch), data, *hx, *params, tolerance=1e-4)


def test_a_projected_lstm():
    hx, params = states("lstm", 4, 2, projected=2), parameters("lstm", 2, 2, projected=2)
    ours, theirs = (called(module, "lstm", 1, 2, True, 2, 0.0, False, True, False) for module in (F, torch))
    assert_agree(ours, theirs, normal(5, 2, 3), *hx, *params, tolerance=1e-4)


@pytest.mark.parametrize("biases", [(0, 1), (0,), (1,), ()], ids=str)
@pytest.mark.parametrize("name", GATES)
def test_cells(name, biases):
    hx, (w_ih, w_hh, *both) = states(name, 2), parameters(name)

    def run(module):
        def call(x, w_ih, w_hh, *others):
            hx = others[: len(others) - len(biases)]
            given = dict(zip([("b_ih", "b_hh")[i] for i in biases], others[len(hx) :], strict=True))
            return getattr(module, f"{name}_cell")(x, hx if len(hx) == 2 else hx[0], w_ih, w_hh, **given)

        return call

    assert_agree(run(F), run(torch), normal(2, 3), w_ih, w_hh, *hx, *(both[i] for i in biases), tolerance=1e-4)


def test_relu_has_torchs_derivative_at_its_kink():
    x, h, w = np.array([[1.0], [0.0]], np.float32), np.array([[-1.0], [0.0]], np.float32), np.ones((1, 1), np.float32)
    assert_agree(F.rnn_relu_cell, torch.rnn_relu_cell, x, h, w, w)


# What is refused


def assert_refused(name, change, *words):
    """Asserts that a changed call of a function raises what torch raises, with some words in the message."""

    def call(module, array):
        hx = [array(h) for h in states(name, 1, 2)]
        given = {
            "input": array(normal(5, 2, 3)),
            "hx": tuple(hx) if name == "lstm" else hx[0],
            "params": [array(p) for p in parameters(name)],
            "has_biases": True,
            "num_layers": 1,
            "bidirectional": False,
        }
        given |= change(array)
        options = given["has_biases"], given["num_layers"], 0.0, False, given["bidirectional"], False
        return getattr(module, name)(given["input"], given["hx"], given["params"], *options)

    with pytest.raises(Exception) as expected:  # noqa: PT011
        call(torch, tensor)
    with pytest.raises(expected.type) as raised:
        call(F, jnp.asarray)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_refuses(name):
    assert_refused(name, lambda _: {"num_layers": 2}, "")
    assert_refused(name, lambda _: {"bidirectional": True}, "")
    assert_refused(name, lambda array: {"params": [array(p) for p in parameters(name)[:3]]}, "incorrect number", "3")
    assert_refused(name, lambda array: {"input": array(normal(0, 2, 3))}, "larger than 0")
    rows = GATES[name] * 4
    if name != "lstm":  # torch reads past the end
        assert_refused(name, lambda array: {"input": array(normal(5, 2, 2))}, "weight_ih_l0", f"({rows}, 2)", f"[{rows}, 3]")


@pytest.mark.parametrize("name", ["gru", "rnn_tanh"])
def test_refuses_states(name):
    assert_refused(name, lambda array: {"hx": array(normal(1, 3, 4))}, "(1, 2, 4)", "[1, 3, 4]")
    assert_refused(name, lambda array: {"hx": array(normal(1, 2, 5))}, "(1, 2, 4)", "[1, 2, 5]")
    assert_refused(name, lambda array: {"hx": array(normal(1, 2, 4).astype(np.float16))}, "dtype", "float16")
    assert_refused(name, lambda array: {"hx": (array(normal(1, 2, 4)),)}, "tuple")


def test_lstm_refuses_states():
    assert_refused("lstm", lambda array: {"hx": (array(normal(1, 2, 4)),)}, "two hidden states")
    assert_refused("lstm", lambda array: {"hx": array(normal(1, 2, 4))}, "tuple")


def test_refuses_batch_sizes_that_cannot_be():
    hx, params = normal(1, 3, 4), parameters("gru")
    for sizes in ([2, 2], [3, 2, 3], [3, 3, 3], [[3, 2]], [3.0]):
        with pytest.raises(RuntimeError, match="batch_sizes"):  # torch crashes
            F.gru(normal(5, 3), jnp.asarray(sizes), hx, params, True, 1, 0.0, False, False)


@pytest.mark.parametrize("name", GATES)
def test_cells_refuse(name):
    cell = getattr(F, f"{name}_cell")
    hx, (w_ih, w_hh, b_ih, b_hh) = states(name, 2), parameters(name)
    hx, x = tuple(hx) if name == "lstm" else hx[0], normal(2, 3)
    rows = str(GATES[name] * 4)
    for arguments, words in (
        ((x, hx, w_ih[1:], w_hh), ["w_ih", rows]),
        ((x, hx, w_ih, w_hh, b_ih[1:], b_hh), ["b_ih", rows]),
        ((x[0], hx, w_ih, w_hh), ["2D", "[3]"]),
        ((x.astype(np.float16), hx, w_ih, w_hh), ["dtype", "float16"]),
    ):
        with pytest.raises(RuntimeError) as raised:
            cell(*arguments)
        assert all(word in str(raised.value) for word in words)


# Transformations


def test_derivatives_of_traced_lengths_in_every_mode():
    name = "lstm"
    with jax.enable_x64(True):
        hx, params = states(name, 2, 3), parameters(name, 1, 2)
        floats = [x.astype(np.float64) for x in (normal(4, 3, 3), *hx, *params)]
        tangents = [normal(*x.shape).astype(np.float64) for x in floats]
        call = called(F, name, 2, len(hx), True, 1, 0.0, False, True)

        def outputs(lengths, floats):
            packed = pack_padded_sequence(floats[0], lengths)
            return call(packed.data, packed.batch_sizes, *floats[1:])

        def loss(lengths, floats):
            return sum(jnp.sin(y + 0.3).sum() for y in outputs(lengths, floats))

        def dot(some, others):
            return sum(jnp.vdot(a, b) for a, b in zip(some, others, strict=True))

        @jax.jit
        def run(lengths, floats, tangents):
            slope, change = jax.jvp(lambda f: jax.value_and_grad(lambda f: loss(lengths, f))(f), (floats,), (tangents,))
            gradient = jax.grad(lambda f: loss(lengths, f))
            back = jax.grad(lambda f: dot(gradient(f), tangents))(floats)
            return slope[1], change, back

        lengths, step = jnp.array([4, 2, 1]), 1e-6
        gradient, (change, forward), back = run(lengths, floats, tangents)
        ends = [loss(lengths, [x + side * v for x, v in zip(floats, tangents, strict=True)]) for side in (step, -step)]
        np.testing.assert_allclose(change, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
        np.testing.assert_allclose(dot(gradient, tangents), change, rtol=1e-9)
        for one, other in zip(forward, back, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_gradient_with_traced_lengths_exports_for_every_platform(name):
    hx, params = states(name, 2, 3), parameters(name, 1, 2)
    call = called(F, name, 2, len(hx), True, 1, 0.0, False, True)

    def loss(floats, lengths):
        packed = pack_padded_sequence(floats[0], lengths, enforce_sorted=False)
        return sum(jnp.sin(y).sum() for y in call(packed.data, packed.batch_sizes, *floats[1:]))

    floats = [normal(4, 3, 3), *hx, *params]
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=PLATFORMS)(floats, jnp.array([2, 4, 1]))
    assert [x.shape for x in exported.out_avals] == [x.shape for x in floats]


def test_eager_calls_are_compiled_once():
    hx, params = states("gru", 1, 2), parameters("gru")
    compiled = []
    count = lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    arguments = jax.tree.map(jnp.asarray, (normal(5, 2, 3), hx[0], params))
    F.gru(*arguments, True, 1, 0.0, False, False, False)
    jax.monitoring.register_event_duration_secs_listener(count)
    F.gru(*arguments, True, 1, 0.0, False, False, False)
    assert not compiled
