"""Look-up tables."""

from __future__ import annotations

from typing import Any, Self

import jax

from fnn.arrays import to_array
from fnn.functional import embedding, embedding_bag
from fnn.nn import init
from fnn.nn.handle import Handle
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Parameter

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """What look-up tables share: the table, and its padding row."""

    def _make(self, padding_idx: int | None, weight: Any, requires_grad: bool, device: Any, dtype: Any) -> None:
        size = (self.num_embeddings, self.embedding_dim)
        if padding_idx is not None:
            if not -size[0] <= padding_idx < max(size[0], 1):
                raise AssertionError(f"Padding_idx must be within num_embeddings, got {padding_idx} for {size[0]} embeddings")
            padding_idx += size[0] if padding_idx < 0 else 0
        self.padding_idx = padding_idx
        if weight is None:
            self.weight = Parameter(init.zeros, size, dtype, requires_grad=requires_grad)
            self.reset_parameters()
        else:
            weight = weight if isinstance(weight, Handle) else to_array(weight)
            if tuple(weight.shape) != size:
                raise AssertionError(
                    f"Shape of weight does not match num_embeddings and embedding_dim: {tuple(weight.shape)} for {size}"
                )
            self.weight = Parameter(weight, requires_grad=requires_grad)
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distribution."""
        row, draw = self.padding_idx, init.normal()
        init._set(self.weight, draw if row is None else lambda key, *like: draw(key, *like).at[row].set(0))

    @staticmethod
    def _given(embeddings: Any) -> jax.Array:
        table = to_array(embeddings)
        if table.ndim != 2:
            raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional, got shape {table.shape}")
        return table


class Embedding(_Table):
    """The rows of a table that indices name.

    Args:
        num_embeddings: the number of rows.
        embedding_dim: the size of a row.
        padding_idx: the row that is initially zero and takes no gradient.
        max_norm: rows with a larger norm are scaled down to it, in the table, when they are looked up.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often the indices name it.
        sparse: accepted; gradients are dense.
        device: where the table is; by default where JAX puts arrays.
        dtype: of the table.

    Shape:
        (*), integers, to (*, embedding_dim).

    Attributes:
        weight: (num_embeddings, embedding_dim), initially normal with mean 0 and variance 1.

    Raises:
        IndexError: by forward, where an index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.Embedding(10, 3)(jnp.array([[1, 2, 4, 5], [4, 3, 2, 9]])).shape
        (2, 4, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self._make(padding_idx, _weight, not _freeze, device, dtype)

    def forward(self, input: Any) -> jax.Array:
        return embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        if self.sparse:
            text += ", sparse=True"
        return text

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """An Embedding with a given table.

        Args:
            embeddings: (num_embeddings, embedding_dim).
            freeze: whether the table takes no gradient.
            padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as for the constructor.

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> nn.Embedding.from_pretrained(jnp.array([[1.0, 2.0], [3.0, 4.0]]))(jnp.array([1])).tolist()
            [[3.0, 4.0]]
        """
        table = cls._given(embeddings)
        rows, dim = table.shape
        return cls(rows, dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight=table, _freeze=freeze)


class EmbeddingBag(_Table):
    """The sum, mean or maximum over bags of the rows of a table that indices name.

    Args:
        num_embeddings: the number of rows.
        embedding_dim: the size of a row.
        max_norm: rows with a larger norm are scaled down to it, in the table, when they are looked up.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide the gradient of a row by how often the indices name it; not for mode max.
        mode: sum, mean or max. A bag of nothing gives zeros.
        sparse: accepted, but not for mode max; gradients are dense.
        include_last_offset: whether the last offset is the end of the last bag, instead of the begin of another.
        padding_idx: an index that counts for nothing; its row is initially zero.
        device: where the table is; by default where JAX puts arrays.
        dtype: of the table.

    Shape:
        (B, n), integers, bags of n indices each; or (N,) with offsets (B,), where each bag begins; to (B, embedding_dim).
        Forward takes also per_sample_weights, of the input's shape, for mode sum.

    Attributes:
        weight: (num_embeddings, embedding_dim), initially normal with mean 0 and variance 1.

    Raises:
        RuntimeError: by forward, where an index is out of range; NaN where it is not known, under a transformation.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.EmbeddingBag(10, 3, mode="sum")(jnp.array([1, 2, 4, 5, 4]), jnp.array([0, 3])).shape
        (2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset
        self._make(padding_idx, _weight, True, device, dtype)

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> jax.Array:
        return embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        text += f", mode={self.mode!r}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Self:
        """An EmbeddingBag with a given table.

        Args:
            embeddings: (num_embeddings, embedding_dim).
            freeze: whether the table takes no gradient.
            max_norm, norm_type, scale_grad_by_freq, mode, sparse, include_last_offset, padding_idx: as for the constructor.

        Example:
            >>> import fnn.nn as nn, jax.numpy as jnp
            >>> nn.EmbeddingBag.from_pretrained(jnp.array([[1.0, 2.0], [3.0, 4.0]]))(jnp.array([[1, 0]])).tolist()
            [[2.0, 3.0]]
        """
        table = cls._given(embeddings)
        rows, dim = table.shape
        options = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, table, include_last_offset, padding_idx)
        bag = cls(rows, dim, *options)
        bag.weight.requires_grad = not freeze
        return bag
