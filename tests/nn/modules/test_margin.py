"""Layers of losses with a margin agree with torch's."""

import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, assert_same_face, integers, normal, tensor, torch

import fnn.nn

X, Y, Z = normal(3, 4), normal(3, 4), normal(3, 4)
W = np.abs(normal(4))
SIGNS = np.array([1, -1, -1])
# For each layer its constructor's options, and the inputs of forward.
LAYERS = [
    ("HingeEmbeddingLoss", {"margin": 0.4}, (X, np.sign(Y).astype(int))),
    ("MarginRankingLoss", {"margin": 0.4}, (X[0], Y[0], np.sign(Z[0]).astype(int))),
    ("SoftMarginLoss", {"reduction": "sum"}, (X, np.sign(Y).astype(int))),
    ("MultiLabelSoftMarginLoss", {"weight": W}, (X, integers(2, 3, 4))),
    ("MultiMarginLoss", {"p": 2, "margin": 0.4, "weight": W}, (X, integers(4, 3))),
    ("MultiLabelMarginLoss", {"reduction": "none"}, (X, np.array([[0, 3, -1, 1], [-1, 0, 0, 0], [2, 2, 1, -1]]))),
    ("CosineEmbeddingLoss", {"margin": -0.4}, (X, Y, SIGNS)),
    ("TripletMarginLoss", {"margin": 2.0, "p": 1.5, "eps": 0.1, "swap": True}, (X, Y, Z)),
    ("TripletMarginWithDistanceLoss", {"margin": 2.0, "swap": True}, (X, Y, Z)),
]


def pair(name, options):
    """Layers of fnn and of torch."""
    converted = {key: tensor(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    return getattr(fnn.nn, name)(**options), getattr(torch.nn, name)(**converted)


def same_face(ours, theirs):
    """As of the oracle, less the distance function, which is a layer."""
    children = [theirs._modules.pop("distance_function", None), ours._modules.pop("distance_function", None)]
    assert repr(children[0]) == repr(children[1])
    assert_same_face(ours, theirs)


@pytest.mark.parametrize(("name", "options", "inputs"), LAYERS, ids=lambda value: value if isinstance(value, str) else "")
def test_layers(name, options, inputs):
    assert_layers_agree(*pair(name, options), *inputs)
    theirs = getattr(torch.nn, name)()
    ours = getattr(fnn.nn, name)()
    assert_close(ours(*inputs), theirs(*map(tensor, inputs)))
    same_face(ours, theirs)


def test_forward_takes_torchs_names():
    assert fnn.nn.CosineEmbeddingLoss()(input1=X, input2=Y, target=SIGNS).shape == ()
    assert fnn.nn.TripletMarginLoss()(anchor=X, positive=Y, negative=Z).shape == ()


def test_triplet_margin_with_distance_loss_takes_a_layer_or_a_function():
    layer = fnn.nn.TripletMarginWithDistanceLoss(distance_function=fnn.nn.PairwiseDistance(p=1.0))
    assert [name for name, _ in layer.named_children()] == ["distance_function"]
    expected = torch.nn.TripletMarginLoss(p=1.0)(*map(tensor, (X, Y, Z)))
    assert_close(layer(X, Y, Z), expected)
    function = fnn.nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: abs(a - b + 1e-6).sum(-1))
    assert_close(function(X, Y, Z), expected)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("MultiMarginLoss", {"p": 3}, ["3"]),
        ("MultiMarginLoss", {"weight": normal(2, 2)}, ["2D"]),
        ("TripletMarginLoss", {"margin": 0}, ["margin", "0"]),
        ("TripletMarginWithDistanceLoss", {"margin": -1.0}, ["margin", "-1.0"]),
    ],
    ids=str,
)
def test_refuses(name, options, words):
    def call(nn, array):
        getattr(nn, name)(**{key: array(value) if isinstance(value, np.ndarray) else value for key, value in options.items()})

    assert_refused(call, *words)
