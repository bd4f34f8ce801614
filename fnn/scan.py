"""scan_layers: a deep stack of like modules as one `lax.scan`, so that it compiles as fast as one of them."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn import random as _random
from fnn import scope as _scope
from fnn.guards import ALWAYS, Registry, alike
from fnn.scope import Cell, Scope
from fnn.transforms import plain

DEEP = 12  # layers from which a scan pays by itself, see benchmarks/scan.md


class _Unlike(Exception):
    """Why layers cannot be scanned."""


def scan_layers(layers: Iterable[Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls like modules one after another, each with the output of the one before, compiled as one `jax.lax.scan`.

    The same as `for layer in layers: x = layer(x, *args, **kwargs)`, with the same results, random draws, gradients and
    names: the modules keep their parameters, which are stacked inside the compiled function. That copies the weights
    once a step. The time to compile hardly grows with the depth; unrolled, it grows faster than the depth.

    What must be alike: the classes, attributes, modes and the shapes and dtypes of parameters and buffers. Values, and
    which parameters are frozen, may differ. Buffers that forward writes (the statistics of BatchNorm) are each layer's
    own, as in the loop. Where layers differ, have hooks or set attributes in forward, the loop runs and a warning says
    why; code that is not being compiled runs the loop as well.

    Args:
        layers: a ModuleList, a Sequential, or an iterable of modules.
        x: what the first layer takes: an array or a pytree of arrays. A layer returns the same structure, shapes and dtypes.
        args: further arguments, the same for each layer.
        kwargs: likewise, by name.

    Returns:
        What the last layer returns; `x` where there are no layers.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> blocks = fnn.nn.ModuleList(fnn.nn.Linear(4, 4) for _ in range(50))
        >>> deep = fnn.jit(lambda x: fnn.scan_layers(blocks, x))
        >>> deep(jnp.ones((2, 4))).shape
        (2, 4)
    """
    return call_layers(layers, x, args, kwargs, scan=True)


def call_layers(layers: Iterable[Any], x: Any, args: tuple[Any, ...], kwargs: dict[str, Any], scan: bool | None) -> Any:
    """Calls layers one after another; scanned if asked to, and for None where they are many, alike, and being compiled."""
    modules = list(layers)
    wanted = len(modules) >= DEEP if scan is None else scan and len(modules) > 1
    if wanted and _scope.in_staged_code():
        try:
            return _scanned(modules, x, args, kwargs)
        except _Unlike as why:
            if scan:
                warnings.warn(f"fnn.scan_layers runs the layers one by one, since {why}", stacklevel=3)
    for module in modules:
        x = module(x, *args, **kwargs)
    return x


def _scanned(modules: list[Any], x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    first, n = modules[0], len(modules)
    rows = _like(modules)
    shared = [len(set(column)) == 1 for column in zip(*rows, strict=True)]
    own = [[cell for cell, same in zip(row, shared, strict=True) if not same] for row in rows]
    values = [_scope.read_all(cells) for cells in own]
    x = jax.tree.map(jnp.asarray, plain(x))
    shapes = [[(value.shape, value.dtype) for value in row] for row in values]
    if i := next((i for i in range(1, n) if shapes[i] != shapes[0]), None):
        raise _Unlike(f"parameters or buffers of layer {i} have other shapes or dtypes than those of layer 0")
    source = _random.source()
    written: list[Cell] = []
    draws = 0

    def call(x: Any, values: Any, stream: _random.Stream | None) -> Any:
        """The first layer with the values of another."""
        drawing = contextlib.nullcontext() if stream is None else _random.drawing_from(stream)
        with drawing, Scope(dict(zip(own[0], values, strict=True))) as scope:
            out = plain(first(x, *args, **kwargs))
            if scope.sets_attributes:
                raise _Unlike(f"forward of {type(first).__name__} sets attributes")
        written[:] = scope.written
        return out, tuple(scope.written.values())

    def try_once(x: Any, values: Any) -> Any:
        nonlocal draws
        stream = _random.Stream(jax.random.key(0), outer=source)
        out, _ = call(x, values, stream)
        draws = stream.count
        return out

    traced, out = jax.make_jaxpr(try_once, return_shape=True)(x, values[0])
    # The types say also how arrays are sharded, and over which axes of shard_map they vary.
    taken, returned = _types(x, map(jax.typeof, jax.tree.leaves(x))), _types(out, traced.out_avals)
    if taken != returned:
        raise _Unlike(f"{type(first).__name__} takes {taken} and returns {returned}")
    place = {cell: i for i, cell in enumerate(own[0])}
    times = Counter(cell for row in rows for cell in row)
    if any(cell not in place or any(times[row[place[cell]]] > 1 for row in own) for cell in written):
        raise _Unlike(f"{type(first).__name__} writes to state that layers share")
    columns = [jnp.stack(column) for column in zip(*values, strict=True)]
    offsets = None
    if draws:
        key, number = source.advance(n * draws)
        offsets = jnp.asarray(number, jnp.uint32) + jnp.arange(n, dtype=jnp.uint32) * jnp.uint32(draws)

    def step(x: Any, layer: Any) -> Any:
        values, offset = layer
        return call(x, values, None if offset is None else _random.Stream(key, offset, outer=source))

    x, news = lax.scan(step, x, (columns, offsets), length=n)
    _scope.commit({row[place[cell]]: new[i] for i, row in enumerate(own) for cell, new in zip(written, news, strict=True)})
    return x


def _like(modules: list[Any]) -> list[list[Cell]]:
    """The parameters and buffers of each module, where the modules are alike."""
    if any(map(_has_hooks, ALWAYS)):
        raise _Unlike("there are hooks of all modules")
    parts = [list(module.named_modules()) for module in modules]
    cells = [module._named_cells() for module in modules]
    for i, named in enumerate(parts):
        for (name, part), (other_name, other) in zip(named, parts[0], strict=False):
            place = f"{i}.{name}".rstrip(".")
            if _has_hooks(part):
                raise _Unlike(f"{place} has hooks")
            if name != other_name or type(part) is not type(other):
                raise _Unlike(f"{place} is a {type(part).__name__}, and 0.{other_name} a {type(other).__name__}")
            if key := _difference(vars(part), vars(other)):
                raise _Unlike(f"attribute {key!r} of {place} is not that of layer 0")
        if len(named) != len(parts[0]) or list(cells[i]) != list(cells[0]):
            raise _Unlike(f"layer {i} has other submodules, parameters or buffers than layer 0")
        if any(cell.uninitialized for cell in cells[i].values()):
            raise _Unlike(f"layer {i} has parameters whose shape is not known yet")
    return [list(named.values()) for named in cells]


def _has_hooks(thing: Any) -> bool:
    return any(value for name, value in vars(thing).items() if name.endswith("_hooks") and "state_dict" not in name)


def _difference(attributes: dict[str, Any], others: dict[str, Any]) -> str | None:
    """The first attribute that two objects do not have in common; registries are compared elsewhere."""
    for name in {**attributes, **others}:
        if isinstance(attributes.get(name), Registry):
            continue
        if name not in attributes or name not in others or not alike(attributes[name], others[name]):
            return name
    return None


def _types(tree: Any, avals: Iterable[Any]) -> Any:
    """The tree, with the types of its leaves in their place."""
    return jax.tree.unflatten(jax.tree.structure(tree), [str(aval.update(weak_type=False)) for aval in avals])
