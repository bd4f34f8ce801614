"""Resizing layers agree with torch's."""

import pytest
from oracle import assert_layers_agree, assert_refused, normal, torch

import fnn.nn


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("Upsample", (2, 3, 4), {"scale_factor": 2}),
        ("Upsample", (2, 3, 4, 5), {"scale_factor": (2, 1.5), "mode": "bilinear", "align_corners": True}),
        ("Upsample", (2, 3, 4, 5), {"scale_factor": 1.3, "mode": "bicubic", "recompute_scale_factor": True}),
        ("Upsample", (1, 2, 3, 4, 5), {"size": (4, 5, 6), "mode": "trilinear"}),
        ("UpsamplingNearest2d", (2, 3, 4, 5), {"scale_factor": 2}),
        ("UpsamplingNearest2d", (2, 3, 4, 5), {"size": 6}),
        ("UpsamplingBilinear2d", (2, 3, 4, 5), {"size": (7, 3)}),
    ],
    ids=str,
)
def test_agrees(name, shape, options):
    assert_layers_agree(getattr(fnn.nn, name)(**options), getattr(torch.nn, name)(**options), normal(*shape))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale_factor": 0}, ["either size or scale_factor"]),
        ({"size": 2, "scale_factor": 2}, ["only one"]),
        ({"size": 2, "mode": "linear"}, ["linear", "4D"]),
    ],
)
def test_refuses(options, words):
    assert_refused(lambda nn, array: nn.Upsample(**options)(array(normal(1, 2, 3, 4))), *words)
