"""Batch normalization layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import functional as F
from fnn.nn import init
from fnn.nn.modules.lazy import LazyModuleMixin
from fnn.nn.modules.module import Declared, Module
from fnn.nn.modules.normalization import Affine
from fnn.nn.parameter import Buffer

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "SyncBatchNorm",
]

_ARGS = """
    Args:
        num_features: C, the size of axis 1.
        eps: added to the variance.
        momentum: the share of each batch in the running statistics; None for their cumulative average.
        affine: whether there are a weight and a bias.
        track_running_stats: whether there are running statistics; without them each batch is normalized by its own, also
            in evaluation mode.
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
        num_batches_tracked: (), an int64 counter.

    Raises:
        ValueError: by forward, for a wrong number of axes, or in training mode where there is one value a channel.

    References:
        Ioffe and Szegedy, Batch Normalization, https://arxiv.org/abs/1502.03167
"""


class _NormBase(Affine):
    """What batch and instance normalization share: parameters and running statistics."""

    _version = 2
    running_mean: Any = Declared("_buffers")
    running_var: Any = Declared("_buffers")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._declare((num_features,), dtype, weight=affine, bias=affine and bias)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, Buffer(init.zeros, (num_features,), dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", Buffer(init.zeros, (), np.int64) if track_running_stats else None)
        self.reset_parameters()
        self._place(device)

    def reset_running_stats(self) -> None:
        """Forgets the running statistics."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Sets the initial values, and forgets the running statistics."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_input_dim(self, input: Any) -> None:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        key = prefix + "num_batches_tracked"
        if (local_metadata.get("version") or 1) < 2 and self.track_running_stats and key not in state_dict:
            # torch before 0.4.1 did not count batches
            state_dict[key] = self.num_batches_tracked.exported()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class _BatchNorm(_NormBase):
    """Batch normalization over any number of axes."""

    axis_name: Any = None

    def forward(self, input: Any) -> jax.Array:
        self._check_input_dim(input)
        training, running_mean, running_var = self.training, self.running_mean, self.running_var
        tracked = training and self.track_running_stats
        momentum: Any = 0.0 if self.momentum is None else self.momentum
        counting = tracked and self.num_batches_tracked is not None
        if counting and self.momentum is None:
            momentum = 1.0 / (self.num_batches_tracked.value + 1).astype(jnp.float32)
        out = F.batch_norm(
            input,
            running_mean if tracked or not training else None,
            running_var if tracked or not training else None,
            self.weight,
            self.bias,
            training or (running_mean is None and running_var is None),
            momentum,
            self.eps,
            axis_name=self.axis_name if training else None,
        )
        if counting:
            self.num_batches_tracked += 1
        return out


def _expect(input: Any, *axes: int) -> None:
    if np.ndim(input) not in axes:
        wanted = " or ".join(f"{n}D" for n in axes)
        raise ValueError(f"expected {wanted} input (got {np.ndim(input)}D input of shape {np.shape(input)})")


class BatchNorm1d(_BatchNorm):
    __doc__ = f"""Normalizes each channel over the batch, and over length: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.
{_ARGS}
    Shape:
        (N, C) or (N, C, L), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> norm = nn.BatchNorm1d(2)
        >>> norm(jnp.array([[1.0, 0.0], [3.0, 0.0]])).round(3).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
        >>> norm.running_mean.round(3).tolist(), norm.num_batches_tracked.item()
        ([0.2, 0.0], 1)
    """

    def _check_input_dim(self, input: Any) -> None:
        _expect(input, 2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"""Normalizes each channel over batch and two axes of space: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.
{_ARGS}
    Shape:
        (N, C, H, W), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.BatchNorm2d(3)(jnp.ones((2, 3, 4, 4))).shape
        (2, 3, 4, 4)
    """

    def _check_input_dim(self, input: Any) -> None:
        _expect(input, 4)


class BatchNorm3d(_BatchNorm):
    __doc__ = f"""Normalizes each channel over batch and three axes of space: `(x − E[x]) / √(Var[x] + eps) · weight + bias`.
{_ARGS}
    Shape:
        (N, C, D, H, W), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> nn.BatchNorm3d(3)(jnp.ones((2, 3, 4, 4, 4))).shape
        (2, 3, 4, 4, 4)
    """

    def _check_input_dim(self, input: Any) -> None:
        _expect(input, 5)


class SyncBatchNorm(_BatchNorm):
    __doc__ = f"""Batch normalization by the statistics of a batch that is split over devices.

    Arrays sharded under `jax.jit` need nothing: there every mean is that of the whole array, so each BatchNorm is one of
    these. Inside `jax.shard_map`, or `jax.vmap` with an axis name, code sees a part of the batch; `axis_name` says over
    what to add up. Evaluation uses the running statistics, and communicates nothing.
{_ARGS}        process_group: accepted; `axis_name` takes its place.
        axis_name: the named axis, or axes, that the batch is split over; not an argument of torch's.

    Shape:
        (N, C, *), and the same out.
{_ATTRIBUTES}
    Example:
        >>> import fnn, fnn.nn as nn, jax, jax.numpy as jnp
        >>> norm = nn.SyncBatchNorm(1, axis_name="batch")
        >>> _, apply = fnn.pure(norm)
        >>> params, state = fnn.split(norm)
        >>> def part(x):
        ...     return apply(params, x, state=state, training=True)
        >>> y, new = jax.vmap(part, axis_name="batch")(jnp.array([[[1.0]], [[3.0]]]))
        >>> y.round(3).tolist(), new["running_var"].round(3).tolist()
        ([[[-1.0]], [[1.0]]], [[1.1], [1.1]])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        axis_name: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group
        self.axis_name = axis_name

    def _check_input_dim(self, input: Any) -> None:
        if np.ndim(input) < 2:
            raise ValueError(f"expected at least 2D input (got {np.ndim(input)}D input)")
        if np.shape(input)[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None, *, axis_name: Any = None) -> Module:
        """Replaces all batch normalizations in a module; they keep their parameters, buffers and mode.

        Args:
            module: changed in place, unless it is a batch normalization itself.
            process_group: given to each.
            axis_name: given to each.

        Returns:
            The module, or what takes its place.

        Example:
            >>> import fnn.nn as nn
            >>> nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(2)))
            Sequential(
              (0): SyncBatchNorm(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
            )
        """
        converted = module
        if isinstance(module, _BatchNorm):
            options = (module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            converted = SyncBatchNorm(*options, process_group, bias=module.bias is not None, axis_name=axis_name)
            for registry in ("_parameters", "_buffers"):
                for name in vars(converted)[registry]:
                    vars(converted)[registry][name] = getattr(module, name)
            converted.training = module.training
        for name, child in module.named_children():
            converted.add_module(name, cls.convert_sync_batchnorm(child, process_group, axis_name=axis_name))
        return converted


class LazyNorm(LazyModuleMixin, _NormBase):
    """What lazy batch and instance normalization share."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, False, False)
        self.affine = affine
        self.track_running_stats = track_running_stats
        if track_running_stats:
            self.num_batches_tracked = Buffer(init.zeros, (), np.int64)
        waiting = {"weight": affine, "bias": affine and bias, "running_mean": track_running_stats}
        names = [name for name, wanted in {**waiting, "running_var": track_running_stats}.items() if wanted]
        self._await(device, dtype, *names)

    def initialize_parameters(self, input: Any) -> None:
        """Takes `num_features` from an input of forward."""
        if self.has_uninitialized_params():
            self.num_features = np.shape(input)[1]
            for handle in self._lazy().values():
                handle.materialize((self.num_features,))
            self.reset_parameters()


class LazyBatchNorm1d(LazyNorm, BatchNorm1d):
    """A `BatchNorm1d` that takes `num_features` from axis 1 of its first input, and is a `BatchNorm1d` from then on.

    Args:
        eps, momentum, affine, track_running_stats, device, dtype, bias: as for `BatchNorm1d`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyBatchNorm1d()
        >>> layer(jnp.ones((2, 3, 4))).shape, layer.num_features
        ((2, 3, 4), 3)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(LazyNorm, BatchNorm2d):
    """A `BatchNorm2d` that takes `num_features` from axis 1 of its first input, and is a `BatchNorm2d` from then on.

    Args:
        eps, momentum, affine, track_running_stats, device, dtype, bias: as for `BatchNorm2d`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyBatchNorm2d()
        >>> layer(jnp.ones((2, 3, 4, 4))).shape, layer.num_features
        ((2, 3, 4, 4), 3)
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(LazyNorm, BatchNorm3d):
    """A `BatchNorm3d` that takes `num_features` from axis 1 of its first input, and is a `BatchNorm3d` from then on.

    Args:
        eps, momentum, affine, track_running_stats, device, dtype, bias: as for `BatchNorm3d`.

    Example:
        >>> import fnn.nn as nn, jax.numpy as jnp
        >>> layer = nn.LazyBatchNorm3d()
        >>> layer(jnp.ones((2, 3, 4, 4, 4))).shape, layer.num_features
        ((2, 3, 4, 4, 4), 3)
    """

    cls_to_become = BatchNorm3d
