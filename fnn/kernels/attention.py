"""Attention in memory that grows linearly with the sequence: scores exist for one block of queries at a time.

A block has whole rows of scores, so its softmax is the ordinary one, and `jax.checkpoint` computes the scores again in the
derivative, from the sums that it keeps. Nothing here has a derivative of its own, so all orders and modes are JAX's.

On an NVIDIA GPU, what cuDNN's fused attention takes is left to it, value and gradient; the other derivatives are of the blocks.
A program with it can be exported, as JAX has it, with `disabled_checks` for the custom calls of cuDNN.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from fnn.kernels.derivative import faster
from fnn.kernels.sharding import is_local, on_nvidia

# Measured as benchmarks/run.py does, on 2 cores of 1 MB of cache each: ratios to torch, forward / and gradient.
SCORES = 1 << 19  # at once. 4x12x512x64: all at once 1.5 / 1.5, blocks of 2^18 to 2^20 0.9 to 1.0 / 1.0 to 1.1
ROWS = 256  # of a block. 1x8x2048x64: 64 rows 1.6 / 1.4, 128 rows 1.1 / 1.15, 256 and 512 rows 1.0 / 1.0
GROUPS = 4  # of causal rows, each with the keys up to its end. 4x12x512x64: 1 group 1.2 / 1.4, 2 0.9 / 1.0, 4 0.8 / 0.9
FUSED = 128  # queries and keys, at least, for cuDNN; not measured
KEPT = ("fnn_attention_largest", "fnn_attention_total", "fnn_attention_mixed")


@functools.partial(jax.jit, static_argnames=("causal", "scale", "dropout"))
def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    random_key: jax.Array | None = None,
    *,
    causal: bool = False,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> jax.Array:
    """`softmax(scale query keyᵀ + mask) value`; 0 for a query that sees no key.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, Ev).
        mask: (..., L, S), or 1 in place of L or S: bool, or what is added. All have the same number of axes, and those before
            the last two broadcast. None with causal.
        random_key: for dropout.
        causal: whether query i sees the keys 0 to i only.
        scale: of the scores.
        dropout: the probability that a weight is dropped.
    """
    if _cudnn_takes(query, key, value, mask, random_key, causal, scale):
        fused = functools.partial(_fused, causal=causal, scale=scale)
        blocks = functools.partial(_in_blocks, causal=causal, scale=scale)
        return faster(fused, blocks, *_with_equal_batches(query, key, value), platform="cuda", batched=True)
    return _in_blocks(query, key, value, mask, random_key, causal=causal, scale=scale, dropout=dropout)


def _in_blocks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    random_key: jax.Array | None = None,
    *,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> jax.Array:
    dtype, on_cpu = query.dtype, jax.default_backend() == "cpu"
    # Widened out here, gradients in keys and values are summed over blocks in float32. XLA:CPU has no 16-bit products.
    wide = jnp.promote_types(dtype, jnp.float32)
    factors = wide if on_cpu else dtype
    query, key, value = (x.astype(wide) for x in (query, key, value))
    if factors == wide:
        query, scale = query * scale, 1.0  # fewer numbers than the scores
    block = functools.partial(_block, causal=causal, scale=scale, dropout=dropout, factors=factors)
    leading = jnp.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
    # Transposed outside of the loops, keys and values get gradients that are products with the scores on the right. They
    # would be on the left, transposed: 1x8x2048x64 with its gradient took 1.45 times as long as torch instead of 1.05. (A
    # barrier around the transposed operands does the same, but XLA:CPU 0.10.2 crashes on some shapes of it.)
    key, value = key.swapaxes(-1, -2), value.swapaxes(-1, -2)
    if math.prod(leading) * query.shape[-2] * key.shape[-1] <= SCORES or _is_sharded(query, -2):
        result = block(query, key, value, mask, random_key, 0)
    else:
        operands = query, key, value, mask, random_key
        policy = jax.checkpoint_policies.save_only_these_names(*KEPT)
        by_rows = functools.partial(_by_rows, jax.checkpoint(block, policy=policy), causal)
        result = _by_heads(by_rows, *operands) if on_cpu else by_rows(*operands)
    return result.astype(dtype)


def _block(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    random_key: jax.Array | None,
    first: Any,
    causal: bool,
    scale: float,
    dropout: float,
    factors: Any,
) -> jax.Array:
    """Attention of queries, of which the first has that number, to transposed keys and values, (..., E, S)."""
    wide = query.dtype
    scores = jnp.matmul(query.astype(factors), key.astype(factors), preferred_element_type=wide)
    scores = scores if scale == 1.0 else scores * scale
    if mask is not None:
        # Added, as torch does, so that a NaN among the scores is seen behind the mask, too.
        scores += jnp.where(mask, 0.0, -jnp.inf).astype(wide) if mask.dtype == bool else mask.astype(wide)
    if causal:
        rows, columns = (lax.broadcasted_iota(jnp.int32, scores.shape[-2:], axis) for axis in (0, 1))
        scores = jnp.where(first + rows >= columns, scores, -jnp.inf)
    largest = lax.stop_gradient(jnp.max(scores, -1, keepdims=True, initial=-jnp.inf))
    largest = checkpoint_name(jnp.where(largest == -jnp.inf, 0.0, largest), KEPT[0])
    weights = jnp.exp(scores - largest)
    total = checkpoint_name(weights.sum(-1, keepdims=True), KEPT[1])
    if random_key is not None:
        keep = jax.random.bernoulli(random_key, 1.0 - dropout, weights.shape)
        weights *= jnp.where(keep, 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0, 0.0).astype(wide)
    mixed = jnp.matmul(weights.astype(factors), value.swapaxes(-1, -2).astype(factors), preferred_element_type=wide)
    return checkpoint_name(mixed, KEPT[2]) / jnp.where(total == 0.0, 1.0, total)


def _by_rows(
    block: Callable[..., jax.Array],
    causal: bool,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    random_key: jax.Array | None,
) -> jax.Array:
    """Attention, of blocks of queries one after the other."""
    length, keys = query.shape[-2], key.shape[-1]
    count = -(-length // ROWS)
    rows = -(-length // count)
    queries = _split_rows(query, count, rows)
    masks = None if mask is None or mask.shape[-2] == 1 else _split_rows(mask, count, rows)
    results = []
    groups = min(GROUPS, count) if causal else 1
    for start, stop in itertools.pairwise(count * group // groups for group in range(groups + 1)):
        seen = min(keys, stop * rows) if causal else keys

        def one(of_block: Any, seen: int = seen) -> jax.Array:
            number, query, own = of_block
            random = None if random_key is None else jax.random.fold_in(random_key, number)
            return block(query, key[..., :seen], value[..., :seen], mask if own is None else own, random, number * rows)

        numbers = jnp.arange(start, stop)
        results.append(lax.map(one, (numbers, queries[start:stop], None if masks is None else masks[start:stop])))
    result = jnp.moveaxis(jnp.concatenate(results), 0, -3)
    return result.reshape(*result.shape[:-3], count * rows, value.shape[-2])[..., :length, :]


def _split_rows(x: jax.Array, count: int, rows: int) -> jax.Array:
    """Blocks of the last axis but one, on a new first axis; the last is filled up with zeros."""
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, count * rows - x.shape[-2]), (0, 0)])
    return jnp.moveaxis(padded.reshape(*x.shape[:-2], count, rows, x.shape[-1]), -3, 0)


def _by_heads(
    function: Callable[..., jax.Array],
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    random_key: jax.Array | None,
    axis: int = 0,
) -> jax.Array:
    """Attention, of parts of the leading axes one after the other, so that a block of scores stays in the cache."""
    leading = jnp.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    if axis == len(leading):
        return function(query, key, value, mask, random_key)
    size = leading[axis]
    scores = math.prod(leading) // size * min(query.shape[-2], ROWS) * key.shape[-1]
    part = max(n for n in range(1, size + 1) if size % n == 0 and (n == 1 or n * scores <= SCORES))
    if part == size or any(_is_sharded(x, axis) for x in (query, key, value) if x.shape[axis] == size):
        return _by_heads(function, query, key, value, mask, random_key, axis + 1)

    def steps(x: Any) -> Any:
        if x is None or x.shape[axis] == 1:
            return None
        return jnp.moveaxis(x.reshape(*x.shape[:axis], size // part, part, *x.shape[axis + 1 :]), axis, 0)

    def one(of_step: Any) -> jax.Array:
        number, *own = of_step
        q, k, v, m = (whole if x is None else x for whole, x in zip((query, key, value, mask), own, strict=True))
        random = None if random_key is None else jax.random.fold_in(random_key, number)
        return _by_heads(function, q, k, v, m, random, axis + 1)

    result = jnp.moveaxis(lax.map(one, (jnp.arange(size // part), *map(steps, (query, key, value, mask)))), 0, axis)
    return result.reshape(*result.shape[:axis], size, *result.shape[axis + 2 :])


def _is_sharded(x: jax.Array, axis: int) -> bool:
    """Whether an axis is laid out over an explicit axis of a mesh: it cannot be split into steps of a loop."""
    spec = jax.typeof(x).sharding.spec
    return len(spec) == x.ndim and spec[axis] is not None


def _cudnn_takes(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    random_key: jax.Array | None,
    causal: bool,
    scale: float,
) -> bool:
    """Whether cuDNN's fused attention computes this, and as torch does: some of what it takes it computes otherwise."""
    length, keys, size = query.shape[-2], key.shape[-2], query.shape[-1]
    scores = math.prod(jnp.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))) * length * keys
    if not (
        on_nvidia()
        and query.dtype in (jnp.bfloat16, jnp.float16)
        and mask is None  # a query that sees no key would not have 0
        and random_key is None
        and size in range(8, 129, 8)
        and value.shape[-1] == size
        and (length == keys or not causal)  # where other shapes have their diagonal is not said
        and 0.0 < scale < math.inf  # a negative one makes the largest score the smallest
        and min(length, keys) >= FUSED
        and scores > SCORES
        and is_local(query, key, value)
    ):
        return False
    try:  # JAX has conditions on versions of cuDNN, too
        jax.eval_shape(functools.partial(_fused, causal=causal, scale=scale), *_with_equal_batches(query, key, value))
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _with_equal_batches(*operands: jax.Array) -> list[jax.Array]:
    leading = jnp.broadcast_shapes(*(x.shape[:-2] for x in operands))
    return [jnp.broadcast_to(x, (*leading, *x.shape[-2:])) for x in operands]


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool, scale: float) -> jax.Array:
    """Attention by cuDNN."""
    heads = query.shape[-3] if query.ndim > 2 else 1
    # cuDNN's layout is batch, length, heads, size.
    q, k, v = (x.reshape(-1, heads, *x.shape[-2:]).swapaxes(1, 2) for x in (query, key, value))
    # With the residual even where it is not needed: so it is the same call that the gradient starts with, and XLA makes one.
    result, _ = jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=causal, implementation="cudnn", return_residual=True
    )
    return result.swapaxes(1, 2).reshape(query.shape)
