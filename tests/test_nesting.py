"""Transformations in each other, compared with hand-written JAX.

Every transformation here takes a function of one array, to one of the same shape, and returns such a function. Most leave
its values as they are; the gradients do not. A chain of them around a stateful module must give what the same chain gives
around a pure function of the parameters, or refuse clearly.
"""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import fnn
import fnn.nn as nn

WIDTH = 3
X = jnp.arange(2.0 * WIDTH).reshape(2, WIDTH) / 7 + 0.1
COTANGENT = jnp.cos(jnp.arange(2.0 * WIDTH)).reshape(2, WIDTH)


class Wrapper(nn.Module):
    """A function as a module, with the module that it uses."""

    def __init__(self, function, net):
        super().__init__()
        self.net = net
        self.function = function

    def forward(self, x):
        return self.function(x)


def mesh():
    return jax.make_mesh((1,), ("i",))


def through_apply(function, net):
    def applied(x):
        wrapper = Wrapper(function, net)
        params, state = fnn.split(wrapper)
        key = jax.random.key(7)
        return fnn.pure(wrapper).apply(params, x, state=state, rng=key, training=True)[0]

    return applied


def through_value_and_grad(function, net):
    def differentiated(x):
        loss, grads = fnn.value_and_grad(lambda net: (function(x) * COTANGENT).sum())(net)
        return x * loss + sum(jnp.sin(g).sum() for g in jax.tree.leaves(grads))

    return differentiated


def through_grad(function, net):
    return lambda x: jax.grad(lambda x: (function(x) * COTANGENT).sum())(x)


OURS = {
    "fnn.jit": lambda function, net: fnn.jit(function),
    "fnn.value_and_grad": through_value_and_grad,
    "fnn.checkpoint": lambda function, net: fnn.checkpoint(function),
    "apply": through_apply,
}
JAXS = {
    "jax.jit": lambda function, net: jax.jit(function),
    "jax.vmap": lambda function, net: lambda x: jax.vmap(function)(x[None])[0],
    "jax.grad": through_grad,
    "jax.checkpoint": lambda function, net: jax.checkpoint(function),
    "lax.scan": lambda function, net: lambda x: jax.lax.scan(lambda c, _: (function(c), None), x, None, length=1)[0],
    "lax.cond": lambda function, net: lambda x: jax.lax.cond(x.sum() > -1e9, function, lambda x: x, x),
    "shard_map": lambda function, net: jax.shard_map(function, mesh=mesh(), in_specs=P(), out_specs=P()),
}
ALL = {**OURS, **JAXS}
CHAINS = [(name,) for name in ALL] + list(itertools.product(ALL, repeat=2))
CHAINS.remove(("shard_map", "shard_map"))  # which JAX refuses


def chain(names, function, net):
    for name in reversed(names):
        function = ALL[name](function, net)
    return function


def reference(names, pure):
    """The chain around a pure function of (params, x), by plain JAX."""
    function = pure
    for name in reversed(names):
        if name == "jax.grad":
            function = lambda p, x, f=function: jax.grad(lambda x: (f(p, x) * COTANGENT).sum())(x)  # noqa: E731
        elif name == "fnn.value_and_grad":

            def function(p, x, f=function):
                loss, grads = jax.value_and_grad(lambda p: (f(p, x) * COTANGENT).sum())(p)
                return x * loss + sum(jnp.sin(g).sum() for g in jax.tree.leaves(grads))

    return function


@pytest.mark.parametrize("names", CHAINS, ids="-".join)
def test_weights_are_never_stale_nor_gradients_lost(names):
    net = nn.Linear(WIDTH, WIDTH)
    function = chain(names, lambda x: jnp.tanh(net(x)), net)
    expected = reference(names, lambda p, x: jnp.tanh(x @ p["weight"].T + p["bias"]))
    np.testing.assert_allclose(function(X), expected(fnn.split(net)[0], X), rtol=2e-5, atol=1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fnn.update(net, jax.tree.map(lambda a: 2 * a + 0.1, fnn.split(net)[0]))
    result, now = function(X), expected(fnn.split(net)[0], X)
    if not any("plain JAX transformation" in str(w.message) for w in caught):
        np.testing.assert_allclose(result, now, rtol=2e-5, atol=1e-6)
    else:
        assert names[0] in JAXS, "only what plain JAX compiled may keep a weight, and not in silence"


@pytest.mark.parametrize("names", CHAINS, ids="-".join)
def test_running_statistics_come_out_or_their_loss_is_an_error(names):
    net = nn.BatchNorm1d(WIDTH)
    function = chain(names, net, net)

    def pure(p, x):
        mean, var = x.mean(0), x.var(0)
        return (x - mean) / jnp.sqrt(var + net.eps) * p["weight"] + p["bias"]

    kept_by_apply = "apply" in names
    on_the_way = {name for name in names[names.index("apply") + 1 if kept_by_apply else 0 :] if name in JAXS}
    if on_the_way == {"jax.grad"} and names[0] == "jax.grad" and not kept_by_apply:
        on_the_way = set()  # statistics take no gradient, so that eagerly they are plain arrays inside of jax.grad
    if on_the_way:
        with pytest.raises(fnn.StateError, match=r"num_batches_tracked|running_mean"):
            function(X)
        assert net.num_batches_tracked.item() == 0
        np.testing.assert_array_equal(net.running_mean, np.zeros(WIDTH))
        return
    for step in (1, 2):
        expected = reference(names, pure)(fnn.split(net)[0], X)
        np.testing.assert_allclose(function(X), expected, rtol=1e-4, atol=1e-4)
        times = 0 if kept_by_apply else step
        assert net.num_batches_tracked.item() == times
        np.testing.assert_allclose(net.running_mean, (1 - 0.9**times) * X.mean(0), rtol=1e-5)


@pytest.mark.parametrize("names", CHAINS, ids="-".join)
def test_masks_are_those_of_the_key(names):
    net = nn.Dropout(0.5)
    key = jax.random.key(7)
    function = chain(names, net, net)
    mask = jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, X.shape)
    expected = reference(names, lambda p, x: jnp.where(mask, x / 0.5, 0))({}, X)
    with fnn.rng(key):
        np.testing.assert_allclose(function(X), expected, rtol=1e-5)


@pytest.mark.parametrize("names", list(itertools.product(["fnn.jit", "fnn.checkpoint"], repeat=2)), ids="-".join)
def test_masks_of_two_calls_differ(names):
    net = nn.Dropout(0.5)
    function = chain(names, net, net)
    x = jnp.ones((64, WIDTH))
    assert (function(x) != function(x)).any()


@pytest.mark.parametrize("name", [n for n in JAXS if n not in ("jax.vmap", "jax.grad")])
def test_a_mask_is_never_baked_into_what_plain_jax_compiles(name):
    net = nn.Dropout(0.5)
    with pytest.raises(fnn.StateError, match="default generator"):
        chain((name,), net, net)(X)


@pytest.mark.parametrize("outer", ["fnn.jit", "fnn.value_and_grad", "eager module", "apply"])
@pytest.mark.parametrize("inner", ["jax.jit", "jax.checkpoint", "lax.scan", "lax.cond"])
def test_a_function_that_jax_has_traced_before_sees_the_scope_it_is_called_in(outer, inner):
    """JAX hands back its own trace of a function that it knows, with the values that it closed over then."""
    net = nn.Linear(WIDTH, WIDTH)
    body = lambda x: jnp.tanh(net(x))  # noqa: E731
    known = chain((inner,), body, net)
    if inner == "lax.scan":
        scanned = lambda c, _: (body(c), None)  # noqa: E731
        known = lambda x: jax.lax.scan(scanned, x, None, length=1)[0]  # noqa: E731
    function = Wrapper(known, net) if outer == "eager module" else OURS[outer](known, net)
    names = () if outer == "eager module" else (outer,)
    expected = reference(names, lambda p, x: jnp.tanh(x @ p["weight"].T + p["bias"]))
    for _ in range(3):
        np.testing.assert_allclose(function(X), expected(fnn.split(net)[0], X), rtol=2e-5, atol=1e-6)
        fnn.update(net, jax.tree.map(lambda a: 2 * a + 0.1, fnn.split(net)[0]))


def test_a_known_function_called_twice_in_one_scope_sees_what_was_written_between():
    net = nn.Module()
    net.scale = nn.Buffer(jnp.ones(()))
    known = jax.checkpoint(lambda x: x * net.scale)

    @fnn.jit
    def function(x):
        first = known(x)
        net.scale.value = net.scale * 10
        return first, known(x)

    for factor in (1, 10):
        first, second = function(jnp.ones(()))
        assert (first, second) == (factor, 10 * factor)


WITHIN = {
    "fnn.checkpoint": lambda net: fnn.checkpoint(net),
    "fnn.jit": lambda net: fnn.jit(lambda x: net(x)),
    "functional_call": lambda net: lambda x: fnn.functional_call(net, {}, (x,)),
    "capture": lambda net: lambda x: fnn.capture(net, [""])(x)[0],
    "nothing": lambda net: lambda x: net(x),
}


@pytest.mark.parametrize("outer", ["fnn.jit", "fnn.value_and_grad"])
@pytest.mark.parametrize("within", WITHIN)
def test_a_known_function_with_a_scope_of_its_own_sees_what_was_written_between(within, outer):
    net = nn.Linear(WIDTH, WIDTH)
    known = jax.jit(lambda x: WITHIN[within](net)(x))

    def twice(net):
        first = known(X)
        net.weight.value = net.weight * 2
        net.bias.value = net.bias * 2
        return 0.0, (first, known(X))

    run = fnn.jit(twice) if outer == "fnn.jit" else lambda net: fnn.value_and_grad(twice, has_aux=True)(net)[0]
    first, second = run(net)[1]
    np.testing.assert_allclose(2 * first, second, rtol=1e-5)


@pytest.mark.parametrize("within", ["fnn.checkpoint", "capture", "nothing"])
def test_a_known_function_with_a_scope_of_its_own_draws_twice(within):
    net = nn.Dropout(0.5)
    known = jax.jit(lambda x: WITHIN[within](net)(x))
    first, second = fnn.jit(lambda x: (known(x), known(x)))(jnp.ones(64))
    assert (first != second).any()


@pytest.mark.parametrize("name", ["jax.jit", "jax.checkpoint", "lax.map", "lax.cond"])
def test_a_function_that_plain_jax_has_traced_outside_of_all_scopes(name):
    net = nn.Linear(WIDTH, WIDTH)
    body = lambda x: net(x)  # noqa: E731
    known = {
        "jax.jit": jax.jit(body),
        "jax.checkpoint": jax.checkpoint(body),
        "lax.map": lambda x: jax.lax.map(body, x),
        "lax.cond": lambda x: jax.lax.cond(True, body, body, x),
    }[name]
    known(X)  # a look at the output, which leaves the weights in a trace that JAX keeps
    np.testing.assert_allclose(fnn.grad(lambda net: known(X).sum())(net)["bias"], np.full(WIDTH, len(X)), rtol=1e-6)
    wrapper = Wrapper(known, net)
    zeros = {"net.weight": jnp.zeros((WIDTH, WIDTH)), "net.bias": jnp.zeros(WIDTH)}
    np.testing.assert_array_equal(fnn.functional_call(wrapper, zeros, (X,)), np.zeros_like(X))
    with fnn.bound(wrapper, fnn.tree.nest(zeros)):
        np.testing.assert_array_equal(wrapper(X), np.zeros_like(X))


def test_a_known_function_called_twice_in_one_scope_draws_twice():
    dropout = nn.Dropout(0.5)
    known = jax.checkpoint(lambda x: dropout(x))
    first, second = fnn.jit(lambda x: (known(x), known(x)))(jnp.ones(64))
    assert (first != second).any()


def test_a_known_function_called_twice_in_one_scope_sees_a_changed_attribute():
    net = nn.Linear(WIDTH, WIDTH)
    net.gain = 1.0
    known = jax.checkpoint(lambda x: net(x) * net.gain)

    @fnn.jit
    def function(x):
        net.gain = 1.0
        first = known(x)
        net.gain = 3.0
        return first, known(x)

    first, second = function(X)
    np.testing.assert_allclose(3 * first, second, rtol=1e-6)


def test_second_derivatives_through_a_compiled_function():
    net = nn.Linear(WIDTH, 1, bias=False)
    inner = fnn.jit(lambda net: sum(g.sum() for g in jax.tree.leaves(fnn.grad(lambda net: (net(X) ** 3).sum())(net))))
    grads = fnn.grad(inner)(net)

    def pure(p):
        return jax.grad(lambda p: ((X @ p.T) ** 3).sum())(p).sum()

    np.testing.assert_allclose(grads["weight"], jax.grad(pure)(net.weight.value), rtol=1e-4)


def test_the_same_mask_in_each_iteration_of_a_scan():
    dropout = nn.Dropout(0.5)
    out = fnn.jit(lambda x: jax.lax.scan(lambda c, _: (c, dropout(c)), x, None, length=3)[1])(jnp.ones(32))
    assert (out[0] == out[1]).all()
    assert (out[0] == out[2]).all()
    assert set(np.unique(out)) == {0.0, 2.0}
