"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.arrays import is_tensor
from fnn.functional.checks import array
from fnn.nn.parameter import Handle

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Any]) -> jax.Array:
    """The elements of all parameters, one after another. (For a dict of arrays there is `jax.flatten_util.ravel_pytree`.)

    Args:
        parameters: Parameters or arrays.

    Returns:
        (elements,), in the dtype that theirs promote to.

    Raises:
        ValueError: where there are none.

    Example:
        >>> import fnn
        >>> parameters_to_vector(fnn.nn.Linear(2, 3).parameters()).shape
        (9,)
    """
    parts = [array(parameter, "parameters").reshape(-1) for parameter in parameters]
    if not parts:
        raise ValueError("parameters_to_vector: expected a non-empty list of parameters")
    return jnp.concatenate(parts)


def vector_to_parameters(vec: Any, parameters: Iterable[Any]) -> None:
    """Gives parameters the elements of a vector, one after another, and its dtype; what is left of the vector is not used.

    Args:
        vec: (elements,), such as `parameters_to_vector` returns.
        parameters: Parameters.

    Raises:
        TypeError: where `vec` is not an array, or a parameter is a plain array, which cannot be written.
        RuntimeError: where the vector is too short; no parameter changes.

    Example:
        >>> import fnn, jax.numpy as jnp
        >>> net = fnn.nn.Linear(2, 1)
        >>> vector_to_parameters(jnp.arange(3.0), net.parameters())
        >>> net.weight.tolist(), net.bias.tolist()
        ([[0.0, 1.0]], [2.0])
    """
    if not (hasattr(vec, "__array__") or is_tensor(vec)):
        raise TypeError(f"expected an array, but got: {type(vec).__name__}")
    vector, given = array(vec, "vec"), list(parameters)
    for parameter in given:
        if not isinstance(parameter, Handle):
            raise TypeError(
                f"vector_to_parameters writes to Parameters, got {type(parameter).__name__}, which cannot be written"
            )
    needed = sum(parameter.numel() for parameter in given)
    if vector.ndim != 1 or vector.size < needed:
        raise RuntimeError(f"the parameters have {needed} elements, and the vector is of shape {list(vector.shape)}")
    start = 0
    for parameter in given:
        parameter.value = vector[start : start + parameter.numel()].reshape(parameter.shape)
        start += parameter.numel()
