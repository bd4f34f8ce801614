"""What is known of the devices that there are, and what the types of operands say of those that they are on."""

from __future__ import annotations

import re

import jax
from jax import lax


def on_nvidia() -> bool:
    """Whether this is the default: GPUs by NVIDIA, Ampere or later."""
    if jax.default_backend() != "gpu":
        return False
    capabilities = [str(getattr(device, "compute_capability", "")) for device in jax.local_devices()]
    return all(re.fullmatch(r"\d+\.\d+", capability) and float(capability) >= 8.0 for capability in capabilities)


def is_local(*operands: jax.Array) -> bool:
    """Whether operands are known to be on one device each: cuDNN takes few of their axes divided, or none."""
    kinds = [jax.typeof(x).sharding.mesh.axis_types for x in operands]
    manual = jax.sharding.AxisType.Manual
    return all(all(kind == manual for kind in each) if each else jax.device_count() == 1 for each in kinds)


def is_divided(*operands: jax.Array) -> bool:
    """Whether an axis of one of them is laid out over an explicit axis of a mesh."""
    return any(part is not None for x in operands for part in jax.typeof(x).sharding.spec)


def varying_alike(*operands: jax.Array) -> list[jax.Array]:
    """Operands that vary over the same axes under shard_map: the transpose of this is a sum over devices."""
    kinds = [jax.typeof(x).mat.varying for x in operands]
    every = frozenset[str]().union(*kinds)
    return [lax.pcast(x, tuple(every - kind), to="varying") for x, kind in zip(operands, kinds, strict=True)]
