"""The scaling of losses, so that gradients of 16 bits do not vanish."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn import scope as _scope
from fnn.arrays import as_array
from fnn.guards import Stateful, touch
from fnn.scope import Cell, Scope
from fnn.transforms import restartable

__all__ = ["GradScaler"]


class _Found(NamedTuple):
    """What is known of the gradients of an optimizer since the last update."""

    unscaled: Cell  # whether they are divided already
    finite: Cell  # whether all that were looked at are finite
    stepped: Cell  # whether the optimizer has been called


_AT_FIRST = (False, True, False)


def _is_known(cell: Cell) -> bool:
    """Whether a cell is known to hold True, which it is not while JAX traces."""
    return not _scope.is_tracer(cell.value) and bool(cell.value)


class GradScaler(Stateful):
    """Scales a loss so that gradients of 16 bits do not vanish, as `torch.amp.GradScaler`.

    The loss is multiplied before gradients are taken. `step` divides the gradients again, and leaves the parameters and
    the optimizer as they are where one of them is not finite; `update` then lowers the scale, and raises it after many
    steps without. bfloat16 has the range of float32 and needs no scale.

    The state is of arrays, so all of it works under `fnn.jit`. To clip gradients, do so in the optimizer's transformation
    (`optax.clip_by_global_norm`), which sees them divided, or call `unscale_` before.

    Args:
        device: accepted, as in torch.
        init_scale: the scale at first.
        growth_factor: what `update` multiplies it by, after `growth_interval` steps one after another that were finite.
        backoff_factor: what `update` multiplies it by where a gradient was not finite.
        growth_interval: how many.
        enabled: False for a scaler that does nothing but call the optimizer.

    References:
        Micikevicius et al., Mixed precision training, https://arxiv.org/abs/1710.03740

    Example:
        >>> import fnn, jax.numpy as jnp, optax
        >>> net, scaler = fnn.nn.Linear(3, 1), fnn.GradScaler(init_scale=1024.0)
        >>> optimizer = fnn.optim.Optimizer(net, optax.sgd(0.1))
        >>> @fnn.jit
        ... def step(x, y):
        ...     def loss(net):
        ...         with fnn.autocast(dtype=jnp.float16):
        ...             loss = fnn.functional.mse_loss(net(x), y)
        ...         return scaler.scale(loss), loss
        ...     (_, loss), grads = fnn.value_and_grad(loss, has_aux=True)(net)
        ...     scaler.step(optimizer, grads)
        ...     scaler.update()
        ...     return loss
        >>> x, y = jnp.ones((4, 3)), jnp.ones((4, 1))
        >>> first, second = step(x, y), step(x, y)
        >>> bool(second < first), scaler.get_scale()
        (True, 1024.0)
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        if enabled and growth_factor <= 1.0:
            raise AssertionError(f"The growth factor must be > 1.0, got {growth_factor}")
        if enabled and backoff_factor >= 1.0:
            raise AssertionError(f"The backoff factor must be < 1.0, got {backoff_factor}")
        self._enabled = enabled
        self._growth_factor, self._backoff_factor, self._growth_interval = growth_factor, backoff_factor, growth_interval
        self._scale = Cell(np.asarray(init_scale, np.float32), "the scale of a GradScaler")
        self._tracker = Cell(np.zeros((), np.int32), "the growth tracker of a GradScaler")
        self._found: weakref.WeakKeyDictionary[Any, _Found] = weakref.WeakKeyDictionary()

    def _cells(self) -> Iterator[Cell]:
        """The scale, the number of finite steps since it changed, and what is known of each optimizer's gradients."""
        touch(self)
        yield from (self._scale, self._tracker, *itertools.chain(*self._found.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_found"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _found=weakref.WeakKeyDictionary())

    def _known(self, optimizer: Any) -> _Found:
        if optimizer not in self._found:
            self._found[optimizer] = _Found(*(Cell(np.array(value), "what a GradScaler found") for value in _AT_FIRST))
            for cell in self._found[optimizer]:
                cell._serial = self._scale._serial  # as old as the scaler, also where a trace asks for it first
        return self._found[optimizer]

    def scale(self, outputs: Any) -> Any:
        """The outputs, arrays or a tree of them, times the scale."""
        if not self._enabled:
            return outputs
        touch(self)
        return jax.tree.map(lambda output: output * self._scale.value, outputs)

    def unscale_(self, optimizer: Any, grads: Any = None) -> Any:
        """Divides gradients by the scale, before `step` would do it.

        Args:
            optimizer: whose gradients they are.
            grads: the gradients, as for `step`; by default `.grad` of each parameter, which is changed.

        Returns:
            The divided gradients, to be passed to `step`, where they were given.

        Raises:
            RuntimeError: where it, or `step`, has been called since the last update; told outside of transformations.
            ValueError: for gradients of float16, as in torch: parameters should be float32.
        """
        if not self._enabled:
            return grads
        found = self._known(optimizer)
        if _is_known(found.unscaled):
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if _is_known(found.stepped):
            raise RuntimeError("unscale_() is being called after step().")
        return self._divide(optimizer, grads)

    def _divide(self, optimizer: Any, grads: Any) -> Any:
        touch(self)
        found = self._known(optimizer)
        unscaled, finite = found.unscaled.value, found.finite.value
        holders = [p for p in optimizer.module.parameters() if p.grad is not None] if grads is None else []
        given = [p.grad for p in holders] if grads is None else grads
        leaves = jax.tree.leaves(given)
        if any(leaf.dtype == jnp.float16 for leaf in leaves):
            raise ValueError("Attempting to unscale FP16 gradients: parameters should be float32, under fnn.autocast")
        factor = jnp.where(unscaled, 1, 1 / self._scale.value)
        every = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])) if leaves else True
        found.unscaled.value, found.finite.value = jnp.array(True), finite & every
        divided = jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), given)
        for parameter, gradient in zip(holders, divided, strict=False):
            parameter.grad = gradient
        return None if grads is None else divided

    def step(self, optimizer: Any, grads: Mapping[str, Any] | None = None, **extra: Any) -> None:
        """Calls `optimizer.step` with the gradients divided by the scale; nothing changes where one is not finite.

        Args:
            optimizer: an `fnn.optim.Optimizer`.
            grads: gradients of the scaled loss, as `fnn.value_and_grad` returns; by default `.grad` of each parameter. After
                `unscale_`, what that returned.
            extra: as for `Optimizer.step`.

        Raises:
            RuntimeError: where it has been called for this optimizer since the last update; told outside of transformations.
        """
        if not self._enabled:
            optimizer.step(grads, **extra)
            return
        found = self._known(optimizer)
        if _is_known(found.stepped):
            raise RuntimeError("step() has already been called since the last update().")
        divided = self._divide(optimizer, grads)

        def attempt(token: bool) -> Any:
            with Scope(token=token) as scope:
                optimizer.step(divided, **extra)
            return scope.written

        written = restartable(self, attempt)
        for cell, value in written.items():
            old = cell.value
            written[cell] = value if old is None else jnp.where(found.finite.value, value, old)
        _scope.commit(written)
        found.unscaled.value, found.stepped.value = jnp.array(False), jnp.array(True)

    def update(self, new_scale: Any = None) -> None:
        """Lowers the scale where a gradient since the last update was not finite; raises it after enough that were.

        Args:
            new_scale: a scale to take instead.

        Raises:
            AssertionError: where no gradients were ever looked at.
        """
        if not self._enabled:
            return
        touch(self)
        if new_scale is not None:
            self._scale.value = as_array(new_scale, jnp.float32)
        else:
            if not self._found:
                raise AssertionError("No inf checks were recorded prior to update.")
            overflown = ~jnp.all(jnp.stack([jnp.asarray(found.finite.value) for found in self._found.values()]))
            scale, count = self._scale.value, self._tracker.value + 1
            grows = count == self._growth_interval
            grown = jnp.where(jnp.isfinite(scale * self._growth_factor), scale * self._growth_factor, scale)
            kept = jnp.where(grows, grown, scale)
            self._scale.value = jnp.where(overflown, scale * self._backoff_factor, kept).astype(jnp.float32)
            self._tracker.value = jnp.where(overflown | grows, 0, count).astype(jnp.int32)
        for found in self._found.values():
            for cell, value in zip(found, _AT_FIRST, strict=True):
                cell.value = jnp.array(value)

    def get_scale(self) -> float:
        """The scale; 1 for a scaler that is not enabled."""
        return float(self._scale.value) if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The scale and how it changes, by torch's names; empty for a scaler that is not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": int(self._tracker.value),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave, here or in torch.

        Raises:
            RuntimeError: where it is empty, as of a scaler that was not enabled.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("The source state dict is empty, possibly because it was saved from a disabled GradScaler.")
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._scale.value = as_array(state_dict["scale"], jnp.float32)
        self._tracker.value = as_array(state_dict["_growth_tracker"], jnp.int32)
