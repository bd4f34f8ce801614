"""find_nan: which module made the first NaN, also in code that is compiled.

While a function runs or is traced, a hook of all modules notes of each call whether its output has NaNs. What it notes is
an array that is written to a cell, so that it leaves transformations of fnn as the statistics of a BatchNorm do. The hook
is always the same object, so that a function compiled once with it is found again.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from fnn import scope as _scope
from fnn.captures import Captures
from fnn.guards import Stateful
from fnn.nn.modules.hooks import every_module
from fnn.scope import Cell, Scope
from fnn.transforms import plain, restartable

__all__ = ["NanReport", "find_nan"]


class _Call(NamedTuple):
    """What is known of a call, or of an array in a tree, without its values."""

    path: str
    kind: str
    parameters: tuple[str, ...] = ()


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["index", "numbers"], meta_fields=["calls", "unseen", "name", "what"]
)
@dataclass(frozen=True, eq=False)
class NanReport:
    """What `find_nan` found: a pytree, which can leave compiled functions as a result. `str` says it in a sentence.

    Attributes:
        index: the place in `calls` of what has the first NaN, or −1; an array.
        numbers: of that call, or of the function where there is none: how many NaNs there are in its output and in its
            arguments, and which of its parameters has any, or −1; an array.
        calls: the calls of modules in the order in which they ended, and at last that of the function. In a report on a
            tree, its arrays.
        unseen: paths of modules that were called inside plain transformations of JAX, out of which nothing comes.
        name: what was looked at.
        what: "NaN", or "NaN or infinity".
    """

    index: Any
    numbers: Any
    calls: tuple[_Call, ...] = field(repr=False)
    unseen: tuple[str, ...]
    name: str
    what: str

    def _first(self) -> tuple[int, list[int]]:
        """The index and the numbers; of reports that `jax.vmap` put together, those of the first call."""
        if _scope.is_tracer(self.index):
            raise _scope.StateError(
                "the report of fnn.find_nan is traced here: return it from the compiled function, and look at it outside"
            )
        index, numbers = np.asarray(self.index).reshape(-1), np.asarray(self.numbers).reshape(-1, 3)
        row = int(np.where(index < 0, len(self.calls), index).argmin())
        return int(index[row]), numbers[row].tolist()

    @property
    def path(self) -> str | None:
        """The dotted path of the first module with a NaN in its output and none in its arguments; None where there is none.

        It is empty for the module or function itself that was looked at.
        """
        index, _ = self._first()
        return None if index < 0 else self.calls[index].path

    def __str__(self) -> str:
        index, (count, given, parameter) = self._first()
        sentence = f"{self.name} has no {self.what} in its output"
        if index >= 0:
            call = self.calls[index]
            own = index == len(self.calls) - 1
            times, nth = (sum(c.path == call.path for c in calls) for calls in (self.calls, self.calls[: index + 1]))
            which = f", in call {nth} of {times}," if times > 1 and not own else ""
            sentence = f"{call.path} ({call.kind})" if call.path else self.name
            sentence += f"{which} made the first {self.what}: {count} in its output, none in its arguments"
            sentence += f", some in its {call.parameters[parameter]}" if parameter >= 0 else ""
        elif count:
            sentence = f"no module made a {self.what}: the arguments of {self.name} had {given}, its output has {count}"
        return sentence + (f" (not seen, inside plain transformations: {', '.join(self.unseen)})" if self.unseen else "") + "."


class _TreeReport(NanReport):
    """A report on arrays in a tree."""

    def __str__(self) -> str:
        index, (count, many, _) = self._first()
        if index < 0:
            return f"None of {len(self.calls)} arrays has a {self.what}."
        others = (
            f", the first of {many} such arrays among {len(self.calls)}" if many > 1 else f", alone of {len(self.calls)} arrays"
        )
        return f"{self.calls[index].path} has {count} {self.what}{others}."


jax.tree_util.register_dataclass(_TreeReport, ["index", "numbers"], ["calls", "unseen", "name", "what"])


class _Observation(Cell):
    """The numbers of one call of a module, see `NanReport.numbers`."""

    __slots__ = ("kind", "module", "parameters")

    def __init__(self, module: Any, parameters: tuple[str, ...]):
        super().__init__(label="what fnn.find_nan notes")
        self.module = weakref.ref(module)
        self.kind = type(module).__name__
        self.parameters = parameters


class _Collector(Scope):
    """A scope that takes observations out of what is written."""

    def __init__(self, infinity: bool, token: bool):
        super().__init__(token=token)
        self.infinity = infinity
        self.calls: list[tuple[_Observation, Any]] = []
        self.unseen: list[_Observation] = []

    def write(self, cell: Cell, value: Any) -> None:
        if isinstance(cell, _Observation):
            self.calls.append((cell, value))
        else:
            super().write(cell, value)


def _floats(tree: Any) -> list[Any]:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, (jax.Array, np.ndarray))]
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


@functools.partial(jax.jit, static_argnames="infinity", inline=True)
def _numbers(outputs: list[Any], arguments: list[Any], parameters: list[Any], infinity: bool) -> Any:
    """How many NaNs there are in the outputs and in the arguments, and the place of the first parameter that has any, or −1."""

    def count(arrays: list[Any]) -> Any:
        counts = [jnp.sum(~jnp.isfinite(x) if infinity else jnp.isnan(x), dtype=jnp.int32) for x in arrays]
        return sum(counts, jnp.zeros((), jnp.int32))

    bad = jnp.array([False, *(count([parameter]) > 0 for parameter in parameters)])
    return jnp.stack([count(outputs), count(arguments), jnp.argmax(bad) - 1])


def _around(infinity: bool) -> tuple[_Collector | None, list[Scope]]:
    """The collector that the code runs in, and the scopes within it, from the innermost."""
    scope, within = _scope.current(), []
    while scope is not None and not (isinstance(scope, _Collector) and scope.infinity == infinity):
        within.append(scope)
        scope = scope.outer
    return scope, within


def _observe(infinity: bool, module: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The forward hook of all modules."""
    if _around(infinity)[0] is None:
        return  # another thread
    held: dict[str, Any] = {}
    for name, handle in (*module._parameters.items(), *module._buffers.items()):
        if handle is not None and not handle.uninitialized and jnp.issubdtype(handle.dtype, jnp.inexact):
            with contextlib.suppress(_scope.StateError):  # raised for a buffer in an apply that was given no state
                held[name] = handle.value
    numbers = _numbers(_floats(out), _floats((args, kwargs)), list(held.values()), infinity)
    _emit(infinity, _Observation(module, tuple(held)), numbers)


def _emit(infinity: bool, cell: _Observation, numbers: Any) -> None:
    """Hands an observation to the collector, or to the scope whose owner takes it out of a transformation of fnn."""
    collector, within = _around(infinity)
    if collector is None:
        return
    now = get_opaque_trace_state()
    if collector.trace == now or not _scope.is_tracer(numbers):
        collector.write(cell, numbers)
        return
    here = sum(scope.trace == now for scope in within)
    # What apply and `with fnn.bound` write is not handed on.
    if here and all(scope.writable is None and not scope.block for scope in within[here - 1 :]):
        within[here - 1].written[cell] = numbers
    else:
        collector.unseen.append(cell)


_OBSERVERS = {infinity: functools.partial(_observe, infinity) for infinity in (False, True)}
_active: Counter[str] = Counter()


@contextlib.contextmanager
def _observed(infinity: bool) -> Iterator[None]:
    """Adds the hook under a name of its own, so that guards of compiled functions find it unchanged the next time."""
    key = f"find_nan, infinity={infinity}"
    hooks, with_kwargs = every_module._forward_hooks, every_module._forward_hooks_with_kwargs
    _active[key] += 1
    hooks[key], with_kwargs[key] = _OBSERVERS[infinity], True
    try:
        yield
    finally:
        _active[key] -= 1
        if not _active[key]:
            del hooks[key], with_kwargs[key]


def _paths(target: Any, arguments: Any, called: list[_Observation]) -> dict[Any, str]:
    """Dotted paths of modules: from the outermost ones that a function gets or reaches, or from those that were called."""
    inner = inspect.unwrap(target)
    things = [leaf for leaf in jax.tree.leaves(arguments) if isinstance(leaf, Stateful)]
    things = [inner] if isinstance(inner, Stateful) else [*things, *Captures(target).things]
    roots = dict.fromkeys(thing for thing in things if hasattr(thing, "named_modules"))
    contained = {module for root in roots for module in root.modules() if module is not root}
    outer = [root for root in roots if root not in contained]
    outer += [module for cell in reversed(called) if (module := cell.module()) is not None]  # a call ends after those in it
    paths: dict[Any, str] = {}
    for root in outer:
        if root not in paths:
            for path, module in root.named_modules():
                paths.setdefault(module, path if path or root is inner else type(root).__name__)
    return paths


def find_nan(target: Any, infinity: bool = False) -> Any:
    """Finds out which module made the first NaN, in one call of a module or function, or which array of a tree has one.

    It is what `torch.autograd.detect_anomaly` is used for. A module made a NaN where its output has one and its arguments
    have none. It works eagerly, under `jax.jit` and `fnn.jit` around it or inside, and with `fnn.value_and_grad`,
    `fnn.backward`, `fnn.checkpoint` and the apply of `fnn.pure` inside. Layers that would be scanned are called one by one.
    What plain JAX transforms inside (`jax.jit`, `vmap`, `scan`) is not seen, and named in the report.

    Gradients are looked at as a tree: where the outputs are finite and a gradient is not, `find_nan(grads)` tells which.

    Args:
        target: a module; a function that calls modules; or a tree of arrays, such as gradients.
        infinity: count infinities as well.

    Returns:
        For a module or function, a function with its arguments that returns `(output, report)`; for a tree, the report.
        See `NanReport`.

    Example:
        >>> import fnn, fnn.nn as nn, jax.numpy as jnp
        >>> class Log(nn.Module):
        ...     def forward(self, x):
        ...         return jnp.log(x)
        >>> net = nn.Sequential(nn.Identity(), nn.Sequential(Log(), nn.ReLU()), nn.Identity())
        >>> out, report = fnn.jit(fnn.find_nan(net))(jnp.array([1.0, -1.0]))
        >>> report.path
        '1.0'
        >>> print(report)
        1.0 (Log) made the first NaN: 1 in its output, none in its arguments.
        >>> print(fnn.find_nan({"weight": jnp.ones(2), "bias": out}))
        bias has 1 NaN, alone of 2 arrays.
    """
    what = "NaN or infinity" if infinity else "NaN"
    if not callable(target):
        return _of_tree(target, infinity, what)

    @functools.wraps(target, updated=())
    def looked(*args: Any, **kwargs: Any) -> Any:
        def attempt(token: bool) -> Any:
            with _observed(infinity), _Collector(infinity, token) as collector:
                out = plain(target(*args, **kwargs))
            return out, collector

        out, collector = restartable(looked, attempt)
        _scope.commit(collector.written)
        for cell, numbers in collector.calls:
            _emit(infinity, cell, numbers)  # for a find_nan around this one
        called = [cell for cell, _ in collector.calls]
        paths = _paths(target, (args, kwargs), [*collector.unseen, *called])

        def path(cell: _Observation) -> str:
            return paths.get(cell.module(), f"<{cell.kind}>")

        calls = [_Call(path(cell), cell.kind, cell.parameters) for cell in called]
        rows = [numbers for _, numbers in collector.calls]
        name = type(target).__name__ if isinstance(target, Stateful) else getattr(target, "__name__", type(target).__name__)
        if not isinstance(target, Stateful) or not calls:
            calls.append(_Call("", name))
            rows.append(_numbers(_floats(out), _floats((args, kwargs)), [], infinity))
        unseen = tuple(dict.fromkeys(map(path, collector.unseen)))
        table = jnp.stack(rows)
        bad = (table[:, 0] > 0) & (table[:, 1] == 0)
        index = jnp.where(bad.any(), jnp.argmax(bad), -1)
        return out, NanReport(index, table[index], tuple(calls), unseen, name, what)

    return looked


def _of_tree(tree: Any, infinity: bool, what: str) -> NanReport:
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]
    named = [(name, leaf) for name, leaf in named if hasattr(leaf, "dtype")]
    named.sort(key=lambda pair: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", pair[0])])
    calls = tuple(_Call(name, "array") for name, _ in named)
    counts = jnp.stack([_numbers(_floats(leaf), [], [], infinity)[0] for _, leaf in named] or [jnp.zeros((), jnp.int32)])
    bad = counts > 0
    index = jnp.where(bad.any(), jnp.argmax(bad), -1)
    return _TreeReport(index, jnp.stack([counts[index], bad.sum(), -1]), calls, (), "tree", what)
