"""What hooks keep while JAX traces: usable in the trace, arrays after eager gradients, refused after compiled functions."""

import copy
import functools
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, normal

import fnn
from fnn.leaks import Ended

W, X = normal(3, 2), normal(4, 2)


def linear():
    layer = fnn.nn.Linear(2, 3)
    layer.load_state_dict({"weight": W, "bias": W[:, 0]})
    return layer


KEPT = {}


class Keeper:
    def __init__(self):
        self.out, self.outs = None, []

    def __call__(self, module, args, out):
        self.outs.append({"deep": (out,)})

    def method(self, module, args, out):
        self.out = out


def leaks():
    items, table, keeper, last = [], {}, Keeper(), None

    def variable(module, args, out):
        nonlocal last
        last = out

    def in_global(module, args, out):
        KEPT["out"] = out

    def into(items, module, args, out):
        items.append(out)

    return {
        "list": (lambda m, args, out: items.append(out), lambda: items),
        "dict": (lambda m, args, out: table.update(y=[out]), lambda: table.get("y", [])),
        "object": (keeper, lambda: keeper.outs),
        "method": (keeper.method, lambda: getattr(keeper, "out", None)),
        "variable": (variable, lambda: last),
        "global": (in_global, lambda: KEPT),
        "partial": (functools.partial(into, items), lambda: items),
    }


def held(kept):
    return jax.tree.leaves(kept(), is_leaf=lambda value: isinstance(value, Ended))


@pytest.mark.parametrize("kind", list(leaks()))
def test_what_a_hook_keeps_of_a_compiled_function_ends_with_the_trace(kind):
    hook, kept = leaks()[kind]
    net, x = linear(), jnp.asarray(X)
    expected = net(x)
    handle = net.register_forward_hook(hook)
    for _ in range(2):
        assert_close(fnn.jit(lambda x: net(x) * (held(kept)[-1] * 0 + 1))(x), expected)  # in the trace it is there
        values = held(kept)
        assert all(isinstance(value, Ended) for value in values)
        value = values[0]
        uses = (lambda: value + 1, lambda: value.sum(), lambda: jnp.sin(value), lambda: np.asarray(value), lambda: 2.0 * value)  # noqa: B023
        for use in uses:
            with pytest.raises(fnn.StateError, match=r"fnn\.capture"):
                use()
        assert "fnn.capture" in repr(value)
        copy.deepcopy(value)
    handle.remove()
    assert_close(fnn.jit(net)(x), expected)


def test_a_loss_of_features_that_hooks_keep():
    """A perceptual loss: hooks put features into a dict, and the loss uses them."""
    net, features, x = fnn.nn.Sequential(linear(), fnn.nn.ReLU()), {}, jnp.asarray(X)
    net[0].register_forward_hook(lambda module, args, out: features.update(first=out))

    def loss(net):
        return net(x).sum() + (features["first"] ** 2).sum()

    compiled = fnn.jit(lambda net: fnn.value_and_grad(loss)(net))
    eager, grads = fnn.value_and_grad(loss)(net)
    assert_close(features["first"], net[0](x))
    for _ in range(2):
        value, got = compiled(net)
        assert_close(value, eager)
        jax.tree.map(assert_close, got, grads)


@pytest.mark.parametrize("kind", list(leaks()))
def test_what_a_hook_keeps_of_an_eager_training_step_are_arrays(kind):
    hook, kept = leaks()[kind]
    net, x = linear(), jnp.asarray(X)
    expected = net(x)
    with net.register_forward_hook(hook):
        fnn.backward(lambda net: (net(x) ** 2).sum(), net)
        fnn.grad(lambda x: fnn.value_and_grad(lambda net: (net(x) ** 2).sum())(net)[0])(x)
    arrays = jax.tree.leaves(kept())
    assert len(arrays) == (2 if kind in ("list", "object", "partial") else 1)
    for array in arrays:
        assert_close(array, expected)


def test_a_hook_may_keep_arrays_of_eager_calls_and_python_values_of_traces():
    net, x, outs, shapes = linear(), jnp.asarray(X), [], []
    with net.register_forward_hook(lambda m, args, out: outs.append(out)):
        net(x)
    assert_close(outs[0], net(x))
    net.register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    fnn.jit(net)(x)
    grads = []
    net.register_full_backward_hook(lambda m, gi, go: grads.append(go[0]))
    fnn.grad(lambda x: net(x).sum())(x)  # gradients are values where nothing is compiled
    assert shapes == [(4, 3)] * 2
    assert_close(grads[0], np.ones((4, 3)))


def test_capture_gives_what_a_hook_would_keep():
    net, x = fnn.nn.Sequential(linear(), fnn.nn.ReLU()), jnp.asarray(X)
    expected = net[0](x)

    @fnn.jit
    def step(net, x):
        def loss(net):
            out, values = fnn.capture(net, ["0"])(x)
            return (out**2).sum(), values

        return fnn.value_and_grad(loss, has_aux=True)(net)

    (_, values), _ = step(net, x)
    assert_close(values["0"], expected)


class Places:
    """Where else a hook can keep a value."""

    __slots__ = ("here",)
    table = []

    def __call__(self, module, args, out):
        self.here = out
        self.table.append(out)


def last_of(module, args, out):
    last_of.value = out


def through_a_helper(module, args, out):
    put_away(out)


def put_away(out):
    KEPT["helper"] = out


@pytest.mark.parametrize("name", ["slots and class", "function", "helper", "deque", "set", "module"])
def test_other_places_where_hooks_keep_values(name):
    places, values, members = Places(), deque(), set()
    keeper = fnn.nn.Module()
    keeper.values = []
    Places.table.clear()
    hook, kept = {
        "slots and class": (places, lambda: [places.here, *Places.table]),
        "function": (last_of, lambda: [last_of.value]),
        "helper": (through_a_helper, lambda: [KEPT["helper"]]),
        "deque": (lambda m, args, out: values.append(out), lambda: list(values)),
        "set": (lambda m, args, out: members.add(Box(out)), lambda: [box.value for box in members]),
        "module": (lambda m, args, out: keeper.values.append(out), lambda: keeper.values),
    }[name]
    net, x = linear(), jnp.asarray(X)
    net.register_forward_hook(hook)
    fnn.jit(net)(x)
    fnn.summary(net, (4, 2))
    jax.jit(fnn.pure(net).apply)(fnn.split(net)[0], x)
    assert kept()
    assert all(isinstance(value, Ended) for value in kept())
    fnn.grad(lambda net: fnn.checkpoint(net)(x).sum())(net)
    arrays = [value for value in kept() if not isinstance(value, Ended)]
    assert arrays
    for array in arrays:
        assert_close(array, net(x))


class Box:
    def __init__(self, value):
        self.value = value
