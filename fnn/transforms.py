"""JAX's transformations for code that holds modules: grad, value_and_grad, backward, checkpoint; see compilation for jit.

Each opens a scope (see `fnn.scope`), lets JAX transform a pure function of what the scope holds, and hands what was
written to the scope outside, so that they nest in any order with each other and with JAX's own.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import is_array
from fnn.guards import Stateful, refuse_leaks
from fnn.leaks import Handover
from fnn.scope import Cell, Restart, Scope
from fnn.tree import nest, unnest

_restarted: weakref.WeakSet[Any] = weakref.WeakSet()


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


def plain(tree: Any) -> Any:
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
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


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

    def modules(self) -> Iterator[Stateful]:
        """The modules among them, with their descendants."""
        for leaves, _ in self.trees:
            for leaf in leaves:
                if isinstance(leaf, Stateful):
                    yield from leaf.modules()

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
            cells: list[Cell] = []
            handover = Handover()

            def inner(values: Any) -> Any:
                held, placed = target.place(values, args)
                with Scope(held, token=token) as scope:
                    out = plain(function(*placed, **kwargs))
                    kept = handover.take(scope)
                if not has_aux:
                    out = (out, None)
                elif not (isinstance(out, (tuple, list)) and len(out) == 2):
                    raise TypeError(f"with has_aux=True the function must return a pair (value, aux), got {type(out).__name__}")
                cells[:] = scope.written
                return out[0], (out[1], tuple(scope.written.values()), kept)

            (value, (aux, written, kept)), grads = jax.value_and_grad(inner, has_aux=True)(target.values)
            refuse_leaks(target.modules())
            handover.put_back(kept)
            _scope.commit(dict(zip(cells, written, strict=True)))
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
        raise ValueError("fnn.backward takes the gradient in modules, and no argument is one: fnn.backward(f, net, x, ...)")

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
            It is passed arrays, modules, and other values such as flags as they are.
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
        arrays = [leaf if is_array(leaf) else None for leaf in leaves]
        cells: list[Cell] = []
        handover = Handover()
        staged = _scope.in_staged_code()  # before our own staging, which no other call sees

        def inner(arrays: Any) -> Any:
            placed = [array if is_array(leaf) else leaf for leaf, array in zip(leaves, arrays, strict=True)]
            args, kwargs = jax.tree.unflatten(tree, placed)
            with Scope(staged=staged) as scope:
                out = plain(function(*args, **kwargs))
                kept = handover.take(scope)
            cells[:] = scope.written
            return out, tuple(scope.written.values()), kept

        out, written, kept = jax.checkpoint(inner, **options)(arrays)
        handover.put_back(kept)
        _scope.commit(dict(zip(cells, written, strict=True)))
        return out

    return functools.wraps(function, updated=())(checkpointed)


def capture(module: Any, names: Sequence[str]) -> Callable[..., Any]:
    """A function that calls a module and returns, with the output, what modules in it returned or attributes were set to.

    Args:
        module: the module.
        names: dotted names of modules in it, or of attributes that forward sets (`"aux_loss"`, `"block.aux_loss"`).

    Returns:
        A function with the arguments of forward that returns `(output, {name: value})`; ordinary results, also under
        `fnn.jit` and in gradients. Of a module that is called several times the last output is given.

    Raises:
        AttributeError: where nothing has one of the names, or what has it was not called.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Sequential(fnn.nn.Linear(2, 3), fnn.nn.ReLU())
        >>> y, values = fnn.capture(net, ["0"])(jnp.ones((1, 2)))
        >>> values["0"].shape
        (1, 3)
    """

    if not hasattr(module, "named_modules"):
        raise TypeError(f"fnn.capture takes a Module, got {type(module).__name__}; compile the function that it returns")

    def captured(*args: Any, **kwargs: Any) -> Any:
        modules = dict(module.named_modules())
        for name in names:
            if name not in modules and name.rpartition(".")[0] not in modules:
                raise AttributeError(f"{type(module).__name__} has no module or attribute {name!r}")
        wanted = {
            name: _outputs.setdefault(modules[name], Cell(label=f"the output of {name}")) for name in names if name in modules
        }

        def attempt(token: bool) -> Any:
            found: dict[str, Any] = {}
            added = [name for name in wanted if _CAPTURE not in modules[name]._forward_hooks]
            for name in added:  # the same key and function each time, so that what was compiled with them is found again
                modules[name]._forward_hooks[_CAPTURE] = _note_output
            try:
                with Scope(token=token) as scope:
                    out = module(*args, **kwargs)
                    for name in names:
                        if name not in modules:
                            owner, _, attribute = name.rpartition(".")
                            found[name] = getattr(modules[owner], attribute)
            finally:
                for name in added:
                    del modules[name]._forward_hooks[_CAPTURE]
            found |= {name: scope.written[cell] for name, cell in wanted.items() if cell in scope.written}
            if missing := [name for name in names if name not in found]:
                raise AttributeError(f"{type(module).__name__} did not call {missing}")
            own = {wanted[name] for name in added}
            _scope.commit({cell: value for cell, value in scope.written.items() if cell not in own})
            return out, {name: found[name] for name in names}

        return restartable(module, attempt)

    return captured


_CAPTURE = "fnn.capture"
_outputs: weakref.WeakKeyDictionary[Any, Cell] = weakref.WeakKeyDictionary()


def _note_output(module: Any, args: Any, out: Any) -> None:
    _scope.write(_outputs[module], out)
