"""The safetensors format: a header of JSON, and the bytes of tensors one after the other."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from fnn.serialization.errors import CheckpointError
from fnn.serialization.pickling import View
from fnn.serialization.storages import Leaf, Storage, is_array, views_and_storages
from fnn.serialization.tensors import ALLOWANCE, DTYPES, JSON_COST, File, Tensor
from fnn.serialization.tensors import Storage as StoredBytes

_METADATA = "__metadata__"
_CODES = {names.safetensors: dtype for dtype, names in DTYPES.items() if names.safetensors}


def read_safetensors(file: File) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order in which they lie in it.

    A name that the file's metadata says to be another name's tensor, as `safetensors.torch.save_model` writes it, is there
    too; `format` is no such name. The package safetensors checks the header: that all tensors lie in the file, whole, apart
    and without gaps.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("reading .safetensors needs the package safetensors: pip install safetensors") from error
    (size,) = struct.unpack_from("<Q", file.data)
    if size * JSON_COST > ALLOWANCE + file.size:
        raise CheckpointError(f"the header has {size} bytes, more than the size of the file allows for")
    try:
        with safe_open(file.path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"no valid safetensors file: {error}") from error
    text = file.data[8 : 8 + size]
    header = json.loads(text)
    metadata = header.pop(_METADATA, None) or {}
    if text.count(b'"data_offsets"') != len(header) or b"\\u" in text:  # perhaps a name twice, which the package does not see
        json.loads(text, object_pairs_hook=_unique)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = _CODES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(f"the tensor {name!r} has the dtype {entry['dtype']}, which NumPy does not have")
        start, stop = entry["data_offsets"]
        tensors[name] = Tensor(StoredBytes(file, name, 8 + size + start, stop - start), 0, tuple(entry["shape"]), dtype)
    metadata.pop("format", None)  # "pt", which may be the name of a tensor
    shared = {name: tensors[kept] for name, kept in metadata.items() if name not in tensors and kept in tensors}
    return {**tensors, **shared}


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(items)
    if len(entries) != len(items):
        raise CheckpointError("the header has a name twice")
    return entries


def write_safetensors(file: BinaryIO, state: Any, metadata: Mapping[str, str]) -> list[str]:
    """Writes arrays by name: those of the largest elements first, so that all are aligned, else in their order.

    Names of one array are the first of them; the metadata says of which the others are, as
    `safetensors.torch.save_model` has it. Arrays that overlap otherwise are written each by itself. Returns the names.
    """
    for name, value in state.items() if isinstance(state, dict) else [("state", None)]:
        if not is_array(value) or not isinstance(name, str) or name == _METADATA:
            raise TypeError(
                f"safetensors holds arrays by name and nothing else, not {name!r} of type {type(value).__name__}; save the "
                "dict of arrays alone, or .pt"
            )
    leaves = {id(value): Leaf(value, name) for name, value in state.items()}
    views, _ = views_and_storages(leaves)
    first: dict[View, str] = {}
    for name, value in state.items():
        first.setdefault(views[id(value)], name)
    shared = {name: kept for name, value in state.items() if (kept := first[views[id(value)]]) != name and name not in metadata}
    order = sorted((name for name in state if name not in shared), key=lambda name: -leaves[id(state[name])].dtype.itemsize)
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata is strings by name, not {key!r}: {text!r}")
        if key != "format" and text in state:
            raise ValueError(
                f"metadata[{key!r}] is {text!r}, the name of an array: {key!r} would be read as another name of it"
            )
    header: dict[str, Any] = {_METADATA: dict(sorted({**metadata, **shared}.items()))}
    position = 0
    for name in order:
        leaf = leaves[id(state[name])]
        code = DTYPES[leaf.dtype].safetensors
        if code is None:
            raise TypeError(f"{name} has the dtype {leaf.dtype}, which the safetensors format does not have")
        header[name] = {"dtype": code, "shape": leaf.shape, "data_offsets": (position, position + leaf.nbytes)}
        position += leaf.nbytes
    content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    file.write(struct.pack("<Q", len(content)) + content)
    for name in order:
        leaf = leaves[id(state[name])]
        for chunk in Storage(leaf.nbytes, None, leaf).chunks():
            file.write(chunk)
    return order
