"""Layers that learn the size of their input from the first one they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fnn import scope as _scope
from fnn.nn.handle import Handle
from fnn.nn.modules.module import Module
from fnn.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

__all__ = ["LazyModuleMixin"]


class LazyModuleMixin(Module):
    """What makes a module lazy: its parameters have no shape until it is first called, as in torch.

    The first call asks `initialize_parameters` to give them one, and turns the module into a `cls_to_become`. Where that
    call fails, the module stays what it was. The values are drawn as those of any Parameter: at the first access, or by
    init of `fnn.pure`, which is given an example input in place of a first call.

    A subclass names this class before the module that it makes lazy, has `UninitializedParameter` and
    `UninitializedBuffer` for what waits, and defines `initialize_parameters`.

    Attributes:
        cls_to_become: the class after the first call, or None for the same.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyLinear(8)
        >>> layer
        LazyLinear(in_features=0, out_features=8, bias=True)
        >>> layer(jnp.ones((2, 3))).shape, layer
        ((2, 8), Linear(in_features=3, out_features=8, bias=True))
    """

    cls_to_become: ClassVar[type[Module] | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting = True

    def _lazy(self) -> dict[str, Any]:
        own = {**self._parameters, **self._buffers}
        return {name: handle for name, handle in own.items() if is_lazy(handle)}

    def _await(self, device: Any, dtype: Any, *names: str) -> None:
        """Puts uninitialized parameters and buffers in the place of what it has, or has None, under these names."""
        for name in names:
            kind = UninitializedParameter if name in self._parameters else UninitializedBuffer
            setattr(self, name, kind(dtype=dtype))
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial values, where the shapes are known."""
        if "_waiting" in vars(self) and not self.has_uninitialized_params():  # not yet while it is constructed
            super().reset_parameters()  # type: ignore[misc]

    def has_uninitialized_params(self) -> bool:
        """Whether it has parameters or buffers whose shape is not known yet."""
        return bool(self._lazy())

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Gives every uninitialized parameter and buffer a shape, from the arguments of forward."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module, once the shapes of its parameters are known."""
        return self._call_otherwise(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._waiting:
            return super()._call(args, kwargs)
        try:
            self._infer_parameters(self, args, kwargs)
        except Exception as error:
            self._note_place(error)
            raise
        return self._call(args, kwargs)  # of the class that it is now

    def _infer_parameters(self, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> None:
        scope = _scope.current()
        if scope is not None:
            scope.undo.append(_restoring(module, type(module), dict(vars(module))))
        waiting = [(handle, handle._initializer) for handle in module._lazy().values()]
        module.initialize_parameters(*args, **(kwargs or {}))
        if module.has_uninitialized_params():
            raise RuntimeError(f"module {module._get_name()} has not been fully initialized: {list(module._lazy())}")
        for handle, convert in waiting:
            _convert(handle, convert)
        vars(module)["_waiting"] = False
        if module.cls_to_become is not None:
            del vars(module)["_waiting"]
            module.__class__ = module.cls_to_become
        _scope.changed()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        for name, handle in self._lazy().items():
            value = state_dict.get(prefix + name)
            if value is not None and not is_lazy(value):
                handle.materialize(np.shape(value))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _restoring(module: Any, kind: type[Module], attributes: dict[str, Any]) -> Callable[[], None]:
    def restore() -> None:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(attributes)

    return restore


def _convert(handle: Handle, function: Any) -> None:
    """Lets a value that is yet to be drawn go through what was to be done with it."""
    inner = handle._initializer
    if function is not None and inner is not None:
        handle._initializer = lambda key, shape, dtype: function(inner(key, shape, dtype))
