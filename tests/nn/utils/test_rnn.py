"""Packed and padded sequences agree with torch's."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, integers, normal, tensor, torch

import fnn
import fnn.nn.utils.rnn as ours

theirs = torch.nn.utils.rnn


def assert_same(packed, expected):
    """Asserts that two PackedSequences have the same fields."""
    for name in expected._fields:
        one, other = getattr(packed, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert_close(one, other, what=name)


def assert_refused(call, *words):
    with pytest.raises(Exception) as expected:  # noqa: PT011
        call(theirs, tensor)
    with pytest.raises(expected.type) as raised:
        call(ours, jnp.asarray)
    for word in words:
        assert word in str(raised.value)


def test_is_reached_as_in_torch():
    assert fnn.nn.utils.rnn is ours
    assert set(theirs.__all__) == set(ours.__all__)


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([np.float32, np.int32]),
)
def test_packing_and_padding_agree_for_any_lengths(lengths, batch_first, enforce_sorted, longer, trailing, dtype):
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    shape = (max(lengths) + longer, len(lengths))
    x = np.random.default_rng(0).integers(1, 100, (*(shape[::-1] if batch_first else shape), *[2] * trailing)).astype(dtype)
    expected = theirs.pack_padded_sequence(tensor(x), torch.tensor(lengths), batch_first, enforce_sorted)
    packed = ours.pack_padded_sequence(x, lengths, batch_first, enforce_sorted)
    assert_same(packed, expected)
    options = {"batch_first": batch_first, "padding_value": -1.5, "total_length": max(lengths) + longer}
    for one, other in zip(
        ours.pad_packed_sequence(packed, **options), theirs.pad_packed_sequence(expected, **options), strict=True
    ):
        assert_close(one, other)
    for one, other in zip(ours.unpack_sequence(packed), theirs.unpack_sequence(expected), strict=True):
        assert_close(one, other)
    traced = jax.jit(ours.pack_padded_sequence, static_argnums=(2, 3))(x, jnp.asarray(lengths), batch_first, enforce_sorted)
    rows, steps = expected.data.shape[0], expected.batch_sizes.shape[0]
    assert traced.data.shape[0] == x.shape[0] * x.shape[1]
    assert not traced.data[rows:].any()
    assert not traced.batch_sizes[steps:].any()
    np.testing.assert_array_equal(traced.data[:rows], expected.data)
    np.testing.assert_array_equal(traced.batch_sizes[:steps], expected.batch_sizes)
    for one, other in zip(ours.unpack_sequence(traced), theirs.unpack_sequence(expected), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packing_and_padding_have_torchs_gradients(enforce_sorted):
    def run(module):
        def through(x):
            packed = module.pack_padded_sequence(x, [4, 2, 1] if enforce_sorted else [2, 4, 1], False, enforce_sorted)
            return packed.data, module.pad_packed_sequence(packed)[0]

        return through

    assert_agree(run(ours), run(theirs), normal(5, 3, 2))


@pytest.mark.parametrize(
    "lengths",
    [(4, 2, 1), [4.7, 2.2, 1.0], np.array([4, 2, 1], np.uint8), [True, True, True]],
    ids=["", "float", "uint8", "bool"],
)
def test_lengths_are_converted(lengths):
    x = normal(4, 3)
    expected = theirs.pack_padded_sequence(tensor(x), tensor(lengths) if isinstance(lengths, np.ndarray) else lengths)
    assert_same(ours.pack_padded_sequence(x, lengths), expected)


@pytest.mark.parametrize(
    ("lengths", "options", "words"),
    [
        ([5, 3], {}, ["got 2", "batch_size=3"]),
        ([5, 3, 0], {}, ["greater than 0", "[5, 3, 0]"]),
        ([5, 3, -1], {"enforce_sorted": False}, ["greater than 0", "[5, 3, -1]"]),
        ([3, 5, 2], {}, ["sorted", "[3, 5, 2]", "enforce_sorted=False"]),
        ([[5, 3, 2]], {}, ["1D", "2D"]),
        (5, {}, ["1D", "0D"]),
    ],
    ids=str,
)
def test_packing_refuses_lengths(lengths, options, words):
    x = normal(5, 3, 2)
    assert_refused(lambda module, array: module.pack_padded_sequence(array(x), lengths, **options), *words)


def test_packing_refuses_lengths_that_are_longer_than_the_input():
    with pytest.raises(RuntimeError, match=r"5, but got lengths \[6, 3, 2\]"):  # torch reads past the end
        ours.pack_padded_sequence(normal(5, 3, 2), [6, 3, 2])


@pytest.mark.parametrize("shape", [(5,), (5, 0, 2), (0, 3, 2), (5, 3, 0)], ids=str)
def test_packing_refuses_shapes(shape):
    lengths = [1] * (*shape, 1)[1]
    assert_refused(lambda module, array: module.pack_padded_sequence(array(normal(*shape)), lengths), str(list(shape)))


@pytest.mark.parametrize("lengths", [[3, 2, 0], [6, 2, 1], [1, 2, 3], [-1, -1, -1]], ids=str)
def test_lengths_that_are_wrong_but_not_known_leave_no_number(lengths):
    def through(x, lengths):
        packed = ours.pack_padded_sequence(x, lengths)
        return ours.pad_packed_sequence(packed, padding_value=float("nan") if x.dtype == np.float32 else 0)[0], packed.data

    padded, _ = jax.jit(through)(jnp.ones((5, 3)), jnp.asarray(lengths))
    assert jnp.isnan(padded).all()
    _, data = jax.jit(through)(jnp.ones((5, 3), int), jnp.asarray(lengths))
    assert set(data.tolist()) <= {np.iinfo(np.int32).min, 0}
    assert data[0] != 0


def test_lengths_are_known_where_they_are_constants_of_a_traced_function():
    @jax.jit
    def run(x):
        packed = ours.pack_padded_sequence(x, jnp.array([3, 2, 1]) if x is None else [2, 3, 1], enforce_sorted=False)
        return packed, ours.unpack_sequence(packed)

    packed, parts = run(normal(5, 3, 2))
    assert packed.data.shape == (6, 2)
    assert [part.shape for part in parts] == [(2, 2), (3, 2), (1, 2)]


def test_padding_refuses():
    packed = [module.pack_padded_sequence(array(np.ones((5, 3), np.float32)), [4, 2, 1]) for module, array in PAIRS]
    assert_refused(
        lambda module, _: module.pad_packed_sequence(packed[module is theirs], total_length=3),
        "total_length=3",
        "length being 4",
    )
    short = [p._replace(data=p.data[:-2]) for p in packed]
    assert_refused(lambda module, _: module.pad_packed_sequence(short[module is theirs]), "at most 5", "[3, 2, 1, 1]")


PAIRS = ((ours, jnp.asarray), (theirs, tensor))


@pytest.mark.parametrize("sizes", [[3, 1, 2, 1], [2, 2], [3, 2, -1], [[3, 2]]], ids=str)
def test_padding_refuses_batch_sizes_that_cannot_be(sizes):
    packed = ours.pack_padded_sequence(normal(5, 3), [4, 2, 1])._replace(batch_sizes=jnp.array(sizes))
    with pytest.raises(RuntimeError, match="batch_sizes"):  # torch crashes
        ours.pad_packed_sequence(packed)
    if np.ndim(sizes) == 1:
        assert jnp.isnan(jax.jit(lambda p: ours.pad_packed_sequence(p)[0])(packed)).all()


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_pad_sequence(batch_first, padding_side):
    def run(module):
        return lambda *parts: module.pad_sequence(parts, batch_first, 2.5, padding_side)

    assert_agree(run(ours), run(theirs), normal(2, 3), normal(4, 3), normal(0, 3))


def test_pad_sequence_has_the_dtype_of_the_first():
    for parts in ([integers(9, 3), normal(2)], [normal(2), integers(9, 3)]):
        options = {"padding_value": 1.5}
        assert_close(ours.pad_sequence(parts, **options), theirs.pad_sequence(list(map(tensor, parts)), **options))


def test_pad_sequence_takes_any_iterable_and_an_array():
    x = normal(2, 3, 4)
    assert_close(ours.pad_sequence(x), theirs.pad_sequence(tensor(x)))
    assert_close(ours.pad_sequence(part for part in x), theirs.pad_sequence(tensor(part) for part in x))


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        ([], {}, ["empty list"]),
        ([(2,), (3, 1)], {}, ["(2,)", "(3, 1)"]),
        ([(2, 3), (3, 2)], {}, ["(2, 3)", "(3, 2)"]),
        ([()], {}, ["()"]),
        ([(2,)], {"padding_side": "up"}, ["left or right", "up"]),
    ],
    ids=str,
)
def test_pad_sequence_refuses(shapes, options, words):
    assert_refused(
        lambda module, array: module.pad_sequence([array(np.ones(s, np.float32)) for s in shapes], **options), *words
    )


@pytest.mark.parametrize("value", [3, [[1, 2], [3]]])
def test_pad_sequence_refuses_what_is_no_array(value):
    assert_refused(lambda module, _: module.pad_sequence(value), type(value[0] if value != 3 else 3).__name__)


@pytest.mark.parametrize("batch_first", [False, True])
def test_unpad_sequence(batch_first):
    x, lengths = normal(*((3, 5) if batch_first else (5, 3)), 2), np.array([2, 9, 0])
    expected = theirs.unpad_sequence(tensor(x), tensor(lengths), batch_first)
    for one, other in zip(ours.unpad_sequence(x, lengths, batch_first), expected, strict=True):
        assert_close(one, other)


def test_unpad_sequence_refuses():
    assert_refused(lambda module, array: module.unpad_sequence(array(normal(3, 5)), array(np.array([1, 2])), True), "3")
    with pytest.raises(ValueError, match="traces"):
        jax.jit(lambda lengths: ours.unpad_sequence(jnp.ones((5, 2)), lengths))(jnp.array([1, 2]))


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_pack_sequence(enforce_sorted):
    parts = [normal(4, 2), normal(3, 2), normal(1, 2)]
    parts = parts if enforce_sorted else parts[::-1]
    assert_same(ours.pack_sequence(parts, enforce_sorted), theirs.pack_sequence(list(map(tensor, parts)), enforce_sorted))
    assert_refused(lambda module, array: module.pack_sequence([array(normal(2)), array(normal(3))]), "sorted", "[2, 3]")


def test_a_packed_sequence_is_made_from_its_fields():
    data, sizes, order = normal(3), np.array([2, 1]), np.array([1, 0])
    assert_same(ours.PackedSequence(jnp.asarray(data), sizes), theirs.PackedSequence(tensor(data), tensor(sizes)))
    assert_same(ours.PackedSequence((data, sizes)), theirs.PackedSequence((tensor(data), tensor(sizes))))
    expected = theirs.PackedSequence(tensor(data), tensor(sizes), tensor(order))
    assert_same(ours.PackedSequence(data, sizes, order), expected)
    assert_refused(lambda module, array: module.PackedSequence(array(data)), "length 2")


@pytest.mark.parametrize("method", ["float", "half", "long", "int", "short", "char", "byte"])
def test_a_packed_sequence_is_converted(method):
    parts = [integers(9, 3).astype(np.int32), integers(9, 2).astype(np.int32)]
    packed, expected = ours.pack_sequence(parts), theirs.pack_sequence(list(map(tensor, parts)))
    assert_same(getattr(packed, method)(), getattr(expected, method)())


def test_a_packed_sequence_is_moved():
    packed = ours.pack_sequence([jnp.ones(3), jnp.ones(2)])
    device = jax.devices("cpu")[0]
    for moved in (packed.cpu(), packed.to(device), packed.to(jnp.float32), packed.to("cpu", jnp.bfloat16)):
        assert moved.data.devices() == {device}
    assert packed.to("cpu", jnp.bfloat16).data.dtype == jnp.bfloat16
    assert packed.to(jnp.float32) is packed
    assert packed.is_cuda is (jax.default_backend() == "gpu")
    with pytest.raises(TypeError, match="64 bits"):
        packed.double()
    with jax.enable_x64(True):
        assert packed.double().data.dtype == np.float64


def test_a_packed_sequence_passes_through_transformations():
    packed = ours.pack_sequence([jnp.ones(3), jnp.ones(2), jnp.ones(1)])
    for transform in (jax.jit, fnn.jit):
        doubled = transform(lambda p: p._replace(data=p.data * 2))(packed)
        assert isinstance(doubled, ours.PackedSequence)
        assert [part.tolist() for part in ours.unpack_sequence(doubled)] == [[2, 2, 2], [2, 2], [2]]
    shapes = jax.eval_shape(lambda p: ours.pad_packed_sequence(p), packed)
    assert [shape.shape for shape in shapes] == [(3, 3), (3,)]
    with pytest.raises(ValueError, match="_replace"):
        jax.jit(lambda p: ours.pad_packed_sequence(ours.PackedSequence(p.data, p.batch_sizes)))(packed)
    for copied in (copy.copy(packed), copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert jax.tree.structure(copied) == jax.tree.structure(packed)
