"""Loss layers agree with torch's."""

import numpy as np
import pytest
from oracle import assert_close, assert_layers_agree, assert_refused, assert_same_face, integers, normal, tensor, torch

import fnn.nn

pytestmark = pytest.mark.filterwarnings("ignore:size_average", "ignore:reduction")

U = np.random.default_rng(1).random((3, 4), np.float32)
X, Y = normal(3, 4), normal(3, 4)
W = np.abs(normal(4))
# For each layer its constructor's options, and the inputs of forward.
LAYERS = [
    ("L1Loss", {"reduction": "sum"}, (X, Y)),
    ("MSELoss", {"reduction": "none"}, (X, Y)),
    ("SmoothL1Loss", {"beta": 0.4}, (X, Y)),
    ("HuberLoss", {"delta": 0.4}, (X, Y)),
    ("BCELoss", {"weight": W}, (U, U[::-1].copy())),
    ("BCEWithLogitsLoss", {"weight": W, "pos_weight": W + 1}, (X, U)),
    ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 0.1}, (U, U * 4)),
    ("GaussianNLLLoss", {"full": True, "eps": 0.2}, (X, Y, U)),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}, (X, Y)),
]


def pair(name, options):
    """Layers of fnn and of torch."""
    converted = {key: tensor(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    return getattr(fnn.nn, name)(**options), getattr(torch.nn, name)(**converted)


@pytest.mark.parametrize(("name", "options", "inputs"), LAYERS, ids=lambda value: value if isinstance(value, str) else "")
def test_layers(name, options, inputs):
    assert_layers_agree(*pair(name, options), *inputs)
    theirs = getattr(torch.nn, name)()
    assert_same_face(getattr(fnn.nn, name)(), theirs)
    assert_close(getattr(fnn.nn, name)()(*inputs), theirs(*map(tensor, inputs)))


def test_forward_takes_torchs_names():
    assert fnn.nn.MSELoss()(input=X, target=X) == 0
    assert fnn.nn.PoissonNLLLoss()(log_input=X, target=Y).shape == ()
    assert fnn.nn.GaussianNLLLoss()(input=X, target=Y, var=U).shape == ()


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_older_reductions(size_average, reduce):
    for name in ("MSELoss", "BCELoss", "CrossEntropyLoss"):
        assert_same_face(*pair(name, {"size_average": size_average, "reduce": reduce}))


def test_a_reduction_is_checked_by_forward():
    layer = fnn.nn.MSELoss(reduction="max")
    with pytest.raises(ValueError, match="max"):
        layer(X, X)


def test_a_weight_is_a_buffer():
    layer = fnn.nn.BCEWithLogitsLoss(pos_weight=W)
    assert list(layer.state_dict()) == ["pos_weight"]
    layer.pos_weight.fill_(1)
    assert_close(layer(X, U), torch.nn.functional.binary_cross_entropy_with_logits(tensor(X), tensor(U)))


def test_huber_loss_refuses():
    assert_refused(lambda nn, array: nn.HuberLoss(delta="1"), "delta", "str")


def test_layers_take_integers_for_targets():
    layers = pair("PoissonNLLLoss", {})
    assert_layers_agree(*layers, X, integers(5, 3, 4))
