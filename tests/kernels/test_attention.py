"""Attention in blocks is attention: all derivatives, under all transformations, in little memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_agree, normal, torch

import fnn
import fnn.functional as F
from fnn.kernels import attention as kernel

CASES = [{}, {"is_causal": True}, {"attn_mask": np.random.default_rng(0).random((2, 1, 10, 9)) > 0.3}]
SHAPES = (2, 3, 10, 4), (2, 3, 9, 4), (2, 3, 9, 5)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 queries and one head, and all loops, for operands of a few numbers."""
    monkeypatch.setattr(kernel, "SCORES", 30)
    monkeypatch.setattr(kernel, "ROWS", 4)
    monkeypatch.setattr(kernel, "GROUPS", 2)
    kernel.attention.clear_cache()
    yield
    kernel.attention.clear_cache()


@pytest.mark.usefixtures("small_blocks")
def test_small_blocks_are_steps_of_loops():
    assert str(jax.make_jaxpr(F.scaled_dot_product_attention)(*operands())).count("scan[") == 3


def operands(dtype=np.float32):
    return [jnp.asarray(normal(*shape, dtype=dtype)) for shape in SHAPES]


def agree(*arrays, **options):
    ours, theirs = F.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention
    mask = options.pop("attn_mask", None)
    arrays = arrays if mask is None else (*arrays, mask)
    assert_agree(lambda *a: ours(*a, **options), lambda *a: theirs(*a, **options), *arrays)


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        *[(SHAPES, options) for options in CASES],
        (((2, 3, 9, 4), (2, 3, 13, 4), (2, 3, 13, 4)), {"is_causal": True}),
        (((2, 6, 10, 4), (2, 2, 9, 4), (2, 2, 9, 5)), {"enable_gqa": True}),
        (((2, 6, 10, 4), (1, 2, 9, 4), (1, 2, 9, 5)), {"enable_gqa": True, "attn_mask": normal(6, 1, 9)}),
        (((2, 3, 10, 4), (1, 3, 9, 4), (2, 1, 9, 5)), {"attn_mask": normal(3, 10, 9)}),
        (((10, 4), (9, 4), (9, 5)), {"attn_mask": normal(10, 9)}),
        (((5, 10, 4), (5, 9, 4), (5, 9, 5)), {"attn_mask": np.arange(9) > 9}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("small_blocks")
def test_blocks_agree_with_torch(shapes, options):
    agree(*(normal(*shape) for shape in shapes), **options)


def test_several_blocks_of_the_usual_size_agree_with_torch():
    agree(*(normal(2, 3, 600, 8) for _ in range(3)), is_causal=True)


@pytest.mark.parametrize("options", CASES[1:], ids=["causal", "mask"])
def test_blocks_have_the_derivatives_of_the_whole(options, monkeypatch):
    arrays, directions = operands(), operands()

    def gradient(*arrays):
        return jax.grad(lambda *a: (F.scaled_dot_product_attention(*a, **options) ** 3).sum(), (0, 1, 2))(*arrays)

    def measure():
        @jax.jit
        def run(arrays, directions):
            several = [jnp.stack([a, a + b]) for a, b in zip(arrays, directions, strict=True)]
            return jax.jvp(gradient, arrays, directions), jax.vmap(gradient)(*several)

        return run(arrays, directions)

    whole = measure()
    for name, size in (("SCORES", 30), ("ROWS", 4), ("GROUPS", 2)):
        monkeypatch.setattr(kernel, name, size)
    kernel.attention.clear_cache()
    blocks = measure()
    kernel.attention.clear_cache()
    for ours, theirs in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_run_on_a_mesh():
    mesh, rows = jax.make_mesh((1,), ("data",)), jax.P("data")
    arrays = operands()

    def run(*arrays):
        return jax.grad(lambda *a: F.scaled_dot_product_attention(*a).sum(), (0, 1, 2))(*arrays)

    expected = run(*arrays)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, jax.NamedSharding(mesh, rows)) for a in arrays]
        explicit = jax.jit(run)(*placed)
        mapped = jax.jit(jax.shard_map(run, in_specs=rows, out_specs=rows))(*placed)
    for theirs, *ours in zip(expected, explicit, mapped, strict=True):
        for gradient in ours:
            np.testing.assert_allclose(gradient, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_export_for_each_platform(dtype):
    gradient = jax.grad(lambda *a: F.scaled_dot_product_attention(*a, is_causal=True).sum().astype(float), (0, 1, 2))
    platforms = ["cpu", "cuda", "tpu"]
    assert list(jax.export.export(jax.jit(gradient), platforms=platforms)(*operands(dtype)).platforms) == platforms


@pytest.mark.usefixtures("small_blocks")
def test_products_of_16_bits_that_other_platforms_take_agree(monkeypatch):
    arrays = operands(jnp.bfloat16)

    def run():
        return jax.vjp(lambda *a: F.scaled_dot_product_attention(*a, scale=0.3), *arrays)[1](
            jnp.ones((2, 3, 10, 5), jnp.bfloat16)
        )

    widened = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kernel.attention.clear_cache()
    for ours, theirs in zip(run(), widened, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), atol=0.03)


@pytest.mark.usefixtures("small_blocks")
def test_dropout_in_blocks_drops_the_same_weights_in_the_gradient():
    query, key, _ = operands()
    value = jnp.broadcast_to(jnp.eye(9), (2, 3, 9, 9))

    def weights(value, p=0.5):
        with fnn.rng(0):
            return F.scaled_dot_product_attention(query, key, value, dropout_p=p)

    dropped, pull = jax.vjp(weights, value)
    expected = np.asarray(weights(value, 0.0)) * 2
    kept = np.asarray(dropped) != 0
    np.testing.assert_allclose(dropped, expected * kept, atol=1e-6)
    assert 0.4 < kept.mean() < 0.6
    rows = kept.reshape(-1, 9)
    assert len(np.unique(rows, axis=0)) > 40  # of 60 rows: no two blocks draw alike
    cotangent = jnp.asarray(normal(*dropped.shape))
    np.testing.assert_allclose(pull(cotangent)[0], jnp.swapaxes(dropped, -1, -2) @ cotangent, atol=1e-5)


def test_memory_of_the_gradient_grows_linearly():
    def megabytes(length):
        array = jax.ShapeDtypeStruct((1, 8, length, 64), jnp.float32)
        gradient = jax.grad(lambda *a: F.scaled_dot_product_attention(*a).sum(), (0, 1, 2))
        return jax.jit(gradient).lower(array, array, array).compile().memory_analysis().temp_size_in_bytes / 2**20

    assert megabytes(8192) < min(512, 2.5 * megabytes(4096))
