"""The layer that shuffles channels agrees with torch's."""

from oracle import assert_layers_agree, normal, torch

import fnn.nn


def test_agrees():
    assert_layers_agree(fnn.nn.ChannelShuffle(3), torch.nn.ChannelShuffle(3), normal(2, 6, 4))
