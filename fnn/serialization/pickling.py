"""The pickle of PyTorch's zip format: what `torch.load(weights_only=True)` reads, and nothing that it does not."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from typing import Any, NamedTuple

import numpy as np

from fnn.serialization.tensors import DTYPES


class View(NamedTuple):
    """A tensor to be written: a view of a storage.

    Attributes:
        storage: the number of the storage.
        size: of the storage, in bytes.
        typed: whether all views of the storage have the same dtype.
        dtype: the dtype.
        offset: where the view starts, in elements.
        shape: its shape.
        strides: its strides, in elements.
    """

    storage: int
    size: int
    typed: bool
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def pickled(tree: Any, views: dict[int, View]) -> bytes:
    """The pickle of a tree of containers, of protocol 2.

    Args:
        tree: containers and plain values.
        views: what is written for the arrays of the tree, by their `id`.

    Raises:
        TypeError: for a value of another type.
    """
    pickler = _Pickler(views)
    pickler.write(tree, "state")
    return b"\x80\x02" + b"".join(pickler.parts) + b"."


class _Pickler:
    def __init__(self, views: dict[int, View]):
        self.views = views
        self.parts: list[bytes] = []
        self.memo: dict[Any, int] = {}
        self.kept: list[Any] = []  # containers made here, so that no other gets their id

    def write(self, value: Any, where: str) -> None:
        if id(value) in self.views:
            self.recall(("view", self.views[id(value)]), lambda: self.tensor(self.views[id(value)]))
            return
        kind = type(value)
        if value is None or kind is bool:
            self.parts.append({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif kind is int:
            self.integer(value, where)
        elif kind is float:
            self.parts.append(b"G" + struct.pack(">d", value))
        elif kind is complex:
            self.call("__builtin__ complex", (value.real, value.imag))
        elif kind is str:
            self.recall(value, lambda: self.text(value))
        elif kind is bytes:
            self.recall((bytes, value), lambda: self.call("_codecs encode", (value.decode("latin1"), "latin1")))
        elif kind is bytearray:
            self.recall(id(value), lambda: self.call("__builtin__ bytearray", (bytes(value),)))
        elif isinstance(value, np.dtype) and value in DTYPES:
            self.name(f"torch {DTYPES[value].torch}")
        elif kind is tuple:
            self.recall(("tuple", id(value)), lambda: self.tuple(value, where))
        elif kind in (list, set, dict, OrderedDict, Counter):
            self.container(value, where)
        else:
            raise TypeError(
                f"{where} is of type {kind.__module__}.{kind.__qualname__}; torch.load(weights_only=True) reads arrays, dict, "
                "OrderedDict, Counter, list, tuple, set, str, bytes, bytearray, int, float, complex, bool, None and dtypes"
            )

    def recall(self, key: Any, write: Any) -> None:
        """Writes a value the first time, and afterwards that it is the one from before."""
        if key in self.memo:
            self.parts.append(b"j" + struct.pack("<I", self.memo[key]))
        else:
            write()
            self.remember(key)

    def remember(self, key: Any) -> None:
        self.memo[key] = len(self.memo)
        self.parts.append(b"r" + struct.pack("<I", self.memo[key]))

    def integer(self, value: int, where: str) -> None:
        if 0 <= value < 256:
            self.parts.append(b"K" + struct.pack("<B", value))
        elif -(1 << 31) <= value < 1 << 31:
            self.parts.append(b"J" + struct.pack("<i", value))
        elif (size := value.bit_length() // 8 + 1) < 256:
            self.parts.append(b"\x8a" + struct.pack("<B", size) + value.to_bytes(size, "little", signed=True))
        else:
            raise TypeError(f"{where} is an integer of {value.bit_length()} bits, more than PyTorch reads")

    def text(self, value: str) -> None:
        encoded = value.encode("utf-8", "surrogatepass")
        self.parts.append(b"X" + struct.pack("<I", len(encoded)) + encoded)

    def name(self, name: str) -> None:
        """Something that Python knows by its module and name."""
        module, _, rest = name.partition(" ")
        self.recall(("name", name), lambda: self.parts.append(f"c{module}\n{rest}\n".encode()))

    def call(self, name: str, arguments: Any, where: str = "") -> None:
        """The result of a function."""
        self.name(name)
        self.tuple(arguments, where)
        self.parts.append(b"R")

    def tuple(self, values: Any, where: str) -> None:
        self.parts.append(b"(")
        for i, value in enumerate(values):
            self.write(value, f"{where}[{i}]")
        self.parts.append(b"t")

    def container(self, value: Any, where: str) -> None:
        key = (type(value).__name__, id(value))
        if key in self.memo:
            self.recall(key, None)
            return
        self.kept.append(value)
        if isinstance(value, set):
            self.call("__builtin__ set", (sorted(value, key=repr),), where)
            self.remember(key)
            return
        if isinstance(value, Counter):
            self.call("collections Counter", ({**value},), where)
            self.remember(key)
            return
        if isinstance(value, OrderedDict):
            self.call("collections OrderedDict", ())
        else:
            self.parts.append(b"]" if isinstance(value, list) else b"}")
        self.remember(key)  # before its items, which may be the same objects
        self.parts.append(b"(")
        if isinstance(value, list):
            for i, item in enumerate(value):
                self.write(item, f"{where}[{i}]")
            self.parts.append(b"e")
            return
        for name, item in value.items():
            self.write(name, f"a key of {where}")
            self.write(item, f"{where}[{name!r}]")
        self.parts.append(b"u")
        if getattr(value, "__dict__", None):
            self.write({**vars(value)}, where)
            self.parts.append(b"b")

    def tensor(self, view: View) -> None:
        names = DTYPES[view.dtype]
        typed = view.typed and names.storage is not None
        self.name("torch._utils _rebuild_tensor_v2" if typed else "torch._utils _rebuild_tensor_v3")
        self.parts.append(b"((")
        self.write("storage", "")
        self.name(f"torch {names.storage}" if typed else "torch.storage UntypedStorage")
        self.write(str(view.storage), "")
        self.write("cpu", "")
        self.integer(view.size // view.dtype.itemsize if typed else view.size, "a size")
        self.parts.append(b"tQ")
        self.integer(view.offset, "an offset")
        self.tuple(view.shape, "a shape")
        self.tuple(view.strides, "strides")
        self.parts.append(b"\x89")  # requires no gradient
        self.call("collections OrderedDict", ())  # of hooks
        if not typed:
            self.name(f"torch {names.torch}")
        self.parts.append(b"tR")
