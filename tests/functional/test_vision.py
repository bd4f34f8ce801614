"""Sampling of grids agrees with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn.functional as F

MODES = [("bilinear", 2), ("nearest", 2), ("bicubic", 2), ("bilinear", 3), ("nearest", 3)]
PADDINGS = ["zeros", "border", "reflection"]
SPACE = {2: (4, 5), 3: (3, 4, 5)}


def check(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False, **options):
    grid = np.asarray(grid, input.dtype)
    arguments = (input, grid, mode, padding_mode, align_corners)
    assert_agree(F.grid_sample, torch.nn.functional.grid_sample, *arguments, tolerance=2e-5, **options)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(("mode", "n"), MODES)
def test_modes(mode, n, padding_mode, align_corners):
    check(normal(2, 2, *SPACE[n]), normal(2, *(3,) * n, n) * 1.5, mode, padding_mode, align_corners)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_elements_borders_and_ties(mode, padding_mode):
    # With 4 elements these are places -2, -0.5, 0, 0.5, 1, 3, 3.5 and 5: also half-way and on the borders.
    ticks = (np.array([-2, -0.5, 0, 0.5, 1, 3, 3.5, 5]) + 0.5) / 2 - 1
    grid = np.stack(np.meshgrid(ticks, ticks), -1)[None]
    check(normal(1, 2, 4, 4), grid, mode, padding_mode)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_one_element(padding_mode, align_corners):
    check(normal(1, 2, 1, 1), normal(1, 3, 3, 2), "bilinear", padding_mode, align_corners)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(("mode", "n"), MODES)
def test_what_is_not_a_number_or_far_away(mode, n, padding_mode):
    # Values alone: torch's own gradient reads outside of its memory for some of these.
    far = [np.nan, 90, -90] if padding_mode == "reflection" else [np.nan, np.inf, -np.inf, 1e10]
    grid = np.zeros((1, *(1,) * (n - 1), 2 * len(far), n), np.float32)
    grid[..., : len(far), 0] = grid[..., len(far) :, 1] = far
    x = normal(1, 2, *SPACE[n])
    expected = torch.nn.functional.grid_sample(tensor(x), tensor(grid), mode, padding_mode, align_corners=False)
    assert_close(F.grid_sample(x, grid, mode, padding_mode, align_corners=False), expected, 1e-4)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_input_that_is_not_finite(mode):
    x = normal(1, 1, 4, 4)
    x[0, 0, 1, 1], x[0, 0, 3, 3] = np.nan, np.inf
    check(x, normal(1, 5, 5, 2), mode, fixed=(0, 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_16_bits(dtype):
    x, grid = normal(2, 2, 4, 5, dtype=dtype), normal(2, 3, 3, 2, dtype=dtype)
    expected = F.grid_sample(x.astype(np.float32), grid.astype(np.float32), align_corners=False)
    assert_close(F.grid_sample(x, grid, align_corners=False), tensor(np.asarray(expected.astype(dtype))), 0)


@pytest.mark.parametrize(
    ("shape", "grid"), [((0, 2, 4, 5), (0, 3, 3, 2)), ((2, 0, 4, 5), (2, 3, 3, 2)), ((2, 2, 4, 5), (2, 0, 3, 2))]
)
def test_empty(shape, grid):
    check(normal(*shape), normal(*grid))


@pytest.mark.parametrize(("mode", "n"), [("bilinear", 2), ("bicubic", 2)])
def test_forward_mode_and_second_derivatives(mode, n):
    x, grid = normal(1, 1, 4, 4), normal(1, 2, 2, 2) / 2

    def ours(x, grid):
        return jnp.sum(F.grid_sample(x, grid, mode, align_corners=True) ** 2)

    def slope(x, grid):
        return jax.jvp(ours, (x, grid), (x, grid))[1]

    gradients = jax.jit(jax.grad(ours, (0, 1)))(x, grid)
    expected = sum(jnp.vdot(g, v) for g, v in zip(gradients, (x, grid), strict=True))
    np.testing.assert_allclose(jax.jit(slope)(x, grid), expected, rtol=1e-4)
    step = 1e-2
    difference = (ours(x, grid * (1 + step)) - ours(x, grid * (1 - step))) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(gradients[1], grid), difference, rtol=2e-2, atol=1e-3)
    # The value is quadratic in the image.
    hessian = jax.jit(lambda v: jax.jvp(lambda x: jax.grad(ours)(x, grid), (x,), (v,))[1])(x)
    np.testing.assert_allclose(hessian, gradients[0], rtol=1e-4, atol=1e-5)


def test_vmap():
    x, grid = normal(3, 1, 2, 4, 5), normal(3, 1, 2, 2, 2)
    mapped = jax.vmap(lambda x, grid: F.grid_sample(x, grid, align_corners=False))(x, grid)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], F.grid_sample(x[i], grid[i], align_corners=False), rtol=1e-6)


@settings(max_examples=10)
@given(st.data())
def test_any_grid(data):
    mode, n = data.draw(st.sampled_from(MODES))
    padding_mode, align_corners = data.draw(st.sampled_from(PADDINGS)), data.draw(st.booleans())
    space = [data.draw(st.integers(1, 5)) for _ in range(n)]
    x, grid = normal(1, 2, *space), normal(1, *(3,) * n, n) * data.draw(st.sampled_from([0.5, 2, 9]))
    expected = torch.nn.functional.grid_sample(tensor(x), tensor(grid), mode, padding_mode, align_corners)
    assert_close(F.grid_sample(x, grid, mode, padding_mode, align_corners), expected, 1e-4)


@pytest.mark.parametrize(
    ("shape", "grid", "options", "words"),
    [
        ((2, 3, 4, 5), (1, 6, 7, 2), {}, ["same batch size", "[1, 6, 7, 2]"]),
        ((2, 3, 4, 5), (2, 6, 7, 3), {}, ["size 2 in last dimension", "[2, 6, 7, 3]"]),
        ((3, 4, 5), (3, 6, 2), {}, ["4D or 5D", "[3, 4, 5]"]),
        ((2, 3, 0, 5), (2, 6, 7, 2), {}, ["non-empty", "[2, 3, 0, 5]"]),
        ((2, 3, 4, 5, 6), (2, 3, 3, 3, 3), {"mode": "bicubic"}, ["bicubic", "4D"]),
        ((), (), {}, ["4D or 5D"]),
        ((2, 3, 4, 5), (2, 6, 7, 2), {"mode": "linear"}, ["mode", "linear"]),
        ((2, 3, 4, 5), (2, 6, 7, 2), {"padding_mode": "edge"}, ["padding_mode", "edge"]),
        ((2, 3, 4, 5), (2, 6, 7, 2), {"align_corners": 1}, ["align_corners", "int"]),
    ],
    ids=str,
)
def test_grid_sample_refuses(shape, grid, options, words):
    options = {"align_corners": False, **options}
    assert_refused(lambda nn, array: nn.functional.grid_sample(array(normal(*shape)), array(normal(*grid)), **options), *words)


@pytest.mark.parametrize(("dtypes", "words"), [((int, np.float32), "int32"), ((np.float32, np.float16), "float16")])
def test_grid_sample_refuses_dtypes(dtypes, words):
    x, grid = np.ones((1, 1, 2, 2), dtypes[0]), np.ones((1, 1, 1, 2), dtypes[1])
    assert_refused(lambda nn, array: nn.functional.grid_sample(array(x), array(grid), align_corners=False), words)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 1, 3, 4), (2, 1, 2, 3, 4), (2, 1, 1, 5)], ids=str)
@pytest.mark.filterwarnings("ignore:Since version")
def test_affine_grid(size, align_corners):
    n = len(size) - 2
    assert_agree(F.affine_grid, torch.nn.functional.affine_grid, normal(2, n, n + 1), size, align_corners)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_affine_grid_of_16_bits(dtype):
    assert_agree(F.affine_grid, torch.nn.functional.affine_grid, normal(2, 2, 3, dtype=dtype), (2, 1, 3, 4), False)


@pytest.mark.parametrize("name", ["affine_grid", "grid_sample"])
def test_warns_of_the_default(name):
    arguments = {
        "affine_grid": (jnp.eye(2, 3)[None], (1, 1, 2, 2)),
        "grid_sample": (jnp.ones((1, 1, 2, 2)), jnp.ones((1, 1, 1, 2))),
    }
    with pytest.warns(UserWarning, match="align_corners=False since 1.3.0") as record:
        getattr(F, name)(*arguments[name])
    assert record[0].filename == __file__


def test_affine_grid_warns_of_sizes_of_one():
    with pytest.warns(UserWarning, match="unit-size grids") as record:
        F.affine_grid(jnp.eye(2, 3)[None], (1, 1, 1, 2), align_corners=True)
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    ("shape", "size", "words"),
    [
        ((2, 2, 3), (2, 1, 3), ["4D and 5D", "(2, 1, 3)"]),
        ((2, 2, 3), (2, 1, 3, 4, 5), ["Nx3x4", "(2, 2, 3)"]),
        ((2, 3), (2, 1, 3, 4), ["Nx2x3", "(2, 3)"]),
        ((2, 2, 3), (2, 1, 0, 4), ["positive", "(2, 1, 0, 4)"]),
        ((2, 2, 3), (3, 1, 3, 4), ["3 matrices", "(2, 2, 3)"]),
        ((2, 2, 3), (2, 1, 3.5, 4), ["size", "3.5"]),
        ((2, 2, 3), 5, []),
    ],
    ids=str,
)
def test_affine_grid_refuses(shape, size, words):
    assert_refused(lambda nn, array: nn.functional.affine_grid(array(normal(*shape)), size, align_corners=False), *words)


def test_affine_grid_refuses_integers():
    theta = np.ones((1, 2, 3), int)
    assert_refused(lambda nn, array: nn.functional.affine_grid(array(theta), (1, 1, 2, 2), False), "floating", "int32")
