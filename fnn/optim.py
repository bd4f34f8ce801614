"""Optimizer: an optax transformation for the parameters of a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.guards import Registry, Stateful, touch
from fnn.scope import Cell
from fnn.tree import nest, unnest


class Optimizer(Stateful):
    """Changes the parameters of a module as an optax transformation says.

    It optimises the parameters that require a gradient when it is made. One that is frozen later stays as it is, and so
    does its part of the optimizer's state; one that is unfrozen later is an error.

    Args:
        module: whose parameters to change.
        transformation: such as `optax.adam(1e-3)`. It sees parameters as nested dicts, like `fnn.split(module)[0]`.

    Example:
        >>> import fnn, jax.numpy as jnp, optax
        >>> net = fnn.nn.Linear(2, 1)
        >>> optimizer = fnn.optim.Optimizer(net, optax.sgd(0.5))
        >>> loss = fnn.backward(lambda net: net(jnp.ones(2)).sum(), net)
        >>> before = net.bias.value
        >>> optimizer.step()
        >>> (before - net.bias).tolist()
        [0.5]
        >>> optimizer.zero_grad()
        >>> net.bias.grad is None
        True
    """

    def __init__(self, module: Any, transformation: optax.GradientTransformation):
        self.module = module
        self.transformation = optax.with_extra_args_support(transformation)
        self._parameters = Registry({name: p for name, p in module.named_parameters() if p.requires_grad})
        state = self.transformation.init(self._values())
        leaves, self._tree = jax.tree_util.tree_flatten(state)
        self._state = tuple(Cell(as_array(leaf), "the optimizer's state") for leaf in leaves)

    def _values(self) -> dict[str, Any]:
        return nest({name: p.value for name, p in self._parameters.items()})

    def cells(self) -> Iterator[Cell]:
        """The parameters that it changes, and its own state."""
        touch(self)
        yield from self._parameters.values()
        yield from self._state

    @property
    def state(self) -> Any:
        """The state of the optax transformation."""
        return jax.tree.unflatten(self._tree, [cell.value for cell in self._state])

    def step(self, grads: Mapping[str, Any] | None = None, **extra: Any) -> None:
        """Changes the parameters once.

        Args:
            grads: a nested dict of gradients, as `fnn.value_and_grad` returns; by default `.grad` of each parameter.
            extra: further arguments for the transformation, such as `value` for line searches.

        Raises:
            ValueError: where gradients are missing, unexpected or of another shape than the parameter; nothing changes.
        """
        touch(self)
        by_grad = grads is None
        parameters = self._parameters
        if by_grad:
            given = {name: p.grad for name, p in parameters.items() if p.grad is not None}
            if not given:
                raise ValueError("step() found no gradient: call fnn.backward first, or pass grads")
        else:
            given = _gradients(grads)
        self._check(given, by_grad)
        still = [name for name in parameters if name not in given]
        gradients = {name: given[name] if name in given else jnp.zeros_like(p.value) for name, p in parameters.items()}
        values = self._values()
        updates, state = self.transformation.update(nest(gradients), self.state, values, **extra)
        new = unnest(optax.apply_updates(values, updates))
        if jax.tree.structure(state) != self._tree:  # type: ignore[operator]
            raise ValueError("the transformation changed the structure of its state")
        paths = [path for path, _ in jax.tree.leaves_with_path(state)]
        for cell, path, value in zip(self._state, paths, jax.tree.leaves(state), strict=True):
            if _owner(path, parameters) not in still:
                _scope.write(cell, value)
        for name, value in new.items():
            if name in given:
                parameters[name].value = value

    def _check(self, given: Mapping[str, Any], by_grad: bool) -> None:
        parameters = self._parameters
        added = [name for name, p in self.module.named_parameters() if p.requires_grad and parameters.get(name) is not p]
        unexpected = [name for name in given if name not in parameters]
        missing = [name for name, p in parameters.items() if p.requires_grad and name not in given and not by_grad]
        shapes = [
            f"{name}: expected {parameters[name].shape}, got {jnp.shape(value)}"
            for name, value in given.items()
            if name in parameters and jnp.shape(value) != parameters[name].shape
        ]
        problems = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of the wrong shape", shapes),
                ("not known to the optimizer, since they were not there or did not require a gradient when it was made", added),
            )
            if names
        ]
        if problems:
            raise ValueError(
                f"the gradients do not match the parameters of {type(self.module).__name__}: {'; '.join(problems)}"
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes away, or sets to zero, the gradients that `fnn.backward` added up."""
        touch(self)
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else jnp.zeros_like(parameter.grad)

    def state_dict(self) -> dict[str, Any]:
        """The state of the transformation: arrays by their path in it."""
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(self.state)]
        return dict(zip(paths, (cell.value for cell in self._state), strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes a state that `state_dict` gave: all of it, or nothing.

        Raises:
            ValueError: where a key is missing or unexpected, or a shape differs.
        """
        own = self.state_dict()
        missing = [key for key in own if key not in state_dict]
        unexpected = [key for key in state_dict if key not in own]
        wrong = [
            f"{key}: expected {jnp.shape(value)}, got {np.shape(state_dict[key])}"
            for key, value in own.items()
            if key in state_dict and np.shape(state_dict[key]) != jnp.shape(value)
        ]
        if missing or unexpected or wrong:
            raise ValueError(
                f"the state does not match the optimizer's: missing {missing}, unexpected {unexpected}, wrong shapes {wrong}"
            )
        values = [as_array(state_dict[key], value.dtype) for key, value in own.items()]
        _scope.commit(dict(zip(self._state, values, strict=True)))


def _gradients(grads: Any) -> dict[str, Any]:
    if not isinstance(grads, Mapping):
        raise ValueError(f"gradients must be a nested dict shaped as fnn.split(module)[0], got {type(grads).__name__}")
    return unnest(grads)


def _owner(path: Any, parameters: Mapping[str, Any]) -> str | None:
    """The parameter that a leaf of the state is for: the longest name that its path ends with."""
    keys = tuple(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))
    names = (".".join(keys[i:]) for i in range(len(keys)))
    return next((name for name in names if name in parameters), None)


__all__ = ["Optimizer"]
