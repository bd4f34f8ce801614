"""Weight normalization by a forward pre-hook; `parametrizations.weight_norm` is its successor."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from fnn.functional.checks import accumulating, axis
from fnn.nn.modules.module import Module
from fnn.nn.parameter import is_lazy
from fnn.nn.utils.recomputed import Recomputed, derived, hide, installed

__all__ = ["WeightNorm", "remove_weight_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


def norm_except_dim(v: jax.Array, dim: int) -> jax.Array:
    """The norms of all slices along an axis, with the other axes kept; of the whole, without axes, for dim -1."""
    along = None if dim == -1 else tuple(i for i in range(v.ndim) if i != axis(dim, v.ndim))
    squares = jnp.square(accumulating(v)).sum(along, keepdims=dim != -1)
    return jnp.sqrt(squares).astype(v.dtype)


class WeightNorm(Recomputed):
    """The hook of `weight_norm`.

    Attributes:
        name: the parameter that it computes.
        dim: the axis that keeps its own norms; -1 for one norm of the whole.
    """

    def __init__(self, name: str, dim: int | None):
        self.name = name
        self.dim = -1 if dim is None else dim

    @property
    def computes(self) -> str:
        """The name of the parameter."""
        return self.name

    def compute_weight(self, module: Module) -> jax.Array:
        """`g v / ‖v‖`, for the values that the module holds now."""
        g, v = (jnp.asarray(getattr(module, self.name + part)) for part in ("_g", "_v"))
        return v * (g / norm_except_dim(v, self.dim))

    compute = compute_weight

    @staticmethod
    def apply(module: Module, name: str, dim: int | None) -> WeightNorm:
        """Puts the hook and its two parameters in the place of a parameter."""
        warnings.warn(
            "`nn.utils.weight_norm` is deprecated in favor of `nn.utils.parametrizations.weight_norm`.",
            FutureWarning,
            stacklevel=3,
        )
        if installed(module, WeightNorm, name) is not None:
            raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
        weight = getattr(module, name)
        if is_lazy(weight):
            raise ValueError(
                f"weight_norm: parameter '{name}' is uninitialized; call the module once with an example before applying it"
            )
        if weight is None:
            raise TypeError(f"weight_norm: expected '{name}' to be a parameter, got None")
        if name not in module._parameters:
            raise KeyError(name)
        hook = WeightNorm(name, dim)
        magnitude = derived(weight, lambda v: norm_except_dim(v, hook.dim))
        direction = derived(weight, lambda v: v)
        del module._parameters[name]
        module.register_parameter(name + "_g", magnitude)
        module.register_parameter(name + "_v", direction)
        module.register_forward_pre_hook(hook)
        return hook

    def remove(self, module: Module) -> None:
        """Makes what it computes now a parameter again."""
        weight = derived(module._parameters[self.name + "_v"], lambda v: v)
        weight.value = self.compute_weight(module)
        hide(module, self.name)
        del module._parameters[self.name + "_g"]
        del module._parameters[self.name + "_v"]
        module._parameters[self.name] = weight


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Computes a parameter as `g v / ‖v‖`, from a magnitude `weight_g` and a direction `weight_v`, which are trained.

    `module.weight` is then computed whenever it is read, and takes no values: set `weight_v` to change it.

    Args:
        module: the module that has the parameter.
        name: the parameter.
        dim: the axis each slice of which has its own norm, usually that of the outputs; None for one norm of the whole.

    Returns:
        The module.

    Raises:
        RuntimeError: where the parameter has one already.
        ValueError: where its shape is not known yet.

    Example:
        >>> import fnn.nn as nn, warnings
        >>> warnings.simplefilter("ignore")
        >>> layer = weight_norm(nn.Linear(20, 40))
        >>> layer.weight_g.shape, layer.weight_v.shape
        ((40, 1), (40, 20))

    References:
        Salimans and Kingma, Weight Normalization, https://arxiv.org/abs/1602.07868
    """
    WeightNorm.apply(module, name, dim)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Makes a parameter with `weight_norm` an ordinary one again, with the value that it has now; returns the module.

    Raises:
        ValueError: where it has none.

    Example:
        >>> import fnn.nn as nn, warnings
        >>> warnings.simplefilter("ignore")
        >>> [name for name, _ in remove_weight_norm(weight_norm(nn.Linear(2, 2))).named_parameters()]
        ['bias', 'weight']
    """
    key: Any = installed(module, WeightNorm, name)
    if key is None:
        raise ValueError(f"weight_norm of '{name}' not found in {module}")
    module._forward_pre_hooks.pop(key).remove(module)
    return module
