"""Initial values have torch's distributions, and depend on the seed alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_refused, numpy, torch

import fnn
import fnn.nn

SHAPE = (300, 40, 3, 5)
PROBABILITIES = np.linspace(0, 1, 21)


def assert_same_distribution(ours, theirs):
    """Compares quantiles, the smallest and the largest of many numbers among them."""
    ours, theirs = numpy(ours), numpy(theirs)
    assert ours.shape == theirs.shape
    spread = theirs.std()
    assert (ours.std() == 0) == (spread == 0)
    difference = np.quantile(ours, PROBABILITIES) - np.quantile(theirs, PROBABILITIES)
    # The error of a quantile is about 1.5 / sqrt(n); the extremes of a distribution with tails vary more.
    tolerance = np.where((PROBABILITIES == 0) | (PROBABILITIES == 1), 1.0, 8 / np.sqrt(ours.size)) * spread
    assert (np.abs(difference) <= tolerance).all(), difference / max(spread, 1e-9)
    bounds = np.quantile(theirs, [0, 1])
    if np.abs(np.quantile(theirs, [0.001, 0.999]) - bounds).max() < 0.02 * spread:  # bounded
        np.testing.assert_allclose(np.quantile(ours, [0, 1]), bounds, atol=(0.01 + 20 / ours.size) * spread)


def drawn(name, *args, **options):
    """The values that the function of that name gives a parameter, in fnn and in torch."""
    torch.manual_seed(0)
    fnn.manual_seed(0)
    theirs = torch.nn.Parameter(torch.zeros(SHAPE))
    ours = fnn.nn.Parameter(jnp.zeros(SHAPE))
    assert getattr(fnn.nn.init, name)(ours, *args, **options) is ours
    getattr(torch.nn.init, name)(theirs, *args, **options)
    return ours.value, theirs


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("constant_", (2.5,)),
        ("ones_", ()),
        ("zeros_", ()),
        ("uniform_", ()),
        ("uniform_", (-3.0, 0.5)),
        ("normal_", ()),
        ("normal_", (2.0, 0.1)),
        ("trunc_normal_", ()),
        ("trunc_normal_", (0.5, 2.0, -1.0, 1.5)),
        ("trunc_normal_", (0.0, 0.02)),
        ("xavier_uniform_", ()),
        ("xavier_uniform_", (3.0,)),
        ("xavier_normal_", (0.5,)),
        ("kaiming_uniform_", ()),
        ("kaiming_uniform_", (0.3, "fan_out")),
        ("kaiming_uniform_", (0, "FAN_IN", "relu")),
        ("kaiming_normal_", ()),
        ("kaiming_normal_", (5**0.5, "fan_out", "leaky_relu")),
        ("kaiming_normal_", (0, "fan_in", "tanh")),
        ("dirac_", (3,)),
        ("orthogonal_", ()),
        ("orthogonal_", (3.0,)),
    ],
    ids=str,
)
def test_functions(name, args):
    assert_same_distribution(*drawn(name, *args))


@pytest.mark.parametrize(
    "layer",
    [
        lambda nn: nn.Linear(300, 400),
        lambda nn: nn.Conv1d(40, 60, 9, groups=2),
        lambda nn: nn.Conv2d(30, 400, (3, 5)),
        lambda nn: nn.Conv3d(20, 300, 3),
        lambda nn: nn.ConvTranspose2d(30, 400, (3, 5), groups=2),
        lambda nn: nn.Bilinear(30, 40, 300),
        lambda nn: nn.EmbeddingBag(500, 200, padding_idx=3),
        lambda nn: nn.Embedding(500, 200),
        lambda nn: nn.Embedding(500, 200, padding_idx=3),
        lambda nn: nn.BatchNorm2d(50),
        lambda nn: nn.LayerNorm((5, 7)),
    ],
    ids=[
        "Linear",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "ConvTranspose2d",
        "Bilinear",
        "EmbeddingBag with padding",
        "Embedding",
        "Embedding with padding",
        "BatchNorm2d",
        "LayerNorm",
    ],
)
@pytest.mark.parametrize("face", ["stateful", "functional"])
def test_layers(layer, face):
    torch.manual_seed(0)
    fnn.manual_seed(0)
    ours, theirs = layer(fnn.nn), layer(torch.nn)
    values = ours.state_dict()
    if face == "functional":
        params, state = fnn.pure(ours).init(1)
        values = {**params, **state}
    for name, value in theirs.state_dict().items():
        assert_same_distribution(values[name], value)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (0, 2)], ids=str)
def test_eye(shape):
    ours, theirs = fnn.nn.init.eye_(fnn.nn.Parameter(jnp.ones(shape))), torch.nn.init.eye_(torch.ones(shape))
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("shape", "groups"), [((6, 2, 3), 1), ((6, 2, 3), 3), ((4, 5, 2, 3), 2), ((2, 5, 1, 4, 3), 1)], ids=str
)
def test_dirac(shape, groups):
    theirs = torch.nn.init.dirac_(torch.ones(shape), groups)
    assert fnn.nn.init.dirac_(fnn.nn.Parameter(jnp.ones(shape)), groups).tolist() == theirs.tolist()


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 2), (5, 0)], ids=str)
def test_orthogonal(shape):
    matrix = numpy(fnn.nn.init.orthogonal_(fnn.nn.Parameter(jnp.ones(shape)), gain=2.0).value).reshape(shape[0], -1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5)


@pytest.mark.parametrize("sparsity", [0, 0.31, 1])
def test_sparse(sparsity):
    torch.manual_seed(0)
    fnn.manual_seed(0)
    theirs = torch.nn.init.sparse_(torch.zeros(50, 40), sparsity, 0.3)
    ours = fnn.nn.init.sparse_(fnn.nn.Parameter(jnp.ones((50, 40))), sparsity, 0.3)
    assert (ours == 0).sum(0).tolist() == (theirs == 0).sum(0).tolist()
    assert len({tuple(column) for column in (numpy(ours.value) == 0).T}) == (40 if 0 < sparsity < 1 else 1)
    assert_same_distribution(ours.value, theirs)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("initializer", [fnn.nn.init.uniform(-1, 1), fnn.nn.init.normal(), fnn.nn.init.trunc_normal()])
def test_16_bits_are_drawn_in_float32(initializer, dtype):
    key = jax.random.key(0)
    narrow = initializer(key, (1000,), dtype)
    assert narrow.dtype == dtype
    assert (narrow == initializer(key, (1000,), jnp.float32).astype(dtype)).all()


@pytest.mark.parametrize(
    "name", ["linear", "conv1d", "conv2d", "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gains(name):
    assert fnn.nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)


@pytest.mark.parametrize("slope", [None, 0, 0.2, 1])
def test_gain_of_a_slope(slope):
    assert fnn.nn.init.calculate_gain("leaky_relu", slope) == torch.nn.init.calculate_gain("leaky_relu", slope)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_fans(shape):
    fans = torch.nn.init._calculate_fan_in_and_fan_out(torch.zeros(shape))
    assert fnn.nn.init._calculate_fan_in_and_fan_out(jnp.zeros(shape)) == fans


def values(*names, seed=0):
    fnn.manual_seed(seed)
    net = fnn.nn.Sequential(fnn.nn.Linear(3, 4), fnn.nn.Embedding(5, 2))
    own = dict(net.named_parameters())
    return {name: own[name].tolist() for name in names or own}


def test_values_depend_on_the_seed_and_not_on_the_order_of_access():
    expected = values()
    assert values() == expected
    assert values("1.weight", "0.bias", "0.weight") == expected
    assert values("0.bias") == {"0.bias": expected["0.bias"]}
    assert values(seed=1) != expected


def test_a_generator_decides_the_values():
    a, b, c = (fnn.nn.Parameter(jnp.zeros(5)) for _ in range(3))
    fnn.nn.init.normal_(a, generator=fnn.Generator(3))
    fnn.nn.init.normal_(b, generator=fnn.Generator(3))
    fnn.nn.init.normal_(c, generator=fnn.Generator(4))
    assert (a == b).all()
    assert (a != c).all()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: fnn.nn.Linear(2, 2),
        lambda: fnn.nn.Conv2d(1, 1, 1),
        lambda: fnn.nn.BatchNorm1d(2),
        lambda: fnn.nn.LayerNorm(2),
        lambda: fnn.nn.Embedding(2, 2),
    ],
)
def test_constructors_call_reset_parameters_of_the_subclass(layer, monkeypatch):
    def reset(self):
        fnn.nn.init.constant_(self.weight, 7)

    monkeypatch.setattr(type(layer()), "reset_parameters", reset)
    assert (layer().weight == 7).all()


@pytest.mark.parametrize("nothing", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_there_may_be_nothing_to_draw(nothing):
    parameter = fnn.nn.Parameter(jnp.zeros(nothing))
    with pytest.warns(UserWarning, match="zero-element"):
        assert fnn.nn.init.kaiming_normal_(parameter).shape == nothing
    with pytest.warns(UserWarning, match="zero-element"):
        assert fnn.nn.init.kaiming_uniform_(parameter) is parameter


def initialise(nn, array, name, *args, shape=(2, 3), **options):
    parameter = nn.Parameter(array(np.zeros(shape, np.float32)))
    getattr(nn.init, name)(parameter, *args, **options)


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        (("xavier_uniform_",), {"shape": (3,)}, ["fewer than 2 dimensions", "(3,)"]),
        (("kaiming_normal_",), {"shape": (3,)}, ["fewer than 2 dimensions", "(3,)"]),
        (("kaiming_uniform_",), {"mode": "fan"}, ["fan_in", "fan_out"]),
        (("kaiming_uniform_",), {"nonlinearity": "swish"}, ["swish"]),
        (("kaiming_uniform_",), {"a": True}, ["True"]),
        (("uniform_", 1.0, 0.0), {}, ["a=1.0", "b=0.0"]),
        (("trunc_normal_", 0.0, 1.0, 1.0, -1.0), {}, ["a=1.0", "b=-1.0"]),
        (("normal_", 0.0, -1.0), {}, ["-1.0"]),
        (("eye_",), {"shape": (2, 3, 4)}, ["2 dimensions", "(2, 3, 4)"]),
        (("dirac_",), {"shape": (2, 3)}, ["3, 4, 5 dimensions", "(2, 3)"]),
        (("dirac_", 2), {"shape": (3, 3, 3)}, ["divisible by groups", "groups=2"]),
        (("orthogonal_",), {"shape": (3,)}, ["2 or more", "(3,)"]),
        (("sparse_", 0.5), {"shape": (3,)}, ["2 dimensions", "(3,)"]),
    ],
    ids=str,
)
def test_refuses(args, options, words):
    assert_refused(lambda nn, array: initialise(nn, array, *args, **options), *words)


def test_refuses_integers_when_they_are_drawn():
    parameter = fnn.nn.init.normal_(fnn.nn.Parameter(np.array([1, 2]), requires_grad=False))
    with pytest.raises(NotImplementedError, match=r"int32.*floating-point"):
        parameter.sum()


def test_warns_of_a_mean_far_from_the_interval():
    with pytest.warns(UserWarning, match="more than 2 std"):
        fnn.nn.init.trunc_normal_(fnn.nn.Parameter(jnp.zeros(2)), mean=100.0)


def test_tells_arrays_and_parameters_which_form_to_use():
    with pytest.raises(TypeError, match=r"Parameter or Buffer, got .* without the underscore"):
        fnn.nn.init.normal_(jnp.zeros(3))
    with pytest.raises(TypeError, match=r"use nn\.init\.xavier_uniform_ to set a parameter"):
        fnn.nn.init.xavier_uniform(fnn.nn.Linear(2, 2).weight)
