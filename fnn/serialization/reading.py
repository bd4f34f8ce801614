"""fnn.load: checkpoints of PyTorch and safetensors, without torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any

import jax
import numpy as np

from fnn.arrays import fitted
from fnn.nn.modules.conversion import destination
from fnn.serialization.pytorch import LEGACY_START, read_legacy, read_zip
from fnn.serialization.safetensors import read_safetensors
from fnn.serialization.sharding import INDEX, find, read_index, read_shards
from fnn.serialization.tensors import ALLOWANCE, CheckpointError, File, Storage, Tensor
from fnn.serialization.unpickling import Built, Unknown

_DEEPEST = 200  # containers in containers
_LONGEST = 1000  # characters that a prefix of names may have: a name of a file is repeated for all that is below it
_BATCH = 8 << 20  # bytes that a thread checks at once
_LONG = 1 << 28  # bytes from which on a progress bar is worth its import
_PATIENCE = 2.0  # seconds after which it is shown


def load(path: str | os.PathLike[str], *, device: Any = None, verify: bool = True, skip_unknown: bool = False) -> Any:
    """Reads a checkpoint that PyTorch or safetensors wrote, or `fnn.save`; no torch is needed, and nothing in it is executed.

    It reads what `torch.save` writes, in its zip format and the older one, for tensors of all dtypes (bfloat16 and float8
    are those of ml_dtypes) in dicts, lists, tuples and sets, beside numbers, strings, bytes, dtypes (as numpy's), devices (as
    strings) and arrays of numpy; .safetensors, with the package safetensors; and folders of shards, by their index. Entries
    that are one tensor are one array. An OrderedDict keeps its `_metadata`, so `load_state_dict` sees versions.

    Args:
        path: a file, the index of shards (`*.index.json`), or the folder of one or the other.
        device: where tensors go, one after the other: a `jax.Device`, a sharding, or a name such as "gpu:0"; or a mapping or
            function from names of tensors (dotted, `model.fc.weight` in a dict of dicts) to these or None. By default, and
            for None, tensors are arrays of numpy: views of the file, mapped into memory, that cannot be written to.
        verify: whether to compare the checksums of PyTorch's zip format, which reads all of the file. The older format and
            safetensors have none.
        skip_unknown: whether objects of other classes become stand-ins that hold nothing, instead of an error.

    Returns:
        What the file holds: for a state_dict a dict of arrays by name, which `net.load_state_dict` takes.

    Raises:
        CheckpointError: for a file that is damaged or cut off, or holds what is not read; it is a ValueError.
        OverflowError: where a number of 64 bits does not fit the 32 that JAX holds it in, with a device.

    Example:
        >>> import fnn, os, tempfile
        >>> net = fnn.nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "net.pt")
        ...     fnn.save(net, path)
        ...     state = fnn.load(path)
        >>> {name: value.shape for name, value in state.items()}
        {'weight': (3, 2), 'bias': (3,)}
        >>> net.load_state_dict(state)
        <All keys matched successfully>
    """
    tree = read(path, skip_unknown)
    leaves: dict[tuple[Any, ...], tuple[str, Tensor]] = {}

    def collect(name: str, tensor: Tensor) -> Tensor:
        leaves.setdefault(tensor.place, (name, tensor))
        return tensor

    replace(tree, collect)
    storages: dict[int, tuple[Storage, list[tuple[str, Tensor]]]] = {}
    for name, tensor in leaves.values():
        storages.setdefault(id(tensor.storage), (tensor.storage, []))[1].append((name, tensor))
    arrays: dict[tuple[Any, ...], Any] = {}
    where = _places(device)
    every = [storage for storage, _ in storages.values()]
    total = sum(storage.size for storage in every)
    room = ALLOWANCE + total
    for storage in _progress(_verified(every, verify), total):
        for name, tensor in storages[id(storage)][1]:
            place = where(name)
            if place is not None or tensor.conjugated or tensor.negated:
                room -= tensor.nbytes
            if room < 0:
                raise CheckpointError(f"{storage.file.path}: the tensors take more memory than the size of the file allows for")
            try:
                arrays[tensor.place] = tensor.array() if place is None else _put(tensor.array(), place)
            except OverflowError as error:
                raise OverflowError(f"{name}: {error}") from None
        if device is not None:
            storage.release()
    return replace(tree, lambda _, tensor: arrays[tensor.place])


def read(path: str | os.PathLike[str], skip_unknown: bool = False) -> Any:
    """What a checkpoint holds, with a `Tensor` in the place of each tensor: no tensor is read."""
    found = find(Path(path))
    if isinstance(found, Path) and not found.name.endswith(INDEX):
        return _read_file(found, skip_unknown)
    index = read_index(found) if isinstance(found, Path) else None
    paths = found if isinstance(found, list) else [found.parent / name for name in dict.fromkeys((index or {}).values())]
    return read_shards(paths, index, lambda path: _read_file(path, skip_unknown))


def _read_file(path: Path, skip_unknown: bool) -> Any:
    file = File(path)
    start = file.data[:512]
    try:
        return replace(_parse(file, start, path.suffix, skip_unknown), lambda _, tensor: tensor)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: the file is damaged: {type(error).__name__}: {str(error)[:200]}") from error


def _parse(file: File, start: bytes, suffix: str, skip_unknown: bool) -> Any:
    for (offset, sign), kind in _OTHERS.items():
        if start[offset : offset + len(sign)] == sign:
            raise CheckpointError(kind)
    if suffix == ".safetensors" or start[8:9] == b"{":
        return read_safetensors(file)
    if start.startswith(b"PK"):
        return read_zip(file, skip_unknown)
    if LEGACY_START in start[:32]:
        return read_legacy(file, skip_unknown)
    raise CheckpointError("neither a file of torch.save nor of safetensors")


def _verified(storages: list[Storage], verify: bool) -> Iterator[Storage]:
    """The storages one after the other, each of them checked; threads check those that come next."""
    if not verify or all(storage.checksum is None for storage in storages):
        yield from storages
        return
    batches: list[list[Storage]] = [[]]
    room = _BATCH
    for storage in storages:
        if room < 0:
            batches.append([])
            room = _BATCH
        batches[-1].append(storage)
        room -= storage.size
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:

        def start(batch: list[Storage]) -> Any:
            return pool.submit(_verify, batch)

        ahead = iter(batches)
        running = deque(start(batch) for batch in islice(ahead, 2 * workers))
        for batch in batches:
            running.popleft().result()
            running.extend(start(following) for following in islice(ahead, 1))
            yield from batch


def _verify(batch: list[Storage]) -> None:
    for storage in batch:
        storage.verify()


def _progress(storages: Iterable[Storage], total: int) -> Iterator[Storage]:
    """The storages, with a progress bar where that takes long and tqdm is installed."""
    if total < _LONG or importlib.util.find_spec("tqdm") is None:
        yield from storages
        return
    tqdm = importlib.import_module("tqdm").tqdm
    with tqdm(total=total, desc="fnn.load", unit="B", unit_scale=True, unit_divisor=1024, delay=_PATIENCE, leave=False) as bar:
        for storage in storages:
            yield storage
            bar.update(storage.size)


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


def _put(array: np.ndarray, place: Any) -> jax.Array:
    """The array on a device or sharding, in the dtype that JAX holds it in; only the parts that are needed here are read."""
    array = fitted(array, array.dtype)
    if isinstance(place, jax.sharding.Sharding):
        return jax.make_array_from_callback(array.shape, place, lambda index: _owned(array[index])).block_until_ready()
    return jax.device_put(_owned(array) if place.platform == "cpu" else array, place).block_until_ready()


def _owned(array: np.ndarray) -> np.ndarray:
    """A copy that JAX takes over without another one, since it is aligned; JAX would hold on to the mapped file else."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


# What computing with numbers of a damaged file raises, where it was not foreseen.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError, struct.error)
_OTHERS = {
    (0, b"version https://git-lfs"): "a pointer of Git LFS, not the file itself: `git lfs pull` fetches it",
    (257, b"ustar"): "the tar format of PyTorch 0.1, or another archive; load and save it in PyTorch",
    (0, b"\x89HDF"): "a file of HDF5",
    (0, b"<html"): "a page of HTML, not the file itself: a download went wrong",
    (0, b"<!DOCTYPE"): "a page of HTML, not the file itself: a download went wrong",
}

_PLAIN = (NoneType, bool, int, float, complex, str, bytes, bytearray, set, frozenset, np.dtype, np.generic, np.ndarray, Unknown)


def _name(key: Any) -> str:
    """A key as a part of a name; of tuples, which may hold large strings many times, nothing."""
    return str(key) if isinstance(key, (str, int)) else type(key).__name__


def replace(tree: Any, function: Callable[[str, Tensor], Any]) -> Any:
    """The tree with what a function of the dotted name and the tensor gives in the place of each tensor.

    Dicts and lists stay the same objects. One object at several places stays one, and has the name of the first.
    """
    known: dict[int, Any] = {}
    pending = object()

    def walk(value: Any, name: str, depth: int) -> Any:
        if isinstance(value, Tensor):
            return function(name, value)
        if isinstance(value, Built):
            value = value.value
        if isinstance(value, _PLAIN):
            return value
        if depth > _DEEPEST or known.get(id(value)) is pending:
            raise CheckpointError(f"containers are more than {_DEEPEST} deep, or in themselves")
        if id(value) in known:
            return known[id(value)]
        known[id(value)] = pending
        start = (name + ".")[-_LONGEST:] if name else ""
        result = value
        if isinstance(value, dict):
            for items in (value, getattr(value, "__dict__", {})):
                for key, item in items.items():
                    items[key] = walk(item, start + _name(key), depth + 1)
        elif isinstance(value, list):
            value[:] = [walk(item, f"{start}{i}", depth + 1) for i, item in enumerate(value)]
        elif isinstance(value, tuple) and type(value) is tuple:
            result = tuple([walk(item, f"{start}{i}", depth + 1) for i, item in enumerate(value)])
        else:
            raise CheckpointError("the file holds a class or a storage by itself as a value")
        known[id(value)] = result
        return result

    return walk(tree, "", 0)
