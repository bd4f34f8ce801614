"""linear and bilinear agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_refused, normal, torch

import fnn.functional as F


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_maps_the_last_axis(lead, bias, dtype):
    operands = [normal(*lead, 5, dtype=dtype), normal(4, 5, dtype=dtype), normal(4, dtype=dtype) if bias else None]
    assert_agree(F.linear, torch.nn.functional.linear, *operands)


def test_takes_a_weight_of_one_axis():
    assert_agree(F.linear, torch.nn.functional.linear, normal(2, 3, 5), normal(5))


def test_takes_integers_and_no_features():
    assert_agree(F.linear, torch.nn.functional.linear, np.array([[1, 2]]), np.array([[3, 4], [5, 6]]))
    assert_agree(F.linear, torch.nn.functional.linear, normal(3, 0), normal(2, 0), normal(2))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_16_bits_in_float32(dtype):
    ones = jnp.ones(4096, dtype)
    assert F.linear(ones, ones) == 4096


@pytest.mark.parametrize(
    ("input", "weight", "bias", "words"),
    [
        (normal(3, 4), normal(5, 3), None, ["(*, 3)", "(3, 4)"]),
        (normal(3, 4), normal(5, 4), normal(4), ["(5,)", "(4,)"]),
        (normal(3, 4), normal(5, 4, 4), None, ["1 or 2", "(5, 4, 4)"]),
        (np.float32(1), normal(5, 1), None, ["(*, 1)", "()"]),
        (normal(3, 4), normal(5, 4, dtype=np.float16), None, ["float32", "float16"]),
        (normal(3, 4), normal(5, 4), normal(5, dtype=np.float16), ["float32", "float16"]),
        (np.ones((3, 4), int), normal(5, 4), None, ["int32", "float32"]),
    ],
    ids=["input size", "bias size", "weight rank", "scalar", "weight dtype", "bias dtype", "integers"],
)
def test_refuses(input, weight, bias, words):
    def call(nn, array):
        nn.functional.linear(array(input), array(weight), None if bias is None else array(bias))

    assert_refused(call, *words)


@pytest.mark.parametrize("name", ["input", "weight"])
def test_refuses_what_is_no_array(name):
    operands = {"input": normal(3, 4), "weight": normal(5, 4)}
    assert_refused(
        lambda nn, array: nn.functional.linear(**{k: None if k == name else array(v) for k, v in operands.items()}), name
    )


OFFS = np.array([3, 3, 8], np.int32)  # the second group is empty, and nothing is behind the last
GROUPED = [((8, 4), (3, 4, 8), OFFS), ((3, 4, 8), (8, 8), OFFS), ((4, 8), (8, 4), OFFS), ((3, 4, 8), (3, 8, 4), None)]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize(("a", "b", "offs"), GROUPED, ids=str)
def test_grouped_mm(a, b, offs, dtype):
    if dtype != np.float32:  # torch wants rows of 16 bytes
        a, b = (*a[:-2], *(2 * size for size in a[-2:])), (*b[:-2], *(2 * size for size in b[-2:]))
        offs = None if offs is None else 2 * offs
    operands = normal(*a, dtype=dtype), normal(*b, dtype=dtype)
    given = None if offs is None else jnp.asarray(offs)
    assert_agree(
        lambda a, b: F.grouped_mm(a, b, offs=given),
        lambda a, b: torch.nn.functional.grouped_mm(a, b, offs=None if offs is None else torch.tensor(offs)),
        *operands,
    )


@pytest.mark.parametrize(("a", "b", "offs"), GROUPED[:3], ids=str)
def test_grouped_mm_is_zero_behind_the_last_group_and_maps_over_either_operand(a, b, offs):
    def behind(x, axis):
        return np.concatenate([x, normal(*(3 if i == axis else size for i, size in enumerate(x.shape)))], axis)

    x, y = normal(*a), normal(*b)
    if len(a) == len(b):
        longer = F.grouped_mm(behind(x, 1), behind(y, 0), offs=offs)
    elif len(a) == 2:
        longer = F.grouped_mm(behind(x, 0), y, offs=offs)
    else:
        longer = F.grouped_mm(x, behind(y, 1), offs=offs)
    expected = F.grouped_mm(x, y, offs=offs)
    kept = longer[tuple(slice(size) for size in expected.shape)]
    np.testing.assert_allclose(kept, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jnp.abs(longer).sum(), jnp.abs(expected).sum(), rtol=1e-5)
    many = np.stack([x, 2 * x])
    mapped = jax.vmap(lambda x: F.grouped_mm(x, y, offs=offs))(many)
    np.testing.assert_allclose(mapped, [expected, 2 * expected], rtol=1e-5, atol=1e-5)
    mapped = jax.vmap(lambda y: F.grouped_mm(x, y, offs=offs))(np.stack([y, 2 * y]))
    np.testing.assert_allclose(mapped, [expected, 2 * expected], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(F.grouped_mm(x, y, offs=offs, bias=np.ones(y.shape[-1], np.float32)), expected + 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        ((16, 8), (3, 8, 16), {}, ["offsets", "(16, 8)"]),
        ((3, 8, 8), (3, 8, 16), {"offs": OFFS}, ["offset", "(3, 8, 8)"]),
        ((16, 8), (3, 8, 16), {"offs": OFFS.astype(np.float32)}, ["int32", "float32"]),
        ((16, 8), (3, 8, 16), {"offs": OFFS[:2]}, ["3 offsets", "(2,)"]),
        ((3, 8, 8), (2, 8, 16), {}, ["batched", "(2, 8, 16)"]),
        ((16, 4), (3, 8, 16), {"offs": OFFS}, ["contraction", "(16, 4)"]),
    ],
    ids=str,
)
def test_grouped_mm_refuses(a, b, options, words):
    assert_refused(
        lambda nn, array: nn.functional.grouped_mm(
            array(normal(*a)), array(normal(*b)), **{name: array(value) for name, value in options.items()}
        ),
        *words,
    )


def test_grouped_mm_refuses_groups_out_of_order_or_too_long():
    for offs in ([3, 2, 8], [3, 3, 20]):
        with pytest.raises(RuntimeError, match="grow from 0 to 16"):
            F.grouped_mm(normal(16, 8), normal(3, 8, 16), offs=np.array(offs, np.int32))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)], ids=str)
def test_bilinear(lead, bias, dtype):
    operands = normal(*lead, 5), normal(*lead, 4), normal(6, 5, 4), normal(6) if bias else None
    operands = [None if a is None else a.astype(jnp.dtype(dtype)) for a in operands]
    assert_agree(F.bilinear, torch.nn.functional.bilinear, *operands)


def test_bilinear_takes_integers():
    operands = np.array([[1, 2]]), np.array([[3, 4]]), np.array([[[1, 2], [3, 4]]]), np.array([5])
    assert_agree(F.bilinear, torch.nn.functional.bilinear, *operands)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((2, 3), (1, 4), (5, 3, 4)), ["(2, 3)", "(1, 4)"]),
        (((2, 3), (2, 1, 4), (5, 3, 4)), ["(2, 3)", "(2, 1, 4)"]),
        (((2, 3), (2, 4), (5, 4, 3)), ["(out_features, 3, 4)", "(5, 4, 3)"]),
        (((2, 3), (2, 4), (3, 4)), ["(out_features, 3, 4)", "(3, 4)"]),
        (((2, 0), (2, 4), (5, 0, 4)), ["neither of them 0"]),
        (((2, 3), (2, 4), (5, 3, 4), (4,)), ["(5,)", "(4,)"]),
        (((), (), (5, 3, 4)), ["at least one dimension"]),
    ],
    ids=str,
)
def test_bilinear_refuses(shapes, words):
    assert_refused(lambda nn, array: nn.functional.bilinear(*(array(normal(*shape)) for shape in shapes)), *words)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_bilinear_refuses_mixed_dtypes(place):
    arrays = [normal(2, 3), normal(2, 4), normal(5, 3, 4), normal(5)]
    arrays[place] = arrays[place].astype(np.float16)
    assert_refused(lambda nn, array: nn.functional.bilinear(*map(array, arrays)), "float16", "float32")
