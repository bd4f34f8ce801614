"""Layers of distances agree with torch's."""

import pytest
from oracle import assert_layers_agree, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PairwiseDistance", {}),
        ("PairwiseDistance", {"p": 1.0, "eps": 0.1, "keepdim": True}),
        ("CosineSimilarity", {}),
        ("CosineSimilarity", {"dim": 0, "eps": 1.0}),
    ],
    ids=str,
)
def test_layers(name, options):
    layers = (getattr(nn, name)(**options) for nn in (fnn.nn, torch.nn))
    assert_layers_agree(*layers, normal(3, 4), normal(3, 4), tolerance=2e-5)
