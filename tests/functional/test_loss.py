"""Losses of elements agree with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn.functional as F

pytestmark = pytest.mark.filterwarnings("ignore:size_average", "ignore:Using a target size", "ignore:reduction")
REDUCTIONS = ["none", "mean", "sum"]


def check(name, *operands, tolerance=None, fixed=(), **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *operands, tolerance=tolerance, fixed=fixed, **options)


def refuses(name, operands, options, words):
    def call(nn, array):
        getattr(nn.functional, name)(*(array(o) if isinstance(o, np.ndarray) else o for o in operands), **options)

    assert_refused(call, *words)


def uniform(*shape):
    return np.random.random(shape).astype(np.float32)


# For each loss its operands, and options to try.
LOSSES = {
    "l1_loss": ((normal(3, 4), normal(3, 4)), [{}]),
    "mse_loss": ((normal(3, 4), normal(3, 4)), [{}]),
    "smooth_l1_loss": ((normal(3, 4), normal(3, 4)), [{}, {"beta": 0.4}, {"beta": 0}]),
    "huber_loss": ((normal(3, 4), normal(3, 4)), [{}, {"delta": 0.4}]),
    "binary_cross_entropy": ((uniform(3, 4), uniform(3, 4)), [{}, {"weight": uniform(4)}]),
    "binary_cross_entropy_with_logits": (
        (normal(3, 4), uniform(3, 4)),
        [{}, {"weight": uniform(3, 1)}, {"pos_weight": uniform(4)}, {"weight": uniform(4), "pos_weight": uniform(1)}],
    ),
    "poisson_nll_loss": (
        (uniform(3, 4), uniform(3, 4) * 4),
        [{}, {"full": True}, {"log_input": False, "eps": 0.1}, {"log_input": False, "full": True}],
    ),
    "gaussian_nll_loss": (
        (normal(3, 4), normal(3, 4), uniform(3, 4)),
        [{}, {"full": True}, {"eps": 0.5}],
    ),
    "kl_div": ((normal(3, 4), uniform(3, 4)), [{}, {"log_target": True}]),
}
CASES = [(name, options) for name, (_, each) in LOSSES.items() for options in each]


def converted(options, array):
    return {name: array(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(list(value)) if isinstance(value, dict) else value)
def test_options(name, options, reduction):
    operands, _ = LOSSES[name]
    assert_agree(
        lambda *xs: getattr(F, name)(*xs, reduction=reduction, **options),
        lambda *xs: getattr(torch.nn.functional, name)(*xs, reduction=reduction, **converted(options, tensor)),
        *operands,
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_16_bits(name, dtype):
    operands, _ = LOSSES[name]
    check(name, *(operand.astype(dtype) for operand in operands), tolerance=2e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing(name):
    operands, _ = LOSSES[name]
    operands = [operand[:0] for operand in operands]
    for reduction in REDUCTIONS:
        expected = getattr(torch.nn.functional, name)(*map(tensor, operands), reduction=reduction)
        assert_close(getattr(F, name)(*operands, reduction=reduction), expected)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("l1_loss", [(2, 3), (3,)]),
        ("huber_loss", [(3,), (2, 1)]),
        ("poisson_nll_loss", [(1, 3), (2, 1)]),
        ("kl_div", [(3,), (2, 3)]),
    ],
)
def test_broadcasts(name, shapes):
    check(name, *(uniform(*shape) for shape in shapes), reduction="none")


@settings(max_examples=10)
@given(
    st.sampled_from(["l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 3),
    st.sampled_from(REDUCTIONS),
)
def test_any_shapes(name, shape, drop, reduction):
    operands = normal(*shape), normal(*shape[drop:])
    assert_close(
        getattr(F, name)(*operands, reduction=reduction),
        getattr(torch.nn.functional, name)(*map(tensor, operands), reduction=reduction),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "huber_loss"])
def test_weight(name, reduction):
    weight = uniform(3, 4)
    assert_agree(
        lambda x, y: getattr(F, name)(x, y, reduction=reduction, weight=weight),
        lambda x, y: getattr(torch.nn.functional, name)(x, y, reduction=reduction, weight=tensor(weight)),
        normal(3, 4),
        normal(3, 4),
    )


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("l1_loss", [0.0, -2.0, np.inf]),
        ("smooth_l1_loss", [0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]),
        ("huber_loss", [0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]),
        ("mse_loss", [0.0, np.inf, np.nan]),
    ],
)
def test_kinks_and_infinity(name, difference):
    x = np.array(difference, np.float32)
    check(name, x, np.zeros_like(x), reduction="none")


@pytest.mark.parametrize(
    ("name", "input", "target"),
    [
        ("binary_cross_entropy", [0.0, 0.0, 1.0, 1.0, 1e-8, 1e-44], [0.0, 1.0, 0.0, 1.0, 0.3, 0.5]),
        ("binary_cross_entropy_with_logits", [0.0, 200.0, -200.0, np.inf, -np.inf, np.inf, np.nan], [0, 1, 0, 1, 0.5, 0, 1]),
        ("poisson_nll_loss", [0.0, 200.0, -200.0, -np.inf, np.nan], [0, 1, 2, 0, 1]),
        ("kl_div", [0.0, 1.0, -np.inf, 1.0, np.nan], [0.0, 0.5, 0.5, -1.0, 1.0]),
    ],
)
def test_limits(name, input, target):
    check(name, np.array(input, np.float32), np.array(target, np.float32), reduction="none", fixed=(1,))


def test_poisson_nll_loss_adds_stirlings_term_above_1():
    check("poisson_nll_loss", normal(4), np.array([0, 1, 2, 9]), full=True, reduction="none")


def test_gaussian_nll_loss_gives_the_gradient_of_a_variance_below_eps():
    check("gaussian_nll_loss", np.zeros(4, np.float32), np.ones(4, np.float32), np.array([0, 1e-6, 1, 2e-6], np.float32))


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 3)])
def test_gaussian_nll_loss_broadcasts_the_variance(shape):
    check("gaussian_nll_loss", normal(2, 3), normal(2, 3), uniform(*shape), reduction="none")


def test_gaussian_nll_loss_takes_a_number_for_the_variance():
    check("gaussian_nll_loss", normal(2, 3), normal(2, 3), 2.5)
    check("gaussian_nll_loss", integers(3, 2, 3), normal(2, 3), 2.5)


@pytest.mark.parametrize("shape", [(2, 3), ()])
@pytest.mark.parametrize("older", [{}, {"size_average": False}, {"reduce": False}], ids=str)
def test_kl_div_divides_by_the_batch(older, shape):
    check("kl_div", normal(*shape), uniform(*shape), reduction="batchmean", **older)


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("l1_loss", (np.float32, jnp.bfloat16)),
        ("l1_loss", (np.complex64, np.complex64)),
        ("mse_loss", (np.float32, int)),
        ("smooth_l1_loss", (bool, np.float32)),
        ("huber_loss", (np.float16, np.float32)),
        ("huber_loss", (np.float32, int)),
        ("poisson_nll_loss", (int, int)),
        ("poisson_nll_loss", (int, np.float32)),
        ("kl_div", (np.float16, np.float32)),
        ("binary_cross_entropy_with_logits", (np.float32, np.float16)),
    ],
    ids=str,
)
def test_promotes(name, dtypes):
    operands = [(uniform(3, 4) * 2).astype(dtype) for dtype in dtypes]
    for reduction in REDUCTIONS:
        expected = getattr(torch.nn.functional, name)(*map(tensor, operands), reduction=reduction)
        assert_close(getattr(F, name)(*operands, reduction=reduction), expected, 2e-3)


def test_l1_loss_keeps_integers():
    check("l1_loss", integers(5, 4), integers(5, 4), reduction="none")
    check("l1_loss", integers(5, 4), integers(5, 4), reduction="sum")


def test_mse_loss_averages_16_bits_in_float32():
    assert F.mse_loss(jnp.full(4096, 100, jnp.float16), jnp.zeros(4096, jnp.float16)) == 10000


def test_warns_where_it_broadcasts():
    for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"):
        with pytest.warns(UserWarning, match=r"target size \(\[1, 4\]\) .* input size \(\[3, 4\]\)") as warned:
            getattr(F, name)(jnp.ones((3, 4)), jnp.ones((1, 4)))
        assert warned[0].filename == __file__


def test_kl_div_warns_of_the_mean():
    with pytest.warns(UserWarning, match="'batchmean' divides only by the batch size"):
        F.kl_div(jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_older_reductions(size_average, reduce):
    operands = normal(4, 5), normal(4, 5)
    options = {"size_average": size_average, "reduce": reduce}
    assert_close(F.mse_loss(*operands, **options), torch.nn.functional.mse_loss(*map(tensor, operands), **options))
    if options != {"size_average": None, "reduce": None}:
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            F.mse_loss(jnp.ones(2), jnp.ones(2), **options)


def test_an_older_name_of_the_mean():
    with pytest.warns(UserWarning, match="'elementwise_mean' is deprecated"):
        assert F.mse_loss(jnp.ones(2), jnp.zeros(2), reduction="elementwise_mean") == 1


def test_values_out_of_range_give_nan_while_tracing():
    bce = jax.jit(lambda x, y: F.binary_cross_entropy(x, y, reduction="none"))
    losses = bce(jnp.array([0.5, 1.5, -0.5, 0.5]), jnp.array([1.0, 1.0, 0.0, 2.0]))
    assert jnp.isnan(losses).tolist() == [False, True, True, True]
    gaussian = jax.jit(lambda var: F.gaussian_nll_loss(jnp.zeros(2), jnp.zeros(2), var, reduction="none"))
    assert jnp.isnan(gaussian(jnp.array([1.0, -1.0]))).tolist() == [False, True]


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


X = normal(2, 3)
U = uniform(2, 3)


@pytest.mark.parametrize(
    ("name", "operands", "options", "words"),
    [
        ("l1_loss", (X, normal(2, 4)), {}, ["[2, 3]", "[2, 4]"]),
        ("l1_loss", (X, X), {"weight": None, "reduction": "max"}, ["max"]),
        ("l1_loss", (X > 0, X), {}, ["bool"]),
        ("l1_loss", (integers(3, 3), integers(3, 3)), {}, ["floating-point", "int32"]),
        ("mse_loss", (X, X, None, None, "mean", normal(2, 1)), {}, ["[2, 3]", "[2, 1]"]),
        ("mse_loss", (integers(3, 3), integers(3, 3)), {}, ["int32", "floating-point"]),
        ("smooth_l1_loss", (X, X), {"beta": -1.0}, ["beta", "-1.0"]),
        ("smooth_l1_loss", (integers(3, 3), integers(3, 3)), {}, ["int32"]),
        ("huber_loss", (X, X), {"delta": 0.0}, ["delta", "0.0"]),
        ("huber_loss", (integers(3, 2, 3), X), {}, ["float32", "int32"]),
        ("huber_loss", (X, X, "mean", 1.0, normal(3)), {}, ["[2, 3]", "[3]"]),
        ("binary_cross_entropy", (U, U[:1]), {}, ["[2, 3]", "[1, 3]"]),
        ("binary_cross_entropy", (U, U.astype(np.float16)), {}, ["float32", "float16"]),
        ("binary_cross_entropy", (U + 1, U), {}, ["input", "between 0 and 1"]),
        ("binary_cross_entropy", (U, U - 1), {}, ["target", "between 0 and 1"]),
        ("binary_cross_entropy", (U * np.float32(np.nan), U), {}, ["input", "between 0 and 1"]),
        ("binary_cross_entropy", (U, U, uniform(4)), {}, ["[4]", "[2, 3]"]),
        ("binary_cross_entropy", (U, U, uniform(2, 2, 3)), {}, ["[2, 2, 3]", "[2, 3]"]),
        ("binary_cross_entropy", (integers(2, 3), integers(2, 3)), {}, ["int32"]),
        ("binary_cross_entropy_with_logits", (X, U[:1]), {}, ["[2, 3]", "[1, 3]"]),
        ("binary_cross_entropy_with_logits", (X, U, uniform(2, 2, 3)), {}, ["[2, 2, 3]", "[2, 3]"]),
        ("binary_cross_entropy_with_logits", (X, integers(2, 2, 3)), {}, ["int32"]),
        ("binary_cross_entropy_with_logits", (integers(2, 2, 3), U), {}, ["int32"]),
        ("poisson_nll_loss", (X, normal(2, 4)), {}, ["[2, 3]", "[2, 4]"]),
        ("poisson_nll_loss", (X, X), {"reduction": "max"}, ["max"]),
        ("gaussian_nll_loss", (X, X, -U), {}, ["negative"]),
        ("gaussian_nll_loss", (X, X, -1.0), {}, ["negative", "-1.0"]),
        ("gaussian_nll_loss", (X, X, 1), {}, ["var", "1"]),
        ("gaussian_nll_loss", (X, X, uniform(3)), {}, ["[3]", "[2, 3]"]),
        ("gaussian_nll_loss", (X, X, uniform(1, 1)), {}, ["[1, 1]", "[2, 3]"]),
        ("gaussian_nll_loss", (X, X, integers(3, 2, 3)), {}, ["int32"]),
        ("gaussian_nll_loss", (X, X, U), {"reduction": "max"}, ["max"]),
        ("kl_div", (X, integers(2, 2, 3)), {}, ["floating-point"]),
        ("kl_div", (X, normal(2, 4)), {}, ["[2, 3]", "[2, 4]"]),
        ("kl_div", (X, X), {"reduction": "max"}, ["max"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_refuses(name, operands, options, words):
    refuses(name, operands, options, words)
