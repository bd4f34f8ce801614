"""Guards: what a compiled function noticed of the objects that its trace looked at, and whether that still holds.

The trace of a function has the modes, hyperparameters and structure of its modules in it. A `Recorder` takes a snapshot
of every object that the trace meets; `Guards.hold` compares later. Scalars count by value, lists, tuples, dicts and
sets by content, parameters and buffers by identity and `requires_grad`, and everything else by identity.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fnn import scope as _scope
from fnn.scope import Cell

_ABSENT: Any = object()
_SCALARS = (type(None), bool, int, float, complex, str, bytes)


class Registry(dict[Any, Any]):
    """A dict whose every change is noted, so that guards need not compare it at each call.

    Attributes:
        version: the epoch of its last change; no two registries have the same.
    """

    __slots__ = ("version",)
    version: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls, *args, **kwargs)
        self.version = _scope.changed()
        return self

    def __reduce__(self) -> Any:
        return type(self), (), None, None, iter(self.items())  # a copy has a version of its own


def _noting(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def noting(self: Registry, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        self.version = _scope.changed()
        return result

    noting.__name__ = name
    return noting


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(Registry, _name, _noting(_name))


class Stateful:
    """An object that holds cells and is passed by reference: a Module or an Optimizer.

    Setting or deleting an attribute is noted for guards; a traced value stays in the scope that it belongs to.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        traced = holds_tracer(value)
        scope = _scope.current()
        if scope is not None:
            scope.set_attribute(self, name, value, traced)
        elif traced:
            raise _scope.StateError(
                f"a traced value was assigned to {type(self).__name__}.{name} inside a JAX transformation, which it cannot "
                "leave. Transform with fnn.jit or fnn.value_and_grad, or return the value."
            )
        if not traced:
            object.__setattr__(self, name, value)
            _scope.forget_lost(self, name)
        _scope.changed()

    def __delattr__(self, name: str) -> None:
        scope = _scope.current()
        if scope is None or not scope.delete_attribute(self, name):
            object.__delattr__(self, name)
        _scope.changed()

    def __getattr__(self, name: str) -> Any:
        """Called for names that normal lookup does not find."""
        scope = _scope.current()
        if scope is not None:
            try:
                return scope.attribute(self, name)
            except AttributeError:
                before = _scope.before_loss(self)
                if name in before:
                    return before[name]
                for recorder in scope.recorders:
                    recorder.see_absent(self, name)
        if _scope.was_lost(self, name):
            raise AttributeError(
                f"{type(self).__name__}.{name} was set to a traced value inside a transformation that has ended, so it has no "
                f"value here. Return it from forward, or take it as a result with fnn.capture(module, [{name!r}])."
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _cells(self) -> Iterator[Cell]:
        """All cells of the object, those of a module's descendants included; each is noted for guards."""
        raise NotImplementedError


def holds_tracer(value: Any) -> bool:
    """Whether a value is traced, or a list, tuple or dict with a traced value in it."""
    if isinstance(value, (list, tuple)):
        return any(map(holds_tracer, value))
    if isinstance(value, dict):
        return any(map(holds_tracer, value.values()))
    return _scope.is_tracer(value)


def refuse_leaks(things: Iterable[Stateful]) -> None:
    """Raises where code of a trace has put a traced value into a list or dict that an object holds; takes it out again."""
    for thing in things:
        for name, value in vars(thing).items():
            if isinstance(value, (list, dict)) and not isinstance(value, Registry) and holds_tracer(value):
                if isinstance(value, list):
                    value[:] = [item for item in value if not holds_tracer(item)]
                else:
                    for key in [key for key, item in value.items() if holds_tracer(item)]:
                        del value[key]
                raise _scope.StateError(
                    f"a traced value was put into {type(thing).__name__}.{name}, where it would outlive its transformation. "
                    "Return it from forward, or set a new list or dict as an attribute and take it with fnn.capture."
                )


def touch(thing: Stateful) -> None:
    """Notes, for the functions being compiled, that their traces look at an object.

    The children of a module are noted with it: a plain attribute of a child can be read with nothing else being asked.
    """
    scope = _scope.current()
    if scope is not None:
        for recorder in scope.recorders:
            recorder.see(thing)
            for child in vars(thing).get("_modules", {}).values():
                if child is not None:
                    recorder.see(child)


def weakly(thing: Any) -> Callable[[], Any]:
    """A weak reference to an object; to one that cannot be referred to weakly, what gives the object itself."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


class _Reference:
    """Matches one object by identity, without keeping it alive where that can be had."""

    __slots__ = ("ref",)

    def __init__(self, thing: Any):
        self.ref = weakly(thing)

    def matches(self, thing: Any) -> bool:
        return thing is not None and self.ref() is thing  # a reference to what is gone gives None


class _Cell(_Reference):
    """Matches one parameter or buffer, and whether it requires a gradient."""

    __slots__ = ("requires_grad",)

    def __init__(self, cell: Cell):
        super().__init__(cell)
        self.requires_grad = getattr(cell, "requires_grad", False)

    def matches(self, thing: Any) -> bool:
        return thing is not None and self.ref() is thing and getattr(thing, "requires_grad", False) == self.requires_grad


class _Scalar:
    """Matches a value and its type."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def matches(self, thing: Any) -> bool:
        value = self.value
        return thing is value or (type(thing) is type(value) and (thing == value or (thing != thing and value != value)))


class _Sequence:
    """Matches a list or tuple by content."""

    __slots__ = ("items", "kind")

    def __init__(self, things: Any, above: tuple[int, ...]):
        self.kind = type(things)
        self.items = [_look(thing, above) for thing in things]

    def matches(self, things: Any) -> bool:
        return (
            type(things) is self.kind
            and len(things) == len(self.items)
            and all(item.matches(thing) for item, thing in zip(self.items, things, strict=True))
        )


class _Mapping:
    """Matches a dict by content, in order."""

    __slots__ = ("items", "kind")

    def __init__(self, things: Any, above: tuple[int, ...]):
        self.kind = type(things)
        self.items = [(key, _look(thing, above)) for key, thing in things.items()]

    def matches(self, things: Any) -> bool:
        if type(things) is not self.kind or len(things) != len(self.items):
            return False
        return all(
            key == name and item.matches(thing) for (name, item), (key, thing) in zip(self.items, things.items(), strict=True)
        )


class _Set:
    """Matches a set by content."""

    __slots__ = ("value",)

    def __init__(self, things: Any):
        self.value = frozenset(things)

    def matches(self, things: Any) -> bool:
        return isinstance(things, (set, frozenset)) and things == self.value


class _Record(_Reference):
    """Matches a configuration object (a namespace or dataclass) by identity and content."""

    __slots__ = ("content",)

    def __init__(self, thing: Any, above: tuple[int, ...]):
        super().__init__(thing)
        self.content = _Mapping(vars(thing), above)

    def matches(self, thing: Any) -> bool:
        return super().matches(thing) and self.content.matches(vars(thing))


def _is_record(thing: Any) -> bool:
    is_data = dataclasses.is_dataclass(thing) and not isinstance(thing, type)
    return hasattr(thing, "__dict__") and (is_data or isinstance(thing, (types.SimpleNamespace, argparse.Namespace)))


def _look(thing: Any, above: tuple[int, ...] = ()) -> Any:
    kind = type(thing)
    if kind in _SCALARS:
        return _Scalar(thing)
    if isinstance(thing, Cell):
        return _Cell(thing)
    if isinstance(thing, (list, tuple, dict)) and id(thing) not in above:
        return (_Mapping if isinstance(thing, dict) else _Sequence)(thing, (*above, id(thing)))
    if kind in (set, frozenset):
        return _Set(thing)
    if _is_record(thing) and id(thing) not in above:
        return _Record(thing, (*above, id(thing)))
    return _Reference(thing)


def alike(thing: Any, other: Any) -> bool:
    """Whether two attributes mean the same: the same object, equal ones, or containers of such."""
    if thing is other or _look(thing).matches(other):
        return True
    try:
        return type(thing) is type(other) and (thing == other) is True
    except Exception:  # objects may refuse to be compared
        return False


def _mutable(thing: Any) -> bool:
    """Whether a value can change without an attribute being set."""
    if isinstance(thing, tuple):
        return any(map(_mutable, thing))
    return (isinstance(thing, (list, dict, set)) and not isinstance(thing, Registry)) or _is_record(thing)


def _attributes(thing: Any) -> dict[str, Any]:
    """The attributes of an object as code that is traced finds them."""
    before = _scope.before_loss(thing)
    return {**before, **vars(thing)} if before else vars(thing)


class _Guard:
    """The snapshot of one object's attributes."""

    __slots__ = ("absent", "attributes", "mutable", "names", "others", "ref", "scalars", "versions")

    def __init__(self, thing: Stateful):
        now = _attributes(thing)
        self.ref = weakref.ref(thing)
        self.names = set(now)
        self.attributes = {name: _look(value) for name, value in now.items()}
        self.mutable = [name for name, value in now.items() if _mutable(value)]
        self.absent: set[str] = set()
        # What tells quickly that nothing has changed: scalars are still the same objects, registries have their versions.
        self.scalars = [(name, value) for name, value in now.items() if type(value) in _SCALARS]
        self.versions = [(name, value.version) for name, value in now.items() if isinstance(value, Registry)]
        quick = {name for name, _ in (*self.scalars, *self.versions)}
        self.others = [(name, item) for name, item in self.attributes.items() if name not in quick]

    def ignore(self, name: str) -> None:
        """Leaves an attribute out that the traced code assigns, such as a counter.

        What was a flag, a string or None when the trace met it stays: code that assigns those asks for them first.
        """
        self.names.add(name)
        if isinstance(self.attributes.get(name), _Scalar) and type(self.attributes[name].value) in (bool, str, type(None)):
            return
        self.attributes.pop(name, None)
        self.absent.discard(name)
        self.scalars = [pair for pair in self.scalars if pair[0] != name]
        self.others = [pair for pair in self.others if pair[0] != name]
        self.mutable = [other for other in self.mutable if other != name]

    def is_in(self, other: _Guard | None) -> bool:
        """Whether another snapshot of the same object, taken while this one held, has all that this one has."""
        return other is not None and self.attributes.keys() <= other.attributes.keys() and self.absent <= other.absent

    def unchanged(self) -> bool:
        """Whether nothing has changed that can be told quickly; not so where `requires_grad` of a parameter may have."""
        thing = self.ref()
        if thing is None:
            return False
        now = _attributes(thing)
        for name, value in self.scalars:
            if now.get(name, _ABSENT) is not value:
                return False
        for name, version in self.versions:
            registry = now.get(name)
            if registry is None or registry.version != version:
                return False
        for name, item in self.others:
            if not item.matches(now.get(name, _ABSENT)):
                return False
        return not self.absent and self.names >= now.keys()

    def difference(self) -> str | None:
        """The first attribute that has changed, or None."""
        thing = self.ref()
        if thing is None:
            return "an object that no longer exists"
        now = _attributes(thing)
        for name, item in self.attributes.items():
            if not item.matches(now.get(name, _ABSENT)):
                return f"{type(thing).__name__}.{name.lstrip('_')}"
        for name in now.keys() - self.names:  # a new attribute counts where it hides one of the class
            if hasattr(type(thing), name):
                return f"{type(thing).__name__}.{name}"
        for name in self.absent:
            if name in now or any(name in now.get(registry, ()) for registry in ("_parameters", "_buffers", "_modules")):
                return f"{type(thing).__name__}.{name}"
        return None

    def mutable_hold(self) -> bool:
        """Whether the attributes still hold that can change without a note."""
        thing = self.ref()
        if thing is None:
            return False
        now = _attributes(thing)
        return all(self.attributes[name].matches(now.get(name, _ABSENT)) for name in self.mutable)


ALWAYS: list[Stateful] = []  # what every trace looks at


class Recorder:
    """Takes the snapshots while a function is traced."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Stateful, _Guard]] = {}
        self.assigned: set[tuple[int, str]] = set()  # what the traced code itself assigns is not guarded
        for thing in ALWAYS:
            self.see(thing)

    def see(self, thing: Stateful) -> _Guard:
        if id(thing) not in self.seen:
            guard = _Guard(thing)
            for owner, name in self.assigned:
                if owner == id(thing):
                    guard.ignore(name)
            self.seen[id(thing)] = (thing, guard)
        return self.seen[id(thing)][1]

    def see_absent(self, thing: Stateful, name: str) -> None:
        self.see(thing).absent.add(name)

    def guards(self) -> list[_Guard]:
        for thing_id, name in self.assigned:
            if thing_id in self.seen:
                self.seen[thing_id][1].ignore(name)
        self.assigned = {(thing_id, name) for thing_id, name in self.assigned if thing_id in self.seen}
        return [guard for _, guard in self.seen.values()]


class Guards:
    """What one compiled function rests on."""

    def __init__(self, recorder: Recorder, epoch: int, earlier: Guards | None = None):
        self.guards: list[_Guard] = recorder.guards()
        if earlier:  # traces for other shapes; what they looked at is mostly the same
            now = {id(guard.ref()): guard for guard in self.guards}
            self.guards += [guard for guard in earlier.guards if not guard.is_in(now.get(id(guard.ref())))]
        self.assigned: set[tuple[int, str]] = recorder.assigned | (earlier.assigned if earlier else set())
        self._epoch = epoch
        self._frozen = _scope.frozen
        self._mutable = [guard for guard in self.guards if guard.mutable]

    def hold(self) -> bool:
        """Whether nothing that counts has changed since the trace."""
        if self._epoch == _scope.epoch:
            return not self._mutable or all(guard.mutable_hold() for guard in self._mutable)
        epoch, frozen = _scope.epoch, _scope.frozen
        if self._frozen == frozen:
            doubtful = [guard for guard in self.guards if not guard.unchanged()]
        else:
            doubtful = self.guards
        if any(guard.difference() is not None for guard in doubtful):
            return False
        self._epoch, self._frozen = epoch, frozen
        return True

    def difference(self) -> str | None:
        """The first thing that has changed, or None."""
        return next(filter(None, (guard.difference() for guard in self.guards)), None)

    def report(self, scope: _scope.Scope | None) -> None:
        """Tells the functions being compiled around this one what they rest on, too."""
        if scope is not None:
            for recorder in scope.recorders:
                for guard in self.guards:
                    thing = guard.ref()
                    if thing is not None:
                        recorder.see(thing).absent.update(guard.absent)
                recorder.assigned |= self.assigned
