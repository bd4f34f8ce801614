"""Scaled dot product attention agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_refused, integers, normal, numpy, tensor, torch

import fnn
import fnn.functional as F

INF = float("inf")
SHAPES = (2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)


def agree(*operands, **options):
    assert_agree(F.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention, *operands, **options)


def arrays(*shapes, dtype=np.float32):
    return [normal(*shape, dtype=dtype) for shape in shapes]


def boolean(*shape):
    return integers(2, *shape) > 0


@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"scale": 0.3}, {"scale": -2}, {"scale": 0.0, "is_causal": True}], ids=str
)
@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES,
        ((4, 8), (5, 8), (5, 8)),
        ((3, 7, 8), (3, 5, 8), (3, 5, 8)),
        ((2, 1, 3, 7, 8), (2, 1, 3, 5, 8), (2, 1, 3, 5, 8)),
    ],
    ids=["4D", "2D", "3D", "5D"],
)
def test_attention(shapes, options):
    agree(*arrays(*shapes), **options)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 4, 8), (1, 3, 5, 8), (1, 1, 5, 8)),
        ((1, 3, 4, 8), (2, 1, 5, 8), (2, 3, 5, 8)),
        ((2, 3, 4, 8), (3, 5, 8), (5, 6)),
        ((4, 8), (2, 3, 5, 8), (3, 5, 6)),
        ((1, 4, 8), (1, 5, 8), (2, 5, 8)),
    ],
    ids=str,
)
def test_leading_axes_broadcast(shapes):
    agree(*arrays(*shapes))


@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (4, 1), (2, 3, 4, 5), (2, 1, 1, 5), (3, 4, 5), (2, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_broadcast(kind, shape):
    mask = boolean(*shape) if kind == "bool" else normal(*shape)
    invariant = kind == "float" and shape[-1] == 1  # a shift of all scores of a query: the gradient is rounding
    agree(*arrays(*SHAPES), mask, fixed=(3,) if invariant else ())


@pytest.mark.parametrize("shape", [(5,), (1,), ()], ids=str)
def test_masks_may_have_less_than_two_axes(shape):
    agree(*arrays(*(shape[1:] for shape in SHAPES)), np.array(boolean(*shape)))


@pytest.mark.parametrize("shapes", [SHAPES, tuple(shape[1:] for shape in SHAPES)], ids=["4D", "3D"])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_sees_no_key_has_zero_and_gradient_zero(kind, shapes):
    mask = boolean(4, 5)
    mask[1], mask[2] = False, True
    mask = mask if kind == "bool" else np.where(mask, normal(4, 5), np.float32(-INF))
    operands = arrays(*shapes)
    agree(*operands, mask)
    out, pull = jax.vjp(lambda *a: F.scaled_dot_product_attention(*a, mask), *map(jnp.asarray, operands))
    assert not out[..., 1, :].any()
    assert not pull(jnp.ones_like(out))[0][..., 1, :].any()


@pytest.mark.parametrize(
    ("heads", "others"),
    [((4, 2, 2), {}), ((4, 1, 1), {}), ((6, 2, 3), {}), ((4, 4, 2), {}), ((4, 2, 2), {"is_causal": True}), ((3, 3, 3), {})],
    ids=str,
)
def test_heads_of_query_share_keys_and_values(heads, others):
    agree(*arrays(*((2, count, *shape[2:]) for count, shape in zip(heads, SHAPES, strict=True))), **others, enable_gqa=True)


def test_shared_heads_take_masks_and_other_ranks():
    for shape in [(4, 5), (4, 4, 5), (2, 1, 4, 5)]:
        agree(*arrays((2, 4, 4, 8), (2, 2, 5, 8), (2, 2, 5, 8)), boolean(*shape), enable_gqa=True)
    agree(*arrays((4, 4, 8), (2, 5, 8), (2, 5, 8)), enable_gqa=True)
    agree(*arrays((2, 4, 4, 8), (2, 5, 8), (1, 2, 5, 8)), enable_gqa=True)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_16_bits_are_rounded_once(dtype):
    # Exact up to the last rounding, which torch's kernel for 4 axes is not.
    operands = arrays((3, 40, 8), (3, 50, 8), (3, 50, 8), dtype=dtype)
    ours = F.scaled_dot_product_attention(*operands, normal(40, 50))
    assert ours.dtype == dtype
    agree(*operands)
    agree(*operands, normal(40, 50), fixed=(3,))


@pytest.mark.parametrize("mask", [None, boolean(4, 5), normal(4, 5)], ids=["", "bool", "float"])
def test_float64_keeps_its_precision(mask):
    operands = [x.astype(np.float64) for x in arrays(*SHAPES)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*map(tensor, operands), None if mask is None else tensor(mask))
    with jax.enable_x64(True):
        ours = F.scaled_dot_product_attention(*operands, mask)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("empty", ["batch", "L", "S", "E", "Ev"])
def test_takes_empty_axes(empty, is_causal):
    size = {"batch": 2, "L": 4, "S": 5, "E": 8, "Ev": 6, empty: 0}
    agree(*arrays(*((size["batch"], *(size[axis] for axis in axes)) for axes in (("L", "E"), ("S", "E"), ("S", "Ev")))),
          is_causal=is_causal)  # fmt: skip


@settings(max_examples=12)
@given(st.data())
def test_any_sizes(data):
    leading = data.draw(st.lists(st.integers(1, 3), max_size=3))
    length, keys, size, width = (data.draw(st.integers(1, 6)) for _ in range(4))
    operands = arrays((*leading, length, size), (*leading, keys, size), (*leading, keys, width))
    scores = (*leading, length, keys)
    kind = data.draw(st.sampled_from(["none", "causal", "bool", "float"]))
    if kind in ("bool", "float"):
        shape = [data.draw(st.sampled_from([1, n])) for n in scores][data.draw(st.integers(0, len(leading))) :]
        operands.append(boolean(*shape) if kind == "bool" else normal(*shape))
    # Where every query sees one key, the gradient is 0 in torch and rounding here.
    agree(*operands, is_causal=kind == "causal", fixed=(3,), tolerance=2e-4)


@pytest.mark.parametrize("value", [np.nan, INF])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_and_infinity_are_seen(place, value):
    operands = arrays(*(shape[1:] for shape in SHAPES))
    operands[place][:, 2] = value
    mask = np.arange(5) != 2
    for options in ({}, {"attn_mask": mask}):
        ours = F.scaled_dot_product_attention(*operands, **options)
        options = {name: tensor(option) for name, option in options.items()}
        theirs = torch.nn.functional.scaled_dot_product_attention(*map(tensor, operands), **options)
        np.testing.assert_allclose(ours, numpy(theirs), atol=1e-5)


def test_dropout_drops_weights_and_scales_the_others():
    query, key = map(jnp.asarray, arrays((2, 50, 8), (2, 40, 8)))

    def weights(p, seed=0):
        with fnn.rng(seed):
            return np.asarray(F.scaled_dot_product_attention(query, key, jnp.eye(40), dropout_p=p))

    dropped = weights(0.25)
    kept = dropped != 0
    np.testing.assert_allclose(dropped, weights(0.0) / 0.75 * kept, atol=1e-6)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    assert (weights(0.25) == dropped).all()
    assert (weights(0.25, seed=1) != dropped).any()
    assert not weights(1.0).any()


def test_dropout_draws_under_fnn_jit_and_not_where_it_is_zero():
    operands = arrays(*SHAPES)
    compiled = fnn.jit(lambda *a: F.scaled_dot_product_attention(*a, dropout_p=0.5))
    assert (compiled(*operands) != compiled(*operands)).any()
    with pytest.raises(fnn.StateError):
        jax.jit(lambda *a: F.scaled_dot_product_attention(*a, dropout_p=0.5))(*operands)
    before = fnn.random.default_generator.offset
    F.scaled_dot_product_attention(*operands)
    assert fnn.random.default_generator.offset == before


Q, K, V = arrays(*SHAPES)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, a: f(a(Q[0, 0, 0]), a(K), a(V)), ["2 dimensional", "query.dim: 1"]),
        (lambda f, a: f(a(Q), a(K[..., :7]), a(V)), ["8", "7"]),
        (lambda f, a: f(a(Q[0]), a(K[0]), a(V[0, :, :4])), ["5", "4"]),
        (lambda f, a: f(a(Q), a(K[:, :2]), a(V)), ["[2, 3]", "[2, 2]"]),
        (lambda f, a: f(a(Q), a(K.astype(np.float16)), a(V)), ["float32", "float16"]),
        (lambda f, a: f(*(a(x.astype(np.int32)) for x in (Q, K, V))), ["int32"]),
        (lambda f, a: f(*(a(x > 0) for x in (Q, K, V))), ["bool"]),
        (lambda f, a: f(*(a(x + 0j) for x in (Q, K, V))), ["complex64"]),
        (lambda f, a: f(a(Q), a(K), a(V), a(normal(4, 6))), ["[2, 3, 4, 5]", "[4, 6]"]),
        (lambda f, a: f(a(Q), a(K), a(V), a(boolean(3, 5, 5))), ["[2, 3, 4, 5]", "[3, 5, 5]"]),
        (lambda f, a: f(a(Q), a(K), a(V), a(normal(1, 2, 3, 4, 5))), ["[2, 3, 4, 5]", "[1, 2, 3, 4, 5]"]),
        (lambda f, a: f(a(Q[:1]), a(K[:1]), a(V[:1]), a(normal(2, 3, 4, 5))), ["[1, 3, 4, 5]", "[2, 3, 4, 5]"]),
        (lambda f, a: f(a(Q), a(K), a(V), a(integers(2, 4, 5).astype(np.int32))), ["bool or float", "int32", "float32"]),
        (lambda f, a: f(a(Q), a(K), a(V), a(normal(4, 5, dtype=np.float16))), ["float16", "float32"]),
        (lambda f, a: f(a(Q[0]), a(K[0]), a(V[0]), a(normal(4, 5)), is_causal=True), ["is_causal=True", "[4, 5]"]),
        (lambda f, a: f(a(Q), a(K), a(V), dropout_p=1.5), ["between 0 and 1", "1.5"]),
        (lambda f, a: f(a(Q), a(K), a(K), dropout_p=-0.5), ["-0.5"]),
        (lambda f, a: f(a(Q), a(K), a(V), dropout_p="half"), ["float", "str"]),
        (lambda f, a: f(a(Q), a(K), a(V), scale="half"), ["float", "str"]),
        (lambda f, a: f(a(Q), a(K), a(V), is_causal=1), ["is_causal", "bool", "int"]),
        (lambda f, a: f(a(Q), a(K), a(V), enable_gqa=None), ["enable_gqa", "NoneType"]),
        (lambda f, a: f(a(Q), a(K[:, :2]), a(V[:, :2]), enable_gqa=True), ["divide", "2", "3"]),
        (lambda f, a: f(a(Q[0, 0]), a(K[0, 0]), a(V[0, 0]), enable_gqa=True), ["3 dimensions"]),
        (lambda f, a: f(None, a(K), a(V)), ["query", "NoneType"]),
        (lambda f, a: f(a(Q), a(K), a(V), "mask"), ["attn_mask", "str"]),
        (lambda f, a: f(a(Q), a(K), a(V), None, 0.0, False, 0.5), ["positional"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(call, words):
    assert_refused(lambda nn, array: call(nn.functional.scaled_dot_product_attention, array), *words)


def test_refuses_a_mask_besides_is_causal():
    with pytest.raises(RuntimeError, match="is_causal=True"):
        F.scaled_dot_product_attention(Q, K, V, boolean(4, 5), is_causal=True)
