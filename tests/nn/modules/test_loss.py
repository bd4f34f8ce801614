"""Loss layers agree with torch's."""

import pytest
from oracle import assert_layers_agree, assert_same_face, integers, normal, tensor, torch

import fnn.nn


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_mse_loss(reduction):
    layers = [nn.MSELoss(reduction=reduction) for nn in (fnn.nn, torch.nn)]
    assert_layers_agree(*layers, normal(3, 4), normal(3, 4))


@pytest.mark.parametrize(
    "options", [{}, {"reduction": "sum", "label_smoothing": 0.1}, {"ignore_index": 2, "reduction": "none"}], ids=str
)
@pytest.mark.parametrize("weight", [None, abs(normal(5))], ids=["", "weighted"])
def test_cross_entropy_loss(weight, options):
    ours = fnn.nn.CrossEntropyLoss(weight, **options)
    theirs = torch.nn.CrossEntropyLoss(None if weight is None else tensor(weight), **options)
    assert_layers_agree(ours, theirs, normal(6, 5), integers(5, 6))


@pytest.mark.filterwarnings("ignore:size_average and reduce")
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_older_reductions(size_average, reduce):
    assert_same_face(fnn.nn.MSELoss(size_average, reduce), torch.nn.MSELoss(size_average, reduce))
    ours, theirs = (nn.CrossEntropyLoss(None, size_average, reduce=reduce) for nn in (fnn.nn, torch.nn))
    assert_same_face(ours, theirs)
