"""Parametrizations, with torch's as the oracle."""

import copy
import gc
import pickle
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_close, assert_refused, torch

import fnn
import fnn.nn as nn
import fnn.nn.utils.parametrize as P

WEIGHT = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
LIBRARIES = [(nn, jnp), (torch.nn, torch)]


def classes(lib, np_like):
    """The same parametrizations, written once, on either library."""

    class Double(lib.Module):
        def forward(self, x):
            return 2 * x

        def right_inverse(self, x):
            return x / 2

    class Shift(lib.Module):
        def forward(self, x):
            return x + 1

    class Product(lib.Module):
        def forward(self, a, b):
            return a * b

        def right_inverse(self, x):
            return np_like.ones_like(x[:1]) * 3, x / 3

    class Scale(lib.Module):
        def __init__(self):
            super().__init__()
            self.scale = lib.Parameter(np_like.ones(1) * 4)
            self.register_buffer("offset", np_like.ones(1))

        def forward(self, x):
            return self.scale * x + self.offset

        def right_inverse(self, x):
            return (x - self.offset) / self.scale

    class Wrong(lib.Module):
        def __init__(self, forward=lambda x: x, right_inverse=lambda x: x):
            super().__init__()
            self.function, self.inverse = forward, right_inverse

        def forward(self, *x):
            return self.function(*x)

        def right_inverse(self, x):
            return self.inverse(x)

    return {kind.__name__: kind for kind in (Double, Shift, Product, Scale, Wrong)}


def make(lib, *parametrizations, name="weight", unsafe=False):
    """A layer of known values with parametrizations."""
    np_like = jnp if lib is nn else torch
    layer = lib.Linear(3, 3)
    kind = jnp.asarray if lib is nn else torch.tensor
    layer.load_state_dict({"weight": kind(WEIGHT), "bias": kind(WEIGHT[0])})
    layer.register_buffer("table", kind(WEIGHT))
    register = lib.utils.parametrize.register_parametrization
    for parametrization in parametrizations:
        register(layer, name, classes(lib, np_like)[parametrization](), unsafe=unsafe)
    return layer


CHAINS = [("Double",), ("Shift",), ("Double", "Shift"), ("Product",), ("Product", "Double", "Scale"), ("Scale", "Double")]


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
@pytest.mark.parametrize("name", ["weight", "bias", "table"])
def test_a_chain_of_parametrizations_is_torchs(chain, name):
    ours, theirs = make(nn, *chain, name=name), make(torch.nn, *chain, name=name)
    assert repr(ours) == repr(theirs)
    assert type(ours).__name__ == "ParametrizedLinear"
    assert type(ours).__bases__ == (nn.Linear,)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value, what=key)
    assert_close(getattr(ours, name), getattr(theirs, name))
    assert_close(ours(X), theirs(torch.tensor(X)))
    assert isinstance(getattr(ours, name), jax.Array)
    if "Shift" in chain:
        with pytest.raises(RuntimeError, match="Shift does not implement right_inverse"):
            setattr(ours, name, getattr(ours, name))
        return
    new = WEIGHT[::-1].copy() if name != "bias" else WEIGHT[1]
    setattr(ours, name, jnp.asarray(new))
    with torch.no_grad():
        setattr(theirs, name, torch.tensor(new))
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value, what=key)


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
@pytest.mark.parametrize("frozen", [False, True])
def test_removing_is_torchs(chain, frozen):
    for leave in (True, False):
        ours, theirs = make(nn), make(torch.nn)
        for layer, (lib, np_like) in zip((ours, theirs), LIBRARIES, strict=True):
            layer.weight.requires_grad = not frozen
            for parametrization in chain:
                lib.utils.parametrize.register_parametrization(layer, "weight", classes(lib, np_like)[parametrization]())
        assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
        if not leave and "Product" in chain:
            assert_refused(lambda lib, _, chain=chain: lib.utils.parametrize.remove_parametrizations(
                make(lib, *chain), "weight", leave_parametrized=False), "sequence of tensors")  # fmt: skip
            continue
        for layer, (lib, _) in zip((ours, theirs), LIBRARIES, strict=True):
            assert lib.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave) is layer
            assert type(layer) is lib.Linear
            assert not hasattr(layer, "parametrizations")
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]
        assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
        assert_close(ours.weight, theirs.weight)


def test_the_parameter_stays_the_same_object_and_several_originals_are_new():
    layer = make(nn)
    weight, bias = layer.weight, layer.bias
    P.register_parametrization(layer, "weight", classes(nn, jnp)["Double"]())
    P.register_parametrization(layer, "bias", classes(nn, jnp)["Product"]())
    assert layer.parametrizations.weight.original is weight
    assert layer.parametrizations.bias.original0 is not bias
    assert P.type_before_parametrizations(layer) is nn.Linear
    P.remove_parametrizations(layer, "bias")
    assert (P.is_parametrized(layer), P.is_parametrized(layer, "weight"), P.is_parametrized(layer, "bias")) == (
        True,
        True,
        False,
    )
    assert P.remove_parametrizations(layer, "weight").weight is weight
    assert P.is_parametrized(layer) is False


MISTAKES = {
    "no such parameter": lambda lib, c: register(lib, make(lib), "nope", c["Double"]()),
    "removing what is not there": lambda lib, c: lib.utils.parametrize.remove_parametrizations(make(lib), "weight"),
    "another dtype": lambda lib, c: register(lib, make(lib), "weight", c["Wrong"](lambda x: x > 0)),
    "another shape": lambda lib, c: register(lib, make(lib), "weight", c["Wrong"](lambda x: x[0])),
    "no array": lambda lib, c: register(lib, make(lib), "weight", c["Wrong"](lambda x: [x])),
    "an inverse of another dtype": lambda lib, c: register(lib, make(lib), "weight", c["Wrong"](right_inverse=lambda x: x > 0)),
    "an inverse that is no array": lambda lib, c: register(lib, make(lib), "weight", c["Wrong"](right_inverse=lambda x: 1)),
    "an inverse of other things": lambda lib, c: register(lib, make(lib), "weight", c["Wrong"](right_inverse=lambda x: (x, 1))),
    "a second one of another shape": lambda lib, c: register(lib, make(lib, "Double"), "weight", c["Wrong"](lambda x: x[0])),
    "a second one of another dtype": lambda lib, c: register(lib, make(lib, "Double"), "weight", c["Wrong"](lambda x: x > 0)),
    "a second inverse of another shape": lambda lib, c: register(
        lib, make(lib, "Double"), "weight", c["Wrong"](right_inverse=lambda x: x[0])
    ),
    "setting another number": lambda lib, c: setattr(
        register(lib, make(lib), "weight", c["Wrong"](lambda x, y: x, inverses(iter([2, 3])))), "weight", make(lib).weight + 0
    ),
    "setting another dtype": lambda lib, c: setattr(
        register(lib, make(lib), "weight", c["Wrong"]()), "weight", make(lib).weight > 0
    ),
    "setting a Parameter": lambda lib, c: setattr(make(lib, "Double"), "weight", make(lib).weight),
    "a name that is taken": lambda lib, c: make(lib, "Double").register_parameter("weight", None),
    "deleting it": lambda lib, c: delattr(make(lib, "Double"), "weight"),
    "pickling it": lambda lib, c: pickle.dumps(make(lib, "Double")),
    "copying it": lambda lib, c: copy.copy(make(lib, "Double")),
    "no parametrization": lambda lib, c: lib.utils.parametrize.ParametrizationList([], make(lib).weight),
}


def register(lib, *args, **kwargs):
    return lib.utils.parametrize.register_parametrization(*args, **kwargs)


def inverses(numbers):
    return lambda x: (x,) * next(numbers)


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_those_of_torch(mistake):
    assert_refused(lambda lib, _: mistake(lib, classes(lib, jnp if lib is nn else torch)))


def test_unsafe_ones_may_change_shape_and_dtype():
    for lib, np_like in LIBRARIES:
        layer = make(lib)
        register(lib, layer, "weight", classes(lib, np_like)["Wrong"](lambda x: x[:2] > 0), unsafe=True)
        register(lib, layer, "weight", classes(lib, np_like)["Wrong"]())
        assert layer.parametrizations.weight.unsafe is True
        assert tuple(layer.weight.shape) == (2, 3)
        with pytest.raises(RuntimeError):  # its original has another dtype
            lib.utils.parametrize.remove_parametrizations(layer, "weight")
    layer = make(nn)
    register(nn, layer, "weight", classes(nn, jnp)["Wrong"](lambda x: x[:2]), unsafe=True)
    assert P.remove_parametrizations(layer, "weight").weight.shape == (2, 3)
    assert fnn.pure(layer).init(0)[0]["weight"].shape == (2, 3)


def test_an_attribute_error_in_a_parametrization_is_not_taken_for_a_missing_weight():
    layer = make(nn)
    with pytest.raises(RuntimeError, match=r"parametrization of 'weight' failed: .*no attribute 'lost'"):
        register(nn, layer, "weight", classes(nn, jnp)["Wrong"](lambda x: x.lost), unsafe=True).weight  # noqa: B018


def test_a_parametrization_takes_the_mode_of_the_module():
    layer = make(nn).eval()
    parametrization = classes(nn, jnp)["Double"]()
    assert register(nn, layer, "weight", parametrization).parametrizations.weight[0].training is False
    assert layer.train().parametrizations.weight[0].training is True


def test_transfer_is_torchs():
    for name in (None, "bias"):
        given = {}
        for lib, np_like in LIBRARIES:
            source = register(lib, make(lib, "Product", "Double"), "bias", classes(lib, np_like)["Scale"]())
            given[lib] = target = lib.Linear(3, 3, bias=False)
            if name == "bias":
                del target.bias  # torch makes it only where there is not even a None
            else:
                target = given[lib] = lib.Linear(3, 3)
            assert lib.utils.parametrize.transfer_parametrizations_and_params(source, target, name) is target
            assert source.parametrizations.bias.original is target.parametrizations.bias.original
        ours, theirs = given[nn], given[torch.nn]
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert_close(ours.bias, theirs.bias)
        if name is None:
            assert_close(ours.weight, theirs.weight)
    plain = nn.Linear(3, 3)
    assert P.transfer_parametrizations_and_params(make(nn), plain) is plain
    assert not P.is_parametrized(plain)


def test_a_copy_is_independent():
    layer = make(nn, "Double", "Scale")
    copied = copy.deepcopy(nn.Sequential(layer))[0]
    assert copied.parametrizations.weight.original is not layer.parametrizations.weight.original
    copied.weight = jnp.zeros((3, 3))
    np.testing.assert_allclose(copied.weight, 0, atol=1e-6)
    np.testing.assert_allclose(layer.weight, 4 * WEIGHT + 1, rtol=1e-6)
    P.remove_parametrizations(copied, "weight")
    np.testing.assert_allclose(layer.weight, 4 * WEIGHT + 1, rtol=1e-6)
    assert type(copied) is nn.Linear


def test_a_copy_has_slots_and_goes_by_the_classs_own_way():
    class Slotted(nn.Linear):
        __slots__ = ("note",)

    class Own(nn.Linear):
        def __deepcopy__(self, memo):
            return "mine"

    layer = register(nn, Slotted(3, 3), "weight", nn.Tanh())
    object.__setattr__(layer, "note", ["text"])
    copied = copy.deepcopy(layer)
    assert copied.note == ["text"]
    assert copied.note is not layer.note
    assert copy.deepcopy(register(nn, Own(3, 3), "weight", nn.Tanh())) == "mine"


def loss(net):
    return (net(X) ** 2).sum()


@pytest.mark.parametrize("chain", [("Double", "Scale"), ("Product", "Shift")], ids="-".join)
def test_gradients_are_torchs_through_every_face(chain):
    ours, theirs = make(nn, *chain), make(torch.nn, *chain)
    (theirs(torch.tensor(X)) ** 2).sum().backward()
    params, state = fnn.split(ours)
    apply = fnn.pure(ours).apply
    faces = {
        "fnn.grad": fnn.grad(loss)(ours),
        "fnn.jit": fnn.jit(fnn.grad(loss))(ours),
        "fnn.pure": jax.jit(jax.grad(lambda p: (apply(p, X, state=state)[0] ** 2).sum()))(params),
        "fnn.pure, vmap": jax.vmap(jax.grad(lambda p, x: 2 * (apply(p, x, state=state)[0] ** 2).sum()), (None, 0))(params, X),
    }
    faces["fnn.pure, vmap"] = jax.tree.map(lambda g: g.mean(0), faces["fnn.pure, vmap"])
    for face, gradients in faces.items():
        flat = fnn.tree.unnest(gradients)
        assert set(flat) == {name for name, _ in theirs.named_parameters()}
        for name, parameter in theirs.named_parameters():
            assert_close(flat[name], parameter.grad, 1e-4, f"{face} {name}")


def test_a_compiled_function_follows_what_is_registered_and_removed():
    layer = make(nn)
    run = fnn.jit(lambda: layer(X))
    for change in (
        lambda: register(nn, layer, "weight", classes(nn, jnp)["Double"]()),
        lambda: register(nn, layer, "weight", classes(nn, jnp)["Shift"]()),
        lambda: register(nn, layer, "bias", classes(nn, jnp)["Product"]()),
        lambda: P.remove_parametrizations(layer, "weight", leave_parametrized=False),
        lambda: P.remove_parametrizations(layer, "bias"),
    ):
        change()
        np.testing.assert_allclose(run(), layer(X), rtol=1e-6)
    assert type(layer) is nn.Linear


def test_weights_are_assigned_in_a_compiled_function():
    layer = make(nn, "Product", "Double")
    fnn.jit(lambda x: setattr(layer, "weight", x))(2 * WEIGHT)
    np.testing.assert_allclose(layer.weight, 2 * WEIGHT, rtol=1e-6)


def test_an_optimizer_made_afterwards_moves_the_originals():
    layer = make(nn, "Product")
    optimizer = fnn.optim.Optimizer(layer, optax.sgd(0.1))
    step = fnn.jit(lambda: optimizer.step(fnn.grad(loss)(layer)))
    theirs = make(torch.nn, "Product")
    their_optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for _ in range(2):
        step()
        their_optimizer.zero_grad()
        (theirs(torch.tensor(X)) ** 2).sum().backward()
        their_optimizer.step()
    assert_close(layer.weight, theirs.weight, 1e-4)


def test_tied_weights_stay_tied():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    net = nn.Sequential(register(nn, first, "weight", classes(nn, jnp)["Double"]()), second)
    assert first.parametrizations.weight.original is second.weight
    params, _ = fnn.pure(net).init(0)
    assert set(fnn.tree.unnest(params)) == {"0.bias", "0.parametrizations.weight.original", "1.bias"}
    gradients = fnn.grad(loss)(net)["0"]["parametrizations"]["weight"]["original"]
    w, b, c = second.weight.value, first.bias.value, second.bias.value
    expected = jax.grad(lambda w: (((X @ (2 * w).T + b) @ w.T + c) ** 2).sum())(w)
    np.testing.assert_allclose(gradients, expected, rtol=1e-4)


def test_a_pair_is_not_changed_by_what_is_done_to_the_module_later():
    layer = make(nn, "Double")
    init, apply = fnn.pure(layer)
    params, state = fnn.split(layer)
    before = apply(params, X, state=state)[0]
    P.remove_parametrizations(layer, "weight")
    register(nn, layer, "bias", nn.Tanh())
    np.testing.assert_array_equal(apply(params, X, state=state)[0], before)
    assert set(fnn.tree.unnest(init(0)[0])) == {"bias", "parametrizations.weight.original"}


def test_init_draws_anew_and_takes_the_right_inverse_of_it():
    class Normed(nn.Module):
        def forward(self, g, v):
            return g * v / jnp.linalg.norm(v)

        def right_inverse(self, x):
            return jnp.linalg.norm(x), x

    class Third(nn.Module):
        def forward(self, x):
            return 3 * x

        def right_inverse(self, x):
            return x / 3

    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    register(nn, net[0], "weight", Normed())
    register(nn, net[1], "weight", Third())
    net[2] = copy.deepcopy(net[0])
    before = fnn.split(net)
    init = fnn.pure(net).init
    (first, _), (again, _), (other, _) = jax.jit(init)(jax.random.key(0)), init(0), init(1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, again)
    jax.tree.map(np.testing.assert_array_equal, fnn.split(net), before)
    originals = [params[str(i)]["parametrizations"]["weight"] for params in (first, other) for i in (0, 2)]
    for part in originals:
        np.testing.assert_allclose(part["original0"], jnp.linalg.norm(part["original1"]), rtol=1e-5)
    assert len({float(part["original0"]) for part in originals}) == 4
    third = first["1"]["parametrizations"]["weight"]["original"]
    bound = 1 / np.sqrt(3) / 3
    assert bound / 2 < np.abs(third).max() <= bound
    assert fnn.pure(P.remove_parametrizations(net[0], "weight")).init(0)[0]["weight"].std() > 0


def test_init_takes_the_right_inverse_with_the_fresh_values_of_the_parametrization():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(jax.nn.initializers.uniform(5.0), (1,))

        def forward(self, x):
            return self.scale * x

        def right_inverse(self, x):
            return x / self.scale

    layer = register(nn, nn.Linear(3, 3), "weight", Scaled())
    values = fnn.pure(layer).init(3)[0]["parametrizations"]["weight"]
    assert values["0"]["scale"] != layer.parametrizations.weight[0].scale
    largest = float(np.abs(values["original"] * values["0"]["scale"]).max())
    assert 0.5 / np.sqrt(3) < largest <= 1 / np.sqrt(3) + 1e-6


def test_init_of_a_copy_draws_anew_also_where_the_initialiser_is_an_object():
    class Sevens:
        def __call__(self, key, shape, dtype):
            return jnp.full(shape, 7, dtype)

    layer = nn.Linear(3, 3)
    layer.weight.initialize(Sevens())
    copied = copy.deepcopy(register(nn, layer, "weight", classes(nn, jnp)["Double"]()))
    copied.weight = jnp.zeros((3, 3))
    assert (fnn.pure(copied).init(0)[0]["parametrizations"]["weight"]["original"] == 3.5).all()


def test_init_of_originals_that_were_given_values_or_other_initial_values():
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(WEIGHT)
    register(nn, layer, "weight", classes(nn, jnp)["Product"]())
    np.testing.assert_allclose(fnn.pure(layer).init(0)[0]["parametrizations"]["weight"]["original1"], WEIGHT / 3, rtol=1e-6)
    layer = register(nn, nn.Linear(3, 3), "weight", classes(nn, jnp)["Double"]())
    nn.init.ones_(layer.parametrizations.weight.original)
    np.testing.assert_array_equal(fnn.pure(layer).init(0)[0]["parametrizations"]["weight"]["original"], np.ones((3, 3)))


def counting(layer=None):
    """A layer whose weight is counted each time that it is computed."""
    calls = []

    class Counted(nn.Module):
        def forward(self, x):
            calls.append(isinstance(x, jax.core.Tracer))
            return 2 * x

    layer = register(nn, make(nn), "weight", Counted(), unsafe=True)
    return layer, calls


def test_cached_values_are_computed_once_a_block():
    layer, calls = counting()
    layer(X), layer(X)
    assert len(calls) == 2
    with P.cached():
        with P.cached():
            layer(X), layer(X)
        layer(X)
        assert layer.weight is layer.weight
        assert len(calls) == 3
    layer(X)
    assert len(calls) == 4


def test_cached_values_follow_their_parameters():
    layer, calls = counting()
    with P.cached():
        first = layer.weight
        layer.parametrizations.weight.original.value = 10 * WEIGHT
        np.testing.assert_allclose(layer.weight, 10 * first, rtol=1e-6)
        layer.eval()
        assert layer.weight is layer.weight
    assert len(calls) == 3, "again for other values, and in another mode"


def test_cached_values_stay_in_their_trace():
    layer, calls = counting()

    def twice(net):
        return (net(net(X)) ** 2).sum()

    expected = fnn.grad(twice)(layer)
    apply, (params, state) = fnn.pure(layer).apply, fnn.split(layer)
    with jax.checking_leaks(), P.cached():
        eager = layer.weight
        for gradient in (
            fnn.grad(twice)(layer),
            fnn.jit(fnn.grad(twice))(layer),
            jax.jit(jax.grad(lambda p: twice(lambda x: apply(p, x, state=state)[0])))(params),
            fnn.jit(fnn.grad(lambda net: (fnn.checkpoint(net)(net(X)) ** 2).sum()))(layer),
        ):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), gradient, expected)
        assert layer.weight is eager
    assert calls.count(False) == 1


def test_a_cached_block_in_a_trace_saves_work_there_and_keeps_nothing():
    layer, calls = counting()

    def inside(x):
        with P.cached():
            inner = fnn.grad(lambda net: net(x).sum())(layer)["parametrizations"]["weight"]["original"]
            return layer(layer(x)) + inner.sum()

    run = fnn.jit(inside)
    with jax.checking_leaks():
        result = run(X)
    assert len(calls) == 2, "once in the compiled function, and once in the gradient in it"
    run(X), run(X)
    assert len(calls) == 2
    grad = 2 * np.broadcast_to(X.sum(0), (3, 3)).sum()
    np.testing.assert_allclose(result, X @ (4 * WEIGHT.T @ WEIGHT.T) + WEIGHT[0] @ (2 * WEIGHT.T) + WEIGHT[0] + grad, rtol=1e-4)
    assert not P._known
    assert not P._traced


def test_what_was_compiled_in_a_block_is_not_used_outside():
    layer, calls = counting()
    run = fnn.jit(lambda x: layer(layer(x)))
    counts = []
    for _ in range(2):
        with P.cached():
            run(X)
        counts.append(len(calls))
        run(X)
        counts.append(len(calls))
    assert counts == [1, 3, 3, 3]


def test_values_and_classes_are_not_kept_alive():
    layer, _ = counting()
    with P.cached():
        layer.weight  # noqa: B018
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


def test_layers_with_parametrizations_are_scanned():
    layers = [register(nn, nn.Linear(3, 3), "weight", nn.Tanh()) for _ in range(3)]
    layers = [fnn.nn.utils.parametrizations.weight_norm(layer, "bias") for layer in layers]
    run = fnn.jit(lambda x: fnn.scan_layers(layers, x))
    x = X
    for layer in layers:
        x = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns where it does not scan
        np.testing.assert_allclose(run(X), x, rtol=1e-5)
