"""What the types of operands say of the devices that they are on."""

from __future__ import annotations

import jax
from jax import lax


def is_divided(*operands: jax.Array) -> bool:
    """Whether an axis of one of them is laid out over an explicit axis of a mesh."""
    return any(part is not None for x in operands for part in jax.typeof(x).sharding.spec)


def varying_alike(*operands: jax.Array) -> list[jax.Array]:
    """Operands that vary over the same axes under shard_map: the transpose of this is a sum over devices."""
    kinds = [jax.typeof(x).mat.varying for x in operands]
    every = frozenset[str]().union(*kinds)
    return [lax.pcast(x, tuple(every - kind), to="varying") for x, kind in zip(operands, kinds, strict=True)]
