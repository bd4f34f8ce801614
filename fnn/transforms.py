"""JAX's transformations for code that holds modules: jit, grad, value_and_grad, backward, checkpoint.

Each opens a scope (see `fnn.scope`), lets JAX transform a pure function of what the scope holds, and hands what was
written to the scope outside, so that they nest in any order with each other and with JAX's own.
"""

from __future__ import annotations

import functools
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from fnn import random as _random
from fnn import scope as _scope
from fnn.guards import Captures, Guards, Recorder, Stateful
from fnn.scope import Cell, Restart, Scope
from fnn.tree import nest, unnest

_restarted: weakref.WeakSet[Any] = weakref.WeakSet()


class Written:
    """Values that cells were given; which cells is static, so that it may differ with the shapes of the inputs."""

    def __init__(self, cells: Any, values: Any):
        self.cells, self.values = cells, values


jax.tree_util.register_pytree_node(Written, lambda w: (w.values, w.cells), lambda cells, values: Written(cells, values))


def _written(scope: Scope) -> Written:
    return Written(tuple(scope.written), tuple(scope.written.values()))


def restartable(owner: Any, attempt: Callable[[bool], Any]) -> Any:
    """Runs `attempt(token)`, whose scope sets a token only if asked to; again with one if staged code reads a cell in it.

    Args:
        owner: what remembers that it needs a token from the start.
        attempt: opens the scope. What it wrote is gone when it runs again.
    """
    token = owner in _restarted
    source = _random.source()
    count = getattr(source, "count", 0)
    try:
        return attempt(token)
    except Restart:
        if token:
            raise
        _restarted.add(owner)
        if isinstance(source, _random.Stream):
            source.count = count
    return attempt(True)


def _plain(tree: Any) -> Any:
    """The tree with an array in the place of each Parameter and Buffer."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Stateful):
            raise TypeError(
                f"a transformed function returned a {type(leaf).__name__}. Modules are changed in place: return arrays, or "
                "fnn.split(module) for its parameters and state."
            )
    return jax.tree.map(lambda leaf: leaf, tree)


def trainable(module: Stateful) -> dict[str, Any]:
    """The parameters of a module that require a gradient, by name, in order."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}  # type: ignore[attr-defined]


class _Lazy(Exception):
    """A cell among a compiled function's inputs has no value yet."""


class _Miss(Exception):
    """A trace read cells that are not among its inputs, or wrote cells that it should donate."""


class _Entry:
    """One compiled form of a function: for these objects, as long as the guards hold."""

    def __init__(self, owner: jit, statics: Sequence[Any], layout: Any, cells: Iterable[Cell], donated: Iterable[Cell]):
        self.statics = [weakref.ref(thing) for thing in statics]
        self.donated = list(dict.fromkeys(donated))
        self.kept = [cell for cell in dict.fromkeys(cells) if cell not in set(self.donated)]
        self.guards: Guards | None = None
        self.captures: Captures | None = None
        self.written: list[list[Cell]] = []
        self.draws = 0
        name = getattr(owner.__wrapped__, "__name__", "function")
        entry = weakref.ref(self)

        def traced(donated: list[Any], kept: list[Any], key: Any, offset: Any, leaves: list[Any]) -> Any:
            this = entry()
            assert this is not None
            return this._trace(owner.__wrapped__, owner._donate, layout, donated, kept, key, offset, leaves)

        traced.__name__ = traced.__qualname__ = name
        self.function = jax.jit(traced, donate_argnums=(0,) if self.donated else ())

    def _trace(
        self, function: Any, donate: bool, layout: Any, donated: Any, kept: Any, key: Any, offset: Any, leaves: Any
    ) -> Any:
        cells = [*self.donated, *self.kept]
        held = dict(zip(cells, [*donated, *kept], strict=True))
        if any(value is None and cell.drawn for cell, value in held.items()):
            raise _Lazy
        things = [ref() for ref in self.statics]
        args, kwargs = layout(things, leaves)
        recorder, epoch = Recorder(), _scope.epoch
        misses: dict[Cell, None] = {}
        stream = _random.Stream(key, offset, outer=_random.source())
        captures = Captures(function)
        with _random.drawing_from(stream), Scope(held, misses=misses, recorder=recorder) as scope:
            for thing in things:
                for _ in thing.cells():  # walking notes each module for the guards
                    pass
            out = _plain(function(*args, **kwargs))
        missed = [cell for cell in misses if cell not in held]
        to_donate = [cell for cell in scope.written if cell in held and cell not in set(self.donated)] if donate else []
        if missed or to_donate:
            raise _Miss(missed, to_donate)
        captures.release()
        self.captures = captures
        self.guards = Guards(recorder, epoch, self.guards)
        self.written.append(list(scope.written))
        return out, Written((len(self.written) - 1, stream.count), tuple(scope.written.values()))

    def holds(self, statics: list[Any]) -> bool:
        """Whether this form is right for the objects as they are now."""
        if self.guards is None or self.captures is None or not (self.guards.hold() and self.captures.hold()):
            return False
        return all(ref() is thing for ref, thing in zip(self.statics, statics, strict=True))

    def inputs(self, read: Callable[[list[Cell]], list[Any]]) -> tuple[list[Any], list[Any]]:
        return read(self.donated), read(self.kept)


def _stored(cells: list[Cell]) -> list[Any]:
    return [cell._value for cell in cells]


def _separate(donated: list[Any], others: list[Any]) -> list[Any]:
    """Copies arrays that are to be donated and are held twice."""
    seen = {id(value) for value in others}
    result = []
    for value in donated:
        if id(value) in seen and value is not None:
            value = jax.numpy.array(value, copy=True)
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

    _KEPT = 16  # forms kept for one set of arguments
    _WARN = 8

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static_argnums: int | Sequence[int] = (),
        static_argnames: str | Sequence[str] = (),
        donate: bool = False,
    ):
        functools.update_wrapper(self, function, updated=())
        self._static_argnums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
        self._static_argnames = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
        self._donate = donate
        self._forms: dict[Any, list[_Entry]] = {}
        self._compiled = 0
        self._lock = threading.RLock()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, statics, key, layout = self._arguments(args, kwargs)
        entry = self._find(key, statics)
        while True:
            if entry is None:
                entry = self._build(key, statics, layout)
            try:
                return self._run(entry, leaves)
            except _Lazy:
                for cell in (*entry.donated, *entry.kept):
                    cell._concrete()
            except _Miss as miss:
                entry = self._rebuild(key, entry, statics, layout, *miss.args)

    def _arguments(self, args: Any, kwargs: Any) -> tuple[list[Any], list[Any], Any, Any]:
        """Splits the arguments into arrays, objects passed by reference, a key for the cache, and the way back."""
        static: Any = ()
        if self._static_argnums or self._static_argnames:
            numbers = {number % len(args) for number in self._static_argnums if -len(args) <= number < len(args)}
            names = [name for name in self._static_argnames if name in kwargs]
            static = (tuple((i, args[i]) for i in sorted(numbers)), tuple((name, kwargs[name]) for name in sorted(names)))
            args = tuple(None if i in numbers else arg for i, arg in enumerate(args))
            kwargs = {name: value for name, value in kwargs.items() if name not in names}
            try:
                hash(static)
            except TypeError as error:
                raise ValueError(f"static arguments of fnn.jit must be hashable, got {static}") from error
        flat, tree = jax.tree.flatten((args, kwargs))
        leaves, statics, ids = [], [], []
        for leaf in flat:
            if isinstance(leaf, Stateful):
                statics.append(leaf)
                ids.append(id(leaf))
            else:
                leaves.append(leaf)
                ids.append(0)

        def layout(things: list[Any], leaves: list[Any]) -> tuple[Any, Any]:
            objects, arrays = iter(things), iter(leaves)
            args, kwargs = jax.tree.unflatten(tree, [next(objects) if i else next(arrays) for i in ids])
            if static:
                args = list(args)
                for i, value in static[0]:
                    args[i] = value
                kwargs = kwargs | dict(static[1])
            return args, kwargs

        return leaves, statics, (tree, tuple(ids), static), layout

    def _find(self, key: Any, statics: list[Any]) -> _Entry | None:
        for entry in self._forms.get(key, ()):
            if entry.holds(statics):
                return entry
        return None

    def _build(self, key: Any, statics: list[Any], layout: Any) -> _Entry:
        cells: list[Cell] = []
        for thing in [*statics, *Captures(self.__wrapped__).things]:
            cells.extend(thing.cells())
        with self._lock:
            self._compiled += 1
            old = self._forms.get(key)
            if old and self._compiled % self._WARN == 0:
                self._warn(old[-1])
        return self._add(key, _Entry(self, statics, layout, cells, ()), statics)

    def _rebuild(self, key: Any, entry: _Entry, statics: Any, layout: Any, missed: Any, to_donate: Any) -> _Entry:
        with self._lock:
            forms = self._forms.get(key, [])
            if entry in forms:
                forms.remove(entry)
        cells, donated = [*entry.kept, *missed], [*entry.donated, *to_donate]
        return self._add(key, _Entry(self, statics, layout, cells, donated), statics)

    def _add(self, key: Any, entry: _Entry, statics: list[Any]) -> _Entry:
        with self._lock:
            if key not in self._forms:
                self._forms[key] = []
                for thing in statics:
                    weakref.finalize(thing, _forget, weakref.ref(self), key).atexit = False
            self._forms[key].append(entry)
            del self._forms[key][: -self._KEPT]
        return entry

    def _warn(self, last: _Entry) -> None:
        what = last.guards.difference() if last.guards is not None else None
        warnings.warn(
            f"fnn.jit compiles {getattr(self, '__name__', 'a function')} for the {self._compiled}th time; what changed since the "
            f"last time: {what or 'an object that the function reaches by name'}. Attributes of modules are compiled in: pass "
            "what changes often as an argument, or hold it in a buffer.",
            stacklevel=4,
        )

    def _run(self, entry: _Entry, leaves: list[Any]) -> Any:
        scope = _scope.current()
        direct = scope is None and _scope.at_top()
        source = _random.source()
        key, offset = source.advance(entry.draws) if entry.draws else source.peek()
        draws = entry.draws
        donated, kept = entry.inputs(_stored if direct else _scope.read_all)
        if donated:
            donated = _separate(donated, [*kept, *leaves])
        offset = np.uint32(offset) if isinstance(offset, int) else offset
        out, written = entry.function(donated, kept, key, offset, leaves)
        index, drawn = written.cells
        if drawn != draws:
            source.advance(drawn - draws)
            entry.draws = drawn
        cells = entry.written[index]
        if direct:
            _scope.overwrite(cells, written.values)
        else:
            if scope is not None and entry.guards is not None:
                entry.guards.report(scope)
            _scope.commit(dict(zip(cells, written.values, strict=True)))
        return out

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Traces for these arguments without running; returns what `jax.jit(...).lower` returns."""
        leaves, statics, key, layout = self._arguments(args, kwargs)
        entry = self._find(key, statics) or self._build(key, statics, layout)
        while True:
            try:
                donated, kept = entry.inputs(_scope.read_all)
                return entry.function.lower(donated, kept, *_random.source().peek(), leaves)
            except _Miss as miss:
                entry = self._rebuild(key, entry, statics, layout, *miss.args)

    def clear_cache(self) -> None:
        """Forgets all that was compiled."""
        with self._lock:
            self._forms.clear()


def _forget(owner: Any, key: Any) -> None:
    this = owner()
    if this is not None:
        this._forms.pop(key, None)


class _Differentiable:
    """What a gradient is taken in: parameters of modules, and arrays, in some of the arguments of a function."""

    def __init__(self, args: tuple[Any, ...], argnums: tuple[int, ...]):
        self.argnums = argnums
        self.cells: dict[Cell, Any] = {}
        self.trees = []
        self.values = []
        for number in argnums:
            if not -len(args) <= number < len(args):
                raise ValueError(
                    f"argnums names argument {number}, but the function was called with {len(args)} positional arguments"
                )
            leaves, tree = jax.tree.flatten(args[number])
            self.trees.append((leaves, tree))
            self.values.append([self._value(leaf) for leaf in leaves])

    def _value(self, leaf: Any) -> Any:
        if not isinstance(leaf, Stateful):
            return leaf
        named = {name: p for name, p in trainable(leaf).items() if p not in self.cells}
        self.cells.update(dict.fromkeys(named.values()))
        return {name: p.value for name, p in named.items()}

    def place(self, values: list[Any], args: tuple[Any, ...]) -> tuple[dict[Cell, Any], list[Any]]:
        """What a scope shall hold, and the arguments, for given values."""
        held: dict[Cell, Any] = {}
        placed = list(args)
        for number, (leaves, tree), parts in zip(self.argnums, self.trees, values, strict=True):
            filled = []
            for leaf, part in zip(leaves, parts, strict=True):
                if isinstance(leaf, Stateful):
                    parameters = trainable(leaf)
                    held.update((parameters[name], value) for name, value in part.items())
                    filled.append(leaf)
                else:
                    filled.append(part)
            placed[number] = jax.tree.unflatten(tree, filled)
        return held, placed

    def gradients(self, grads: list[Any]) -> list[Any]:
        """Gradients shaped as the arguments, with a dict of them in the place of each module."""
        result = []
        for (leaves, tree), parts in zip(self.trees, grads, strict=True):
            filled = [nest(part) if isinstance(leaf, Stateful) else part for leaf, part in zip(leaves, parts, strict=True)]
            result.append(jax.tree.unflatten(tree, filled))
        return result


def value_and_grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the value of `function` and its gradient, as `jax.value_and_grad`, for modules too.

    Args:
        function: returns a scalar, or a scalar and anything else where `has_aux`.
        argnums: the arguments to differentiate in: modules (in the parameters that require a gradient), arrays, and
            lists, tuples and dicts of them. A parameter shared by two modules counts for the first.
        has_aux: whether the function returns a pair whose second part is not differentiated.

    Returns:
        A function that returns `(value, gradient)`. The gradient in a module is a nested dict shaped as
        `fnn.split(module)[0]`; for several `argnums` it is a tuple.

    Raises:
        TypeError: where the function does not return a scalar.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(3, 1)
        >>> loss, grads = fnn.value_and_grad(lambda net, x: net(x).mean())(net, jnp.ones((2, 3)))
        >>> grads["weight"].shape, grads["bias"].tolist()
        ((1, 3), [1.0])
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(function, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        def attempt(token: bool) -> Any:
            target = _Differentiable(args, numbers)

            def inner(values: Any) -> Any:
                held, placed = target.place(values, args)
                with Scope(held, token=token) as scope:
                    out = _plain(function(*placed, **kwargs))
                if not has_aux:
                    out = (out, None)
                elif not (isinstance(out, (tuple, list)) and len(out) == 2):
                    raise TypeError(f"with has_aux=True the function must return a pair (value, aux), got {type(out).__name__}")
                return out[0], (out[1], _written(scope))

            (value, (aux, written)), grads = jax.value_and_grad(inner, has_aux=True)(target.values)
            _scope.commit(dict(zip(written.cells, written.values, strict=True)))
            gradients = target.gradients(grads)
            gradient = gradients[0] if isinstance(argnums, int) else tuple(gradients)
            return ((value, aux) if has_aux else value), gradient

        return restartable(differentiated, attempt)

    return differentiated


def grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradient of `function`; see `value_and_grad`.

    Returns:
        A function that returns the gradient, or `(gradient, aux)` where `has_aux`.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 1, bias=False)
        >>> fnn.grad(lambda net: net(jnp.array([1.0, 2.0])).sum())(net)
        {'weight': Array([[1., 2.]], dtype=float32)}
    """
    with_value = value_and_grad(function, argnums, has_aux)

    @functools.wraps(function, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        value, gradient = with_value(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return differentiated


def backward(function: Callable[..., Any], *args: Any, has_aux: bool = False, **kwargs: Any) -> Any:
    """Runs a function and adds the gradient of its value into `.grad` of the parameters, as `loss.backward()` in torch.

    Args:
        function: called with the arguments; returns a scalar loss.
        args: what it is called with. The gradient is taken in the modules among them.
        has_aux: whether the function returns a pair of loss and anything else.
        kwargs: further arguments for the function.

    Returns:
        What the function returned.

    Raises:
        RuntimeError: where the loss is not a scalar.
        ValueError: where no argument has a module in it.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 1, bias=False)
        >>> loss = fnn.backward(lambda net: net(jnp.array([1.0, 2.0])).sum(), net)
        >>> net.weight.grad.tolist()
        [[1.0, 2.0]]
    """
    numbers = [i for i, arg in enumerate(args) if any(isinstance(leaf, Stateful) for leaf in jax.tree.leaves(arg))]
    if not numbers:
        raise ValueError(
            "fnn.backward takes the gradient in modules, and none of the arguments is one: fnn.backward(f, net, x, ...)"
        )

    def scalar(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        loss = out[0] if has_aux else out
        if jax.numpy.shape(loss) != ():
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs, got a loss of shape {jax.numpy.shape(loss)}"
            )
        return out

    modules = [leaf for i in numbers for leaf in jax.tree.leaves(args[i]) if isinstance(leaf, Stateful)]
    value, gradients = value_and_grad(lambda modules, *args, **kwargs: scalar(*args, **kwargs), has_aux=has_aux)(
        modules, *args, **kwargs
    )
    for module, gradient in zip(modules, gradients, strict=True):
        parameters = trainable(module)
        for name, value_of in unnest(gradient).items():
            old = parameters[name].grad
            parameters[name].grad = value_of if old is None else old + value_of
    return value


def checkpoint(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A function that computes its intermediate values again in the backward pass, as `jax.checkpoint`, for modules too.

    Args:
        function: may call modules, given as arguments or reached by closure; what it writes (batch statistics) comes out.
        options: `policy` and `prevent_cse`, as `jax.checkpoint` takes them.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 2)
        >>> loss, grads = fnn.value_and_grad(lambda net: fnn.checkpoint(net)(jnp.ones((1, 2))).sum())(net)
        >>> grads["bias"].tolist()
        [1.0, 1.0]
    """

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [None if isinstance(leaf, Stateful) else leaf for leaf in leaves]

        def inner(arrays: Any) -> Any:
            placed = [leaf if isinstance(leaf, Stateful) else array for leaf, array in zip(leaves, arrays, strict=True)]
            args, kwargs = jax.tree.unflatten(tree, placed)
            with Scope() as scope:
                out = _plain(function(*args, **kwargs))
            return out, _written(scope)

        out, written = jax.checkpoint(inner, **options)(arrays)
        _scope.commit(dict(zip(written.cells, written.values, strict=True)))
        return out

    return functools.wraps(function, updated=())(checkpointed)
