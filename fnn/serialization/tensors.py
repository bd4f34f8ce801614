"""What files say of tensors: dtypes, storages, and views of storages. Nothing here reads data before it is asked for."""

from __future__ import annotations

import math
import mmap
import os
import sys
import zlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fnn.serialization.errors import CheckpointError

ALLOWANCE = 160 << 20  # bytes of memory that names and containers of a file may take, beside the size of the file

ALIGNMENT = 64
_CHUNK = 1 << 18  # bytes that are copied at once: few enough to stay in the cache for their checksum
JSON_COST = 32  # bytes of memory that a byte of JSON takes, at most: that of many empty lists, and what is made of them


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

    Attributes:
        tensors: those that are views of it and were asked for.
    """

    __slots__ = ("_copy", "checksum", "file", "name", "size", "start", "swapped", "tensors")

    def __init__(self, file: File, name: str, start: int | None, size: int, checksum: int | None = None, swapped: bool = False):
        self.file = file
        self.name = name
        self.start = start
        self.size = size
        self.checksum = checksum
        self.swapped = swapped
        self.tensors: list[Tensor] = []
        self._copy: np.ndarray | None = None

    @property
    def is_copied(self) -> bool:
        """Whether the bytes are in memory of their own."""
        return self._copy is not None

    def verify(self) -> None:
        """Raises CheckpointError where the bytes do not have the checksum that the file says."""
        if self.checksum is not None:
            self._compare(zlib.crc32(self.bytes()))

    def copy(self, copy: np.ndarray, verify: bool) -> None:
        """Copies the bytes into memory of their own, and verifies them on the way."""
        whole, checksum = np.frombuffer(self.bytes(), np.uint8), 0
        for start in range(0, self.size, _CHUNK):
            part = copy[start : start + _CHUNK]
            part[:] = whole[start : start + _CHUNK]
            checksum = zlib.crc32(part.data, checksum) if verify and self.checksum is not None else 0
        if verify and self.checksum is not None:
            self._compare(checksum)
        self._copy = copy

    def release(self) -> None:
        """Lets go of the memory that reading it took."""
        self._copy = None
        if self.start is not None:
            self.file.release(self.start, self.start + self.size)

    def bytes(self) -> memoryview:
        """The bytes as the file has them."""
        assert self.start is not None
        return memoryview(self.file.data)[self.start : self.start + self.size]

    def buffer(self, dtype: np.dtype) -> tuple[Any, int]:
        """Memory that has the bytes in the byte order of this machine, as a dtype needs them, and where they start there."""
        assert self.start is not None
        width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        if self.swapped and width > 1:
            if self._copy is None:
                self._copy = np.frombuffer(self.bytes(), f"u{width}", self.size // width).byteswap()
            if self._copy.itemsize != width:
                raise CheckpointError(f"{self.file.path}: {self.name} has elements of several sizes, in the other byte order")
        return (self.file.data, self.start) if self._copy is None else (self._copy.view(np.uint8), 0)

    def _compare(self, checksum: int) -> None:
        if checksum != self.checksum:
            raise CheckpointError(
                f"{self.file.path}: {self.name} is damaged: its bytes have the checksum {checksum:#010x}, and the file says "
                f"{self.checksum:#010x}"
            )


class TypedStorage(NamedTuple):
    """A part of a storage, and the dtype that a pickle gives it."""

    storage: Storage
    dtype: np.dtype
    offset: int  # in bytes
    size: int  # in bytes


class Tensor:
    """A tensor that a file holds: a view of a storage.

    Args:
        storage: what it is a view of.
        offset: where it starts there, in bytes.
        shape: its shape.
        dtype: its dtype.
        strides: its strides, in elements; None where its elements lie one after the other.
        conjugated: whether its values are the conjugates of those stored.
        negated: whether its values are those stored, negated.

    Attributes:
        name: the dotted name under which it was found first.
        device: where it goes.
        value: the array that takes its place.
    """

    __slots__ = ("conjugated", "device", "dtype", "name", "negated", "offset", "shape", "storage", "strides", "value")

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        strides: tuple[int, ...] | None = None,
        conjugated: bool = False,
        negated: bool = False,
    ):
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.dtype = dtype
        self.strides = strides
        self.conjugated = conjugated
        self.negated = negated
        self.name: str | None = None
        self.device: Any = None
        self.value: Any = None

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
        buffer, start = self.storage.buffer(self.dtype)
        strides = None if self.strides is None else [stride * self.dtype.itemsize for stride in self.strides]
        try:
            view = np.ndarray(self.shape, self.dtype, buffer, start + (self.offset if self.size else 0), strides)
        except ValueError as error:  # too many axes, or 0 elements and axes that are too long
            raise CheckpointError(f"{self.storage.file.path}: {self.storage.name} has no shape of an array: {error}") from error
        if self.conjugated:
            view = view.conj()
        return -view if self.negated else view


def checked_view(
    source: TypedStorage, offset: Any, shape: Any, strides: Any, dtype: np.dtype, conjugated: bool, negated: bool
) -> Tensor:
    """A tensor as a pickle describes it, with offset and strides in elements.

    Raises:
        CheckpointError: where the view reaches beyond the storage, or is none at all.
    """
    shape, strides, (start,) = _sizes(shape, "shape"), _sizes(strides, "strides"), _sizes((offset,), "offset")
    if len(shape) != len(strides) or len(shape) > 64:
        raise CheckpointError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    stop, dense, size = 0, True, 1
    if 0 not in shape:  # else torch lets it start anywhere, also behind the end
        stop = start + 1
        for i in range(len(shape) - 1, -1, -1):
            stop += (shape[i] - 1) * strides[i]
            dense = dense and (strides[i] == size or shape[i] == 1)
            size *= shape[i]
    if stop * dtype.itemsize > source.size or size * dtype.itemsize > sys.maxsize:
        raise CheckpointError(
            f"a tensor of shape {shape}, strides {strides}, offset {start} and dtype {dtype} reaches beyond its storage "
            f"{source.storage.name}, which has {source.size} bytes"
        )
    start = source.offset + start * dtype.itemsize
    return Tensor(source.storage, start, shape, dtype, None if dense else strides, conjugated, negated)


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    """A tuple of numbers that are not negative."""
    if type(values) in (tuple, list):
        for value in values:
            if type(value) is not int or not 0 <= value <= sys.maxsize:
                break
        else:
            return tuple(values)
    raise CheckpointError(f"a tensor has a {what} that is not made of sizes")


def aligned_empty(size: int) -> np.ndarray:
    """Bytes of memory that JAX takes over on a CPU as they are, without a copy."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
