"""Arrays to be written: which of them share memory, and their bytes, fetched when they are written."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.scope import Cell, is_tracer
from fnn.serialization.pickling import View
from fnn.serialization.tensors import DTYPES

_CHUNK = 1 << 20  # bytes that are written at once: few enough to stay in the cache for their checksum


def is_array(value: Any) -> bool:
    """Whether a value is written as a tensor."""
    return isinstance(value, (np.ndarray, np.generic, jax.Array, Cell))


class Leaf:
    """An array to be written; `host` is its memory, None where it has to be fetched."""

    def __init__(self, value: Any, name: str):
        if isinstance(value, Cell):
            value = value.exported() if hasattr(value, "exported") else value.value
        if is_tracer(value) or isinstance(value, jax.ShapeDtypeStruct):
            raise TypeError(f"{name} has no value to be saved: {value}")
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            raise TypeError(f"{name} is a random key; save jax.random.key_data of it")
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            raise ValueError(f"{name} is spread over several processes; one of them cannot save it")
        dtype = np.dtype(value.dtype)
        if dtype.newbyteorder("=") not in DTYPES:
            raise TypeError(f"{name} has the dtype {dtype}, which PyTorch does not have")
        on_host = not isinstance(value, jax.Array) or (
            len(value.devices()) == 1 and next(iter(value.devices())).platform == "cpu"
        )
        self.value = value
        self.dtype = dtype.newbyteorder("=")
        self.shape = tuple(value.shape)
        self.size = math.prod(self.shape)
        self.nbytes = self.size * dtype.itemsize
        self.host = np.asarray(value) if on_host and dtype == self.dtype else None

    def fetch(self) -> np.ndarray:
        """The values on the host, C-contiguous."""
        value = self.value
        if isinstance(value, jax.Array) and self.host is None:
            with contextlib.suppress(RuntimeError):  # where JAX has no CPU
                # Of an array on another device, JAX would keep what it gives numpy.
                value = jax.device_put(value, jax.local_devices(backend="cpu")[0])
        return np.ascontiguousarray(value if self.host is None else self.host, self.dtype).reshape(self.shape)

    @property
    def strides(self) -> tuple[int, ...] | None:
        """In elements, as torch has them; None where it has no such strides."""
        strides = []
        assert self.host is not None
        for size, stride in zip(self.shape, self.host.strides, strict=True):
            if size > 1 and (stride < 0 or stride % self.dtype.itemsize):
                return None
            strides.append(max(stride // self.dtype.itemsize, 0))
        return tuple(strides)

    def span(self) -> tuple[int, int] | None:
        """The memory that it reaches over, where it can be written as it is."""
        if self.host is None or self.size == 0 or self.strides is None:
            return None
        start = self.host.__array_interface__["data"][0]
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return start, start + (reach + 1) * self.dtype.itemsize


class Storage(NamedTuple):
    """Bytes to be written: memory as it is, or an array to be fetched."""

    size: int
    start: int | None
    leaf: Leaf

    def chunks(self) -> Iterator[Any]:
        """The bytes, part by part."""
        if self.start is not None:
            whole = memoryview((ctypes.c_char * self.size).from_address(self.start)).cast("B")
        else:
            whole = self.leaf.fetch().reshape(-1).view(np.uint8).data
        for start in range(0, self.size, _CHUNK):
            yield whole[start : start + _CHUNK]


def views_and_storages(leaves: dict[int, Leaf]) -> tuple[dict[int, View], list[Storage]]:
    """How arrays are written as views of storages, in their order: what shares memory shares a storage.

    An array with gaps between its elements is written without them; but where arrays overlap and the memory that they reach
    over is no larger than they are together, it is written as it is.

    Args:
        leaves: the arrays, by the `id` of the object that stands for them.
    """
    spans = {key: span for key, leaf in leaves.items() if (span := leaf.span()) is not None}
    group_of: dict[int, list[int]] = {}
    stop = 0
    for key, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        if start >= stop:
            group: list[int] = []
        group.append(key)
        group_of[key] = group
        stop = max(stop, end)
    views: dict[int, View] = {}
    storages: list[Storage] = []

    def same(key: int) -> Any:
        leaf = leaves[key]
        return spans[key], leaf.dtype, leaf.shape, leaf.strides

    def add(key: int, storage: Storage, typed: bool, offset: int, strides: tuple[int, ...]) -> None:
        dtype = leaves[key].dtype
        number = len(storages) - 1 if storages and storages[-1] is storage else len(storages)
        if number == len(storages):
            storages.append(storage)
        views[key] = View(number, storage.size, typed, dtype, offset // dtype.itemsize, leaves[key].shape, strides)

    for key, leaf in leaves.items():
        if key in views:
            continue
        group = group_of.get(key, [])
        start, end = min((spans[i][0] for i in group), default=0), max((spans[i][1] for i in group), default=0)
        aligned = all((spans[i][0] - start) % leaves[i].dtype.itemsize == 0 for i in group)
        if group and aligned and end - start <= sum({same(i): leaves[i].nbytes for i in group}.values()):
            storage = Storage(end - start, start, leaf)
            typed = len({leaves[i].dtype for i in group}) == 1
            for i in group:
                add(i, storage, typed, spans[i][0] - start, leaves[i].strides or ())
        else:
            storage = Storage(leaf.nbytes, None, leaf)
            for i in [i for i in group if same(i) == same(key)] or [key]:
                add(i, storage, True, 0, contiguous(leaf.shape))
    return views, storages


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of an array whose elements lie one after the other."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * size)
    return tuple(strides[::-1]) if shape else ()
