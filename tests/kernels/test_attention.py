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


@pytest.fixture
def on_nvidia(monkeypatch):
    """A machine with a GPU, as far as the choice of cuDNN goes, for small operands. JAX's own form is in cuDNN's place."""

    def stand_in(*arrays, implementation, **options):
        return whole(*arrays, **options)

    whole = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr(kernel, "on_nvidia", lambda: True)
    monkeypatch.setattr(kernel, "FUSED", 16)
    monkeypatch.setattr(kernel, "SCORES", 255)
    kernel.attention.clear_cache()
    yield
    kernel.attention.clear_cache()


def is_fused(*shapes, dtype=jnp.bfloat16, **options):
    arrays = [jnp.zeros(shape, dtype) for shape in shapes or ((16, 8),) * 3]
    return "fnn_cuda_or_other" in str(jax.make_jaxpr(lambda *a: F.scaled_dot_product_attention(*a, **options))(*arrays))


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ((), {}),
        ((), {"is_causal": True}),
        ((), {"dtype": jnp.float16, "scale": 2.0}),
        (((2, 16, 128), (2, 17, 128), (2, 17, 128)), {}),
        (((2, 6, 16, 8), (2, 2, 16, 8), (2, 2, 16, 8)), {"enable_gqa": True}),
    ],
)
@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_chosen(shapes, options):
    assert is_fused(*shapes, **options)


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ((), {"dtype": jnp.float32}),
        (((16, 12), (16, 12), (16, 12)), {}),
        (((16, 136), (16, 136), (16, 136)), {}),
        (((16, 8), (16, 8), (16, 16)), {}),
        (((16, 8), (17, 8), (17, 8)), {"is_causal": True}),
        (((1, 8), (512, 8), (512, 8)), {}),
        (((512, 8), (1, 8), (1, 8)), {}),
        (((0, 16, 8), (0, 16, 8), (0, 16, 8)), {}),
        ((), {"attn_mask": jnp.ones((16, 16), bool)}),
        ((), {"attn_mask": jnp.zeros((16, 16))}),
        ((), {"scale": -1.0}),
        ((), {"scale": 0.0}),
        ((), {"scale": float("inf")}),
        ((), {"scale": float("nan")}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_not_chosen_for_what_it_does_not_compute_as_torch_does(shapes, options):
    assert not is_fused(*shapes, **options)


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_not_chosen_with_dropout_nor_for_few_scores(monkeypatch):
    with fnn.rng(0):
        assert not is_fused(dropout_p=0.1)
    monkeypatch.setattr(kernel, "SCORES", 256)
    kernel.attention.clear_cache()
    assert not is_fused()


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_chosen_only_where_the_devices_of_an_operand_are_known(monkeypatch):
    x = jnp.zeros((16, 8), jnp.bfloat16)

    def fused(*args):
        return "fnn_cuda_or_other" in str(jax.make_jaxpr(lambda x: F.scaled_dot_product_attention(x, x, x))(*args))

    for kind in (jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto):
        mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
        assert not fused(jax.device_put(x, jax.NamedSharding(mesh, jax.P())))
    mapped = jax.shard_map(lambda x: F.scaled_dot_product_attention(x, x, x), mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    kernel.attention.clear_cache()
    assert "fnn_cuda_or_other" in str(jax.make_jaxpr(mapped)(x))
    assert not fused(x)


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_is_not_chosen_where_jax_refuses_it(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("cuDNN is not detected.")

    monkeypatch.setattr(jax.nn, "dot_product_attention", refuse)
    assert not is_fused()


@pytest.mark.parametrize(
    ("backend", "capabilities", "expected"),
    [
        ("gpu", ["8.0"], True),
        ("gpu", ["9.0", "12.1"], True),
        ("gpu", ["10.3", "7.5"], False),
        ("gpu", ["gfx942"], False),
        ("gpu", [None], False),
        ("cpu", ["9.0"], False),
        ("tpu", [None], False),
    ],
)
def test_cudnn_is_for_gpus_of_nvidia_since_ampere(backend, capabilities, expected, monkeypatch):
    devices = [type("Device", (), {} if c is None else {"compute_capability": c})() for c in capabilities]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert kernel.on_nvidia() is expected


def test_nothing_is_for_cudnn_without_a_gpu():
    assert not is_fused(*((2, 4, 512, 64),) * 3)


@pytest.mark.parametrize("leading", [(), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize(("keys", "causal"), [(5, True), (4, False)])
@pytest.mark.usefixtures("on_nvidia")
def test_what_cudnn_gets_is_what_it_is_asked_for(leading, keys, causal):
    arrays = (jnp.asarray(normal(*leading, n, 8)) for n in (5, keys, keys))
    ways = kernel._fused, kernel._in_blocks
    ours, theirs = jax.jit(lambda *a: [way(*a, causal=causal, scale=0.3) for way in ways])(*arrays)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.usefixtures("on_nvidia")
def test_cudnn_has_the_gradient_and_other_platforms_the_blocks():
    def gradient(*arrays):
        return jax.grad(lambda *a: F.scaled_dot_product_attention(*a).astype(float).sum(), (0, 1, 2))(*arrays)

    arrays = [jnp.asarray(normal(2, 16, 8), jnp.bfloat16) for _ in range(3)]
    assert str(jax.make_jaxpr(gradient)(*arrays)).count("fnn_cuda_or_other") == 2
    fused = [x.astype(float) for x in jax.jit(gradient)(*arrays)]
    expected = [x.astype(float) for x in gradient(*(x.astype(jnp.float32) for x in arrays))]
    for ours, theirs in zip(fused, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.03)
    platforms = ["cpu", "cuda", "tpu"]
    assert list(jax.export.export(jax.jit(gradient), platforms=platforms)(*arrays).platforms) == platforms
