"""Dropout layers."""

from __future__ import annotations

from typing import Any

import jax

from fnn import functional as F
from fnn.nn.modules.function import FunctionModule

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]

_ARGS = """
    Args:
        p: the probability.
        inplace: accepted, and changes nothing.
"""


class _DropoutNd(FunctionModule):
    """What dropout layers share: the probability, and the mode."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        super().__init__(p=p, inplace=inplace)

    def forward(self, input: Any) -> jax.Array:
        return type(self)._function(input, training=self.training, **self._chosen())

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    __doc__ = f"""In training, sets elements to zero with probability p, and divides the others by 1 − p.

    Masks are drawn from the default generator, from the key of `apply(..., rng=key)`, or inside `with fnn.rng(key)`.
{_ARGS}
    Shape:
        (*), and the same out.

    Raises:
        ValueError: where p is not between 0 and 1.

    References:
        Hinton et al., Improving neural networks by preventing co-adaptation of feature detectors,
        https://arxiv.org/abs/1207.0580

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> dropout = nn.Dropout(0.75)
        >>> sorted(set(dropout(jnp.ones(100)).tolist()))
        [0.0, 4.0]
        >>> dropout.eval()(jnp.ones(2)).tolist()
        [1.0, 1.0]
    """
    _function = staticmethod(F.dropout)


class Dropout1d(_DropoutNd):
    __doc__ = f"""As `Dropout2d`, for channels of one axis.
{_ARGS}
    Shape:
        (N, C, L) or (C, L), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> sorted(set(nn.Dropout1d(0.75)(jnp.ones((10, 10, 2))).mean(2).flatten().tolist()))
        [0.0, 4.0]
    """
    _function = staticmethod(F.dropout1d)


class Dropout2d(_DropoutNd):
    __doc__ = f"""In training, sets whole channels to zero with probability p, and divides the others by 1 − p.

    Masks are drawn as those of `Dropout`.
{_ARGS}
    Shape:
        (N, C, H, W), and the same out. With a warning (N, C, L) too, as in torch.

    Raises:
        ValueError: where p is not between 0 and 1.

    References:
        Tompson et al., Efficient Object Localization Using Convolutional Networks, https://arxiv.org/abs/1411.4280

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> sorted(set(nn.Dropout2d(0.75)(jnp.ones((10, 10, 2, 2))).mean((2, 3)).flatten().tolist()))
        [0.0, 4.0]
    """
    _function = staticmethod(F.dropout2d)


class Dropout3d(_DropoutNd):
    __doc__ = f"""As `Dropout2d`, for channels of three axes.
{_ARGS}
    Shape:
        (N, C, D, H, W) or (C, D, H, W), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> sorted(set(nn.Dropout3d(0.75)(jnp.ones((100, 2, 2, 2))).mean((1, 2, 3)).tolist()))
        [0.0, 4.0]
    """
    _function = staticmethod(F.dropout3d)


class AlphaDropout(_DropoutNd):
    __doc__ = f"""In training, sets elements to the limit of SELU at −∞, and keeps mean 0 and variance 1.

    Masks are drawn as those of `Dropout`.
{_ARGS}
    Shape:
        (*), and the same out.

    Raises:
        ValueError: where p is not between 0 and 1.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, https://arxiv.org/abs/1706.02515

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> sorted(set(nn.AlphaDropout()(jnp.zeros(100)).round(4).tolist()))
        [-0.7792, 0.7792]
    """
    _function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(_DropoutNd):
    __doc__ = f"""As `AlphaDropout`, for whole channels.
{_ARGS}
    Shape:
        (N, C, *), and the same out.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.FeatureAlphaDropout()(jnp.zeros((10, 10, 8))).std(2).max().item()
        0.0
    """
    _function = staticmethod(F.feature_alpha_dropout)
