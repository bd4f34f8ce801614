"""The Transformer, its stacks and their layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import functional as F
from fnn.functional.checks import array, integer, known
from fnn.functional.multihead_attention import _canonical_mask, _none_or_dtype
from fnn.nn import init
from fnn.nn.modules.activation import GELU, ReLU
from fnn.nn.modules.container import ModuleList
from fnn.nn.modules.dropout import Dropout
from fnn.nn.modules.linear import Linear
from fnn.nn.modules.module import Module
from fnn.nn.modules.multihead_attention import MultiheadAttention
from fnn.nn.modules.normalization import LayerNorm
from fnn.scan import call_layers

__all__ = ["Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer"]

_ARGS = """
    Args:
        d_model: E, the number of features.
        nhead: the number of heads, which divides E.
        dim_feedforward: the number of features between the two linear maps.
        dropout: the probability that an element is set to zero, in training.
        activation: between the linear maps: a function of arrays, or "relu" or "gelu".
        layer_norm_eps: added to variances.
        batch_first: whether the batch is axis 0.
        norm_first: whether each block normalizes its input, and not the sum of input and output.
        bias: whether linear maps and normalizations have biases.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.
"""
_REFERENCES = """
    References:
        Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762
        Xiong et al., On Layer Normalization in the Transformer Architecture, https://arxiv.org/abs/2002.04745
"""


class _Layer(Module):
    """What the layers share: their parts, and the blocks of self-attention and of linear maps."""

    self_attn: MultiheadAttention
    _attentions: tuple[str, ...]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[..., Any] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        for name in self._attentions:
            setattr(self, name, MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **where))
        self.linear1 = Linear(d_model, dim_feedforward, bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **where)
        self.norm_first = norm_first
        blocks = range(1, len(self._attentions) + 2)
        for i in blocks:
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **where))
        for i in blocks:
            setattr(self, f"dropout{i}", Dropout(dropout))
        self.activation = _get_activation_fn(activation) if isinstance(activation, str) else activation

    def _sa_block(self, x: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False, cache: Any = None) -> Any:
        return self.dropout1(self._attend("self_attn", x, x, attn_mask, key_padding_mask, is_causal, cache))

    def _attend(
        self, name: str, x: Any, memory: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool, cache: Any
    ) -> Any:
        """What an attention makes of x; where there is a cache of it in `cache`, the new one takes its place."""
        options = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask, "is_causal": is_causal, "need_weights": False}
        cached = cache is not None and name in cache
        out, new = getattr(self, name)(x, memory, memory, **options, **({"cache": cache[name]} if cached else {}))
        if cached:
            cache[name] = new
        return out

    def init_cache(self, batch: int, length: int, dtype: Any = None) -> dict[str, F.KeyValueCache]:
        """A cache for incremental decoding: of self-attention, as `MultiheadAttention.init_cache` makes it.

        Args:
            batch: N.
            length: how many positions there can be.
            dtype: by default that of the parameters.
        """
        return {"self_attn": self.self_attn.init_cache(batch, length, dtype)}

    def _feed_forward(self, x: Any) -> Any:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    __doc__ = f"""Self-attention and two linear maps, each with dropout, a residual connection and a normalization.

    `x ← norm1(x + attention(x))`, then `x ← norm2(x + linear2(activation(linear1(x))))`. Subclasses may define the blocks
    `_sa_block` and `_ff_block` anew.
{_ARGS}
    Shape:
        (S, N, E), or (N, S, E) with `batch_first`, or (S, E); and the same out.

    Raises:
        RuntimeError: for another name of an activation.
{_REFERENCES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """

    _attentions = ("self_attn",)

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[..., Any] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype
        )
        # torch's name for whether its fast path knows the activation
        kinds = ((F.relu, ReLU), (F.gelu, GELU))
        self.activation_relu_or_gelu = next(
            (i for i, (f, layer) in enumerate(kinds, 1) if self.activation is f or isinstance(self.activation, layer)), 0
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not hasattr(self, "activation"):  # of torch before 1.7
            self.activation = F.relu

    def forward(
        self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False, *, cache: Any = None
    ) -> Any:
        """The encoded sequence.

        Args:
            src: the sequence.
            src_mask: (S, S), or (N · nhead, S, S). True hides a position from a position; a float is added to the scores.
            src_key_padding_mask: (N, S), or (S,). True hides a position from all; a float is added to the scores.
            is_causal: a hint that `src_mask`, which must be given too, hides what comes after each position.
            cache: for incremental decoding, as `init_cache` makes it: the output and the new cache are returned. Each position
                sees those before it and its own, and masks have the room of the cache for their last axis.
        """
        other = _none_or_dtype(src_mask)
        padding = _canonical_mask(src_key_padding_mask, "src_key_padding_mask", other, "src_mask", src.dtype)
        mask = _canonical_mask(src_mask, "src_mask", None, "", src.dtype)
        cached: dict[str, Any] = {} if cache is None else {"cache": dict(cache)}
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), mask, padding, is_causal=is_causal, **cached)
            x = x + self._ff_block(self.norm2(x))
        else:
            x = self.norm1(x + self._sa_block(x, mask, padding, is_causal=is_causal, **cached))
            x = self.norm2(x + self._ff_block(x))
        return (x, cached["cache"]) if cached else x

    def _ff_block(self, x: Any) -> Any:
        return self.dropout2(self._feed_forward(x))


class TransformerDecoderLayer(_Layer):
    __doc__ = f"""Self-attention, attention to a memory, and two linear maps, each as in `TransformerEncoderLayer`.

    Subclasses may define the blocks `_sa_block`, `_mha_block` and `_ff_block` anew.
{_ARGS}
    Shape:
        tgt (T, N, E) and memory (S, N, E), with `batch_first` (N, T, E) and (N, S, E), or (T, E) and (S, E); tgt's out.

    Raises:
        RuntimeError: for another name of an activation.
{_REFERENCES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)(jnp.ones((3, 4, 8)), jnp.ones((3, 5, 8))).shape
        (3, 4, 8)
    """

    multihead_attn: MultiheadAttention
    _attentions = ("self_attn", "multihead_attn")

    def __setstate__(self, state: dict[str, Any]) -> None:
        # of torch before 1.7; it does so for a Module too, which is not in the state by this name
        self.__dict__.update({"activation": F.relu, **state})

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: Any = None,
    ) -> Any:
        """The decoded sequence.

        Args:
            tgt: the sequence.
            memory: what an encoder made of its.
            tgt_mask, memory_mask: (T, T) and (T, S), or those for each of N · nhead. True hides a position from one of tgt; a
                float is added to the scores.
            tgt_key_padding_mask, memory_key_padding_mask: (N, T) and (N, S), or (T,) and (S,). True hides a position from
                all of tgt; a float is added to the scores.
            tgt_is_causal, memory_is_causal: hints that the masks, which must be given too, hide what comes after each position.
            cache: for incremental decoding, as `init_cache` makes it: the output and the new cache are returned. Each position
                of tgt sees those before it and its own, and masks of tgt have the room of the cache for their last axis.
        """
        x = tgt
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory, memory_mask, memory_key_padding_mask, memory_is_causal)
        cached: dict[str, Any] = {} if cache is None else {"cache": dict(cache)}
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *own, **cached)
            x = x + self._mha_block(self.norm2(x), *other, **cached)
            x = x + self._ff_block(self.norm3(x))
        else:
            x = self.norm1(x + self._sa_block(x, *own, **cached))
            x = self.norm2(x + self._mha_block(x, *other, **cached))
            x = self.norm3(x + self._ff_block(x))
        return (x, cached["cache"]) if cached else x

    def _mha_block(
        self, x: Any, mem: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False, cache: Any = None
    ) -> Any:
        return self.dropout2(self._attend("multihead_attn", x, mem, attn_mask, key_padding_mask, is_causal, cache))

    def init_cache(self, batch: int, length: int, memory: Any = None, dtype: Any = None) -> dict[str, F.KeyValueCache]:  # type: ignore[override]
        """A cache for incremental decoding: of self-attention, as `MultiheadAttention.init_cache` makes it, and of a memory.

        Args:
            batch: N.
            length: how many positions there can be.
            memory: as for forward. Given here, its keys and values are computed once, and forward takes None for it.
            dtype: of the former; by default that of the parameters.
        """
        cache = super().init_cache(batch, length, dtype)
        return cache if memory is None else cache | {"multihead_attn": self.multihead_attn.memory_cache(memory, memory)}

    def _ff_block(self, x: Any) -> Any:
        return self.dropout3(self._feed_forward(x))


class _Stack(Module):
    """What encoder and decoder share: layers, one after the other, and a normalization."""

    scan_layers: bool | None = None

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        self.layers = _get_clones(layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def _run(self, x: Any, *args: Any, cache: Any = None, **kwargs: Any) -> Any:
        if cache is None:
            x = call_layers(self.layers, x, args, kwargs, self.scan_layers)
            return x if self.norm is None else self.norm(x)
        if len(cache) != len(self.layers):
            raise RuntimeError(f"expected a cache for each of {len(self.layers)} layers, got {len(cache)}")
        caches = []
        for layer, old in zip(self.layers, cache, strict=True):
            x, new = layer(x, *args, cache=old, **kwargs)
            caches.append(new)
        return x if self.norm is None else self.norm(x), tuple(caches)

    def init_cache(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """A cache for incremental decoding: that of each layer, from the same arguments.

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1).eval()
            >>> cache = decoder.init_cache(1, 10, jnp.ones((1, 5, 8)))
            >>> y, cache = decoder(jnp.ones((1, 1, 8)), None, cache=cache)
            >>> y.shape, int(cache[0]["self_attn"].position)
            ((1, 1, 8), 1)
        """
        return tuple(layer.init_cache(*args, **kwargs) for layer in self.layers)

    def _is_causal(self, x: Any, mask: Any, hint: bool | None) -> bool:
        return _detect_is_causal_mask(mask, hint, _get_seq_len(x, self.layers[0].self_attn.batch_first))


class TransformerEncoder(_Stack):
    """Encoder layers, one after the other.

    All layers start with the values of the given one; initialise them anew for others, as `Transformer` does.

    Args:
        encoder_layer: a `TransformerEncoderLayer`, or a layer that is called as it; it is copied.
        num_layers: how many there are.
        norm: a normalization of the output.
        enable_nested_tensor: accepted, with torch's warning. There are no nested tensors, so in evaluation too the output
            at padded positions is what the layers compute there, as with torch in training; torch's fast path has zeros.
        mask_check: accepted, and changes nothing.

    Attributes:
        scan_layers: whether the layers are compiled as one `fnn.scan_layers`; None, the default, where they are many and alike.

    Shape:
        (S, N, E), or (N, S, E) with `batch_first` of the layers, or (S, E); and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> nn.TransformerEncoder(layer, 3)(jnp.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: Any,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)
        why_not = _why_no_nested_tensor(encoder_layer) if enable_nested_tensor else ""
        self.enable_nested_tensor = enable_nested_tensor
        self.use_nested_tensor = enable_nested_tensor and not why_not
        self.mask_check = mask_check
        if why_not:
            text = f"enable_nested_tensor is True, but self.use_nested_tensor is False because {why_not}"
            warnings.warn(text, UserWarning, stacklevel=2)

    def forward(
        self,
        src: Any,
        mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool | None = None,
        *,
        cache: Any = None,
    ) -> Any:
        """The encoded sequence.

        Args:
            src: the sequence.
            mask, src_key_padding_mask: as `src_mask` and `src_key_padding_mask` of `TransformerEncoderLayer`.
            is_causal: a hint that `mask` hides what comes after each position; by default it is looked at, where known.
            cache: for incremental decoding, as for `TransformerEncoderLayer`.
        """
        padding = _canonical_mask(src_key_padding_mask, "src_key_padding_mask", _none_or_dtype(mask), "mask", src.dtype)
        added = _canonical_mask(mask, "mask", None, "", src.dtype)
        causal = self._is_causal(src, mask, is_causal)
        return self._run(src, src_mask=added, is_causal=causal, src_key_padding_mask=padding, cache=cache)


class TransformerDecoder(_Stack):
    """Decoder layers, one after the other.

    All layers start with the values of the given one; initialise them anew for others, as `Transformer` does.

    Args:
        decoder_layer: a `TransformerDecoderLayer`, or a layer that is called as it; it is copied. Copies of a layer whose
            activation is a Module use relu instead, as in torch, and a warning says so: give a function.
        num_layers: how many there are.
        norm: a normalization of the output.

    Attributes:
        scan_layers: whether the layers are compiled as one `fnn.scan_layers`; None, the default, where they are many and alike.

    Shape:
        As for `TransformerDecoderLayer`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        >>> nn.TransformerDecoder(layer, 3)(jnp.ones((2, 4, 8)), jnp.ones((2, 5, 8))).shape
        (2, 4, 8)
    """

    def __init__(self, decoder_layer: Any, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)
        if isinstance(getattr(decoder_layer, "activation", None), Module):
            text = "copies of a decoder layer use relu where its activation is a Module, as torch's do: give it a function"
            warnings.warn(text, UserWarning, stacklevel=2)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        *,
        cache: Any = None,
    ) -> Any:
        """The decoded sequence.

        Args:
            tgt, memory: the sequence, and what an encoder made of its.
            tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask: as for `TransformerDecoderLayer`.
            tgt_is_causal: a hint that `tgt_mask` hides what comes after each position; by default it is looked at, where known.
            memory_is_causal: likewise, of `memory_mask`.
            cache: for incremental decoding, as for `TransformerDecoderLayer`.
        """
        return self._run(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=self._is_causal(tgt, tgt_mask, tgt_is_causal),
            memory_is_causal=memory_is_causal,
            cache=cache,
        )


class Transformer(Module):
    __doc__ = f"""An encoder of a source sequence, and a decoder of a target sequence that attends to it.

    Args:
        d_model: E, the number of features.
        nhead: the number of heads, which divides E.
        num_encoder_layers, num_decoder_layers: the numbers of layers.
        custom_encoder, custom_decoder: modules to take the place of `TransformerEncoder` and `TransformerDecoder`.
        dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype: as for
            `TransformerEncoderLayer`.

    Shape:
        src (S, N, E) and tgt (T, N, E), with `batch_first` (N, S, E) and (N, T, E), or (S, E) and (T, E); tgt's out.

    Attributes:
        encoder, decoder: with matrices that are Xavier uniform initially.

    Raises:
        RuntimeError: by forward, where batch sizes differ or the number of features is not E; otherwise as
            `MultiheadAttention`.
{_REFERENCES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
        >>> transformer(jnp.ones((3, 5, 8)), jnp.ones((3, 4, 8))).shape
        (3, 4, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[..., Any] = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options = (dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder = custom_encoder
        if custom_encoder is None:
            layer: Module = TransformerEncoderLayer(d_model, nhead, *options)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        self.decoder = custom_decoder
        if custom_decoder is None:
            layer = TransformerDecoderLayer(d_model, nhead, *options)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        self._place(device)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Any:
        """The decoded sequence.

        Args:
            src, tgt: the sequences of encoder and decoder.
            src_mask, src_key_padding_mask, src_is_causal: as for `TransformerEncoder`.
            tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal, memory_is_causal: as for
                `TransformerDecoder`.
        """
        axis = 0 if self.batch_first else 1
        source, target = np.shape(src), np.shape(tgt)
        if source[axis] != target[axis] and len(source) == 3:
            raise RuntimeError(f"the batch number of src and tgt must be equal, got shapes {source} and {target}")
        if source[-1] != self.d_model or target[-1] != self.d_model:
            raise RuntimeError(
                f"the feature number of src and tgt must be equal to d_model {self.d_model}, got shapes {source} and {target}"
            )
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> jax.Array:
        """The causal mask (sz, sz), which hides from each position what comes after it: −∞ above the diagonal, else 0.

        Args:
            sz: the length of the sequence.
            device: where it is; by default where JAX puts arrays.
            dtype: float32 by default; of bool, True hides.

        Example:
            >>> import fnn.nn as nn
            >>> nn.Transformer.generate_square_subsequent_mask(2).tolist()
            [[0.0, -inf], [0.0, 0.0]]
        """
        return _generate_square_subsequent_mask(sz, device, dtype)


def _generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> jax.Array:
    # not traced, so that under jit too it can be seen that the mask is causal
    with jax.ensure_compile_time_eval():
        mask = jnp.asarray(_causal(integer(sz, "sz"), jnp.dtype(dtype or jnp.float32)))
        return mask if device is None else jax.device_put(mask, device)


def _causal(size: int, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "b" and not jnp.issubdtype(dtype, jnp.inexact):
        raise RuntimeError(f"-inf cannot be converted to {dtype.name} without overflow")
    if size < 0:
        raise RuntimeError(f"a causal mask of negative size {size}")
    return np.triu(np.full((size, size), True if dtype.kind == "b" else -np.inf, dtype), 1)


def _get_seq_len(src: Any, batch_first: bool) -> int:
    shape = np.shape(src)
    return shape[0] if len(shape) == 2 else shape[1 if batch_first else 0]


def _get_clones(module: Module, N: int) -> ModuleList:
    # What JAX made of a function, such as jax.nn.silu, is a function, not a state to be copied.
    values = (value for part in module.modules() for value in vars(part).values())
    functions = {id(value): value for value in values if callable(value) and hasattr(value, "__wrapped__")}
    return ModuleList([copy.deepcopy(module, dict(functions)) for _ in range(N)])


def _get_activation_fn(activation: str) -> Callable[..., Any]:
    functions: dict[str, Callable[..., Any]] = {"relu": F.relu, "gelu": F.gelu}
    if activation not in functions:
        raise RuntimeError(f"activation should be relu/gelu, not {activation}")
    return functions[activation]


def _detect_is_causal_mask(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether a mask hides what comes after each position: as the hint says, or as it looks where it is known."""
    if is_causal is not None or mask is None:
        return is_causal is True
    values = known(array(mask, "mask"))
    causal = _causal(np.shape(mask)[-2] if size is None else size, array(mask, "mask").dtype)
    return values is not None and np.array_equal(values, causal)


def _why_no_nested_tensor(layer: Any) -> str:
    """Why torch would not use nested tensors, or nothing."""
    if not isinstance(layer, TransformerEncoderLayer):
        return "encoder_layer was not TransformerEncoderLayer"
    attention = layer.self_attn
    reasons = {
        "encoder_layer.norm_first was True": layer.norm_first,
        "encoder_layer.self_attn.batch_first was not True": not attention.batch_first,
        "encoder_layer.self_attn._qkv_same_embed_dim was not True": not attention._qkv_same_embed_dim,
        "encoder_layer.self_attn was passed bias=False": attention.in_proj_bias is None,
        "encoder_layer.activation_relu_or_gelu was not True": not layer.activation_relu_or_gelu,
        "encoder_layer.norm1.eps was not equal to encoder_layer.norm2.eps": layer.norm1.eps != layer.norm2.eps,
        "encoder_layer.self_attn.num_heads is odd": attention.num_heads % 2 == 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
