"""Pooling agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn
import fnn.functional as F

SPACE = {1: (9,), 2: (9, 8), 3: (6, 7, 5)}


def agree(name, *args, **options):
    assert_agree(getattr(F, name), getattr(torch.nn.functional, name), *args, **options)


def check(n, input, *args, **options):
    agree(f"max_pool{n}d", input, *args, **options)


def uniform(*shape):
    """Numbers from 0 to 1."""
    return np.random.default_rng(0).random(shape, np.float32)


OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "dilation": 2},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
]


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_max_pool(n, options, return_indices):
    check(n, normal(2, 3, *SPACE[n]), **options, return_indices=return_indices)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_max_pool_takes_inputs_without_a_batch_axis(n, return_indices):
    check(n, normal(3, *SPACE[n]), 2, return_indices=return_indices)


def test_max_pool_takes_a_number_for_each_axis():
    check(2, normal(2, 3, 9, 8), (3, 2), stride=(1, 2), padding=(1, 0))
    check(2, normal(2, 3, 9, 8), [2], [])


@pytest.mark.parametrize("options", [{}, {"return_indices": True}, {"dilation": 2}], ids=str)
def test_max_pool_takes_an_empty_batch(options):
    check(2, normal(0, 3, 4, 4), 2, **options)


def test_max_pool_of_padding_alone_is_minus_infinity():
    check(1, normal(1, 3), 2, padding=1, dilation=4)


@pytest.mark.parametrize("options", OPTIONS[1:3], ids=["", "dilation"])
@pytest.mark.parametrize("return_indices", [False, True])
def test_max_pool_gives_the_gradient_of_a_tie_to_the_first(options, return_indices):
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 9, 8)).astype(np.float32)
    check(2, x, **options, return_indices=return_indices)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int32, np.uint8])
@pytest.mark.parametrize("return_indices", [False, True])
def test_max_pool_takes_other_dtypes(dtype, return_indices):
    check(2, (normal(2, 3, 6, 6) * 9).astype(dtype), 3, 2, 1, return_indices=return_indices)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("return_indices", [False, True])
def test_max_pool_finds_what_is_not_finite_and_gives_it_the_gradient(value, return_indices):
    x = normal(1, 1, 6, 6)
    x[0, 0, 1, 2] = x[0, 0, 4, :] = value
    check(2, x, 2, return_indices=return_indices)
    check(2, np.full((1, 3, 3), value, np.float32), 2, 1, 1, return_indices=return_indices)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((4, 4), {"kernel_size": 2}, ["3D or 4D", "[4, 4]"]),
        ((1, 1, 1, 4, 4), {"kernel_size": 2}, ["3D or 4D", "[1, 1, 1, 4, 4]"]),
        ((1, 4, 4), {"kernel_size": 0}, ["positive", "(0, 0)"]),
        ((1, 4, 4), {"kernel_size": 2, "stride": 0}, ["positive", "(0, 0)"]),
        ((1, 4, 4), {"kernel_size": 2, "dilation": 0}, ["positive", "(0, 0)"]),
        ((1, 4, 4), {"kernel_size": 2, "padding": 2}, ["half of kernel size", "pad=(2, 2)", "(2, 2)"]),
        ((1, 9, 9), {"kernel_size": 2, "padding": 2, "dilation": 4}, ["half of kernel size", "pad=(2, 2)"]),
        ((1, 4, 4), {"kernel_size": 2, "padding": -1}, ["non-negative", "pad=(-1, -1)"]),
        ((1, 4, 4), {"kernel_size": 5}, ["[1, 4, 4]", "[0, 0]", "too small"]),
        ((1, 4, 4), {"kernel_size": 2.5}, ["kernel_size", "2.5"]),
        ((1, 4, 4), {"kernel_size": (2, 2, 2)}, ["kernel_size", "2 values", "(2, 2, 2)"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_max_pool_refuses(shape, options, words):
    assert_refused(lambda nn, array: nn.functional.max_pool2d(array(normal(*shape)), **options), *words)


@pytest.mark.parametrize("dtype", [bool, np.complex64])
def test_max_pool_refuses_what_has_no_order(dtype):
    x = np.ones((1, 4, 4), dtype)
    assert_refused(lambda nn, array: nn.functional.max_pool2d(array(x), 2), "real", np.dtype(dtype).name)


@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d", "adaptive_max_pool2d", "fractional_max_pool2d"])
@pytest.mark.parametrize("shape", [(2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_pooling_refuses_empty_space_and_channels(name, shape):
    size = (2,) if name.startswith("adaptive") else (2, 1)
    assert_refused(lambda nn, array: getattr(nn.functional, name)(array(normal(*shape)), *size), "non-zero", str(list(shape)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_functions_with_indices_return_them_always(n):
    x = normal(2, *SPACE[n])
    for name in (f"max_pool{n}d_with_indices", f"adaptive_max_pool{n}d_with_indices"):
        assert_agree(getattr(F, name), getattr(torch.nn.functional, name), x, 2)
    if n > 1:
        fractional(n, np.float32, x, uniform(1, 2, n), "_with_indices", output_size=3)


AVG = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True, "count_include_pad": False},
]


@pytest.mark.parametrize("options", AVG, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_avg_pool(n, options):
    agree(f"avg_pool{n}d", normal(2, 3, *SPACE[n]), **options)


@pytest.mark.parametrize("n", [2, 3])
def test_avg_pool_divides_by_another_number(n):
    agree(f"avg_pool{n}d", normal(3, *SPACE[n]), 3, 2, 1, True, False, -5)


@pytest.mark.parametrize("name", ["avg_pool2d", "lp_pool2d"])
def test_avg_and_lp_pool_take_numbers_for_each_axis_and_empty_batches(name):
    norm = (2,) if name == "lp_pool2d" else ()
    agree(name, np.abs(normal(2, 3, 9, 8)), *norm, (3, 2), (1, 2))
    agree(name, normal(0, 3, 4, 4), *norm, 2, [])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_avg_pool_rounds_means_of_integers_to_zero(n):
    agree(f"avg_pool{n}d", integers(50, 1, *SPACE[n]) - 25, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["avg_pool2d", "adaptive_avg_pool2d"])
def test_what_is_not_finite_stays_in_its_windows(name, value):
    x = normal(1, 7, 7)
    x[0, 3, 5] = value
    agree(name, x, 3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize(("name", "args"), [("avg_pool2d", (3,)), ("lp_pool2d", (2, 3))])
def test_avg_and_lp_pool_sum_16_bits_in_float32(name, args, dtype):
    agree(name, np.abs(normal(3, 8, 8, dtype=dtype)), *args, tolerance=2e-2)
    assert (F.avg_pool3d(jnp.ones((1, 40, 40, 40), dtype), 40) == 1).all()


@pytest.mark.parametrize(
    ("n", "shape", "options", "words"),
    [
        (2, (4, 4), {"kernel_size": 2}, ["3D or 4D", "[4, 4]"]),
        (2, (1, 1, 1, 4, 4), {"kernel_size": 2}, ["3D or 4D", "[1, 1, 1, 4, 4]"]),
        (1, (4,), {"kernel_size": 2}, ["2D or 3D", "[4]"]),
        (2, (1, 4, 4), {"kernel_size": 0}, ["positive", "(0, 0)"]),
        (2, (1, 4, 4), {"kernel_size": 2, "stride": -1}, ["positive", "(-1, -1)"]),
        (2, (1, 4, 4), {"kernel_size": 2, "padding": 2}, ["half of kernel size", "pad=(2, 2)"]),
        (2, (1, 4, 4), {"kernel_size": 5}, ["[1, 4, 4]", "[0, 0]", "too small"]),
        (3, (1, 3, 3, 3), {"kernel_size": 4, "padding": 2}, ["(3, 3, 3)", "(4, 4, 4)"]),
        (2, (1, 4, 4), {"kernel_size": 2, "divisor_override": 0}, ["not zero"]),
        (2, (1, 4, 4), {"kernel_size": 2, "divisor_override": 2.5}, ["divisor_override", "2.5"]),
        (2, (1, 4, 4), {"kernel_size": 2.5}, ["kernel_size", "2.5"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_avg_pool_refuses(n, shape, options, words):
    assert_refused(lambda nn, array: getattr(nn.functional, f"avg_pool{n}d")(array(normal(*shape)), **options), *words)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.complex64])
@pytest.mark.parametrize("name", ["avg_pool2d", "adaptive_max_pool2d", "fractional_max_pool2d"])
def test_means_and_adaptive_and_fractional_maxima_are_of_floats(name, dtype):
    size = (2,) if name.startswith(("adaptive", "avg")) else (2, 1)
    x = np.ones((1, 4, 4), dtype)
    assert_refused(lambda nn, array: getattr(nn.functional, name)(array(x), *size), np.dtype(dtype).name)


@pytest.mark.parametrize("norm", [1, 2, 2.0, 3, 2.5, 0.5, -1, np.inf, -np.inf])
def test_lp_pool_of_any_power(norm):
    agree("lp_pool1d", np.abs(normal(2, 3, 9)) + 0.1, norm, 3, 2, True, tolerance=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"stride": 2, "ceil_mode": True}], ids=str)
def test_lp_pool(n, options):
    agree(f"lp_pool{n}d", normal(3, *SPACE[n]), 2, 3, **options)


@pytest.mark.parametrize("norm", [1, 2, 3, np.inf, -np.inf])
def test_lp_pool_of_zeros_and_signs(norm):
    agree("lp_pool1d", np.array([[0, 0, 1, -1, 1, 0, 0, -2, -1, -1]], np.float32), norm, 2)


@pytest.mark.parametrize("norm", [2, 3.0])
def test_lp_pool_of_integers(norm):
    agree("lp_pool2d", integers(5, 1, 6, 6), norm, 2)


@pytest.mark.parametrize(
    ("n", "norm", "kernel"),
    [
        (1, 2, (2,)),
        (1, "a", 2),
        (1, None, 2),
        (2, 2, (2,)),
        (2, 2, (2, 2, 2)),
        (3, np.inf, (2, 2)),
        (2, 0, 2),
        (2, 2, 2.5),
        (2, 2, 9),
    ],
    ids=str,
)
def test_lp_pool_refuses(n, norm, kernel):
    x = normal(1, *SPACE[n])
    assert_refused(lambda nn, array: getattr(nn.functional, f"lp_pool{n}d")(array(x), norm, kernel))


ADAPTIVE = [(1, 1), (1, 4), (1, (13,)), (2, 3), (2, 11), (2, (2, 5)), (2, (None, 3)), (2, (4, None)), (3, (2, None, 4)), (3, 2)]


@pytest.mark.parametrize(("n", "size"), ADAPTIVE, ids=str)
@pytest.mark.parametrize("options", [{}, {"return_indices": True}, None], ids=["maximum", "indices", "mean"])
def test_adaptive_pool(n, size, options):
    x = normal(2, 3, *SPACE[n])
    if options is None:
        agree(f"adaptive_avg_pool{n}d", x, size)
    else:
        agree(f"adaptive_max_pool{n}d", x.round(), size, **options)  # rounded, so that there are ties


@pytest.mark.parametrize("shape", [(0, 3, 8, 6), (3, 8, 6)], ids=str)
@pytest.mark.parametrize("size", [4, 5, 0])
@pytest.mark.parametrize("name", ["adaptive_avg_pool2d", "adaptive_max_pool2d"])
def test_adaptive_pool_of_and_to_nothing(name, size, shape):
    agree(name, normal(*shape), size, fixed=(0,) if size == 0 else ())  # torch has no gradient to nothing


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [3, 5])
def test_adaptive_max_pool_finds_what_is_not_finite(value, size):
    x = normal(1, 6, 6)
    x[0, 1, 2] = x[0, 4, :] = value
    agree("adaptive_max_pool2d", x, size, return_indices=True)
    agree("adaptive_max_pool2d", x, size)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("size", [4, 7])
def test_adaptive_avg_pool_averages_16_bits_in_float32(dtype, size):
    agree("adaptive_avg_pool2d", normal(3, 8, 8, dtype=dtype), size)
    agree("adaptive_max_pool2d", normal(3, 8, 8, dtype=dtype), size)
    assert (F.adaptive_avg_pool2d(jnp.ones((1, 99, 99), dtype), size) == 1).all()


@pytest.mark.parametrize(
    ("n", "shape", "size"),
    [
        (2, (4, 4), 2),
        (2, (4, 4), (2, 2)),
        (2, (1, 1, 4, 4), (1, 2, 3)),
        (2, (1, 1, 4, 4), (1, 2, 3, 4)),
        (2, (1, 1, 4, 4), (2,)),
        (2, (1, 4, 4), -1),
        (2, (1, 0, 4), 2),
        (2, (1, 4, 4), 2.5),
        (2, (1, 4, 4), None),
        (1, (1, 4), None),
        (1, (1, 4), (None,)),
        (1, (1, 4), (2, 2)),
        (1, (1, 4), ()),
        (3, (1, 0, 4, 4, 4), 2),
        (3, (2, 2, 2), (2, 2, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["adaptive_avg_pool", "adaptive_max_pool"])
def test_adaptive_pool_refuses(name, n, shape, size):
    assert_refused(lambda nn, array: getattr(nn.functional, f"{name}{n}d")(array(normal(*shape)), size))


def test_adaptive_avg_pool_refuses_integers():
    x = np.ones((1, 4, 4), int)
    assert_refused(lambda nn, array: nn.functional.adaptive_avg_pool2d(array(x), 2), "int32", "floating-point")


FRACTIONAL = [
    (2, {"output_size": 4}),
    (2, {"output_size": (7, 1), "return_indices": True}),
    (2, {"output_ratio": (0.7, 0.3), "return_indices": True}),
    (3, {"output_size": (4, 1, 3)}),
    (3, {"output_ratio": 0.6, "return_indices": True}),
]


def fractional(n, dtype, input, samples, suffix="", **options):
    def pool(functions, array):
        function = getattr(functions, f"fractional_max_pool{n}d{suffix}")
        return lambda x: function(x, 2, **options, _random_samples=array(samples.astype(dtype)))

    assert_agree(pool(F, jnp.asarray), pool(torch.nn.functional, tensor), input.astype(dtype))


@pytest.mark.parametrize(("n", "options"), FRACTIONAL, ids=str)
@pytest.mark.parametrize("lead", [(2, 3), (3,), (0, 3)], ids=str)
def test_fractional_max_pool(n, options, lead):
    fractional(n, np.float32, normal(*lead, *SPACE[n]), uniform(3, 3, n), **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_fractional_max_pool_begins_windows_exactly_where_torch_does(dtype):
    x = np.broadcast_to(np.arange(37 * 41.0).reshape(1, 37, 41) % 251, (2000, 37, 41))
    fractional(2, dtype, x, uniform(1, 2000, 2), output_size=(23, 19), return_indices=True)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_fractional_max_pool_finds_what_is_not_finite(value):
    x = normal(3, 7, 7)
    x[:, 2:6, 2:6] = value
    fractional(2, np.float32, x, uniform(1, 3, 2), output_size=4, return_indices=True)


def test_fractional_max_pool_draws_windows_for_each_channel():
    x = np.broadcast_to(np.arange(400, dtype=np.float32).reshape(20, 20), (2, 8, 20, 20))
    pool = fnn.jit(lambda x: F.fractional_max_pool2d(x, 2, output_ratio=0.6))
    with fnn.rng(0):
        first, again = pool(x), pool(x)
    with fnn.rng(0):
        same = pool(x)
    assert first.shape == (2, 8, 12, 12)
    assert len(np.unique(first.reshape(16, -1), axis=0)) > 8
    assert (first == same).all()
    assert (first != again).any()


@pytest.mark.parametrize(
    ("n", "shape", "options", "samples"),
    [
        (2, (3, 6, 6), {}, None),
        (2, (3, 6, 6), {"output_size": (2,) * 3}, None),
        (2, (3, 6, 6), {"output_size": -1}, None),
        (2, (3, 6, 6), {"output_size": 2.5}, None),
        (2, (3, 6, 6), {"output_size": 6}, None),
        (3, (3, 6, 6, 6), {"output_size": 5}, None),
        (2, (3, 6, 6), {"output_ratio": (0.5,)}, None),
        (2, (3, 6, 6), {"output_ratio": (0.5, 0.5, 0.5)}, None),
        (2, (6, 6), {"output_size": 2}, None),
        (2, (1, 1, 3, 6, 6), {"output_size": 2}, None),
        (2, (2, 3, 6, 6), {"output_size": 2}, (1, 3, 2)),
        (2, (3, 6, 6), {"output_size": 2}, (1, 2, 2)),
        (2, (3, 6, 6), {"output_size": 2}, (1, 3, 3)),
        (2, (3, 6, 6), {"output_size": 2}, (3, 2)),
    ],
    ids=str,
)
def test_fractional_max_pool_refuses(n, shape, options, samples):
    def call(nn, array):
        given = {} if samples is None else {"_random_samples": array(uniform(*samples))}
        return getattr(nn.functional, f"fractional_max_pool{n}d")(array(normal(*shape)), 2, **options, **given)

    assert_refused(call)


def test_fractional_max_pool_refuses_samples_of_another_dtype():
    x, samples = normal(3, 6, 6), uniform(1, 3, 2).astype(np.float16)
    assert_refused(
        lambda nn, array: nn.functional.fractional_max_pool2d(array(x), 2, 2, _random_samples=array(samples)), "same dtype"
    )


def pooled(n, *lead):
    """Maxima and where they were found in SPACE[n]."""
    y, places = getattr(torch.nn.functional, f"max_pool{n}d")(tensor(normal(*lead, *SPACE[n])), 2, return_indices=True)
    return y.numpy(), places.numpy()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("lead", [(2, 3), (3,), (0, 3)], ids=str)
def test_max_unpool(n, lead):
    agree(f"max_unpool{n}d", *pooled(n, *lead), 2, output_size=SPACE[n])


def test_max_unpool_of_overlapping_windows():
    x = normal(1, 2, 7, 7)
    y, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    agree("max_unpool2d", np.asarray(y), np.asarray(places, np.int64), 3, 2, 1, (7, 7))


@pytest.fixture
def one_thread():
    """Keeps torch's threads from racing for one place."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_max_unpool_keeps_the_last_of_elements_for_one_place_and_gives_all_the_gradient():
    agree("max_unpool1d", normal(2, 6), integers(4, 2, 6), 1, output_size=None)
    agree("max_unpool2d", normal(2, 3, 3), integers(3, 2, 3, 3), (2, 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_max_unpool_takes_16_bits(dtype):
    agree("max_unpool2d", normal(2, 2, 2, dtype=dtype), np.arange(8).reshape(2, 2, 2), 2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", [{"stride": 3}, {"padding": 1, "stride": (3, 2)}, {"output_size": (1, 5, 9, 7)}], ids=str)
def test_max_unpool_sizes(options):
    y, _ = pooled(2, 1)
    agree("max_unpool2d", y, integers(20, *y.shape), 2, **options)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (0, {"output_size": (2, 2)}, ["output_size", "(2, 2)"]),
        (0, {"output_size": (9, 8, 1)}, ["2 or 4", "(9, 8, 1)"]),
        (0, {"output_size": 9}, []),
        (0, {"output_size": (9.0, 8.0)}, ["9.0"]),
        (0, {"padding": 6}, ["non-negative", "(-4, -4)"]),
        (0, {"kernel_size": 2.5}, ["2.5"]),
        (100, {}, ["invalid max index", "(8, 8)"]),
        (-100, {}, ["invalid max index", "-"]),
        (0.5, {}, ["indices", "float32"]),
    ],
    ids=str,
)
def test_max_unpool_refuses(change, options, words):
    y, places = pooled(2, 3)
    places = places + np.asarray(change, np.float32 if isinstance(change, float) else np.int64)
    options = {"kernel_size": 2} | options
    assert_refused(lambda nn, array: nn.functional.max_unpool2d(array(y), array(places), **options), *words)


@pytest.mark.parametrize("shape", [(3, 4, 1), (4, 4), (1, 1, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_max_unpool_refuses_shapes(shape):
    y = normal(*shape) if shape != (3, 4, 1) else normal(3, 4, 4)
    assert_refused(lambda nn, array: nn.functional.max_unpool2d(array(y), array(integers(4, *shape)), 2))


def test_max_unpool_refuses_integers():
    y, places = pooled(2, 3)
    assert_refused(lambda nn, array: nn.functional.max_unpool2d(array(y.astype(int)), array(places), 2), "int32")


def test_max_unpool_makes_a_channel_nan_whose_indices_are_wrong_where_they_are_not_known():
    y = jax.jit(lambda x, places: F.max_unpool1d(x, places, 2))(jnp.ones((3, 2)), jnp.array([[0, 3], [1, 4], [-1, 0]]))
    np.testing.assert_array_equal(y, [[1, 0, 0, 1], [np.nan] * 4, [np.nan] * 4])


@st.composite
def windows(draw):
    """A shape, and windows that fit it often but not always."""
    n = draw(st.integers(1, 3))
    numbers = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * n))  # noqa: E731
    options = {
        "kernel_size": numbers(1, 4),
        "stride": numbers(1, 4),
        "padding": numbers(0, 2),
        "ceil_mode": draw(st.booleans()),
    }
    if maximum := draw(st.booleans()):
        options |= {"dilation": numbers(1, 3), "return_indices": draw(st.booleans())}
    else:
        options |= {"count_include_pad": draw(st.booleans())}
    return f"{'max' if maximum else 'avg'}_pool{n}d", (2, *numbers(1, 7)), options


@settings(max_examples=25)
@given(windows())
def test_pooling_agrees_for_any_windows(case):
    name, shape, options = case
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)
    try:
        expected = getattr(torch.nn.functional, name)(tensor(x), **options)
    except RuntimeError:
        assert_refused(lambda nn, array: getattr(nn.functional, name)(array(x), **options))
    else:
        given = getattr(F, name)(x, **options)
        for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (given, expected)), strict=True):
            assert_close(a, b)
