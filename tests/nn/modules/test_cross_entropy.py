"""Layers of class likelihoods agree with torch's."""

import numpy as np
import pytest
from oracle import assert_layers_agree, assert_refused, integers, normal, tensor, torch

import fnn.nn

WEIGHT = np.abs(normal(5))


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"ignore_index": 2, "reduction": "none"}], ids=str)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss"])
def test_layers(name, weight, options):
    options = {**options, "label_smoothing": 0.1} if name == "CrossEntropyLoss" else options
    ours = getattr(fnn.nn, name)(weight, **options)
    theirs = getattr(torch.nn, name)(None if weight is None else tensor(weight), **options)
    assert_layers_agree(ours, theirs, normal(6, 5), integers(5, 6))


def test_nll_loss_2d_warns():
    with pytest.warns(FutureWarning, match="`NLLLoss2d` has been deprecated"):
        ours = fnn.nn.NLLLoss2d(WEIGHT, ignore_index=1)
    with pytest.warns(FutureWarning):
        theirs = torch.nn.NLLLoss2d(tensor(WEIGHT), ignore_index=1)
    assert_layers_agree(ours, theirs, normal(2, 5, 3, 3), integers(5, 2, 3, 3))


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, integers(5, 7)),
        ({"bias": True, "reduction": "sum", "ignore_index": 3}, integers(5, 7)),
        ({"out_features": (2, 3), "bias": True, "label_smoothing": 0.1}, integers(5, 7, 2, 3)),
    ],
    ids=["", "bias", "axes"],
)
def test_linear_cross_entropy_loss(options, target):
    ours = fnn.nn.LinearCrossEntropyLoss(4, 5, weight=WEIGHT, **options)
    theirs = torch.nn.LinearCrossEntropyLoss(4, 5, weight=tensor(WEIGHT), **options)
    assert_layers_agree(ours, theirs, normal(7, 4), target, tolerance=2e-5)


@pytest.mark.parametrize("words", [["(5,)", "(4,)"]])
def test_linear_cross_entropy_loss_refuses(words):
    assert_refused(lambda nn, array: nn.LinearCrossEntropyLoss(4, 5, weight=array(WEIGHT[:4])), *words)
    assert_refused(lambda nn, array: nn.LinearCrossEntropyLoss(4, 5, label_smoothing=1.5), "[0, 1]", "1.5")
