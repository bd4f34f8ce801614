"""Leaks: traced values that hooks keep while JAX traces."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from fnn import scope as _scope
from fnn.guards import Registry, Stateful
from fnn.scope import Scope

_DEPTH = 6  # how far into functions, containers and objects to look
_MOST = 20_000  # how many things to look at
_LEAVES = (type(None), bool, int, float, complex, str, bytes)

Place = Callable[[Any], None]  # puts a value where another one is kept


class Handover:
    """What code in a transformation leaves in hooks and attributes: the owner takes it out, and puts it back outside."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._hooked: list[Any] = []
        self._crossings: list[Any] = []

    def take(self, scope: Scope) -> list[Any]:
        """The traced values, at the end of the scope; a function that is traced again begins anew."""
        self._hooked, self._crossings = scope.hooked, scope.crossings
        values, self._places = kept_by_hooks(scope.root.hooked)
        for owner, name, value in scope.take_attributes():
            values.append(value)
            self._places.append(functools.partial(setattr, owner, name))
        return values

    def put_back(self, values: list[Any]) -> None:
        """Puts the values, as they came out of the transformation, where they were kept."""
        for place, value in zip(self._places, values, strict=True):
            place(value)
        if _scope.at_top():  # what backward hooks keep where fnn.checkpoint traced them
            end_leaks_of_hooks(self._hooked, self._crossings)


def kept_by_hooks(modules: Iterable[Any]) -> tuple[list[Any], list[Place]]:
    """The traced values that hooks of modules keep, and where: in lists, dicts, objects, closures and globals."""
    values: list[Any] = []
    places: list[Place] = []
    seen: set[int] = set()
    for module in dict.fromkeys(modules):
        for hook in module._own_hooks():
            for value, place in _traced_in(hook, seen, 0):
                values.append(value)
                places.append(place)
    return values, places


class Ended:
    """Stands where a hook kept a traced value of a compiled function, since that value ended with its trace."""

    def _refuse(self, *args: Any) -> Any:
        raise _scope.StateError(
            "a hook kept this value of a function that was compiled, and it ended with the trace. Take intermediate values as "
            "results with fnn.capture(module, names), or let the hook keep Python values such as shapes."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # Python asks for these, such as __deepcopy__
        return self._refuse()

    __jax_array__ = __array__ = __bool__ = __float__ = __int__ = __iter__ = __len__ = __getitem__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __truediv__ = __pow__ = __neg__ = _refuse

    def __repr__(self) -> str:
        return "<a value of a trace that has ended; fnn.capture gives such values as results>"


jax.tree_util.register_pytree_node(Ended, Ended._refuse, Ended._refuse)  # jnp functions flatten their arguments


def end_leaks_of_hooks(hooked: Iterable[Any], crossings: Iterable[Any]) -> None:
    """Puts `Ended` where hooks keep a traced value, and lets go of their modules. For the end of an outermost scope.

    Args:
        hooked: the modules whose hooks have run, as the scope has noted them.
        crossings: likewise the calls that backward hooks look at.
    """
    _, places = kept_by_hooks(hooked)
    for place in places:
        place(Ended())
    for crossing in crossings:
        crossing.loosen()


def _traced_in(thing: Any, seen: set[int], depth: int) -> Iterator[tuple[Any, Place]]:
    if id(thing) in seen or depth > _DEPTH or len(seen) > _MOST or isinstance(thing, (type, types.ModuleType, *_LEAVES)):
        return
    seen.add(id(thing))
    for part, place in list(_parts(thing)):
        if _is_traced(part):
            yield part, place
        else:
            yield from _traced_in(part, seen, depth + 1)


def _is_traced(value: Any) -> bool:
    return _scope.is_tracer(value) or (isinstance(value, tuple) and any(map(_is_traced, value)))


def _parts(thing: Any) -> Iterator[tuple[Any, Place]]:
    """What a function, container or object holds, and how to put something else there."""
    if isinstance(thing, types.MethodType):
        yield from ((part, _nowhere) for part in (thing.__self__, thing.__func__))
    elif isinstance(thing, functools.partial):
        yield from ((part, _nowhere) for part in (thing.func, *thing.args, *thing.keywords.values()))
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # raised for a name that is not assigned yet
                yield cell.cell_contents, functools.partial(setattr, cell, "cell_contents")
        space = thing.__globals__
        for name in thing.__code__.co_names:
            if name in space and getattr(space[name], "__globals__", space) is space:  # functions of other files hold their own
                yield space[name], functools.partial(space.__setitem__, name)
        yield vars(thing), _nowhere
    elif isinstance(thing, (list, deque)):
        yield from ((part, functools.partial(_set_item, thing, part)) for part in thing)
    elif isinstance(thing, set):
        yield from ((part, functools.partial(_set_member, thing, part)) for part in thing)
    elif isinstance(thing, dict):
        yield from ((part, functools.partial(thing.__setitem__, key)) for key, part in thing.items())
    elif isinstance(thing, tuple):
        yield from ((part, _nowhere) for part in thing)
    elif isinstance(thing, Stateful):
        # What is set as an attribute of it stays in a scope, and what is in its registries is no hook's.
        yield from ((part, _nowhere) for part in vars(thing).values() if not isinstance(part, Registry))
    elif not hasattr(thing, "__array__"):
        for kind in type(thing).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name):
                    yield getattr(thing, name), functools.partial(setattr, thing, name)
            yield from ((part, _nowhere) for part in vars(kind).values() if isinstance(part, (list, deque, dict, set)))
        yield from (
            (part, functools.partial(vars(thing).__setitem__, name)) for name, part in getattr(thing, "__dict__", {}).items()
        )


def _nowhere(value: Any) -> None:
    """What is part of a callable object stays."""


def _set_item(items: Any, old: Any, value: Any) -> None:
    for i, item in enumerate(items):
        if item is old:
            items[i] = value


def _set_member(members: set[Any], old: Any, value: Any) -> None:
    members.discard(old)
    members.add(value)
