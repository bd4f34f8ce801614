"""dropout draws the masks that torch's definition asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.functional as F

ONES = jnp.ones((200, 500))


def drop(x, p, seed=0, **options):
    with fnn.rng(seed):
        return F.dropout(x, p, **options)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keeps_the_expected_share_and_scales_it(p):
    out = drop(ONES, p)
    kept = out != 0
    np.testing.assert_allclose(out[kept], 1 / (1 - p), rtol=1e-6)
    deviation = np.sqrt(p * (1 - p) / ONES.size)
    assert abs(kept.mean() - (1 - p)) < 5 * deviation


def test_drops_each_element_on_its_own():
    kept = drop(ONES, 0.5) != 0
    both = (kept[1:] & kept[:-1]).mean(), (kept[:, 1:] & kept[:, :-1]).mean()
    np.testing.assert_allclose(both, 0.25, atol=0.01)


def test_gradient_is_the_mask():
    out, pull = jax.vjp(lambda x: drop(x, 0.25), ONES)
    assert (pull(jnp.ones_like(out))[0] == out).all()


def test_each_draw_is_another_one_and_the_key_decides_it():
    with fnn.rng(0):
        first, second = F.dropout(ONES), F.dropout(ONES)
    assert (first != second).any()
    assert (drop(ONES, 0.5) == first).all()
    assert (drop(ONES, 0.5, seed=1) != first).any()


@pytest.mark.parametrize(("p", "options"), [(0.0, {}), (0.5, {"training": False}), (1.0, {"training": False})])
def test_returns_its_input_where_nothing_is_to_be_dropped(p, options):
    before = fnn.random.default_generator.offset
    assert (F.dropout(ONES, p, **options) == ONES).all()
    assert fnn.random.default_generator.offset == before


def test_drops_everything_with_probability_one():
    out, pull = jax.vjp(lambda x: F.dropout(x, 1.0), ONES)
    assert not out.any()
    assert not pull(ONES)[0].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_keeps_the_dtype(dtype):
    out = drop(ONES.astype(dtype), 0.75, inplace=True)
    assert out.dtype == dtype
    assert set(np.unique(out.astype(jnp.float32)).tolist()) == {0.0, 4.0}
