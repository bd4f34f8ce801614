"""Hooks of calls and gradients: the same calls on torch and on fnn show and change the same."""

import copy
import functools
import gc
import itertools
import pickle
import warnings
import weakref
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import assert_close, normal

import fnn

W, X = normal(3, 2), normal(4, 2)


class Torch:
    nn, where = torch.nn, torch.nn.modules.module

    @staticmethod
    def array(value):
        return torch.tensor(value)

    @staticmethod
    def gradients(net, *xs, loss=lambda out: out.sum(), **kwargs):
        """Of a loss of the output, in the parameters and the inputs that are floating point."""
        xs = [torch.tensor(x, requires_grad=x.dtype == np.float32) for x in xs]
        kwargs = {name: torch.tensor(x, requires_grad=True) for name, x in kwargs.items()}
        net.zero_grad()
        loss(net(*xs, **kwargs)).backward()
        return [None if v.grad is None else v.grad.numpy() for v in (*net.parameters(), *xs, *kwargs.values())]


class Fnn:
    nn, where = fnn.nn, fnn.nn.modules.module

    array = staticmethod(jnp.asarray)

    @staticmethod
    def gradients(net, *xs, loss=lambda out: out.sum(), **kwargs):
        xs = [jnp.asarray(x) for x in xs]
        places = [i for i, x in enumerate(xs) if x.dtype == jnp.float32]

        def run(net, given, kwargs):
            args = list(xs)
            for i, x in zip(places, given, strict=True):
                args[i] = x
            return loss(net(*args, **kwargs))

        of_net, of_xs, of_kwargs = fnn.grad(run, argnums=(0, 1, 2))(net, [xs[i] for i in places], kwargs)
        found = dict(zip(places, of_xs, strict=True))
        by_name = [functools.reduce(dict.__getitem__, name.split("."), of_net) for name, _ in net.named_parameters()]
        return by_name + [found.get(i) for i in range(len(xs))] + list(of_kwargs.values())


SIDES = (Torch, Fnn)


def linear(side):
    layer = side.nn.Linear(2, 3)
    layer.load_state_dict({"weight": side.array(W), "bias": side.array(W[:, 0])})
    return layer


def shown(value):
    """What a hook saw, in numpy, so that both can be compared."""
    if isinstance(value, (tuple, list)):
        return tuple(map(shown, value))
    if isinstance(value, dict):
        return {name: shown(item) for name, item in value.items()}
    return (
        value if value is None or isinstance(value, (str, bool, int)) else np.asarray(getattr(value, "detach", lambda: value)())
    )


def assert_same(scenario):
    """Runs a scenario, which returns anything, on both sides."""
    expected, got = (shown(scenario(side)) for side in SIDES)
    assert jax.tree.structure(expected) == jax.tree.structure(got), (expected, got)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(a, b) if isinstance(b, np.ndarray) else _assert_equal(a, b)
    return expected


def _assert_equal(a, b):
    assert a == b


def test_forward_hooks_see_and_change_arguments_and_results():
    def scenario(side):
        layer, seen = linear(side), []
        layer.register_forward_pre_hook(lambda m, args: seen.append(("pre", args)))
        layer.register_forward_pre_hook(lambda m, args: args[0] * 2)
        layer.register_forward_pre_hook(lambda m, args, kwargs: (args, kwargs | {}), with_kwargs=True, prepend=True)
        layer.register_forward_hook(lambda m, args, out: seen.append(("post", args, out)))
        layer.register_forward_hook(lambda m, args, kwargs, out: out + 1, with_kwargs=True)
        layer.register_forward_hook(lambda m, args, out: seen.append("first"), prepend=True)
        return layer(side.array(X)), seen

    assert_same(scenario)


def test_hooks_with_always_call_run_where_forward_raises_and_cannot_hide_it():
    def scenario(side):
        class Bad(side.nn.Module):
            def forward(self, x):
                raise ValueError("forward")

        layer, seen = Bad(), []
        layer.register_forward_hook(lambda m, args, out: seen.append("not called"))
        layer.register_forward_hook(lambda m, args, kwargs, out: seen.append(out), with_kwargs=True, always_call=True)
        layer.register_forward_hook(lambda m, args, out: 1 / 0, always_call=True)
        with (
            side.where.register_module_forward_hook(lambda m, args, out: seen.append("global"), always_call=True),
            pytest.warns(UserWarning, match="silenced as another error"),
            pytest.raises(ValueError, match="forward"),
        ):
            layer(side.array(X))
        return seen

    assert_same(scenario)


def test_a_pre_hook_with_kwargs_returns_a_pair():
    for side in SIDES:
        layer = linear(side)
        layer.register_forward_pre_hook(lambda m, args, kwargs: args[0], with_kwargs=True)
        with pytest.raises(RuntimeError, match="must return None or a tuple"):
            layer(side.array(X))


def test_backward_hooks_see_gradients_in_torchs_order():
    def scenario(side):
        net = side.nn.Sequential(linear(side), side.nn.Tanh())
        seen = []
        for name, module in (("net", net), ("0", net[0]), ("1", net[1])):
            module.register_full_backward_pre_hook(lambda m, go, name=name: seen.append((name, "pre", go)))
            module.register_full_backward_hook(lambda m, gi, go, name=name: seen.append((name, gi, go)))
        net[0].register_full_backward_hook(lambda m, gi, go: seen.append("first"), prepend=True)
        return side.gradients(net, X), seen

    expected = assert_same(scenario)
    assert [item[0] for item in expected[1]][:2] == ["net", "1"]


@pytest.mark.parametrize(
    "change",
    [
        lambda gi: (gi[0] * 3,),
        lambda gi: [gi[0] + 1],
        lambda gi: (None,),
    ],
)
def test_a_backward_hook_replaces_the_gradient_of_the_input(change):
    def scenario(side):
        net = side.nn.Sequential(linear(side), side.nn.Tanh())
        net[1].register_full_backward_hook(lambda m, gi, go: change(gi))
        return [np.zeros(1) if g is None or not np.any(np.asarray(g)) else g for g in side.gradients(net, X)]

    assert_same(scenario)


def test_a_backward_pre_hook_replaces_the_gradient_of_the_output():
    def scenario(side):
        layer = linear(side)
        layer.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
        layer.register_full_backward_pre_hook(lambda m, go: [go[0] + 1])
        return side.gradients(layer, X)

    assert_same(scenario)


def test_backward_hooks_of_a_module_with_several_inputs_and_outputs():
    def scenario(side):
        class Several(side.nn.Module):
            def forward(self, x, n, flag, y):
                return x * y, n, x.sum()

        layer, seen = Several(), []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi[0], gi[2:], go)))  # torch has zeros for integers
        grads = side.gradients(_wrapped(side, layer), X, np.arange(2), X[:, :1], loss=lambda out: (out[0] ** 2).sum())
        return grads, seen

    assert_same(scenario)


def _wrapped(side, layer):
    class Outer(side.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def forward(self, x, n, y):
            return self.inner(x, n, True, y)

    return Outer()


def _constant_input(side, layer):
    class Outer(side.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def forward(self):
            return self.inner(side.array(X))

    return Outer()


def test_a_backward_hook_fires_where_no_input_needs_a_gradient():
    def scenario(side):
        layer, seen = linear(side), []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
        with pytest.warns(UserWarning, match="no inputs require gradients"):
            grads = side.gradients(_constant_input(side, layer))
        return grads, seen

    assert_same(scenario)


def test_gradients_of_keyword_arguments_are_not_shown():
    def scenario(side):
        layer, seen = linear(side), []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return side.gradients(layer, input=X), seen

    assert_same(scenario)


@pytest.mark.parametrize("result", [lambda gi: (gi[0], gi[0]), lambda gi: (gi[0][:1],), lambda gi: ()])
def test_a_backward_hook_that_returns_something_else_is_refused(result):
    for side in SIDES:
        layer = linear(side)
        layer.register_full_backward_hook(lambda m, gi, go: result(gi))
        with pytest.raises(RuntimeError, match=r"invalid number of grad_input|changed the size"):
            side.gradients(layer, X)


def test_a_module_that_returns_a_dict_warns_that_its_backward_hooks_do_not_run():
    for side in SIDES:

        class Dict(side.nn.Module):
            def forward(self, x):
                return {"y": x * 2}

        layer, seen = Dict(), []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append(go))  # noqa: B023
        with pytest.warns(UserWarning, match="For backward hooks to be called"):
            side.gradients(layer, X, loss=lambda out: out["y"].sum())
        assert not seen


def test_older_backward_hooks():
    def scenario(side):
        layer, seen = side.nn.ReLU(), []
        layer.register_backward_hook(lambda m, gi, go: seen.append((gi, go)))
        with pytest.raises(RuntimeError, match="Cannot use both"):
            layer.register_full_backward_hook(lambda m, gi, go: None)
        other = side.nn.ReLU()
        other.register_full_backward_hook(lambda m, gi, go: None)
        with pytest.raises(RuntimeError, match="Cannot use both"):
            other.register_backward_hook(lambda m, gi, go: None)
        return side.gradients(layer, X), seen

    assert_same(scenario)


def test_handles_remove_hooks():
    def scenario(side):
        layer, seen = linear(side), []
        first = layer.register_forward_hook(lambda m, args, out: seen.append(1), always_call=True)
        with layer.register_forward_pre_hook(lambda m, args: seen.append(0)) as handle:
            layer(side.array(X))
        handle.remove()
        layer(side.array(X))
        first.remove()
        layer(side.array(X))
        layer.register_forward_hook(lambda m, args, out: seen.append(2))
        layer._forward_hooks.clear()
        layer.register_forward_hook(lambda m, args, out: seen.append(3))
        layer._forward_hooks = OrderedDict()
        layer.register_forward_hook(lambda m, args, out: seen.append(4))
        layer(side.array(X))
        backward = layer.register_full_backward_hook(lambda m, gi, go: seen.append(5))
        side.gradients(layer, X)
        backward.remove()
        side.gradients(layer, X)
        return seen, len(layer._forward_hooks), layer._forward_hooks_always_called

    assert_same(scenario)


def test_hooks_of_all_modules_run_before_those_of_each():
    def scenario(side):
        net, seen = side.nn.Sequential(linear(side), side.nn.ReLU()), []
        name = lambda m: type(m).__name__  # noqa: E731
        net[0].register_forward_pre_hook(lambda m, args: seen.append("own pre"))
        net[0].register_forward_hook(lambda m, args, out: seen.append("own"))
        net[0].register_full_backward_hook(lambda m, gi, go: seen.append("own back"))
        with (
            side.where.register_module_forward_pre_hook(lambda m, args: seen.append(("pre", name(m)))),
            side.where.register_module_forward_hook(
                lambda m, args, kwargs, out: seen.append(("post", name(m), kwargs, out)), with_kwargs=True
            ),
            side.where.register_module_full_backward_pre_hook(lambda m, go: seen.append(("back pre", name(m)))),
            side.where.register_module_full_backward_hook(lambda m, gi, go: seen.append(("back", name(m), gi))),
        ):
            grads = side.gradients(net, X)
        side.gradients(net, X)
        return grads, seen

    assert_same(scenario)


def test_hooks_of_registration_see_and_replace():
    def scenario(side):
        seen = []
        note = lambda m, name, value: seen.append((type(m).__name__, name, type(value).__name__))  # noqa: E731
        buffer = side.nn.Buffer(side.array(np.ones(2, np.float32)))
        with (
            side.where.register_module_parameter_registration_hook(note),
            side.where.register_module_module_registration_hook(note),
            side.where.register_module_module_registration_hook(
                lambda m, name, value: side.nn.Identity() if name == "swap" else None
            ),
            side.where.register_module_buffer_registration_hook(lambda m, name, value: buffer if name == "b" else None),
        ):
            net = side.nn.Module()
            net.layer = side.nn.Linear(2, 2, bias=False)
            net.swap = side.nn.ReLU()
            net.add_module("more", side.nn.Tanh())
            net.register_buffer("b", side.array(np.zeros(2, np.float32)))
        return seen, type(net.swap).__name__, net.b, [name for name, _ in net.named_modules()]

    assert_same(scenario)


# Under transformations
def hooked_net():
    net = fnn.nn.Sequential(linear(Fnn), fnn.nn.Tanh())
    net[1].register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
    return net


def test_backward_hooks_act_alike_in_every_transformation():
    net, x = hooked_net(), jnp.asarray(X)
    apply = fnn.pure(net).apply
    params, _ = fnn.split(net)
    expected = fnn.grad(lambda net: (net(x) ** 2).sum())(net)
    loss = lambda params, x: (apply(params, x) ** 2).sum()  # noqa: E731
    ways = {
        "fnn.jit": fnn.jit(lambda net, x: fnn.grad(lambda net: (net(x) ** 2).sum())(net))(net, x),
        "pure": jax.grad(loss)(params, x),
        "jit of grad": jax.jit(jax.grad(loss))(params, x),
        "grad of jit": jax.grad(jax.jit(loss))(params, x),
        "checkpoint": jax.grad(jax.checkpoint(loss))(params, x),
        "fnn.checkpoint": fnn.grad(lambda net: (fnn.checkpoint(net)(x) ** 2).sum())(net),
        "grad of vmap": jax.grad(lambda params, x: (jax.vmap(apply, (None, 0))(params, x) ** 2).sum())(params, x),
        "vmap of grad": jax.tree.map(lambda g: g.sum(0), jax.vmap(jax.grad(loss), (None, 0))(params, x)),
    }
    fnn.backward(lambda net: (net(x) ** 2).sum(), net)
    ways["backward"] = {"0": {name: p.grad for name, p in net[0].named_parameters()}}
    for way, got in ways.items():
        jax.tree.map(functools.partial(assert_close, what=way), got, expected)
    net[1]._backward_hooks.clear()
    without = fnn.grad(lambda net: (net(x) ** 2).sum())(net)
    jax.tree.map(lambda a, b: assert_close(a, b * 3), expected, without)


def test_forward_mode_passes_backward_hooks_by():
    net = hooked_net()
    plain = fnn.nn.Sequential(net[0], fnn.nn.Tanh())
    x, v = jnp.asarray(X), jnp.asarray(normal(4, 2))
    of = {name: fnn.pure(n).apply for name, n in (("hooked", net), ("plain", plain))}
    params, _ = fnn.split(net)
    tangents = {name: jax.jvp(lambda x: apply(params, x), (x,), (v,))[1] for name, apply in of.items()}  # noqa: B023
    assert_close(tangents["hooked"], tangents["plain"])
    sums = {name: lambda x, apply=apply: apply(params, x).sum() for name, apply in of.items()}
    second = {name: jax.jvp(jax.grad(total), (x,), (v,))[1] for name, total in sums.items()}
    assert_close(second["hooked"], 3 * second["plain"])


def test_nothing_is_inserted_without_backward_hooks():
    layer = linear(Fnn)
    handle = layer.register_full_backward_hook(lambda m, gi, go: None)
    text = lambda: str(jax.make_jaxpr(fnn.pure(layer).apply)(fnn.split(layer)[0], X))  # noqa: E731
    assert "fnn_gate" in text()
    handle.remove()
    assert "fnn_gate" not in text()


def test_a_hooked_gradient_exports():
    net = hooked_net()
    params, _ = fnn.split(net)
    apply = fnn.pure(net).apply
    exported = jax.export.export(jax.jit(jax.grad(lambda p, x: apply(p, x).sum())), platforms=["cpu", "cuda", "tpu"])(params, X)
    assert_close(exported.call(params, X)["0"]["bias"], jax.grad(lambda p: apply(p, X).sum())(params)["0"]["bias"])


def test_compiled_functions_follow_hooks_that_come_and_go():
    net, x, count = linear(Fnn), jnp.asarray(X), itertools.count()

    @fnn.jit
    def forward(x):
        next(count)
        return net(x)

    plain = forward(x)
    with net.register_forward_hook(lambda m, args, out: out * 2):
        assert_close(forward(x), plain * 2)
    assert_close(forward(x), plain)
    with fnn.nn.modules.module.register_module_forward_hook(lambda m, args, out: out + 1):
        assert_close(forward(x), plain + 1)
    assert_close(forward(x), plain)
    assert next(count) == 3  # the form without hooks is found again


def test_the_pure_functions_keep_the_hooks_of_their_picture():
    net = linear(Fnn)
    handle = net.register_forward_hook(lambda m, args, out: out * 0)
    apply = fnn.pure(net).apply
    handle.remove()
    params, _ = fnn.split(net)
    assert not np.any(apply(params, X))
    assert np.any(net(X))


def test_gradients_of_inputs_that_have_no_effect_are_zero():
    def scenario(side):
        class Two(side.nn.Module):
            def forward(self, a, b):
                return a * 2, b * 3

        layer, seen = Two(), []
        layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
        side.gradients(layer, X, X, loss=lambda out: out[0].sum())
        return seen

    assert_same(scenario)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_of_handles_remove_the_hooks_of_the_copy(copied):
    def scenario(side):
        net = side.nn.Linear(2, 2)
        net.handle = net.register_forward_hook(nothing, always_call=True)
        twin = copied(net)
        twin.handle.remove()
        twin.register_forward_hook(nothing)
        return len(net._forward_hooks), len(twin._forward_hooks), len(twin._forward_hooks_always_called)

    assert_same(scenario)


def nothing(*args):
    return None


def test_modules_with_backward_hooks_are_collected():
    def uses():
        yield lambda net: fnn.grad(lambda net: net(X).sum())(net)
        yield lambda net: fnn.jit(net)(X)
        yield lambda net: fnn.jit(lambda net: fnn.grad(lambda net: net(X).sum())(net))(net)
        yield lambda net: jax.jit(jax.grad(lambda p: fnn.pure(net).apply(p, X).sum()))(fnn.split(net)[0])
        yield lambda net: fnn.grad(lambda net: fnn.checkpoint(net)(X).sum())(net)

    gc.freeze()  # what other tests left is not looked through each time
    for use in uses():
        net = linear(Fnn)
        net.register_full_backward_hook(lambda m, gi, go: None)
        use(net)
        ref = weakref.ref(net)
        del net
        gc.collect()
        assert ref() is None
    gc.unfreeze()


def test_capture_compiles_once():
    net, x = fnn.nn.Sequential(linear(Fnn), fnn.nn.ReLU()), jnp.asarray(X)
    expected = net[0](x)
    net[1].compile()
    net.compile()
    for _ in range(3):
        out, values = fnn.capture(net, ["0", "1"])(x)
        assert_close(values["0"], expected)
        assert_close(values["1"], out)
        assert list(values) == ["0", "1"]
    assert net._compiled_call_impl._compiled == 1
    with pytest.raises(TypeError, match=r"fnn\.capture takes a Module"):
        fnn.capture(fnn.jit(net), ["0"])


def test_captures_nest():
    net, x = fnn.nn.Sequential(linear(Fnn), fnn.nn.ReLU()), jnp.asarray(X)

    class Outer(fnn.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return fnn.capture(self.net, ["0"])(x)[1]["0"]

    out, values = fnn.jit(fnn.capture(Outer(), ["net.0", "net.1"]))(x)
    assert_close(out, net[0](x))
    assert_close(values["net.0"], out)
    assert_close(values["net.1"], net(x))
    assert not net[0]._forward_hooks
