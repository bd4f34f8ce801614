"""Linear maps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled
from fnn.functional.checks import accumulating, array, floating, known, same_dtype
from fnn.precision import to_lower, to_widest

__all__ = ["bilinear", "grouped_mm", "linear"]


@compiled
def linear(input: Any, weight: Any, bias: Any = None) -> jax.Array:
    """A linear map of the last axis: `input @ weight.T + bias`.

    Args:
        input: (*, in_features).
        weight: (out_features, in_features), or (in_features,).
        bias: (out_features,), or ().

    Returns:
        (*, out_features), or (*) for a weight of one axis.

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> linear(jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0]]), jnp.array([5.0])).tolist()
        [16.0]
    """
    input, weight, bias = to_lower(input, weight, bias)
    x, w = array(input, "input"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    same_dtype("linear", input=x, weight=w, bias=b)
    if w.ndim not in (1, 2):
        raise RuntimeError(f"linear: expected a weight of 1 or 2 dimensions, got shape {w.shape}")
    if x.ndim == 0 or x.shape[-1] != w.shape[-1]:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied: expected an input of shape (*, {w.shape[-1]}) for a weight of shape "
            f"{w.shape}, got {x.shape}"
        )
    # Contracted as it is: a transpose would be kept, a copy of the weight, for the gradient.
    y = lax.dot_general(x, w, (((x.ndim - 1,), (w.ndim - 1,)), ((), ())))
    if b is None:
        return y
    if b.shape not in ((), w.shape[:-1]):
        raise RuntimeError(f"linear: expected a bias of shape {w.shape[:-1]}, got {b.shape}")
    return y + b


@compiled
def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> jax.Array:
    """A bilinear map of two last axes: `y_o = Σ_ij weight_oij input1_i input2_j + bias_o`.

    Args:
        input1: (*, in1_features).
        input2: (*, in2_features).
        weight: (out_features, in1_features, in2_features).
        bias: (out_features,).

    Returns:
        (*, out_features).

    Raises:
        RuntimeError: where shapes do not fit or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> bilinear(jnp.array([1.0, 2.0]), jnp.array([3.0]), jnp.array([[[1.0], [10.0]]])).tolist()
        [63.0]
    """
    input1, input2, weight, bias = to_widest(input1, input2, weight, bias)
    x, y, w = array(input1, "input1"), array(input2, "input2"), array(weight, "weight")
    b = None if bias is None else array(bias, "bias")
    same_dtype("bilinear", input1=x, input2=y, weight=w, bias=b)
    if x.ndim == 0 or y.ndim == 0:
        raise IndexError(f"bilinear(): expected inputs of at least one dimension, got shapes {x.shape} and {y.shape}")
    if x.shape[:-1] != y.shape[:-1]:
        raise RuntimeError(f"bilinear(): input batch dimensions do not match: got shapes {x.shape} and {y.shape}")
    if w.ndim != 3 or w.shape[1:] != (x.shape[-1], y.shape[-1]) or 0 in w.shape[1:]:
        raise RuntimeError(
            f"bilinear(): expected a weight of shape (out_features, {x.shape[-1]}, {y.shape[-1]}), neither of them 0, got "
            f"{w.shape}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise RuntimeError(f"bilinear(): expected a bias of shape {w.shape[:1]}, got {b.shape}")
    if x.dtype == bool:
        raise NotImplementedError('"bilinear" not implemented for bool')
    out = jnp.einsum("...i,...j,oij->...o", accumulating(x), accumulating(y), accumulating(w))
    return (out if b is None else out + b).astype(x.dtype)


@compiled
def grouped_mm(mat_a: Any, mat_b: Any, *, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> jax.Array:
    """A matrix product for each group, such as the tokens of each expert and its weight.

    The axis that two operands of different ranks do not share, or the one that two matrices contract, is cut in groups:
    group i goes from `offs[i − 1]` to `offs[i]`.

    Args:
        mat_a: (M, K), or (G, M, K).
        mat_b: (G, K, N) or (K, N).
        offs: (G,), int32, where the groups end; not given for two operands of three axes.
        bias: (N,); torch documents it, and does not take it yet.
        out_dtype: accepted where it is the dtype of the operands.

    Returns:
        (M, N); for two matrices, and for two operands of three axes, (G, M, N). Rows or columns behind the last group are
        zero. Products of 16 bits are added up in float32.

    Raises:
        RuntimeError: where shapes do not fit, dtypes differ, or groups are not in order.

    Example:
        >>> import jax.numpy as jnp
        >>> tokens, experts = jnp.ones((3, 2)), jnp.array([[[1.0], [1.0]], [[5.0], [5.0]]])
        >>> grouped_mm(tokens, experts, offs=jnp.array([1, 3])).tolist()
        [[2.0], [10.0], [10.0]]
    """
    a, b = array(mat_a, "mat_a"), array(mat_b, "mat_b")
    same_dtype("grouped_mm", mat_a=a, mat_b=b)
    floating("grouped_mm", a.dtype)
    if a.ndim not in (2, 3) or b.ndim not in (2, 3):
        raise RuntimeError(f"grouped_mm: expected operands of 2 or 3 dimensions, got shapes {a.shape} and {b.shape}")
    if (offs is None) != (a.ndim == b.ndim == 3):
        raise RuntimeError(
            "grouped_mm: have to provide offsets if there is a 2d matrix, or no offset if both matrices are 3d: got shapes "
            f"{a.shape} and {b.shape}, and offs {'missing' if offs is None else 'given'}"
        )
    if out_dtype is not None and jnp.dtype(out_dtype) != a.dtype:
        raise RuntimeError(f"grouped_mm: output dtype must match mat_a dtype {a.dtype.name}, got {jnp.dtype(out_dtype).name}")
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError(f"grouped_mm: contraction dimension of mat_a and mat_b must match, got {a.shape} and {b.shape}")
    if offs is None:
        if a.shape[0] != b.shape[0]:
            raise RuntimeError(f"grouped_mm: batched dimension has to match, got {a.shape} and {b.shape}")
        out = jnp.matmul(a, b)
    else:
        cut = a.shape[-1] if a.ndim == b.ndim else a.shape[0] if a.ndim == 2 else b.shape[1]
        groups = a.shape[0] if a.ndim == 3 else b.shape[0] if b.ndim == 3 else None
        sizes = _group_sizes(array(offs, "offs"), groups, cut)
        if a.ndim == b.ndim:
            ends = jnp.cumsum(sizes)
            inside = (jnp.arange(cut) < ends[:, None]) & (jnp.arange(cut) >= (ends - sizes)[:, None])
            out = jnp.matmul(jnp.where(inside[:, None], a, 0), b)
        elif a.ndim == 2:
            out = _ragged_dot(a, b, sizes)
        else:
            out = _ragged_dot(b.T, a.mT, sizes).T
    if bias is not None:
        added = array(bias, "bias")
        if added.shape != b.shape[-1:]:
            raise RuntimeError(f"grouped_mm: expected a bias of shape {b.shape[-1:]}, got {added.shape}")
        out = out + added
    return out.astype(a.dtype)


def _group_sizes(offs: jax.Array, groups: int | None, length: int) -> jax.Array:
    """The sizes of groups, from where they end."""
    if offs.dtype != jnp.int32:
        raise RuntimeError(f"grouped_mm: offsets have to be int32, got {offs.dtype.name}")
    if offs.ndim != 1 or groups not in (None, len(offs)):
        raise RuntimeError(f"grouped_mm: matrix batch sizes have to match: expected {groups} offsets, got shape {offs.shape}")
    ends = known(offs)
    if ends is not None and ends.size and ((np.diff(ends, prepend=0) < 0).any() or ends[-1] > length):
        raise RuntimeError(f"grouped_mm: expected offsets that grow from 0 to {length}, got {ends.tolist()}")
    return jnp.diff(offs, prepend=0)


def _ragged_dot(a: jax.Array, b: jax.Array, sizes: jax.Array) -> jax.Array:
    # ragged_dot has a batching rule only for operands that are all batched: what is mapped in one is mapped in each.
    nothing = sum((x.ravel()[:1].sum() != 0) & False for x in (a, b, sizes))
    a, b, sizes = (x + jnp.asarray(nothing, x.dtype) for x in (a, b, sizes))
    return lax.ragged_dot(a, b, sizes)
