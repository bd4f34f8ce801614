"""Handles: what Parameter and Buffer share, mutable holders of immutable arrays that behave as their array."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import as_array, declared, exported, held_dtype
from fnn.scope import Cell

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


class Size(int):
    """A number of elements; called, the shape that it comes from, or the length of one axis."""

    _shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> Self:
        self = super().__new__(cls, math.prod(shape))
        self._shape = shape
        return self

    def __call__(self, dim: int | None = None) -> Any:
        return self._shape if dim is None else self._shape[dim]


class Handle(Cell):
    """What Parameter and Buffer share: a cell that holds an array, and behaves as that array.

    Operators, indexing, array attributes and all `jnp` functions take it as its array. `value` is the `jax.Array`
    itself, for `lax` functions. JAX transformations that are given a handle pass its array on.
    """

    __array_priority__ = 100  # numpy arrays on the left of an operator leave it to the handle
    __slots__ = ("_dtype", "_grad", "_initializer", "_key", "_meta", "_requires_grad", "_shape")

    def __init_subclass__(cls) -> None:
        # jnp functions take what is a pytree; unflattening to the plain array leaves no copy of a handle to be updated.
        jax.tree_util.register_pytree_node(cls, lambda handle: ((handle.value,), None), lambda _, values: values[0])

    def __init__(self, data: Any, shape: Any, dtype: Any, requires_grad: bool, label: str):
        super().__init__(label=label)
        self._grad: Cell | None = None
        self._requires_grad = requires_grad
        self._initializer: Initializer | None = None
        self._meta = False
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
        return self._initializer is not None or self._meta

    @property
    def is_meta(self) -> bool:
        """Whether it has a shape and a dtype and no value, as on torch's device "meta"; `pure(module).init` can draw one."""
        return self._meta and self._known() is None

    def to_meta(self) -> None:
        """Lets go of the value."""
        _scope.store({self: None})
        self._meta = True

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
        self._initializer, self._meta = initializer, False
        if self._value is not None:
            _scope.store({self: None})
        return self

    def _is_held(self) -> bool:
        """Whether a value is there that only a write in the current scope may replace."""
        scope = _scope.current()
        return scope is not None and (scope.peek(self) is not None or self._value is not None)

    def _concrete(self) -> Any:
        if self._value is not None:
            return self._value
        if self.is_meta:
            raise NotImplementedError(
                f"Cannot copy out of meta tensor; no data! {self.label} has a shape and no value: give the module values with "
                "load_state_dict, or memory with to_empty(device=...)"
            )
        if self._initializer is not None:
            with jax.core.eval_context():
                self._value = self.draw(self._key())
        return self._value

    def draw(self, key: jax.Array) -> jax.Array:
        """A fresh initial value from a key; the value itself where it was given as an array."""
        if self._initializer is None:
            return self._concrete()
        array = self._initializer(key, self._shape, self.dtype)
        return jax.lax.convert_element_type(array, self.dtype)

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
        value = None if value is None else as_array(value)
        if value is not None and value.shape != self.shape:
            raise RuntimeError(f"assigned grad has data of a different size: expected {self.shape}, got {value.shape}")
        self._grad_cell().value = value

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
    def declared_dtype(self) -> np.dtype:
        """The dtype that a state_dict gives it: 64 bits where it was declared so, also where JAX holds 32."""
        return self._dtype if held_dtype(self._dtype) == self.dtype else self.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def dim(self) -> int:
        """The number of axes, as torch says it."""
        return self.ndim

    @property
    def size(self) -> Size:
        """The number of elements, as of an array; called, the shape or the length of an axis, as of a tensor."""
        return Size(self.shape)

    def numel(self) -> int:
        """The number of elements."""
        return int(self.size)

    def element_size(self) -> int:
        """The bytes of an element."""
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        """Whether the dtype is floating point."""
        return bool(jnp.issubdtype(self.dtype, jnp.floating))

    def is_complex(self) -> bool:
        """Whether the dtype is complex."""
        return bool(jnp.issubdtype(self.dtype, jnp.complexfloating))

    def exported(self) -> Any:
        """The value as a state_dict has it, in the dtype that it was declared with; a ShapeDtypeStruct where there is none."""
        if self.is_meta:
            return jax.ShapeDtypeStruct(self.shape, self.dtype)
        return exported(self.value, self._dtype)

    def numpy(self) -> np.ndarray:
        """The value as a numpy array."""
        return np.asarray(self.value)

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

    def _change(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        operands = (arg.value if isinstance(arg, Handle) else arg for arg in args)
        result = function(self.value, *operands, **kwargs)
        if not isinstance(result, jax.Array) or result.dtype != self.dtype:  # a conversion takes 20 µs even for nothing
            result = jnp.asarray(result).astype(self.dtype)
        self.value = result
        return self

    def add_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Adds `alpha * other`."""
        return self._change(lambda array, other: array + alpha * other, other)

    def sub_(self, other: Any, *, alpha: Any = 1) -> Self:
        """Subtracts `alpha * other`."""
        return self._change(lambda array, other: array - alpha * other, other)

    def mul_(self, other: Any) -> Self:
        """Multiplies by `other`."""
        return self._change(operator.mul, other)

    def div_(self, other: Any) -> Self:
        """Divides by `other`."""
        return self._change(operator.truediv, other)

    def pow_(self, exponent: Any) -> Self:
        """Takes the power."""
        return self._change(operator.pow, exponent)

    def clamp_(self, min: Any = None, max: Any = None) -> Self:
        """Limits all elements to `[min, max]`."""
        return self._change(jnp.clip, min, max)

    def lerp_(self, end: Any, weight: Any) -> Self:
        """Moves towards `end` by the fraction `weight`."""
        return self._change(lambda array, end, weight: array + weight * (end - array), end, weight)

    def addcmul_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Self:
        """Adds `value * tensor1 * tensor2`."""
        return self._change(lambda array, a, b: array + value * a * b, tensor1, tensor2)

    def addcdiv_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Self:
        """Adds `value * tensor1 / tensor2`."""
        return self._change(lambda array, a, b: array + value * a / b, tensor1, tensor2)

    def masked_fill_(self, mask: Any, value: Any) -> Self:
        """Sets the elements where `mask` is True."""
        return self._change(lambda array, mask, value: jnp.where(mask, value, array), mask, value)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        known = self._known()
        text = f"shape={self.shape}, dtype={self.dtype.name}" if known is None else str(known)
        return f"{type(self).__name__} containing:\n{text}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied: Self = type(self).__new__(type(self))
        memo[id(self)] = copied
        Cell.__init__(copied, self._value, self.label)
        for name in ("_dtype", "_initializer", "_meta", "_requires_grad", "_shape"):
            setattr(copied, name, getattr(self, name))
        if self._initializer is not None:
            copied._key = self._key
        copied._grad = None
        if self._grad is not None:
            copied._grad_cell()._value = self._grad._value
        return copied

    def __reduce__(self) -> Any:
        return _rebuild, (
            type(self),
            self.exported() if self.is_meta else self.numpy(),
            self._dtype,
            self.label,
            self._settings(),
        )

    def _settings(self) -> dict[str, Any]:
        return {}


def _rebuild(kind: type[Any], value: Any, dtype: Any, label: str, settings: dict[str, Any]) -> Any:
    handle = kind(
        jax.nn.initializers.zeros if isinstance(value, jax.ShapeDtypeStruct) else value, value.shape, dtype, **settings
    )
    handle.label = label
    if isinstance(value, jax.ShapeDtypeStruct):
        handle.to_meta()
    return handle


def _operator(name: str, function: Callable[..., Any]) -> None:
    def forward(self: Handle, other: Any) -> Any:
        return function(self.value, other.value if isinstance(other, Handle) else other)

    def reflected(self: Handle, other: Any) -> Any:
        return function(other, self.value)

    def in_place(self: Handle, other: Any) -> Any:
        return self._change(function, other)

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
