"""The bridge between the two faces: a module as a pair of pure functions, and its values as nested dicts of arrays."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.guards import Registry, Stateful
from fnn.leaks import end_leaks_of_hooks
from fnn.scope import OWN, Cell, Missing, Scope
from fnn.transforms import plain, restartable
from fnn.tree import nest, unnest


class Layer(NamedTuple):
    """A layer as two pure functions; see `pure`."""

    init: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    apply: Callable[..., Any]


def pure(module: Any) -> Layer:
    """A module as a pair of pure functions over nested dicts of arrays, for every JAX transformation.

    The pair is made from a frozen picture of the module: nothing that is done to the module later changes it.

    Args:
        module: any Module; its values are not looked at.

    Returns:
        `init(rng, *args, **kwargs) -> (params, state)`: fresh values. `params` are the parameters that require a gradient;
        `state` is the rest: buffers, and frozen parameters. Lazy modules take their shapes from an example of the
        arguments of forward, which may be a `jax.ShapeDtypeStruct`; else none are needed.

        `apply(params, *args, state=None, rng=None, training=False, method=None, **kwargs)`: the output of forward. With
        `state` given, `(output, new_state)`. `rng` is the key for dropout and the like. `training=True` runs each
        submodule in the mode that `train()` or `eval()` had left it in. `method` names another method than forward, or
        is that function.

    Raises:
        StateError: by apply, where `state` or `rng` is needed and not given; where the shapes of lazy modules are not known.
        KeyError: by apply, where names are missing from params or state, or are not the module's.

    Example:
        >>> import fnn, jax, jax.numpy as jnp
        >>> init, apply = fnn.pure(fnn.nn.Linear(3, 2))
        >>> params, state = init(jax.random.key(0))
        >>> jax.tree.map(jnp.shape, params), state
        ({'bias': (2,), 'weight': (2, 3)}, {})
        >>> jax.jit(apply)(params, jnp.ones((4, 3))).shape
        (4, 2)
    """
    picture = _picture(module)
    root = picture.root

    def init(rng: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fresh values: `(params, state)`, from a JAX key or an integer seed; lazy modules need an example of arguments."""
        if picture.unsettled() and (args or kwargs):
            picture.settle(args, kwargs)
        picture.require_shapes()
        key = _random.as_key(rng)
        values = {name: draw(jax.random.fold_in(key, i)) for i, (name, draw) in enumerate(picture.draws.items())}
        return picture.split(picture.redrawn(values, jax.random.fold_in(key, len(values))))

    def apply(
        params: Mapping[str, Any],
        /,
        *args: Any,
        state: Mapping[str, Any] | None = None,
        rng: Any = None,
        training: bool = False,
        method: str | Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The output of forward for these parameters; with `state` given, `(output, new_state)`."""
        picture.require_shapes()
        held, frozen = picture.hold(params, state)
        stream: Any = _random.NoStream() if rng is None else _random.Stream(_random.as_key(rng))
        writable = (
            [picture.cells[name] for name in frozen],
            "apply returns only state: the cell is not in it, or no state was given (pass state=)",
        )
        mode = OWN if training else False

        def attempt(token: bool) -> Any:
            stream.count = 0
            try:
                with (
                    _random.drawing_from(stream),
                    Scope(held, token=token, mode=mode, writable=writable, forgets=True) as scope,
                ):
                    out = plain(_method(root, method)(*args, **kwargs))
            finally:
                picture.restore()
            end_leaks_of_hooks(scope.hooked, scope.crossings)
            if state is None:
                return out
            new = {name: scope.written.get(picture.cells[name], value) for name, value in frozen.items()}
            return out, nest(new)

        return restartable(root, attempt)

    return Layer(init, apply)


def _method(root: Any, method: Any) -> Any:
    if method is None:
        return root
    if isinstance(method, str):
        return getattr(root, method)
    return functools.partial(getattr(method, "__func__", method), root)


class _Blank(Missing):
    """Stands in a scope for the value of a parameter or buffer where only its shape matters."""

    def read(self, cell: Any) -> Any:
        return jnp.zeros(cell.shape, cell.dtype)


class _Dry(_random.Stream):
    """The source of random numbers where only shapes matter; it takes no keys of initial values from the default one."""

    def reserve(self) -> Callable[[], Any]:
        return lambda: None


class _picture:
    """A module as it is now: clones of the module objects that share the parameters and buffers of the originals.

    Parameters and buffers whose shape is not known yet are copied, since the originals could be given one later.
    """

    def __init__(self, module: Any):
        if not isinstance(module, Stateful) or not hasattr(module, "named_modules"):
            raise TypeError(f"fnn.pure takes a Module, got {type(module).__name__}")
        self._clones: dict[int, Any] = {}
        self._containers: list[tuple[Any, Any]] = []  # of attributes, and what was in them
        originals = list(module.modules())
        for original in originals:
            self._clones[id(original)] = object.__new__(type(original))
        for original in originals:
            vars(self._clones[id(original)]).update({name: self._copy(value) for name, value in vars(original).items()})
        self.root = self._clones[id(module)]
        self.cells: dict[str, Any] = {name: self._copy(cell) for name, cell in module._named_cells().items()}
        self.trainable = {name for name, cell in self.cells.items() if cell.requires_grad}
        self.frozen_parameters = {name for name, _ in module.named_parameters()} - self.trainable
        self.draws = {name: _drawing(cell) for name, cell in self.cells.items()}
        self.redraw = [part for part in self.root.modules() if getattr(type(part), "_redraws", None) and part._redraws]

    def _copy(self, value: Any) -> Any:
        """The value with clones in the place of modules, and containers copied, since they could change later."""
        if id(value) in self._clones:
            return self._clones[id(value)]
        if isinstance(value, Cell) and value.uninitialized:
            self._clones[id(value)] = copy.deepcopy(value)
            return self._clones[id(value)]
        if isinstance(value, tuple) and type(value) is not tuple:
            return type(value)(*map(self._copy, value)) if hasattr(value, "_fields") else value
        if type(value) is tuple:
            return tuple(map(self._copy, value))
        if type(value) in (list, set):
            copied = type(value)(map(self._copy, value))
            self._containers.append((copied, copied.copy()))
            return copied
        if isinstance(value, dict):
            copied = copy.copy(value)
            for key, item in value.items():
                copied[key] = self._copy(item)
            if not isinstance(value, Registry):
                self._containers.append((copied, copied.copy()))
            return copied
        if isinstance(value, types.MethodType) and id(value.__self__) in self._clones:
            return types.MethodType(value.__func__, self._clones[id(value.__self__)])
        if isinstance(value, functools.partial):
            keywords = {name: self._copy(item) for name, item in value.keywords.items()}
            return functools.partial(self._copy(value.func), *map(self._copy, value.args), **keywords)
        return value

    def restore(self) -> None:
        """Puts back into lists, dicts and sets of the modules what was there, in case forward changed them."""
        for container, before in self._containers:
            if isinstance(container, list):
                container[:] = before
            else:
                container.clear()
                container.update(before)

    def unsettled(self) -> list[str]:
        """The names of parameters and buffers whose shape is not known yet."""
        return [name for name, cell in self.cells.items() if cell.uninitialized]

    def require_shapes(self) -> None:
        if names := self.unsettled():
            raise _scope.StateError(
                f"the shapes of {', '.join(map(repr, names))} of {type(self.root).__name__} are not known yet: pass init an "
                "example of what forward takes, init(rng, x), where x may be a jax.ShapeDtypeStruct. (Where only the shapes "
                "are needed, jax.eval_shape(init, rng, x) draws no values.)"
            )

    def settle(self, args: Any, kwargs: Any) -> None:
        """Lets lazy modules take their shapes from arguments of forward, without computing anything.

        In evaluation mode, which asks least of an example; then in the module's own, for what is left.
        """
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

        def run(mode: Any, arrays: Any) -> None:
            given = list(leaves)
            for i, array in zip(places, arrays, strict=True):
                given[i] = array
            args, kwargs = jax.tree.unflatten(tree, given)
            with (
                _random.drawing_from(_Dry(_random.as_key(0))),
                Scope(dict.fromkeys(self.cells.values(), _Blank("")), mode=mode),
            ):
                self.root(*args, **kwargs)

        for mode in (False, OWN):
            if self.unsettled():
                jax.eval_shape(
                    functools.partial(run, mode), [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in places]
                )

    def redrawn(self, values: dict[str, Any], key: Any) -> dict[str, Any]:
        """Fresh values, where some are derived from others: parametrized ones from a fresh draw of what they are made from."""
        if not self.redraw:
            return values
        held = {self.cells[name]: value for name, value in values.items()}

        def attempt(token: bool) -> dict[Cell, Any]:
            with _random.drawing_from(_random.Stream(key)), Scope(held, token=token, mode=False) as scope:
                for part in reversed(self.redraw):  # children first
                    part._redraw()
            return scope.written

        written = restartable(self.root, attempt)
        return {name: written.get(self.cells[name], value) for name, value in values.items()}

    def split(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        params = {name: value for name, value in values.items() if name in self.trainable}
        state = {name: value for name, value in values.items() if name not in self.trainable}
        return nest(params), nest(state)

    def hold(self, params: Any, state: Any) -> tuple[dict[Cell, Any], dict[str, Any]]:
        """What the scope shall hold, and the values of state by name."""
        given = _named(params, "params")
        frozen = {} if state is None else _named(state, "state")
        shared = [name for name in given if name in frozen]
        unexpected = [name for name in [*given, *frozen] if name not in self.cells]
        unexpected += [name for name in given if name in self.cells and name not in self.trainable | self.frozen_parameters]
        unexpected += [name for name in frozen if name in self.trainable]
        missing = [name for name in self.cells if name in self.trainable and name not in given]
        if state is not None:
            missing += [name for name in self.cells if name not in self.trainable and name not in given and name not in frozen]
        problems = [
            f"{what}: {', '.join(map(repr, dict.fromkeys(names)))}"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("in both params and state", shared))
            if names
        ]
        if problems:
            raise KeyError(
                f"params and state do not match {type(self.root).__name__}: {'; '.join(problems)}. params holds the parameters "
                "that required a gradient when fnn.pure was called, state everything else"
            )
        values = {**given, **frozen}
        held: dict[Cell, Any] = {}
        for name, cell in self.cells.items():
            if name in values:
                held[cell] = values[name]
            else:
                held[cell] = Missing(
                    f"{cell.label} ('{name}') is needed, but apply was given no state: pass state=, as init returned it"
                )
        return held, frozen


def _drawing(cell: Any) -> Callable[[Any], Any]:
    """How to draw the value of a cell, whatever becomes of the cell later."""
    if cell.uninitialized:
        return lambda key: cell.draw(key)
    if cell.drawn:
        copied = cell.__deepcopy__({})
        return lambda key: copied.draw(key)
    value = cell.value
    return lambda key: value


def _named(tree: Any, what: str) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        raise TypeError(f"{what} must be a nested dict of arrays, as init returns it, got {type(tree).__name__}")
    return unnest(tree)


def split(module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The current values of a module, as nested dicts that mirror it.

    Returns:
        `(params, state)`: the parameters that require a gradient, and the rest. A shared parameter is there once, under
        its first name.

    Example:
        >>> import fnn
        >>> params, state = fnn.split(fnn.nn.BatchNorm1d(2))
        >>> list(params), list(state)
        (['weight', 'bias'], ['running_mean', 'running_var', 'num_batches_tracked'])
    """
    cells = module._named_cells()
    values = dict(zip(cells, _scope.read_all(cells.values()), strict=True))
    trainable = {name for name, cell in cells.items() if cell.requires_grad}
    return (
        nest({name: value for name, value in values.items() if name in trainable}),
        nest({name: value for name, value in values.items() if name not in trainable}),
    )


def _match(module: Any, params: Any, state: Any) -> dict[Cell, Any]:
    """Values by cell, for trees that have them under the names of a module."""
    values = {**_named(params, "params"), **_named(state or {}, "state")}
    cells = module._named_cells()
    unexpected = [name for name in values if name not in cells]
    missing = [name for name, cell in cells.items() if cell.requires_grad and name not in values]
    if unexpected or missing:
        raise KeyError(f"the values do not match {type(module).__name__}: missing {missing}, unexpected {unexpected}")
    return {cells[name]: value for name, value in values.items()}


class bound:
    """Lets a module hold given values inside a `with` block; traced values are welcome.

    What is written inside is gone after the block; `fnn.split(module)` inside gives it.

    Args:
        module: the module.
        params: a nested dict of its parameters, as `fnn.split(module)[0]`.
        state: likewise of the rest, or of some of it.

    Raises:
        KeyError: where names are missing or not the module's.

    Example:
        >>> import fnn, jax, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 1)
        >>> params = {"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}
        >>> with fnn.bound(net, params):
        ...     net(jnp.ones(2)).tolist()
        [2.0]
    """

    def __init__(self, module: Any, params: Mapping[str, Any], state: Mapping[str, Any] | None = None):
        self._module = module
        self._scope = Scope(_match(module, params, state), block=True)

    def __enter__(self) -> Any:
        self._scope.__enter__()
        return self._module

    def __exit__(self, *error: Any) -> None:
        self._scope.__exit__(*error)
        if error[0] is None:
            end_leaks_of_hooks(self._scope.hooked, self._scope.crossings)
        self._scope.count_outside()


def update(module: Any, params: Mapping[str, Any], state: Mapping[str, Any] | None = None) -> None:
    """Writes values back into a module: all of them, or none where they do not match.

    Args:
        module: the module.
        params: a nested dict of its parameters, as `fnn.split(module)[0]`.
        state: likewise of the rest, or of some of it.

    Raises:
        KeyError: where names are missing or not the module's.
        ValueError: where a shape differs.

    Example:
        >>> import fnn, jax
        >>> net = fnn.nn.Linear(2, 1)
        >>> fnn.update(net, *fnn.pure(net).init(jax.random.key(0)))
    """
    values = {cell: as_array(value) for cell, value in _match(module, params, state).items()}
    wrong = [
        f"{name}: expected shape {cell.shape}, got {values[cell].shape}"
        for name, cell in module._named_cells().items()
        if cell in values and values[cell].shape != cell.shape
    ]
    if wrong:
        raise ValueError(f"the values do not fit {type(module).__name__}: {'; '.join(wrong)}")
    _scope.commit(values)


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Any,
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Calls a module with some of its parameters and buffers replaced, as `torch.func.functional_call`.

    Args:
        module: the module.
        parameter_and_buffer_dicts: arrays by dotted name, or several such dicts. What forward writes to a value that is
            given here (batch statistics) is put into the dict, as torch changes the tensors in it.
        args: the positional arguments, a tuple, or a single one.
        kwargs: the keyword arguments.
        tie_weights: whether a value given for one name of a shared parameter counts for its other names. A shared parameter
            is one array, so without it all of its names must be given, or none.
        strict: whether every parameter and buffer must be given, and nothing else; else unknown names are ignored.

    Raises:
        RuntimeError: where names are missing or unexpected, with `strict`.
        ValueError: where tied names are given different values.
        NotImplementedError: where some names of a shared parameter are given without `tie_weights`.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 1)
        >>> fnn.functional_call(net, {"weight": jnp.ones((1, 2)), "bias": jnp.zeros(1)}, jnp.ones(2)).tolist()
        [2.0]
    """
    given_one = isinstance(parameter_and_buffer_dicts, Mapping)
    dicts: list[Any] = [parameter_and_buffer_dicts] if given_one else list(parameter_and_buffer_dicts)
    names = [name for values in dicts for name in values]
    if len(set(names)) != len(names):
        raise ValueError(f"{sorted({name for name in names if names.count(name) > 1})} appeared in multiple dictionaries")
    every = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    unexpected = [name for name in names if name not in every]
    given = {every[name] for name in names if name in every}
    missing = [name for name, cell in every.items() if name not in names and not (tie_weights and cell in given)]
    if strict and (missing or unexpected):
        raise RuntimeError(f"Missing key(s): {missing}. Unexpected key(s): {unexpected}.")
    held: dict[Cell, Any] = {}
    for values in dicts:
        for name, value in values.items():
            if name not in every:
                continue  # as in torch, unless strict
            if every[name] in held and held[every[name]] is not value:
                raise ValueError(f"functional_call got different values for {name!r} and another name of the same parameter")
            held[every[name]] = value
    if not tie_weights and (untied := [name for name in missing if every[name] in given]):
        raise NotImplementedError(
            f"a shared parameter is one array here: give all its names or none with tie_weights=False, missing {untied}"
        )
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)

    def attempt(token: bool) -> Any:
        with Scope(held, token=token) as scope:
            return plain(module(*arguments, **(kwargs or {}))), scope.written

    out, written = restartable(module, attempt)
    for values in dicts:
        for name in values:
            if every.get(name) in written:
                values[name] = written[every[name]]
    _scope.commit({cell: value for cell, value in written.items() if cell not in held})
    return out
