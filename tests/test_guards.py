"""What a compiled function rests on: every change that counts is seen, and no other compiles it again."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn

X = jnp.arange(6.0).reshape(2, 3) / 7 + 0.1


class Net(nn.Module):
    offset = 0.5

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.gain = 1.0
        self.scales = [1.0, {"inner": 2.0}]
        self.shift = jnp.ones(3)
        self.activation = jnp.tanh
        self.flags = {"bias"}

    def forward(self, x):
        y = self.offset + self.activation(self.linear(x)) * self.gain * self.scales[0] * self.scales[1]["inner"]
        return (y + self.shift if "bias" in self.flags else y) * (2.0 if self.training else 1.0)

    def double(self, x):
        return 2 * self.forward(x)


def traces(function):
    """The function under fnn.jit, and a list that grows with each trace."""
    seen = []

    @functools.wraps(function)
    def counted(*args, **kwargs):
        seen.append(1)
        return function(*args, **kwargs)

    return fnn.jit(counted), seen


def replace_weight(net):
    net.linear.weight = nn.Parameter(jnp.full((3, 3), 0.5))


def replace_in_registry(net):
    net._modules["linear"] = nn.Linear(3, 3)


def freeze(net):
    net.linear.weight.requires_grad = False


CHANGES = {
    "a number": lambda net: setattr(net, "gain", 3.0),
    "its type": lambda net: setattr(net, "gain", True),
    "an element of a list": lambda net: net.scales.__setitem__(0, 5.0),
    "an element of a dict in a list": lambda net: net.scales[1].update(inner=7.0),
    "a list": lambda net: setattr(net, "scales", [4.0, {"inner": 1.0}]),
    "an element of a set": lambda net: net.flags.clear(),
    "an array attribute": lambda net: setattr(net, "shift", jnp.full(3, 9.0)),
    "a function attribute": lambda net: setattr(net, "activation", jnp.sin),
    "a parameter": replace_weight,
    "a module": lambda net: setattr(net, "linear", nn.Linear(3, 3)),
    "a module in its registry": replace_in_registry,
    "a parameter to None": lambda net: setattr(net.linear, "bias", None),
    "eval()": lambda net: net.eval(),
    "eval() of a child": lambda net: net.linear.eval() and setattr(net, "gain", 2.0),
    "a forward hook": lambda net: net.linear.register_forward_hook(lambda module, args, out: 3 * out),
    "a forward pre-hook": lambda net: net.linear.register_forward_pre_hook(lambda module, args: (3 * args[0],)),
    "the dtype": lambda net: net.to(jnp.bfloat16),
    "an attribute that the class has": lambda net: setattr(net, "offset", 2.0),
    "an instance's forward": lambda net: setattr(net.linear, "forward", lambda x: 5 * x),
    "a deleted parameter": lambda net: (delattr(net.linear, "bias"), setattr(net.linear, "bias", None)),
}


@pytest.mark.parametrize("method", ["__call__", "double"])
@pytest.mark.parametrize("way", ["argument", "closure", "container"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change, way, method):
    net = Net()
    x = X.astype(jnp.bfloat16) if change == "the dtype" else X
    by_argument, _ = traces(lambda net, x: getattr(net, method)(x))
    by_closure, _ = traces(lambda x: getattr(net, method)(x))
    in_container, _ = traces(lambda things: getattr(things["nets"][0], method)(things["x"]))
    function = {
        "argument": lambda: by_argument(net, x),
        "closure": lambda: by_closure(x),
        "container": lambda: in_container({"nets": [net], "x": x}),
    }[way]
    if change != "the dtype":
        np.testing.assert_allclose(function(), getattr(net, method)(x), rtol=1e-5)
    CHANGES[change](net)
    rtol = 0.1 if change == "the dtype" else 1e-5
    np.testing.assert_allclose(np.asarray(function(), np.float32), np.asarray(getattr(net, method)(x), np.float32), rtol=rtol)


def test_requires_grad_is_seen():
    net = Net()
    function, _ = traces(lambda net: fnn.grad(lambda net: net(X).sum())(net))
    assert set(function(net)["linear"]) == {"weight", "bias"}
    net.linear.weight.requires_grad = False
    assert set(function(net)["linear"]) == {"bias"}
    net.linear.weight.requires_grad_()
    assert set(function(net)["linear"]) == {"weight", "bias"}


def test_an_attribute_that_becomes_none():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.activation = types.SimpleNamespace(scale=10.0)

        def forward(self, x):
            return x if self.activation is None else x * self.activation.scale

    net = Net()
    function, _ = traces(lambda net, x: net(x))
    np.testing.assert_allclose(function(net, X), 10 * X)
    net.activation.scale = 5.0
    np.testing.assert_allclose(function(net, X), 5 * X)
    net.activation = None
    np.testing.assert_allclose(function(net, X), X)


def test_a_flag_that_forward_sets_counts():
    class Initialising(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(jnp.zeros(3))
            self.initialized = False

        def forward(self, x):
            if not self.initialized:
                self.bias.data = -x.mean(0)
                self.initialized = True
            return x + self.bias

    compiled, eager = Initialising(), Initialising()
    function, seen = traces(lambda x: compiled(x))
    for scale in (1, 5, 7):
        np.testing.assert_allclose(function(scale * X), eager(scale * X), rtol=1e-5, atol=1e-6)
    assert len(seen) == 2


NO_CHANGES = {
    "a new attribute": lambda net, i: setattr(net, "epoch", i),
    "an attribute of another module": lambda net, i: setattr(nn.Linear(1, 1), "note", i),
    "another module": lambda net, i: nn.Linear(3, 3),
    "the same value again": lambda net, i: setattr(net, "gain", float(1)),
    "train() again": lambda net, i: net.train(),
    "a hook that is taken away": lambda net, i: net.register_forward_hook(print).remove(),
    "an equal list": lambda net, i: setattr(net, "scales", [1.0, {"inner": 2.0}]),
    "new values": lambda net, i: net.linear.weight.data.fill_(i),
    "requires_grad and back": lambda net, i: net.linear.weight.requires_grad_(False).requires_grad_(True),
}


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_does_not_count_compiles_nothing_again(change):
    net = Net()
    function, seen = traces(lambda net, x: net(x))
    for i in range(10):
        function(net, X)
        NO_CHANGES[change](net, i)
    assert len(seen) == 1


def test_an_attribute_that_forward_assigns_does_not_count():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            self.calls += 1
            return self.linear(x)

    net = Counting()
    function, seen = traces(lambda net, x: net(x))
    for _ in range(20):
        function(net, X)
    assert len(seen) == net.calls == 1


def test_an_attribute_that_is_not_there_and_asked_for_counts():
    class Asking(nn.Module):
        def forward(self, x):
            return x * getattr(self, "gain", 1.0) * (2.0 if hasattr(self, "child") else 1.0)

    net = Asking()
    function, seen = traces(lambda net, x: net(x))
    np.testing.assert_allclose(function(net, X), X)
    net.gain = 3.0
    np.testing.assert_allclose(function(net, X), 3 * X)
    net.child = nn.ReLU()
    np.testing.assert_allclose(function(net, X), 6 * X)
    function(net, X)
    assert len(seen) == 3


def test_both_modes_stay_compiled():
    net = Net()
    function, seen = traces(lambda net, x: net(x))
    for _ in range(5):
        np.testing.assert_allclose(function(net.train(), X), net(X), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(function(net.eval(), X), net(X), rtol=1e-5, atol=1e-6)
    assert len(seen) == 2


def test_input_shapes_that_take_different_branches():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Linear(3, 3), nn.Linear(3, 3)
            self.register_buffer("calls", jnp.zeros(()))
            self.gain = 1.0

        def forward(self, x):
            if len(x) > 1:
                return self.wide(x)
            self.calls += 1
            return self.narrow(x) * self.gain

    net = Branching()
    function, seen = traces(lambda x: net(x))
    for x in (X, X[:1], X, X[:1]):
        np.testing.assert_allclose(function(x), (net.wide if len(x) > 1 else net.narrow)(x), rtol=1e-5, atol=1e-6)
    assert net.calls.item() == 2
    net.narrow.weight.data.fill_(1.0)
    np.testing.assert_allclose(function(X[:1]), net.narrow(X[:1]), rtol=1e-5, atol=1e-6)
    assert len(seen) == 2
    net.gain = 2.0
    np.testing.assert_allclose(function(X[:1]), 2 * net.narrow(X[:1]), rtol=1e-5, atol=1e-6)


def test_module_list_that_grows():
    net = nn.ModuleList([nn.Linear(3, 3)])

    def run(x):
        for layer in net:
            x = layer(x)
        return x

    function, _ = traces(run)
    function(X)
    net.append(nn.Linear(3, 3))
    np.testing.assert_allclose(function(X), run(X), rtol=1e-5, atol=1e-6)
    del net[0]
    np.testing.assert_allclose(function(X), run(X), rtol=1e-5, atol=1e-6)


model = None


def test_a_global_name_that_stands_for_another_model():
    global model
    model = nn.Linear(3, 3)
    function, _ = traces(lambda x: model(x))
    np.testing.assert_allclose(function(X), model(X), rtol=1e-5, atol=1e-6)
    model = nn.Linear(3, 3)
    np.testing.assert_allclose(function(X), model(X), rtol=1e-5, atol=1e-6)


def helper(x):
    return model(x)


def test_a_global_name_that_a_helper_reads():
    global model
    model = nn.Linear(3, 3)
    function, _ = traces(lambda x: helper(x))
    function(X)
    model = nn.Linear(3, 3)
    np.testing.assert_allclose(function(X), model(X), rtol=1e-5, atol=1e-6)


def test_a_closure_variable_that_stands_for_another_model():
    net = nn.Linear(3, 3)
    function, _ = traces(lambda x: net(x))
    function(X)
    net = nn.Linear(3, 3)
    np.testing.assert_allclose(function(X), net(X), rtol=1e-5, atol=1e-6)


def test_a_name_that_first_stands_for_nothing():
    global model
    model = None
    function, _ = traces(lambda x: x if model is None else model(x))
    np.testing.assert_allclose(function(X), X)
    for model in (nn.Linear(3, 3), None):
        np.testing.assert_allclose(function(X), X if model is None else model(X), rtol=1e-5, atol=1e-6)


def test_a_trainer_with_models_deep_in_it():
    class Trainer:
        def __init__(self):
            self.nets = {"parts": [nn.Linear(3, 3)]}

        def run(self, x):
            return self.nets["parts"][0](x)

    trainer = Trainer()
    functions = [
        fnn.jit(trainer.run),
        fnn.jit(lambda x: trainer.run(x)),
        functools.partial(fnn.jit(Trainer.run, static_argnums=0), trainer),
    ]
    for _ in range(2):
        for function in functions:
            np.testing.assert_allclose(function(X), trainer.run(X), rtol=1e-5, atol=1e-6)
        trainer.nets["parts"][0] = nn.Linear(3, 3)


@pytest.mark.parametrize("place", ["list", "dict", "object", "method"])
def test_a_container_in_the_closure_that_holds_another_model(place):
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    things = {
        "list": [first],
        "dict": {"net": first},
        "object": types.SimpleNamespace(net=first),
        "method": types.SimpleNamespace(net=first),
    }[place]

    def run(self, x):
        net = self[0] if place == "list" else self["net"] if place == "dict" else self.net
        return net(x)

    function = fnn.jit(types.MethodType(run, things)) if place == "method" else fnn.jit(lambda x: run(things, x))
    np.testing.assert_allclose(function(X), first(X), rtol=1e-5, atol=1e-6)
    if place == "list":
        things[0] = second
    elif place == "dict":
        things["net"] = second
    else:
        things.net = second
    np.testing.assert_allclose(function(X), second(X), rtol=1e-5, atol=1e-6)


def test_functions_of_every_kind():
    net = nn.Linear(3, 3)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        @fnn.jit
        def forward(self, x):
            return self.net(x)

    compiled = [
        fnn.jit(net),
        fnn.jit(functools.partial(lambda net, x: net(x), net)),
        fnn.jit(functools.partial(lambda x, net: net(x), net=net)),
        fnn.jit(net.forward),
        Model(),
        fnn.jit(Model()),
    ]
    for _ in range(2):
        for function in compiled:
            np.testing.assert_allclose(function(X), net(X), rtol=1e-5, atol=1e-6)
        net.weight.data.fill_(0.25)


def test_the_eighth_time_warns_and_names_what_changed():
    net = Net()
    function, seen = traces(lambda net, x: net(x))
    for i in range(7):
        net.gain = float(i)
        function(net, X)
    net.gain = 7.0
    with pytest.warns(UserWarning, match=r"8th time.*Net\.gain"):
        function(net, X)
    assert len(seen) == 8


def test_changes_in_an_inner_compiled_function_are_seen_outside():
    net = Net()
    inner = fnn.jit(lambda x: net(x))
    outer, _ = traces(lambda x: inner(x))
    for change in ("a number", "eval()", "a module", "an element of a list"):
        outer(X)
        CHANGES[change](net)
        np.testing.assert_allclose(outer(X), net(X), rtol=1e-5, atol=1e-6)


def test_a_layer_that_forward_builds_is_trained_afterwards():
    class Building(nn.Module):
        def forward(self, x):
            if not hasattr(self, "linear"):
                self.linear = nn.Linear(3, 3)
            return self.linear(x)

    net = Building()
    function, _ = traces(lambda net, x: net(x))
    function(net, X)
    for value in (0.5, 0.25):
        net.linear.weight.data.fill_(value)
        np.testing.assert_allclose(function(net, X), net(X), rtol=1e-5, atol=1e-6)


def test_static_arguments():
    net = nn.Linear(3, 3)
    function = fnn.jit(
        lambda net, x, double, *, mode: net(x) * (2 if double else 1) * len(mode), static_argnums=2, static_argnames="mode"
    )
    np.testing.assert_allclose(function(net, X, True, mode="abc"), 6 * net(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(function(net, X, False, mode="a"), net(X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="hashable"):
        function(net, X, [1], mode="a")


def test_side_effects_happen_once_a_trace():
    net, calls = nn.Linear(3, 3), []
    by_argument = fnn.jit(lambda net, x: (calls.append("argument"), net(x))[1])
    by_closure = fnn.jit(lambda x: (calls.append("closure"), net(x))[1])
    for _ in range(3):
        by_argument(net, X)
        by_closure(X)
    assert calls == ["argument", "closure"]


def test_lower_and_clear_cache():
    net = nn.Linear(3, 3)
    function, seen = traces(lambda net, x: net(x))
    assert "stablehlo" in function.lower(net, X).as_text() or "func.func" in function.lower(net, X).as_text()
    function(net, X)
    assert len(seen) == 1
    function.clear_cache()
    np.testing.assert_allclose(function(net, X), net(X), rtol=1e-5, atol=1e-6)
    assert len(seen) == 2


def test_a_module_is_refused_by_plain_jax():
    with pytest.raises(TypeError, match=r"not a valid JAX type|abstract array|JAX type"):
        jax.jit(lambda net, x: net(x))(nn.Linear(3, 3), X)


def test_a_module_as_a_result_is_refused():
    with pytest.raises(TypeError, match="returned a Linear"):
        fnn.jit(lambda net: net)(nn.Linear(3, 3))


@pytest.mark.parametrize("way", ["attribute", "training", "attribute of a child", "training of a child in a list"])
def test_a_module_by_closure_of_which_only_an_attribute_is_read(way):
    net = nn.Module()
    net.child = nn.ModuleList([nn.Linear(3, 3)])
    net.gain = net.child.gain = 2.0

    def run(x):
        if way == "attribute":
            return x * net.gain
        if way == "attribute of a child":
            return x * net.child.gain
        return x if (net if way == "training" else net.child[0]).training else -x

    function = fnn.jit(run)
    np.testing.assert_allclose(function(X), run(X))
    net.gain = net.child.gain = 3.0
    net.eval()
    np.testing.assert_allclose(function(X), run(X))
