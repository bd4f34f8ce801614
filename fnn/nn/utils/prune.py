"""Pruning: parameters with some of their elements held at zero by a mask."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn import random as _random
from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Buffer
from fnn.nn.utils.recomputed import Recomputed, hide, installed
from fnn.nn.utils.smallest import smallest

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

M = TypeVar("M", bound=Module)


class BasePruningMethod(Recomputed, ABC):
    """A way to prune; a subclass says by `compute_mask` which elements, and by `PRUNING_TYPE` what it is given.

    Applied to a parameter `weight`, it makes it the parameter `weight_orig`, which is trained; the buffer `weight_mask` has
    1 for what is kept and 0 for what is pruned; and `module.weight` is their product, computed whenever it is read.

    Attributes:
        PRUNING_TYPE: what is given to compute_mask where a parameter is pruned again: "unstructured" for a vector of what
            is not pruned yet, "structured" for the slices along the attribute `dim` that are not all pruned, "global" for
            the parameter.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> class EverySecond(BasePruningMethod):
        ...     PRUNING_TYPE = "unstructured"
        ...     def compute_mask(self, t, default_mask):
        ...         return default_mask.ravel().at[::2].set(0).reshape(default_mask.shape)
        >>> layer = nn.Linear(4, 1)
        >>> method = EverySecond.apply(layer, "weight")
        >>> layer.weight_mask.tolist()
        [[0.0, 1.0, 0.0, 1.0]]
    """

    PRUNING_TYPE: str
    _tensor_name: str

    @property
    def computes(self) -> str:
        """The name of the parameter."""
        return self._tensor_name

    @abstractmethod
    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask for a parameter.

        Args:
            t: how important its elements are; the parameter itself, if nothing else is said.
            default_mask: 0 for what is pruned already, of the same shape.
        """

    def apply_mask(self, module: Module) -> jax.Array:
        """The product of mask and parameter, for the values that the module holds now."""
        orig, mask = (jnp.asarray(getattr(module, self._tensor_name + part)) for part in ("_orig", "_mask"))
        return mask.astype(orig.dtype) * orig

    def compute(self, module: Any) -> jax.Array:
        """The pruned parameter, for the values that the module holds now."""
        return self.apply_mask(module)

    @classmethod
    def apply(cls, module: Module, name: str, *args: Any, importance_scores: Any = None, **kwargs: Any) -> BasePruningMethod:
        """Prunes a parameter, also one that is pruned already; where that fails, the module stays what it was.

        Args:
            module: the module that has the parameter.
            name: the parameter.
            args: what the method is made with.
            importance_scores: an array of the parameter's shape, whose elements take the place of the parameter's.
            kwargs: what the method is made with.

        Returns:
            The hook: the method, or a `PruningContainer` where there was one before.
        """
        new = cls(*args, **kwargs)
        new._tensor_name = name
        key = installed(module, BasePruningMethod, name)
        old = None if key is None else module._forward_pre_hooks[key]
        orig = getattr(module, name)
        if old is None and module._parameters.get(name) is None:
            raise TypeError(f"cannot prune '{name}' of {type(module).__name__}: it is {type(orig).__name__}, not a Parameter")
        if importance_scores is not None and importance_scores.shape != orig.shape:
            raise AssertionError(
                f"importance_scores should have the same shape as parameter {name} of {module}, got "
                f"{importance_scores.shape} vs {orig.shape}"
            )
        scores = as_array(orig if importance_scores is None else importance_scores)
        if _scope.is_tracer(scores):
            raise _scope.StateError(
                f"'{name}' was pruned inside a JAX transformation, where its values are not known yet: prune between the calls "
                "of a compiled function, which follows"
            )
        if old is None:
            mask = new.compute_mask(scores, default_mask=jnp.ones(orig.shape, orig.dtype))
            buffer = Buffer(mask)
            module.register_parameter(name + "_orig", orig)
            del module._parameters[name]
            module.register_buffer(name + "_mask", buffer)
            module.register_forward_pre_hook(new)
            return new
        container = old if isinstance(old, PruningContainer) else PruningContainer(old)
        before = container._pruning_methods
        container.add_pruning_method(new)
        try:
            buffer = getattr(module, name + "_mask")
            buffer.value = container.compute_mask(scores, default_mask=buffer.value)
        except Exception:
            container._pruning_methods = before
            raise
        if container is not old:
            module._forward_pre_hooks[key] = container
        return container

    def prune(self, t: Any, default_mask: Any = None, importance_scores: Any = None) -> jax.Array:
        """An array with the elements at zero that the method prunes.

        Args:
            t: the array.
            default_mask: 0 for what is pruned already; by default nothing is.
            importance_scores: an array of the same shape, whose elements take the place of t's.
        """
        t = as_array(t)
        if importance_scores is not None and importance_scores.shape != t.shape:
            raise AssertionError(
                f"importance_scores should have the same shape as tensor t, got {importance_scores.shape} vs {t.shape}"
            )
        scores = t if importance_scores is None else as_array(importance_scores)
        return t * self.compute_mask(scores, default_mask=jnp.ones_like(t) if default_mask is None else as_array(default_mask))

    def remove(self, module: Module) -> None:
        """Makes the parameter an ordinary one again, whose pruned elements are zero, and are trained from now on."""
        name = self._tensor_name
        value = self.apply_mask(module)
        hide(module, name)
        orig: Any = module._parameters.pop(name + "_orig")
        orig.value = value
        del module._buffers[name + "_mask"]
        module._parameters[name] = orig


class PruningContainer(BasePruningMethod):
    """Several methods that have pruned one parameter, in their order.

    Args:
        args: the methods, all for one parameter.
    """

    def __init__(self, *args: BasePruningMethod):
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        if len(args) == 1:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Adds a method behind the others.

        Raises:
            TypeError: where it is none.
            ValueError: where it is one for another parameter.
        """
        if method is not None and not isinstance(method, BasePruningMethod):
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method is not None and self._tensor_name != method._tensor_name:
            raise ValueError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to PruningContainer {self}. "
                f"Found '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)  # type: ignore[operator]

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask with what the last method prunes of what is not pruned yet."""
        method = self._pruning_methods[-1]
        scores, mask = np.asarray(t), np.asarray(default_mask)
        place: Any
        if method.PRUNING_TYPE == "unstructured":
            place = mask == 1
        elif method.PRUNING_TYPE == "structured":
            if not hasattr(method, "dim"):
                raise AttributeError('Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.')
            dim = method.dim if method.dim >= 0 else method.dim + scores.ndim
            if not 0 <= dim < scores.ndim:
                raise IndexError(f"Index is out of bounds for tensor with dimensions {scores.ndim}")
            others = tuple(i for i in range(scores.ndim) if i != dim)
            kept = mask.sum(axis=others or None) != 0  # of a vector, torch takes the whole as the one slice
            place = (slice(None),) * dim + (kept,)
        elif method.PRUNING_TYPE == "global":
            place = ...
        else:
            raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")
        new = mask.astype(scores.dtype)
        new[place] = method.compute_mask(jnp.asarray(scores[place]), default_mask=jnp.asarray(mask[place]))
        return jnp.asarray(new)


class _Amount(BasePruningMethod):
    """A method that prunes a share, or a number, of what there is.

    Args:
        amount: from 0.0 to 1.0, the share; or the number, an int.

    Raises:
        TypeError: where it is not a number.
        ValueError: where it is out of range.
    """

    amount: Any

    def __init__(self, amount: float):
        if not isinstance(amount, numbers.Real):
            raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
        if amount < 0 or (not isinstance(amount, numbers.Integral) and amount > 1.0):
            raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")
        self.amount = amount

    def _number(self, size: int) -> int:
        """How many of `size` to prune."""
        whole = isinstance(self.amount, numbers.Integral)
        number = int(self.amount) if whole else round(self.amount * size)
        if number > size:
            raise ValueError(f"amount={self.amount} should be smaller than the number of parameters to prune={size}")
        return number


class _Unstructured(_Amount):
    """A method that prunes single elements."""

    PRUNING_TYPE = "unstructured"

    def _pruned(self, t: jax.Array, number: int) -> np.ndarray:
        """Which elements are pruned, a vector of bools."""
        raise NotImplementedError

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask with 0 for what is pruned."""
        number = self._number(t.size)
        if number == 0:
            return default_mask
        return jnp.where(self._pruned(t, number).reshape(t.shape), 0, default_mask).astype(default_mask.dtype)


class _Structured(_Amount):
    """A method that prunes whole slices along an axis.

    Args:
        amount: the share, or the number, of slices.
        dim: the axis.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1):
        super().__init__(amount)
        self.dim = dim

    def _kept(self, t: jax.Array, number: int) -> np.ndarray:
        """Which slices are kept, a vector of bools."""
        raise NotImplementedError

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask with 0 for the slices that are pruned.

        Raises:
            ValueError: where the array has fewer than two axes.
            IndexError: where it has no such axis.
        """
        if t.ndim <= 1:
            raise ValueError(
                f"Structured pruning can only be applied to multidimensional tensors. Found tensor of shape {t.shape} with "
                f"{t.ndim} dims"
            )
        if not -t.ndim <= self.dim < t.ndim:
            raise IndexError(f"Invalid index {self.dim} for tensor of size {t.shape}")
        size = t.shape[self.dim]
        number = self._number(size)
        if number == 0:
            return default_mask
        shape = [1] * t.ndim
        shape[self.dim] = size
        return jnp.asarray(self._kept(t, number).reshape(shape), t.dtype) * default_mask.astype(t.dtype)


class Identity(BasePruningMethod):
    """Prunes nothing, and makes the mask."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask as it is."""
        return default_mask

    @classmethod
    def apply(cls, module: Module, name: str) -> BasePruningMethod:  # type: ignore[override]
        """See `identity`."""
        return super().apply(module, name)


class RandomUnstructured(_Unstructured):
    """Prunes elements at random; see `random_unstructured`."""

    def _pruned(self, t: jax.Array, number: int) -> np.ndarray:
        return _drawn(t.size, number)

    @classmethod
    def apply(cls, module: Module, name: str, amount: float) -> BasePruningMethod:  # type: ignore[override]
        """See `random_unstructured`."""
        return super().apply(module, name, amount=amount)


class L1Unstructured(_Unstructured):
    """Prunes the elements of least magnitude; see `l1_unstructured`."""

    def _pruned(self, t: jax.Array, number: int) -> np.ndarray:
        return smallest(np.abs(np.asarray(t)).reshape(-1), number)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: Module, name: str, amount: float, importance_scores: Any = None
    ) -> BasePruningMethod:
        """See `l1_unstructured`."""
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)


class RandomStructured(_Structured):
    """Prunes slices at random; see `random_structured`."""

    def _kept(self, t: jax.Array, number: int) -> np.ndarray:
        return ~_drawn(t.shape[self.dim], number)

    @classmethod
    def apply(cls, module: Module, name: str, amount: float, dim: int = -1) -> BasePruningMethod:  # type: ignore[override]
        """See `random_structured`."""
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(_Structured):
    """Prunes the slices of least norm; see `ln_structured`."""

    def __init__(self, amount: float, n: Any, dim: int = -1):
        super().__init__(amount, dim)
        self.n = n

    def _kept(self, t: jax.Array, number: int) -> np.ndarray:
        norms = _norms(np.asarray(t), self.n, self.dim % t.ndim)
        ranks = np.unique(norms, return_inverse=True)[1].reshape(-1)  # NaN is the largest norm, and kept first
        return smallest(-ranks, len(ranks) - number)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: Module, name: str, amount: float, n: Any, dim: int, importance_scores: Any = None
    ) -> BasePruningMethod:
        """See `ln_structured`."""
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)


class CustomFromMask(BasePruningMethod):
    """Prunes what a mask says; see `custom_from_mask`."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Any):
        self.mask = mask

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The product of both masks."""
        if default_mask.shape != self.mask.shape:
            raise AssertionError(f"default_mask shape {default_mask.shape} must match self.mask shape {tuple(self.mask.shape)}")
        return default_mask * as_array(self.mask).astype(default_mask.dtype)

    @classmethod
    def apply(cls, module: Module, name: str, mask: Any) -> BasePruningMethod:  # type: ignore[override]
        """See `custom_from_mask`."""
        return super().apply(module, name, mask=mask)


def _drawn(size: int, number: int) -> np.ndarray:
    """Which of `size` are drawn when `number` are."""
    drawn = np.zeros(size, bool)
    drawn[np.asarray(jax.random.permutation(_random.next_key(), size))[:number]] = True
    return drawn


def _norms(t: np.ndarray, n: Any, dim: int) -> np.ndarray:
    """The norm of each slice along an axis, in the dtype of the array."""
    others = tuple(i for i in range(t.ndim) if i != dim)
    exact = t.astype(np.promote_types(t.dtype, np.float32))
    if (n == "nuc" and len(others) != 2) or (n == "fro" and len(others) > 2):
        raise RuntimeError(f"the norm {n!r} is that of a matrix, but each slice has {len(others)} axes: give a number")
    if n == "nuc":
        return np.linalg.norm(exact, "nuc", axis=others).astype(t.dtype)
    if isinstance(n, str) and n != "fro":
        raise RuntimeError(f"Expected norm order n to be a number, 'fro' or 'nuc', got {n!r}")
    rows = np.moveaxis(exact, dim, 0).reshape(t.shape[dim], -1)
    with np.errstate(divide="ignore"):
        return np.linalg.norm(rows, 2 if n == "fro" else n, axis=1).astype(t.dtype)


def identity(module: M, name: str) -> M:
    """Makes the mask of a parameter, and prunes nothing; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.

    Example:
        >>> import fnn.nn as nn
        >>> identity(nn.Linear(2, 3), "bias").bias_mask.tolist()
        [1.0, 1.0, 1.0]
    """
    Identity.apply(module, name)
    return module


def random_unstructured(module: M, name: str, amount: float) -> M:
    """Prunes elements of a parameter, drawn from `fnn.random`; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.
        amount: a share from 0.0 to 1.0, or a number, of what is not pruned yet.

    Raises:
        TypeError, ValueError: where the amount is not a number, or is out of range.

    Example:
        >>> import fnn.nn as nn
        >>> random_unstructured(nn.Linear(2, 3), "weight", amount=1).weight_mask.sum().item()
        5.0
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: M, name: str, amount: float, importance_scores: Any = None) -> M:
    """Prunes the elements of a parameter with the least magnitude; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.
        amount: as for `random_unstructured`.
        importance_scores: an array of the parameter's shape, the magnitudes of which count instead.

    Raises:
        TypeError, ValueError: as for `random_unstructured`.
        AssertionError: where the scores have another shape.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.Linear(4, 1)
        >>> layer.weight.data = jnp.array([[1.0, -4.0, 2.0, -3.0]])
        >>> l1_unstructured(layer, "weight", amount=0.5).weight.tolist()
        [[0.0, -4.0, 0.0, -3.0]]
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: M, name: str, amount: float, dim: int) -> M:
    """Prunes slices of a parameter along an axis, drawn from `fnn.random`; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.
        amount: as for `random_unstructured`, of slices.
        dim: the axis.

    Raises:
        TypeError, ValueError: as for `random_unstructured`; where the parameter has fewer than two axes.
        IndexError: where it has no such axis.

    Example:
        >>> import fnn.nn as nn
        >>> sorted(random_structured(nn.Linear(2, 3), "weight", amount=1, dim=0).weight_mask.sum(1).tolist())
        [0.0, 2.0, 2.0]
    """
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(module: M, name: str, amount: float, n: Any, dim: int, importance_scores: Any = None) -> M:
    """Prunes the slices of a parameter along an axis that have the least norm; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.
        amount: as for `random_unstructured`, of slices.
        n: the order of the norm: a number, inf, -inf, "fro" or "nuc".
        dim: the axis.
        importance_scores: an array of the parameter's shape, the norms of which count instead.

    Raises:
        TypeError, ValueError, IndexError: as for `random_structured`.
        AssertionError: where the scores have another shape.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> ln_structured(layer, "weight", amount=1, n=2, dim=0).weight.tolist()
        [[0.0, 0.0], [3.0, 4.0]]
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(parameters: Any, pruning_method: Any, importance_scores: Any = None, **kwargs: Any) -> None:
    """Prunes elements of several parameters, as if they were one.

    Args:
        parameters: pairs of a module and the name of a parameter.
        pruning_method: an "unstructured" method, such as `L1Unstructured`.
        importance_scores: arrays that count in the place of parameters, by such pairs.
        kwargs: what the method is made with, such as `amount`.

    Raises:
        TypeError: where the parameters are not an iterable, the scores not a dict, or the method not "unstructured".

    Example:
        >>> import fnn.nn as nn
        >>> net = nn.Sequential(nn.Linear(10, 4), nn.Linear(4, 1))
        >>> global_unstructured([(net[0], "weight"), (net[1], "weight")], L1Unstructured, amount=10)
        >>> sum(int((mask == 0).sum()) for mask in net.buffers())
        10
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    if not isinstance(importance_scores, dict | None):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs = list(parameters)
    values = [getattr(module, name) for module, name in pairs]
    scores = [(importance_scores or {}).get(pair, value) for pair, value in zip(pairs, values, strict=True)]
    masks = [getattr(module, name + "_mask", None) for module, name in pairs]
    masks = [jnp.ones(value.shape, value.dtype) if mask is None else mask for mask, value in zip(masks, values, strict=True)]
    method = pruning_method(**kwargs)
    method._tensor_name = "all"
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            f'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method {pruning_method} of type '
            f"{method.PRUNING_TYPE}"
        )
    flat = [jnp.concatenate([as_array(part).reshape(-1) for part in parts]) for parts in (scores, masks)]
    final = np.asarray(PruningContainer(method).compute_mask(*flat))
    ends = np.cumsum([value.size for value in values])[:-1]
    for (module, name), value, mask in zip(pairs, values, np.split(final, ends), strict=True):
        custom_from_mask(module, name, mask=mask.reshape(value.shape))


def custom_from_mask(module: M, name: str, mask: Any) -> M:
    """Prunes the elements of a parameter for which a mask has 0; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.
        mask: an array of the parameter's shape.

    Raises:
        AssertionError: where it has another shape.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> custom_from_mask(nn.Linear(5, 3), "bias", jnp.array([0, 1, 0])).bias_mask.tolist()
        [0.0, 1.0, 0.0]
    """
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: M, name: str) -> M:
    """Makes a pruned parameter an ordinary one again, whose pruned elements are zero; returns the module.

    Args:
        module: the module that has the parameter.
        name: the parameter.

    Raises:
        ValueError: where it is not pruned.

    Example:
        >>> import fnn.nn as nn
        >>> layer = remove(random_unstructured(nn.Linear(2, 3), "weight", amount=1), "weight")
        >>> [name for name, _ in layer.named_parameters()], int((layer.weight == 0).sum())
        (['bias', 'weight'], 1)
    """
    key: Any = installed(module, BasePruningMethod, name)
    if key is None:
        raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")
    module._forward_pre_hooks.pop(key).remove(module)
    return module


def is_pruned(module: Module) -> bool:
    """Whether a parameter of a module, or of a module in it, is pruned.

    Example:
        >>> import fnn.nn as nn
        >>> is_pruned(nn.Sequential(identity(nn.Linear(2, 3), "bias")))
        True
    """
    return any(isinstance(hook, BasePruningMethod) for part in module.modules() for hook in part._forward_pre_hooks.values())
