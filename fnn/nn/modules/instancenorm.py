"""Instance normalization layers."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from fnn import functional as F
from fnn.arrays import as_array
from fnn.nn.modules.batchnorm import LazyNorm, _expect, _NormBase

__all__ = [
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
]

_ARGS = """
    Args:
        num_features: C, the number of channels.
        eps: added to the variance.
        momentum: the share of each batch in the running statistics; with None they stay what they are.
        affine: whether there are a weight and a bias.
        track_running_stats: whether there are running statistics, used in evaluation mode. Without them each sample is
            normalized by its own.
        device: where the parameters are; by default where JAX puts arrays.
        dtype: of the parameters.
        bias: whether there is a bias, with the weight.
"""
_ATTRIBUTES = """
    Attributes:
        weight: (num_features,), initially 1.
        bias: (num_features,), initially 0.
        running_mean: (num_features,), initially 0; updated by forward in training mode.
        running_var: (num_features,), initially 1; likewise, with the unbiased variance.
        num_batches_tracked: (), an int64 counter that is not used.

    Raises:
        ValueError: by forward, for a wrong number of axes, for a wrong number of channels with `affine`, or where its own
            statistics normalize a sample that has one value a channel.

    References:
        Ulyanov, Vedaldi and Lempitsky, Instance Normalization, https://arxiv.org/abs/1607.08022
"""


class _InstanceNorm(_NormBase):
    """Instance normalization over so many axes of space."""

    _axes: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def _check_input_dim(self, input: Any) -> None:
        _expect(input, self._axes + 1, self._axes + 2)

    def forward(self, input: Any) -> jax.Array:
        self._check_input_dim(input)
        channel = np.ndim(input) - self._axes - 1
        channels = np.shape(input)[channel]
        if channels != self.num_features:
            if self.affine:
                raise ValueError(
                    f"expected input's size at dim={channel} to match num_features ({self.num_features}), but got: {channels}."
                )
            warnings.warn(
                f"input's size at dim={channel} does not match num_features: {channels} and {self.num_features}. "
                "num_features is not used because affine=False",
                stacklevel=2,
            )
        batch = input if channel else as_array(input)[None]
        output = F.instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return output if channel else output[0]

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: list[str]
    ) -> None:
        if local_metadata.get("version") is None and not self.track_running_stats:
            found = [prefix + name for name in ("running_mean", "running_var") if prefix + name in state_dict]
            if found:
                kind = type(self).__name__
                errors.append(
                    f"Unexpected running stats buffer(s) {' and '.join(map(repr, found))} for {kind} with "
                    "track_running_stats=False. If the state_dict is a checkpoint saved before torch 0.4.0, this may be "
                    f"expected, because {kind} does not track running stats by default since then. Remove these keys from "
                    f"the state_dict, or set track_running_stats=True in {kind} if they are needed."
                )
            for key in found:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"""Normalizes each channel of each sample over length: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.
{_ARGS}
    Shape:
        (N, C, L) or (C, L), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.InstanceNorm1d(2)(jnp.array([[[1.0, 3.0], [5.0, 9.0]]])).round(3).tolist()
        [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    _axes = 1


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"""Normalizes each channel of each sample over two axes of space, as `InstanceNorm1d`.
{_ARGS}
    Shape:
        (N, C, H, W) or (C, H, W), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.InstanceNorm2d(3, affine=True)(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 4, 4)
    """
    _axes = 2


class InstanceNorm3d(_InstanceNorm):
    __doc__ = f"""Normalizes each channel of each sample over three axes of space, as `InstanceNorm1d`.
{_ARGS}
    Shape:
        (N, C, D, H, W) or (C, D, H, W), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.InstanceNorm3d(3)(jnp.ones((3, 4, 4, 4))).shape
        (3, 4, 4, 4)
    """
    _axes = 3


class LazyInstanceNorm1d(LazyNorm, InstanceNorm1d):
    """A `InstanceNorm1d` that takes `num_features` from axis 1 of its first input, and is a `InstanceNorm1d` from then on.

    Args:
        eps, momentum, device, dtype, bias: as for `InstanceNorm1d`.
        affine, track_running_stats: likewise; True by default, as in torch.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyInstanceNorm1d()
        >>> layer(jnp.ones((2, 3, 4))).shape, layer.num_features
        ((2, 3, 4), 3)
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(LazyNorm, InstanceNorm2d):
    """A `InstanceNorm2d` that takes `num_features` from axis 1 of its first input, and is a `InstanceNorm2d` from then on.

    Args:
        eps, momentum, device, dtype, bias: as for `InstanceNorm2d`.
        affine, track_running_stats: likewise; True by default, as in torch.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyInstanceNorm2d()
        >>> layer(jnp.ones((2, 3, 4, 4))).shape, layer.num_features
        ((2, 3, 4, 4), 3)
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(LazyNorm, InstanceNorm3d):
    """A `InstanceNorm3d` that takes `num_features` from axis 1 of its first input, and is a `InstanceNorm3d` from then on.

    Args:
        eps, momentum, device, dtype, bias: as for `InstanceNorm3d`.
        affine, track_running_stats: likewise; True by default, as in torch.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyInstanceNorm3d()
        >>> layer(jnp.ones((2, 3, 4, 4, 4))).shape, layer.num_features
        ((2, 3, 4, 4, 4), 3)
    """

    cls_to_become = InstanceNorm3d
