"""Multi-head attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import functional as F
from fnn.functional.multihead_attention import memory_cache
from fnn.nn import init
from fnn.nn.modules.linear import NonDynamicallyQuantizableLinear
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Parameter

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention of several heads: `concat(head_1, ..., head_h) Wᵀ + b`, of projected queries, keys and values.

    Each head is `softmax(q kᵀ / √D + attn_mask) v`, of D = embed_dim / num_heads features.

    Args:
        embed_dim: E, the number of features of query and output.
        num_heads: the number of heads, which divides E.
        dropout: the probability that a weight of attention is set to zero, in training.
        bias: whether projections have biases.
        add_bias_kv: whether there is one more key and value, which are learned.
        add_zero_attn: whether there is one more key and value, of zeros.
        kdim, vdim: the numbers of features of key and value; E by default.
        batch_first: whether the batch is axis 0 of query, key, value and output.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.

    Shape:
        query (L, N, E), key (S, N, kdim) and value (S, N, vdim) to output (L, N, E) and weights (N, L, S). With
        `batch_first` the first three, and the output, have N before L and S. Inputs may be without N, and outputs are then too.

    Attributes:
        in_proj_weight: (3 · E, E), the rows for query, key and value; Xavier uniform initially.
        q_proj_weight, k_proj_weight, v_proj_weight: (E, E), (E, kdim) and (E, vdim), in its place where those differ.
        in_proj_bias: (3 · E,), initially 0.
        bias_k, bias_v: (1, 1, E), Xavier normal initially, or None.
        out_proj: a Linear, with an initial bias of 0.

    Raises:
        ValueError, AssertionError: where embed_dim or num_heads are not positive, or do not divide.
        AssertionError, RuntimeError: by forward, where ranks, shapes or dtypes do not fit.

    References:
        Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> x = jnp.ones((5, 2, 8))
        >>> out, weights = nn.MultiheadAttention(8, 4)(x, x, x)
        >>> out.shape, weights.shape
        ((5, 2, 8), (2, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(f"embed_dim and num_heads must be greater than 0, got {embed_dim} and {num_heads}")
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError(f"embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}")
        features = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        if self._qkv_same_embed_dim:
            self.in_proj_weight = Parameter(init.zeros, (3 * embed_dim, embed_dim), dtype)
        for name, size in features.items():
            weight = None if self._qkv_same_embed_dim else Parameter(init.zeros, (embed_dim, size), dtype)
            self.register_parameter(f"{name}_proj_weight", weight)
        if not self._qkv_same_embed_dim:
            self.register_parameter("in_proj_weight", None)
        self.register_parameter("in_proj_bias", Parameter(init.zeros, (3 * embed_dim,), dtype) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, dtype=dtype)
        self.bias_k = Parameter(init.zeros, (1, 1, embed_dim), dtype) if add_bias_kv else None
        self.bias_v = Parameter(init.zeros, (1, 1, embed_dim), dtype) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()
        self._place(device)

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_qkv_same_embed_dim": True, **state})

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache: F.KeyValueCache | None = None,
    ) -> tuple[jax.Array, Any]:
        """The output, and the weights or None.

        Args:
            query, key, value: see above. Where key and value, or all three, are one object, one matrix product projects them.
            key_padding_mask: (N, S), or (S,). True hides a key from all queries; a float is added to the scores.
            need_weights: whether to return the weights too. Without them, memory need not grow with L · S.
            attn_mask: (L, S), or (N · num_heads, L, S). True hides a key from a query; a float is added to the scores.
            average_attn_weights: whether to return the mean of the weights over heads, and not (N, num_heads, L, S).
            is_causal: a hint that `attn_mask`, which must be given too, hides what comes after each query.
            cache: for incremental decoding, see `init_cache`: the output and the new cache are returned. Each query sees the
                positions before it and its own; masks are (L, C) and (N, C), with the room C of the cache for S.

        Returns:
            A query that sees no key has an attention of NaN where weights are needed, and of 0 where not, as in torch.
        """
        return F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            self.training,
            key_padding_mask,
            need_weights,
            attn_mask,
            not self._qkv_same_embed_dim,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
            batch_first=self.batch_first,
            cache=cache,
        )

    def init_cache(self, batch: int, length: int, dtype: Any = None) -> F.KeyValueCache:
        """A cache with room for the keys and values of sequences, so that each call need take but the next positions.

        Its shape does not depend on how much it holds, so one compiled step serves every position. Where it must not be
        copied, donate it to `jax.jit`. torch has none.

        Args:
            batch: N.
            length: the room: how many positions there can be.
            dtype: by default that of the parameters.

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> attention = nn.MultiheadAttention(8, 2, batch_first=True)
            >>> cache = attention.init_cache(1, 10)
            >>> for x in jnp.ones((3, 1, 1, 8)):
            ...     y, cache = attention(x, x, x, cache=cache)
            >>> y.shape, int(cache.position)
            ((1, 1, 8), 3)
        """
        shape = (batch, self.num_heads, length, self.head_dim)
        zeros = jnp.zeros(shape, self.out_proj.weight.dtype if dtype is None else dtype)
        return F.KeyValueCache(zeros, zeros, jnp.zeros((), jnp.int32))

    def memory_cache(self, key: Any, value: Any) -> F.KeyValueCache:
        """The cache of a memory, whose keys and values are projected once: calls with it need no key and value.

        Args:
            key, value: as for forward, with a batch.

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> attention, memory = nn.MultiheadAttention(8, 2, batch_first=True), jnp.ones((1, 5, 8))
            >>> y, _ = attention(jnp.ones((1, 1, 8)), None, None, cache=attention.memory_cache(memory, memory))
            >>> y.shape
            (1, 1, 8)
        """
        k_weight, v_weight = self.k_proj_weight, self.v_proj_weight
        if self._qkv_same_embed_dim:
            _, k_weight, v_weight = jnp.split(jnp.asarray(self.in_proj_weight), 3)
        k_bias = v_bias = None
        if self.in_proj_bias is not None:
            _, k_bias, v_bias = jnp.split(jnp.asarray(self.in_proj_bias), 3)
        return memory_cache(key, value, self.num_heads, k_weight, v_weight, k_bias, v_bias, self.batch_first)

    def merge_masks(self, attn_mask: Any, key_padding_mask: Any, query: Any) -> tuple[Any, int | None]:
        """One mask of two that are added to the scores, and its kind.

        Args:
            attn_mask: (L, L) or (N · num_heads, L, L), or None.
            key_padding_mask: (N, L), or None.
            query: (N, L, E).

        Returns:
            (N, num_heads, L, L) and 2 where there is `attn_mask`, else `key_padding_mask` and 1, else None and None.
        """
        if attn_mask is None:
            return key_padding_mask, None if key_padding_mask is None else 1
        batch, length = np.shape(query)[:2]
        mask = jnp.asarray(attn_mask)
        shape = (batch, self.num_heads, length, length)
        mask = mask.reshape(batch, -1, length, length) if mask.ndim == 3 else jnp.broadcast_to(mask, shape)
        return mask if key_padding_mask is None else mask + jnp.reshape(key_padding_mask, (batch, 1, 1, length)), 2
