"""Conversions: other dtypes and devices for the parameters and buffers of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np

from fnn.arrays import as_array
from fnn.guards import Stateful
from fnn.nn.handle import Handle


class ConversionMixin(Stateful):
    """What a Module does to convert and move what it holds."""

    def _apply(self, fn: Callable[[jax.Array], jax.Array], recurse: bool = True) -> Self:
        """Applies a function of arrays to all parameters and buffers, those of children first; returns the module."""
        if recurse:
            for module in self.children():
                module._apply(fn)
        for handle in (*self.parameters(False), *self.buffers(False)):
            handle.map(fn)
            if handle._grad is not None and handle._grad.value is not None:
                handle.grad = fn(handle.grad)
        return self

    def to(
        self,
        *args: Any,
        device: Any = None,
        dtype: Any = None,
        tensor: Any = None,
        non_blocking: bool = False,
        memory_format: Any = None,
    ) -> Self:
        """Moves parameters and buffers to a device or sharding, and those of floating point to a dtype.

        Args:
            args: a device (`jax.Device`, `jax.sharding.Sharding`, or a platform such as "cpu" or "gpu:1"), a dtype, an
                array whose device and dtype to take, or a device and a dtype.
            device: the device, by name.
            dtype: the dtype, by name; floating or complex.
            tensor: the array, by name.
            non_blocking: accepted; JAX never blocks here.
            memory_format: accepted; XLA chooses how arrays lie in memory.

        "meta" as the device lets go of all values: shapes and dtypes stay. (Values of new modules are drawn only when they
        are looked at, so building a large model needs no such device.)

        Raises:
            TypeError: for a dtype that is not floating or complex.
            NotImplementedError: where there is no value to be moved, since the module was on "meta".

        Example:
            >>> import fnn, jax.numpy as jnp
            >>> fnn.nn.Linear(2, 2).to(jnp.bfloat16).weight.dtype.name
            'bfloat16'
        """
        place, dtype = destination((*args, tensor), device, dtype)
        if place == _META:
            place = None
            for handle in self._cells():
                handle.to_meta()  # type: ignore[attr-defined]
        elif place is not None and any(handle.is_meta for handle in self._cells()):  # type: ignore[attr-defined]
            raise NotImplementedError(
                "Cannot copy out of meta tensor; no data! Please use to_empty() instead of to() when moving module from meta "
                "to a different device."
            )
        if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype.name}")

        def convert(array: jax.Array) -> jax.Array:
            if dtype is not None and jnp.issubdtype(array.dtype, jnp.inexact):
                array = array.astype(dtype)
            return array if place is None else jax.device_put(array, place)

        return self._apply(convert)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Moves parameters and buffers to a device without their values, which are then zeros.

        Args:
            device: as for `to`; None for where they are.
            recurse: whether those of all modules in this one are meant.
        """
        place = _device(device) if isinstance(device, str) else device
        for handle in self._named_cells(recurse).values():
            handle.initialize(lambda key, shape, dtype: jnp.zeros(shape, dtype, device=place))
        return self

    def cpu(self) -> Self:
        """Moves parameters and buffers to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Moves parameters and buffers to a CUDA GPU.

        Args:
            device: its number, or as for `to`; by default the first.
        """
        return self.to(f"cuda:{device or 0}" if device is None or isinstance(device, int) else device)

    def share_memory(self) -> NoReturn:
        """Raises: arrays are immutable, so processes cannot share them."""
        raise NotImplementedError(
            "share_memory has no meaning here: JAX arrays are immutable, so processes cannot share weights that change. Use "
            "several devices in one process (jax.sharding), or jax.distributed across processes."
        )

    def xpu(self, device: Any = None) -> NoReturn:
        """Raises: JAX has no such platform; so do `ipu` and `mtia`."""
        raise NotImplementedError(
            f"JAX has no platform of this name here; it has {sorted({d.platform for d in jax.devices()})}: use to(device)"
        )

    ipu = mtia = xpu

    def type(self, dst_type: Any) -> Self:
        """Converts all parameters and buffers to a dtype, those of integers too."""
        dtype = jnp.dtype(dst_type)
        return self._apply(lambda array: array.astype(dtype))

    def _place(self, device: Any) -> None:
        """What constructors do with their argument `device`."""
        if device is not None:
            self.to(device)

    def _cast(self, dtype: Any) -> Self:
        return self._apply(lambda array: array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array)

    def float(self) -> Self:
        """Converts parameters and buffers of floating point to float32."""
        return self._cast(jnp.float32)

    def double(self) -> Self:
        """Converts parameters and buffers of floating point to float64; JAX must have x64 enabled."""
        if jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            raise TypeError("float64 needs 64 bits: jax.config.update('jax_enable_x64', True) at the start of the program")
        return self._cast(np.float64)

    def half(self) -> Self:
        """Converts parameters and buffers of floating point to float16."""
        return self._cast(jnp.float16)

    def bfloat16(self) -> Self:
        """Converts parameters and buffers of floating point to bfloat16."""
        return self._cast(jnp.bfloat16)


_META = "meta"


def destination(args: tuple[Any, ...], device: Any, dtype: Any) -> tuple[Any, np.dtype | None]:
    """Where to, and into what dtype, the arguments of `to` say: a device, a dtype, both, an array that has both, or neither."""
    for arg in args:
        if isinstance(arg, bool):
            continue  # non_blocking by position
        if isinstance(arg, (jax.Array, Handle)):
            array = as_array(arg)
            device, dtype = array.sharding, array.dtype
        elif isinstance(arg, (jax.Device, jax.sharding.Sharding)) or (isinstance(arg, str) and _is_platform(arg)):
            device = arg
        elif isinstance(arg, str) and not hasattr(np, arg) and not hasattr(jnp, arg):
            raise RuntimeError(f"expected a device such as 'cpu' or 'gpu:1', or a dtype, got {arg!r}")
        elif arg is not None:
            dtype = arg
    if isinstance(device, str) and device != _META:
        device = _device(device)
    return device, None if dtype is None else jnp.dtype(dtype)


def _is_platform(name: str) -> bool:
    return name.partition(":")[0] in ("cpu", "gpu", "cuda", "rocm", "tpu", _META)


def _device(name: str) -> Any:
    platform, _, index = name.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (IndexError, RuntimeError) as error:
        raise RuntimeError(f"no device {name!r} here; JAX has {[str(device) for device in jax.devices()]}") from error
