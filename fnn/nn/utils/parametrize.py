"""Parameters and buffers that are computed from others, `torch.nn.utils.parametrize`.

A parametrized value is computed each time that it is read, so it is never out of date, and gradients are those of what it
is computed from: `module.parametrizations.weight.original`, or `original0`, `original1`, ...
"""

from __future__ import annotations

import copy
import copyreg
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.guards import Stateful, touch
from fnn.nn.modules.container import ModuleDict, ModuleList
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Buffer, Handle, Parameter

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "transfer_parametrizations_and_params",
    "type_before_parametrizations",
]

M = TypeVar("M", bound=Module)


class _Caching(Stateful):
    """Says whether functions are called in a block of `cached`; those that are compiled rest on it."""

    around: bool = False


class _Cached:
    """A value, and what it was computed from."""

    def __init__(self, parametrizations: ParametrizationList):
        self.value = parametrizations()
        self.basis = self._basis(parametrizations)  # as it is afterwards, since a power iteration writes

    @staticmethod
    def _basis(parametrizations: ParametrizationList) -> list[Any]:
        modes = [part for module in parametrizations.modules() for part in (module, module.training)]
        return [*modes, *_scope.read_all(parametrizations._cells())]

    def holds(self, parametrizations: ParametrizationList) -> bool:
        now = self._basis(parametrizations)
        return len(now) == len(self.basis) and all(a is b for a, b in zip(now, self.basis, strict=True))


_caching = _Caching()
_caching.around = False
_blocks = 0
_known: dict[Any, _Cached] = {}
_traced: weakref.WeakKeyDictionary[Any, dict[Any, _Cached]] = weakref.WeakKeyDictionary()  # gone when their scope is


@contextmanager
def cached() -> Iterator[None]:
    """Inside a `with` block, computes a parametrized value once and keeps it, for code that reads it several times.

    A value counts as long as what it was computed from does: after a step of an optimizer it is computed again, where torch
    keeps the old one. What is computed while JAX traces is kept for that trace alone.

    Example:
        >>> import fnn.nn as nn
        >>> class Loud(nn.Module):
        ...     def forward(self, x):
        ...         print("computed")
        ...         return 2 * x
        >>> layer = register_parametrization(nn.Linear(2, 2), "weight", Loud(), unsafe=True)
        >>> with cached():
        ...     layer.weight is layer.weight
        computed
        True
    """
    global _blocks
    outside, before = _scope.current() is None and _scope.at_top(), _caching.around
    _blocks += 1
    if outside:
        _caching.around = True
    try:
        yield
    finally:
        _blocks -= 1
        if not _blocks:
            _known.clear()
            _traced.clear()
        if outside:
            _caching.around = before


def _computed(parametrizations: ParametrizationList) -> Any:
    """The parametrized value, kept where a block of `cached` is open."""
    touch(_caching)
    scope = _scope.current()
    if not _blocks:
        return parametrizations()
    if _scope.at_top():
        kept = _known
    elif scope is not None and scope.trace == get_opaque_trace_state():
        kept = _traced.setdefault(scope, {})
    else:  # nothing says when this trace ends
        return parametrizations()
    if parametrizations not in kept or not kept[parametrizations].holds(parametrizations):
        kept[parametrizations] = _Cached(parametrizations)
    return kept[parametrizations].value


class _Source:
    """How the value was drawn that was there before the first parametrization.

    Args:
        handle: the parameter or buffer.
        count: how many parametrizations were there then.
    """

    __slots__ = ("__weakref__", "count", "handle", "initializer")

    def __init__(self, handle: Any, count: int):
        self.handle = handle.__deepcopy__({})
        self.handle._value = None
        self.initializer = handle._initializer
        self.count = count

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other)  # layers are alike that differ in what they are drawn from

    __hash__ = object.__hash__

    def __deepcopy__(self, memo: Any) -> _Source:
        return self


class ParametrizationList(ModuleList):
    """The parametrizations of one parameter or buffer, and what it is computed from: `module.parametrizations.weight`.

    `register_parametrization` makes it.

    Args:
        modules: the parametrizations, the first one first.
        original: the parameter or buffer.
        unsafe: whether they may change its shape and dtype.

    Attributes:
        original: what the value is computed from, where the first parametrization takes one array.
        original0, original1: likewise, where its `right_inverse` gives several.
        is_tensor: whether there is just one.
        ntensors: how many there are.

    Raises:
        ValueError: where there are no modules, or what they return does not fit.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = register_parametrization(nn.Linear(2, 2), "weight", nn.Tanh())
        >>> layer.parametrizations.weight
        ParametrizationList(
          (0): Tanh()
        )
        >>> bool((layer.weight == jnp.tanh(layer.parametrizations.weight.original)).all())
        True
    """

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False):
        if len(modules) == 0:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        shape, dtype, value = original.shape, original.dtype, original.value
        self._source = _Source(original, len(modules)) if original.drawn else None
        new = self._inverse(value, len(modules))
        self.is_tensor = _is_array(new)
        self.ntensors = 1 if self.is_tensor else len(new)
        if self.is_tensor:
            if new.dtype != dtype:
                raise ValueError(
                    "When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                    f"original.dtype: {dtype}\nright_inverse(original).dtype: {new.dtype}"
                )
            if new is not value:
                original.value = new
            _register(self, "original", original)
        else:
            for i, part in enumerate(new):
                if not _is_array(part):
                    raise ValueError(f"{_SEVERAL} Got element {i} of the sequence with type {type(part).__name__}.")
                if isinstance(original, Parameter):
                    _register(self, f"original{i}", Parameter(part, requires_grad=original.requires_grad))
                else:
                    _register(self, f"original{i}", Buffer(part))
        if not unsafe:
            _check(self(), "Registering a parametrization", shape, dtype)

    def _inverse(self, value: Any, count: int) -> Any:
        """What the first parametrizations compute a value from; those without a right inverse are taken to be the identity."""
        for module in reversed(list(self)[:count]):
            if hasattr(module, "right_inverse"):
                try:
                    value = module.right_inverse(value)
                except NotImplementedError:
                    continue
        if not _is_array(value) and not isinstance(value, Sequence):
            raise ValueError(f"{_SEVERAL} Got {type(value).__name__}.")
        return value

    def _originals(self) -> list[Any]:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, name) for name in names]

    def right_inverse(self, value: Any) -> None:
        """Gives the originals the values that `value` is computed from, as `module.weight = value` does.

        Raises:
            RuntimeError: where a parametrization has no `right_inverse`.
            ValueError: where one returns something that does not fit the originals.
        """
        for module in reversed(list(self)):
            if not hasattr(module, "right_inverse"):
                raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
            value = module.right_inverse(value)
        self._set(value)

    def _set(self, value: Any) -> None:
        originals = self._originals()
        if self.is_tensor:
            if not _is_array(value):
                raise ValueError(f"`right_inverse` should return a tensor. Got {type(value).__name__}")
            values: Sequence[Any] = (value,)
        elif not isinstance(value, Sequence):
            raise ValueError(f"'right_inverse' must return a sequence of tensors. Got {type(value).__name__}.")
        elif len(value) != self.ntensors:
            raise ValueError(
                f"'right_inverse' must return a sequence of tensors of length {self.ntensors}. "
                f"Got a sequence of length {len(value)}."
            )
        else:
            values = value
        for i, (original, part) in enumerate(zip(originals, values, strict=True)):
            if not _is_array(part):
                raise ValueError(f"{_SEVERAL} Got element {i} of type {type(part).__name__}.")
            if part.dtype != original.dtype:
                number = "" if self.is_tensor else i
                raise ValueError(
                    f"The tensor {number} returned by `right_inverse` has dtype {part.dtype} while `original{number}` has "
                    f"dtype {original.dtype}"
                )
        for original, part in zip(originals, values, strict=True):
            original.value = part

    def forward(self) -> Any:
        first, *others = self
        x = first(*(original.value for original in self._originals()))
        for module in others:
            x = module(x)
        return x

    @property
    def _redraws(self) -> bool:
        """Whether `fnn.pure(module).init` shall call `_redraw`: not where the originals were given other initial values."""
        if self._source is None:
            return False
        if self.is_tensor:
            return self.original._initializer is self._source.initializer
        return not any(original.drawn for original in self._originals())

    def _redraw(self) -> None:
        """Derives the originals, and what parametrizations estimate, from a fresh value, as when they were registered."""
        source: Any = self._source
        value = self.original.value if self.is_tensor else source.handle.draw(_random.next_key())
        new = self._inverse(value, source.count)
        for original, part in zip(self._originals(), [new] if self.is_tensor else new, strict=True):
            original.value = as_array(part, original.dtype)
        if any(hasattr(module, "_estimate") for module in self):
            values: Any = tuple(original.value for original in self._originals())
            for module in self:
                if hasattr(module, "_estimate"):
                    module._estimate(*values)
                values = (module(*values),)


_SEVERAL = "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...)."


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray, Handle))


def _check(value: Any, what: str, shape: Any, dtype: Any) -> None:
    if not _is_array(value):
        raise ValueError(f"A parametrization must return a tensor. Got {type(value).__name__}.")
    for name, given, expected in (("dtype", value.dtype, dtype), ("shape", value.shape, shape)):
        if given != expected:
            raise ValueError(
                f"{what} may not change the {name} of the tensor, unless the `unsafe` flag is enabled.\n"
                f"unparametrized {name}: {expected}\nparametrized {name}: {given}"
            )


def _register(module: Module, name: str, handle: Any) -> None:
    if isinstance(handle, Parameter):
        module.register_parameter(name, handle)
    else:
        module.register_buffer(name, handle)


# Classes of parametrized modules. None is ever changed, since copies of a module, and what `fnn.pure` made of it, share it.
_classes: weakref.WeakValueDictionary[tuple[type, frozenset[str]], type] = weakref.WeakValueDictionary()


def _set_class(module: Module) -> None:
    """Gives a module the class that has a property for each of its parametrized values; its own where there is none."""
    base = type_before_parametrizations(module)
    names = frozenset(getattr(module, "parametrizations", ()))
    made = _classes.get((base, names)) if names else base
    if made is None:
        members: dict[str, Any] = {name: _property(name) for name in names}
        members |= {"__getstate__": _refuse_to_pickle, "__module__": base.__module__, "_unparametrized": base}
        if not hasattr(base, "__deepcopy__"):
            members["__deepcopy__"] = _deepcopy
        made = _classes[base, names] = type(f"Parametrized{base.__name__}", (base,), members)
    object.__setattr__(module, "__class__", made)
    _scope.changed()


def _property(name: str) -> property:
    def get(self: Any) -> Any:
        try:
            return _computed(self.parametrizations[name])
        except AttributeError as error:  # which Python would take to mean that there is no such attribute
            raise RuntimeError(f"the parametrization of '{name}' failed: {error}") from error

    def give(self: Any, value: Any) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, give, doc="Computed by its parametrizations.")


def _refuse_to_pickle(self: Any) -> Any:
    raise RuntimeError(
        f"a {type(self).__name__} cannot be pickled, since its class is made at run time: save its state_dict(), and register "
        "the parametrizations again before loading it"
    )


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    replica = object.__new__(type(self))
    memo[id(self)] = replica
    vars(replica).update(copy.deepcopy(vars(self), memo))
    for slot in copyreg._slotnames(type(self)):  # type: ignore[attr-defined]
        if hasattr(self, slot):
            object.__setattr__(replica, slot, copy.deepcopy(getattr(self, slot), memo))
    return replica


def register_parametrization(module: M, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> M:
    """Computes a parameter or buffer of a module by a parametrization, whenever it is read.

    Its value becomes `module.parametrizations.<name>.original`; several parametrizations are applied one after another, in
    the order of registration. If the parametrization has a method `right_inverse(value)`, the original is what that returns
    for the value that there is; if it returns several arrays, they are `original0`, `original1`, ..., and new parameters.
    With it, `module.<name> = value` sets the originals. An optimizer made afterwards has the originals.

    Registering draws the value. `fnn.pure(module).init` draws it anew and takes the right inverse of it.

    Args:
        module: the module; its class becomes one derived from its own.
        tensor_name: what is to be computed.
        parametrization: a module whose forward takes the original, or the originals; it gets the training mode of the module.
        unsafe: whether it may change shape and dtype; otherwise it is called once to check that it does not.

    Returns:
        The module.

    Raises:
        ValueError: where there is no parameter or buffer of the name, or what the parametrization returns does not fit.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> class Symmetric(nn.Module):
        ...     def forward(self, x):
        ...         return jnp.triu(x) + jnp.triu(x, 1).T
        ...     def right_inverse(self, x):
        ...         return jnp.triu(x)
        >>> layer = register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
        >>> bool((layer.weight == layer.weight.T).all())
        True
        >>> layer.weight = jnp.ones((3, 3))
        >>> layer.parametrizations.weight.original.tolist()
        [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            value = getattr(module, tensor_name)
            result = parametrization(value)
            _check(result, "Registering a parametrization", value.shape, value.dtype)
            if hasattr(parametrization, "right_inverse"):
                try:
                    inverse = parametrization.right_inverse(result)
                except NotImplementedError:
                    pass
                else:
                    _check(inverse, "parametrization.right_inverse", value.shape, value.dtype)
        parametrizations: Any = module.parametrizations[tensor_name]
        parametrizations.append(parametrization)
        parametrizations.unsafe |= unsafe
    elif tensor_name in module._buffers or tensor_name in module._parameters:
        parametrizations = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe=unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            module.parametrizations = ModuleDict()
        module.parametrizations[tensor_name] = parametrizations
        _set_class(module)
    else:
        raise ValueError(
            f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name '{tensor_name}'"
        )
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether a module computes a parameter or buffer, or any of them, by parametrizations.

    Args:
        module: the module.
        tensor_name: the one to ask for; None for any.

    Example:
        >>> import fnn.nn as nn
        >>> layer = register_parametrization(nn.Linear(2, 2), "weight", nn.Tanh())
        >>> is_parametrized(layer), is_parametrized(layer, "bias")
        (True, False)
    """
    parametrizations = getattr(module, "parametrizations", None)
    if not isinstance(parametrizations, ModuleDict):
        return False
    return len(parametrizations) > 0 if tensor_name is None else tensor_name in parametrizations


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Makes a parametrized value an ordinary parameter or buffer again.

    Args:
        module: the module.
        tensor_name: what is parametrized.
        leave_parametrized: whether it keeps the value that is computed now, rather than that of the original.

    Returns:
        The module, with its own class if nothing else is parametrized.

    Raises:
        ValueError: where it is not parametrized; where it is to get the value of one of several originals.
        RuntimeError: where it would keep a value of another dtype than the original has.

    Example:
        >>> import fnn.nn as nn
        >>> layer = register_parametrization(nn.Linear(2, 2), "weight", nn.Tanh())
        >>> type(layer).__name__, type(remove_parametrizations(layer, "weight")).__name__
        ('ParametrizedLinear', 'Linear')
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    parametrizations: Any = module.parametrizations[tensor_name]
    if parametrizations.is_tensor:
        original = parametrizations.original
        if leave_parametrized:
            value = getattr(module, tensor_name)
            if value.dtype != original.dtype:
                raise RuntimeError(
                    f"'{tensor_name}' cannot keep its value, of dtype {value.dtype}: its original has dtype {original.dtype}"
                )
            if value.shape != original.shape:
                original._initializer, original._shape = None, value.shape
            original.value = value
    elif leave_parametrized:
        value, source = getattr(module, tensor_name), parametrizations._source
        original = Buffer(value)
        if any(parameter.requires_grad for parameter in parametrizations.parameters()):
            original = Parameter(value)
            if source and (value.shape, value.dtype) == (source.handle.shape, source.handle.dtype):
                original = source.handle.__deepcopy__({})  # so that init of fnn.pure draws it again
                original.value, original.requires_grad = value, True
    else:
        raise ValueError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a sequence of "
            "tensors."
        )
    del module.parametrizations[tensor_name]
    _set_class(module)
    _register(module, tensor_name, original)
    if not is_parametrized(module):
        del module.parametrizations
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class that a module had before its first parametrization; its class, where it has none.

    Example:
        >>> import fnn.nn as nn
        >>> type_before_parametrizations(register_parametrization(nn.Linear(2, 2), "weight", nn.Tanh())).__name__
        'Linear'
    """
    return vars(type(module)).get("_unparametrized", type(module))


def transfer_parametrizations_and_params(from_module: Module, to_module: M, tensor_name: str | None = None) -> M:
    """Gives a module the parametrizations of another, and shares what they compute from.

    Args:
        from_module: the parametrized module; where it is not, nothing happens.
        to_module: the module that gets them. Parameters that it lacks are made.
        tensor_name: what to transfer; None for all.

    Returns:
        to_module.

    Example:
        >>> import fnn.nn as nn
        >>> source = register_parametrization(nn.Linear(2, 2), "weight", nn.Tanh())
        >>> other = transfer_parametrizations_and_params(source, nn.Linear(2, 2))
        >>> bool((other.weight == source.weight).all())
        True
    """
    if not is_parametrized(from_module):
        return to_module
    for name in list(from_module.parametrizations) if tensor_name is None else [tensor_name]:
        ours = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in ours:
            register_parametrization(to_module, name, parametrization)
        theirs: Any = to_module.parametrizations[name]
        for key in [key for key in (*ours._parameters, *ours._buffers) if key.startswith("original")]:
            setattr(theirs, key, getattr(ours, key))
    return to_module
