"""Optimizer over optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
import fnn.nn as nn

X = jnp.arange(6.0).reshape(2, 3) / 7 + 0.1
loss = lambda net: (jnp.tanh(net(X)) ** 2).sum()  # noqa: E731


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("wrap", [lambda f: f, fnn.jit], ids=["eager", "fnn.jit"])
@pytest.mark.parametrize(
    "transformation",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.adamw(1e-2),
        optax.chain(optax.clip_by_global_norm(0.1), optax.adam(optax.linear_schedule(1e-1, 1e-2, 5))),
        optax.masked(optax.sgd(0.1), {"0": {"weight": True, "bias": False}, "1": False, "2": True}),
        optax.MultiSteps(optax.sgd(0.1), 2),
    ],
    ids=["sgd", "adamw", "clipped and scheduled adam", "masked", "multi-step"],
)
def test_steps_are_those_of_optax(wrap, transformation):
    net = network().eval()
    optimizer = fnn.optim.Optimizer(net, transformation)
    params, state = fnn.split(net)
    apply = fnn.pure(net).apply
    moments = transformation.init(params)
    step = wrap(lambda: optimizer.step(fnn.grad(loss)(net)))
    for _ in range(3):
        step()
        grads = jax.grad(lambda p: (jnp.tanh(apply(p, X, state=state)[0]) ** 2).sum())(params)
        updates, moments = transformation.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        close(fnn.split(net)[0], params)
        close(optimizer.state, moments)


def test_step_takes_grad_where_no_gradients_are_given():
    net, twin = network(), network()
    twin.load_state_dict(net.state_dict())
    first, second = (fnn.optim.Optimizer(n, optax.adam(0.1)) for n in (net, twin))
    fnn.backward(loss, net)
    first.step()
    second.step(fnn.grad(loss)(twin))
    close(fnn.split(net)[0], fnn.split(twin)[0])
    first.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(ValueError, match=r"no gradient: call fnn\.backward"):
        first.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {**g, "2": {"weight": g["2"]["weight"]}}, r"missing: 2\.bias"),
        (lambda g: {**g, "9": {"weight": g["2"]["weight"]}}, r"unexpected: 9\.weight"),
        (lambda g: {**g, "2": {"weight": jnp.ones(3), "bias": g["2"]["bias"]}}, r"2\.weight: expected \(2, 4\), got \(3,\)"),
        (lambda g: [g], "nested dict"),
    ],
)
def test_gradients_that_do_not_match_are_an_error_and_change_nothing(change, message):
    net = network()
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    grads = fnn.grad(loss)(net)
    before = (fnn.split(net), optimizer.state)
    with pytest.raises(ValueError, match=message):
        optimizer.step(change(grads))
    jax.tree.map(np.testing.assert_array_equal, (fnn.split(net), optimizer.state), before)


def test_a_parameter_frozen_later_does_not_move_and_one_unfrozen_later_is_an_error():
    net = network()
    net[2].bias.requires_grad = False
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    optimizer.step(fnn.grad(loss)(net))
    net[0].weight.requires_grad = False
    weight, moments = net[0].weight.value, optimizer.state[0].mu["0"]["weight"]
    optimizer.step(fnn.grad(loss)(net))
    np.testing.assert_array_equal(net[0].weight, weight)
    np.testing.assert_array_equal(optimizer.state[0].mu["0"]["weight"], moments)
    assert optimizer.state[0].count == 2
    net[2].bias.requires_grad = True
    with pytest.raises(ValueError, match=r"not known to the optimizer.*2\.bias"):
        optimizer.step(fnn.grad(loss)(net))


def test_state_dict_resumes_exactly():
    net = network()
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    step = fnn.jit(lambda: optimizer.step(fnn.grad(loss)(net)))
    for _ in range(3):
        step()
    twin = network()
    other = fnn.optim.Optimizer(twin, optax.adam(0.1))
    twin.load_state_dict(net.state_dict())
    other.load_state_dict(optimizer.state_dict())
    again = fnn.jit(lambda: other.step(fnn.grad(loss)(twin)))
    for _ in range(3):
        step()
        again()
    jax.tree.map(np.testing.assert_array_equal, fnn.split(net), fnn.split(twin))


def test_a_state_that_does_not_match_is_an_error_and_changes_nothing():
    net = network()
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    state = optimizer.state_dict()
    key = next(key for key in state if "mu" in key)
    for wrong in ({**state, "more": 1}, {k: v for k, v in state.items() if k != key}, {**state, key: jnp.ones(7)}):
        with pytest.raises(ValueError, match="does not match"):
            optimizer.load_state_dict(wrong)
    jax.tree.map(np.testing.assert_array_equal, optimizer.state_dict(), state)


def test_further_arguments_reach_the_transformation():
    net = nn.Linear(3, 1)
    optimizer = fnn.optim.Optimizer(
        net, optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, accumulation_size=1))
    )
    value, grads = fnn.value_and_grad(loss)(net)
    optimizer.step(grads, value=value)
    assert optimizer.state[1].best_value == value
