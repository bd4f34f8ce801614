"""Cells and scopes: the one mechanism of state.

A `Cell` holds a value between calls. A `Scope` says what cells hold while a function runs or is traced: reads look in
the innermost scope, then outwards, then in the cell; writes stay in the scope, and whoever opened it takes them out.
The current scope is a context variable, so every thread has its own.

JAX keeps the trace of a function that it stages (`jit`, `scan`, `cond`, `checkpoint`), keyed by the function's identity,
the types of its arguments and a user context. A trace that read a cell has its value in it as a constant, so the same
function under another scope must not get the same trace. Scopes therefore set the user context to a token of their own:
always while staging, and in eager code as soon as staged code reads a cell (see `Restart`).
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import jax
from jax.extend.core import Primitive, get_opaque_trace_state

INHERIT: Any = object()  # a scope's mode: what the scope outside it says
OWN: Any = object()  # a scope's mode: what each module's train() or eval() left
_ABSENT: Any = object()

_current: ContextVar[Scope | None] = ContextVar("fnn_scope", default=None)
_token = jax.make_user_context(None)
_tokens = itertools.count(1)
_serials = itertools.count(1)
_lost: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()  # and what was there before

_APART = "apart"  # the token of eager code where plain JAX keeps a trace with a value of ours; under it, no trace has one
_any_baked = False

epoch = 0  # grows with every change that a guard could see: attributes, registrations, hooks, requires_grad
frozen = 0  # the epoch of the last change of a requires_grad
version = 0  # grows with every value stored in a cell outside of all scopes
_epochs = itertools.count(1)
_versions = itertools.count(1)


class _Staged(Exception):
    pass


def _is_staged(*operands: Any) -> Any:
    raise _Staged


# Bound without operands, a primitive reaches its abstract evaluation only where JAX stages code; elsewhere it runs its
# implementation. Raising there leaves no equation behind, and costs 2 µs where `jnp.zeros(())` costs 60.
_probe = Primitive("fnn_staged")
_probe.def_abstract_eval(_is_staged)
_probe.def_impl(lambda: None)


def is_tracer(value: Any) -> bool:
    """Whether a value is known only while JAX traces."""
    return isinstance(value, jax.core.Tracer)


def staged() -> bool:
    """Whether JAX is staging the code that runs now, rather than evaluating it."""
    try:
        _probe.bind()
    except _Staged:
        return True
    return False


_eager_trace: Any = None


def at_top() -> bool:
    """Whether no JAX transformation is in progress in this thread."""
    global _eager_trace
    if _eager_trace is None:
        with jax.core.eval_context():
            _eager_trace = get_opaque_trace_state()
    return bool(get_opaque_trace_state() == _eager_trace)


def in_staged_code() -> bool:
    """Whether JAX is staging the code that runs now; cheap where no transformation is in progress."""
    return not at_top() and staged()


def has_token() -> bool:
    """Whether a scope has set a token, for which JAX compiles everything again."""
    return _token.value is not None


def without_token() -> Any:
    """A context manager in which JAX finds what it compiled outside of scopes; for code that reads no cell."""
    return _token(None)


def changed(requires_grad: bool = False) -> int:
    """Notes a change that guards of compiled functions may have to look at; returns its number."""
    global epoch, frozen
    epoch = number = next(_epochs)
    if requires_grad:
        frozen = number
    scope = _current.get()
    if scope is not None:
        scope.has_changed()
    return number


# The innermost open scope of this thread. Not a function around it: 30 ns and not 70, and a call of a layer asks ten times.
current: Callable[[], Scope | None] = _current.get


class Restart(BaseException):
    """Staged code read a cell in an eager scope that has no token; the scope's owner runs again with one.

    Setting a token always would make every eager operation compile again, so it is set where it is needed.
    """


class StateError(RuntimeError):
    """A value cannot be kept, or read, where it was asked for."""


class Cell:
    """A place that holds a value between calls, and that scopes can hold another value for.

    Args:
        value: what it holds outside of all scopes.
        label: what error messages call it.
    """

    __slots__ = ("__weakref__", "_baked", "_serial", "_value", "label")
    drawn = False  # whether a value that is None is yet to be drawn
    uninitialized = False  # whether not even its shape is known yet

    def __init__(self, value: Any = None, label: str = "value"):
        self._value = value
        self._serial = next(_serials)
        self._baked = False
        self.label = label

    def bake(self) -> None:
        """Notes that code which plain JAX stages, outside of every scope of ours, has the value as a constant."""
        global _any_baked
        self._baked = _any_baked = True

    def _concrete(self) -> Any:
        """The value outside of all scopes."""
        return self._value

    def _own(self) -> Any:
        """As `_concrete`; quick where the value is there."""
        return self._concrete() if self._value is None else self._value

    @property
    def value(self) -> Any:
        """What the cell holds now: in the innermost scope that says so, else its own value."""
        scope = _current.get()
        if scope is not None:
            return scope.read(self)
        if in_staged_code():
            self.bake()
        return self._concrete()

    @value.setter
    def value(self, value: Any) -> None:
        write(self, value)


def write(cell: Cell, value: Any) -> None:
    """Gives a cell a value: in the innermost scope, or in the cell itself where there is none."""
    scope = _current.get()
    if scope is None:
        store({cell: value})
    else:
        scope.write(cell, value)


def commit(written: Mapping[Cell, Any]) -> None:
    """Hands what was written in a scope that has closed to the scope outside it, or to the cells."""
    scope = _current.get()
    if scope is None:
        store(written)
    else:
        for cell, value in written.items():
            scope.write(cell, value)


def store(written: Mapping[Cell, Any]) -> None:
    """Stores values in cells themselves: all of them, or none where one is traced."""
    global version
    if not written:
        return
    refused = in_staged_code()
    for cell, value in written.items():
        if refused or is_tracer(value):
            raise StateError(
                f"{cell.label} was given a value inside a JAX transformation (jax.jit, grad, vmap, scan, ...), which cannot "
                "leave it: a traced value would stay in the module. Transform with fnn.jit, fnn.value_and_grad or "
                "fnn.checkpoint, or use fnn.pure(module) and take the new state from apply(..., state=state)."
            )
    version = next(_versions)
    for cell, value in written.items():
        cell._value = value
    if _any_baked:
        warn_of_baked(written)


def overwrite(cells: list[Cell], values: Iterable[Any]) -> None:
    """Stores what a compiled function wrote, outside of all scopes and transformations, without looking at it."""
    global version
    for cell, value in zip(cells, values, strict=True):
        cell._value = value
    version = next(_versions)
    if _any_baked:
        warn_of_baked(cells)


def warn_of_baked(cells: Iterable[Cell]) -> None:
    """Warns where a cell gets a new value that a function compiled by plain JAX holds the old one of."""
    for cell in cells:
        if cell._baked:
            cell._baked = False
            warnings.warn(
                f"{cell.label} changed after a plain JAX transformation (jax.jit, scan, checkpoint, ...) had read it: what "
                "that transformation compiled keeps the old value as a constant. Use fnn.jit, or fnn.pure and pass params.",
                stacklevel=3,
            )


class Missing:
    """Stands in a scope for a value that its owner was not given; reading it raises."""

    def __init__(self, message: str):
        self.message = message

    def read(self, cell: Cell) -> Any:
        """What the cell is read as."""
        raise StateError(self.message)


class Scope:
    """What cells hold inside; writes stay here until the owner takes `written` out.

    Args:
        held: values by cell.
        token: whether to set a token although the code is not staged.
        mode: `OWN`, `INHERIT`, or False where every module shall run as after `eval()`.
        misses: where given, cells read from outside the scope are noted in it (`fnn.jit` makes them inputs).
        recorder: where given, it is told of the modules that the code looks at (`fnn.jit` guards them).
        writable: where given, the only cells that may be written, and an explanation.
        block: whether it is the scope of a `with` block, which cannot run again with a token; modules called in it can.
        staged: whether plain JAX is staging the code; by default what holds where the scope is opened.
        atomic: whether all attributes that the code sets are taken back where it fails, not just traced ones.
        forgets: whether they are taken back always.
    """

    def __init__(
        self,
        held: Mapping[Cell, Any] | None = None,
        *,
        token: bool = False,
        mode: Any = INHERIT,
        misses: dict[Cell, None] | None = None,
        recorder: Any = None,
        writable: tuple[Iterable[Cell], str] | None = None,
        block: bool = False,
        staged: bool | None = None,
        atomic: bool = False,
        forgets: bool = False,
    ):
        self.held = dict(held or {})
        self.written: dict[Cell, Any] = {}
        self.counters: set[Cell] = set()
        self.undo: list[Callable[[], None]] = []  # takes back, where the code fails, what is changed in objects themselves
        self.mode = mode
        self.misses = misses
        self.recorders = () if recorder is None else (recorder,)
        self.writable = None if writable is None else (set(writable[0]), writable[1])
        self.block = block
        self._around = staged
        self._atomic = atomic
        self._forgets = forgets
        self.hooked: list[Any] = []  # of an outermost scope, the modules whose hooks have run
        self.crossings: list[Any] = []  # and those of their calls that backward hooks look at
        self.outer: Scope | None = None
        self.closed = False
        self.inner_reads = False  # whether a function that JAX traced inside has read something of the scope
        self.stale = False  # whether that has changed while a scope inside this one was open
        self._wants_token = token
        self._token: Any = None
        self._apart: Any = None
        self._attributes: dict[tuple[int, str], Any] = {}
        self._replaced: dict[tuple[int, str], tuple[Any, Any]] = {}

    def __enter__(self) -> Scope:
        self.outer = outer = _current.get()
        self.serial = next(_serials)
        self.trace = get_opaque_trace_state()
        self.staged = in_staged_code() if self._around is None else self._around
        if outer is not None:
            self.recorders = outer.recorders + self.recorders
        if self.mode is INHERIT:
            self.mode = OWN if outer is None else outer.mode
        self.root: Scope = self if outer is None else outer.root
        # Code in a `with` block cannot run again with a token.
        tokened = self._wants_token or self.block or self.staged or self._around is not None
        if tokened or _token.value not in (None, _APART):
            fresh = self.held or self.staged or self._around is not None or outer is not None
            self._token = _token(next(_tokens) if fresh else ("values", version, epoch))
            self._token.__enter__()
        elif _any_baked and _token.value is None:
            # A trace that plain JAX keeps has a value of ours in it; eager code must not be handed it.
            self._apart = _token(_APART)
            self._apart.__enter__()
        self._reset = _current.set(self)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _current.reset(self._reset)
        for context in (self._token, self._apart):
            if context is not None:
                context.__exit__(None, None, None)
        self.closed = True
        if self.outer is not None and self.outer.stale:
            self.outer.renew_token()
        if error is None and self.outer is not None:
            self.outer.undo += self.undo
            if self._atomic:
                self.outer.undo.append(self._restore_attributes)
        elif error is not None and self.undo:
            for undo in reversed(self.undo):
                undo()
            changed()
        if error is not None:
            for crossing in self.crossings:  # JAX keeps what it has traced, and runs it no more
                crossing.loosen()
        if self._forgets or (error is not None and (self.staged or self._atomic or kind is Restart)):
            if self._replaced:
                self._restore_attributes()
                changed()
        else:
            for key in self._attributes:
                owner, old = self._replaced[key]
                if error is None:
                    _lost.setdefault(owner, {})[key[1]] = old
                elif old is not _ABSENT:
                    vars(owner)[key[1]] = old

    def _restore_attributes(self) -> None:
        """Takes back the attributes that the code has set."""
        for (_, name), (owner, old) in self._replaced.items():
            if old is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = old

    def renew_token(self) -> None:
        """Makes JAX trace functions again that were traced in this scope, since what they saw has changed."""
        if self._token is not None:
            self._token.__exit__(None, None, None)
            self._token = _token(next(_tokens))
            self._token.__enter__()
            self.inner_reads = self.stale = False

    def has_changed(self) -> None:
        """Notes that what functions traced in this scope, and in those outside, have seen is different now."""
        if self.inner_reads:
            self.renew_token()
        scope = self.outer
        while scope is not None:  # their tokens can be set only once this scope has closed
            scope.stale = scope.stale or scope.inner_reads
            scope = scope.outer

    def depends(self) -> None:
        """Notes that code here has read a cell or drawn a random number: a trace that JAX keeps would repeat it."""
        scope: Scope | None = self
        while scope is not None:
            scope.enter_inner_trace()
            scope = scope.outer

    def enter_inner_trace(self) -> bool:
        """Whether the code runs in a JAX transformation inside the scope; notes that its trace depends on the scope."""
        if get_opaque_trace_state() == self.trace:
            return False
        if self._token is not None:
            self.inner_reads = True
        elif not self.block and staged():
            raise Restart
        return True

    def read(self, cell: Cell, trace: Any = None) -> Any:
        """What the cell holds here; `trace` is JAX's state, where the caller has asked for it."""
        lifted = False
        scope: Scope | None = self
        if trace is None:
            trace = get_opaque_trace_state()
        while scope is not None:
            if scope.closed:
                raise StateError(f"{cell.label} was read in a scope that has closed (in a task or thread that outlived it).")
            if scope.trace != trace:
                scope.enter_inner_trace()
            value = scope.written.get(cell, _ABSENT)
            if value is _ABSENT:
                value = scope.held.get(cell, _ABSENT)
            if value is not _ABSENT:
                return value.read(cell) if isinstance(value, Missing) else value
            if scope.misses is not None:
                lifted = True
                if cell._serial < scope.serial:
                    scope.misses[cell] = None
            scope = scope.outer
        if self.root.staged and not lifted:
            cell.bake()
        return cell._concrete()

    def peek(self, cell: Cell) -> Any:
        """What a scope holds for the cell, or None where none does; for asking for a shape without drawing the value."""
        scope: Scope | None = self
        while scope is not None:
            value = scope.written.get(cell, scope.held.get(cell))
            if value is not None:
                return None if isinstance(value, Missing) else value
            if scope.misses is not None and cell._serial < scope.serial:
                scope.misses[cell] = None
            scope = scope.outer
        return None

    def write(self, cell: Cell, value: Any) -> None:
        """Gives the cell a value here."""
        if self.closed:
            raise StateError(f"{cell.label} was written in a scope that has closed (in a task or thread that outlived it).")
        if get_opaque_trace_state() != self.trace:
            raise StateError(
                f"{cell.label} was written inside a JAX transformation (jax.vmap, scan, cond, grad, jit, checkpoint, ...), "
                "and the new value cannot leave it. Use fnn.jit, fnn.value_and_grad or fnn.checkpoint in its place, call "
                "eval() so that nothing is written, or use fnn.pure(module) inside and take the new state from "
                "apply(..., state=state)."
            )
        if self.writable is not None and cell not in self.writable[0]:
            raise StateError(f"{cell.label} was written, but {self.writable[1]}")
        self.written[cell] = value
        if self.inner_reads:
            self.renew_token()

    def put(self, cell: Cell, value: Any) -> None:
        """Gives the cell a Python value, from whatever trace: for counters that JAX never sees."""
        self.written[cell] = value
        self.counters.add(cell)

    def count_outside(self) -> None:
        """Hands the counters on, where nothing else that was written in the scope is kept."""
        commit({cell: self.written[cell] for cell in self.counters})

    def delete_attribute(self, owner: Any, name: str) -> bool:
        """Forgets a traced attribute; False where there is none."""
        return self._attributes.pop((id(owner), name), None) is not None

    def set_attribute(self, owner: Any, name: str, value: Any, traced: bool) -> None:
        """Notes an attribute that code in the scope sets; a traced value is kept here, not in the object."""
        key = (id(owner), name)
        if key not in self._replaced:
            self._replaced[key] = (owner, vars(owner).get(name, _lost.get(owner, {}).get(name, _ABSENT)))
        if traced:
            vars(owner).pop(name, None)
            self._attributes[key] = value
        else:
            self._attributes.pop(key, None)
        for recorder in self.recorders:
            recorder.assigned.add(key)

    def take_attributes(self) -> list[tuple[Any, str, Any]]:
        """The traced values that code in the scope set as attributes: object, name and value; for who hands them on."""
        taken = []
        for key, value in self._attributes.items():
            owner, old = self._replaced.pop(key)
            if old is not _ABSENT:
                vars(owner)[key[1]] = old
            taken.append((owner, key[1], value))
        self._attributes.clear()
        return taken

    @property
    def sets_attributes(self) -> bool:
        """Whether code in the scope has set an attribute of an object."""
        return bool(self._replaced)

    def attribute(self, owner: Any, name: str) -> Any:
        """The traced value that code in an open scope set as an attribute; AttributeError where there is none."""
        scope: Scope | None = self
        while scope is not None:
            if (id(owner), name) in scope._attributes:
                return scope._attributes[id(owner), name]
            scope = scope.outer
        raise AttributeError(name)


def forget_lost(owner: Any, name: str) -> None:
    """Notes that an attribute has a value again that outlives every scope."""
    if _lost and owner in _lost:
        _lost[owner].pop(name, None)


def was_lost(owner: Any, name: str) -> bool:
    """Whether an attribute was set to a traced value in a scope that has closed."""
    return bool(_lost) and name in _lost.get(owner, ())


def before_loss(owner: Any) -> dict[str, Any]:
    """The attributes that were set to traced values in scopes that have closed, as they were before.

    Code that runs in a scope sees them: `if self.cache is None: self.cache = ...` computes the cache again.
    """
    lost = _lost.get(owner) if _lost else None
    return {name: old for name, old in lost.items() if old is not _ABSENT} if lost else {}


def reader() -> Callable[[Cell], Any]:
    """What gives the values of cells to an operation of JAX that follows at once.

    Most often no scope has anything to say of any cell, as in an eager call of a module. Then 0.4 µs of 1.7 for a weight and a
    bias are saved by not asking JAX whether it stages the code. Where it does, the result of the operation is traced: whoever
    reads calls `has_read` unless it is an array.
    """
    innermost = scope = _current.get()
    if innermost is None:
        return Cell._own if at_top() else Cell.value.fget  # type: ignore[attr-defined]
    while scope is not None:
        if scope.held or scope.written or scope.staged or scope.closed or scope._token or scope.misses is not None:
            return functools.partial(innermost.read, trace=get_opaque_trace_state())
        scope = scope.outer
    return Cell._own


def has_read() -> None:
    """Notes, after the fact, that cells were read in all open scopes."""
    scope = _current.get()
    if scope is not None:
        scope.depends()


def read_all(cells: Iterable[Cell]) -> list[Any]:
    """The values of several cells."""
    scope = _current.get()
    if scope is None:
        return [cell.value for cell in cells]
    trace = get_opaque_trace_state()
    return [scope.read(cell, trace) for cell in cells]
