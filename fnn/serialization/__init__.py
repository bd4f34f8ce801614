"""Checkpoint files: what PyTorch and safetensors wrote is read, and written for them, without torch.

What does that is imported when it is used, so that importing fnn stays quick.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fnn.serialization.errors import CheckpointError, Unknown

__all__ = ["CheckpointError", "Unknown", "load", "save"]


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
    from fnn.serialization import reading

    return reading.load(path, device, verify, skip_unknown)


def save(
    state: Any,
    path: str | os.PathLike[str],
    *,
    max_shard_size: int | str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a checkpoint that `torch.load(weights_only=True)` or safetensors reads; equal values give equal bytes.

    What is there under the path stays until the new file is complete and on the disk. Arrays go to the file one after the
    other. Entries that are one array stay one; arrays of numpy that overlap do so in PyTorch.

    Args:
        state: a module, whose `state_dict` is taken; or for PyTorch's format dicts (of any names), lists, tuples and sets of
            arrays, numbers, strings, bytes, None and dtypes; for safetensors a dict of arrays by name. Order, dtypes, also of
            64 bits, and the `_metadata` of an OrderedDict are kept by PyTorch's format. A number of numpy becomes a tensor.
        path: a file whose name ends with .safetensors, or with .pt, .pth, .bin or .ckpt for PyTorch's zip format.
        max_shard_size: a number of bytes, or a string such as "5GB". A dict of arrays that is larger is written as
            `model-00001-of-00003.safetensors` and so on, and `model.safetensors.index.json`, as Hugging Face's folders
            have it; then `load` finds it under the same path. Shards that an earlier `save` wrote for the path are removed.
        metadata: strings by name for the header of .safetensors, beside `format`, which is "pt".

    Raises:
        TypeError: for what the format does not hold, with its place.
        ValueError: for another ending.

    Example:
        >>> import fnn, os, tempfile
        >>> net = fnn.nn.BatchNorm1d(2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "checkpoint.pt")
        ...     fnn.save({"model": net.state_dict(), "epoch": 3}, path)
        ...     checkpoint = fnn.load(path)
        >>> checkpoint["epoch"], checkpoint["model"]["num_batches_tracked"].dtype
        (3, dtype('int64'))
    """
    from fnn.serialization import writing

    writing.save(state, path, max_shard_size, metadata)
