"""Files are written that PyTorch and safetensors read."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fnn.nn.modules.module import Module
from fnn.serialization.archive import ArchiveWriter
from fnn.serialization.atomic import remove, replacing
from fnn.serialization.errors import CheckpointError
from fnn.serialization.pickling import pickled
from fnn.serialization.safetensors import write_safetensors
from fnn.serialization.sharding import INDEX, is_shard, read_index, shard_names
from fnn.serialization.storages import Leaf, is_array, views_and_storages

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}


def save(
    state: Any, path: str | os.PathLike[str], max_shard_size: int | str | None, metadata: Mapping[str, str] | None
) -> None:
    """As `fnn.save`."""
    path = Path(path)
    if isinstance(state, Module):
        state = state.state_dict()
    write = _writer(path, metadata)
    limit = _bytes(max_shard_size)
    if limit is not None and not isinstance(state, dict):
        raise TypeError(f"only a dict can be written in shards, not {type(state).__name__}")
    shards = [state] if limit is None else _shards(state, limit)
    index = path.with_name(path.name + INDEX)
    if len(shards) == 1:
        with replacing(path) as file:
            write(file, state)
        old = _own_shards(index)
        if old:
            remove(index)
    else:
        old = _own_shards(index)
        _write_shards(path, index, list(state), shards, write)
        remove(path)
    for name in old - _own_shards(index):
        remove(path.with_name(name))


def _write_shards(
    path: Path, index: Path, order: list[str], shards: list[dict[Any, Any]], write: Callable[[BinaryIO, Any], list[str]]
) -> None:
    """Writes shards under names that are not there yet, and last the index, by which they take the place of the old ones."""
    for stem in itertools.chain([path.stem], (f"{path.stem}.{count}" for count in itertools.count(1))):
        names = shard_names(stem, len(shards), path.suffix)
        if not any(path.with_name(name).exists() for name in names):
            break
    try:
        file_of: dict[str, str] = {}
        for name, shard in zip(names, shards, strict=True):
            with replacing(path.with_name(name)) as file:
                file_of |= dict.fromkeys(write(file, shard), name)
        weight_map = {name: file_of[name] for name in order if name in file_of}
        size = sum(leaf.nbytes for shard in shards for leaf in leaves_of(shard).values())
        content = {"metadata": {"total_size": size, "written_by": "fnn"}, "weight_map": weight_map}
        with replacing(index) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    except BaseException:
        for name in set(names) - _own_shards(index):
            remove(path.with_name(name))
        raise


def _own_shards(index: Path) -> set[str]:
    """The shards of an index that `save` wrote; none of one that it did not, such as a downloaded one."""
    try:
        metadata, names = read_index(index)
    except (OSError, CheckpointError):
        return set()
    whole = index.name.removesuffix(INDEX)
    return {name for name in names.values() if metadata.get("written_by") == "fnn" and is_shard(name, whole)}


def _shards(state: dict[Any, Any], limit: int) -> list[dict[Any, Any]]:
    """The entries in parts of at most `limit` bytes, in their order; what shares memory is in one part."""
    views, storages = views_and_storages(leaves_of(state))
    shards: list[dict[Any, Any]] = [_empty_like(state)]
    size, part_of = 0, {}
    for name, value in state.items():
        if not is_array(value):
            if leaves_of(value):
                raise TypeError(f"state[{name!r}] holds arrays in containers; only a dict of arrays can be written in shards")
            shards[0][name] = value
            continue
        number = views[id(value)].storage
        if number not in part_of:
            if size and size + storages[number].size > limit:
                shards.append(_empty_like(state))
                size = 0
            size += storages[number].size
            part_of[number] = shards[-1]
        part_of[number][name] = value
    return shards


def _empty_like(state: dict[Any, Any]) -> dict[Any, Any]:
    empty = type(state)()
    if hasattr(state, "__dict__"):
        vars(empty).update(vars(state))
    return empty


def leaves_of(tree: Any) -> dict[int, Leaf]:
    """The arrays of a tree of containers by their `id`, in its order."""
    leaves: dict[int, Leaf] = {}
    seen = set()

    def walk(value: Any, where: str) -> None:
        if id(value) in seen or id(value) in leaves:
            return
        if is_array(value):
            leaves[id(value)] = Leaf(value, where)
        elif isinstance(value, (dict, list, tuple)):
            seen.add(id(value))
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(item, f"{where}[{name!r}]")

    walk(tree, "state")
    return leaves


def _writer(path: Path, metadata: Mapping[str, str] | None) -> Callable[[BinaryIO, Any], list[str]]:
    """What writes the format that a name says; it returns the names that the file has."""
    if path.suffix == ".safetensors":
        return lambda file, state: write_safetensors(file, state, {"format": "pt", **(metadata or {})})
    if path.suffix not in _TORCH:
        raise ValueError(f"{path.name!r} says no format: its ending is none of .safetensors, {', '.join(_TORCH)}")
    if metadata is not None:
        raise ValueError("metadata is for .safetensors; a .pt file holds what is put into the dict")
    return _write_torch


def _write_torch(file: BinaryIO, state: Any) -> list[str]:
    views, storages = views_and_storages(leaves_of(state))
    pickle = pickled(state, views)
    archive = ArchiveWriter(file, "archive")
    # Without torch's record .format_version: it says where members lie, which is not where torch's own writer puts them.
    archive.add("data.pkl", [pickle], len(pickle))
    archive.add("byteorder", [sys.byteorder.encode()], len(sys.byteorder))
    for number, storage in enumerate(storages):
        archive.add(f"data/{number}", storage.chunks(), storage.size)
    archive.add("version", [b"3\n"], 2)
    archive.close()
    return list(state) if isinstance(state, dict) else []


def _bytes(size: int | str | None) -> int | None:
    """A number of bytes, such as 5000000000 of "5GB"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(size).strip().upper())
    if size is None:
        return None
    if match is None or match[2] not in _UNITS or (limit := int(float(match[1]) * _UNITS[match[2]])) <= 0:
        raise ValueError(f'a size is a number of bytes, or a string such as "5GB", not {size!r}')
    return limit
