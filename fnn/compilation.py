"""jit: JAX's compilation for functions that use modules and optimizers."""

from __future__ import annotations

import functools
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten

from fnn import random as _random
from fnn import scope as _scope
from fnn.captures import Captures
from fnn.guards import Guards, Recorder, Stateful, refuse_leaks, touch
from fnn.leaks import end_leaks_of_hooks
from fnn.scope import Cell, Scope
from fnn.transforms import plain


class _Lazy(Exception):
    """A cell among a compiled function's inputs has no value yet."""


class _Miss(Exception):
    """A trace read cells that are not among its inputs, or wrote cells that it should donate."""


class _Form:
    """One compiled form of a function: for these objects, as long as the guards hold.

    Args:
        owner: the `jit` it belongs to.
        key: the structure of the arguments, see `jit._split`.
        things: the modules and optimizers among the arguments.
        cells: the cells whose values are inputs.
        donated: those of them whose memory is reused.
    """

    def __init__(self, owner: jit, key: Any, things: Sequence[Any], cells: Iterable[Cell], donated: Iterable[Cell] = ()):
        self.key = key
        self.things = [weakref.ref(thing) for thing in things]
        self.donated = list(dict.fromkeys(donated))
        self.kept = [cell for cell in dict.fromkeys(cells) if cell not in set(self.donated)]
        self.guards: Guards | None = None
        self.captures: Captures | None = None
        self.traces: list[tuple[list[Cell], int]] = []  # of each trace, the cells that it writes and its random draws
        self.draws = 0
        this = weakref.ref(self)

        def traced(*inputs: Any) -> Any:
            form = this()
            assert form is not None
            return form.trace(owner, *inputs)

        traced.__name__ = traced.__qualname__ = getattr(owner.__wrapped__, "__name__", "function")
        self.function = jax.jit(traced, donate_argnums=(0,) if self.donated else ())

    def trace(self, owner: jit, donated: Any, kept: Any, key: Any, offset: Any, leaves: Any) -> Any:
        """What JAX traces: a pure function of the values of cells, the random source and the arrays among the arguments.

        Returns:
            The output, and the values written under the number of the trace. Which cells they are for is static, so it
            may differ with the shapes of the inputs.
        """
        held = dict(zip([*self.donated, *self.kept], [*donated, *kept], strict=True))
        if any(value is None and cell.drawn for cell, value in held.items()):
            raise _Lazy
        things: list[Any] = [ref() for ref in self.things]
        args, kwargs = _join(self.key, things, leaves)
        recorder, epoch, captures = Recorder(), _scope.epoch, Captures(owner.__wrapped__, _static(self.key))
        misses: dict[Cell, None] = {}
        stream = _random.Stream(_random.typed(key), offset, outer=_random.source())
        with _random.drawing_from(stream), Scope(held, misses=misses, recorder=recorder) as scope:
            for reached in captures.things:
                touch(reached)
            for thing in things:
                for _ in thing._cells():  # walking notes each module for the guards
                    pass
            out = plain(owner.__wrapped__(*args, **kwargs))
        missed = [cell for cell in misses if cell not in held]
        to_donate = [cell for cell in scope.written if cell in held and cell not in set(self.donated)] if owner.donate else []
        if missed or to_donate:
            raise _Miss(missed, to_donate)
        refuse_leaks(thing for thing, _ in recorder.seen.values())
        end_leaks_of_hooks(scope.hooked, scope.crossings)
        captures.release()
        self.captures = captures
        self.guards = Guards(recorder, epoch, self.guards)
        self.traces.append((list(scope.written), stream.count))
        return out, {len(self.traces) - 1: tuple(scope.written.values())}

    def holds(self) -> bool:
        """Whether this form is right for the objects as they are now."""
        guards, captures = self.guards, self.captures
        return guards is not None and captures is not None and guards.hold() and captures.hold()


def _join(key: Any, things: list[Any], leaves: list[Any]) -> tuple[Any, Any]:
    """The arguments of the function, from what `jit._split` took apart."""
    tree, ids, static, _ = key
    objects, arrays = iter(things), iter(leaves)
    flat = [next(objects) if i else next(arrays) for i in ids]
    if tree is None:
        return flat, {}
    args, kwargs = jax.tree.unflatten(tree, flat)
    if static:
        args = list(args)
        for i, value in static[0]:
            args[i] = value
        kwargs = kwargs | dict(static[1])
    return args, kwargs


def _static(key: Any) -> list[Any]:
    """The static arguments in a key of `jit._split`."""
    return [value for part in key[2] for _, value in part]


def _stored(cells: list[Cell]) -> list[Any]:
    return [cell._value for cell in cells]


def _separate(donated: list[Any], others: list[Any]) -> list[Any]:
    """Copies arrays that are to be donated and are held twice."""
    seen = {id(value) for value in others}
    result = []
    for value in donated:
        if id(value) in seen and value is not None:
            value = jnp.array(value, copy=True)
        seen.add(id(value))
        result.append(value)
    return result


class jit:
    """Compiles a function that uses modules, as `jax.jit` compiles a function of arrays.

    Modules and optimizers may be anywhere among the arguments, or be reached by closure. Their values are inputs of the
    compiled function and what it writes is stored after the call, so no weight is ever a constant of it. Modes,
    hyperparameters and structure are compiled in and guarded: the function compiles again when they change.

    Python code in the function runs while tracing, as under `jax.jit`: side effects happen once a trace.

    Args:
        function: takes and returns pytrees of arrays; modules and optimizers among the arguments are passed by reference.
        static_argnums: positions of hashable arguments to compile for by value.
        static_argnames: names of such arguments.
        donate: reuse the memory of every parameter, buffer and optimizer state that the function writes. Arrays taken
            from them before the call are then invalid after it.

    Raises:
        StateError: where a value written cannot leave the JAX transformation that it was written in.

    Example:
        >>> import fnn, jax.numpy as jnp, optax
        >>> net = fnn.nn.Linear(3, 1)
        >>> optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
        >>> @fnn.jit
        ... def step(x, y):
        ...     loss, grads = fnn.value_and_grad(lambda net: ((net(x) - y) ** 2).mean())(net)
        ...     optimizer.step(grads)
        ...     return loss
        >>> x, y = jnp.ones((4, 3)), jnp.ones((4, 1))
        >>> first, second = step(x, y), step(x, y)
        >>> bool(second < first)
        True
    """

    _KEPT = 16  # forms kept for one structure of arguments
    _WARN = 8
    __wrapped__: Callable[..., Any]

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static_argnums: int | Sequence[int] = (),
        static_argnames: str | Sequence[str] = (),
        donate: bool = False,
    ):
        functools.update_wrapper(self, function, updated=())
        self.donate = donate
        self._static_argnums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
        self._static_argnames = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
        self._forms: dict[Any, list[_Form]] = {}
        self._compiled = 0
        self._lock = threading.RLock()

    def __reduce__(self) -> Any:
        options: dict[str, Any] = {
            "static_argnums": self._static_argnums,
            "static_argnames": self._static_argnames,
            "donate": self.donate,
        }
        return functools.partial(type(self), **options), (self.__wrapped__,)  # a copy compiles for itself

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key, things, leaves = self._split(args, kwargs)
        form = self._find(key, things)
        while True:
            try:
                return self._run(form, leaves)
            except _Lazy:
                for cell in (*form.donated, *form.kept):
                    cell._concrete()
            except _Miss as miss:
                form = self._again(form, things, *miss.args)
            except BaseException:
                if form.guards is None:
                    self._drop(form)
                raise

    def _split(self, args: Any, kwargs: Any) -> tuple[Any, list[Any], list[Any]]:
        """Takes the arguments apart: a key for the cache, the objects passed by reference, and the arrays.

        The key is the structure (None for arguments that are just objects and arrays), the identity of each object (0 for
        arrays), and the static arguments.
        """
        leaves: list[Any] = []
        things: list[Any] = []
        ids: list[int] = []
        static: Any = ()
        if self._static_argnums or self._static_argnames:
            args, kwargs, static = self._take_static(args, kwargs)
        elif not kwargs:  # mostly there are just modules and arrays, and nothing to flatten
            for arg in args:
                if isinstance(arg, Stateful):
                    things.append(arg)
                    ids.append(id(arg))
                elif isinstance(arg, jax.Array):
                    leaves.append(arg)
                    ids.append(0)
                else:
                    break
            else:
                return (None, tuple(ids), (), ()), things, leaves
            leaves, things, ids = [], [], []
        flat, tree = tree_flatten((args, kwargs))
        for leaf in flat:
            if isinstance(leaf, Stateful):
                things.append(leaf)
                ids.append(id(leaf))
            else:
                leaves.append(leaf)
                ids.append(0)
        kinds = tuple(type(value) for part in static for _, value in part)  # 1 and True are equal, and not the same
        return (tree, tuple(ids), static, kinds), things, leaves

    def _take_static(self, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        numbers = {number % len(args) for number in self._static_argnums if -len(args) <= number < len(args)}
        names = sorted(name for name in self._static_argnames if name in kwargs)
        static = (tuple((i, args[i]) for i in sorted(numbers)), tuple((name, kwargs[name]) for name in names))
        try:
            hash(static)
        except TypeError as error:
            raise ValueError(f"static arguments of fnn.jit must be hashable, got {static}") from error
        args = tuple(None if i in numbers else arg for i, arg in enumerate(args))
        return args, {name: value for name, value in kwargs.items() if name not in names}, static

    def _find(self, key: Any, things: list[Any]) -> _Form:
        """The form that is right now; a new one where there is none."""
        forms = self._forms.get(key, ())
        for form in forms:
            if form.holds():
                return form
        cells: list[Cell] = []
        for thing in [*things, *Captures(self.__wrapped__, _static(key)).things]:
            cells.extend(cell for cell in thing._cells() if not cell.uninitialized)
        with self._lock:
            self._compiled += 1
            if forms and self._compiled % self._WARN == 0:
                self._warn(forms[-1])
        return self._add(_Form(self, key, things, cells), things)

    def _again(self, form: _Form, things: list[Any], missed: list[Cell], to_donate: list[Cell]) -> _Form:
        """A form with more inputs in the place of one."""
        self._drop(form)
        return self._add(_Form(self, form.key, things, [*form.kept, *missed], [*form.donated, *to_donate]), things)

    def _add(self, form: _Form, things: list[Any]) -> _Form:
        with self._lock:
            if form.key not in self._forms:
                self._forms[form.key] = []
                for thing in things:  # forgotten before another object can get the same identity
                    weakref.finalize(thing, _forget, weakref.ref(self), form.key).atexit = False
            forms = self._forms[form.key]
            forms.append(form)
            del forms[: -self._KEPT]
        return form

    def _drop(self, form: _Form) -> None:
        with self._lock:
            forms = self._forms.get(form.key, [])
            if form in forms:
                forms.remove(form)

    def _warn(self, last: _Form) -> None:
        what = last.guards.difference() if last.guards is not None else None
        warnings.warn(
            f"fnn.jit compiles {getattr(self, '__name__', 'a function')} for the {self._compiled}th time; what changed since "
            f"the last time: {what or 'an object that the function reaches by name'}. Attributes of modules are compiled in: "
            "pass what changes often as an argument, or hold it in a buffer.",
            stacklevel=4,
        )

    def _run(self, form: _Form, leaves: list[Any]) -> Any:
        scope = _scope.current()
        direct = scope is None and _scope.at_top()
        read = _stored if direct else _scope.read_all
        source, draws = _random.source(), form.draws
        key, offset = source.operands(draws)
        donated, kept = form.donated, read(form.kept)
        if donated:
            donated = _separate(read(donated), [*kept, *leaves])
        try:
            out, written = form.function(donated, kept, key, offset, leaves)
        except BaseException:
            if draws:
                source.advance(-draws)
            raise
        [(number, values)] = written.items()
        cells, drawn = form.traces[number]
        if drawn != draws:
            source.advance(drawn - draws)
            form.draws = drawn
        if direct:
            if cells:
                _scope.overwrite(cells, values)
        else:
            if scope is not None and form.guards is not None:
                form.guards.report(scope)
            _scope.commit(dict(zip(cells, values, strict=True)))
        return out

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Traces for these arguments without running; returns what `jax.jit(...).lower` returns."""
        key, things, leaves = self._split(args, kwargs)
        form = self._find(key, things)
        while True:
            try:
                donated, kept = _scope.read_all(form.donated), _scope.read_all(form.kept)
                return form.function.lower(donated, kept, *_random.source().operands(0), leaves)
            except _Miss as miss:
                form = self._again(form, things, *miss.args)

    def clear_cache(self) -> None:
        """Forgets all that was compiled."""
        with self._lock:
            self._forms.clear()


def _forget(owner: Any, key: Any) -> None:
    this = owner()
    if this is not None:
        this._forms.pop(key, None)
