"""Look-up tables agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn
import fnn.functional as F
from fnn.nn import Parameter


def check(index, table, **options):
    assert_agree(F.embedding, torch.nn.functional.embedding, index, table, **options)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 4), (0,)], ids=str)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_looks_rows_up(shape, dtype):
    check(integers(5, *shape).astype(dtype), normal(5, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"padding_idx": 1},
        {"padding_idx": -2},
        {"scale_grad_by_freq": True},
        {"padding_idx": 0, "scale_grad_by_freq": True, "sparse": False},
    ],
    ids=str,
)
def test_gradient(options):
    check(np.array([[0, 1, 1], [3, 4, 3]]), normal(5, 3), **options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int32])
def test_keeps_the_dtype_of_the_table(dtype):
    check(integers(5, 4), (normal(5, 3) * 9).astype(dtype), padding_idx=1, scale_grad_by_freq=True)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, float("inf")])
def test_max_norm_scales_the_rows_that_are_looked_up(norm_type):
    index, table = np.array([1, 1, 3]), normal(5, 3) * 3
    theirs, ours = tensor(table).requires_grad_(), Parameter(table)
    options = {"max_norm": 1.5, "norm_type": norm_type}
    expected = torch.nn.functional.embedding(tensor(index), theirs, **options)
    expected.square().sum().backward()
    assert_close(F.embedding(index, table, **options), expected)
    assert_close(F.embedding(index, ours, **options), expected)
    assert_close(ours.value, theirs)
    gradient = jax.grad(lambda w: jnp.square(F.embedding(index, w, **options)).sum())(jnp.asarray(table))
    assert_close(gradient, theirs.grad)


def test_gives_nan_for_an_index_that_is_out_of_range_while_tracing():
    rows = jax.jit(F.embedding)(jnp.array([1, 5, -1]), jnp.ones((5, 2)))
    assert jnp.isnan(rows).tolist() == [[False] * 2, [True] * 2, [True] * 2]


def test_checks_constant_indices_while_tracing():
    index = jnp.array([1, 5])
    with pytest.raises(IndexError, match="from 1 to 5 for 5 rows"):
        jax.jit(lambda table: F.embedding(index, table))(jnp.ones((5, 2)))
    assert jax.jit(lambda table: F.embedding(index, table))(jnp.ones((6, 2))).tolist() == [[1.0] * 2] * 2


def test_takes_traced_indices_under_fnn_jit():
    table = fnn.nn.Embedding(5, 2)
    index = jnp.array([1, 4])
    assert (fnn.jit(table)(index) == table(index)).all()


@pytest.mark.parametrize(
    ("index", "table", "options", "words"),
    [
        (np.array([4]), normal(4, 3), {}, ["from 4 to 4", "4 rows"]),
        (np.array([0, -1]), normal(4, 3), {}, ["from -1 to 0", "4 rows"]),
        (np.array([1.0], np.float32), normal(4, 3), {}, ["indices", "int64", "float32"]),
        (np.array([1], np.uint8), normal(4, 3), {}, ["indices", "int64", "uint8"]),
        (np.array([1]), normal(4), {}, ["2-D", "(4,)"]),
        (np.array([1]), normal(4, 3), {"padding_idx": 4}, ["within num_embeddings", "4"]),
        (np.array([1]), normal(4, 3), {"padding_idx": -5}, ["within num_embeddings", "-5"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(index, table, options, words):
    assert_refused(lambda nn, array: nn.functional.embedding(array(index), array(table), **options), *words)


MODES = ["sum", "mean", "max"]
INDEX = np.array([0, 2, 1, 4, 2, 2, 3])
OFFSETS = np.array([0, 3, 3, 5])


def check_bags(index, table, offsets=None, scales=None, fixed=(), **options):
    def call(function):
        return lambda index, table, offsets, scales: function(index, table, offsets, per_sample_weights=scales, **options)

    assert_agree(call(F.embedding_bag), call(torch.nn.functional.embedding_bag), index, table, offsets, scales, fixed=fixed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"padding_idx": -4}], ids=str)
def test_bags(mode, options):
    check_bags(INDEX, normal(5, 3), OFFSETS, mode=mode, **options)
    check_bags(INDEX[:6].reshape(2, 3), normal(5, 3), mode=mode, **options)


@pytest.mark.parametrize("mode", MODES)
def test_the_last_offset_may_be_the_end(mode):
    check_bags(INDEX, normal(5, 3), np.append(OFFSETS, 7), mode=mode, include_last_offset=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("index", "offsets"),
    [(INDEX[:0], np.array([0, 0])), (INDEX[:0], INDEX[:0]), (np.zeros((0, 3), int), None), (INDEX, np.array([0, 7]))],
    ids=["bags of nothing", "no bags", "no rows", "nothing in the last"],
)
def test_bags_of_nothing_are_zero(index, offsets, mode):
    check_bags(index, normal(5, 3), offsets, mode=mode)


def test_the_gradient_of_equal_maxima_goes_to_the_first():
    table = np.array([[1, 2], [3, 2], [3, 1], [3, 2]], np.float32)
    check_bags(np.array([0, 2, 1, 3, 3, 2]), table, np.array([0, 4]), mode="max")


@pytest.mark.parametrize("index", [[0, 1, 2], [1, 0, 3], [2, 0, 1], [2, 2, 3]], ids=str)
def test_the_maximum_is_nan_only_where_the_first_is(index):
    table = np.array([[np.nan, 1], [5, 2], [-np.inf, 3], [np.inf, np.nan]], np.float32)
    for options in ({}, {"padding_idx": 2}):
        check_bags(np.array(index), table, np.array([0]), mode="max", **options)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}], ids=str)
def test_per_sample_weights(options):
    check_bags(INDEX, normal(5, 3), OFFSETS, normal(7), mode="sum", **options)
    check_bags(INDEX[:6].reshape(3, 2), normal(5, 3), None, normal(3, 2), mode="sum", **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_bags_of_16_bits(dtype, mode):
    check_bags(INDEX, normal(5, 3, dtype=dtype), OFFSETS, mode=mode)


def test_bags_take_other_whole_numbers():
    for index, offsets in ((np.int32, np.int64), (np.uint8, np.int64), (np.int64, np.int32)):
        check_bags(INDEX.astype(index), normal(5, 3), OFFSETS.astype(offsets))


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_scale_grad_by_freq_divides_the_gradient_of_a_row_by_its_frequency(mode):
    # torch divides by the frequency of another row where rows recur, unless all are named equally often.
    check_bags(np.array([0, 3, 1, 3, 1, 0]), normal(5, 3), np.array([0, 2]), mode=mode, scale_grad_by_freq=True)
    gradient = jax.grad(lambda table: F.embedding_bag(INDEX, table, OFFSETS, mode="sum", scale_grad_by_freq=True).sum())
    assert gradient(jnp.ones((5, 1))).tolist() == [[1.0]] * 5


@pytest.mark.parametrize("mode", MODES)
def test_max_norm_of_bags_changes_the_table(mode):
    table = normal(5, 3) * 3
    theirs, ours = tensor(table), Parameter(table)
    options = {"max_norm": 1.5, "norm_type": 3.0, "mode": mode}
    expected = torch.nn.functional.embedding_bag(tensor(INDEX[:2]), theirs, tensor(OFFSETS[:1]), **options)
    assert_close(F.embedding_bag(INDEX[:2], ours, OFFSETS[:1], **options), expected)
    assert_close(ours.value, theirs)


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=4),
    st.sampled_from(MODES),
    st.sampled_from([None, 0, 1, -1]),
    st.booleans(),
    st.booleans(),
)
def test_any_bags(bags, mode, padding_idx, include_last_offset, weighted):
    index = np.array([i for bag in bags for i in bag], np.int64)
    offsets = np.cumsum([0, *map(len, bags)])[: None if include_last_offset else -1]
    scales = normal(len(index)) if weighted and mode == "sum" else None
    options = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": include_last_offset}
    check_bags(index, np.round(normal(4, 2)), offsets, scales, **options)


def test_the_old_order_of_arguments_warns():
    table = normal(5, 3)
    with pytest.warns(UserWarning, match="Argument order"):
        assert (F.embedding_bag(table, INDEX, OFFSETS) == F.embedding_bag(INDEX, table, OFFSETS)).all()


@pytest.mark.parametrize("mode", MODES)
def test_bags_give_nan_for_what_cannot_be_known_while_tracing(mode):
    bags = jax.jit(lambda index, offsets: F.embedding_bag(index, jnp.ones((5, 2)), offsets, mode=mode))
    rows = bags(jnp.array([1, 2, 1, 5, 1, -1]), jnp.array([0, 2, 4]))
    assert jnp.isnan(rows).tolist() == [[False] * 2, [True] * 2, [True] * 2]
    for offsets in ([1, 2], [0, 9], [0, -1]):
        assert jnp.isnan(bags(INDEX[:3], jnp.array(offsets))).all()


TABLE = normal(4, 3)


@pytest.mark.parametrize(
    ("index", "table", "offsets", "options", "words"),
    [
        ([0, 4], TABLE, [0], {}, ["from 0 to 4", "4 rows"]),
        ([0, -1], TABLE, [0], {"mode": "max"}, ["from -1 to 0", "4 rows"]),
        ([0.5], TABLE, [0], {}, ["int64", "float32"]),
        ([0], TABLE.astype(int), [0], {}, ["floating-point", "int32"]),
        ([0], TABLE[0], [0], {}, ["2D", "(3,)"]),
        ([[[0]]], TABLE, None, {}, ["1D or 2D", "(1, 1, 1)"]),
        ([0], TABLE, None, {}, ["1D", "None"]),
        ([0], TABLE, [[0]], {}, ["1D", "(1, 1)"]),
        ([[0]], TABLE, [0], {}, ["2D", "None"]),
        ([0], TABLE, [0], {"mode": "min"}, ["sum, mean or max", "min"]),
        ([0], TABLE, [0], {"mode": "max", "scale_grad_by_freq": True}, ["max mode"]),
        ([0], TABLE, [0], {"mode": "max", "sparse": True}, ["max mode"]),
        ([0], TABLE, [0], {"padding_idx": 4}, ["-4 through 3", "4"]),
        ([0, 1], TABLE, [1], {}, ["begin with 0", "[1]"]),
        ([0, 1], TABLE, [0, 3], {}, ["length 2", "[0 3]"]),
        ([0, 1], TABLE, [], {"include_last_offset": True}, ["at least 1"]),
    ],
    ids=str,
)
def test_bags_refuse(index, table, offsets, options, words):
    def call(nn, array):
        kind = np.float32 if index == [0.5] else np.int64
        starts = None if offsets is None else array(np.array(offsets, np.int64))
        nn.functional.embedding_bag(array(np.array(index, kind)), array(table), starts, **options)

    assert_refused(call, *words)


def test_bags_refuse_offsets_that_descend():  # torch does so only sometimes
    with pytest.raises(RuntimeError, match=r"ascend.*\[0 3 2\]"):
        F.embedding_bag(jnp.array([0, 1, 2]), jnp.asarray(TABLE), jnp.array([0, 3, 2]))


@pytest.mark.parametrize(
    ("scales", "mode", "words"),
    [
        (normal(3), "sum", ["(3,)", "(2,)"]),
        (normal(2), "mean", ["mode='sum'", "mean"]),
        (normal(2, dtype=np.float16), "sum", ["float32", "float16"]),
    ],
    ids=["shape", "mode", "dtype"],
)
def test_bags_refuse_per_sample_weights(scales, mode, words):
    def call(nn, array):
        index, offsets = array(np.array([0, 1])), array(np.array([0]))
        nn.functional.embedding_bag(index, array(TABLE), offsets, mode=mode, per_sample_weights=array(scales))

    assert_refused(call, *words)


@pytest.mark.parametrize(
    ("index", "classes"), [([0, 2], -1), ([0, 2], 5), (2, -1), ([[2, 1]], 3), (np.zeros((0, 2), int), 3)], ids=str
)
def test_one_hot(index, classes):
    index = np.array(index)
    assert_close(F.one_hot(index, classes), torch.nn.functional.one_hot(tensor(index), classes))


def test_one_hot_while_tracing():
    assert jax.jit(F.one_hot, static_argnums=1)(jnp.array([1, 7, -1]), 3).tolist() == [[0, 1, 0], [0] * 3, [0] * 3]
    with pytest.raises(RuntimeError, match="expected a positive num_classes"):
        jax.jit(F.one_hot)(jnp.array([1]))


@pytest.mark.parametrize(
    ("index", "classes", "words"),
    [
        ([0, -1], -1, ["non-negative", "-1"]),
        ([0, 3], 3, ["smaller than num_classes 3", "3"]),
        ([0, 1], 0, ["num_classes 0"]),
        ([0, 1], -2, ["num_classes -2"]),
        (np.zeros(0, int), -1, ["cannot infer"]),
        (np.ones(2, np.float32), 3, ["LongTensor", "float32"]),
        ([0], 1.5, ["num_classes", "1.5"]),
    ],
    ids=str,
)
def test_one_hot_refuses(index, classes, words):
    assert_refused(lambda nn, array: nn.functional.one_hot(array(np.array(index)), classes), *words)
