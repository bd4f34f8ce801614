"""Look-up tables."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnn.functional.checks import array, known
from fnn.scope import Cell, write

__all__ = ["embedding"]


def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    """The rows of a table that indices name.

    Args:
        input: integers, any shape.
        weight: (num_embeddings, embedding_dim).
        padding_idx: the row that takes no gradient.
        max_norm: rows that are looked up and have a larger norm are scaled down to it first, in the weight itself, which
            if that is a Parameter or Buffer.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often the indices name it.
        sparse: accepted; gradients are dense.

    Returns:
        (*input, embedding_dim). Under a JAX transformation, where indices are not known, one that is out of range
        gives NaN.

    Raises:
        IndexError: where an index is out of range, outside of transformations.
        RuntimeError: where the indices are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> embedding(jnp.array([1, 0]), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [[3.0, 4.0], [1.0, 2.0]]
    """
    index, table = array(input, "input"), array(weight, "weight")
    if index.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(
            f"Expected tensor for argument 'indices' to have one of the dtypes int64 and int32, but got {index.dtype.name}"
        )
    if table.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, got shape {table.shape}")
    rows = table.shape[0]
    values = known(index)
    if values is not None and values.size and (values.min() < 0 or values.max() >= rows):
        raise IndexError(f"index out of range in self: got indices from {values.min()} to {values.max()} for {rows} rows")
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError(f"Padding_idx must be within num_embeddings, got {padding_idx} for {rows} rows")
        padding_idx %= rows
    index = jnp.where(index < 0, rows, index)  # a negative index would count from the end
    if max_norm is not None:
        norms = jnp.linalg.norm(table, norm_type, axis=1, keepdims=True)
        used = jnp.zeros((rows, 1), bool).at[index.ravel()].set(True, mode="drop")
        scaled = jnp.where(used & (norms > max_norm), table * (max_norm / (norms + 1e-7)), table)
        table = table + lax.stop_gradient(scaled.astype(table.dtype) - table)  # torch takes no gradient of the scaling
        if isinstance(weight, Cell):
            write(weight, table)
    out = jnp.take(table, index, axis=0, mode="fill")  # fills with NaN
    if scale_grad_by_freq:
        counts = jnp.zeros(rows, table.dtype).at[index.ravel()].add(1, mode="drop")
        share = jnp.take(1 / jnp.maximum(counts, 1), index, mode="clip")[..., None]
        out = lax.stop_gradient(out) + (out - lax.stop_gradient(out)) * share.astype(out.dtype)
    if padding_idx is not None:
        out = jnp.where((index == padding_idx)[..., None], lax.stop_gradient(out), out)
    return out
