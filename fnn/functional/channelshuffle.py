"""Channels in another order."""

from __future__ import annotations

import math
from typing import Any

import jax

from fnn.eager import compiled
from fnn.functional.checks import array, integer

__all__ = ["channel_shuffle", "native_channel_shuffle"]


@compiled
def channel_shuffle(input: Any, groups: int) -> jax.Array:
    """Takes channels from the groups in turn: the first of each, then the second of each, and so on.

    Args:
        input: (N, C, *), of at least three axes.
        groups: the number of groups of C / groups neighbouring channels.

    Returns:
        (N, C, *).

    Raises:
        RuntimeError: where the channels cannot be divided so.

    References:
        Zhang et al., ShuffleNet, https://arxiv.org/abs/1707.01083

    Example:
        >>> import jax.numpy as jnp
        >>> channel_shuffle(jnp.arange(4).reshape(1, 4, 1), 2).ravel().tolist()
        [0, 2, 1, 3]
    """
    x, count = array(input, "input"), integer(groups, "groups")
    if x.ndim < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(x.shape)}")
    if count < 1:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{count}")
    batch, channels, *space = x.shape
    if channels % count:
        raise RuntimeError(f"Number of channels must be divisible by groups. Got {channels} channels and {count} groups.")
    return x.reshape(batch, count, channels // count, math.prod(space)).swapaxes(1, 2).reshape(x.shape)


@compiled
def native_channel_shuffle(input: Any, groups: int) -> jax.Array:
    """`channel_shuffle`, by the name of torch's own kernel.

    Args:
        input, groups: as for `channel_shuffle`.

    Example:
        >>> import jax.numpy as jnp
        >>> native_channel_shuffle(jnp.arange(4).reshape(1, 4, 1), 2).ravel().tolist()
        [0, 2, 1, 3]
    """
    return channel_shuffle(input, groups)
