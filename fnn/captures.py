"""What a function reaches by name: the modules and optimizers in its closure, its globals and its instance."""

from __future__ import annotations

import contextlib
import functools
import operator
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fnn.guards import Stateful

_DEPTH = 3  # how far into containers and objects to look
_LENGTH = 1000  # of containers to look into


class Captures:
    """The modules and optimizers that a function reaches through its closure, its globals or its instance.

    A trace holds the objects that these names stood for; a name that stands for another one later means another trace.

    Args:
        function: the function.
        others: further objects that it gets, such as static arguments.
    """

    def __init__(self, function: Any, others: Iterable[Any] = ()):
        self.things: list[Stateful] = []
        self._names: list[tuple[Callable[[], Any], Any]] = []
        self._seen: set[int] = set()
        self._used: set[str] = set()
        self._note(functools.partial(_itself, function), function)
        for other in others:
            self._note(functools.partial(_itself, other), other)
        del self._seen

    def _visit(self, function: Any) -> None:
        function = getattr(function, "__wrapped__", function)
        if isinstance(function, types.MethodType):
            owner = function.__self__
            self._note(functools.partial(_itself, owner), owner)
            function = function.__func__
        if not isinstance(function, types.FunctionType) or id(function) in self._seen:
            return
        self._seen.add(id(function))
        names = set(_names(function.__code__))
        self._used |= names
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # raised for a name that is not assigned yet
                self._note(functools.partial(getattr, cell, "cell_contents"), cell.cell_contents)
        space = function.__globals__
        for name in names:
            if name in space:
                value = space[name]
                if not isinstance(value, types.FunctionType) or value.__globals__ is space:
                    self._note(functools.partial(space.get, name), value)

    def _note(self, lookup: Callable[[], Any], value: Any, depth: int = 0) -> None:
        if isinstance(value, Stateful):
            self.things.append(value)
            self._names.append((lookup, weakref.ref(value)))
        elif value is None:
            self._names.append((lookup, None))
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._note(functools.partial(_itself, part), part)
        elif isinstance(value, (types.FunctionType, types.MethodType)) or hasattr(value, "__wrapped__"):
            self._visit(value)
        elif id(value) not in self._seen and depth < _DEPTH:
            self._seen.add(id(value))
            for get, key, part in _parts(value, self._used):
                if part is not None:
                    self._note(functools.partial(_member, get, lookup, key), part, depth + 1)

    def release(self) -> None:
        """Lets go of the objects, which are needed only for the first trace."""
        self.things = []

    def hold(self) -> bool:
        """Whether every name still stands for the same object."""
        if not self._names:
            return True
        try:
            return all(_same(lookup(), ref) for lookup, ref in self._names)
        except (AttributeError, LookupError, TypeError, ValueError):
            return False


def _same(value: Any, ref: Any) -> bool:
    return value is None if ref is None else value is not None and value is ref()


def _member(get: Callable[[Any, Any], Any], lookup: Callable[[], Any], key: Any) -> Any:
    return get(lookup(), key)


def _parts(value: Any, used: set[str]) -> Iterator[tuple[Any, Any, Any]]:
    """What a container, an object or a Python module holds, and how to get it."""
    if isinstance(value, (list, tuple)):
        if len(value) <= _LENGTH:
            yield from ((operator.getitem, i, part) for i, part in enumerate(value))
    elif isinstance(value, dict):
        if len(value) <= _LENGTH:
            yield from ((operator.getitem, key, part) for key, part in value.items())
    elif isinstance(value, types.ModuleType):
        yield from ((getattr, name, vars(value)[name]) for name in used if isinstance(vars(value).get(name), Stateful))
    elif hasattr(value, "__dict__") and not hasattr(value, "__array__"):
        held = (Stateful, list, tuple, dict) if isinstance(value, type) else object
        for name, part in list(vars(value).items()):
            if isinstance(part, held) and not isinstance(part, (types.FunctionType, types.ModuleType, type)):
                yield getattr, name, part


def _itself(thing: Any) -> Any:
    return thing


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
