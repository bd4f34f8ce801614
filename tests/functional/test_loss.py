"""Losses agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn.functional as F

pytestmark = pytest.mark.filterwarnings("ignore:size_average and reduce", "ignore:Using a target size")
REDUCTIONS = ["none", "mean", "sum"]


def check(name, *operands, tolerance=None, fixed=(), **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *operands, tolerance=tolerance, fixed=fixed, **options)


def probabilities(*shape):
    values = np.exp(normal(*shape))
    return values / values.sum(min(1, len(shape) - 1), keepdims=True)


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
def test_cross_entropy_ignores_an_index(ignore_index, reduction):
    target = np.array([1, ignore_index, 0, 4, ignore_index])
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": 0.1}
    check("cross_entropy", normal(5, 5), target, np.abs(normal(5)), fixed=(2,), **options)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_nothing(reduction):
    check("cross_entropy", normal(3, 5), np.full(3, -100), reduction=reduction)
    check("cross_entropy", normal(0, 5), np.zeros(0, int), reduction=reduction)
    check("cross_entropy", normal(0, 5), normal(0, 5), reduction=reduction)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("target", [integers(5, 8), probabilities(8, 5)], ids=["indices", "probabilities"])
def test_cross_entropy_takes_16_bits(dtype, target):
    target = target.astype(dtype) if target.dtype.kind == "f" else target
    check("cross_entropy", normal(8, 5, dtype=dtype), target, label_smoothing=0.1, tolerance=2e-2)


def test_cross_entropy_promotes_probabilities():
    check("cross_entropy", normal(4, 5), probabilities(4, 5).astype(jnp.bfloat16), tolerance=1e-2)


def test_cross_entropy_gives_nan_for_an_index_that_is_out_of_range_while_tracing():
    losses = jax.jit(lambda t: F.cross_entropy(jnp.zeros((3, 4)), t, reduction="none"))(jnp.array([3, 4, -1]))
    assert jnp.isnan(losses).tolist() == [False, True, True]


def test_cross_entropy_checks_a_constant_target_while_tracing():
    target = jnp.array([3, 4])
    with pytest.raises(IndexError, match=r"Target 4 .* 0 to 3"):
        jax.jit(lambda x: F.cross_entropy(x, target))(jnp.zeros((2, 4)))
    assert jax.jit(lambda x: F.cross_entropy(x, target))(jnp.zeros((2, 5))) == pytest.approx(np.log(5))


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
        (normal(2, 5, 4, 3), integers(5, 2, 4), None, {}, ["[2, 4, 3]", "[2, 4]"]),
        (X, integers(5, 4, 5), None, {}, ["floating point", "int32"]),
        (X, normal(4), None, {}, ["integer", "float32"]),
        (np.float32(1), np.array(0), None, {}, ["scalar"]),
        (X, probabilities(4, 5), None, {"ignore_index": 1}, ["ignore_index", "floating point"]),
        (X, CLASSES, normal(4), {}, ["5 classes", "[4]"]),
        (X, CLASSES, normal(5, 1), {}, ["5 classes", "[5, 1]"]),
        (X, CLASSES, normal(5, dtype=np.float16), {}, ["float32", "float16"]),
        (X, CLASSES, None, {"label_smoothing": 1.1}, ["between 0.0 and 1.0", "1.1"]),
        (X, CLASSES, None, {"reduction": "max"}, ["max"]),
        (integers(2, 4, 5), CLASSES, None, {}, ["int32", "floating-point"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_cross_entropy_refuses(input, target, weight, options, words):
    def call(nn, array):
        nn.functional.cross_entropy(array(input), array(target), None if weight is None else array(weight), **options)

    assert_refused(call, *words)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_mse_loss(reduction, weighted):
    weight = np.abs(normal(3, 4)) if weighted else None
    check("mse_loss", normal(3, 4), normal(3, 4), None, None, reduction, weight, fixed=(5,))


@pytest.mark.parametrize(("dtype", "other"), [(np.float32, jnp.bfloat16), (np.float32, int), (np.float16, np.float16)])
def test_mse_loss_promotes(dtype, other):
    check("mse_loss", normal(3, 4, dtype=dtype), normal(3, 4).astype(other), tolerance=1e-2)


def test_mse_loss_warns_where_it_broadcasts():
    with pytest.warns(UserWarning, match=r"target size \(\[1, 4\]\) .* input size \(\[3, 4\]\)"):
        check("mse_loss", normal(3, 4), normal(1, 4))


def test_mse_loss_averages_16_bits_in_float32():
    assert F.mse_loss(jnp.full(4096, 100, jnp.float16), jnp.zeros(4096, jnp.float16)) == 10000


@pytest.mark.parametrize(
    ("operands", "options", "words"),
    [
        ((normal(3, 4), normal(2, 4)), {}, ["[3, 4]", "[2, 4]"]),
        ((normal(3, 4), normal(3, 4), normal(3, 1)), {}, ["[3, 4]", "[3, 1]"]),
        ((integers(3, 3), integers(3, 3)), {}, ["int32", "floating-point"]),
        ((normal(3), normal(3)), {"reduction": "max"}, ["max"]),
    ],
    ids=["sizes", "weight", "integers", "reduction"],
)
def test_mse_loss_refuses(operands, options, words):
    def call(nn, array):
        input, target, *weight = map(array, operands)
        nn.functional.mse_loss(input, target, weight=weight[0] if weight else None, **options)

    assert_refused(call, *words)


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_older_reductions(size_average, reduce):
    operands = normal(4, 5), integers(5, 4)
    options = {"size_average": size_average, "reduce": reduce}
    expected = torch.nn.functional.cross_entropy(*map(tensor, operands), **options)
    assert_close(F.cross_entropy(*operands, **options), expected)
    if options != {"size_average": None, "reduce": None}:
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            F.mse_loss(jnp.ones(2), jnp.ones(2), **options)
