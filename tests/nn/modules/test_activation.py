"""Activation layers agree with torch's."""

import copy

import jax.numpy as jnp
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, assert_same_face, normal, tensor, torch

import fnn
import fnn.nn

LAYERS = [
    ("Threshold", (0.5, 9.0), {}),
    ("ReLU", (), {}),
    ("Hardtanh", (-0.5, 0.7), {}),
    ("ReLU6", (), {}),
    ("Sigmoid", (), {}),
    ("Hardsigmoid", (), {}),
    ("Tanh", (), {}),
    ("SiLU", (), {}),
    ("Mish", (), {}),
    ("Hardswish", (), {}),
    ("ELU", (0.5,), {}),
    ("CELU", (0.5,), {}),
    ("SELU", (), {}),
    ("GLU", (1,), {}),
    ("GELU", (), {}),
    ("GELU", (), {"approximate": "tanh"}),
    ("Hardshrink", (0.3,), {}),
    ("LeakyReLU", (0.3,), {}),
    ("LogSigmoid", (), {}),
    ("Softplus", (2.0, 1.0), {}),
    ("Softshrink", (0.3,), {}),
    ("PReLU", (), {}),
    ("PReLU", (4,), {"init": 0.1}),
    ("Softsign", (), {}),
    ("Tanhshrink", (), {}),
    ("Softmin", (1,), {}),
    ("Softmax", (-1,), {}),
    ("Softmax2d", (), {}),
    ("LogSoftmax", (0,), {}),
]
IN_PLACE = [
    "ReLU",
    "RReLU",
    "Hardtanh",
    "ReLU6",
    "Hardsigmoid",
    "SiLU",
    "Mish",
    "Hardswish",
    "ELU",
    "CELU",
    "SELU",
    "LeakyReLU",
]


@pytest.mark.parametrize(("name", "args", "options"), LAYERS, ids=str)
def test_agrees(name, args, options):
    ours, theirs = (getattr(nn, name)(*args, **options) for nn in (fnn.nn, torch.nn))
    assert_layers_agree(ours, theirs, normal(2, 4, 3, 2))


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LAYERS} - {"Threshold"} | {"RReLU"}))
def test_looks_the_same_by_default(name):
    assert_same_face(getattr(fnn.nn, name)(), getattr(torch.nn, name)())
    assert repr(copy.deepcopy(getattr(fnn.nn, name)())) == repr(getattr(torch.nn, name)())


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_returns_its_result(name):
    ours, theirs = (getattr(nn, name)(inplace=True).eval() for nn in (fnn.nn, torch.nn))
    assert_same_face(ours, theirs)
    x = normal(5)
    assert_close(ours(x), theirs(tensor(x)))


def test_follows_attributes_that_are_set_later():
    layer = fnn.nn.LeakyReLU(0.1)
    layer.negative_slope = 0.5
    assert layer(jnp.array([-1.0])).tolist() == [-0.5]


def test_rrelu_draws_in_training_only():
    layer, x = fnn.nn.RReLU(), -jnp.ones(100)
    with fnn.rng(0):
        out = layer(x)
    assert ((out < -0.125) & (out > -0.334)).all()
    assert (out != out[0]).any()
    params, state = fnn.split(layer)
    _, apply = fnn.pure(layer)
    drawn, _ = apply(params, x, state=state, training=True, rng=0)
    assert (drawn == out).all()
    assert_layers_agree(fnn.nn.RReLU(0.2, 0.4), torch.nn.RReLU(0.2, 0.4).eval(), normal(5))


def test_hardtanh_takes_the_older_names_of_its_limits():
    options = {"min_value": -2, "max_value": 3}
    for nn in (torch.nn, fnn.nn):
        with pytest.warns(FutureWarning, match="deprecated and renamed to .?m"):
            nn.Hardtanh(**options)
    with pytest.warns(FutureWarning, match="min_val"), pytest.warns(FutureWarning, match="max_val"):
        assert_same_face(fnn.nn.Hardtanh(**options), torch.nn.Hardtanh(**options))
    assert isinstance(fnn.nn.ReLU6(), fnn.nn.Hardtanh)


@pytest.mark.parametrize("name", ["Softmax", "Softmin", "LogSoftmax"])
def test_warns_of_the_axis_that_it_chooses(name):
    x = normal(2, 3)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        assert_close(getattr(fnn.nn, name)()(x), getattr(torch.nn, name)()(tensor(x)))


def test_prelu_is_a_parameter_that_can_be_reset():
    layer = fnn.nn.PReLU(3, init=0.5, dtype=jnp.bfloat16)
    assert (layer.weight.shape, layer.weight.dtype, layer.weight.tolist()) == ((3,), jnp.bfloat16, [0.5] * 3)
    layer.weight.data.fill_(2)
    layer.reset_parameters()
    assert layer.weight.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda nn, array: nn.GELU("erf")(array(normal(2))), ["none or tanh", "erf"]),
        (lambda nn, array: nn.Hardtanh(2, 1), ["max_val (1)", "min_val (2)"]),
        (lambda nn, array: nn.Hardtanh(1, 1), ["max_val (1)", "min_val (1)"]),
        (lambda nn, array: nn.Softmax2d()(array(normal(2, 3))), ["3D or 4D", "2D", "(2, 3)"]),
        (lambda nn, array: nn.PReLU(2)(array(normal(2, 3))), ["3 channels", "[2]"]),
        (lambda nn, array: nn.GLU()(array(normal(2, 3))), ["even", "3"]),
        (lambda nn, array: nn.Sigmoid(1), []),
        (lambda nn, array: nn.Tanh(inplace=True), ["inplace"]),
    ],
)
def test_refuses(call, words):
    assert_refused(call, *words)
