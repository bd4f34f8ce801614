"""The older spectral_norm, with torch's as the oracle."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_refused, normal, torch

import fnn
import fnn.nn as nn
from fnn.nn.utils import remove_spectral_norm, spectral_norm
from fnn.nn.utils.spectral_norm import SpectralNorm, SpectralNormStateDictHook

X = normal(2, 3)

LAYERS = [
    (lambda lib: lib.utils.spectral_norm(lib.Linear(3, 4)), (2, 3)),
    (lambda lib: lib.utils.spectral_norm(lib.Linear(3, 4), "bias", n_power_iterations=2), (2, 3)),
    (lambda lib: lib.utils.spectral_norm(lib.ConvTranspose1d(3, 4, 2), n_power_iterations=3, eps=1e-3), (1, 3, 2)),
    (lambda lib: lib.utils.spectral_norm(lib.Conv1d(3, 4, 2), dim=2), (1, 3, 4)),
]


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_two_steps_of_training_and_an_evaluation_as_in_torch(number):
    build, shape = LAYERS[number]
    ours, theirs = build(nn), build(torch.nn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = normal(*shape)
    step = fnn.value_and_grad(lambda net: (net(x) ** 2).sum())
    if len(shape) > 2:
        step = fnn.jit(step)
    for _ in range(2):
        loss = theirs(torch.tensor(x)).square().sum()
        theirs.zero_grad()
        loss.backward()
        value, grads = step(ours)
        np.testing.assert_allclose(value, loss.item(), rtol=1e-4)
        for name, parameter in theirs.named_parameters():
            np.testing.assert_allclose(grads[name], parameter.grad, rtol=1e-3, atol=1e-4, err_msg=name)
        for name, buffer in theirs.named_buffers():
            np.testing.assert_allclose(getattr(ours, name), buffer, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach(), rtol=1e-4, atol=1e-5)
    for name, buffer in theirs.named_buffers():
        np.testing.assert_allclose(getattr(ours, name), buffer, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "call",
    [
        lambda lib, t: lib.utils.spectral_norm(lib.utils.spectral_norm(lib.Linear(2, 2))),
        lambda lib, t: lib.utils.spectral_norm(lib.Linear(2, 2), "missing"),
        lambda lib, t: lib.utils.spectral_norm(lib.Linear(2, 2, bias=False), "bias"),
        lambda lib, t: lib.utils.spectral_norm(lib.Linear(2, 2), n_power_iterations=0),
        lambda lib, t: lib.utils.spectral_norm(lib.Linear(2, 2), dim=2),
        lambda lib, t: lib.utils.spectral_norm(lib.Linear(2, 2), dim=-1),
        lambda lib, t: lib.utils.spectral_norm(lib.LazyLinear(2)),
        lambda lib, t: lib.utils.remove_spectral_norm(lib.Linear(2, 2)),
    ],
)
def test_mistakes_are_torchs_errors(call):
    assert_refused(call)


@pytest.mark.parametrize("lib", [nn, torch.nn], ids=["fnn", "torch"])
def test_before_the_first_forward_the_weight_can_be_initialised(lib):
    layer = lib.utils.spectral_norm(lib.Linear(3, 4))
    lib.init.constant_(layer.weight.data, 2.0)
    assert float(layer.weight_orig.min()) == 2.0
    x = torch.tensor(X) if lib is torch.nn else X
    layer(x)
    assert float(layer.weight_orig.min()) == 2.0
    layer(x)
    assert float(layer.weight.max()) < 1.0


def test_the_estimate_is_the_spectral_norm_after_many_iterations():
    layer = spectral_norm(nn.Linear(3, 4), n_power_iterations=10)
    layer.weight.data = normal(4, 3) * np.array([1.0, 2.0, 9.0], np.float32)
    layer(X)
    np.testing.assert_allclose(jnp.linalg.norm(layer.weight, 2), 1.0, rtol=1e-4)


def test_a_compiled_forward_compiles_once_and_writes_only_in_training_mode():
    layer, traces = spectral_norm(nn.Linear(3, 4)), []
    run = fnn.jit(lambda x: (traces.append(1), layer(x))[1])
    before = np.asarray(layer.weight_u)
    for _ in range(3):
        run(X)
    assert len(traces) == 1
    after = np.asarray(layer.weight_u)
    assert not np.array_equal(before, after)
    layer.eval()
    out = run(X)
    np.testing.assert_array_equal(layer.weight_u, after)
    remove_spectral_norm(layer)
    np.testing.assert_allclose(run(X), out, rtol=1e-5, atol=1e-6)
    assert len(traces) == 3


def test_a_failing_forward_changes_nothing():
    layer = spectral_norm(nn.Linear(3, 4))
    before = np.asarray(layer.weight_u)
    with pytest.raises(RuntimeError, match="expected an input"):
        fnn.jit(layer)(jnp.ones((2, 5)))
    np.testing.assert_array_equal(layer.weight_u, before)
    assert layer.weight is layer.weight_orig


def test_through_pure():
    layer = spectral_norm(nn.Linear(3, 4))
    init, apply = fnn.pure(layer)
    params, state = init(0)
    assert sorted(params) == ["bias", "weight_orig"]
    assert sorted(state) == ["weight_u", "weight_v"]
    np.testing.assert_allclose(jnp.linalg.norm(state["weight_u"]), 1.0, rtol=1e-6)
    out, same = jax.jit(lambda params, state: apply(params, X, state=state))(params, state)
    np.testing.assert_array_equal(same["weight_u"], state["weight_u"])
    trained, new = apply(params, X, state=state, training=True)
    assert not np.array_equal(new["weight_u"], state["weight_u"])
    assert not np.array_equal(out, trained)
    grads = jax.grad(lambda params: apply(params, X, state=state)[0].sum())(params)
    assert grads["weight_orig"].any()
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), (params, state))
    np.testing.assert_allclose(jax.vmap(lambda p, s: apply(p, X, state=s)[0])(*stacked)[1], out, rtol=1e-5, atol=1e-6)
    with pytest.raises(fnn.scope.StateError, match="pass state"):
        apply(params, X)


def test_an_optimizer_trains_the_original():
    layer = spectral_norm(nn.Linear(3, 1))
    optimizer = fnn.optim.Optimizer(layer, optax.sgd(0.1))

    @fnn.jit
    def step(x):
        loss, grads = fnn.value_and_grad(lambda net: ((net(x) - 1) ** 2).mean())(layer)
        optimizer.step(grads)
        return loss

    losses = [step(X) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_what_old_versions_wrote_is_loaded_as_in_torch():
    ours, theirs = spectral_norm(nn.Linear(3, 3)), torch.nn.utils.spectral_norm(torch.nn.Linear(3, 3))
    theirs(torch.tensor(X))
    state = theirs.state_dict()
    old = {name: value for name, value in state.items() if name != "weight_v"}
    old["weight"] = theirs.weight.detach()
    for net in (ours, theirs):
        net.load_state_dict(dict(old))
    np.testing.assert_allclose(ours.weight_v, theirs.weight_v, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.eval()(X), theirs.eval()(torch.tensor(X)).detach(), rtol=1e-3, atol=1e-4)
    missing = []
    for net in (ours, theirs):
        net.load_state_dict(dict(state))  # without metadata, as it is written now
        missing.append(net.load_state_dict({"bias": old["bias"]}, strict=False).missing_keys)
        with pytest.raises(RuntimeError, match="Missing key"):
            net.load_state_dict({"bias": old["bias"]})
    assert sorted(set(missing[0])) == sorted(set(missing[1]))


def test_copies_and_removal():
    layer = copy.deepcopy(spectral_norm(nn.Linear(3, 4)))
    assert layer.weight is layer.weight_orig
    layer(X)
    twin = copy.deepcopy(layer)
    [hook] = twin._forward_pre_hooks.values()
    assert isinstance(hook, SpectralNorm)
    weight = twin.weight
    twin.weight_orig.data *= 2
    np.testing.assert_allclose(twin.weight, weight, rtol=1e-5)  # the estimate has doubled
    assert remove_spectral_norm(twin) is twin
    np.testing.assert_allclose(twin.weight, weight, rtol=1e-5)
    assert list(twin.state_dict()) == ["bias", "weight"]
    assert "spectral_norm" not in twin.state_dict()._metadata[""]
    twin.load_state_dict(nn.Linear(3, 4).state_dict())
    assert any(isinstance(hook, SpectralNormStateDictHook) for hook in layer._state_dict_hooks.values())


def test_16_bits():
    layer = spectral_norm(nn.Linear(3, 4)).to(jnp.bfloat16)
    assert layer(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16
    assert {value.dtype.name for value in layer.state_dict().values()} == {"bfloat16"}
