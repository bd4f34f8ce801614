"""Where the tensors of a file go: views of the file, or arrays of JAX on devices; checked and copied by threads."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from fnn.arrays import fitted, held_dtype
from fnn.nn.modules.conversion import destination
from fnn.serialization.errors import CheckpointError
from fnn.serialization.tensors import ALIGNMENT, ALLOWANCE, Storage, Tensor, aligned_empty

_BATCH = 8 << 20  # bytes that a thread reads at once
_LARGE = 1 << 18  # bytes of a storage from which on threads pay
_LONG = 1 << 28  # bytes from which on a progress bar is worth its import
_ARRAY = 4096  # bytes that JAX takes for an array, however small
_PATIENCE = 2.0  # seconds after which it is shown


def place_all(storages: list[Storage], device: Any, verify: bool) -> None:
    """Gives all tensors of storages their values.

    Args:
        storages: the storages.
        device: where the tensors go, as `fnn.load` has it.
        verify: whether checksums are compared.
    """
    if device is not None:
        place_of = _places(device)
        for storage in storages:
            for tensor in storage.tensors:
                tensor.device = place_of(tensor.name or "")
    total = sum(storage.size for storage in storages)
    room = ALLOWANCE + total
    for batch in _progress(_prepared(storages, verify), total):
        waiting: dict[jax.Device, list[Tensor]] = {}
        for storage in batch:
            for tensor in storage.tensors:
                if tensor.device is not None or tensor.conjugated or tensor.negated:
                    room -= max(tensor.nbytes, _ARRAY)
                    if room < 0:
                        path = storage.file.path
                        raise CheckpointError(f"{path}: the tensors take more memory than the size of the file allows for")
                tensor.value = tensor.array()
                if tensor.device is not None:
                    _start(tensor, waiting)
        for place, tensors in waiting.items():
            # Few arrays at once, so that few wait in the memory of the host.
            values = jax.block_until_ready(jax.device_put([tensor.value for tensor in tensors], place))
            for tensor, value in zip(tensors, values, strict=True):
                tensor.value = value
        if device is not None:
            for storage in batch:
                storage.release()


def _start(tensor: Tensor, waiting: dict[jax.Device, list[Tensor]]) -> None:
    """Puts a tensor on a sharding, or among those that wait for a device, in the dtype that JAX holds it in."""
    try:
        tensor.value = fitted(tensor.value, tensor.dtype)
    except OverflowError as error:
        raise OverflowError(f"{tensor.name}: {error}") from None
    if isinstance(tensor.device, jax.sharding.Sharding):
        tensor.value = _sharded(tensor.value, tensor.device)
        return
    if tensor.device.platform == "cpu" and not tensor.storage.is_copied:
        tensor.value = _owned(tensor.value)
    waiting.setdefault(tensor.device, []).append(tensor)


def _sharded(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """The array on several devices; only the parts that are needed in this process are read."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: _owned(array[index])).block_until_ready()


def _can_be_copied(storage: Storage) -> bool:
    """Whether a large storage is one tensor that goes to a CPU as it is: then the copy of its bytes is that tensor."""
    tensor = storage.tensors[0]
    return (
        isinstance(tensor.device, jax.Device)
        and tensor.device.platform == "cpu"
        and len(storage.tensors) == 1
        and tensor.nbytes == storage.size
        and tensor.strides is None
        and tensor.dtype == held_dtype(tensor.dtype)
        and not (storage.swapped or tensor.conjugated or tensor.negated)
    )


def _prepared(storages: list[Storage], verify: bool) -> Iterator[list[Storage]]:
    """Batches of storages one after the other, checked and perhaps copied; threads do that for large ones that come next."""

    def prepare(batch: list[Storage], large: bool) -> None:
        those = [storage for storage in batch if (storage.size >= _LARGE) is large]
        copied = [storage for storage in those if large and _can_be_copied(storage)]
        # Memory at once, since the system gives that in larger pages.
        room, used = aligned_empty(sum(storage.size + ALIGNMENT for storage in copied)), 0
        for storage in those:
            if storage in copied:
                storage.copy(room[used : used + storage.size], verify)
                used += -(-storage.size // ALIGNMENT) * ALIGNMENT
            elif verify:
                storage.verify()

    batches: list[list[Storage]] = [[]]
    size = 0
    for storage in storages:
        if size > _BATCH:
            batches.append([])
            size = 0
        batches[-1].append(storage)
        size += storage.size
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[None]] = deque()
        for i, batch in enumerate(batches):
            for following in batches[i + len(running) : i + 2 * workers]:
                running.append(pool.submit(prepare, following, True))
            running.popleft().result()
            prepare(batch, False)
            yield batch


def _progress(batches: Iterable[list[Storage]], total: int) -> Iterator[list[Storage]]:
    """The batches, with a progress bar where that takes long and tqdm is installed."""
    if total < _LONG or importlib.util.find_spec("tqdm") is None:
        yield from batches
        return
    tqdm = importlib.import_module("tqdm").tqdm
    with tqdm(total=total, desc="fnn.load", unit="B", unit_scale=True, unit_divisor=1024, delay=_PATIENCE, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(sum(storage.size for storage in batch))


def _places(device: Any) -> Callable[[str], Any]:
    """Where the tensor of a name goes."""
    if isinstance(device, Mapping):
        return lambda name: _place(device.get(name))
    if callable(device):
        return lambda name: _place(device(name))
    place = _place(device)
    return lambda name: place


def _place(device: Any) -> Any:
    if isinstance(device, str):
        device, _ = destination((), device, None)
    if device is not None and not isinstance(device, (jax.Device, jax.sharding.Sharding)):
        raise TypeError(f"a device is a jax.Device, a sharding, or a name such as 'gpu:0', not {device!r}")
    return device


def _owned(array: np.ndarray) -> np.ndarray:
    """A copy that JAX takes over on a CPU; of an array as it is, JAX would hold on to the mapped file."""
    copy = aligned_empty(array.nbytes).view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy
