"""What a function reaches by name: the modules and optimizers in its closure, its globals and its instance."""

from __future__ import annotations

import contextlib
import functools
import operator
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from fnn.guards import Stateful


class Captures:
    """The modules and optimizers that a function reaches through its closure, its globals or its instance.

    A trace holds the objects that these names stood for; a name that stands for another one later means another trace.
    """

    def __init__(self, function: Any):
        self.things: list[Stateful] = []
        self._names: list[tuple[Callable[[], Any], Any]] = []
        self._visit(function, set())

    def _visit(self, function: Any, seen: set[int]) -> None:
        if isinstance(function, Stateful):
            return self._note(functools.partial(_itself, function), function, seen)
        if isinstance(function, functools.partial):
            for part in (function.func, *function.args, *function.keywords.values()):
                self._note(functools.partial(_itself, part), part, seen)
            return None
        function = getattr(function, "__wrapped__", function)
        if isinstance(function, types.MethodType):
            owner = function.__self__
            self._note(functools.partial(_itself, owner), owner, seen)
            function = function.__func__
        if not isinstance(function, types.FunctionType) or id(function) in seen:
            return None
        seen.add(id(function))
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # raised for a name that is not assigned yet
                self._note(functools.partial(getattr, cell, "cell_contents"), cell.cell_contents, seen)
        space = function.__globals__
        for name in _names(function.__code__):
            if name in space:
                value = space[name]
                if not isinstance(value, types.FunctionType) or value.__globals__ is space:
                    self._note(functools.partial(space.get, name), value, seen)
        return None

    def _note(self, lookup: Callable[[], Any], value: Any, seen: set[int]) -> None:
        if isinstance(value, Stateful):
            self.things.append(value)
            self._names.append((lookup, weakref.ref(value)))
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)) or hasattr(value, "__wrapped__"):
            self._visit(value, seen)
        elif id(value) not in seen:  # a list or dict of modules, or an object with modules as attributes
            seen.add(id(value))
            if isinstance(value, (list, tuple)):
                for i, thing in enumerate(value):
                    self._note_member(lookup, operator.getitem, i, thing, seen)
            elif isinstance(value, dict):
                for key, thing in value.items():
                    self._note_member(lookup, operator.getitem, key, thing, seen)
            elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)):
                for name, thing in vars(value).items():
                    self._note_member(lookup, getattr, name, thing, seen)

    def _note_member(self, lookup: Any, get: Any, key: Any, thing: Any, seen: set[int]) -> None:
        if isinstance(thing, Stateful):
            self._note(lambda: get(lookup(), key), thing, seen)

    def release(self) -> None:
        """Lets go of the objects, which are needed only for the first trace."""
        self.things = []

    def hold(self) -> bool:
        """Whether every name still stands for the same object."""
        if not self._names:
            return True
        try:
            return all(lookup() is ref() for lookup, ref in self._names)
        except (AttributeError, LookupError, TypeError, ValueError):
            return False


def _itself(thing: Any) -> Any:
    return thing


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
