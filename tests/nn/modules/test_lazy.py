"""Lazy layers become the layers that torch's become, in both faces."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, assert_same_face, normal, tensor, torch

import fnn
from fnn import nn
from fnn.nn.modules.lazy import LazyModuleMixin

LAYERS = [
    ("LazyLinear", (4,), {}, (2, 5, 3)),
    ("LazyLinear", (4, False), {}, (3,)),
    ("LazyConv1d", (4, 3), {"stride": 2, "padding": 1}, (2, 6, 9)),
    ("LazyConv2d", (4, (3, 2)), {"groups": 2, "bias": False, "padding_mode": "circular", "padding": 1}, (2, 6, 5, 4)),
    ("LazyConv3d", (2, 2), {"dilation": 2}, (1, 3, 4, 4, 4)),
    ("LazyConv2d", (4, 3), {}, (3, 5, 5)),
    ("LazyConvTranspose1d", (4, 3), {"stride": 2, "output_padding": 1}, (2, 6, 5)),
    ("LazyConvTranspose2d", (4, 3), {"groups": 2, "bias": False}, (2, 6, 4, 4)),
    ("LazyConvTranspose3d", (2, 2), {"dilation": 2}, (1, 3, 3, 3, 3)),
    ("LazyBatchNorm1d", (), {"momentum": 0.3}, (4, 3)),
    ("LazyBatchNorm2d", (), {"affine": False}, (2, 3, 4, 4)),
    ("LazyBatchNorm3d", (), {"track_running_stats": False, "bias": False}, (2, 3, 2, 2, 2)),
    ("LazyInstanceNorm1d", (), {}, (2, 3, 4)),
    ("LazyInstanceNorm2d", (), {"bias": False}, (2, 3, 4, 4)),
    ("LazyInstanceNorm3d", (), {"track_running_stats": False}, (2, 3, 2, 2, 2)),
]
IDS = [f"{name}-{options}" for name, _, options, _ in LAYERS]


def pair(name, args, options):
    return (getattr(where, name)(*args, **options) for where in (nn, torch.nn))


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS, ids=IDS)
def test_becomes_the_layer_that_torchs_becomes(name, args, options, shape):
    ours, theirs = pair(name, args, options)
    assert_same_face(ours, theirs)
    x = normal(*shape)
    ours(jnp.asarray(x))
    theirs(tensor(x))
    assert type(ours) is getattr(nn, name.removeprefix("Lazy"))
    assert vars(ours).keys() == vars(getattr(nn, name.removeprefix("Lazy"))(*theirs_arguments(theirs, args))).keys()
    for key, value in theirs.state_dict().items():
        assert ours.state_dict()[key].shape == tuple(value.shape), key
        if "running" in key or "num" in key:
            assert_close(ours.state_dict()[key], value, 1e-4)
    assert_layers_agree(ours, theirs, x, tolerance=1e-4)


def theirs_arguments(theirs, args):
    size = next(getattr(theirs, name) for name in ("in_features", "in_channels", "num_features") if hasattr(theirs, name))
    return (size, *args[:2])


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS[::3], ids=IDS[::3])
def test_init_takes_an_example(name, args, options, shape):
    layer = getattr(nn, name)(*args, **options)
    init, apply = fnn.pure(layer)
    params, state = init(jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32))
    assert_same_face(layer, getattr(torch.nn, name)(*args, **options))  # as it was
    x = jnp.asarray(normal(*shape))
    y, _ = apply(params, x, state=state, training=True)
    layer(x)
    fnn.update(layer, params, state)
    np.testing.assert_allclose(y, layer(x), rtol=1e-5, atol=1e-6)


def model():
    return nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3), nn.Dropout(0.5), nn.LazyBatchNorm1d())


X = jnp.asarray(normal(4, 6))
SETTLED = ["Linear", "ReLU", "Linear", "Dropout", "BatchNorm1d"]


def kinds(net):
    return [type(module).__name__ for module in net]


def fresh():
    fnn.manual_seed(0)
    return model()


@pytest.mark.parametrize("face", ["called", "jit", "jit of jit", "closure", "jax.jit", "eval_shape", "vmap", "dry run"])
def test_a_first_call_anywhere_settles_with_the_same_values(face):
    expected = fresh().eval()
    expected(X)
    net = fresh().eval()
    inner = fnn.jit(lambda x: net(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        {
            "called": lambda: net(X),
            "jit": lambda: fnn.jit(lambda net, x: net(x))(net, X),
            "jit of jit": lambda: fnn.jit(lambda x: inner(x) + 1)(X),
            "closure": lambda: inner(X),
            "jax.jit": lambda: jax.jit(lambda x: net(x))(X),
            "eval_shape": lambda: jax.eval_shape(lambda x: net(x), X),
            "vmap": lambda: jax.vmap(lambda x: net(x[None]))(X),
            "dry run": lambda: fnn.pure(net).init(0, X) and net(X),
        }[face]()
    assert kinds(net) == SETTLED
    for name, value in expected.state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], value, err_msg=name)
    np.testing.assert_allclose(net(X), expected(X), rtol=1e-5, atol=1e-6)


def test_a_first_training_call_under_jit_counts_one_batch_and_compiles_no_constants():
    eager = fresh()
    eager(X)
    net = fresh()
    traces = []

    @fnn.jit
    def step(x):
        traces.append(1)
        return net(x)

    step(X)
    assert net[4].num_batches_tracked.item() == eager[4].num_batches_tracked.item() == 1
    assert net[4].running_var.shape == (3,)
    assert not (net[4].running_var == 1).any()
    count = len(traces)
    net.eval()
    before = step(X)
    net[4].bias.data.fill_(7.0)
    after = step(X)
    assert not np.allclose(before, after)
    assert len(traces) == count + 1


def test_trains_after_a_dry_run_and_says_so_before():
    net = fresh()

    @fnn.jit
    def step(x):
        return fnn.value_and_grad(lambda net: (net(x) ** 2).mean())(net)

    with pytest.raises(ValueError, match="Call it once"):
        step(X)
    with pytest.raises(ValueError, match="Call it once"):
        fnn.optim.Optimizer(net, optax.sgd(0.1))
    net(X)
    optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
    _, grads = step(X)
    optimizer.step(grads)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_call_that_fails_leaves_the_module_unchanged(compiled):
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(5, 2))
    before = repr(net), {name: repr(value) for name, value in net.state_dict().items()}
    call = fnn.jit(net) if compiled else net
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        call(jnp.ones((2, 3)))
    assert (repr(net), {name: repr(value) for name, value in net.state_dict().items()}) == before
    net[2] = nn.Linear(4, 2)
    assert call(jnp.ones((2, 6))).shape == (2, 2)
    assert net[0].in_features == 6


def test_pure_is_a_picture_of_before():
    net = fresh()
    init, apply = fnn.pure(net)
    net(jnp.ones((2, 5)))
    params, state = init(jax.random.key(0), X)
    assert params["0"]["weight"].shape == (4, 6)
    assert apply(params, X, state=state)[0].shape == (4, 3)
    assert net[0].in_features == 5


@pytest.mark.parametrize("through", ["jit", "eval_shape"])
def test_init_runs_under_jax(through):
    init, _ = fnn.pure(fresh())
    expected = init(jax.random.key(0), X)
    init, _ = fnn.pure(fresh())
    if through == "jit":
        ours = jax.jit(init)(jax.random.key(0), X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, expected)
    else:
        ours = jax.eval_shape(init, jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), init(jax.random.key(0)), expected)


def test_init_and_apply_ask_for_an_example():
    init, apply = fnn.pure(nn.Sequential(nn.LazyLinear(3)))
    for call in (lambda: init(0), lambda: apply({}, jnp.ones(2))):
        with pytest.raises(fnn.StateError, match=r"'0.weight', '0.bias'.*pass init an example"):
            call()


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.LazyLinear(2)
        self.aux = nn.LazyLinear(3)
        self.never = nn.ReLU()

    def forward(self, x, scale=1, *, name="main"):
        assert name == "main"
        return (self.main(x) * scale, self.aux(x)) if self.training else self.main(x)


def test_init_reaches_what_only_training_uses_and_passes_other_arguments_as_they_are():
    init, _ = fnn.pure(Branches())
    params, _ = init(0, jnp.ones((1, 4)), 2, name="main")
    assert jax.tree.map(jnp.shape, params) == {k: {"weight": (n, 4), "bias": (n,)} for k, n in (("main", 2), ("aux", 3))}
    init, _ = fnn.pure(Branches().eval())
    with pytest.raises(fnn.StateError, match=r"'aux.weight'"):
        init(0, jnp.ones((1, 4)))


def test_a_shared_lazy_layer_is_settled_once():
    layer = nn.LazyLinear(3)
    init, apply = fnn.pure(nn.Sequential(layer, layer))
    params, _ = init(0, jnp.ones((2, 3)))
    assert list(params) == ["0"]
    assert apply(params, jnp.ones((2, 3))).shape == (2, 3)


# Checkpoints


def test_loads_a_checkpoint_before_the_first_call():
    theirs = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(64, 2))
    lazy = [
        where.Sequential(where.LazyConv2d(4, 3), where.LazyBatchNorm2d(), where.Flatten(), where.LazyLinear(2))
        for where in (nn, torch.nn)
    ]
    for net in lazy:
        net.load_state_dict(theirs.state_dict())
        assert not any(module.has_uninitialized_params() for module in (net[0], net[1], net[3]))
    assert repr(lazy[0]) == repr(lazy[1])
    x = normal(3, 2, 6, 6)
    np.testing.assert_allclose(lazy[0].eval()(x), theirs.eval()(tensor(x)).detach(), rtol=1e-4, atol=1e-5)
    lazy[1].eval()(tensor(x))
    assert repr(lazy[0]) == repr(lazy[1])


def test_a_state_dict_of_what_is_not_initialized():
    ours, theirs = nn.LazyBatchNorm1d(), torch.nn.LazyBatchNorm1d()
    assert [repr(v) for v in ours.state_dict().values()][:4] == [repr(v) for v in theirs.state_dict().values()][:4]
    assert repr(nn.LazyBatchNorm1d().load_state_dict(ours.state_dict())) == "<All keys matched successfully>"
    assert_refused(lambda nn, array: nn.Linear(3, 8).load_state_dict(nn.LazyLinear(8).state_dict()), "not initialized")


def test_a_checkpoint_that_does_not_fit_changes_nothing():
    layer = nn.LazyLinear(8)
    assert_refused(lambda nn, array: nn.LazyLinear(8).load_state_dict({"weight": array(normal(8, 3))}), "Missing", "bias")
    with pytest.raises(RuntimeError, match="Missing"):
        layer.load_state_dict({"weight": normal(8, 3)})
    assert layer.has_uninitialized_params()
    assert layer(jnp.ones((2, 5))).shape == (2, 8)


def test_refuses_an_input_that_a_loaded_weight_does_not_fit():
    def call(nn, array):
        layer = nn.LazyLinear(2)
        layer.load_state_dict(nn.Linear(3, 2).state_dict())
        layer(array(normal(2, 4)))

    assert_refused(call, "4", "3")


# Conversions


def test_converts_and_copies_before_the_first_call():
    device = jax.devices()[0]
    layer = pickle.loads(pickle.dumps(nn.LazyLinear(3).bfloat16()))
    copied = copy.deepcopy(nn.LazyLinear(3, device=device, dtype=jnp.float16))
    frozen = nn.LazyLinear(3).requires_grad_(False)
    for module, dtype in ((layer, jnp.bfloat16), (copied, jnp.float16), (frozen, jnp.float32)):
        assert module.has_uninitialized_params()
        assert module(jnp.ones((2, 4), dtype)).dtype == dtype
        assert module.weight.dtype == dtype
        assert float(jnp.abs(module.weight.value).max()) > 0
    assert copied.weight.devices() == {device}
    assert not frozen.weight.requires_grad
    init, _ = fnn.pure(frozen)
    assert init(0)[0] == {}


# Refusals and modules of one's own


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda nn, array: nn.LazyConv2d(4, 3)(array(normal(2, 2))), ["3D (unbatched) or 4D", "LazyConv2d", "[2, 2]"]),
        (lambda nn, array: nn.LazyConv2d(4, 3, groups=2)(array(normal(1, 3, 4, 4))), ["divisible by groups", "3"]),
        (lambda nn, array: nn.LazyBatchNorm1d()(array(normal(1, 3, 4, 4))), ["2D or 3D", "4D"]),
        (lambda nn, array: nn.LazyInstanceNorm1d()(array(normal(3, 4))), []),
        (lambda nn, array: nn.LazyLinear(3).forward(array(normal(3, 4))), ["not initialized"]),
        (lambda nn, array: nn.LazyLinear(3)(), []),
    ],
)
def test_refuses(call, words):
    assert_refused(call, *words)


def test_modules_of_ones_own():
    def scale(nn, array, initialize=None):
        base = LazyModuleMixin if nn is fnn.nn else nn.modules.lazy.LazyModuleMixin

        class Scale(base, nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.UninitializedParameter()

            def forward(self, x):
                return x * self.weight

        if initialize is not None:
            Scale.initialize_parameters = initialize
        return Scale()(array(normal(2, 3)))

    def ones(self, x):
        self.weight.materialize(x.shape)
        (nn if isinstance(self, fnn.nn.Module) else torch.nn).init.ones_(self.weight)

    assert_refused(scale, "initialize_parameters", "Scale")
    assert_refused(lambda nn, array: scale(nn, array, lambda self, x: None), "Scale", "not been fully initialized")
    assert scale(nn, jnp.asarray, ones).shape == scale(torch.nn, tensor, ones).shape
