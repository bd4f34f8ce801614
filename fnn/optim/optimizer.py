"""Optimizer: an optax transformation for the parameters of a module."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import DictKey, keystr

from fnn import scope as _scope
from fnn.arrays import as_array, beside, is_tensor, to_array
from fnn.guards import Registry, Stateful, touch
from fnn.pure import bound, split
from fnn.scope import Cell
from fnn.tree import nest, unnest

__all__ = ["Optimizer"]

_KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


class Optimizer(Stateful):
    """Changes the parameters of a module as an optax transformation, or one for each group of parameters, says.

    It optimises the parameters that require a gradient when it is made. One that is frozen later (`requires_grad = False`)
    stays as it is, and so does its part of the state, whatever decay or momentum; what a transformation holds for all
    parameters of a group, such as a count of steps, stays where no parameter of the group moves. A parameter that is
    unfrozen or put into the module later is an error of `step` until `add_parameters` takes it in.

    Hyperparameters that shall change by hand are made a part of the state by `optax.inject_hyperparams`:
    `optax.tree.get(optimizer.state, "learning_rate")` shows one, and
    `optimizer.state = optax.tree.set(optimizer.state, learning_rate=1e-4)` sets it (in every group). `state` gives a copy of
    its dicts, so that `optimizer.state.hyperparams["learning_rate"] = 1e-4` alone changes nothing. A schedule is an argument
    of the transformation: `optax.adam(optax.cosine_decay_schedule(1e-3, 1000))`.

    Args:
        module: whose parameters to change.
        transformation: such as `optax.adam(1e-3)`. It sees parameters as nested dicts, like `fnn.split(module)[0]`. Or a
            mapping from patterns of dotted names (those of `fnmatch`: `*` stands for anything, dots included) to
            transformations: each parameter belongs to the first pattern that its name matches, a shared one by its first
            name. None freezes a group for this optimizer: gradients are still taken in it and may be given to `step`,
            which leaves it as it is; `requires_grad = False` spares taking them.

    Attributes:
        module: the module.
        transformation: the optax transformation; for groups an `optax.partition` of them by pattern.

    Raises:
        ValueError: where nothing requires a gradient; where a parameter that requires one matches no pattern, or a pattern
            is no parameter's first.
        TypeError: where an argument is no module, or no optax transformation.

    Example:
        >>> import fnn, jax.numpy as jnp, optax
        >>> net = fnn.nn.Linear(2, 1)
        >>> optimizer = fnn.optim.Optimizer(net, {"bias": optax.sgd(0.5), "*": optax.adamw(1e-3, weight_decay=0.1)})
        >>> loss = fnn.backward(lambda net: net(jnp.ones(2)).sum(), net)
        >>> before = net.bias.value
        >>> optimizer.step()
        >>> (before - net.bias).tolist()
        [0.5]
        >>> optimizer.zero_grad()
        >>> net.bias.grad is None
        True
        >>> optimizer
        Optimizer(Linear
          'bias': 1 parameters, 1 elements
          '*': 1 parameters, 2 elements
        )
    """

    _state: tuple[Cell, ...]
    _tree: Any

    def __init__(self, module: Any, transformation: Any):
        if not isinstance(module, Stateful) or not hasattr(module, "named_parameters"):
            raise TypeError(
                f"Optimizer takes a Module, whose parameters have names (not net.parameters()), got {type(module).__name__}"
            )
        self.module = module
        self._grouped = isinstance(transformation, Mapping)
        groups = transformation if self._grouped else {"*": transformation}
        self._transformations = Registry({pattern: _checked(each) for pattern, each in groups.items()})
        first = {name: self._first_pattern(name) for name, _ in module.named_parameters()}
        if idle := [pattern for pattern in self._transformations if self._grouped and pattern not in first.values()]:
            raise ValueError(
                f"patterns that no parameter of {type(module).__name__} matches first: {', '.join(map(repr, idle))} "
                f"(an earlier pattern may take what they match; the names are {', '.join(first)})"
            )
        self._parameters, self._labels, self._state, self._places = Registry(), Registry(), (), _Places([])
        self._take_in()
        if not self._parameters:
            raise ValueError(f"optimizer got an empty parameter list: no parameter of {type(module).__name__} is to be trained")

    def _first_pattern(self, name: str) -> str | None:
        return next((pattern for pattern in self._transformations if fnmatch.fnmatchcase(name, pattern)), None)

    def _is_left_out(self, name: str) -> bool:
        """Whether the group that a name belongs to is frozen."""
        pattern = self._first_pattern(name)
        return pattern is not None and self._transformations[pattern] is None

    def _take_in(self) -> None:
        """Makes a state for the parameters known, under their names now, and those to train; what was there stays."""
        known = {parameter: self._labels[name] for name, parameter in self._parameters.items()}
        parameters, labels = {}, {}
        for name, parameter in self.module.named_parameters():
            if parameter in known or (parameter.requires_grad and not self._is_left_out(name)):
                parameters[name] = parameter
                labels[name] = known.get(parameter) or self._first_pattern(name)
        if unmatched := [name for name in parameters if labels[name] is None]:
            raise ValueError(
                f"parameters that match no pattern: {', '.join(unmatched)} (the patterns are "
                f"{', '.join(map(repr, self._transformations))}; {{..., '*': None}} would leave the rest as it is)"
            )
        if self._grouped:
            used = {pattern: each for pattern, each in self._transformations.items() if each is not None}
            transformation = optax.partition(used, nest(labels), mask_compatible_extra_args=True)
        else:
            transformation = self._transformations["*"]
        values = nest({name: parameter.value for name, parameter in parameters.items()})
        leaves, tree = jax.tree_util.tree_flatten_with_path(transformation.init(values))
        places = [_place(path, parameters, self._grouped) for path, _ in leaves]
        there = {
            (place.before, self._parameters.get(place.name), place.after): cell
            for place, cell in zip(self._places.all, self._state, strict=True)
        }
        cells = []
        for place, (_, value) in zip(places, leaves, strict=True):
            fresh = as_array(value)
            if _scope.is_tracer(fresh):
                raise _scope.StateError("an Optimizer cannot be made, nor take in parameters, inside a JAX transformation")
            cell = there.get((place.before, parameters.get(place.name), place.after)) or Cell(fresh, "the optimizer's state")
            if cell.value.shape != fresh.shape:
                raise ValueError(f"the transformation holds {place.key()} for all parameters together, so it takes in no more")
            cells.append(cell)
        self._parameters, self._labels = Registry(parameters), Registry(labels)
        self.transformation = transformation
        self._state, self._tree, self._places = tuple(cells), tree, _Places(places)

    def add_parameters(self) -> list[str]:
        """Takes in the parameters of the module that require a gradient now, each by its group, with a fresh state.

        The state of the others stays as it is, and so does what a group holds for all of its parameters, such as its count
        of steps: give what shall count from 0 a pattern of its own. The state of a parameter that is no longer in the
        module is dropped; one that goes by another name now keeps its state under that name.

        Returns:
            The names of the parameters taken in.

        Raises:
            ValueError: where one matches no pattern; nothing changes.

        Example:
            >>> import fnn, optax
            >>> net = fnn.nn.Sequential(fnn.nn.Linear(2, 2), fnn.nn.Linear(2, 1)).requires_grad_(False)
            >>> net[1].requires_grad_(True)
            Linear(in_features=2, out_features=1, bias=True)
            >>> optimizer = fnn.optim.Optimizer(net, optax.adam(1e-3))
            >>> net.requires_grad_(True)[0]
            Linear(in_features=2, out_features=2, bias=True)
            >>> optimizer.add_parameters()
            ['0.weight', '0.bias']
        """
        touch(self)
        known = set(self._parameters.values())
        self._take_in()
        return [name for name, parameter in self._parameters.items() if parameter not in known]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state":
            object.__setattr__(self, name, value)  # a property, which may be given traced values
        else:
            super().__setattr__(name, value)

    def _cells(self) -> Iterator[Cell]:
        """The parameters that it changes, and its own state."""
        touch(self)
        yield from self._parameters.values()
        yield from self._state

    @property
    def state(self) -> Any:
        """The state of the optax transformation; it can be set to another of the same structure, shapes and kinds of dtype."""
        touch(self)
        return jax.tree.unflatten(self._tree, [cell.value for cell in self._state])

    @state.setter
    def state(self, state: Any) -> None:
        touch(self)
        leaves, tree = jax.tree.flatten(state)
        if self._tree != tree:
            raise ValueError(f"the state has another structure than the optimizer's: expected {self._tree}, got {tree}")
        self._set(dict(zip(self._keys(), leaves, strict=True)))

    def _keys(self) -> list[str]:
        """What each leaf of the state is called: its path in it, with the name of its parameter as it is now."""
        names = {parameter: name for name, parameter in self.module.named_parameters()}
        return [place.key(names.get(self._parameters.get(place.name), place.name)) for place in self._places.all]

    def step(self, grads: Mapping[str, Any] | None = None, **extra: Any) -> None:
        """Changes the parameters once.

        Args:
            grads: a nested dict of gradients, as `fnn.value_and_grad` returns. By default `.grad` of each parameter; one
                that has none does not move, as in torch. Gradients of frozen parameters are ignored.
            extra: further arguments for the transformation, such as `value=loss` for `optax.contrib.reduce_on_plateau`, or
                `value=`, `grad=` (as `grads`) and `value_fn=` for line searches. `value_fn` is called with the parameters, a
                nested dict as `fnn.split(module)[0]`, and while it runs the module holds them: `lambda _: loss(net)` will
                do. What it writes, such as batch statistics, is gone. Search lines under `fnn.jit`: outside of it JAX
                compiles the search anew each step.

        Raises:
            ValueError: where gradients are missing, unexpected or of another shape than the parameter, or a parameter is
                not known that requires one; nothing changes.

        Example:
            >>> import fnn, jax.numpy as jnp, optax
            >>> net = fnn.nn.Linear(3, 1)
            >>> optimizer = fnn.optim.Optimizer(net, optax.lbfgs())
            >>> loss = lambda net: (net(jnp.eye(3)) ** 2).sum()
            >>> @fnn.jit
            ... def step():
            ...     value, grads = fnn.value_and_grad(loss)(net)
            ...     optimizer.step(grads, value=value, grad=grads, value_fn=lambda _: loss(net))
            ...     return value
            >>> bool(step() > step())
            True
        """
        touch(self)
        current = dict(self.module.named_parameters())
        given = self._gradients(grads, current)
        parameters = self._parameters
        values = {name: parameter.value for name, parameter in parameters.items()}
        if isinstance(extra.get("grad"), Mapping):
            extra["grad"] = nest(_complete(self._gradients(extra["grad"], current), values))
        if callable(extra.get("value_fn")):
            extra["value_fn"] = self._with_module(extra["value_fn"], given, current)
        gradients = nest(_complete(given, values))
        updates, state = self.transformation.update(gradients, self.state, nest(values), **extra)
        new = unnest(optax.apply_updates(nest(values), updates))
        leaves, tree = jax.tree.flatten(state)
        if self._tree != tree:
            raise ValueError(f"the transformation changed the structure of its state from {self._tree} to {tree}")
        moved = {self._labels[name] for name in given}
        for cell, place, leaf in zip(self._state, self._places.all, leaves, strict=True):
            if place.name in given or (place.name is None and place.group in moved):
                _scope.write(cell, as_array(leaf))
        for name in given:
            parameters[name].value = new[name]

    def _gradients(self, grads: Any, current: Mapping[str, Any]) -> dict[str, Any]:
        """Gradients by the names that the state has, for the parameters that shall move."""
        known = {parameter: name for name, parameter in self._parameters.items()}
        added = [name for name, p in current.items() if p.requires_grad and p not in known and not self._is_left_out(name)]
        live = {name: p for name, p in current.items() if p.requires_grad and p in known}
        missing, unexpected = [], []
        if grads is None:
            named = {name: p.grad for name, p in live.items() if p.grad is not None}
        elif isinstance(grads, Mapping):
            named = unnest(grads)
            missing = [name for name in live if name not in named]
            unexpected = [name for name in named if name not in current]
        else:
            closure = " (there are no closures: see value_fn)" if callable(grads) else ""
            raise ValueError(
                f"gradients must be a nested dict shaped as fnn.split(module)[0], got {type(grads).__name__}{closure}"
            )
        shapes = [
            f"{name}: expected {p.shape}, got {np.shape(named[name])}"
            for name, p in live.items()
            if name in named and np.shape(named[name]) != p.shape
        ]
        problems = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of the wrong shape", shapes),
                (
                    "not known to the optimizer, since they were not there or did not require a gradient when it was made "
                    "(add_parameters() takes them in)",
                    added,
                ),
            )
            if names
        ]
        if problems:
            raise ValueError(
                f"the gradients do not match the parameters of {type(self.module).__name__}: {'; '.join(problems)}"
            )
        if grads is None and not named:
            raise ValueError("step() found no gradient: call fnn.backward first, or pass grads")
        return {known[p]: to_array(named[name]) for name, p in live.items() if name in named}

    def _with_module(
        self, function: Callable[..., Any], moving: Mapping[str, Any], current: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """The function of all parameters that a line search calls with those of one group, with the module holding them."""
        # All values are looked up here: a line search stages the function, and would keep what it looks up as constants.
        params, state = split(self.module)
        held = unnest(params)
        names = {parameter: name for name, parameter in current.items()}
        moved = {name: names[self._parameters[name]] for name in moving}

        def called(tree: Any, *args: Any, **kwargs: Any) -> Any:
            tried = unnest(tree)
            known = {now: tried[name] for name, now in moved.items() if isinstance(tried.get(name), jax.Array)}
            full = nest({**held, **known})
            with bound(self.module, full, state):
                return function(full, *args, **kwargs)

        return called

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes away, or sets to zero, the gradients that `fnn.backward` added up in the module."""
        touch(self)
        self.module.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of the transformation: arrays by their path in it; random keys as the integers that they consist of."""
        touch(self)
        return {key: _exported(cell.value) for key, cell in zip(self._keys(), self._state, strict=True)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes a state that `state_dict` gave: all of it, or nothing.

        Args:
            state_dict: jax or numpy arrays, or torch tensors. What is on no particular device goes where the old value is.

        Raises:
            ValueError: where a key is missing or unexpected, or a shape or kind of dtype differs; all of them are listed.
        """
        touch(self)
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"expected state_dict to be dict-like, got {type(state_dict).__name__}")
        self._set(state_dict)

    def _set(self, values: Mapping[str, Any]) -> None:
        cells = dict(zip(self._keys(), self._state, strict=True))
        arrays: dict[Cell, Any] = {}
        problems = [f"missing {key}" for key in cells if key not in values]
        problems += [f"unexpected {key}" for key in values if key not in cells]
        for key, cell in cells.items():
            if key in values:
                try:
                    arrays[cell] = _fitted(values[key], cell.value)
                except (OverflowError, TypeError, ValueError) as error:
                    problems.append(f"{key}: {error}")
        if problems:
            raise ValueError(f"the state does not match the optimizer's: {'; '.join(problems)}")
        _scope.commit(arrays)

    def __repr__(self) -> str:
        lines, trained = [], set(self._parameters.values())
        for pattern, transformation in self._transformations.items():
            if transformation is None:
                named = self.module.named_parameters()
                own = [p for name, p in named if self._first_pattern(name) == pattern and p not in trained]
            else:
                own = [p for name, p in self._parameters.items() if self._labels[name] == pattern]
            frozen = "frozen, " if transformation is None else ""
            label = f"{pattern!r}: " if self._grouped else ""
            lines.append(f"{label}{frozen}{len(own)} parameters, {sum(p.numel() for p in own):,} elements")
        name = type(self.module).__name__
        return f"Optimizer({name}: {lines[0]})" if not self._grouped else "\n  ".join([f"Optimizer({name}", *lines]) + "\n)"


class _Place(NamedTuple):
    """Where a leaf of the state is: the path before the name of its parameter, that name, the path after it; its group."""

    before: str
    name: str | None
    after: str
    group: str

    def key(self, name: str | None = None) -> str:
        """The path, with another name of the parameter."""
        name = name or self.name
        parts = () if name is None else tuple(map(DictKey, name.split(".")))
        return self.before + keystr(parts) + self.after


class _Places:
    """The places of a state, as one object, whose identity is all that guards compare."""

    def __init__(self, places: list[_Place]):
        self.all = places


def _place(path: Any, parameters: Mapping[str, Any], grouped: bool) -> _Place:
    """A leaf is for the parameter whose name is in its path: the last one there, the longest one that ends there."""
    begin = 2 if grouped else 0  # after .inner_states['pattern'], which may be the name of a parameter
    group = path[1].key if grouped else "*"
    for stop in range(len(path), begin, -1):
        for start in range(begin, stop):
            part = path[start:stop]
            if all(isinstance(key, DictKey) for key in part):
                name = ".".join(str(key.key) for key in part)
                if name in parameters:
                    return _Place(keystr(path[:start]), name, keystr(path[stop:]), group)
    return _Place(keystr(path), None, "", group)


def _checked(transformation: Any) -> Any:
    """An optax transformation that takes extra arguments; None stays None."""
    if transformation is None:
        return None
    if isinstance(transformation, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(transformation.init, transformation.update)
    if not callable(getattr(transformation, "init", None)) or not callable(getattr(transformation, "update", None)):
        raise TypeError(
            "expected an optax transformation such as optax.adam(1e-3), or a mapping from patterns of names to "
            f"transformations, got {transformation if callable(transformation) else type(transformation).__name__}"
        )
    return optax.with_extra_args_support(transformation)


def _complete(gradients: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Gradients for all parameters: zero for those that shall not move."""
    return {name: gradients[name] if name in gradients else jnp.zeros_like(value) for name, value in values.items()}


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _exported(value: jax.Array) -> jax.Array:
    return jax.random.key_data(value) if _is_key(value) else value


def _kind(dtype: Any) -> int:
    return next((i for i, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind)), len(_KINDS))


def _fitted(value: Any, old: jax.Array) -> jax.Array:
    """The value in the dtype of the old one, and where it is, unless it says where it is itself.

    Raises:
        ValueError: where the shape differs, or the dtype is of a kind that the old one cannot hold.
    """
    if _is_key(old):
        if not _is_key(value):
            value = jax.random.wrap_key_data(as_array(value, jnp.uint32), impl=jax.random.key_impl(old))
        array = value
    else:
        given = value if hasattr(value, "dtype") and not is_tensor(value) else as_array(value)
        if _kind(given.dtype) > _kind(old.dtype):
            raise ValueError(f"expected dtype {old.dtype.name}, got {given.dtype}")
        array = as_array(value, old.dtype)
    if array.shape != old.shape:
        raise ValueError(f"expected shape {old.shape}, got {array.shape}")
    return beside(array, old)
