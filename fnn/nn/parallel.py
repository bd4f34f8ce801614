"""Modules over several devices, as `torch.nn.parallel`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn.nn.handle import Handle
from fnn.nn.modules.module import Module

__all__ = ["DataParallel"]


class DataParallel(Module):
    """Splits the batch over devices: arrays among the arguments are sharded along one axis, and XLA does the rest.

    The result is one array over the devices; statistics of a batch are those of the whole batch. A module whose inputs
    are sharded by `jax.device_put` needs no wrapper; this one keeps PyTorch's code, and the `module.` in front of the names
    in its checkpoints.

    Args:
        module: what is called.
        device_ids: the devices, as `jax.Device` or by their places in `jax.devices()`; by default all of them. A batch
            that they do not divide is split over as many of them as do.
        output_device: accepted; the result stays where it was computed.
        dim: the axis to split.

    Attributes:
        module: the module.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> net = nn.DataParallel(nn.Linear(3, 2))
        >>> net(jnp.ones((8, 3))).shape, list(net.state_dict())
        ((8, 2), ['module.weight', 'module.bias'])
    """

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        self.module = module
        self.device_ids = None if device_ids is None else list(device_ids)
        self.output_device = output_device
        self.dim = dim

    def _split(self, value: Any) -> Any:
        if not isinstance(value, (jax.Array, np.ndarray)) or isinstance(value, Handle) or value.ndim <= self.dim:
            return value
        everywhere = jax.devices()
        chosen = everywhere if self.device_ids is None else self.device_ids
        devices = [everywhere[device] if isinstance(device, int) else device for device in chosen]
        count = math.gcd(len(devices), value.shape[self.dim])
        mesh = Mesh(np.array(devices[:count]), ("batch",))
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*[None] * self.dim, "batch")))

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        split_inputs, split_kwargs = jax.tree.map(self._split, (inputs, kwargs))
        return self.module(*split_inputs, **split_kwargs)
