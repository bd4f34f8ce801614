"""A layer that puts channels in another order."""

from __future__ import annotations

from fnn import functional as F
from fnn.nn.modules.function import FunctionModule

__all__ = ["ChannelShuffle"]


class ChannelShuffle(FunctionModule):
    """Takes channels from the groups in turn: the first of each, then the second of each, and so on.

    Args:
        groups: the number of groups of C / groups neighbouring channels.

    Shape:
        (N, C, *), and the same out.

    References:
        Zhang et al., ShuffleNet, https://arxiv.org/abs/1707.01083

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.ChannelShuffle(2)(jnp.arange(4).reshape(1, 4, 1)).ravel().tolist()
        [0, 2, 1, 3]
    """

    _function = staticmethod(F.channel_shuffle)

    def __init__(self, groups: int) -> None:
        super().__init__(groups=groups)
