"""Layers that are one call of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from fnn.nn.modules.module import Module


class FunctionModule(Module):
    """A layer whose forward is one call of a function, with the hyperparameters that the constructor takes.

    A subclass names the function as `_function`, and hands its constructor's arguments on by name. Each becomes an
    attribute; forward passes the attributes to the function, by name.
    """

    _function: ClassVar[Callable[..., Any]]
    _hyperparameters: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_function" in vars(cls) and "_hyperparameters" not in vars(cls):
            cls._hyperparameters = tuple(inspect.signature(cls.__init__).parameters)[1:]

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        for name, value in hyperparameters.items():
            setattr(self, name, value)

    def _chosen(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._hyperparameters}

    def forward(self, input: Any) -> Any:
        return type(self)._function(input, **self._chosen())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._chosen().items() if name != "inplace" or value)
