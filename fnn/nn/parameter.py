"""Parameter and Buffer: mutable handles on immutable arrays."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import as_array, declared, exported, held_dtype
from fnn.scope import Cell

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


class Handle(Cell):
    """What Parameter and Buffer share: a cell that holds an array, and behaves as that array.

    Operators, indexing, array attributes and all `jnp` functions take it as its array. `value` is the `jax.Array`
    itself, for `lax` functions. JAX transformations that are given a handle pass its array on.
    """

    __array_priority__ = 100  # numpy arrays on the left of an operator leave it to the handle
    __slots__ = ("_dtype", "_grad", "_initializer", "_key", "_requires_grad", "_shape")

    def __init_subclass__(cls) -> None:
        # jnp functions take what is a pytree; unflattening to the plain array leaves no copy of a handle to be updated.
        jax.tree_util.register_pytree_node(cls, lambda handle: ((handle.value,), None), lambda _, values: values[0])

    def __init__(self, data: Any, shape: Any, dtype: Any, requires_grad: bool, label: str):
        super().__init__(label=label)
        self._grad: Cell | None = None
        self._requires_grad = requires_grad
        self._initializer: Initializer | None = None
        if callable(data) and not hasattr(data, "__array__") and not hasattr(data, "__jax_array__"):
            self._shape = (shape,) if isinstance(shape, int) else tuple(shape or ())
            if min(self._shape, default=0) < 0:
                raise RuntimeError(f"trying to create {label} with negative dimension {min(self._shape)}: {list(self._shape)}")
            self._dtype = np.dtype(dtype or jnp.float32)
            self.initialize(data)
        else:
            self._value, self._dtype = declared(data, dtype)
            self._shape = tuple(self._value.shape)
            if _scope.is_tracer(self._value):
                raise _scope.StateError(
                    f"{label} cannot be made from a traced value, since it would keep it; inside a transformation use "
                    "fnn.bound, fnn.functional_call or plain arrays"
                )

    @property
    def drawn(self) -> bool:  # type: ignore[override]
        """Whether the value is drawn by an initialiser, at the first access."""
        return self._initializer is not None

    def initialize(self, initializer: Initializer, generator: _random.Generator | None = None) -> Self:
        """Gives it a new initial value: `initializer(key, shape, dtype)`, drawn when it is first looked at.

        Args:
            initializer: a pure function, such as those of `jax.nn.initializers` or `fnn.nn.init`.
            generator: what the key comes from; by default the source in force.
        """
        if self._is_held():
            key = generator.next_key() if generator is not None else _random.next_key()
            self.value = initializer(key, self.shape, self.dtype)
            return self
        self._key = (generator or _random.source()).reserve()
        self._initializer = initializer
        if self._value is not None:
            _scope.store({self: None})
        return self

    def _is_held(self) -> bool:
        """Whether a value is there that only a write in the current scope may replace."""
        scope = _scope.current()
        return scope is not None and (scope.peek(self) is not None or self._value is not None)

    def _concrete(self) -> Any:
        if self._value is None and self._initializer is not None:
            with jax.core.eval_context():
                self._value = self.draw(self._key())
        return self._value

    def draw(self, key: jax.Array) -> jax.Array:
        """A fresh initial value from a key; the value itself where it was given as an array."""
        if self._initializer is None:
            return self._value
        array = self._initializer(key, self._shape, held_dtype(self._dtype))
        return jax.lax.convert_element_type(array, held_dtype(self._dtype))

    def map(self, function: Callable[[jax.Array], jax.Array]) -> None:
        """Applies a function of arrays to the value; later, where there is no value yet."""
        inner = self._initializer
        if inner is None or self._value is not None or _scope.current() is not None:
            self.value = function(self.value)
            return
        shape, dtype = self._shape, held_dtype(self._dtype)
        result = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, dtype))
        if result.dtype != dtype:
            self._dtype = np.dtype(result.dtype)
        self._initializer = lambda key, _, __: function(inner(key, shape, dtype))

    @property
    def value(self) -> jax.Array:
        """The array that it holds now."""
        return Cell.value.fget(self)  # type: ignore[attr-defined]

    @value.setter
    def value(self, value: Any) -> None:
        _scope.write(self, as_array(value))

    @property
    def data(self) -> Self:
        """The handle itself, so that `p.data.fill_(1)`, `p.data = v` and `m.bias.data.zero_()` work as in torch."""
        return self

    @data.setter
    def data(self, value: Any) -> None:
        if value is not self:
            self.value = value

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are taken in it, and optimizers move it."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if self._requires_grad != bool(requires_grad):
            self._requires_grad = bool(requires_grad)
            _scope.changed(requires_grad=True)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Sets `requires_grad`; returns the handle."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> jax.Array | None:
        """The gradient that `fnn.backward` has added up, or None."""
        return self._grad_cell().value

    @grad.setter
    def grad(self, value: Any) -> None:
        self._grad_cell().value = None if value is None else as_array(value)

    def _grad_cell(self) -> Cell:
        if self._grad is None:
            self._grad = Cell(label=f"the gradient of {self.label}")
            self._grad._serial = self._serial  # as old as the parameter, also where a trace asks for it first
        return self._grad

    def _known(self) -> Any:
        scope = _scope.current()
        held = None if scope is None else scope.peek(self)
        return self._value if held is None else held

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array; told without drawing its value."""
        known = self._known()
        return self._shape if known is None else tuple(known.shape)

    @property
    def dtype(self) -> np.dtype:
        """The dtype that JAX holds the array in."""
        known = self._known()
        return held_dtype(self._dtype) if known is None else known.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def dim(self) -> int:
        """The number of axes, as torch says it."""
        return self.ndim

    def numel(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def exported(self) -> Any:
        """The value as a state_dict has it, in the dtype that it was declared with."""
        return exported(self.value, self._dtype)

    def detach(self) -> jax.Array:
        """The array, without a gradient."""
        return jax.lax.stop_gradient(self.value)

    def clone(self) -> jax.Array:
        """The array; arrays are immutable, so it needs no copy."""
        return self.value

    def fill_(self, value: Any) -> Self:
        """Sets all elements."""
        if self._is_held():
            self.value = jnp.full(self.shape, value, self.dtype)
            return self
        return self.initialize(lambda key, shape, dtype: jnp.full(shape, value, dtype))

    def zero_(self) -> Self:
        """Sets all elements to zero."""
        return self.fill_(0)

    def copy_(self, source: Any) -> Self:
        """Takes the values of an array, broadcast and converted to its own shape and dtype."""
        self.value = jnp.broadcast_to(as_array(source, self.dtype), self.shape)
        return self

    def normal_(self, mean: float = 0.0, std: float = 1.0, *, generator: _random.Generator | None = None) -> Self:
        """Draws from a normal distribution."""
        return self.initialize(lambda key, shape, dtype: mean + std * jax.random.normal(key, shape, dtype), generator)

    def uniform_(self, a: float = 0.0, b: float = 1.0, *, generator: _random.Generator | None = None) -> Self:
        """Draws from a uniform distribution."""
        return self.initialize(lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, a, b), generator)

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value, dtype=dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(self.value, name)

    def __getitem__(self, index: Any) -> jax.Array:
        return self.value[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.value = self.value.at[index].set(as_array(value, self.dtype))

    def __iter__(self) -> Any:
        return iter(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __index__(self) -> int:
        return operator.index(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        known = self._known()
        text = f"shape={self.shape}, dtype={self.dtype.name}" if known is None else str(known)
        return f"{type(self).__name__} containing:\n{text}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied: Self = type(self).__new__(type(self))
        memo[id(self)] = copied
        Cell.__init__(copied, self._value, self.label)
        for name in ("_dtype", "_initializer", "_requires_grad", "_shape"):
            setattr(copied, name, getattr(self, name))
        if self._initializer is not None:
            copied._key = self._key
        copied._grad = None
        if self._grad is not None:
            copied._grad_cell()._value = self._grad._value
        return copied

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.exported(), self._settings())

    def _settings(self) -> dict[str, Any]:
        return {}


def _rebuild(kind: type[Any], value: Any, settings: dict[str, Any]) -> Any:
    return kind(np.asarray(value), **settings)


def _operator(name: str, function: Callable[..., Any]) -> None:
    def forward(self: Handle, other: Any) -> Any:
        return function(self.value, other.value if isinstance(other, Handle) else other)

    def reflected(self: Handle, other: Any) -> Any:
        return function(other, self.value)

    def in_place(self: Handle, other: Any) -> Any:
        self.value = jnp.asarray(forward(self, other)).astype(self.dtype)
        return self

    for prefix, method in (("", forward), ("r", reflected), ("i", in_place)):
        method.__name__ = f"__{prefix}{name}__"
        setattr(Handle, method.__name__, method)


for _name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
    _operator(_name, getattr(operator, f"__{_name}__"))


def _comparison(name: str, function: Callable[..., Any]) -> None:
    def compare(self: Handle, other: Any) -> Any:
        return function(self.value, other.value if isinstance(other, Handle) else other)

    setattr(Handle, f"__{name}__", compare)


def _unary(name: str, function: Callable[..., Any]) -> None:
    setattr(Handle, f"__{name}__", lambda self: function(self.value))


for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    _comparison(_name, getattr(operator, _name))
for _name in ("neg", "pos", "abs", "invert"):
    _unary(_name, getattr(operator, _name))


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
    handle._key, handle._grad, handle._requires_grad = None, None, requires_grad
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
