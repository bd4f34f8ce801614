"""Look-up tables."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.arrays import held_dtype
from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, checked, integer, known
from fnn.scope import Cell, write

__all__ = ["embedding", "embedding_bag", "one_hot"]


@jax.custom_jvp
def _derived(value: jax.Array, x: jax.Array, share: Any) -> jax.Array:
    """The value, with the derivative of x times a share."""
    return value


@_derived.defjvp
def _derived_jvp(primals: Any, tangents: Any) -> Any:
    value, _, share = primals
    return value, tangents[1] * share


def _undrawn(weight: Any) -> Any:
    """The table, for a look at its shape and dtype before a Parameter draws its value."""
    return weight if isinstance(weight, Cell) else array(weight, "weight")


def _outside(function: str, index: jax.Array, rows: int, error: type[Exception]) -> None:
    """Raises where an index is known, and out of range."""

    def check(values: np.ndarray) -> None:
        if values.size and (values.min() < 0 or values.max() >= rows):
            raise error(f"{function}: index out of range: got indices from {values.min()} to {values.max()} for {rows} rows")

    checked(index, check)


def _shrunk(weight: Any, table: jax.Array, index: jax.Array, max_norm: float, norm_type: float) -> jax.Array:
    """The table with the rows that are looked up scaled down to a norm, which goes also into the Parameter."""
    if not jnp.issubdtype(table.dtype, jnp.inexact):
        raise RuntimeError(f"max_norm needs a floating-point table, got {table.dtype.name}")
    wide = lax.stop_gradient(accumulating(table))
    norms = jnp.linalg.norm(wide, norm_type, axis=1, keepdims=True)
    used = jnp.zeros((table.shape[0], 1), bool).at[index.ravel()].set(True, mode="drop")
    scaled = jnp.where(used & (norms > max_norm), wide * (max_norm / (norms + 1e-7)), wide)
    table = _derived(scaled.astype(table.dtype), table, 1)  # torch takes no gradient of the scaling
    if isinstance(weight, Cell):
        write(weight, table)
    return table


@jax.custom_jvp
def _rows(table: jax.Array, index: jax.Array, trained: jax.Array) -> jax.Array:
    """The rows of a table, NaN for those out of range, and the derivatives of those in the second list."""
    return jnp.take(table, index, axis=0, mode="fill")


@_rows.defjvp
def _rows_jvp(primals: Any, tangents: Any) -> Any:
    rows = jnp.take(tangents[0], primals[2], axis=0, mode="fill", fill_value=0)
    return _rows(*primals), rows


def _by_frequency(rows: jax.Array, table: jax.Array, index: jax.Array) -> jax.Array:
    """The rows looked up, with a gradient divided by how often the indices name each."""
    counts = jnp.zeros(table.shape[0], accumulating(rows).dtype).at[index.ravel()].add(1, mode="drop")
    share = jnp.take(1 / jnp.maximum(counts, 1), index, mode="clip")[..., None]
    return _derived(rows, rows, share.astype(rows.dtype))


@compiled
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
    index, table = array(input, "input"), _undrawn(weight)
    if index.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(
            f"Expected tensor for argument 'indices' to have one of the dtypes int64 and int32, but got {index.dtype.name}"
        )
    if table.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, got shape {table.shape}")
    rows = table.shape[0]
    _outside("embedding", index, rows, IndexError)
    if padding_idx is not None:
        if not -rows <= integer(padding_idx, "padding_idx") < max(rows, 1):
            raise AssertionError(f"Padding_idx must be within num_embeddings, got {padding_idx} for {rows} rows")
        padding_idx += rows if padding_idx < 0 else 0
    table = array(weight, "weight")
    index = jnp.where(index < 0, rows, index)  # a negative index would count from the end
    if max_norm is not None:
        table = _shrunk(weight, table, index, max_norm, norm_type)
    # The row without a gradient is one out of range for it: so rows are scattered once, and not written once more before.
    out = _rows(table, index, index if padding_idx is None else jnp.where(index == padding_idx, rows, index))
    return _by_frequency(out, table, index) if scale_grad_by_freq else out


class _Bags:
    """Which places of a list of indices belong together."""

    def __init__(self, index: jax.Array, offsets: jax.Array | None, include_last_offset: bool):
        self.ids: jax.Array | None = None
        self.valid: Any = True
        if offsets is None:
            self.count, self.length = index.shape
            if not self.length:
                raise RuntimeError(f"embedding_bag: expected bags of at least one index, but got input of shape {index.shape}")
            return
        self.count, places = offsets.shape[0] - include_last_offset, index.shape[0]
        if self.count < 0:
            raise RuntimeError("include_last_offset: number of offset should be at least 1")
        given = known(offsets)
        of: Any = jnp if given is None else np
        bounds = of.concatenate([of.zeros(1, offsets.dtype), offsets if given is None else given])
        self.valid = (bounds[:2] == 0).all() & (bounds[1:] >= bounds[:-1]).all() & (bounds[-1] <= places)
        if given is not None and not self.valid:
            raise RuntimeError(
                f"embedding_bag: offsets have to begin with 0, ascend, and not be greater than input's length {places}, but "
                f"got {given}"
            )
        # What comes behind the last offset, where that is an end, has an id out of range, which segment sums drop.
        self.ids = jnp.searchsorted(offsets, jnp.arange(places), side="right") - 1

    def reduce(self, operation: str, values: jax.Array) -> jax.Array:
        """The sum, max or min of each bag's values."""
        if self.ids is None:
            return getattr(jnp, operation)(values.reshape(self.count, self.length, *values.shape[1:]), axis=1)
        return getattr(jax.ops, f"segment_{operation}")(values, self.ids, self.count, indices_are_sorted=True)

    def spread(self, values: jax.Array) -> jax.Array:
        """A value of each bag, given to each of its places."""
        return jnp.repeat(values, self.length, 0) if self.ids is None else jnp.take(values, self.ids, 0, mode="clip")

    def maximum(self, rows: jax.Array, counted: jax.Array) -> jax.Array:
        """The maximum of what is counted in each bag, as torch finds it: the first of equals, and NaN only if it is first."""
        places, none = jnp.arange(rows.shape[0]), rows.shape[0]
        if not none:
            return jnp.zeros((self.count, rows.shape[1]), rows.dtype)
        first = places == self.spread(self.reduce("min", jnp.where(counted, places, none)))
        key = jnp.where(jnp.isnan(rows), jnp.where(first[:, None], jnp.inf, -jnp.inf), rows)
        key = jnp.where(counted[:, None], lax.stop_gradient(key), -jnp.inf)
        best = counted[:, None] & (key == self.spread(self.reduce("max", key)))
        place = self.reduce("min", jnp.where(best, places[:, None], none))
        return jnp.take_along_axis(rows, place, axis=0, mode="fill", fill_value=0)


def embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> jax.Array:
    """The sum, mean or maximum over bags of the rows of a table that indices name.

    Args:
        input: integers: (B, n), bags of n indices each, or (N,), bags one after the other.
        weight: (num_embeddings, embedding_dim).
        offsets: (B,), where each bag begins, for an input (N,).
        max_norm: rows that are looked up and have a larger norm are scaled down to it first, in the weight itself, which
            if that is a Parameter or Buffer.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often the indices name it; not for mode max.
        mode: sum, mean or max. A bag of nothing gives zeros. Of equal maxima the first takes the gradient.
        sparse: accepted, but not for mode max; gradients are dense.
        per_sample_weights: of the input's shape, a factor for each row; for mode sum alone.
        include_last_offset: whether the last offset is the end of the last bag, instead of the begin of another.
        padding_idx: an index that counts for nothing.

    Returns:
        (B, embedding_dim). Under a JAX transformation, where indices and offsets are not known, a bag with an index out of
        range, and all bags of offsets that are none, are NaN.

    Raises:
        RuntimeError: where an index is out of range, outside of transformations, or dtypes do not fit.
        ValueError: where shapes do not fit, or for another mode.
        NotImplementedError: for per_sample_weights with another mode than sum.

    Example:
        >>> import jax.numpy as jnp
        >>> table = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> embedding_bag(jnp.array([0, 1, 2]), table, offsets=jnp.array([0, 2]), mode="sum").tolist()
        [[4.0, 6.0], [5.0, 6.0]]
    """
    index, table = array(input, "input"), _undrawn(weight)
    scales = None if per_sample_weights is None else array(per_sample_weights, "per_sample_weights")
    starts = None if offsets is None else array(offsets, "offsets")
    if table.dtype in (jnp.int32, jnp.int64) and jnp.issubdtype(index.dtype, jnp.floating):
        warnings.warn(
            "Argument order of nn.functional.embedding_bag was changed. Usage `embedding_bag(weight, input, ...)` is "
            "deprecated, and should now be `embedding_bag(input, weight, ...)`.",
            stacklevel=2,
        )
        index, table, weight = array(weight, "weight"), index, input
    if scales is not None and scales.shape != index.shape:
        raise ValueError(
            f"embedding_bag: per_sample_weights {scales.shape} must have the same shape as the input {index.shape}"
        )
    if table.ndim != 2:
        raise ValueError(f"weight has to be a 2D Tensor, but got Tensor of shape {table.shape}")
    if index.ndim not in (1, 2):
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of shape {index.shape}")
    if index.ndim == 2 and starts is not None:
        raise ValueError("if input is 2D, then offsets has to be None, as the input is a mini-batch of fixed length sequences")
    if index.ndim == 1 and (starts is None or starts.ndim != 1):
        raise ValueError(f"offsets has to be a 1D Tensor but got {'None' if starts is None else f'shape {starts.shape}'}")
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode has to be one of sum, mean or max, got {mode!r}")
    if mode == "max" and (scale_grad_by_freq or sparse):
        raise ValueError("max mode does not support scaling the gradient by the frequency, nor sparse weights")
    if scales is not None and mode != "sum":
        raise NotImplementedError(f"embedding_bag: per_sample_weights is only supported for mode='sum' (got mode={mode!r})")
    rows = table.shape[0]
    whole = (jnp.int32, jnp.int64)
    if jnp.promote_types(index.dtype, index.dtype if starts is None else starts.dtype) not in whole:
        raise RuntimeError(f"embedding_bag: expected indices and offsets int64 or int32, but got {index.dtype.name}")
    if not jnp.issubdtype(table.dtype, jnp.floating) or (scales is not None and scales.dtype != table.dtype):
        raise RuntimeError(
            f"embedding_bag: expected a floating-point weight, and per_sample_weights of its dtype, but got {table.dtype.name}"
            + ("" if scales is None else f" and {scales.dtype.name}")
        )
    if padding_idx is not None and not -rows <= integer(padding_idx, "padding_idx") < rows:
        raise RuntimeError(
            f"padding_idx must be within the number of embeddings, {-rows} through {rows - 1}, but got {padding_idx}"
        )
    _outside("embedding_bag", index, rows, RuntimeError)
    bags = _Bags(index, starts, include_last_offset)
    table, index = array(weight, "weight"), index.ravel().astype(jnp.int32)
    counted = jnp.ones(index.shape, bool) if padding_idx is None else index != padding_idx % rows
    index = jnp.where(index < 0, rows, index)  # a negative index would count from the end
    if max_norm is not None:
        table = _shrunk(weight, table, index, max_norm, norm_type)
    found = accumulating(jnp.take(table, index, axis=0, mode="fill"))  # fills with NaN
    if mode == "max":
        out = bags.maximum(found, counted)
        if known(index) is None:
            out += bags.reduce("sum", jnp.where(index < rows, 0, jnp.nan))[:, None]
    else:
        found = _by_frequency(found, table, index) if scale_grad_by_freq else found
        found = found if scales is None else found * accumulating(scales).reshape(-1, 1)
        out = bags.reduce("sum", jnp.where(counted[:, None], found, 0))
        if mode == "mean":
            out = out / jnp.maximum(bags.reduce("sum", counted.astype(jnp.int32)), 1)[:, None]
    return jnp.where(bags.valid, out, jnp.nan).astype(table.dtype)


def one_hot(input: Any, num_classes: int = -1) -> jax.Array:
    """Vectors that are 1 at an index, and 0 elsewhere.

    Args:
        input: integers, any shape.
        num_classes: the size of the vectors; −1, which needs indices that are known, for the largest index and one more.

    Returns:
        (*input, num_classes), int64. Under a JAX transformation, where indices are not known, one that is out of range gives
        zeros alone.

    Raises:
        RuntimeError: where an index is negative or too large, or the number of classes cannot be told.

    Example:
        >>> import jax.numpy as jnp
        >>> one_hot(jnp.array([1, 0]), 3).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    index = array(input, "input")
    classes = integer(num_classes, "num_classes")
    if index.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(f"one_hot is only applicable to index tensor of type LongTensor, got {index.dtype.name}")
    values = known(index)
    if classes <= 0 and (values is None or not values.size):
        raise RuntimeError(
            "one_hot: cannot infer the number of classes from an empty input, nor under a JAX transformation, where it is not "
            f"known: expected a positive num_classes, got {classes}"
        )
    if values is not None and values.size:
        classes = int(values.max()) + 1 if classes == -1 else classes
        if values.min() < 0 or values.max() >= classes:
            raise RuntimeError(
                f"one_hot: class values must be non-negative and smaller than num_classes {classes}, got {values.min()} to "
                f"{values.max()}"
            )
    return (index[..., None] == jnp.arange(classes)).astype(held_dtype(np.int64))
