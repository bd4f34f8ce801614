"""What functions of this floor ask of their arguments, in torch's terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.arrays import to_array


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


def floating(function: str, x: Any) -> None:
    """Raises where an operand is not of floating point."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise RuntimeError(f'"{function}" not implemented for {x.dtype.name}: expected a floating-point dtype')


def ntuple(value: Any, n: int, name: str) -> tuple[int, ...]:
    """An integer for each of n axes, from one integer or a sequence of n (or of one)."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 1:
            return (int(value[0]),) * n
        if len(value) != n:
            raise RuntimeError(
                f"expected {name} to be a single integer value or a list of {n} values to match the dimensions, got {value}"
            )
        return tuple(int(v) for v in value)
    return (int(value),) * n


def known(value: Any) -> bool:
    """Whether the elements can be looked at now: not while JAX traces."""
    return not isinstance(value, jax.core.Tracer)


def accumulating(x: jax.Array) -> jax.Array:
    """The operand in the dtype to compute sums in: float32 for 16-bit floats."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x
