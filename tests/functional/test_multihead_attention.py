"""Multi-head attention agrees with torch."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_agree, assert_close, assert_refused, normal, tensor, torch

import fnn
import fnn.functional as F

L, S, N, E, HEADS = 3, 4, 2, 4, 2
HIDDEN = np.array([[False, False, True, False], [False, False, False, True]])  # (N, S)


def call(functional, array, query, key, value, weights, num_heads=HEADS, embed_dim=None, **options):
    """A call of fnn or torch; weights by name, and other options, for which arrays are made."""
    given = {name: array(x) if isinstance(x, np.ndarray) else x for name, x in (weights | options).items()}
    first = ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p")
    defaults = {"add_zero_attn": False, "dropout_p": 0.0}
    positional = [given.pop(name, defaults.get(name)) for name in first]
    last = [given.pop(name, None) for name in ("out_proj_weight", "out_proj_bias")]
    forward = functional.multi_head_attention_forward
    return forward(query, key, value, embed_dim or query.shape[-1], num_heads, *positional, *last, **given)


def weights_of(features=E, kdim=None, vdim=None, bias=True, bias_kv=False):
    """Weights by name; separate ones where kdim or vdim is given."""
    weights = {"out_proj_weight": normal(features, features)}
    if kdim or vdim:
        sizes = {"q": features, "k": kdim or features, "v": vdim or features}
        weights |= {f"{name}_proj_weight": normal(features, size) for name, size in sizes.items()}
    else:
        weights["in_proj_weight"] = normal(3 * features, features)
    if bias:
        weights |= {"in_proj_bias": normal(3 * features), "out_proj_bias": normal(features)}
    if bias_kv:
        weights |= {"bias_k": normal(1, 1, features), "bias_v": normal(1, 1, features)}
    return weights


def agree(inputs, weights, form=(0, 1, 2), tolerance=2e-5, **options):
    """Compares values and the gradients of inputs and weights; form says which input is query, key and value."""
    names = list(weights)
    options["use_separate_proj_weight"] = "q_proj_weight" in weights

    def of(functional, array):
        def run(*operands):
            query, key, value = (operands[i] for i in form)
            named = dict(zip(names, operands[len(inputs) :], strict=True))
            return call(functional, array, query, key, value, named, **options)

        return run

    operands = (*inputs, *weights.values())
    assert_agree(of(F, jnp.asarray), of(torch.nn.functional, tensor), *operands, tolerance=tolerance)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("form", [(0, 0, 0), (0, 1, 1), (0, 1, 2), (0, 1, 0), (0, 0, 1)])
def test_inputs_that_are_one_object_are_projected_together(form, need_weights):
    agree([normal(L, N, E) for _ in range(max(form) + 1)], weights_of(), form, need_weights=need_weights)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"bias_kv": True},
        {"kdim": 3, "vdim": 5},
        {"kdim": 3, "bias_kv": True, "bias": False},
    ],
    ids=str,
)
def test_weights(options, need_weights):
    key, value = normal(S, N, options.get("kdim", E)), normal(S, N, options.get("vdim", E))
    agree([normal(L, N, E), key, value], weights_of(**options), need_weights=need_weights, add_zero_attn="bias_kv" in options)


FLOAT = normal(N * HEADS, L, S)
MASKS = {
    "bool": {"attn_mask": normal(L, S) > 1},
    "float": {"attn_mask": normal(L, S)},
    "bool a head": {"attn_mask": normal(N * HEADS, L, S) > 1},
    "float a head": {"attn_mask": FLOAT},
    "padding": {"key_padding_mask": HIDDEN},
    "float padding": {"key_padding_mask": normal(N, S)},
    "both": {"attn_mask": normal(N * HEADS, L, S) > 1, "key_padding_mask": HIDDEN},
    "both, floats": {"attn_mask": normal(L, S), "key_padding_mask": np.where(HIDDEN, -np.inf, 0).astype(np.float32)},
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name, need_weights):
    inputs = [normal(L, N, E), normal(S, N, E)]
    agree(inputs, weights_of(), (0, 1, 1), need_weights=need_weights, average_attn_weights=False, **MASKS[name])


@pytest.mark.parametrize("need_weights", [True, False])
def test_masks_hide_no_key_that_is_added(need_weights):
    inputs = [normal(L, N, E), normal(S, N, E)]
    weights = weights_of(bias_kv=True)
    agree(inputs, weights, (0, 1, 1), need_weights=need_weights, add_zero_attn=True, **MASKS["both"])


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_inputs_without_a_batch_axis(need_weights, average):
    options = {"attn_mask": FLOAT[:HEADS], "key_padding_mask": normal(S), "average_attn_weights": average}
    agree([normal(L, E), normal(S, E)], weights_of(), (0, 1, 1), need_weights=need_weights, **options)


@pytest.mark.parametrize("padding", [None, normal(N, S)], ids=["", "padding"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_causal_hint_counts_where_torch_takes_it(need_weights, padding):
    other = normal(S, S)  # not causal: it shows which of the two is taken
    x = normal(S, N, E)
    agree([x], weights_of(), (0, 0, 0), need_weights=need_weights, attn_mask=other, key_padding_mask=padding, is_causal=True)


def test_a_query_that_sees_no_key_has_nan_with_weights_and_else_zero():
    mask = np.zeros((L, S), bool)
    mask[1] = True
    inputs, weights = [normal(L, N, E), normal(S, N, E)], weights_of()
    agree(inputs, weights, (0, 1, 1), need_weights=True, attn_mask=mask)
    agree(inputs, weights, (0, 1, 1), need_weights=False, attn_mask=mask)


@pytest.mark.parametrize("need_weights", [True, False])
def test_static_keys_and_values_take_the_place_of_the_projected(need_weights):
    static = {name: normal(N * HEADS, S, E // HEADS) for name in ("static_k", "static_v")}
    inputs = [normal(L, N, E), normal(S, N, E)]
    agree(inputs, weights_of() | static, (0, 1, 1), need_weights=need_weights, key_padding_mask=HIDDEN, add_zero_attn=True)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_16_bits(dtype, need_weights):
    weights = {name: (w / 2).astype(dtype) for name, w in weights_of().items()}
    inputs = [normal(L, N, E, dtype=dtype), normal(S, N, E, dtype=dtype)]
    agree(inputs, weights, (0, 1, 1), tolerance=4e-2, need_weights=need_weights, key_padding_mask=HIDDEN)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("sizes", [(0, S, N), (L, 0, N), (L, S, 0)], ids=str)
def test_empty_axes(sizes, need_weights):
    length, source, batch = sizes
    agree([normal(length, batch, E), normal(source, batch, E)], weights_of(), (0, 1, 1), need_weights=need_weights)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_keeps_the_mean(need_weights, training):
    x, weights = normal(1, 4000, E), weights_of(bias=False)
    x[:] = x[:, :1]
    options = {"dropout_p": 0.5, "training": training, "need_weights": need_weights}
    with fnn.rng(0):
        out, given = call(F, jnp.asarray, jnp.asarray(x), jnp.asarray(x), jnp.asarray(x), weights, **options)
    expected, _ = call(F, jnp.asarray, jnp.asarray(x), jnp.asarray(x), jnp.asarray(x), weights)
    error = 6 * np.std(out, axis=1).max() / np.sqrt(out.shape[1])  # of a mean of that many, six standard ones
    np.testing.assert_allclose(out.mean(1), expected.mean(1), atol=error if training else 1e-5)
    assert (np.ptp(out, axis=1).max() > 1) == training
    if need_weights:
        assert sorted(set(np.unique(given))) == ([0.0, 1.0, 2.0] if training else [1.0])


def test_masks_of_different_dtypes_are_deprecated():
    inputs = [normal(L, N, E), normal(S, N, E)]
    masks = {"attn_mask": normal(L, S), "key_padding_mask": HIDDEN}
    for functional, array in ((F, jnp.asarray), (torch.nn.functional, tensor)):
        with pytest.warns(UserWarning, match="Support for mismatched key_padding_mask and attn_mask is deprecated"):
            call(functional, array, *(array(inputs[i]) for i in (0, 1, 1)), weights_of(), **masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(F, jnp.asarray, *(jnp.asarray(inputs[i]) for i in (0, 1, 1)), weights_of(), **MASKS["both"])


def test_batch_first_puts_the_batch_first():
    x, weights = jnp.asarray(normal(L, N, E)), weights_of()
    expected, expected_weights = call(F, jnp.asarray, x, x, x, weights, key_padding_mask=HIDDEN[:, :L])
    x = x.swapaxes(0, 1)
    out, given = call(F, jnp.asarray, x, x, x, weights, key_padding_mask=HIDDEN[:, :L], batch_first=True)
    assert_close(out.swapaxes(0, 1), expected)
    assert_close(given, expected_weights)


REFUSED = [
    ({"query": (L,)}, {}, ["2D or batched 3D", "(3,)"]),
    ({"query": (1, L, N, E)}, {}, ["2D or batched 3D", "(1, 3, 2, 4)"]),
    ({"key": (S, E)}, {}, ["3-D", "(4, 4)"]),
    ({"query": (L, E)}, {}, ["2-D", "(4, 2, 4)"]),
    ({"query": (L, N, E + 1)}, {}, ["5"]),
    ({"value": (S - 1, N, E)}, {}, ["(4, 2, 4)", "(3, 2, 4)"]),
    ({"key": (S, N, E - 1), "value": (S, N, E - 1)}, {}, ["(12, 3)", "(12, 4)"]),
    ({"key": (S, N + 1, E), "value": (S, N + 1, E)}, {}, ["(3, 2, 4)", "(4, 3, 4)"]),
    ({}, {"num_heads": 3}, ["4", "3", "divisible"]),
    ({}, {"attn_mask": normal(L, S + 1)}, ["(3, 4)", "(3, 5)"]),
    ({}, {"attn_mask": normal(3, L, S)}, ["(4, 3, 4)", "(3, 3, 4)"]),
    ({}, {"attn_mask": normal(1, 1, L, S)}, ["2-D or 3-D", "(1, 1, 3, 4)"]),
    ({}, {"attn_mask": np.ones((L, S), np.int32)}, ["bool and floating", "int32"]),
    ({}, {"attn_mask": normal(L, S, dtype=np.float16)}, ["float16", "float32"]),
    ({}, {"key_padding_mask": np.ones((N, S), np.int32)}, ["bool and floating", "int32"]),
    ({}, {"key_padding_mask": HIDDEN.T}, ["(2, 4)", "(4, 2)"]),
    ({}, {"key_padding_mask": HIDDEN[0]}, ["2-D", "(4,)"]),
    ({}, {"is_causal": True}, ["attn_mask", "is_causal"]),
    ({}, {"in_proj_weight": None}, ["in_proj_weight"]),
    ({}, {"in_proj_bias": normal(15)}, ["(12,)", "(15,)"]),
    ({}, {"out_proj_weight": normal(E, E + 1)}, ["(4, 4)", "(4, 5)"]),
    ({}, {"use_separate_proj_weight": True}, ["q_proj_weight"]),
    ({}, {"bias_k": normal(1, 1, E)}, ["bias_k", "bias_v"]),
    ({}, {"bias_v": normal(1, 1, E)}, ["bias_k", "bias_v"]),
    ({}, {"bias_k": normal(1, 1, E), "bias_v": normal(1, 1, E), "static_k": normal(4, S, 2)}, ["static_k"]),
    ({}, {"static_k": normal(3, S, 2)}, ["(4, 4, 2)", "(3, 4, 2)"]),
    ({}, {"static_v": normal(4, S, 1)}, ["(4, 4, 2)", "(4, 4, 1)"]),
    ({}, {"dropout_p": 1.5}, ["1.5"]),
    ({}, {"dropout_p": 1.5, "need_weights": False}, ["1.5"]),
]


@pytest.mark.parametrize(("shapes", "options", "words"), REFUSED, ids=lambda value: str(list(value)))
def test_refuses(shapes, options, words):
    shapes = {"query": (L, N, E), "key": (S, N, E), "value": (S, N, E)} | shapes
    inputs, weights = [normal(*shape) for shape in shapes.values()], weights_of()
    assert_refused(lambda nn, array: call(nn.functional, array, *map(array, inputs), weights, embed_dim=E, **options), *words)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
@pytest.mark.parametrize("place", [0, 1])
def test_refuses_different_dtypes(place, dtype):
    inputs = [normal(L, N, E), normal(S, N, E)]
    inputs[place] = inputs[place].astype(dtype)
    weights = weights_of()
    assert_refused(
        lambda nn, array: call(nn.functional, array, *(array(inputs[i]) for i in (0, 1, 1)), weights), np.dtype(dtype).name
    )


@st.composite
def cases(draw):
    """Sizes, what is given, and masks of every kind."""
    size = st.integers(1, 3)
    heads, head, length, source, batch = (draw(size) for _ in range(5))
    features = heads * head
    kdim, vdim = draw(st.sampled_from([(None, None), (1, 3)]))
    lead = draw(st.sampled_from([(), (batch,)]))
    shapes = [(n, *lead, width or features) for n, width in ((length, None), (source, kdim), (source, vdim))]
    weights = weights_of(features, kdim, vdim, draw(st.booleans()), draw(st.booleans()))
    options = {"num_heads": heads, "use_separate_proj_weight": kdim is not None}
    options |= {name: draw(st.booleans()) for name in ("add_zero_attn", "need_weights", "average_attn_weights")}
    for name, shape in (
        ("attn_mask", draw(st.sampled_from([(length, source), ((batch if lead else 1) * heads, length, source)]))),
        ("key_padding_mask", (*lead, source)),
    ):
        kind = draw(st.sampled_from([None, "bool", "float"]))
        options[name] = None if kind is None else normal(*shape) > 0.5 if kind == "bool" else normal(*shape)
    return [normal(*shape) for shape in shapes], weights, options


@settings(max_examples=20)
@given(cases())
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_any_configuration_agrees(case):
    inputs, weights, options = case
    expected = call(torch.nn.functional, tensor, *map(tensor, inputs), weights, **options)
    given = jax.jit(lambda *inputs: call(F, jnp.asarray, *inputs, weights, **options))(*map(jnp.asarray, inputs))
    assert [x is None for x in given] == [x is None for x in expected]
    for a, b in zip(given, expected, strict=True):
        if b is not None:
            assert_close(a, b, 2e-5)
