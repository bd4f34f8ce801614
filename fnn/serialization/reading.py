"""Checkpoints of PyTorch and safetensors are read, without torch."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from fnn.serialization.errors import CheckpointError, Unknown
from fnn.serialization.placing import place_all
from fnn.serialization.pytorch import LEGACY_START, read_legacy, read_zip
from fnn.serialization.safetensors import read_safetensors
from fnn.serialization.sharding import INDEX, find, read_index, read_shards
from fnn.serialization.tensors import File, Storage, Tensor
from fnn.serialization.unpickling import Built

_DEEPEST = 200  # containers in containers
_LONGEST = 300  # characters of a name that are kept, the last: a key of a file is a part of the names of all that is below it


def load(path: str | os.PathLike[str], device: Any, verify: bool, skip_unknown: bool) -> Any:
    """As `fnn.load`."""
    tree = read(path, skip_unknown)
    storages: list[Storage] = []

    def collect(name: str, tensor: Tensor) -> Tensor:
        if tensor.name is None:
            tensor.name = name
            if not tensor.storage.tensors:
                storages.append(tensor.storage)
            tensor.storage.tensors.append(tensor)
        return tensor

    replace(tree, collect)
    place_all(storages, device, verify)
    return replace(tree, lambda _, tensor: tensor.value)


def read(path: str | os.PathLike[str], skip_unknown: bool = False) -> Any:
    """What a checkpoint holds, with a `Tensor` in the place of each tensor: no tensor is read."""
    found = find(Path(path))
    if isinstance(found, Path) and not found.name.endswith(INDEX):
        return _read_file(found, skip_unknown)
    index = read_index(found)[1] if isinstance(found, Path) else None
    paths = found if isinstance(found, list) else [found.parent / name for name in dict.fromkeys((index or {}).values())]
    return read_shards(paths, index, lambda path: _read_file(path, skip_unknown))


def _read_file(path: Path, skip_unknown: bool) -> Any:
    file = File(path)
    start = file.data[:512]
    try:
        tree = _parse(file, start, path.suffix, skip_unknown)
        first: dict[tuple[Any, ...], Tensor] = {}
        return replace(tree, lambda _, tensor: first.setdefault(tensor.place, tensor))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: the file is damaged: {type(error).__name__}: {str(error)[:200]}") from error


def _parse(file: File, start: bytes, suffix: str, skip_unknown: bool) -> Any:
    if start[8:9] == b"{":
        return read_safetensors(file)
    if start.startswith(b"PK"):
        return read_zip(file, skip_unknown)
    for (offset, sign), kind in _OTHERS.items():
        if start[offset : offset + len(sign)] == sign:
            raise CheckpointError(kind)
    if suffix == ".safetensors":
        return read_safetensors(file)
    if LEGACY_START in start[:32]:
        return read_legacy(file, skip_unknown)
    raise CheckpointError("neither a file of torch.save nor of safetensors")


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
    return str(key) if isinstance(key, int) else type(key).__name__


def replace(tree: Any, function: Callable[[str, Tensor], Any]) -> Any:
    """The tree with what a function of the dotted name and the tensor gives in the place of each tensor.

    Of names of more than 300 characters it is their end.

    Dicts and lists stay the same objects. One object at several places stays one, and has the name of the first.
    """
    known: dict[int, Any] = {}
    pending = object()

    def walk_items(items: Any, value: Any, start: str, depth: int) -> None:
        for key, item in items:
            name = (start + (key[-_LONGEST:] if type(key) is str else _name(key)))[-_LONGEST:]
            value[key] = function(name, item) if type(item) is Tensor else walk(item, name, depth + 1)

    def walk(value: Any, name: str, depth: int) -> Any:
        if type(value) is Tensor:
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
        start = name + "." if name else ""
        result = value
        if isinstance(value, dict):
            walk_items(value.items(), value, start, depth)
            attributes = getattr(value, "__dict__", {})
            walk_items(attributes.items(), attributes, start, depth)
        elif type(value) is list:
            walk_items(enumerate(value), value, start, depth)
        elif type(value) is tuple:
            items = list(value)
            walk_items(enumerate(items), items, start, depth)
            result = tuple(items)
        else:
            raise CheckpointError("the file holds a class or a storage by itself as a value")
        known[id(value)] = result
        return result

    return walk(tree, "", 0)
