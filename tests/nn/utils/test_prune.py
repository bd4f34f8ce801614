"""Pruning, with torch's as the oracle."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch.nn.utils.prune as their_prune
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_refused, integers, normal, tensor, torch

import fnn
import fnn.nn as nn
from fnn.nn.utils import prune
from fnn.nn.utils.smallest import smallest

X = normal(2, 5)


def pair(weight):
    """A linear layer of each library with the same weight."""
    weight = np.asarray(weight)
    layers = nn.Linear(*weight.shape[::-1]), torch.nn.Linear(*weight.shape[::-1])
    layers[0].weight.data = weight
    layers[1].weight.data = tensor(weight)
    layers[0].bias.data = layers[1].bias.detach().numpy()
    return layers


def apply(calls, layers, arrays=(jnp.asarray, tensor)):
    for call in calls:
        for layer, lib, array in zip(layers, (prune, their_prune), arrays, strict=True):
            assert call(lib, layer, array) is layer


def assert_same(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value, err_msg=name)
    np.testing.assert_array_equal(ours.weight, theirs.weight.detach())
    assert [type(hook).__name__ for hook in ours._forward_pre_hooks.values()] == [
        type(hook).__name__ for hook in theirs._forward_pre_hooks.values()
    ]
    assert prune.is_pruned(ours) == their_prune.is_pruned(theirs)


SCORES = normal(4, 5)
MASK = (np.arange(20).reshape(4, 5) % 7 > 1).astype(np.int64)
SEQUENCES = {
    "identity": [lambda lib, m, t: lib.identity(m, "weight")],
    "a share": [lambda lib, m, t: lib.l1_unstructured(m, "weight", amount=0.3)],
    "a number": [lambda lib, m, t: lib.l1_unstructured(m, "weight", 7)],
    "all": [lambda lib, m, t: lib.l1_unstructured(m, "weight", 1.0)],
    "nothing": [
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 0),
        lambda lib, m, t: lib.ln_structured(m, "weight", 0, 2, 0),
    ],
    "scores": [lambda lib, m, t: lib.l1_unstructured(m, "weight", 0.5, importance_scores=t(SCORES))],
    "several": [
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 0.3),
        lambda lib, m, t: lib.ln_structured(m, "weight", 0.5, n=1, dim=0),
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 2),
        lambda lib, m, t: lib.custom_from_mask(m, "weight", t(MASK)),
        lambda lib, m, t: lib.ln_structured(m, "weight", 1, n=2, dim=-1),
        lambda lib, m, t: lib.identity(m, "bias"),
    ],
    "a mask": [lambda lib, m, t: lib.custom_from_mask(m, "weight", t(MASK))],
    "removed": [
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 0.3),
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 0.3),
        lambda lib, m, t: lib.remove(m, "weight"),
    ],
    "again": [
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 0.3),
        lambda lib, m, t: lib.remove(m, "weight"),
        lambda lib, m, t: lib.l1_unstructured(m, "weight", 0.5),
    ],
    **{
        f"norm {n}": [lambda lib, m, t, n=n: lib.ln_structured(m, "weight", 0.5, n=n, dim=1)]
        for n in (2, 1, 0, 3.5, float("inf"), -float("inf"), "fro")
    },
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("ties", [False, True])
def test_sequences_of_calls_as_in_torch(name, ties):
    layers = pair(integers(3, 4, 5).astype(np.float32) - 1 if ties else normal(4, 5))
    apply(SEQUENCES[name], layers)
    assert_same(*layers)


@settings(max_examples=60)
@given(values=st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, np.inf, np.nan]), min_size=1, max_size=150), share=st.floats(0, 1))
def test_ties_are_broken_as_in_torch(values, share):
    values = np.array(values, np.float32)
    for count in {round(share * len(values)), len(values) // 64}:
        chosen = np.zeros(len(values), bool)
        chosen[torch.topk(torch.tensor(values), count, largest=False).indices] = True
        np.testing.assert_array_equal(smallest(values, count), chosen)


def test_ties_where_quickselect_is_slow():
    half = 100  # orders that median-of-three partitions badly, so that the heap takes over
    killer = [0.0] * 2 * half
    for i in range(1, half + 1, 2):
        killer[i - 1], killer[i] = i, half + i
    for i in range(1, half + 1):
        killer[half + i - 1] = 2.0 * i
    values = np.array(killer * 2, np.float32)
    for count in (half, 2 * half - 1, 3 * half):
        expected = torch.topk(torch.tensor(values), count, largest=False).indices.sort().values
        np.testing.assert_array_equal(np.flatnonzero(smallest(values, count)), expected)


def test_many_ties_go_to_the_first(monkeypatch):
    monkeypatch.setattr("fnn.nn.utils.smallest._MOST", 5)
    assert np.flatnonzero(smallest(np.ones(9), 3)).tolist() == [0, 1, 2]


def test_random_pruning_prunes_as_many_as_torchs():
    for call in (
        lambda lib, m, t: lib.random_unstructured(m, "weight", 0.3),
        lambda lib, m, t: lib.random_structured(m, "weight", 2, dim=1),
    ):
        layers = pair(normal(4, 5))
        apply([call], layers)
        assert layers[0].weight_mask.sum() == layers[1].weight_mask.sum().item()
    assert sorted(layers[0].weight_mask.sum(0).tolist()) == [0, 0, 4, 4, 4]
    layer = nn.Linear(4, 5)
    fnn.manual_seed(0)
    first = prune.random_unstructured(copy.deepcopy(layer), "weight", 0.5).weight_mask.tolist()
    assert prune.random_unstructured(copy.deepcopy(layer), "weight", 0.5).weight_mask.tolist() != first
    fnn.manual_seed(0)
    assert prune.random_unstructured(layer, "weight", 0.5).weight_mask.tolist() == first


def test_global_pruning_as_in_torch():
    weights = normal(4, 5), normal(3, 4)
    for scores in (None, SCORES):
        nets = []
        for lib, module, array in ((prune, nn, jnp.asarray), (their_prune, torch.nn, tensor)):
            net = module.Sequential(module.Linear(5, 4), module.Linear(4, 3))
            for layer, weight in zip(net, weights, strict=True):
                layer.weight.data = array(weight)
            lib.l1_unstructured(net[0], "weight", 3)
            pairs = ((net[0], "weight"), (net[1], "weight"))
            given = None if scores is None else {pairs[0]: array(scores)}
            lib.global_unstructured(pairs, lib.L1Unstructured, importance_scores=given, amount=0.4)
            nets.append(net)
        for ours, theirs in zip(*nets, strict=True):
            np.testing.assert_array_equal(ours.weight_mask, theirs.weight_mask)
            np.testing.assert_array_equal(ours.weight, theirs.weight.detach())


def custom(lib, kind="unstructured"):
    class Custom(lib.BasePruningMethod):
        PRUNING_TYPE = kind

        def compute_mask(self, t, default_mask):
            return default_mask * (abs(t) > 0.5)

    return Custom


def test_methods_of_users_and_containers_as_in_torch():
    layers = pair(normal(4, 5))
    methods = [custom(lib).apply(layer, "weight") for lib, layer in zip((prune, their_prune), layers, strict=True)]
    assert_same(*layers)
    np.testing.assert_array_equal(methods[0].prune(SCORES), methods[1].prune(tensor(SCORES)))
    np.testing.assert_array_equal(
        prune.L1Unstructured(3).prune(SCORES, default_mask=MASK, importance_scores=normal(4, 5) * 0 + SCORES),
        their_prune.L1Unstructured(3).prune(tensor(SCORES), default_mask=tensor(MASK)),
    )
    [hook] = layers[0]._forward_pre_hooks.values()
    assert hook is methods[0]
    custom(prune, "global").apply(layers[0], "weight")
    [container] = layers[0]._forward_pre_hooks.values()
    assert (len(container), container[0], [type(m).__name__ for m in container]) == (2, hook, ["Custom", "Custom"])


@pytest.mark.parametrize(
    "call",
    [
        lambda p, lib, t: p.l1_unstructured(lib.Linear(2, 2), "weight", amount=-1),
        lambda p, lib, t: p.l1_unstructured(lib.Linear(2, 2), "weight", amount=1.5),
        lambda p, lib, t: p.l1_unstructured(lib.Linear(2, 2), "weight", amount=5),
        lambda p, lib, t: p.random_unstructured(lib.Linear(2, 2), "weight", amount="all"),
        lambda p, lib, t: p.random_structured(lib.Linear(2, 2), "bias", 1, 0),
        lambda p, lib, t: p.random_structured(lib.Linear(2, 2), "weight", 1, 2),
        lambda p, lib, t: p.ln_structured(lib.Linear(2, 2), "weight", 3, 2, 0),
        lambda p, lib, t: p.ln_structured(lib.Linear(2, 2), "weight", 1, 2, -3),
        lambda p, lib, t: p.ln_structured(lib.Linear(2, 2), "weight", 1, "nuc", 0),
        lambda p, lib, t: p.ln_structured(lib.Conv2d(2, 2, 2), "weight", 1, "fro", 0),
        lambda p, lib, t: p.identity(lib.utils.spectral_norm(lib.Linear(2, 2)), "weight"),
        lambda p, lib, t: p.ln_structured(p.identity(lib.Linear(2, 2), "bias"), "bias", 1, 2, 1),
        lambda p, lib, t: p.l1_unstructured(lib.Linear(2, 2), "weight", 1, importance_scores=t(X)),
        lambda p, lib, t: p.L1Unstructured(1).prune(t(X), importance_scores=t(SCORES)),
        lambda p, lib, t: p.custom_from_mask(lib.Linear(2, 2), "weight", t(MASK)),
        lambda p, lib, t: p.identity(lib.Linear(2, 2), "missing"),
        lambda p, lib, t: p.identity(lib.BatchNorm1d(2), "running_mean"),
        lambda p, lib, t: p.remove(lib.Linear(2, 2), "weight"),
        lambda p, lib, t: p.remove(p.identity(lib.Linear(2, 2), "weight"), "bias"),
        lambda p, lib, t: p.global_unstructured(3, p.L1Unstructured, amount=1),
        lambda p, lib, t: p.global_unstructured([(lib.Linear(2, 2), "weight")], p.L1Unstructured, [1], amount=1),
        lambda p, lib, t: p.global_unstructured([(lib.Linear(2, 2), "weight")], p.LnStructured, amount=1, n=2),
        lambda p, lib, t: p.PruningContainer().add_pruning_method(3),
        lambda p, lib, t: p.PruningContainer(
            *p.identity(lib.Linear(2, 2), "weight")._forward_pre_hooks.values()
        ).add_pruning_method(*p.identity(lib.Linear(2, 2), "bias")._forward_pre_hooks.values()),
        lambda p, lib, t: custom(p, "other").apply(p.identity(lib.Linear(2, 2), "weight"), "weight"),
        lambda p, lib, t: custom(p, "structured").apply(p.identity(lib.Linear(2, 2), "weight"), "weight"),
    ],
)
def test_mistakes_are_torchs_errors(call):
    assert_refused(lambda lib, t: call(prune if lib is nn else their_prune, lib, t))


def test_a_failure_leaves_the_module_as_it_was():
    layer = nn.Linear(5, 4)
    with pytest.raises(ValueError, match="should be smaller"):
        prune.l1_unstructured(layer, "weight", 21)
    assert list(layer.state_dict()) == ["weight", "bias"]
    prune.l1_unstructured(layer, "weight", 10)
    prune.identity(layer, "weight")
    weight = layer.weight
    with pytest.raises(ValueError, match="should be smaller"):
        prune.l1_unstructured(layer, "weight", 11)
    np.testing.assert_array_equal(layer.weight, weight)
    [container] = layer._forward_pre_hooks.values()
    assert len(container) == 2


def test_a_compiled_step_trains_what_is_kept_and_follows_pruning_and_removal():
    layer = nn.Linear(5, 4)
    prune.l1_unstructured(layer, "weight", 4)
    parameter = layer.weight_orig
    optimizer = fnn.optim.Optimizer(layer, optax.sgd(0.1))
    traces = []

    @fnn.jit
    def step(x):
        traces.append(1)
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(layer)
        optimizer.step(grads)
        return loss, grads

    before = np.asarray(layer.weight_orig)
    loss, grads = step(X)
    gone = np.asarray(layer.weight_mask) == 0
    np.testing.assert_array_equal(np.asarray(grads["weight_orig"])[gone], 0)
    assert (np.asarray(layer.weight_orig) != before).any()
    assert step(X)[0] < loss
    for number in range(5, 8):
        prune.l1_unstructured(layer, "weight", 1)
        _, grads = step(X)
        assert (np.asarray(grads["weight_orig"]) == 0).sum() == number
    assert len(traces) == 2  # a method became a container; from then on the mask is an input like others
    run = fnn.jit(layer)
    out = run(X)
    prune.remove(layer, "weight")
    assert layer.weight is parameter
    np.testing.assert_allclose(run(X), out, rtol=1e-6)
    prune.custom_from_mask(layer, "weight", jnp.zeros((4, 5)))
    np.testing.assert_allclose(run(X), jnp.broadcast_to(layer.bias.value, (2, 4)), rtol=1e-6)


def test_through_pure_and_in_copies():
    layer = copy.deepcopy(prune.l1_unstructured(nn.Linear(5, 4), "weight", 0.5))
    init, apply = fnn.pure(layer)
    params, state = init(0)
    assert (sorted(params), sorted(state)) == (["bias", "weight_orig"], ["weight_mask"])
    assert not np.array_equal(params["weight_orig"], layer.weight_orig)
    np.testing.assert_array_equal(state["weight_mask"], layer.weight_mask)
    grads = jax.grad(lambda params: apply(params, X, state=state)[0].sum())(params)
    np.testing.assert_array_equal(grads["weight_orig"] == 0, state["weight_mask"] == 0)
    prune.remove(layer, "weight")  # does not change the pair
    np.testing.assert_allclose(
        apply(params, X, state=state)[0], X @ (params["weight_orig"] * state["weight_mask"]).T + params["bias"], rtol=1e-5
    )
    with pytest.raises(fnn.scope.StateError, match="between the calls"):
        fnn.jit(lambda: prune.l1_unstructured(layer, "weight", 1) and None)()
