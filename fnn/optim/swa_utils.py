"""Averages of the weights of a model over training, `torch.optim.swa_utils`.

`SWALR` of torch is a schedule, which optax has: `optax.join_schedules([schedule, optax.constant_schedule(0.05)], [start])`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.nn.modules.batchnorm import _BatchNorm
from fnn.nn.modules.conversion import destination
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Handle
from fnn.scope import is_tracer

__all__ = [
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


def get_ema_avg_fn(decay: float = 0.999) -> Callable[..., Any]:
    """The function of an exponential moving average of one array, `decay * averaged + (1 - decay) * current`.

    Args:
        decay: from 0 to 1.

    Raises:
        ValueError: where decay is not.

    Example:
        >>> get_ema_avg_fn(0.9)(1.0, 2.0, 5)
        1.1
    """
    _check_decay(decay)

    def ema_update(ema_param: Any, current_param: Any, num_averaged: Any) -> Any:
        return decay * ema_param + (1 - decay) * current_param

    return ema_update


def get_swa_avg_fn() -> Callable[..., Any]:
    """The function of an equally weighted average of one array, `averaged + (current - averaged) / (num_averaged + 1)`.

    Example:
        >>> get_swa_avg_fn()(1.0, 2.0, 3)
        1.25
    """

    def swa_update(averaged_param: Any, current_param: Any, num_averaged: Any) -> Any:
        return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return swa_update


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _of_all(average: Callable[..., Any]) -> Callable[..., Any]:
    def update(averaged_param_list: Any, current_param_list: Any, num_averaged: Any) -> None:
        for averaged, current in zip(averaged_param_list, current_param_list, strict=True):
            averaged.copy_(average(averaged.value, current, num_averaged))

    return update


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[..., Any]:
    """As `get_ema_avg_fn`, for lists: it changes the Parameters and Buffers in the first one in place.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> averaged = fnn.nn.Parameter(jnp.ones(2))
        >>> get_ema_multi_avg_fn(0.9)([averaged], [jnp.full(2, 2.0)], 5)
        >>> averaged.tolist()
        [1.1, 1.1]
    """
    return _of_all(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> Callable[..., Any]:
    """As `get_swa_avg_fn`, for lists: it changes the Parameters and Buffers in the first one in place.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> averaged = fnn.nn.Parameter(jnp.ones(2))
        >>> get_swa_multi_avg_fn()([averaged], [jnp.full(2, 2.0)], 3)
        >>> averaged.tolist()
        [1.25, 1.25]
    """
    return _of_all(get_swa_avg_fn())


class AveragedModel(Module):
    """A copy of a model that holds the average of its weights over the calls of `update_parameters`.

    The first call copies the weights of the model; each later one averages. It may be in the same function under `fnn.jit`
    as the step of the optimizer; the number of models averaged is traced there.

    Args:
        model: the model.
        device: where to keep the average; by default where the model is.
        avg_fn: `f(averaged, current, num_averaged)`, the new average of one array; by default all models count equally.
        multi_avg_fn: `f(averaged, current, num_averaged)` for lists of all Parameters (and Buffers), averaged, and arrays of
            the model, of one dtype. It changes the averaged ones in place (`a.copy_(...)`), or returns the new values.
        use_buffers: average buffers too, such as running means; else they are those of the model at the last update.

    Attributes:
        module: the copy.
        n_averaged: how many models have been averaged, a buffer.

    Raises:
        AssertionError: where both avg_fn and multi_avg_fn are given.

    Example:
        >>> import fnn
        >>> net = fnn.nn.Linear(1, 1)
        >>> average = AveragedModel(net, avg_fn=get_ema_avg_fn(0.9))
        >>> for value in (1.0, 2.0):
        ...     _ = net.weight.data.fill_(value)
        ...     average.update_parameters(net)
        >>> average.module.weight.item(), average.n_averaged.item()
        (1.1, 2)

    References:
        P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
    """

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Callable[..., Any] | None = None,
        multi_avg_fn: Callable[..., Any] | None = None,
        use_buffers: bool = False,
    ):
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", np.zeros((), np.int64))
        self._place(device)
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model returns."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the weights of a model, of the same structure, into the average."""
        own: Any = self.module.parameters()
        others: Any = model.parameters()
        if self.use_buffers:
            own = itertools.chain(own, self.module.buffers())
            others = itertools.chain(others, model.buffers())
        count = self.n_averaged.value
        groups: dict[Any, tuple[list[Handle], list[jax.Array]]] = {}
        for averaged, other in zip(own, others, strict=False):
            same_kind = groups.setdefault(averaged.dtype, ([], []))
            same_kind[0].append(averaged)
            same_kind[1].append(_beside(other.value, averaged.value))
        for handles, currents in groups.values():
            if self.multi_avg_fn is not None:
                new = self.multi_avg_fn(handles, currents, count)
                new = [handle.value for handle in handles] if new is None else new
            else:
                average = self.avg_fn or get_swa_avg_fn()
                new = [average(handle.value, current, count) for handle, current in zip(handles, currents, strict=True)]
            for handle, current, value in zip(handles, currents, new, strict=True):
                # The count is known only while the program runs, so that both are computed.
                handle.copy_(jnp.where(count == 0, current, jnp.asarray(value).astype(handle.dtype)))
        if not self.use_buffers:
            for buffer, other in zip(self.module.buffers(), model.buffers(), strict=True):
                buffer.copy_(_beside(other.value, buffer.value))
        self.n_averaged += 1


def _beside(value: jax.Array, other: jax.Array) -> jax.Array:
    """The value on the devices of another, where it is not."""
    if is_tracer(value) or is_tracer(other) or value.sharding == other.sharding:
        return value
    return jax.device_put(value, other.sharding)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Computes the running means and variances of all batch normalizations anew, as averages over the batches of a loader.

    Args:
        loader: gives inputs of the model: arrays, or lists or tuples whose first element is one.
        model: such as an AveragedModel, whose weights have never seen data. Its mode and momenta are the same afterwards.
        device: where to put the inputs.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.BatchNorm1d(1)
        >>> update_bn([jnp.array([[1.0], [3.0]]), jnp.array([[5.0], [7.0]])], net)
        >>> net.running_mean.tolist()
        [4.0]
    """
    momenta: dict[Any, Any] = {module: module.momentum for module in model.modules() if isinstance(module, _BatchNorm)}
    if not momenta:
        return
    place, _ = destination((), device, None)
    was_training = model.training
    try:
        for module in momenta:
            module.reset_running_stats()
            module.momentum = None
        model.train()
        for batch in loader:
            value = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(value if place is None else jax.device_put(value, place))
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
        model.train(was_training)
