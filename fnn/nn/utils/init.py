"""Modules without initial values."""

from __future__ import annotations

import inspect
from typing import Any

from fnn.nn.modules.module import Module

__all__ = ["skip_init"]


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Any:
    """Makes a module without computing initial values.

    No module of fnn computes them before they are looked at, so this is its constructor; what is looked at before it was
    given a value has its usual initial value, where torch has whatever was in memory.

    Args:
        module_cls: the class of the module; its constructor takes `device`.
        args, kwargs: what it takes.

    Raises:
        RuntimeError: where it is not a Module, or its constructor takes no `device`.

    Example:
        >>> import fnn.nn as nn
        >>> skip_init(nn.Linear, 5, 1)
        Linear(in_features=5, out_features=1, bias=True)
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    return module_cls(*args, **kwargs)
