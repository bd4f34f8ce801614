"""Linear layers agree with torch's."""

import pytest
from oracle import assert_layers_agree, assert_refused, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda nn: nn.Linear(5, 4), (3, 5)),
        (lambda nn: nn.Linear(5, 4, bias=False), (2, 3, 5)),
        (lambda nn: nn.Linear(5, 1), (5,)),
        (lambda nn: nn.Linear(5, 4).bfloat16(), (3, 5)),
        (lambda nn: nn.Linear(5, 4).half(), (3, 5)),
        (lambda nn: nn.Linear(0, 4), (3, 0)),
        (lambda nn: nn.Identity(7, unused=True), (3, 5)),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_agrees(layer, shape):
    theirs = layer(torch.nn)
    dtype = str(next(theirs.parameters(), torch.zeros(0)).dtype).removeprefix("torch.")
    assert_layers_agree(layer(fnn.nn), theirs, normal(*shape, dtype=dtype))


def test_refuses_a_wrong_size():
    assert_refused(lambda nn, array: nn.Linear(5, 4)(array(normal(3, 6))), "(*, 5)", "(3, 6)")


def test_refuses_another_dtype():
    assert_refused(lambda nn, array: nn.Linear(5, 4).half()(array(normal(3, 5))), "input float32", "weight float16")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,)], ids=str)
def test_bilinear_agrees(lead, bias):
    ours, theirs = (nn.Bilinear(5, 4, 3, bias=bias) for nn in (fnn.nn, torch.nn))
    assert_layers_agree(ours, theirs, normal(*lead, 5), normal(*lead, 4))


def test_bilinear_refuses_no_features():
    assert_refused(lambda nn, array: nn.Bilinear(0, 4, 3), "in1_features", "0")
