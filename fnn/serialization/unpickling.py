"""Pickles, read by an interpreter of its own that executes nothing.

A pickle is a program. This interpreter knows the instructions that make numbers, strings and containers, those by which
PyTorch makes tensors, and no others. What a pickle names is looked up in a table that is given; only a `Call` of that table
is ever called. It counts the memory that it takes, so that a small file cannot ask for much.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from fnn.serialization.errors import CheckpointError, Unknown
from fnn.serialization.tensors import Tensor


class Call(NamedTuple):
    """A function that pickles may call."""

    function: Callable[..., Any]


class Refused(NamedTuple):
    """What pickles may name, or a `Call` may give, but is not read; why, and what a `Call` gives it for."""

    reason: str
    name: str = ""


class Built:
    """What a pickle makes by one instruction and fills by a later one; in the end its `value` takes its place."""

    value: Any

    def build(self, state: Any) -> None:
        """Takes the state that the pickle has for it."""
        raise NotImplementedError


# Bytes of memory that values take, rounded up, with their places on the stack and in containers.
_PLACE, _NUMBER, _TEXT, _TUPLE, _CONTAINER, _ITEM, _RESULT, _TENSOR = 16, 48, 96, 96, 256, 200, 512, 1600
_LONGEST_NAME = 1000
_TUPLE_KEY = 1 << 15  # hashes of tuples can be made to collide, so that n of them take n² steps: few fit the allowance
_INT_KEY = 1 << 60  # hashes of larger numbers can be made to collide

_NOTHING = object()
_NOT_LISTED = Refused(
    "it is none of the plain values and tensors that fnn reads, and nothing else is executed. Read the rest with "
    "fnn.load(path, skip_unknown=True), or save what is plain in PyTorch: torch.save(model.state_dict(), path)"
)

_MOVED = {"__builtin__": "builtins", "copy_reg": "copyreg", "numpy.core.multiarray": "numpy._core.multiarray"}


def key(value: Any, depth: int = 2) -> Any:
    """The value, where it may be a key or a member of a set: what hashes fast, whatever is in the file."""
    kind = type(value)
    if kind in (str, bytes, bool, float, NoneType) or isinstance(value, np.dtype) or (kind is int and abs(value) < _INT_KEY):
        return value
    if kind is tuple and depth and len(value) <= 16:
        for item in value:
            key(item, depth - 1)
        return value
    raise CheckpointError(f"a key or a member of a set is of type {kind.__name__}, too large or too deep")


class Unpickler:
    """Reads one pickle.

    Args:
        data: bytes in which the pickle starts at `position`.
        position: where it starts.
        names: what the pickle may name: by `module.name`, a `Call` or a plain value.
        persistent: makes a value of a persistent id, which stands for a storage.
        allowance: bytes of memory that the values may take; what is left of it is `left`.
        skip_unknown: whether what is not in `names` becomes an `Unknown`, instead of an error.
    """

    def __init__(
        self,
        data: memoryview,
        position: int,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any],
        allowance: int,
        skip_unknown: bool = False,
    ):
        self.data = data
        self.position = position
        self.names = names
        self.persistent = persistent
        self.left = allowance
        self.skip_unknown = skip_unknown
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def load(self) -> Any:
        """Runs to the end of the pickle, where `position` is then; returns what it makes."""
        data, instructions = self.data, _INSTRUCTIONS
        while True:
            code = data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                (value,) = self.stack
                return value
            instruction = instructions.get(code)
            if instruction is None:
                raise CheckpointError(f"the pickle has the instruction {bytes([code])!r}, which PyTorch does not write")
            instruction(self)

    def spend(self, cost: int) -> None:
        """Counts bytes of memory, before they are taken."""
        self.left -= cost
        if self.left < 0:
            raise CheckpointError(
                "the pickle makes values that take more memory than the size of the file allows for (large arrays are saved as "
                "tensors, not as lists or arrays of numpy)"
            )

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        part = self.data[self.position : self.position + size]
        if len(part) != size:
            raise CheckpointError("the pickle is cut off")
        self.position += size
        return part

    def byte(self) -> int:
        """The next byte."""
        self.position += 1
        return self.data[self.position - 1]

    def unpack(self, format: struct.Struct) -> Any:
        """The next number."""
        (value,) = format.unpack(self.take(format.size))
        return value

    def push(self, value: Any, cost: int) -> None:
        """Puts a value on the stack; it takes `cost` bytes."""
        self.left -= cost
        if self.left < 0:
            self.spend(0)
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        mark = self.marks.pop()
        self.spend(_PLACE * (len(self.stack) - mark))
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def text(self, size: int) -> None:
        """A string of `size` bytes."""
        part = self.take(size)
        largest = int(np.frombuffer(part, np.uint8).max()) if size > 1 << 16 else 0xFF
        worst = 2 * size * (1 if largest < 0xC4 else 2 if largest < 0xF0 else 4)  # bytes a character, twice while they grow
        self.spend(worst)
        value = str(part, "utf-8", "surrogatepass")
        self.push(value, _PLACE + sys.getsizeof(value) - worst)

    def python2_text(self, size: int) -> None:
        """A string of Python 2, which may also be bytes."""
        try:
            self.text(size)
        except UnicodeDecodeError:
            self.position -= size
            self.raw(size)

    def raw(self, size: int, kind: type = bytes) -> None:
        """Bytes."""
        part = self.take(size)
        self.spend(_TEXT + size)
        self.push(kind(part), _PLACE)

    def long(self) -> None:
        """An integer of any size."""
        self.push(int.from_bytes(self.take(self.byte()), "little", signed=True), _NUMBER + 256)

    def line(self) -> str:
        part = bytes(self.data[self.position : self.position + _LONGEST_NAME])
        line, newline, _ = part.partition(b"\n")
        if not newline:
            raise CheckpointError("the pickle has a name that does not end")
        self.position += len(line) + 1
        return line.decode("ascii", "backslashreplace")

    def find(self, module: Any, name: Any) -> None:
        """What the pickle names."""
        if type(module) is not str or type(name) is not str:
            raise CheckpointError("the pickle has a name that is no string")
        full = f"{_MOVED.get(module, module)[:_LONGEST_NAME]}.{name[:_LONGEST_NAME]}"
        value = self.names.get(full, _NOT_LISTED)
        self.push(self.skipped(full, value.reason) if isinstance(value, Refused) else value, _RESULT)

    def skipped(self, name: str, reason: str) -> Unknown:
        """Stands in for what is not read, where that is asked for."""
        if not self.skip_unknown:
            raise CheckpointError(f"the file asks for {name!r}: {reason}")
        self.spend(sys.getsizeof(name))
        return Unknown(name)

    def reduce(self) -> None:
        """Calls what is below the arguments on the stack."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            raise CheckpointError("the pickle calls something with arguments that are no tuple")
        if isinstance(function, Unknown):
            self.push(Unknown(function.name), _RESULT)
        elif type(function) is Call:
            self.spend(_copied(arguments) + _RESULT)
            value = function.function(*arguments)
            if isinstance(value, Refused):
                value = self.skipped(value.name, value.reason)
            self.push(value, _TENSOR if isinstance(value, Tensor) else _PLACE)
        else:
            raise CheckpointError(f"the pickle calls a value of type {type(function).__name__}")

    def build(self) -> None:
        """Fills the object below a state on the stack."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Built):
            self.spend(_copied(state) + _RESULT)
            target.build(state)
        elif type(target) is OrderedDict and type(state) is dict:
            for name, value in state.items():
                if type(name) is not str or hasattr(OrderedDict, name):
                    raise CheckpointError("an OrderedDict has an attribute that would hide a method")
                self.spend(_ITEM)
                setattr(target, name, value)
        elif not isinstance(target, Unknown):
            raise CheckpointError(f"the pickle sets the state of a value of type {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        """Sets the items of the dict on the stack."""
        target = self.stack[-1]
        if isinstance(target, Unknown):
            return
        if type(target) not in (dict, OrderedDict, Counter) or len(items) % 2:
            raise CheckpointError(f"the pickle sets items of a value of type {type(target).__name__}")
        self.spend(_ITEM * len(items) // 2)
        for i in range(0, len(items), 2):
            target[self.key(items[i])] = items[i + 1]

    def extend(self, items: list[Any]) -> None:
        """Appends to the list on the stack."""
        target = self.stack[-1]
        if isinstance(target, Unknown):
            return
        if type(target) is not list:
            raise CheckpointError(f"the pickle appends to a value of type {type(target).__name__}")
        self.spend(_PLACE * len(items))
        target.extend(items)

    def add_items(self, items: list[Any]) -> None:
        """Adds to the set on the stack."""
        target = self.stack[-1]
        if isinstance(target, Unknown):
            return
        if type(target) is not set:
            raise CheckpointError(f"the pickle adds to a value of type {type(target).__name__}")
        self.spend(_ITEM * len(items))
        target.update(map(self.key, items))

    def key(self, value: Any) -> Any:
        if type(value) is tuple:
            self.spend(_TUPLE_KEY)
        return key(value)

    def last(self, size: int) -> list[Any]:
        """The last values of the stack."""
        start = len(self.stack) - size
        if start < 0:
            raise CheckpointError("the pickle takes more values than there are")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def tuple(self, size: int) -> None:
        """A tuple of the last values of the stack."""
        self.push((*self.last(size),), _TUPLE)

    def mark_tuple(self) -> None:
        """A tuple of the values above the mark."""
        items = self.pop_mark()
        self.push((*items,), _TUPLE + 8 * len(items))

    def mark(self) -> None:
        """Marks the height of the stack."""
        self.spend(_NUMBER)
        self.marks.append(len(self.stack))

    def put(self, index: int) -> None:
        """Remembers the top of the stack."""
        if index >= len(self.memo):
            missing = index + 1 - len(self.memo)
            self.spend(_PLACE * missing)
            self.memo.extend([_NOTHING] * missing)
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """What was remembered."""
        self.push(self.memo[index], _PLACE)

    def frozen(self) -> None:
        items = self.pop_mark()
        self.spend(_ITEM * len(items))
        self.push(frozenset(map(self.key, items)), _CONTAINER)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find(module, name)

    def new_with_keywords(self) -> None:
        if self.stack.pop() != {}:
            raise CheckpointError("the pickle makes an object with keywords")
        self.reduce()


def _copied(values: Any) -> int:
    """The bytes that a function may take when it copies its arguments."""
    if type(values) is not tuple:
        return 0
    cost = 0
    for value in values:
        if isinstance(value, (str, bytes, bytearray)):
            cost += len(value)
        elif isinstance(value, (list, dict)) or (type(value) is tuple and len(value) > 64):  # not the shape of a tensor
            cost += 2 * _ITEM * len(value) + _TUPLE_KEY * sum(type(item) is tuple for item in value)
    return cost


_U16, _U32, _U64, _I32, _F64 = (struct.Struct(format) for format in ("<H", "<I", "<Q", "<i", ">d"))

_INSTRUCTIONS: dict[int, Callable[[Unpickler], Any]] = {
    ord("q"): lambda self: self.put(self.byte()),
    ord("h"): lambda self: self.get(self.byte()),
    ord("r"): lambda self: self.put(self.unpack(_U32)),
    ord("j"): lambda self: self.get(self.unpack(_U32)),
    0x94: lambda self: self.put(len(self.memo)),  # MEMOIZE
    ord("("): Unpickler.mark,
    ord("t"): Unpickler.mark_tuple,
    ord(")"): lambda self: self.tuple(0),
    0x85: lambda self: self.tuple(1),
    0x86: lambda self: self.tuple(2),
    0x87: lambda self: self.tuple(3),
    ord("N"): lambda self: self.push(None, _PLACE),
    0x88: lambda self: self.push(True, _PLACE),
    0x89: lambda self: self.push(False, _PLACE),
    ord("K"): lambda self: self.push(self.byte(), _PLACE),
    ord("M"): lambda self: self.push(self.unpack(_U16), _NUMBER),
    ord("J"): lambda self: self.push(self.unpack(_I32), _NUMBER),
    ord("G"): lambda self: self.push(self.unpack(_F64), _NUMBER),
    0x8A: Unpickler.long,
    ord("X"): lambda self: self.text(self.unpack(_U32)),
    0x8C: lambda self: self.text(self.byte()),
    0x8D: lambda self: self.text(self.unpack(_U64)),
    ord("U"): lambda self: self.python2_text(self.byte()),
    ord("T"): lambda self: self.python2_text(self.unpack(_U32)),
    ord("C"): lambda self: self.raw(self.byte()),
    ord("B"): lambda self: self.raw(self.unpack(_U32)),
    0x8E: lambda self: self.raw(self.unpack(_U64)),
    0x96: lambda self: self.raw(self.unpack(_U64), bytearray),
    ord("}"): lambda self: self.push({}, _CONTAINER),
    ord("]"): lambda self: self.push([], _CONTAINER),
    0x8F: lambda self: self.push(set(), _CONTAINER),
    0x91: Unpickler.frozen,
    ord("s"): lambda self: self.set_items(self.last(2)),
    ord("u"): lambda self: self.set_items(self.pop_mark()),
    ord("a"): lambda self: self.extend(self.last(1)),
    ord("e"): lambda self: self.extend(self.pop_mark()),
    0x90: lambda self: self.add_items(self.pop_mark()),
    ord("c"): lambda self: self.find(self.line(), self.line()),
    0x93: Unpickler.stack_global,
    ord("R"): Unpickler.reduce,
    0x81: Unpickler.reduce,  # a new object
    0x92: Unpickler.new_with_keywords,
    ord("b"): Unpickler.build,
    ord("Q"): lambda self: self.push(self.persistent(self.stack.pop()), _RESULT),
    0x80: lambda self: self.take(1),  # the protocol
    0x95: lambda self: self.take(8),  # the size of a frame
}
