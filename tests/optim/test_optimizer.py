"""Optimizer over optax, compared with optax by itself and with torch.optim."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_close, tensor, torch

import fnn
import fnn.nn as nn
from fnn.tree import unnest

X = jnp.arange(6.0).reshape(2, 3) / 7 + 0.1
loss = lambda net: (jnp.tanh(net(X)) ** 2).sum()  # noqa: E731


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def small():
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1, bias=False))


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize(
    ("transformation", "wrap"),
    [
        (optax.adamw(1e-2), lambda f: f),
        (optax.adamw(1e-2), fnn.jit),
        (optax.sgd(0.1, momentum=0.9), fnn.jit),
        (optax.chain(optax.clip_by_global_norm(0.1), optax.adam(optax.linear_schedule(1e-1, 1e-2, 5))), fnn.jit),
        (optax.masked(optax.sgd(0.1), {"0": {"weight": True, "bias": False}, "2": True}), fnn.jit),
        (optax.MultiSteps(optax.sgd(0.1), 2), fnn.jit),
    ],
    ids=["adamw, eager", "adamw", "sgd", "clipped and scheduled adam", "masked", "multi-step"],
)
def test_steps_are_those_of_optax(transformation, wrap):
    net = small()
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
    net, twin = small(), small()
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


def test_further_arguments_reach_the_transformation():
    net = nn.Linear(3, 1)
    optimizer = fnn.optim.Optimizer(
        net, optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, accumulation_size=1))
    )
    value, grads = fnn.value_and_grad(loss)(net)
    optimizer.step(grads, value=value)
    assert optimizer.state[1].best_value == value


# The oracle's steps


def both(theirs):
    """Our network with the weights of a network of torch."""
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    ours.load_state_dict(theirs.state_dict())
    return ours


TORCH = {
    "sgd": (
        lambda t, net: t.optim.SGD(net.parameters(), lr=0.1),
        optax.sgd(0.1),
    ),
    "nesterov, with decay": (
        lambda t, net: t.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    ),
    "adam": (lambda t, net: t.optim.Adam(net.parameters(), lr=0.1), optax.adam(0.1)),
    "adamw, in groups": (
        lambda t, net: t.optim.AdamW(
            [
                {"params": [net[2].weight, net[2].bias], "lr": 0.05, "weight_decay": 0.3},
                {"params": [net[0].bias], "weight_decay": 0.0},
                {"params": [net[0].weight]},
            ],
            lr=0.1,
            weight_decay=0.1,
        ),
        {
            "2.*": optax.adamw(0.05, weight_decay=0.3),
            "*.bias": optax.adamw(0.1, weight_decay=0.0),
            "*": optax.adamw(0.1, weight_decay=0.1),
        },
    ),
    "rmsprop": (
        lambda t, net: t.optim.RMSprop(net.parameters(), lr=0.01, alpha=0.9),
        optax.rmsprop(0.01, decay=0.9, eps=1e-8, eps_in_sqrt=False),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_torch_with_a_parameter_frozen_on_the_way(name):
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    ours = both(theirs)
    make, transformation = TORCH[name]
    their_optimizer, optimizer = make(torch, theirs), fnn.optim.Optimizer(ours, transformation)
    step = fnn.jit(lambda: (fnn.backward(loss, ours), optimizer.step(), optimizer.zero_grad()))
    for i in range(6):
        if i == 4 and "adam" in name:
            return  # torch counts the steps of each parameter apart
        if i in (2, 4):
            for net in (theirs, ours):
                net[0].bias.requires_grad = i == 4
        step()
        their_optimizer.zero_grad()
        (torch.tanh(theirs(tensor(X))) ** 2).sum().backward()
        their_optimizer.step()
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(parameter.value, other, 2e-5)


# Groups


GROUPS = {"2.*": optax.adam(1e-1), "*.bias": optax.sgd(0.1, momentum=0.9), "1.*": None, "*": optax.adamw(1e-2)}


def test_each_group_is_what_its_transformation_alone_does():
    net = network()
    optimizer = fnn.optim.Optimizer(net, GROUPS)
    names = {"2.*": ["2.weight", "2.bias"], "*.bias": ["0.bias", "1.bias"], "*": ["0.weight"]}
    named = dict(net.named_parameters())
    values = {pattern: {name: named[name].value for name in own} for pattern, own in names.items()}
    states = {pattern: GROUPS[pattern].init(values[pattern]) for pattern in names}
    gamma = net[1].weight.value
    for _ in range(3):
        grads = fnn.grad(loss)(net)
        optimizer.step(grads)
        flat = unnest(grads)
        for pattern, own in names.items():
            updates, states[pattern] = GROUPS[pattern].update(
                {name: flat[name] for name in own}, states[pattern], values[pattern]
            )
            values[pattern] = optax.apply_updates(values[pattern], updates)
            close({name: named[name].value for name in own}, values[pattern])
    np.testing.assert_array_equal(net[1].weight, gamma)
    assert not any("'1'" in key and "bias" not in key for key in optimizer.state_dict())
    assert repr(optimizer) == (
        "Optimizer(Sequential\n  '2.*': 2 parameters, 10 elements\n  '*.bias': 2 parameters, 8 elements\n"
        "  '1.*': frozen, 1 parameters, 4 elements\n  '*': 1 parameters, 12 elements\n)"
    )


def test_a_group_without_a_transformation_needs_no_gradients_and_loses_those_it_has():
    net = network()
    optimizer = fnn.optim.Optimizer(net, {"2.*": optax.sgd(0.1), "*": None})
    before = net[0].weight.value
    grads = fnn.grad(loss)(net)
    optimizer.step({"2": grads["2"]})
    optimizer.step(grads)
    np.testing.assert_array_equal(net[0].weight, before)
    assert net[0].weight.requires_grad
    fnn.backward(loss, net)
    optimizer.zero_grad()
    assert net[0].weight.grad is None


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"2.*": optax.sgd(0.1)}, r"match no pattern: 0\.weight, 0\.bias, 1\.weight, 1\.bias"),
        ({"3.*": optax.sgd(0.1), "x": None, "*": optax.sgd(0.1)}, r"matches first: '3\.\*', 'x'"),
        ({"*": optax.sgd(0.1), "*.bias": optax.sgd(0.2)}, r"matches first: '\*\.bias'.*earlier pattern"),
        ({"*": None}, "empty parameter list"),
        ({}, "match no pattern"),
    ],
)
def test_patterns_that_do_not_fit_are_an_error(groups, message):
    with pytest.raises(ValueError, match=message):
        fnn.optim.Optimizer(network(), groups)


def test_a_group_goes_by_the_first_name_of_a_shared_parameter():
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    net["head"].weight = net["embedding"].weight
    optimizer = fnn.optim.Optimizer(net, {"embedding.*": optax.sgd(1.0), "head.*": None})
    before = net["head"].weight.value
    optimizer.step({"embedding": {"weight": jnp.ones((5, 3))}})
    np.testing.assert_allclose(before - net["head"].weight, np.ones((5, 3)), rtol=1e-5)


def test_a_name_of_a_parameter_may_be_a_pattern():
    net = nn.Linear(2, 1)
    optimizer = fnn.optim.Optimizer(net, {"weight": optax.adam(0.1), "bias": optax.adam(0.1)})
    net.weight.requires_grad = False
    optimizer.step(fnn.grad(lambda net: net(jnp.ones(2)).sum())(net))
    counts = {pattern: optimizer.state.inner_states[pattern].inner_state[0].count for pattern in ("weight", "bias")}
    assert counts == {"weight": 0, "bias": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda net: (net.parameters(), optax.sgd(0.1)), r"not net\.parameters\(\)"),
        (lambda net: (net, optax.adam), "expected an optax transformation.*adam"),
        (lambda net: (net, 0.1), "expected an optax transformation.*float"),
        (lambda net: (net, {"*": 0.1}), "expected an optax transformation.*float"),
    ],
)
def test_arguments_of_the_wrong_type(arguments, message):
    with pytest.raises(TypeError, match=message):
        fnn.optim.Optimizer(*arguments(network()))


def test_a_module_without_trainable_parameters_is_torchs_error():
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        torch.optim.SGD(torch.nn.ReLU().parameters(), lr=0.1)
    for net in (nn.ReLU(), network().requires_grad_(False)):
        with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
            fnn.optim.Optimizer(net, optax.sgd(0.1))


# Frozen and added on the way


STILL = {
    "adamw": optax.adamw(1e-1, weight_decay=0.5),
    "momentum": optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9)),
    "multi-step": optax.MultiSteps(optax.adamw(1e-1, weight_decay=0.5), 2),
    "sm3": optax.sm3(0.1),
    "masked": optax.masked(optax.sgd(0.1, momentum=0.9), {"0": {"weight": True, "bias": False}, "2": True}),
    "groups": {"0.weight": optax.adamw(1e-1), "*": optax.adamw(1e-1, weight_decay=0.5)},
}


def of(optimizer, name):
    """The part of the state that is for a parameter."""
    ending = "".join(f"['{part}']" for part in name.split("."))
    return {key: np.asarray(value) for key, value in optimizer.state_dict().items() if ending in key}


@pytest.mark.parametrize(("name", "wrap"), [("adamw", lambda f: f), *((name, fnn.jit) for name in STILL)])
def test_a_frozen_parameter_and_its_state_do_not_move(name, wrap):
    net = small()
    optimizer = fnn.optim.Optimizer(net, STILL[name])
    step = wrap(lambda: optimizer.step(fnn.grad(loss)(net)))
    step()
    net[0].weight.requires_grad = False
    weight, state, other = net[0].weight.value, of(optimizer, "0.weight"), net[2].weight.value
    for _ in range(2):
        step()
    np.testing.assert_array_equal(net[0].weight, weight)
    jax.tree.map(np.testing.assert_array_equal, of(optimizer, "0.weight"), state)
    assert (net[2].weight != other).any()
    assert state
    net[0].weight.requires_grad = True
    for _ in range(2):
        step()
    assert (net[0].weight != weight).any()


def test_gradients_of_frozen_parameters_are_ignored():
    net = small()
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
    fnn.backward(loss, net)
    grads = fnn.grad(loss)(net)
    net[0].weight.requires_grad = False
    weight = net[0].weight.value
    optimizer.step()
    optimizer.step(grads)
    np.testing.assert_array_equal(net[0].weight, weight)


@pytest.mark.parametrize("wrap", [lambda f: f, fnn.jit], ids=["eager", "fnn.jit"])
def test_parameters_added_later_start_fresh_and_the_others_go_on(wrap):
    net = network()
    net[0].requires_grad_(False)
    optimizer = fnn.optim.Optimizer(net, {"0.*": optax.adam(0.1), "*": optax.adam(0.01)})
    step = wrap(lambda: optimizer.step(fnn.grad(loss)(net)))
    for _ in range(3):
        step()
    net[0].weight.requires_grad = True
    with pytest.raises(ValueError, match=r"not known to the optimizer.*add_parameters.*: 0\.weight"):
        step()
    before = optimizer.state_dict()
    assert optimizer.add_parameters() == ["0.weight"]
    assert optimizer.add_parameters() == []
    after = optimizer.state_dict()
    assert before.keys() < after.keys()
    jax.tree.map(np.testing.assert_array_equal, {key: after[key] for key in before}, before)
    weight, gradient = net[0].weight.value, fnn.grad(loss)(net)["0"]["weight"]
    step()
    # The first step of Adam: its count, which belongs to the group, has not moved as long as nothing of the group did.
    np.testing.assert_allclose(weight - net[0].weight, 0.1 * gradient / (abs(gradient) + 1e-8), rtol=1e-3, atol=1e-6)
    inner = optimizer.state.inner_states
    assert (inner["0.*"].inner_state[0].count, inner["*"].inner_state[0].count) == (1, 4)


def test_a_replaced_module_is_an_error_until_it_is_added():
    net = network()
    optimizer = fnn.optim.Optimizer(net, optax.adam(0.1))
    optimizer.step(fnn.grad(loss)(net))
    kept = of(optimizer, "0.weight")
    net[2] = nn.Linear(4, 5, bias=False)
    with pytest.raises(ValueError, match=r"not known.*2\.weight$"):
        optimizer.step(fnn.grad(loss)(net))
    assert optimizer.add_parameters() == ["2.weight"]
    jax.tree.map(np.testing.assert_array_equal, of(optimizer, "0.weight"), kept)
    assert not np.any(optimizer.state[0].mu["2"]["weight"])
    assert not of(optimizer, "2.bias")
    optimizer.step(fnn.grad(loss)(net))
    assert optimizer.state[0].mu["2"]["weight"].shape == (5, 4)


@pytest.mark.parametrize("transformation", [optax.adam(0.1), {"*.weight": optax.adam(0.1), "*": None}], ids=["one", "groups"])
def test_a_parameter_that_goes_by_another_name_is_still_known(transformation):
    net = network()
    optimizer = fnn.optim.Optimizer(net, transformation)
    optimizer.step(fnn.grad(loss)(net))
    weight = net[2].weight
    before = of(optimizer, "2.weight")
    del net[2].weight
    net[2].register_parameter("weight_orig", weight)
    grads = fnn.grad(lambda net: sum((p**2).sum() for p in net.parameters()))(net)
    value = weight.value
    optimizer.step(grads)
    assert (weight != value).all()
    after = of(optimizer, "2.weight_orig")
    assert len(after) == len(before) == 2
    assert optimizer.add_parameters() == []
    jax.tree.map(np.testing.assert_array_equal, of(optimizer, "2.weight_orig"), after)
    optimizer.step(grads)


def test_what_a_transformation_holds_for_all_parameters_cannot_grow():
    net = network()
    net[0].requires_grad_(False)
    optimizer = fnn.optim.Optimizer(net, optax.flatten(optax.adam(0.1)))
    net[0].requires_grad_(True)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="for all parameters together"):
        optimizer.add_parameters()
    jax.tree.map(np.testing.assert_array_equal, optimizer.state_dict(), before)


def test_an_optimizer_made_inside_a_trace_is_an_error():
    net = network()
    with pytest.raises(fnn.StateError, match="inside a JAX transformation"):
        fnn.jit(lambda: fnn.optim.Optimizer(net, optax.adam(0.1)).step(fnn.grad(loss)(net)))()


# State


INJECTED = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, weight_decay=0.01)


@pytest.mark.parametrize("transformation", [INJECTED, {"2.*": INJECTED, "*": optax.sgd(0.1)}], ids=["one", "groups"])
def test_hyperparameters_can_be_read_and_set_between_compiled_steps(transformation):
    net = small()
    optimizer = fnn.optim.Optimizer(net, transformation)
    traces = []

    @fnn.jit
    def step():
        traces.append(1)
        optimizer.step(fnn.grad(loss)(net))

    step()
    np.testing.assert_allclose(optax.tree.get(optimizer.state, "learning_rate"), 0.1)
    optimizer.state = optax.tree.set(optimizer.state, learning_rate=0)
    optimizer.state = optax.tree.set(optimizer.state, weight_decay=np.float64(0))
    before = net[2].weight.value
    step()
    np.testing.assert_array_equal(net[2].weight, before)
    optimizer.state = optax.tree.set(optimizer.state, learning_rate=jnp.array(0.1))
    step()
    assert (net[2].weight != before).all()
    assert len(traces) == 1


def test_state_can_be_set_inside_a_compiled_function():
    net = nn.Linear(3, 1)
    optimizer = fnn.optim.Optimizer(net, INJECTED)

    @fnn.jit
    def step(rate):
        optimizer.state = optax.tree.set(optimizer.state, learning_rate=rate)
        optimizer.step(fnn.grad(loss)(net))

    step(0.5)
    np.testing.assert_allclose(optimizer.state.hyperparams["learning_rate"], 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s[0],), "another structure"),
        (lambda s: (s[0]._replace(count=jnp.zeros(3, int)), s[1]), r"count: expected shape \(\), got \(3,\)"),
        (lambda s: (s[0]._replace(count=0.5), s[1]), r"count: expected dtype int32, got float32"),
        (lambda s: (s[0]._replace(count=1 << 40), s[1]), r"count: .* does not fit int32"),
        (lambda s: (s[0]._replace(count="many"), s[1]), r"count: "),
    ],
)
def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing(change, message):
    optimizer = fnn.optim.Optimizer(network(), optax.adam(0.1))
    before = optimizer.state
    with pytest.raises(ValueError, match=message):
        optimizer.state = change(before)
    jax.tree.map(np.testing.assert_array_equal, optimizer.state, before)


SCHEDULE = optax.linear_schedule(1e-1, 1e-2, 15)
RESUMED = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(SCHEDULE)),
    "groups": lambda: {"2.*": optax.sgd(SCHEDULE, momentum=0.9), "*.bias": None, "*": INJECTED},
    "multi-step": lambda: optax.MultiSteps(optax.adam(SCHEDULE), 3),
    "hyperparameters": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=SCHEDULE, weight_decay=0.1),
    "noise": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", RESUMED)
def test_training_resumes_bit_for_bit(name):
    def objects():
        net = small()
        optimizer = fnn.optim.Optimizer(net, RESUMED[name]())
        return net, optimizer, fnn.jit(lambda: optimizer.step(fnn.grad(loss)(net)))

    net, optimizer, step = objects()
    for _ in range(10):
        step()
    saved = net.state_dict(), optimizer.state_dict()
    saved = jax.tree.map(np.asarray, dict(saved[0])), jax.tree.map(np.asarray, saved[1])
    for _ in range(10):
        step()
    new_net, new_optimizer, new_step = objects()
    if name == "noise":
        new_step()  # another key
    new_net.load_state_dict(saved[0])
    new_optimizer.load_state_dict(pickle.loads(pickle.dumps(saved[1])))
    assert {k: v.dtype for k, v in new_optimizer.state_dict().items()} == {k: v.dtype for k, v in saved[1].items()}
    for _ in range(10):
        new_step()
    jax.tree.map(np.testing.assert_array_equal, fnn.split(new_net), fnn.split(net))
    jax.tree.map(np.testing.assert_array_equal, new_optimizer.state_dict(), optimizer.state_dict())


def test_training_resumes_bit_for_bit_without_compilation():
    nets = small(), small()
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (fnn.optim.Optimizer(net, RESUMED["chain"]()) for net in nets)
    for _ in range(2):
        first.step(fnn.grad(loss)(nets[0]))
    nets[1].load_state_dict(nets[0].state_dict())
    second.load_state_dict(first.state_dict())
    for net, optimizer in zip(nets, (first, second), strict=True):
        for _ in range(2):
            optimizer.step(fnn.grad(loss)(net))
    jax.tree.map(np.testing.assert_array_equal, fnn.split(nets[0]), fnn.split(nets[1]))


def test_all_that_is_wrong_in_a_state_dict_is_listed():
    optimizer = fnn.optim.Optimizer(nn.Linear(2, 1), optax.adam(0.1))
    state = optimizer.state_dict()
    wrong = {key: value for key, value in state.items() if "nu['bias']" not in key}
    wrong |= {"more": 1, "[0].mu['bias']": jnp.ones(7), "[0].count": jnp.ones(())}
    with pytest.raises(ValueError, match="does not match") as raised:
        optimizer.load_state_dict(wrong)
    for part in (
        "missing [0].nu['bias']",
        "unexpected more",
        "[0].mu['bias']: expected shape (1,), got (7,)",
        "[0].count: expected dtype int32, got float32",
    ):
        assert part in str(raised.value)
    with pytest.raises(TypeError, match="dict-like"):
        optimizer.load_state_dict([1])


def test_an_optimizer_copied_with_its_module_goes_on_alone():
    net = network()
    optimizer = fnn.optim.Optimizer(net, GROUPS)
    optimizer.step(fnn.grad(loss)(net))
    twin, other = copy.deepcopy((net, optimizer))
    assert other.module is twin
    before = fnn.split(net)[0]
    other.step(fnn.grad(loss)(twin))
    jax.tree.map(np.testing.assert_array_equal, fnn.split(net)[0], before)
    optimizer.step(fnn.grad(loss)(net))
    jax.tree.map(np.testing.assert_array_equal, (fnn.split(net), optimizer.state), (fnn.split(twin), other.state))


# Ways to step


def test_gradients_accumulate_by_backward_and_by_multi_steps():
    nets = small(), small()
    nets[1].load_state_dict(nets[0].state_dict())
    first = fnn.optim.Optimizer(nets[0], optax.adam(0.1))
    second = fnn.optim.Optimizer(nets[1], optax.MultiSteps(optax.adam(0.1), 2))

    @fnn.jit
    def accumulate(scale):
        fnn.backward(lambda net: 0.5 * scale * loss(net), nets[0])
        second.step(fnn.grad(lambda net: scale * loss(net))(nets[1]))

    for _ in range(2):
        accumulate(1.0)
        accumulate(3.0)
        first.step()
        first.zero_grad()
        close(fnn.split(nets[0]), fnn.split(nets[1]))


@pytest.mark.parametrize(("wrap", "groups"), [(lambda f: f, False), (fnn.jit, True)], ids=["eager", "groups, fnn.jit"])
def test_a_line_search_tries_parameters_in_the_module(wrap, groups):
    net, norm = nn.Linear(3, 1), nn.BatchNorm1d(3, affine=False)
    model = nn.Sequential(norm, net)
    transformation = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=5))
    optimizer = fnn.optim.Optimizer(model, {"1.weight": transformation, "*": None} if groups else transformation)
    seen = []

    def loss(model):
        return ((model(X) - jnp.array([[1.0], [2.0]])) ** 2).mean()

    def through_params(params):
        seen.append(jax.tree.map(jnp.shape, params))
        return loss(model)

    @wrap
    def step():
        value, grads = fnn.value_and_grad(loss)(model)
        optimizer.step(grads, value=value, grad=grads, value_fn=through_params)
        return value

    bias, before = net.bias.value, step()
    assert loss(model) < before
    assert ((net.bias == bias) == groups).all()
    assert seen[0] == {"1": {"weight": (1, 3), "bias": (1,)}}
    assert norm.num_batches_tracked == 2  # of the gradient, and of the line before
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that a trace keeps a value
        net.weight.data.zero_()
        step()


def test_lbfgs_is_that_of_optax():
    net = nn.Linear(3, 1)
    params, _ = fnn.split(net)
    apply = fnn.pure(net).apply
    value_fn = lambda p: ((apply(p, X) - 1) ** 2).mean()  # noqa: E731
    transformation = optax.lbfgs()
    optimizer = fnn.optim.Optimizer(net, transformation)

    @jax.jit
    def expected(params, state):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = transformation.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    @fnn.jit
    def step():
        value, grads = fnn.value_and_grad(lambda net: ((net(X) - 1) ** 2).mean())(net)
        optimizer.step(grads, value=value, grad=grads, value_fn=value_fn)

    state = transformation.init(params)
    for _ in range(3):
        step()
        params, state = expected(params, state)
        close(fnn.split(net)[0], params)


def test_the_rate_falls_on_a_plateau():
    net = nn.Linear(3, 1)
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    optimizer = fnn.optim.Optimizer(net, {"*": optax.chain(optax.sgd(0.0), plateau)})
    step = fnn.jit(lambda: optimizer.step(fnn.grad(loss)(net), value=1.0))
    for _ in range(4):
        step()
    assert optax.tree.get(optimizer.state, "scale") < 1


def test_many_compiled_steps_are_one_compilation_and_may_donate():
    fnn.manual_seed(0)
    net = small()
    optimizer = fnn.optim.Optimizer(net, {"2.*": INJECTED, "*": optax.adamw(SCHEDULE)})
    traces = []

    def step(x):
        traces.append(1)
        value, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).sum())(net)
        optimizer.step(grads)
        return value

    step = fnn.jit(step, donate=True)
    step(X)
    count = len(traces)
    old = net[0].weight.value
    values = [step(X) for _ in range(20)]
    assert len(traces) == count
    assert values[-1] < values[0]
    assert old.is_deleted()


@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_a_step_keeps_shardings(axes):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(getattr(jax.sharding.AxisType, axes),))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    net = nn.Linear(3, 2).to(sharding)
    optimizer = fnn.optim.Optimizer(net, {"weight": optax.adam(0.1), "*": optax.MultiSteps(optax.adam(0.1), 2)})
    with jax.set_mesh(mesh):
        step = fnn.jit(lambda x: optimizer.step(fnn.grad(lambda net: (net(x) ** 2).sum())(net)))
        for _ in range(2):
            step(jnp.ones((4, 3)))
    optimizer.load_state_dict(jax.tree.map(np.asarray, optimizer.state_dict()))
    arrays = [*net.parameters(), *(value for key, value in optimizer.state_dict().items() if "count" not in key)]
    placed = [array.sharding.is_equivalent_to(sharding, array.ndim) for array in arrays if array.ndim]
    assert len(placed) == 7
    assert all(placed)


def test_a_closure_is_refused():
    optimizer = fnn.optim.Optimizer(network(), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"got function.*there are no closures"):
        optimizer.step(lambda: 0.0)
