"""Layers that are one call of a function, and what losses add to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from fnn.functional.loss import reduction_of
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Buffer


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


class _Loss(FunctionModule):
    """What losses share: the reduction, and a forward that is one call of a function."""

    reduction: str

    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        older = size_average is not None or reduce is not None
        super().__init__(reduction=reduction_of(size_average, reduce, reduction) if older else reduction)

    def _chosen(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._hyperparameters if name not in ("size_average", "reduce")}

    def forward(self, input: Any, target: Any) -> jax.Array:  # type: ignore[override]
        return type(self)._function(input, target, **self._chosen())

    def extra_repr(self) -> str:
        return ""

    def _register_weights(self, **weights: Any) -> None:
        for name, weight in weights.items():
            self.register_buffer(name, None if weight is None else Buffer(weight))


class _WeightedLoss(_Loss):
    """What losses with a weight for each class share."""

    def __init__(
        self, weight: Any = None, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self._register_weights(weight=weight)
