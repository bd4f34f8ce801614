"""Parameter and Buffer: mutable handles on immutable arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn import scope as _scope
from fnn.nn.handle import Handle
from fnn.scope import Cell


class Parameter(Handle):
    """A trainable array of a module.

    Args:
        data: an array (jax, numpy, torch, numbers), or an initialiser `f(key, shape, dtype)`. An initialiser is called
            at first access, with a key fixed now; so building a model is instant at any size.
        shape: the shape, for an initialiser.
        dtype: the dtype; by default that of the array, or float32 for an initialiser.
        requires_grad: whether gradients are taken in it. Also taken as the second positional argument, as in torch.

    Example:
        >>> import fnn, jax, jax.numpy as jnp
        >>> weight = fnn.nn.Parameter(jax.nn.initializers.ones, (2, 3))
        >>> weight.shape, weight.requires_grad
        ((2, 3), True)
        >>> (weight @ jnp.ones(3)).tolist()
        [3.0, 3.0]
        >>> weight.data.fill_(0.5).sum().item()
        3.0
    """

    __slots__ = ()

    def __init__(self, data: Any = None, shape: Any = None, dtype: Any = None, requires_grad: bool = True):
        if isinstance(shape, bool):
            shape, requires_grad = None, shape
        super().__init__(np.zeros(0, np.float32) if data is None else data, shape, dtype, requires_grad, "a Parameter")
        if requires_grad and not jnp.issubdtype(self.dtype, jnp.inexact):
            raise RuntimeError(f"only Tensors of floating point and complex dtype can require gradients, got {self.dtype.name}")

    def _settings(self) -> dict[str, Any]:
        return {"requires_grad": self._requires_grad}


class Buffer(Handle):
    """An array of a module that is not trained, such as a running mean. It keeps the dtype it is declared with.

    Args:
        data: an array, or an initialiser `f(key, shape, dtype)`.
        shape: the shape, for an initialiser.
        dtype: the dtype. A 64-bit buffer is held in 32 bits unless JAX has x64 enabled; `state_dict()` gives 64 bits.
        persistent: whether `state_dict()` has it.

    Example:
        >>> import fnn, numpy as np
        >>> buffer = fnn.nn.Buffer(np.arange(3))
        >>> buffer += 1
        >>> buffer.tolist()
        [1, 2, 3]
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Any = None, shape: Any = None, dtype: Any = None, *, persistent: bool = True):
        super().__init__(np.zeros(0, np.float32) if data is None else data, shape, dtype, False, "a buffer")
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        copied = super().__deepcopy__(memo)
        copied.persistent = self.persistent
        return copied

    def _settings(self) -> dict[str, Any]:
        return {"persistent": self.persistent}


class UninitializedError(ValueError, RuntimeError):
    """A parameter or buffer was used whose shape is not known yet; torch raises one or the other."""


class UninitializedTensorMixin:
    """What parameters and buffers share while their shape is not known: they have a dtype, and can be converted.

    Until `materialize`, `_initializer` is what conversions to other dtypes and devices shall do with the value.
    """

    __slots__ = ()
    _becomes: ClassVar[type[Handle]]
    uninitialized = True
    drawn = False

    def materialize(self: Any, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Makes it a Parameter or Buffer, of zeros.

        Args:
            shape: its shape.
            device: where it is, a `jax.Device` or Sharding.
            dtype: by default as it was declared.
        """
        scope = _scope.current()
        if scope is not None:
            if scope.peek(self) is not None:
                raise _scope.StateError(f"{self.label} was given a value before its shape is known: call the module once")
            scope.undo.append(functools.partial(_set, self, type(self), (), self._dtype, self._initializer))
        _set(self, self._becomes, tuple(shape), np.dtype(dtype or self._dtype))
        self.initialize(lambda key, shape, dtype: jnp.zeros(shape, dtype))
        if device is not None:
            self.map(functools.partial(jax.device_put, device=device))
        _scope.changed()

    def map(self: Any, function: Callable[[jax.Array], jax.Array]) -> None:
        """Applies a function of arrays to the value that will be; its dtype counts now."""
        before = self._initializer
        dtype = np.dtype(jax.eval_shape(function, jax.ShapeDtypeStruct((), self.dtype)).dtype)
        _set(self, type(self), (), dtype, function if before is None else lambda array: function(before(array)))

    def _refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise UninitializedError(
            f"{self.label} is not initialized: its shape is not known before the module is called with an input. Call it once, "
            "or give init of fnn.pure an example, before anything else uses its parameters."
        )

    shape = property(_refuse)
    initialize = numel = dim = _concrete = _refuse

    def exported(self) -> Any:
        """Itself: a state_dict has it as it is."""
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self: Any) -> Any:
        return functools.partial(self.__class__, dtype=self._dtype, **self._settings()), ()


def _set(handle: Any, kind: Any, shape: tuple[int, ...], dtype: np.dtype, initializer: Any = None) -> None:
    handle.__class__, handle._shape, handle._dtype = kind, shape, dtype
    handle._value, handle._initializer = None, initializer


def _declare(handle: Any, requires_grad: bool, device: Any, dtype: Any) -> None:
    Cell.__init__(handle, label=f"an {type(handle).__name__}")
    _set(handle, type(handle), (), np.dtype(dtype or jnp.float32))
    handle._key, handle._grad, handle._requires_grad, handle._meta = None, None, requires_grad, False
    if device is not None:
        handle.map(functools.partial(jax.device_put, device=device))


def is_lazy(param: Any) -> bool:
    """Whether it is a parameter or buffer whose shape is not known yet."""
    return isinstance(param, UninitializedTensorMixin)


class UninitializedParameter(UninitializedTensorMixin, Parameter):
    """A Parameter whose shape is not known yet; `materialize(shape)` makes it one.

    Args:
        requires_grad: as for `Parameter`.
        device: where the value will be, a `jax.Device` or Sharding.
        dtype: as for `Parameter`; float32 by default.

    Raises:
        UninitializedError: a ValueError and a RuntimeError, where its shape or value is asked for.

    Example:
        >>> import fnn
        >>> weight = fnn.nn.UninitializedParameter()
        >>> weight
        <UninitializedParameter>
        >>> weight.materialize((2, 3))
        >>> weight.shape
        (2, 3)
    """

    __slots__ = ()
    _becomes = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None):
        _declare(self, requires_grad, device, dtype)


class UninitializedBuffer(UninitializedTensorMixin, Buffer):
    """A Buffer whose shape is not known yet; `materialize(shape)` makes it one.

    Args:
        requires_grad: accepted; buffers require none.
        device: where the value will be, a `jax.Device` or Sharding.
        dtype: as for `Buffer`; float32 by default.
        persistent: whether `state_dict()` has it.

    Raises:
        UninitializedError: a ValueError and a RuntimeError, where its shape or value is asked for.

    Example:
        >>> import fnn
        >>> fnn.nn.UninitializedBuffer()
        <UninitializedBuffer>
    """

    __slots__ = ()
    _becomes = Buffer

    def __init__(self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True):
        _declare(self, False, device, dtype)
        self.persistent = persistent
