"""Gradients in modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn

X = jnp.arange(6.0).reshape(2, 3) / 7 + 0.1


def loss(net, x):
    return (jnp.tanh(net(x)) ** 2).sum()


def by_hand(p, x):
    return (jnp.tanh(x @ p["weight"].T + p["bias"]) ** 2).sum()


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a, b)


@pytest.mark.parametrize("wrap", [lambda f: f, fnn.jit], ids=["eager", "fnn.jit"])
def test_value_and_gradient_in_modules_and_arrays(wrap):
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    p, q = fnn.split(net)[0], fnn.split(other)[0]
    close(wrap(lambda: fnn.value_and_grad(loss)(net, X))(), jax.value_and_grad(by_hand)(p, X))
    close(wrap(lambda: fnn.grad(loss, argnums=1)(net, X))(), jax.grad(by_hand, argnums=1)(p, X))
    close(wrap(lambda: fnn.grad(loss, argnums=(0, 1))(net, X))(), jax.grad(by_hand, argnums=(0, 1))(p, X))

    def both(nets, x):
        return loss(nets["a"], x) * loss(nets["b"][0], x)

    expected = jax.grad(lambda p, q: by_hand(p, X) * by_hand(q, X), (0, 1))(p, q)
    grads = wrap(lambda: fnn.grad(both)({"a": net, "b": [other]}, X))()
    close((grads["a"], grads["b"][0]), expected)
    close(wrap(lambda: fnn.grad(lambda a, b: loss(a, X) * loss(b, X), (0, 1))(net, other))(), expected)
    value, aux = wrap(lambda: fnn.value_and_grad(lambda n: (loss(n, X), {"twice": 2 * n(X)}), has_aux=True)(net))()[0]
    close((value, aux["twice"]), (by_hand(p, X), 2 * net(X)))
    gradient, aux = fnn.grad(lambda n: (loss(n, X), 5), has_aux=True)(net)
    close(gradient, jax.grad(by_hand)(p, X))
    assert aux == 5


def test_a_module_shared_by_two_arguments_counts_for_the_first():
    net = nn.Linear(3, 2)
    first, second = fnn.grad(lambda a, b: loss(a, X) + loss(b, X), (0, 1))(net, net)
    close(first, jax.tree.map(lambda g: 2 * g, jax.grad(by_hand)(fnn.split(net)[0], X)))
    assert second == {}


def test_parameters_without_gradient_are_left_out():
    net = nn.Linear(3, 2)
    net.bias.requires_grad = False
    assert set(fnn.grad(loss)(net, X)) == {"weight"}
    assert fnn.grad(lambda net: (net(X) ** 2).sum())(net.requires_grad_(False)) == {}


def test_only_scalars_are_differentiated():
    with pytest.raises(TypeError, match="scalar"):
        fnn.grad(lambda net: net(X))(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        fnn.backward(lambda net: net(X), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="no argument is one"):
        fnn.backward(lambda x: x.sum(), X)
    with pytest.raises(ValueError, match="argument 3"):
        fnn.grad(loss, argnums=3)(nn.Linear(3, 2), X)
    with pytest.raises(TypeError, match="pair"):
        fnn.grad(loss, has_aux=True)(nn.Linear(3, 2), X)


def test_backward_adds_into_grad():
    net = nn.Linear(3, 2)
    expected = jax.grad(by_hand)(fnn.split(net)[0], X)
    assert net.weight.grad is None
    for times in (1, 2):
        np.testing.assert_allclose(fnn.backward(loss, net, X), by_hand(fnn.split(net)[0], X), rtol=1e-5)
        close({"weight": net.weight.grad, "bias": net.bias.grad}, jax.tree.map(lambda g, times=times: times * g, expected))
    net.zero_grad(set_to_none=False)
    assert (net.weight.grad == 0).all()
    net.zero_grad()
    assert net.weight.grad is None
    value, aux = fnn.backward(lambda net: (loss(net, X), "aux"), net, has_aux=True)
    assert aux == "aux"
    np.testing.assert_allclose(value, loss(net, X), rtol=1e-6)


def test_checkpoint_computes_again_and_keeps_values():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    computed = []

    def block(net, x):
        computed.append(1)
        return jnp.sin(net(x))

    plain = fnn.grad(lambda net: (block(net, X) ** 2).sum())(net)
    checkpointed = fnn.grad(lambda net: (fnn.checkpoint(block)(net, X) ** 2).sum())(net)
    close(checkpointed, plain)
    assert net[1].num_batches_tracked.item() == 2
    policy = jax.checkpoint_policies.nothing_saveable
    saved = fnn.jit(lambda net: fnn.grad(lambda net: (fnn.checkpoint(block, policy=policy)(net, X) ** 2).sum())(net))
    close(saved(net), plain)
    jaxpr = str(
        jax.make_jaxpr(lambda p: jax.grad(lambda p: fnn.functional_call(nn.Sequential(nn.Linear(3, 3)), p, X).sum())(p))(
            {"0.weight": jnp.ones((3, 3)), "0.bias": jnp.zeros(3)}
        )
    )
    assert "remat" not in jaxpr
    linear = nn.Linear(3, 3)
    jaxpr = str(jax.make_jaxpr(lambda x: fnn.checkpoint(linear)(x))(X))
    assert "remat" in jaxpr or "checkpoint" in jaxpr


def test_forward_mode_and_hessian_vector_product_through_a_module():
    net = nn.Linear(3, 2)
    params, _ = fnn.split(net)

    def through_bound(p):
        with fnn.bound(net, p):
            return loss(net, X)

    tangent = jax.tree.map(jnp.ones_like, params)
    close(
        jax.jvp(jax.grad(through_bound), (params,), (tangent,)),
        jax.jvp(jax.grad(lambda p: by_hand(p, X)), (params,), (tangent,)),
    )


def test_capture_gives_outputs_and_attributes_as_results():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
            self.unused = nn.ReLU()

        def forward(self, x):
            y = self.body(x)
            self.aux_loss = (y**2).sum()
            return y.sum()

    net = Net()
    expected = {"body.0": net.body[0](X), "aux_loss": (net.body(X) ** 2).sum()}
    run = lambda net, x: fnn.capture(net, ["body.0", "aux_loss"])(x)  # noqa: E731
    close(run(net, X), (net(X), expected))
    compiled = fnn.jit(run)
    for _ in range(3):
        close(compiled(net, X), (net(X), expected))
    assert compiled._compiled == 1
    grads = fnn.grad(lambda net: fnn.capture(net, ["aux_loss"])(X)[1]["aux_loss"])(net)
    by = jax.grad(lambda p: (jax.nn.relu(X @ p["weight"].T + p["bias"]) ** 2).sum())(fnn.split(net)[0]["body"]["0"])
    close(grads["body"]["0"], by)
    with pytest.raises(AttributeError, match=r"did not call \['unused'\]"):
        fnn.capture(net, ["unused"])(X)
    with pytest.raises(AttributeError, match=r"no module or attribute 'nothing\.here'"):
        fnn.capture(net, ["nothing.here"])(X)
    assert not net.body[0]._forward_hooks


class Cached(nn.Module):
    """Fills a cache when it is first called, as rotary embeddings do, and grows it for longer inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.cache = None

    def forward(self, x):
        if self.cache is None or self.cache.shape[0] < x.shape[0]:
            self.cache = jnp.arange(float(x.shape[0]))[:, None]
        return self.layer(x) + self.cache[: x.shape[0]]


def test_a_cache_that_forward_fills_is_filled_in_each_trace():
    net = Cached()
    expected = {n: net.layer(jnp.ones((n, 3))) + jnp.arange(float(n))[:, None] for n in (2, 3, 5)}
    compiled, apply = fnn.jit(net), jax.jit(fnn.pure(net).apply)
    for n in (2, 2, 5, 3, 5, 2):
        x = jnp.ones((n, 3))
        for call in (compiled, lambda x: apply(fnn.split(net)[0], x), net, lambda x: fnn.jit(Cached.forward)(net, x)):
            close(call(x), expected[n])
    assert compiled._compiled <= 3


class Notes(nn.Module):
    """Sets attributes in forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.calls, self.first, self.seen, self.out = 0, True, [], None

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        if self.first:
            self.first = False
            x = x * 2
        self.out = self.layer(x)
        return self.out * len(self.seen)


def test_apply_of_a_module_that_sets_attributes_is_pure():
    net = Notes()
    init, apply = fnn.pure(net)
    params, _ = init(0)
    first = apply(params, X)
    for _ in range(3):
        close(apply(params, X), first)
        close(jax.jit(apply)(params, X), first)
    close(jax.jit(apply)(params, X[:2]), first[:2])
    assert (net.calls, net.first, net.seen) == (0, True, [])


def test_attributes_set_in_an_eager_gradient_are_arrays():
    net = Notes()
    fnn.backward(lambda net: net(X).sum(), net)
    close(net.out, net.layer(X * 2))
    fnn.grad(lambda net: fnn.checkpoint(net)(X).sum())(net)
    close(net.out, net.layer(X))
    fnn.jit(lambda net: fnn.grad(lambda net: net(X).sum())(net))(net)
    with pytest.raises(AttributeError, match=r"fnn\.capture"):
        net.out  # noqa: B018
    fnn.backward(lambda net: net(X).sum(), net)
    close(net.out, net.layer(X))
