"""Checkpoints in several files: an index says which file holds which name, as Hugging Face's folders have it."""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fnn.serialization.errors import CheckpointError
from fnn.serialization.tensors import ALLOWANCE, JSON_COST

INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def shard_names(stem: str, count: int, suffix: str) -> list[str]:
    """The names of shards, as Hugging Face's folders have them."""
    return [f"{stem}-{number:05}-of-{count:05}{suffix}" for number in range(1, count + 1)]


def is_shard(name: str, whole: str) -> bool:
    """Whether a file has the name of a shard of a whole, such as model.safetensors."""
    match, stem = _SHARD.fullmatch(name), Path(whole)
    return (
        match is not None and match[4] == stem.suffix and re.fullmatch(re.escape(stem.stem) + r"(\.\d+)?", match[1]) is not None
    )


def find(path: Path) -> list[Path] | Path:
    """The file of a checkpoint: the only file of a folder, or its index; or its shards, where there is no index.

    A name that is not there may have an index, since `save` writes one where the file would be too large.
    """
    if not path.is_dir():
        index = path.with_name(path.name + INDEX)
        return index if not path.exists() and index.exists() else path
    names = sorted(os.listdir(path))
    for whole in ("model.safetensors", "pytorch_model.bin"):
        for name in (whole, whole + INDEX):
            if name in names:
                return path / name
    for found in (
        [name for name in names if name.endswith(INDEX)],
        [name for name in names if name.endswith(_SUFFIXES)],
    ):
        # Of the same weights in two formats, safetensors.
        found = [name for name in found if ".safetensors" in name] or found
        shards = [match for name in found if (match := _SHARD.fullmatch(name))]
        if shards and len({match[1] + match[3] + match[4] for match in shards}) == 1:
            if [int(match[2]) for match in shards] != list(range(1, int(shards[0][3]) + 1)):
                raise CheckpointError(f"{path}: of {int(shards[0][3])} shards there are only {[match[0] for match in shards]}")
            return [path / match[0] for match in shards]
        if len(found) == 1:
            return path / found[0]
        if found:
            raise CheckpointError(f"{path}: the folder has several checkpoints, name one of them: {', '.join(found[:20])}")
    raise CheckpointError(f"{path}: the folder has no checkpoint: no file *{INDEX}, *{', *'.join(_SUFFIXES)}")


def read_index(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The metadata of an index, and the name of the file of each tensor, which lies in its folder.

    Raises:
        CheckpointError: where the index is none, or a name leads out of the folder.
    """
    room = ALLOWANCE + sum(entry.stat().st_size for entry in os.scandir(path.parent) if entry.is_file())
    if path.stat().st_size * JSON_COST > room:
        raise CheckpointError(f"{path}: the index is larger than the files beside it allow for")
    try:
        index = json.loads(path.read_bytes())
        names = {name: _checked(file) for name, file in index["weight_map"].items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: no index of shards: {error!r}") from error
    metadata = index.get("metadata")
    return metadata if isinstance(metadata, dict) else {}, names


def _checked(name: Any) -> str:
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\:\0"):
        raise CheckpointError(f"the index names the file {name!r}, which is not in its folder")
    return name


def read_shards(paths: list[Path], index: dict[str, str] | None, read: Callable[[Path], Any]) -> OrderedDict[str, Any]:
    """The entries of all shards, in the order of the index.

    Args:
        paths: the shards.
        index: the file of each name.
        read: gives the dict of a shard.
    """
    entries: OrderedDict[str, Any] = OrderedDict((name, None) for name in index or ())
    metadata: OrderedDict[str, Any] = OrderedDict()
    found: dict[str, Path] = {}
    for path in paths:
        shard = read(path)
        if not isinstance(shard, dict):
            raise CheckpointError(f"{path}: the shard holds no dict")
        for name, value in shard.items():
            if name in found:
                raise CheckpointError(f"{path}: {name!r} is in {found[name].name} as well")
            found[name], entries[name] = path, value
        if isinstance(versions := getattr(shard, "_metadata", None), dict):
            metadata.update(versions)
    for name, file in (index or {}).items():
        if name not in found or found[name].name != file:
            raise CheckpointError(f"{paths[0].parent / file}: {name!r} is not there, where the index says it is")
    if metadata:
        entries._metadata = metadata  # type: ignore[attr-defined]
    return entries
