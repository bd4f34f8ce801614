"""Sequences of different lengths, `torch.nn.utils.rnn`: padded to one length, or packed.

Lengths are values, not shapes. Outside of transformations, and inside where they are constants, all shapes are torch's.
Where JAX traces the lengths, what depends on them is as large as it may become: see `pack_padded_sequence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from fnn.arrays import held_dtype
from fnn.functional.checks import array, integer, known
from fnn.functional.rnn import fit, numbers, pack_padded, pad_packed, poisoned
from fnn.nn.modules.conversion import destination

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


def _converter(dtype: Any) -> Any:
    def convert(self: Any) -> Any:
        return self.to(dtype=dtype)

    convert.__doc__ = f"The data in {np.dtype(dtype).name}."
    return convert


class PackedSequence_(NamedTuple):
    """The fields of a PackedSequence."""

    data: Any
    batch_sizes: Any
    sorted_indices: Any = None
    unsorted_indices: Any = None


@jax.tree_util.register_pytree_node_class
class PackedSequence(PackedSequence_):
    """Sequences of different lengths without padding: first elements of all of them, then second elements, and so on.

    Made by `pack_padded_sequence` and `pack_sequence`; recurrent layers take it and return it. It passes through JAX's
    transformations as its four arrays; the number of sequences, which is a shape, stays with it. So inside a
    transformation `packed._replace(data=...)` is the way to other data.

    Args:
        data: (rows, *), or a pair of data and batch_sizes. Rows behind the last element, if any, hold nothing.
        batch_sizes: (T,), the number of sequences that are at least so long, for each time.
        sorted_indices: (N,), the places of the sequences before they were sorted by length.
        unsorted_indices: (N,), their places among the sorted; by default the inverse.

    Example:
        >>> import jax.numpy as jnp
        >>> packed = pack_sequence([jnp.array([1, 2, 3]), jnp.array([4, 5])])
        >>> packed.data.tolist(), packed.batch_sizes.tolist()
        ([1, 4, 2, 5, 3], [2, 2, 1])
    """

    _batch: Any

    def __new__(cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None) -> Self:
        if batch_sizes is None:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return cls._of((data, batch_sizes, sorted_indices, unsorted_indices), None)

    @classmethod
    def _of(cls, fields: Any, batch: Any) -> Self:
        made = tuple.__new__(cls, fields)
        made._batch = batch
        return made

    def _replace(self, **fields: Any) -> Self:
        return type(self)._of(super()._replace(**fields), self._batch)

    def tree_flatten(self) -> Any:
        """The four fields, and the number of sequences."""
        return tuple(self), self.batch_size()

    @classmethod
    def tree_unflatten(cls, batch: Any, fields: Any) -> Self:
        """The inverse of `tree_flatten`."""
        return cls._of(fields, batch)

    def batch_size(self) -> Any:
        """The number of sequences; None where nothing tells it, since JAX traces `batch_sizes`."""
        if self._batch is None and self.sorted_indices is not None:
            return np.shape(self.sorted_indices)[0]
        if self._batch is None and isinstance(self.batch_sizes, jax.Array):
            sizes = known(self.batch_sizes)
            return None if sizes is None or not sizes.size else sizes[0].item()
        return self._batch

    def to(self, *args: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False, copy: bool = False) -> Self:
        """The data in another dtype, or all on another device; itself where nothing changes.

        Args:
            args: a device, a dtype, or both, or an array whose device and dtype to take, as for `Module.to`.
            device, dtype: by name.
            non_blocking, copy: accepted; JAX never blocks here, and arrays are immutable.
        """
        place, kind = destination(args, device, dtype)
        data = array(self.data, "data")
        if kind is not None and jnp.issubdtype(kind, jnp.inexact) and held_dtype(kind) != kind:
            raise TypeError(f"{kind.name} needs 64 bits: jax.config.update('jax_enable_x64', True) at the start of the program")
        changed = data if kind is None else data.astype(held_dtype(kind))
        if place is None:
            return self if changed.dtype == data.dtype else self._replace(data=changed)
        fields = (changed, *self[1:])
        return type(self)._of((None if x is None else jax.device_put(x, place) for x in fields), self._batch)

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """All on a GPU."""
        return self.to(*args, **{"device": "cuda", **kwargs})

    def cpu(self, *args: Any, **kwargs: Any) -> Self:
        """All on the CPU."""
        return self.to(*args, **{"device": "cpu", **kwargs})

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return any(device.platform == "gpu" for device in array(self.data, "data").devices())

    double = _converter(np.float64)
    float = _converter(np.float32)
    half = _converter(np.float16)
    long = _converter(np.int64)
    int = _converter(np.int32)
    short = _converter(np.int16)
    char = _converter(np.int8)
    byte = _converter(np.uint8)


def invert_permutation(permutation: Any) -> Any:
    """The permutation that undoes another one; None for None.

    Args:
        permutation: (N,), whole numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> invert_permutation(jnp.array([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    return None if permutation is None else _computed(lambda p, xp: xp.argsort(p), array(permutation, "permutation"))


def _computed(function: Callable[[Any, Any], Any], values: jax.Array) -> jax.Array:
    """A function of whole numbers and of numpy or jax.numpy; known where they are, also while JAX traces other values."""
    given, xp = numbers(values)
    result = function(given, xp)
    if xp is jnp:
        return result.astype(values.dtype)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(result, values.dtype)


def _indices(lengths: Any) -> jax.Array:
    """Lengths as whole numbers, as torch converts them; known where they are, also while JAX traces other values."""
    with jax.ensure_compile_time_eval():
        return array(lengths, "lengths").astype(held_dtype(np.int64))


def pack_padded_sequence(input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> PackedSequence:
    """Packs padded sequences.

    Where JAX traces the lengths, the packed data has T · N rows, zero behind the last element, and `batch_sizes` T numbers,
    zero behind the longest length; for lengths that would be refused, all elements are NaN, or the least integer.

    Args:
        input: (T, N, *), or (N, T, *) with `batch_first`.
        lengths: (N,), from 1 to T.
        batch_first: whether the input begins with the batch.
        enforce_sorted: whether the lengths must not increase; otherwise sequences are sorted, and layers give the last states
            in the order given here.

    Returns:
        A PackedSequence.

    Raises:
        RuntimeError: where the input is empty; where lengths are not one for each sequence, not from 1 to T, or increase.
        IndexError: where the input has less than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> packed = pack_padded_sequence(jnp.array([[1, 2, 0], [3, 4, 5]]), [2, 3], batch_first=True, enforce_sorted=False)
        >>> packed.data.tolist(), packed.batch_sizes.tolist(), packed.sorted_indices.tolist()
        ([3, 1, 4, 2, 5], [2, 2, 1], [1, 0])
    """
    x, given = array(input, "input"), _indices(lengths)
    if given.ndim != 1:
        raise RuntimeError(f"'lengths' argument should be a 1D tensor of integers, got {given.ndim}D of shape {given.shape}")
    if x.ndim < 2:
        raise IndexError(f"pack_padded_sequence: expected an input of at least 2 dimensions, got {list(x.shape)}")
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    time, batch = x.shape[:2]
    if x.size == 0:
        raise RuntimeError(f"Cannot pack empty tensors, got {list(np.shape(input))}.")
    if given.shape != (batch,):
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size, but got {given.shape[0]} (batch_size={batch})")
    order = None if enforce_sorted else _computed(lambda n, xp: xp.argsort(-n, stable=True), given)
    if order is not None:
        x, given = jnp.take(x, order, axis=1), _computed(lambda n, xp: n[xp.argsort(-n, stable=True)], given)
    values, xp = numbers(given)
    fine = (values >= 1).all() & (values <= time).all() & (values[1:] <= values[:-1]).all()
    if xp is np and not fine:
        if not (values[1:] <= values[:-1]).all():
            raise RuntimeError(
                "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True, got "
                f"{values.tolist()}. You can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence."
            )
        raise RuntimeError(
            "Length of all samples has to be greater than 0, and not greater than the size of the padded sequences, "
            f"{time}, but got lengths {values.tolist()}"
        )
    steps, rows = (time, time * batch) if xp is jnp else (int(values[0]), int(values.sum()))
    sizes = _computed(lambda n, xp: (xp.clip(n, 1, time) > np.arange(steps)[:, None]).sum(1), given)
    data = pack_padded(poisoned(x[:steps], fine), sizes, rows)
    return PackedSequence._of((data, sizes, order, invert_permutation(order)), batch)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: Any = 0.0, total_length: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Pads packed sequences: the inverse of `pack_padded_sequence`.

    Args:
        sequence: a PackedSequence.
        batch_first: whether the result begins with the batch.
        padding_value: what is put behind the ends.
        total_length: the length of the result; by default that of the longest sequence, or where JAX traced the lengths the
            length before it was packed.

    Returns:
        (T, N, *) or (N, T, *), and the lengths (N,), in the order from before sorting.

    Raises:
        ValueError: where `total_length` is too small; where the number of sequences is not known.
        RuntimeError: where data has not the rows that batch sizes count.

    Example:
        >>> import jax.numpy as jnp
        >>> packed = pack_padded_sequence(jnp.array([[1, 2, 0], [3, 4, 5]]), [2, 3], batch_first=True, enforce_sorted=False)
        >>> padded, lengths = pad_packed_sequence(packed, batch_first=True, padding_value=-1)
        >>> padded.tolist(), lengths.tolist()
        ([[1, 2, -1], [3, 4, 5]], [2, 3])
    """
    data, sizes, batch = array(sequence.data, "data"), array(sequence.batch_sizes, "batch_sizes"), batch_of(sequence)
    longest = sizes.shape[0]
    if total_length is not None and total_length < longest:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {longest}"
        )
    fine = fit(sizes, data.shape[0], batch)
    value = np.asarray(padding_value).astype(data.dtype)[()]
    padded = poisoned(pad_packed(data, sizes, batch, value), fine)
    if total_length is not None and total_length > longest:
        after = [(0, integer(total_length, "total_length") - longest)] + [(0, 0)] * (padded.ndim - 1)
        padded = jnp.pad(padded, after, constant_values=value)
    order = sequence.unsorted_indices
    lengths = _computed(lambda n, xp: (n[:, None] > np.arange(batch)).sum(0), sizes)
    if order is not None:
        padded = jnp.take(padded, order, axis=1)
        lengths = _taken(lengths, array(order, "unsorted_indices"))
    return jnp.swapaxes(padded, 0, 1) if batch_first else padded, lengths


def _taken(values: jax.Array, order: jax.Array) -> jax.Array:
    where = known(order)
    return values[order] if where is None else _computed(lambda n, _: n[where], values)


def batch_of(sequence: PackedSequence) -> Any:
    """The number of sequences.

    Raises:
        ValueError: where it is not known.
    """
    batch = sequence.batch_size()
    if batch is None:
        raise ValueError(
            "the number of packed sequences is not known where JAX traces their batch_sizes: make other data by "
            "packed._replace(data=...), which keeps it, instead of PackedSequence(data, packed.batch_sizes)"
        )
    return batch


def pad_sequence(sequences: Any, batch_first: bool = False, padding_value: Any = 0.0, padding_side: str = "right") -> jax.Array:
    """Stacks sequences along a new axis, and pads them to one length.

    Args:
        sequences: arrays (L, *), with different L.
        batch_first: whether the result begins with the batch.
        padding_value: what is added.
        padding_side: right for behind the sequences, left for before them.

    Returns:
        (T, N, *) or (N, T, *), in the dtype of the first.

    Raises:
        RuntimeError: where there are no sequences, or other axes than the first differ.
        TypeError: where they are not arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> pad_sequence([jnp.array([1, 2, 3]), jnp.array([4])], batch_first=True).tolist()
        [[1, 2, 3], [4, 0, 0]]
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}")
    parts = [_sequence(part) for part in sequences]
    if not parts:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    shapes = [part.shape for part in parts]
    if any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        raise RuntimeError(f"pad_sequence: expected sequences whose sizes differ in the first axis alone, got {shapes}")
    longest, dtype = max(shape[0] for shape in shapes), parts[0].dtype
    value = np.asarray(padding_value).astype(dtype)[()]

    def padded(part: jax.Array) -> jax.Array:
        missing = longest - part.shape[0]
        ends = (missing, 0) if padding_side == "left" else (0, missing)
        return jnp.pad(part.astype(dtype), [ends] + [(0, 0)] * (part.ndim - 1), constant_values=value)

    return jnp.stack([padded(part) for part in parts], axis=0 if batch_first else 1)


def _sequence(value: Any) -> jax.Array:
    if isinstance(value, (list, tuple)):
        raise TypeError(f"expected an array for each sequence, got {type(value).__name__}")
    return array(value, "sequences")


def unpad_sequence(padded_sequences: Any, lengths: Any, batch_first: bool = False) -> list[jax.Array]:
    """Parts padded sequences, and cuts off what is behind their ends.

    Args:
        padded_sequences: (T, N, *), or (N, T, *) with `batch_first`.
        lengths: (N,).
        batch_first: whether they begin with the batch.

    Returns:
        N arrays (L, *).

    Raises:
        ValueError: where there are not as many lengths as sequences, or JAX traces them: they are shapes here.

    Example:
        >>> import jax.numpy as jnp
        >>> [part.tolist() for part in unpad_sequence(jnp.array([[1, 2], [3, 0]]), jnp.array([2, 1]))]
        [[1, 3], [2]]
    """
    x, given = array(padded_sequences, "padded_sequences"), known(array(lengths, "lengths"))
    if given is None:
        raise ValueError("unpad_sequence: lengths must be known, since they are shapes here; JAX traces them")
    parts = x if batch_first else jnp.swapaxes(x, 0, 1)
    if given.shape != parts.shape[:1]:
        raise ValueError(f"expected a length for each of {parts.shape[0]} sequences, got lengths of shape {given.shape}")
    return [part[: max(int(length), 0)] for part, length in zip(parts, given, strict=True)]


def pack_sequence(sequences: Any, enforce_sorted: bool = True) -> PackedSequence:
    """Packs sequences.

    Args:
        sequences: arrays (L, *), with different L.
        enforce_sorted: as for `pack_padded_sequence`.

    Returns:
        A PackedSequence.

    Raises:
        RuntimeError: as `pad_sequence` and `pack_padded_sequence`.

    Example:
        >>> import jax.numpy as jnp
        >>> pack_sequence([jnp.array([1, 2]), jnp.array([3])]).data.tolist()
        [1, 3, 2]
    """
    parts = list(sequences)
    padded = pad_sequence(parts)
    return pack_padded_sequence(padded, [np.shape(part)[0] for part in parts], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[jax.Array]:
    """Parts packed sequences: the inverse of `pack_sequence`.

    Args:
        packed_sequences: a PackedSequence.

    Returns:
        N arrays (L, *), in the order from before sorting.

    Raises:
        ValueError: where JAX traces the batch sizes: lengths are shapes here.

    Example:
        >>> import jax.numpy as jnp
        >>> [part.tolist() for part in unpack_sequence(pack_sequence([jnp.array([1, 2]), jnp.array([3])]))]
        [[1, 2], [3]]
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
