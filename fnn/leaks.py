"""Leaks: traced values that hooks keep when their trace has ended."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from fnn import scope as _scope
from fnn.guards import Stateful

_DEPTH = 4  # how far into functions, containers and objects to look


def refuse_leaks_of_hooks(modules: Iterable[Any]) -> None:
    """Raises where a hook of a module keeps a traced value; takes it out first. For the end of an outermost trace.

    Args:
        modules: those whose hooks ran in the trace.
    """
    for module in dict.fromkeys(modules):
        for hook in module._own_hooks():
            if _release(hook, set(), 0):
                name = getattr(hook, "__qualname__", type(hook).__name__)
                raise _scope.StateError(
                    f"the hook {name} of a {type(module).__name__} kept a traced value, where it would outlive its "
                    "transformation. Take intermediate values as results with fnn.capture(module, names), or let the hook keep "
                    "Python values such as shapes."
                )


def _release(thing: Any, seen: set[int], depth: int) -> bool:
    """Takes traced values out of what a function or container keeps; whether there were any."""
    if id(thing) in seen or depth > _DEPTH or isinstance(thing, (Stateful, type, types.ModuleType)):
        return False
    seen.add(id(thing))
    released = False
    for part, forget in list(_parts(thing)):
        if _is_traced(part):
            forget()
            released = True
        else:
            released |= _release(part, seen, depth + 1)
    return released


def _is_traced(value: Any) -> bool:
    return _scope.is_tracer(value) or (isinstance(value, tuple) and any(map(_is_traced, value)))


def _parts(thing: Any) -> Iterator[tuple[Any, Any]]:
    """What a function, container or object holds, and how to take it out."""
    if isinstance(thing, types.MethodType):
        yield thing.__self__, None
        yield thing.__func__, None
    elif isinstance(thing, functools.partial):
        yield from ((part, None) for part in (thing.func, *thing.args, *thing.keywords.values()) if not _is_traced(part))
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # raised for a name that is not assigned yet
                yield cell.cell_contents, functools.partial(setattr, cell, "cell_contents", None)
        space = thing.__globals__
        for name in thing.__code__.co_names:
            if name in space and not isinstance(space[name], types.FunctionType):
                yield space[name], functools.partial(space.__setitem__, name, None)
    elif isinstance(thing, list):
        yield from ((part, functools.partial(_remove, thing, part)) for part in thing)
    elif isinstance(thing, dict):
        yield from ((part, functools.partial(thing.pop, key)) for key, part in thing.items())
    elif isinstance(thing, (set, tuple)):
        yield from ((part, functools.partial(thing.discard, part) if isinstance(thing, set) else None) for part in thing)
    elif hasattr(thing, "__dict__") and not hasattr(thing, "__array__"):
        yield from ((part, functools.partial(vars(thing).pop, name)) for name, part in vars(thing).items())


def _remove(items: list[Any], item: Any) -> None:
    items[:] = [other for other in items if other is not item]
