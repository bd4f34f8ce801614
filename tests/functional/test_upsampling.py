"""Resizing agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, integers, normal, tensor, torch

import fnn.functional as F

SPACE = {3: (7,), 4: (6, 5), 5: (3, 4, 5)}
AXES = {"linear": (3,), "bilinear": (4,), "trilinear": (5,), "bicubic": (4,), "lanczos": (4,)}
MODES = [(mode, n) for mode in ["nearest", "nearest-exact", "area", *AXES] for n in AXES.get(mode, (3, 4, 5))]


def check(input, **options):
    options.setdefault("antialias", options.get("mode") == "lanczos")
    assert_agree(F.interpolate, torch.nn.functional.interpolate, input, **options)


@pytest.mark.parametrize("options", [{"scale_factor": 2.0}, {"scale_factor": 0.7}, {"size": 9}], ids=str)
@pytest.mark.parametrize(("mode", "n"), MODES)
def test_modes(mode, n, options):
    check(normal(2, 2, *SPACE[n]), mode=mode, **options)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("options", [{"align_corners": True}, {"antialias": True}, {"antialias": True, "align_corners": True}])
def test_options(mode, options):
    check(normal(2, 2, 9, 5), size=(4, 8), mode=mode, **options)


@pytest.mark.parametrize("mode", ["linear", "trilinear"])
def test_aligned_corners(mode):
    n = AXES[mode][0]
    check(normal(2, 2, *SPACE[n]), size=(1, 5, 3)[-n + 2 :], mode=mode, align_corners=True)


@pytest.mark.parametrize("recompute", [None, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_scale_factor_decides_places_unless_recomputed(mode, recompute):
    check(normal(1, 2, 5, 5), scale_factor=(1.3, 2.7), mode=mode, recompute_scale_factor=recompute)


def test_takes_a_number_for_each_axis():
    check(normal(1, 2, 6, 5), scale_factor=[2, 0.5])
    check(normal(1, 2, 6, 5), size=[3, np.int64(4)])


@pytest.mark.parametrize("size", [(33, 200), (257, 64), (12, 70)], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_large_images(mode, size):
    x = normal(1, 1, 33, 70)
    assert_close(F.interpolate(x, size, mode=mode), torch.nn.functional.interpolate(tensor(x), size, mode=mode))


@pytest.mark.parametrize("factor", [1.1, 2.1])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_nearest_that_keeps_or_doubles_the_size(n, factor):
    x = normal(1, 1, *(4,) * n)
    assert_close(F.interpolate(x, None, factor), torch.nn.functional.interpolate(tensor(x), None, factor))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_16_bits(mode, dtype):
    check(normal(2, 3, 6, 5, dtype=dtype), size=(4, 9), mode=mode)


@pytest.mark.parametrize("size", [(4, 9), (13, 4), (6, 8)], ids=str)
@pytest.mark.parametrize(
    ("mode", "antialias"),
    [("nearest", False), ("nearest-exact", False), ("lanczos", True)]
    + [(mode, antialias) for mode in ("bilinear", "bicubic") for antialias in (False, True)],
)
def test_bytes_are_rounded(mode, antialias, size):
    check(integers(256, 2, 5, 6, 7).astype(np.uint8), size=size, mode=mode, antialias=antialias)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 10), (9, 4), (6, 5)], ids=str)
def test_what_is_not_finite_stays_in_its_place(mode, value, size):
    x = normal(1, 1, 6, 5)
    x[0, 0, 2, 3] = value
    assert_agree(F.interpolate, torch.nn.functional.interpolate, x, size, None, mode, fixed=(0,))


def test_antialiasing_leaves_what_is_outside_of_the_filter():
    x = normal(1, 1, 1, 20)
    x[..., 9] = np.inf
    check(x, size=(1, 5), mode="bicubic", antialias=True, fixed=(0,))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_empty_batch(mode):
    check(normal(0, 2, 4, 3), size=5, mode=mode)


@pytest.mark.parametrize(("mode", "factor"), [("nearest", 1.1), ("nearest", 1.5), ("bilinear", 0.6), ("bicubic", 1.3)])
def test_the_derivative_is_that_of_the_value(mode, factor):
    def resize(x):
        return F.interpolate(x.reshape(1, 1, 4, 3), None, factor, mode).ravel()

    basis = np.eye(12, dtype=np.float32)
    x = normal(12)
    columns, reverse, forward = jax.jit(lambda x: (jax.vmap(resize)(basis), jax.jacrev(resize)(x), jax.jacfwd(resize)(x)))(x)
    np.testing.assert_allclose(reverse, columns.T, atol=1e-6)
    np.testing.assert_allclose(forward, columns.T, atol=1e-6)


@settings(max_examples=25)
@given(st.data())
def test_any_size(data):
    mode, n = data.draw(st.sampled_from(MODES))
    space = [data.draw(st.integers(1, 6)) for _ in range(n - 2)]
    options = {"mode": mode}
    if data.draw(st.booleans()):
        options["size"] = [data.draw(st.integers(1, 9)) for _ in space]
    else:
        options["scale_factor"] = [data.draw(st.floats(0.5, 3)) for _ in space]
        options["recompute_scale_factor"] = data.draw(st.booleans())
    if mode in ("linear", "bilinear", "trilinear", "bicubic"):
        options["align_corners"] = data.draw(st.booleans())
    if mode in ("bilinear", "bicubic", "lanczos"):
        options["antialias"] = mode == "lanczos" or data.draw(st.booleans())
    x = normal(1, 2, *space)
    try:
        expected = torch.nn.functional.interpolate(tensor(x), **options)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            F.interpolate(x, **options)
        return
    # There torch 2.13 filters along the wrong axis.
    assume(not (options.get("antialias") and expected.shape[-1] == 1))
    assert_close(jax.jit(lambda x: F.interpolate(x, **options))(x), expected)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 2, 6, 5), {}, ["either size or scale_factor"]),
        ((1, 2, 6, 5), {"size": 2, "scale_factor": 2}, ["only one"]),
        ((1, 2, 6, 5), {"size": 2.5}, ["size", "2.5"]),
        ((1, 2, 6, 5), {"size": True}, ["size", "True"]),
        ((1, 2, 6, 5), {"size": (2.5, 3)}, ["size", "2.5"]),
        ((1, 2, 6, 5), {"size": (2,)}, ["[6, 5]", "(2,)"]),
        ((1, 2, 6, 5), {"size": 0}, ["greater than 0", "[0, 0]"]),
        ((1, 2, 6, 5), {"scale_factor": "2"}, ["scale_factor", "2"]),
        ((1, 2, 6, 5), {"scale_factor": (2,)}, ["[6, 5]", "(2,)"]),
        ((1, 2, 6, 5), {"scale_factor": (2, None)}, ["scale_factor", "None"]),
        ((1, 2, 6, 5), {"scale_factor": 0.1}, ["greater than 0", "[0, 0]"]),
        ((1, 2, 6, 5), {"scale_factor": float("nan")}, ["finite", "nan"]),
        ((1, 2, 6, 5), {"size": 3, "recompute_scale_factor": True}, ["recompute_scale_factor"]),
        ((1, 2, 6, 5), {"size": 3, "align_corners": False}, ["align_corners", "nearest"]),
        ((1, 2, 6, 5), {"size": 3, "mode": "bilinear", "align_corners": 1}, ["align_corners", "1"]),
        ((1, 2, 6, 5), {"size": 3, "antialias": True}, ["Anti-alias", "nearest"]),
        ((1, 2, 6, 5), {"size": 3, "mode": "lanczos"}, ["Lanczos", "antialias=True"]),
        ((1, 2, 6, 5), {"size": 3, "mode": "linear"}, ["4D", "linear"]),
        ((2, 6, 5), {"size": 3, "mode": "bicubic"}, ["3D", "bicubic"]),
        ((6, 5), {"size": 3}, ["2D", "nearest"]),
        ((1, 2, 6, 5), {"size": 3, "mode": "cubic"}, ["cubic"]),
        ((1, 0, 6, 5), {"size": 3}, ["[1, 0, 6, 5]"]),
        ((1, 2, 0, 5), {"size": 3}, ["greater than 0", "[0, 5]"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refuses(shape, options, words):
    assert_refused(lambda nn, array: nn.functional.interpolate(array(normal(*shape)), **options), *words)


@pytest.mark.parametrize(("mode", "dtype"), [("nearest", np.int32), ("nearest", bool), ("trilinear", np.uint8)])
def test_refuses_dtypes(mode, dtype):
    x = np.ones((1, 1, 4, 4, 4), dtype)
    assert_refused(lambda nn, array: nn.functional.interpolate(array(x), 3, mode=mode), np.dtype(dtype).name, mode)


@pytest.mark.parametrize("name", ["upsample", "upsample_nearest", "upsample_bilinear"])
def test_deprecated_names(name):
    with pytest.warns(UserWarning, match=f"`nn.functional.{name}` is deprecated"):
        assert_agree(getattr(F, name), getattr(torch.nn.functional, name), normal(1, 2, 4, 5), scale_factor=2)
