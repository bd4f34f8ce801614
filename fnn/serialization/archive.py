"""Zip archives as PyTorch writes them: members stored as they are, without compression.

A reader of its own instead of `zipfile`: it trusts no header (members that lie in each other, twice the same name, sizes
that differ between the two headers of a member are errors), and it says where the bytes of a member are, to be mapped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

from fnn.serialization.errors import CheckpointError
from fnn.serialization.tensors import File, Storage

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_LARGE = 0xFFFFFFFF  # in a field of 32 bits: the value is in the extra field of 64 bits
_MANY = 0xFFFF
_DESCRIPTOR, _UTF8 = 1 << 3, 1 << 11
_ALIGNMENT = 64
_DATE = 1 << 5 | 1  # 1 January 1980, in every archive: equal contents give equal files

_LONGEST_NAME = 1000  # bytes; PyTorch's names are short
MEMBER_COST = 1000  # bytes of memory that an entry takes, at most, but for such a name


def read_archive(file: File, allowance: int) -> dict[str, Storage]:
    """The members of an archive by name. Those that are compressed have no `start`.

    Args:
        file: the file.
        allowance: the bytes of memory that the list may take.

    Raises:
        CheckpointError: where the file is no archive of members that are whole and apart.
    """
    data = file.data
    count, size, start = _directory(file)
    if count * MEMBER_COST > allowance:
        raise CheckpointError(f"the archive has {count} members, more than its size allows for")
    if start + size > file.size:
        raise CheckpointError("the archive's directory is cut off")
    members: dict[str, Storage] = {}
    spans = []
    position = start
    for _ in range(count):
        entry = _CENTRAL.unpack_from(data, position)
        signature, _, _, flags, method, _, _, checksum, packed, length, name_size, extra_size, comment_size, disk = entry[:14]
        header = entry[16]
        position += _CENTRAL.size
        raw = data[position : position + name_size]
        extra = data[position + name_size : position + name_size + extra_size]
        position += name_size + extra_size + comment_size
        if signature != b"PK\1\2" or position > start + size or name_size > _LONGEST_NAME:
            raise CheckpointError("the archive's directory is damaged")
        name = _checked_name(raw)
        if name in members:
            raise CheckpointError(f"the archive has two members of the name {name!r}")
        length, packed, header = _large((length, packed, header), extra)
        if flags & 1 or disk != 0 or (method == 0 and packed != length):
            raise CheckpointError(f"{name!r} is encrypted, or damaged")
        local = _LOCAL.unpack_from(data, header)
        begin = header + _LOCAL.size + local[9] + local[10]
        if local[0] != b"PK\3\4" or data[header + _LOCAL.size : header + _LOCAL.size + local[9]] != raw or local[3] != method:
            raise CheckpointError(f"the two headers of {name!r} differ")
        if not local[2] & _DESCRIPTOR:
            local_extra = data[header + _LOCAL.size + local[9] : begin]
            if (*_large((local[8], local[7]), local_extra), local[6]) != (length, packed, checksum):
                raise CheckpointError(f"the two headers of {name!r} differ")
        spans.append((header, begin + packed, name))
        members[name] = Storage(file, name, begin if method == 0 else None, length, checksum)
    if position != start + size:
        raise CheckpointError("the archive's directory is damaged")
    _check_apart(spans, start)
    if all(member.checksum == 0 for member in members.values()):  # torch.serialization.set_crc32_options(False)
        for member in members.values():
            member.checksum = None
    return members


def _directory(file: File) -> tuple[int, int, int]:
    """The number of members, and the size and start of the directory."""
    data, position = file.data, file.size
    while True:
        position = data.rfind(b"PK\5\6", max(0, file.size - _END.size - _MANY), position)
        if position < 0:
            raise CheckpointError("the end of the archive is missing: the file is cut off, or a download was not finished")
        if position + _END.size <= file.size:
            _, disk, first, here, count, size, start, comment_size = _END.unpack_from(data, position)
            if position + _END.size + comment_size == file.size:
                break
    end = position
    if position >= _LOCATOR64.size:
        signature, _, offset, disks = _LOCATOR64.unpack_from(data, position - _LOCATOR64.size)
        if signature == b"PK\6\7":
            end = position - _LOCATOR64.size
            signature, record, _, _, disk, first, here, count, size, start = _END64.unpack_from(data, offset)
            if signature != b"PK\6\6" or disks > 1 or offset + 12 + record != end:
                raise CheckpointError("the end of the archive is damaged")
            end = offset
    if disk or first or here != count or start + size != end:
        raise CheckpointError("the end of the archive is damaged")
    return count, size, start


def _large(fields: Iterable[int], extra: bytes) -> list[int]:
    """The fields, with those that do not fit 32 bits taken from the extra field."""
    values: tuple[int, ...] = ()
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == 1:
            values = struct.unpack_from(f"<{min(size, len(extra) - 4) // 8}Q", extra, 4)
        extra = extra[4 + size :]
    rest = iter(values)
    return [next(rest, field) if field == _LARGE else field for field in fields]


def _checked_name(raw: bytes) -> str:
    name = raw.decode("utf-8", "backslashreplace")
    if "\\" in name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise CheckpointError(f"the archive has a member of the name {name!r}, which leads out of it")
    return name


def _check_apart(spans: list[tuple[int, int, str]], end: int) -> None:
    spans.sort()
    for (_, stop, name), (start, _, other) in zip(spans, [*spans[1:], (end, end, "the directory")], strict=True):
        if stop > start:
            raise CheckpointError(f"{name!r} and {other!r} lie in each other in the archive, or the file is cut off")


class ArchiveWriter:
    """Writes an archive, one member after the other; data start at multiples of 64 bytes.

    Args:
        file: a file open for writing that can be sought in.
        folder: what the names of all members start with.
    """

    large = _LARGE  # sizes and offsets from which on fields of 64 bits are used

    def __init__(self, file: BinaryIO, folder: str):
        self._file = file
        self._folder = folder
        self._entries: list[tuple[bytes, int, int, int]] = []
        self._position = 0

    def add(self, name: str, chunks: Iterable[Any], size: int) -> None:
        """Adds a member: `chunks` are bytes-like, `size` bytes in all. The checksum is taken while they are written."""
        path, start = f"{self._folder}/{name}".encode(), self._position
        extra = _zip64(size, size) if size >= self.large else b""
        padding = -(start + _LOCAL.size + len(path) + len(extra) + 4) % _ALIGNMENT
        extra += struct.pack("<2H", 0x4246, padding) + bytes(padding)  # the padding that torch calls FB
        shown = size if size < self.large else _LARGE
        self._file.write(_local(path, extra, shown, 0) + path + extra)
        checksum = 0
        for chunk in chunks:
            self._file.write(chunk)
            checksum = zlib.crc32(chunk, checksum)
        self._position = start + _LOCAL.size + len(path) + len(extra) + size
        self._file.seek(start)
        self._file.write(_local(path, extra, shown, checksum))
        self._file.seek(self._position)
        self._entries.append((path, start, size, checksum))

    def close(self) -> None:
        """Writes the directory; the file stays open."""
        directory = b"".join(self._central(*entry) for entry in self._entries)
        count, size, start = len(self._entries), len(directory), self._position
        self._file.write(directory)
        if count >= _MANY or max(size, start) >= self.large:
            self._file.write(_END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
            self._file.write(_LOCATOR64.pack(b"PK\6\7", 0, start + size, 1))
        many = min(count, _MANY)
        self._file.write(_END.pack(b"PK\5\6", 0, 0, many, many, min(size, _LARGE), min(start, _LARGE), 0))

    def _central(self, path: bytes, start: int, size: int, checksum: int) -> bytes:
        large = [value for value in (size, size, start) if value >= self.large]
        extra = _zip64(*large) if large else b""
        size, start = (value if value < self.large else _LARGE for value in (size, start))
        return (
            _CENTRAL.pack(b"PK\1\2", 45, 45, _UTF8, 0, 0, _DATE, checksum, size, size, len(path), len(extra), 0, 0, 0, 0, start)
            + path
            + extra
        )


def _zip64(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def _local(path: bytes, extra: bytes, size: int, checksum: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", 45, _UTF8, 0, 0, _DATE, checksum, size, size, len(path), len(extra))
