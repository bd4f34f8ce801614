"""Pooling layers agree with torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_layers_agree, assert_refused, assert_same_face, normal, tensor, torch

import fnn.nn

SHAPES = {1: (2, 3, 9), 2: (2, 3, 9, 8), 3: (2, 3, 6, 7, 5)}

# The constructor's arguments; the layer has one, two and three axes.
LAYERS = [
    ("MaxPool", (3,), {}),
    ("MaxPool", (3,), {"stride": 1, "padding": 1, "dilation": 2, "ceil_mode": True}),
    ("MaxPool", (3,), {"stride": 3, "return_indices": True}),
    ("AvgPool", (2,), {}),
    ("AvgPool", (3,), {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
    ("LPPool", (2, 3), {}),
    ("LPPool", (4.0, 2), {"stride": 1, "ceil_mode": True}),
    ("AdaptiveMaxPool", (4,), {}),
    ("AdaptiveMaxPool", (2,), {"return_indices": True}),
    ("AdaptiveAvgPool", (4,), {}),
]


@pytest.mark.parametrize(("name", "args", "options"), LAYERS, ids=str)
@pytest.mark.parametrize("n", SHAPES)
def test_layers(n, name, args, options):
    layers = [getattr(nn, f"{name}{n}d")(*args, **options) for nn in (fnn.nn, torch.nn)]
    assert_layers_agree(*layers, normal(*SHAPES[n]))


@pytest.mark.parametrize(
    ("name", "args"),
    [("AdaptiveAvgPool2d", ((2, 5),)), ("AdaptiveMaxPool2d", ((None, 3),)), ("AvgPool2d", ((3, 2), None, 0, False, True, 5))],
    ids=str,
)
def test_layers_take_a_number_for_each_axis(name, args):
    assert_layers_agree(getattr(fnn.nn, name)(*args), getattr(torch.nn, name)(*args), normal(*SHAPES[2]))


@pytest.mark.parametrize("options", [{"output_size": 3}, {"output_ratio": (0.5, 0.6), "return_indices": True}], ids=str)
def test_fractional_max_pool_with_given_samples(options):
    samples = np.random.default_rng(0).random((2, 3, 2), np.float32)
    ours = fnn.nn.FractionalMaxPool2d(2, **options, _random_samples=jnp.asarray(samples))
    theirs = torch.nn.FractionalMaxPool2d(2, **options, _random_samples=tensor(samples))
    assert_layers_agree(ours, theirs, normal(*SHAPES[2]))


def test_fractional_max_pool_draws():
    layer = fnn.nn.FractionalMaxPool3d((2, 2, 1), output_ratio=0.5)
    assert_same_face(layer, torch.nn.FractionalMaxPool3d((2, 2, 1), output_ratio=0.5))
    first, second = (layer(jnp.asarray(normal(2, 3, 8, 9, 7))) for _ in range(2))
    assert first.shape == (2, 3, 4, 4, 3)
    assert (first != second).any()


@pytest.mark.parametrize("n", SHAPES)
def test_max_unpool(n):
    pool = getattr(torch.nn, f"MaxPool{n}d")(2, return_indices=True)
    y, places = (a.numpy() for a in pool(tensor(normal(*SHAPES[n]))))
    ours, theirs = (getattr(nn, f"MaxUnpool{n}d")(2) for nn in (fnn.nn, torch.nn))
    assert_same_face(ours, theirs)
    assert_agree(ours, theirs, y, places, output_size=SHAPES[n])


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("MaxPool2d", ((2, 3), (1, 2), (1, 0), (1, 2), True, True)),
        ("AvgPool1d", (3, 2, 1, True, False)),
        ("AvgPool3d", ((2, 1, 1), None, 0, False, True, 2)),
        ("LPPool2d", (2.5, (3, 2), 1, True)),
        ("FractionalMaxPool2d", ((3, 2), (4, 5), None, True)),
        ("MaxUnpool3d", ((2, 3, 1), None, (1, 1, 0))),
    ],
    ids=str,
)
def test_attributes(name, args):
    assert_same_face(getattr(fnn.nn, name)(*args), getattr(torch.nn, name)(*args))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("FractionalMaxPool2d", (2,)),
        ("FractionalMaxPool2d", (2, 3, 0.5)),
        ("FractionalMaxPool2d", (2, None, 1.5)),
        ("FractionalMaxPool2d", (2, None, (0.5,))),
        ("FractionalMaxPool3d", (0, 3)),
        ("FractionalMaxPool3d", ((2, 2, -1), 3)),
    ],
    ids=str,
)
def test_refuses_to_be_made(name, args):
    assert_refused(lambda nn, array: getattr(nn, name)(*args))


@pytest.mark.parametrize("name", ["MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d"])
def test_refuses_shapes(name):
    assert_refused(lambda nn, array: getattr(nn, name)(2)(array(normal(4, 4))), "3D or 4D", "[4, 4]")
