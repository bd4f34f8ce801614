"""The layer of connectionist temporal classification agrees with torch's."""

import numpy as np
import pytest
from oracle import assert_layers_agree, normal, torch

import fnn.nn


@pytest.mark.parametrize("options", [{}, {"blank": 3, "reduction": "none", "zero_infinity": True}], ids=str)
def test_ctc_loss(options):
    layers = (nn.CTCLoss(**options) for nn in (fnn.nn, torch.nn))
    lengths = np.array([6, 2]), np.array([2, 3])
    assert_layers_agree(*layers, normal(6, 2, 4), np.array([[1, 2, 0], [2, 2, 1]]), *lengths, tolerance=2e-5)
