"""What files say of tensors: dtypes, storages, and views of storages. Nothing here reads data before it is asked for."""

from __future__ import annotations

import math
import mmap
import os
import sys
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

ALLOWANCE = 160 << 20  # bytes of memory that names and containers of a file may take, beside the size of the file

JSON_COST = 32  # bytes of memory that a byte of JSON takes, at most: that of many empty lists, and what is made of them


class CheckpointError(ValueError):
    """A file that is damaged, hostile, or holds what cannot be read; the message names the file and what is wrong."""


class _Names(NamedTuple):
    """What a dtype is called in torch, its class of storages there (None: storages of it are untyped), and in safetensors."""

    torch: str
    storage: str | None
    safetensors: str | None


DTYPES: dict[np.dtype, _Names] = {
    np.dtype(kind): _Names(*names)
    for kind, *names in (
        (np.float64, "float64", "DoubleStorage", "F64"),
        (np.float32, "float32", "FloatStorage", "F32"),
        (np.float16, "float16", "HalfStorage", "F16"),
        (ml_dtypes.bfloat16, "bfloat16", "BFloat16Storage", "BF16"),
        (ml_dtypes.float8_e4m3fn, "float8_e4m3fn", None, "F8_E4M3"),
        (ml_dtypes.float8_e4m3fnuz, "float8_e4m3fnuz", None, "F8_E4M3FNUZ"),
        (ml_dtypes.float8_e5m2, "float8_e5m2", None, "F8_E5M2"),
        (ml_dtypes.float8_e5m2fnuz, "float8_e5m2fnuz", None, "F8_E5M2FNUZ"),
        (ml_dtypes.float8_e8m0fnu, "float8_e8m0fnu", None, "F8_E8M0"),
        (np.int64, "int64", "LongStorage", "I64"),
        (np.int32, "int32", "IntStorage", "I32"),
        (np.int16, "int16", "ShortStorage", "I16"),
        (np.int8, "int8", "CharStorage", "I8"),
        (np.uint64, "uint64", None, "U64"),
        (np.uint32, "uint32", None, "U32"),
        (np.uint16, "uint16", None, "U16"),
        (np.uint8, "uint8", "ByteStorage", "U8"),
        (np.bool_, "bool", "BoolStorage", "BOOL"),
        (np.complex64, "complex64", "ComplexFloatStorage", "C64"),
        (np.complex128, "complex128", "ComplexDoubleStorage", None),
    )
}


class File:
    """A file mapped into memory, read only."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if self.size == 0:
                raise CheckpointError(f"{self.path}: the file is empty")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def release(self, start: int, stop: int) -> None:
        """Takes pages that were read out of the memory of this process; they are read again when they are looked at again."""
        start, stop = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
        if start < stop and hasattr(mmap, "MADV_DONTNEED"):
            self.data.madvise(mmap.MADV_DONTNEED, start, stop - start)


class Storage:
    """Bytes of a file that tensors are views of.

    Args:
        file: the file.
        name: what the file calls it.
        start: where it starts in the file, in bytes; None where that is not known yet.
        size: in bytes.
        checksum: the CRC-32 of the bytes, None where the file has none.
        swapped: whether the elements have the other byte order than this machine.
    """

    __slots__ = ("_copy", "checksum", "file", "name", "size", "start", "swapped")

    def __init__(self, file: File, name: str, start: int | None, size: int, checksum: int | None = None, swapped: bool = False):
        self.file = file
        self.name = name
        self.start = start
        self.size = size
        self.checksum = checksum
        self.swapped = swapped
        self._copy: Any = None

    def verify(self) -> None:
        """Raises CheckpointError where the bytes do not have the checksum that the file says."""
        if self.checksum is not None and zlib.crc32(self.bytes()) != self.checksum:
            raise CheckpointError(
                f"{self.file.path}: {self.name} is damaged: its bytes do not have the checksum {self.checksum:#010x} that the "
                "file says"
            )

    def release(self) -> None:
        """Lets go of the memory that reading it took."""
        if self.start is not None:
            self.file.release(self.start, self.start + self.size)

    def bytes(self) -> memoryview:
        """The bytes as the file has them."""
        assert self.start is not None
        return memoryview(self.file.data)[self.start : self.start + self.size]

    def buffer(self, dtype: np.dtype) -> Any:
        """The bytes in the byte order of this machine, as elements of a dtype need them; one buffer for all views."""
        width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        if not self.swapped or width == 1:
            return self.bytes()
        if self._copy is None:
            self._copy = np.frombuffer(self.bytes(), f"u{width}", self.size // width).byteswap()
        if self._copy.itemsize != width:
            raise CheckpointError(f"{self.file.path}: {self.name} has elements of several sizes, in the other byte order")
        return self._copy.view(np.uint8).data


class TypedStorage(NamedTuple):
    """A part of a storage, and the dtype that a pickle gives it."""

    storage: Storage
    dtype: np.dtype
    offset: int  # in bytes
    size: int  # in bytes


class Tensor:
    """A tensor that a file holds: a view of a storage, with checked bounds.

    Args:
        source: what it is a view of.
        offset: where it starts there, in elements.
        shape: its shape.
        strides: its strides, in elements.
        dtype: its dtype.
        conjugated: whether its values are the conjugates of those stored.
        negated: whether its values are those stored, negated.

    Raises:
        CheckpointError: where the view reaches beyond the storage, or is none at all.
    """

    __slots__ = ("conjugated", "dtype", "negated", "offset", "shape", "storage", "strides")

    def __init__(
        self,
        source: TypedStorage,
        offset: Any,
        shape: Any,
        strides: Any,
        dtype: np.dtype,
        conjugated: bool = False,
        negated: bool = False,
    ):
        self.dtype = dtype
        self.shape = _sizes(shape, "shape")
        self.strides = _sizes(strides, "strides")
        (start,) = _sizes((offset,), "offset")
        if len(self.shape) != len(self.strides) or len(self.shape) > 64:
            raise CheckpointError(f"a tensor has {len(self.shape)} axes and {len(self.strides)} strides")
        self.offset = source.offset + start * dtype.itemsize  # in bytes of the whole storage
        stop = start
        if 0 not in self.shape:
            stop += 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if stop * dtype.itemsize > source.size or self.nbytes > sys.maxsize:
            raise CheckpointError(
                f"a tensor of shape {self.shape}, strides {self.strides}, offset {start} and dtype {dtype} reaches beyond its "
                f"storage {source.storage.name}, which has {source.size} bytes"
            )
        self.storage = source.storage
        self.conjugated = conjugated
        self.negated = negated

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements; more than those of the storage where strides are 0."""
        return self.size * self.dtype.itemsize

    @property
    def place(self) -> tuple[Any, ...]:
        """What two entries have in common that are one tensor."""
        return id(self.storage), self.offset, self.shape, self.strides, self.dtype, self.conjugated, self.negated

    def array(self) -> np.ndarray:
        """The values: a view of the file that cannot be written to, or a copy where the file has them in another form."""
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        strides = tuple(stride * self.dtype.itemsize for stride in self.strides)
        view = np.ndarray(self.shape, self.dtype, self.storage.buffer(self.dtype), self.offset, strides)
        if self.conjugated:
            view = view.conj()
        return -view if self.negated else view


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    """A tuple of numbers that are not negative."""
    if not isinstance(values, Sequence) or not all(type(value) is int and 0 <= value <= sys.maxsize for value in values):
        raise CheckpointError(f"a tensor has a {what} that is not made of sizes")
    return tuple(values)
