"""State lives in handles, and a scope says what they hold: lifetime, threads, failures, attributes."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
import fnn.nn as nn

X = jnp.arange(6.0).reshape(2, 3) / 7 + 0.1


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))


def training(net, optimizer):
    @fnn.jit
    def step(x):
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    return step


def test_many_models_through_one_step_are_collected():
    @fnn.jit
    def step(net, optimizer, x):
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
        optimizer.step(grads)
        return loss

    alive = []
    for _ in range(30):
        net = nn.Linear(3, 1)
        optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
        step(net, optimizer, X)
        alive.append((weakref.ref(net), weakref.ref(optimizer), weakref.ref(net.weight)))
    gc.collect()
    for refs in zip(*alive, strict=True):
        assert sum(ref() is not None for ref in refs) <= 1
    assert len(step._forms) <= 1


def test_a_module_with_a_closure_over_itself_is_collected():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.run = jax.checkpoint(self.inner)

        def inner(self, x):
            return self.linear(x)

        def forward(self, x):
            return self.run(x)

    step = fnn.jit(lambda net, x: net(x))
    refs = []
    for _ in range(5):
        net = Net()
        step(net, X)
        refs.append(weakref.ref(net))
    del net
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= 1


def test_the_identity_of_a_dead_module_is_not_taken_for_another():
    function = fnn.jit(lambda net, x: net.weight * x[0])
    gc.freeze()  # what other tests left is not looked through each time
    for i in range(30):
        net = nn.Linear(3, 1, bias=False)
        net.weight.data.fill_(i)
        np.testing.assert_allclose(function(net, X)[0], i * X[0], rtol=1e-5, atol=1e-6)
        del net
        gc.collect()
    gc.unfreeze()


def test_call_arguments_are_not_kept():
    net = nn.Linear(3, 3)
    function = fnn.jit(lambda net, x: net(x))
    batch = jnp.ones((7, 3))
    ref = weakref.ref(batch)
    function(net, batch)
    function(net, X)
    del batch
    gc.collect()
    assert ref() is None


def test_eager_steps_compile_once_also_where_plain_jax_has_a_weight_as_a_constant(caplog):
    net = network().eval()
    optimizer = fnn.optim.Optimizer(net, optax.sgd(1e-2))
    jax.jit(lambda x: net(x))(X)

    def step():
        fnn.backward(lambda net: (net(X) ** 2).mean(), net)
        optimizer.step()

    with pytest.warns(UserWarning, match="after a plain JAX transformation"):
        step()
    step()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        step()
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_no_recompilation_and_no_leak_over_a_thousand_steps(caplog):
    net = network()
    step = training(net, fnn.optim.Optimizer(net, optax.adam(1e-2)))
    batches = [jax.random.normal(jax.random.key(i), (8, 3)) for i in range(4)]
    step(batches[0])
    step(batches[1])
    gc.collect()
    before = len(jax.live_arrays())
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for i in range(1000):
            loss = step(batches[i % 4])
    assert not [record.message for record in caplog.records if "ompil" in record.message]
    gc.collect()
    assert len(jax.live_arrays()) <= before + 1
    assert np.isfinite(loss)


def test_threads_with_a_model_each_through_one_function():
    function = fnn.jit(lambda net, x: net(x))
    nets = [nn.Linear(3, 3) for _ in range(4)]
    expected = [net(X) for net in nets]
    wrong = []

    def work(i):
        for _ in range(200):
            if not np.allclose(function(nets[i], X), expected[i], rtol=1e-5):
                wrong.append(i)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_threads_that_hold_different_values_for_one_module():
    net = nn.Linear(3, 3)
    params, _ = fnn.split(net)
    apply = fnn.pure(net).apply
    barrier = threading.Barrier(4)

    def work(scale):
        scaled = jax.tree.map(lambda a: a * scale, params)
        with fnn.bound(net, scaled):
            barrier.wait()
            inside = net(X)
            barrier.wait()
        return np.allclose(inside, apply(scaled, X), rtol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, [1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(net.weight, params["weight"])


def test_an_attribute_of_a_trace_in_another_thread_is_not_seen():
    class Net(nn.Module):
        def forward(self, x):
            self.aux = x.sum()
            barrier.wait()
            out = x * self.aux
            barrier.wait()
            return out

    net, barrier = Net(), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda i: fnn.jit(lambda x: net(x))(X * i), [1.0, 2.0]))
    np.testing.assert_allclose(results[0], X * X.sum(), rtol=1e-5)
    np.testing.assert_allclose(results[1], 4 * X * X.sum(), rtol=1e-5)


def test_a_task_that_outlives_its_scope_is_refused():
    net = nn.Linear(3, 3)
    params, _ = fnn.split(net)

    async def late():
        await asyncio.sleep(0.01)
        return net.weight.value

    async def write_late():
        await asyncio.sleep(0.01)
        net.weight.value = jnp.zeros((3, 3))

    async def main(work):
        with fnn.bound(net, params):
            task = asyncio.create_task(work())
        return await task

    for work in (late, write_late):
        with pytest.raises(fnn.StateError, match="closed"):
            asyncio.run(main(work))


def test_a_scope_in_a_copied_context_does_not_leak_into_this_one():
    net = nn.Linear(3, 3)
    original = net.weight.value
    params, _ = fnn.split(net)
    held = fnn.bound(net, jax.tree.map(jnp.zeros_like, params))
    contextvars.copy_context().run(held.__enter__)
    np.testing.assert_array_equal(net.weight, original)


@pytest.mark.parametrize("transform", [fnn.jit, lambda f: f], ids=["fnn.jit", "eager"])
def test_a_failure_in_the_middle_leaves_the_module_unchanged(transform):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.aux = "before"
            self.fails = True

        def forward(self, x):
            x = self.norm(x)
            self.aux = x.sum()
            if self.fails:
                raise ValueError("in the middle")
            return x

    net = Net()
    function = transform(lambda net, x: net(x))
    fnn.manual_seed(0)
    with pytest.raises(ValueError, match="in the middle"):
        function(net, X)
    assert net.norm.num_batches_tracked.item() == 0
    np.testing.assert_array_equal(net.norm.running_mean, np.zeros(3))
    if transform is fnn.jit:
        assert net.aux == "before"
    net.fails = False
    function(net, X)
    assert net.norm.num_batches_tracked.item() == 1


def test_a_traced_attribute_is_readable_until_its_scope_closes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.aux_loss = None

        def forward(self, x):
            y = self.linear(x)
            self.aux_loss = (y**2).sum()
            return y

    net = Net()
    function = fnn.jit(lambda net, x: net(x).sum() + net.aux_loss)
    expected = net.linear(X).sum() + (net.linear(X) ** 2).sum()
    for _ in range(3):
        np.testing.assert_allclose(function(net, X), expected, rtol=1e-5)
    with pytest.raises(AttributeError, match=r"fnn\.capture"):
        net.aux_loss  # noqa: B018
    grads = fnn.grad(lambda net: net(X).sum() + net.aux_loss)(net)
    pure = jax.grad(lambda w: (X @ w.T + net.linear.bias.value).sum() + ((X @ w.T + net.linear.bias.value) ** 2).sum())
    np.testing.assert_allclose(grads["linear"]["weight"], pure(net.linear.weight.value), rtol=1e-5)
    np.testing.assert_allclose(net.aux_loss, (net.linear(X) ** 2).sum(), rtol=1e-5)  # known, where nothing is compiled
    net.linear.weight.data.mul_(2)
    net(X)
    np.testing.assert_allclose(net.aux_loss, (net.linear(X) ** 2).sum(), rtol=1e-5)


def test_a_list_of_traced_values_as_an_attribute():
    class Net(nn.Module):
        def forward(self, x):
            self.features = [x, {"twice": 2 * x}]
            return self.features[1]["twice"]

    net = Net()
    np.testing.assert_allclose(fnn.jit(lambda x: net(x))(X), 2 * X)
    with pytest.raises(AttributeError, match=r"fnn\.capture"):
        net.features  # noqa: B018


@pytest.mark.parametrize("place", ["attribute", "buffer", "grad"])
def test_a_traced_value_without_a_scope_is_refused(place):
    net = nn.BatchNorm1d(3)

    def function(x):
        if place == "attribute":
            net.kept = x
        elif place == "buffer":
            net.running_mean = x
        else:
            net.weight.grad = x
        return x

    for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())):
        with pytest.raises(fnn.StateError, match=r"kept|running_mean|weight"):
            transform(function)(jnp.ones(3) if transform is not jax.vmap else jnp.ones((2, 3)))
    assert not hasattr(net, "kept")
    np.testing.assert_array_equal(net.running_mean, np.zeros(3))


def test_tied_weights_are_one_weight():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, index):
            return self.head(self.embedding(index))

    net = Tied()
    index = jnp.array([1, 2, 4])
    assert [name for name, _ in net.named_parameters()] == ["embedding.weight"]
    assert list(net.state_dict()) == ["embedding.weight", "head.weight"]
    params, state = fnn.split(net)
    assert jax.tree.structure(params) == jax.tree.structure({"embedding": {"weight": 0}})
    assert state == {}

    def pure(p):
        table = p["embedding"]["weight"]
        return ((table[index] @ table.T) ** 2).sum()

    for transform in (lambda f: f, fnn.jit):
        grads = transform(lambda net: fnn.grad(lambda net: (net(index) ** 2).sum())(net))(net)
        np.testing.assert_allclose(grads["embedding"]["weight"], jax.grad(pure)(params)["embedding"]["weight"], rtol=1e-4)
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
    optimizer.step(grads)
    np.testing.assert_array_equal(net.head.weight, net.embedding.weight)


def test_gradient_accumulation_under_jit():
    net = nn.Linear(3, 1)
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
    accumulate = fnn.jit(lambda x: fnn.backward(lambda net: (net(x) ** 2).sum(), net))

    @fnn.jit
    def finish():
        optimizer.step()
        optimizer.zero_grad()

    params, _ = fnn.split(net)
    apply = fnn.pure(net).apply
    for _ in range(3):
        accumulate(X)
        accumulate(2 * X)
        accumulate(3 * X)
        finish()
        assert net.weight.grad is None
        grads = jax.grad(lambda p: sum((apply(p, k * X) ** 2).sum() for k in (1, 2, 3)))(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        np.testing.assert_allclose(net.weight, params["weight"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(net.bias, params["bias"], rtol=1e-4, atol=1e-5)


def test_donated_arrays_are_reused_and_shared_ones_copied():
    net, average = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    average.weight.data = net.weight.value

    def update(net, optimizer, average, x):
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).sum())(net)
        optimizer.step(grads)
        return loss, average.weight.sum()

    step = fnn.jit(update, donate=True)
    kept = average.weight.value
    first, _ = step(net, optimizer, average, X)
    donated = net.weight.value
    second, _ = step(net, optimizer, average, X)
    assert donated.is_deleted()
    assert not kept.is_deleted()
    assert second < first
    np.testing.assert_array_equal(average.weight, kept)


def test_requires_grad_toggled_between_steps():
    net = nn.Linear(3, 1)
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    step = training(net, optimizer)
    step(X)
    net.weight.requires_grad = False
    weight, moments = net.weight.value, optimizer.state[0].mu["weight"]
    bias = net.bias.value
    step(X)
    np.testing.assert_array_equal(net.weight, weight)
    np.testing.assert_array_equal(optimizer.state[0].mu["weight"], moments)
    assert (net.bias != bias).all()
    net.weight.requires_grad = True
    step(X)
    assert (net.weight != weight).any()


def test_eager_code_that_plain_jax_stages_sees_every_new_weight():
    """`lax.scan` keeps its trace of a function, with the weights in it, so an eager scope with a token is needed."""
    net = nn.Linear(3, 3)
    net.run = jax.checkpoint(net.forward)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return jax.lax.scan(step, x, None, length=2)[0] + self.net.run(x)

    def step(carry, _):
        return net(carry), None

    model = Recurrent()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            np.testing.assert_allclose(model(X), net(net(X)) + net(X), rtol=1e-5)
            net.weight.data = net.weight * 1.5


def test_a_weight_that_plain_jax_has_compiled_in_warns_when_it_changes():
    net = nn.Linear(3, 3)
    frozen = jax.jit(lambda x: net(x))
    np.testing.assert_allclose(frozen(X), net(X), rtol=1e-5, atol=1e-6)
    with pytest.warns(UserWarning, match=r"'weight' of Linear changed after a plain JAX transformation"):
        net.weight.data = net.weight * 2


@pytest.mark.parametrize("transform", ["fnn.jit", "fnn.grad"])
def test_a_traced_value_in_a_list_of_a_module_is_refused(transform):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.losses = ["kept"]

        def forward(self, x):
            y = self.linear(x)
            self.losses.append(y.sum())
            return y

    net = Net()
    with pytest.raises(fnn.StateError, match=r"put into Net\.losses"):
        {"fnn.jit": fnn.jit(lambda net: net(X)), "fnn.grad": fnn.grad(lambda net: net(X).sum())}[transform](net)
    assert net.losses == ["kept"]


def test_a_traced_attribute_may_be_deleted():
    class Net(nn.Module):
        def forward(self, x):
            self.twice = 2 * x
            y = self.twice + 1
            del self.twice
            return y

    np.testing.assert_allclose(fnn.jit(lambda x: Net()(x))(X), 2 * X + 1, rtol=1e-5, atol=1e-6)


def test_draws_in_a_bound_block_count():
    net = nn.Dropout(0.5)
    masks = []
    for _ in range(2):
        with fnn.bound(net, {}):
            masks.append(net(jnp.ones(64)))
    assert (masks[0] != masks[1]).any()
