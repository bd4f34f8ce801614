"""Convolution layers agree with torch's."""

import jax.numpy as jnp
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, assert_same_face, normal, tensor, torch

import fnn.nn

SPACE = {1: (9,), 2: (7, 8), 3: (6, 5, 7)}


def check(n, *args, batch=(2,), **options):
    check_layer(f"Conv{n}d", n, *args, batch=batch, **options)


def check_layer(name, n, *args, batch=(2,), **options):
    layers = [getattr(nn, name)(4, 6, *args, **options) for nn in (fnn.nn, torch.nn)]
    assert_layers_agree(*layers, normal(*batch, 4, *SPACE[n]))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "groups": 2},
        {"padding": "same", "dilation": 2, "bias": False},
        {"padding": "valid"},
    ],
    ids=str,
)
def test_agrees(n, options):
    check(n, 3, **options)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("n", "kernel", "options"),
    [
        (1, 3, {"padding": 2}),
        (1, 4, {"padding": "same"}),
        (2, (3, 2), {"padding": (2, 1), "stride": 2}),
        (2, (2, 3), {"padding": "same", "dilation": (3, 1)}),
        (2, 3, {"padding": "valid"}),
        (3, 2, {"padding": 1, "groups": 2}),
    ],
)
def test_padding_modes(mode, n, kernel, options):
    check(n, kernel, padding_mode=mode, **options)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_takes_inputs_without_a_batch_axis(mode):
    check(2, 3, padding=1, padding_mode=mode, batch=())


@pytest.mark.parametrize(
    "layer",
    [
        lambda nn: nn.Conv1d(4, 6, [3], stride=[2], padding=[1]),
        lambda nn: nn.Conv2d(4, 6, (3, 5), (2, 1), (4, 2), (3, 1), 2, False, "reflect"),
        lambda nn: nn.Conv3d(4, 6, 3, padding="same", padding_mode="circular"),
        lambda nn: nn.ConvTranspose1d(4, 6, [3], stride=[2], padding=[1]),
        lambda nn: nn.ConvTranspose2d(4, 6, (3, 5), (2, 1), (4, 2), (1, 0), 2, False, (3, 1)),
        lambda nn: nn.ConvTranspose3d(4, 6, 3, stride=3, output_padding=(0, 1, 2)),
    ],
)
def test_attributes(layer):
    assert_same_face(layer(fnn.nn), layer(torch.nn))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
        {"dilation": 2, "bias": False},
    ],
    ids=str,
)
def test_transposed_agrees(n, options):
    check_layer(f"ConvTranspose{n}d", n, 3, **options)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_transposed_takes_the_size_of_the_output(batch):
    options = {"kernel_size": 3, "stride": 3, "padding": (4, 3), "dilation": (1, 2)}
    theirs, ours = (nn.ConvTranspose2d(4, 6, **options) for nn in (torch.nn, fnn.nn))
    ours.load_state_dict(theirs.state_dict())
    x = normal(*batch, 4, 5, 6)
    smallest = theirs(tensor(x)).shape[-2:]
    wanted = [s + d for s, d in zip(smallest, (1, 2), strict=True)]
    for size in (wanted, (*batch, 6, *wanted), smallest):
        assert_close(ours(jnp.asarray(x), output_size=size), theirs(tensor(x), output_size=list(size)))


def test_conv_forward_takes_another_weight():
    layer = fnn.nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")
    x = jnp.asarray(normal(2, 4, 5, 5))
    assert_close(layer._conv_forward(x, 2 * layer.weight, None), tensor(2 * (layer(x) - layer.bias[:, None, None])))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_takes_no_input_channels():
    assert fnn.nn.Conv2d(0, 3, 3).weight.shape == (3, 0, 3, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 0}, ["groups", "0"]),
        ({"groups": 3}, ["in_channels", "4", "3"]),
        ({"groups": 4}, ["out_channels", "6", "4"]),
        ({"stride": 2, "padding": "same"}, ["same", "strided"]),
        ({"padding": "full"}, ["full", "same", "valid"]),
        ({"padding_mode": "mirror"}, ["mirror", "reflect"]),
    ],
    ids=str,
)
def test_refuses_arguments(options, words):
    assert_refused(lambda nn, array: nn.Conv2d(4, 6, 3, **options), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"groups": 3}, ["in_channels", "4", "3"]), ({"padding_mode": "reflect"}, ["zeros", "ConvTranspose2d", "reflect"])],
    ids=str,
)
def test_transposed_refuses_arguments(options, words):
    assert_refused(lambda nn, array: nn.ConvTranspose2d(4, 6, 3, **options), *words)


@pytest.mark.parametrize(
    ("size", "words"),
    [((9, 9), ["(9, 9)", "[11, 11]", "[12, 12]"]), ((11, 13), ["(11, 13)"]), ((12,), ["2 or 4 elements", "1"])],
    ids=str,
)
def test_transposed_refuses_sizes(size, words):
    def call(nn, array):
        nn.ConvTranspose2d(4, 6, 3, stride=2)(array(normal(2, 4, 5, 5)), output_size=size)

    assert_refused(call, *words)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((2, 3, 5, 5), {}, ["4 channels", "3 channels"]),
        ((4, 5), {}, ["4D", "[4, 5]"]),
        ((2, 4, 2, 2), {}, ["(2, 2)", "(3, 3)"]),
        ((2, 4, 3, 3), {"padding": 3, "padding_mode": "reflect"}, ["reflect", "(3, 3)", "(2, 4, 3, 3)"]),
    ],
    ids=str,
)
def test_refuses_inputs(shape, options, words):
    assert_refused(lambda nn, array: nn.Conv2d(4, 6, 3, **options)(array(normal(*shape))), *words)
