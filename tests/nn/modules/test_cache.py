"""Incremental decoding with a cache gives what the full forward gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import nn

N, T, S, E, H = 2, 7, 5, 8, 2


def normal(*shape):
    return jnp.asarray(np.random.normal(size=shape), jnp.float32)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def pieces(sizes):
    """The ranges of positions that calls with these numbers of positions take."""
    ends = np.cumsum(sizes)
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def causal(length):
    return nn.Transformer.generate_square_subsequent_mask(length)


@pytest.mark.parametrize("sizes", [[1] * T, [T], [4, 1, 2]], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention(sizes, batch_first):
    attention = nn.MultiheadAttention(E, H, batch_first=batch_first)
    x = normal(N, T, E)
    ordered = x if batch_first else x.swapaxes(0, 1)
    full, _ = attention(ordered, ordered, ordered, attn_mask=causal(T), need_weights=False)
    cache, outputs = attention.init_cache(N, T + 2), []
    for piece in pieces(sizes):
        part = x[:, piece] if batch_first else x[:, piece].swapaxes(0, 1)
        y, cache = attention(part, part, part, cache=cache)
        outputs.append(y)
    assert int(cache.position) == T
    close(jnp.concatenate(outputs, 1 if batch_first else 0), full)


def test_attention_without_a_batch_axis():
    attention = nn.MultiheadAttention(E, H)
    x = normal(T, E)
    full, _ = attention(x, x, x, attn_mask=causal(T), need_weights=False)
    first, cache = attention(x[:4], x[:4], x[:4], cache=attention.init_cache(1, T))
    second, _ = attention(x[4:], x[4:], x[4:], cache=cache)
    close(jnp.concatenate([first, second]), full)


@pytest.mark.parametrize(
    "options",
    [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 3, "vdim": 5}, {"bias": False}],
    ids=str,
)
def test_attention_with_options(options):
    attention = nn.MultiheadAttention(E, H, batch_first=True, **options)
    query, key, value = normal(N, T, E), normal(N, T, attention.kdim), normal(N, T, attention.vdim)
    full, _ = attention(query, key, value, attn_mask=causal(T), need_weights=False)
    cache, outputs = attention.init_cache(N, T), []
    for piece in pieces([2, 1, 4]):
        y, cache = attention(query[:, piece], key[:, piece], value[:, piece], cache=cache)
        outputs.append(y)
    close(jnp.concatenate(outputs, 1), full)
    # The cache of a memory: all is seen, and nothing is added.
    full, _ = attention(query, key, value, need_weights=False)
    if "add_bias_kv" not in options:  # which torch does not combine with what is projected before
        memory = attention.memory_cache(key, value)
        y, same = attention(query, None, None, cache=memory)
        close(y, full)
        assert same.position is None


def test_masks_have_the_room_of_the_cache():
    attention = nn.MultiheadAttention(E, H, batch_first=True)
    x, hidden, added = normal(N, T, E), np.arange(T) == np.array([[0], [2]]), normal(T, T)
    allowed = jnp.where(hidden[:, None], -jnp.inf, added + causal(T))[:, None]
    full, _ = attention(x, x, x, attn_mask=jnp.broadcast_to(allowed, (N, H, T, T)).reshape(N * H, T, T), need_weights=False)
    cache, outputs = attention.init_cache(N, T), []
    for piece in pieces([3, 1, 3]):
        part = x[:, piece]
        padding = jnp.where(hidden, -jnp.inf, 0.0)
        y, cache = attention(part, part, part, key_padding_mask=padding, attn_mask=added[piece], cache=cache)
        outputs.append(y)
    close(jnp.concatenate(outputs, 1)[:, 1:], full[:, 1:])
    assert (jnp.concatenate(outputs, 1)[0, 0] == attention.out_proj.bias).all()  # a query that sees nothing


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder(norm_first, batch_first):
    layer = nn.TransformerEncoderLayer(E, H, 16, dropout=0.0, batch_first=batch_first, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(E), enable_nested_tensor=False)
    x = normal(N, T, E)
    full = encoder(x if batch_first else x.swapaxes(0, 1), causal(T), is_causal=True)
    cache, outputs = encoder.init_cache(N, T), []
    for piece in pieces([3, 1, 1, 2]):
        y, cache = encoder(x[:, piece] if batch_first else x[:, piece].swapaxes(0, 1), cache=cache)
        outputs.append(y)
    close(jnp.concatenate(outputs, 1 if batch_first else 0), full)


@pytest.mark.parametrize("projected", [False, True], ids=["memory", "projected memory"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder(norm_first, projected):
    layer = nn.TransformerDecoderLayer(E, H, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    decoder = nn.TransformerDecoder(layer, 2)
    x, memory, hidden = normal(N, T, E), normal(N, S, E), np.arange(S) >= np.array([[4], [5]])
    full = decoder(x, memory, causal(T), memory_key_padding_mask=hidden)
    cache = decoder.init_cache(N, T, memory if projected else None)
    outputs = []
    for piece in pieces([3, 1, 1, 2]):
        given = None if projected else memory
        y, cache = decoder(x[:, piece], given, memory_key_padding_mask=hidden, cache=cache)
        outputs.append(y)
    close(jnp.concatenate(outputs, 1), full)


def test_one_compiled_step_serves_every_position():
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(E, H, 16, dropout=0.0, batch_first=True), 2)
    x, memory = normal(N, T, E), normal(N, S, E)
    full, traces = decoder(x, memory, causal(T)), []
    _, apply = fnn.pure(decoder)
    params, _ = fnn.split(decoder)

    @jax.jit
    def pure_step(params, x, cache):
        traces.append("pure")
        return apply(params, x, None, cache=cache)

    @fnn.jit
    def module_step(decoder, x, cache):
        traces.append("module")
        return decoder(x, None, cache=cache)

    for step, what in ((pure_step, params), (module_step, decoder)):
        cache, outputs = decoder.init_cache(N, T, memory), []
        for t in range(T):
            y, cache = step(what, x[:, t : t + 1], cache)
            outputs.append(y)
        close(jnp.concatenate(outputs, 1), full)
    assert traces == ["pure", "module"]


def test_a_scan_over_positions_and_its_gradient_and_vmap():
    layer = nn.TransformerEncoderLayer(E, H, 16, dropout=0.0, batch_first=True)
    _, apply = fnn.pure(layer)
    params, _ = fnn.split(layer)
    x = normal(N, T, E)

    def stepwise(params, x):
        def step(cache, x):
            y, cache = apply(params, x[:, None], cache=cache)
            return cache, y[:, 0]

        return jax.lax.scan(step, layer.init_cache(x.shape[0], T), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    def at_once(params, x):
        return apply(params, x, causal(T))

    weights = normal(N, T, E)
    for ours, theirs in zip(
        *[jax.tree.leaves(jax.jit(jax.grad(lambda p, f=f: (f(p, x) * weights).sum()))(params)) for f in (stepwise, at_once)],
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    close(jax.jit(jax.vmap(stepwise, (None, 0)))(params, x[:, None]), at_once(params, x)[:, None])


def test_a_cache_of_another_dtype():
    attention = nn.MultiheadAttention(E, H, batch_first=True)
    x = normal(N, T, E)
    full, _ = attention(x, x, x, attn_mask=causal(T), need_weights=False)
    y, cache = attention(x, x, x, cache=attention.init_cache(N, T, jnp.bfloat16))
    assert (y.dtype, cache.key.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(y, full, atol=2e-2)
    assert nn.MultiheadAttention(E, H, dtype=jnp.bfloat16).init_cache(1, 2).value.dtype == jnp.bfloat16


def test_a_full_cache_is_refused():
    attention = nn.MultiheadAttention(E, H, batch_first=True)
    x = normal(N, 3, E)
    _, cache = attention(x, x, x, cache=attention.init_cache(N, 4))
    with pytest.raises(RuntimeError, match="room for 4 positions, and holds 3: got 3 more"):
        attention(x, x, x, cache=cache)
    # Where the position is traced, nothing can be raised: the output is NaN, not something plausible.
    y, _ = fnn.jit(lambda x, cache: attention(x, x, x, cache=cache))(x, cache)
    assert jnp.isnan(y).all()
    y, _ = fnn.jit(lambda x, cache: attention(x, x, x, cache=cache))(x[:, :1], cache)
    assert jnp.isfinite(y).all()
    with pytest.raises(RuntimeError, match="room for 2 positions, and holds some: got 3 more"):
        fnn.jit(lambda x, cache: attention(x, x, x, cache=cache))(x, attention.init_cache(N, 2))


def test_a_cache_for_something_else_is_refused():
    attention = nn.MultiheadAttention(E, H, batch_first=True)
    x = normal(N, 3, E)
    with pytest.raises(RuntimeError, match=r"Expected cache.key of shape \(2, 2, 4, 4\), but got \(1, 2, 4, 4\)"):
        attention(x, x, x, cache=attention.init_cache(1, 4))
    with pytest.raises(RuntimeError, match="attn_mask"):
        attention(x, x, x, attn_mask=causal(3), cache=attention.init_cache(N, 4))
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 16, batch_first=True), 2)
    with pytest.raises(RuntimeError, match="a cache for each of 2 layers, got 1"):
        encoder(x, cache=encoder.init_cache(N, 4)[:1])
