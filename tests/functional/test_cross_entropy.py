"""Likelihoods of classes, and cross entropies, agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn.functional as F
from fnn.nn import LinearCrossEntropyOptions

pytestmark = pytest.mark.filterwarnings("ignore:size_average and reduce", "ignore:linear_cross_entropy")
REDUCTIONS = ["none", "mean", "sum"]


def check(name, *operands, tolerance=None, fixed=(), **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *operands, tolerance=tolerance, fixed=fixed, **options)


def probabilities(*shape):
    values = np.exp(normal(*shape))
    return values / values.sum(min(1, len(shape) - 1), keepdims=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss_options(weighted, reduction):
    weight = np.abs(normal(5)) if weighted else None
    check("nll_loss", normal(3, 5, 2), integers(5, 3, 2), weight, fixed=(2,), reduction=reduction)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 3, 4), (2, 5, 1, 2, 3)], ids=str)
def test_nll_loss_shapes(shape):
    target = integers(5, *np.delete(shape, min(1, len(shape) - 1)))
    check("nll_loss", normal(*shape), target, np.abs(normal(5)), reduction="none", fixed=(2,))


def test_nll_loss_takes_one_index_for_an_input_without_a_batch_axis():
    operands = normal(5), np.array([2])
    for name in ("nll_loss", "cross_entropy"):
        assert_close(getattr(F, name)(*operands), getattr(torch.nn.functional, name)(*map(tensor, operands)))


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 2), (2, 5, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_nothing(name, shape):
    for reduction in REDUCTIONS:
        if shape == (0, 0) and name == "cross_entropy":
            continue
        operands = normal(*shape), np.zeros((shape[0], *shape[2:]), int)
        expected = getattr(torch.nn.functional, name)(*map(tensor, operands), reduction=reduction)
        assert_close(getattr(F, name)(*operands, reduction=reduction), expected)


@settings(max_examples=15)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2), st.integers(1, 2)),
    st.integers(1, 4),
    st.sampled_from(REDUCTIONS),
    st.sampled_from([0.0, 0.3]),
    st.integers(-1, 3),
    st.booleans(),
    st.booleans(),
)
def test_cross_entropy_of_anything(shape, ndim, reduction, label_smoothing, ignore_index, weighted, indices):
    shape = shape[:ndim] if ndim > 1 else shape[1:2]
    along = min(1, ndim - 1)
    x = normal(*shape)
    target = integers(shape[along], *np.delete(shape, along)) if indices else probabilities(*shape)
    weight = np.abs(normal(shape[along])) if weighted else None
    options = {"reduction": reduction, "label_smoothing": label_smoothing, "ignore_index": ignore_index if indices else -100}
    expected = torch.nn.functional.cross_entropy(
        tensor(x), tensor(target), weight if weight is None else tensor(weight), **options
    )
    assert_close(F.cross_entropy(x, target, weight, **options), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("indices", [True, False], ids=["indices", "probabilities"])
def test_cross_entropy_options(indices, label_smoothing, weighted, reduction):
    weight = np.abs(normal(5)) if weighted else None
    target = integers(5, 3, 2) if indices else probabilities(3, 5, 2)
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    check("cross_entropy", normal(3, 5, 2), target, weight, fixed=(2,), **options)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 3, 4)], ids=str)
@pytest.mark.parametrize("indices", [True, False], ids=["indices", "probabilities"])
def test_cross_entropy_shapes(indices, shape):
    target = integers(5, *np.delete(shape, min(1, len(shape) - 1))) if indices else probabilities(*shape)
    check("cross_entropy", normal(*shape), target, np.abs(normal(5)), label_smoothing=0.1, fixed=(2,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 2, 7])
@pytest.mark.parametrize(("name", "options"), [("nll_loss", {}), ("cross_entropy", {"label_smoothing": 0.1})])
def test_an_index_is_ignored(name, options, ignore_index, reduction):
    target = np.array([1, ignore_index, 0, 4, ignore_index])
    options = {"ignore_index": ignore_index, "reduction": reduction, **options}
    check(name, normal(5, 5), target, np.abs(normal(5)), fixed=(2,), **options)


def test_nothing_counts():
    for name in ("nll_loss", "cross_entropy"):
        check(name, normal(3, 5), np.full(3, -100))
        check(name, normal(3, 5), np.full(3, -100), reduction="sum")
    check("cross_entropy", normal(0, 5), normal(0, 5))


def test_nll_loss_ignores_nan_and_infinity_where_nothing_counts():
    x = np.array([[1, np.inf], [np.nan, 2]], np.float32)
    check("nll_loss", x, np.array([0, -100]), reduction="none")
    check("nll_loss", np.array([[-np.inf, 1]], np.float32), np.array([0]), np.array([0, 1], np.float32), fixed=(2,))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("target", [integers(5, 8), probabilities(8, 5)], ids=["indices", "probabilities"])
def test_cross_entropy_takes_16_bits(dtype, target):
    target = target.astype(dtype) if target.dtype.kind == "f" else target
    check("cross_entropy", normal(8, 5, dtype=dtype), target, label_smoothing=0.1, tolerance=2e-2)


def test_cross_entropy_promotes_probabilities():
    check("cross_entropy", normal(4, 5), probabilities(4, 5).astype(jnp.bfloat16), tolerance=1e-2)


def test_label_smoothing_below_0_is_none():
    check("cross_entropy", normal(4, 5), integers(5, 4), label_smoothing=-0.5)
    check("cross_entropy", normal(4, 5), probabilities(4, 5), label_smoothing=-0.5)


def test_class_indices_of_8_bits():
    check("nll_loss", normal(4, 5), integers(5, 4).astype(np.uint8))


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_an_index_out_of_range_gives_nan_while_tracing(name):
    losses = jax.jit(lambda t: getattr(F, name)(jnp.zeros((3, 4)), t, jnp.ones(4), reduction="none"))(jnp.array([3, 4, -1]))
    assert jnp.isnan(losses).tolist() == [False, True, True]


def test_a_constant_target_is_checked_while_tracing():
    target = jnp.array([3, 4])
    with pytest.raises(IndexError, match=r"Target 4 .* 0 to 3"):
        jax.jit(lambda x: F.cross_entropy(x, target))(jnp.zeros((2, 4)))
    assert jax.jit(lambda x: F.cross_entropy(x, target))(jnp.zeros((2, 5))) == pytest.approx(np.log(5))


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_older_reductions(size_average, reduce):
    operands = normal(4, 5), integers(5, 4)
    options = {"size_average": size_average, "reduce": reduce}
    for name in ("nll_loss", "cross_entropy"):
        assert_close(
            getattr(F, name)(*operands, **options), getattr(torch.nn.functional, name)(*map(tensor, operands), **options)
        )


@pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy", "chunked"])
def test_derivatives_of_any_order_and_batches(loss):
    m, t = normal(5, 4), integers(5, 3)
    of = {
        "nll_loss": lambda x: F.nll_loss(x**2, t[:, None].repeat(4, 1)[:, 0] % 4),
        "cross_entropy": lambda x: F.cross_entropy(x, t % 4, label_smoothing=0.1),
        "chunked": lambda x: F.linear_cross_entropy(x, m, t, options=LinearCrossEntropyOptions(batch_chunk_size=2)),
    }[loss]

    @jax.jit
    def both(x, v):
        reverse_over_forward = jax.grad(lambda x: jax.jvp(of, (x,), (v,))[1])(x)
        forward_over_reverse = jax.jvp(jax.grad(of), (x,), (v,))[1]
        return reverse_over_forward, forward_over_reverse, jax.vmap(jax.grad(of))(x[None])[0], jax.grad(of)(x)

    one, other, batched, plain = both(normal(3, 4), normal(3, 4))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batched, plain, rtol=1e-5, atol=1e-6)


# linear_cross_entropy

CHUNKS = [{}, {"batch_chunk_size": 3}, {"batch_chunk_size": 100}, {"chunking_method": "aspect_ratio:1"}]


def check_linear(x, m, t, bias=None, weight=None, options=None, **others):
    ours, theirs = (
        None if options is None else kind(**options) for kind in (LinearCrossEntropyOptions, torch.nn.LinearCrossEntropyOptions)
    )
    operands = (x, m) if bias is None else (x, m, bias)
    assert_agree(
        lambda x, m, b=None: F.linear_cross_entropy(x, m, t, linear_bias=b, weight=weight, options=ours, **others),
        lambda x, m, b=None: torch.nn.functional.linear_cross_entropy(
            x, m, tensor(t), linear_bias=b, weight=None if weight is None else tensor(weight), options=theirs, **others
        ),
        *operands,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", [None, *CHUNKS], ids=str)
def test_linear_cross_entropy(options, reduction):
    weight = np.abs(normal(5))
    target = np.array([1, 2, -100, 4, 0, 3, 3])
    check_linear(normal(7, 3), normal(5, 3), target, normal(5), weight, options, reduction=reduction)


@pytest.mark.parametrize(
    ("shapes", "others"),
    [
        (((3,), (5, 3), ()), {}),
        (((7, 3), (5, 2, 3), (7, 2)), {"label_smoothing": 0.1}),
        (((7, 3), (5, 2, 4, 3), (7, 2, 4)), {"ignore_index": 2}),
        (((7, 3), (5, 3), (7, 5)), {}),
        (((3,), (5, 3), (5,)), {"label_smoothing": 0.1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [None, {"batch_chunk_size": 2}], ids=str)
def test_linear_cross_entropy_shapes(options, shapes, others):
    x, m, t = shapes
    target = probabilities(*t) if 5 in t else integers(5, *t)
    check_linear(normal(*x), normal(*m), target, normal(*m[:-1]), None, options, **others)


def test_linear_cross_entropy_of_nothing():
    for reduction in REDUCTIONS:
        check_linear(normal(0, 3), normal(5, 3), np.zeros(0, int), options={"batch_chunk_size": 2}, reduction=reduction)
    nothing = jnp.ones((2, 3)), jnp.ones((5, 3)), jnp.full(2, -100)
    assert jnp.isnan(F.linear_cross_entropy(*nothing, options=LinearCrossEntropyOptions(batch_chunk_size=2)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_linear_cross_entropy_of_16_bits(dtype):
    operands = normal(7, 3, dtype=dtype), normal(5, 3, dtype=dtype), integers(5, 7)
    whole = F.linear_cross_entropy(*operands)
    chunked = F.linear_cross_entropy(*operands, options=LinearCrossEntropyOptions(batch_chunk_size=2))
    assert whole.dtype == chunked.dtype == dtype
    assert_close(chunked, torch.nn.functional.linear_cross_entropy(*map(tensor, operands)), 2e-2)


def test_linear_cross_entropy_in_chunks_never_has_all_logits():
    x, m, t = jnp.ones((64, 3)), jnp.ones((50, 3)), jnp.zeros(64, int)

    def sizes(options):
        gradient = jax.grad(lambda x, m: F.linear_cross_entropy(x, m, t, options=options), (0, 1))
        text = jax.jit(gradient).lower(x, m).as_text()
        return "64x50x" in text, "8x50x" in text

    assert sizes(None) == (True, False)
    assert sizes(LinearCrossEntropyOptions(batch_chunk_size=8)) == (False, True)


def test_linear_cross_entropy_warns_where_it_ignores_options():
    with pytest.warns(UserWarning, match=r"`options`` ignored.*label_smoothing=0.1"):
        F.linear_cross_entropy(
            jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.zeros(2, int), label_smoothing=0.1, options=LinearCrossEntropyOptions()
        )


def test_an_index_out_of_range_gives_nan_in_chunks_while_tracing():
    options = LinearCrossEntropyOptions(batch_chunk_size=2)
    losses = jax.jit(
        lambda t: F.linear_cross_entropy(jnp.ones((3, 2)), jnp.ones((4, 2)), t, reduction="none", options=options)
    )(jnp.array([3, 4, -1]))
    assert jnp.isnan(losses).tolist() == [False, True, True]


X = normal(4, 5)
CLASSES = integers(5, 4)


@pytest.mark.parametrize(
    ("input", "target", "weight", "options", "words"),
    [
        (X, np.array([0, 1, 2, 5]), None, {}, ["Target 5", "0 to 4"]),
        (X, np.array([0, 1, 2, -1]), None, {}, ["Target -1", "0 to 4"]),
        (X, integers(5, 3), None, {}, ["[4]", "[4, 5]", "[3]"]),
        (X, integers(5, 4, 1), None, {}, ["[4]", "[4, 1]"]),
        (normal(2, 5, 4), integers(5, 2, 3), None, {}, ["[2, 4]", "[2, 3]"]),
        (normal(2, 5, 4), integers(5, 2), None, {}, ["[2, 4]", "[2]"]),
        (normal(2, 5, 4, 3), integers(5, 2, 4), None, {}, ["[2, 4, 3]", "[2, 4]"]),
        (normal(2, 5, 4, 3), integers(5, 3, 4, 3), None, {}, ["[2, 4, 3]", "[3, 4, 3]"]),
        (normal(5), integers(5, 3), None, {}, ["[3]"]),
        (X, np.array(2), None, {}, ["[4]", "[]"]),
        (X, normal(4), None, {}, ["integer", "float32"]),
        (X, np.ones(4, bool), None, {}, ["integer", "bool"]),
        (X, np.ones(4, np.int16), None, {}, ["integer", "int16"]),
        (np.float32(1) * np.ones(()), np.array(0), None, {}, ["scalar"]),
        (X, CLASSES, normal(4), {}, ["5 classes", "[4]"]),
        (X, CLASSES, normal(5, 1), {}, ["5 classes", "[5, 1]"]),
        (X, CLASSES, normal(5, dtype=np.float16), {}, ["float32", "float16"]),
        (X, CLASSES, None, {"reduction": "max"}, ["max"]),
        (integers(2, 4, 5), CLASSES, None, {}, ["int32", "floating-point"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_refuses(name, input, target, weight, options, words):
    def call(nn, array):
        getattr(nn.functional, name)(array(input), array(target), None if weight is None else array(weight), **options)

    assert_refused(call, *words)


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (integers(5, 4, 5), {}, ["floating point", "int32"]),
        (probabilities(4, 5), {"ignore_index": 1}, ["ignore_index", "floating point"]),
        (probabilities(4, 5), {"label_smoothing": 1.1}, ["between 0.0 and 1.0", "1.1"]),
        (CLASSES, {"label_smoothing": 1.1}, ["between 0.0 and 1.0", "1.1"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_cross_entropy_refuses(target, options, words):
    assert_refused(lambda nn, array: nn.functional.cross_entropy(array(X), array(target), **options), *words)


@pytest.mark.parametrize(
    ("shapes", "target", "others", "options", "words"),
    [
        (((2, 3, 4), (5, 4)), CLASSES, {}, None, ["1 or 2", "3"]),
        (((4, 3), (5,)), CLASSES, {}, None, ["at least 2", "1"]),
        (((4, 3), (5, 4)), CLASSES, {}, None, ["3", "4"]),
        (((3,), (5, 2, 3)), CLASSES, {}, None, ["batched", "(3,)"]),
        (((4, 3), (5, 3)), CLASSES, {"linear_bias": normal(4)}, None, ["(5,)", "(4,)"]),
        (((4, 3), (5, 3)), probabilities(4, 5), {"ignore_index": -100}, None, ["probabilities", "-100"]),
        (((4, 3), (5, 3)), CLASSES, {"reduction": "max"}, {}, ["max"]),
        (((4, 3), (5, 3)), CLASSES + 5, {}, {}, ["0 to 4"]),
        (((4, 3), (5, 3)), CLASSES[:3], {}, {"batch_chunk_size": 2}, ["[4]", "[3]"]),
        (((4, 3), (5, 3)), CLASSES, {}, {"batch_chunk_size": 3, "chunking_method": "aspect_ratio"}, ["3", "2"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_linear_cross_entropy_refuses(shapes, target, others, options, words):
    x, m = (normal(*shape) for shape in shapes)

    def call(nn, array):
        own = {name: array(value) if isinstance(value, np.ndarray) else value for name, value in others.items()}
        chosen = None if options is None else nn.LinearCrossEntropyOptions(**options)
        nn.functional.linear_cross_entropy(array(x), array(m), array(target), **own, options=chosen)

    assert_refused(call, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_chunk_size": 0}, ["0"]),
        ({"batch_chunk_size": 1.5}, ["1.5"]),
        ({"chunking_method": "aspect"}, ["aspect"]),
        ({"chunking_method": "aspect_ratio:0"}, ["aspect_ratio:0"]),
        ({"acc_policy": "none"}, ["none"]),
    ],
    ids=str,
)
def test_options_refuse(options, words):
    assert_refused(lambda nn, array: nn.LinearCrossEntropyOptions(**options), *words)


def test_options_refuse_other_dtypes():
    with pytest.raises(ValueError, match=r"acc_dtype .*int32"):
        LinearCrossEntropyOptions(acc_dtype=jnp.int32)
    options = LinearCrossEntropyOptions(acc_dtype=np.float16)
    with pytest.raises(RuntimeError, match="float16 acc_dtype and float32 inputs"):
        F.linear_cross_entropy(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.zeros(2, int), options=options)
    assert repr(LinearCrossEntropyOptions()) == repr(torch.nn.LinearCrossEntropyOptions())
