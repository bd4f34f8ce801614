"""find_nan: the first module that made a NaN, wherever it is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import torch

import fnn
import fnn.nn as nn

X = jnp.array([1.0, -2.0])


class Log(nn.Module):
    def forward(self, x):
        return jnp.log(x)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(np.ones(2, np.float32))
        self.offset = nn.Buffer(np.zeros(2, np.float32))

    def forward(self, x):
        return x * self.weight + self.offset


def network():
    return nn.Sequential(Scale(), nn.Sequential(Scale(), Log(), nn.ReLU()), Scale())


def value_and_grad(net, transform=lambda f: f):
    return lambda x: fnn.value_and_grad(lambda net: transform(net)(x).sum())(net)


WAYS = {
    "eager": lambda net: fnn.find_nan(net),
    "of a function": lambda net: fnn.find_nan(lambda x: net(x)),
    "of a module as an argument": lambda net: lambda x: fnn.find_nan(lambda net, x: net(x))(net, x),
    "in fnn.jit": lambda net: fnn.jit(fnn.find_nan(net)),
    "in jax.jit": lambda net: jax.jit(fnn.find_nan(net)),
    "around fnn.jit": lambda net: fnn.find_nan(fnn.jit(net)),
    "around value_and_grad": lambda net: fnn.find_nan(value_and_grad(net)),
    "in value_and_grad": lambda net: (
        lambda x: fnn.value_and_grad(
            lambda net: (lambda out, report: (out.sum(), report))(*fnn.find_nan(net)(x)), has_aux=True
        )(net)[0]
    ),
    "around backward": lambda net: fnn.find_nan(lambda x: fnn.backward(lambda net: net(x).sum(), net)),
    "around checkpoint": lambda net: fnn.find_nan(fnn.checkpoint(net)),
    "around checkpoint and value_and_grad": lambda net: fnn.jit(fnn.find_nan(value_and_grad(net, fnn.checkpoint))),
    "around apply": lambda net: functools.partial(
        fnn.find_nan(fnn.pure(net).apply), *fnn.split(net)[:1], state=fnn.split(net)[1]
    ),
    "around apply, in jax.jit": lambda net: functools.partial(
        jax.jit(fnn.find_nan(fnn.pure(net).apply)), *fnn.split(net)[:1], state=fnn.split(net)[1]
    ),
    "around jax.grad of apply": lambda net: fnn.find_nan(
        lambda x: jax.grad(lambda params: fnn.pure(net).apply(params, x, state=fnn.split(net)[1])[0].sum())(fnn.split(net)[0])
    ),
    "in jax.vmap": lambda net: lambda x: jax.jit(jax.vmap(fnn.find_nan(net)))(jnp.stack([jnp.ones(2), x])),
    "with autocast": lambda net: fnn.find_nan(fnn.autocast()(lambda x: net(x))),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_module_is_found(way):
    net = network()
    report = WAYS[way](net)(X)[1]
    assert report.path == "1.1"
    assert str(report) == "1.1 (Log) made the first NaN: 1 in its output, none in its arguments."
    assert not list(net._own_hooks())


def test_the_output_and_what_is_written_are_those_of_the_function():
    net = nn.Sequential(nn.BatchNorm1d(2), Scale())
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    other = nn.Sequential(nn.BatchNorm1d(2), Scale())
    out, report = fnn.jit(fnn.find_nan(net))(x)
    np.testing.assert_array_equal(out, fnn.jit(other)(x))
    np.testing.assert_array_equal(net[0].running_mean, other[0].running_mean)
    assert net[0].num_batches_tracked.item() == 1
    assert report.path is None
    assert str(report) == "Sequential has no NaN in its output."


def test_of_a_whole_step_that_is_compiled():
    net = network()
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))

    @fnn.jit
    def step(x):
        loss, grads = fnn.value_and_grad(lambda net: net(x).sum())(net)
        optimizer.step(grads)
        return loss

    step(jnp.ones(2))
    looked = fnn.find_nan(step)
    paths = [looked(x)[1].path for x in (jnp.ones(2), X, jnp.ones(2))]
    assert paths == [None, "1.1", "2"]  # by then a weight is NaN
    compiled = step._compiled
    looked(jnp.ones(2))
    step(jnp.ones(2))
    assert step._compiled == compiled == 2


def test_the_parameter_that_has_one_is_named():
    net = network()
    net[2].offset.data = np.array([np.nan, 0])
    report = fnn.find_nan(net)(jnp.ones(2))[1]
    assert str(report) == "2 (Scale) made the first NaN: 1 in its output, none in its arguments, some in its offset."


def test_arguments_that_have_some():
    report = fnn.find_nan(network())(jnp.array([jnp.nan, 1.0]))[1]
    assert report.path is None
    assert str(report) == "no module made a NaN: the arguments of Sequential had 1, its output has 1."


def test_a_nan_made_between_modules_is_of_the_one_around_them():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Scale(), Scale()

        def forward(self, x):
            return self.second(jnp.log(self.first(x)))

    net = nn.Sequential(Block())
    assert fnn.find_nan(net)(X)[1].path == "0"
    assert fnn.find_nan(Block())(X)[1].path == ""
    assert "Block made the first NaN" in str(fnn.find_nan(Block())(X)[1])


def test_a_nan_made_outside_of_modules_is_of_the_function():
    scale = Scale()

    def loss(x):
        return jnp.log(scale(x)).sum()

    report = fnn.find_nan(loss)(X)[1]
    assert report.path == ""
    assert str(report) == "loss made the first NaN: 1 in its output, none in its arguments."


def test_a_module_called_several_times():
    net = nn.Sequential(Scale(), Log())
    report = fnn.find_nan(lambda x: net(net(x)))(jnp.array([1.0, 0.5]))[1]
    assert str(report).startswith("1 (Log), in call 2 of 2, made the first NaN: 1 in its output")


def test_a_compiled_function_called_several_times():
    net = nn.Sequential(Scale(), Log())
    function = fnn.jit(lambda x: net(x))
    report = fnn.find_nan(lambda x: function(function(x)))(jnp.array([1.0, 0.5]))[1]
    assert (report.path, report.index) == ("1", 4)


def test_infinities_count_where_asked_for():
    net, x = network(), jnp.array([1.0, 0.0])
    assert fnn.find_nan(net)(x)[1].path is None
    report = fnn.find_nan(net, infinity=True)(x)[1]
    assert str(report) == "1.1 (Log) made the first NaN or infinity: 1 in its output, none in its arguments."
    function = fnn.jit(net)
    assert [fnn.find_nan(function, infinity)(x)[1].path for infinity in (False, True, False)] == [None, "1.1", None]


def test_several_networks_and_modules_made_inside():
    first, second = network(), Scale()

    def function(x):
        return Log()(second(x)) + first(jnp.ones(2))

    report = fnn.find_nan(function)(X)[1]
    assert report.path == "Log"


@pytest.mark.parametrize("compile", [lambda f: f, fnn.jit])
def test_layers_that_would_be_scanned(compile):
    layers = nn.ModuleList(nn.Sequential(Scale()) for _ in range(3))
    layers[1][0].weight.data = np.array([np.nan, 1])

    with pytest.warns(UserWarning, match="one by one") if compile is fnn.jit else _nothing():
        report = compile(fnn.find_nan(lambda x: fnn.scan_layers(layers, x)))(X)[1]
    assert report.path == "1.0"
    assert "some in its weight" in str(report)


class _nothing:
    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.checkpoint])
def test_what_plain_transformations_hide_is_named(transform):
    net = network()
    report = fnn.find_nan(lambda x: transform(lambda x: net(x))(x))(X[None])[1]
    assert report.path == ""
    assert "not seen, inside plain transformations: 0, 1.0, 1.1, 1.2, 1, 2, Sequential" in str(report)


def test_within_another():
    net = network()
    (_, inner), outer = fnn.find_nan(lambda x: fnn.find_nan(net)(x))(X)
    assert inner.path == "1.1"
    assert outer.path == "1.1"


def test_a_report_that_is_traced_says_so():
    net = Scale()
    with pytest.raises(fnn.StateError, match="return it from the compiled function"):
        jax.jit(lambda x: fnn.find_nan(net)(x)[1].path)(X)


def test_an_error_leaves_nothing_behind():
    def fail(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fnn.find_nan(fail)(X)
    assert not fnn.nn.modules.hooks.every_module._forward_hooks
    assert not fnn.nn.modules.hooks.every_module._forward_hooks_with_kwargs


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected")
def test_gradients():
    net = nn.Sequential(*(Scale() for _ in range(12)))

    def loss(net, x):
        for layer in net[:3]:
            x = layer(x)
        x = jnp.sqrt(x)
        for layer in net[3:]:
            x = layer(x)
        return x.sum()

    x = jnp.zeros(2)
    (value, grads), report = fnn.find_nan(lambda net, x: fnn.value_and_grad(loss)(net, x))(net, x)
    assert report.path == ""  # the gradients are what the function returned
    report = fnn.find_nan(grads)
    assert report.path == "0.weight"
    assert str(report) == "0.weight has 2 NaN, the first of 3 such arrays among 12."
    assert np.isfinite(value)
    weight = torch.ones(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError, match="returned nan values"):
        (torch.zeros(2) * weight).sqrt().sum().backward()


def test_trees():
    tree = {"layers": {"10": jnp.array([jnp.nan]), "2": jnp.array([jnp.inf, 1])}, "steps": jnp.arange(3), "name": "net"}
    report = jax.jit(lambda tree: fnn.find_nan(tree))({"layers": tree["layers"]})
    assert report.path == "layers.10"
    assert fnn.find_nan(tree, infinity=True).path == "layers.2"
    assert str(fnn.find_nan(tree["steps"])) == "None of 1 arrays has a NaN."
    assert fnn.find_nan({}).path is None
