"""The default generator and streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
import fnn.nn as nn

ONES = jnp.ones(256)


def test_the_same_draws_eagerly_and_compiled():
    dropout = nn.Dropout(0.5)
    twice = lambda: (dropout(ONES), dropout(ONES))  # noqa: E731
    fnn.manual_seed(5)
    eager = [twice() for _ in range(2)]
    fnn.manual_seed(5)
    compiled = fnn.jit(twice)
    jax.tree.map(np.testing.assert_array_equal, [compiled() for _ in range(2)], eager)
    fnn.manual_seed(5)
    outer = fnn.jit(lambda: (compiled(), compiled()))
    jax.tree.map(np.testing.assert_array_equal, list(outer()), eager)
    fnn.manual_seed(5)
    checkpointed = fnn.checkpoint(twice)
    jax.tree.map(np.testing.assert_array_equal, [tuple(checkpointed()) for _ in range(2)], eager)


def test_a_draw_is_folded_from_the_key_and_its_number():
    key = jax.random.key(3)
    with fnn.rng(key):
        first, second = nn.Dropout(0.5)(ONES), nn.Dropout(0.5)(ONES)
    for i, out in enumerate((first, second)):
        mask = jax.random.bernoulli(jax.random.fold_in(key, i), 0.5, ONES.shape)
        np.testing.assert_array_equal(out, jnp.where(mask, 2.0, 0.0))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_every_kind(impl):
    key = jax.random.key(3, impl=impl)
    dropout = nn.Dropout(0.5)

    @fnn.jit
    def run(key):
        with fnn.rng(key):
            return dropout(ONES)

    with fnn.rng(key):
        np.testing.assert_array_equal(run(key), dropout(ONES))
    inner = fnn.jit(lambda: dropout(ONES))
    with fnn.rng(key):
        first = inner()
        assert (first != inner()).any()
    with fnn.rng(key):
        np.testing.assert_array_equal(inner(), first)


def test_the_key_of_a_stream_may_be_mapped_over():
    def run(key):
        with fnn.rng(key):
            return nn.Dropout(0.5)(ONES)

    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.vmap(run)(keys)
    for out, key in zip(mapped, keys, strict=True):
        np.testing.assert_array_equal(out, run(key))


def test_state_of_a_generator():
    generator = fnn.manual_seed(4)
    dropout = nn.Dropout(0.5)
    dropout(ONES)
    nn.Linear(2, 2)
    state = generator.get_state()
    expected = dropout(ONES), nn.Linear(2, 2).weight.value
    fnn.manual_seed(0)
    generator.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, (dropout(ONES), nn.Linear(2, 2).weight.value), expected)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (np.zeros(5056, np.uint8), TypeError),
        ({"seed": 1}, TypeError),
        ({"seed": 1, "offset": -1, "initialized": 0}, ValueError),
        ({"seed": 1, "offset": 0, "initialized": 1 << 32}, ValueError),
    ],
)
def test_what_is_no_state_of_a_generator_changes_nothing(state, error):
    generator = fnn.Generator(3)
    before = generator.get_state()
    with pytest.raises(error):
        generator.set_state(state)
    assert generator.get_state() == before


def test_masks_do_not_depend_on_how_many_parameters_there_are():
    fnn.manual_seed(4)
    expected = nn.Dropout(0.5)(ONES)
    fnn.manual_seed(4)
    nn.Linear(2, 2)
    np.testing.assert_array_equal(nn.Dropout(0.5)(ONES), expected)


def test_the_order_of_access_does_not_matter():
    def build():
        fnn.manual_seed(6)
        return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    first, second = build(), build()
    expected = [p.value for p in first.parameters()]
    found = [p.value for p in reversed(list(second.parameters()))]
    jax.tree.map(np.testing.assert_array_equal, found[::-1], expected)
    assert (expected[0] != expected[2]).any()


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**40 + 7, 2**63])
def test_any_integer_is_a_seed(seed):
    draws = []
    for _ in range(2):
        fnn.manual_seed(seed)
        draws.append(nn.Dropout(0.5)(ONES))
    np.testing.assert_array_equal(*draws)


def test_a_generator_for_initialisation():
    weights = [nn.init.normal_(nn.Parameter(nn.init.zeros, (4, 4)), generator=fnn.Generator(seed)).value for seed in (1, 1, 2)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_a_failed_call_takes_no_draw():
    dropout = nn.Dropout(0.5)

    class Failing(nn.Module):
        def forward(self, x):
            dropout(x)
            raise ValueError("after the draw")

    fnn.manual_seed(1)
    with pytest.raises(ValueError, match="after the draw"):
        Failing()(ONES)
    assert fnn.random.default_generator.offset == 0

    @fnn.jit
    def sometimes(x):
        y = dropout(x)
        if len(x) == 3:
            raise ValueError("after the draw")
        return y

    sometimes(ONES)
    for _ in range(3):
        with pytest.raises(ValueError, match="after the draw"):
            sometimes(ONES[:3])
    assert fnn.random.default_generator.offset == 1


def test_a_traced_key_does_not_initialise_parameters_that_outlive_it():
    def build(key):
        with fnn.rng(key):
            return nn.Linear(2, 2).weight.value

    with pytest.raises(fnn.StateError, match="traced key"):
        jax.jit(build)(jax.random.key(0))
    np.testing.assert_array_equal(build(jax.random.key(0)), build(jax.random.key(0)))
