"""Look-up tables."""

from __future__ import annotations

from typing import Any, Self

import jax

from fnn.arrays import to_array
from fnn.functional import embedding
from fnn.nn import init
from fnn.nn.modules.module import Module
from fnn.nn.parameter import Handle, Parameter

__all__ = ["Embedding"]


class Embedding(Module):
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
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise AssertionError(
                    f"Padding_idx must be within num_embeddings, got {padding_idx} for {num_embeddings} embeddings"
                )
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        if _weight is None:
            self.weight = Parameter(init.zeros, (num_embeddings, embedding_dim), dtype, requires_grad=not _freeze)
            self.reset_parameters()
        else:
            weight = _weight if isinstance(_weight, Handle) else to_array(_weight)
            if tuple(weight.shape) != (num_embeddings, embedding_dim):
                raise AssertionError(
                    f"Shape of weight does not match num_embeddings and embedding_dim: {tuple(weight.shape)} for "
                    f"{(num_embeddings, embedding_dim)}"
                )
            self.weight = Parameter(weight, requires_grad=not _freeze)
        self._place(device)

    def reset_parameters(self) -> None:
        """Sets the initial distribution."""
        row, draw = self.padding_idx, init.normal()
        init._set(self.weight, draw if row is None else lambda key, *like: draw(key, *like).at[row].set(0))

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
        table = to_array(embeddings)
        if table.ndim != 2:
            raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional, got shape {table.shape}")
        rows, dim = table.shape
        return cls(rows, dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight=table, _freeze=freeze)
