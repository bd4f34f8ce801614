"""Eager calls: a function of arrays that is called outside of JAX's transformations is compiled as one program.

JAX takes 5 µs and more for each operation that it dispatches, and a function has up to twenty of them behind checks of its
arguments. `compiled` makes that one dispatch, found by the types and the values of the arguments that are no arrays, and
by JAX by the shapes of those that are. Where an operand is traced the function is called as it is, so what `jax.jit` and
`jax.grad` see has nothing of this in it.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.scope import Cell, Scope, has_read, has_token, is_tracer, reader, without_token

_Function = TypeVar("_Function", bound=Callable[..., Any])

_NUMBERS = 16  # how many values of its floating-point numbers a function is compiled for, all else being equal
_FORMS = 1024  # of a function that are kept; integers, strings and types of operands make forms, shapes programs of a form
_LONGEST = 64  # a longer list is data

_ABSENT: Any = object()
_OPERAND: Any = object()
_ARRAY, _CELL, _NUMPY, _ITSELF, _TYPED, _FLOAT, _SEQUENCE, _OTHER = range(8)
_SIZES = {(int,) * n for n in range(8)}
_roles: dict[type, int] = {}  # what arguments of a type are, by type


class _Refused(Exception):
    """The function wants to know what its compiled form does not: it is called as it is."""


class _Draws(Exception):
    """The function draws random numbers: its compiled form needs a key."""


class _Traced(Exception):
    """The key to draw with is traced: the call is one of a transformation."""


class _NoKeys:
    """Says that a key is needed."""

    count = 0

    def advance(self, count: int = 1) -> tuple[Any, Any]:
        raise _Draws


class _Trace:
    """A trace: its operands, and the checks of their values that it asks for."""

    def __init__(self, operands: tuple[Any, ...]):
        self.operands = operands
        self.checks: list[tuple[int, Callable[[np.ndarray], None]]] = []


class _Now(threading.local):
    trace: _Trace | None = None
    operands: Sequence[Any] = ()  # of the call that runs, whose trace this is


_now = _Now()


def warn(message: str, category: type[Warning] = UserWarning, stacklevel: int = 1) -> None:
    """As `warnings.warn`, but calls of what is `compiled` do not count in the stack level."""
    frame: Any = sys._getframe(1)
    level = 2
    while stacklevel > 1 and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
        stacklevel -= frame.f_code.co_filename != __file__
    warnings.warn(message, category, stacklevel=level)


def values_unknown() -> None:
    """Says that a value decides what the function does, where `compiled` traces it for the calls that follow."""
    if _now.trace is not None:
        raise _Refused


def check_later(value: Any, check: Callable[[np.ndarray], None]) -> None:
    """Makes compiled eager calls run a check of the values of an operand; under other transformations nothing does."""
    trace = _now.trace
    if trace is not None:
        place = next((i for i, operand in enumerate(trace.operands) if operand is value), None)
        if place is None:
            raise _Refused
        trace.checks.append((place, check))
        check(np.asarray(_now.operands[place]))  # of this call already now, before anything is compiled


def _role(kind: type) -> int:
    """What arguments of a type are; told once a type."""
    if issubclass(kind, jax.core.Tracer):
        role = _OTHER
    elif issubclass(kind, jax.Array):
        role = _ARRAY
    elif issubclass(kind, Cell):
        role = _CELL
    elif kind is np.ndarray:
        role = _NUMPY
    elif kind in (type(None), bool, str):
        role = _ITSELF  # equal only to one of the same type, where numbers are told apart by theirs
    elif kind is int or issubclass(kind, (np.dtype, type)):
        role = _TYPED
    elif kind is float:
        role = _FLOAT
    else:
        role = _SEQUENCE if kind in (tuple, list) else _OTHER
    _roles[kind] = role
    return role


def _take(arguments: Any, operands: list[Any], key: list[Any]) -> bool:
    """Adds arguments to the operands and to the key of what they are else; False where a call is not to be compiled."""
    read = None
    for value in arguments:
        kind = type(value)
        role = _roles.get(kind)
        if role is None:
            role = _role(kind)
        if role == _ARRAY:
            operands.append(value)
            key.append(kind)
        elif role == _ITSELF:
            key.append(value)
        elif role == _CELL:
            if read is None:
                read = reader()
            held = read(value)
            if _roles.get(type(held)) != _ARRAY:
                return False
            operands.append(held)
            key.append(kind)
        elif role == _TYPED:
            key.append(kind)
            key.append(value)
        elif role == _FLOAT:
            key.append(kind)
            key.append(value or repr(value))  # 0.0 and -0.0 are equal, and not the same
        elif role == _SEQUENCE:
            kinds = tuple(map(type, value))
            if kind is tuple and kinds in _SIZES:
                key.append(kinds)
                key.append(value)
            elif len(value) > _LONGEST:
                return False
            else:
                key.append(kind)
                key.append(len(value))
                if not _take(value, operands, key):
                    return False
        elif role == _NUMPY:
            operands.append(as_array(value))
            key.append(kind)
        else:
            return False
    return True


def _emptied(value: Any) -> Any:
    """An argument without its arrays, and with cells like its own."""
    role = _roles.get(type(value))
    if role == _SEQUENCE:
        return type(value)(map(_emptied, value))
    if role == _CELL:
        value = copy.deepcopy(value)
        for name in ("_value", "_grad"):
            if hasattr(value, name):
                setattr(value, name, None)
        return value
    return _OPERAND if role in (_ARRAY, _NUMPY) else value


def _filled(value: Any, operands: Iterator[Any], held: dict[Cell, Any]) -> Any:
    """An argument that was emptied, with the traced operands in it; what its cells hold is added to `held`."""
    if value is _OPERAND:
        return next(operands)
    if isinstance(value, Cell):
        held[value] = next(operands)
    return type(value)(_filled(v, operands, held) for v in value) if type(value) in (tuple, list) else value


class _Rest(NamedTuple):
    """An output where there is more to do: of a trace by its number, with the values of the cells that are written."""

    out: Any
    more: dict[int, tuple[jax.Array, ...]]


class _Form:
    """One compiled form of a function: for the same arguments, apart from arrays.

    Attributes:
        run: takes the operands, and before them the random source where there are draws. Returns the output, or a `_Rest`.
        traces: of each with a rest, the checks, the places of the operands that are written, and the number of draws.
        draws: how many draws the last call made; None where none can be made.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]):
        self.function = function
        self.args = tuple(map(_emptied, args))
        self.options = {name: _emptied(value) for name, value in options.items()}
        self.traces: list[tuple[list[Any], list[int], int]] = []
        self.draws: int | None = None

        def traced(*operands: Any) -> Any:
            # In a context of its own: nothing outside, such as the scope of a module that is called, has a say in it.
            return contextvars.Context().run(self._trace, operands)

        traced.__name__ = traced.__qualname__ = function.__name__
        self.run = jax.jit(traced)

    def _trace(self, inputs: tuple[Any, ...]) -> Any:
        stream: Any = _NoKeys()
        if self.draws is not None:
            stream, inputs = _random.Stream(_random.typed(inputs[0]), inputs[1]), inputs[2:]
        held: dict[Cell, Any] = {}
        operands = iter(inputs)
        args = _filled(self.args, operands, held)
        options = {name: _filled(value, operands, held) for name, value in self.options.items()}
        outer, _now.trace = _now.trace, _Trace(inputs)
        try:
            with warnings.catch_warnings(record=True) as warned, _random.drawing_from(stream):
                warnings.simplefilter("always")
                with Scope(held, token=True, staged=True) as scope:
                    out = self.function(*args, **options)
            checks = _now.trace.checks
        finally:
            _now.trace = outer
        places = [next((i for i, x in enumerate(inputs) if x is held.get(cell)), -1) for cell in scope.written]
        leaves = jax.tree.leaves(out, is_leaf=lambda leaf: isinstance(leaf, Cell))
        if warned or -1 in places or not all(isinstance(leaf, jax.Array) for leaf in leaves):
            raise _Refused
        if not (checks or places or stream.count):
            return out
        self.traces.append((checks, places, stream.count))
        return _Rest(out, {len(self.traces) - 1: tuple(scope.written.values())})

    def finish(self, rest: _Rest, operands: list[Any], args: Any, options: Any) -> Any:
        """Does what is left to do; returns the output."""
        [(number, values)] = rest.more.items()
        checks, places, _ = self.traces[number]
        for place, check in checks:
            check(np.asarray(operands[place]))
        if places:
            given = _operands([*args, *options.values()])
            for place, value in zip(places, values, strict=True):
                _scope.write(given[place], value)
        return rest.out

    def draw(self, draws: int, operands: list[Any]) -> Any:
        """Runs what draws random numbers."""
        scope, source = _scope.current(), _random.source()
        if scope is not None:
            scope.depends()
        key, offset = source.operands(draws)
        try:
            if is_tracer(key) or is_tracer(offset):
                raise _Traced
            result = self.run(key, np.uint32(offset), *operands)
        except BaseException:
            source.advance(-draws)
            raise
        drawn = self.traces[next(iter(result.more))][2] if type(result) is _Rest else 0
        if drawn != draws:
            source.advance(drawn - draws)
            self.draws = drawn
        if scope is not None:
            scope.has_changed()
        return result


def compiled(function: _Function) -> _Function:
    """The function, compiled for each shape and each value of what is no array, where no operand is traced.

    It may read and write the Parameters and Buffers among its arguments, draw random numbers, and check values by
    `checks.checked`. Where it asks for values otherwise, warns or fails, it is called as it is.
    """
    forms: dict[tuple[Any, ...], _Form | None] = {}
    variants: Counter[tuple[Any, ...]] = Counter()

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        operands: list[Any] = []
        key: list[Any] = []
        if not _take(args, operands, key):
            return function(*args, **options)
        if options:
            key.append(tuple(options))
            if not _take(options.values(), operands, key):
                return function(*args, **options)
        signature = tuple(key)
        form = forms.get(signature, _ABSENT)
        if form is _ABSENT:
            form = new(signature, args, options) if operands else None
        while form is not None:
            outer, _now.operands = _now.operands, operands
            try:
                if has_token():
                    with without_token():
                        result = form.run(*operands) if form.draws is None else form.draw(form.draws, operands)
                else:
                    result = form.run(*operands) if form.draws is None else form.draw(form.draws, operands)
                if _roles.get(type(result)) == _ARRAY:
                    return result
                # Several arrays, or what is traced although no operand is: JAX stages the code around us.
                if any(isinstance(operand, Cell) for operand in _operands([*args, *options.values()])):
                    has_read()
                return form.finish(result, operands, args, options) if type(result) is _Rest else result
            except _Draws:
                form.draws = 0
            except _Traced:
                form = None
            except Exception:
                break
            finally:
                _now.operands = outer
        out = function(*args, **options)  # what is wrong raises here, as it does without us
        if form is not None:
            forms[signature] = None
        return out

    def new(signature: tuple[Any, ...], args: Any, options: Any) -> _Form | None:
        variant = tuple(float if type(part) is float else part for part in signature)
        variants[variant] += 1
        if variants[variant] > _NUMBERS:
            return None
        if len(forms) >= _FORMS:
            forms.clear()
            variants.clear()
        form = forms[signature] = _Form(function, args, options)
        return form

    return call  # type: ignore[return-value]


def _operands(values: Any) -> list[Any]:
    """The arguments that are operands, in their order."""
    found: list[Any] = []
    for value in values:
        role = _roles.get(type(value))
        if role == _SEQUENCE:
            found += _operands(value)
        elif role in (_ARRAY, _CELL, _NUMPY):
            found.append(value)
    return found
