"""PyTorch's files: the zip archive, and the older format, pickles and storages one after the other."""

from __future__ import annotations

import re
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from fnn.serialization.archive import MEMBER_COST, read_archive
from fnn.serialization.errors import CheckpointError, Unknown
from fnn.serialization.tensors import ALLOWANCE, DTYPES, File, Storage, Tensor, TypedStorage, checked_view
from fnn.serialization.unpickling import Built, Call, Refused, Unpickler, key

LEGACY_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the end of the pickle of the number that begins files of the older format
_TENSOR_SCRIPT = "constants.pkl"


def read_zip(file: File, skip_unknown: bool) -> Any:
    """What a zip archive holds, with a `Tensor` for each tensor."""
    members = read_archive(file, ALLOWANCE + file.size)
    folders = {name.partition("/")[0] for name in members}
    if len(folders) != 1 or (folder := folders.pop() + "/") + "data.pkl" not in members:
        raise CheckpointError("a zip archive that torch.save did not write (NumPy's .npz is read by np.load)")
    if folder + _TENSOR_SCRIPT in members:
        raise CheckpointError(
            "a TorchScript program; save its weights in PyTorch: torch.save(torch.jit.load(path).state_dict(), other_path)"
        )

    def member(name: str) -> Storage:
        storage = members.get(folder + name)
        if storage is None:
            raise CheckpointError(f"the archive has no member {name[:100]!r}")
        if storage.start is None:
            raise CheckpointError(f"{name!r} is compressed, which PyTorch does not do: unpack the archive, pack it with zip -0")
        return storage

    def content(name: str) -> memoryview:
        member(name).verify()
        return member(name).bytes()

    order = bytes(content("byteorder")) if folder + "byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise CheckpointError("the archive has an unknown byte order")
    for storage in members.values():
        storage.swapped = order.decode() != sys.byteorder

    def persistent(identity: Any) -> TypedStorage:
        kind, name, count = _storage(identity, 5)
        storage = member(f"data/{name}")
        size = count * kind.itemsize
        if size > storage.size:
            raise CheckpointError(f"the storage {name!r} has {storage.size} bytes in the archive, and {size} in the pickle")
        return TypedStorage(storage, kind, 0, size)

    pickle = content("data.pkl")
    allowance = ALLOWANCE + file.size - MEMBER_COST * len(members)
    return Unpickler(pickle, 0, NAMES, persistent, allowance, skip_unknown).load()


def read_legacy(file: File, skip_unknown: bool) -> Any:
    """What a file of the older format holds, with a `Tensor` for each tensor."""
    data = memoryview(file.data)
    storages: dict[str, tuple[Storage, np.dtype]] = {}
    position, left = 0, ALLOWANCE + file.size

    def persistent(identity: Any) -> TypedStorage | Unknown:
        if type(identity) is tuple and len(identity) == 4 and isinstance(identity[1], Unknown):
            return identity[1]  # the class of a module, with its source
        kind, name, count = _storage(identity, 6)
        size = count * kind.itemsize
        if size > file.size:
            raise CheckpointError(f"the storage {name[:100]!r} has {size} bytes, and the file {file.size}")
        storage, _ = storages.setdefault(name, (Storage(file, name, None, size, swapped=sys.byteorder == "big"), kind))
        part = identity[5]
        if part is None:
            offset = 0
        elif type(part) is tuple and len(part) == 3 and all(type(value) is int and value >= 0 for value in part[1:]):
            offset, size = (value * kind.itemsize for value in part[1:])
        else:
            raise CheckpointError("a storage is a part of another, but not said which")
        if offset + size > storage.size:
            raise CheckpointError(f"the storage {name[:100]!r} has two sizes")
        return TypedStorage(storage, kind, offset, size)

    def load() -> Any:
        nonlocal position, left
        unpickler = Unpickler(data, position, NAMES, persistent, left, skip_unknown)
        value = unpickler.load()
        position, left = unpickler.position, unpickler.left
        return value

    _, version, _, tree, names = load(), load(), load(), load(), load()
    if version != 1001:
        raise CheckpointError("the file has an unknown version")
    if type(names) is not list or sorted(map(_text, names)) != sorted(storages):
        raise CheckpointError("the storages that the file holds are not those that its tensors need")
    for name in map(_text, names):
        storage, kind = storages[name]
        (count,) = struct.unpack_from("<q", data, position)
        storage.start = position = position + 8
        position += storage.size
        if count * kind.itemsize != storage.size or position > file.size:
            raise CheckpointError(f"the storage {name[:100]!r} is cut off, or has two sizes")
    return tree


def _storage(identity: Any, length: int) -> tuple[np.dtype, str, int]:
    """The dtype, the key and the number of elements that the persistent id of a storage says."""
    if type(identity) is not tuple or len(identity) != length or identity[0] != "storage":
        raise CheckpointError("the pickle refers to something outside of it that is no storage")
    kind, name, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, _StorageType) or type(count) is not int or not 0 <= count <= sys.maxsize:
        raise CheckpointError("the pickle refers to a storage of unknown type or size")
    return kind.dtype, _text(name), count


def _text(name: Any) -> str:
    if type(name) is not str:
        raise CheckpointError("a storage has a name that is no string")
    return name


class _StorageType:
    """A class of storages, such as torch.FloatStorage."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _NumPyDtype(Built):
    """A dtype of numpy in the making."""

    def __init__(self, code: str):
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise CheckpointError("a dtype of numpy is damaged")
        self.value = self.value.newbyteorder(state[1])


def _numpy_dtype(code: Any, *_: Any) -> _NumPyDtype | Refused:
    if type(code) is not str:
        raise CheckpointError("a dtype of numpy is damaged")
    if not re.fullmatch("b1|[iu][1248]|f[248]|c8|c16", code):
        return Refused("an array of numpy has a dtype that holds no plain numbers", f"numpy.dtype({code[:20]!r})")
    return _NumPyDtype(code)


class _NumPyArray(Built):
    """An array of numpy in the making."""

    def build(self, state: Any) -> None:
        _, shape, dtype, in_columns, raw = state
        self.value = _from_bytes(raw, dtype, shape, "F" if in_columns is True else "C")


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray | Unknown:
    """An array of numpy from a copy of its bytes."""
    if isinstance(dtype, Unknown):
        return dtype
    if isinstance(raw, str):
        raw = raw.encode()  # bytes of Python 2 that could be taken for a string
    if not isinstance(dtype, _NumPyDtype) or not isinstance(raw, (bytes, bytearray)) or order not in ("C", "F"):
        raise CheckpointError("an array of numpy is damaged")
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise CheckpointError("an array of numpy has a damaged shape")
    array = np.frombuffer(raw, dtype.value)
    return array.astype(dtype.value.newbyteorder("="), copy=False).reshape(shape, order=order)


def _numpy_scalar(dtype: Any, raw: Any) -> Any:
    array = _from_bytes(raw, dtype, ())
    return array if isinstance(array, Unknown) else array[()]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """A tensor as torch rebuilds it: of the dtype of its storage, and perhaps conjugated or negated."""
    if not isinstance(storage, TypedStorage):
        raise CheckpointError("a tensor has no storage")
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], np.dtype):
        dtype, rest = rest[2], rest[1:]
    flags = rest[2] if len(rest) > 2 and type(rest[2]) is dict else {}
    if not flags.keys() <= {"conj", "neg"}:
        raise CheckpointError("a tensor has unknown properties")
    return checked_view(storage, offset, shape, strides, dtype, flags.get("conj") is True, flags.get("neg") is True)


def _same_tensor(tensor: Any, *_: Any) -> Any:
    """What wraps a tensor: a Parameter, for example."""
    if not isinstance(tensor, (Tensor, _NumPyArray)):
        raise CheckpointError("a parameter has no tensor")
    return tensor


def _on_device(tensor: Any, dtype: Any, *_: Any) -> Any:
    """A tensor that was on a device whose storages torch does not write."""
    known = tensor.dtype if isinstance(tensor, Tensor) else _same_tensor(tensor).value.dtype
    if known != dtype:
        raise CheckpointError(f"a tensor is stored as {known}")
    return tensor


def _of_type(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with Python attributes, which are not read."""
    rebuilds = isinstance(function, Call) and function.function in (_tensor, _same_tensor)
    if not rebuilds or kind is not _KIND or type(arguments) is not tuple:
        raise CheckpointError("a tensor is of unknown type")
    return function.function(*arguments)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((key(name, depth=0), value) for name, value in items)


def _counter(counts: Any = None) -> Counter[Any]:
    if counts is not None and type(counts) is not dict:
        raise CheckpointError("a Counter is damaged")
    return Counter({key(name, depth=0): count for name, count in (counts or {}).items()})


def _encoded(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise CheckpointError("bytes are damaged")
    return text.encode("latin1")


def _one(kind: Callable[..., Any], *accepted: type) -> Call:
    """Makes a value from arguments of accepted types."""

    def make(*arguments: Any) -> Any:
        if not all(type(argument) in accepted for argument in arguments):
            raise CheckpointError(f"a {kind.__name__} is damaged")
        return kind(*arguments)

    return Call(make)


def _members(kind: Callable[[Any], Any]) -> Call:
    return Call(lambda items=(): kind(key(item) for item in _sequence(items)))


def _sequence(items: Any) -> Any:
    if type(items) not in (list, tuple):
        raise CheckpointError("a container is damaged")
    return items


_KIND = object()  # torch.Tensor and Parameter, where a pickle names the class itself
_QUANTIZED = Refused("quantized tensors are not read; save tensor.dequantize() in PyTorch")

NAMES: dict[str, Any] = {
    "collections.OrderedDict": Call(_ordered),
    "collections.Counter": Call(_counter),
    "builtins.set": _members(set),
    "builtins.frozenset": _members(frozenset),
    "builtins.bytearray": _one(bytearray, bytes),
    "builtins.bytes": Call(lambda: b""),
    "builtins.complex": _one(complex, float, int),
    "_codecs.encode": Call(_encoded),
    "numpy.dtype": Call(_numpy_dtype),
    "numpy.ndarray": _KIND,
    "numpy._core.multiarray._reconstruct": Call(lambda *_: _NumPyArray()),
    "numpy._core.multiarray.scalar": Call(_numpy_scalar),
    "numpy._core.numeric._frombuffer": Call(_from_bytes),
    "torch.Size": Call(lambda sizes=(): tuple(_sequence(sizes))),
    "torch.device": Call(lambda kind, index=None: _text(kind) if index is None else f"{_text(kind)}:{int(index)}"),
    "torch.Tensor": _KIND,
    "torch.nn.parameter.Parameter": _KIND,
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_tensor),
    "torch._utils._rebuild_parameter": Call(_same_tensor),
    "torch._utils._rebuild_parameter_with_state": Call(_same_tensor),
    "torch._utils._rebuild_device_tensor_from_numpy": Call(_on_device),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Call(_on_device),
    "torch._utils._rebuild_xla_tensor": Call(_on_device),
    "torch._tensor._rebuild_from_type_v2": Call(_of_type),
    "torch._utils._rebuild_qtensor": _QUANTIZED,
    "torch._utils._rebuild_sparse_tensor": Refused("sparse tensors are not read; save tensor.to_dense() in PyTorch"),
    "torch._utils._rebuild_nested_tensor": Refused("nested tensors are not read; save tensor.unbind() in PyTorch"),
    "torch._utils._rebuild_meta_tensor_no_storage": Refused("a tensor on the device meta has no values"),
    "torch._utils._rebuild_wrapper_subclass": Refused("tensors of classes that wrap others are not read"),
    "torch.complex32": Refused("JAX and NumPy have no such dtype; save tensor.to(torch.complex64) in PyTorch"),
    "torch.float4_e2m1fn_x2": Refused("its two values a byte are no dtype of NumPy; save tensor.view(torch.uint8) in PyTorch"),
    **{f"torch.{name}Storage": _QUANTIZED for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")},
    **{f"torch.{names.torch}": dtype for dtype, names in DTYPES.items()},
    **{
        f"torch.{device}{names.storage}": _StorageType(dtype)
        for dtype, names in DTYPES.items()
        if names.storage is not None
        for device in ("", "cuda.")
    },
    "torch.storage.UntypedStorage": _StorageType(np.dtype(np.uint8)),
}
