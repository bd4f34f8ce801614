"""A table of a model: types, shapes, parameters, memory and operations, without running it."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fnn import random as _random
from fnn.arrays import as_array, held_dtype, is_tensor
from fnn.kernels import plain_kernels
from fnn.leaks import end_leaks_of_hooks
from fnn.pure import _Dry, _picture
from fnn.scope import OWN, Scope

__all__ = ["Row", "Summary", "summary"]

_MARK = re.compile(r"fnn_call_(\d+)")
# Primitives that are their inner computation, so that operations of modules called in it can be told apart.
_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat",
    "remat2",
    "scan",
}
_PLATFORMS = {"gpu": ("gpu", "cuda", "rocm")}


@dataclasses.dataclass
class Row:
    """One module of a summary.

    Attributes:
        path: its dotted name; empty for the model itself.
        type: the name of its class.
        depth: how many modules it is in.
        output: what its last call returned, with `jax.ShapeDtypeStruct` in the place of arrays; None where it has none.
        calls: how often it was called.
        parameters: elements of its own parameters, those of modules in it left out; a shared one counts where it is first.
        trainable: how many of them require a gradient.
        shared: elements of its own parameters that are counted elsewhere.
        parameter_bytes: memory of its own parameters.
        buffer_bytes: memory of its own buffers.
        output_bytes: memory of the output of its last call.
        operations: floating point operations of all its calls, modules in it included; None where no input was given.
    """

    path: str
    type: str
    depth: int
    output: Any = None
    calls: int = 0
    parameters: int = 0
    trainable: int = 0
    shared: int = 0
    parameter_bytes: int = 0
    buffer_bytes: int = 0
    output_bytes: int = 0
    operations: int | None = None


@dataclasses.dataclass(repr=False)
class Summary:
    """What `fnn.summary` returns; it prints as a table.

    Attributes:
        rows: one a module, in the order of `named_modules()`.
        shown: how many levels of modules the table shows; None for all. What is deeper is added to the last one shown.
        total_parameters: elements of all parameters.
        trainable_parameters: how many of them require a gradient.
        parameter_bytes: memory of all parameters.
        buffer_bytes: memory of all buffers.
        total_bytes: memory of parameters and buffers.
        total_operations: floating point operations of one call; None where no input was given.
    """

    rows: list[Row]
    shown: int | None = None

    @property
    def total_parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def trainable_parameters(self) -> int:
        return sum(row.trainable for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        return sum(row.parameter_bytes for row in self.rows)

    @property
    def buffer_bytes(self) -> int:
        return sum(row.buffer_bytes for row in self.rows)

    @property
    def total_bytes(self) -> int:
        return self.parameter_bytes + self.buffer_bytes

    @property
    def total_operations(self) -> int | None:
        return self.rows[0].operations

    def __getitem__(self, path: str) -> Row:
        """The row of a module, by its dotted name."""
        for row in self.rows:
            if row.path == path:
                return row
        raise KeyError(path)

    def _folded(self) -> list[Row]:
        """The rows to show, each with the own numbers of those in it that are not shown."""
        rows: list[Row] = []
        for row in self.rows:
            if self.shown is None or row.depth <= self.shown:
                rows.append(dataclasses.replace(row))
                continue
            for name in ("parameters", "trainable", "shared", "parameter_bytes", "buffer_bytes"):
                setattr(rows[-1], name, getattr(rows[-1], name) + getattr(row, name))
        return rows

    def __str__(self) -> str:
        ran = self.total_operations is not None
        lines: list[tuple[str, ...]] = [("path", "type", "output", "parameters", "memory", "output memory", "operations")]
        for row in self._folded():
            times = f" x{row.calls}" if row.calls > 1 else ""
            notes = " (frozen)" if row.parameters and not row.trainable else ""
            notes += f" (+{row.shared:,} shared)" if row.shared else ""
            if 0 < row.trainable < row.parameters:
                notes += f" ({row.trainable:,} trainable)"
            lines.append(
                (
                    "  " * row.depth + (row.path.rpartition(".")[2] or "."),
                    row.type,
                    (_shapes(row.output) if row.calls else "not called") + times,
                    f"{row.parameters:,}{notes}" if row.parameters or notes else "-",
                    _amount(row.parameter_bytes + row.buffer_bytes, 1024, _BYTES),
                    _amount(row.output_bytes, 1024, _BYTES),
                    _amount(row.operations or 0, 1000, _OPERATIONS),
                )
            )
        if not ran:
            lines = [(line[0], line[1], *line[3:5]) for line in lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        frozen = self.total_parameters - self.trainable_parameters
        text.append("")
        text.append(
            f"parameters: {self.total_parameters:,} ({self.trainable_parameters:,} trainable, {frozen:,} frozen), "
            f"{_amount(self.parameter_bytes, 1024, _BYTES)}"
        )
        text.append(f"buffers: {_amount(self.buffer_bytes, 1024, _BYTES)}")
        if ran:
            text.append(f"operations: {_amount(self.total_operations or 0, 1000, _OPERATIONS)}")
        return "\n".join(text)

    __repr__ = __str__


_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_OPERATIONS = ("", "k", "M", "G", "T", "P")


def _amount(number: int, base: int, units: tuple[str, ...]) -> str:
    if not number:
        return "-"
    power = min(int(math.log(number, base) + 1e-9), len(units) - 1)
    return f"{number / base**power:.4g} {units[power]}".strip()


def _shapes(output: Any) -> str:
    """The shapes in an output, as text."""
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return str(tuple(output.shape))
    if isinstance(output, dict):
        return "{" + ", ".join(f"{key}: {_shapes(value)}" for key, value in output.items()) + "}"
    if isinstance(output, (list, tuple)):
        inner = ", ".join(map(_shapes, output))
        return f"[{inner}]" if isinstance(output, list) else f"({inner})"
    return "None" if output is None else type(output).__name__


def summary(module: Any, *inputs: Any, depth: int | None = None, training: bool = False, **kwargs: Any) -> Summary:
    """A table of a model: path, type, output shape, parameters, memory and operations of each module.

    The model is traced, not run: no parameter is drawn and no array is made, whatever its size, and nothing in the module
    changes; lazy modules are shown as the inputs would make them, and stay lazy.

    Operations are the floating point operations that XLA's cost analysis counts in each primitive, before it optimizes:
    2 M N K for a product of matrices, without what a convolution multiplies with padding; exponentials and the like count
    none. The body of a scan counts for each of its steps, what is in a while loop once, of a condition the dearest branch.

    Args:
        module: the model.
        inputs: the arguments of forward: shapes (tuples of ints) of float32 arrays, `jax.ShapeDtypeStruct`, or arrays, also
            in lists, tuples and dicts. Anything else is given as it is. Without inputs only the modules are listed.
        depth: how many levels of modules to show; by default all.
        training: whether each module is in the mode that `train()` and `eval()` left it in, rather than in evaluation mode.
        kwargs: keyword arguments of forward: arrays, `jax.ShapeDtypeStruct`, or anything else as it is.

    Returns:
        A `Summary`: `print` shows the table; its `rows` and totals are attributes.

    Example:
        >>> import fnn, jax, jax.numpy as jnp
        >>> net = fnn.nn.Sequential(fnn.nn.Linear(4, 8), fnn.nn.ReLU(), fnn.nn.Linear(8, 2))
        >>> fnn.summary(net, (3, 4))
        path  type        output  parameters  memory  output memory  operations
        .     Sequential  (3, 2)  -           -       24 B           367
          0   Linear      (3, 8)  40          160 B   96 B           216
          1   ReLU        (3, 8)  -           -       96 B           49
          2   Linear      (3, 2)  18          72 B    24 B           102
        <BLANKLINE>
        parameters: 58 (58 trainable, 0 frozen), 232 B
        buffers: -
        operations: 367
        >>> fnn.summary(fnn.nn.Embedding(9, 4), jax.ShapeDtypeStruct((2, 7), jnp.int32)).rows[0].output.shape
        (2, 7, 4)
    """
    picture = _picture(module)
    args = tuple(jax.ShapeDtypeStruct(value, np.float32) if _is_shape(value) else _abstract(value) for value in inputs)
    kwargs = _abstract(kwargs)
    watch = None
    if args or kwargs:
        if picture.unsettled():
            picture.settle(args, kwargs)
        picture.require_shapes()
        watch = _Watch(picture.root)
        with plain_kernels():  # what is counted is the formula's, not an algorithm's
            watch.count(watch.trace(picture, args, kwargs, OWN if training else False))
    return Summary(list(_rows(picture.root, watch)), depth)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(type(size) is int or isinstance(size, np.integer) for size in value)


def _abstract(tree: Any) -> Any:
    """The tree with shapes in the place of arrays."""

    def abstract(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        dtype = as_array(leaf).dtype if is_tensor(leaf) else leaf.dtype
        extended = jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
        return jax.ShapeDtypeStruct(tuple(leaf.shape), dtype if extended else held_dtype(dtype))

    return jax.tree.map(abstract, tree)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree) if _is_array(x))


def _rows(root: Any, watch: _Watch | None) -> Iterator[Row]:
    counted: set[Any] = set()
    for path, module in root.named_modules():
        row = Row(path, type(module).__name__, path.count(".") + 1 if path else 0)
        for handle in dict.fromkeys(p for p in module._parameters.values() if p is not None):
            size = 0 if handle.uninitialized else handle.numel()
            if handle in counted:
                row.shared += size
                continue
            counted.add(handle)
            row.parameters += size
            row.trainable += size * handle.requires_grad
            row.parameter_bytes += size * handle.dtype.itemsize
        for handle in dict.fromkeys(b for b in module._buffers.values() if b is not None):
            if handle not in counted and not handle.uninitialized:
                counted.add(handle)
                row.buffer_bytes += handle.numel() * handle.dtype.itemsize
        if watch is not None:
            row.calls = watch.calls[module]
            row.output = watch.outputs.get(module)
            row.output_bytes = _bytes(row.output)
            row.operations = watch.operations[module]
        yield row


class _Watch:
    """Notes the calls of modules while they are traced, and counts the operations of each.

    Args:
        root: a module that nobody else has, since hooks stay on it.
    """

    def __init__(self, root: Any):
        self.calls: Counter[Any] = Counter()
        self.outputs: dict[Any, Any] = {}
        self.operations: Counter[Any] = Counter()
        self._callers: list[tuple[Any, ...]] = []  # of each call, the modules that it is in, itself included
        self._inside: list[Any] = []
        self._open: list[Any] = []  # the named scopes of the same calls, by which JAX marks what is computed in them
        self._costs: dict[Any, int] = {}
        for module in root.modules():
            module.register_forward_pre_hook(self._enter, prepend=True)
            module.register_forward_hook(self._leave)

    def _enter(self, module: Any, args: Any) -> None:
        self._inside.append(module)
        scope = jax.named_scope(f"fnn_call_{len(self._callers)}")
        self._callers.append(tuple(self._inside))
        self.calls[module] += 1
        scope.__enter__()
        self._open.append(scope)

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        self._inside.pop()
        self._open.pop().__exit__(None, None, None)
        self.outputs[module] = _abstract(output)

    def trace(self, picture: Any, args: Any, kwargs: Any, mode: Any) -> Any:
        """What JAX traces of a call."""
        cells = list(picture.cells.values())
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

        def run(values: Any, arrays: Any) -> Any:
            given = list(leaves)
            for i, array in zip(places, arrays, strict=True):
                given[i] = array
            args, kwargs = jax.tree.unflatten(tree, given)
            stream = _Dry(_random.as_key(0))
            held = dict(zip(cells, values, strict=True))
            with _random.drawing_from(stream), Scope(held, mode=mode, misses={}, forgets=True) as scope:
                out = picture.root(*args, **kwargs)
            end_leaks_of_hooks(scope.hooked, scope.crossings)
            return [leaf for leaf in jax.tree.leaves(out) if isinstance(leaf, jax.Array)]

        values = [jax.ShapeDtypeStruct(cell.shape, cell.dtype) for cell in cells]
        try:
            with warnings.catch_warnings():
                # Hooks keep layers from being scanned, which here is as it should be: each of them is shown.
                warnings.filterwarnings("ignore", "fnn.scan_layers runs the layers one by one")
                return jax.jit(run, keep_unused=True).trace(values, [leaves[i] for i in places]).jaxpr
        finally:
            while self._open:  # where a call failed, and left its name in force
                self._open.pop().__exit__(None, None, None)

    def count(self, closed: Any) -> None:
        """Adds the operations of a traced computation to the modules that were called in it."""
        for number, operations in self._sum(closed.jaxpr, None).items():
            if number is not None:
                self.operations.update(dict.fromkeys(self._callers[number], operations))

    def _sum(self, jaxpr: Any, around: int | None) -> Counter[int | None]:
        """Operations by the innermost call that they are in."""
        total: Counter[int | None] = Counter()
        for equation in jaxpr.eqns:
            marks = _MARK.findall(str(equation.source_info.name_stack))
            total.update(self._of(equation, int(marks[-1]) if marks else around, jaxpr))
        return total

    def _of(self, equation: Any, call: int | None, jaxpr: Any) -> Counter[int | None]:
        name, params = equation.primitive.name, equation.params
        inner = [getattr(each, "jaxpr", each) for each in core.jaxprs_in_params(params)]
        if name == "cond" and params.get("branches_platforms"):
            return self._sum(inner[_chosen(params["branches_platforms"])], call)
        if name == "cond":
            return max((self._sum(branch, call) for branch in inner), key=Counter.total)
        if name not in _CALLS or not inner:
            return Counter({call: self._alone(equation, jaxpr)})
        times = params["length"] if name == "scan" else 1
        return Counter({number: times * cost for each in inner for number, cost in self._sum(each, call).items()})

    def _alone(self, equation: Any, jaxpr: Any) -> int:
        """What XLA's cost analysis says of one primitive."""
        key = (equation.primitive.name, str(equation.params), *(str(v.aval) for v in equation.invars))
        if key not in self._costs:
            operands = list(dict.fromkeys(v for v in equation.invars if isinstance(v, core.Var)))
            results = [v for v in equation.outvars if not isinstance(v, core.DropVar)]
            single = jaxpr.replace(constvars=(), invars=operands, outvars=results, eqns=[equation], effects=core.no_effects)
            function: Callable[..., Any] = core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))
            types: list[Any] = [v.aval for v in operands]
            shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in types]
            cost = jax.jit(function, keep_unused=True).lower(*shapes).cost_analysis() or {}
            self._costs[key] = max(round(cost.get("flops", 0)), 0)
        return self._costs[key]


def _chosen(platforms: Any) -> int:
    """The branch that `jax.lax.platform_dependent` takes here."""
    here = jax.default_backend()
    names = _PLATFORMS.get(here, (here,))
    for i, branch in enumerate(platforms):
        if branch is None or set(branch) & set(names):
            return i
    return len(platforms) - 1
