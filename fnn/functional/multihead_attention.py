"""Multi-head attention: attention of several heads, with projections before and after."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnn.eager import compiled, warn
from fnn.functional.activation import softmax
from fnn.functional.attention import scaled_dot_product_attention
from fnn.functional.checks import accumulating, array, floating, known, same_dtype
from fnn.functional.dropout import dropout
from fnn.functional.linear import linear
from fnn.precision import to_float32, to_lower

__all__ = ["KeyValueCache", "multi_head_attention_forward"]

_NAME = "multi_head_attention_forward"


class KeyValueCache(NamedTuple):
    """The keys and values that attention has seen: the state of incremental decoding, a pytree of static shape.

    `MultiheadAttention.init_cache` makes one. A call with it takes the next L positions, whatever number it holds.

    Attributes:
        key, value: (N, num_heads, C, D), projected, with room for C positions.
        position: how many of them are held, a whole number (), which is also the position of the next; None where they are
            those of a memory that is whole, to which nothing is added.
    """

    key: jax.Array
    value: jax.Array
    position: jax.Array | None


def memory_cache(
    key: Any, value: Any, num_heads: int, k_weight: Any, v_weight: Any, k_bias: Any, v_bias: Any, batch_first: bool
) -> KeyValueCache:
    """The cache of a memory (S, N, E), or (N, S, E) with `batch_first`, which is projected once and for all."""
    projected = (linear(key, k_weight, k_bias), linear(value, v_weight, v_bias))
    k, v = (_by_head(x, num_heads, batch_first) for x in projected)
    return KeyValueCache(k, v, None)


def _append(cache: KeyValueCache, k: jax.Array, v: jax.Array) -> tuple[KeyValueCache, jax.Array, Any]:
    """The cache with keys and values (N, H, L, D) behind those that it holds.

    Returns:
        The cache; which of its positions each of the L sees, (L, C): itself and those before; and whether there is room.

    Raises:
        RuntimeError: where it is known that there is no room, or where the cache is one for others.
    """
    (batch, heads, length, head_dim), room = k.shape, cache.key.shape[-2]
    for name, x in (("cache.key", cache.key), ("cache.value", cache.value)):
        _expect(RuntimeError, name, x, batch, heads, room, head_dim)
    position = array(cache.position, "cache.position")
    taken = known(position)
    if length + (0 if taken is None else taken) > room:
        held = "some" if taken is None else taken
        raise RuntimeError(f"the cache has room for {room} positions, and holds {held}: got {length} more")
    start = (0, 0, position, 0)
    keys, values = (lax.dynamic_update_slice(c, x.astype(c.dtype), start) for c, x in ((cache.key, k), (cache.value, v)))
    sees = jnp.arange(room) <= position + jnp.arange(length)[:, None]
    return KeyValueCache(keys, values, position + length), sees, position + length <= room


def _canonical_mask(
    mask: Any, mask_name: str, other_type: Any, other_name: str, target_type: Any, check_other: bool = True
) -> jax.Array | None:
    """A mask as what is added to scores: of a bool, where True hides a key, −∞ or 0.

    Args:
        mask: bool or floating point, or None.
        mask_name: what an error calls it.
        other_type: the dtype of a mask that is used with it, which should be the same, or None.
        other_name: what a warning calls that.
        target_type: what a bool becomes.
        check_other: whether to look at other_type.

    Raises:
        AssertionError: for other dtypes.
    """
    if mask is None:
        return None
    m = array(mask, mask_name)
    _check_mask(m, mask_name, other_type if check_other else None, other_name)
    return _additive(m, target_type)


def _none_or_dtype(input: Any) -> Any:
    return None if input is None else array(input, "input").dtype


def _additive(mask: jax.Array, dtype: Any) -> jax.Array:
    return jnp.where(mask, -jnp.inf, 0.0).astype(dtype) if mask.dtype == bool else mask


def _check_mask(mask: jax.Array, name: str, other: Any = None, other_name: str = "") -> None:
    if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise AssertionError(f"only bool and floating types of {name} are supported, got {mask.dtype.name}")
    if other is not None and other != mask.dtype:
        warn(
            f"Support for mismatched {name} and {other_name} is deprecated. Use same type for both instead: got "
            f"{mask.dtype.name} and {jnp.dtype(other).name}.",
            UserWarning,
            stacklevel=3,
        )


def _mha_shape_check(query: Any, key: Any, value: Any, key_padding_mask: Any, attn_mask: Any, num_heads: int) -> bool:
    """Whether there is a batch.

    Raises:
        AssertionError: where the numbers of axes do not go together.
    """
    q, k, v, padding, mask = query, key, value, key_padding_mask, attn_mask
    if q.ndim not in (2, 3):
        raise AssertionError(f"query should be unbatched 2D or batched 3D tensor but received a query of shape {q.shape}")
    kind = "batched (3-D)" if q.ndim == 3 else "unbatched (2-D)"
    if k.ndim != q.ndim or v.ndim != q.ndim:
        raise AssertionError(
            f"For {kind} `query`, expected `key` and `value` to be {q.ndim}-D but found shapes {k.shape} and {v.shape}"
        )
    if padding is not None and padding.ndim != q.ndim - 1:
        raise AssertionError(
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or {q.ndim - 1}-D but found shape {padding.shape}"
        )
    if mask is not None and mask.ndim not in (2, 3):
        raise AssertionError(f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D but found shape {mask.shape}")
    if mask is not None and (q.ndim, mask.ndim) == (2, 3):
        _expect(AssertionError, "attn_mask", mask, num_heads, len(q), len(k))
    return bool(q.ndim == 3)


def _check_sizes(q: jax.Array, k: jax.Array, v: jax.Array, embed_dim: int, heads: int, batch_axis: int, separate: bool) -> None:
    if q.shape[2] != embed_dim:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim}, but got {q.shape[2]}")
    if embed_dim % heads:
        raise AssertionError(f"embed_dim {embed_dim} not divisible by num_heads {heads}")
    if k.shape[:2] != v.shape[:2] or (k.shape != v.shape and not separate):
        raise AssertionError(f"key shape {k.shape} does not match value shape {v.shape}")
    if k.shape[batch_axis] != q.shape[batch_axis]:
        raise RuntimeError(f"{_NAME}: query and key must have the same batch size, got shapes {q.shape} and {k.shape}")


def _expect(error: type[Exception], name: str, x: jax.Array | None, *shape: int) -> None:
    if x is not None and x.shape != shape:
        raise error(f"Expected {name} of shape {shape}, but got {x.shape}")


def _in_projection_packed(q: Any, k: Any, v: Any, w: Any, b: Any = None) -> list[jax.Array]:
    """The projections of query, key and value by a weight, and a bias, that have the rows of all three.

    Where key and value, or all three, are one object, one matrix product projects them.
    """
    shared = (1, 1, 1) if k is not v else (3,) if q is k else (1, 2)
    places = np.cumsum(shared)[:-1] * (w.shape[0] // 3)
    weights = jnp.split(array(w, "w"), places)
    biases = [None] * len(shared) if b is None else jnp.split(array(b, "b"), places)
    parts = zip((q, k, v), shared, weights, biases, strict=False)
    return [part for x, count, weight, bias in parts for part in jnp.split(linear(x, weight, bias), count, axis=-1)]


def _in_projection(
    q: Any, k: Any, v: Any, w_q: Any, w_k: Any, w_v: Any, b_q: Any = None, b_k: Any = None, b_v: Any = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The projections of query, key and value by a weight, and a bias, of each."""
    return linear(q, w_q, b_q), linear(k, w_k, b_k), linear(v, w_v, b_v)


def _by_head(x: jax.Array, heads: int, batch_first: bool) -> jax.Array:
    """Features of all heads, (L, N, E) or (N, L, E), as (N, H, L, D)."""
    x = x.reshape(*x.shape[:2], heads, x.shape[2] // heads)
    return x.transpose((0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


def _extend(x: jax.Array, bias: jax.Array | None, add_zero_attn: bool) -> jax.Array:
    """Keys or values (N, H, S, D), and behind them one of a bias (1, 1, E) and one of zeros."""
    batch, heads, _, head_dim = x.shape
    one = (batch, heads, 1, head_dim)
    more = [] if bias is None else [jnp.broadcast_to(bias.reshape(1, heads, 1, head_dim), one)]
    more += [jnp.zeros(one, x.dtype)] * bool(add_zero_attn)
    return jnp.concatenate([x, *more], axis=2) if more else x


def _merge(mask: jax.Array | None, padding: jax.Array | None, heads: int, more: int, dtype: Any) -> jax.Array | None:
    """One mask to add to scores (N, H, L, S), which hides none of the keys that there are more."""
    masks = []
    if mask is not None:
        masks.append(mask[None, None] if mask.ndim == 2 else mask.reshape(-1, heads, *mask.shape[1:]))
    if padding is not None:
        masks.append(padding[:, None, None])
    if not masks:
        return None
    merged = functools.reduce(operator.add, (_additive(m, dtype) for m in masks))
    return jnp.pad(merged, [(0, 0)] * 3 + [(0, more)]) if more else merged


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: Any, dropout_p: float) -> tuple[jax.Array, jax.Array]:
    """Attention and its weights, computed as a whole; a query that sees no key gets NaN."""
    scores = jnp.matmul(accumulating(q) * math.sqrt(1.0 / q.shape[-1]), accumulating(k).mT)
    weights = softmax(scores if mask is None else scores + accumulating(mask), -1)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return jnp.matmul(weights, accumulating(v)).astype(q.dtype), weights


@compiled
def multi_head_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    batch_first: bool = False,
    cache: KeyValueCache | None = None,
) -> tuple[jax.Array, Any]:
    """Attention of several heads, with projections before and after: `concat(head_1, ..., head_h) Wᵀ + b`.

    Each head is `softmax(q kᵀ / √D + attn_mask) v` of its D = E / num_heads features of the projected query, key and value.
    Where key and value, or all three, are one object, one matrix product projects them.

    Args:
        query: (L, N, E), or (L, E).
        key: (S, N, E), or (S, E); with separate weights the last axis may have another size.
        value: as key.
        embed_dim_to_check: E.
        num_heads: the number of heads, which divides E.
        in_proj_weight: (3 · E, E), the rows for query, key and value in this order.
        in_proj_bias: (3 · E,), or None.
        bias_k, bias_v: (1, 1, E), one more key and value, or None.
        add_zero_attn: whether there is one more key and value, of zeros.
        dropout_p: the probability that a weight is set to zero, in training.
        out_proj_weight: (*, E).
        out_proj_bias: (*,), or None.
        training: whether there is dropout.
        key_padding_mask: (N, S), or (S,). True hides a key from all queries; a float is added to the scores.
        need_weights: whether to return the weights too. Without them, memory need not grow with L · S.
        attn_mask: (L, S), or (N · num_heads, L, S). True hides a key from a query; a float is added to the scores.
        use_separate_proj_weight: whether the following three take the place of `in_proj_weight`.
        q_proj_weight, k_proj_weight, v_proj_weight: (E, E), (E, features of key) and (E, features of value).
        static_k, static_v: (N · num_heads, S, D), which take the place of the projected key and value.
        average_attn_weights: whether to return the mean of the weights over heads.
        is_causal: a hint that `attn_mask`, which must be given too, hides what comes after each query. Without
            `key_padding_mask` and `need_weights` only the hint counts.
        batch_first: whether the batch is axis 0 of query, key, value and output; not an argument of torch's.
        cache: the keys and values of earlier positions, for incremental decoding; not an argument of torch's. Each query sees
            the positions before it and its own, as under a causal mask; masks are (L, C) and (N, C), with the room C of the
            cache in the place of S. With the cache of a memory, key and value are not looked at.

    Returns:
        The output, of the query's shape, and the weights or None. They are (N, L, S), or (N, num_heads, L, S) for
        `average_attn_weights=False`, and without N where the inputs have none. A query that sees no key has an attention of
        NaN where weights are needed, and of 0 where not, as in torch.

        With a cache, the output and the new cache; where JAX traces the position and there is no room left, the output is NaN.

    Raises:
        AssertionError, RuntimeError: where ranks, shapes or dtypes do not fit; where the cache has no room left.

    References:
        Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762

    Example:
        >>> import jax.numpy as jnp
        >>> x, w, one = jnp.array([[1.0], [3.0]]), jnp.array([[0.0], [0.0], [1.0]]), jnp.eye(1)
        >>> out, weights = multi_head_attention_forward(x, x, x, 1, 1, w, None, None, None, False, 0.0, one, None)
        >>> out.tolist(), weights.tolist()
        ([[2.0], [2.0]], [[0.5, 0.5], [0.5, 0.5]])
    """
    if cache is not None:
        need_weights = is_causal = False
        if cache.position is None:
            static_k, static_v = (x.reshape(-1, *x.shape[2:]) for x in cache[:2])
            into = (k_proj_weight, v_proj_weight) if use_separate_proj_weight else (in_proj_weight,) * 2
            key, value = (jnp.zeros((*np.shape(query)[:-1], np.shape(weight)[1]), static_k.dtype) for weight in into)
    q = to_lower(array(query, "query"))
    k = q if key is query else to_lower(array(key, "key"))  # what is one object stays one, and is projected as one
    v = k if value is key else to_lower(array(value, "value"))
    optional = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask, "in_proj_bias": in_proj_bias, "bias_k": bias_k}
    optional |= {"bias_v": bias_v, "static_k": static_k, "static_v": static_v, "out_proj_bias": out_proj_bias}
    optional = {name: None if x is None else to_lower(array(x, name)) for name, x in optional.items()}
    padding, mask, bias, bias_k, bias_v, static_k, static_v, out_bias = optional.values()
    unbatched = not _mha_shape_check(q, k, v, padding, mask, num_heads)
    if padding is not None:
        _check_mask(padding, "key_padding_mask", _none_or_dtype(mask), "attn_mask")
    if mask is not None:
        _check_mask(mask, "attn_mask")
    elif is_causal:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint, such as Transformer.generate_square_subsequent_mask makes it"
        )
    is_causal = is_causal and padding is None and not need_weights
    mask = None if is_causal else mask
    if unbatched:
        batched = {id(x): x[None] for x in (q, k, v)}
        q, k, v, batch_first = batched[id(q)], batched[id(k)], batched[id(v)], True
        padding = None if padding is None else padding[None]
    _check_sizes(q, k, v, embed_dim_to_check, num_heads, 0 if batch_first else 1, use_separate_proj_weight)

    batch, length = q.shape[:2] if batch_first else q.shape[1::-1]
    embed_dim, head_dim = q.shape[2], q.shape[2] // num_heads
    growing = None if cache is None or cache.position is None else cache
    source = k.shape[1 if batch_first else 0]
    if growing is not None:
        source = growing.key.shape[2]
    elif static_k is not None and static_k.ndim == 3:
        source = static_k.shape[1]
    if mask is not None:
        _expect(RuntimeError, "attn_mask", mask, *[batch * num_heads] * (mask.ndim - 2), length, source)
    _expect(AssertionError, "key_padding_mask", padding, batch, source)
    weights = {"in_proj_weight": in_proj_weight}
    if use_separate_proj_weight:
        weights = {"q_proj_weight": q_proj_weight, "k_proj_weight": k_proj_weight, "v_proj_weight": v_proj_weight}
    for x, (name, weight) in zip((q, k, v) if use_separate_proj_weight else (k,), weights.items(), strict=True):
        if weight is None:
            raise AssertionError(f"use_separate_proj_weight is {use_separate_proj_weight} but {name} is None")
        weights[name] = to_lower(array(weight, name))
        _expect(RuntimeError, name, weights[name], 3 * embed_dim // len(weights), x.shape[2])
    _expect(RuntimeError, "in_proj_bias", bias, 3 * embed_dim)
    if (bias_k is None) != (bias_v is None):
        raise AssertionError("expected bias_k and bias_v together, but one of them is None")
    for name in ("bias_k", "bias_v"):
        if optional[name] is not None:
            _expect(RuntimeError, name, optional[name], *(1, 1, embed_dim)[-max(optional[name].ndim, 1) :])
    for name in ("static_k", "static_v"):
        if bias_k is not None and optional[name] is not None:
            raise AssertionError(f"bias cannot be added to {name}")
        _expect(AssertionError, name, optional[name], batch * num_heads, source, head_dim)
    out_weight = to_lower(array(out_proj_weight, "out_proj_weight"))
    _expect(RuntimeError, "out_proj_weight", out_weight, len(out_weight), embed_dim)
    parts = {name: x for name, x in optional.items() if name not in ("key_padding_mask", "attn_mask")}
    same_dtype(_NAME, query=q, key=k, value=v, **weights, **parts, out_proj_weight=out_weight)
    floating(_NAME, q.dtype)
    more = (bias_k is not None) + bool(add_zero_attn)
    merged = _merge(mask, padding, num_heads, more, q.dtype)
    if need_weights and merged is not None:
        same_dtype(_NAME, query=q, attn_mask=merged)

    if use_separate_proj_weight:
        biases = () if bias is None else jnp.split(bias, 3)
        q, k, v = _in_projection(q, k, v, *weights.values(), *biases)
    else:
        q, k, v = _in_projection_packed(q, k, v, weights["in_proj_weight"], bias)
    q, k, v = (_by_head(x, num_heads, batch_first) for x in (q, k, v))
    if growing is not None:
        cache, sees, room = _append(growing, k, v)
        k, v = (x.astype(q.dtype) for x in cache[:2])
        sees = jnp.pad(sees, [(0, 0), (0, more)], constant_values=True)
        merged = sees if merged is None else jnp.where(sees, merged, -jnp.inf)
    k = k if static_k is None else static_k.reshape(batch, num_heads, source, head_dim)
    v = v if static_v is None else static_v.reshape(batch, num_heads, source, head_dim)
    k, v = (_extend(x, more, add_zero_attn) for x, more in ((k, bias_k), (v, bias_v)))
    dropout_p = dropout_p if training else 0.0
    attention_weights = None
    if need_weights:
        mixed, attention_weights = _attend(q, k, v, merged, dropout_p)
        attention_weights = attention_weights.mean(1) if average_attn_weights else attention_weights
        attention_weights = attention_weights.astype(to_float32(q).dtype)
    else:
        mixed = scaled_dot_product_attention(q, k, v, merged, dropout_p, is_causal)
    mixed = mixed.transpose((0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    out = linear(mixed.reshape(*mixed.shape[:2], embed_dim), out_weight, out_bias)
    if unbatched:
        out, attention_weights = out[0], None if attention_weights is None else attention_weights[0]
    if growing is not None:
        out = jnp.where(room, out, jnp.nan)
    return out, attention_weights if cache is None else cache
