"""weight_norm, spectral_norm and orthogonal as parametrizations, with torch's as the oracle."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_close, assert_refused, normal, tensor, torch

import fnn
import fnn.nn as nn
import fnn.nn.utils.parametrizations as ready
from fnn.nn.utils.parametrize import cached, remove_parametrizations

X = normal(4, 5)


def holder(lib, array):
    """A module with one parameter."""
    module = lib.Module()
    module.weight = lib.Parameter(tensor(array) if lib is torch.nn else jnp.asarray(array))
    return module


def pair(wanted, kind, *args, **options):
    """The same parametrization of the same layer in both libraries, with the same values."""
    ours, theirs = (getattr(lib.utils.parametrizations, wanted)(getattr(lib, kind)(*args), **options) for lib in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_same_state(ours, theirs, tolerance):
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value, tolerance, key)


def assert_gradients_agree(ours, theirs, name, tolerance):
    """Of a random function of the parametrized value, in all originals."""
    cotangent = normal(*getattr(theirs, name).shape)
    (getattr(theirs, name) * tensor(cotangent)).sum().backward()
    gradients = fnn.tree.unnest(fnn.jit(fnn.grad(lambda net: (getattr(net, name) * cotangent).sum()))(ours))
    for key, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            assert_close(gradients[key], parameter.grad, tolerance, key)


@pytest.mark.parametrize(
    ("kind", "args", "options"),
    [
        ("Linear", (5, 4), {}),
        ("Linear", (5, 4), {"dim": None}),
        ("Linear", (5, 4), {"name": "bias"}),
        ("Conv1d", (3, 4, 2), {"dim": 1}),
        ("Conv1d", (3, 4, 2), {"dim": -1}),
        ("Conv1d", (3, 4, 2), {"dim": -2}),
    ],
)
def test_weight_norm(kind, args, options):
    ours, theirs = pair("weight_norm", kind, *args, **options)
    name = options.get("name", "weight")
    assert_close(getattr(ours, name), getattr(theirs, name))
    if name == "weight":
        assert_gradients_agree(ours, theirs, name, 1e-4)
    setattr(ours, name, 2 * getattr(ours, name))
    with torch.no_grad():
        setattr(theirs, name, 2 * getattr(theirs, name))
    assert_same_state(ours, theirs, 1e-5)
    remove_parametrizations(ours, name)
    torch.nn.utils.parametrize.remove_parametrizations(theirs, name)
    assert_same_state(ours, theirs, 1e-5)


def test_weight_norm_loads_what_the_older_one_wrote():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = torch.nn.utils.weight_norm(torch.nn.Linear(5, 4))
    for layer in (ready.weight_norm(nn.Linear(5, 4)), nn.Sequential(ready.weight_norm(nn.Linear(5, 4)))):
        state = old.state_dict() if isinstance(layer, nn.Linear) else torch.nn.Sequential(old).state_dict()
        layer.load_state_dict(state)
        assert_close(layer(X), old(torch.tensor(X)))


@pytest.mark.parametrize(
    ("kind", "args", "options"),
    [
        ("Linear", (5, 4), {}),
        ("Linear", (4, 4), {"n_power_iterations": 3}),
        ("Linear", (5, 4), {"name": "bias"}),
        ("ConvTranspose1d", (3, 4, 2), {}),
        ("Embedding", (5, 3), {"dim": -1}),
    ],
)
def test_spectral_norm(kind, args, options):
    ours, theirs = pair("spectral_norm", kind, *args, **options)
    name = options.get("name", "weight")
    for mode in (True, False, True):
        ours.train(mode)
        theirs.train(mode)
        for _ in range(2):
            assert_close(getattr(ours, name), getattr(theirs, name), 1e-3)
            assert_same_state(ours, theirs, 1e-3)
    ours.eval()
    theirs.eval()
    assert_gradients_agree(ours, theirs, name, 1e-3)


def test_spectral_norm_begins_near_the_norm():
    layer = ready.spectral_norm(nn.Linear(4, 4)).eval()
    assert abs(float(jnp.linalg.norm(layer.weight, 2)) - 1) < 0.1
    for seed in range(3):
        params, state = fnn.pure(layer).init(seed)
        own = fnn.tree.unnest(state)
        assert set(own) == {"parametrizations.weight.0._u", "parametrizations.weight.0._v"}
        with fnn.bound(layer, params, state):
            assert abs(float(jnp.linalg.norm(layer.weight, 2)) - 1) < 0.1


def test_spectral_norm_of_complex_numbers():
    array = normal(4, 3) + 1j * normal(4, 3)
    ours, theirs = (lib.utils.parametrizations.spectral_norm(holder(lib, array)) for lib in (nn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    assert_close(jnp.abs(ours.weight), theirs.weight.abs(), 1e-3)


def trained(net):
    """Runs in training mode: a loss that reads the weight twice."""
    return (net(net(X[:, :4])) ** 2).sum()


FACES = {
    "eager": lambda f, net: f(net),
    "fnn.jit": lambda f, net: fnn.jit(f)(net),
    "value_and_grad of fnn.jit": lambda f, net: fnn.value_and_grad(fnn.jit(f))(net)[0],
    "fnn.checkpoint": lambda f, net: fnn.jit(fnn.value_and_grad(fnn.checkpoint(f)))(net)[0],
}


@pytest.mark.parametrize("face", FACES.values(), ids=FACES)
def test_each_read_in_training_is_a_power_iteration(face):
    ours, theirs = pair("spectral_norm", "Linear", 4, 4)
    expected = (theirs(theirs(torch.tensor(X[:, :4]))) ** 2).sum()
    with jax.checking_leaks():
        assert_close(face(trained, ours), expected, 1e-2)
    assert_same_state(ours, theirs, 1e-2)
    before = ours.state_dict()
    face(trained, ours.eval())
    jax.tree.map(np.testing.assert_array_equal, dict(ours.state_dict()), dict(before))


def test_a_cached_weight_is_one_power_iteration():
    ours, theirs = pair("spectral_norm", "Linear", 4, 4)
    with torch.nn.utils.parametrize.cached():
        expected = (theirs(theirs(torch.tensor(X[:, :4]))) ** 2).sum()
    state = ours.state_dict()
    run = fnn.jit(trained)
    run(ours)
    for way in (trained, run, fnn.grad(trained)):
        ours.load_state_dict(state)
        with cached():
            value = way(ours)
        if not isinstance(value, dict):
            assert_close(value, expected, 1e-2)
        assert_same_state(ours, theirs, 1e-2)


def test_spectral_norm_through_pure():
    ours, theirs = pair("spectral_norm", "Linear", 4, 4)
    apply, (params, state) = fnn.pure(ours).apply, fnn.split(ours)
    run = functools.partial(apply, params, jnp.asarray(X[:, :4]), state=state)
    expected = theirs(torch.tensor(X[:, :4]))
    y, new = jax.jit(functools.partial(run, training=True))()
    assert_close(y, expected, 1e-2)
    for key, buffer in theirs.named_buffers():
        assert_close(fnn.tree.unnest(new)[key], buffer, 1e-2)
    _, same = run()
    jax.tree.map(np.testing.assert_array_equal, same, state)
    with pytest.raises(fnn.StateError, match="_u"):
        jax.jit(ours)(X[:, :4])
    assert jax.vmap(ours.eval())(X[:, :4]).shape == (4, 4)


MAPS = ["matrix_exp", "cayley", "householder"]


def orthogonal_pair(array, orthogonal_map, use_trivialization):
    ours, theirs = holder(nn, array), holder(torch.nn, array)
    options = {"orthogonal_map": orthogonal_map, "use_trivialization": use_trivialization}
    ready.orthogonal(ours, **options)
    torch.nn.utils.parametrizations.orthogonal(theirs, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("use_trivialization", "shape"), [(True, (2, 2, 3)), (False, (3, 2))], ids=str)
@pytest.mark.parametrize("orthogonal_map", MAPS)
def test_orthogonal(orthogonal_map, use_trivialization, shape):
    ours, theirs = orthogonal_pair(normal(*shape), orthogonal_map, use_trivialization)
    if not use_trivialization:  # else torch completes the matrix with random numbers
        assert_close(ours.weight, theirs.weight, 1e-3)
        assert_same_state(ours, theirs, 1e-3)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        change = torch.tensor(0.3 * normal(*shape))
        if orthogonal_map == "householder":
            change = change.tril(-1) if shape[-2] >= shape[-1] else change.triu(1)
        theirs.parametrizations.weight.original.add_(change)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours.weight, theirs.weight, 1e-4)
    assert_gradients_agree(ours, theirs, "weight", 1e-3)
    new = np.linalg.qr(normal(*shape))[0] if shape[-2] >= shape[-1] else np.linalg.qr(normal(*shape).mT)[0].mT
    if not use_trivialization and orthogonal_map != "householder":
        with pytest.raises(NotImplementedError):
            ours.weight = jnp.asarray(new)
        return
    ours.weight = jnp.asarray(new)
    assert_close(ours.weight, torch.tensor(new.copy()), 1e-4)


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley"])
def test_unitary(orthogonal_map):
    array = normal(3, 2) + 1j * normal(3, 2)
    ours, theirs = orthogonal_pair(array, orthogonal_map, True)
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours.weight.real, theirs.weight.real.contiguous(), 1e-4)
    np.testing.assert_allclose(ours.weight.conj().T @ ours.weight, np.eye(2), atol=1e-5)
    fresh = ready.orthogonal(holder(nn, array), orthogonal_map=orthogonal_map)
    np.testing.assert_allclose(fresh.weight.conj().T @ fresh.weight, np.eye(2), atol=1e-5)


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "householder"])
def test_orthogonal_has_all_derivatives_and_keeps_its_dtype(orthogonal_map):
    layer = ready.orthogonal(nn.Linear(2, 3), orthogonal_map=orthogonal_map).bfloat16()
    assert layer.weight.dtype == jnp.bfloat16
    parametrization = ready._Orthogonal(normal(3, 2), ready._OrthMaps[orthogonal_map], use_trivialization=False)
    gradient = jax.grad(lambda x: (parametrization(x) ** 3).sum())
    x, direction = jnp.array([[1.0, 0.3], [0.5, -1.0], [0.2, 0.7]]), jnp.array([[0.0, 0.0], [1.0, 0.0], [-0.5, 2.0]])

    @jax.jit
    def derivatives(x):
        along = jax.jvp(gradient, (x,), (direction,))[1]
        batched = jax.vmap(gradient)(jnp.stack([x + 1e-2 * direction, x - 1e-2 * direction]))
        return along, (batched[0] - batched[1]) / 2e-2

    along, numeric = derivatives(x)
    np.testing.assert_allclose(along, numeric, rtol=1e-2, atol=1e-2)
    platforms = ["cpu", "cuda", "tpu"]
    assert jax.export.export(jax.jit(gradient), platforms=platforms)(x).platforms == tuple(platforms)


def test_the_default_map_is_torchs():
    for shape in ((3, 3), (2, 3)):
        maps = [
            lib.utils.parametrizations.orthogonal(lib.Linear(*shape)).parametrizations.weight[0].orthogonal_map.name
            for lib in (nn, torch.nn)
        ]
        assert maps[0] == maps[1]
    assert ready.orthogonal(holder(nn, normal(3, 2) + 1j)).parametrizations.weight[0].orthogonal_map.name == "matrix_exp"


def test_an_initial_matrix_that_is_orthogonal_is_kept():
    given = np.linalg.qr(normal(3, 3))[0]
    for array in (given, given + 0.1):
        ours, theirs = orthogonal_pair(array, "cayley", True)
        assert_close(ours.weight, theirs.weight, 1e-4)
    layer = ready.orthogonal(nn.utils.parametrize.register_parametrization(nn.Linear(3, 3), "weight", nn.Tanh()))
    np.testing.assert_allclose(layer.weight.T @ layer.weight, np.eye(3), atol=1e-5)


def test_init_draws_another_orthogonal_matrix():
    for options in ({}, {"orthogonal_map": "householder", "use_trivialization": False}):
        layer = ready.orthogonal(nn.Linear(2, 3), **options)
        init, drawn = jax.jit(fnn.pure(layer).init), []
        for seed in (0, 1):
            with fnn.bound(layer, *init(jax.random.key(seed))):
                drawn.append(np.asarray(layer.weight))
        np.testing.assert_allclose(drawn[0].T @ drawn[0], np.eye(2), atol=1e-5)
        assert np.abs(drawn[0] - drawn[1]).max() > 0.1


@pytest.mark.parametrize(
    "mistake",
    [
        lambda lib, t: lib.utils.parametrizations.orthogonal(lib.Linear(2, 3), "nope"),
        lambda lib, t: lib.utils.parametrizations.orthogonal(lib.Linear(2, 3), "bias"),
        lambda lib, t: lib.utils.parametrizations.orthogonal(lib.Linear(2, 3), orthogonal_map="qr"),
        lambda lib, t: lib.utils.parametrizations.orthogonal(
            holder(lib, normal(3, 2).astype(np.complex64)), orthogonal_map="householder"
        ),
        lambda lib, t: setattr(lib.utils.parametrizations.orthogonal(lib.Linear(2, 3)), "weight", t(normal(2, 2))),
        lambda lib, t: lib.utils.parametrizations.spectral_norm(lib.Linear(2, 3), "nope"),
        lambda lib, t: lib.utils.parametrizations.spectral_norm(lib.Linear(2, 3), dim=2),
        lambda lib, t: lib.utils.parametrizations.spectral_norm(lib.Linear(2, 3), n_power_iterations=0),
        lambda lib, t: lib.utils.parametrizations.weight_norm(lib.Linear(2, 3), "nope"),
        lambda lib, t: lib.utils.parametrizations.weight_norm(lib.Linear(2, 3), dim=2),
    ],
)
def test_mistakes_are_those_of_torch(mistake):
    assert_refused(mistake)


@settings(max_examples=10)
@given(st.sampled_from([1, 3]), st.integers(-3, 3))
def test_exponentials(size, magnitude):
    x = normal(size, size) * 10.0**magnitude
    x = (x - x.T).astype(np.float32)
    expected = torch.matrix_exp(torch.tensor(x).double()).float()
    assert_close(ready._matrix_exp(jnp.asarray(x)), expected, 1e-5 * max(1, 10.0**magnitude))
    assert np.isnan(ready._matrix_exp(jnp.full((1, 1), 1e7))).all()
