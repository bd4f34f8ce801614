"""The older place of `fnn.functional_call`."""

from __future__ import annotations

import warnings
from typing import Any

from fnn import pure as _pure
from fnn.nn.modules.module import Module
from fnn.nn.parallel import DataParallel

__all__ = ["functional_call"]


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Any],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Calls a module with some of its parameters and buffers replaced; deprecated in favor of `fnn.functional_call`.

    Args:
        module: the module.
        parameters_and_buffers: arrays by dotted name.
        args: the positional arguments, a tuple, or a single one.
        kwargs: the keyword arguments.
        tie_weights: whether a value given for one name of a shared parameter counts for its other names.
        strict: whether every parameter and buffer must be given, and nothing else.

    Raises:
        RuntimeError: for a DataParallel module, and where names are missing or unexpected, with `strict`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp, warnings
        >>> warnings.simplefilter("ignore")
        >>> functional_call(nn.Linear(2, 1), {"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}, jnp.ones(2)).tolist()
        [2.0]
    """
    warnings.warn(
        "`nn.utils.stateless.functional_call` is deprecated, as in torch: use `fnn.functional_call`, which takes the same.",
        FutureWarning,
        stacklevel=2,
    )
    if isinstance(module, DataParallel):
        raise RuntimeError("The stateless API can't be used with nn.DataParallel module")
    return _pure.functional_call(module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict)
