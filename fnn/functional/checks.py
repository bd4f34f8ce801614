"""What functions of this floor ask of their arguments, in torch's terms."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.arrays import to_array
from fnn.eager import check_later, values_unknown


def array(value: Any, name: str) -> jax.Array:
    """The operand as a jax array.

    Raises:
        TypeError: where it is not an array.
    """
    if value is None or isinstance(value, (str, bytes, dict, set)) or callable(value):
        raise TypeError(f"argument '{name}' must be an array, not {type(value).__name__}")
    return to_array(value)


def same_dtype(function: str, **operands: Any) -> None:
    """Raises where operands have different dtypes: torch refuses them, and so do we, instead of promoting."""
    dtypes = {name: operand.dtype for name, operand in operands.items() if operand is not None}
    if len(set(dtypes.values())) > 1:
        got = ", ".join(f"{name} {dtype.name}" for name, dtype in dtypes.items())
        raise RuntimeError(f"{function}: expected all arguments to have the same dtype, got {got}")


def same_parameters(function: str, x: jax.Array, **parameters: Any) -> None:
    """Raises where a normalization's parameters have other dtypes than torch takes: its input's, or float32 for 16 bits."""
    dtypes = {name: part.dtype for name, part in parameters.items() if part is not None}
    if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {x.dtype, accumulating(x).dtype}:
        got = ", ".join(f"{name} {dtype.name}" for name, dtype in dtypes.items())
        wanted = " or ".join(dict.fromkeys((x.dtype.name, accumulating(x).dtype.name)))
        raise RuntimeError(
            f"{function}: mixed dtype: expected all parameters to be {wanted} for an input {x.dtype.name}, got {got}"
        )


def floating(function: str, dtype: Any, *others: Any) -> None:
    """Raises where a dtype is neither of floating point nor of the other kinds given, such as jnp.complexfloating."""
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, *others)):
        kinds = "".join(f" or {kind.__name__}" for kind in others)
        raise NotImplementedError(f'"{function}" not implemented for {dtype.name}: expected a floating-point{kinds} dtype')


def broadcast(function: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that shapes broadcast to.

    Raises:
        RuntimeError: where they cannot.
    """
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        sizes = " and ".join(str(list(shape)) for shape in shapes)
        raise RuntimeError(f"{function}: the sizes {sizes} cannot be broadcast") from None


def promoted(function: str, inexact: bool = False, **operands: Any) -> tuple[list[jax.Array], np.dtype]:
    """Operands that broadcast together, in the dtype to compute in; and the dtype of the result.

    Args:
        function: what an error shall name.
        inexact: whether integers become floats.
        operands: by name.

    Raises:
        RuntimeError: where they cannot be broadcast.
    """
    arrays = [array(operand, name) for name, operand in operands.items()]
    broadcast(function, *(a.shape for a in arrays))
    dtype = functools.reduce(jnp.promote_types, (a.dtype for a in arrays))
    if inexact and not jnp.issubdtype(dtype, jnp.inexact):
        dtype = np.dtype(np.float32)
    return [accumulating(a.astype(dtype)) for a in arrays], dtype


def integer(value: Any, name: str) -> int:
    """A Python integer.

    Raises:
        TypeError: where it is not a whole number.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"argument '{name}' must be int or a tuple of ints, got {value!r}") from None


def ntuple(value: Any, n: int, name: str) -> tuple[int, ...]:
    """An integer for each of n axes, from one integer or a sequence of n (or of one)."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (integer(value, name),) * n
    values = tuple(integer(v, name) for v in value)
    if len(values) not in (1, n):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {n} values to match the dimensions, got {value}"
        )
    return values * n if len(values) == 1 else values


def axis(dim: Any, ndim: int) -> int:
    """The axis that a dimension names, counted from the front; a scalar counts as having one."""
    dim, n = integer(dim, "dim"), max(ndim, 1)
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim % n


def known(value: jax.Array) -> np.ndarray | None:
    """The elements, where they can be looked at now; None while JAX traces them.

    As a numpy array, since under a transformation even what is computed from a constant is traced.
    """
    if isinstance(value, jax.core.Tracer):
        values_unknown()
        return None
    return np.asarray(value)


def checked(value: jax.Array, check: Callable[[np.ndarray], None]) -> None:
    """Has a check look at the elements where they can be looked at; in `compiled` functions too, once more at each call.

    Args:
        value: an argument as it was given.
        check: raises for elements that are wrong.
    """
    if isinstance(value, jax.core.Tracer):
        check_later(value, check)
    else:
        check(np.asarray(value))


def accumulating(x: jax.Array) -> jax.Array:
    """The operand in the dtype to compute sums in: float32 for 16-bit floats."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x
