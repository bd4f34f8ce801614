"""Losses with a margin agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn.functional as F

REDUCTIONS = ["none", "mean", "sum"]


def check(name, *operands, tolerance=None, fixed=(), **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *operands, tolerance=tolerance, fixed=fixed, **options)


def signs(*shape):
    return np.where(integers(2, *shape) == 1, 1, -1)


LABELS = np.array([[0, 3, -1, 1], [-1, 0, 0, 0], [2, 2, 1, -1]])
WEIGHT = np.abs(normal(4))
# For each loss its operands, and options to try.
LOSSES = {
    "hinge_embedding_loss": ((normal(3, 4), signs(3, 4)), [{}, {"margin": 0.3}, {"margin": -0.5}]),
    "margin_ranking_loss": ((normal(3, 4), normal(3, 4), signs(3, 4)), [{}, {"margin": 0.5}]),
    "soft_margin_loss": ((normal(3, 4), signs(3, 4)), [{}]),
    "multilabel_soft_margin_loss": ((normal(3, 4), integers(2, 3, 4)), [{}, {"weight": WEIGHT}]),
    "multi_margin_loss": ((normal(3, 4), integers(4, 3)), [{}, {"p": 2, "margin": 0.4}, {"weight": WEIGHT}]),
    "multilabel_margin_loss": ((normal(3, 4), LABELS), [{}]),
    "cosine_embedding_loss": ((normal(3, 4), normal(3, 4), np.array([1, -1, -1])), [{}, {"margin": -0.5}]),
    "triplet_margin_loss": (
        (normal(3, 4), normal(3, 4), normal(3, 4)),
        [{}, {"margin": 0.4, "p": 1.5, "swap": True}, {"p": 1}, {"p": np.inf, "eps": 0.1}],
    ),
    "triplet_margin_with_distance_loss": ((normal(3, 4), normal(3, 4), normal(3, 4)), [{}, {"margin": 2.0, "swap": True}]),
}
CASES = [(name, options) for name, (_, each) in LOSSES.items() for options in each]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(list(value)) if isinstance(value, dict) else value)
def test_options(name, options, reduction):
    operands, _ = LOSSES[name]
    converted = {key: tensor(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    assert_agree(
        lambda *xs: getattr(F, name)(*xs, reduction=reduction, **options),
        lambda *xs: getattr(torch.nn.functional, name)(*xs, reduction=reduction, **converted),
        *operands,
    )


@pytest.mark.parametrize(
    "name", ["multi_margin_loss", "multilabel_margin_loss", "cosine_embedding_loss", "triplet_margin_loss"]
)
def test_inputs_without_a_batch_axis(name):
    operands, _ = LOSSES[name]
    for reduction in REDUCTIONS:
        check(name, *(np.asarray(operand[0]) for operand in operands), reduction=reduction)


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("multi_margin_loss", (normal(), np.array(0))),
        ("multi_margin_loss", (normal(), np.array([0]))),
        ("multi_margin_loss", (normal(4), np.array([2]))),
        ("multi_margin_loss", (normal(1, 4), np.array(2))),
        ("multilabel_margin_loss", (normal(), np.array(0))),
        ("multilabel_margin_loss", (normal(1), np.array(-1))),
        ("multilabel_soft_margin_loss", (normal(2, 3, 4), normal(4))),
        ("multilabel_soft_margin_loss", (normal(3), normal(2, 3))),
        ("hinge_embedding_loss", (normal(3), signs(2, 3))),
        ("margin_ranking_loss", (normal(2, 3), normal(1, 3), signs(2, 1))),
        ("soft_margin_loss", (normal(2, 3), signs(3))),
        ("cosine_embedding_loss", (normal(2, 3), normal(1, 3), np.array([1]))),
        ("triplet_margin_loss", (normal(2, 3, 4), normal(1, 3, 4), normal(2, 3, 1))),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(str(operand.shape) for operand in value),
)
def test_shapes(name, operands):
    fixed = (1,) if name == "multilabel_soft_margin_loss" else ()
    check(name, *operands, reduction="none", fixed=fixed)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing(name):
    operands = [operand[:0] for operand in LOSSES[name][0]]
    for reduction in ["none", "sum"] if name.startswith(("multi_margin", "multilabel_margin")) else REDUCTIONS:
        ours = getattr(F, name)(*operands, reduction=reduction)
        if reduction == "sum":
            assert ours == 0
        else:
            assert_close(ours, getattr(torch.nn.functional, name)(*map(tensor, operands), reduction=reduction))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize(
    "name", ["hinge_embedding_loss", "soft_margin_loss", "multilabel_soft_margin_loss", "cosine_embedding_loss"]
)
def test_16_bits(name, dtype):
    operands = [operand.astype(dtype) if operand.dtype.kind == "f" else operand for operand in LOSSES[name][0]]
    check(name, *operands, tolerance=2e-2)


@pytest.mark.parametrize("name", ["multi_margin_loss", "multilabel_margin_loss"])
def test_16_bits_where_torch_has_none(name):
    input, target = LOSSES[name][0]
    loss = getattr(F, name)(jnp.asarray(input, jnp.bfloat16), target)
    assert loss.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(loss), getattr(F, name)(input, target), rtol=1e-2)


def test_the_gradient_at_the_margin():
    check("hinge_embedding_loss", np.array([1, 2, 0.5, np.inf, 3], np.float32), np.array([-1, -1, 0, -1, 1]), reduction="none")
    y = np.ones(3, np.float32)
    check("margin_ranking_loss", np.array([1, 2, 0], np.float32), np.array([0, 2, 9], np.float32), y, margin=1.0, fixed=(2,))
    check("multi_margin_loss", np.array([[1, 0, 2], [1, 2, 1]], np.float32), np.array([0, 1]), reduction="none")
    check("multilabel_margin_loss", np.array([[1, 0, 2], [1, 2, 1]], np.float32), np.array([[0, 0, -1], [1, -1, 2]]))


def test_the_gradient_of_equal_and_of_zero_vectors():
    x, y = np.array([[0, 0], [1, 0], [0, 0]], np.float32), np.array([[1, 1], [0, 1], [1, 1]], np.float32)
    check("cosine_embedding_loss", x, y, np.array([1, -1, -1]), reduction="none")
    check("triplet_margin_loss", x, x, y, eps=0.0, swap=True, reduction="none")
    check("triplet_margin_loss", y, x, x, eps=0.0, margin=1.0, swap=True, reduction="none")


@pytest.mark.parametrize("name", ["multi_margin_loss", "multilabel_margin_loss"])
def test_a_comparison_with_nan_adds_nothing(name):
    target = {"multi_margin_loss": np.array([0, 1]), "multilabel_margin_loss": np.array([[0, -1, 0], [1, -1, 0]])}[name]
    check(name, np.array([[1, np.nan, 0], [1, np.nan, 0]], np.float32), target, reduction="none")


def test_soft_margin_loss_does_not_overflow():
    x, y = np.array([-200, 200, 0, np.nan], np.float32), np.array([1, 1, 1, 1])
    losses, gradient = jax.vjp(lambda x: F.soft_margin_loss(x, y, reduction="none"), x)
    np.testing.assert_allclose(losses, [200, 0, np.log(2), np.nan], rtol=1e-6)
    np.testing.assert_allclose(gradient(jnp.ones(4))[0], [-1, 0, -0.5, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("hinge_embedding_loss", (np.float16, np.float32)),
        ("margin_ranking_loss", (int, int, int)),
        ("margin_ranking_loss", (np.float32, np.float16, int)),
        ("soft_margin_loss", (np.float16, np.float32)),
        ("multilabel_soft_margin_loss", (np.float16, np.float32)),
        ("cosine_embedding_loss", (int, np.float32, np.float32)),
        ("cosine_embedding_loss", (bool, bool, int)),
        ("triplet_margin_loss", (int, int, int)),
        ("triplet_margin_loss", (np.complex64, np.float32, np.float32)),
    ],
    ids=str,
)
def test_promotes(name, dtypes):
    operands = [np.clip(operand * 2, -3, 3).astype(dtype) for operand, dtype in zip(LOSSES[name][0], dtypes, strict=True)]
    assert_close(getattr(F, name)(*operands), getattr(torch.nn.functional, name)(*map(tensor, operands)), 2e-3)


def test_hinge_embedding_loss_of_integers():
    for reduction in ["none", "sum"]:
        check("hinge_embedding_loss", integers(3, 5), signs(5), margin=1.5, reduction=reduction)


def test_triplet_margin_with_distance_loss_takes_any_distance():
    operands = normal(3, 4), normal(3, 4), normal(3, 4)
    ours = F.triplet_margin_with_distance_loss(*operands, distance_function=lambda a, b: abs(a - b).max(-1))
    theirs = torch.nn.functional.triplet_margin_with_distance_loss(
        *map(tensor, operands), distance_function=lambda a, b: abs(a - b).max(-1).values
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize(("name", "place"), [("multi_margin_loss", 1), ("multilabel_margin_loss", (1, 0))])
def test_an_index_out_of_range_gives_nan_while_tracing(name, place):
    input, target = LOSSES[name][0]
    for wrong in (4, -2):
        changed = target.copy()
        changed[place] = wrong
        losses = jax.jit(lambda t: getattr(F, name)(input, t, reduction="none"))(changed)
        assert jnp.isnan(losses).tolist() == [False, True, False]


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_of_any_order_and_batches(name):
    operands, _ = LOSSES[name]
    others = operands[1:]

    def loss(x):
        return getattr(F, name)(x, *others)

    @jax.jit
    def both(x, v):
        reverse_over_forward = jax.grad(lambda x: jax.jvp(loss, (x,), (v,))[1])(x)
        forward_over_reverse = jax.jvp(jax.grad(loss), (x,), (v,))[1]
        return reverse_over_forward, forward_over_reverse, jax.vmap(jax.grad(loss))(x[None])[0], jax.grad(loss)(x)

    one, other, batched, plain = both(operands[0], normal(3, 4))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batched, plain, rtol=1e-5, atol=1e-6)


X = normal(3, 4)
T = integers(4, 3)


@pytest.mark.parametrize(
    ("name", "operands", "options", "words"),
    [
        ("hinge_embedding_loss", (X, signs(5)), {}, ["[3, 4]", "[5]"]),
        ("hinge_embedding_loss", (X > 0, X), {}, ["bool"]),
        ("hinge_embedding_loss", (X + 0j, X), {}, ["complex64"]),
        ("hinge_embedding_loss", (T, T), {}, ["int32"]),
        ("margin_ranking_loss", (X, X, T), {}, ["[3, 4]", "[3]"]),
        ("margin_ranking_loss", (X > 0, X > 0, X), {}, ["bool"]),
        ("margin_ranking_loss", (X + 0j, X, X), {}, ["complex64"]),
        ("soft_margin_loss", (X, normal(2, 3, 4)), {}, ["[3, 4]", "[2, 3, 4]"]),
        ("soft_margin_loss", (T, T), {}, ["int32"]),
        ("multilabel_soft_margin_loss", (normal(), normal()), {}, ["scalar"]),
        ("multilabel_soft_margin_loss", (T, X[0]), {}, ["int32"]),
        ("multilabel_soft_margin_loss", (X, X, normal(3)), {}, ["[3, 4]", "[3]"]),
        ("multilabel_soft_margin_loss", (X, X), {"reduction": "max"}, ["max"]),
        ("multi_margin_loss", (X, T + 4), {}, ["0 to 3"]),
        ("multi_margin_loss", (X, T[:2]), {}, ["[3, 4]", "[2]"]),
        ("multi_margin_loss", (X, T[:, None]), {}, ["[3, 4]", "[3, 1]"]),
        ("multi_margin_loss", (normal(2, 3, 4), T), {}, ["[2, 3, 4]"]),
        ("multi_margin_loss", (normal(2, 0), T[:2]), {}, ["[2, 0]"]),
        ("multi_margin_loss", (X, T), {"p": 3}, ["3"]),
        ("multi_margin_loss", (X, T.astype(np.uint8)), {}, ["uint8"]),
        ("multi_margin_loss", (integers(3, 3, 4), T), {}, ["int32"]),
        ("multi_margin_loss", (X, T, 1, 1.0, normal(3)), {}, ["4", "[3]"]),
        ("multi_margin_loss", (X, T, 1, 1.0, normal(4, 1)), {}, ["[4, 1]"]),
        ("multi_margin_loss", (X, T, 1, 1.0, normal(4, dtype=np.float16)), {}, ["float16"]),
        ("multilabel_margin_loss", (X, LABELS + 1), {}, ["0 to 3"]),
        ("multilabel_margin_loss", (X, LABELS - 1), {}, ["-2"]),
        ("multilabel_margin_loss", (X, LABELS[:2]), {}, ["[3, 4]", "[2, 4]"]),
        ("multilabel_margin_loss", (X, X), {}, ["float32"]),
        ("cosine_embedding_loss", (X, X, T[:, None]), {}, ["[3, 1]"]),
        ("cosine_embedding_loss", (X[0], X[0], T), {}, ["2D", "[4]"]),
        ("cosine_embedding_loss", (X, X, T[:2]), {}, ["[3]", "[2]"]),
        ("cosine_embedding_loss", (X, normal(3, 5), T), {}, ["[3, 4]", "[3, 5]"]),
        ("cosine_embedding_loss", (X + 0j, X, T), {}, ["complex64"]),
        ("triplet_margin_loss", (X, X, X[0]), {}, ["2D", "1D"]),
        ("triplet_margin_loss", (X, X, normal(3, 5)), {}, ["[3, 4]", "[3, 5]"]),
        ("triplet_margin_loss", (X, X, X), {"margin": 0}, ["0"]),
        ("triplet_margin_with_distance_loss", (X, X[0], X), {}, ["2D", "1D"]),
        ("triplet_margin_with_distance_loss", (X, X, X), {"margin": -1.0}, ["-1.0"]),
        ("triplet_margin_with_distance_loss", (X, X, X), {"reduction": "max"}, ["max"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(name, operands, options, words):
    def call(nn, array):
        getattr(nn.functional, name)(*(array(o) if isinstance(o, np.ndarray) else o for o in operands), **options)

    assert_refused(call, *words)
