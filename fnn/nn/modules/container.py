"""Containers of modules and parameters."""

from __future__ import annotations

import operator
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Self

from fnn.guards import touch
from fnn.nn.handle import Handle
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Parameter

__all__ = ["Container", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


def _position(index: Any, length: int) -> int:
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range")
    return index % length


class Container(Module):
    """A module with children, given by name; torch deprecates it: Module itself does all of that.

    Args:
        kwargs: the children.

    Example:
        >>> import fnn.nn as nn
        >>> [name for name, _ in nn.Container(first=nn.Linear(2, 3)).named_children()]
        ['first']
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        warnings.warn("nn.Container is deprecated: subclass nn.Module instead.", FutureWarning, stacklevel=2)
        for name, module in kwargs.items():
            self.add_module(name, module)


class _Listed(Module):
    """What containers share that keep modules in order, under the names "0", "1", ..."""

    def _items(self) -> list[Any]:
        touch(self)
        return list(self._modules.values())

    def _refill(self, modules: Iterable[Module]) -> None:
        self._modules.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def _name(self, index: Any) -> str:
        return next(islice(self._modules, _position(index, len(self)), None))

    def __getitem__(self, index: Any) -> Any:
        touch(self)
        return self._modules[self._name(index)]

    def __setitem__(self, index: Any, module: Module) -> None:
        setattr(self, self._name(index), module)

    def __delitem__(self, index: Any) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._name(index)]:
            delattr(self, name)
        self._refill(self._items())

    def __len__(self) -> int:
        touch(self)
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def append(self, module: Module) -> Self:
        """Adds a module at the end; returns the container."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end; returns the container."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Puts a module before the one at an index."""
        items = self._items()
        items.insert(index, module)
        self._refill(items)
        return self

    def pop(self, key: Any) -> Module:
        """Takes the module at an index out, and returns it."""
        module: Module = self[key]
        del self[key]
        return module


class Sequential(_Listed):
    """Calls modules one after another, each with the output of the one before.

    Args:
        args: modules, named "0", "1", ...; or one OrderedDict of modules by name.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> net(jnp.ones((4, 2))).shape, len(net[:2])
        ((4, 1), 2)
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            touch(self)
            return type(self)(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def __add__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return Sequential(*self, *other)

    def __iadd__(self, other: Any) -> Self:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return self.extend(other)

    def __mul__(self, other: int) -> Sequential:
        if not isinstance(other, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(other)}")
        if other <= 0:
            raise ValueError(f"Non-positive multiplication factor {other} for {type(self)}")
        return Sequential(*(list(self) * other))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        return self.extend(list(self * other)[len(self) :])


class ModuleList(_Listed):
    """A list of modules.

    Args:
        modules: what it starts with.

    Example:
        >>> import fnn.nn as nn
        >>> layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        >>> len(layers), [name for name, _ in layers.named_parameters()][:2]
        (3, ['0.weight', '0.bias'])
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        return type(self)(self._items()[index]) if isinstance(index, slice) else super().__getitem__(index)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end; returns the list."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"ModuleList.extend should be called with an iterable, but got {type(modules).__name__}")
        return super().extend(modules)

    def insert(self, index: int, module: Module) -> None:
        """Puts a module before the one at an index."""
        super().insert(index, module)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """As torch prints it: equal neighbours are counted."""
        texts = [repr(module) for module in self]
        if not texts:
            return f"{self._get_name()}()"
        groups: list[list[Any]] = []
        for i, text in enumerate(texts):
            if groups and groups[-1][2] == text:
                groups[-1][1] = i
            else:
                groups.append([i, i, text])
        lines = []
        for first, last, text in groups:
            counted = f"({first}): {text}" if first == last else f"({first}-{last}): {last - first + 1} x {text}"
            lines.append(counted.replace("\n", "\n  "))
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


class ModuleDict(Module):
    """A dict of modules, in order of insertion.

    Args:
        modules: a mapping, or pairs of name and module, to start with.

    Example:
        >>> import fnn.nn as nn
        >>> heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 3)})
        >>> list(heads), heads["b"].out_features
        (['a', 'b'], 3)
    """

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        touch(self)
        module: Module = self._modules[key]
        return module

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        touch(self)
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        touch(self)
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        touch(self)
        return key in self._modules

    def clear(self) -> None:
        """Takes all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Takes a module out, and returns it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Iterable[str]:
        """The names."""
        touch(self)
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Pairs of name and module."""
        touch(self)
        return self._modules.items()

    def values(self) -> Iterable[Module]:
        """The modules."""
        touch(self)
        return self._modules.values()

    def update(self, modules: Any) -> None:
        """Adds modules from a mapping or from pairs of name and module."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"ModuleDict.update should be called with an iterable of key/value pairs, but got {type(modules).__name__}"
            )
        pairs = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for i, pair in enumerate(pairs):
            if not isinstance(pair, Iterable) or len(pair := tuple(pair)) != 2:
                raise ValueError(f"ModuleDict update sequence element #{i} must be a pair of name and module, got {pair}")
            self[pair[0]] = pair[1]


def _as_parameter(value: Any) -> Any:
    return value if isinstance(value, Handle) or not hasattr(value, "shape") else Parameter(value)


def _describe(value: Any) -> str:
    if not isinstance(value, Handle):
        return f"Object of type: {type(value).__name__}"
    size = "x".join(map(str, value.shape))
    return f"{type(value).__name__} containing: [{value.dtype.name} of size {size}]"


class ParameterList(Module):
    """A list of parameters; arrays become Parameters, other objects stay what they are.

    Args:
        values: what it starts with.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> parameters = nn.ParameterList([jnp.ones(2), jnp.zeros(3)])
        >>> [name for name, _ in parameters.named_parameters()], len(parameters)
        (['0', '1'], 2)
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)([self[i] for i in range(len(self))[index]])
        return getattr(self, str(_position(index, len(self))))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(_position(index, len(self))), _as_parameter(value))

    def __len__(self) -> int:
        touch(self)
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])

    def append(self, value: Any) -> Self:
        """Adds a parameter at the end; returns the list."""
        setattr(self, str(len(self)), _as_parameter(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Adds parameters at the end; returns the list."""
        if not isinstance(values, Iterable) or hasattr(values, "shape"):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in values:
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def extra_repr(self) -> str:
        return "\n".join(f"  ({i}): {_describe(value)}" for i, value in enumerate(self))


class ParameterDict(Module):
    """A dict of parameters, in order of insertion; arrays become Parameters, other objects stay what they are.

    Args:
        parameters: a mapping, or pairs of name and value, to start with.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> scales = nn.ParameterDict({"left": jnp.ones(2)})
        >>> [name for name, _ in scales.named_parameters()]
        ['left']
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: tuple[str, ...] = ()
        if parameters is not None:
            self.update(parameters)

    def _name(self, key: Any) -> str:
        if not isinstance(key, str):
            raise TypeError(
                f"Index given to ParameterDict cannot be used as a key as it is not a string (type is '{type(key).__name__}')."
            )
        return key

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, self._name(key))

    def __setitem__(self, key: str, value: Any) -> None:
        name = self._name(key)
        if name not in self._keys:
            self._keys += (name,)
        setattr(self, name, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        delattr(self, key)
        self._keys = tuple(name for name in self._keys if name != key)

    def __len__(self) -> int:
        touch(self)
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        touch(self)
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        touch(self)
        return key in self._keys

    def __reversed__(self) -> Iterator[str]:
        return reversed(tuple(self))

    def keys(self) -> Iterable[str]:
        """The names."""
        return tuple(self)

    def values(self) -> Iterable[Any]:
        """The parameters."""
        return [self[key] for key in self]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Pairs of name and parameter."""
        return [(key, self[key]) for key in self]

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter of a name, or the default."""
        return self[key] if key in self else default  # noqa: SIM401

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter of a name, which becomes the default where there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Takes a parameter out, and returns it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Takes the last parameter out, and returns its name and it."""
        key = tuple(self)[-1]
        return key, self.pop(key)

    def clear(self) -> None:
        """Takes all parameters out."""
        for key in tuple(self):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another ParameterDict with the same parameters."""
        return ParameterDict(OrderedDict(self.items()))

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """Another ParameterDict with these names, all with the same value."""
        return ParameterDict(dict.fromkeys(keys, default))

    def update(self, parameters: Any) -> None:
        """Adds parameters from a mapping or from pairs of name and value."""
        if not isinstance(parameters, Iterable):
            raise TypeError(
                f"ParametersDict.update should be called with an iterable of key/value pairs, but got "
                f"{type(parameters).__name__}"
            )
        for key, value in parameters.items() if isinstance(parameters, (Mapping, ParameterDict)) else parameters:
            self[key] = value

    def __or__(self, other: ParameterDict) -> ParameterDict:
        joined = self.copy()
        joined.update(other)
        return joined

    def __ior__(self, other: ParameterDict) -> Self:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return "\n".join(f"  ({key}): {_describe(value)}" for key, value in self.items())
