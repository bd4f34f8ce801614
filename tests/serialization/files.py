"""What the tests of checkpoint files share: values that torch and fnn must agree on, bit for bit."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from typing import Any

import jax
import numpy as np
import torch

from fnn.serialization.archive import ArchiveWriter

NAMES = """float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex64 complex128"""
DTYPES = [getattr(torch, name) for name in NAMES.split()]
FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random bits, so that infinities, NaN and subnormal numbers are there as well."""
    if dtype == torch.bool:
        return torch.rand(shape) > 0.5
    bits = torch.randint(0, 256, (*shape[:-1], shape[-1] * dtype.itemsize) if shape else (dtype.itemsize,), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


def bits(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Dtype, shape and bytes of a torch tensor, or of an array of numpy or jax."""
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        return str(value.dtype).removeprefix("torch."), tuple(value.shape), bytes(value.reshape(-1).view(torch.uint8).numpy())
    value = np.asarray(value)
    return value.dtype.name, value.shape, value.tobytes()


def same(expected: Any, got: Any) -> bool:
    """Whether two trees hold the same: types of containers, values, and the bits of tensors."""
    if isinstance(expected, (torch.Tensor, np.ndarray, np.generic, jax.Array)):
        return bits(expected) == bits(got)
    if isinstance(expected, dict):
        metadata = [getattr(value, "_metadata", None) for value in (expected, got)]
        return (
            type(expected) is type(got)
            and list(expected) == list(got)
            and metadata[0] == metadata[1]
            and all(same(value, got[name]) for name, value in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        kind = tuple if isinstance(expected, tuple) else list  # torch.Size is a tuple
        return type(got) is kind and len(expected) == len(got) and all(map(same, expected, got))
    return type(expected) is type(got) and expected == got


def repacked(content: bytes, change: Any) -> bytes:
    """An archive whose members `change(name, bytes)` changed; None takes one out."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return packed({name: new for name, old in members.items() if (new := change(name, old)) is not None})


def packed(members: dict[str, bytes]) -> bytes:
    """An archive, with checksums that fit."""
    file = io.BytesIO()
    writer = ArchiveWriter(file, "archive")
    for name, content in members.items():
        writer.add(name, [content], len(content))
    writer.close()
    return file.getvalue()


def python(code: str, *arguments: Any) -> str:
    """What a new process prints."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
