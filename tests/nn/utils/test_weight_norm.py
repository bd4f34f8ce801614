"""The older weight_norm, with torch's as the oracle."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_refused, normal, torch

import fnn
import fnn.nn as nn
from fnn.nn.utils import remove_weight_norm, weight_norm
from fnn.nn.utils.weight_norm import WeightNorm

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
X = normal(2, 3)

LAYERS = [
    (lambda lib: lib.utils.weight_norm(lib.Linear(3, 4)), (2, 3)),
    (lambda lib: lib.utils.weight_norm(lib.Linear(3, 4), dim=None), (2, 3)),
    (lambda lib: lib.utils.weight_norm(lib.Linear(3, 4), "bias"), (2, 3)),
    (lambda lib: lib.utils.weight_norm(lib.Conv1d(3, 4, 2), dim=2), (1, 3, 4)),
    (lambda lib: lib.utils.weight_norm(lib.ConvTranspose1d(3, 4, 2), dim=1), (1, 3, 2)),
    (lambda lib: lib.utils.weight_norm(lib.GRU(3, 2), "weight_hh_l0", dim=-2), (4, 3)),
    (lambda lib: lib.utils.spectral_norm(lib.utils.weight_norm(lib.Linear(3, 4)), "weight_v").eval(), (2, 3)),
]


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_values_gradients_and_names_as_in_torch(number):
    build, shape = LAYERS[number]
    ours, theirs = build(nn), build(torch.nn)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict())
    x = normal(*shape)
    theirs(torch.tensor(x))
    params, state = fnn.split(ours)
    _, apply = fnn.pure(ours)
    out = jax.jit(lambda params: apply(params, x, state=state)[0])(params)
    expected = theirs(torch.tensor(x))
    pick = (lambda out: out[0]) if isinstance(expected, tuple) else lambda out: out
    np.testing.assert_allclose(pick(out), pick(expected).detach(), rtol=1e-4, atol=1e-5)
    pick(expected).square().sum().backward()
    grads = fnn.tree.unnest(fnn.grad(lambda net: (pick(net(x)) ** 2).sum())(ours))
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits(dtype):
    ours, theirs = nn.Linear(3, 4).to(jnp.dtype(dtype)), torch.nn.Linear(3, 4).to(getattr(torch, dtype))
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = weight_norm(ours), torch.nn.utils.weight_norm(theirs)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(np.asarray(ours.state_dict()[name], np.float32), value.float(), rtol=1e-2)
    assert ours(jnp.asarray(X, dtype)).dtype == dtype


def test_warns_as_torch():
    message = r"nn.utils.weight_norm` is deprecated in favor of .*parametrizations.weight_norm"
    for lib in (torch.nn, nn):
        with pytest.warns(FutureWarning, match=message):
            layer = lib.utils.weight_norm(lib.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remove_weight_norm(layer)


@pytest.mark.parametrize(
    "call",
    [
        lambda lib, t: lib.utils.weight_norm(lib.utils.weight_norm(lib.Linear(2, 2))),
        lambda lib, t: lib.utils.weight_norm(lib.Linear(2, 2), "missing"),
        lambda lib, t: lib.utils.weight_norm(lib.Linear(2, 2, bias=False), "bias"),
        lambda lib, t: lib.utils.weight_norm(lib.Linear(2, 2), dim=2),
        lambda lib, t: lib.utils.weight_norm(lib.LazyLinear(2)),
        lambda lib, t: lib.utils.weight_norm(lib.BatchNorm1d(2), "running_mean"),
        lambda lib, t: lib.utils.remove_weight_norm(lib.Linear(2, 2)),
        lambda lib, t: lib.utils.remove_weight_norm(lib.utils.weight_norm(lib.Linear(2, 2)), "bias"),
    ],
)
def test_mistakes_are_torchs_errors(call):
    assert_refused(call)


def test_a_failure_leaves_the_module_as_it_was():
    layer = nn.Linear(2, 2)
    with pytest.raises(IndexError):
        weight_norm(layer, dim=2)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_the_weight_follows_its_parts_and_what_is_set_lasts_until_the_next_forward():
    layer = weight_norm(nn.Linear(3, 4))
    before = layer.weight
    layer.weight_g.data *= 2
    np.testing.assert_allclose(layer.weight, 2 * before, rtol=1e-6)
    layer.weight = jnp.zeros((4, 3))
    assert not layer.weight.any()
    assert layer(X).any()
    np.testing.assert_allclose(layer.weight, 2 * before, rtol=1e-6)
    with pytest.raises(KeyError, match="attribute 'weight' already exists"):  # torch refuses it at the next forward
        layer.weight = nn.Parameter(jnp.zeros((4, 3)))


def test_removing_keeps_the_value_and_the_hook_is_gone():
    layer = weight_norm(nn.Linear(3, 4))
    layer.weight_g.data *= 3
    weight = layer.weight
    assert remove_weight_norm(layer) is layer
    assert not layer._forward_pre_hooks
    assert [name for name, _ in layer.named_parameters()] == ["bias", "weight"]
    np.testing.assert_array_equal(layer.weight, weight)


def test_the_hook_is_found_among_the_hooks_and_in_copies():
    layer = copy.deepcopy(weight_norm(nn.Linear(3, 4)))
    [hook] = layer._forward_pre_hooks.values()
    assert isinstance(hook, WeightNorm)
    assert (hook.name, hook.dim) == ("weight", 0)
    np.testing.assert_array_equal(hook.compute_weight(layer), layer.weight)
    twin = copy.deepcopy(layer)
    twin.weight_g.data.zero_()
    assert not twin.weight.any()
    assert layer.weight.any()


def test_nothing_is_drawn_before_it_is_needed_and_init_draws_anew():
    layer = weight_norm(nn.Linear(10**5, 10**6))
    assert layer.weight_v._value is None
    assert layer.weight_g._value is None
    layer = weight_norm(nn.Linear(3, 4))
    init, apply = fnn.pure(layer)
    (one, _), (other, _) = init(0), init(1)
    assert jax.tree.map(jnp.shape, one) == {"bias": (4,), "weight_g": (4, 1), "weight_v": (4, 3)}
    assert not np.array_equal(one["weight_v"], other["weight_v"])
    np.testing.assert_allclose(layer.weight_g, jnp.linalg.norm(layer.weight_v.value, axis=1, keepdims=True), rtol=1e-6)
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), one, other)
    np.testing.assert_allclose(jax.vmap(lambda params: apply(params, X))(stacked)[1], apply(other, X), rtol=1e-5)


def test_a_compiled_step_trains_the_parts_and_follows_removal():
    layer = weight_norm(nn.Linear(3, 1))
    optimizer = fnn.optim.Optimizer(layer, optax.sgd(0.1))
    traces = []

    @fnn.jit
    def step(x):
        traces.append(1)
        loss, grads = fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(layer)
        optimizer.step(grads)
        return loss

    run = fnn.jit(layer)
    losses = [step(X) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert len(traces) == 1
    out = run(X)
    np.testing.assert_allclose(out, layer(X), rtol=1e-6, atol=1e-6)
    remove_weight_norm(layer)
    np.testing.assert_allclose(run(X), out, rtol=1e-5, atol=1e-6)
    layer.weight.data.zero_()
    np.testing.assert_allclose(run(X), jnp.broadcast_to(layer.bias.value, (2, 1)), rtol=1e-6)
    weight_norm(layer, "bias", dim=None)
    layer.bias_g.data.fill_(2.0)
    np.testing.assert_allclose(abs(run(X)), np.full((2, 1), 2.0), rtol=1e-6)
