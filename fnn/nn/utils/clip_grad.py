"""Limits to gradients.

All of these take Parameters, whose `.grad` they change as torch does, or gradients themselves: an array, or a list or nested
dict of arrays such as `fnn.value_and_grad` returns. Arrays are immutable, so of gradients the functions return clipped ones.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.functional.checks import accumulating, array, known
from fnn.functional.distance import vector_norm
from fnn.nn.parameter import Handle

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _is_handle(value: Any) -> bool:
    return isinstance(value, Handle)


class _Gradients:
    """The gradients of Parameters, or gradients themselves, and how to give back clipped ones.

    Attributes:
        arrays: the gradients that there are.
    """

    def __init__(self, given: Any):
        if isinstance(given, Handle):
            given = [given]
        elif not isinstance(given, (Mapping, list, tuple, jax.Array, np.ndarray)):
            given = list(given)
        leaves, self._tree = jax.tree.flatten(given, is_leaf=_is_handle)
        self.was_empty = not leaves
        handles = [leaf for leaf in leaves if _is_handle(leaf)]
        if handles and len(handles) < len(leaves):
            raise TypeError("expected either Parameters or gradients, got both in one collection")
        # Nothing at all is a list of no parameters, as in torch; but where there is a dict, it is one of no gradients.
        self.in_place = bool(handles) or (not leaves and not _has_dict(given))
        self.parameters = [parameter for parameter in dict.fromkeys(handles) if parameter.grad is not None]
        gradients = [parameter.grad for parameter in self.parameters] if self.in_place else leaves
        self.arrays = [array(gradient, "parameters") for gradient in gradients]

    def replaced(self, arrays: list[Any]) -> Any:
        """Gives the Parameters other gradients, or returns the others in the place of the first ones."""
        if not self.in_place:
            return jax.tree.unflatten(self._tree, arrays)
        for parameter, gradient in zip(self.parameters, arrays, strict=True):
            parameter.grad = gradient
        return None


def _has_dict(given: Any) -> bool:
    return isinstance(given, Mapping) or (isinstance(given, (list, tuple)) and any(map(_has_dict, given)))


def _norm(arrays: list[jax.Array], norm_type: float, error_if_nonfinite: bool) -> jax.Array:
    order = float(norm_type)
    if not arrays:
        return jnp.zeros(())
    for x in arrays:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise RuntimeError(f"get_total_norm: Expected a floating point or complex tensor as input. Got {x.dtype.name}")
        if not x.size and (order < 0 or order == np.inf):
            raise RuntimeError(
                f"get_total_norm: cannot compute the {order:g} norm of an empty tensor because the operation does not have an "
                "identity"
            )
    norms = [vector_norm(accumulating(x.reshape(-1)), order, 0).astype(jnp.finfo(x.dtype).dtype) for x in arrays]
    dtype = jnp.result_type(*norms)
    total = vector_norm(accumulating(jnp.stack([norm.astype(dtype) for norm in norms])), order, 0).astype(dtype)
    if not error_if_nonfinite:
        return total
    value = known(total)
    if value is None:
        return jnp.where(jnp.isfinite(total), total, jnp.nan)
    if not np.isfinite(value.astype(np.float64)):
        raise RuntimeError(
            f"The total norm of order {order} for gradients from `parameters` is non-finite, {value}, so it cannot be clipped. "
            "To disable this error and scale the gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    return total


def _scaled(arrays: list[jax.Array], max_norm: float, total_norm: Any) -> list[jax.Array]:
    coefficient = jnp.minimum(float(max_norm) / (total_norm + 1e-6), 1.0)
    return [(x * coefficient).astype(x.dtype) for x in arrays]


def get_total_norm(
    tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> jax.Array:
    """The norm of all elements of some arrays: `(Σ |x|^p)^(1/p)`.

    Args:
        tensors: an array, or any list, iterator or nested dict of arrays.
        norm_type: p; ∞ for the largest element.
        error_if_nonfinite: whether to raise where it is NaN or infinite; where JAX traces it, it is then NaN.
        foreach: accepted; XLA fuses what it can.

    Returns:
        (), in the real dtype that theirs promote to.

    Raises:
        RuntimeError: where it is asked not to be NaN or infinite and is; for integers; for the norm of nothing that has none.

    Example:
        >>> import jax.numpy as jnp
        >>> get_total_norm({"weight": jnp.array([3.0, 0.0]), "bias": jnp.array([4.0])}).item()
        5.0
    """
    if isinstance(tensors, (Handle, jax.Array, np.ndarray)):
        tensors = [tensors]
    leaves = jax.tree.leaves(tensors if isinstance(tensors, Mapping) else list(tensors))
    return _norm([array(leaf, "tensors") for leaf in leaves], norm_type, error_if_nonfinite)


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any, foreach: bool | None = None) -> Any:
    """Scales gradients by `min(max_norm / (total_norm + 1e-6), 1)`.

    Args:
        parameters: a Parameter or several, whose `.grad` is changed; or gradients, as an array, a list or a nested dict.
        max_norm: the largest norm that they shall have.
        total_norm: the norm that they have, as `get_total_norm` gives it.
        foreach: accepted; XLA fuses what it can.

    Returns:
        None for Parameters; of gradients the scaled ones.

    Example:
        >>> import jax.numpy as jnp
        >>> clip_grads_with_norm_({"bias": jnp.array([4.0])}, 1.0, 8.0)["bias"].tolist()
        [0.5]
    """
    gradients = _Gradients(parameters)
    return gradients.replaced(_scaled(gradients.arrays, max_norm, total_norm))


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """Scales gradients so that the norm of all their elements is at most `max_norm`.

    Args:
        parameters: a Parameter or several, whose `.grad` is changed; or gradients, as an array, a list or a nested dict.
        max_norm: the largest norm that they shall have.
        norm_type: the p of the norm; ∞ for the largest element.
        error_if_nonfinite: whether to raise where the norm is NaN or infinite; where JAX traces it, all gradients then are NaN.
        foreach: accepted; XLA fuses what it can.

    Returns:
        The norm before, for Parameters; for gradients `(clipped, norm)`.

    Raises:
        RuntimeError: as `get_total_norm`.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 1, bias=False)
        >>> loss, grads = fnn.value_and_grad(lambda net: net(jnp.array([3.0, 4.0])).sum())(net)
        >>> grads, norm = clip_grad_norm_(grads, 1.0)
        >>> norm.item(), grads["weight"].round(2).tolist()
        (5.0, [[0.6, 0.8]])
    """
    gradients = _Gradients(parameters)
    if isinstance(parameters, types.GeneratorType) and gradients.was_empty:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2)
    norm = _norm(gradients.arrays, norm_type, error_if_nonfinite)
    clipped = gradients.replaced(_scaled(gradients.arrays, max_norm, norm))
    return norm if gradients.in_place else (clipped, norm)


def clip_grad_norm(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Any:
    """As `clip_grad_norm_`, which torch prefers.

    Example:
        >>> import jax.numpy as jnp, warnings
        >>> warnings.simplefilter("ignore")
        >>> clip_grad_norm([jnp.array([4.0])], 1.0)[1].item()
        4.0
    """
    warnings.warn(
        "`nn.utils.clip_grad_norm` is now deprecated in favor of `nn.utils.clip_grad_norm_`.", FutureWarning, stacklevel=2
    )
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> Any:
    """Limits each element of gradients to `−clip_value` and `clip_value`.

    Args:
        parameters: a Parameter or several, whose `.grad` is changed; or gradients, as an array, a list or a nested dict.
        clip_value: the largest absolute value.
        foreach: accepted; XLA fuses what it can.

    Returns:
        None for Parameters; of gradients the limited ones.

    Raises:
        NotImplementedError: for complex gradients.

    Example:
        >>> import jax.numpy as jnp
        >>> clip_grad_value_({"bias": jnp.array([4.0, -0.5])}, 1.0)["bias"].tolist()
        [1.0, -0.5]
    """
    gradients, limit = _Gradients(parameters), float(clip_value)
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in gradients.arrays):
        raise NotImplementedError("clip_grad_value_ is not supported for complex gradients, since they have no order")
    return gradients.replaced([jnp.minimum(jnp.maximum(x, -limit), limit) for x in gradients.arrays])
